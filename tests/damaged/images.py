"""Image files: the pixels that test_images.py expects of each, in a data set's check and in a prediction, or a line."""

import numpy as np

from ctxseg.data import images
from ctxseg.data.builders.checks import find_faults
from ctxseg.data.builders.pairs import Pair, raise_faults
from tests.damaged.bench import Input, Line
from tests.data import test_images

RIGHT = "the pixels that are due"


def reader(content, expected):
    def read(bench, folder):
        path = folder / "file"
        path.write_bytes(content)
        label = np.zeros(expected.shape[:2], np.uint8)
        turn, _ = test_images.orientation(path)
        raise_faults(
            "images",
            *find_faults("images", {"train": [Pair("x", path, path)]}, lambda _: test_images.turned(label, turn)),
        )
        found, _ = images.read(path)
        return RIGHT if found.shape == expected.shape and np.abs(found - expected.astype(int)).max() <= 6 else found

    return read


def damaged(content):
    def read(bench, folder):
        path = folder / "file"
        path.write_bytes(content)
        raise_faults("images", *find_faults("images", {"train": [Pair("x", path, path)]}, lambda _: test_images.GREY))

    return read


INPUTS = [
    Input("images", name, reader(content, np.asarray(expected)), RIGHT)
    for name, (content, expected) in test_images.CASES.items()
]
INPUTS += [Input("images", name, damaged(content), Line("/file: ")) for name, content in test_images.DAMAGED.items()]
