"""What is drawn where, and the JSON of an image's detections."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from ctxseg.views import instance_pictures as pictures

GREY = 100


def rectangle(box, height=600, width=800):
    left, top, right, bottom = box
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def blend(colour):
    return np.round(GREY * (1 - pictures.OPACITY) + np.array(colour) * pictures.OPACITY)


@pytest.fixture
def image():
    return np.full((600, 800, 3), GREY, np.uint8)


def test_mask_outline_box_and_name(image):
    """A mask within a larger box, on an image that is large enough."""
    box = (200, 200, 500, 400)
    drawn = pictures.draw(image, [box], ["cat 0.90"], [rectangle((250, 250, 450, 350))])
    red = pictures.COLOURS[0]
    assert drawn.dtype == np.uint8 and drawn.shape == (600, 800, 3) and (image == GREY).all()
    np.testing.assert_array_equal(drawn[260:340, 260:440], np.broadcast_to(blend(red), (80, 180, 3)))
    for y, x in ((250, 350), (349, 350), (300, 250), (300, 449)):  # its outline
        assert tuple(drawn[y, x]) == red
    for y, x in ((200, 480), (399, 300), (300, 200), (300, 499)):  # the box
        assert tuple(drawn[y, x]) == red
    assert (drawn[210:240, 210:490] == GREY).all()  # between the two
    plate = drawn[170:199, 200:280]  # above the box: white on red
    assert (plate[:, :3] == red).all(-1).sum() > 50 and (plate > 240).all(-1).sum() > 20
    untouched = np.ones((600, 800), bool)
    untouched[170:410, 190:510] = False
    assert (drawn[untouched] == GREY).all()


def test_small_images_are_enlarged():
    small = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    assert pictures.enlargement((20, 30)) == 18 and pictures.enlargement((600, 800)) == 1
    drawn = pictures.draw(small, np.zeros((0, 4)), [], [])
    np.testing.assert_array_equal(drawn, small.repeat(18, 0).repeat(18, 1))
    drawn = pictures.draw(small, [(10, 5, 20, 15)], [""], [rectangle((10, 5, 20, 15), 20, 30)], colour=(255, 255, 255))
    changed = (drawn != small.repeat(18, 0).repeat(18, 1)).any(-1)
    assert changed[5 * 18 : 15 * 18, 10 * 18 : 20 * 18].mean() > 0.9
    assert not changed[: 5 * 18 - 4].any() and not changed[:, : 10 * 18 - 4].any()
    one = pictures.draw(np.zeros((1, 1, 3), np.uint8), [(0, 0, 1, 1)], ["a name"], [np.ones((1, 1))])
    assert one.shape == (512, 512, 3) and one.any()


def test_objects_of_a_larger_image_are_scaled(image):
    """The picture is half the size of the image to which the objects belong."""
    box = (400, 400, 1000, 800)
    drawn = pictures.draw(image, [box], [""], [rectangle(box, 1200, 1600)], size=(1200, 1600))
    expected = pictures.draw(image, [(200, 200, 500, 400)], [""], [rectangle((200, 200, 500, 400))])
    np.testing.assert_array_equal(drawn, expected)


def test_run_lengths_are_drawn_as_masks(image):
    box = (200, 200, 500, 400)
    compressed = mask_api.encode(np.asfortranarray(rectangle(box).astype(np.uint8)))
    np.testing.assert_array_equal(
        pictures.draw(image, [box], ["a"], [compressed]), pictures.draw(image, [box], ["a"], [rectangle(box)])
    )


def test_touching_objects_differ(image):
    """Sixty-four boxes side by side: neighbours, also over corners, have other colours; every colour is used."""
    boxes = np.array([(x, y, x + 100, y + 75) for y in range(0, 600, 75) for x in range(0, 800, 100)])
    chosen = np.array(pictures.colour_indices(boxes, 800)).reshape(8, 8)
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        assert (chosen[dy:, dx:] != chosen[: 8 - dy, : 8 - dx]).all()
    assert (chosen[1:, :-1] != chosen[:-1, 1:]).all()
    assert set(chosen.ravel()) == set(range(len(pictures.COLOURS)))
    same = np.tile([[0, 0, 9, 9]], (len(pictures.COLOURS) + 3, 1))  # more boxes in one place than colours
    assert len(set(pictures.colour_indices(same, 100))) == len(pictures.COLOURS)


def test_smaller_objects_are_on_top(image):
    """The small one is first in the list, and drawn last."""
    boxes = [(300, 250, 400, 350), (100, 100, 700, 500)]
    drawn = pictures.draw(image, boxes, [], [rectangle(box) for box in boxes])
    first, second = pictures.COLOURS[:2]
    assert tuple(drawn[250, 350]) == first
    below = np.round(GREY * (1 - pictures.OPACITY) + np.array(second) * pictures.OPACITY)
    expected = np.round(below * (1 - pictures.OPACITY) + np.array(first) * pictures.OPACITY)
    np.testing.assert_array_equal(drawn[300, 350], expected)


def test_crowds_are_hatched_in_grey(image):
    box = (200, 200, 500, 400)
    drawn = pictures.draw(image, [box], [""], [rectangle(box)], crowd=[True])[210:390, 210:490]
    values = {tuple(int(v) for v in c) for c in drawn.reshape(-1, 3)}
    assert values == {(GREY,) * 3, tuple(int(v) for v in blend(pictures.CROWD))}
    assert 0.4 < (drawn[..., 0] == GREY).mean() < 0.6


def test_outlines_only(image):
    box = (200, 200, 500, 400)
    drawn = pictures.draw(image, [box], [""], [rectangle(box)], colour=pictures.TRUTH, filled=False)
    assert (drawn[210:390, 210:490] == GREY).all() and tuple(drawn[200, 300]) == pictures.TRUTH


def plates(drawn, colour):
    """Bounding box of pixels of a colour: left, top, right, bottom."""
    y, x = np.nonzero((drawn == colour).all(-1))
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_names_cover_neither_each_other_nor_leave_the_picture(image):
    """Two objects in one place, at the upper right corner: the second name is below the first."""
    box = (700, 0, 800, 100)
    drawn = pictures.draw(image, [box, box], ["the very first object", "the second object"], [np.zeros((600, 800))] * 2)
    first, second = (plates(drawn[:, :698], colour) for colour in pictures.COLOURS[:2])  # beside the box
    assert first[1] == 0 and second[1] >= first[3] - 1


def test_names_without_room_are_left_out(image):
    box = (300, 300, 310, 310)
    one, many = (
        pictures.draw(image, [box] * n, ["the same place"] * n, [np.zeros((600, 800))] * n, colour=(0, 0, 255))
        for n in (1, 40)
    )
    assert (many != GREY).any(-1).sum() < 8 * (one != GREY).any(-1).sum()


def test_masks_of_no_pixel_and_boxes_of_no_area(image):
    drawn = pictures.draw(image, [(100, 100, 100, 100)], [""], [np.zeros((600, 800), bool)])
    assert tuple(drawn[100, 100]) == pictures.COLOURS[0]
    assert pictures.draw(image, np.zeros((0, 4)), [], []).shape == image.shape


@pytest.fixture
def detections():
    boxes = np.array([(10, 20, 110.5, 80), (300, 300, 400, 500), (5, 5, 9, 9)], np.float32)
    masks = [rectangle((10, 20, 110, 80)), rectangle((300, 300, 400, 500)), rectangle((5, 5, 9, 9))]
    return {
        "id": 3,
        "boxes": boxes,
        "scores": np.array([0.6, 0.9, 0.2], np.float32),
        "classes": np.array([1, 0, 0], np.int32),
        "masks": [mask_api.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks],
    }


def test_detections_with_high_scores_are_drawn(image, detections):
    drawn = pictures.draw_detections(image, detections, ["cat", "dog"])
    expected = pictures.draw(
        image, detections["boxes"][[1, 0]], ["cat 0.90", "dog 0.60"], [detections["masks"][i] for i in (1, 0)]
    )
    np.testing.assert_array_equal(drawn, expected)
    none = {key: value[:0] if key != "id" else value for key, value in detections.items()}
    assert (pictures.draw_detections(image, none, ["cat", "dog"]) == GREY).all()


def test_detections_as_json(detections):
    written = json.loads(json.dumps(pictures.as_json("a.jpg", detections, ["cat", "dog"], (600, 800))))
    assert {k: written[k] for k in ("image", "height", "width")} == {"image": "a.jpg", "height": 600, "width": 800}
    first, second, third = written["detections"]
    assert (first["class"], second["class"], third["score"]) == ("cat", "dog", 0.2)
    assert second["bbox"] == [10, 20, 100.5, 60] and second.keys() == {"class", "score", "bbox", "segmentation"}
    np.testing.assert_array_equal(mask_api.decode(first["segmentation"]), rectangle((300, 300, 400, 500)))
