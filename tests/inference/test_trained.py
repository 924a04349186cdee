"""`ctxseg.load`: a run in Python."""

import os

import numpy as np
import pytest
from PIL import Image

import ctxseg
from ctxseg import data
from tests.inference.test_predict import call, picture, run  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def loaded(run):  # noqa: F811
    return ctxseg.load(run[0])


def test_labels_are_those_of_prediction_for_an_image_in_any_form(run, loaded, tmp_path):  # noqa: F811
    """An array, a PIL image or a file. Files and PIL images are turned upright."""
    folder, probabilities = run
    image, path = picture(), tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    np.testing.assert_array_equal(loaded.probabilities(image), probabilities(image))
    assert call(f"--workdir={folder}", f"--input={path}", f"--output={tmp_path}/labels")[0] == 0
    labels = np.asarray(Image.open(tmp_path / "labels/photo.png"))
    for form in (image, Image.open(path), path, str(path)):
        actual = loaded.predict(form)
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, labels)
    turned = Image.fromarray(np.rot90(image))
    exif = turned.getexif()
    exif[0x0112] = 6  # viewers rotate it clockwise
    turned.save(path, exif=exif)
    for form in (path, Image.open(path)):
        np.testing.assert_array_equal(loaded.predict(form), labels)


def test_a_run_has_classes_a_config_features_and_a_model(run, loaded):  # noqa: F811
    metadata = data.metadata(loaded.config.data)
    assert loaded.class_names == list(metadata["class_names"]) and len(loaded.palette) == len(loaded.class_names)
    assert loaded.config.system == "fcn"
    image = picture(size=(40, 48))
    maps = loaded.features(image)
    assert {name: values.shape for name, values in maps.items()} == {
        "res2": (10, 12, 4), "res3": (5, 6, 8), "res4": (5, 6, 16), "res5": (5, 6, 24), "context": (5, 6, 24),
    }  # fmt: skip
    output = loaded.model.apply(loaded.variables, image[None])
    np.testing.assert_allclose(maps["res4"], output.features["res4"][0], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_is_chosen_by_its_path_or_step(run, loaded, tmp_path):  # noqa: F811
    folder, image = run[0], picture()
    labels = ctxseg.load(folder / "checkpoints" / "3").predict(image)
    np.testing.assert_array_equal(labels, loaded.predict(image))
    with pytest.raises(ctxseg.UserError, match="checkpoints .*step 4"):
        ctxseg.load(folder, checkpoint=4)
    with pytest.raises(ctxseg.UserError, match="config.json is missing"):
        ctxseg.load(tmp_path / "nowhere")


def test_message_names_a_file_or_array_that_is_not_an_image(loaded, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    for image, message in {
        tmp_path / "none.png": r"none\.png .*No such file",
        tmp_path / "text.png": r"text\.png .*not an image",
        tmp_path / "pipe.png": r"pipe\.png is not a regular file",
    }.items():
        with pytest.raises(ctxseg.UserError, match=message):
            loaded.predict(image)
    for image in (picture()[..., 0], picture() / 255, picture()[:0], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ctxseg.UserError, match=r"uint8 \[H,W,3\].*got"):
            loaded.predict(image)
    (tmp_path / "export.zip").write_bytes(b"PK no archive")
    with pytest.raises(ctxseg.UserError, match=r"export\.zip .*run.*export"):
        ctxseg.load(tmp_path / "export.zip")
