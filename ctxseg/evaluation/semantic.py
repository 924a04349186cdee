"""Evaluates segmentation on images of any size by the protocol of `config.eval`."""

import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg import devices, files
from ctxseg.data import pipeline
from ctxseg.data.builders.labels import IGNORE
from ctxseg.evaluation import boundaries, calibration, crf_search, gathering, metrics, regions, splits
from ctxseg.inference.probabilities import create_predictor, predict_probabilities
from ctxseg.inference.protocol import Protocol, canvas_of, create_protocol, shape_of, superpixel_views
from ctxseg.progress import Progress
from ctxseg.runs import checkpoints, workdir


class Evaluation(NamedTuple):
    """The evaluation of a network on a split.

    Attributes:
        scores: scores over all pixels: those of `metrics.scores` and `boundaries.scores`, and `ECE`, see `calibration.summary`.
        confusion: their confusion matrix, int64 `[K,K]`, rows = truth.
        image_counts: counts of each of N images, int32 `[N,K,3]`, see `metrics.image_counts`.
        image_names: N strings.
        seconds_per_image: median over batches, from the batch in memory to the label maps, without the first batch of each shape,
            which is compiled. None without another batch.
        samples: (name, image, label, prediction) of the first `config.eval.samples` images of this process.
        worst: the same of its `config.eval.samples` images with the lowest `metrics.image_iou`, lowest first.
        where: where the prediction is right: `reliability` of `calibration.summary`; of a complete evaluation also `regions.summary`.
    """

    scores: dict
    confusion: np.ndarray
    image_counts: np.ndarray
    image_names: list[str]
    seconds_per_image: float | None
    samples: list[tuple[Any, ...]]
    worst: list[tuple[Any, ...]]
    where: dict[str, dict]


def create_eval_step(model, protocol: Protocol):
    """(variables, batch, canvas) → (confusion matrix over all devices, label maps, counts, confidences), compiled for every local device.

    The batch has `image` `[D,B,H,W,3]`, `label` `[D,B,H,W]`, optionally `regions`, shaped as `label`, and if images are padded, `size`
    `[D,B,2]`. `canvas` is static and comes from `protocol.canvas_of`. The confusion matrix is int32 `[D,K,K]`, on each device the sum over
    all; the label maps are uint8 `[D,B,H,W]`; the counts are those of `metrics.image_counts`, int32 `[D,B,K,3]`; the confidences are the
    two arrays of `calibration.count`, with a leading axis of devices.
    """

    def step(variables, batch, canvas):
        probabilities = predict_probabilities(
            model, variables, batch["image"], batch.get("regions"), batch.get("size"), protocol, canvas
        )
        predictions = probabilities.argmax(-1).astype(jnp.int32)
        confusion = jax.vmap(partial(metrics.confusion_matrix, num_classes=model.num_classes))(
            batch["label"], predictions
        )
        return (
            jax.lax.psum(confusion.sum(0), devices.AXIS),
            predictions.astype(jnp.uint8),
            metrics.image_counts(confusion),
            calibration.count(batch["label"], probabilities),
        )

    return devices.Parallel(step, static=(2,))


