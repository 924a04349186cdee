"""What two-stage detectors share: the maps, and the proposals of regions (Ren et al., Faster R-CNN, NIPS 2015, §3). SPEC §9.

image → backbone → neck → region proposals → …
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Float32, Int, Int32, Real

from ctxseg.bounds import Bound, Count, Factor, Whole
from ctxseg.errors import UserError
from ctxseg.models import extent, recomputing
from ctxseg.models.context.levels import select
from ctxseg.models.detectors import anchors as anchor_ops
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.detectors.matching import NEITHER, match, sample
from ctxseg.models.detectors.outputs import SampledAnchors
from ctxseg.models.detectors.roi_align import levels_of
from ctxseg.models.detectors.rpn import NO_WEIGHTS, RPNHead, propose
from ctxseg.models.layers import ConvNorm
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.shapes import Array

Share = Annotated[float, Bound(minimum=0, maximum=1)]


class FirstStage(NamedTuple):
    """What the second stage reads of the images of a batch.

    Attributes:
        maps: of the neck, finest first.
        strides: their strides.
        scores: of the anchors of each level, see `rpn.RPNHead`.
        deltas: of the anchors of each level.
        anchors: boxes of each level, the same for all images.
        valid: which anchors exist.
        sizes: height and width of each image, int `[b,2]`.
        shape: height and width of the padded images.
        unseen: whether the maps have padding that is not to be read.
    """

    maps: Sequence[Float[Array, "b _ _ c"]]
    strides: Sequence[int]
    scores: Sequence[Float32[Array, "b _"]]
    deltas: Sequence[Float32[Array, "b _ 4"]]
    anchors: Sequence[Float32[Array, "_ 4"]]
    valid: Sequence[Bool[Array, "b _"]]
    sizes: Int[Array, "b 2"]
    shape: tuple
    unseen: bool

    def places(self, boxes: Float[Array, "b n 4"], canonical_size: float) -> tuple[Any, Any, Any, list[float], Any]:
        """Where boxes are in the maps, as arguments of `roi_align`: boxes `[b·n,4]`, images, levels, scales and lengths.

        A box is read from the level that its size asks for, see `roi_align.levels_of`.
        """
        b, n = boxes.shape[:2]
        images, boxes = jnp.repeat(jnp.arange(b), n), boxes.reshape(b * n, 4)
        levels = levels_of(boxes, 2, 1 + len(self.maps), canonical_size)
        lengths = None
        if self.unseen:  # rows and columns of every image in every map
            lengths = jnp.stack([-(-self.sizes // stride) for stride in self.strides], 1)[images, levels]
        return boxes, images, levels, [1 / stride for stride in self.strides], lengths


class SampledProposals(NamedTuple):
    """The regions of interest that a training step reads.

    Attributes:
        boxes: proposals, and boxes of objects; positives first.
        matched: index of the object that each is matched with, `matching.NEGATIVE` for background.
        classes: 0 for the background, else 1 + the class of the object.
        targets: deltas of the object.
        valid: which of them exist.
        positive: which of them are matched with an object.
    """

    boxes: Float32[Array, "b r 4"]
    matched: Int32[Array, "b r"]
    classes: Int32[Array, "b r"]
    targets: Float32[Array, "b r 4"]
    valid: Bool[Array, "b r"]
    positive: Bool[Array, "b r"]


class TwoStage(nn.Module):
    """The first stage of a detector, with its fields, and the fields of the second that all detectors have.

    Attributes:
        backbone: (images, train) → {name: map}, finest first.
        neck: a context with a method `pyramid`: (maps, regions, train) → maps of all levels, finest first, of the same channels.
        num_classes: K, without the background.
        anchor_sizes: size of the anchors of each level, the square root of their area in pixels, finest level first. A size beyond the
            neck's levels adds a level: every second position of the level before, for proposals only.
        anchor_ratios: heights of the anchors divided by their widths.
        anchor_rounding: whether the corners of the anchors are rounded to whole pixels, as in torchvision.
        anchor_strides: pixels between the anchors of a level. `nominal`: the stride of its map. `measured`: the size of the padded images
            divided by that of the map, rounded down, as in torchvision: 48 instead of 64 for a map of 2 rows, if the images have 96.
        border_anchors: whether anchors that cross the border of the image count in training; detectron2 and torchvision: true; Detectron:
            false.
        anchor_scales: factors of each level's size. Every level has anchors of all of them.
        rpn_levels: names of the backbone's maps that the region proposals read, finest first. Default: the neck's maps.
        rpn_channels: channels of the 3×3 convolution of the region proposals; 0: as many as its map has.
        rpn_norm: normalisation of the 3×3 convolution of the region proposals: `none` or `batch`.
        rpn_positive: IoU with an object from which an anchor is positive. The best anchors of an object are always positive.
        rpn_negative: IoU with every object below which an anchor is negative.
        rpn_samples: number of anchors of an image that a training step reads.
        rpn_share: largest share of positive ones among them.
        proposals_before: how many of the best anchors of each level enter the non-maximum suppression: in training, and in testing.
        proposals_after: how many proposals remain after it: in training, and in testing. detectron2: 1000, 1000; torchvision: 2000, 1000.
        proposals_of: what proposals_after counts: the proposals of an `image`, or those of each `level`.
        proposal_nms: IoU from which, exclusively, a proposal is suppressed by a better one of its level.
        rois: number of proposals of an image that a training step reads. The boxes of the objects are proposals too.
        roi_share: largest share of positive ones among them, and so the number of masks. With hard_examples: the number of masks, as a
            share of hard_examples.
        roi_positive: IoU with an object from which a proposal is positive.
        roi_negative: IoU with every object below which a proposal is background.
        roi_weights: factors of the deltas of a box: of the shifts dx and dy, and of the log-ratios dw and dh.
        hard_examples: number of regions of an image, those with the largest losses, that are trained on (online hard example mining,
            Shrivastava et al., CVPR 2016). They are chosen among `rois` regions, drawn whatever their share of positive ones is. 0: no
            choice, all `rois` regions are trained on.
        canonical_size: square root of the area of a box, in pixels, from which a box is read from the third level; half of it for the
            second level, twice for the fourth.
        score_threshold: probability of its class from which, exclusively, a box is a detection.
        suppression: how a detection lowers the scores of the other boxes of its class. `hard`: boxes that overlap it more than `nms` are
            dropped. Soft-NMS (Bodla et al., ICCV 2017): `linear`: the score of such a box is multiplied by 1 − IoU; `gaussian`: that of
            every box by exp(−IoU²/nms).
        nms: IoU from which, exclusively, a detection is suppressed by a better one of its class. For suppression=gaussian: σ.
        detections: largest number of detections of an image.
        padding: padding around an image. `unseen`: the network computes what it would without padding. `seen`: padding is 0
            after normalisation and a part of the image, with anchors and proposals, as in published networks; boxes are clipped to the
            image.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation; parameters, scores and boxes are float32.
        axis_name: `pmap` axis over which a batch is split, or None.
        pixels: normalises images for the backbone.
        remat: see `recomputing`.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    anchor_sizes: Sequence[Factor] = (32, 64, 128, 256, 512)
    anchor_scales: tuple[Factor, ...] = (1.0,)
    anchor_ratios: Sequence[Factor] = (0.5, 1.0, 2.0)
    anchor_rounding: bool = False
    anchor_strides: Literal["nominal", "measured"] = "nominal"
    border_anchors: bool = True
    rpn_levels: tuple[str, ...] = ()
    rpn_channels: Whole = 0
    rpn_norm: Literal["none", "batch"] = "none"
    rpn_positive: Share = 0.7
    rpn_negative: Share = 0.3
    rpn_samples: Count = 256
    rpn_share: Share = 0.5
    proposals_before: tuple[Count, Count] = (2000, 1000)
    proposals_after: tuple[Count, Count] = (1000, 1000)
    proposals_of: Literal["image", "level"] = "image"
    proposal_nms: Share = 0.7
    rois: Count = 512
    roi_share: Share = 0.25
    roi_positive: Share = 0.5
    roi_negative: Share = 0.5
    roi_weights: tuple[Factor, Factor, Factor, Factor] = (10.0, 10.0, 5.0, 5.0)
    hard_examples: Whole = 0
    canonical_size: Factor = 224.0
    score_threshold: Share = 0.05
    suppression: Literal["hard", "linear", "gaussian"] = "hard"
    nms: Share = 0.5
    detections: Count = 100
    padding: Literal["unseen", "seen"] = "unseen"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32
    axis_name: str | None = None
    pixels: PixelFormat = PixelFormat()
    remat: recomputing.Remat = "none"

    memory = None  # of a segmenter
    most_superpixels: ClassVar[dict[str, int]] = {}

    def example(self, size: tuple[int, int]) -> tuple:
        """Arguments of `__call__` for an image of `size` (height, width), for `init`. (): any size, as parameters do not depend on it."""
        return (jnp.zeros((1, *(size or (128, 128)), 3), jnp.uint8),)

    def setup(self):
        for kind in ("rpn", "roi"):
            low, high = getattr(self, f"{kind}_negative"), getattr(self, f"{kind}_positive")
            if low > high:
                raise UserError(
                    f"config.model.detector.{kind}_negative is {low}; expected at most {kind}_positive, {high}"
                )
        self._check_share("rpn_samples", "rpn_share")
        if not self.hard_examples:
            self._check_share("rois", "roi_share")
        if self.hard_examples > self.rois:
            raise UserError(
                f"config.model.detector.hard_examples is {self.hard_examples}; expected at most config.model.detector.rois, {self.rois}"
            )
        if self.suppression == "gaussian" and not self.nms:
            raise UserError("config.model.detector.nms is 0; suppression=gaussian divides by it: expected more than 0")
        anchors = len(self.anchor_ratios) * len(self.anchor_scales)
        self.rpn = RPNHead(anchors, self.rpn_channels, self.rpn_norm, conv=self.conv, dtype=self.dtype)

    def _check_share(self, name, share):
        """Raises UserError if not even one of `name` regions may be positive."""
        count, part = getattr(self, name), getattr(self, share)
        if count * part < 1:
            raise UserError(
                f"config.model.detector.{name} is {count} and {share} is {part}; expected a product, the largest number of positive "
                "ones, of at least 1"
            )

    def first_stage(self, images: Real[Array, "b H W 3"], sizes: Int[Array, "b 2"] | None, train: bool) -> FirstStage:
        """Maps and anchors of images, see `MaskRCNN.__call__`."""
        shape = images.shape[1:3]
        unseen = sizes is not None and self.padding == "unseen"
        image = jnp.asarray(self.pixels(images), self.dtype)
        sizes = jnp.tile(jnp.array(shape, jnp.int32), (len(images), 1)) if sizes is None else jnp.asarray(sizes)
        if self.padding == "seen":
            image = jnp.where(_within(sizes, [np.arange(n) for n in shape])[..., None], image, 0)
        if unseen and shape != extent.whole_strides(shape):
            whole = extent.whole_strides(shape)
            image = jnp.pad(image, ((0, 0), *((0, m - n) for n, m in zip(shape, whole, strict=True)), (0, 0)))
            shape = whole
        with extent.padded(sizes if unseen else None, shape):
            features = self.backbone(image, train)
            pyramid = recomputing.stage(self, lambda self, maps: self.neck.pyramid(maps, None, train))
            maps = pyramid(self, features)
            read = select(features, self.rpn_levels, 0, "detector.rpn_levels") if self.rpn_levels else maps
            scores, deltas, anchors, valid = self._anchors(read, sizes, shape, train)
        strides = [_stride(shape, x.shape[1:3]) for x in maps]
        return FirstStage(maps, strides, scores, deltas, anchors, valid, sizes, shape, unseen)

    def _anchors(self, maps, sizes, shape, train):
        """Scores `[b,n]` and deltas `[b,n,4]` of each level's anchors, the anchors `[n,4]`, and which of them exist, bool `[b,n]`."""
        if len(self.anchor_sizes) < len(maps):
            raise UserError(
                f"config.model.detector.anchor_sizes has {len(self.anchor_sizes)} sizes; expected one for each of the {len(maps)} levels "
                f"that {'rpn_levels names' if self.rpn_levels else 'config.model.context returns'}, or more"
            )
        maps, strides = list(maps), [_stride(shape, x.shape[1:3]) for x in maps]
        while len(maps) < len(self.anchor_sizes):
            maps.append(extent.clear(maps[-1])[:, ::2, ::2])
            strides.append(2 * strides[-1])
        scores, deltas = zip(*(self.rpn(x, train) for x in maps), strict=True)
        anchors, valid = [], []
        for x, stride, size in zip(maps, strides, self.anchor_sizes, strict=True):
            height, width = x.shape[1:3]
            steps = (stride, stride) if self.anchor_strides == "nominal" else (shape[0] // height, shape[1] // width)
            sizes_here = [size * scale for scale in self.anchor_scales]
            base = np.concatenate(
                [anchor_ops.base_anchors(n, self.anchor_ratios, self.anchor_rounding) for n in sizes_here]
            )
            anchors.append(anchor_ops.grid_anchors((height, width), steps, base))
            exists = jnp.ones((len(x), height, width), bool)
            if self.padding == "unseen":
                exists = _within(sizes, [np.arange(n) * stride for n in (height, width)])
            valid.append(jnp.repeat(exists.reshape(len(x), -1), len(base), axis=1))
        return scores, deltas, anchors, valid

    def propose(self, first: FirstStage, testing: bool) -> tuple[Float32[Array, "b r 4"], Bool[Array, "b r"]]:
        """Proposals, best first, and which of them exist. They are constants for the gradient."""
        proposals, _, exists = propose(
            *lax.stop_gradient((first.scores, first.deltas)),
            first.anchors,
            first.valid,
            first.sizes,
            self.proposals_before[testing],
            self.proposals_after[testing],
            self.proposal_nms,
            self.proposals_of == "level",
        )
        return proposals, exists

    def sample(self, first: FirstStage, proposals, exists, objects) -> tuple[SampledAnchors, SampledProposals]:
        """Matches the anchors and the proposals with the objects, and draws those that a training step reads, by the stream `sample`."""
        scores, deltas, valid = (jnp.concatenate(parts, 1) for parts in (first.scores, first.deltas, first.valid))
        anchors, b = jnp.concatenate(first.anchors), len(first.sizes)
        # The index over all devices, so that the draw does not depend on their number.
        before = 0 if self.axis_name is None or self.is_initializing() else lax.axis_index(self.axis_name) * b
        keys = jax.vmap(lambda i, key: jax.random.split(jax.random.fold_in(key, i)), (0, None))(
            before + jnp.arange(b), self.make_rng("sample")
        )
        chosen, is_valid, positive, targets = jax.vmap(self._sample_anchors, (0, None, 0, 0, 0, 0))(
            keys[:, 0], anchors, valid, first.sizes, objects["boxes"], objects["classes"]
        )
        rpn = SampledAnchors(
            jnp.take_along_axis(scores, chosen, 1),
            jnp.take_along_axis(deltas, chosen[..., None], 1),
            targets,
            is_valid,
            positive,
        )
        rois = jax.vmap(self._sample_proposals)(keys[:, 1], proposals, exists, objects["boxes"], objects["classes"])
        boxes, matched, targets, is_valid, positive = rois
        classes = jnp.take_along_axis(objects["classes"], jnp.maximum(matched, 0), 1)
        return rpn, SampledProposals(boxes, matched, jnp.where(positive, classes + 1, 0), targets, is_valid, positive)

    def _sample_anchors(self, key, anchors, valid, size, boxes, classes):
        """Of one image: indices of the sampled anchors, which of them exist and are positive, and their targets."""
        if not self.border_anchors:
            valid &= ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= size[::-1])).all(-1)
        overlaps = jnp.where(valid[:, None], box_ops.iou(anchors, boxes), 0)
        matched = match(overlaps, classes >= 0, self.rpn_positive, self.rpn_negative, keep_best=True)
        matched = jnp.where(valid, matched, NEITHER)
        chosen, is_valid, positive = sample(key, matched, self.rpn_samples, self.rpn_share)
        targets = box_ops.encode(boxes[jnp.maximum(matched[chosen], 0)], anchors[chosen], NO_WEIGHTS)
        return chosen, is_valid, positive, targets

    def _sample_proposals(self, key, proposals, exists, boxes, classes):
        """Of one image: the sampled boxes, the objects that they are matched with, targets, and which boxes exist and are positive."""
        found = classes >= 0
        proposals = jnp.concatenate([proposals, boxes])
        exists = jnp.concatenate([exists, found]) & (proposals[:, 2:] > proposals[:, :2]).all(-1)
        overlaps = box_ops.iou(proposals, boxes)
        matched = match(overlaps, found, self.roi_positive, self.roi_negative, keep_best=False)
        matched = jnp.where(exists, matched, NEITHER)
        chosen, is_valid, positive = sample(key, matched, self.rois, 1.0 if self.hard_examples else self.roi_share)
        proposals, matched = proposals[chosen], matched[chosen]
        targets = box_ops.encode(boxes[jnp.maximum(matched, 0)], proposals, self.roi_weights)
        return proposals, matched, targets, is_valid, positive


def grouped(x: Array, b: int) -> Array:
    """`[b·n,…]` → `[b,n,…]`."""
    return x.reshape(b, -1, *x.shape[1:])


def _within(sizes, positions):
    """Which rows and columns, at these positions of the image, are within each image: bool `[b,h,w]`."""
    rows, columns = (position < sizes[:, i, None] for i, position in enumerate(positions))
    return rows[:, :, None] & columns[:, None]


def _stride(shape, size):
    """The stride of a map of `size`, a power of 2, for images of `shape`."""
    return 1 << round(math.log2(max(n / m for n, m in zip(shape, size, strict=True))))
