"""Puts the arrays of a file into the variables of a network."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.errors import UserError
from ctxseg.models.weights.source import Source
from ctxseg.models.weights.tensor import Damaged


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
        new = [name.partition("/")[2] for name in self.new]
        by_class = f", {len(self.by_class)} of them for {len(self.classes)} classes by name" if self.by_class else ""
        return (
            f"{self.source} ({self.publisher}): {len(self.taken)} arrays taken{by_class}, {len(self.left)} left"
            f"{_parts(self.left)}, {len(new)} new{_parts(new)}"
        )


def _parts(names):
    """The first parts of names, in brackets: " (classifier, context)"."""
    parts = list(dict.fromkeys(name.replace(".", "/").split("/")[0] for name in names))
    return f" ({', '.join(parts[:4])}{', …' * (len(parts) > 4)})" if parts else ""


def fit(
    model: nn.Module, variables: Mapping[str, Any], source: Source, class_names: Sequence[str] | None = None
) -> tuple[Any, Report]:
    """Fills the variables of a segmenter from `source`.

    The backbone is filled completely or not at all. Of the other parts, the arrays whose names source and network share are filled.

    Args:
        model: the segmenter.
        variables: its initial variables.
        source: the weights.
        class_names: of the segmenter. Where they differ from the source's, arrays that have an axis of classes are filled by class name;
            classes that the source lacks keep their initial values.

    Returns:
        The variables, and what became of every array.

    Raises:
        UserError: the source has another backbone, an array of another shape, or nothing that the segmenter has; or it is damaged.
    """
    title, tensors = source.title, source.tensors
    classes = None
    if class_names is not None and source.class_names and tuple(class_names) != source.class_names:
        theirs = {name: i for i, name in enumerate(source.class_names)}
        classes = [(i, theirs[name]) for i, name in enumerate(class_names) if name in theirs]
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    _check_backbone(title, flat, tensors, source.lacks)
    shared = {name: tensor for name, tensor in tensors.items() if name in flat}
    if not shared:
        raise UserError(f"{title} has no weights of this network")
    same_shapes = all(tensor.shape == flat[name].shape for name, tensor in shared.items())
    axes = {} if classes is None and same_shapes else axes_of_classes(model)
    filled: dict[str, np.ndarray] = {}
    by_class: list[str] = []
    left = [*source.left, *(name for name in tensors if name not in flat)]
    for name, tensor in shared.items():
        initial, axis = flat[name], axes.get(name)
        if tensor.shape == initial.shape and (axis is None or classes is None):
            filled[name] = _read(title, name, tensor, initial.dtype)
        elif axis is None or _without(tensor.shape, axis) != _without(initial.shape, axis):
            raise UserError(
                f"{title}: {_short(name)} has shape {list(tensor.shape)} in it and {list(initial.shape)} in this network"
            )
        elif classes:
            here, there = (list(ids) for ids in zip(*classes, strict=True))
            array = np.moveaxis(np.array(initial), axis, 0)
            array[here] = np.moveaxis(_read(title, name, tensor, initial.dtype), axis, 0)[there]
            filled[name] = np.moveaxis(array, 0, axis)
            by_class.append(name)
        else:  # other classes
            left.append(name)
    new = [name for name in flat if name not in filled or name in by_class]
    result = {name: jnp.asarray(filled[name]) if name in filled else array for name, array in flat.items()}
    report = Report(
        source=title,
        publisher=source.publisher,
        taken=tuple(filled),
        by_class=tuple(by_class),
        left=tuple(left),
        new=tuple(new),
        classes=tuple(source.class_names[j] for _, j in classes or ()),
        pixels=source.pixels,
    )
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def axes_of_classes(model: nn.Module) -> dict[str, int]:
    """{name: axis of the classes} of the arrays of a segmenter that have such an axis: their shape depends on the number of classes."""
    images, regions = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.zeros((1, 64, 64), jnp.int32)
    shapes = []
    for network in (model, _with_another_class(model)):
        variables = jax.eval_shape(
            lambda key, network=network: network.init(key, images, regions), jax.random.PRNGKey(0)
        )
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


def _check_backbone(source, flat, tensors, lacks):
    """UserError if the file's backbone has an array that the network's has not, or the other way round."""
    network, file = ({name for name in names if _short(name).startswith("backbone/")} for names in (flat, tensors))
    if not network or not file:
        return
    required = {name for name in network if not _short(name).startswith(tuple(lacks))} if lacks else network
    for names, has, lack in (
        (required - file, "this network", "the file"),
        (file - network, "the file", "this network"),
    ):
        if names:
            raise UserError(
                f"{source} has the weights of another backbone: {has} has {_short(min(names))} and {lack} does not; set "
                "config.model.backbone, or config.model.pretrained=none"
            )


def _read(source, name, tensor, dtype):
    try:
        array = tensor.read()
    except Damaged as e:
        raise UserError(f"{source} cannot be read: {e}") from e
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.kind not in "V" and np.dtype(dtype).kind == "f":
        raise UserError(f"{source}: {_short(name)} has the type {array.dtype}; expected floating-point numbers")
    return np.ascontiguousarray(array).astype(dtype, copy=False)


def _without(shape, axis):
    return shape[:axis] + shape[axis + 1 :]


def _short(name):
    """The name without its collection: "backbone/stem/conv/kernel"."""
    return name.partition("/")[2]
