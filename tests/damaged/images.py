"""Image files: in a data set's checks and in a prediction, each gives the pixels that test_images.py expects, or an error."""

import numpy as np

from ctxseg.data import images
from ctxseg.data.builders.checks import find_faults
from ctxseg.data.builders.pairs import Pair, raise_faults
from tests.damaged.bench import ErrorLine, Input
from tests.data import test_images

EXPECTED = "the expected pixels"


def reader(content, pixels):
    def read(bench, folder):
        path = folder / "file"
        path.write_bytes(content)
        label = np.zeros(pixels.shape[:2], np.uint8)
        turn, _ = test_images.orientation(path)
        raise_faults(
            "images",
            *find_faults("images", {"train": [Pair("x", path, path)]}, lambda _: test_images.turned(label, turn)),
        )
        actual, _ = images.read(path)
        return EXPECTED if actual.shape == pixels.shape and np.abs(actual - pixels.astype(int)).max() <= 6 else actual

    return read


def damaged(content):
    def read(bench, folder):
        path = folder / "file"
        path.write_bytes(content)
        raise_faults("images", *find_faults("images", {"train": [Pair("x", path, path)]}, lambda _: test_images.GREY))

    return read


INPUTS = [
    Input("images", name, reader(content, np.asarray(pixels)), EXPECTED)
    for name, (content, pixels) in test_images.CASES.items()
]
INPUTS += [
    Input("images", name, damaged(content), ErrorLine("/file: ")) for name, content in test_images.DAMAGED.items()
]
