"""Summary of a prepared data set: images, sizes, and how often each class occurs.

Stored beside the records, as `summary.json` and `summary.png`.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from pycocotools import mask as run_lengths

from ctxseg.data.instances import InstanceSource
from ctxseg.data.parallel import each
from ctxseg.data.store import reason
from ctxseg.errors import UserError
from ctxseg.files import parse_json, read_bytes, write_bytes, write_json

ROWS = 30  # maximum number of classes printed; if there are more, the most and the least frequent
NAMED = 10  # classes named in a warning; the others are counted


class Counts(NamedTuple):
    """Counts over the labels of a split.

    Attributes:
        sizes: int64 [N, 2], height and width of each image.
        pixels: int64 [256], the number of pixels of each id; 255 is ignored.
        images: int64 [256], the number of images that have the id.
        areas: int64 [256], the number of pixels with a class of the images that have the id.
        objects: int64 [256], the number of objects of each class, without crowds; None for labels.
    """

    sizes: np.ndarray
    pixels: np.ndarray
    images: np.ndarray
    areas: np.ndarray
    objects: np.ndarray | None = None


def summarise(builder, draw: Callable) -> dict:
    """The summary of a prepared data set, read from its summary.json; if that is missing, computed and written with summary.png.

    Args:
        builder: a prepared builder.
        draw: (summary, {split: sizes of its images}, palette) → a matplotlib figure.

    Returns:
        `data`, the name; and `splits`, {name: {`images`: their number; `height`, `width`: {`min`, `median`, `max`}; `sizes`: number of
        different sizes; `ignored`: share of ignored pixels; `classes`: {name: {`share`: of the labelled pixels, None if there are none;
        `pixels`: their number; `images`: number of images with the class; `area`: number of labelled
        pixels of these images}}}}. For instance segmentation, `share` is of all objects, and
        each split and each class also has `objects`, their number.

    Raises:
        UserError: a damaged record, or a folder that cannot be written.
    """
    folder = epath.Path(builder.data_dir)
    try:
        return _read(folder / "summary.json", builder)
    except (OSError, ValueError):  # missing, or damaged
        pass
    names, palette = builder.info.metadata["class_names"], builder.info.metadata["palette"]
    counts = {split: count(builder, split) for split in builder.info.splits}
    summary = {
        "data": builder.name,
        "splits": {split: _of_split(counted, names) for split, counted in counts.items()},
    }
    picture = io.BytesIO()
    sizes = {split: counted.sizes for split, counted in counts.items()}
    draw(summary, sizes, palette).savefig(picture, dpi=110)
    try:
        write_bytes(folder / "summary.png", picture.getvalue())
        write_json(folder / "summary.json", summary)  # last: it marks the summary as complete
    except OSError as error:
        raise UserError(f"cannot write the summary in config.data.data_dir: {reason(error)}") from error
    return summary


def frequencies(builder, split: str) -> dict[str, float]:
    """{class: its share of the labelled pixels of the images that have it}; 0 for a class that no image has.

    Args:
        builder: a prepared builder, whose summary is read if it has one, or else its labels.
        split: a split, or several as `a+b`.

    Raises:
        UserError: a damaged record.
    """
    try:
        splits = _read(epath.Path(builder.data_dir) / "summary.json", builder)["splits"]
    except (OSError, ValueError):
        names = builder.info.metadata["class_names"]
        splits = {name: _of_split(count(builder, name), names) for name in split.split("+")}
    counted = [splits[name]["classes"] for name in split.split("+")]
    sums = {name: [sum(classes[name][key] for classes in counted) for key in ("pixels", "area")] for name in counted[0]}
    return {name: pixels / area if area else 0.0 for name, (pixels, area) in sums.items()}


def count(builder, split: str) -> Counts:
    """Counts sizes and class ids of a split's labels, or its objects, with all cores. UserError: a damaged record."""
    if "objects" in builder.info.features:
        return _count_objects(builder, split)
    raw = tfds.decode.SkipDecoding()
    records = builder.as_data_source(split, decoders={"image": raw, "label": raw})

    def size_and_histogram(index):
        try:
            label = cv2.imdecode(np.frombuffer(records[index]["label"], np.uint8), cv2.IMREAD_UNCHANGED)
            return label.shape, np.bincount(label.ravel(), minlength=256)
        except Exception as error:  # decoders raise many kinds of errors on damaged bytes
            place = f"{builder.name} {split}: label {index}"
            raise UserError(f"{place} cannot be read; delete {builder.data_dir} to prepare it again") from error

    sizes, classes = np.zeros((len(records), 2), np.int64), len(builder.info.metadata["class_names"])
    pixels, images, areas = np.zeros((3, 256), np.int64)
    results = each(size_and_histogram, range(len(records)), f"count {builder.name} {split}")
    for i, (size, histogram) in enumerate(results):
        sizes[i] = size
        pixels += histogram
        images += histogram > 0
        areas += (histogram > 0) * histogram[:classes].sum()
    return Counts(sizes, pixels, images, areas)