def evaluate_split(config, builder, eval_step, variables, progress=None, complete=False) -> Evaluation:
    """Evaluates on every image of `config.eval.split`.

    Args:
        config: config of the run; `eval` and `data.superpixels` are read.
        builder: a prepared data set.
        eval_step: result of `create_eval_step`.
        variables: replicated variables of the model.
        progress: called after each batch with the number of images done.
        complete: whether `where` has the counts of `regions`, which take longer than all scores.
    """
    names = list(builder.info.metadata["class_names"])
    total = np.zeros((len(names), len(names)), np.int64)
    counted: list[list[tuple[str, Any]]] = []  # for each batch, the name and the counts of each image
    samples: list[tuple[Any, ...]] = []
    worst: list[tuple[float, tuple[Any, ...]]] = []
    totals = _no_totals(len(names), complete)
    compiled, seconds = set(), []
    done = 0
    with ThreadPoolExecutor() as pool:
        for batch in _batches(config, builder):
            began = time.perf_counter()
            confusion, predictions, batch_counts, confidences = eval_step(
                variables, devices.shard(_arrays(batch)), batch["canvas"]
            )
            total += np.asarray(devices.unreplicate(confusion), np.int64)
            shapes = batch["label"].shape, batch["canvas"]
            if shapes in compiled:
                seconds.append((time.perf_counter() - began) / len(batch["label"]))
            compiled.add(shapes)
            predictions, batch_counts = (np.asarray(devices.gather(x)) for x in (predictions, batch_counts))
            counted.append(list(zip(batch["name"], batch_counts.tolist(), strict=False)))
            totals["reliability"] += _reliability(*confidences)
            pictures = []
            for i in range(batch["count"]):
                inside = tuple(slice(n) for n in batch["size"][i])
                pictures.append(
                    (batch["name"][i], *(x[i][inside] for x in (batch["image"], batch["label"], predictions)))
                )
                worst = _with(worst, metrics.image_iou(batch_counts[i]), pictures[-1], config.eval.samples)
            samples += pictures[: config.eval.samples - len(samples)]
            for counts in pool.map(lambda picture: _counts(picture[2], picture[3], len(names), complete), pictures):
                for key, value in counts.items():
                    totals[key] += value
            done += batch["images"]
            if progress:
                progress(done)
    images = gathering.in_order(counted)
    totals = gathering.summed(totals)
    calibrated = calibration.summary(totals["reliability"])
    return Evaluation(
        metrics.scores(total, names, dict(builder.info.metadata["groups"]))
        | boundaries.scores(totals["boundary"], names)
        | {"ECE": calibrated["ECE"]},
        total,
        np.array([counts for _, counts in images], np.int32).reshape(-1, len(names), 3),
        [name for name, _ in images],
        statistics.median(seconds) if seconds else None,
        samples,
        [sample for _, sample in worst],
        {"reliability": calibrated["reliability"]}
        | (regions.summary(totals["distance"], totals["size"], names) if complete else {}),
    )


def _no_totals(num_classes, complete):
    """The sums over no image of `_reliability` and of each of `_counts`."""
    totals = {"reliability": np.zeros((3, calibration.BINS)), "boundary": np.zeros((num_classes, 2), np.int64)}
    if complete:
        totals["distance"] = np.zeros((2, len(regions.DISTANCES) + 1), np.int64)
        totals["size"] = np.zeros((3, num_classes, len(regions.SIZES) + 1), np.int64)
    return totals


def _reliability(pixels, confidence):
    """The sums over the images of the local devices that `calibration.summary` reads, in float64. Arguments: see `calibration.count`."""
    pixels, confidence = (np.asarray(devices.gather(x), np.float64) for x in (pixels, confidence))
    return np.concatenate([pixels.sum(0), confidence.sum((0, 1))[None]])


def _counts(label, prediction, num_classes, complete):
    """The counts of `boundaries` of an image, and if they are complete, those of `regions`."""
    ignored = label >= num_classes
    label, prediction = (np.where(ignored, np.uint8(IGNORE), x) for x in (label, prediction))
    counts = {"boundary": boundaries.count(label, prediction, num_classes)}
    if complete:
        counts["distance"] = regions.by_distance(label, prediction)
        counts["size"] = regions.by_size(label, prediction, num_classes)
    return counts


def _with(worst, iou, sample, count):
    """The `count` pairs (IoU, sample) with the lowest IoU, lowest first, of `worst` and another pair, which may have no IoU."""
    if iou is None or not count or (len(worst) == count and iou >= worst[-1][0]):
        return worst
    copied = sample[0], *(array.copy() for array in sample[1:])  # a view would keep the whole batch in memory
    return sorted([*worst, (iou, copied)], key=lambda pair: pair[0])[:count]


