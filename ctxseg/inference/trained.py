"""`ctxseg.load`: a trained segmenter or detector in Python."""

import os
import re
from functools import partial

import jax
import numpy as np
from etils import epath
from PIL import Image
from pycocotools import mask as run_lengths

from ctxseg.data import images, instance_transforms, sizes, superpixels
from ctxseg.errors import UserError, one_line
from ctxseg.files import check_reachable, check_regular
from ctxseg.inference import crf, exported
from ctxseg.inference.instances import create_finder
from ctxseg.inference.probabilities import at_base_size, create_predictor
from ctxseg.inference.protocol import superpixel_views
from ctxseg.runs import checkpoints, provenance, workdir


def load(
    path: str | os.PathLike, checkpoint: int | str | None = None
) -> "TrainedSegmenter | TrainedDetector | ExportedSegmenter":
    """Loads a trained network: a detector if the run is one of instance segmentation, else a segmenter.

    Args:
        path: the folder of a run, RUN/checkpoints/STEP, or an export (`--mode=export`).
        checkpoint: for a run: a step; `best`, the checkpoint with the highest score, that of `config.train.best`; or None, the newest.

    Raises:
        UserError: there is no run or export at `path`, or no such checkpoint.
    """
    check_reachable(path)
    location = epath.Path(path).expanduser()
    if location.is_file():
        return ExportedSegmenter(location)
    if match := re.fullmatch(r"(?:(.*)[/\\])?checkpoints[/\\](\d{1,18})", str(location)):
        location, checkpoint = epath.Path(match[1] or "."), int(match[2])
    config = workdir.read_config(str(location))
    trained = TrainedSegmenter if config.model.detector.name == "none" else TrainedDetector
    return trained(location, config, checkpoint)


class _Trained:
    """The network of a run, on one device."""

    def __init__(self, folder: epath.Path, config, checkpoint: int | str | None = None):
        metadata = provenance.metadata(config, str(folder))
        self.config = config
        self.model, state = checkpoints.restore_run(config, str(folder), checkpoint)
        self.variables = state.variables
        self.class_names = list(metadata["class_names"])
        self.palette = [tuple(colour) for colour in metadata["palette"]]


class TrainedDetector(_Trained):
    """The detector of a run, on one device.

    Attributes:
        class_names: names by class id.
        palette: RGB colours, 0 to 255, by class id.
        config: config of the run.
        model: a flax.linen module, see `models.detectors.mask_rcnn`.
        variables: its variables: `params` and `batch_stats`.
    """

    def __init__(self, folder: epath.Path, config, checkpoint: int | str | None = None):
        super().__init__(folder, config, checkpoint)
        resize = partial(instance_transforms.resized, base_size=tuple(config.eval.size), max_side=config.data.max_side)
        self._find = create_finder(self.model, resize)

    def predict(self, image) -> dict:
        """The objects of an image, best first, at its size; the same as from `--mode=predict`.

        Args:
            image: uint8 RGB `[H,W,3]`, a PIL image, or a path. Files and PIL images are converted to upright RGB, see `data/images.py`.

        Returns:
            `boxes` float32 `[n,4]`, (left, top, right, bottom) in pixels; `scores` float32 `[n]`; `classes` int32 `[n]`; `masks` bool
            `[n,H,W]`.

        Raises:
            UserError: `image` is not an image, there is no such file, or the image is too large at `config.eval.size`.
        """
        fields = self.config.eval
        pixels, size = read(image, fields.max_pixels)
        if reason := sizes.too_large(pixels.shape[:2], fields.size, fields.max_pixels, self.config.data.max_side):
            raise UserError(f"the image: {reason}")
        found = self._find(self.variables, pixels, size)
        decoded = [run_lengths.decode(mask).astype(bool) for mask in found["masks"]]
        return found | {"masks": np.stack(decoded) if decoded else np.zeros((0, *size), bool)}


