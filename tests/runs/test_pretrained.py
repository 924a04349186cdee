"""Runs that start from pretrained weights: of a file, and of another run."""

import json
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import ctxseg
from ctxseg import commands, data
from ctxseg.configs import fcn, mcibi
from ctxseg.data import scenes
from ctxseg.errors import UserError
from ctxseg.inference.trained import load
from ctxseg.models import create_model
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.weights import files
from ctxseg.runs import checkpoints, pretrained, workdir
from ctxseg.training import loop, optimizers
from ctxseg.training.state import create_state

pytestmark = pytest.mark.usefixtures("plain_convolutions")

PIXELS = {"mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0), "order": "bgr"}


def train(flags, folder, *more):
    commands.main(["main.py", "--config=configs/fcn.py:camvid", *flags, *more, f"--workdir={folder}"])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A function that writes the file of a backbone with random weights, whose arrays it returns."""

    def write(path):
        config = fcn.get_config("camvid")
        config.model.backbone.width = 4
        model = create_model(config.model, 3)
        shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
        shapes, rng = flax.traverse_util.flatten_dict(shapes, sep="/"), np.random.default_rng(5)
        arrays = {n: rng.uniform(0.1, 0.5, x.shape).astype(x.dtype) for n, x in shapes.items() if "/backbone/" in n}
        files.write(epath.Path(path), arrays, {"pixels": PIXELS})
        return arrays

    return write


def parameters(folder, step=None):
    return checkpoints.restore_run(workdir.read_config(str(folder)), str(folder), step)[1].params


@pytest.fixture(scope="module")
def started(tiny, weights, tmp_path_factory):
    """A run that started from a file, which was then deleted; its flags; and the arrays of the file."""
    folder = tmp_path_factory.mktemp("pretrained")
    arrays = weights(folder / "tiny.safetensors")
    flags = [
        *tiny, f"--config.model.pretrained={folder}/tiny.safetensors", "--config.model.frozen=backbone/stem,backbone/*/conv1/norm",
        "--config.train.steps=2", "--config.optimizer.learning_rate=0.1",
    ]  # fmt: skip
    train(flags, folder / "run")
    (folder / "tiny.safetensors").unlink()
    return folder / "run", flags, arrays


def test_a_run_records_the_pixels_and_the_arrays_of_its_weights(started):
    folder, _, arrays = started
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["pixels"] == {key: list(v) if key != "order" else v for key, v in PIXELS.items()}
    report = json.loads((folder / "weights.json").read_text())
    assert set(report["taken"]) == set(arrays)
    assert report["new"] == ["params/classifier/scores/bias", "params/classifier/scores/kernel"]


def test_frozen_layers_keep_the_weights_and_others_change(started):
    folder, _, arrays = started
    after = flax.traverse_util.flatten_dict({"params": parameters(folder)}, sep="/")
    changed = {name for name in after if name in arrays and not np.array_equal(after[name], arrays[name])}
    frozen = {name for name in arrays if name.startswith("params/backbone/stem") or "/conv1/norm/" in name}
    assert not changed & frozen
    assert "params/backbone/res3_1/conv1/conv/kernel" in changed


def test_a_run_needs_its_weights_only_at_its_start(started, tmp_path, capsys):
    """It continues, evaluates and predicts after the file is gone, with the pixels of the weights; also if they are not given."""
    folder, flags, _ = started
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    train(flags, tmp_path / "run")
    assert "continuing from step 1" in capsys.readouterr().out
    run = load(tmp_path / "run")
    assert run.model.pixels.order == "bgr"
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="tiny.safetensors.*no such file"):
        train(flags, tmp_path / "other")
    # The export has the pixels too, and is a source of weights.
    commands.main(["main.py", "--mode=export", f"--workdir={tmp_path}/run"])
    exported = load(tmp_path / "run" / "export.zip")
    np.testing.assert_array_equal(exported.predict(image), run.predict(image))
    source = pretrained.open_weights(str(tmp_path / "run" / "export.zip"))
    assert source.class_names == tuple(run.class_names) and source.pixels["order"] == "bgr"
    variables, report = ctxseg.load_weights(run.model, run.variables, tmp_path / "run" / "export.zip", run.class_names)
    assert not report.new and not report.left


def test_classes_are_taken_by_name(started):
    folder, _, _ = started
    run = load(folder)
    model = run.model.clone(num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), np.zeros((1, 32, 32, 3), np.uint8))
    variables = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), shapes)
    names = ["unknown", run.class_names[4], run.class_names[0]]
    new, report = ctxseg.load_weights(model, variables, folder, names)
    kernel, old = (
        new["params"]["classifier"]["scores"]["kernel"],
        run.variables["params"]["classifier"]["scores"]["kernel"],
    )
    np.testing.assert_array_equal(kernel[..., 1:], old[..., [4, 0]])
    np.testing.assert_array_equal(kernel[..., 0], variables["params"]["classifier"]["scores"]["kernel"][..., 0])
    assert report.classes == (run.class_names[4], run.class_names[0])
    assert report.by_class == ("params/classifier/scores/bias", "params/classifier/scores/kernel")
    assert "2 of them for 2 classes by name" in str(report)


def test_the_memory_s_entries_are_taken_by_name(tmp_path):
    config = mcibi.get_config("camvid")
    config.model.backbone.width, config.model.memory.channels, config.model.classifier.hidden = 4, 8, 8

    def network(classes, seed):
        """A model, and {name: random numbers} of its variables."""
        model, rng = create_model(config.model, classes), np.random.default_rng(seed)
        shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        return model, {name: rng.random(x.shape).round().astype(x.dtype) for name, x in flat.items()}

    (_, old), (model, initial) = network(3, 1), network(4, 2)
    files.write(epath.Path(tmp_path / "a.safetensors"), old, {"class_names": ["x", "y", "z"]})
    tree = flax.traverse_util.unflatten_dict(initial, sep="/")
    new, report = ctxseg.load_weights(model, tree, tmp_path / "a.safetensors", ["z", "new", "x", "other"])
    new = flax.traverse_util.flatten_dict(new, sep="/")
    assert {"memory/memory/bank", "memory/memory/seen", "params/classifier/scores/kernel"} < set(report.by_class)
    for name in ("memory/memory/bank", "memory/memory/seen"):
        np.testing.assert_array_equal(new[name], [old[name][2], initial[name][1], old[name][0], initial[name][3]])
    assert report.classes == ("z", "x") and not report.left
    _, report = ctxseg.load_weights(model, tree, tmp_path / "a.safetensors", ["a", "b", "c", "d"])
    assert set(report.left) == set(report.new) and str(report).count("(memory, classifier)") == 2


def small(dataset):
    """The config of MCIBI on a data set, with few channels, and the names of the classes."""
    config = mcibi.get_config(dataset)
    config.model.backbone.width, config.model.memory.channels, config.model.classifier.hidden = 4, 8, 8
    return config, data.metadata(config.data)["class_names"]


def drawn(model, seed):
    """Random variables, as a tree: they only have to be told apart."""
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).round(3).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run on half of the classes of `scenes`, from scratch: its checkpoint has random variables, which are returned too."""
    folder = tmp_path_factory.mktemp("half") / "run"
    config, names = small("scenes_half")
    workdir.check(str(folder), config)
    workdir.claim(str(folder), config)
    model = create_model(config.model, len(names))
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    state = jax.eval_shape(lambda: create_state(model, optimizer, config.data.crop, 0))
    variables = drawn(model, 1)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state).replace(**variables)
    with checkpoints.Checkpoints(str(folder / "checkpoints")) as saved:
        saved.save(1, state, {})
    return folder, flax.traverse_util.flatten_dict(variables, sep="/")


