"""Every damaged, unusual or hostile input in `tests/damaged` is read correctly or reported in one line."""

import os
import subprocess

import pytest

from ctxseg.program import COMMAND
from tests.damaged import KINDS, bench
from tests.damaged.weight_pickles import CODE
from tests.models.weights.writers import torch_stream

INPUTS = [item for items in KINDS.values() for item in items]
COUNTS = {  # {kind: (read correctly, reported in one line)}
    "images": (142, 18),
    "labels": (13, 36),
    "lists": (10, 22),
    "names": (24, 7),
    "classes": (17, 38),
    "config files": (1, 23),
    "fields": (0, 41),
    "config.json": (1, 41),
    "checkpoints": (18, 27),
    "results.json": (2, 70),
    "metrics.jsonl": (3, 15),
    "images.npz": (2, 13),
    "samples.npz": (2, 18),
    "annotations.json": (17, 53),
    "results of instances": (0, 33),
    "weights": (18, 474),
}


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    before = os.getcwd()
    os.chdir(bench.ROOT)
    yield bench.Bench(tmp_path_factory.mktemp("bench"))
    os.chdir(before)


@pytest.mark.parametrize("item", INPUTS, ids=[f"{item.kind}-{i}" for i, item in enumerate(INPUTS)])
def test_an_input_is_read_or_reported_in_one_line(item, common, tmp_path, capsys):
    verdict = bench.judge(item, common, tmp_path)
    assert verdict == ("one line" if isinstance(item.expected, bench.ErrorLine) else "correct")
    assert "Traceback" not in capsys.readouterr().err


def test_code_in_a_weight_file_ends_the_program_with_status_2(tmp_path):
    (tmp_path / "file.pth").write_bytes(torch_stream(CODE["os.system"]))
    config = bench.ROOT / "configs" / "fcn.py"
    flags = [f"--config={config}", "--config.model.pretrained=file.pth", "--workdir=run"]
    ended = subprocess.run([*COMMAND, *flags], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and os.listdir(tmp_path) == ["file.pth"]
    assert ended.stderr.splitlines()[1:] == [
        "error: file.pth cannot be read as weights: it contains posix.system, which is not a dense tensor: save model.state_dict() alone"
    ]


def test_numbers_of_inputs():
    """They are those in the table that `python -m tests.damaged` prints."""
    is_error = {kind: [isinstance(item.expected, bench.ErrorLine) for item in items] for kind, items in KINDS.items()}
    assert {kind: (errors.count(False), errors.count(True)) for kind, errors in is_error.items()} == COUNTS
    assert len({(item.kind, item.name) for item in INPUTS}) == len(INPUTS) == sum(map(sum, COUNTS.values())) >= 100
    verdicts = {
        (kind, column): n for kind, counts in COUNTS.items() for column, n in zip(bench.VERDICTS, counts, strict=False)
    }
    assert bench.table(KINDS, verdicts).splitlines()[-1] == "| all | 1199 | 270 | 929 | 0 | 0 |"
