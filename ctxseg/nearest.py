"""Suggests an existing name for a misspelt one."""

import difflib
from collections.abc import Iterable

# Minimum similarity of two words, 0..1, if their sections match.
NEAR = 0.7
# The same if their sections do not match.
FAR = 0.9
# A word with more letters than this is distinctive: it may match in another section.
DISTINCTIVE = 6
# {synonym: the word used in configs and flags}.
SYNONYMS = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "decay": "weight_decay",
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
    """The entry of `names` ("config.optimizer.learning_rate", "workdir") that is most similar to `name`.

    The last word is compared first, then the sections. In the same section, part of a word is enough: `warmup` finds `warmup_steps`. In
    another section, only distinctive words match: `weight_decay` does, `size` does not. A field `name` also matches by its section's
    name: "config.model.backbone" finds "config.model.backbone.name".

    Returns:
        The name. None if no name is similar, or several are equally similar: no suggestion is better than a wrong one.
    """
    *sections, last = (SYNONYMS.get(word, word) for word in name.replace("-", "_").lower().split("."))
    best: tuple[float, ...] = (0,)
    matches: list[str] = []
    for candidate in names:
        *above, word = candidate.split(".")
        same_sections = bool(sections) and above[: len(sections)] == sections
        section_similarity = max((_similarity(a, b) for a in sections[-1:] for b in above), default=0.0)
        similarity = max(_similarity(last, word), _shared_parts(last, word) if same_sections else 0.0)
        if word == "name":  # many sections have a field `name`
            similarity = max(similarity if section_similarity >= NEAR else 0.0, _similarity(last, above[-1]))
        distinctive = "_" in word or len(word) > DISTINCTIVE
        in_section = section_similarity >= NEAR or not sections or not above
        if (similarity >= NEAR) if in_section else (distinctive and similarity >= FAR):
            bonus = section_similarity if section_similarity >= NEAR else 0.0
            score = similarity == 1, similarity + bonus, "train" in above
            if score > best:
                best, matches = score, [candidate]
            elif score == best:
                matches.append(candidate)
    # Several matches in the named section are ambiguous. Otherwise, the match with the most similar sections is taken.
    if sum(candidate.split(".")[: len(sections)] == sections for candidate in matches) > 1 and sections:
        return None
    return max(
        matches, key=lambda candidate: _similarity(".".join(sections), candidate.rpartition(".")[0]), default=None
    )


def _shared_parts(a, b):
    """The similarity of two words that share a part, such as `warmup` and `warmup_steps`, or `grad_clip` and `clip_norm`."""
    a, b = set(a.split("_")), set(b.split("_"))
    shared = {part for part in a & b if len(part) > 2}
    return 0.0 if not shared else 0.85 if shared in (a, b) else NEAR


def _similarity(a, b):
    """The similarity of two words, 0..1."""
    ratio = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    # Words with the same letters in another order are similar: fnc for fcn.
    return max(ratio, NEAR) if sorted(a) == sorted(b) else ratio
