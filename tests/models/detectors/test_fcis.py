"""FCIS as a whole, and the hard examples and the merging of masks that it has: SPEC §9."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.models.context.project import Projection
from ctxseg.models.detectors.fcis import FCIS
from ctxseg.models.detectors.merging import merge_masks
from ctxseg.models.detectors.outputs import DetectorOutput, SampledAnchors, SampledBoxes, SampledMasks
from ctxseg.models.weights import fit
from ctxseg.models.weights.source import Source
from ctxseg.models.weights.tensor import Tensor
from ctxseg.training import detection_losses
from tests.models.detectors import example
from tests.references import deformable as reference

pytestmark = pytest.mark.usefixtures("plain_convolutions")


@pytest.fixture(scope="module")
def model():
    return example.detector(kind=FCIS)


@pytest.fixture(scope="module")
def variables(model):
    return example.variables(model)


@pytest.fixture(scope="module")
def detect(model):
    compiled = jax.jit(model.apply)
    return lambda *arguments: jax.tree.map(np.asarray, compiled(*arguments))


def test_a_training_step(model, variables):
    """What is sampled, and that the loss depends on every parameter."""

    @jax.jit
    def step(params, batch):
        def loss(params):
            output, _ = example.apply(model, variables | {"params": params}, batch)
            return example.total(output)[0], output

        return jax.grad(loss, has_aux=True)(params)

    batch = example.batch(4)
    gradients, output = jax.tree.map(np.asarray, step(variables["params"], batch))
    boxes, masks = output.boxes, output.masks
    assert (
        boxes.logits.shape == (4, 24, 4)
        and boxes.deltas.shape == (4, 24, 1, 4)
        and masks.logits.shape == (4, 24, 4, 4, 1)
    )
    assert output.hard_examples == 12 and masks.of_every_box
    np.testing.assert_array_equal(masks.valid, boxes.positive)
    assert set(np.unique(masks.targets)) == {0, 1}
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all() and (np.abs(gradient).max() > 0 or "res5" in name), (
            name
        )  # the neck reads res3 and res4


# Numbers of regions with which the pooling comes first, and with which the layer of the score maps does.
POOLS_FIRST = {24: True, 200: False}
BOXES = np.array([[(3, 5, 30, 27), (0, 0, 60, 64), (50, 20, 80, 22)]], np.float32)  # the third has bins without cells


def maps_of_the_neck(rng):
    return [rng.normal(size=(1, n, n, 4)).astype(np.float32) for n in (8, 4)]


def read(model, variables, maps):
    """What `BOXES` read from the neck's maps."""

    def of(module):
        first = module.first_stage(np.zeros((1, 64, 64, 3), np.uint8), None, False)._replace(maps=maps)
        assert module._pools_first(first) == POOLS_FIRST[module.rois]
        return module._read(first, module._maps(first), jnp.asarray(BOXES))

    return model.apply(variables, method=of)


