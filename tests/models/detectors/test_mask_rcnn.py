"""Mask R-CNN as a whole: its training forward, gradients, devices, padding, and the choices of SPEC §9."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.training import detection_losses
from tests.models.detectors import example
from tests.references import detection_numpy as reference

pytestmark = pytest.mark.usefixtures("plain_convolutions")


@pytest.fixture(scope="module")
def model():
    return example.detector()


@pytest.fixture(scope="module")
def variables(model):
    return example.variables(model)


@pytest.fixture(scope="module")
def forward(model):
    """The training forward, (variables, batch) → output in NumPy."""
    # The batch is an argument: of a constant, XLA evaluates all that it can while it compiles.
    compiled = jax.jit(lambda variables, batch: example.apply(model, variables, batch)[0])
    return lambda *arguments: jax.tree.map(np.asarray, compiled(*arguments))


@pytest.fixture(scope="module")
def output(forward, variables):
    return forward(variables, example.batch(4))


@pytest.fixture(scope="module")
def detect(model):
    """(variables, images, sizes) → detections in NumPy."""
    compiled = jax.jit(model.apply)
    return lambda *arguments: jax.tree.map(np.asarray, compiled(*arguments))


@pytest.fixture(scope="module")
def found(detect, variables):
    batch = example.batch(4)
    return detect(variables, batch["image"], batch["size"])


def test_what_the_training_forward_samples(output):
    batch = example.batch(4)
    rpn, boxes, masks = output.rpn, output.boxes, output.masks
    assert rpn.scores.shape == (4, 32) and boxes.logits.shape == (4, 16, 4) and boxes.deltas.shape == (4, 16, 3, 4)
    assert masks.logits.shape == (4, 4, 8, 8, 3) and masks.targets.shape == (4, 4, 8, 8)
    objects = (batch["classes"] >= 0).sum(1)
    positive = np.array(boxes.positive.sum(1))
    assert (np.array(rpn.positive.sum(1)) >= (objects > 0)).all() and rpn.positive.sum(1).max() <= 16
    # The boxes of the objects are proposals; one of no area is not.
    assert positive[0] >= 3 and positive[1] >= 1 and positive[2] == 0 and positive[3] >= 1
    np.testing.assert_array_equal(masks.valid, boxes.positive[:, :4])
    for i in range(4):
        present = set(batch["classes"][i]) - {-1}
        assert {int(c) - 1 for c in boxes.classes[i][boxes.positive[i]]} <= present
        assert (boxes.classes[i][~boxes.positive[i]] == 0).all()
        assert set(np.array(masks.classes[i][masks.valid[i]])) <= present
    assert 0 < masks.targets[masks.valid].mean() < 1
    assert np.isfinite(jax.tree.leaves(output)[0]).all()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_losses_equal_the_reference(output, kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*output.masks.logits.shape[:-1], 3 + (kind == "softmax"))).astype(np.float32)
    output = output.replace(masks=output.masks.replace(logits=logits, kind=kind))
    rpn, boxes, masks = output.rpn, output.boxes, output.masks
    total, losses = jax.jit(example.total)(output)
    expected = dict(
        zip(
            ("rpn_class", "rpn_box", "box_class", "box", "mask"),
            (
                *reference.rpn_losses(rpn.scores, rpn.deltas, rpn.targets, rpn.valid, rpn.positive),
                *reference.box_losses(boxes.logits, boxes.deltas, boxes.classes, boxes.targets, boxes.valid),
                reference.mask_loss(masks.logits, masks.targets, masks.classes, masks.valid, kind),
            ),
            strict=True,
        )
    )
    assert losses.keys() == expected.keys() and min(expected.values()) > 1e-3
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-4)


def test_losses_without_any_object(forward, variables):
    batch = example.batch(4)
    batch["classes"][:] = -1
    _, losses = jax.jit(example.total)(forward(variables, batch))
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert losses["rpn_class"] > 0.01 and losses["box_class"] > 0.01


def test_smooth_l1_without_a_parabola():
    np.testing.assert_allclose(detection_losses.smooth_l1(jnp.array([-2.0, 0, 0.5]), 0), [2, 0, 0.5])


@pytest.fixture(scope="module")
def loss_along(model):
    """(step, parameters, direction, batch statistics, batch, {loss: factor}) → the sum of the losses, and its derivative by the step."""

    def loss(step, params, direction, others, batch, factors):
        moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
        losses = example.total(example.apply(model, others | {"params": moved}, batch)[0])[1]
        return sum(factors[name] * losses[name] for name in losses)

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("part", ["rpn", "heads"])
def test_gradients_equal_finite_differences(loss_along, variables, part):
    """Proposals are constants for the gradient. So that they are constant, no score or delta of an anchor depends on the image."""
    params, others = variables["params"], {"batch_stats": variables["batch_stats"]}
    if part == "heads":
        rpn = params["rpn"] | {k: v | {"kernel": 0 * v["kernel"]} for k, v in params["rpn"].items() if k != "conv"}
        params = params | {"rpn": rpn}
    names = ("rpn_class", "rpn_box") if part == "rpn" else ("box_class", "box", "mask")
    rng = np.random.default_rng(1)
    fixed = ("rpn",) if part == "heads" else ("box_head", "mask_head")
    direction = {
        key: jax.tree.map(lambda x, k=key: np.float32((k not in fixed) * rng.normal(size=x.shape)), value)
        for key, value in params.items()
    }
    factors = {name: float(name in names) for name in ("rpn_class", "rpn_box", "box_class", "box", "mask")}

    def at(step):
        return loss_along(np.float32(step), params, direction, others, example.batch(2), factors)

    slope, h = at(0)[1], 1e-4
    difference = (at(h)[0] - at(-h)[0]) / (2 * h)
    assert abs(slope) > 0.1
    np.testing.assert_allclose(slope, difference, rtol=0.02)


def test_number_of_devices_changes_nothing(tmp_path):
    """1, 2 and 4 devices: the same losses, gradients and batch statistics, though an image has no object. Also of FCIS."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.detector_on_devices", tmp_path]
    subprocess.run(command, env=environment, check=True, timeout=300)
    for name in ("deformable", "fcis"):
        one, *others = (dict(np.load(tmp_path / f"{name}_{n}.npz")) for n in (1, 2, 4))
        assert len(one) > 40
        for path, x in one.items():
            close = {"rtol": 1e-3, "atol": 1e-5 * max(np.abs(x).max(), 1)}
            for other in others:
                np.testing.assert_allclose(other[path], x, err_msg=f"{name} {path}", **close)


