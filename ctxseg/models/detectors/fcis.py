"""FCIS: fully convolutional instance-aware segmentation (Li et al., CVPR 2017). SPEC §9.

image → backbone → neck → region proposals, and position-sensitive score maps
regions → scores inside and outside of an object, for each cell and class → classes, masks

There are no layers after the score maps: a region reads its classes and its masks from them.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Real

from ctxseg.bounds import Count, Factor, Whole
from ctxseg.errors import UserError
from ctxseg.models import extent, initial
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.detectors import masks as mask_ops
from ctxseg.models.detectors.heads import detect
from ctxseg.models.detectors.merging import merge_masks
from ctxseg.models.detectors.outputs import Detections, DetectorOutput, SampledBoxes, SampledMasks
from ctxseg.models.detectors.position_sensitive import ps_roi_pool
from ctxseg.models.detectors.two_stage import Share, TwoStage, grouped
from ctxseg.models.layers import promote_all_but_bias
from ctxseg.models.shapes import Array


class Read(NamedTuple):
    """What regions read from the score maps.

    Attributes:
        logits: scores of the background and of the K classes.
        inside: scores that a cell is inside the object of a class, minus those that it is in the region but outside the object; with the
            background first.
        deltas: of the box, for all classes.
    """

    logits: Float32[Array, "b r k+1"]
    inside: Float32[Array, "b r m m k+1"]
    deltas: Float32[Array, "b r 1 4"]


class FCIS(TwoStage):
    """Finds objects, and the mask of each.

    The defaults are those of the published network on COCO, but for what depends on the neck: the levels and the sizes of the anchors.

    Attributes:
        groups: rows and columns of parts of a region. Each part has score maps of its own.
        bins: rows and columns of the cells of a region, and of its mask.
        rounds: number of rounds of testing. In the first, regions are the proposals. In each further round, they are the boxes that the
            deltas make of the regions of the round before. The regions of all rounds are candidates for detections.
        merge: IoU with a detection from which the mask of a box is averaged into that of the detection, see `merging`.
        merged: largest number of masks that are averaged into that of a detection: those of the boxes with the best scores.
        mask_threshold: probability from which a cell belongs to an object, and share of a cell from which it does so in the targets.
    """

    proposals_before: tuple[Count, Count] = (6000, 6000)
    proposals_after: tuple[Count, Count] = (300, 300)
    rois: Count = 400  # the proposals, and up to 100 objects
    roi_weights: tuple[Factor, Factor, Factor, Factor] = (5.0, 5.0, 2.0, 2.0)
    hard_examples: Whole = 128
    score_threshold: Share = 1e-3
    nms: Share = 0.3
    groups: Count = 7
    bins: Count = 21
    rounds: Count = 2
    merge: Share = 0.5
    merged: Count = 32
    mask_threshold: Share = 0.4

    # Layers whose rows of classes may follow one of the background, for `weights.fit`.
    BACKGROUND_FIRST = ("score_maps/",)
    # Every region has a mask, and hard examples are chosen whatever the share of positive regions is.
    READ_WHEN: ClassVar[dict] = {"roi_share": ("hard_examples", (0,))}

    def setup(self):
        super().setup()
        if self.groups > self.bins:
            raise UserError(
                f"config.model.detector.groups is {self.groups}; expected at most config.model.detector.bins, {self.bins}: a bin reads one "
                "group"
            )
        # All levels share them. The order of the channels is that of `ps_roi_pool`: group row, group column, (outside, inside), class.
        parts = self.groups**2
        layers = {"kernel_init": initial.normal(0.01), "dtype": self.dtype, "promote_dtype": promote_all_but_bias}
        self.score_maps = nn.DenseGeneral((2 * parts, self.num_classes + 1), **layers)
        self.box_maps = nn.Dense(4 * parts, **layers)

    def __call__(
        self,
        images: Real[Array, "b H W 3"],
        sizes: Int[Array, "b 2"] | None = None,
        objects: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> DetectorOutput | Detections:
        """Detections; or, if the objects are given, what the losses need. See `MaskRCNN.__call__`."""
        first = self.first_stage(images, sizes, train)
        with extent.padded(None, first.shape):  # 1×1 convolutions, and regions, have no padding
            maps = self._maps(first)
            if self.is_initializing():
                b = len(first.sizes)
                return self._detect(first, maps, jnp.zeros((b, 1, 4)), jnp.zeros((b, 1), bool))
            proposals, exists = self.propose(first, testing=objects is None)
            if objects is None:
                return self._detect(first, maps, proposals, exists)
            return self._train(first, maps, proposals, exists, objects)

    def _maps(self, first):
        """Of each level, the score maps, or the neck's map if `_pools_first`; and the maps of the deltas."""
        deltas = [self.box_maps(x) for x in first.maps]
        if self._pools_first(first):
            scores = first.maps
        else:
            scores = [self.score_maps(x).reshape(*x.shape[:3], -1) for x in first.maps]
        return list(zip(scores, deltas, strict=True))

    def _pools_first(self, first) -> bool:
        """Whether regions read the neck's maps, and the layer of the score maps follows: the mean of scores is the score of the mean.

        On large maps, this has fewer values, and fewer operations.
        """
        if self.is_initializing():  # the layer creates its parameters
            return False
        cells = sum(x.shape[1] * x.shape[2] for x in first.maps)
        of_regions = max(self.rois, *self.proposals_after) * self.bins**2 * first.maps[0].shape[-1]
        return of_regions < cells * 2 * self.groups**2 * (self.num_classes + 1)

    def _scores(self, first, maps, pool):
        """The scores of each bin, `[n,m,m,2·(K+1)]`: the pooled score maps, or what their layer makes of the pooled maps of the neck."""
        if not self._pools_first(first):
            return pool(maps, groups=self.groups).astype(jnp.float32)
        layer = self.score_maps.variables["params"]
        group = np.arange(self.bins) * self.groups // self.bins
        kernel, bias = (
            layer[name].reshape(*layer[name].shape[:-2], self.groups, self.groups, -1)[..., group, :, :][..., group, :]
            for name in ("kernel", "bias")
        )
        # The further map of ones is 1 in bins that have cells: the bias is theirs alone.
        ones = [jnp.ones((*x.shape[:3], 1), x.dtype) for x in maps]
        x = pool([jnp.concatenate(pair, -1) for pair in zip(maps, ones, strict=True)], groups=1)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        product = jnp.einsum("npqc,cpqk->npqk", x[..., :-1], kernel, preferred_element_type=jnp.float32)
        return product + x[..., -1:].astype(jnp.float32) * bias.astype(jnp.float32)

    def _read(self, first, maps, boxes) -> Read:
        """What boxes `[b,r,4]` read from the maps of the level that the size of each asks for."""
        b = len(boxes)
        *places, lengths = first.places(boxes, self.canonical_size)

        def pool(maps, groups):
            return ps_roi_pool(maps, *places, self.bins, groups, lengths, rounding="release")

        scores, deltas = zip(*maps, strict=True)
        scores, deltas = self._scores(first, scores, pool), pool(deltas, self.groups)
        scores = scores.reshape(*scores.shape[:3], 2, self.num_classes + 1)
        outside, inside = scores[..., 0, :], scores[..., 1, :]
        logits = jnp.maximum(inside, outside).mean((1, 2))
        deltas = deltas.astype(jnp.float32).mean((1, 2))[:, None]
        return Read(*(grouped(x, b) for x in (logits, inside - outside, deltas)))

    def _train(self, first, maps, proposals, exists, objects):
        rpn, rois = self.sample(first, proposals, exists, objects)
        read = self._read(first, maps, rois.boxes)
        boxes = SampledBoxes(read.logits, read.deltas, rois.classes, rois.targets, rois.valid, rois.positive)
        crop = jax.vmap(lambda *inputs: mask_ops.crop(*inputs[:3], self.bins, inputs[3]))
        targets = crop(objects["masks"], rois.boxes, jnp.maximum(rois.matched, 0), first.sizes)
        own = jnp.take_along_axis(read.inside, rois.classes[:, :, None, None, None], -1)
        masks = SampledMasks(
            own,
            (targets >= self.mask_threshold).astype(jnp.float32),
            jnp.zeros_like(rois.classes),
            rois.positive,
            of_every_box=True,
        )
        return DetectorOutput(rpn, boxes, masks, hard_examples=self.hard_examples)

    def _detect(self, first, maps, proposals, exists):
        boxes, reads = [proposals], []
        for i in range(self.rounds):
            reads.append(self._read(first, maps, boxes[-1]))
            if i + 1 < self.rounds:
                refined = box_ops.decode(reads[-1].deltas[:, :, 0], boxes[-1], self.roi_weights)
                boxes.append(jax.vmap(box_ops.clip)(refined, first.sizes))
        candidates = jnp.concatenate(boxes, 1)
        logits, inside, _ = (jnp.concatenate(parts, 1) for parts in zip(*reads, strict=True))
        probabilities, masks = nn.softmax(logits)[..., 1:], nn.sigmoid(inside[..., 1:])
        exists = jnp.tile(exists, (1, self.rounds))
        count = min(self.detections, probabilities[0].size)

        def one(probabilities, masks, boxes, exists):
            every = jnp.broadcast_to(boxes[:, None], (*probabilities.shape, 4))
            _, scores, classes, rows, valid = detect(
                probabilities, every, exists, self.score_threshold, self.nms, count, self.suppression
            )
            scores_of = jnp.where(exists[:, None], probabilities, 0)
            merged, tight = merge_masks(
                masks, boxes, scores_of, rows, jnp.maximum(classes, 0), self.merge, self.mask_threshold, self.merged
            )
            return jnp.where(valid[:, None], tight, 0), scores, classes, valid, merged

        boxes, scores, classes, valid, masks = jax.vmap(one)(probabilities, masks, candidates, exists)
        return Detections(boxes, scores, classes, valid, masks, threshold=self.mask_threshold)