@pytest.mark.parametrize("rois", POOLS_FIRST)
def test_scores_of_regions_equal_the_reference(model, variables, rois):
    """From the neck's maps to classes and masks: score maps, pooled, the larger of inside and outside, the mean over the region.

    Whether the layer of the score maps or the pooling comes first, the result is the same.
    """
    maps = maps_of_the_neck(np.random.default_rng(0))
    model = model.clone(rois=rois)
    actual = jax.tree.map(np.asarray, jax.jit(partial(read, model))(variables, maps))
    layers = jax.tree.map(np.float64, variables["params"])
    for r, (box, level) in enumerate(zip(BOXES[0], (1, 1, 0), strict=True)):
        x = np.float64(maps[level][0])
        scores, deltas = (
            np.tensordot(x, layers[name]["kernel"], 1) + layers[name]["bias"] for name in ("score_maps", "box_maps")
        )
        scores = scores.reshape(*x.shape[:2], -1)
        arguments = box[None], (1 / 8, 1 / 16)[level], 4, 2
        pooled = reference.ps_roi_pool(scores, *arguments, rounding="release").reshape(1, 4, 4, 2, 4)
        logits, inside = reference.fcis_scores(pooled)
        np.testing.assert_allclose(actual.logits[0, r], logits[0], atol=1e-5)
        np.testing.assert_allclose(jax.nn.sigmoid(actual.inside[0, r]), inside[0], atol=1e-5)
        mean = reference.ps_roi_pool(deltas, *arguments, rounding="release").mean((1, 2))[0]
        np.testing.assert_allclose(actual.deltas[0, r, 0], mean, atol=1e-5)
        assert (pooled == 0).all((0, 3, 4)).any() == (r == 2)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_gradients_do_not_depend_on_what_comes_first(model, variables, dtype, tolerance):
    rng = np.random.default_rng(0)
    maps = [x.astype(dtype) for x in maps_of_the_neck(rng)]

    def gradients(rois):
        def loss(params, maps):
            result = read(model.clone(rois=rois, dtype=dtype), variables | {"params": params}, maps)
            return sum((x**2).sum() for x in result)

        params, maps_of = jax.jit(jax.grad(loss, (0, 1)))(variables["params"], maps)
        return params["score_maps"], maps_of

    first, last = (jax.tree.leaves(gradients(rois)) for rois in POOLS_FIRST)
    for a, b in zip(first, last, strict=True):
        a, b = np.float32(a), np.float32(b)
        assert np.abs(b).max() > 1
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_score_maps_of_other_classes_are_filled_by_name(model, variables):
    """The background's come from the file too."""
    theirs = example.variables(model.clone(num_classes=4), seed=1)
    flat = flax.traverse_util.flatten_dict(theirs, sep="/")
    tensors = {name: Tensor(x.shape, x.dtype, lambda _, x=x: x) for name, x in flat.items()}
    source = Source("file", "ctxseg", tensors, class_names=("dog", "cat", "bird", "car"))
    filled, report = fit.fit(model, variables, source, ("car", "tree", "dog"))
    assert report.classes == ("car", "dog") and set(report.by_class) == {
        f"params/score_maps/{n}" for n in ("kernel", "bias")
    }
    for name in ("kernel", "bias"):
        ours, before, from_file = (tree["params"]["score_maps"][name] for tree in (filled, variables, theirs))
        for here, there in ((0, 0), (1, 4), (3, 1)):
            np.testing.assert_array_equal(ours[..., here], from_file[..., there])
        np.testing.assert_array_equal(ours[..., 2], before[..., 2])


def source_of(variables):
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return Source("file", "ctxseg", {name: Tensor(x.shape, x.dtype, lambda _, x=x: x) for name, x in flat.items()})


def test_weights_with_another_neck_fill_the_backbone(model, variables):
    """Everything after the neck reads maps of another kind: it is left, not only what has another shape."""
    neck = Projection(("res3", "res4"), channels=6, conv=model.conv)
    source = source_of(example.variables(model.clone(neck=neck), seed=1))
    report = fit.fit(model, variables, source)[1]
    assert report.taken and all("/backbone/" in name for name in report.taken)
    assert any("/score_maps/" in name for name in report.left) and any("/box_maps/" in name for name in report.left)
    with pytest.raises(UserError, match=r"score_maps.* set config\.model\.detector as in the file's network"):
        fit.fit(model.clone(groups=3), example.variables(model.clone(groups=3)), source_of(variables))


def test_padding_changes_nothing(detect, variables):
    batch, i = example.batch(4), 1
    height, width = batch["size"][i]
    found = detect(variables, batch["image"], batch["size"])
    alone = detect(variables, batch["image"][i : i + 1, :height, :width])
    assert alone.valid.sum() >= 2 and alone.threshold == 0.4
    np.testing.assert_array_equal(found.valid[i], alone.valid[0])
    valid = alone.valid[0]
    for name in ("boxes", "scores", "classes", "masks"):
        ours, theirs = getattr(found, name)[i], getattr(alone, name)[0]
        np.testing.assert_allclose(ours[valid], theirs[valid], rtol=1e-4, atol=1e-3, err_msg=name)


