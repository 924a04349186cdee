"""Archives for the servers of benchmarks: names, ids and modes of their label maps."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ctxseg import commands
from ctxseg.commands import command_line
from ctxseg.configs import fcn, mask_rcnn
from ctxseg.data.builders import ade20k, cityscapes, voc2012
from ctxseg.errors import UserError
from ctxseg.inference import submission
from ctxseg.runs import workdir
from tests.data import test_cityscapes

CLASSES = {"cityscapes": list(cityscapes.CLASSES), "voc": voc2012.CLASSES, "ade20k": ade20k.CLASSES}
DATASETS = {"voc": "voc2012"}
# The first and the last class, as the benchmarks number them.
ENDS = {"cityscapes": (7, 33), "voc": (0, 20), "ade20k": (1, 150)}


def claim(folder, dataset, **data):
    config = fcn.get_config(dataset)
    config.data.update(data)
    folder.mkdir()
    workdir.claim(folder, config)


def predict(folder, name, *arguments):
    return commands.main(["main.py", "--mode=predict", f"--workdir={folder}", f"--format={name}", *map(str, arguments)])


@pytest.fixture
def labels(monkeypatch):
    """Predictions without a network: the first class on the left, the last one on the right."""

    def create(config, folder, checkpoint):
        def label(image):
            if (image == 1).all():
                return "too large"
            names = submission.provenance.metadata(config, folder)["class_names"]
            p = np.zeros((*image.shape[:2], len(names)), np.float32)
            p[:, :2, 0] = p[:, 2:, -1] = 1
            return p

        return label

    monkeypatch.setattr(submission, "create_image_predictor", create)


def test_the_unlabelled_test_split_of_cityscapes(tmp_path, labels, capsys):
    """The split comes from the prepared data: the folder of test images alone, without its void labels."""
    tree = test_cityscapes.write(tmp_path / "tree", test_cityscapes.FRAMES)
    (tree / "gtFine/test").rename(tree / "void")
    claim(tmp_path / "run", "cityscapes", manual_dir=str(tree), data_dir=str(tmp_path / "prepared"))
    assert predict(tmp_path / "run", "cityscapes", "--config.eval.split=test") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run/cityscapes.zip")
    with zipfile.ZipFile(tmp_path / "run/cityscapes.zip") as archive:
        assert archive.namelist() == ["berlin_000000_000019.png"]
        picture = Image.open(io.BytesIO(archive.read("berlin_000000_000019.png")))
    assert picture.mode == "L" and np.asarray(picture).tolist() == [[7, 7, 33, 33]] * 3


@pytest.mark.parametrize("name", ["voc", "ade20k"])
def test_images_of_a_folder(name, tmp_path, labels):
    claim(tmp_path / "run", DATASETS.get(name, name))
    images = tmp_path / "images"
    images.mkdir()
    for stem in ("b", "a"):
        Image.new("RGB", (5, 4)).save(images / f"{stem}.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.png").touch()  # of other images
    assert predict(tmp_path / "run", name, f"--input={images}", f"--output={tmp_path}/out") == 0
    if name == "voc":
        with tarfile.open(tmp_path / "out.tgz") as archive:
            names = archive.getnames()
            content = archive.extractfile(names[0]).read()
        assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/{stem}.png" for stem in "ab"]
    else:
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            assert archive.namelist() == ["a.png", "b.png"]
            content = archive.read("a.png")
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == ("P" if name == "voc" else "L")
    first, last = ENDS[name]
    assert np.asarray(picture).tolist() == [[first, first, last, last, last]] * 4
    if name == "voc":
        assert picture.getpalette()[3 * 20 : 3 * 21] == [0, 64, 128]  # of tvmonitor, in VOC's colours

    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "out/a.png")  # kept: it is taken for an earlier result
    assert predict(tmp_path / "run", name, f"--input={images}", f"--output={tmp_path}/out") == 0
    changed = (f"--input={images}", f"--output={tmp_path}/out", "--config.eval.flip=True")
    with pytest.raises(
        UserError, match="--output=.*out has label maps of another format, checkpoint or test protocol: .*--overwrite"
    ):
        predict(tmp_path / "run", name, *changed)
    assert predict(tmp_path / "run", name, *changed, "--overwrite") == 0
    assert np.asarray(Image.open(tmp_path / "out/a.png")).tolist() == [[first, first, last, last, last]] * 4

    Image.new("RGB", (5, 4), (1, 1, 1)).save(images / "c.png")
    (tmp_path / "out.zip").unlink(missing_ok=True)
    assert predict(tmp_path / "run", name, *changed) == 1
    assert not (tmp_path / "out.zip").exists()  # an archive that lacks an image would be refused


def test_the_ids_are_those_of_the_benchmarks():
    for name, form in submission.FORMATS.items():
        assert list(form.ids) == CLASSES[name] and (min(form.ids.values()), max(form.ids.values())) == ENDS[name]
        assert len(set(form.ids.values())) == len(CLASSES[name])


def test_wrong_runs_and_flags(tmp_path):
    claim(tmp_path / "run", "voc2012")
    with pytest.raises(UserError, match=r"--format=cityscapes: Cityscapes has other classes .*, such as 'aeroplane'"):
        predict(tmp_path / "run", "cityscapes", "--input=.")
    with pytest.raises(UserError, match="--probabilities and --format"):
        predict(tmp_path / "run", "voc", "--input=.", "--probabilities")
    (tmp_path / "detector").mkdir()
    workdir.claim(tmp_path / "detector", mask_rcnn.get_config("coco_instances"))
    with pytest.raises(UserError, match=r"--format=voc: .*detections\.json"):
        predict(tmp_path / "detector", "voc", "--input=.")


def test_the_command_line_knows_the_formats():
    """It does not import them, as they import JAX."""
    assert command_line.define_flags(["main.py"])["format"].parser.enum_values == list(submission.FORMATS)
