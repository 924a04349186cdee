"""Mask R-CNN (He et al., ICCV 2017) on a neck: FPN, ZigZagNet or another context that returns several maps. SPEC §9.

image → backbone → neck → region proposals → boxes, classes → masks
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Int, Real

from ctxseg.bounds import Count
from ctxseg.models import extent
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.detectors import masks as mask_ops
from ctxseg.models.detectors.deformable_pooling import deformable_roi_pool
from ctxseg.models.detectors.heads import BoxHead, BoxOffsets, MaskHead, detect
from ctxseg.models.detectors.outputs import Detections, DetectorOutput, SampledBoxes, SampledMasks
from ctxseg.models.detectors.roi_align import roi_align
from ctxseg.models.detectors.two_stage import TwoStage, grouped
from ctxseg.models.shapes import Array


class MaskRCNN(TwoStage):
    """Finds objects, and the mask of each.

    The defaults are those of detectron2's networks with FPN, for images whose shorter side has 800 pixels.

    Attributes:
        roi_aligned: whether RoIAlign takes the centre of a cell to be half a cell from its border. False: the first implementation, and
            torchvision's networks.
        roi_samples: samples of RoIAlign along each axis of a bin.
        box_pooling: how maps are read within boxes. `align`: RoIAlign. `deformable`: deformable pooling, whose bins are shifted by
            offsets that a fully connected layer of each level predicts (Deformable R-CNN). Masks are always read by RoIAlign.
        box_bins: bins along each axis, for the boxes.
        box_channels: channels of the fully connected layers.
        box_layers: number of fully connected layers.
        box_norm: normalisation of the fully connected layers: `none` or `batch`.
        mask_bins: bins of RoIAlign along each axis, for the masks, which have twice as many cells.
        mask_channels: channels of the convolutions of the masks.
        mask_layers: number of 3×3 convolutions of the masks.
        mask_norm: normalisation of these convolutions: `none` or `batch`.
        mask_scores: `sigmoid`: each class has a mask of its own, K outputs (Mask R-CNN). `softmax`: each cell has one class or the
            background, K + 1 outputs (ZigZagNet); a cell of a detection belongs to it if its class is likelier than the background.
    """

    roi_aligned: bool = True
    roi_samples: Count = 2
    box_pooling: Literal["align", "deformable"] = "align"
    box_bins: Count = 7
    box_channels: Count = 1024
    box_layers: Count = 2
    box_norm: Literal["none", "batch"] = "none"
    mask_bins: Count = 14
    mask_channels: Count = 256
    mask_layers: Count = 4
    mask_norm: Literal["none", "batch"] = "none"
    mask_scores: Literal["sigmoid", "softmax"] = "sigmoid"

    # Layers whose rows of classes may follow one of the background, for `weights.fit`.
    BACKGROUND_FIRST = ("box_head/scores/", "mask_head/scores/")

    def setup(self):
        super().setup()
        if self.hard_examples:
            self._check_share("hard_examples", "roi_share")
        layers = {"conv": self.conv, "dtype": self.dtype}
        self.box_head = BoxHead(self.num_classes, self.box_channels, self.box_layers, self.box_norm, **layers)
        outputs = self.num_classes + (self.mask_scores == "softmax")
        if self.box_pooling == "deformable":
            self.box_offsets = BoxOffsets(self.box_bins, self.dtype)
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
        first = self.first_stage(images, sizes, train)
        with extent.padded(None, first.shape):  # regions have no padding
            if self.is_initializing():  # anything that has the heads' shapes
                b = len(first.sizes)
                return self._detect(first, jnp.zeros((b, 1, 4)), jnp.zeros((b, 1), bool), train)
            proposals, exists = self.propose(first, testing=objects is None)
            if objects is None:
                return self._detect(first, proposals, exists, train)
            return self._train(first, proposals, exists, objects, train)

    def _train(self, first, proposals, exists, objects, train):
        """What the losses need, of sampled anchors and proposals."""
        rpn, rois = self.sample(first, proposals, exists, objects)
        b, masks = len(first.sizes), int((self.hard_examples or self.rois) * self.roi_share)
        logits, deltas = self.box_head(self._read(first, rois.boxes), train)
        boxes = SampledBoxes(
            grouped(logits, b), grouped(deltas, b), rois.classes, rois.targets, rois.valid, rois.positive
        )
        # Positives are the first ones.
        mask_boxes, mask_objects = rois.boxes[:, :masks], jnp.maximum(rois.matched[:, :masks], 0)
        mask_logits = self.mask_head(self._align(first, mask_boxes, self.mask_bins), train)
        crop = jax.vmap(lambda *inputs: mask_ops.crop(*inputs[:3], 2 * self.mask_bins, inputs[3]))
        targets = crop(objects["masks"], mask_boxes, mask_objects, first.sizes)
        classes = jnp.take_along_axis(objects["classes"], mask_objects, 1)
        return DetectorOutput(
            rpn,
            boxes,
            SampledMasks(grouped(mask_logits, b), targets, classes, rois.positive[:, :masks], kind=self.mask_scores),
            hard_examples=self.hard_examples,
        )

    def _detect(self, first, proposals, exists, train):
        """The detections among the proposals `[b,r,4]`."""
        b = len(first.sizes)
        logits, deltas = (grouped(x, b) for x in self.box_head(self._read(first, proposals), train))
        probabilities = nn.softmax(logits)[..., 1:]
        boxes = box_ops.decode(deltas, proposals[:, :, None], self.roi_weights)
        boxes = jax.vmap(box_ops.clip)(boxes, first.sizes)
        count = min(self.detections, probabilities[0].size)
        boxes, scores, classes, _, valid = jax.vmap(
            lambda *inputs: detect(*inputs, self.score_threshold, self.nms, count, self.suppression)
        )(probabilities, boxes, exists)
        masks = grouped(self.mask_head(self._align(first, boxes, self.mask_bins), train), b)
        if self.mask_scores == "softmax":  # the class against the background, whatever the other classes have
            masks = masks[..., 1:] - masks[..., :1]
        masks = jnp.take_along_axis(masks, jnp.maximum(classes, 0)[:, :, None, None, None], -1)[..., 0]
        return Detections(boxes, scores, classes, valid, nn.sigmoid(masks))

    def _read(self, first, boxes):
        """What the box head reads within boxes `[b,n,4]`: `[b·n,box_bins,box_bins,C]`."""
        if self.box_pooling == "align":
            return self._align(first, boxes, self.box_bins)
        boxes, images, levels, scales, lengths = first.places(boxes, self.canonical_size)
        pool = partial(
            deformable_roi_pool, first.maps, boxes, images, levels, scales, bins=self.box_bins, lengths=lengths
        )
        return pool(offsets=self.box_offsets(pool(offsets=None), levels, len(first.maps)))

    def _align(self, first, boxes, bins):
        *places, lengths = first.places(boxes, self.canonical_size)
        return roi_align(first.maps, *places, bins, self.roi_samples, self.roi_aligned, lengths)
