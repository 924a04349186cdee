"""Which name a misspelt one was meant to be."""

import difflib
from collections.abc import Iterable

NEAR = 0.7  # what share of two words must agree, 0..1
FAR = 0.9  # the same, where the sections before the word do not agree
TELLING = 6  # a word of more letters is meant wherever it stands
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

    In the same section, a part of the word is enough: `warmup` is `warmup_steps`. From another section, the word must be a telling one:
    `weight_decay` is there once, `size` might be many things. A section that has a `name` goes by that as well
    ("config.model.backbone"). None if none is near, or several are as near: a wrong suggestion is worse.
    """
    *sections, last = (SYNONYMS.get(word, word) for word in name.replace("-", "_").lower().split("."))
    best: tuple[float, ...] = (0,)
    found: list[str] = []
    for candidate in names:
        *above, word = candidate.split(".")
        below = bool(sections) and above[: len(sections)] == sections
        inside = max((_like(a, b) for a in sections[-1:] for b in above), default=0.0)
        likeness = max(_like(last, word), _shared(last, word) if below else 0.0)
        if word == "name":  # of many things: which one, the section says
            likeness = max(likeness if inside >= NEAR else 0.0, _like(last, above[-1]))
        telling = "_" in word or len(word) > TELLING
        in_section = inside >= NEAR or not sections or not above
        if (likeness >= NEAR) if in_section else (telling and likeness >= FAR):
            agree = inside if inside >= NEAR else 0.0
            order = likeness == 1, likeness + agree, "train" in above
            if order > best:
                best, found = order, [candidate]
            elif order == best:
                found.append(candidate)
    # Of several, the one whose sections are nearest; but not of several sections that all fit.
    if sum(candidate.split(".")[: len(sections)] == sections for candidate in found) > 1 and sections:
        return None
    return max(found, key=lambda candidate: _like(".".join(sections), candidate.rpartition(".")[0]), default=None)


def _shared(a, b):
    """How near two words are that share a part, as `warmup` and `warmup_steps` do, or `grad_clip` and `clip_norm`."""
    a, b = set(a.split("_")), set(b.split("_"))
    shared = {part for part in a & b if len(part) > 2}
    return 0.0 if not shared else 0.85 if shared in (a, b) else NEAR


def _like(a, b):
    ratio = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return max(ratio, NEAR) if sorted(a) == sorted(b) else ratio  # letters in another order: fnc
