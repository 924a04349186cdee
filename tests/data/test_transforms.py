import cv2
import numpy as np
import pytest

from ctxseg.data import DATASETS, transforms
from ctxseg.data.store import unprepared
from ctxseg.errors import UserError

COLOURS = np.array([[10, 200, 30], [240, 60, 90], [0, 0, 255], [120, 130, 140]], np.uint8)


def blobs(seed, height=60, width=80):
    """A sample of large blobs in the colours of their classes, with one region per class."""
    coarse = np.random.default_rng(seed).integers(0, 4, (4, 5)).astype(np.uint8)
    label = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return {"image": COLOURS[label], "label": label, "regions": label.astype(np.int32) + 1000, "name": "blobs"}


def ramp(height=50, width=60):
    """A sample whose image and ids give the column that a pixel comes from, in the image times four."""
    column = np.tile(np.arange(width), (height, 1))
    image = np.repeat((4 * column).astype(np.uint8)[..., None], 3, axis=2)
    return {"image": image, "label": column.astype(np.uint8), "regions": column.astype(np.int32)}


def test_flip_and_crop_by_hand():
    sample = {"image": np.arange(18, dtype=np.uint8).reshape(2, 3, 3), "label": np.uint8([[1, 2, 3], [4, 5, 6]])}
    sample |= {"regions": np.int32([[7, 8, 9], [70000, 80000, 90000]]), "name": "a"}

    flipped = transforms.flip(sample)
    np.testing.assert_array_equal(flipped["image"][0], [[6, 7, 8], [3, 4, 5], [0, 1, 2]])
    np.testing.assert_array_equal(flipped["label"], [[3, 2, 1], [6, 5, 4]])
    np.testing.assert_array_equal(flipped["regions"], [[9, 8, 7], [90000, 80000, 70000]])
    assert flipped["name"] == "a"

    inside = transforms.crop(sample, 0, 1, (2, 2))
    np.testing.assert_array_equal(inside["label"], [[2, 3], [5, 6]])
    np.testing.assert_array_equal(inside["image"][1], [[12, 13, 14], [15, 16, 17]])

    padded = transforms.crop(sample, -1, 1, (3, 3))
    np.testing.assert_array_equal(padded["label"], [[255, 255, 255], [2, 3, 255], [5, 6, 255]])
    np.testing.assert_array_equal(padded["regions"], [[-1, -1, -1], [8, 9, -1], [80000, 90000, -1]])
    np.testing.assert_array_equal(padded["image"][1], [[3, 4, 5], [6, 7, 8], [124, 116, 104]])
    reflected = transforms.crop(sample, -1, 1, (3, 3), "reflect")
    np.testing.assert_array_equal(reflected["label"], [[5, 6, 5], [2, 3, 2], [5, 6, 5]])
    np.testing.assert_array_equal(reflected["regions"][1:], [[8, 9, 8], [80000, 90000, 80000]])
    np.testing.assert_array_equal(reflected["image"][1], [[3, 4, 5], [6, 7, 8], [3, 4, 5]])
    assert {key: padded[key].dtype for key in ("image", "label", "regions")} == {
        "image": np.uint8,
        "label": np.uint8,
        "regions": np.int32,
    }


def test_mirrored_classes_exchange_sides():
    names = ["background", "left-arm", "Right_Arm", "right-arm", "leftovers", "turn left", "turn right", "left ear"]
    assert transforms.mirrored_classes(names) == (0, 3, 2, 1, 4, 6, 5, 7)
    for dataset in ("lip", "cihp"):
        classes = transforms.mirrored_classes(unprepared(DATASETS[dataset]).info.metadata["class_names"])
        assert classes == (*range(14), 15, 14, 17, 16, 19, 18)
    label = np.uint8([[14, 0, 255, 19], [3, 16, 17, 200]])
    sample = {"image": np.zeros((2, 4, 3), np.uint8), "label": label, "regions": label.astype(np.int32)}
    flipped = transforms.flip(sample, classes)
    np.testing.assert_array_equal(flipped["label"], [[18, 255, 0, 15], [200, 16, 17, 3]])
    np.testing.assert_array_equal(flipped["regions"], [[19, 255, 0, 14], [200, 17, 16, 3]])
    np.testing.assert_array_equal(transforms.flip(sample, (0, 1))["label"], label[:, ::-1])

    augment = transforms.Augmentation(crop=(2, 4), flip=True, mirrored_classes=classes)
    results = {augment(sample, np.random.default_rng(i))["label"].tobytes() for i in range(20)}
    assert results == {label.tobytes(), flipped["label"].tobytes()}


def test_resize_and_rotate_by_hand():
    sample = {"image": np.zeros((2, 2, 3), np.uint8), "label": np.uint8([[1, 2], [3, 4]])}
    np.testing.assert_array_equal(
        transforms.resize(sample, (4, 4))["label"], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    )
    six = {"image": np.zeros((1, 6, 3), np.uint8), "label": np.uint8([[0, 1, 2, 3, 4, 5]])}
    # The centres of the two halves, at a quarter and three quarters of the width, lie in pixels 1 and 4.
    np.testing.assert_array_equal(transforms.resize(six, (1, 2))["label"], [[1, 4]])

    square = transforms.crop(blobs(0), 0, 0, (41, 41))
    turned = transforms.rotate(square, 90)
    for key in ("image", "label", "regions"):
        np.testing.assert_array_equal(turned[key], np.rot90(square[key]))


