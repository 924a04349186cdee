"""Predictions for a user's files: which are read, what is written, and which messages name the others."""

import contextlib
import io
import os
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from ctxseg import commands, data
from ctxseg.configs import fcn
from ctxseg.data import sizes
from ctxseg.errors import UserError
from ctxseg.inference import label_maps, predict
from ctxseg.inference.probabilities import create_predictor
from ctxseg.models import create_model
from ctxseg.runs import checkpoints, workdir
from ctxseg.training import optimizers
from ctxseg.training.state import create_state
from tests.references.testing_numpy import bilinear


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without training, and its probabilities of an image."""
    folder = tmp_path_factory.mktemp("run")
    config = fcn.get_config()
    config.model.backbone.width = 4
    workdir.claim(folder, config)
    model = create_model(config.model, len(data.metadata(fcn.get_config().data)["class_names"]))
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    state = create_state(model, optimizer, config.data.crop, 0)
    with checkpoints.Checkpoints(str(folder / "checkpoints")) as saved:
        saved.save(3, state, {})
    predictor = create_predictor(model, config.eval)
    return folder, lambda image: predictor(state.variables, image[None])[0]


def call(*arguments):
    """Exit status, stdout and stderr of the command line."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = commands.main(["main.py", "--mode=predict", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def picture(seed=0, size=(24, 32)):
    """A picture that changes when it is turned or mirrored: uint8 [h,w,3]."""
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def test_images_of_a_folder_are_labelled_and_broken_files_named(run, tmp_path):
    """In nested folders. With broken files, the exit status is 1."""
    folder, probabilities = run
    images, results = tmp_path / "in", tmp_path / "out"
    (images / "deep" / "er").mkdir(parents=True)
    image = picture()
    Image.fromarray(image).save(images / "a.png")
    Image.fromarray(image).save(images / "deep" / "er" / "a.png")
    Image.fromarray(image).save(images / "deep" / "a.bmp")
    Image.fromarray(image).save(images / "deep" / "a.tif")  # has the same stem
    Image.fromarray(image).save(images / "whole.jpg", quality=95)
    (images / "half.jpg").write_bytes((images / "whole.jpg").read_bytes()[:-300])
    (images / "empty.png").touch()
    (images / "text.png").write_text("no image")
    (images / "notes.txt").write_text("not asked for")

    status, out, err = call(f"--workdir={folder}", f"--input={images}", f"--output={results}", "--probabilities")
    assert status == 1 and out == f"5 of 8 images done, in {results}\n"
    skipped = sorted(line for line in err.splitlines() if line.startswith("skipped"))
    assert [line.split(": ")[0] for line in skipped] == [
        f"skipped {images / n}" for n in ("empty.png", "half.jpg", "text.png")
    ]
    assert "truncated" in skipped[1].lower() and "Traceback" not in err
    names = {str(p.relative_to(results)) for p in results.rglob("*.png")}
    assert names == {"a.png", "deep/er/a.png", "deep/a.bmp.png", "deep/a.tif.png", "whole.png"}

    p = probabilities(image)
    with Image.open(results / "a.png") as file:
        assert file.mode == "P" and file.size == (32, 24)
        np.testing.assert_array_equal(np.asarray(file), p.argmax(-1))
        palette = np.array(file.getpalette()).reshape(-1, 3)[: p.shape[-1]]
    np.testing.assert_array_equal(palette, data.metadata(fcn.get_config().data)["palette"])
    saved = np.load(results / "a_probabilities.npz")["probabilities"]
    assert saved.dtype == np.float16
    np.testing.assert_allclose(saved, p, atol=1e-3)
    overlay = np.asarray(Image.open(results / "a_overlay.jpg"), float)
    assert np.abs(overlay - (image / 2 + palette[p.argmax(-1)] / 2)).mean() < 12  # JPEG's colours are coarse

    # A second run does not change existing results, and tries the broken files again.
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in results.rglob("*.*")}
    (images / "text.png").unlink()
    status, out, err = call(f"--workdir={folder}", f"--input={images}", f"--output={results}", "--probabilities")
    assert status == 1 and "5 of 7 images" in err and "--overwrite" in err and out.startswith("0 of 2")
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in results.rglob("*.*")}
    (results / "a.png").write_bytes(b"")
    call(f"--workdir={folder}", f"--input={images / 'a.png'}", f"--output={results}", "--overwrite")
    assert (results / "a.png").read_bytes() == before[results / "a.png"][0]