def compile_step(config, builder, eval_step, variables) -> Iterator[None]:
    """Compiles `eval_step` for the batches of `evaluate_split`: a program at each step of the iterator, in their order.

    `variables`: the replicated variables of the model, or their shapes.
    """
    for batch in _batches(config, builder, one_of_each=True):
        eval_step.compile(variables, devices.shard(_arrays(batch)), batch["canvas"])
        yield


def _batches(config, builder, **options):
    protocol = create_protocol(config.eval)
    return pipeline.eval_batches(
        _scored_source(config, builder),
        config.eval.batch_size,
        *devices.process(),
        shape_of=partial(shape_of, shapes=protocol.shapes),
        canvas_of=partial(canvas_of, protocol=protocol),
        **options,
    )


def _scored_source(config, builder):
    """The samples of `config.eval.split` at the size at which they are scored."""
    source = tested_source(config, builder)
    return pipeline.Resized(source, config.eval.size) if config.eval.score == "resized" and config.eval.size else source


def _arrays(batch):
    """The arrays that the step reads, with sizes only if images are padded, which saves computing masks."""
    padded = (batch["size"] != batch["label"].shape[1:]).any()
    names = ("image", "label", "regions", "size") if padded else ("image", "label", "regions")
    return {k: batch[k] for k in names if k in batch}


def tested_source(config, builder):
    """The samples of `config.eval.split`, with the super-pixels for its scales."""
    return split_source(builder, config.eval.split, views=superpixel_views(config))


def split_source(builder, split: str, segments: int = 0, field: str = "config.eval.split", views=()):
    """The random-access source of a split, or of several as `a+b`, see `pipeline.source`. UserError that names `field` if it is missing."""
    splits.check_split(builder, split, field)
    return pipeline.source(builder, split, segments, views)


# Our own grid around DeepLab's values of the bilateral kernel: σ_αxy, σ_β and its weight.
CRF_GRID = {
    "bilateral_sigma": (49.0, 67.0, 85.0, 121.0),
    "colour_sigma": (3.0, 4.0, 5.0),
    "bilateral_weight": (2.0, 4.0),
}


def search_crf(config, folder: str, checkpoint: int | str | None = None) -> list[dict]:
    """`--mode=crf`: mIoU of the run in `folder` with the CRF parameters of `CRF_GRID`, on the first `config.eval.crf_images` images.

    Prints the candidates and writes them to `folder`/crf.json. The other parameters are those of `config.eval.crf`.

    Returns:
        Candidates with their `mIoU`, best first; one of them, with `iterations` 0, is without a CRF.

    Raises:
        UserError: see `evaluate`.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    builder = splits.load_tested_of_run(config, folder)
    source = _scored_source(config, builder)
    fixed = dict(config.eval.crf) | {"iterations": config.eval.crf.iterations or 10}
    candidates = [{"iterations": 0}] + [fixed | chosen for chosen in crf_search.grid(**CRF_GRID)]
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    without_crf = config.eval.copy_and_resolve_references()
    without_crf.crf.iterations = 0
    predictor = create_predictor(model, without_crf, builder.info.metadata["class_names"])
    count = min(len(source), config.eval.crf_images)

    def samples():
        with Progress(count, 0, "crf") as progress:
            for i in range(count):
                sample = source[i]
                regions = sample["regions"][None] if "regions" in sample else None
                yield predictor(state.variables, sample["image"][None], regions)[0], sample["image"], sample["label"]
                progress.update(i + 1)

    scored = crf_search.search(samples(), candidates)
    files.write_json(
        os.path.join(folder, "crf.json"),
        {"images": count, "split": config.eval.split, "step": int(state.step), "candidates": scored},
    )
    for candidate in scored:
        settings = {k: v for k, v in candidate.items() if k in CRF_GRID}
        print(f"{candidate['mIoU']:.4f}  {'  '.join(f'{k} {v:g}' for k, v in settings.items()) or 'without CRF'}")
    return scored
