"""Two sides of a comparison, each in a process of its own, which run in turn: other programs disturb both alike.

A benchmark starts itself again for each side, with `--side`. That process calls `serve`, which runs a function for each line on its
standard input.
"""

import json
import resource
import statistics
import subprocess
import sys
import time


def serve(functions: dict) -> None:
    """Runs `functions[line]` for each line on the standard input, and writes its times and what it returns, if that is a number."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    for line in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        value = functions[line.strip()]()
        figures = {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}
        figures |= {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}  # GiB
        print(json.dumps(figures | {"value": value if isinstance(value, float) else None}), flush=True)


class Side:
    """A process that serves."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, name: str) -> dict:
        """The figures of one call.

        Raises:
            SystemExit: the process has ended; it has said why on stderr.
        """
        try:
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            sys.exit(f"{' '.join(self._process.args)} has ended")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def ratio(pairs: list, key: str = "seconds") -> float:
    """How many times as fast the first side is: the median over pairs of figures."""
    return statistics.median(theirs[key] / ours[key] for ours, theirs in pairs)


def median(pairs: list, side: int, key: str = "seconds") -> float:
    return statistics.median(pair[side][key] for pair in pairs)
