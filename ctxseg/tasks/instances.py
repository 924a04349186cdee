"""Instance segmentation: the objects of an image, each with a class, a box and a mask, scored by COCO's average precision."""

import json
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from ctxseg import devices
from ctxseg.data import instance_transforms
from ctxseg.data import instances as samples
from ctxseg.data.sizes import too_large
from ctxseg.errors import UserError
from ctxseg.evaluation import detections, instances, splits
from ctxseg.inference.instances import create_finder
from ctxseg.inference.label_maps import encoded
from ctxseg.runs import checkpoints, provenance, record
from ctxseg.training import detection_losses
from ctxseg.views import instance_pictures, logged

SCORES = ("mask AP", "mask AP50", "mask AP75", "box AP", "box AP50", "box AP75")
loss = detection_losses.of_batch


def check(config, class_names: Sequence[str]) -> None:
    """Raises UserError for an invalid augmentation or size of evaluation."""
    instance_transforms.create_augmentation(config.data, class_names)
    instance_transforms.check_resizing(tuple(config.eval.size), config.data.max_side, "eval.size")


def with_class_weights(config, builder):
    """The config: the losses of a detector have no weights of classes."""
    return config


def check_data(config) -> None:
    """UserError: a data set of the config has no objects."""
    splits.check_objects(config, objects=True)


def training_source(config, builder, others) -> samples.InstanceSource:
    """The samples of `config.train.split`. `others` is empty: detectors read no mixture. UserError: `builder` has no such split."""
    return detections.split_source(builder, config.train.split, "config.train.split")


def training_batches(config, source, class_names: Sequence[str]):
    """Batches as `data.instances.train_iterator` describes them."""
    augmentation = instance_transforms.create_augmentation(config.data, class_names)
    return samples.train_iterator(
        source, augmentation, config.train.batch_size, config.seed, *devices.process(), config.data.threads
    )


def check_evaluation(config, builder) -> None:
    """UserError: `builder` has no split `config.eval.split`."""
    detections.split_source(builder, config.eval.split)


create_evaluation = detections.create_evaluation


def write(config, folder: str, builder, evaluation: detections.Evaluation, results: dict) -> None:
    """Writes detections.json, in COCO's result format; samples.npz; results.json."""
    path = os.path.join(folder, "detections.json")
    instances.write_results(path, evaluation.found, builder.info.metadata["category_ids"])
    results = results | {
        "task": record.INSTANCES,
        "protocol": protocol(config),
        "seconds_per_image": evaluation.seconds_per_image,
        "curves": evaluation.curves,
        "misses": evaluation.misses.summary(),
    }
    record.write_instances(folder, results, evaluation.pictures)


def logged_pictures(evaluation: detections.Evaluation, builder) -> dict[str, np.ndarray]:
    """{name: the objects and the detections side by side, uint8 [h,w,3]} of the samples."""
    names = builder.info.metadata["class_names"]
    return {picture.name: logged.objects(picture, names) for picture in evaluation.pictures if not picture.kind}


def prediction_suffixes(probabilities: bool) -> list[str]:
    """A picture, and a JSON file; it marks complete results. Detectors have no probabilities to write."""
    return ["_objects.jpg", ".json"]


def create_prediction(config, folder: str, checkpoint, probabilities: bool):
    """Finds the objects of images.

    - NAME.json: the objects, see `instance_pictures.as_json`;
    - NAME_objects.jpg: masks, boxes, names and scores over the image, reduced to `eval.max_pixels` if it is larger.

    UserError: there is no such checkpoint; the config differs from the run's; or probabilities are requested.
    """
    if probabilities:
        raise UserError("--probabilities: a detector has none; NAME.json has the scores of the objects")
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    class_names = provenance.metadata(config, folder)["class_names"]
    find = create_finder(
        model, partial(instance_transforms.resized, base_size=tuple(config.eval.size), max_side=config.data.max_side)
    )

    def predict(name, image, size):
        if reason := too_large(image.shape[:2], config.eval.size, config.eval.max_pixels, config.data.max_side):
            return reason
        found = find(state.variables, image, size)
        picture = instance_pictures.draw_detections(image, found, class_names, size)
        content = json.dumps(instance_pictures.as_json(name, found, class_names, size))
        return {".json": content.encode(), "_objects.jpg": encoded(Image.fromarray(picture), "JPEG", quality=90)}

    return predict


def create_submission(config, folder: str, checkpoint, name: str):
    """UserError: the servers that `--format` writes for take labels of pixels."""
    raise UserError(
        f"--format={name}: this server takes labels of pixels, and {config.system} is a detector; detections.json of a run has the format "
        "that COCO's server takes"
    )


def protocol(config) -> str:
    """The size of the images in words."""
    size = tuple(config.eval.size)
    if not size:
        return "images of their own size"
    if len(size) == 2:
        return f"images resized to {size[0]}×{size[1]}"
    limit = f", longer side at most {config.data.max_side}" if config.data.max_side else ""
    return f"shorter side {size[0]}{limit}"


def describe(output) -> str:
    """The number of objects, and the size of their masks."""
    return (
        f"at most {output.boxes.shape[1]} objects, with masks of {output.masks.shape[2]}×{output.masks.shape[3]} cells,"
    )


def lines(scores: dict) -> list[str]:
    """AP of masks and boxes."""
    return [instances.score_line(scores)]
