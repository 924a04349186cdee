"""Labels a photograph of any size with an exported segmenter.

    python run.py SEGMENTER.zip PHOTO LABELS.png

Needs jax, flatbuffers, numpy and pillow, and scikit-image if it uses super-pixels.
"""

import importlib
import io
import json
import sys
import zipfile
from functools import partial

import jax
import numpy as np
from jax import export
from PIL import Image

MEAN = (124, 116, 104)  # colour of the padding; it does not affect the result


def load(path):
    """Returns the network and the contents of classes.json, which lists its arguments. The weights are already bound."""
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("classes.json"))
        exported = export.deserialize(bytearray(archive.read("model.jax")))
        with np.load(io.BytesIO(archive.read("weights.npz"))) as weights:
            weights = jax.device_put(dict(weights))
    return partial(jax.jit(exported.call), weights), about


def unfit(size, about, sizes):
    """The reason why an image of this height and width cannot be labelled, or None. `sizes` is the module sizes.py of the archive."""
    if max(*size, *sizes.base_size_of(size, about["base_size"])) > about["longest"]:
        return f"it is longer than {about['longest']} pixels: cut it into parts"
    return sizes.too_large(size, about["base_size"], about["max_pixels"])


def predict(network, about, image, sizes, superpixels=None, crf=None):
    """Class probabilities of an image of any size: uint8 [H,W,3] → float32 [H,W,K]. Each padded shape is compiled once.

    `sizes`, `superpixels` and `crf` are the archive's modules of these names, None if the archive does not have them.
    """
    size = height, width = image.shape[:2]

    def padded(array, value):
        """[H,W,…] → [1,32·h,32·w,…]."""
        shape = (1, sizes.bucket(height), sizes.bucket(width), *array.shape[2:])
        filled = np.full(shape, value, array.dtype)
        filled[0, :height, :width] = array
        return filled

    inputs = [padded(image, MEAN), np.array([size], np.int32)]
    if about["superpixels"]:
        regions = [superpixels.compute(image, view) for view in about["superpixels"]]
        inputs.append(padded(superpixels.stack(regions), -1))
    if len(about["base_size"]) == 1:
        inputs.append(np.zeros([sizes.bucket(n) for n in sizes.base_size_of(size, about["base_size"])], bool))
    probabilities = network(*inputs)
    if about["crf"]:
        probabilities = crf.mean_field(
            probabilities, inputs[0], mask=padded(np.ones(size, bool), False), **about["crf"]
        )
    return np.asarray(probabilities)[0, :height, :width]


def main(path, photo, output):
    try:
        network, about = load(path)
    except Exception as e:
        sys.exit(f"error: {path} cannot be read as an exported segmenter: {e}")
    sys.path.insert(0, path)  # the other files of the archive
    sizes, images = importlib.import_module("sizes"), importlib.import_module("images")
    modules = [importlib.import_module(name) if about[name] else None for name in ("superpixels", "crf")]
    try:
        image, size = images.read(photo, about["max_pixels"])
    except Exception as e:
        sys.exit(f"error: {photo} cannot be read as an image: {e}")
    if reason := unfit(image.shape[:2], about, sizes):
        sys.exit(f"error: {photo}: {reason}")
    labels = sizes.labels_at(predict(network, about, image, sizes, *modules), size)
    result = Image.fromarray(labels)
    result.putpalette(sum(about["palette"], []))
    try:
        result.save(output)
    except (OSError, ValueError) as e:
        sys.exit(f"error: {output} cannot be written: {e}")
    for name, count in zip(about["class_names"], np.bincount(labels.ravel(), minlength=256), strict=False):
        if count:
            print(f"{name:24} {count / labels.size:7.2%}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
