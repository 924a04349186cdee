"""Pictures of samples and of misses: what they show, and their size."""

import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.evaluation import instance_samples, misses
from ctxseg.runs import record
from tests.instance_lists import CAT, DOG, SIZE, A, B, found, truth


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_a_sample_has_all_objects_and_the_detections_with_high_scores(image):
    picture = instance_samples.whole(
        "a", image, truth((CAT, A), (DOG, B, True)), found((DOG, B, 0.6), (CAT, A, 0.4), (CAT, A, 0.9))
    )
    assert (picture.name, picture.kind) == ("a", "")
    np.testing.assert_array_equal(picture.image, image)
    assert picture.objects.classes.tolist() == [CAT, DOG] and picture.objects.crowd.tolist() == [False, True]
    assert picture.detections.classes.tolist() == [CAT, DOG] and picture.detections.scores.tolist() == pytest.approx(
        [0.9, 0.6]
    )
    np.testing.assert_array_equal(picture.detections.boxes, [A, B])
    assert picture.objects.masks[1, :50, 100:150].all() and picture.objects.masks[1].sum() == 2500


def test_large_images_are_reduced(image, monkeypatch):
    monkeypatch.setattr(instance_samples, "LONGEST", 50)
    picture = instance_samples.whole("a", image, truth((CAT, A)), found((CAT, B, 0.9)))
    assert picture.image.shape == (50, 50, 3)
    np.testing.assert_allclose(picture.image, image.reshape(50, 4, 50, 4, 3).mean((1, 3)), atol=0.51)
    np.testing.assert_array_equal(picture.detections.boxes, [np.array(B) / 4])
    assert picture.objects.masks.shape == (1, 50, 50) and picture.objects.masks.sum() == 13 * 13


def test_a_close_up_shows_the_miss(image):
    """A detection on the right half of an object of 50² pixels at the left border: half as much margin as both are long."""
    objects, detections = truth((DOG, B), (CAT, (0, 60, 50, 110))), found((CAT, (25, 60, 75, 110), 0.9))
    miss = misses.Miss("badly placed", 0, 0, 1, 1 / 3, 0.9)
    picture = instance_samples.close_up(miss, "a", image, objects, detections)
    assert picture.kind == "badly placed"
    np.testing.assert_array_equal(picture.image, image[22:148, 0:113])  # 75 + 37.5 to the right, 37.5 above and below
    np.testing.assert_array_equal(picture.objects.boxes, [[0, 38, 50, 88]])
    np.testing.assert_array_equal(picture.detections.boxes, [[25, 38, 75, 88]])
    assert picture.objects.classes.tolist() == [CAT] and picture.detections.masks[0, 38:88, 25:75].all()
    missed = instance_samples.close_up(misses.Miss("missed", 0, None, 0, None, None), "a", image, objects, detections)
    assert len(missed.detections.classes) == 0 and missed.detections.masks.shape == (0, *missed.image.shape[:2])
    background = instance_samples.close_up(
        misses.Miss("background", 0, 0, None, 0.0, 0.9), "a", image, objects, detections
    )
    assert len(background.objects.classes) == 0


def test_pictures_are_read_as_they_were_written(tmp_path, image):
    objects, detections = truth((CAT, A), (DOG, B, True)), found((CAT, A, 0.9))
    written = [
        instance_samples.whole("a", image[:, :101], truth(), found()),
        instance_samples.whole("b", image, objects, detections),
        instance_samples.close_up(misses.Miss("missed", 0, None, 0, None, None), "b", image, objects, detections),
    ]
    record.write_instances(tmp_path, {"task": "instances", "mask_AP": 0.5}, written)
    assert record.read(tmp_path)["mask_AP"] == 0.5
    for before, after in zip(written, record.read_pictures(tmp_path, 2), strict=True):
        assert (before.name, before.kind) == (after.name, after.kind)
        np.testing.assert_array_equal(before.image, after.image)
        for one, other in ((before.objects, after.objects), (before.detections, after.detections)):
            for x, y in zip(one, other, strict=True):
                np.testing.assert_array_equal(x, y)
                assert x.dtype == y.dtype
    assert record.read_pictures(tmp_path / "nowhere", 2) == []
    with pytest.raises(UserError, match=r"samples.npz is damaged .*class"):
        record.read_pictures(tmp_path, 1)
    record.write_instances(tmp_path, {}, [written[1]._replace(image=image[:-1])])
    with pytest.raises(UserError, match=r"samples.npz is damaged .*masks"):
        record.read_pictures(tmp_path, 2)
