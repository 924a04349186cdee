"""Labels a photograph of any size with an exported segmenter.

    python run.py SEGMENTER.zip PHOTO LABELS.png

Needs jax, flatbuffers, numpy and pillow, and scikit-image if it takes super-pixels.
"""

import io
import json
import sys
import zipfile
from functools import partial

import jax
import numpy as np
from jax import export
from PIL import Image

MEAN = (124, 116, 104)  # around an image in its padding, where no network looks


def load(path):
    """Returns the network, as classes.json describes it but for the weights, and what classes.json says."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("classes.json"))
            exported = export.deserialize(bytearray(archive.read("model.jax")))
            with np.load(io.BytesIO(archive.read("weights.npz"))) as weights:
                weights = jax.device_put(dict(weights))
    except Exception as e:
        sys.exit(f"error: {path} cannot be read as an exported segmenter: {e}")
    sys.path.insert(0, path)  # the other files of the archive
    return partial(jax.jit(exported.call), weights), about


def predict(network, about, image):
    """Class probabilities of an image of any size: uint8 [H,W,3] → float32 [H,W,K]. Each padded shape is compiled once."""
    from sizes import base_size_of, bucket

    size = height, width = image.shape[:2]
    inputs = [_padded(image, MEAN), np.array([size], np.int32)]
    if about["superpixels"]:
        from superpixels import compute, stack

        inputs.append(_padded(stack([compute(image, view) for view in about["superpixels"]]), -1))
    if len(about["base_size"]) == 1:
        inputs.append(np.zeros([bucket(n) for n in base_size_of(size, about["base_size"])], bool))
    probabilities = network(*inputs)
    if about["crf"]:
        from crf import mean_field

        mask = _padded(np.ones(size, bool), False)
        probabilities = mean_field(probabilities, inputs[0], mask=mask, **about["crf"])
    return np.asarray(probabilities)[0, :height, :width]


def _padded(array, value):
    """[H,W,…] → [1,32·h,32·w,…]."""
    from sizes import bucket

    height, width, *rest = array.shape
    padded = np.empty((1, bucket(height), bucket(width), *rest), array.dtype)
    padded[:] = value
    padded[0, :height, :width] = array
    return padded


def main(path, photo, output):
    network, about = load(path)
    from images import read
    from sizes import base_size_of, labels_at, too_large

    try:
        image, size = read(photo, about["max_pixels"])
    except Exception as e:
        sys.exit(f"error: {photo} cannot be read as an image: {e}")
    wrong = too_large(image.shape[:2], about["base_size"], about["max_pixels"])
    if max(*image.shape[:2], *base_size_of(image.shape[:2], about["base_size"])) > about["longest"]:
        wrong = f"it is longer than {about['longest']} pixels: cut it up"
    if wrong:
        sys.exit(f"error: {photo}: {wrong}")
    labels = labels_at(predict(network, about, image), size)
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
