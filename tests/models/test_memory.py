"""MCIBI's memory and its aggregation against `tests/references/memory_numpy.py`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.models import SegmenterOutput, create_model, extent, memory
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.models.layers import ConvNorm
from ctxseg.training import losses, optimizers
from ctxseg.training.step import fill_memory
from tests.drawn import drawn_state
from tests.models.gradients import check_against
from tests.references import memory_numpy

CLASSES, CHANNELS = 5, 6


def batch(seed=0):
    """R `[4,3,4,C]` and labels `[4,7,9]`: class 3 is absent, class 4 is new, all pixels of the last image are ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 4, 255], (4, 7, 9)).astype(np.uint8)
    labels[3] = 255
    return rng.normal(size=(4, 3, 4, CHANNELS)).astype(np.float32), labels


def bank(seed=1):
    m = np.random.default_rng(seed).normal(size=(CLASSES, CHANNELS)).astype(np.float32)
    m[4] = 0
    return {"bank": m, "seen": np.array([True, True, True, True, False])}


def on_devices(count, function):
    """Results of `function(pixels, labels)` on each of `count` devices that share the batch. The last of four has only ignored pixels."""
    split = [x.reshape(count, -1, *x.shape[1:]) for x in batch()]
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function, axis_name="devices"))(*split))


def draws_of_class(pixels, labels, c, rng):
    """The numbers that the pixels of class c draw, and the pixels' representations, in the order of `memory_numpy.candidates`."""
    draws = np.stack([jax.random.bits(jax.random.fold_in(rng, i), labels.shape[1:]) for i in range(len(labels))])
    return draws[labels == c], memory_numpy.candidates(np.asarray(pixels, np.float64), labels, c)


