"""Pictures of an evaluation for loggers."""

import numpy as np

from ctxseg.runs.record import Instances, Picture
from ctxseg.views import logged


def test_image_labels_and_prediction_are_side_by_side():
    image = np.full((2, 3, 3), 7, np.uint8)
    label, prediction = np.array([[0, 1, 255], [0, 0, 0]], np.uint8), np.ones((2, 3), np.int32)
    picture = logged.labels(image, label, prediction, [(1, 2, 3), (4, 5, 6)])
    assert picture.shape == (2, 3 * 3 + 2 * logged.GAP, 3) and picture.dtype == np.uint8
    first, second = 3 + logged.GAP, 2 * (3 + logged.GAP)
    assert (picture[:, :3] == 7).all() and (picture[:, 3:first] == 255).all()
    assert picture[0, first : first + 3].tolist() == [[1, 2, 3], [4, 5, 6], [128, 128, 128]]
    assert (picture[:, second:] == [4, 5, 6]).all()


def test_wide_images_are_reduced():
    image = np.zeros((300, 2 * logged.WIDTH, 3), np.uint8)
    picture = logged.labels(image, image[..., 0], image[..., 0], [(1, 2, 3)])
    assert picture.shape == (150, 3 * logged.WIDTH + 2 * logged.GAP, 3)


def test_objects_and_detections_are_side_by_side():
    mask = np.zeros((1, 8, 8), bool)
    mask[:, 2:6, 2:6] = True
    boxes = np.float32([[2, 2, 6, 6]])
    none = Instances(boxes[:0], np.zeros(0, int), mask[:0], np.zeros(0, np.float32), np.zeros(0, bool))
    truth = Instances(boxes, np.array([0]), mask, np.ones(1, np.float32), np.zeros(1, bool))
    picture = logged.objects(Picture("a", "", np.zeros((8, 8, 3), np.uint8), truth, none), ["thing"])
    height, width = picture.shape[:2]
    assert width == 2 * height + logged.GAP and picture.dtype == np.uint8
    assert picture[:, :height].any() and not picture[:, height + logged.GAP :].any()