def test_merged_masks_equal_the_reference():
    rng = np.random.default_rng(1)
    boxes = np.array([(2, 3, 40, 30), (4, 2, 42, 33), (0, 6, 38, 29), (50, 50, 60, 58), (3, 3, 39, 31)], np.float32)
    masks, scores = rng.uniform(size=(5, 4, 4, 2)).astype(np.float32), rng.uniform(0.1, 1, (5, 2)).astype(np.float32)
    scores[4] = 0  # does not exist
    rows, classes = np.array([0, 3, 2]), np.array([1, 0, 0])
    merged, tight = map(np.asarray, jax.jit(merge_masks, static_argnums=(5, 6, 7))(
        masks, boxes, scores, rows, classes, 0.5, 0.4, 8
    ))  # fmt: skip
    for d, (row, class_) in enumerate(zip(rows, classes, strict=True)):
        left, top, right, bottom = np.float64(tight[d])
        y, x = (low + (np.arange(4) + 0.5) / 4 * (high - low) for low, high in ((top, bottom), (left, right)))
        expected = reference.merge_masks(masks[..., class_], boxes, scores[:, class_], row, 0.5, 0.4, y, x)
        np.testing.assert_allclose(merged[d], expected, atol=1e-5)
        # The box is that of the points at the threshold, to a cell of the grid.
        union = np.concatenate([boxes[:3, :2].min(0), boxes[:3, 2:].max(0)]) if row != 3 else boxes[3]
        y, x = (np.linspace(union[i], union[i + 2], 200) for i in (1, 0))
        dense = reference.merge_masks(masks[..., class_], boxes, scores[:, class_], row, 0.5, 0.4, y, x) >= 0.4
        rows_of, columns_of = y[dense.any(1)], x[dense.any(0)]
        exact = np.array([columns_of[0], rows_of[0], columns_of[-1], rows_of[-1]])
        cell = (union[2:] - union[:2]).max() / 8
        assert np.abs(tight[d] - exact).max() < cell + 0.5


def test_a_detection_without_a_mask_keeps_its_box():
    boxes = np.array([(2, 3, 40, 30)], np.float32)
    merged, tight = merge_masks(
        np.zeros((1, 4, 4, 1)), boxes, np.ones((1, 1)), np.zeros(1, int), np.zeros(1, int), 0.5, 0.4, 8
    )
    np.testing.assert_array_equal(tight, boxes)
    assert not merged.any()


@pytest.mark.parametrize("of_every_box", [False, True])
def test_hard_examples_equal_the_reference(of_every_box):
    rng = np.random.default_rng(2)
    valid = np.arange(10) < np.array([[10], [7], [2]])
    positive = valid & (np.arange(10) < np.array([[3], [0], [2]]))
    classes = np.where(positive, rng.integers(1, 4, (3, 10)), 0)
    boxes = SampledBoxes(
        rng.normal(size=(3, 10, 4)),
        rng.normal(size=(3, 10, 1, 4)),
        classes,
        rng.normal(size=(3, 10, 4)),
        valid,
        positive,
    )
    masks = SampledMasks(
        rng.normal(size=(3, 10, 2, 2, 1)),
        rng.uniform(size=(3, 10, 2, 2)),
        np.zeros((3, 10), int),
        positive,
        of_every_box=of_every_box,
    )
    anchors = SampledAnchors(*(np.zeros((3, 1, *shape)) for shape in ((), (4,), (4,))), *(np.ones((3, 1), bool),) * 2)
    config = example.LOSS.copy_and_resolve_references()
    config.box, config.mask = 2.0, 10.0
    chosen = detection_losses.hardest(DetectorOutput(anchors, boxes, masks, hard_examples=4), config)
    for i in range(3):
        log = boxes.logits[i] - np.log(np.exp(boxes.logits[i]).sum(-1, keepdims=True))
        loss = -log[np.arange(10), classes[i]]
        error = np.abs(boxes.deltas[i, :, 0] - boxes.targets[i])
        loss += np.where(positive[i], 2 * np.where(error < 1, error**2 / 2, error - 0.5).sum(-1), 0)
        if of_every_box:
            p, t = 1 / (1 + np.exp(-masks.logits[i, ..., 0])), masks.targets[i]
            loss += np.where(positive[i], -10 * (t * np.log(p) + (1 - t) * np.log(1 - p)).mean((1, 2)), 0)
        expected = reference.hardest(loss, valid[i], 4)
        assert expected.sum() == min(4, valid[i].sum())
        np.testing.assert_array_equal(chosen.boxes.valid[i], expected)
        np.testing.assert_array_equal(chosen.boxes.positive[i], expected & positive[i])
        np.testing.assert_array_equal(chosen.masks.valid[i], (expected & positive[i]) if of_every_box else positive[i])
