"""`--mode=pictures`: draws maps from inside trained networks with `figures.py`.

The network processes each whole image once, whatever protocol the run is evaluated by.
"""

import dataclasses
import io
import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from ctxseg import data
from ctxseg.data import superpixels
from ctxseg.errors import UserError
from ctxseg.evaluation import semantic
from ctxseg.files import make_folder, resolved, write_bytes
from ctxseg.inference.probabilities import at_base_size
from ctxseg.models.resizing import resize
from ctxseg.runs import checkpoints, provenance, record, workdir
from ctxseg.views import figures

# Number of images, the first of the split, from which pixels are sampled.
TSNE_IMAGES = 32
# Maximum number of pixels of each class.
TSNE_PIXELS = 50
# Maximum number of pixels in total, which bounds the time.
TSNE_POINTS = 1500
# Size of a PNG in bytes above which it is written in 256 colours.
MAX_BYTES = 300_000


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained network and its evaluation data."""

    folder: epath.Path
    results: dict
    metadata: dict
    source: Any
    model: Any
    variables: dict
    # The jitted function of `_forward_function`.
    forward: Any

    @property
    def name(self) -> str:
        return resolved(self.folder).name


def pictures(folders: list[str], configs: list[ConfigDict], images: tuple[int, ...] = (0, 1, 2)) -> list[epath.Path]:
    """Writes pictures of each run to `pictures/` in its folder, and pictures of several runs side by side to the first run's folder.

    The networks see whole images at their base size, `config.eval.size`, without windows or other scales.

    Every run: `predictions`, `confusion`; attention over scales: `attention`; maximum over scales: `choice`; super-pixels:
    `superpixels`; a context that shows maps, such as ReNet and ZigZagNet: `context_I` for each image; MCIBI: `distributions`,
    `memory`. Several runs: `predictions_side_by_side`, and if one has a memory, `memory_side_by_side`.

    Args:
        folders: folders of evaluated runs; the newest checkpoint of each is used.
        configs: configs of the runs; `eval.split` and the location of the data are taken from the first.
        images: indices into the split; without the data, into the samples in the folder of the first run.

    Returns:
        The written PNG files.

    Raises:
        UserError: a folder without results.json or checkpoint, an index outside the split, or runs on different data.
    """
    if not images:
        raise UserError("--images is empty; give at least one index, such as --images=0,1,2")
    data_config, split = configs[0].data, configs[0].eval.split
    for folder, config in zip(folders, configs, strict=True):
        if config.data.name != data_config.name:
            raise UserError(
                f"{folder} is a run on {config.data.name}, but {folders[0]} on {data_config.name}; pictures need runs on the same data"
            )
    names = [resolved(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(
            f"--workdir: two folders are called {max(names, key=names.count)}; rename one, as pictures show the names side by side"
        )
    results = [_read_results(epath.Path(folder)) for folder in folders]
    try:
        builder = data.load(data_config.name, data_config.data_dir, data_config.manual_dir)
    except UserError as e:
        print(f"note: {e}: using the images of {folders[0]}/samples.npz", file=sys.stderr, flush=True)
        sources, source_name = _sample_sources(folders, configs), f"{folders[0]}/samples.npz"
    else:
        dataset = provenance.describe(builder, data_config.manual_dir)
        for folder in folders:
            provenance.check(str(folder), dataset, "pictures need the data of the run")
        sources = [semantic.split_source(builder, split, config.data.superpixels) for config in configs]
        source_name = f"the split {split} of {builder.name}"
    missing = [i for i in images if not 0 <= i < len(sources[0])]
    if missing:
        raise UserError(f"--images has {missing[0]}; {source_name} has images 0 to {len(sources[0]) - 1}")
    runs = [_open(*arguments) for arguments in zip(folders, configs, results, sources, strict=True)]
    written = []
    for run in runs:
        for name, picture in _pictures_of_run(run, images).items():
            written.append(_write(run.folder / "pictures" / f"{name}.png", picture))
    if len(runs) > 1:
        for name, picture in _side_by_side(runs, images).items():
            written.append(_write(runs[0].folder / "pictures" / f"{name}_side_by_side.png", picture))
    return written


def _sample_sources(folders, configs):
    """For each run, a source of the samples in samples.npz of the first. UserError without samples, or for runs on different data."""
    trained = [workdir.read_dataset(folder) for folder in folders]
    for folder, dataset in zip(folders, trained, strict=True):
        if dataset and trained[0] and not provenance.same(dataset, trained[0]):
            raise UserError(
                f"{folder} is a run on {provenance.words(dataset)}, but {folders[0]} on {provenance.words(trained[0])}; pictures need "
                "runs on the same data"
            )
    samples = record.read_samples(folders[0])
    if not samples:
        raise UserError(f"{folders[0]}/samples.npz is missing or empty: evaluate the run again (--mode=evaluate)")

    def source(segments):
        records = [{"image": image, "label": label} for image, label, _ in samples.values()]
        if segments:
            records = [
                s | {"regions": superpixels.stack([superpixels.compute(s["image"], superpixels.View(segments))])}
                for s in records
            ]
        return records

    return [source(config.data.superpixels) for config in configs]


def _open(folder, config, results, source):
    """The run in `folder`, with its newest checkpoint."""
    metadata = provenance.metadata(config, str(folder))
    model, state = checkpoints.restore_run(config, str(folder))
    forward = _forward_function(model, tuple(config.eval.size))
    return TrainedRun(epath.Path(folder), results, metadata, source, model, state.variables, forward)


def _forward_function(model, base):
    """(variables, image uint8 `[H,W,3]`, regions int32 `[H,W]` or None) → output, collection `seen`, and label map int32 `[H,W]`.

    The network sees the image at its base size, `config.eval.size`, as in an evaluation at scale 1. Its modules write the
    collection `seen` (`models.seen`).
    """

    @jax.jit
    def forward(variables, image, regions):
        images, regions = at_base_size(image[None], None if regions is None else regions[None], base)
        output, collections = model.apply(variables, images, regions, mutable=["seen"])
        logits = resize(output.logits, image.shape[:2])
        return output, collections.get("seen", {}), logits[0].argmax(-1)

    return forward


def _forward(run, index):
    """A sample, and what the run's network computes for it."""
    sample = run.source[index]
    return sample, *run.forward(run.variables, sample["image"], sample.get("regions"))


