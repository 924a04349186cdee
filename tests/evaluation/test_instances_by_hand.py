"""COCO's average precision (AP) and average recall (AR) in small cases worked out by hand.

The reference in NumPy and pycocotools' COCOeval are compared with the figures, for boxes and for masks. All coordinates are integers,
and every mask fills its box, so boxes and masks have the same IoU and the same figures. A truth may have an `area` that is not the
area of its box, as in annotation files.

How to read a case: the detections of a class, best score first, are right (R), wrong (W) or ignored (-). After each, recall is
R / objects and precision R / (R + W). The precision at a recall r is the largest precision at any recall ≥ r, and AP is its mean
over the 101 recalls 0, 0.01, … 1, over the thresholds of IoU 0.5, 0.55, … 0.95, and over the classes that have objects. Recalls 0 … ½ are
51 points, those above ½ are 50. AR1, AR10 and AR100 are the recalls reached with 1, 10 and 100 detections per image and class. -1:
nothing to measure.
"""

import contextlib
import io
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest

from tests.references import detection_numpy

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Truth:
    box: tuple  # left, top, right, bottom
    label: int = 0
    crowd: bool = False
    area: int | None = None  # None: that of the box


@dataclass
class Found:
    box: tuple
    score: float
    label: int = 0


@dataclass
class Image:
    truths: list = field(default_factory=list)
    found: list = field(default_factory=list)


@dataclass
class Case:
    images: list
    expected: dict  # {one of NAMES: figure}; a name that is absent has the figure -1
    size: tuple = (256, 256)


def small(AP, AR1, AR10=1, AR100=1, AP50=None, AP75=None):
    """Figures of a case in which all boxes are below 32² pixels. AP50 and AP75 are given where they differ from AP."""
    figures = {"AP": AP, "AP50": AP if AP50 is None else AP50, "AP75": AP if AP75 is None else AP75, "APs": AP}
    return figures | {"AR1": AR1, "AR10": AR10, "AR100": AR100, "ARs": AR100}


A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (60, 60, 70, 70)
CASES = {}

# R. Precision 1 at recall 1.
CASES["perfect"] = Case([Image([Truth(A)], [Found(A, 0.9)])], small(AP=1, AR1=1))

# The crowd is 40×20. Overlap with a crowd is the part of the detection in it:
#   0.95  (15,0,25,20), 200 pixels, 100 of them in the crowd: ½. Ignored at the threshold 0.5, wrong at the nine others.
#   0.9, 0.8  wholly in the crowd: both are ignored, as any number of detections can match a crowd.
#   0.7  the object: right.
# At 0.5: - - - R, AP 1. At the others: W - - R, precision ½ at recall 1, AP ½. AP = (1 + 9·½)/10 = 0.55. A crowd is not
# counted as an object, so recall is 1. The best detection alone is never right: AR1 = 0.
CASES["crowd"] = Case(
    [
        Image(
            [Truth(A), Truth((20, 0, 60, 20), crowd=True)],
            [
                Found((15, 0, 25, 20), 0.95),
                Found((22, 2, 32, 12), 0.9),
                Found((24, 4, 34, 14), 0.8),
                Found(A, 0.7),
            ],
        )
    ],
    small(AP=Fraction(55, 100), AP50=1, AP75=Fraction(1, 2), AR1=0),
)

# The detection has IoU 31/50 = 0.62 with the object and lies wholly in the crowd. An object is preferred to a crowd: right at 0.5, 0.55
# and 0.6. At the seven others the crowd takes it: ignored, and the object is missed. The object has medium
# size (2500 pixels), as have the detection (1550) and the crowd (9000).
CASES["crowd around an object"] = Case(
    [Image([Truth((0, 0, 100, 90), crowd=True), Truth((0, 0, 50, 50))], [Found((0, 0, 50, 31), 0.9)])],
    {key: Fraction(3, 10) for key in ("AP", "APm", "AR1", "AR10", "AR100", "ARm")} | {"AP50": 1, "AP75": 0},
)

# Only a crowd: the class has no object, so every figure is -1.
CASES["only a crowd"] = Case([Image([Truth(A, crowd=True)], [Found(A, 0.9), Found(FAR, 0.8)])], {})

# Equal scores in two images go by the order of the images: W R of 2 objects. Recall ½ with precision ½, recall above ½ is not reached:
# AP = 51·½/101. The other order, R W, would give 51/101.
CASES["tie between images"] = Case(
    [Image([Truth(A)], [Found(FAR, 0.5)]), Image([Truth(B)], [Found(B, 0.5)])],
    small(AP=Fraction(51, 202), AR1=Fraction(1, 2), AR10=Fraction(1, 2), AR100=Fraction(1, 2)),
)

