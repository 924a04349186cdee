"""Which name a misspelt one was meant to be."""

import difflib
from collections.abc import Iterable

NEAR = 0.7  # what share of two words must agree, 0..1
FAR = 0.9  # the same, where the sections before the word do not agree
# Other usual words for what is here called so.
SYNONYMS = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "iterations": "steps",
    "iters": "steps",
    "max_steps": "steps",
    "num_steps": "steps",
    "crop_size": "crop",
    "num_workers": "threads",
    "workers": "threads",
    "hflip": "flip",
    "color": "colour",
    "optim": "optimizer",
    "optimiser": "optimizer",
    "encoder": "backbone",
    "decoder": "context",
    "dataset": "data",
    "data_root": "manual_dir",
    "root": "manual_dir",
    "save_every": "checkpoint_every",
    "training": "train",
    "test": "eval",
    "ckpt": "checkpoint",
    "out": "output",
    "outdir": "output",
    "output_dir": "output",
    "logdir": "workdir",
    "work_dir": "workdir",
}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Of `names` ("config.optimizer.learning_rate", "workdir") the one that `name` is nearest to by its last word, then by the sections.

    A section that has a `name` goes by that as well ("config.model.backbone"). None if none is near: a wrong suggestion is worse.
    """
    *sections, last = (SYNONYMS.get(word, word) for word in name.replace("-", "_").lower().split("."))
    best, found = (False,), None
    for candidate in names:
        *above, word = candidate.split(".")
        inside = max((_like(a, b) for a in sections[-1:] for b in above), default=0.0)
        likeness = _like(last, word)
        if word == "name":  # of many things: which one, the section says
            likeness = max(likeness if inside >= NEAR else 0.0, _like(last, above[-1]))
        if likeness >= (NEAR if inside >= NEAR or not sections or not above else FAR):
            agree = inside if inside >= NEAR else 0.0
            order = likeness == 1, likeness + agree, "train" in above, _like(".".join(sections), ".".join(above))
            if order > best:
                best, found = order, candidate
    return found


def _like(a, b):
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
