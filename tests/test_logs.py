import glob
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from ctxseg import logs
from ctxseg.errors import UserError


def read_events(workdir):
    """Events of all of a run's event files, oldest first: records of length, its checksum, the event, its checksum."""
    events = []
    for path in sorted(glob.glob(f"{workdir}/tensorboard/*tfevents*")):
        with open(path, "rb") as f:
            while head := f.read(12):
                events.append(Event.FromString(f.read(struct.unpack("<Q", head[:8])[0])))
                f.read(4)
    return events


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    log = logs.MetricsLog(tmp_path / "run")
    log.write(20, "train", {"loss": np.float32(1.5), "learning_rate": jnp.float32(0.25), "images": np.int64(3)})
    expected = {"step": 20, "kind": "train", "loss": 1.5, "learning_rate": 0.25, "images": 3}
    assert logs.read_metrics(tmp_path / "run") == [expected]


def test_no_metrics(tmp_path):
    assert logs.read_metrics(tmp_path) == []


def test_nan_and_infinity_become_null(tmp_path):
    logs.MetricsLog(tmp_path).write(1, "eval", {"mIoU": jnp.nan, "per_class_iou": {"Car": np.inf, "Sky": 0.5}})
    line = (tmp_path / "metrics.jsonl").read_text()
    entry = json.loads(line, parse_constant=lambda token: pytest.fail(token))
    assert entry["mIoU"] is None and entry["per_class_iou"] == {"Car": None, "Sky": 0.5}
    assert [v.tag for e in read_events(tmp_path) for v in e.summary.value] == ["eval/iou/Sky"]


def test_truncate_forgets_what_came_after(tmp_path):
    log = logs.MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, "train", {"loss": 1.0})
    log = logs.MetricsLog(tmp_path)
    log.truncate(20)
    assert [entry["step"] for entry in logs.read_metrics(tmp_path)] == [10, 20]
    log.write(30, "train", {"loss": 2.0})
    assert [entry.get("loss") for entry in logs.read_metrics(tmp_path)] == [1.0, 1.0, 2.0]
    assert not list(tmp_path.glob(".*.tmp"))
    # TensorBoard drops the earlier events from the step of a restart on.
    restart = [e.step for e in read_events(tmp_path) if e.session_log.status == e.session_log.START]
    assert restart == [21]


@pytest.mark.parametrize("rest", [b'{"step": 20, "ki', b"\0\0\0", b'{"step": 20, "kind": "train"}'])
def test_a_last_line_cut_short_does_not_spoil_the_next(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "kind": "train"}\n' + rest)
    steps = [entry["step"] for entry in logs.read_metrics(tmp_path)]
    assert steps == ([10, 20] if rest.endswith(b"}") else [10])
    logs.MetricsLog(tmp_path).write(30, "train", {})
    assert [entry["step"] for entry in logs.read_metrics(tmp_path)] == [*steps, 30]


def test_a_damaged_line_elsewhere_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n{"st\n{"step": 3, "kind": "train"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2"):
        logs.read_metrics(tmp_path)


def test_tensorboard_tags(tmp_path):
    values = {"mIoU": 0.5, "per_class_iou": {"Car": 0.75, "Sign": None}, "group_iou": {"scale": 0.25}}
    logs.MetricsLog(tmp_path).write(7, "eval", values)
    scalars = {v.tag: (e.step, v.simple_value) for e in read_events(tmp_path) for v in e.summary.value}
    assert scalars == {"eval/mIoU": (7, 0.5), "eval/iou/Car": (7, 0.75), "eval/group_iou/scale": (7, 0.25)}


def test_write_json_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    logs.write_json(path, {"mIoU": np.float64("nan"), "palette": np.array([[1, 2, 3]]), "crop": (2, 3)})
    assert json.loads(path.read_text()) == {"mIoU": None, "palette": [[1, 2, 3]], "crop": [2, 3]}
    with pytest.raises(TypeError):
        logs.write_json(path, {"mIoU": object()})
    assert json.loads(path.read_text())["mIoU"] is None and list(tmp_path.iterdir()) == [path]


def test_progress_in_a_log(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    with logs.Progress(400, 100, "train") as progress:
        for step in range(101, 401):
            now += 60.0 if step == 101 else 0.5  # the first step compiles
            progress.update(step, {"loss": 1.23456, "images_per_second": 12.34})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train  101/400  loss 1.235  12.3 img/s", "no time left, which the compilation would be part of"
    assert lines[1] == "train  121/400  loss 1.235  12.3 img/s  2:20 left"
    assert lines[-1] == "train  400/400  loss 1.235  12.3 img/s  3:30 in all"
    assert len(lines) == 1 + 299 // 20 + 1


def test_progress_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(logs.sys.stderr, "isatty", lambda: True, raising=False)
    with logs.Progress(3, 0, "evaluate") as progress:
        progress.update(3)
    assert "3/3 |" in capsys.readouterr().err


def test_progress_of_nothing_says_nothing(capsys):
    with logs.Progress(3, 3, "train", compiles=True):
        pass
    assert capsys.readouterr().err == ""


def test_progress_says_that_something_compiles(capsys):
    with logs.Progress(3, 1, "train", compiles=True):
        assert capsys.readouterr().err == "train  1/3  compiling\n"


def test_duration():
    assert [logs.duration(s) for s in (0.4, 59.7, 3725)] == ["0:00", "1:00", "1:02:05"]
