"""Damaged, unusual and hostile inputs: images, labels, lists, names, class files, configs, checkpoints, results, instances, weights.

One module per kind; `weights` has three more for its files. Each input is either read correctly or reported in an error of one line; none
gives a traceback.
`python -m tests.damaged` runs all of them and prints how many there are of each kind.
"""

from tests.damaged import checkpoints, classes, configs, images, instances, labels, lists, names, results, weights
from tests.damaged.bench import by_kind

KINDS = by_kind(
    item
    for module in (images, labels, lists, names, classes, configs, checkpoints, results, instances, weights)
    for item in module.INPUTS
)
