"""Mask R-CNN as a whole against torchvision's (`benchmarks/published_detection_whole.py`), and the names of its weights."""

import re

import jax
import numpy as np
import pytest

import ctxseg
from ctxseg.errors import UserError
from ctxseg.models.detectors import two_stage
from ctxseg.models.weights import detectors
from ctxseg.models.weights.names import recognise
from ctxseg.models.weights.source import PUBLISHERS, open_source
from ctxseg.models.weights.tensor import Scratch
from tests.models.detectors import example
from tests.references import published, published_detector

with np.load(published_detector.RECORDED) as _file:
    RECORDED = dict(_file)
NAMES = RECORDED["names"].tolist()
SHAPES = [tuple(int(n) for n in row if n) for row in RECORDED["shapes"]]


@pytest.mark.usefixtures("plain_convolutions")
def test_mask_rcnn_equals_torchvisions(monkeypatch):
    """Proposals, boxes, scores, classes and masks, for an image without and one with padding; float32 against float64."""
    model, variables, report = published_detector.load(RECORDED["names"], RECORDED["shapes"])
    assert not report.new and not report.left
    proposals = []

    def propose(*inputs, original=two_stage.propose):
        result = original(*inputs)
        proposals.append(result)
        return result

    monkeypatch.setattr(two_stage, "propose", propose)
    height, width = published_detector.SIZES[0]

    @jax.jit
    def run(variables, image, sizes):
        found = model.apply(variables, image, sizes)
        return found, proposals.pop()

    for h, w in published_detector.SIZES:
        image = np.zeros((1, height, width, 3), np.uint8)
        image[:, :h, :w] = published.image((h, w))
        found, (boxes, _, exists) = jax.tree.map(lambda x: np.asarray(x)[0], run(variables, image, np.array([[h, w]])))
        wanted = {key.rpartition("/")[2]: x for key, x in RECORDED.items() if key.startswith(f"{h}x{w}/")}
        n = len(wanted["scores"])
        assert exists.sum() == len(wanted["proposals"]) > 200 and found.valid.sum() == n > 50
        np.testing.assert_allclose(boxes[exists], wanted["proposals"], atol=1e-3)
        np.testing.assert_allclose(found.boxes[:n], wanted["boxes"], atol=1e-3)
        np.testing.assert_allclose(found.scores[:n], wanted["scores"], atol=1e-4)
        np.testing.assert_array_equal(found.classes[:n], wanted["labels"] - 1)
        np.testing.assert_allclose(found.masks[wanted["chosen"]], wanted["masks"], atol=1e-3)
        assert wanted["scores"].max() > 0.9 and len(set(wanted["labels"])) > 3 and wanted["masks"].std() > 0.1


def first_name(name):
    """The name of the same array in the file that torchvision publishes."""
    if match := re.fullmatch(r"roi_heads\.mask_head\.(\d)\.0\.(.*)", name):
        return f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.{match[2]}"
    if name.startswith("backbone.fpn."):
        return name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


def test_the_names_of_the_published_file(tmp_path):
    """They are those of an earlier torchvision, and its normalisation has ε = 0."""
    first = [first_name(name) for name in NAMES]
    assert recognise(PUBLISHERS, NAMES) is detectors.MASK_RCNN
    assert recognise(PUBLISHERS, first) is detectors.MASK_RCNN_FIRST
    assert [detectors.MASK_RCNN_FIRST.ours(a) for a in first] == [detectors.MASK_RCNN.ours(a) for a in NAMES]
    small = {"rpn.head.conv.weight": (4, 4, 3, 3), "backbone.body.bn1.running_var": (4,)}
    published.write(tmp_path / "a.safetensors", small)
    variance = (
        open_source(str(tmp_path / "a.safetensors")).tensors["batch_stats/backbone/stem/norm/var"].read(Scratch())
    )
    theirs = published.values("backbone.body.bn1.running_var", (4,))
    np.testing.assert_allclose(1 / np.sqrt(variance + 1e-5), 1 / np.sqrt(theirs), rtol=1e-6)


