"""Puts the arrays of a file into the variables of a network."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent import futures
from functools import cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.errors import UserError, printable
from ctxseg.models.weights.names import COLLECTIONS
from ctxseg.models.weights.source import Source
from ctxseg.models.weights.tensor import Damaged, Scratch, copy, empty, short

# Number of threads that read arrays. Each has memory for its largest one.
THREADS = 2


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the arrays of a source and of a network, by name.

    Attributes:
        source: the file, run or installed set.
        publisher: whose names it has.
        taken: the network's arrays that were filled.
        by_class: those of `taken` that were filled for the classes that source and network have both.
        left: the source's arrays that the network does not have.
        new: the network's arrays that keep initial values, at least in part.
        classes: the classes that source and network have both, if both name them and they differ.
        pixels: {"mean", "std", "order"} of the pixels that the weights expect.
    """

    source: str
    publisher: str
    taken: tuple[str, ...]
    by_class: tuple[str, ...]
    left: tuple[str, ...]
    new: tuple[str, ...]
    classes: tuple[str, ...]
    pixels: Mapping[str, Any]

    @property
    def new_parameters(self) -> set[str]:
        """Names of the parameters in `new`, such as "classifier/scores/kernel"."""
        return {name.removeprefix("params/") for name in self.new if name.startswith("params/")}

    def has(self, collection: str) -> bool:
        """Whether an array of this collection, such as "memory", was filled."""
        return any(name.startswith(f"{collection}/") for name in self.taken)

    def __str__(self) -> str:
        """One line of counts."""
        left, new = ([_without_collection(name) for name in names] for names in (self.left, self.new))
        by_class = f", {len(self.by_class)} of them for {len(self.classes)} classes by name" if self.by_class else ""
        return (
            f"{self.source} ({self.publisher}): {len(self.taken)} arrays taken{by_class}, {len(self.left)} left"
            f"{_parts(left)}, {len(new)} new{_parts(new)}"
        )


def _without_collection(name):
    """Our name without its collection: "classifier/scores/kernel". A publisher's name stays."""
    return _path(name) if name.startswith(COLLECTIONS) else name


def _parts(names):
    """The first parts of names, in brackets: " (classifier, context)"."""
    parts = list(dict.fromkeys(name.replace(".", "/").split("/")[0] for name in names))
    names = ", ".join(printable(short(part)) for part in parts[:4])
    return f" ({names}{', …' * (len(parts) > 4)})" if parts else ""


def fit(
    model: nn.Module, variables: Mapping[str, Any], source: Source, class_names: Sequence[str] | None = None
) -> tuple[Any, Report]:
    """Fills the variables of a segmenter or a detector from `source`.

    The backbone is filled completely or not at all. Of the other parts, the arrays whose names source and network share are filled.

    Args:
        model: the network.
        variables: its initial variables.
        source: the weights.
        class_names: of the network. Where they differ from the source's, arrays that have an axis of classes are filled by class name;
            classes that the source lacks keep their initial values.

    Returns:
        The variables, and what became of every array.

    Raises:
        UserError: the source has another backbone, an array of another shape, or nothing that the network has; or it is damaged.
    """
    title, tensors = source.title, source.tensors
    classes = None
    same_classes = class_names is not None and tuple(class_names) == source.class_names
    if class_names is not None and source.class_names and not same_classes:
        theirs = {name: i for i, name in enumerate(source.class_names)}
        classes = [(i, theirs[name]) for i, name in enumerate(class_names) if name in theirs]
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    _check_backbone(f"{title} ({source.publisher})", flat, tensors, source.lacks, source.optional)
    shared = {name: tensor for name, tensor in tensors.items() if name in flat}
    if not shared:
        raise UserError(f"{title} has no weights of this network")
    same_shapes = all(tensor.shape == flat[name].shape for name, tensor in shared.items())
    axes = {} if classes is None and same_shapes else axes_of_classes(model)
    background_first = getattr(model, "BACKGROUND_FIRST", ("-",))
    whole: list[str] = []
    by_class: list[str] = []
    left = [*source.left, *(name for name in tensors if name not in flat)]
    for name, tensor in shared.items():
        initial, axis = flat[name], axes.get(name)
        if not _is_same_kind(tensor.dtype, initial.dtype):
            raise UserError(
                f"{title}: {_short(name)} has the type {tensor.dtype} in it and {initial.dtype} in this network"
            )
        if _path(name).startswith(background_first) and _differ_in_background(
            tensor.shape, initial.shape, axis, source.class_names, class_names
        ):
            left.append(name)
        elif tensor.shape == initial.shape and (axis is None or classes is None):
            whole.append(name)
        elif axis is None or same_classes or _without(tensor.shape, axis) != _without(initial.shape, axis):
            raise UserError(
                f"{title}: {_short(name)} has shape {list(tensor.shape)} in it and {list(initial.shape)} in this network"
            )
        elif classes:
            # Some arrays have other rows beside those of the classes.
            rows, length = tensor.shape[axis] - initial.shape[axis] + len(class_names or ()), len(source.class_names)
            if rows != length:
                raise UserError(f"{title} names {length} classes, but {_short(name)} has {rows} in it")
            by_class.append(name)
        else:  # other classes
            left.append(name)
    arrays = {name: empty(tensors[name].shape, flat[name].dtype) for name in (*whole, *by_class)}
    _read_all(title, tensors, arrays)
    for name in by_class:
        here, there = (list(ids) for ids in zip(*classes or (), strict=True))
        array = np.moveaxis(np.array(flat[name]), axes[name], 0)
        if _path(name).startswith(background_first):
            others = len(array) - len(class_names or ())  # 1, the background, or 0
            here, there = ([*range(others), *(i + others for i in ids)] for ids in (here, there))
        array[here] = np.moveaxis(arrays[name], axes[name], 0)[there]
        arrays[name] = np.moveaxis(array, 0, axes[name])
    new = [name for name in flat if name not in arrays or name in by_class]
    result = dict(flat) | jax.device_put(arrays)
    report = Report(
        source=title,
        publisher=source.publisher,
        taken=tuple(arrays),
        by_class=tuple(by_class),
        left=tuple(left),
        new=tuple(new),
        classes=tuple(source.class_names[j] for _, j in classes or ()),
        pixels=source.pixels,
    )
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def axes_of_classes(model: nn.Module) -> dict[str, int]:
    """{name: axis of the classes} of the arrays of a network that have such an axis: their shape depends on the number of classes."""
    images, regions = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.zeros((1, 64, 64), jnp.int32)
    inputs = (images, regions) if getattr(model, "most_superpixels", None) else (images,)
    shapes = []
    for network in (model, _with_another_class(model)):
        variables = jax.eval_shape(lambda key, network=network: network.init(key, *inputs), jax.random.PRNGKey(0))
        shapes.append({name: x.shape for name, x in flax.traverse_util.flatten_dict(variables, sep="/").items()})
    before, after = shapes
    return {
        name: next(i for i, (m, n) in enumerate(zip(shape, after[name], strict=True)) if m != n)
        for name, shape in before.items()
        if shape != after[name]
    }


