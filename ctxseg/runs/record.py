"""The files that an evaluation writes into a run's folder, for reports and comparisons.

results.json has the scores, and the run, data and protocol that they belong to. Of a semantic segmentation, samples.npz has the first few
images and those with the lowest IoU, with their labels, and images.npz the pixel counts of every image. Of an instance segmentation,
results.json has `task: instances`, and samples.npz has pictures with their objects and detections.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.files import is_number, parse_json, read_bytes, write_arrays, write_json

# The exceptions of NumPy for a damaged .npz.
DAMAGED = (EOFError, ValueError, TypeError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)

SEMANTIC, INSTANCES = "semantic", "instances"
# The kinds of pictures in samples.npz of a semantic segmentation.
SAMPLE, WORST = "sample", "worst"


class Instances(NamedTuple):
    """Objects or detections in a picture.

    Attributes:
        boxes: float32 `[n,4]`: left, top, right, bottom.
        classes: int `[n]`.
        masks: bool `[n,h,w]`.
        scores: float32 `[n]`; 1 for objects.
        crowd: bool `[n]`; False for detections.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray


class Picture(NamedTuple):
    """An image of the evaluation, or a part of one, maybe reduced, with its objects and detections.

    Attributes:
        name: name of the image.
        kind: empty for a sample; for an example of a miss, its kind, see `evaluation.misses`.
        image: uint8 `[h,w,3]`.
        objects: the truth.
        detections: highest score first.
    """

    name: str
    kind: str
    image: np.ndarray
    objects: Instances
    detections: Instances


def read_object(path) -> dict:
    """The object in a JSON file, {} if the file does not exist. UserError: it cannot be read, or is not an object."""
    try:
        value = parse_json(read_bytes(path))
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): remove it") from e
    return value


def read(folder) -> dict:
    """results.json of the run in `folder`, {} if it does not exist. UserError: it is damaged; names the first invalid entry."""
    path = epath.Path(folder) / "results.json"
    results = read_object(path)
    for key, valid in _validity(results).items():
        if not valid:
            raise UserError(f"{path} is damaged: {key}; evaluate again (--mode=evaluate)")
    return results


def write(
    folder,
    results: dict,
    samples: list[tuple],
    image_names: list[str],
    image_counts: np.ndarray,
    worst: Sequence[tuple] = (),
) -> None:
    """Writes the files of an evaluation into a run's folder; results.json last.

    Args:
        folder: of the run.
        results: contents of results.json.
        samples: (name, uint8 image `[h,w,3]`, labels `[h,w]`, prediction `[h,w]`).
        image_names: names of the N images of the split.
        image_counts: int32 `[N,K,3]`, see `metrics.image_counts`.
        worst: the images with the lowest IoU, as `samples`. An image may be in both.
    """
    folder = epath.Path(folder)
    pictures = [*samples, *worst]
    arrays = {
        "names": np.array([name for name, *_ in pictures], str),
        "kinds": np.array([SAMPLE] * len(samples) + [WORST] * len(worst), str),
    }
    for i, (_, image, label, prediction) in enumerate(pictures):
        arrays |= {f"image_{i}": image, f"label_{i}": label, f"prediction_{i}": prediction.astype(np.uint8)}
    write_arrays(folder / "samples.npz", arrays)
    write_arrays(folder / "images.npz", {"names": np.array(image_names), "counts": image_counts})
    write_json(folder / "results.json", results)


IOU = "IoU of "


def main_score(scores: Mapping, name: str = "") -> float | None:
    """The score that decides which of several networks is the best; None if it is undefined.

    Args:
        scores: of an evaluation.
        name: of the score, as in tables: "mean F1", "IoU of CLASS". "": mIoU, or the mask AP of instances.
    """
    if name.startswith(IOU):
        return scores["per_class_iou"].get(name.removeprefix(IOU))
    if name:
        return scores.get(name.replace(" ", "_"))
    return scores["mIoU"] if "mIoU" in scores else scores.get("mask_AP")


def write_instances(folder, results: dict, pictures: Sequence[Picture]) -> None:
    """Writes the files of an evaluation of an instance segmentation into a run's folder; results.json last.

    Args:
        folder: of the run.
        results: contents of results.json.
        pictures: samples and examples of misses.
    """
    folder = epath.Path(folder)
    arrays = {"names": np.array([p.name for p in pictures], str), "kinds": np.array([p.kind for p in pictures], str)}
    for i, picture in enumerate(pictures):
        arrays[f"image_{i}"] = picture.image
        for which in ("objects", "detections"):
            values = getattr(picture, which)._asdict()
            values["masks"] = np.packbits(values["masks"], axis=-1, bitorder="little")
            arrays |= {f"{which}_{key}_{i}": value for key, value in values.items()}
    write_arrays(folder / "samples.npz", arrays)
    write_json(folder / "results.json", results)


