"""Which entries are measured, until when, and by which process; and the file of the results."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class Worker:
    """A process that answers requests, see `worker.py`. It is started for the first request, and again after it has ended."""

    def __init__(self, command: list[str]):
        self._command = command
        self._process: subprocess.Popen | None = None

    def ask(self, request: dict, seconds: float) -> dict:
        """The answer. {"stopped": seconds} if it takes longer, and the process is killed; {"error": …} if the process ends."""
        if self._process is None:
            # A session of its own, so that Ctrl-C does not print its traceback too: `close` ends it.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        with contextlib.suppress(BrokenPipeError):  # the process has ended since the last answer; reading says how
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], max(seconds, 0))[0]:
            self.close()
            return {"stopped": round(seconds)}
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self.close()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return {"error": f"the process ended with {how}"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):  # of a request that the process did not read
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def due(entries: list[str], stored: dict, again: bool) -> list[str]:
    """The entries to measure: first those without a result, then those that were stopped and, with `again`, those that failed."""
    new = [entry for entry in entries if entry not in stored or "skipped" in stored[entry]]
    stopped = [entry for entry in entries if "stopped" in stored.get(entry, {})]
    failed = [entry for entry in entries if "error" in stored.get(entry, {})]
    return new + stopped + (failed if again else [])


def missing(entries: list[str], stored: dict) -> list[str]:
    """The entries that have neither figures, nor an error, nor a reason why they cannot be measured."""
    return [entry for entry in entries if entry not in stored or "stopped" in stored[entry]]


def run(
    entries: list[str],
    ask: Callable[[str, int, float], dict],
    images: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, dict]]:
    """Yields (entry, result) for one entry after the other, until `seconds` have passed; the later ones are not reached.

    Args:
        entries: names of the entries.
        ask: (entry, images, seconds left) → result, see `Worker.ask`. It is called again with half the images while memory is lacking.
        images: number of images of the first call.
        seconds: time limit of all entries together.
        clock: the present time in seconds.
    """
    end = clock() + seconds
    for entry in entries:
        if clock() >= end:
            return
        count = images
        result = ask(entry, count, end - clock())
        while result.get("out_of_memory") and count > 1 and clock() < end:
            count //= 2
            result = ask(entry, count, end - clock())
        yield entry, result


def read(path: Path) -> dict:
    """The results in a file; no results if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}


def write(path: Path, text: str) -> None:
    """Writes a file completely or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