# The heads of a small network, in torchvision's names.
HEADS = {
    "rpn.head.cls_logits.bias": (3,),
    "roi_heads.box_predictor.cls_score.weight": (91, 8),
    "roi_heads.box_predictor.cls_score.bias": (91,),
    "roi_heads.box_predictor.bbox_pred.weight": (364, 8),
    "roi_heads.box_predictor.bbox_pred.bias": (364,),
    "roi_heads.mask_predictor.mask_fcn_logits.weight": (91, 4, 1, 1),
    "roi_heads.mask_predictor.mask_fcn_logits.bias": (91,),
}


def test_classes_are_filled_by_name(tmp_path):
    file = tmp_path / "a.safetensors"
    published.write(file, HEADS)
    initial = example.variables(example.detector())
    variables, report = ctxseg.load_weights(example.detector(), initial, file, ("kite", "a house", "person"))
    assert report.classes == ("kite", "person") and len(report.by_class) == 6 and not report.left
    theirs = {"kite": detectors.COCO.index("kite") + 1, "person": 1}
    scores = published.values("roi_heads.box_predictor.cls_score.weight", (91, 8))
    kernel = variables["params"]["box_head"]["scores"]["kernel"]
    for ours, row in ((0, 0), (1, theirs["kite"]), (3, 1)):
        np.testing.assert_array_equal(kernel[:, ours], scores[row])
    np.testing.assert_array_equal(kernel[:, 2], initial["params"]["box_head"]["scores"]["kernel"][:, 2])
    deltas = published.values("roi_heads.box_predictor.bbox_pred.weight", (364, 8)).reshape(91, 4, 8)
    np.testing.assert_array_equal(variables["params"]["box_head"]["deltas"]["kernel"][:, 0], deltas[theirs["kite"]].T)
    masks = published.values("roi_heads.mask_predictor.mask_fcn_logits.bias", (91,))
    np.testing.assert_array_equal(
        np.array(variables["params"]["mask_head"]["scores"]["bias"])[[0, 2]], masks[[theirs["kite"], 1]]
    )


@pytest.mark.parametrize("names", [detectors.COCO, ("kite", "person")])
def test_masks_with_a_background_are_not_filled_from_masks_without(tmp_path, names):
    """Of the same classes or others: the layer is left, and all others are filled."""
    file = tmp_path / "a.safetensors"
    published.write(file, HEADS)
    model = example.detector(mask_scores="softmax").clone(num_classes=len(names))
    _, report = ctxseg.load_weights(model, example.variables(model), file, names)
    assert set(report.left) == {"params/mask_head/scores/kernel", "params/mask_head/scores/bias"}
    assert len(report.taken) == 5


def test_layers_of_other_classes_are_left(tmp_path):
    """All but the class-specific layers are filled, and the report names these."""
    file = tmp_path / "a.safetensors"
    published.write(
        file, {name: tuple(7 if n == 91 else 28 if n == 364 else n for n in shape) for name, shape in HEADS.items()}
    )
    model = example.detector(mask_scores="softmax")
    _, report = ctxseg.load_weights(model, example.variables(model), file, ("kite", "a house", "person"))
    assert report.taken == ("params/rpn/scores/bias",)
    layers = {f"params/{name}" for name in ("box_head/scores", "box_head/deltas", "mask_head/scores")}
    assert {name.rpartition("/")[0] for name in report.left} == layers
    assert "1 arrays taken, 6 left" in str(report)


def test_another_network(tmp_path):
    file = tmp_path / "a.safetensors"
    published.write(file, {"roi_heads.box_head.fc6.weight": (8, 30)})
    line = r"box_head/hidden1/conv/kernel \(roi_heads.box_head.fc6.weight \[8, 30\]\) has shape \[30, 8\] in it and \[1, 1, 36, 8\]"
    with pytest.raises(UserError, match=line):
        ctxseg.load_weights(example.detector(), example.variables(example.detector()), file)
