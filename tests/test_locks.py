import errno
import fcntl
import os
import subprocess
import sys
import threading

import filelock
import pytest

from ctxseg import locks

HOLDER = """
import sys, time
from ctxseg import locks
with locks.hold(sys.argv[1]) as descriptors:
    print(*descriptors, flush=True)
    time.sleep(60)
"""


def test_a_killed_process_releases_its_lock(tmp_path):
    path, waited = tmp_path / "a" / ".lock", []
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip().isdigit()
        with pytest.raises(filelock.Timeout), locks.hold(path):
            pass

        def waiting():
            waited.append(True)
            process.kill()

        with locks.hold(path, waiting):
            assert waited == [True]
    assert path.exists()


def test_a_child_process_that_inherits_a_lock_keeps_it(tmp_path):
    """For example, the run that a sweep has started, after the sweep is killed."""
    path = tmp_path / ".lock"
    start = f"""
import subprocess, sys
from ctxseg import locks
with locks.hold({str(path)!r}) as descriptors:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=0, pass_fds=descriptors)
    print(child.pid, flush=True)
    child.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.kill()
        process.wait()
        with pytest.raises(filelock.Timeout), locks.hold(path):
            pass
        process.stdin.close()  # the child ends
        with locks.hold(path, lambda: None):
            pass


def test_waiting_ends_on_request(tmp_path):
    stopping = threading.Event()
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(filelock.Timeout), locks.hold(tmp_path / ".lock", stopping.set, stopping.is_set):
            pass
    assert stopping.is_set()


def test_a_folder_that_is_removed_while_waiting_is_created_again(tmp_path):
    path = tmp_path / "a" / ".lock"
    path.parent.mkdir()
    other = open(path, "w")
    fcntl.flock(other, fcntl.LOCK_EX)

    def remove():
        if path.exists():
            path.unlink()
            path.parent.rmdir()
            other.close()

    with locks.hold(path, lambda: None, stopped=remove) as (descriptor,):  # between two tries
        assert os.path.samestat(path.stat(), os.fstat(descriptor))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.hold(tmp_path / ".lock") as one, locks.hold(tmp_path / ".lock") as two:
        assert one == two == []
