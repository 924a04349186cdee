"""The evaluation against a plain loop over single images, for every part of the protocol and both values of `eval.shapes`."""

import types

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from ctxseg import devices
from ctxseg.configs import defaults
from ctxseg.data import transforms
from ctxseg.data.sizes import bucket
from ctxseg.errors import UserError
from ctxseg.evaluation import gathering, metrics, semantic
from ctxseg.inference.probabilities import create_predictor, predict_probabilities
from ctxseg.inference.protocol import Protocol, canvas_of, create_protocol, shape_of
from ctxseg.models import SegmenterOutput, create_model
from ctxseg.models.resizing import resize
from ctxseg.training import optimizers
from ctxseg.training.step import create_train_step
from tests.drawn import drawn_state
from tests.references import scores_numpy, testing_numpy

NAMES = ["a", "b", "c"]
# Two sizes with the same padded shape, and an incomplete last batch.
SIZES = [(40, 52)] * 3 + [(33, 64)] * 2


pytestmark = pytest.mark.usefixtures("plain_convolutions")


class Source(list):
    def size(self, index):
        return self[index]["label"].shape


@pytest.fixture(scope="module")
def source():
    """Images whose classes follow from noisy colours; some pixels are ignored."""
    rng = np.random.default_rng(0)
    samples = Source()
    for i in rng.permutation(len(SIZES)):
        h, w = SIZES[i]
        label = np.kron(rng.integers(0, 3, (5, 7)), np.ones((8, 10))).astype(np.uint8)[:h, :w]
        image = np.array([[220, 60, 60], [60, 200, 60], [60, 60, 180]])[label] + rng.normal(0, 50, (h, w, 3))
        label[rng.random((h, w)) < 0.1] = 255
        samples.append({"image": image.clip(0, 255).astype(np.uint8), "label": label, "name": str(i)})
    return samples


