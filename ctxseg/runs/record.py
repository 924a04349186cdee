"""What an evaluation leaves in a run's folder, written and read in one place for all that show or compare it.

results.json has the scores and what they are of; samples.npz a few images with their labels; images.npz the counts of every image.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.files import is_number, parse_json, read_bytes, write_arrays, write_json

# What NumPy raises for a damaged .npz.
DAMAGED = (EOFError, ValueError, TypeError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)


def read_object(path) -> dict:
    """The object in a JSON file, {} if there is no file. UserError: it cannot be read, or holds none."""
    try:
        value = parse_json(read_bytes(path))
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): remove it") from e
    return value


def read(folder) -> dict:
    """results.json of the run in `folder`, {} if there is none. UserError: it is damaged; the first entry that is not what it should be."""
    path = epath.Path(folder) / "results.json"
    results = read_object(path)
    for key, right in _rights(results).items():
        if not right:
            raise UserError(f"{path} is damaged: {key}; evaluate again (--mode=evaluate)")
    return results


def write(folder, results: dict, samples: list[tuple], image_names: list[str], image_counts: np.ndarray) -> None:
    """Writes what an evaluation found into a run's folder; results.json last.

    Args:
        folder: of the run.
        results: what results.json holds.
        samples: (name, uint8 image `[h,w,3]`, labels `[h,w]`, prediction `[h,w]`).
        image_names: of the N images of the split.
        image_counts: int32 `[N,K,3]`, see `metrics.image_counts`.
    """
    folder = epath.Path(folder)
    arrays = {"names": np.array([name for name, *_ in samples])}
    for i, (_, image, label, prediction) in enumerate(samples):
        arrays |= {f"image_{i}": image, f"label_{i}": label, f"prediction_{i}": prediction.astype(np.uint8)}
    write_arrays(folder / "samples.npz", arrays)
    write_arrays(folder / "images.npz", {"names": np.array(image_names), "counts": image_counts})
    write_json(folder / "results.json", results)


def read_samples(folder) -> dict[str, list[np.ndarray]]:
    """{name: [image, label, prediction]} of samples.npz in a run's folder; {} without it. UserError if it is damaged."""
    path = epath.Path(folder) / "samples.npz"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            kinds = ("image", "label", "prediction")
            samples = {str(name): [arrays[f"{k}_{i}"] for k in kinds] for i, name in enumerate(arrays["names"])}
        for image, *labels in samples.values():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError("an image is not of pixels in three channels of 8 bits")
            if any(label.dtype.kind not in "iu" or label.shape != image.shape[:2] for label in labels):
                raise ValueError("a label map is not of whole numbers, or not of the size of its image")
        return samples
    except FileNotFoundError:
        return {}
    except (*DAMAGED, OSError) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again") from e


def read_image_counts(folder) -> tuple[list[str], np.ndarray] | None:
    """Names `N`, sorted, and counts int32 `[N,K,3]` of images.npz in a run's folder; None without it. UserError if it is damaged."""
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
    # Images of one size are evaluated together: another protocol, another order.
    order = np.argsort(names, kind="stable")
    return [names[i] for i in order], counts[order]


def are_classes(names: Sequence[str], palette: Sequence, groups: Mapping) -> bool:
    """Whether these are classes: names that differ, a colour for each or none at all, and lists of some of them in groups."""
    return _are_names(names) and _is_palette(palette, names) and _are_groups(groups, names)


def is_dataset(found) -> bool:
    """Whether this says what data a run is of, as `provenance.describe` does: name, folder and fingerprint."""
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(key), str) for key in ("name", "fingerprint"))
        and isinstance(found.get("folder", 0), str | None)
    )


def _rights(results):
    """{entry: whether it is what it should be, or missing}."""
    palette, matrix = results.get("palette", []), results.get("confusion", [])
    size = len(matrix) if isinstance(matrix, list) else 0
    names = results.get("class_names", [str(i) for i in range(size)])
    rights = {key: _is_score(results.get(key)) for key in ("mIoU", "pixel_accuracy", "mean_accuracy")}
    rights |= {
        key: type(results.get(key, 0)) is int and is_number(results.get(key, 0), 0) for key in ("step", "parameters")
    }
    rights["seconds"] = is_number(results.get("seconds", 0), 0)
    rights["seconds_per_image"] = results.get("seconds_per_image") is None or is_number(results["seconds_per_image"], 0)
    rights["eval"] = isinstance(results.get("eval", {}), dict)
    rights["dataset"] = results.get("dataset") is None or is_dataset(results["dataset"])
    for key in ("per_class_iou", "group_iou"):
        of = results.get(key, {})
        rights[key] = isinstance(of, dict) and all(map(_is_score, of.values()))
    rights |= {key: isinstance(results.get(key, ""), str) for key in ("split", "protocol", "scored_at")}
    rights["class_names"] = _are_names(names)
    rights["palette"] = rights["class_names"] and _is_palette(palette, names)
    rights["groups"] = rights["class_names"] and _are_groups(results.get("groups", {}), names)
    rights["confusion"] = (
        isinstance(matrix, list)
        and size in (0, len(names or []))
        and all(isinstance(row, list) and len(row) == size for row in matrix)
        and all(type(n) is int and 0 <= n < 2**63 for row in matrix for n in row)
    )
    return rights


def _is_score(value):
    return value is None or (is_number(value, 0) and value <= 1)


def _are_names(names):
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _is_palette(palette, names):
    return (
        isinstance(palette, list)
        and len(palette) in (0, len(names))
        and all(
            isinstance(c, list) and len(c) == 3 and all(type(v) is int and 0 <= v < 256 for v in c) for c in palette
        )
    )


def _are_groups(groups, names):
    return isinstance(groups, dict) and all(
        isinstance(of, list) and all(name in names for name in of) for of in groups.values()
    )
