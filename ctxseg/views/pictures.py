"""What the networks of runs see: maps taken out of a trained network, and drawn (`figures.py`). `--mode=pictures`.

Images go through the network once, as large as they are, whatever protocol the run is evaluated by.
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
from ctxseg.evaluation import evaluate
from ctxseg.files import make_folder, resolved, write_bytes
from ctxseg.inference.probabilities import at_base_size
from ctxseg.models.layers import resize
from ctxseg.runs import checkpoints, provenance, record, workdir
from ctxseg.views import figures

TSNE_IMAGES = 32  # images, the first of the split, that pixels are drawn from
TSNE_PIXELS = 50  # of each class, as far as the images have them
TSNE_POINTS = 1500  # in all, which bounds the time
LARGEST = 300_000  # bytes of a PNG, above which it is written in 256 colours


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained network and the data that it is evaluated on."""

    folder: epath.Path
    results: dict
    metadata: dict
    source: Any
    model: Any
    variables: dict
    look: Any  # jitted: (variables, image, regions or None) → see `_looker`

    @property
    def name(self) -> str:
        return resolved(self.folder).name


def pictures(folders: list[str], configs: list[ConfigDict], images: tuple[int, ...] = (0, 1, 2)) -> list[epath.Path]:
    """Draws what each run's network sees into `pictures/` of its folder, and into the first's what sets several runs side by side.

    It sees whole images at their base size, `config.eval.size`; neither windows nor other scales.

    Every run: `predictions`, `confusion`; attention over scales: `attention`; maximum over scales: `choice`; super-pixels:
    `superpixels`; a context that shows maps, as ReNet's and ZigZagNet's do: `context_I` of each image; MCIBI: `distributions`,
    `memory`. Several runs: `predictions_side_by_side`, and if one has a memory `memory_side_by_side`.

    Args:
        folders: of runs that are evaluated and still have a checkpoint, the newest of which is taken.
        configs: of the runs; `eval.split` and the place of the data are read from the first.
        images: indices into the split; where the data are not there, into the samples that the first run keeps.

    Returns:
        The files written, PNG.

    Raises:
        UserError: a folder without results.json or checkpoint; an index that the split does not have; runs on different
            data.
    """
    if not images:
        raise UserError("--images is empty: give one index or more, as --images=0,1,2")
    data_config, split = configs[0].data, configs[0].eval.split
    for folder, config in zip(folders, configs, strict=True):
        if config.data.name != data_config.name:
            raise UserError(
                f"{folder} is a run on {config.data.name}, and {folders[0]} on {data_config.name}: side by side, runs must have "
                "the same data"
            )
    names = [resolved(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(
            f"--workdir: two runs are called {max(names, key=names.count)}: side by side, folders need names of their own"
        )
    scored = [_read_results(epath.Path(folder)) for folder in folders]
    try:
        builder = data.load(data_config.name, data_config.data_dir, data_config.manual_dir)
    except UserError as e:
        print(f"note: {e}: images are those of {folders[0]}/samples.npz", file=sys.stderr, flush=True)
        sources, where = _of_samples(folders, configs), f"{folders[0]}/samples.npz"
    else:
        dataset = provenance.describe(builder, data_config.manual_dir)
        for folder in folders:
            provenance.check(str(folder), dataset, "pictures are of the data that a run is of")
        sources = [evaluate.split_source(builder, split, config.data.superpixels) for config in configs]
        where = f"the split {split} of {builder.name}"
    wrong = [i for i in images if not 0 <= i < len(sources[0])]
    if wrong:
        raise UserError(f"--images has {wrong[0]}, but {where} has images 0 to {len(sources[0]) - 1}")
    runs = [_open(epath.Path(folder), *of) for folder, *of in zip(folders, configs, scored, sources, strict=True)]
    written = []
    for run in runs:
        for name, picture in _own(run, images).items():
            written.append(_write(run.folder / "pictures" / f"{name}.png", picture))
    if len(runs) > 1:
        for name, picture in _side_by_side(runs, images).items():
            written.append(_write(runs[0].folder / "pictures" / f"{name}_side_by_side.png", picture))
    return written


def _of_samples(folders, configs):
    """A source for each run of what the first one's samples.npz holds. UserError if that is nothing, or the runs are of other data."""
    trained = [workdir.read_dataset(folder) for folder in folders]
    for folder, dataset in zip(folders, trained, strict=True):
        if dataset and trained[0] and not provenance.same(dataset, trained[0]):
            raise UserError(
                f"{folder} is of {provenance.words(dataset)}, and {folders[0]} of {provenance.words(trained[0])}: side by side, runs "
                "must have the same data"
            )
    samples = record.read_samples(folders[0])
    if not samples:
        raise UserError(
            f"{folders[0]}/samples.npz is missing, or holds nothing: evaluate the run again (--mode=evaluate)"
        )

    def source(segments):
        found = [{"image": image, "label": label} for image, label, _ in samples.values()]
        if segments:
            found = [
                s | {"regions": superpixels.stack([superpixels.compute(s["image"], superpixels.View(segments))])}
                for s in found
            ]
        return found

    return [source(config.data.superpixels) for config in configs]


def _open(folder, config, scored, source):
    """The run in `folder`, its newest checkpoint restored."""
    metadata = provenance.metadata(config, str(folder))
    model, state = checkpoints.restore_run(config, str(folder))
    return TrainedRun(folder, scored, metadata, source, model, state.variables, _looker(model, tuple(config.eval.size)))


def _looker(model, base):
    """(variables, image uint8 `[H,W,3]`, regions int32 `[H,W]` or None) → the output, what modules show, and label map int32 `[H,W]`.

    The network sees the image at its base size, `config.eval.size`, as in an evaluation at scale 1.

    What modules show is the collection `seen` (`models.seen`).
    """

    @jax.jit
    def look(variables, image, regions):
        images, regions = at_base_size(image[None], None if regions is None else regions[None], base)
        output, found = model.apply(
            variables,
            images,
            regions,
            mutable=["seen"],
        )
        scores = resize(output.logits, image.shape[:2])
        return output, found.get("seen", {}), scores[0].argmax(-1)

    return look


def _look(run, index):
    """A sample and what the network makes of it."""
    sample = run.source[index]
    return sample, *run.look(run.variables, sample["image"], sample.get("regions"))


def _own(run, images):
    """{name: picture} of what the model of `run` has to show."""
    palette, names = run.metadata["palette"], list(run.metadata["class_names"])
    looks = [_look(run, i) for i in images]
    labels = [(sample["image"], sample["label"], np.asarray(prediction)) for sample, *_, prediction in looks]

    def beside(maps, method="bilinear"):
        """Samples with a map `[h,w,·]` each, brought to the image's size."""
        return [
            (*row, np.asarray(resize(x[None], row[1].shape, method)[0])) for row, x in zip(labels, maps, strict=True)
        ]

    drawn = {"predictions": figures.prediction_grid(labels, palette, names, headings=("image", "truth", run.name))}
    drawn["confusion"] = figures.confusion_matrix(run.results["confusion"], names)
    seen = [dict(shown) for *_, shown, _ in looks]
    scales = run.model.scales
    of_scales = [shown.pop("scales", [{}])[-1] for shown in seen]
    if "weights" in of_scales[0]:
        weights = beside(shown["weights"][0] for shown in of_scales)
        drawn["attention"] = figures.attention_weights(weights, scales, palette, names)
    if "chosen" in of_scales[0]:
        chosen = [(*row, x[..., 0]) for *row, x in beside((s["chosen"][0][..., None] for s in of_scales), "nearest")]
        drawn["choice"] = figures.scale_choice(chosen, scales, palette, names)
    largest = scales.index(max(scales))
    rows = [seen_rows(shown, largest, len(scales)) for shown in seen]
    graphs = [next((row.pop(title) for title in list(row) if title.endswith("super-pixels")), None) for row in rows]
    if graphs[0]:
        regions = [(s["image"], s["regions"], g["adjacency"]) for (s, *_), g in zip(looks, graphs, strict=True)]
        drawn["superpixels"] = figures.superpixels(regions)
    for index, (sample, *_), row in zip(images, looks, rows, strict=True):
        if row:
            drawn[f"context_{index}"] = figures.feature_maps(sample["image"], row)
    if "distribution" in looks[0][1].aux:
        distributions = beside(jax.nn.softmax(output.aux["distribution"][0]) for _, output, *_ in looks)
        drawn["distributions"] = figures.class_distribution(distributions, palette, names)
    if run.variables["memory"]:
        drawn["memory"] = _memory([run])
    return drawn


def _side_by_side(runs, images):
    """{name: picture} of several runs: their predictions, and where one has a memory, all of their pixels' representations."""
    looks = [[_look(run, i) for i in images] for run in runs]
    rows = [
        (sample["image"], sample["label"], *(np.asarray(look[i][-1]) for look in looks))
        for i, (sample, *_) in enumerate(looks[0])
    ]
    palette, names = runs[0].metadata["palette"], list(runs[0].metadata["class_names"])
    headings = ("image", "truth", *(run.name for run in runs))
    drawn = {"predictions": figures.prediction_grid(rows, palette, names, headings=headings)}
    if any(run.variables["memory"] for run in runs):
        drawn["memory"] = _memory(runs)
    return drawn


def seen_rows(seen, scale: int = 0, scales: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Rows for `figures.feature_maps`: what the modules of a network show (`models.seen`), {title: {name: map of the first image}}.

    Args:
        seen: the collection.
        scale: index of the one to draw.
        scales: at how many the modules are called.
    """
    rows = {}

    def walk(inside, path):
        for name, value in inside.items():
            if isinstance(value, tuple):
                of_scale = value[scale * len(value) // scales :][0]
                rows[", ".join([*path, name])] = {key: np.asarray(x[0]) for key, x in of_scale.items()}
            else:
                walk(value, [*path, name] if path or name not in ("context", "connections") else path)

    walk(seen, [])
    return rows


def _memory(runs):
    """The memories' similarities, and the representations that the classifiers read of the same pixels, of all runs."""
    names, palette = list(runs[0].metadata["class_names"]), runs[0].metadata["palette"]
    image, y, x, label = draw_pixels(runs[0].source, len(names))
    similarities, embeddings = {}, {}
    for run in runs:
        if run.variables["memory"]:
            memory = run.variables["memory"]["memory"]
            similarities[run.name] = figures.cosine_similarity(memory["bank"], memory["seen"])
        points = [None] * len(label)
        for i in np.unique(image):
            sample, output, *_ = _look(run, i)
            features = np.asarray(output.features["context"][0], np.float32)
            (h, w), (height, width) = features.shape[:2], sample["label"].shape
            for p in np.flatnonzero(image == i):
                points[p] = features[y[p] * h // height, x[p] * w // width]
        points = np.stack(points)
        tsne = TSNE(perplexity=min(30, (len(label) - 1) / 3), init="pca", random_state=0)
        with threadpool_limits(1):  # so few points are several times slower with threads that wait for one another
            embedding = tsne.fit_transform(points)
        line = f"t-SNE of {len(label)} pixels"
        if 1 < len(np.unique(label)) < len(label):  # what a silhouette needs
            line += f"; silhouette of classes {silhouette_score(points, label):.2f}"
        embeddings[run.name] = (embedding, label, line)
    return figures.memory(similarities, embeddings, palette, names)


def draw_pixels(source, classes: int):
    """Pixels of the first images of `source`, as many of each class where they have them; always the same.

    Returns:
        image index, y, x and label, each int64 `[P]`.
    """
    rng, each = np.random.default_rng(0), max(1, min(TSNE_PIXELS, TSNE_POINTS // classes))
    found: list[list[tuple[int, int, int, int]]] = [[] for _ in range(classes)]
    for i in range(min(TSNE_IMAGES, len(source))):
        label = source[i]["label"]
        for k in np.unique(label[label < classes]):
            places = rng.permutation(np.argwhere(label == k))[:each]
            found[k] += [(i, y, x, k) for y, x in places]
    chosen = [rng.permutation(np.array(places))[:each] for places in found if places]
    if not chosen:
        raise UserError("config.eval.split has no labels: pixels of each class cannot be drawn from it; choose another")
    return np.concatenate(chosen).astype(np.int64).T


def _write(path, picture):
    """Writes a figure, or an array uint8 `[H,W,3]`, as PNG, in 256 colours if it would be large. Returns `path`."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, dpi=110, bbox_inches="tight", pad_inches=0.05)
        picture = Image.open(buffer).convert("RGB")
    else:
        picture = Image.fromarray(picture)
    encoded = _png(picture)
    if len(encoded) > LARGEST:
        few = picture.quantize(256)
        encoded = _png(picture.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG))
        if len(encoded) > LARGEST:  # without dither: bands in smooth parts, but smaller
            encoded = _png(few)
    try:
        make_folder(path.parent)
        write_bytes(path, encoded)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return path


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _read_results(folder):
    """results.json with a confusion matrix. UserError if it has none."""
    path = folder / "results.json"
    if not path.exists():
        raise UserError(f"{path} is missing: evaluate the run first (--mode=evaluate)")
    found = record.read(folder)
    if not found.get("confusion"):
        raise UserError(f"{path} holds no confusion matrix: evaluate the run again (--mode=evaluate)")
    return found
