"""The fields of a config that belong to no module: their defaults, allowed values and, in the docstrings, meanings.

`collect.py` builds the config from these and the modules' fields. On the command line, `none` turns off a field that is marked `OFF`: it
stands for 0 or ().
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from ctxseg.bounds import OFF, Amount, Bound, Count, Factor, Portion, Whole, check


@dataclass
class RunFields:
    """The run.

    Attributes:
        system: name of the config file, for titles and the default work directory.
        seed: random seed of initial weights, image order and augmentation.
    """

    system: str = ""
    seed: Annotated[int, Bound(minimum=0, below=2**32)] = 0


@dataclass
class ModelFields:
    """The network as a whole.

    Attributes:
        dtype: type of the network's computation; parameters, losses, batch statistics and the memory are always float32.
        pretrained: weights to start from: a file, a run (RUN or RUN/checkpoints/STEP), an export, or an installed set: efficientnet_lite0.
        frozen: name prefixes of parameters that pretrained weights fill and that are not trained, such as "backbone/res2"; * stands for
            any text: "backbone/*/norm" is the batch normalisation of the backbone.
        kernel_std: standard deviation of the normal distribution that initialises the kernels of vgg16's conv6 and conv7 and of
            convolutions after the backbone; none: He initialisation.
        remat: what the backward pass computes again, in place of keeping it in memory. blocks: the blocks of the backbone; all: also the
            context and the other stages. The results are the same but for rounding.
        downsample: a 3×3 convolution of stride 2, with normalisation and ReLU, halves the backbone's last map, before context and memory
            read it. MCIBI's published runs on HRNet have it.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    pretrained: Annotated[str | None, OFF] = None
    frozen: Annotated[tuple, OFF] = ()
    kernel_std: Annotated[Amount, OFF] = 0.0
    remat: Literal["none", "blocks", "all"] = "none"
    downsample: bool = False


@dataclass
class LossFields:
    """The loss. Weights are relative to the main loss.

    Attributes:
        name: the main loss: cross_entropy, focal, dice, lovasz, ohem, or package.module:function; also a sum with weights, such as
            cross_entropy+0.5*dice.
        auxiliary_name: the loss of auxiliary scores, of auxiliary heads and of the scores of each scale, as name; default: name.
        class_weights: weights of the classes, in cross_entropy and focal: one number for each; or frequency: the median frequency of the
            classes in the training split, divided by that of the class; none: 1.
        smoothing: label smoothing of cross_entropy: the share of the target that all classes have in equal parts.
        focal_gamma: exponent of focal.
        ohem_threshold: probability of its class up to which a pixel is hard, in ohem.
        ohem_least: the least number of pixels of a batch, or of a micro-batch on all devices, that ohem counts; if fewer are hard, those
            with the largest losses.
        auxiliary: weight of the auxiliary scores of ocr's soft regions and of mcibi's class distributions (its α).
        heads: weight of the auxiliary heads of config.model.auxiliary.
        memory: weight of mcibi's representation consistent learning (its β).
        scales: weight of the extra supervision of the scores of each scale.
        rpn_class: weight of a detector's loss of the scores of anchors.
        rpn_box: weight of a detector's loss of the deltas of anchors.
        rpn_box_beta: where this smooth-L1 loss turns from a parabola into a line; 0, as in detectron2: a line everywhere; Detectron and
            torchvision: 1/9.
        box_class: weight of a detector's loss of the classes of boxes.
        box: weight of a detector's loss of the deltas of boxes.
        box_beta: where this smooth-L1 loss turns from a parabola into a line; Detectron: 1; torchvision: 1/9.
        mask: weight of a detector's loss of the masks.
    """

    name: str = "cross_entropy"
    auxiliary_name: str | None = None
    class_weights: Annotated[tuple, OFF] = ()
    smoothing: Annotated[Portion, OFF] = 0.0
    focal_gamma: Amount = 2.0
    ohem_threshold: Annotated[float, Bound(above=0, below=1)] = 0.7
    ohem_least: Count = 100_000
    auxiliary: Annotated[Amount, OFF] = 0.4
    heads: Annotated[Amount, OFF] = 0.4
    memory: Annotated[Amount, OFF] = 1.0
    scales: Annotated[Amount, OFF] = 1.0
    rpn_class: Annotated[Amount, OFF] = 1.0
    rpn_box: Annotated[Amount, OFF] = 1.0
    rpn_box_beta: Amount = 1 / 9
    box_class: Annotated[Amount, OFF] = 1.0
    box: Annotated[Amount, OFF] = 1.0
    box_beta: Amount = 1.0
    mask: Annotated[Amount, OFF] = 1.0


