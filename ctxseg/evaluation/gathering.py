"""The results of an evaluation that several processes share."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctxseg import processes


def in_order(batches: Sequence[Sequence[Any]]) -> list:
    """The results of all images, in the order in which a single process would have them.

    Args:
        batches: for each batch, what this process has for its part of the images, as JSON values. All processes have as many batches, and
            their parts follow each other in the order of the processes.
    """
    if not processes.several():
        return list(itertools.chain(*batches))
    parts = [json.loads(part) for part in processes.gather(json.dumps(batches).encode())]
    return [result for batch in zip(*parts, strict=True) for part in batch for result in part]


def summed(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums over all processes of arrays that each of them has, with the same names, shapes and dtypes."""
    parts = [
        json.loads(part)
        for part in processes.gather(json.dumps({name: x.tolist() for name, x in totals.items()}).encode())
    ]
    return {name: np.sum([np.array(part[name], x.dtype) for part in parts], axis=0) for name, x in totals.items()}
