"""A signal at any time ends a process with one line and status 2."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctxseg import interrupts

ROOT = Path(__file__).parents[1]
LINE = interrupts.LINE
START = """
import ctypes, sys, time
from ctxseg import interrupts
interrupts.SECONDS = 0.1
interrupts.install()
interrupts.cleanups.append(lambda line: print("cleaned up", file=sys.stderr))
def ready():
    print("ready", file=sys.stderr, flush=True)
def block():  # like a compilation: the second lock waits forever, and no signal makes it return
    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
MOMENTS = {
    "imports": "ready(); time.sleep(60)",
    "imports, in C": "ready(); block()",
    "compilation": """
interrupts.unwind()
try:
    ready(); block()
except KeyboardInterrupt:  # raised just before block()
    block()
""",
    "swallowed exception": """
interrupts.unwind()
while True:
    try:
        ready(); time.sleep(60)
    except KeyboardInterrupt:
        pass
""",
    "in a destructor": """
interrupts.unwind()
class Slow:
    def __del__(self):
        ready(); time.sleep(60)
Slow()
time.sleep(60)
""",
}


def interrupted(process, prefix, number):
    """Sends the signal at the first line of stderr with `prefix`. Returns the exit status and the lines after it."""
    with process:
        for line in process.stderr:
            if line.startswith(prefix):
                process.send_signal(number)
                break
        return process.wait(120), process.stderr.read().splitlines()


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_line_and_status_2(moment):
    status, lines = interrupted(start("-c", START + MOMENTS[moment]), "ready", signal.SIGTERM)
    assert status == 2 and lines[-1] == LINE
    assert "cleaned up" in lines and not any("Traceback" in line for line in lines)


def test_unfinished_files_are_removed_first():
    """A process that is saving is not ended by the first signal, however long it takes."""
    code = """
interrupts.unwind()
try:
    ready(); time.sleep(60)
except KeyboardInterrupt:
    print("removed", file=sys.stderr)
    interrupts.leave()
"""
    assert interrupted(start("-c", START + code), "ready", signal.SIGINT) == (2, ["removed", "cleaned up", LINE])
    code = """
import signal
interrupts.unwind()
interrupts.patient = True
signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, interrupts._raise))
ready(); time.sleep(0.5)
print("saved", file=sys.stderr)
sys.exit(2)
"""
    assert interrupted(start("-c", START + code), "ready", signal.SIGINT) == (2, ["saved"])


@pytest.mark.parametrize(
    "prefix, number",
    [
        ("train: ", signal.SIGINT),  # before the imports
        ("train  compiling", signal.SIGTERM),
        ("train  0/4  compiling", signal.SIGINT),
    ],
)
def test_a_training_is_interrupted(prefix, number, tiny, tmp_path):
    command = ["main.py", "--config=configs/fcn.py:camvid", *tiny, f"--workdir={tmp_path}/run"]
    status, lines = interrupted(start(*command), prefix, number)
    assert status == 2 and lines[-1] == LINE, lines
    assert not any("Traceback" in line for line in lines)
    assert (tmp_path / "run").exists() == ("0/4" in prefix), "a failed start leaves no folder"
