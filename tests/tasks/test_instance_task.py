"""A run of instance segmentation, from a user's folder to predictions: trained, interrupted and continued, evaluated, predicted."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import ctxseg
from ctxseg import commands
from ctxseg.evaluation import evaluate
from ctxseg.training import loop
from tests.runs.test_metrics_log import read_events

SIZE = 64
STEPS = 60

pytestmark = pytest.mark.usefixtures("plain_convolutions")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Ten images with up to two squares each, of two classes, as COCO's JSON for train and val. The first has no object."""
    root, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    (root / "images").mkdir()
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        images, annotations = [], []
        for number in numbers:
            image = rng.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
            for i in range(min(number, 2)):
                side, (top, left) = 20 + 4 * i, rng.integers(0, 8, 2) + 32 * i
                image[top : top + side, left : left + side] = (250, 40, 40) if i else (40, 250, 40)
                box = [int(left), int(top), side, side]
                outline = [left, top, left + side, top, left + side, top + side, left, top + side]
                annotations.append({
                    "id": 10 * number + i + 1, "image_id": number, "category_id": 3 + i, "bbox": box, "area": side * side,
                    "iscrowd": 0, "segmentation": [list(map(float, outline))],
                })  # fmt: skip
            Image.fromarray(image).save(root / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": SIZE, "width": SIZE})
        categories = [{"id": 3, "name": "green"}, {"id": 4, "name": "red"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


# The fields of all detectors, and those of each.
FIELDS = {
    "data.base_size": f"({SIZE},)", "data.max_side": SIZE, "data.scale_range": "(1.0, 1.0)", "data.max_objects": 3,
    "train.batch_size": 2, "train.steps": STEPS, "train.checkpoint_every": 20, "train.log_every": 1, "eval.batch_size": 2,
    "eval.samples": 1, "model.backbone.name": "tiny", "model.pretrained": "none", "model.backbone.width": 4,
    "model.context.channels": 4, "model.detector.rois": 8, "model.detector.rpn_samples": 16, "model.detector.detections": 5,
    "model.detector.proposals_before": "(20, 20)", "model.detector.proposals_after": "(16, 8)",
    "model.detector.score_threshold": 0.01,
}  # fmt: skip
HEADS = {"model.detector.box_channels": 8, "model.detector.mask_channels": 4, "model.detector.mask_layers": 1}
OWN = {
    "mask_rcnn": HEADS,
    "deformable_rcnn": HEADS | {"model.backbone.deformable": "(0, 1, 1, 1)", "model.detector.hard_examples": 4},
    "fcis": {"model.detector.groups": 2, "model.detector.bins": 6, "model.detector.hard_examples": 4},
}


def call(mine, workdir, *arguments, system="mask_rcnn"):
    places = {"data.manual_dir": mine, "data.data_dir": mine.parent / "prepared"}
    changes = [f"--config.{name}={value}" for name, value in (places | FIELDS | OWN[system]).items()]
    return commands.main(
        ["main.py", f"--config=configs/{system}.py:folder", f"--workdir={workdir}", *changes, *arguments]
    )


@pytest.fixture(scope="module")
def run(mine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call(mine, folder) == 0
    return folder


def test_loggers_get_pictures(run):
    images = [value.tag for event in read_events(run) for value in event.summary.value if value.HasField("image")]
    assert len(images) == 1 and images[0].startswith("eval/")


def test_a_range_test_of_learning_rates(mine, tmp_path):
    assert call(mine, tmp_path / "lr", "--mode=lr", "--config.lr.steps=10", "--config.lr.highest=1") == 0
    assert sorted(path.name for path in (tmp_path / "lr").iterdir()) == ["lr.json", "lr.png"]


def state_of(folder, step):
    with ocp.CheckpointManager(folder / "checkpoints", item_names=("state", "data")) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore())
        restored = manager.restore(step, args=args)
    return restored["state"], restored["data"]


# Deformable R-CNN is Mask R-CNN with further layers.
@pytest.mark.parametrize("system", ["deformable_rcnn", "fcis"])
def test_a_killed_run_continues_to_the_same_state(mine, tmp_path, monkeypatch, system):
    class Killed(BaseException):
        pass

    def kill(pending, *_):
        if pending[-1][0] == 4:
            raise Killed
        return mean_loss(pending, *_)

    def train(folder):
        call(mine, tmp_path / folder, "--config.train.steps=5", "--config.train.checkpoint_every=2", system=system)

    # Its programs would take longer to compile than all else here.
    monkeypatch.setattr(loop.evaluate, "finish", lambda *_, **__: {"mask_AP": None})
    monkeypatch.setattr(evaluate, "print_scores", lambda *_: None)
    train("whole")
    mean_loss = loop._mean_loss
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_mean_loss", kill)
        with pytest.raises(Killed):
            train("killed")
    train("killed")
    (state, position), (expected, expected_position) = (state_of(tmp_path / f, 5) for f in ("killed", "whole"))
    assert position == expected_position
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_results_are_those_of_coco(mine, run, capsys):
    """pycocotools on the user's own JSON and on the file of detections."""
    results = json.loads((run / "results.json").read_text())
    assert results["task"] == "instances" and results["class_names"] == ["green", "red"] and results["objects"] == 8
    detections = json.loads((run / "detections.json").read_text())
    assert detections and {d["category_id"] for d in detections} <= {3, 4}
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        truth = COCO(mine / "val.json")
        evaluation = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[1] > 0, kind  # or the comparison would show nothing
        for key, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False):
            assert results[f"{name}_{key}"] == pytest.approx(value, abs=1e-9)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if e["kind"] == "train"] == list(range(1, STEPS + 1))
    assert entries[-1]["kind"] == "eval" and entries[-1]["mask_AP"] == results["mask_AP"]
    page = (run / "report.html").read_text()
    assert "Average precision" in page and "green" in page


def test_predictions_are_the_same_by_mode_and_in_python(mine, run, tmp_path):
    photo = tmp_path / "photo.png"
    image = np.asarray(Image.open(mine / "images" / "7.png"))
    Image.fromarray(np.kron(image, np.ones((2, 2, 1), np.uint8))).save(photo)  # of twice the size
    assert call(mine, run, "--mode=predict", f"--input={photo}", f"--output={tmp_path / 'out'}") == 0
    content = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert (content["height"], content["width"]) == (2 * SIZE, 2 * SIZE)
    assert Image.open(tmp_path / "out" / "photo_objects.jpg").size[0] >= 2 * SIZE

    detector = ctxseg.load(run)
    found = detector.predict(photo)
    assert len(found["boxes"]) == len(content["detections"]) > 0
    for i, entry in enumerate(content["detections"]):
        assert entry["class"] == detector.class_names[found["classes"][i]]
        left, top, width, height = entry["bbox"]
        np.testing.assert_allclose(found["boxes"][i], (left, top, left + width, top + height), rtol=1e-5)
        np.testing.assert_array_equal(run_lengths.decode(entry["segmentation"]), found["masks"][i])
        assert found["masks"].dtype == bool and found["masks"].shape[1:] == (2 * SIZE, 2 * SIZE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mode=predict", "--input=x.png", "--probabilities"], "probabilities"),
        (["--mode=export"], "a detector cannot be exported"),
        (["--mode=pictures"], "report"),
        (["--mode=crf"], "mask_rcnn is a detector"),
        (["--config.loss.name=cross_entropy"], "config.loss.name is not used.*config.model.detector.name=none"),
        (["--config.model.memory.name=mcibi"], "config.model.memory.name is not used"),
    ],
)
def test_what_a_detector_cannot_do_is_one_line(mine, run, arguments, message, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    arguments = [a.replace("x.png", str(tmp_path / "x.png")) for a in arguments]
    with pytest.raises(ctxseg.errors.UserError, match=message):
        call(mine, run, *arguments)