def read_pictures(folder, num_classes: int) -> list[Picture]:
    """The pictures in samples.npz of an instance segmentation of K classes; [] if it does not exist. UserError: it is damaged."""
    path = epath.Path(folder) / "samples.npz"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            return [
                _picture(arrays, i, str(name), str(kind), num_classes)
                for i, (name, kind) in enumerate(zip(arrays["names"], arrays["kinds"], strict=True))
            ]
    except FileNotFoundError:
        return []
    except (*DAMAGED, OSError) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again (--mode=evaluate)") from e


def _picture(arrays, i, name, kind, num_classes):
    """The i-th picture. ValueError: an array has another type or shape."""
    image = arrays[f"image_{i}"]
    _check_image(image)
    height, width = image.shape[:2]
    parts = []
    for which in ("objects", "detections"):
        values = {key: arrays[f"{which}_{key}_{i}"] for key in Instances._fields}
        count = len(values["classes"])
        shapes = {"boxes": (4,), "classes": (), "masks": (height, -(-width // 8)), "scores": (), "crowd": ()}
        kinds = {"boxes": "f", "classes": "iu", "masks": "u", "scores": "f", "crowd": "b"}
        for key, value in values.items():
            if value.dtype.kind not in kinds[key] or value.shape != (count, *shapes[key]):
                raise ValueError(f"the {key} of a picture have another type or shape")
        if not np.isin(values["classes"], np.arange(num_classes)).all() or not np.isfinite(values["boxes"]).all():
            raise ValueError("a class is not in results.json, or a box is not finite")
        masks = np.unpackbits(values["masks"], axis=-1, count=width, bitorder="little").view(bool)
        parts.append(Instances(**values | {"masks": masks}))
    return Picture(name, kind, image, *parts)


def read_samples(folder, kind: str = SAMPLE) -> dict[str, list[np.ndarray]]:
    """{name: [image, label, prediction]} of the pictures of a kind in samples.npz of a run's folder; {} if it does not exist.

    Files of older versions have no kinds: all their pictures are of the kind `SAMPLE`. UserError: it is damaged.
    """
    path = epath.Path(folder) / "samples.npz"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            names = arrays["names"]
            kinds = arrays["kinds"] if "kinds" in arrays else np.full(len(names), SAMPLE)
            if not np.isin(kinds, (SAMPLE, WORST)).all():
                raise ValueError("a picture is of an unknown kind")
            samples = {
                str(name): [arrays[f"{part}_{i}"] for part in ("image", "label", "prediction")]
                for i, (name, its_kind) in enumerate(zip(names, kinds, strict=True))
                if its_kind == kind
            }
        for image, *labels in samples.values():
            _check_image(image)
            if any(label.dtype.kind not in "iu" or label.shape != image.shape[:2] for label in labels):
                raise ValueError("a label map is not of integers, or does not have the size of its image")
        return samples
    except FileNotFoundError:
        return {}
    except (*DAMAGED, OSError) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again (--mode=evaluate)") from e


def _check_image(image):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError("an image is not uint8 [h,w,3]")


def read_image_counts(folder) -> tuple[list[str], np.ndarray] | None:
    """Sorted names `N` and counts int32 `[N,K,3]` of images.npz in a run's folder; None if it does not exist. UserError: it is damaged."""
    path = epath.Path(folder) / "images.npz"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            names, counts = [str(name) for name in arrays["names"]], arrays["counts"]
        if counts.dtype.kind != "i" or counts.shape[:1] + counts.shape[2:] != (len(names), 3):
            raise ValueError("names and counts do not match")
        if counts.size and counts.min() < 0:
            raise ValueError("a count is below 0")
    except FileNotFoundError:
        return None
    except (*DAMAGED, OSError) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again (--mode=evaluate)") from e
    # Images of one size are evaluated together, so the order depends on the protocol.
    order = np.argsort(names, kind="stable")
    return [names[i] for i in order], counts[order]


def headline_scores(results: Mapping) -> tuple[str, ...]:
    """The entries of results.json that stand above all others, the most important first."""
    if results.get("task") == INSTANCES:
        return ("mask_AP", "mask_AP50", "box_AP")
    return ("mIoU", "pixel_accuracy", "mean_accuracy")


def are_classes(names: Sequence[str], palette: Sequence, groups: Mapping) -> bool:
    """Whether these describe classes: distinct names, a colour for each or an empty palette, and groups that are lists of names."""
    return _are_names(names) and _is_palette(palette, names) and _are_groups(groups, names)


def is_dataset(value) -> bool:
    """Whether this describes a data set, as `provenance.describe` does: name, folder and fingerprint."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("name", "fingerprint"))
        and isinstance(value.get("folder", 0), str | None)
    )


def _validity(results):
    """{entry: whether it is valid, or missing}."""
    palette, matrix = results.get("palette", []), results.get("confusion", [])
    size = len(matrix) if isinstance(matrix, list) else 0
    names = results.get("class_names", [str(i) for i in range(size)])
    instances = results.get("task") == INSTANCES
    valid = {"task": results.get("task", SEMANTIC) in (SEMANTIC, INSTANCES)}
    valid |= {key: _is_score(results.get(key)) for key in headline_scores(results)}
    valid |= {key: _is_score(v) for key, v in results.items() if instances and key.startswith(("mask_", "box_"))}
    optional = ("mean_F1", "frequency_weighted_IoU", "boundary_IoU", "ECE", "averages_")
    valid |= {key: _is_score(v) for key, v in results.items() if key.startswith(optional)}
    valid |= {
        key: type(results.get(key, 0)) is int and is_number(results.get(key, 0), 0) for key in ("step", "parameters")
    }
    valid["seconds"] = is_number(results.get("seconds", 0), 0)
    valid["seconds_per_image"] = results.get("seconds_per_image") is None or is_number(results["seconds_per_image"], 0)
    valid["eval"] = isinstance(results.get("eval", {}), dict)
    valid["dataset"] = results.get("dataset") is None or is_dataset(results["dataset"])
    per_class = ("per_class_iou", "per_class_f1", "per_class_boundary_iou", "per_class_AP", "per_class_box_AP")
    for key in (*per_class, "group_iou"):
        scores = results.get(key, {})
        valid[key] = isinstance(scores, dict) and all(map(_is_score, scores.values()))
    valid["curves"] = _are_curves(results.get("curves", {}))
    valid["misses"] = _are_misses(results.get("misses", {}))
    for key, is_valid in (
        ("reliability", _is_reliability),
        ("by_distance", _is_by_distance),
        ("by_size", _is_by_size),
    ):
        valid[key] = key not in results or isinstance(results[key], dict) and is_valid(results[key])
    valid |= {key: isinstance(results.get(key, ""), str) for key in ("split", "protocol", "scored_at")}
    valid["class_names"] = _are_names(names)
    valid["palette"] = valid["class_names"] and _is_palette(palette, names)
    valid["groups"] = valid["class_names"] and _are_groups(results.get("groups", {}), names)
    valid["confusion"] = (
        isinstance(matrix, list)
        and size in (0, len(names or []))
        and all(isinstance(row, list) and len(row) == size for row in matrix)
        and all(type(n) is int and 0 <= n < 2**63 for row in matrix for n in row)
    )
    return valid


def _are_curves(curves):
    """Whether these are precisions at the recalls 0, .01, …, 1, or None."""
    return isinstance(curves, dict) and all(
        curve is None
        or isinstance(curve, list)
        and len(curve) == 101
        and all(p is not None and _is_score(p) for p in curve)
        for curve in curves.values()
    )


def _are_misses(misses):
    """Whether these are counts of misses by kind, of objects, and of objects that were found."""
    return isinstance(misses, dict) and all(
        type(n) is int and n >= 0
        for key in misses
        for n in (misses[key].values() if isinstance(misses[key], dict) else [misses[key]])
    )


def _is_reliability(value):
    """Whether these are the pixels of bins, and their mean confidence and accuracy or None."""
    pixels = value.get("pixels")
    means = [value.get(key) for key in ("confidence", "accuracy")]
    return _are_counts([pixels]) and all(
        isinstance(bins, list) and len(bins) == len(pixels) and all(map(_is_score, bins)) for bins in means
    )


def _is_by_distance(value):
    """Whether these are pixels up to each limit and beyond the last one, and how many of them are correct."""
    limits, pixels, correct = (value.get(key) for key in ("limits", "pixels", "correct"))
    return _are_limits(limits) and _are_counts([pixels, correct], len(limits) + 1) and _are_at_most(correct, pixels)


def _is_by_size(value):
    """Whether these are, for each class, regions up to each limit and beyond, their pixels, and how many of these are correct."""
    limits, *tables = (value.get(key) for key in ("limits", "regions", "pixels", "correct"))
    if not _are_limits(limits) or not all(isinstance(table, dict) for table in tables):
        return False
    _, pixels, correct = tables
    return (
        all(table.keys() == pixels.keys() for table in tables)
        and all(_are_counts(table.values(), len(limits) + 1) for table in tables)
        and all(_are_at_most(correct[name], pixels[name]) for name in pixels)
    )


def _are_limits(limits):
    """Whether this is a list of rising numbers."""
    return isinstance(limits, list) and all(map(is_number, limits)) and limits == sorted(set(limits))


def _are_counts(lists, length=None):
    """Whether these are lists of whole numbers of at least 0, and have a length, if one is given."""
    return all(
        isinstance(counts, list)
        and length in (None, len(counts))
        and all(type(n) is int and 0 <= n < 2**63 for n in counts)
        for counts in lists
    )


def _are_at_most(correct, pixels):
    return all(c <= n for c, n in zip(correct, pixels, strict=True))


def _is_score(value):
    return value is None or (is_number(value, 0) and value <= 1)


def _are_names(names):
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _is_palette(palette, names):
    return (
        isinstance(palette, list)
        and len(palette) in (0, len(names))
        and all(
            isinstance(colour, list) and len(colour) == 3 and all(type(v) is int and 0 <= v < 256 for v in colour)
            for colour in palette
        )
    )


def _are_groups(groups, names):
    return isinstance(groups, dict) and all(
        isinstance(group, list) and all(name in names for name in group) for group in groups.values()
    )
