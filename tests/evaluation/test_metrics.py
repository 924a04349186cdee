import numpy as np
import pytest
from sklearn import metrics as reference

from ctxseg.evaluation import metrics
from ctxseg.tasks import semantic
from tests.references import scores_numpy

K = 6
NAMES = ["road", "car", "tree", "sky", "pole", "dog"]


def random_pixels(seed=0):
    """Labels without classes 3 and 5, partly ignored, and predictions without classes 4 and 5. Only class 5 is in neither."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 4, 255], (4, 9, 11), p=[0.4, 0.2, 0.1, 0.1, 0.2]).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.5, labels, rng.integers(0, 4, labels.shape))
    return labels, np.where(predictions > 3, 0, predictions).astype(np.int32)


def test_scores_match_scikit_learn():
    labels, predictions = random_pixels()
    truth, predicted = labels[labels != 255], predictions[labels != 255]
    confusion = np.asarray(metrics.confusion_matrix(labels, predictions, K))
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(truth, predicted, labels=range(K)))

    scores = metrics.scores(confusion, NAMES, {})
    iou = reference.jaccard_score(truth, predicted, labels=range(5), average=None)
    assert [scores["per_class_iou"][name] for name in NAMES[:5]] == pytest.approx(iou.tolist())
    assert iou[3] == iou[4] == 0  # class 3 is only predicted, class 4 is only in the truth: both count
    assert scores["per_class_iou"]["dog"] is None
    assert scores["mIoU"] == pytest.approx(iou.mean())
    assert scores["pixel_accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    recall = reference.recall_score(truth, predicted, labels=[0, 1, 2, 4], average="macro")
    assert scores["mean_accuracy"] == pytest.approx(recall)
    f1 = reference.f1_score(truth, predicted, labels=range(5), average=None)
    assert [scores["per_class_f1"][name] for name in NAMES[:5]] == pytest.approx(f1.tolist())
    assert scores["per_class_f1"]["dog"] is None and scores["mean_F1"] == pytest.approx(f1.mean())
    np.testing.assert_allclose(scores["mean_F1"], np.nanmean(scores_numpy.f1(confusion)))
    assert scores["frequency_weighted_IoU"] == pytest.approx(scores_numpy.frequency_weighted_iou(confusion))


def test_confusion_of_batches_adds_up_without_other_ids():
    labels, predictions = random_pixels(1)
    whole = np.asarray(metrics.confusion_matrix(labels, predictions, K))
    parts = [np.asarray(metrics.confusion_matrix(labels[i : i + 1], predictions[i : i + 1], K)) for i in range(4)]
    np.testing.assert_array_equal(sum(parts), whole)
    for ignored in (-1, -200, K, 254):
        other = np.where(labels == 255, ignored, labels.astype(np.int32))
        np.testing.assert_array_equal(metrics.confusion_matrix(other, predictions, K), whole)


def test_iou_of_an_image():
    """Of the classes in its truth or its prediction; a class that is only predicted has 0."""
    assert metrics.image_iou(np.array([[3, 4, 5], [0, 0, 0], [0, 0, 1], [2, 2, 2]])) == pytest.approx((0.5 + 0 + 1) / 3)
    assert metrics.image_iou(np.zeros((4, 3), np.int32)) is None


def test_group_scores_skip_absent_classes():
    labels, predictions = random_pixels(2)
    groups = {"near": ["road", "dog"], "far": ["sky", "tree", "car"], "none": ["dog"]}
    scores = metrics.scores(metrics.confusion_matrix(labels, predictions, K), NAMES, groups)
    iou = scores["per_class_iou"]
    assert scores["group_iou"]["near"] == iou["road"] > 0
    assert scores["group_iou"]["far"] == pytest.approx((iou["sky"] + iou["tree"] + iou["car"]) / 3)
    assert scores["group_iou"]["none"] is None


def test_scores_of_perfect_missing_and_very_many_pixels():
    labels = np.arange(K, dtype=np.uint8).reshape(1, 2, 3)
    perfect = metrics.scores(metrics.confusion_matrix(labels, labels.astype(np.int32), K), NAMES, {"all": NAMES})
    assert [perfect[key] for key in ("mIoU", "pixel_accuracy", "mean_accuracy")] == [1, 1, 1]
    assert perfect["group_iou"] == {"all": 1}
    empty = metrics.scores(np.zeros((K, K), np.int64), NAMES, {"all": NAMES})
    assert empty["mIoU"] is empty["mean_accuracy"] is empty["group_iou"]["all"] is None
    assert empty["pixel_accuracy"] is None
    note, *_, details, last = semantic.lines(empty | {"boundary_IoU": None, "ECE": None})
    assert note.startswith("no pixel of the split has a label") and "mIoU -" in last
    assert details == "boundary IoU -  ECE -"
    # Sums that exceed int32 and the precision of float32.
    large = metrics.scores(np.diag([2**40, 1, 1, 1, 1, 1]) + np.eye(K, k=1, dtype=np.int64), NAMES, {})
    assert large["per_class_iou"]["road"] == pytest.approx(2**40 / (2**40 + 1), abs=1e-15)
