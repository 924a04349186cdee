"""The files that an evaluation writes into a run's folder, for reports and comparisons.

results.json has the scores, and the run, data and protocol that they belong to. samples.npz has a few images with their labels,
images.npz the pixel counts of every image.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.files import is_number, parse_json, read_bytes, write_arrays, write_json

# The exceptions of NumPy for a damaged .npz.
DAMAGED = (EOFError, ValueError, TypeError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)


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


def write(folder, results: dict, samples: list[tuple], image_names: list[str], image_counts: np.ndarray) -> None:
    """Writes the files of an evaluation into a run's folder; results.json last.

    Args:
        folder: of the run.
        results: contents of results.json.
        samples: (name, uint8 image `[h,w,3]`, labels `[h,w]`, prediction `[h,w]`).
        image_names: names of the N images of the split.
        image_counts: int32 `[N,K,3]`, see `metrics.image_counts`.
    """
    folder = epath.Path(folder)
    arrays = {"names": np.array([name for name, *_ in samples])}
    for i, (_, image, label, prediction) in enumerate(samples):
        arrays |= {f"image_{i}": image, f"label_{i}": label, f"prediction_{i}": prediction.astype(np.uint8)}
    write_arrays(folder / "samples.npz", arrays)
    write_arrays(folder / "images.npz", {"names": np.array(image_names), "counts": image_counts})
    write_json(folder / "results.json", results)


def main_score(scores: Mapping) -> float | None:
    """The score that decides which of several networks is the best: mIoU, or the mask AP of instances; None if it is undefined."""
    return scores["mIoU"] if "mIoU" in scores else scores.get("mask_AP")


def read_samples(folder) -> dict[str, list[np.ndarray]]:
    """{name: [image, label, prediction]} of samples.npz in a run's folder; {} if it does not exist. UserError: it is damaged."""
    path = epath.Path(folder) / "samples.npz"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            kinds = ("image", "label", "prediction")
            samples = {str(name): [arrays[f"{k}_{i}"] for k in kinds] for i, name in enumerate(arrays["names"])}
        for image, *labels in samples.values():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError("an image is not uint8 [h,w,3]")
            if any(label.dtype.kind not in "iu" or label.shape != image.shape[:2] for label in labels):
                raise ValueError("a label map is not of integers, or does not have the size of its image")
        return samples
    except FileNotFoundError:
        return {}
    except (*DAMAGED, OSError) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again (--mode=evaluate)") from e


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
    valid = {key: _is_score(results.get(key)) for key in ("mIoU", "pixel_accuracy", "mean_accuracy")}
    valid |= {
        key: type(results.get(key, 0)) is int and is_number(results.get(key, 0), 0) for key in ("step", "parameters")
    }
    valid["seconds"] = is_number(results.get("seconds", 0), 0)
    valid["seconds_per_image"] = results.get("seconds_per_image") is None or is_number(results["seconds_per_image"], 0)
    valid["eval"] = isinstance(results.get("eval", {}), dict)
    valid["dataset"] = results.get("dataset") is None or is_dataset(results["dataset"])
    for key in ("per_class_iou", "group_iou"):
        scores = results.get(key, {})
        valid[key] = isinstance(scores, dict) and all(map(_is_score, scores.values()))
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
