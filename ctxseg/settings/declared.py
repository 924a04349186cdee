"""The fields of a config that belong to no module: defaults, values they may have, and in the docstrings what they mean.

`collect.py` makes the config of these and of the modules' own fields. Where a field can be off, it is `none` on the command line:
0 of a number, () of a list.
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from ctxseg.bounds import OFF, Amount, Bound, Count, Factor, Portion, Whole, check


@dataclass
class RunFields:
    """Of the run.

    Attributes:
        system: the config file's name, for titles and the default work directory.
        seed: of initial weights, the order of images, and augmentation.
    """

    system: str = ""
    seed: Annotated[int, Bound(least=0, below=2**32)] = 0


@dataclass
class ModelFields:
    """Of the network as a whole.

    Attributes:
        dtype: of the computation; parameters are always float32.
        frozen: prefixes of the names of parameters that are not trained, "backbone/res2" say.
        kernel_std: standard deviation of the normal initial kernels of vgg16's conv6 and conv7 and of convolutions after the backbone;
            none: He's initial kernels.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    frozen: tuple = ()
    kernel_std: Annotated[Amount, OFF] = 0.0


@dataclass
class LossFields:
    """Weights are relative to the loss of the scores.

    Attributes:
        name: of the loss of the scores at pixels, or package.module:function.
        auxiliary: weight of auxiliary classifiers: ocr's soft regions, mcibi's class distributions (its α).
        heads: weight of the auxiliary heads of config.model.auxiliary.
        memory: mcibi: weight of representation consistent learning (its β).
        scales: weight of the extra supervision of each scale's own scores.
    """

    name: str = "cross_entropy"
    auxiliary: Annotated[Amount, OFF] = 0.4
    heads: Annotated[Amount, OFF] = 0.4
    memory: Annotated[Amount, OFF] = 1.0
    scales: Annotated[Amount, OFF] = 1.0


@dataclass
class DataFields:
    """Of the data set and its augmentation.

    Attributes:
        name: a key of ctxseg.data.DATASETS (folder: your own images), or package.module:Class.
        data_dir: where prepared data sets are kept.
        manual_dir: the data set as its makers publish it; not needed for scenes, nor for a data set that is prepared or downloaded.
        superpixels: super-pixels of an image at most, by SLIC, for msci: 1000 for photographs.
        base_size: to which images are resized first: (shorter side,), (height, width); none: their own size.
        crop: height, width of a training crop.
        padding: what surrounds an image smaller than the crop: ignored pixels, or its mirror image.
        flip: mirror one image in two horizontally; classes named left … and right … change places.
        scale_range: lowest and highest factor of random scaling, of the base size.
        rotate: largest angle of random rotation, degrees either way.
        rotate_share: share of the images that are rotated.
        brightness: colour jitter: a factor in 1 ± this.
        contrast: likewise.
        saturation: likewise.
        hue: shift by at most this share of the colour circle.
        threads: that read and augment.
    """

    name: str = "scenes"
    data_dir: str = "~/.cache/ctxseg"
    manual_dir: str | None = None
    superpixels: Annotated[int, OFF] = 0
    base_size: Annotated[tuple, OFF] = ()
    crop: tuple[int, int] = (128, 128)
    padding: Literal["ignore", "reflect"] = "ignore"
    flip: bool = True
    scale_range: tuple[float, float] = (1.0, 1.0)
    rotate: Annotated[float, OFF] = 0.0
    rotate_share: float = 1.0
    brightness: Annotated[float, OFF] = 0.0
    contrast: Annotated[float, OFF] = 0.0
    saturation: Annotated[float, OFF] = 0.0
    hue: Annotated[float, OFF] = 0.0
    threads: Annotated[int, Bound(least=0, most=1000)] = 2


@dataclass
class TrainFields:
    """Of training.

    Attributes:
        split: of the data set; several as "fold1+fold2".
        steps: optimiser updates.
        batch_size: images a step, over all devices.
        log_every: steps between lines of the log.
        loggers: besides metrics.jsonl: tensorboard, or package.module:Class.
        eval_every: steps between evaluations on the validation split; none: at the end alone.
        checkpoint_every: steps between checkpoints.
        keep: how many of the last checkpoints are kept, besides the best one.
    """

    split: str = "train"
    steps: Annotated[int, Bound(least=1, most=2**31 - 1)] = 600  # counted in 32 bits
    batch_size: Count = 16
    log_every: Whole = 20
    loggers: tuple = ("tensorboard",)
    eval_every: Annotated[Whole, OFF] = 0
    checkpoint_every: Whole = 200
    keep: Count = 2


