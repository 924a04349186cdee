"""Runs of two processes on this machine: equal to a run of one, and ended together by a signal or a loss."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def start(street, folder, devices, *flags):
    """A process of a run; all processes of a run have four devices together."""
    command = [
        sys.executable, "main.py", "--config=configs/fcn.py:camvid", f"--workdir={folder}", f"--config.data.manual_dir={street}",
        f"--config.data.data_dir={street.parent / 'prepared'}", "--config.model.backbone.width=4", "--config.model.classifier.dropout=0.5",
        "--config.data.crop=16,16", "--config.train.batch_size=4", "--config.eval.batch_size=4", "--config.train.log_every=1", *flags,
    ]  # fmt: skip
    xla = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": xla},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def two(street, tmp_path):
    """Starts the two processes of a run in a folder, and kills them at the end."""
    started = []

    def start_two(folder, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            launch = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--process_count=2"]
        pair = [start(street, tmp_path / folder, 2, *launch, f"--process_id={i}", *flags) for i in range(2)]
        started.extend(pair)
        return pair

    yield start_two
    for process in started:
        process.kill()
        process.communicate()


def wait_for(path, process, limit=180):
    deadline = time.monotonic() + limit
    while not path.exists() or not path.read_text():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_processes_equal_one(street, tmp_path, two):
    """Losses, dropout included, scores, and the images that were scored."""
    alone = start(street, tmp_path / "alone", 4, "--config.train.steps=4")
    assert alone.communicate(timeout=240)[0] and alone.returncode == 0
    outputs = [process.communicate(timeout=240)[0] for process in two("together", "--config.train.steps=4")]
    assert "mIoU" in outputs[0].splitlines()[-1], outputs
    assert "mIoU" not in outputs[1] and "error" not in outputs[1], outputs
    losses, results, images = [], [], []
    for name in ("alone", "together"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([entry["loss"] for entry in map(json.loads, lines) if entry["kind"] == "train"])
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
        images.append(np.load(tmp_path / name / "images.npz"))
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for key in ("confusion", "per_class_boundary_iou", "by_distance", "by_size"):
        assert results[1][key] == results[0][key]
    reliability = [result["reliability"] for result in results]
    assert reliability[1]["pixels"] == reliability[0]["pixels"] and sum(reliability[0]["pixels"]) > 0
    assert results[1]["ECE"] == pytest.approx(results[0]["ECE"], abs=1e-6)
    for key in images[0]:
        np.testing.assert_array_equal(images[1][key], images[0][key])
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == sorted(
        path.name for path in (tmp_path / "alone").iterdir()
    )


def test_a_signal_to_one_process_and_the_loss_of_one_end_both(tmp_path, two):
    """SIGTERM to the second process saves the same step in both; when the second is killed, the first names it."""
    folder, flags = tmp_path / "run", ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    first, second = two("run", *flags)
    wait_for(folder / "metrics.jsonl", first)
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        last = process.communicate(timeout=240)[0].splitlines()[-1]
        step = re.fullmatch(r"error: interrupted at step (\d+), saved in .*", last)
        assert process.returncode == 2 and step, last
        assert [path.name for path in (folder / "checkpoints").iterdir()] == [step[1]]

    (folder / "metrics.jsonl").unlink()
    first, second = two("run", *flags)
    wait_for(folder / "metrics.jsonl", first)
    second.kill()
    output = first.communicate(timeout=240)[0]
    assert first.returncode == 2 and f"continuing from step {step[1]}" in output
    assert output.splitlines()[-1].startswith(f"error: process 1 on {socket.gethostname()} has ended"), output
