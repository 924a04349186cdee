"""The results of an evaluation that several processes share."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

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