@pytest.mark.parametrize(
    "transform",
    [
        lambda sample: transforms.resize(sample, (75, 97)),
        lambda sample: transforms.resize(sample, (31, 43)),
        lambda sample: transforms.rotate(sample, 7.3),
        lambda sample: transforms.rotate(sample, -41.0),
    ],
)
def test_image_and_ids_stay_aligned_to_half_a_pixel(transform):
    moved = transform(ramp())
    covered = moved["label"] != 255
    np.testing.assert_array_equal(covered, moved["regions"] >= 0)
    np.testing.assert_array_equal(moved["regions"][covered], moved["label"][covered])
    inside = cv2.erode(np.pad(covered.astype(np.uint8), 1), np.ones((5, 5)))[1:-1, 1:-1] > 0
    assert inside.mean() > 0.3
    offset = (moved["image"][..., 0] / 4 - moved["label"])[inside]  # pixels of the untransformed image
    scale = ramp()["label"].shape[1] / moved["label"].shape[1]
    assert np.abs(offset).max() <= 0.5 + 0.125 + 1e-6  # half a pixel, rounded to quarters
    assert abs(offset.mean()) < 0.1 * max(scale, 1)  # no systematic shift


def test_random_augmentation_never_gains_a_class_and_stays_aligned():
    augment = transforms.Augmentation(crop=(48, 64), flip=True, scale_range=(0.4, 2.1), rotate=25.0)
    rng, padded, covered = np.random.default_rng(0), 0, 0
    for seed in range(40):
        sample = blobs(seed)
        result = augment(sample, rng)
        image, label, regions = result["image"], result["label"], result["regions"]
        assert image.shape == (48, 64, 3) and label.shape == regions.shape == (48, 64)
        assert image.dtype == label.dtype == np.uint8 and regions.dtype == np.int32
        assert set(np.unique(label)) <= set(np.unique(sample["label"])) | {255}
        np.testing.assert_array_equal(regions, np.where(label == 255, -1, label.astype(np.int32) + 1000))
        # Away from the edges of blobs, interpolation mixes no colours: colour and label must agree exactly.
        window = {"kernel": np.ones((7, 7)), "borderType": cv2.BORDER_CONSTANT}  # the border of the crop is an edge too
        low, high = cv2.erode(label, **window, borderValue=0), cv2.dilate(label, **window, borderValue=254)
        plain, outside = (low == high) & (label != 255), low == 255
        np.testing.assert_array_equal(image[plain], COLOURS[label[plain]])
        assert (image[outside] == (124, 116, 104)).all()
        padded, covered = padded + (label == 255).any(), covered + plain.mean() / 40
    assert padded > 10 and covered > 0.3  # there were both padding and blobs


