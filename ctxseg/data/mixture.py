"""Mixtures of data sets for the training of segmenters: `config.data.mixture`.

The main data set, `config.data.name`, defines the classes. The ids of the others are translated by the names of their classes. Two kinds
of labels have no translation, and become 255, which every loss ignores:

- a class that the main data set lacks;
- the class "background" of a data set that lacks a class of the main one: it may show objects of that class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ctxseg.data.builders.labels import IGNORE
from ctxseg.data.summary import shortened
from ctxseg.errors import UserError

BACKGROUND = "background"
PRECISION = 1_000_000  # shares are fractions with at most this denominator


class Part(NamedTuple):
    """An entry of `config.data.mixture`.

    Attributes:
        name: name of the data set, as in `config.data.name`.
        split: its split, or several as `a+b`.
        share: the share of the drawn images that are from there, between 0 and 1.
    """

    name: str
    split: str
    share: Fraction


def parse(config) -> list[Part]:
    """("coco_voc/train=0.5",) → [Part("coco_voc", "train", 1/2)]. Needs no data.

    Raises:
        UserError: an entry that is not NAME/SPLIT=SHARE, a share that is not between 0 and 1, shares with a sum of 1 or more, or a split
            that is given twice, or is that of `config.train.split`.
    """
    parts: list[Part] = []
    main = config.data.name, frozenset(config.train.split.split("+"))
    splits = {main}
    for entry in config.data.mixture:
        place, _, text = str(entry).rpartition("=")
        name, _, split = place.rpartition("/")
        part = Part(name, split, _share(text))
        if not name or not split or not 0 < part.share < 1:
            raise UserError(
                f"config.data.mixture has {entry!r}; expected NAME/SPLIT=SHARE with a share between 0 and 1, such as coco_voc/train=0.5"
            )
        key = name, frozenset(split.split("+"))
        if key == main:
            raise UserError(
                f"config.data.mixture has {place!r}, which is config.data.name with config.train.split: remove it, as its share is the "
                "rest of the other shares"
            )
        if key in splits:
            raise UserError(f"config.data.mixture has {place!r} twice: give it once, with the sum of its shares")
        splits.add(key)
        parts.append(part)
    total = sum(part.share for part in parts)
    if total >= 1:
        raise UserError(
            f"config.data.mixture has shares of {float(total):g} in all; expected less than 1, as the rest is the share of "
            f"{config.data.name}"
        )
    return parts


def _share(text):
    """A share as an exact fraction, 0.1 as 1/10; 0 if it is not between 0 and 1."""
    try:
        share = float(text)
    except ValueError:
        return Fraction(0)
    return Fraction(share).limit_denominator(PRECISION) if 0 < share < 1 else Fraction(0)


def translation(names: Sequence[str], main_names: Sequence[str]) -> np.ndarray:
    """uint8 [256]: for each id of a data set, the id in the main data set, or 255.

    Args:
        names: names of the data set's classes, by id.
        main_names: names of the main data set's classes, by id.
    """
    ids, main_ids = np.full(256, IGNORE, np.uint8), {name: i for i, name in enumerate(main_names)}
    lacks_classes = not set(main_names) <= set(names)
    for i, name in enumerate(names):
        if name in main_ids and not (lacks_classes and name == BACKGROUND):
            ids[i] = main_ids[name]
    return ids


def check_classes(part: Part, names: Sequence[str], main: str, main_names: Sequence[str]) -> None:
    """UserError if all labels of a data set are ignored. The arguments are as in `remarks`."""
    if (translation(names, main_names) == IGNORE).all():
        raise UserError(
            f"config.data.mixture has {part.name}, which has no class of {main} (a background does not count): remove it, or use the same "
            f"names for the same classes; {part.name} has {shortened(list(names))}; {main} has {shortened(list(main_names))}"
        )


def remarks(part: Part, names: Sequence[str], main: str, main_names: Sequence[str]) -> list[str]:
    """A line about the classes that only a data set of the mixture has, and one about those that only the main data set has.

    Args:
        part: the entry of the data set.
        names: names of its classes.
        main: name of the main data set.
        main_names: names of its classes.
    """
    additional = [name for name in names if name not in main_names]
    missing = [name for name in main_names if name not in names]
    lines = []
    if additional:
        lines.append(
            f"{part.name}: {len(additional)} of {len(names)} classes {_are(additional)} not in {main}, and ignored: {shortened(additional)}"
        )
    if missing:
        background = "; its background may show them, and is ignored" if BACKGROUND in names else ""
        lines.append(
            f"{part.name}: {len(missing)} of {len(main_names)} classes of {main} {_are(missing)} not labelled: {shortened(missing)}"
            f"{background}"
        )
    return lines


def _are(names):
    return "is" if len(names) == 1 else "are"


class Translated:
    """The samples of another source, with the ids of another data set's classes as labels."""

    def __init__(self, source, ids: np.ndarray):
        """`ids`: the result of `translation`."""
        self._source, self._ids = source, ids

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        sample = self._source[index]
        return sample | {"label": self._ids[sample["label"]]}


@dataclass(frozen=True)
class Mixture:
    """The sources of a run's training samples. Its length is the number of images of all of them.

    Attributes:
        main: the samples of the main data set.
        others: (samples, share of the drawn images) of each other data set, see `pipeline.train_iterator`.
    """

    main: Any
    others: Sequence[tuple[Any, Fraction]] = ()

    def __len__(self) -> int:
        return len(self.main) + sum(len(source) for source, _ in self.others)
