"""DenseCRF against the exact kernels, the parts of its filter, and the search of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.transform import resize

from ctxseg.errors import UserError
from ctxseg.evaluation import crf_search
from ctxseg.inference import crf, lattice
from ctxseg.inference.protocol import check_crf
from tests.references import crf_numpy

SIZE, CLASSES = (24, 32), 5
PATCHES = {"astronaut": (100, 200), "chelsea": (100, 150), "coffee": (150, 200), "rocket": (300, 250)}
SIGMAS = [(67.0, 4.0), (80.0, 13.0), (49.0, 3.0)]  # DeepLab's, pydensecrf's, and the smallest of DeepLab's search


def photograph(name):
    """A patch of a photograph, uint8 `[24,32,3]`, and probabilities `[24,32,5]` like those of a network with output stride 8."""
    (y, x), (height, width) = PATCHES[name], SIZE
    image = getattr(skimage.data, name)()[y : y + height, x : x + width]
    logits = 5 * np.random.default_rng(y).normal(size=(height // 8, width // 8, CLASSES))
    return image, crf_numpy.softmax(resize(logits, SIZE, order=1, mode="edge")).astype(np.float32)


@pytest.fixture(scope="module")
def photographs():
    images, probabilities = zip(*map(photograph, PATCHES), strict=True)
    return np.stack(images), np.stack(probabilities)


@pytest.mark.parametrize("bilateral_sigma, colour_sigma", SIGMAS)
def test_result_is_close_to_that_of_the_exact_kernels(photographs, bilateral_sigma, colour_sigma):
    images, probabilities = photographs
    sigmas = {"bilateral_sigma": bilateral_sigma, "colour_sigma": colour_sigma}
    actual = np.asarray(crf.mean_field(probabilities, images, **sigmas))
    settings = {"iterations": 10, "spatial_weight": 3, "spatial_sigma": 3, "bilateral_weight": 4}
    exact = np.stack(
        [crf_numpy.mean_field(p, i, **settings, **sigmas) for p, i in zip(probabilities, images, strict=True)]
    )
    assert (exact.argmax(-1) != probabilities.argmax(-1)).mean() > 0.05  # the CRF changes the labels
    error = np.abs(actual - exact).mean((1, 2, 3))
    assert (error < 1e-2).all()
    # Without vertices between the corners, it would be 4.1e-3 with σ = 49, 3.
    assert error.mean() < 3.5e-3
    # It is 0.983 in the worst patch, where the CRF changes 45 % of the labels.
    assert (actual.argmax(-1) == exact.argmax(-1)).mean() >= 0.99


def test_the_spatial_kernel_alone_is_exact(photographs):
    image, start = (x[0] for x in photographs)
    settings = {"iterations": 3, "spatial_weight": 5.0, "spatial_sigma": 2.0, "bilateral_weight": 0.0}
    sigmas = {"bilateral_sigma": 67.0, "colour_sigma": 4.0}
    actual = crf.mean_field(start[None], image[None], **settings, **sigmas)[0]
    exact = crf_numpy.mean_field(start, image, **settings, **sigmas)
    np.testing.assert_allclose(actual, exact, atol=1e-3)


def test_probabilities_do_not_change_without_iterations_or_weights(photographs):
    images, probabilities = photographs
    for off in ({"iterations": 0}, {"spatial_weight": 0.0, "bilateral_weight": 0.0}):
        np.testing.assert_allclose(crf.mean_field(probabilities, images, **off), probabilities, atol=1e-5)


@pytest.fixture(scope="module")
def example():
    features = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    return features, jax.jit(lattice.build)(features)


def test_a_point_is_the_weighted_mean_of_its_corners(example):
    features, _ = example
    corners, weights = jax.jit(lattice.simplices)(features)
    corners, weights = np.asarray(corners), np.asarray(weights)
    assert (weights > -1e-5).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert (corners.sum(-1) == 0).all()
    assert (corners % 6 == np.arange(6)[:, None]).all()
    # The map into the hyperplane keeps distances, up to the scale 6 √(2/3).
    points = np.einsum("nk,nkd->nd", weights, corners)
    distances = np.linalg.norm(points[1:] - points[:-1], axis=1) / (6 * np.sqrt(2 / 3))
    np.testing.assert_allclose(distances, np.linalg.norm(features[1:] - features[:-1], axis=1), rtol=1e-4)


def test_each_vertex_has_one_number_and_neighbourhood_is_mutual(example):
    features, built = example
    corners = np.asarray(lattice.simplices(features)[0]).reshape(-1, 6)
    _, distinct = np.unique(corners, axis=0, return_inverse=True)
    pairs = np.unique(np.stack([distinct.ravel(), np.asarray(built.vertices).ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    assert pairs[1].min() > 0 and pairs[1].max() < built.used
    before, after = np.asarray(built.neighbours).swapaxes(0, 1)
    for forward, backward in ((before, after), (after, before)):
        direction, vertex = np.nonzero(forward)
        assert (backward[direction, forward[direction, vertex]] == vertex).all()
    assert (before > 0).sum() > 200


def test_only_near_points_affect_each_other():
    features = np.zeros((3, 5), np.float32)
    features[1, 2], features[2, 3] = 0.5, 40
    kernel = np.asarray(jax.jit(lambda x: lattice.filter_values(lattice.build(x), jnp.eye(3)))(features))
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    assert 0.6 < kernel[0, 1] / kernel[0, 0] < 1 and (kernel[2, :2] == 0).all()


def test_result_does_not_depend_on_the_number_of_channels_at_once(monkeypatch):
    """On an image smaller than the spatial kernel."""
    rng = np.random.default_rng(0)
    start = rng.dirichlet(np.ones(5), (1, 3, 4)).astype(np.float32)
    image = rng.integers(0, 9, (1, 3, 4, 3)).astype(np.float32)
    expected = crf.mean_field(start, image, iterations=2)
    monkeypatch.setattr(crf, "MAX_CHANNELS", 2)
    jax.clear_caches()
    np.testing.assert_allclose(crf.mean_field(start, image, iterations=2), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(-1), 1, atol=1e-5)


def test_search_finds_the_parameters_that_denoise():
    rng = np.random.default_rng(0)
    labels = np.kron([[0, 1], [1, 0]], np.ones((8, 8))).astype(np.uint8)
    image = np.where(labels[..., None] > 0, 200, 30).astype(np.uint8).repeat(3, -1)
    correct = np.where(rng.random((16, 16)) < 0.2, 0.3, 0.7)
    start = np.stack([np.where(labels == k, correct, 1 - correct) for k in (0, 1)], -1).astype(np.float32)
    labels[0] = 255
    grid = crf_search.grid(iterations=(4,), bilateral_weight=(0.01, 4.0), spatial_weight=(0.01,))
    found = crf_search.search([(start, image, labels)], [{"iterations": 0}, *grid])
    assert found[0] == {"mIoU": 1.0, "iterations": 4, "bilateral_weight": 4.0, "spatial_weight": 0.01}
    assert 0.5 < found[-1]["mIoU"] < 0.8 and len(found) == 3


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"sigma": 3}, "config.crf.sigma .*colour_sigma"),
        ({"colour_sigma": 0.0}, "config.crf.colour_sigma is 0.0.*at least 0.1"),
        ({"bilateral_weight": -1.0}, "config.crf.bilateral_weight is -1.0.*at least 0"),
        ({"bilateral_weight": "4"}, "config.crf.bilateral_weight is '4'.*number"),
        ({"iterations": 2.5}, "config.crf.iterations is 2.5.*whole number"),
    ],
)
def test_message_names_the_invalid_parameter(parameters, message):
    with pytest.raises(UserError, match=message):
        check_crf(parameters)


def test_search_without_images_is_an_error():
    with pytest.raises(UserError, match="search"):
        crf_search.search([], [{}])