@dataclass
class OptimizerFields:
    """Of the optimiser and its schedule.

    Attributes:
        name: sgd, or package.module:function.
        learning_rate: the highest of the run.
        momentum: of SGD; Attention to Scale's, the other papers give none.
        nesterov: Nesterov's momentum.
        weight_decay: L2, on kernels alone; Attention to Scale's and MCIBI's, the others give none.
        rates: factors of the learning rate by prefixes of parameters' names: "classifier/scores=10".
        clip_norm: global norm that gradients are clipped to.
        schedule: of the learning rate.
        warmup_steps: linear, from 0.
        poly_power: of (1 - t/T)^power.
        step_boundaries: steps at which the rate is multiplied by step_factor.
        step_factor: see step_boundaries.
    """

    name: str = "sgd"
    learning_rate: Amount = 0.01
    momentum: Annotated[Portion, OFF] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[Amount, OFF] = 5e-4
    rates: tuple = ()
    clip_norm: Annotated[Amount, OFF] = 0.0
    schedule: Literal["poly", "step", "constant"] = "poly"
    warmup_steps: Annotated[Whole, OFF] = 0
    poly_power: Amount = 0.9
    step_boundaries: tuple = ()
    step_factor: Amount = 0.1


@dataclass
class EvalFields:
    """Of testing.

    Attributes:
        split: of the data set.
        data: a prepared data set of the same classes to test on, or other data of data.name; "": what the run was trained on.
        batch_size: images of one size a step, over all devices.
        samples: images shown in the report.
        scales: factors of an image's height and width, over which probabilities are averaged.
        superpixels: at other scales than 1: image, those of the image, resized with it; scale, of the resized image; scale_by_area,
            likewise, s² times as many.
        flip: the mirror image counts as much as the image.
        size: as data.base_size, in testing; unless it is given, that of training.
        score: where size is given: at the labels' own size, or resized as the image is.
        window: height, width of a sliding window; none: the whole image at once.
        stride: of the window, as a share of it.
        crf_images: images of the split that --mode=crf tries parameters on.
        max_pixels: predict: a larger image is labelled at this size, and the labels resized to its own.
        shapes: buckets, padded to one of few shapes, each compiled once; or exact, each size is compiled.
    """

    split: str = "val"
    data: str = ""
    batch_size: Count = 8
    samples: Annotated[Whole, OFF] = 8
    scales: Sequence[Factor] = (1.0,)
    superpixels: Literal["image", "scale", "scale_by_area"] = "image"
    flip: bool = False
    size: Annotated[tuple, OFF] = ()
    score: Literal["original", "resized"] = "original"
    window: Annotated[tuple, OFF] = ()
    stride: Annotated[float, Bound(above=0, most=1)] = 2 / 3
    crf_images: Count = 50
    max_pixels: Count = 4_000_000
    shapes: Literal["buckets", "exact"] = "buckets"


@dataclass
class CRFFields:
    """Of a fully connected CRF over the probabilities. The papers give no values: these are near DeepLab's.

    Attributes:
        iterations: of its mean field; 10 is usual.
        spatial_weight: of the spatial kernel.
        spatial_sigma: of the spatial kernel, pixels.
        bilateral_weight: of the bilateral kernel.
        bilateral_sigma: of the bilateral kernel's positions, pixels.
        colour_sigma: of the bilateral kernel's colours, of 0..255.
    """

    iterations: Annotated[Whole, OFF] = 0
    spatial_weight: Amount = 3.0
    spatial_sigma: Annotated[float, Bound(least=0.1)] = 3.0
    bilateral_weight: Amount = 4.0
    bilateral_sigma: Annotated[float, Bound(least=0.1)] = 67.0
    colour_sigma: Annotated[float, Bound(least=0.1)] = 4.0


@dataclass
class ComplexityFields:
    """Of --mode=complexity.

    Attributes:
        input: images, height, width and channels of the map that each context reads.
        channels: of each context.
        contexts: names of rows: contexts, dca, "aspp + dca"; (): all.
        repeats: timed executions; none: operations are counted, and nothing is executed.
    """

    input: tuple[int, int, int, int] = (1, 128, 128, 2048)
    channels: Count = 512
    contexts: tuple = ()
    repeats: Annotated[Whole, OFF] = 5


SECTIONS: dict[str, type] = {
    "": RunFields,
    "model": ModelFields,
    "loss": LossFields,
    "data": DataFields,
    "train": TrainFields,
    "optimizer": OptimizerFields,
    "eval": EvalFields,
    "eval.crf": CRFFields,
    "complexity": ComplexityFields,
}


def annotations(path: str) -> dict:
    """{field: its annotation} of a section, `optimizer` say."""
    found = typing.get_type_hints(SECTIONS[path], include_extras=True)
    if path == "data":  # the augmentation knows what values its fields may have
        from ctxseg.data.transforms import Augmentation  # here, as it takes seconds

        own = typing.get_type_hints(Augmentation, include_extras=True)
        found |= {name: own[name] for name in found if name in own}
    return found


def check_section(path: str, section) -> None:
    """Checks the fields of a section, `optimizer` say. UserError for the first value that a field cannot have."""
    for name, annotation in annotations(path).items():
        check(f"{path}.{name}" if path else name, section[name], annotation)


def check_all(config) -> None:
    """`check_section` of all sections of a config."""
    for path in SECTIONS:
        section = config
        for key in filter(None, path.split(".")):
            section = section[key]
        check_section(path, section)
