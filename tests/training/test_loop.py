"""Training: any number of devices gives the same state, and a killed run ends with the state of an uninterrupted one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from ctxseg import commands, data, devices
from ctxseg.configs import deeplabv3, fcn, pspnet
from ctxseg.errors import UserError
from ctxseg.evaluation import evaluate
from ctxseg.runs import metrics_log
from ctxseg.training import checks, loop

ROOT = Path(__file__).parents[2]


def python(*args):
    command = [sys.executable, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_step_does_not_depend_on_the_number_of_devices(tmp_path):
    """Of three devices, one has only ignored pixels and one has some. Each has several images."""
    counts = (1, 3)
    runs = [python("-m", "tests.step_on_devices", n, tmp_path / f"{n}.npz") for n in counts]
    for run in runs:
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 0, output
    one, three = (np.load(tmp_path / f"{n}.npz") for n in counts)
    assert float(one["['metrics']['gradient_norm']"]) > 0.01
    assert set(three) == set(one)
    for name in one:
        # The order of a sum changes its rounding, relative to its largest terms.
        scale = max(np.abs(one[name].astype(np.float64)).max(initial=0), 0.1)
        np.testing.assert_allclose(three[name], one[name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)
    truth, predicted = one["['label']"], one["['evaluation']['labels']"]
    valid = truth != 255
    expected = confusion_matrix(truth[valid], predicted[valid], labels=[0, 1, 2])
    np.testing.assert_array_equal(one["['evaluation']['confusion']"], expected)
    pixels = one["['evaluation']['confidences'][0]"].sum((0, 2))
    assert pixels.tolist() == [valid.sum(), (truth == predicted)[valid].sum()]


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """A few images in CamVid's official layout."""
    root = tmp_path_factory.mktemp("data") / "CamVid"
    rng = np.random.default_rng(0)
    for split, count in {"train": 5, "val": 2}.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        lines = []
        for i in range(count):
            label = np.kron(rng.integers(0, 12, (3, 4)), np.ones((8, 8))).astype(np.uint8)
            Image.fromarray(np.repeat(label[:, :, None] * 20, 3, 2)).save(root / split / f"{i}.png")
            Image.fromarray(label).save(root / f"{split}annot" / f"{i}.png")
            lines.append(f"/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def command(camvid, workdir):
    return [
        "main.py", "--config=configs/fcn.py:camvid", f"--workdir={workdir}",
        f"--config.data.manual_dir={camvid}", f"--config.data.data_dir={camvid.parent / 'prepared'}",
        "--config.model.backbone.width=4", "--config.data.crop=(16, 24)", "--config.train.batch_size=2",
        "--config.train.steps=120", "--config.train.checkpoint_every=20", "--config.train.log_every=10",
        "--config.eval.batch_size=2", "--config.train.ema=0.9", "--config.loss.class_weights=frequency",
    ]  # fmt: skip


@pytest.mark.parametrize("first, batches", [("random", 3), ("mean", None)])
def test_memory_is_filled_only_before_the_first_step(camvid, tmp_path, monkeypatch, first, batches):
    """From at most one epoch: five images in batches of two. With `mean`, it is not filled."""
    config = fcn.get_config("camvid")
    config.data.update({"manual_dir": str(camvid), "data_dir": str(camvid.parent / "prepared"), "crop": (16, 24)})
    config.train.batch_size = config.eval.batch_size = 2
    config.model.backbone.width = 4
    config.model.memory.update({"name": "mcibi", "channels": 4, "first": first})
    calls = []

    def fill(model, state, batches, count, micro_batches):
        calls.append(count)
        return state.replace(memory={"memory": {k: x + 1 for k, x in state.memory["memory"].items()}})

    def stop_after_one_step(config, folder, step, evaluation, programs, state, start, batches, saved, *_):
        calls.append((start, float(state.memory["memory"]["bank"].max())))
        if not start:
            saved.save(1, state.replace(step=state.step + 1), batches.get_state(), None)
        return state

    monkeypatch.setattr(loop, "fill_memory", fill)
    monkeypatch.setattr(loop, "_loop", stop_after_one_step)
    monkeypatch.setattr(evaluate, "finish", lambda *_: {})
    for _ in range(2):
        loop.train(config, str(tmp_path))
    bank = 1.0 if batches else 0.0
    assert calls == [batches] * bool(batches) + [(0, bank), (1, bank)]


def network_error(module, batch_size, micro_batches=1, **context):
    """The message if a small network of a system cannot train with such a batch, or None."""
    config = module.get_config()
    config.data.crop, config.train.batch_size, config.train.micro_batches = (32, 32), batch_size, micro_batches
    config.model.backbone.width = 2
    config.model.context.update({"channels": 2} | context)
    try:
        checks.check_network(config, ["a", "b"])
    except UserError as error:
        return str(error)


def test_batch_normalisation_of_a_single_value_is_an_error():
    """Pooling the whole image gives such a value for a batch of one image."""
    message = network_error(pspnet, 1)
    assert re.match(
        r"config\.train\.batch_size / config\.train\.micro_batches is 1.*context/pool1/norm.*\b2\b.*context\.norm .*none$",
        message,
    )
    assert "context/mean/norm" in network_error(deeplabv3, 1)
    assert network_error(pspnet, 2) is None
    assert "context/pool1/norm" in network_error(pspnet, 2, micro_batches=2)
    assert network_error(pspnet, 1, norm="none") is None
    assert network_error(pspnet, 1, bins=(2,)) is None
    assert network_error(fcn, 1) is None


def final_state(workdir):
    with ocp.CheckpointManager(workdir / "checkpoints", item_names=("state", "data")) as manager:
        restored = manager.restore(
            manager.latest_step(),
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore()),
        )
    return restored["state"], restored["data"]


