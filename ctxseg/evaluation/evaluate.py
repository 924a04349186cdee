"""Evaluates on images of any size by the protocol of `config.eval`, with one confusion matrix."""

import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg import data, devices, files
from ctxseg.data import pipeline
from ctxseg.errors import UserError
from ctxseg.evaluation import crf_search, metrics
from ctxseg.inference.probabilities import create_predictor, predict_probabilities
from ctxseg.inference.protocol import Protocol, canvas_of, create_protocol, shape_of, superpixel_views
from ctxseg.progress import Progress
from ctxseg.runs import checkpoints, provenance, record, workdir


class Evaluation(NamedTuple):
    """The evaluation of a network on a split.

    Attributes:
        scores: scores over all pixels, see `metrics.scores`.
        confusion: their confusion matrix, int64 `[K,K]`, rows = truth.
        image_counts: counts of each of N images, int32 `[N,K,3]`, see `metrics.image_counts`.
        image_names: N strings.
        seconds_per_image: median over batches, from the batch in memory to the label maps, without the first batch of each shape,
            which is compiled. None without another batch.
        samples: (name, image, label, prediction) of the first `config.eval.samples` images.
    """

    scores: dict
    confusion: np.ndarray
    image_counts: np.ndarray
    image_names: list[str]
    seconds_per_image: float | None
    samples: list[tuple[Any, ...]]


def create_eval_step(model, protocol: Protocol):
    """(variables, batch, canvas=None) → (confusion matrix over all devices, label maps, counts), compiled for every local device.

    The batch has `image` `[D,B,H,W,3]`, `label` `[D,B,H,W]`, optionally `regions`, shaped as `label`, and if images are padded, `size`
    `[D,B,2]`. `canvas` is static and comes from `protocol.canvas_of`. The confusion matrix is int32 `[D,K,K]`, on each device the sum over
    all; the counts are those of `metrics.image_counts`, int32 `[D,B,K,3]`.
    """

    def step(variables, batch, canvas):
        probabilities = predict_probabilities(
            model, variables, batch["image"], batch.get("regions"), batch.get("size"), protocol, canvas
        )
        predictions = probabilities.argmax(-1).astype(jnp.int32)
        confusion = jax.vmap(partial(metrics.confusion_matrix, num_classes=model.num_classes))(
            batch["label"], predictions
        )
        return jax.lax.psum(confusion.sum(0), devices.AXIS), predictions, metrics.image_counts(confusion)

    compiled = devices.parallel(step, static=(2,))
    return lambda variables, batch, canvas=None: compiled(variables, batch, canvas)


