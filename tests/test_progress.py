from ctxseg import progress as module
from ctxseg.progress import Progress, duration


def test_progress_in_a_log(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Progress(400, 100, "train") as progress:
        for step in range(101, 401):
            now += 60.0 if step == 101 else 0.5  # the first step compiles
            progress.update(step, {"loss": 1.23456, "images_per_second": 12.34})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train  101/400  loss 1.235  12.3 img/s", "no time left, as the rate includes the compilation"
    assert lines[1] == "train  121/400  loss 1.235  12.3 img/s  2:20 left"
    assert lines[-1] == "train  400/400  loss 1.235  12.3 img/s  3:30 in total"
    assert len(lines) == 1 + 299 // 20 + 1


def test_progress_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(3, 0, "evaluate") as progress:
        progress.update(3)
    assert "3/3 |" in capsys.readouterr().err


def test_progress_without_steps_prints_nothing(capsys):
    with Progress(3, 3, "train", compiles=True):
        pass
    assert capsys.readouterr().err == ""


def test_progress_reports_a_compilation(capsys):
    with Progress(3, 1, "train", compiles=True):
        assert capsys.readouterr().err == "train  1/3  compiling\n"


def test_duration():
    assert [duration(s) for s in (0.4, 59.7, 3725)] == ["0:00", "1:00", "1:02:05"]