def _pictures_of_run(run, images):
    """{name: picture} of a single run."""
    palette, names = run.metadata["palette"], list(run.metadata["class_names"])
    outputs = [_forward(run, i) for i in images]
    labels = [(sample["image"], sample["label"], np.asarray(prediction)) for sample, *_, prediction in outputs]

    def with_maps(maps, method="bilinear"):
        """The samples, each with its map `[h,w,·]` resized to the image."""
        return [
            (*row, np.asarray(resize(x[None], row[1].shape, method)[0])) for row, x in zip(labels, maps, strict=True)
        ]

    drawn = {"predictions": figures.prediction_grid(labels, palette, names, headings=("image", "truth", run.name))}
    drawn["confusion"] = figures.confusion_matrix(run.results["confusion"], names)
    seen = [dict(shown) for *_, shown, _ in outputs]
    scales = run.model.scales
    scale_maps = [shown.pop("scales", [{}])[-1] for shown in seen]
    if "weights" in scale_maps[0]:
        weights = with_maps(maps["weights"][0] for maps in scale_maps)
        drawn["attention"] = figures.attention_weights(weights, scales, palette, names)
    if "chosen" in scale_maps[0]:
        chosen = with_maps((maps["chosen"][0][..., None] for maps in scale_maps), "nearest")
        chosen = [(*row, x[..., 0]) for *row, x in chosen]
        drawn["choice"] = figures.scale_choice(chosen, scales, palette, names)
    largest = scales.index(max(scales))
    rows = [seen_rows(shown, largest, len(scales)) for shown in seen]
    graphs = [next((row.pop(title) for title in list(row) if title.endswith("super-pixels")), None) for row in rows]
    if graphs[0]:
        regions = [(s["image"], s["regions"], g["adjacency"]) for (s, *_), g in zip(outputs, graphs, strict=True)]
        drawn["superpixels"] = figures.superpixels(regions)
    for index, (sample, *_), row in zip(images, outputs, rows, strict=True):
        if row:
            drawn[f"context_{index}"] = figures.feature_maps(sample["image"], row)
    scores = getattr(run.model.memory, "SCORES", None)
    if scores in outputs[0][1].aux:
        distributions = with_maps(jax.nn.softmax(output.aux[scores].logits[0]) for _, output, *_ in outputs)
        drawn["distributions"] = figures.class_distribution(distributions, palette, names)
    if run.variables["memory"]:
        drawn["memory"] = _memory([run])
    return drawn


def _side_by_side(runs, images):
    """{name: picture} of several runs: predictions, and if one has a memory, the representations of pixels in all of them."""
    outputs = [[_forward(run, i) for i in images] for run in runs]
    rows = [
        (sample["image"], sample["label"], *(np.asarray(run_outputs[i][-1]) for run_outputs in outputs))
        for i, (sample, *_) in enumerate(outputs[0])
    ]
    palette, names = runs[0].metadata["palette"], list(runs[0].metadata["class_names"])
    headings = ("image", "truth", *(run.name for run in runs))
    drawn = {"predictions": figures.prediction_grid(rows, palette, names, headings=headings)}
    if any(run.variables["memory"] for run in runs):
        drawn["memory"] = _memory(runs)
    return drawn


