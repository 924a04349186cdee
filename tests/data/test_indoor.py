"""NYUDv2 and SUN RGB-D, from small folders in their official layouts: MATLAB files of version 5 and 7.3."""

import re

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import nyudv2, sunrgbd
from ctxseg.errors import UserError

HEIGHT, WIDTH = 3, 5


def matlab73(path):
    """A file as MATLAB 7.3 writes it: HDF5 after a header of 512 bytes."""
    return h5py.File(path, "w", userblock_size=512)


def nyu_image(index):
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def nyu_label(index):
    label = np.zeros((HEIGHT, WIDTH), np.uint16)
    label[0, 4], label[2, 1], label[1, 0] = 894, 1, index + 1
    return label


@pytest.fixture
def nyu(tmp_path):
    tree = tmp_path / "nyu"
    tree.mkdir()
    with matlab73(tree / nyudv2.LABELED) as file:  # MATLAB's H×W×3×N and H×W×N, by columns
        file["images"] = np.stack([nyu_image(i).T for i in range(4)])
        file["labels"] = np.stack([nyu_label(i).T for i in range(4)])
    scipy.io.savemat(tree / "splits.mat", {"trainNdxs": np.uint16([[4], [1]]), "testNdxs": np.uint16([[3]])})
    mapping = np.full(894, 40, np.uint8)
    mapping[[0, 2, 3]] = 20, 5, 1  # of names 1, 3 and 4
    scipy.io.savemat(tree / "classMapping40.mat", {"mapClass": mapping[None]})
    return tree


def test_nyudv2(nyu, tmp_path, capsys):
    builder = data.load("nyudv2", tmp_path / "cache", nyu)
    source = pipeline.source(builder, "train")
    assert [sample["name"] for sample in source] == ["0004", "0001"]  # in the order of splits.mat
    np.testing.assert_array_equal(source[0]["image"], nyu_image(3))
    void = 255
    np.testing.assert_array_equal(
        source[0]["label"], [[void, void, void, void, 39], [0, void, void, void, void], [void, 19, void, void, void]]
    )
    (test,) = pipeline.source(builder, "test")
    assert test["name"] == "0003" and test["label"][1, 0] == 4
    classes = builder.info.metadata["class_names"]
    assert len(classes) == 40 == len(set(classes)) and classes[0] == "wall" and classes[39] == "other prop"
    assert classes[19] == "floor mat" and "nyudv2 test has 1 images, 653 fewer than the 654" in capsys.readouterr().err

    scipy.io.savemat(nyu / "classMapping40.mat", {"mapClass": np.full((1, 894), 7), "more": 1})
    assert nyudv2.NYUDv2.fingerprint(nyu) not in str(builder.data_dir)  # another mapping gives other labels


def spoil_nyu(tree, **arrays):
    with h5py.File(tree / nyudv2.LABELED, "a") as file:
        for name, array in arrays.items():
            del file[name]
            if array is not None:
                file[name] = array


BAD_NYU = {
    "no mapping": (
        lambda t: (t / "classMapping40.mat").unlink(),
        r"classMapping40.mat is missing; nyudv2 .*a folder",
    ),
    "truncated": (
        lambda t: (t / nyudv2.LABELED).write_bytes((t / nyudv2.LABELED).read_bytes()[:900]),
        r"^\S*/nyu_depth_v2_labeled.mat: .*MATLAB file of version 7.3: .",
    ),
    "no labels": (lambda t: spoil_nyu(t, labels=None), r"^\S*/nyu_depth_v2_labeled.mat has no variable labels$"),
    "number": (
        lambda t: scipy.io.savemat(t / "splits.mat", {"trainNdxs": [[5]], "testNdxs": [[1]]}),
        r"^\S*/splits.mat: trainNdxs has image 5, but \S*/nyu_depth_v2_labeled.mat has 4$",
    ),
    "mapping": (
        lambda t: scipy.io.savemat(t / "classMapping40.mat", {"mapClass": [[1, 41]]}),
        r"^\S*/classMapping40.mat: mapClass.* 1 to 40$",
    ),
    "short mapping": (
        lambda t: scipy.io.savemat(t / "classMapping40.mat", {"mapClass": [[1, 2, 3, 4]]}),
        r"^nyudv2: 3 of 3 .*: \S*labeled.mat: 0004: label id 894, but nyudv2 has 1..4 and 0 \(void\)",
    ),
    "sizes": (
        lambda t: spoil_nyu(t, labels=np.ones((4, HEIGHT, WIDTH), np.uint16)),
        r"labeled.mat: 0004: label is 3x5, but its image is 5x3; ",
    ),
    "grey": (
        lambda t: spoil_nyu(t, images=np.zeros((4, WIDTH, HEIGHT), np.uint8)),
        r"labeled.mat: 0004: .*\(3, 5\) of uint8.*RGB of 8 bits",
    ),
}


