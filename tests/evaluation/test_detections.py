"""The evaluation of a detector on a split, with a detector that finds the box that the first pixels of an image name."""

import json
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from pycocotools import mask as run_lengths

from ctxseg import devices, processes
from ctxseg.evaluation import detections
from ctxseg.models.detectors.outputs import Detections

CONFIG = ConfigDict(
    {"data": {"max_side": 0}, "eval": {"split": "train+val", "batch_size": 2, "size": (), "samples": 0}}
)
BOXES = {"train": [(2, 3, 12, 20), (10, 4, 30, 28)], "val": [(1, 2, 25, 12), (16, 20, 30, 30)]}


def record(number, box):
    left, top, right, bottom = box
    image, mask = np.full((32, 32, 3), 7, np.uint8), np.zeros((32, 32), np.uint8, order="F")
    image[0, 0], mask[top:bottom, left:right] = box[:3], 1
    image[0, 1] = box[3]
    segmentation = {"size": [32, 32], "counts": run_lengths.encode(mask)["counts"].decode()}
    annotation = {
        "id": 1, "category": 0, "bbox": [left, top, right - left, bottom - top], "area": int(mask.sum()), "iscrowd": 0,
        "segmentation": segmentation,
    }  # fmt: skip
    objects = json.dumps({"id": number, "height": 32, "width": 32, "annotations": [annotation]})
    return {"image": cv2.imencode(".png", image[..., ::-1])[1].tobytes(), "name": b"a", "objects": objects.encode()}


def detect_step(variables, inputs):
    """The box in the first pixels of each image."""
    images = inputs["image"]
    boxes = np.concatenate([images[:, :, 0, 0], images[:, :, 0, 1, :1]], -1).astype(np.float32)[:, :, None]
    one = np.ones(boxes.shape[:3])
    return Detections(boxes, one, np.zeros_like(one, np.int32), one > 0, np.ones((*one.shape, 4, 4), np.float32))


@pytest.fixture
def builder(tmp_path):
    """Two splits of two images each."""
    records = {split: [record(i, box) for i, box in enumerate(boxes)] for split, boxes in BOXES.items()}
    for split, rows in records.items():
        content = {"sizes": [[32, 32]] * len(rows), "objects": [1] * len(rows)}
        (tmp_path / f"objects-{split}.json").write_text(json.dumps(content))
    return types.SimpleNamespace(
        name="two",
        data_dir=tmp_path,
        info=types.SimpleNamespace(metadata={"category_ids": [1], "class_names": ["a"]}, splits=records),
        as_data_source=lambda splits, decoders: [row for split in splits.split("+") for row in records[split]],
    )


def test_images_of_two_splits_may_have_the_same_id(builder):
    evaluation = detections.evaluate_split(CONFIG, builder, detect_step, None)
    assert evaluation.scores["objects"] == 4
    assert evaluation.scores["mask_AP"] == evaluation.scores["box_AP"] == pytest.approx(1)
    assert [found["id"] for found in evaluation.found] == [0, 1, 0, 1]


def test_several_processes_have_the_detections_of_one(builder, monkeypatch):
    """Of a batch of 4 images and the 2 of padding, the third process has only padding."""
    alone = detections.evaluate_split(CONFIG, builder, detect_step, None)
    count, this = 3, threading.local()
    parts, barrier = [b""] * count, threading.Barrier(count)

    def gather(contents):
        parts[this.index] = contents
        barrier.wait(60)
        return list(parts)

    def evaluate(index):
        this.index = index
        done = []
        config = ConfigDict(CONFIG.to_dict())
        config.eval.batch_size = 2 * count
        return detections.evaluate_split(config, builder, detect_step, None, done.append), done

    monkeypatch.setattr(devices, "process", lambda: (this.index, count))
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "gather", gather)
    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(evaluate, range(count)))
    for evaluation, done in results:
        assert done == [4] and evaluation.scores == alone.scores
        for found, expected in zip(evaluation.found, alone.found, strict=True):
            assert found.keys() == expected.keys()
            for key, value in found.items():
                np.testing.assert_array_equal(value, expected[key])
