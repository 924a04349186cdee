"""Semantic segmentation: a class for every pixel, scored by mIoU."""

import inspect
import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ctxseg import devices
from ctxseg.data import mixture, pipeline, summary, superpixels
from ctxseg.data.transforms import create_augmentation
from ctxseg.errors import UserError
from ctxseg.evaluation import semantic, splits
from ctxseg.inference import label_maps, submission
from ctxseg.inference.protocol import create_protocol
from ctxseg.models import create_model
from ctxseg.runs import record
from ctxseg.training import losses, pixel_losses
from ctxseg.views import logged

FREQUENCY = ("frequency",)  # of `config.loss.class_weights`
SCORES = ("mIoU", "pixel accuracy", "mean accuracy", "mean F1", "frequency weighted IoU", "boundary IoU")
loss = losses.of_batch
prediction_suffixes = label_maps.suffixes
create_prediction = label_maps.create_prediction
create_submission = submission.create_prediction


def check(config, class_names: Sequence[str]) -> None:
    """Raises UserError for an invalid mixture, super-pixels, augmentation, protocol or loss, or a loss that micro-batches cannot use."""
    superpixels.check(config.data.superpixels)
    mixture.parse(config)
    if not config.data.crop:
        raise UserError(
            f"config.data.crop is none, which only a detector takes, such as that of configs/mask_rcnn.py; {config.system} is a segmenter, "
            "which expects (height, width)"
        )
    create_augmentation(config.data, class_names)
    create_protocol(config.eval, class_names)
    for section, maximum in create_model(config.model, len(class_names)).most_superpixels.items():
        segments = config.data.superpixels
        if segments < 1:
            name = config.model[section].name
            raise UserError(
                f"config.data.superpixels is {segments}, but {name} needs super-pixels: set it to 1000 for photographs"
            )
        if segments > maximum:
            raise UserError(
                f"config.data.superpixels is {segments}; expected at most {maximum}, "
                f"the limit of config.model.{section}, whose fields --mode=show lists"
            )
    _check_losses(config)


def _check_losses(config):
    """UserError: unknown losses, losses that micro-batches cannot use, or invalid weights of classes."""
    for field in ("name", "auxiliary_name"):
        for name, (loss, _) in losses.find_losses(field, config.loss[field] or config.loss.name).items():
            if config.train.micro_batches > 1 and "counted" not in inspect.signature(loss).parameters:
                raise UserError(
                    f"config.loss.{field} is {name}, which has no argument `counted`, but config.train.micro_batches is "
                    f"{config.train.micro_batches}: set it to 1, or add the argument, see `pixel_losses.cross_entropy`"
                )
    weights = tuple(config.loss.class_weights)
    numbers = [w for w in weights if type(w) in (int, float) and 0 <= w < math.inf]
    if weights not in ((), FREQUENCY) and (len(numbers) != len(weights) or not any(numbers)):
        raise UserError(
            f"config.loss.class_weights is {','.join(map(str, weights))}; expected frequency, or a number of at least 0 for each class, "
            "not all 0"
        )
    if weights == FREQUENCY and config.data.mixture:
        raise UserError(
            "config.loss.class_weights is frequency, which counts the pixels of one data set, but config.data.mixture has others: give a "
            "number for each class"
        )


def with_class_weights(config, builder):
    """A config with numbers in place of `loss.class_weights=frequency`: those of `config.train.split`.

    UserError: another number of weights than of classes; a damaged record.
    """
    names, weights = builder.info.metadata["class_names"], tuple(config.loss.class_weights)
    if weights == FREQUENCY:
        config = config.copy_and_resolve_references()
        frequencies = list(summary.frequencies(builder, config.train.split).values())
        if not any(frequencies):
            raise UserError(f"config.loss.class_weights is frequency, but {config.train.split} has no labelled pixel")
        config.loss.class_weights = tuple(pixel_losses.median_frequency(frequencies))
    elif weights and len(weights) != len(names):
        raise UserError(
            f"config.loss.class_weights has {len(weights)} numbers; expected {len(names)}, one for each class: {', '.join(names)}"
        )
    return config