@pytest.mark.parametrize("fault", BAD_NYU)
def test_bad_nyudv2_is_reported(fault, nyu, tmp_path):
    spoil, message = BAD_NYU[fault]
    spoil(nyu)
    with pytest.raises(UserError) as raised:
        data.load("nyudv2", tmp_path / "cache", nyu)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)


FRAMES = ["kv1/NYUdata/NYU0001", "kv2/kinect2data/000065", "xtion/sun3ddata/mit_32/office/0001"]
MAKERS = "/n/fs/sun3d/data/SUNRGBD/"


def sun_label(index):
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[0, 1], label[2, 4] = 37, index + 1
    return label


@pytest.fixture
def sun(tmp_path):
    tree = tmp_path / "sun"
    for folder in ("Metadata", "traintestSUNRGBD"):
        (tree / "SUNRGBDtoolbox" / folder).mkdir(parents=True)
    meta = np.empty((1, 3), [("sequenceName", object), ("rgbpath", object), ("rgbname", object)])
    for i, frame in enumerate(FRAMES):
        (tree / "SUNRGBD" / frame / "image").mkdir(parents=True)
        Image.fromarray(nyu_image(i)).save(tree / "SUNRGBD" / frame / f"image/{i}.jpg", quality=98)
        meta[0, i] = (f"SUNRGBD/{frame}", f"{MAKERS}{frame}/image/{i}.jpg", f"{i}.jpg")
    scipy.io.savemat(tree / sunrgbd.META, {"SUNRGBDMeta": meta})
    lists = {"alltrain": [f"{MAKERS}{FRAMES[2]}/", MAKERS + FRAMES[0]], "alltest": [MAKERS + FRAMES[1]]}
    scipy.io.savemat(tree / sunrgbd.LISTS, {name: np.array([paths], object) for name, paths in lists.items()})
    write_sun_labels(tree, [sun_label(i) for i in range(3)])
    return tree


def write_sun_labels(tree, labels):
    """Writes a struct array of version 7.3: for each field references to the arrays, which are elsewhere in the file."""
    with matlab73(tree / sunrgbd.LABELS) as file:
        references = file.create_dataset("SUNRGBD2Dseg/seglabel", (len(labels), 1), h5py.ref_dtype)
        for i, label in enumerate(labels):
            file[f"#refs#/{i}"] = label.T
            references[i, 0] = file[f"#refs#/{i}"].ref


def test_sunrgbd(sun, tmp_path):
    builder = data.load("sunrgbd", tmp_path / "cache", sun)
    train, test = (list(pipeline.source(builder, split)) for split in ("train", "test"))
    assert [sample["name"] for sample in train] == ["kv1_NYUdata_NYU0001", "xtion_sun3ddata_mit_32_office_0001"]
    assert [sample["name"] for sample in test] == ["kv2_kinect2data_000065"]
    for sample, last in ((train[0], 0), (test[0], 1), (train[1], 2)):
        np.testing.assert_array_equal(
            sample["label"], [[255, 36, 255, 255, 255], [255] * 5, [255, 255, 255, 255, last]]
        )
        assert sample["image"].shape == (HEIGHT, WIDTH, 3)
    classes = builder.info.metadata["class_names"]
    assert len(classes) == 37 and classes[0] == "wall" and classes[36] == "bag"


BAD_SUN = {
    "no toolbox": (
        lambda t: (t / sunrgbd.LISTS).unlink(),
        r"allsplit.mat is missing; sunrgbd .*the folder in which",
    ),
    "no image": (
        lambda t: (t / "SUNRGBD/kv1/NYUdata/NYU0001/image/0.jpg").unlink(),
        r"^\S*/NYU0001/image/0.jpg is missing$",
    ),
    "count": (
        lambda t: write_sun_labels(t, [sun_label(0)]),
        r"SUNRGBD2Dseg.mat has 1 labels, but SUNRGBDMeta.mat has 3",
    ),
    "id": (
        lambda t: write_sun_labels(t, [sun_label(0), sun_label(37), sun_label(2)]),
        r"SUNRGBD2Dseg.mat: kv2_kinect2data_000065: label id 38, but sunrgbd has 1..37 and 0 \(void\)$",
    ),
    "frame": (
        lambda t: scipy.io.savemat(
            t / sunrgbd.LISTS, {"alltrain": [MAKERS + "kv1/x"], "alltest": [MAKERS + FRAMES[0]]}
        ),
        r"allsplit.mat: alltrain has kv1/x, which SUNRGBDMeta.mat does not have$",
    ),
    "place": (
        lambda t: scipy.io.savemat(t / sunrgbd.LISTS, {"alltrain": ["/elsewhere"], "alltest": [MAKERS + FRAMES[0]]}),
        r"allsplit.mat has a path without .*kv1, kv2, realsense, xtion: /elsewhere$",
    ),
}


@pytest.mark.parametrize("fault", BAD_SUN)
def test_bad_sunrgbd_is_reported(fault, sun, tmp_path):
    spoil, message = BAD_SUN[fault]
    spoil(sun)
    with pytest.raises(UserError) as raised:
        data.load("sunrgbd", tmp_path / "cache", sun)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
