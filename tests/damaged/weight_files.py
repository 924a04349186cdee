"""Sound files with the weights of the network of `bench.Bench`, in each format."""

import io
import json
import warnings
import zipfile
from functools import cache

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from ctxseg.commands import command_line
from ctxseg.configs import fcn
from ctxseg.models import create_model
from tests.damaged.bench import NAMES
from tests.models.weights.writers import torch_stream, torch_zip, view

KERNEL = "params/classifier/scores/kernel"
NUMBERS = np.ones(4, np.float32)


@cache
def tiny(width=4):
    """The network of the bench, or a wider one, and {name: shape} of its arrays."""
    flags = ["--config=configs/fcn.py:folder", f"--config.model.backbone.width={width}"]
    return with_shapes(create_model(command_line.parse(["main.py", *flags]).config.model, len(NAMES)))


@cache
def resnet50():
    config = fcn.get_config("voc2012")
    config.model.backbone.name = "resnet50"
    return with_shapes(create_model(config.model, len(NAMES)))


def with_shapes(model):
    tree = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 3), jnp.uint8)))
    return model, {name: x.shape for name, x in flax.traverse_util.flatten_dict(tree, sep="/").items()}


@cache
def arrays():
    """{name: array} of the network of the bench."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in tiny()[1].items()}


def changed(**changes):
    """`arrays` with other values; the name of an array is any part of it that it has alone."""
    new = dict(arrays())
    for part, value in changes.items():
        (name,) = (name for name in new if part.replace("__", "/") in name)
        new[name] = value(new[name]) if callable(value) else value
    return new


def npz(values, save=np.savez):
    file = io.BytesIO()
    save(file, **values)
    return file.getvalue()


def compressed_npz(values):
    return npz(values, np.savez_compressed)


def safetensors(values, **about):
    return save({name: np.ascontiguousarray(x) for name, x in values.items()}, {"ctxseg": json.dumps(about)})


def export(values, weights=None, about=None, compress=True):
    return archive(
        {
            "model.jax": b"x",
            "weights.npz": npz(values) if weights is None else weights,
            "classes.json": json.dumps({"class_names": NAMES} if about is None else about).encode(),
        },
        zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED,
    )


def archive(members, compression=zipfile.ZIP_DEFLATED):
    """A zip archive of {name: contents}, or of pairs."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as out:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, contents in members.items() if isinstance(members, dict) else members:
            out.writestr(name, contents)
    return file.getvalue()


def views(values):
    return {name: view(x) for name, x in values.items()}


FORMATS = {
    "zip": lambda values: torch_zip(views(values)),
    "stream": lambda values: torch_stream(views(values)),
    "safetensors": safetensors,
    "npz": npz,
    "compressed npz": compressed_npz,
    "export": export,
}
TORCH = {"zip": torch_zip, "stream": torch_stream}
