"""Damaged, odd and hostile inputs: image and label files, lists, names, class files, configs, checkpoints and what a run leaves.

A module a kind. Each input is read as what it says, or named in one line; none gives a traceback, and no nonsense is taken for
something. `python -m tests.damaged` runs all of them and prints how many there are of each kind.
"""

from tests.damaged import checkpoints, classes, configs, images, labels, lists, names, results
from tests.damaged.bench import by_kind

KINDS = by_kind(
    item for module in (images, labels, lists, names, classes, configs, checkpoints, results) for item in module.INPUTS
)
