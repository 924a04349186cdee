"""Label maps and overlays of the user's images, as files."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from ctxseg.data import superpixels
from ctxseg.data.colours import colourise
from ctxseg.data.sizes import labels_at, too_large
from ctxseg.inference.predict import Prediction
from ctxseg.inference.probabilities import create_predictor
from ctxseg.inference.protocol import superpixel_views
from ctxseg.runs import checkpoints, provenance


def suffixes(probabilities: bool) -> list[str]:
    """Ends of the names of the files of an image; the last one marks complete results."""
    return ["_overlay.jpg", *["_probabilities.npz"] * probabilities, ".png"]


def create_prediction(config, folder: str, checkpoint, probabilities: bool) -> Prediction:
    """Labels images by the protocol of `config.eval`, which includes the base size `eval.size`.

    - NAME.png: class ids at the image's size, with the data set's palette;
    - NAME_overlay.jpg: the image blended with the label colours, reduced to `eval.max_pixels` if it is larger;
    - NAME_probabilities.npz, if requested: `probabilities`, float16 `[h,w,K]`, at the size of the overlay.

    Args:
        config: config of the run.
        folder: folder of the run.
        checkpoint: see `checkpoints.restore_run`.
        probabilities: whether probabilities are requested.

    Raises:
        UserError: there is no such checkpoint; the config differs from the run's.
    """
    metadata = provenance.metadata(config, folder)
    probabilities_of = create_image_predictor(config, folder, checkpoint)

    def predict(name, image, size):
        p = probabilities_of(image)
        if isinstance(p, str):
            return p
        files = {
            ".png": _label_map(p, size, metadata["palette"]),
            "_overlay.jpg": _overlay(image, p, metadata["palette"]),
        }
        if probabilities:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=p.astype(np.float16))
            files["_probabilities.npz"] = buffer.getvalue()
        return files

    return predict


def create_image_predictor(config, folder: str, checkpoint) -> Callable[[np.ndarray], np.ndarray | str]:
    """uint8 image `[h,w,3]` → its probabilities, float32 `[h,w,K]`, by the protocol of `config.eval`; or the reason why there are none.

    Arguments and errors are those of `create_prediction`.
    """
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    predictor = create_predictor(model, config.eval, provenance.metadata(config, folder)["class_names"])

    def probabilities_of(image):
        if reason := too_large(image.shape[:2], config.eval.size, config.eval.max_pixels):
            return reason
        regions = None
        if config.data.superpixels:
            views = [superpixels.compute(image, view) for view in superpixel_views(config)]
            regions = superpixels.stack(views)[None]
        return predictor(state.variables, image[None], regions)[0]

    return probabilities_of


def _label_map(p, size, palette):
    picture = Image.fromarray(labels_at(p, size))
    picture.putpalette([channel for colour in palette for channel in colour])
    return encoded(picture, "PNG")


def _overlay(image, p, palette):
    colours = colourise(p.argmax(-1).astype(np.uint8), palette)
    return encoded(Image.fromarray(((image.astype(np.uint16) + colours) // 2).astype(np.uint8)), "JPEG", quality=90)


def encoded(picture: Image.Image, file_format: str, **options) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