@dataclass
class DataFields:
    """The data set and its augmentation.

    Attributes:
        name: a key of ctxseg.data.DATASETS (folder: your own images), or package.module:Class.
        data_dir: folder of prepared data sets.
        manual_dir: folder of the data set as published, or of your own images; not needed for scenes, nor for a data set that is already
            prepared or can be downloaded.
        mixture: other prepared data sets to train on, each as NAME/SPLIT=SHARE with its share of the images that are drawn, such as
            "coco_voc/train=0.5". The rest is from data.name, which defines the classes; the labels of the others are translated by class
            name.
        superpixels: maximum number of SLIC super-pixels of an image, for msci; its paper has about 1000.
        base_size: size to which images are resized first: (shorter side,) or (height, width); none: not resized.
        max_side: longest side of an image after it is resized to base_size=(shorter side,), for instance segmentation; none: no limit.
        crop: height and width of a training crop. For instance segmentation also none: whole images, in batches of landscape or of portrait
            images, whose size follows from base_size and max_side.
        max_objects: for instance segmentation: number of objects of a training image; if there are more, the largest are used.
        padding: what surrounds an image that is smaller than the crop. ignore: pixels that are ignored; reflect: the image, reflected at
            its edges.
        flip: mirror an image horizontally with probability 1/2; classes whose names differ only in left and right are swapped.
        scale_range: lowest and highest factor of random scaling, relative to the base size.
        rotate: largest angle of random rotation, in degrees, in either direction.
        rotate_share: share of the images that are rotated.
        brightness: colour jitter by a factor in 1 ± this value.
        contrast: colour jitter by a factor in 1 ± this value.
        saturation: colour jitter by a factor in 1 ± this value.
        hue: largest shift of the hue, as a share of the colour circle.
        threads: number of threads that read and augment images.
    """

    name: str = "scenes"
    data_dir: str = "~/.cache/ctxseg"
    manual_dir: str | None = None
    mixture: Annotated[tuple, OFF] = ()
    superpixels: Annotated[int, OFF] = 0
    base_size: Annotated[tuple, OFF] = ()
    max_side: Annotated[Whole, OFF] = 0
    crop: Annotated[tuple[int, int], OFF] = (128, 128)
    max_objects: Count = 100
    padding: Literal["ignore", "reflect"] = "ignore"
    flip: bool = True
    scale_range: tuple[float, float] = (1.0, 1.0)
    rotate: Annotated[float, OFF] = 0.0
    rotate_share: float = 1.0
    brightness: Annotated[float, OFF] = 0.0
    contrast: Annotated[float, OFF] = 0.0
    saturation: Annotated[float, OFF] = 0.0
    hue: Annotated[float, OFF] = 0.0
    threads: Annotated[int, Bound(minimum=0, maximum=1000)] = 2


