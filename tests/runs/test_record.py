"""The files of an evaluation of a segmenter, written and read."""

import numpy as np

from ctxseg.runs import record


def picture(name, value):
    return name, np.full((4, 6, 3), value, np.uint8), np.zeros((4, 6), np.uint8), np.full((4, 6), value, np.int32)


def test_samples_and_the_worst_images(tmp_path):
    """An image may be both; only the samples are read back as samples. Older runs have no kinds."""
    samples, worst = [picture("a", 1), picture("b", 2)], [picture("c", 3), picture("a", 1)]
    record.write(tmp_path, {"mIoU": 0.5}, samples, ["a"], np.ones((1, 4, 3), np.int32), worst)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["names"].tolist() == ["a", "b", "c", "a"]
        assert arrays["kinds"].tolist() == ["sample", "sample", "worst", "worst"]
        assert arrays["image_2"].max() == 3 and arrays["prediction_3"].dtype == np.uint8
        older = {key: value for key, value in arrays.items() if key != "kinds"}
    read = record.read_samples(tmp_path)
    assert list(read) == ["a", "b"] and read["b"][0].max() == 2
    np.savez(tmp_path / "samples.npz", **older)
    assert list(record.read_samples(tmp_path)) == ["a", "b", "c"]


def test_without_samples(tmp_path):
    record.write(tmp_path, {"mIoU": 0.5}, [], [], np.ones((0, 4, 3), np.int32))
    assert record.read_samples(tmp_path) == {}
