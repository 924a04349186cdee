"""Evaluates a detector on a split: finds the objects of every image, and scores them as COCO does."""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ctxseg import devices
from ctxseg.data.instances import InstanceSource, eval_batches
from ctxseg.evaluation import gathering, instance_samples, instances, misses, splits
from ctxseg.inference.instances import create_detect_step, objects_of
from ctxseg.runs.record import Picture


class Evaluation(NamedTuple):
    """The evaluation of a detector on a split.

    Attributes:
        scores: see `instances.evaluate`, but `curves`.
        curves: precision by recall.
        found: the detections of every image, in the order of the split, see `instances`.
        misses: see `misses.find`.
        pictures: the first `config.eval.samples` images, and close-ups of misses.
        seconds_per_image: median over batches, from the batch in memory to boxes and masks at the images' own size, without the first
            batch of each shape, which is compiled. None without another batch.
    """

    scores: dict
    curves: dict
    found: list[dict]
    misses: misses.Misses
    pictures: list[Picture]
    seconds_per_image: float | None


def split_source(builder, split: str, field: str = "config.eval.split") -> InstanceSource:
    """The samples of a split, or of several as `a+b`. UserError that names `field` if it is missing."""
    splits.check_split(builder, split, field)
    return InstanceSource(builder, split)


def evaluate_split(config, builder, detect_step, variables, progress=None, complete=False) -> Evaluation:
    """Evaluates on every image of `config.eval.split`.

    Args:
        config: config of the run; `eval` and `data.max_side` are read.
        builder: a prepared data set of instances.
        detect_step: result of `create_detect_step`.
        variables: replicated variables of the model.
        progress: called after each batch with the number of images done.
        complete: not read: every evaluation of a detector is complete, see `tasks`.
    """
    source, batches = _batches(config, builder)
    class_names = list(builder.info.metadata["class_names"])
    found: list[list[tuple[int, dict]]] = []  # for each batch, the index of each image and its detections
    compiled, seconds, done = set(), [], 0
    for batch in batches:
        began = time.perf_counter()
        detections = jax.tree.map(devices.gather, jax.device_get(detect_step(variables, _arrays(batch))))
        found.append([])
        for i in range(batch["count"]):
            own = objects_of(detections, i, batch["size"][i], batch["original_size"][i])
            found[-1].append((batch["index"][i], {"name": batch["name"][i]} | _to_json(own)))
        shape = batch["image"].shape
        if shape in compiled:
            seconds.append((time.perf_counter() - began) / len(batch["image"]))
        compiled.add(shape)
        done += batch["images"]
        if progress:
            progress(done)
    places = {i: _from_json(values) for i, values in gathering.in_order(found)}
    objects = [source.annotations(i) for i in range(len(source))]
    listed = [{"id": image["id"]} | places[i] for i, image in enumerate(objects)]
    scores = instances.evaluate(objects, listed, class_names)
    missed = misses.find(objects, listed, len(class_names))

    pictures = instance_samples.pictures(objects, listed, missed, source.image, config.eval.samples)
    curves = scores.pop("curves")
    return Evaluation(scores, curves, listed, missed, pictures, statistics.median(seconds) if seconds else None)


def compile_step(config, builder, detect_step, variables) -> Iterator[None]:
    """Compiles `detect_step` for the batches of `evaluate_split`: a program at each step of the iterator, in their order.

    `variables`: the replicated variables of the model, or their shapes.
    """
    for batch in _batches(config, builder, one_of_each=True)[1]:
        detect_step.compile(variables, _arrays(batch))
        yield


def _batches(config, builder, **options):
    """The source of `config.eval.split` and its batches."""
    source = split_source(builder, config.eval.split)
    size, process = tuple(config.eval.size), devices.process()
    return source, eval_batches(source, config.eval.batch_size, size, config.data.max_side, *process, **options)


def _arrays(batch):
    """The arrays that the step reads."""
    return devices.shard({key: batch[key] for key in ("image", "size")})


def _to_json(objects):
    """The result of `objects_of` as JSON values, which the processes of a run exchange."""
    masks = [mask | {"counts": mask["counts"].decode()} for mask in objects["masks"]]
    return {key: objects[key].tolist() for key in ("boxes", "scores", "classes")} | {"masks": masks}


def _from_json(objects):
    return objects | {
        "boxes": np.array(objects["boxes"], np.float32).reshape(-1, 4),
        "scores": np.array(objects["scores"], np.float32),
        "classes": np.array(objects["classes"], np.int32),
        "masks": [mask | {"counts": mask["counts"].encode()} for mask in objects["masks"]],
    }


def create_evaluation(config, builder, model):
    """`evaluate_split` and `compile_step` of a model: see `tasks`."""
    arguments = config, builder, create_detect_step(model)
    return partial(evaluate_split, *arguments), partial(compile_step, *arguments)