def evaluate_split(config, builder, eval_step, variables, progress=None) -> Evaluation:
    """Evaluates on every image of `config.eval.split`.

    Args:
        config: config of the run; `eval` and `data.superpixels` are read.
        builder: a prepared data set.
        eval_step: result of `create_eval_step`.
        variables: replicated variables of the model.
        progress: called after each batch with the number of images done.
    """
    protocol = create_protocol(config.eval)
    names = list(builder.info.metadata["class_names"])
    total = np.zeros((len(names), len(names)), np.int64)
    counts: list[np.ndarray] = []
    image_names: list[str] = []
    samples: list[tuple[Any, ...]] = []
    compiled, seconds = set(), []
    batches = pipeline.eval_batches(
        _scored_source(config, builder),
        config.eval.batch_size,
        *devices.process(),
        shape_of=partial(shape_of, shapes=protocol.shapes),
        canvas_of=partial(canvas_of, protocol=protocol),
    )
    done = 0
    for batch in batches:
        began = time.perf_counter()
        confusion, predictions, batch_counts = eval_step(variables, devices.shard(_arrays(batch)), batch["canvas"])
        total += np.asarray(devices.unreplicate(confusion), np.int64)
        shapes = batch["label"].shape, batch["canvas"]
        if shapes in compiled:
            seconds.append((time.perf_counter() - began) / len(batch["label"]))
        compiled.add(shapes)
        counts.append(np.asarray(devices.gather(batch_counts))[: batch["count"]])
        image_names += batch["name"]
        if len(samples) < config.eval.samples:
            predictions = np.asarray(devices.gather(predictions))
            for i in range(min(batch["count"], config.eval.samples - len(samples))):
                inside = tuple(slice(n) for n in batch["size"][i])
                samples.append(
                    (batch["name"][i], *(x[i][inside] for x in (batch["image"], batch["label"], predictions)))
                )
        done += batch["count"]
        if progress:
            progress(done)
    return Evaluation(
        metrics.scores(total, names, dict(builder.info.metadata["groups"])),
        total,
        np.concatenate(counts) if counts else np.zeros((0, len(names), 3), np.int32),
        image_names,
        statistics.median(seconds) if seconds else None,
        samples,
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


def finish(config, folder: str, builder, evaluation, state, start: float) -> dict:
    """Evaluates `state`; writes samples.npz, images.npz and results.json; returns the scores.

    Args:
        evaluation: (variables, progress) → `Evaluation`: `evaluate_split`, with the other arguments bound.
        start: start of the command, in seconds since the epoch.
    """
    with Progress(builder.info.splits[config.eval.split].num_examples, 0, "evaluate", compiles=True) as progress:
        evaluated = evaluation(devices.replicate(state.variables), progress.update)
    scores = evaluated.scores
    if devices.process()[0]:
        return scores
    metadata = builder.info.metadata
    dataset = _describe(config, builder)
    results = scores | {
        "step": int(state.step),
        "system": config.system,
        "data": config.eval.data or config.data.name,
        "dataset": {key: dataset[key] for key in ("name", "folder", "fingerprint")},
        "split": config.eval.split,
        "protocol": str(create_protocol(config.eval)),
        "eval": config.eval.to_dict(),
        "scored_at": config.eval.score if config.eval.size else "original",
        "shapes": config.eval.shapes,
        "seconds": round(time.time() - start, 1),
        "seconds_per_image": evaluated.seconds_per_image,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "class_names": list(metadata["class_names"]),
        "palette": [list(c) for c in metadata["palette"]],
        "groups": dict(metadata["groups"]),
        "confusion": evaluated.confusion.tolist(),
    }
    record.write(folder, results, evaluated.samples, evaluated.image_names, evaluated.image_counts)
    trained = workdir.read_dataset(folder)
    if trained and not provenance.same(trained, dataset):
        print(f"{folder}: trained on {provenance.words(trained)}, evaluated on {provenance.words(dataset)}")
    return scores


def print_scores(scores: dict, page=None) -> None:
    """Prints the scores of `finish`; before the last line, the path of the report, if any. Only the first host prints."""
    if devices.process()[0]:
        return
    for group, iou in scores["group_iou"].items():
        print(f"{group:12} mIoU {_number(iou)}")
    if page:
        print(page)
    print(
        f"mIoU {_number(scores['mIoU'])}  pixel accuracy {_number(scores['pixel_accuracy'])}"
        f"  mean accuracy {_number(scores['mean_accuracy'])}",
        flush=True,
    )


def _number(x) -> str:
    """Four decimals, - for None."""
    return "-" if x is None else f"{x:.4f}"


def evaluate(config, folder: str, checkpoint: int | str | None = None) -> dict:
    """`--mode=evaluate`: scores a checkpoint of the run in `folder` (see `checkpoints.restore_run`) on `config.eval.split`.

    Raises:
        UserError: `folder` has no run or no checkpoint, or its checkpoint belongs to another model.
    """
    start = time.time()
    workdir.check_same(os.path.join(folder, "config.json"), config)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    builder = _load_of_run(config, folder)
    tested_source(config, builder)
    protocol = create_protocol(config.eval, builder.info.metadata["class_names"])
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    eval_step = create_eval_step(model, protocol)
    return finish(config, folder, builder, partial(evaluate_split, config, builder, eval_step), state, start)


def load_tested(config, class_names: Sequence[str] | None = None):
    """The prepared builder of the data set of `config.eval`.

    Args:
        config: config of a run.
        class_names: the classes that the run was trained on; default: the classes of `config.data`.

    Raises:
        UserError: as `data.load`, or the classes differ from the run's.
    """
    name = config.eval.data or config.data.name
    manual_dir = config.data.manual_dir if name == config.data.name else None
    builder = data.load(name, config.data.data_dir, manual_dir, field="eval.data" if config.eval.data else "data.name")
    if config.eval.data:
        trained = data.metadata(config.data)["class_names"] if class_names is None else class_names
        if list(trained) != list(builder.info.metadata["class_names"]):
            raise UserError(f"config.eval.data is {name}; expected a data set with the classes of {config.data.name}")
    return builder


def _load_of_run(config, folder):
    """`load_tested` for the run in `folder`. UserError: the data differ from the run's, and `config.eval.data` does not name them."""
    builder = load_tested(config, provenance.metadata(config, folder)["class_names"] if config.eval.data else None)
    if not config.eval.data:
        remedy = f"--config.eval.data={builder.name} evaluates on it, if the classes are the same"
        provenance.check(folder, _describe(config, builder), remedy)
    return builder


def _describe(config, builder):
    """`provenance.describe` of the data set of `config.eval`."""
    return provenance.describe(builder, config.data.manual_dir if builder.name == config.data.name else None)


def tested_source(config, builder):
    """The samples of `config.eval.split`, with the super-pixels for its scales."""
    return split_source(builder, config.eval.split, views=superpixel_views(config))


def split_source(builder, split: str, segments: int = 0, field: str = "config.eval.split", views=()):
    """The random-access source of a split, or of several as `a+b`, see `pipeline.source`. UserError that names `field` if it is missing."""
    if not set(split.split("+")) <= set(builder.info.splits):
        raise UserError(f"{field} is {split!r}; expected a split of {builder.name}: {', '.join(builder.info.splits)}")
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
    builder = _load_of_run(config, folder)
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