@dataclass
class TrainFields:
    """Training.

    Attributes:
        split: split of the data set on which the run trains; several are joined by +, as in "fold1+fold2".
        steps: number of optimiser updates.
        batch_size: images per step, over all devices.
        micro_batches: number of parts into which each device splits its images of a step, to need less memory. The update is that of the
            whole batch, but each part has its own batch statistics and dropout. Of dice, lovasz, ohem and a detector's loss, it is the mean
            over the parts.
        ema: decay of exponential moving averages of parameters and batch statistics, such as 0.999, which are evaluated too; none: no
            averages.
        log_every: steps between lines of the log; none: a line only when the run is evaluated or saved.
        loggers: loggers besides metrics.jsonl: tensorboard, wandb, mlflow, or package.module:Class.
        eval_every: steps between evaluations on the validation split; none: only at the end.
        checkpoint_every: steps between checkpoints; none: only when the run is evaluated, and at the end.
        keep: number of latest checkpoints to keep, besides the best one.
        best: score by which a checkpoint is the best, the higher the better, as in tables: mIoU, pixel accuracy, mean F1, boundary IoU,
            IoU of CLASS, box AP, …; default: mIoU, or mask AP of a detector.
        patience: number of evaluations in a row without a better score, by best, after which training stops; none: it never stops early.
            It needs eval_every.
    """

    split: str = "train"
    steps: Annotated[int, Bound(minimum=1, maximum=2**31 - 1)] = 600  # a 32-bit counter
    batch_size: Count = 16
    micro_batches: Count = 1
    ema: Annotated[Portion, OFF] = 0.0
    log_every: Annotated[Whole, OFF] = 20
    loggers: Annotated[tuple, OFF] = ("tensorboard",)
    eval_every: Annotated[Whole, OFF] = 0
    checkpoint_every: Annotated[Whole, OFF] = 200
    keep: Count = 2
    best: str = ""
    patience: Annotated[Whole, OFF] = 0


@dataclass
class OptimizerFields:
    """The optimiser and its schedule.

    Attributes:
        name: sgd, adamw, or package.module:function.
        learning_rate: highest learning rate of the run.
        momentum: momentum of SGD, and β₁ of AdamW; the default is that of Attention to Scale, as the other papers give none.
        beta2: β₂ of AdamW.
        epsilon: ε of AdamW.
        nesterov: Nesterov momentum.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW), on kernels only; the default is that of Attention to Scale and MCIBI, as
            the other papers give none.
        rates: factors of the learning rate for parameters with a name prefix, such as "classifier/scores=10".
        layer_decay: factor of the learning rate for each layer that follows in the backbone, so that its first layers learn most slowly; 1:
            the same rate for all. For transformers (vit_* and dinov2_*); everything after the blocks counts as one layer.
        clip_norm: global norm to which gradients are clipped.
        schedule: schedule of the learning rate.
        head_steps: number of steps, at the start, in which only the parameters that pretrained weights do not fill are trained.
        warmup_steps: number of steps, at the start, in which the learning rate rises linearly from 0.
        poly_power: power in the schedule (1 − t/T)^power, at step t of T.
        step_boundaries: steps at which the learning rate is multiplied by step_factor.
        step_factor: factor of the learning rate at each of step_boundaries.
    """

    name: str = "sgd"
    learning_rate: Amount = 0.01
    momentum: Annotated[Portion, OFF] = 0.9
    beta2: Portion = 0.999
    epsilon: Annotated[float, Bound(above=0)] = 1e-8
    nesterov: bool = False
    weight_decay: Annotated[Amount, OFF] = 5e-4
    rates: Annotated[tuple, OFF] = ()
    layer_decay: Annotated[float, Bound(above=0, maximum=1)] = 1.0
    clip_norm: Annotated[Amount, OFF] = 0.0
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    head_steps: Annotated[Whole, OFF] = 0
    warmup_steps: Annotated[Whole, OFF] = 0
    poly_power: Amount = 0.9
    step_boundaries: Annotated[tuple, OFF] = ()
    step_factor: Amount = 0.1


