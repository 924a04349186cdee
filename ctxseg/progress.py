"""Progress of long loops, on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress of a long loop, on stderr: a bar on a terminal, elsewhere a plain line at most every ten seconds.

    train  120/400  loss 1.234  12.3 img/s  1:10 left

    Use it as a context manager. The rate is measured from the first report on, so that it excludes compilation. The time left is shown
    from the second report on.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, total: int, start: int = 0, label: str = "", compiles: bool = False):
        """`total` steps or images, `start` of them done; `label` is the title. `compiles`: the first one starts with a compilation."""
        self._total, self._step, self._label, self._compiles = total, start, label, compiles
        self._values: dict[str, Any] = {}

    def __enter__(self):
        self._began = self._line_time = time.monotonic()
        self._rate_start = (self._began, self._step)
        self._reports, self._text = 0, ""
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._label,
                total=self._total,
                initial=self._step,
                leave=None,
                dynamic_ncols=True,
                bar_format="{desc}  {n_fmt}/{total_fmt} |{bar}| {postfix[0]}",
                postfix=["compiling" if self._compiles else ""],
            )
        elif self._compiles and self._step < self._total:
            self._print("compiling")
        return self

    def update(self, step: int, values: dict | None = None) -> None:
        """Reports that `step` steps are done. Shows `loss` and `images_per_second` of the latest `values` that have them."""
        self._step = step
        self._values |= values or {}
        now = time.monotonic()
        rate = (step - self._rate_start[1]) / max(now - self._rate_start[0], 1e-9)
        left = f"{duration((self._total - step) / rate)} left" if rate > 0 and self._reports else ""
        self._show(rate, left, now)
        self._reports += 1
        if self._reports == 1:
            self._rate_start = (now, step)

    def __exit__(self, kind, *_):
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._reports:
            self._print(f"{self._text}  {duration(time.monotonic() - self._began)} in total")

    def _show(self, rate, left, now):
        parts = [f"loss {self._values['loss']:.4g}"] if self._values.get("loss") is not None else []
        images = self._values.get("images_per_second")
        self._text = "  ".join([*parts, f"{images:.1f} img/s" if images is not None else f"{rate:.1f}/s"])
        text = f"{self._text}  {left}".rstrip()
        if self._bar is not None:
            self._bar.postfix[0] = text
            self._bar.update(self._step - self._bar.n)
        elif self._reports == 0 or now - self._line_time >= self.SECONDS_BETWEEN_LINES:
            self._line_time = now
            self._print(text)

    def _print(self, text):
        print(f"{self._label}  {self._step}/{self._total}  {text}", file=sys.stderr, flush=True)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Yields `items` and reports progress on stderr."""
    with Progress(total, 0, label) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.update(done)


def duration(seconds: float) -> str:
    """70 → '1:10', 3725 → '1:02:05'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