def _count_objects(builder, split):
    source = InstanceSource(builder, split)
    classes = max(256, len(builder.info.metadata["class_names"]))
    pixels, images, areas, objects = np.zeros((4, classes), np.int64)
    for content in each(source.annotations, range(len(source)), f"count {builder.name} {split}"):
        annotations = content["annotations"]
        ids = np.array([a["category"] for a in annotations], int)
        np.add.at(pixels, ids, np.array([run_lengths.area(a["segmentation"]) for a in annotations], np.int64))
        np.add.at(objects, ids, np.array([1 - a["iscrowd"] for a in annotations], np.int64))
        images[np.unique(ids)] += 1
        areas[np.unique(ids)] += content["height"] * content["width"]
    return Counts(source.sizes, pixels, images, areas, objects)


def table(summary: dict) -> str:
    """The summary as lines to print: a column for each split, a row for each class, the most frequent first."""
    splits = summary["splits"]
    rows = [[summary["data"], *splits], ["images", *(str(s["images"]) for s in splits.values())]]
    for side in ("height", "width"):
        rows.append([side, *(_range(s[side]) for s in splits.values())])
    rows.append(["sizes", *(str(s["sizes"]) for s in splits.values())])
    if any("objects" in s for s in splits.values()):
        rows.append(["objects", *(str(s["objects"]) for s in splits.values())])
    else:
        rows.append(["ignored", *(_percent(s["ignored"]) for s in splits.values())])
    classes = commonest(summary)
    skipped = len(classes) - ROWS if len(classes) > ROWS else 0
    for i, name in enumerate(classes):
        if skipped and i == ROWS // 2:
            rows.append([f"… {skipped} more …", *[""] * len(splits)])
        if not skipped or i < ROWS // 2 or i >= ROWS // 2 + skipped:
            rows.append([name, *(_cell(s["classes"][name]) for s in splits.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def _cell(counts):
    objects = f"  {counts['objects']:>7} obj" if "objects" in counts else ""
    return f"{_percent(counts['share'])}{objects}  {counts['images']:>6} img"


def commonest(summary: dict) -> list[str]:
    """The classes of a summary, see `summarise`, ordered by their number of pixels in all splits, largest first."""
    splits = list(summary["splits"].values())
    names = list(splits[0]["classes"])
    return sorted(names, key=lambda name: -sum(s["classes"][name]["pixels"] for s in splits))


def warnings(summary: dict) -> list[str]:
    """A line for each split that lacks classes or has no labels at all, and one for the classes that all splits lack."""
    lines, missing = [], {}
    for split, values in summary["splits"].items():
        missing[split] = [name for name, c in values["classes"].items() if c["pixels"] == 0]
        if len(missing[split]) == len(values["classes"]):
            lines.append(f"{summary['data']} {split} has no labelled pixel")
            missing.pop(split)
    everywhere = set.intersection(*map(set, missing.values())) if missing else set()
    for split, names in missing.items():
        if only_here := [name for name in names if name not in everywhere]:
            lines.append(f"{summary['data']} {split} has no pixel of {shortened(only_here)}")
    if everywhere:
        text = shortened([name for name in values["classes"] if name in everywhere])
        lines.append(
            f"{summary['data']} has no pixel of {text} in any split: no image shows it, or it is a heading and not a class, or labels "
            "use another id or colour for it, or resizing has removed it"
        )
    return lines


def shortened(names: list[str]) -> str:
    """The first `NAMED` names as text, and the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _read(path, builder):
    """The summary in a file. ValueError: it is damaged, or of another data set."""
    summary = parse_json(read_bytes(path))
    try:
        table(summary)
        classes = [values for split in summary["splits"].values() for values in split["classes"].values()]
        valid = summary["splits"].keys() == builder.info.splits.keys() and all("area" in values for values in classes)
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid or not path.with_suffix(".png").exists():
        raise ValueError(f"{path} is damaged")
    return summary


def _of_split(counts, names):
    summary = _of_labels(counts, names)
    if counts.objects is not None:
        summary["objects"] = total = int(counts.objects.sum())
        for values, objects in zip(summary["classes"].values(), counts.objects.tolist(), strict=False):
            values |= {"objects": objects, "share": objects / total if total else None}
    return summary


def _of_labels(counts, names):
    labelled = int(counts.pixels[: len(names)].sum())
    total = int(counts.pixels.sum())
    return {
        "images": len(counts.sizes),
        "height": _spread(counts.sizes[:, 0]),
        "width": _spread(counts.sizes[:, 1]),
        "sizes": len(np.unique(counts.sizes, axis=0)),
        "ignored": 1 - labelled / total if total else None,
        "classes": {
            name: {
                "share": int(counts.pixels[k]) / labelled if labelled else None,
                "pixels": int(counts.pixels[k]),
                "images": int(counts.images[k]),
                "area": int(counts.areas[k]),
            }
            for k, name in enumerate(names)
        },
    }


def _spread(values):
    if not values.size:
        return {"min": None, "median": None, "max": None}
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _range(spread):
    """{'min': 10, 'median': 20.0, 'max': 30} → '10..20..30'."""
    if spread["min"] == spread["max"]:
        return "-" if spread["min"] is None else str(spread["min"])
    return f"{spread['min']}..{spread['median']:g}..{spread['max']}"


def _percent(share):
    """Three digits: 12.3 %, 0.0123 %."""
    if share is None:
        return "-"
    return f"{100 * share:.3g} %" if share == 0 or share >= 1e-6 else "< 0.0001 %"
