"""Tables that translate the names of published weights to ours.

A table has one line for each kind of layer, their name on the left and ours on the right:

    layer{i}.{j}.conv{c}    backbone/res{i+1}_{j+1}/conv{c}/conv

`{i}` stands for a number and `{*}` for any text. `-` on the right is a layer that no network here has, such as ImageNet's classifier. A
name on the right that begins with "params/" is that of one array, and so is the name on its left:

    cls_token               params/backbone/class_token
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from ctxseg.models.weights.tensor import Tensor

# Names of arrays in PyTorch: those of a normalisation, and those of a convolution.
OF_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
OF_CONV = {"weight": ("params", "kernel"), "bias": ("params", "bias")}
# The memory's entries, and which classes have one.
BANK, SEEN = "memory/memory/bank", "memory/memory/seen"
# A counter of PyTorch's batch normalisation that nothing needs.
COUNTER = "num_batches_tracked"
# Our names begin with one of these.
COLLECTIONS = ("params/", "batch_stats/", "memory/")
# Paths of our normalisations.
NORM = re.compile(r".*/norm\d*")
# A number in a name, in its only spelling.
NUMBER = "0|[1-9][0-9]{0,3}"


class Publisher(NamedTuple):
    """Published weights of one kind.

    Attributes:
        title: in messages.
        table: see the top of this file.
        mean: of the pixels that the weights expect, by channel, in 0 to 255.
        std: their standard deviation.
        order: the order of their channels, `rgb` or `bgr`.
        lacks: our names of layers that the weights do not have; they keep their initial values.
        optional: our names of layers that either the weights or the network may lack.
        bank: their name of the entries of a memory, `[K,1,C]`; "" if there are none.
        finish: (tensors by our names) → (tensors, class names), for layers whose layout `from_torch` does not change to ours; None if
            there are none.
        torch: whether the arrays have PyTorch's layout, which `from_torch` changes to ours.
    """

    title: str
    table: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"
    lacks: tuple[str, ...] = ()
    bank: str = ""
    finish: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], tuple[str, ...]]] | None = None
    optional: tuple[str, ...] = ()
    torch: bool = True

    def ours(self, name: str) -> str | None:
        """Our name of an array, as "params/backbone/stem/conv/kernel"; "-" if no network here has it; None if the table lacks it."""
        layer, _, array = name.rpartition(".")
        if array == COUNTER:
            return "-"
        if name == self.bank:
            return BANK
        for _, pattern, ours, _ in _lines(self.table):
            of_array = ours.startswith("params/")
            if match := pattern.fullmatch(name if of_array else layer) or (ours == "-" and pattern.fullmatch(name)):
                if ours == "-":
                    return ours
                path = _filled(ours, {key: int(value) for key, value in match.groupdict().items()})
                if of_array:
                    return path
                names = OF_NORM if NORM.fullmatch(path) else OF_CONV
                if array not in names:
                    return None
                collection, leaf = names[array]
                return f"{collection}/{path}/{leaf}"
        return None

    def theirs(self, name: str) -> str | None:
        """Their name of an array of ours; None if the table lacks it."""
        if name == BANK:
            return self.bank or None
        collection, _, path = name.partition("/")
        path, _, leaf = path.rpartition("/")
        names = OF_NORM if NORM.fullmatch(path) else OF_CONV
        array = next((theirs for theirs, ours in names.items() if ours == (collection, leaf)), None)
        for theirs, _, ours, pattern in _lines(self.table):
            of_array = ours.startswith("params/")
            if match := pattern.fullmatch(name if of_array else path):
                values = {key: int(value) - _added(ours, key) for key, value in match.groupdict().items()}
                theirs = _filled(theirs, values)
                return theirs if of_array else array and f"{theirs}.{array}"
        return None


def recognise(publishers: Sequence[Publisher], names: Sequence[str]) -> Publisher | None:
    """The first publisher whose table has a line for every name."""
    return next((p for p in publishers if all(p.ours(name) is not None for name in names)), None)


def prefixed(prefix: str, table: str) -> str:
    """The table with `prefix` before each of their names."""
    return "\n".join(prefix + line.strip() for line in table.splitlines() if line.strip())


def from_torch(array: np.ndarray, name: str) -> np.ndarray:
    """An array of PyTorch in the layout of ours called `name`: kernels `[O,I,k,l]` → `[k,l,I,O]`, and `[O,I]` → `[I,O]`."""
    return array.transpose(torch_axes(array.ndim, name))


def torch_axes(ndim: int, name: str) -> tuple[int, ...]:
    """The axes of a PyTorch array in the order of ours."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)} if name.endswith("/kernel") else {}
    return axes.get(ndim, tuple(range(ndim)))


def to_torch(array: np.ndarray, name: str) -> np.ndarray:
    """The inverse of `from_torch`: kernels `[k,l,I,O]` → `[O,I,k,l]`, and `[I,O]` → `[O,I]`."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)} if name.endswith("/kernel") else {}
    return array.transpose(axes.get(array.ndim, range(array.ndim)))


@cache
def _lines(table):
    """The lines of a table: (their name, its regular expression, our name, its regular expression)."""
    pairs = [line.split() for line in table.splitlines() if line.strip()]
    return [(theirs, re.compile(_pattern(theirs)), ours, re.compile(_pattern(ours))) for theirs, ours in pairs]


def _pattern(text):
    """The regular expression of a name with `{i}`, `{i+1}` and `{*}`."""
    parts = re.split(r"\{(\*|\w)(?:\+\d)?\}", text)
    return "".join(
        re.escape(part) if i % 2 == 0 else ".*" if part == "*" else rf"(?P<{part}>{NUMBER})"
        for i, part in enumerate(parts)
    )


def _filled(text, values):
    """A name with numbers in place of `{i}` and `{i+1}`."""
    return re.sub(r"\{(\w)(?:\+(\d))?\}", lambda m: str(values[m[1]] + int(m[2] or 0)), text)


def _added(text, key):
    """1 for `{i+1}`, 0 for `{i}`."""
    match = re.search(rf"\{{{key}(?:\+(\d))?\}}", text)
    return int(match[1] or 0) if match else 0