class TrainedSegmenter(_Trained):
    """The segmenter of a run, on one device.

    Attributes:
        class_names: names by class id.
        palette: RGB colours, 0 to 255, by class id.
        config: config of the run.
        model: a flax.linen module: `model.apply(variables, images)`, see `models.segmenter`.
        variables: its variables: `params`, `batch_stats`, `memory`, …
    """

    def __init__(self, folder: epath.Path, config, checkpoint: int | str | None = None):
        super().__init__(folder, config, checkpoint)
        self._predictor = create_predictor(self.model, self.config.eval, self.class_names)
        self._apply = jax.jit(lambda variables, x, regions: self.model.apply(variables, x, regions).features)

    def predict(self, image) -> np.ndarray:
        """Class ids, uint8 `[H,W]`, at the size of the image; the same as from `--mode=predict`.

        Args:
            image: uint8 RGB `[H,W,3]`, a PIL image, or a path. Files and PIL images are converted to upright RGB, see `data/images.py`.

        Raises:
            UserError: `image` is not an image, or there is no such file.
        """
        pixels, size = read(image, self.config.eval.max_pixels)
        return sizes.labels_at(self.probabilities(pixels), size)

    def probabilities(self, image) -> np.ndarray:
        """Class probabilities, float32 `[H,W,K]`. Arguments and errors are those of `predict`.

        An image with more than `config.eval.max_pixels` pixels is reduced to that number, and so are its probabilities.
        """
        pixels, _ = read(image, self.config.eval.max_pixels)
        if reason := sizes.too_large(pixels.shape[:2], self.config.eval.size, self.config.eval.max_pixels):
            raise UserError(f"the image: {reason}")
        return self._predictor(self.variables, pixels[None], self._regions(pixels))[0]

    def features(self, image) -> dict[str, np.ndarray]:
        """The feature maps of the network, {name: float32 `[h,w,C]`}: those of the backbone, and `context`, the input of the classifier.

        The image has its base size (`config.eval.size`) and scale 1. Each image size is compiled once. Arguments are as in `predict`.
        """
        pixels, _ = read(image, self.config.eval.max_pixels)
        regions = self._regions(pixels)
        x, ids = at_base_size(pixels[None], None if regions is None else regions[..., 0], tuple(self.config.eval.size))
        maps = self._apply(self.variables, x, ids)
        return {name: np.asarray(values[0], np.float32) for name, values in maps.items() if name != "pixels"}

    def _regions(self, pixels):
        """Super-pixels of an image, int32 `[1,h,w,S]`, or None if the network does not use them."""
        if not self.config.data.superpixels:
            return None
        return superpixels.stack([superpixels.compute(pixels, view) for view in superpixel_views(self.config)])[None]


class ExportedSegmenter:
    """The segmenter of an archive that `--mode=export` has written. Arguments and errors are those of `TrainedSegmenter`.

    It has no `features`, because an export is a function from images to probabilities.
    """

    def __init__(self, path: epath.Path):
        try:
            with path.open("rb") as file:
                self._network, self._about = exported.load(file)
            self.class_names, self.palette = self._about["class_names"], [tuple(c) for c in self._about["palette"]]
        except Exception as e:  # zip, JSON, NumPy and JAX raise many types on damaged files
            raise UserError(f"{path} is neither the folder of a run nor a readable export: {one_line(e)}") from e

    def predict(self, image) -> np.ndarray:
        """Class ids, uint8 `[H,W]`."""
        pixels, size = read(image, self._about["max_pixels"])
        return sizes.labels_at(self.probabilities(pixels), size)

    def probabilities(self, image) -> np.ndarray:
        """Class probabilities, float32 `[H,W,K]`."""
        pixels, _ = read(image, self._about["max_pixels"])
        if reason := exported.unfit(pixels.shape[:2], self._about, sizes):
            raise UserError(f"the image: {reason}")
        return exported.predict(self._network, self._about, pixels, sizes, superpixels, crf)


def read(image, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An array, a PIL image or a file as upright uint8 `[h,w,3]` of at most `max_pixels`, and its full height and width.

    Raises:
        UserError: no such file, not a regular one, or not an image.
    """
    if isinstance(image, str | os.PathLike):
        check_regular(image)
        try:
            return images.read(image, max_pixels)
        except Exception as e:  # Pillow raises many types on damaged files
            raise UserError(f"{os.fspath(image)} cannot be read: {images.reason(e)}") from e
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"expected an image, uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
        image = Image.fromarray(image)
    return images.as_rgb(image, max_pixels)
