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
from ctxseg.models.weights import backbone
from ctxseg.models.weights.names import COLLECTIONS
from ctxseg.models.weights.source import Source
from ctxseg.models.weights.tensor import Damaged, Scratch, copy, empty, short

# Number of threads that read arrays. Each has memory for its largest one.
THREADS = 2

# The parts of a network after its backbone, in an order: each reads what those before it return.
SEGMENTER = ("connections", "context", "memory", "classifier", "attention1", "attention2")
DETECTOR = ("rpn", "box_offsets", "box_head", "mask_head", "score_maps", "box_maps")
ORDERS = (SEGMENTER, *(("neck", part) for part in DETECTOR))
# {part: its section of `config.model`}, where the names differ.
SECTIONS = {"attention1": "scales", "attention2": "scales", "neck": "context"}
SECTIONS |= dict.fromkeys(DETECTOR, "detector")


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

    The backbone is filled completely, or not at all; only offsets of deformable convolutions may be missing. Of the other parts, the arrays
    whose names source and network share are filled, except for parts of another kind, see `_other_parts`.

    Args:
        model: the network.
        variables: its initial variables.
        source: the weights.
        class_names: of the network. Where they differ from the source's, arrays that have an axis of classes are filled by class name;
            classes that the source lacks keep their initial values.

    Returns:
        The variables, and what became of every array.

    Raises:
        UserError: the source has another backbone, an array of another shape in a part of the same kind, or nothing that the network has;
            or it is damaged.
    """
    title, tensors = source.title, source.tensors
    classes = None
    same_classes = class_names is not None and tuple(class_names) == source.class_names
    if class_names is not None and source.class_names and not same_classes:
        theirs = {name: i for i, name in enumerate(source.class_names)}
        classes = [(i, theirs[name]) for i, name in enumerate(class_names) if name in theirs]
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    backbone.check(source, flat)
    shared = {name: tensor for name, tensor in tensors.items() if name in flat}
    if not shared:
        raise UserError(f"{title} has no weights of this network")
    same_shapes = all(tensor.shape == flat[name].shape for name, tensor in shared.items())
    axes = {} if classes is None and same_shapes else axes_of_classes(model)
    background_first = getattr(model, "BACKGROUND_FIRST", ("-",))
    without_background = {
        name
        for name, tensor in shared.items()
        if _path(name).startswith(background_first)
        and _differ_in_background(tensor.shape, flat[name].shape, axes.get(name), source.class_names, class_names)
    }
    conflicts = [
        name
        for name, tensor in shared.items()
        if name not in without_background
        and _conflict(tensor.shape, flat[name].shape, None if same_classes else axes.get(name))
    ]
    others = _other_parts(flat, tensors, conflicts)
    if all(_part(name) in others for name in shared):
        others = set()  # nothing would be taken: the line below says why
    for name in sorted(conflicts, key=lambda name: -len(flat[name].shape)):  # kernels first, which say most
        if _part(name) not in others:
            raise UserError(
                f"{title}: {source.called(name)} has shape {list(tensors[name].shape)} in it and {list(flat[name].shape)} in this network: "
                f"{_remedy(name, flat, tensors)}, or config.model.pretrained=none"
            )
    whole: list[str] = []
    by_class: list[str] = []
    left = [*source.left, *(name for name in tensors if name not in flat)]
    for name, tensor in shared.items():
        initial, axis = flat[name], axes.get(name)
        if _part(name) in others or name in without_background:
            left.append(name)
        elif not _is_same_kind(tensor.dtype, initial.dtype):
            raise UserError(
                f"{title}: {source.called(name)} has the type {tensor.dtype} in it and {initial.dtype} in this network"
            )
        elif tensor.shape == initial.shape and (axis is None or classes is None):
            whole.append(name)
        elif classes and axis is not None:
            # Some arrays have other rows beside those of the classes.
            rows, length = tensor.shape[axis] - initial.shape[axis] + len(class_names or ()), len(source.class_names)
            if rows != length:
                raise UserError(f"{title} names {length} classes, but {source.called(name)} has {rows} in it")
            by_class.append(name)
        else:  # other classes
            left.append(name)
    arrays = {name: empty(tensors[name].shape, flat[name].dtype) for name in (*whole, *by_class)}
    _read_all(source, arrays)
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


def _conflict(theirs, ours, axis):
    """Whether two shapes differ outside the axis of the classes; None: there is no such axis."""
    return theirs != ours and (axis is None or _without(theirs, axis) != _without(ours, axis))


def _other_parts(flat, tensors, conflicts):
    """The parts of the network that are left as they are, since the file has another kind of them: another context, for example.

    A part is of another kind if it, or a part before it, has an array of another shape, and names of arrays show that the file's network
    is built in another way up to there. If all names are the same, another shape is an error instead.
    """
    with_other_names = set(map(_part, flat.keys() ^ tensors.keys()))
    with_other_shapes = set(map(_part, conflicts))
    others = set()
    for order in ORDERS:
        for i, part in enumerate(order, 1):
            if with_other_names.intersection(order[:i]) and with_other_shapes.intersection(order[:i]):
                others.add(part)
    # Auxiliary heads are after the backbone alone: they are left only if they do not fit themselves.
    if "auxiliary" in with_other_shapes and with_other_names.intersection((*SEGMENTER, "auxiliary")):
        others.add("auxiliary")
    return others


def _remedy(name, flat, tensors):
    """What to do about an array of another shape."""
    part = _part(name)
    field = backbone.differing_field(flat, tensors) if part == "backbone" else None
    return f"set {field}" if field else f"set config.model.{SECTIONS.get(part, part)} as in the file's network"


def _read_all(source, arrays):
    """Reads the tensors of `source` into {name: array}."""
    names = sorted(arrays, key=lambda name: arrays[name].nbytes, reverse=True)
    parts = [names[i::THREADS] for i in range(THREADS)]
    with futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda part: _read_part(source, part, arrays), parts))


def _read_part(source, names, arrays):
    scratch = Scratch()
    for name in names:
        copy(read(source, name, scratch, arrays[name].dtype), arrays[name])


@np.errstate(over="ignore", invalid="ignore")
def read(source: Source, name: str, scratch: Scratch, dtype: Any = None) -> np.ndarray:
    """An array of `source` as `dtype`, default its own; may be a view into `scratch`.

    Raises:
        UserError: it is damaged, or has numbers that are not finite in float32, or in `dtype`.
    """
    try:
        array = source.tensors[name].read(scratch)
    except Damaged as e:
        raise UserError(f"{source.title} cannot be read: {e}") from e
    array = array if dtype is None else array.astype(dtype, copy=False)
    # A finite sum shows the same as looking at every number, and is faster.
    total = array.sum(dtype=np.float32 if jnp.issubdtype(array.dtype, np.floating) else None)
    if not np.isfinite(total) and not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise UserError(f"{source.title}: {source.called(name)} has numbers that are not finite")
    return array


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


def _part(name):
    """The part of the network that has an array: "backbone"."""
    return name.split("/")[1] if "/" in name else ""
