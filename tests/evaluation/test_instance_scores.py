"""COCO's scores on cases worked out by hand, COCO's result format, and kinds of misses."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ctxseg.evaluation import instances, misses
from tests.instance_lists import CAT, DOG, NOWHERE, OWL, SIZE, A, B, C, found, run_lengths, truth

NAMES = ["cat", "dog", "owl"]


def scored(*pairs):
    objects, detections = zip(*pairs, strict=True)
    return instances.evaluate(objects, detections, NAMES)


def test_perfect_detections(capsys):
    scores = scored(
        (truth((CAT, A), (DOG, B)), found((CAT, A, 0.9), (DOG, B, 0.3))),
        (truth((CAT, C), image=2), found((CAT, C, 0.5), image=2)),
    )
    for kind in ("mask", "box"):
        for name in ("AP", "AP50", "AP75", "AP_medium", "AR1", "AR10", "AR100", "AR_medium"):
            assert scores[f"{kind}_{name}"] == pytest.approx(1), name
        for name in ("AP_small", "AP_large", "AR_small", "AR_large"):
            assert scores[f"{kind}_{name}"] is None
    assert scores["per_class_AP"] == pytest.approx({"cat": 1, "dog": 1, "owl": None})
    assert scores["per_class_box_AP"] == pytest.approx({"cat": 1, "dog": 1, "owl": None})
    assert scores["curves"]["mask_AP75"] == [1] * 101 and scores["objects"] == 3
    assert capsys.readouterr().out == ""


# Each case: objects, detections, AP. All IoU are 0 or 1, so that AP is the same at every threshold. COCO's AP is the mean of the
# precision at the recalls 0, .01, …, 1; a precision is the highest at this recall or a higher one.
CASES = {
    "one of two objects is missed: precision 1 at 51 recalls": (
        [truth((CAT, A), (CAT, B))], [found((CAT, A, 0.9))], 51 / 101),
    "a duplicate after all objects are found costs nothing": (
        [truth((CAT, A))], [found((CAT, A, 0.9), (CAT, A, 0.8))], 1),
    "a duplicate between two hits: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1": (
        [truth((CAT, A), (CAT, B))], [found((CAT, A, 0.9), (CAT, A, 0.8), (CAT, B, 0.7))], (51 + 50 * 2 / 3) / 101),
    "background with the highest score": (
        [truth((CAT, A))], [found((CAT, NOWHERE, 0.9), (CAT, A, 0.8))], 1 / 2),
    "a detection of another class does not count": (
        [truth((CAT, A))], [found((DOG, A, 0.9), (CAT, A, 0.8))], 1),
    "two detections in a crowd do not count": (
        [truth((CAT, A), (CAT, (100, 0, 200, 200), True))],
        [found((CAT, (110, 10, 150, 50), 0.9), (CAT, (110, 60, 150, 99), 0.8), (CAT, A, 0.7))], 1),
    "a crowd of another class does not excuse": (
        [truth((CAT, A), (DOG, (100, 0, 200, 200), True))],
        [found((CAT, (110, 10, 150, 50), 0.9), (CAT, A, 0.7))], 1 / 2),
    "a detection finds the object and not the crowd around it": (
        [truth((CAT, (0, 0, 200, 200), True), (CAT, A))], [found((CAT, A, 0.9))], 1),
    "only a crowd": ([truth((CAT, A, True))], [found((CAT, A, 0.9))], None),
    "of equal scores, the first in the list is first: hit": (
        [truth((CAT, A))], [found((CAT, A, 0.5), (CAT, NOWHERE, 0.5))], 1),
    "of equal scores, the first in the list is first: background": (
        [truth((CAT, A))], [found((CAT, NOWHERE, 0.5), (CAT, A, 0.5))], 1 / 2),
    "of equal scores, the image with the lower id is first": (
        [truth((CAT, A), image=7), truth(image=3)],
        [found((CAT, A, 0.5), image=7), found((CAT, A, 0.5), image=3)], 1 / 2),
    "images of two splits with the same id are two images": (
        [truth((CAT, A), image=7), truth((CAT, A), image=7)],
        [found((CAT, A, 0.9), image=7), found((CAT, A, 0.8), image=7)], 1),
    "the 101st detection of a class in an image does not count": (
        [truth((CAT, A))], [found(*[(CAT, NOWHERE, 0.9)] * 100, (CAT, A, 0.8))], 0),
    "100 detections of another class do not displace": (
        [truth((CAT, A))], [found(*[(DOG, NOWHERE, 0.9)] * 100, (CAT, A, 0.8))], 1),
    "detections in an image without objects: precision 1/2 at all recalls": (
        [truth(image=1), truth((CAT, A), image=2)], [found((CAT, A, 0.9), image=1), found((CAT, A, 0.8), image=2)], 1 / 2),
    "an image without detections": (
        [truth((CAT, A), image=1), truth((CAT, A), image=2)], [found(image=1), found((CAT, A, 0.8), image=2)], 51 / 101),
    "no detections": ([truth((CAT, A))], [found()], 0),
    "no objects": ([truth()], [found((CAT, A, 0.9))], None),
    "no images": ([], [], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_average_precision_by_hand(name):
    objects, detections, expected = CASES[name]
    scores = instances.evaluate(objects, detections, NAMES)
    for key in ("mask_AP", "mask_AP50", "mask_AP75", "box_AP", "box_AP50"):
        assert scores[key] == (None if expected is None else pytest.approx(expected)), key
    assert scores["per_class_AP"]["cat"] == (None if expected is None else pytest.approx(expected))
    if expected is None:
        assert all(scores[key] is None for key in scores if key.startswith(("mask_", "box_")))
        assert set(scores["curves"].values()) == {None}


def test_the_mean_over_classes_skips_those_without_objects():
    """cat 1, dog 51/101, owl detected but not in the truth."""
    scores = scored(
        (truth((CAT, A), (DOG, B), (DOG, C)), found((CAT, A, 0.9), (DOG, B, 0.9), (OWL, NOWHERE, 0.9))),
    )
    assert scores["per_class_AP"] == pytest.approx({"cat": 1, "dog": 51 / 101, "owl": None})
    assert scores["mask_AP"] == pytest.approx((1 + 51 / 101) / 2)
    curve = scores["curves"]["mask_AP50"]
    assert curve == [1] * 51 + [0.5] * 50  # over 1 and 1, then over 1 and 0


def test_thresholds_of_iou():
    """IoU 31/50 = .62 is enough at .50, .55 and .60, three of ten thresholds."""
    scores = scored((truth((CAT, (0, 0, 50, 50))), found((CAT, (0, 0, 31, 50), 0.9))))
    assert (scores["mask_AP"], scores["mask_AP50"], scores["mask_AP75"]) == pytest.approx((0.3, 1, 0))
    assert scores["mask_AR100"] == pytest.approx(0.3)


def test_masks_and_boxes_are_scored_apart():
    objects, detections = truth((CAT, A)), found((CAT, A, 0.9))
    detections["masks"] = [run_lengths((0, 0, 20, 20))]
    scores = scored((objects, detections))
    assert (scores["mask_AP"], scores["box_AP"]) == pytest.approx((0, 1))
    assert (scores["per_class_AP"]["cat"], scores["per_class_box_AP"]["cat"]) == pytest.approx((0, 1))


def test_areas():
    """Small is up to 32² pixels, and large from 96². Detections of another size are not errors of a range."""
    small, medium, large = (0, 0, 31, 31), (50, 0, 100, 50), (0, 100, 97, 197)
    scores = scored(
        (truth((CAT, small), (CAT, medium), (CAT, large)), found((CAT, small, 0.9), (CAT, large, 0.8))),
    )
    for kind in ("mask", "box"):
        assert [scores[f"{kind}_AP{x}"] for x in ("_small", "_medium", "_large")] == pytest.approx([1, 0, 1])
        assert [scores[f"{kind}_AR{x}"] for x in ("_small", "_medium", "_large")] == pytest.approx([1, 0, 1])
    assert scores["mask_AP"] == pytest.approx(67 / 101)  # recall 2/3 includes the recalls 0 to .66


def test_the_area_of_a_detection_is_that_of_its_mask():
    """A false mask of 20² pixels in a box of 50² is small: it lowers the precision of small masks, and not that of small boxes."""
    objects = truth((CAT, (0, 0, 30, 30)))
    detections = found((CAT, (100, 100, 150, 150), 0.9), (CAT, (0, 0, 30, 30), 0.8))
    detections["masks"][0] = run_lengths((100, 100, 120, 120))
    scores = scored((objects, detections))
    assert (scores["mask_AP_small"], scores["box_AP_small"]) == pytest.approx((0.5, 1))


def test_recall_with_few_detections():
    scores = scored((truth((CAT, A), (CAT, B)), found((CAT, A, 0.9), (CAT, B, 0.8))))
    assert (scores["mask_AR1"], scores["mask_AR10"], scores["mask_AR100"]) == pytest.approx((0.5, 1, 1))


def test_the_line_of_scores():
    line = instances.score_line(scored((truth((CAT, A)), found((CAT, A, 0.9)))))
    assert line == "mask AP 1.0000  AP50 1.0000  AP75 1.0000  box AP 1.0000  AP50 1.0000"
    assert instances.score_line(scored((truth(), found()))).startswith("mask AP -  AP50 -")


@pytest.mark.parametrize(
    "objects, detections",
    [([truth()], []), ([truth(image=1)], [found(image=2)]),
     ([truth((CAT, A))], [found((CAT, A, 0.9)) | {"masks": [run_lengths(A, size=100)]}])],
)  # fmt: skip
def test_lists_that_do_not_fit(objects, detections):
    with pytest.raises(ValueError, match="same images|size of the image"):
        instances.evaluate(objects, detections, NAMES)
    with pytest.raises(ValueError, match="same images|size of the image"):
        misses.find(objects, detections, 3)


def test_results_in_coco_format_have_the_same_scores_as_on_the_server(tmp_path, capsys):
    """The written file, read by pycocotools and scored as a whole."""
    rng, ids = np.random.default_rng(0), [3, 17, 90]
    objects, detections = [], []
    for image in (12, 5, 31, 8):
        boxes = [(x, y, x + w, y + h) for x, y, w, h in rng.integers(5, 100, (6, 4))]
        labels = rng.integers(0, 3, 6)
        objects.append(
            truth(*((k, box, i == 5) for i, (k, box) in enumerate(zip(labels, boxes, strict=True))), image=image)
        )
        shifted = [tuple(np.clip(np.add(box, rng.integers(-6, 7, 4)), 0, SIZE)) for box in boxes]
        scores = rng.choice([0.3, 0.6, 0.61, 0.9], 6)  # some are equal
        detections.append(found(*zip(labels, shifted, scores, strict=True), image=image))
        detections[-1]["boxes"] += np.float32(1 / 3)
    path = tmp_path / "detections.json"
    instances.write_results(path, detections, ids)
    written = json.loads(path.read_text())
    assert len(written) == 24 and written[0].keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert written[0]["image_id"] == 12 and {r["category_id"] for r in written} <= set(ids)
    np.testing.assert_array_equal(
        mask_api.decode(written[3]["segmentation"]), mask_api.decode(detections[0]["masks"][3])
    )
    left, top, right, bottom = detections[0]["boxes"][3]
    np.testing.assert_allclose(written[3]["bbox"], [left, top, right - left, bottom - top], rtol=1e-6)

    published = {
        "images": [{"id": o["id"], "height": SIZE, "width": SIZE} for o in objects],
        "categories": [{"id": i, "name": str(i)} for i in ids],
        "annotations": [
            a | {"image_id": o["id"], "category_id": ids[a["category"]],
                 "segmentation": instances.run_lengths_as_text(a["segmentation"])}
            for o in objects for a in o["annotations"]
        ],
    }  # fmt: skip
    for i, annotation in enumerate(published["annotations"], 1):
        annotation["id"] = i
    (tmp_path / "truth.json").write_text(json.dumps(published))
    ours = instances.evaluate(objects, detections, NAMES)
    coco = COCO(tmp_path / "truth.json")
    for kind, form in (("mask", "segmentation"), ("box", "bbox")):
        rows = [{k: r[k] for k in ("image_id", "category_id", "score", form)} for r in written]
        server = COCOeval(coco, coco.loadRes(rows), instances.KINDS[kind])
        server.evaluate()
        server.accumulate()
        server.summarize()
        names = "AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR100 AR_small AR_medium AR_large".split()
        expected = [None if x == -1 else pytest.approx(x, abs=1e-12) for x in server.stats]
        assert [ours[f"{kind}_{name}"] for name in names] == expected
        assert 0.1 < ours[f"{kind}_AP"] < 0.9
    instances.write_results(path, [found()], ids)
    assert json.loads(path.read_text()) == []


def kinds(objects, detections, num_classes=3):
    return {kind: n for kind, n in misses.find([objects], [detections], num_classes).counts.items() if n}


def test_each_kind_of_miss():
    """Box A is 50×50: a part of 20 columns has IoU .4 with it, and one of 4 columns .08."""
    part, sliver = (0, 0, 20, 50), (0, 0, 4, 50)
    assert kinds(truth((CAT, A)), found((CAT, A, 0.9))) == {}
    # A detection of a class without objects is not considered, so there is a dog elsewhere.
    dog = (DOG, NOWHERE)
    assert kinds(truth((CAT, A), dog), found((DOG, A, 0.9))) == {"wrong class": 1, "missed": 1}
    assert kinds(truth((CAT, A)), found((CAT, part, 0.9))) == {"badly placed": 1}
    assert kinds(truth((CAT, A), dog), found((DOG, part, 0.9))) == {"wrong class and badly placed": 1, "missed": 2}
    assert kinds(truth((CAT, A)), found((CAT, sliver, 0.9))) == {"background": 1, "missed": 1}
    twice = found((CAT, A, 0.9), (CAT, A, 0.8))
    assert kinds(truth((CAT, A), (CAT, NOWHERE)), twice) == {"duplicate": 1, "missed": 1}
    assert kinds(truth((CAT, A)), found()) == {"missed": 1}
    assert kinds(truth(), found()) == {} and kinds(truth(), found((CAT, A, 0.9))) == {}


def test_crowds_and_misses():
    crowd = (CAT, (100, 0, 200, 200), True)
    inside = (CAT, (110, 10, 150, 50), 0.9)
    assert kinds(truth((CAT, A), crowd), found(inside)) == {"missed": 1}  # of A; the detection does not count
    assert kinds(truth(crowd), found(inside)) == {}
    assert misses.find([truth((CAT, A), crowd)], [found(inside)], 3).objects == 1


def test_as_many_detections_as_objects_are_considered():
    """Two cats in two images: the two highest scores of both images are considered."""
    objects = [truth((CAT, A), image=1), truth((CAT, A), image=2)]
    detections = [
        found((CAT, NOWHERE, 0.9), (CAT, NOWHERE, 0.8), (CAT, A, 0.7), image=1),
        found((CAT, A, 0.85), image=2),
    ]
    result = misses.find(objects, detections, 3)
    assert (result.found, result.objects) == (1, 2)
    assert {k: n for k, n in result.counts.items() if n} == {"background": 1, "missed": 1}
    assert result.examples["background"] == [misses.Miss("background", 0, 0, None, 0.0, pytest.approx(0.9))]
    assert result.examples["missed"] == [misses.Miss("missed", 0, None, 0, None, None)]


def test_examples_are_the_highest_scores_of_different_images():
    """Four images, each with two cats and two false detections."""
    objects = [truth((CAT, A), (CAT, (100, 100, 110 + i, 120)), image=i) for i in range(4)]
    detections = [found((CAT, NOWHERE, 0.5 + i / 10), (CAT, NOWHERE, 0.4), image=i) for i in range(4)]
    result = misses.find(objects, detections, 3, examples=2)
    assert result.counts["background"] == 8 and result.counts["missed"] == 8
    assert [(m.image, m.detection) for m in result.examples["background"]] == [(3, 0), (2, 0)]
    assert [(m.image, m.object) for m in result.examples["missed"]] == [(0, 0), (1, 0)]  # A is the largest of each
    assert result.examples["duplicate"] == []


def test_the_object_with_the_largest_iou_decides():
    """A cat is detected on a dog that stands in front of a cat: wrong class, although a cat is also near."""
    objects = truth((DOG, (0, 0, 40, 50)), (CAT, (30, 0, 80, 50)))
    result = misses.find([objects], [found((CAT, (0, 0, 45, 50), 0.9))], 3)
    (miss,) = result.examples["wrong class"]
    assert miss.object == 0 and miss.iou == pytest.approx(40 / 45)
    assert result.counts["missed"] == 1  # the cat; the dog is excused