@pytest.fixture(scope="module")
def trained(source):
    """A network with global pooling, trained briefly on two images: the model, its variables, and a function image → logits."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.context.update({"name": "ppm", "channels": 4, "bins": (1, 2)})
    config.optimizer.learning_rate = 0.1
    model = create_model(config.model, 3, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, 40)
    pair = [s for s in source if s["label"].shape == (40, 52)][:2]
    batch = devices.shard({k: np.stack([s[k] for s in pair]) for k in ("image", "label")})
    state = devices.replicate(drawn_state(model, optimizer, (40, 52)))
    step = create_train_step(model, optimizer, config)
    for _ in range(40):
        state, _ = step(state, batch)
    variables = devices.unreplicate(state).variables
    logits = jax.jit(lambda variables, image: model.apply(variables, image[None]).logits[0])
    return model, variables, lambda image: logits(variables, np.asarray(image, np.float32))


PROTOCOLS = {
    "one scale": {},
    "scales and mirror images": {"scales": (0.5, 1.0, 1.25), "flip": True},
    "windows of resized images": {"size": (48, 40), "window": (32, 24), "stride": 0.5, "flip": True},
    # Images with the same padded shape have two shapes at this base size.
    "windows of a shorter side": {"size": (72,), "scales": (0.5,), "window": (24, 32), "stride": 10},
}


@pytest.fixture(scope="module", params=PROTOCOLS)
def expected(request, source, trained):
    """A protocol, the labels of each image by the plain loop, and the pixels whose label depends on the rounding of float32."""
    fields = PROTOCOLS[request.param]
    probabilities = {s["name"]: testing_numpy.probabilities(trained[2], s["image"], **fields) for s in source}
    gaps = {name: np.diff(np.sort(p, axis=-1)[..., -2:])[..., 0] for name, p in probabilities.items()}
    tied = {name: gap < 1e-6 for name, gap in gaps.items()}
    assert sum(t.sum() for t in tied.values()) <= 3
    return fields, {name: p.argmax(-1) for name, p in probabilities.items()}, tied


@pytest.mark.parametrize("shapes", ["buckets", "exact"])
def test_evaluation_matches_a_loop_over_images(shapes, expected, source, trained, monkeypatch):
    fields, predictions, tied = expected
    builder = types.SimpleNamespace(
        name="stub",
        info=types.SimpleNamespace(
            metadata={"class_names": NAMES, "groups": {"first": ["a"], "others": ["b", "c"]}}, splits={"val": None}
        ),
    )
    monkeypatch.setattr(semantic.pipeline, "source", lambda *_: source)
    config = defaults.get_config()
    config.eval.update({"batch_size": 2, "samples": 3, "shapes": shapes} | fields)
    model, variables, _ = trained
    step = semantic.create_eval_step(model, create_protocol(config.eval))
    progress, replicas = [], devices.replicate(variables)
    kinds = list(semantic.compile_step(config, builder, step, devices.shapes(replicas)))
    assert len(kinds) == len(step._programs) < len(source)
    monkeypatch.setattr(step, "_function", None)  # all programs of the evaluation are compiled
    result = semantic.evaluate_split(config, builder, step, replicas, progress.append)
    scores, confusion, samples = result.scores, result.confusion, result.samples

    valid = [s["label"] != 255 for s in source]
    truth = np.concatenate([s["label"][mask] for s, mask in zip(source, valid, strict=True)])
    predicted = np.concatenate([predictions[s["name"]][mask] for s, mask in zip(source, valid, strict=True)])
    ties = sum(t.sum() for t in tied.values())  # each may move one pixel to another column
    assert np.abs(confusion - confusion_matrix(truth, predicted, labels=[0, 1, 2])).sum() <= 2 * ties
    assert scores.items() >= metrics.scores(confusion, NAMES, builder.info.metadata["groups"]).items()
    assert len(np.unique(predicted)) == 3
    assert sorted(result.image_names) == sorted(s["name"] for s in source) and result.seconds_per_image > 0
    for name, image_counts in zip(result.image_names, result.image_counts, strict=True):
        label = next(s["label"] for s in source if s["name"] == name)
        for k, counts in enumerate(image_counts):
            guess = (predictions[name] == k) & (label != 255)
            expected_counts = np.array([(guess & (label == k)).sum(), (label == k).sum(), guess.sum()])
            assert np.abs(counts - expected_counts).max() <= tied[name].sum()
    if not fields:
        assert 0.35 < scores["mIoU"] < 1  # trained, but not perfect
    assert progress[-1] == len(source) and len(samples) == 3
    for name, image, label, prediction in samples:
        sample = next(s for s in source if s["name"] == name)
        np.testing.assert_array_equal(image, sample["image"])
        np.testing.assert_array_equal(label, sample["label"])
        np.testing.assert_array_equal(prediction[~tied[name]], predictions[name][~tied[name]])


def test_boundaries_confidences_and_the_worst_images(source, trained, monkeypatch):
    """Of padded images in batches of two; one of six images has no labels, and the last batch is incomplete."""
    model, variables, _ = trained
    extra = Source([*source, source[0] | {"label": np.full_like(source[0]["label"], 255), "name": "without labels"}])
    extra.append(source[0] | {"label": np.where(source[0]["label"] == 2, 254, source[0]["label"]), "name": "id 254"})
    builder = types.SimpleNamespace(
        name="stub", info=types.SimpleNamespace(metadata={"class_names": NAMES, "groups": {}}, splits={"val": None})
    )
    monkeypatch.setattr(semantic.pipeline, "source", lambda *_: extra)
    config = defaults.get_config()
    config.eval.update({"batch_size": 2, "samples": 9})
    step, replicas = semantic.create_eval_step(model, create_protocol(config.eval)), devices.replicate(variables)
    result = semantic.evaluate_split(config, builder, step, replicas, complete=True)
    names, images, labels, predictions = zip(*result.samples, strict=True)
    assert set(names) == {s["name"] for s in extra}
    labels = [np.where(label == 254, 255, label) for label in labels]

    expected = scores_numpy.boundary_iou(labels, predictions, 3)
    assert [*result.scores["per_class_boundary_iou"].values()] == pytest.approx(expected.tolist())
    assert result.scores["boundary_IoU"] == pytest.approx(expected.mean())
    pixels = sum((label != 255).sum() for label in labels)
    right = sum((label == prediction).sum() for label, prediction in zip(labels, predictions, strict=True))
    by_distance, by_size = result.where["by_distance"], result.where["by_size"]
    assert sum(by_distance["pixels"]) == sum(map(sum, by_size["pixels"].values())) == pixels
    assert sum(by_distance["correct"]) == sum(map(sum, by_size["correct"].values())) == right

    predict = create_predictor(model, config.eval)
    probabilities = np.concatenate([predict(variables, image[None]).reshape(-1, 3) for image in images])
    flat = np.concatenate([label.ravel() for label in labels])
    ece, accuracy, confidence, count = scores_numpy.calibration(probabilities, flat)
    reliability = result.where["reliability"]
    assert sum(reliability["pixels"]) == pixels and np.abs(count - reliability["pixels"]).sum() <= 4  # rounding
    assert result.scores["ECE"] == pytest.approx(ece, abs=1e-3)
    means = np.array(reliability["confidence"], float), np.array(reliability["accuracy"], float)
    np.testing.assert_allclose(means, (confidence, accuracy), atol=0.02)

    scored = zip(result.image_names, map(metrics.image_iou, result.image_counts), strict=True)
    iou = {name: value for name, value in scored if value is not None}
    assert sorted(iou) == sorted(set(names) - {"without labels"})
    assert [iou[name] for name, *_ in result.worst] == sorted(iou.values())
    config.eval.samples = 2
    few = semantic.evaluate_split(config, builder, step, replicas)
    assert (
        len(few.samples) == len(few.worst) == 2 and few.scores == result.scores and list(few.where) == ["reliability"]
    )
    for (name, *arrays), (other, *others) in zip(few.worst, result.worst[:2], strict=True):
        assert name == other and all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


def test_sums_over_processes(monkeypatch):
    parts = [b'{"a": [1, 2], "b": [[0.5]]}', b'{"a": [10, 20], "b": [[0.25]]}']
    monkeypatch.setattr(gathering.processes, "gather", lambda contents: [*parts, contents])
    totals = gathering.summed({"a": np.array([100, 2**40]), "b": np.zeros((1, 1))})
    assert totals["a"].tolist() == [111, 2**40 + 22] and totals["a"].dtype == np.int64
    assert totals["b"].tolist() == [[0.75]]


def test_resized_labels_are_scored_at_their_new_size(source, trained, monkeypatch):
    """They are resized with the images, by nearest neighbour."""
    model, variables, scores = trained
    builder = types.SimpleNamespace(
        name="stub", info=types.SimpleNamespace(metadata={"class_names": NAMES, "groups": {}}, splits={"val": None})
    )
    monkeypatch.setattr(semantic.pipeline, "source", lambda *_: source)
    config = defaults.get_config()
    config.eval.update({"batch_size": 5, "samples": 0, "size": (20, 26), "score": "resized"})
    step = semantic.create_eval_step(model, create_protocol(config.eval))
    confusion = semantic.evaluate_split(config, builder, step, devices.replicate(variables)).confusion
    labels = [transforms.resize(s, (20, 26))["label"] for s in source]
    assert confusion.sum() == sum((label != 255).sum() for label in labels)


def test_images_are_padded_to_few_shapes():
    """Each side up to 1024 is padded to one of 16 lengths. From 128 on, padding adds less than a quarter."""
    lengths = {n: bucket(n) for n in range(1, 1025)}
    assert len(set(lengths.values())) == 16 and all(b % 32 == 0 for b in lengths.values())
    assert all(n <= b < 1.25 * n for n, b in lengths.items() if n >= 128)
    assert shape_of((375, 500), "buckets") == (384, 512)
    assert shape_of((375, 500), "exact") == (375, 500)


def test_predictor_matches_the_loop(source, trained):
    """On one device, for a single image."""
    model, variables, scores = trained
    config = defaults.get_config().eval
    image = source[0]["image"]
    actual = create_predictor(model, config)(variables, image[None])
    np.testing.assert_allclose(actual[0], testing_numpy.probabilities(scores, image), atol=1e-4)


def test_images_of_different_aspect_in_one_batch_match_the_loop(source, trained):
    """A portrait and a landscape image, with a shorter side as the base size, keep their aspect ratios."""
    model, variables, scores = trained
    landscape, wide = (next(s["image"] for s in source if s["label"].shape == size) for size in ((40, 52), (33, 64)))
    images = [landscape, np.rot90(wide)]
    samples = [transforms.crop({"image": image}, 0, 0, (64, 64)) for image in images]
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    protocol = Protocol(size=(24,))
    assert [canvas_of(image.shape[:2], protocol) for image in images] == [(32, 32), (64, 32)]
    run = jax.jit(lambda v, x, s: predict_probabilities(model, v, x, None, s, protocol, (64, 32)))
    actual = run(variables, np.stack([sample["image"] for sample in samples]), sizes)
    for image, p in zip(images, actual, strict=True):
        expected = testing_numpy.probabilities(scores, image, size=(24,))
        np.testing.assert_allclose(p[: image.shape[0], : image.shape[1]], expected, atol=1e-4)


def test_mirroring_swaps_left_and_right_classes(source, trained):
    """In the mirror image, the probabilities of the second and the third class are swapped."""
    model, variables, scores = trained
    config = defaults.get_config().eval
    config.flip = True
    image = source[0]["image"]
    plain, mirrored = (testing_numpy.probabilities(scores, view) for view in (image, image[:, ::-1]))
    for names, order in ((["hair", "left-arm", "right-arm"], [0, 2, 1]), (NAMES, [0, 1, 2])):
        actual = create_predictor(model, config, names)(variables, image[None])[0]
        np.testing.assert_allclose(actual, (plain + mirrored[:, ::-1][..., order]) / 2, atol=1e-4)
    assert np.abs(plain - mirrored[:, ::-1]).max() > 0.01 and np.abs(mirrored[..., 1] - mirrored[..., 2]).max() > 0.1


def test_windows_with_super_pixels_do_not_depend_on_padding():
    """Pixels outside a window are in no region. The window's size is not a multiple of the stride."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.context.update({"name": "msci", "levels": ("res4", "res5"), "channels": 4, "stages": 1, "regions": 30})
    model = create_model(config.model, 3)
    image = np.random.default_rng(0).integers(0, 256, (1, 45, 61, 3), np.uint8)
    regions = np.kron(np.arange(30).reshape(5, 6), np.ones((9, 11), int)).astype(np.int32)[None, :, :61]
    variables = drawn_state(model, optimizers.create_optimizer(config.optimizer, 1), image.shape[1:3]).variables
    results = []
    for shapes in ("buckets", "exact"):
        config.eval.update({"shapes": shapes, "size": (40,), "window": (37, 41), "flip": True})
        results.append(create_predictor(model, config.eval)(variables, image, regions))
    np.testing.assert_allclose(*results, atol=1e-5)
    assert results[0].std((0, 1, 2)).min() > 1e-3