def test_half_of_the_classes_of_scenes(half):
    """Rows of the classifier and entries of the memory are those of the classes with the same names: 6 of 11."""
    folder, old = half
    config, names = small("scenes")
    assert names == scenes.CLASS_NAMES and len(names) == 11
    theirs = list(data.DATASETS["scenes_half"].CLASS_NAMES)
    shared = [name for name in names if name in theirs]
    assert len(theirs) == len(shared) == 6
    model = create_model(config.model, len(names))
    initial = drawn(model, 2)
    new, report = ctxseg.load_weights(model, initial, folder, names)
    new, initial = (flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, x), sep="/") for x in (new, initial))
    axes = {name: x.shape.index(11) for name, x in new.items() if x.shape != old[name].shape}
    assert set(report.by_class) == set(axes) == set(report.new)
    assert {"memory/memory/bank", "memory/memory/seen", "params/classifier/scores/kernel"} < set(axes)
    assert not report.left and report.classes == tuple(shared)
    for name, array in new.items():
        for i, class_name in enumerate(names if name in axes else []):
            row, axis = np.take(array, i, axes[name]), axes[name]
            source, j = (old, theirs.index(class_name)) if class_name in theirs else (initial, i)
            np.testing.assert_array_equal(row, np.take(source[name], j, axis), f"{name}, {class_name}")
        if name not in axes:
            np.testing.assert_array_equal(array, old[name])