def _with_another_class(module):
    """The module with one class more, in all modules that it consists of."""
    changes = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name == "num_classes":
            changes[field.name] = value + 1
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = _with_another_class(value)
    return module.clone(**changes)


def _check_backbone(source, flat, tensors, lacks, optional):
    """UserError if the file's backbone has an array that the network's has not, or the other way round."""
    network, file = ({name for name in names if _path(name).startswith("backbone/")} for names in (flat, tensors))
    if not network or not file:
        return
    network, file = ({name for name in names if not _path(name).startswith(optional)} for names in (network, file))
    required = {name for name in network if not _path(name).startswith(lacks)}
    for names, has, lack in (
        (required - file, "this network", "the file"),
        (file - network, "the file", "this network"),
    ):
        if names:
            raise UserError(
                f"{source} has the weights of another backbone: {has} has {_short(min(names))} and {lack} does not; set "
                "config.model.backbone, or config.model.pretrained=none"
            )


def _read_all(source, tensors, arrays):
    """Reads {name: tensor} into {name: array}."""
    names = sorted(arrays, key=lambda name: arrays[name].nbytes, reverse=True)
    parts = [names[i::THREADS] for i in range(THREADS)]
    with futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda part: _read_part(source, part, tensors, arrays), parts))


@np.errstate(over="ignore", invalid="ignore")
def _read_part(source, names, tensors, arrays):
    scratch = Scratch()
    for name in names:
        try:
            array = tensors[name].read(scratch).astype(arrays[name].dtype, copy=False)
        except Damaged as e:
            raise UserError(f"{source} cannot be read: {e}") from e
        # A finite sum shows the same as looking at every number, and is faster.
        if not np.isfinite(array.sum()) and not np.isfinite(array).all():
            raise UserError(f"{source}: {_short(name)} has numbers that are not finite")
        copy(array, arrays[name])


@cache
def _is_same_kind(*dtypes):
    """Whether all have real numbers, or all whole numbers, or all truth values."""
    return any(all(jnp.issubdtype(dtype, kind) for dtype in dtypes) for kind in (np.floating, np.integer, np.bool_))


def _differ_in_background(theirs, ours, axis, their_classes, our_classes):
    """Whether one of two shapes has rows of classes and of a background, and the other has no background."""
    if axis is None or not their_classes or our_classes is None or len(theirs) != len(ours):
        return False
    return theirs[axis] - len(their_classes) != ours[axis] - len(our_classes)


def _without(shape, axis):
    return shape[:axis] + shape[axis + 1 :]


def _path(name):
    """The name without its collection: "backbone/stem/conv/kernel"."""
    return name.partition("/")[2]


def _short(name):
    """The name in messages."""
    return short(_path(name))