def assert_same_state(workdir, other):
    """The newest checkpoints of two runs are equal."""
    (state, position), (expected, expected_position) = final_state(workdir), final_state(other)
    assert position == expected_position
    flat, flat_expected = (dict(_leaves(tree)) for tree in (state, expected))
    assert flat.keys() == flat_expected.keys() and len(flat) > 20
    for name in flat:
        np.testing.assert_array_equal(flat[name], flat_expected[name], err_msg=name)


def test_a_killed_and_restarted_run_has_identical_results(camvid, tmp_path, capsys, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    compiling, compile_program = [], devices.Parallel.compile

    def compile_in_any_thread(*arguments):
        compiling.append(threading.current_thread().name)
        compile_program(*arguments)

    monkeypatch.setattr(devices.Parallel, "compile", compile_in_any_thread)
    commands.main(command(camvid, whole))
    assert compiling == ["compile ahead"]  # while training runs
    assert capsys.readouterr().out.splitlines()[-1].startswith("mIoU 0.")

    run = python(*command(camvid, killed))
    deadline = time.monotonic() + 240
    while not (killed / "checkpoints" / "40").exists():
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (killed / "results.json").exists()  # killed before the end

    commands.main(command(camvid, killed))
    assert "continuing from step" in capsys.readouterr().out

    assert_same_state(killed, whole)
    logs = [[json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in (killed, whole)]
    for entries in logs:
        assert [e["step"] for e in entries if e["kind"] == "train"] == list(range(10, 121, 10))
    assert [e["loss"] for e in logs[0] if e["kind"] == "train"] == [e["loss"] for e in logs[1] if e["kind"] == "train"]
    results = [json.loads((w / "results.json").read_text()) for w in (killed, whole)]
    assert results[0]["mIoU"] == results[1]["mIoU"] != results[0]["averages_mIoU"] == results[1]["averages_mIoU"]
    commands.main([*command(camvid, whole), "--mode=evaluate", "--config.eval.averages=True"])
    alone = json.loads((whole / "results.json").read_text())
    assert alone["mIoU"] == results[1]["averages_mIoU"] and "averages_mIoU" not in alone


def test_a_run_on_a_mixture_continues_with_the_same_batches(camvid, tmp_path, capsys):
    """It names the classes that are ignored. It is not continued if one of its data sets has changed."""
    whole, cut, own = tmp_path / "whole", tmp_path / "cut", tmp_path / "own"
    for i in range(6):
        label = np.full((24, 32), i % 3, np.uint8)
        for folder, array in (("images", np.repeat(label[:, :, None] * 90, 3, 2)), ("labels", label)):
            (own / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(own / folder / f"{i}.png")
    (own / "classes.txt").write_text("Sky\nDog\nRoad\n")

    def mixed(workdir):
        changed = {"train.steps": 6, "train.checkpoint_every": 2, "train.log_every": 1, "train.keep": 3}
        changed |= {"data.data_dir": tmp_path / "prepared", "data.mixture": "folder/train+val=0.4"}
        flags = [f"--config.{field}={value}" for field, value in changed.items()]
        names = [flag.partition("=")[0] for flag in flags] + ["--config.loss.class_weights"]
        return [a for a in command(camvid, workdir) if a.partition("=")[0] not in names] + flags

    with pytest.raises(UserError, match="config.data.mixture has folder, .*--mode=prepare --config.data.name=folder"):
        commands.main(mixed(whole))
    assert not whole.exists() or os.listdir(whole) == []
    data.load("folder", tmp_path / "prepared", own)
    commands.main(mixed(whole))
    printed = capsys.readouterr().out
    assert f"{whole}: folder: 1 of 3 classes is not in camvid, and ignored: Dog\n" in printed
    assert f"{whole}: folder: 9 of 11 classes of camvid are not labelled: Building, Pole, " in printed
    (recorded,) = json.loads((whole / "config.json").read_text())["dataset"]["mixture"]
    assert (recorded["name"], recorded["folder"]) == ("folder", str(own)) and len(recorded["fingerprint"]) == 12

    shutil.copytree(whole, cut)
    for step in (4, 6):
        shutil.rmtree(cut / "checkpoints" / str(step))
    (cut / "results.json").unlink()
    commands.main(mixed(cut))
    assert "continuing from step 2" in capsys.readouterr().out
    assert_same_state(cut, whole)
    losses = [
        [e["loss"] for e in metrics_log.read_metrics(workdir) if e["kind"] == "train"] for workdir in (cut, whole)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    commands.main([*mixed(cut), "--mode=evaluate"])  # which reads the main data set alone

    Image.fromarray(np.zeros((24, 32), np.uint8)).save(own / "labels/5.png")
    data.load("folder", tmp_path / "prepared", own)
    with pytest.raises(
        UserError, match=rf"{cut} was trained on folder in {own} .*changed since: choose another --workdir"
    ):
        commands.main(mixed(cut))


def _leaves(tree, prefix=""):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list, tuple)):
            yield from _leaves(value, f"{prefix}/{key}")
        elif value is not None:
            yield f"{prefix}/{key}", np.asarray(value)