def test_crf_ignores_padding(source, trained):
    """Both values of `eval.shapes` agree within the error of the lattice: a larger array has room for more vertices."""
    model, variables, _ = trained
    image = source[0]["image"]
    refined = {}
    for shapes, iterations in (("buckets", 2), ("exact", 2), ("exact", 0)):
        config = defaults.get_config().eval
        config.shapes, config.crf.iterations, config.crf.colour_sigma = shapes, iterations, 40.0
        refined[shapes, iterations] = create_predictor(model, config)(variables, image[None])[0]
    assert np.abs(refined["buckets", 2] - refined["exact", 2]).mean() < 1e-3
    assert (refined["buckets", 2].argmax(-1) == refined["exact", 2].argmax(-1)).mean() > 0.998
    assert np.abs(refined["exact", 2] - refined["exact", 0]).max() > 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scales": ()}, r"config.eval.scales is \(\).*one or more"),
        ({"scales": (1.0, 0.0)}, r"config.eval.scales is \(1.0, 0.0\).*more than 0"),
        ({"scales": (1.0, float("inf"))}, r"config.eval.scales is \(1.0, inf\).*finite"),
        ({"window": (321,)}, r"config.eval.window is \(321,\).*height and a width.*\(\)"),
        ({"size": (0, 3)}, "config.eval.size"),
        ({"size": (-512,)}, r"config.eval.size is \(-512,\).*\(shorter side,\).* above 0"),
        ({"size": (512.0,)}, "config.eval.size"),
        ({"size": (1, 2, 3)}, "config.eval.size"),
        ({"stride": 0.0}, "config.eval.stride is 0.0.*more than 0"),
        ({"stride": 33.0, "window": (32, 64)}, "config.eval.stride is 33; .*share of the window.*whole pixels"),
        ({"stride": 1.5, "window": (32, 64)}, "config.eval.stride is 1.5; .*whole pixels"),
        ({"score": "both"}, "config.eval.score is 'both'.*original, resized"),
        ({"crf": {"colour_sigma": 0.0}}, "config.eval.crf.colour_sigma is 0.0.*at least 0.1"),
        ({"shapes": "any"}, "config.eval.shapes is 'any'.*buckets, exact"),
    ],
)
def test_message_names_the_invalid_field(change, message):
    config = defaults.get_config().eval
    with config.ignore_type():
        config.update(change)
    with pytest.raises(UserError, match=f"^{message}"):
        create_protocol(config)


def test_each_scale_reads_its_own_super_pixels():
    """They are mirrored with the image. The network's classes are the regions."""

    class RegionIds:
        num_classes = 6

        def apply(self, variables, x, regions, train):
            return SegmenterOutput(30.0 * jax.nn.one_hot(regions, 6))

    rng = np.random.default_rng(0)
    images = np.zeros((1, 4, 6, 3), np.uint8)
    regions = rng.integers(0, 6, (1, 4, 6, 2)).astype(np.int32)
    regions[..., 1] = np.kron(rng.integers(0, 6, (1, 2, 3)), np.ones((2, 2), np.int32))
    for flip in (False, True):
        protocol = Protocol(scales=(1.0, 0.5), flip=flip, shapes="exact")
        run = jax.jit(lambda x, r, p=protocol: predict_probabilities(RegionIds(), {}, x, r, None, p))
        actual = run(images, regions)
        small = jax.nn.softmax(resize(30.0 * jax.nn.one_hot(regions[:, ::2, ::2, 1], 6), (4, 6)))
        expected = (jax.nn.softmax(30.0 * jax.nn.one_hot(regions[..., 0], 6)) + small) / 2
        np.testing.assert_allclose(actual, expected, atol=1e-6)
