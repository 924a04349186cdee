"""The evaluator against a plain loop over single images, with ragged batches and images of several sizes."""

import types

import jax
import numpy as np
from sklearn.metrics import confusion_matrix

from configs import defaults
from ctxseg import devices, evaluate, metrics
from ctxseg.models import create_model
from tests.references.scales_numpy import bilinear_resize

NAMES = ["a", "b", "c"]


class Source(list):
    def size(self, index):
        return self[index]["label"].shape


def test_ragged_batches_of_several_sizes(monkeypatch):
    rng = np.random.default_rng(0)
    sizes = [(16, 24)] * 5 + [(20, 16)] * 2
    order = rng.permutation(len(sizes))
    source = Source()
    for i in order:
        label = rng.integers(0, 3, sizes[i]).astype(np.uint8)
        label[rng.random(sizes[i]) < 0.2] = 255
        image = rng.integers(0, 256, (*sizes[i], 3)).astype(np.uint8)
        source.append({"image": image, "label": label, "name": str(i)})
    builder = types.SimpleNamespace(
        name="stub",
        info=types.SimpleNamespace(
            metadata={"class_names": NAMES, "groups": {"first": ["a"], "others": ["b", "c"]}}, splits={"val": None}
        ),
    )
    monkeypatch.setattr(evaluate.pipeline, "source", lambda *_: source)

    config = defaults.get_config()
    config.model.backbone.width = 4
    config.eval.batch_size, config.eval.samples = 2, 3
    model = create_model(config.model, 3)
    variables = jax.jit(model.init)(jax.random.PRNGKey(0), source[0]["image"][None])
    seen = []
    scores, shown = evaluate.evaluate_split(
        config, builder, evaluate.create_eval_step(model), devices.replicate(variables), seen.append
    )

    scored = jax.jit(lambda image: model.apply(variables, image[None]).logits)

    def predict(image):
        return bilinear_resize(np.asarray(scored(image), np.float64), *image.shape[:2])[0].argmax(-1)

    truth, predictions = [], []
    for sample in source:
        counted = sample["label"] != 255
        truth.append(sample["label"][counted])
        predictions.append(np.asarray(predict(sample["image"]))[counted])
    expected = confusion_matrix(np.concatenate(truth), np.concatenate(predictions), labels=[0, 1, 2])
    assert scores == metrics.scores(expected, NAMES, builder.info.metadata["groups"])
    assert seen[-1] == len(source) and len(np.unique(np.concatenate(predictions))) > 1
    assert len(shown) == 3
    for name, image, label, prediction in shown:
        sample = next(s for s in source if s["name"] == name)
        np.testing.assert_array_equal(image, sample["image"])
        np.testing.assert_array_equal(label, sample["label"])
        np.testing.assert_array_equal(prediction, predict(sample["image"]))
