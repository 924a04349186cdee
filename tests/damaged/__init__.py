"""Damaged, unusual and hostile inputs: image and label files, lists, names, class files, configs, checkpoints, files of runs and
pretrained weights.

One module per kind. Each input is either read correctly or reported in an error of one line; none gives a traceback.
`python -m tests.damaged` tries all of them and prints the numbers of each kind.
"""

from tests.damaged import checkpoints, classes, configs, images, labels, lists, names, results, weights
from tests.damaged.bench import by_kind

KINDS = by_kind(
    item
    for module in (images, labels, lists, names, classes, configs, checkpoints, results, weights)
    for item in module.INPUTS
)