def test_padding_changes_nothing(detect, found, variables):
    """An image in a larger canvas has the proposals and the detections that it has alone."""
    batch, i = example.batch(4), 1
    height, width = batch["size"][i]
    assert height < example.SIZE and width < example.SIZE
    alone = detect(variables, batch["image"][i : i + 1, :height, :width])
    assert alone.valid.sum() >= 3
    np.testing.assert_array_equal(found.valid[i], alone.valid[0])
    for name in ("boxes", "scores", "classes", "masks"):
        ours, theirs = getattr(found, name)[i], getattr(alone, name)[0]
        valid = alone.valid[0]
        np.testing.assert_allclose(ours[valid], theirs[valid], rtol=1e-4, atol=1e-3, err_msg=name)


def test_anchors_in_the_padding_are_not_sampled():
    """Neither as background nor as the best anchor of an object, although there is room for all."""
    anchors = np.array([(0, 0, 16, 16), (16, 0, 32, 16), (4, 2, 20, 20), (0, 16, 16, 32)], np.float32)
    valid = np.array([True, True, False, False])
    size, boxes, classes = np.array([16, 32]), np.array([(4, 2, 20, 20)], np.float32), np.array([1])
    sampled = example.detector(rpn_samples=4)._sample_anchors(
        jax.random.PRNGKey(0), anchors, valid, size, boxes, classes
    )
    chosen, is_valid, positive, _ = map(np.asarray, sampled)
    assert sorted(chosen[is_valid]) == [0, 1]
    assert list(chosen[positive]) == [0], "of the anchors that exist, the best one"


