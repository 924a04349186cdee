"""Whether weights are of the backbone of a network, and if not, why."""

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

from ctxseg.errors import UserError
from ctxseg.models.weights.source import Source

PREFIX = "backbone/"
# {channels of the first of three 3×3 convolutions: value of `config.model.backbone.stem`}.
STEMS = {32: "conv3_32", 64: "conv3"}
# A file that lacks at most this share of the backbone's arrays, and has no others, is incomplete. Another ResNet lacks a third or more.
INCOMPLETE = 0.1
# In the names of the arrays that compute the offsets of a deformable convolution.
OFFSET = "/offset/"


def check(source: Source, network: Mapping[str, Any]) -> None:
    """Checks that source and network have the same arrays of a backbone, or one of them none.

    A source with a plain convolution has no offsets for a deformable one, which keep their initial values.

    Args:
        source: the weights.
        network: {our name: array} of the network.

    Raises:
        UserError: the source has another backbone, or lacks arrays of this one.
    """
    ours, theirs = ({name for name in names if _path(name).startswith(PREFIX)} for names in (network, source.tensors))
    if not ours or not theirs:
        return
    ours, theirs = ({n for n in names if not _path(n).startswith(source.optional)} for names in (ours, theirs))
    required = {name for name in ours if not _path(name).startswith(source.lacks)} - new_offsets(ours, theirs)
    missing, extra = required - theirs, theirs - ours
    field = differing_field(network, source.tensors)
    title = f"{source.title} ({source.publisher})"
    if missing and not extra and not field and len(missing) <= INCOMPLETE * len(required):
        more = f" and {len(missing) - 1} more arrays" if len(missing) > 1 else ""
        raise UserError(f"{title} lacks {source.called(min(missing))}{more}: it is incomplete, get or save it again")
    field = field or "config.model.backbone"
    for names, has, lack in ((missing, "this network", "the file"), (extra, "the file", "this network")):
        if names:
            raise UserError(
                f"{title} has the weights of another backbone: {has} has {source.called(min(names))} and {lack} does not; set {field}, or "
                "config.model.pretrained=none"
            )


def new_offsets(ours: Iterable[str], theirs: Iterable[str]) -> set[str]:
    """The arrays of offsets in `ours` whose convolution is plain in `theirs`."""
    layers = {name.rpartition("/")[0] for name in theirs}
    return {name for name in ours if OFFSET in name and name.rpartition("/")[0] not in layers}


def differing_field(network: Mapping[str, Any], tensors: Mapping[str, Any]) -> str | None:
    """The only field in which two backbones differ, with its value in the file: "config.model.backbone.stem=conv7".

    None: they differ in more, or in something else than the stem, the normalisation, deformable convolutions, and a transformer's sizes.

    Args:
        network: {our name: array or other object with a `shape`} of the network.
        tensors: the same of the file.
    """
    ours, theirs = (
        {_path(name): x.shape for name, x in arrays.items() if _path(name).startswith(PREFIX)}
        for arrays in (network, tensors)
    )
    for name in new_offsets(ours, theirs):
        del ours[name]
    differing = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    if differing and all(OFFSET in name for name in differing):
        return _deformable(ours, theirs)
    if all(len(shapes.get("backbone/positions", ())) == 2 for shapes in (ours, theirs)):
        fields = [
            f"config.model.backbone.{name}={value}"
            for (name, value), here in zip(_transformer(theirs).items(), _transformer(ours).values(), strict=True)
            if value != here
        ]
        return fields[0] if len(fields) == 1 else None
    # The first block reads what the stem returns, which has 64 or 128 channels.
    if all(name.startswith(("backbone/stem", "backbone/res2_1/")) for name in differing) and _stem(ours):
        stem = _stem(theirs)
        return f"config.model.backbone.stem={stem}" if stem not in (None, _stem(ours)) else None
    lost = {name for name in ours.keys() ^ theirs.keys() if not name.startswith(("backbone/conv6", "backbone/conv7"))}
    norms = [any("/norm/" in name for name in names) for names in (ours, theirs)]
    if norms[0] != norms[1] and all("/norm/" in name or name.endswith("/conv/bias") for name in lost):
        return f"config.model.backbone.norm={'batch' if norms[1] else 'none'}"
    return None


def _transformer(shapes):
    """The fields of a transformer that {name: shape} shows."""
    blocks = [int(match[1]) for name in shapes if (match := re.match(r"backbone/block(\d+)/", name))]
    return {
        "grid": isqrt(max(shapes["backbone/positions"][0] - 1, 0)),
        "registers": (*shapes.get("backbone/registers", ()), 0)[0],
        "depth": max(blocks, default=0),
        "width": shapes["backbone/positions"][-1],
        "patch_size": (*shapes.get("backbone/patches/kernel", ()), 0)[0],
    }


def _deformable(ours, theirs):
    """The field in which the deformable convolutions of two {name: shape} differ, with its value in the second."""
    blocks, groups = [], []
    for shapes in (ours, theirs):
        kernels = {name: shape for name, shape in shapes.items() if name.endswith(f"{OFFSET}kernel")}
        blocks.append([sum(name.startswith(f"backbone/res{i}_") for name in kernels) for i in (2, 3, 4, 5)])
        # The channels of offsets are 2·groups·k·l.
        groups.append({shape[3] // max(2 * shape[0] * shape[1], 1) for shape in kernels.values() if len(shape) == 4})
    if blocks[0] != blocks[1]:
        return f"config.model.backbone.deformable={','.join(map(str, blocks[1]))}"
    if groups[0] != groups[1] and len(groups[1]) == 1:
        return f"config.model.backbone.offset_groups={groups[1].pop()}"
    return None


def _stem(shapes):
    """The stem of a ResNet, given {name: shape}, or None."""
    kernel = shapes.get("backbone/stem/conv/kernel", ())
    if len(kernel) == 4:
        return "conv7" if kernel[0] == 7 else None
    return STEMS.get(shapes.get("backbone/stem1/conv/kernel", (0,))[-1])


def _path(name):
    """The name without its collection: "backbone/stem/conv/kernel"."""
    return name.partition("/")[2]