def one_after_the_other(augment, sample, rng):
    """What `Augmentation` documents: the functions applied to the whole image in turn."""
    mirrored, scale, degrees = (
        rng.random() < 0.5,
        rng.uniform(*augment.scale_range),
        augment.rotate * rng.uniform(-1, 1),
    )
    position = rng.random(2)
    jitter = rng.uniform(-1, 1, 4) * (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    sample = sample | {"image": transforms.adjust_colour(sample["image"], *(jitter + (1, 1, 1, 0)))}
    if mirrored and augment.flip:
        sample = transforms.flip(sample)
    if rng.random() >= augment.rotate_share:
        degrees = 0
    # Base sizes of 90×120, by hand: a shorter side, and a size with another aspect.
    sample = transforms.resize(sample, {(): (90, 120), (72,): (72, 96), (100, 90): (100, 90)}[augment.base_size])
    sample = transforms.resize(sample, [round(n * scale) for n in sample["label"].shape])
    sample = transforms.rotate(sample, degrees) if degrees else sample
    slack = np.array(sample["label"].shape) - augment.crop
    first, last = np.minimum(slack, 0), np.maximum(slack, 0)
    return transforms.crop(
        sample, *(first + position * (last - first + 1)).astype(int).tolist(), augment.crop, augment.padding
    )


@pytest.mark.parametrize(
    "settings, exact",
    [
        ({"brightness": 0.3, "contrast": 0.4, "saturation": 0.3, "hue": 0.1}, True),
        ({"rotate": 170.0}, True),
        ({"scale_range": (0.5, 2.0), "contrast": 0.4}, False),
        ({"scale_range": (0.3, 0.7), "padding": "reflect"}, False),
        ({"scale_range": (0.5, 2.0), "rotate": 30.0}, False),
        ({"base_size": (72,), "scale_range": (0.5, 2.0)}, False),
        ({"base_size": (100, 90), "scale_range": (0.75, 1.25), "rotate": 30.0, "rotate_share": 0.6}, False),
    ],
)
def test_computing_only_the_crop_gives_the_same_result(settings, exact):
    """It interpolates once instead of twice: on smooth images colours hardly differ, and ids only along the regions' edges."""
    augment = transforms.Augmentation(crop=(64, 80), flip=True, **settings)
    for seed in range(20):
        sample = blobs(seed, 90, 120)
        sample["image"] = cv2.GaussianBlur(sample["image"], (0, 0), 6)
        actual = augment(sample, np.random.default_rng(seed))
        expected = one_after_the_other(augment, sample, np.random.default_rng(seed))
        for key in ("image", "label", "regions"):
            assert actual[key].shape == expected[key].shape and actual[key].dtype == expected[key].dtype
        difference = np.abs(actual["image"].astype(int) - expected["image"])
        ids = actual["label"] != expected["label"]
        if exact:
            assert difference.max() <= 1 and ids.mean() < 1e-3
        else:
            assert np.percentile(difference, 97) <= 6 and ids.mean() < 0.05
            assert not cv2.erode(ids.astype(np.uint8), np.ones((3, 3))).any()  # only lines
        np.testing.assert_array_equal(
            actual["regions"], np.where(actual["label"] == 255, -1, actual["label"] + np.int32(1000))
        )


def test_colour_follows_its_formula():
    image = np.random.default_rng(0).integers(60, 190, (7, 9, 3)).astype(np.uint8)
    brightness, contrast, saturation, hue = 1.1, 0.8, 0.7, 0.1
    luma = np.array([0.299, 0.587, 0.114])
    x = brightness * image.astype(float)
    x = contrast * x + (1 - contrast) * (x @ luma).mean()
    x = saturation * x + (1 - saturation) * (x @ luma)[..., None]
    yiq = x @ transforms.RGB_TO_YIQ.T
    chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(2j * np.pi * hue)
    x = np.stack([yiq[..., 0], chroma.real, chroma.imag], -1) @ np.linalg.inv(transforms.RGB_TO_YIQ).T
    adjusted = transforms.adjust_colour(image, brightness, contrast, saturation, hue)
    np.testing.assert_allclose(adjusted, np.clip(x, 0, 255), atol=1)  # OpenCV's product is in fixed point
    assert adjusted.dtype == np.uint8

    np.testing.assert_array_equal(transforms.adjust_colour(image), image)
    grey = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_allclose(transforms.adjust_colour(grey, saturation=0.3, hue=0.4), grey, atol=1)
    np.testing.assert_array_equal(transforms.adjust_colour(image, brightness=100.0), np.full_like(image, 255))


def test_augmentation_draws_each_setting():
    sample = blobs(3)
    same = transforms.Augmentation(crop=(60, 80))(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(same["image"], sample["image"])

    crop = transforms.Augmentation(crop=(20, 30))
    first, again = (crop(sample, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first["label"], again["label"])
    jittered = transforms.Augmentation(crop=(20, 30), brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    other = jittered(sample, np.random.default_rng(5))
    np.testing.assert_array_equal(first["label"], other["label"])  # colour does not change the other draws
    assert (first["image"] != other["image"]).any()

    flip = transforms.Augmentation(crop=(60, 80), flip=True)
    mirrored = [(flip(sample, np.random.default_rng(i))["label"] != sample["label"]).any() for i in range(100)]
    assert 30 < sum(mirrored) < 70


def test_base_sizes_by_hand():
    """A shorter side keeps the aspect, rounded to the nearest pixel, halves up; either side may be the shorter one."""
    assert transforms.base_size_of((375, 500), (512,)) == (512, 683)  # 682.67
    assert transforms.base_size_of((500, 375), (512,)) == (683, 512)
    assert transforms.base_size_of((2, 5), (1,)) == (1, 3)
    assert transforms.base_size_of((375, 500), (473, 473)) == (473, 473)
    assert transforms.base_size_of((375, 500), ()) == (375, 500)


def test_the_share_of_rotated_images():
    """Only rotated images are padded, at their corners; the others, and all other draws, are as without rotation."""
    sample = blobs(0, 40, 40)
    rotating = transforms.Augmentation(crop=(40, 40), flip=True, rotate=45.0, rotate_share=0.6)
    plain = transforms.Augmentation(crop=(40, 40), flip=True)
    rotated = 0
    for seed in range(200):
        label, expected = (augment(sample, np.random.default_rng(seed))["label"] for augment in (rotating, plain))
        rotated += (label == 255).any()
        assert (label == 255).any() or (label == expected).mean() > 0.9
    assert 95 < rotated < 140


@pytest.mark.parametrize(
    "field, value",
    [
        ("base_size", (0,)),
        ("base_size", (-1, 5)),
        ("base_size", (512.0,)),
        ("base_size", (1, 2, 3)),
        ("rotate_share", 1.1),
        ("crop", (0, 10)),
        ("scale_range", (0.0, 1.0)),
        ("scale_range", (2.0, 1.0)),
        ("rotate", -1.0),
        ("hue", 0.6),
        ("brightness", 1.5),
    ],
)
def test_invalid_settings_are_reported(field, value):
    with pytest.raises(UserError, match=f"config.data.{field} is "):
        transforms.Augmentation(**({"crop": (8, 8)} | {field: value}))
