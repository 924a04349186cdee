"""Tries all inputs, reports those that fail, and prints the numbers of each kind."""

import contextlib
import io
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests import conftest  # noqa: F401  # sets XLA's flags before the first array is created
from tests.damaged import KINDS, bench

if __name__ == "__main__":
    os.chdir(bench.ROOT)
    verdicts = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        common = bench.Bench(Path(scratch) / "bench")
        for i, item in enumerate(item for items in KINDS.values() for item in items):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            try:
                with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                    verdict = bench.judge(item, common, folder)
            except AssertionError as e:
                verdict = "wrong"
                print(e, file=sys.stderr)
            except (Exception, SystemExit) as e:
                verdict = "traceback"
                print(f"{item.kind}, {item.name}: {type(e).__name__}: {e}", file=sys.stderr)
            verdicts[item.kind, verdict] += 1
    print(bench.table(KINDS, verdicts))
