import glob
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from ctxseg.errors import UserError
from ctxseg.runs import metrics_log


def read_events(workdir):
    """The events in all event files of a run, oldest first. A record has the length, its checksum, the event and its checksum."""
    events = []
    for path in sorted(glob.glob(f"{workdir}/tensorboard/*tfevents*")):
        with open(path, "rb") as f:
            while head := f.read(12):
                events.append(Event.FromString(f.read(struct.unpack("<Q", head[:8])[0])))
                f.read(4)
    return events


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    log = metrics_log.MetricsLog(tmp_path / "run")
    log.write(20, "train", {"loss": np.float32(1.5), "learning_rate": jnp.float32(0.25), "images": np.int64(3)})
    expected = {"step": 20, "kind": "train", "loss": 1.5, "learning_rate": 0.25, "images": 3}
    assert metrics_log.read_metrics(tmp_path / "run") == [expected]


def test_no_metrics(tmp_path):
    assert metrics_log.read_metrics(tmp_path) == []


def test_nan_and_infinity_become_null(tmp_path):
    metrics_log.MetricsLog(tmp_path, ["tensorboard"]).write(
        1, "eval", {"mIoU": jnp.nan, "per_class_iou": {"Car": np.inf, "Sky": 0.5}}
    )
    line = (tmp_path / "metrics.jsonl").read_text()
    entry = json.loads(line, parse_constant=lambda token: pytest.fail(token))
    assert entry["mIoU"] is None and entry["per_class_iou"] == {"Car": None, "Sky": 0.5}
    assert [v.tag for e in read_events(tmp_path) for v in e.summary.value] == ["eval/iou/Sky"]


def test_truncate_removes_later_entries(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, ["tensorboard"])
    for step in (10, 20, 30):
        log.write(step, "train", {"loss": 1.0})
    log = metrics_log.MetricsLog(tmp_path, ["tensorboard"])
    log.truncate(20)
    assert [entry["step"] for entry in metrics_log.read_metrics(tmp_path)] == [10, 20]
    log.write(30, "train", {"loss": 2.0})
    assert [entry.get("loss") for entry in metrics_log.read_metrics(tmp_path)] == [1.0, 1.0, 2.0]
    assert not list(tmp_path.glob(".*.tmp"))
    # TensorBoard drops the earlier events from the step of a restart on.
    restart = [e.step for e in read_events(tmp_path) if e.session_log.status == e.session_log.START]
    assert restart == [21]


@pytest.mark.parametrize("rest", [b'{"step": 20, "ki', b"\0\0\0", b'{"step": 20, "kind": "train"}'])
def test_an_incomplete_last_line_does_not_affect_the_next_one(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "kind": "train"}\n' + rest)
    steps = [entry["step"] for entry in metrics_log.read_metrics(tmp_path)]
    assert steps == ([10, 20] if rest.endswith(b"}") else [10])
    metrics_log.MetricsLog(tmp_path).write(30, "train", {})
    assert [entry["step"] for entry in metrics_log.read_metrics(tmp_path)] == [*steps, 30]


def test_another_damaged_line_is_reported(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n{"st\n{"step": 3, "kind": "train"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2"):
        metrics_log.read_metrics(tmp_path)


def test_tensorboard_tags(tmp_path):
    values = {"mIoU": 0.5, "per_class_iou": {"Car": 0.75, "Sign": None}, "group_iou": {"scale": 0.25}}
    metrics_log.MetricsLog(tmp_path, ["tensorboard"]).write(7, "eval", values)
    scalars = {v.tag: (e.step, v.simple_value) for e in read_events(tmp_path) for v in e.summary.value}
    assert scalars == {"eval/mIoU": (7, 0.5), "eval/iou/Car": (7, 0.75), "eval/group_iou/scale": (7, 0.25)}
