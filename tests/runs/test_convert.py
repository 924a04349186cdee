"""`--mode=convert`: weights in our names and in torchvision's."""

import os

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import ctxseg
from ctxseg import commands
from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.models.weights import files
from ctxseg.runs.pretrained import open_weights

PIXELS = {"mean": [127.0, 127.0, 127.0], "std": [128.0, 128.0, 128.0], "order": "bgr"}


def convert(*flags):
    commands.main(["main.py", "--mode=convert", *map(str, flags)])


@pytest.fixture(scope="module")
def network():
    """A model on ResNet-18, and two trees of its variables, of random numbers: they only have to be told apart."""
    config = fcn.get_config("camvid")
    config.model.backbone.name = "resnet18"
    model = create_model(config.model, 3)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))
    rng = np.random.default_rng(0)
    return model, *(jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes) for _ in range(2))


@pytest.fixture(scope="module")
def ours(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ours.safetensors"
    arrays = flax.traverse_util.flatten_dict(network[1], sep="/")
    files.write(epath.Path(path), arrays, {"class_names": ["a", "b", "c"], "pixels": PIXELS})
    return path


def test_a_resnet_has_torchvision_s_names_and_layout(network, ours, tmp_path, capsys):
    model, weights, others = network
    convert(f"--input={ours}", f"--output={tmp_path}/resnet.safetensors", "--names=torchvision")
    assert "left out: " in capsys.readouterr().out and "classifier" in network[1]["params"]
    tensors = files.read(epath.Path(tmp_path / "resnet.safetensors")).tensors
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "layer2.0.downsample.1.running_var": (128,),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
    }
    assert {name: tensors[name].shape for name in shapes} == shapes and len(tensors) == 100
    variables, report = ctxseg.load_weights(model, others, tmp_path / "resnet.safetensors")
    assert report.publisher == "torchvision's ResNet" and not report.left
    assert report.pixels == PIXELS, "not ImageNet's, which torchvision's own weights expect"
    assert open_weights(str(tmp_path / "resnet.safetensors")).class_names == ("a", "b", "c")
    for collection in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, variables[collection]["backbone"], weights[collection]["backbone"])
    np.testing.assert_array_equal(
        variables["params"]["classifier"]["scores"]["bias"], others["params"]["classifier"]["scores"]["bias"]
    )


def test_tiny_is_no_resnet(tmp_path):
    """Its layers have the names of a ResNet's, but no network of torchvision has their shapes."""
    shapes = jax.eval_shape(
        create_model(fcn.get_config("camvid").model, 3).init,
        jax.random.PRNGKey(0),
        jnp.zeros((1, 64, 64, 3), jnp.uint8),
    )
    arrays = {name: np.zeros(x.shape, x.dtype) for name, x in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    files.write(epath.Path(tmp_path / "tiny.safetensors"), arrays, {})
    with pytest.raises(UserError, match="tiny.safetensors has no ResNet"):
        convert(f"--input={tmp_path}/tiny.safetensors", f"--output={tmp_path}/x.safetensors", "--names=torchvision")


def test_our_names_keep_everything(network, ours, tmp_path):
    model, weights, others = network
    convert(f"--input={ours}", f"--output={tmp_path}/copy.safetensors")
    variables, report = ctxseg.load_weights(model, others, tmp_path / "copy.safetensors", ["a", "b", "c"])
    jax.tree.map(np.testing.assert_array_equal, variables, weights)
    assert not report.new and not report.left


@pytest.mark.parametrize("number, dtype", [(np.nan, "float32"), (-np.inf, "float16"), (1e300, "float64")])
@pytest.mark.parametrize("names", ["ctxseg", "torchvision"])
def test_numbers_that_are_not_finite_are_refused_as_in_training(number, dtype, names, tmp_path):
    arrays = {"params/backbone/stem/conv/kernel": np.ones((7, 7, 3, 64), dtype), "params/x": np.full(3, number, dtype)}
    files.write(epath.Path(tmp_path / "a.safetensors"), arrays, {})
    with pytest.raises(UserError, match="a.safetensors: x has numbers that are not finite$"):
        convert(f"--input={tmp_path}/a.safetensors", f"--output={tmp_path}/b.safetensors", f"--names={names}")
    assert not (tmp_path / "b.safetensors").exists()


def test_faults_are_one_line(ours, tmp_path):
    with pytest.raises(UserError, match="ours.safetensors exists: .*--overwrite"):
        convert(f"--input={ours}", f"--output={ours}")
    with pytest.raises(UserError, match="efficientnet_lite0 has no ResNet"):
        convert("--input=efficientnet_lite0", f"--output={tmp_path}/x.safetensors", "--names=torchvision")
    with pytest.raises(UserError, match="^weights missing.pth: there is no such file"):
        convert("--input=missing.pth", f"--output={tmp_path}/x.safetensors")
    with pytest.raises(UserError, match="nowhere/x.safetensors cannot be written"):
        convert(f"--input={ours}", f"--output={tmp_path}/nowhere/x.safetensors")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a regular file"):
        convert(f"--input={tmp_path}/pipe", f"--output={tmp_path}/x.safetensors")
    (tmp_path / "pipe").unlink()
    with pytest.raises(UserError, match="--config is not used by --mode=convert"):
        convert(f"--input={ours}", "--config=configs/fcn.py")
    assert not list(tmp_path.iterdir())