def test_detections(found):
    batch = example.batch(4)
    for i, (height, width) in enumerate(batch["size"]):
        n = int(found.valid[i].sum())
        assert found.valid[i, :n].all() and (found.classes[i, n:] == -1).all()
        scores, boxes, classes = found.scores[i, :n], np.array(found.boxes[i, :n]), found.classes[i, :n]
        assert (scores > 0.2).all() and (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        overlaps = reference.iou(boxes, boxes)
        same = np.array(classes)[:, None] == np.array(classes)
        assert (overlaps[same & ~np.eye(n, dtype=bool)] <= 0.5 + 1e-6).all()
    assert found.masks.shape == (4, 6, 8, 8) and (0 <= found.masks).all() and (found.masks <= 1).all()


CHOICES = {
    "of Detectron": {
        "border_anchors": False,
        "anchor_rounding": True,
        "anchor_strides": "measured",
        "proposals_of": "level",
    },
    "normalised, softmax": {"rpn_norm": "batch", "box_norm": "batch", "mask_norm": "batch", "mask_scores": "softmax"},
    "deformable, hard examples, soft-NMS": example.DEFORMABLE,
    "many samples, padding is seen": {"rpn_samples": 5000, "rois": 64, "roi_aligned": False, "padding": "seen"},
}


@pytest.mark.parametrize("case", CHOICES)
def test_choices(case):
    """Every choice runs, in training and in testing."""
    model = example.detector(**CHOICES[case])

    @jax.jit
    def run(variables, batch):
        output, _ = example.apply(model, variables, batch)
        return example.total(output)[0], output, model.apply(variables, batch["image"], batch["size"])

    total, output, found = run(example.variables(model), example.batch(2))
    assert np.isfinite(total) and total > 0.1
    assert found.valid.any()
    assert output.hard_examples == model.hard_examples
    assert output.rpn.valid.all() == (case != "many samples, padding is seen")  # there are fewer anchors


def config(**fields):
    config = defaults.get_config().model
    config.backbone.update({"width": 4, "output_stride": 32})
    config.context.update({"name": "fpn", "channels": 8})
    config.detector.update({"name": "mask_rcnn"} | fields)
    return config


def test_a_detector_of_a_config():
    model = create_model(config(anchor_sizes=(8, 16, 32, 64), rois=32), 7)
    assert model.num_classes == 7 and model.rois == 32 and model.anchor_ratios == (0.5, 1.0, 2.0)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), np.zeros((1, 64, 64, 3), np.uint8))["params"]
    assert set(shapes) == {"backbone", "neck", "rpn", "box_head", "mask_head"}
    assert shapes["box_head"]["scores"]["kernel"].shape == (1024, 8)


def test_a_backbone_with_dropout():
    fields = config(anchor_sizes=(8, 16, 32, 64))
    fields.backbone.name = "vgg16"
    model, batch = create_model(fields, 3), example.batch(2)

    def loss(variables):
        return detection_losses.of_batch(model, variables, batch, jax.random.PRNGKey(0), example.LOSS)[0]

    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), *model.example(()))
    assert jax.eval_shape(loss, shapes).shape == ()


def test_messages():
    wrong = config()
    wrong.context.name = "ppm"
    with pytest.raises(UserError, match=r"config\.model\.context\.name is 'ppm'.* zigzag, encoder_decoder, fpn"):
        create_model(wrong, 3)
    with pytest.raises(UserError, match=r"config\.model\.detector\.rois is 0"):
        create_model(config(rois=0), 3)
    images = np.zeros((1, 64, 64, 3), np.uint8)
    for fields, message in (
        ({"anchor_sizes": (8, 16)}, r"anchor_sizes has 2 sizes; expected one for each of the 4 levels"),
        ({"rpn_negative": 0.8}, r"rpn_negative is 0\.8; expected at most rpn_positive, 0\.7"),
        ({"rois": 3}, r"rois is 3 and roi_share is 0\.25; expected a product, .* of at least 1"),
        ({"hard_examples": 3}, r"hard_examples is 3 and roi_share is 0\.25; expected a product, .* of at least 1"),
        ({"hard_examples": 600}, r"hard_examples is 600; expected at most config\.model\.detector\.rois, 512"),
        (
            {"suppression": "gaussian", "nms": 0.0},
            r"config\.model\.detector\.nms is 0; suppression=gaussian .* more than 0",
        ),
        (
            {"rpn_levels": ("res4", "res9")},
            r"config\.model\.detector\.rpn_levels has 'res9'; expected some of res2, res3",
        ),
        ({"name": "fcis", "groups": 9, "bins": 8}, r"groups is 9; expected at most config\.model\.detector\.bins, 8"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(create_model(config(**fields), 3).init, jax.random.PRNGKey(0), images)