def test_images_of_a_glob_are_labelled_by_a_checkpoint(run, tmp_path):
    folder, _ = run
    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"x{i}.png")
    status, out, _ = call(
        f"--checkpoint={folder}/checkpoints/3", f"--input={tmp_path}/x[12].png", f"--output={tmp_path}/o"
    )
    assert status == 0 and out.startswith("2 of 2")
    assert sorted(p.name for p in (tmp_path / "o").glob("*.png")) == ["x1.png", "x2.png"]
    # The output folder is not searched, even if it is inside the searched folder.
    copied = tmp_path / "run"
    os.symlink(folder, copied)
    status, out, _ = call(f"--workdir={copied}", f"--input={tmp_path}/x0.png", "--checkpoint=3")
    assert status == 0 and (copied / "predictions" / "x0.png").exists()
    os.unlink(copied)
    assert len(predict.find(str(tmp_path), tmp_path / "o", 1000)) == 3


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def test_files_of_the_user_are_not_replaced(run, tmp_path):
    """An image in the output folder, and a file that has the name of a result."""
    folder, _ = run
    for name in ("x.png", "y.jpg"):
        Image.fromarray(picture()).save(tmp_path / name)
    (tmp_path / "y.png").write_bytes(b"mine")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    arguments = [f"--workdir={folder}", f"--output={tmp_path}"]
    status, _, err = call(*arguments, f"--input={tmp_path}/x.png", "--overwrite")
    assert status == 1 and "x.png: " in err and "replace" in err and "--output" in err
    assert call(*arguments, f"--input={tmp_path}/y.jpg")[0] == 0 and (tmp_path / "y_overlay.jpg").exists()
    assert before == {p: p.read_bytes() for p in before}
    with pytest.raises(UserError, match="--output=.*--input.*another --output"):
        call(*arguments, f"--input={tmp_path}")