# Equal scores in one image go as listed. The first has IoU 41/50 = 0.82, the second 1. At the seven thresholds up to 0.8 the first takes
# the object: R W, AP 1. At 0.85, 0.9 and 0.95: W R, AP ½. AP = (7 + 3·½)/10 = 0.85. The first alone is right seven times: AR1 = 0.7.
CASES["tie in an image"] = Case(
    [Image([Truth((0, 0, 50, 50))], [Found((0, 0, 50, 41), 0.5), Found((0, 0, 50, 50), 0.5)])],
    {
        "AP": Fraction(85, 100),
        "APm": Fraction(85, 100),
        "AP50": 1,
        "AP75": 1,
        "AR1": Fraction(7, 10),
        "AR10": 1,
        "AR100": 1,
        "ARm": 1,
    },
)

# Three classes in one image, one object each:
#   0: 100 wrong detections, then the right one, the 101st: it does not count. AP 0.
#   1: one right detection, of the lowest score of all 202. The limit is per class: AP 1.
#   2: 99 wrong ones, then the right one, the 100th: precision 1/100 at recall 1. AP 1/100.
# AP = (0 + 1 + 1/100)/3. Recall with 1 or 10 detections: (0 + 1 + 0)/3; with 100: (0 + 1 + 1)/3.
_WRONG = [(100 + 10 * (k % 10), 100 + 10 * (k // 10)) for k in range(100)]
CASES["more than 100 detections"] = Case(
    [
        Image(
            [Truth(A, label) for label in range(3)],
            [Found((x, y, x + 10, y + 10), 0.9 - k / 1000, 0) for k, (x, y) in enumerate(_WRONG)]
            + [Found((x, y, x + 10, y + 10), 0.9 - k / 1000, 2) for k, (x, y) in enumerate(_WRONG[:99])]
            + [Found(A, 0.5, 0), Found(A, 0.1, 1), Found(A, 0.5, 2)],
        )
    ],
    small(AP=Fraction(101, 300), AR1=Fraction(1, 3), AR10=Fraction(1, 3), AR100=Fraction(2, 3)),
)

# R W R of 2 objects: the second detection of A finds it taken. Precision 1 up to recall ½, then 2/3: AP = (51 + 50·2/3)/101 = 253/303.
CASES["duplicate"] = Case(
    [Image([Truth(A), Truth(B)], [Found(A, 0.9), Found(A, 0.8), Found(B, 0.7)])],
    small(AP=Fraction(253, 303), AR1=Fraction(1, 2)),
)

# A is of class 0, B of class 1. Class 0: R, AP 1. Class 1: W (at A) R, AP ½; its best detection is wrong: AR1 = (1 + 0)/2.
CASES["wrong class"] = Case(
    [Image([Truth(A, 0), Truth(B, 1)], [Found(A, 0.9, 1), Found(A, 0.6, 0), Found(B, 0.5, 1)])],
    small(AP=Fraction(3, 4), AR1=Fraction(1, 2)),
)

# Class 1 has detections and no object, class 2 a crowd alone: neither is in the mean. Class 0: AP 1.
CASES["classes without objects"] = Case(
    [
        Image(
            [Truth(A, 0), Truth(B, 2, crowd=True)],
            [Found(A, 0.5, 0), Found(A, 0.9, 1), Found(B, 0.8, 1), Found(FAR, 0.7, 2)],
        )
    ],
    small(AP=1, AR1=1),
)

# R of 2 objects: the second image has an object and no detection. Precision 1 up to recall ½, then 0: AP = 51/101.
CASES["image without detections"] = Case(
    [Image([Truth(A)], [Found(A, 0.9)]), Image([Truth(B)])],
    small(AP=Fraction(51, 101), AR1=Fraction(1, 2), AR10=Fraction(1, 2), AR100=Fraction(1, 2)),
)

# No detection at all: AP 0, not -1.
CASES["no detections"] = Case([Image([Truth(A)]), Image()], small(AP=0, AR1=0, AR10=0, AR100=0))

# W R: the detection in the image without objects is wrong. Each image's best detection counts for AR1: 1.
CASES["image without objects"] = Case(
    [Image([], [Found(FAR, 0.95)]), Image([Truth(A)], [Found(A, 0.9)])],
    small(AP=Fraction(1, 2), AR1=1),
)

# Objects of 10×10 (small) and 100×100 (large); the wrong detection has 120×120 (large).
#   all    W R R of 2: precision ½ at recall ½, 2/3 at recall 1, so 2/3 everywhere. AP = 2/3.
#   small  the wrong one is ignored for its size, the large object and its detection too: - R -, AP 1.
#   large  W R -, AP ½.
#   medium no object: -1.
# The best detection of the image is the wrong one: AR1 = 0.
CASES["sizes"] = Case(
    [
        Image(
            [Truth(A), Truth((20, 0, 120, 100))],
            [Found((130, 130, 250, 250), 0.95), Found(A, 0.9), Found((20, 0, 120, 100), 0.8)],
        )
    ],
    {
        "AP": Fraction(2, 3),
        "AP50": Fraction(2, 3),
        "AP75": Fraction(2, 3),
        "APs": 1,
        "APl": Fraction(1, 2),
        "AR1": 0,
        "AR10": 1,
        "AR100": 1,
        "ARs": 1,
        "ARl": 1,
    },
)

# The size of an object is the `area` of its annotation: 900 pixels, small, in a box of 40×40, which would be medium. A size of
# exactly 32² is small *and* medium: the second object. Small: R R of 2, AP 1. Medium: the second alone, - R, AP 1.
CASES["area of the annotation"] = Case(
    [
        Image(
            [Truth((0, 0, 40, 40), area=900), Truth((50, 0, 82, 32))],
            [Found((0, 0, 40, 40), 0.9), Found((50, 0, 82, 32), 0.8)],
        )
    ],
    {
        "AP": 1,
        "AP50": 1,
        "AP75": 1,
        "APs": 1,
        "APm": 1,
        "AR1": Fraction(1, 2),
        "AR10": 1,
        "AR100": 1,
        "ARs": 1,
        "ARm": 1,
    },
)

# The first detection overlaps both objects: IoU 60/140 = 3/7 with the left one and 80/120 = 2/3 with the right one. It takes the
# right one at 0.5, 0.55, 0.6 and 0.65. The second is exactly the right one (IoU 1) and finds it taken there: R W of 2 objects, 51/101. At
# the six others: W R of 2, 51·½/101. AP = (4 + 6·½)/10 · 51/101 = 0.7·51/101. The first alone finds one of 2
# objects at four of ten thresholds: AR1 = 0.2.
CASES["badly placed"] = Case(
    [
        Image(
            [Truth((0, 0, 10, 10)), Truth((6, 0, 16, 10))],
            [Found((4, 0, 14, 10), 0.9), Found((6, 0, 16, 10), 0.8)],
        )
    ],
    small(
        AP=Fraction(7, 10) * Fraction(51, 101),
        AP50=Fraction(51, 101),
        AP75=Fraction(51, 202),
        AR1=Fraction(2, 10),
        AR10=Fraction(1, 2),
        AR100=Fraction(1, 2),
    ),
)


def expected(case):
    return {name: float(case.expected.get(name, -1)) for name in NAMES}


def test_every_figure_of_a_case_has_a_name():
    assert all(set(case.expected) <= set(NAMES) for case in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_the_reference(name):
    case = CASES[name]
    detections, truths = [], []
    for image in case.images:
        detections.append(
            {
                "boxes": [found.box for found in image.found],
                "scores": [found.score for found in image.found],
                "classes": [found.label for found in image.found],
            }
        )
        truths.append(
            {
                "boxes": [truth.box for truth in image.truths],
                "classes": [truth.label for truth in image.truths],
                "crowd": [truth.crowd for truth in image.truths],
                "areas": [area(truth) for truth in image.truths],
            }
        )
    figures = detection_numpy.average_precision(detections, truths, range(3))
    assert figures == pytest.approx(expected(case), abs=1e-12)


@pytest.mark.parametrize("kind", ("bbox", "segm"))
@pytest.mark.parametrize("name", CASES)
def test_pycocotools(name, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    case = CASES[name]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": case.size[0], "width": case.size[1]} for i in range(len(case.images))],
        "categories": [{"id": k, "name": str(k)} for k in range(3)],
        "annotations": [],
    }
    results = []
    for i, image in enumerate(case.images):
        for truth in image.truths:
            annotation = {
                "id": len(coco.dataset["annotations"]) + 1,  # COCOeval takes a match with id 0 for none
                "image_id": i,
                "category_id": truth.label,
                "bbox": width_and_height(truth.box),
                "area": area(truth),
                "iscrowd": int(truth.crowd),
                "segmentation": mask(truth.box, case.size),
            }
            coco.dataset["annotations"].append(annotation)
        for found in image.found:
            result = {"image_id": i, "category_id": found.label, "score": found.score}
            shape = (
                {"bbox": width_and_height(found.box)}
                if kind == "bbox"
                else {"segmentation": mask(found.box, case.size)}
            )
            results.append(result | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, load(coco, results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert dict(zip(NAMES, evaluation.stats, strict=True)) == pytest.approx(expected(case), abs=1e-12)


def load(coco, results):
    """Detections as COCOeval reads them; `loadRes` cannot read an empty list."""
    from pycocotools.coco import COCO

    if results:
        return coco.loadRes(results)
    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def area(truth):
    left, top, right, bottom = truth.box
    return (right - left) * (bottom - top) if truth.area is None else truth.area


def width_and_height(box):
    """(left, top, right, bottom) → COCO's [left, top, width, height]."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def mask(box, size):
    """The box as a compressed run-length code of an image of this size."""
    from pycocotools import mask as coder

    left, top, right, bottom = box
    pixels = np.zeros(size, np.uint8, order="F")
    pixels[top:bottom, left:right] = 1
    return coder.encode(pixels)