def seen_rows(seen, scale: int = 0, scales: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Rows for `figures.feature_maps`: {title: {name: map of the first image}}, from the collection `seen` (`models.seen`).

    Args:
        seen: the collection.
        scale: index of the scale to draw.
        scales: number of scales at which the modules are called.
    """
    rows = {}

    def walk(collection, path):
        for name, value in collection.items():
            if isinstance(value, tuple):
                maps = value[scale * len(value) // scales :][0]
                rows[", ".join([*path, name])] = {key: np.asarray(x[0]) for key, x in maps.items()}
            else:
                walk(value, [*path, name] if path or name not in ("context", "connections") else path)

    walk(seen, [])
    return rows


def _memory(runs):
    """A figure of the similarities in each run's memory, and of each run's input to the classifier at the same pixels."""
    names, palette = list(runs[0].metadata["class_names"]), runs[0].metadata["palette"]
    image, y, x, label = sample_pixels(runs[0].source, len(names))
    similarities, embeddings = {}, {}
    for run in runs:
        if run.variables["memory"]:
            memory = run.variables["memory"]["memory"]
            similarities[run.name] = figures.cosine_similarity(memory["bank"], memory["seen"])
        points = [None] * len(label)
        for i in np.unique(image):
            sample, output, *_ = _forward(run, i)
            features = np.asarray(output.features["context"][0], np.float32)
            (h, w), (height, width) = features.shape[:2], sample["label"].shape
            for p in np.flatnonzero(image == i):
                points[p] = features[y[p] * h // height, x[p] * w // width]
        points = np.stack(points)
        tsne = TSNE(perplexity=min(30, (len(label) - 1) / 3), init="pca", random_state=0)
        with threadpool_limits(1):  # several times faster for so few points
            embedding = tsne.fit_transform(points)
        line = f"t-SNE of {len(label)} pixels"
        if 1 < len(np.unique(label)) < len(label):  # required for a silhouette
            line += f"; silhouette of classes {silhouette_score(points, label):.2f}"
        embeddings[run.name] = (embedding, label, line)
    return figures.memory(similarities, embeddings, palette, names)


def sample_pixels(source, classes: int):
    """Samples pixels of the first images of `source`, up to the same number of each class; the same pixels every time.

    Returns:
        image index, y, x and label, each int64 `[P]`.

    Raises:
        UserError: no pixel has a label.
    """
    rng, per_class = np.random.default_rng(0), max(1, min(TSNE_PIXELS, TSNE_POINTS // classes))
    pixels: list[list[tuple[int, int, int, int]]] = [[] for _ in range(classes)]
    for i in range(min(TSNE_IMAGES, len(source))):
        label = source[i]["label"]
        for k in np.unique(label[label < classes]):
            positions = rng.permutation(np.argwhere(label == k))[:per_class]
            pixels[k] += [(i, y, x, k) for y, x in positions]
    chosen = [rng.permutation(np.array(candidates))[:per_class] for candidates in pixels if candidates]
    if not chosen:
        raise UserError("config.eval.split has no labelled pixels; choose another split")
    return np.concatenate(chosen).astype(np.int64).T


def _write(path, picture):
    """Writes a figure or an array uint8 `[H,W,3]` as PNG, in 256 colours above `MAX_BYTES`. Returns `path`."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, dpi=110, bbox_inches="tight", pad_inches=0.05)
        picture = Image.open(buffer).convert("RGB")
    else:
        picture = Image.fromarray(picture)
    encoded = _png(picture)
    if len(encoded) > MAX_BYTES:
        reduced = picture.quantize(256)
        encoded = _png(picture.quantize(palette=reduced, dither=Image.Dither.FLOYDSTEINBERG))
        if len(encoded) > MAX_BYTES:  # without dither: smaller, but with bands in smooth areas
            encoded = _png(reduced)
    try:
        make_folder(path.parent)
        write_bytes(path, encoded)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return path


def _png(picture):
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _read_results(folder):
    """results.json of a run. UserError if it is missing, has no confusion matrix, or is of instance segmentation."""
    path = folder / "results.json"
    if not path.exists():
        raise UserError(f"{path} is missing: evaluate the run first (--mode=evaluate)")
    results = record.read(folder)
    if results.get("task") == record.INSTANCES:
        raise UserError(
            f"{folder} is a run of instance segmentation, which has its pictures in report.html (--mode=report)"
        )
    if not results.get("confusion"):
        raise UserError(f"{path} has no confusion matrix: evaluate the run again (--mode=evaluate)")
    return results
