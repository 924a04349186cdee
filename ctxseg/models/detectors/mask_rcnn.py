"""Mask R-CNN (He et al., ICCV 2017) on a neck: FPN, ZigZagNet or another context that returns several maps. SPEC §9.

image → backbone → neck → region proposals → boxes, classes → masks
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Real

from ctxseg.bounds import Bound, Count, Factor
from ctxseg.errors import UserError
from ctxseg.models import extent, recomputing
from ctxseg.models.detectors import anchors as anchor_ops
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.detectors import masks as mask_ops
from ctxseg.models.detectors.heads import BoxHead, MaskHead, detect
from ctxseg.models.detectors.matching import NEITHER, match, sample
from ctxseg.models.detectors.outputs import Detections, DetectorOutput, SampledAnchors, SampledBoxes, SampledMasks
from ctxseg.models.detectors.roi_align import levels_of, roi_align
from ctxseg.models.detectors.rpn import NO_WEIGHTS, RPNHead, propose
from ctxseg.models.layers import ConvNorm
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.shapes import Array

Share = Annotated[float, Bound(minimum=0, maximum=1)]


class MaskRCNN(nn.Module):
    """Finds objects, and the mask of each.

    The defaults are those of detectron2's networks with FPN, for images whose shorter side has 800 pixels.

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
        roi_share: largest share of positive ones among them, and so the number of masks.
        roi_positive: IoU with an object from which a proposal is positive.
        roi_negative: IoU with every object below which a proposal is background.
        roi_weights: factors of the deltas of a box: of the shifts dx and dy, and of the log-ratios dw and dh.
        roi_aligned: whether RoIAlign takes the centre of a cell to be half a cell from its border. False: the first implementation, and
            torchvision's networks.
        roi_samples: samples of RoIAlign along each axis of a bin.
        canonical_size: square root of the area of a box, in pixels, from which a box is read from the third level; half of it for the
            second level, twice for the fourth.
        box_bins: bins of RoIAlign along each axis, for the boxes.
        box_channels: channels of the fully connected layers.
        box_layers: number of fully connected layers.
        box_norm: normalisation of the fully connected layers: `none` or `batch`.
        mask_bins: bins of RoIAlign along each axis, for the masks, which have twice as many cells.
        mask_channels: channels of the convolutions of the masks.
        mask_layers: number of 3×3 convolutions of the masks.
        mask_norm: normalisation of these convolutions: `none` or `batch`.
        mask_scores: `sigmoid`: each class has a mask of its own, K outputs (Mask R-CNN). `softmax`: each cell has one class or the
            background, K + 1 outputs (ZigZagNet); a cell of a detection belongs to it if its class is likelier than the background.
        score_threshold: probability of its class from which, exclusively, a box is a detection.
        nms: IoU from which, exclusively, a detection is suppressed by a better one of its class.
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
    anchor_ratios: Sequence[Factor] = (0.5, 1.0, 2.0)
    anchor_rounding: bool = False
    anchor_strides: Literal["nominal", "measured"] = "nominal"
    border_anchors: bool = True
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
    roi_aligned: bool = True
    roi_samples: Count = 2
    canonical_size: Factor = 224.0
    box_bins: Count = 7
    box_channels: Count = 1024
    box_layers: Count = 2
    box_norm: Literal["none", "batch"] = "none"
    mask_bins: Count = 14
    mask_channels: Count = 256
    mask_layers: Count = 4
    mask_norm: Literal["none", "batch"] = "none"
    mask_scores: Literal["sigmoid", "softmax"] = "sigmoid"
    score_threshold: Share = 0.05
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
    # Layers whose rows of classes may follow one of the background, for `weights.fit`.
    BACKGROUND_FIRST = ("box_head/scores/", "mask_head/scores/")

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
        for name, share in (("rpn_samples", "rpn_share"), ("rois", "roi_share")):
            count, part = getattr(self, name), getattr(self, share)
            if count * part < 1:
                raise UserError(
                    f"config.model.detector.{name} is {count} and {share} is {part}; expected a product, the largest number of positive "
                    "ones, of at least 1"
                )
        layers: dict[str, Any] = {"conv": self.conv, "dtype": self.dtype}
        self.rpn = RPNHead(len(self.anchor_ratios), self.rpn_norm, **layers)
        self.box_head = BoxHead(self.num_classes, self.box_channels, self.box_layers, self.box_norm, **layers)
        outputs = self.num_classes + (self.mask_scores == "softmax")
        self.mask_head = MaskHead(outputs, self.mask_channels, self.mask_layers, self.mask_norm, **layers)

    def __call__(
        self,
        images: Real[Array, "b H W 3"],
        sizes: Int[Array, "b 2"] | None = None,
        objects: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> DetectorOutput | Detections:
        """Detections; or, if the objects are given, what the losses need, with anchors and proposals drawn by the stream `sample`.

        Args:
            images: RGB in 0 to 255.
            sizes: height and width of each image, which is padded below and to the right; None: there is no padding.
            objects: of each image, up to N objects: `boxes` float32 `[b,N,4]`, (left, top, right, bottom) in pixels; `classes` int32
                `[b,N]`, −1 for no object; `masks` uint8 `[b,N,H,⌈W/8⌉]`, bits packed along the width, the first pixel lowest.
            train: True for the statistics of this batch, which update the running ones if `batch_stats` is mutable. False for the running
                statistics.
        """
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
            pyramid = recomputing.stage(self, lambda self, maps: self.neck.pyramid(maps, None, train))
            maps = pyramid(self, self.backbone(image, train))
            scores, deltas, anchors, valid = self._anchors(maps, sizes, shape, train)
        strides = [_stride(shape, x.shape[1:3]) for x in maps]
        regions = Regions(
            maps, strides, sizes if unseen else None, self.roi_samples, self.roi_aligned, self.canonical_size
        )
        if self.is_initializing():  # anything that has the heads' shapes
            nothing = jnp.zeros((len(sizes), 1, 4)), jnp.zeros((len(sizes), 1), bool)
            return self._detect(regions, *nothing, sizes, train)
        phase = 1 if objects is None else 0
        proposals, _, exists = propose(
            *lax.stop_gradient((scores, deltas)),
            anchors,
            valid,
            sizes,
            self.proposals_before[phase],
            self.proposals_after[phase],
            self.proposal_nms,
            self.proposals_of == "level",
        )
        with extent.padded(None, shape):  # regions have no padding
            if objects is None:
                return self._detect(regions, proposals, exists, sizes, train)
            return self._train(regions, scores, deltas, anchors, valid, proposals, exists, sizes, objects, train)

    def _anchors(self, maps, sizes, shape, train):
        """Scores `[b,n]` and deltas `[b,n,4]` of each level's anchors, the anchors `[n,4]`, and which of them exist, bool `[b,n]`."""
        if len(self.anchor_sizes) < len(maps):
            raise UserError(
                f"config.model.detector.anchor_sizes has {len(self.anchor_sizes)} sizes; expected one for each of the {len(maps)} levels "
                "that config.model.context returns, or more"
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
            base = anchor_ops.base_anchors(size, self.anchor_ratios, self.anchor_rounding)
            anchors.append(anchor_ops.grid_anchors((height, width), steps, base))
            exists = jnp.ones((len(x), height, width), bool)
            if self.padding == "unseen":
                exists = _within(sizes, [np.arange(n) * stride for n in (height, width)])
            valid.append(jnp.repeat(exists.reshape(len(x), -1), len(base), axis=1))
        return scores, deltas, anchors, valid

    def _train(self, regions, scores, deltas, anchors, valid, proposals, exists, sizes, objects, train):
        """Matches and samples the anchors and the proposals."""
        scores, deltas, valid = (jnp.concatenate(parts, 1) for parts in (scores, deltas, valid))
        anchors = jnp.concatenate(anchors)
        b, masks = len(sizes), int(self.rois * self.roi_share)
        # The index over all devices, so that the draw does not depend on their number.
        first = 0 if self.axis_name is None or self.is_initializing() else lax.axis_index(self.axis_name) * b
        keys = jax.vmap(lambda i, key: jax.random.split(jax.random.fold_in(key, i)), (0, None))(
            first + jnp.arange(b), self.make_rng("sample")
        )
        chosen, is_valid, positive, targets = jax.vmap(self._sample_anchors, (0, None, 0, 0, 0, 0))(
            keys[:, 0], anchors, valid, sizes, objects["boxes"], objects["classes"]
        )
        rpn = SampledAnchors(
            jnp.take_along_axis(scores, chosen, 1),
            jnp.take_along_axis(deltas, chosen[..., None], 1),
            targets,
            is_valid,
            positive,
        )
        rois = jax.vmap(self._sample_proposals)(keys[:, 1], proposals, exists, objects["boxes"], objects["classes"])
        roi_boxes, matched, roi_targets, is_valid, positive = rois
        classes = jnp.take_along_axis(objects["classes"], jnp.maximum(matched, 0), 1)
        logits, roi_deltas = self.box_head(regions.read(roi_boxes, self.box_bins), train)
        boxes = SampledBoxes(
            _grouped(logits, b),
            _grouped(roi_deltas, b),
            jnp.where(positive, classes + 1, 0),
            roi_targets,
            is_valid,
            positive,
        )
        # Positives are the first ones.
        mask_boxes, mask_objects = roi_boxes[:, :masks], jnp.maximum(matched[:, :masks], 0)
        mask_logits = self.mask_head(regions.read(mask_boxes, self.mask_bins), train)
        crop = jax.vmap(lambda *inputs: mask_ops.crop(*inputs[:3], 2 * self.mask_bins, inputs[3]))
        targets = crop(objects["masks"], mask_boxes, mask_objects, sizes)
        return DetectorOutput(
            rpn,
            boxes,
            SampledMasks(
                _grouped(mask_logits, b), targets, classes[:, :masks], positive[:, :masks], kind=self.mask_scores
            ),
        )

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
        chosen, is_valid, positive = sample(key, matched, self.rois, self.roi_share)
        proposals, matched = proposals[chosen], matched[chosen]
        targets = box_ops.encode(boxes[jnp.maximum(matched, 0)], proposals, self.roi_weights)
        return proposals, matched, targets, is_valid, positive

    def _detect(self, regions, proposals, exists, sizes, train):
        """The detections among the proposals `[b,r,4]`."""
        b = len(sizes)
        logits, deltas = (_grouped(x, b) for x in self.box_head(regions.read(proposals, self.box_bins), train))
        probabilities = nn.softmax(logits)[..., 1:]
        boxes = box_ops.decode(deltas, proposals[:, :, None], self.roi_weights)
        boxes = jax.vmap(box_ops.clip)(boxes, sizes)
        count = min(self.detections, probabilities[0].size)
        boxes, scores, classes, _, valid = jax.vmap(
            lambda *inputs: detect(*inputs, self.score_threshold, self.nms, count)
        )(probabilities, boxes, exists)
        masks = _grouped(self.mask_head(regions.read(boxes, self.mask_bins), train), b)
        if self.mask_scores == "softmax":  # the class against the background, whatever the other classes have
            masks = masks[..., 1:] - masks[..., :1]
        masks = jnp.take_along_axis(masks, jnp.maximum(classes, 0)[:, :, None, None, None], -1)[..., 0]
        return Detections(boxes, scores, classes, valid, nn.sigmoid(masks))


class Regions:
    """Reads maps within boxes.

    Args:
        maps: maps of all levels, finest first.
        strides: their strides.
        sizes: height and width of each image, int `[b,2]`, if the maps have padding that is not to be read; else None.
        samples: see `roi_align`.
        aligned: see `roi_align`.
        canonical_size: see `roi_align.levels_of`.
    """

    def __init__(self, maps, strides, sizes, samples, aligned, canonical_size):
        self.maps, self.strides, self.sizes = maps, strides, sizes
        self.samples, self.aligned, self.canonical_size = samples, aligned, canonical_size

    def read(self, boxes: Float[Array, "b n 4"], bins: int) -> Float[Array, "b*n {bins} {bins} c"]:
        """RoIAlign of the level that the size of each box asks for."""
        b, n = boxes.shape[:2]
        images, boxes = jnp.repeat(jnp.arange(b), n), boxes.reshape(b * n, 4)
        levels = levels_of(boxes, 2, 1 + len(self.maps), self.canonical_size)
        lengths = None
        if self.sizes is not None:  # rows and columns of every image in every map
            lengths = jnp.stack([-(-self.sizes // stride) for stride in self.strides], 1)[images, levels]
        scales = [1 / stride for stride in self.strides]
        return roi_align(self.maps, boxes, images, levels, scales, bins, self.samples, self.aligned, lengths)


def _grouped(x, b):
    """`[b·n,…]` → `[b,n,…]`."""
    return x.reshape(b, -1, *x.shape[1:])


def _within(sizes, positions):
    """Which rows and columns, at these positions of the image, are within each image: bool `[b,h,w]`."""
    rows, columns = (position < sizes[:, i, None] for i, position in enumerate(positions))
    return rows[:, :, None] & columns[:, None]


def _stride(shape, size):
    """The stride of a map of `size`, a power of 2, for images of `shape`."""
    return 1 << round(math.log2(max(n / m for n, m in zip(shape, size, strict=True))))