def test_pixels_that_a_run_did_not_set_go_with_its_weights(half, tmp_path):
    folder, _ = half
    expected = PixelFormat.effective({"mean": None, "std": None, "order": None})
    assert expected["mean"] == (123.675, 116.28, 103.53) and expected["order"] == "rgb"
    commands.main(["main.py", "--mode=convert", f"--input={folder}", f"--output={tmp_path}/a.safetensors"])
    for name in (str(folder), f"{folder}/checkpoints/1", f"{tmp_path}/a.safetensors"):
        config, _ = small("scenes")
        config.model.pretrained = name
        pixels = pretrained.open_weights(name).pixels
        assert {key: value if key == "order" else tuple(value) for key, value in pixels.items()} == expected
        # Even if the defaults change later.
        assert pretrained.resolve(config).model.pixels.to_dict() == expected
        config.model.pixels.order = "bgr"
        assert pretrained.resolve(config).model.pixels.order == "bgr"


def test_steps_that_would_train_nothing(started, tmp_path):
    folder, flags, _ = started
    flags = [flag for flag in flags if "pretrained" not in flag and "frozen" not in flag]
    with pytest.raises(
        UserError, match="config.optimizer.head_steps is 1, but .*run fills all parameters.*leave it out$"
    ):
        train(flags, tmp_path / "run", f"--config.model.pretrained={folder}", "--config.optimizer.head_steps=1")
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_head_is_trained_alone_in_the_first_steps(tiny, weights, tmp_path):
    weights(tmp_path / "tiny.safetensors")
    start = f"--config.model.pretrained={tmp_path}/tiny.safetensors", "--config.optimizer.head_steps=2"
    flags = [*tiny, *start, "--config.train.keep=9", "--config.optimizer.learning_rate=0.1", "--config.train.steps=3"]
    run = train(flags, tmp_path / "run")
    steps = [parameters(run, step) for step in (1, 2, 3)]
    stems = [step["backbone"]["stem"]["conv"]["kernel"] for step in steps]
    np.testing.assert_array_equal(stems[0], stems[1])
    assert not np.array_equal(stems[1], stems[2])
    heads = [step["classifier"]["scores"]["kernel"] for step in steps]
    assert not np.array_equal(heads[0], heads[1])


def test_an_installed_set_of_another_backbone_is_one_line(tmp_path):
    """Also where the config has prefixes of the other backbone in `frozen`, and before the data are read."""
    flags = ["main.py", "--config=configs/fcn.py:folder", "--config.model.backbone.name=tiny"]
    expected = (
        "^config.model.pretrained=efficientnet_lite0 has the weights of another backbone than config.model.backbone.name=tiny: "
        "set config.model.pretrained=none, or config.model.backbone.name=efficientnet_lite0$"
    )
    for more in ([f"--workdir={tmp_path}/run"], ["--mode=show"]):
        with pytest.raises(UserError, match=expected):
            commands.main([*flags, *more])
    assert not list(tmp_path.glob("run/*.json"))


def test_a_file_of_another_backbone_is_one_line(tiny, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_loop", None)  # must not be reached
    weights(tmp_path / "a.safetensors")
    flags = [*tiny, f"--config.model.pretrained={tmp_path}/a.safetensors", "--config.model.backbone.name=resnet18"]
    with pytest.raises(
        UserError, match=r"a.safetensors \(ctxseg\) has the weights of another backbone: .*pretrained=none$"
    ):
        train([flag for flag in flags if "width" not in flag], tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