@pytest.mark.parametrize("cosine", [True, False])
def test_update_matches_the_reference(cosine):
    pixels, labels = batch()
    expected, seen = memory_numpy.update(bank()["bank"], bank()["seen"], pixels, labels, 0.3, cosine)
    actual = memory.update(
        jax.tree.map(jnp.asarray, bank()), jnp.asarray(pixels), jnp.asarray(labels), 0.3, cosine=cosine
    )
    np.testing.assert_allclose(actual["bank"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(actual["seen"], seen)
    np.testing.assert_array_equal(actual["bank"][3], bank()["bank"][3])  # absent: not changed at all
    assert seen[4] and np.abs(expected - bank()["bank"])[:3].max() > 0.05


def update(pixels, labels):
    state = jax.tree.map(jnp.asarray, bank())
    return memory.update(state, pixels, labels, 0.3, cosine=True, axis_name="devices")


def sample(pixels, labels, seed=7):
    return memory.sample(pixels, labels, CLASSES, jax.random.PRNGKey(seed), "devices")


@pytest.mark.parametrize("function", [update, sample])
def test_result_does_not_depend_on_the_number_of_devices(function):
    """All of 1, 2 and 4 devices get the same result."""
    one, *others = (on_devices(n, function) for n in (1, 2, 4))
    for other in others:
        for name in one:
            for replica in other[name]:
                np.testing.assert_allclose(replica, one[name][0], rtol=1e-5, atol=1e-6)


def test_sampled_pixel_is_the_one_that_drew_the_highest_number():
    pixels, labels = batch()
    actual = jax.jit(partial(memory.sample, classes=CLASSES))(pixels, labels, rng=jax.random.PRNGKey(7))
    for c in range(CLASSES):
        draws, representations = draws_of_class(pixels, labels, c, jax.random.PRNGKey(7))
        if c == 3:  # absent
            assert not len(draws) and actual["draw"][c] == 0 and not actual["pixel"][c].any()
        else:
            assert actual["draw"][c] == draws.max()
            np.testing.assert_allclose(actual["pixel"][c], representations[draws.argmax()], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(memory.sampled(actual)["seen"], [True, True, True, False, True])


def test_one_pixel_is_taken_if_devices_draw_the_same_number(monkeypatch):
    """The first device's, not the sum over the devices."""
    monkeypatch.setattr(jax.random, "bits", lambda key, shape: jnp.full(shape, 5, jnp.uint32))
    # A new function, so that no program compiled without the patch is reused.
    one, two = (on_devices(n, lambda *arguments: sample(*arguments))["pixel"][0, 4] for n in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_pixels_parallel_to_their_entry_are_averaged():
    """Their weights 1 − S are all 0."""
    pixels = np.tile(bank()["bank"][0] * 2, (1, 2, 2, 1))
    actual = memory.update(
        jax.tree.map(jnp.asarray, bank()),
        jnp.asarray(pixels),
        jnp.zeros((1, 4, 4), jnp.uint8),
        0.5,
        cosine=True,
    )
    np.testing.assert_allclose(actual["bank"][0], 1.5 * bank()["bank"][0], rtol=1e-5)


def test_momentum_follows_its_schedule():
    for t in (0, 3, 10):
        np.testing.assert_allclose(memory.momentum(t, 10), memory_numpy.momentum(t, 10), rtol=1e-6)
    module = memory.FeatureMemory(CLASSES, momentum=0.8, power=2.0)
    np.testing.assert_allclose(module.rate(3, 10), memory_numpy.momentum(3, 10, 0.8, 2.0), rtol=1e-6)
    assert module.clone(polynomial=False).rate(3, 10) == 0.8


def test_cluster_centres_have_the_mean_direction_and_length():
    """Sums over two halves of a batch add up."""
    pixels, labels = batch()
    halves = [memory.cluster(jnp.asarray(pixels[s]), jnp.asarray(labels[s]), CLASSES) for s in (slice(2), slice(2, 4))]
    actual = memory.centres(jax.tree.map(jnp.add, *halves))
    np.testing.assert_array_equal(actual["seen"], [True, True, True, False, True])
    for c in (0, 1, 2, 4):
        r = memory_numpy.candidates(pixels, labels, c)
        length = np.linalg.norm(r, axis=1)
        direction = (r / length[:, None]).sum(0)
        expected = direction / np.linalg.norm(direction) * length.mean()
        np.testing.assert_allclose(actual["bank"][c], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", ["random", "clustering"])
def test_memory_is_filled_from_training_batches(first):
    """`fill_memory` reads the requested number of batches. Each is normalised by its own statistics, as in training."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.memory.update({"name": "mcibi", "channels": 4, "first": first})
    model = create_model(config.model, CLASSES, axis_name="devices")
    state = drawn_state(model, optimizers.create_optimizer(config.optimizer, 1), (16, 16))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 2, 16, 16, 3), np.uint8)
    labels = rng.choice([0, 1, 2, 255], (4, 2, 16, 16)).astype(np.uint8)
    labels[2] = np.where(labels[2] == 2, 4, labels[2])  # class 4 is only in the third batch
    batches = iter([{"image": x, "label": y} for x, y in zip(images, labels, strict=True)])
    filled = fill_memory(model, state, batches, 3)
    assert len(list(batches)) == 1
    for name in ("params", "batch_stats", "step"):
        assert getattr(filled, name) is getattr(state, name)
    new = filled.memory["memory"]
    np.testing.assert_array_equal(new["seen"], [True, True, True, False, True])
    apply = partial(model.apply, state.variables, train=True, mutable=["batch_stats"])
    apply = jax.jit(
        jax.vmap(partial(apply, rngs={"dropout": rng.integers(9, size=2).astype(np.uint32)}), axis_name="devices")
    )
    pixels = [apply(x[None])[0].pixels[0] for x in images[:3]]
    winners = []
    for c in (0, 1, 2, 4):
        per_batch = [
            draws_of_class(x, y, c, jax.random.fold_in(state.rng, i))
            for i, (x, y) in enumerate(zip(pixels, labels, strict=False))
        ]
        if first == "random":
            highest = [max(draws, default=0) for draws, _ in per_batch]
            winners.append(int(np.argmax(highest)))
            draws, r = per_batch[winners[-1]]
            expected = r[draws.argmax()]
        else:
            r = np.concatenate([r for _, r in per_batch])
            length = np.linalg.norm(r, axis=1)
            direction = (r / np.maximum(length, 1e-12)[:, None]).sum(0)
            expected = direction / np.linalg.norm(direction) * length.mean()
        np.testing.assert_allclose(new["bank"][c], expected, rtol=1e-4, atol=1e-5)
    assert first == "clustering" or len(set(winners)) > 1  # not all from the same batch


def layer(params, stats):
    """(kernel, mean, var, scale, bias) of a `ConvNorm`."""
    kernel, norm = params["conv"]["kernel"], stats["norm"] | params["norm"]
    kernel = kernel[0, 0] if kernel.shape[0] == 1 else kernel
    return tuple(np.asarray(x, np.float64) for x in (kernel, *(norm[k] for k in ("mean", "var", "scale", "bias"))))


def attention_layers(params, stats):
    names = {"q": ("query1", "query2"), "k": ("key1", "key2"), "v": ("value",), "o": ("out",)}
    return {key: [layer(params[n], stats[n]) for n in group] for key, group in names.items()}


@pytest.mark.parametrize("fusion", ["concat", "add", "weighted_add"])
def test_aggregation_follows_the_equations(fusion):
    """R_aug from R, W and M, without and with context within the image."""
    rng = np.random.default_rng(0)
    module = memory.FeatureMemory(CLASSES, CHANNELS, fusion, conv=partial(ConvNorm))
    x, within = rng.normal(size=(2, 3, 4, 3)).astype(np.float32), rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    shapes = jax.eval_shape(lambda r: module.init(r, x, within, False), jax.random.PRNGKey(0))

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        return (0.4 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    params, stats = variables["params"], variables["batch_stats"]
    m = np.asarray(variables["memory"]["bank"])
    for c_wi in (None, within):
        augmented, aux, r, returned = jax.jit(lambda v, x, w: module.apply(v, x, w, False))(variables, x, c_wi)
        np.testing.assert_array_equal(returned["bank"], m)
        np.testing.assert_array_equal(returned["seen"], variables["memory"]["seen"])
        np.testing.assert_allclose(
            r,
            memory_numpy.conv3x3_bn_relu(x.astype(np.float64), layer(params["bottleneck"], stats["bottleneck"])),
            rtol=1e-4,
            atol=1e-5,
        )
        reference = {"attend": attention_layers(params["beyond"], stats["beyond"])}
        if fusion == "concat":
            reference["fuse"] = layer(params["fuse_beyond"], stats["fuse_beyond"])
        elif fusion == "weighted_add":
            reference["fuse"] = (params["weights"]["kernel"][0, 0], params["weights"]["bias"])
        r64, logits = np.asarray(r, np.float64), np.asarray(aux["distribution"], np.float64)
        expected = memory_numpy.dca(r64, m, logits, reference, fusion)
        if c_wi is not None:
            outer = {"attend": attention_layers(params["within"], stats["within"])}
            outer["fuse"] = layer(params["fuse_within"], stats["fuse_within"])
            expected = memory_numpy.with_within(r64, expected, c_wi.astype(np.float64), outer)
        np.testing.assert_allclose(augmented, expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 1e-2


@pytest.mark.parametrize("fusion", ["concat", "weighted_add"])
def test_gradients_of_the_aggregation_match_the_reference(fusion):
    """With respect to every parameter, including those of H1, to the map and to the context within the image."""
    module = memory.FeatureMemory(CLASSES, 4, fusion, conv=partial(ConvNorm, dtype=jnp.float64), dtype=jnp.float64)
    rng = np.random.default_rng(0)
    maps = {"x": rng.normal(size=(1, 2, 3, 3)), "within": rng.normal(size=(1, 2, 3, 2))}

    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda r: module.init(r, *maps.values(), False), jax.random.PRNGKey(0))
    # The memory is no parameter: no gradient reaches it.
    assert set(shapes["memory"]) == {"bank", "seen"} and "bank" not in shapes["params"]
    params = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape), shapes["params"])
    stats = jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape), shapes["batch_stats"])
    m = rng.normal(size=(CLASSES, 4))
    state = {"batch_stats": stats, "memory": {"bank": m, "seen": np.ones(CLASSES, bool)}}

    def reference(params, maps):
        r = memory_numpy.conv3x3_bn_relu(maps["x"], layer(params["bottleneck"], stats["bottleneck"]))
        h1 = params["distribution"]
        hidden = memory_numpy.conv1x1_bn_relu(r, layer(h1["hidden"], stats["distribution"]["hidden"]))
        logits = hidden @ h1["scores"]["kernel"][0, 0] + h1["scores"]["bias"]
        inner = {"attend": attention_layers(params["beyond"], stats["beyond"])}
        if fusion == "concat":
            inner["fuse"] = layer(params["fuse_beyond"], stats["fuse_beyond"])
        else:
            inner["fuse"] = (params["weights"]["kernel"][0, 0], params["weights"]["bias"])
        outer = {"attend": attention_layers(params["within"], stats["within"])}
        outer["fuse"] = layer(params["fuse_within"], stats["fuse_within"])
        return memory_numpy.with_within(r, memory_numpy.dca(r, m, logits, inner, fusion), maps["within"], outer)

    check_against(
        lambda p, maps: module.apply({"params": p} | state, maps["x"], maps["within"], False)[0],
        reference, module, maps, params,
    )  # fmt: skip


@pytest.mark.parametrize("norm", ["running", "entries"])
def test_entries_are_classified_without_dropout(norm):
    """They are normalised by the running statistics or by their own. Only pixels change the running statistics."""
    config = defaults.get_config().model
    config.backbone.name = "none"
    config.memory.update({"name": "mcibi", "channels": 4, "consistency_norm": norm})
    config.classifier.update({"hidden": 3, "dropout": 0.5})
    model = create_model(config, CLASSES)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
    shapes = jax.eval_shape(lambda key: model.init(key, images), jax.random.PRNGKey(0))
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype), shapes)
    entries = np.asarray(variables["memory"]["memory"]["bank"], np.float64)

    weights = rng.normal(size=(CLASSES, CLASSES)).astype(np.float32)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def apply(params):
        rngs = {"dropout": np.zeros(2, np.uint32)}
        output, new = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return (output.aux["memory"].logits * weights).sum(), (output, new)

    gradients, (output, new) = apply(variables["params"])
    p, stats = variables["params"]["classifier"], variables["batch_stats"]["classifier"]["hidden"]["norm"]
    hidden = entries @ p["hidden"]["conv"]["kernel"][0, 0].astype(np.float64)
    mean, var = (hidden.mean(0), hidden.var(0)) if norm == "entries" else (stats["mean"], stats["var"])
    affine = p["hidden"]["norm"]
    hidden = np.maximum((hidden - mean) / np.sqrt(var + 1e-5) * affine["scale"] + affine["bias"], 0)
    expected = hidden @ p["scores"]["kernel"][0, 0] + p["scores"]["bias"]
    np.testing.assert_allclose(output.aux["memory"].logits, expected, rtol=1e-4, atol=1e-5)
    gradients = gradients["classifier"]
    np.testing.assert_allclose(gradients["scores"]["kernel"][0, 0], hidden.T @ weights, rtol=1e-4, atol=1e-5)
    assert np.abs(gradients["hidden"]["conv"]["kernel"]).min() > 1e-4
    before = output.features["context"].reshape(-1, 4) @ p["hidden"]["conv"]["kernel"][0, 0]
    new_mean = new["batch_stats"]["classifier"]["hidden"]["norm"]["mean"]
    np.testing.assert_allclose(new_mean, 0.9 * stats["mean"] + 0.1 * before.mean(0), rtol=1e-4)


def test_a_hidden_3x3_convolution_reads_each_entry_alone():
    config = defaults.get_config().model
    config.backbone.name = "none"
    config.memory.update({"name": "mcibi", "channels": 4})
    config.classifier.update({"hidden": 3, "hidden_kernel": 3})
    model = create_model(config, CLASSES)
    images = jnp.zeros((2, 4, 4, 3))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: model.init(key, images), jax.random.PRNGKey(0))
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype), shapes)
    classifier = variables["params"]["classifier"]
    hidden = variables["memory"]["memory"]["bank"] @ classifier["hidden"]["conv"]["kernel"][1, 1]
    mean, var = (variables["batch_stats"]["classifier"]["hidden"]["norm"][name] for name in ("mean", "var"))
    scale, bias = (classifier["hidden"]["norm"][name] for name in ("scale", "bias"))
    expected = (
        np.maximum((hidden - mean) / np.sqrt(var + 1e-5) * scale + bias, 0) @ classifier["scores"]["kernel"][0, 0]
    )
    with extent.padded(jnp.full((2, 2), 3), (4, 4)):  # the images' padding is not that of the entries
        logits = jax.jit(lambda v, x: model.apply(v, x).aux["memory"].logits)(variables, images)
    np.testing.assert_allclose(logits, expected + classifier["scores"]["bias"], rtol=1e-5)


def test_losses_match_the_reference():
    rng = np.random.default_rng(0)
    h1, o, m = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 5), (2, 3, 4, 5), (5, 5)))
    labels = rng.choice([0, 1, 4, 255], (2, 6, 8)).astype(np.uint8)
    seen = np.array([True, False, True, True, False])
    aux = {
        "distribution": AuxiliaryLogits(jnp.asarray(h1)),
        "memory": AuxiliaryLogits(jnp.asarray(m), "memory", "classes", jnp.asarray(seen)),
    }
    expected = memory_numpy.losses(h1, o, m, labels, seen, 0.4, 1.0)
    actual = losses.total(SegmenterOutput(jnp.asarray(o), aux), jnp.asarray(labels), defaults.get_config().loss)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
