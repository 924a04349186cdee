"""`--profile`: notes where there is no trace. `tests/commands/test_main.py` reads the trace of a run."""

import re

import jax
import pytest

from ctxseg.training.profile import Profile


@pytest.fixture
def profiler(monkeypatch, tmp_path):
    """The calls of JAX's profiler, which does nothing; the trace is there already."""
    calls = []
    trace = tmp_path / "profile/plugins/profile/2026/perfetto_trace.json.gz"
    trace.parent.mkdir(parents=True)
    trace.touch()
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def traced(profiler, folder, count, done, total):
    """The steps at which a trace starts and stops; None for the end."""
    found = []
    with Profile(str(folder), count, done, total) as profile:
        for step in range(done + 1, total + 1):
            for call in (profile.before, profile.after):
                call(step, None)
                found += [step] * len(profiler)
                profiler.clear()
    return found


def test_the_steps_of_a_trace(profiler, tmp_path, capsys):
    """After a restart too, it begins with the third step, and it ends before the run does."""
    assert traced(profiler, tmp_path, 3, 0, 9) == [3, 5]
    path = f"{tmp_path}/profile/plugins/profile/2026/perfetto_trace.json.gz"
    assert re.match(f"trace: {path}: .*perfetto.*tensorboard --logdir={tmp_path}/profile\n$", capsys.readouterr().err)
    assert traced(profiler, tmp_path, 3, 4, 9) == [7, 9]
    assert traced(profiler, tmp_path, 3, 6, 9) == [9, 9]
    assert traced(profiler, tmp_path, 0, 0, 9) == []
    capsys.readouterr()
    assert traced(profiler, tmp_path, 3, 7, 9) == []
    assert capsys.readouterr().err == "note: no trace: 2 steps are left, and the first 2 are not traced\n"


def test_a_trace_of_an_interrupted_run_is_written(profiler, tmp_path):
    with pytest.raises(KeyboardInterrupt), Profile(str(tmp_path), 3, 0, 9) as profile:
        profile.before(3, None)
        raise KeyboardInterrupt
    assert profiler == ["start", "stop"]


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError, ValueError, OSError])
def test_a_trace_that_cannot_be_written_does_not_end_the_run(error, profiler, tmp_path, monkeypatch, capsys):
    def fail():
        raise error("full\ndisk")

    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    assert traced(profiler, tmp_path, 1, 0, 9) == [3]
    assert capsys.readouterr().err == f"note: no trace in {tmp_path}/profile: full disk\n"