@dataclass
class EvalFields:
    """Evaluation and prediction.

    Attributes:
        split: split of the data set on which the run is evaluated.
        data: name of another prepared data set with the same classes, or data.name itself to evaluate on other files than those of the
            run's training; "": the data that the run was trained on.
        averages: use the averages of config.train.ema in place of the parameters; in training, for its evaluations.
        batch_size: images of the same size per step, over all devices.
        samples: number of images that the report shows, and of a segmenter's worst images that `--mode=failures` shows.
        scales: factors of an image's height and width; probabilities are averaged over them.
        superpixels: which super-pixels are used at scales other than 1. image: those of the image, resized with it; scale: those of the
            resized image; scale_by_area: those of the resized image, s² times as many at scale s.
        flip: average over the image and its mirror image.
        size: size to which images are resized before they are scaled: (shorter side,) or (height, width); default: data.base_size; none:
            not resized.
        score: size at which scores are computed, if eval.size is set. original: that of the labels; resized: that of the resized image.
        window: height and width of a sliding window; none: the whole image at once.
        stride: stride of the window: up to 1, a share of its size; above 1, in pixels.
        crf_images: number of images of the split on which --mode=crf searches.
        max_pixels: number of pixels to which --mode=predict reduces a larger image; its labels are resized to the original size.
        shapes: shapes for which the network is compiled. buckets: a few shapes, to which images are padded; exact: the size of every
            image.
    """

    split: str = "val"
    data: str = ""
    averages: bool = False
    batch_size: Count = 8
    samples: Annotated[Whole, OFF] = 8
    scales: Sequence[Factor] = (1.0,)
    superpixels: Literal["image", "scale", "scale_by_area"] = "image"
    flip: bool = False
    size: Annotated[tuple, OFF] = ()
    score: Literal["original", "resized"] = "original"
    window: Annotated[tuple, OFF] = ()
    stride: Annotated[float, Bound(above=0)] = 2 / 3
    crf_images: Count = 50
    max_pixels: Count = 4_000_000
    shapes: Literal["buckets", "exact"] = "buckets"


@dataclass
class CRFFields:
    """The fully connected CRF over the probabilities. The papers give no values; these are close to DeepLab's.

    Attributes:
        iterations: number of mean-field iterations; 10 is a common value.
        spatial_weight: weight of the spatial kernel.
        spatial_sigma: standard deviation of the spatial kernel, in pixels.
        bilateral_weight: weight of the bilateral kernel.
        bilateral_sigma: standard deviation of the bilateral kernel over positions, in pixels.
        colour_sigma: standard deviation of the bilateral kernel over colours in 0 to 255.
    """

    iterations: Annotated[Whole, OFF] = 0
    spatial_weight: Amount = 3.0
    spatial_sigma: Annotated[float, Bound(minimum=0.1)] = 3.0
    bilateral_weight: Amount = 4.0
    bilateral_sigma: Annotated[float, Bound(minimum=0.1)] = 67.0
    colour_sigma: Annotated[float, Bound(minimum=0.1)] = 4.0


@dataclass
class ComplexityFields:
    """--mode=complexity.

    Attributes:
        input: images, height, width and channels of the map that each context reads.
        channels: number of channels of each context.
        contexts: what the rows measure: names of contexts, package.module:Class, dca or "aspp + dca"; default: all contexts of the
            package, dca and "aspp + dca".
        repeats: number of timed executions; none: operations are counted, and nothing is executed.
    """

    input: tuple[int, int, int, int] = (1, 128, 128, 2048)
    channels: Count = 512
    contexts: tuple = ()
    repeats: Annotated[Whole, OFF] = 5


@dataclass
class RateFields:
    """--mode=lr.

    Attributes:
        lowest: learning rate of the first step.
        highest: learning rate of the last step; the loss may diverge before it.
        steps: number of steps.
    """

    lowest: Factor = 1e-5
    highest: Factor = 10.0
    steps: Annotated[int, Bound(minimum=10)] = 100


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
    "lr": RateFields,
}


def annotations(path: str) -> dict:
    """{field: annotation} of a section, such as `optimizer`."""
    hints = typing.get_type_hints(SECTIONS[path], include_extras=True)
    if path == "data":  # the augmentations declare the bounds of their fields
        from ctxseg.data.instance_transforms import InstanceAugmentation  # here, as it takes seconds
        from ctxseg.data.transforms import Augmentation

        for augmentation in (Augmentation, InstanceAugmentation):
            bounds = typing.get_type_hints(augmentation, include_extras=True)
            hints |= {name: bounds[name] for name in hints if name in bounds}
    return hints


def check_section(path: str, section) -> None:
    """Checks the fields of a section, such as `optimizer`. UserError for the first value that its field does not allow."""
    for name, annotation in annotations(path).items():
        check(f"{path}.{name}" if path else name, section[name], annotation)


def check_all(config) -> None:
    """Calls `check_section` for all sections of a config."""
    for path in SECTIONS:
        section = config
        for key in filter(None, path.split(".")):
            section = section[key]
        check_section(path, section)
