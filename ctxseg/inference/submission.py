"""`--mode=predict --format=…`: label maps as the server of a benchmark takes them, which keeps the labels of the test images (SPEC §8)."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from ctxseg.data.builders import ade20k, cityscapes, voc2012
from ctxseg.data.sizes import labels_at
from ctxseg.errors import UserError
from ctxseg.files import make_folder, parse_json, plain, read_bytes, write_bytes, write_json
from ctxseg.inference.label_maps import create_image_predictor, encoded
from ctxseg.inference.predict import Prediction
from ctxseg.runs import checkpoints, provenance

# What the label maps of a folder are made from.
ABOUT = "submission.json"


class Format(NamedTuple):
    """What the server of a benchmark takes: an archive of PNGs, one for each image, named as the image.

    Attributes:
        title: of the benchmark, in messages.
        ids: {class name: id in the PNGs}.
        palette: colours of the ids, in the PNGs; (): grey values.
        suffix: that of the archive, `.zip` or `.tgz`.
        folder: folder of the PNGs in the archive; "" for none.
    """

    title: str
    ids: dict[str, int]
    palette: Sequence[Sequence[int]] = ()
    suffix: str = ".zip"
    folder: str = ""


FORMATS = {
    # The ids of labelIds files, not the train ids (cityscapesScripts, evalPixelLevelSemanticLabeling).
    "cityscapes": Format("Cityscapes", {name: i for name, (i, _) in cityscapes.CLASSES.items()}),
    # comp6: any training data; rename the folder to comp5_test_cls for a network trained on VOC alone (VOC2012's development kit, §5.3).
    "voc": Format(
        "PASCAL VOC 2012",
        {name: i for i, name in enumerate(voc2012.CLASSES)},
        voc2012.VOC2012.palette,
        ".tgz",
        "results/VOC2012/Segmentation/comp6_test_cls",
    ),
    # As in the labels, 0 is no class (README of the benchmark's development kit, "Submission format").
    "ade20k": Format("ADE20K's scene parsing benchmark", {name: i for i, name in enumerate(ade20k.CLASSES, 1)}),
}


def create_prediction(config, folder: str, checkpoint, name: str) -> Callable[[], Prediction]:
    """A function that loads the network; its predictions are `NAME.png` in the format called `name`.

    UserError: the run's classes are not the benchmark's; and see `label_maps.create_prediction`.
    """
    form = FORMATS[name]
    class_names = provenance.metadata(config, folder)["class_names"]
    if set(class_names) != set(form.ids) or len(class_names) != len(form.ids):
        strange = sorted(set(class_names) ^ set(form.ids))
        raise UserError(
            f"--format={name}: {form.title} has other classes than the run in {folder}, such as {strange[0]!r}; the run must be trained on "
            "its classes"
        )
    ids = np.array([form.ids[class_name] for class_name in class_names], np.uint8)

    def load():
        probabilities_of = create_image_predictor(config, folder, checkpoint)

        def predict(name, image, size):
            p = probabilities_of(image)
            return p if isinstance(p, str) else {".png": _png(ids[labels_at(p, size)], form.palette)}

        return predict

    return load


def check_folder(
    results: epath.Path, name: str, config, run: str, checkpoint, stems: Sequence[Path], overwrite: bool
) -> None:
    """Makes `results` the folder of one format, checkpoint and test protocol, so that existing label maps can be kept.

    UserError: it has label maps of something else, and `overwrite` is False; it cannot be written.
    """
    about = plain(
        {
            "format": name,
            "run": os.path.abspath(run),
            "checkpoint": checkpoints.newest(run) if checkpoint is None else checkpoint,
            "eval": config.eval.to_dict(),
        }
    )
    file, existing = results / ABOUT, [path for stem in stems if (path := results / f"{stem}.png").exists()]
    try:
        if file.exists() and parse_json(read_bytes(file)) == about:
            return
        if existing and not overwrite:
            raise UserError(
                f"--output={results} has label maps of another format, checkpoint or test protocol: choose another --output, or give "
                "--overwrite"
            )
        for path in existing:  # an interrupted command leaves none of them
            path.unlink()
        make_folder(results)
        write_json(file, about)
    except OSError as e:
        raise UserError(f"--output={results} cannot be written: {e.strerror}") from e


def _png(labels, palette):
    picture = Image.fromarray(labels)
    if palette:
        picture.putpalette([channel for colour in palette for channel in colour])
    return encoded(picture, "PNG")


def write_archive(name: str, results: epath.Path, stems: Sequence[Path]) -> epath.Path:
    """Writes the PNGs of `stems`, in the folder `results`, as the archive that the server takes, beside `results`, atomically.

    Returns its path. UserError if it cannot be written.
    """
    form, buffer = FORMATS[name], io.BytesIO()
    path = results.with_name(results.name + form.suffix)
    members = {f"{form.folder}/{stem}.png".lstrip("/"): results / f"{stem}.png" for stem in stems}
    try:
        (_zip if form.suffix == ".zip" else _tar)(buffer, members)
        write_bytes(path, buffer.getvalue())
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return path


def _zip(file, members):
    with zipfile.ZipFile(file, "w") as archive:  # without compression: PNGs have their own
        for member, path in members.items():
            archive.writestr(zipfile.ZipInfo(member), path.read_bytes())


def _tar(file, members):
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, path in members.items():
            content = path.read_bytes()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