def check_data(config) -> None:
    """UserError: a data set of the config has objects in place of labels."""
    splits.check_objects(config, objects=False)


def training_source(config, builder, others) -> mixture.Mixture:
    """The samples of `config.train.split` and of `others`, with the labels of `builder`. UserError: `builder` has no such split."""
    segments, mixed = config.data.superpixels, []
    main = semantic.split_source(builder, config.train.split, segments, "config.train.split")
    for part, other in others:
        ids = mixture.translation(splits.classes_of(other), splits.classes_of(builder))
        mixed.append((mixture.Translated(pipeline.source(other, part.split, segments), ids), part.share))
    return mixture.Mixture(main, mixed)


def training_batches(config, source: mixture.Mixture, class_names: Sequence[str]):
    """Batches of `image`, `label` and, with super-pixels, `regions`."""
    return pipeline.train_iterator(
        source.main,
        create_augmentation(config.data, class_names),
        config.train.batch_size,
        config.seed,
        *devices.process(),
        config.data.threads,
        source.others,
    )


def check_evaluation(config, builder) -> None:
    """UserError: `builder` has no split `config.eval.split`, or no class of `config.train.best`; its super-pixels cannot be computed."""
    best, names = config.train.best, builder.info.metadata["class_names"]
    if best.startswith(record.IOU) and best.removeprefix(record.IOU) not in names:
        raise UserError(f"config.train.best is {best!r}; expected {record.IOU}one of {', '.join(names)}")
    semantic.tested_source(config, builder)


def create_evaluation(config, builder, model):
    """`semantic.evaluate_split` and `compile_step` of a model: see `tasks`."""
    protocol = create_protocol(config.eval, builder.info.metadata["class_names"])
    arguments = config, builder, semantic.create_eval_step(model, protocol)
    return partial(semantic.evaluate_split, *arguments), partial(semantic.compile_step, *arguments)


def write(config, folder: str, builder, evaluation: semantic.Evaluation, results: dict) -> None:
    """Writes samples.npz, images.npz and results.json."""
    results = results | {
        **evaluation.where,
        "protocol": str(create_protocol(config.eval)),
        "scored_at": config.eval.score if config.eval.size else "original",
        "shapes": config.eval.shapes,
        "seconds_per_image": evaluation.seconds_per_image,
        "groups": dict(builder.info.metadata["groups"]),
        "confusion": evaluation.confusion.tolist(),
    }
    record.write(folder, results, evaluation.samples, evaluation.image_names, evaluation.image_counts, evaluation.worst)


def logged_pictures(evaluation: semantic.Evaluation, builder) -> dict[str, np.ndarray]:
    """{name: image, truth and prediction side by side, uint8 [h,w,3]} of the samples."""
    palette = builder.info.metadata["palette"]
    samples = (sample[:4] for sample in evaluation.samples)
    return {name: logged.labels(image, label, found, palette) for name, image, label, found in samples}


def describe(output) -> str:
    """The shape of the scores."""
    return f"logits {output.logits.shape}"


def lines(scores: dict) -> list[str]:
    """mIoU of each group of classes; boundary IoU and ECE; then mIoU, pixel accuracy and mean accuracy."""
    unlabelled = scores["pixel_accuracy"] is None
    notes = ["no pixel of the split has a label: a test server may score it, see --format"] * unlabelled
    groups = [f"{group:12} mIoU {_number(iou)}" for group, iou in scores["group_iou"].items()]
    rows = (
        {"boundary IoU": "boundary_IoU", "ECE": "ECE"},
        {"mIoU": "mIoU", "pixel accuracy": "pixel_accuracy", "mean accuracy": "mean_accuracy"},
    )
    named = ["  ".join(f"{name} {_number(scores[key])}" for name, key in row.items()) for row in rows]
    return [*notes, *groups, *named]


def _number(x) -> str:
    """Four decimals, - for None."""
    return "-" if x is None else f"{x:.4f}"
