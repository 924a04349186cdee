"""Stanford Background (Gould, Fulton, Koller 2009), and the five folds that N-ReNet is tested on (2016, §4.1).

The paper's folds are random and not published: here, a permutation by `SEED` is cut into five even parts, fold0 to fold4. To train on
four and test on the fifth, join splits with a plus: "fold1+fold2+fold3+fold4" and "fold0".

`manual_dir` is the folder iccv09Data of iccv09Data.tar.gz.
"""

from pathlib import Path

import numpy as np

from ctxseg.data.builders.labels import IGNORE, bit_palette, map_ids
from ctxseg.data.builders.pairs import Pair, names_in, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError

CLASSES = ("sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object")
IDS = {i: i for i in range(8)} | {-1: IGNORE}  # -1: unknown
SEED = 0
SPLITS = {f"fold{i}": 143 for i in range(5)}


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{fold: pairs by name}.

    Raises:
        UserError: a folder is missing, or there are fewer images than folds.
    """
    require(StanfordBackground, manual_dir, "images", "labels")
    names = names_in(manual_dir / "images", ".jpg")
    if len(names) < len(SPLITS):
        raise UserError(
            f"config.data.manual_dir: {manual_dir / 'images'} has {len(names)} *.jpg; expected at least {len(SPLITS)}, one per fold"
        )
    parts = np.array_split(np.random.default_rng(SEED).permutation(len(names)), len(SPLITS))
    return {
        fold: [
            Pair(names[i], manual_dir / f"images/{names[i]}.jpg", manual_dir / f"labels/{names[i]}.regions.txt")
            for i in sorted(part)
        ]
        for fold, part in zip(SPLITS, parts, strict=True)
    }


def read_label(path: Path):
    """uint8 [H, W] from a text file with a line of numbers for each row of pixels. Raises ValueError."""
    return map_ids("stanford_background", np.loadtxt(path, dtype=np.int64, ndmin=2), IDS)


class StanfordBackground(PairsBuilder):
    """Outdoor photographs of about 320×240: 715 images in five folds, eight classes.

    Stanford Background in five random folds; unknown pixels are ignored.
    """

    name = "stanford_background"
    homepage = "http://dags.stanford.edu/projects/scenedataset.html"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder iccv09Data of iccv09Data.tar.gz, with images/*.jpg and labels/*.regions.txt"
    )
    downloads = Download(
        "stanford_background", [Archive("http://dags.stanford.edu/data/iccv09Data.tar.gz")], root="iccv09Data"
    )
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(len(CLASSES), first=1)  # the data set has no palette of its own
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
