"""Damaged, odd and hostile inputs: label files, lists, names, class files, configs, checkpoints and what a run leaves; a module a kind.

Each is read as what it says, or named in one line; none gives a traceback, and no nonsense is taken for something. Image files are in
tests/data/test_images.py. `python -m tests.damaged` runs all of them and prints how many there are of each kind.
"""

from tests.damaged import checkpoints, classes, configs, labels, lists, names, results
from tests.damaged.bench import by_kind

KINDS = by_kind(
    item for module in (labels, lists, names, classes, configs, checkpoints, results) for item in module.INPUTS
)
