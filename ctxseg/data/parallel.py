"""Work on many files or records with all cores."""

import os
from collections.abc import Callable, Iterator, Sequence

import grain

from ctxseg.progress import progress


def each(function: Callable, items: Sequence, label: str) -> Iterator:
    """Yields `function(item)` for every item, in order. Threads on all cores compute a few items ahead. stderr shows progress as `label`.

    Use it for functions that release the GIL, such as decoders.
    """
    threads = min(os.cpu_count() or 1, 16)
    results = grain.MapDataset.source(items).map(function)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return progress(results.to_iter_dataset(options), len(items), label)