def test_unusual_files_do_not_stop_the_others(run, tmp_path):
    """A header that claims a gigapixel, a pipe, a link to itself, and invalid orientations."""
    images = tmp_path / "in"
    images.mkdir()
    content = bytearray(png(picture()))
    content[16:24] = (30000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (images / "a.png").write_bytes(content)
    os.mkfifo(images / "b.png")
    os.symlink("c.png", images / "c.png")
    for name, value in (("d.jpg", 99), ("e.jpg", 0)):
        exif = Image.Exif()
        exif[274] = value
        Image.fromarray(picture()).save(images / name, exif=exif)
    status, out, err = call(f"--workdir={run[0]}", f"--input={images}", f"--output={tmp_path}/o")
    assert status == 1 and out.startswith("2 of 3") and re.search(r"a\.png: 30000×30000.* 250 megapixels", err)
    for name in "de":
        assert Image.open(tmp_path / "o" / f"{name}.png").size == (32, 24)


def test_hidden_files_are_skipped_and_linked_folders_searched(tmp_path):
    """Hidden files are found only by name. A link to a parent folder is not followed again."""
    for name in ("real.png", "elsewhere/a.png", "in/._real.png", "in/.thumbnails/t.png", "in/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / name)
    links = {"linked": "elsewhere", "twice": "elsewhere", "deep/again": "in", "deep/up": "."}
    for name, target in links.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2/only").symlink_to(tmp_path / "elsewhere")

    def found(source):
        return {str(found.name) for found in predict.find(str(tmp_path / source), tmp_path / "o", 1000)}

    up = {"deep/up/real.png", "deep/up/elsewhere/a.png", "deep/up/in2/only/a.png"}
    assert found("in") == {"deep/b.png", "linked/a.png", "twice/a.png"} | up
    assert found("in2") == {"only/a.png"}
    assert found("in/**/b.png") == {"deep/b.png"}
    assert found("in/._*.png") == {"._real.png"}


def test_no_two_images_share_results():
    names = ["x.jpg", "x.png", "x.jpg.tif", "x.jpg.tif.png", "y.png", "a/x.png"]
    inputs = [predict.Input(name, predict.Path(name), None) for name in names]
    assert [str(stem) for _, stem in predict.stems(inputs)] == [*names[:4], "y", "a/x"]


def test_an_error_with_one_image_does_not_stop_the_others(run, tmp_path, monkeypatch):
    for i in range(2):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
    encode, calls = label_maps.encoded, []

    def fail_first(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError("Unable to allocate")
        return encode(*arguments, **options)

    monkeypatch.setattr(label_maps, "encoded", fail_first)
    status, out, err = call(f"--workdir={run[0]}", f"--input={tmp_path}", f"--output={tmp_path}/o")
    assert status == 1 and out.startswith("1 of 2") and "0.png: MemoryError: Unable to allocate" in err
    assert (tmp_path / "o/1.png").exists()


def test_labels_of_a_reduced_image_have_its_original_size(run, tmp_path):
    """Probabilities and the overlay have the reduced size."""
    folder, probabilities = run
    image = picture(size=(48, 64))
    Image.fromarray(image).save(tmp_path / "x.png")
    call(f"--workdir={folder}", f"--input={tmp_path}/x.png", f"--output={tmp_path}/o", "--config.eval.max_pixels=768",
         "--probabilities")  # fmt: skip
    p = probabilities(image[::2, ::2])
    np.testing.assert_allclose(np.load(tmp_path / "o/x_probabilities.npz")["probabilities"], p, atol=1e-3)
    assert Image.open(tmp_path / "o/x_overlay.jpg").size == (32, 24)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o/x.png")), bilinear(p, 48, 64).argmax(-1))


def test_a_photograph_is_resized_to_the_base_size(run, tmp_path):
    """Its probabilities have its original size. The message names an image that would become too large."""
    folder, probabilities = run
    image = picture()  # 24×32
    Image.fromarray(image).save(tmp_path / "x.png")
    arguments = [f"--workdir={folder}", f"--input={tmp_path}/x.png", f"--output={tmp_path}/o", "--config.eval.size=48"]
    status, _, err = call(*arguments, "--config.eval.max_pixels=3000")
    assert status == 1 and re.search(r"x\.png: .*config\.eval\.size=48 .*48×64.*config\.eval\.max_pixels", err)
    call(*arguments, "--probabilities")
    actual = np.load(tmp_path / "o/x_probabilities.npz")["probabilities"]
    assert actual.shape[:2] == (24, 32)
    resized = np.kron(image, np.ones((2, 2, 1), np.uint8))  # approximately: bilinear interpolation smooths its edges
    expected, not_resized = bilinear(probabilities(resized), 24, 32), probabilities(image)
    assert np.abs(actual - expected).mean() < 0.3 * np.abs(actual - not_resized).mean()


# {message: the flags that cause it}.
WRONG = {
    "--input is missing": [],
    "config.eval.max_pixels is 0.*at least 1": ["--input=IMAGE", "--config.eval.max_pixels=0"],
    ".*config.data.name is camvid .*--workdir": ["--input=IMAGE", "--config.data.name=camvid"],
    "--checkpoint=/x/checkpoints/3 .*--workdir=.*run": ["--input=x", "--checkpoint=/x/checkpoints/3"],
    "--input=/nowhere: .*file or folder.*glob": ["--input=/nowhere"],
    "--checkpoint=latest: .*step.*best.*checkpoints/STEP": ["--input=x", "--checkpoint=latest"],
    ".*/checkpoints .*step 7": ["--input=IMAGE", "--checkpoint=7"],
    ".*best checkpoint.*evaluated": ["--input=IMAGE", "--checkpoint=best"],
    "--input=.*pipe: expected an existing file or folder": ["--input=PIPE"],
    "--output=.*file.* cannot be written: Not a directory": ["--input=IMAGE", "--output=FILE"],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_message_names_the_wrong_flag(message, run, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "x.png")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    paths = {"IMAGE": str(tmp_path / "x.png"), "FILE": str(tmp_path / "file"), "PIPE": str(tmp_path / "pipe")}
    arguments = [a if "=" not in a else "=".join(paths.get(v, v) for v in a.split("=", 1)) for a in WRONG[message]]
    if message.startswith("--output"):
        arguments[-1] += "/below"
    with pytest.raises(UserError, match=f"^{message}"):
        call(f"--workdir={run[0]}", *arguments)


def test_labels_at_another_size_are_those_of_interpolated_probabilities():
    """They are computed row by row."""
    p = np.random.default_rng(0).random((6, 9, 4)).astype(np.float32)
    for size in ((17, 31), (17, 4), (2, 31), (6, 31), (1, 1)):
        np.testing.assert_array_equal(sizes.labels_at(p, size), bilinear(p, *size).argmax(-1))
    assert sizes.labels_at(p, (6, 9)).tolist() == p.argmax(-1).tolist()


def test_labels_at_another_size_with_more_classes_than_ids():
    p = np.random.default_rng(0).random((3, 5, 300)).astype(np.float32)
    np.testing.assert_array_equal(sizes.labels_at(p, (7, 11)), bilinear(p, 7, 11).argmax(-1).astype(np.uint8))


def test_the_label_map_is_written_last(run, tmp_path, monkeypatch):
    """It marks an image as done, also if the program is interrupted."""
    Image.fromarray(picture()).save(tmp_path / "x.png")
    written = []

    def write(path, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)

    monkeypatch.setattr(predict, "write_bytes", write)
    with pytest.raises(KeyboardInterrupt):
        call(f"--workdir={run[0]}", f"--input={tmp_path}/x.png", f"--output={tmp_path}/o", "--probabilities")
    assert written == ["x_overlay.jpg", "x_probabilities.npz"]
