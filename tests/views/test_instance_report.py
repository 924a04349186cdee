"""The report of an instance segmentation."""

import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from ctxseg import files
from ctxseg.errors import UserError
from ctxseg.views import curves, report
from ctxseg.views import pictures as views_pictures
from tests.html_page import Page
from tests.instance_lists import CAT, DOG, NOWHERE, A, B, C, found, write_run

NAMES = ["cat", '<b>"dog"</b>']


@pytest.fixture
def run(tmp_path):
    """One cat found, one missed, and the dog taken for a cat."""
    return write_run(tmp_path / "first", [found((CAT, A, 0.9), (CAT, B, 0.8), image=1), found(image=2)], NAMES)


@pytest.fixture
def other(tmp_path):
    """Both cats found, a false dog."""
    detections = [found((CAT, A, 0.9), (DOG, NOWHERE, 0.6), image=1), found((CAT, C, 0.7), image=2)]
    return write_run(tmp_path / "second", detections, NAMES, "zigzag_mask_rcnn")


def test_the_report_has_the_contents_of_the_run(run):
    page = Page(report.write_report([run]))
    half = 51 / 101 / 2  # cat: precision 1 to recall 1/2; dog: 0
    for text in ("mask_rcnn on scenes_instances", f"{half:.4f}", NAMES[1], "shorter side 128", "1 of 3", "image 1"):
        assert text in page.text
    kinds = [link.split(";")[0] for link in page.links if link.startswith("data:")]
    # mask AP while training; curves of masks and boxes; a dog that is taken for a cat and a missed cat; two samples with their truth.
    assert kinds == ["data:image/svg+xml"] * 3 + ["data:image/jpeg"] * (2 + 4)
    assert "IoU below" in page.text and "Confusions" not in page.text
    assert all(link.startswith(("data:", "#")) for link in page.links)
    examples = re.findall(r"<b>(.*?)</b><br>(.*?)<br>(.*?)</figcaption>", (run / "report.html").read_text())
    dog = "&lt;b&gt;&#34;dog&#34;&lt;/b&gt;"
    assert examples == [("wrong class", f"cat 0.80, truth: {dog}", "image 1"), ("missed", "truth: cat", "image 2")]


def test_several_runs_side_by_side(run, other, tmp_path):
    path = report.write_report([run, other], path=tmp_path / "both.html")
    page = Page(path)
    # Both cats are found, and the dog is not: 1/2.
    for text in ("0.5000", f"(+{100 * (1 / 2 - 51 / 202):.1f})", "1 of 3", "2 of 3", "first", "second"):
        assert text in page.text
    rows = dict(re.findall(r"<tr><th>([a-z ]+)<div.*?</th>(<td>.*?</td><td>.*?</td>)", path.read_text()))
    assert rows["background"] == "<td>0</td><td>1</td>" and rows["wrong class"] == "<td>1</td><td>0</td>"
    assert sum(link.startswith("data:image/jpeg") for link in page.links) == 2 + 2 + 2 * 3


def test_a_run_of_another_task_cannot_be_compared(run, other, tmp_path):
    config = json.loads((other / "config.json").read_text())
    files.write_json(other / "config.json", config | {"model": {}})
    for name in ("results.json", "samples.npz"):
        (other / name).unlink()
    with pytest.raises(UserError, match="second .*semantic.* instances"):
        report.write_report([run, other], path=tmp_path / "both.html")


def test_the_pictures_mode_names_the_report(run):
    config = ConfigDict({"data": {"name": "scenes_instances"}, "eval": {"split": "val"}})
    with pytest.raises(UserError, match="first is a run of instance segmentation.*report"):
        views_pictures.pictures([str(run)], [config], (0,))


def test_a_run_that_is_not_evaluated(run):
    for name in ("results.json", "samples.npz"):
        (run / name).unlink()
    text = Page(report.write_report([run])).text
    assert "Not evaluated yet" in text and "At step 300, mask AP was 0.4321" in text and "No pictures yet" in text


@pytest.mark.parametrize(
    "key, value",
    [("task", "other"), ("mask_AP", 2), ("box_AR10", "x"), ("per_class_AP", [1]), ("curves", {"mask_AP50": [1]}),
     ("misses", {"counts": {"missed": -1}}), ("misses", {"counts": 1, "found": "x"})],
)  # fmt: skip
def test_a_damaged_entry_is_reported(run, key, value):
    results = json.loads((run / "results.json").read_text())
    files.write_json(run / "results.json", results | {key: value})
    with pytest.raises(UserError, match=f"results.json is damaged: {key}.*evaluate"):
        report.write_report([run])


def test_damaged_files_are_reported(run):
    (run / "samples.npz").write_bytes((run / "samples.npz").read_bytes()[:-30])
    with pytest.raises(UserError, match="samples.npz is damaged"):
        report.write_report([run])


def test_curves_of_precision_and_recall():
    falling, low = list(np.linspace(1, 0, 101)), [0.1] * 101
    drawn = curves.precision_recall([{"mask_AP50": falling, "mask_AP75": low}, {}], ["red", "blue"])
    assert list(drawn) == ["masks"]
    thick, thin = drawn["masks"].axes[0].lines
    np.testing.assert_allclose(thick.get_xydata()[[0, 50, 100]], [[0, 1], [0.5, 0.5], [1, 0]], atol=1e-12)
    assert thick.get_linewidth() > thin.get_linewidth() and thick.get_color() == "red"
    assert curves.precision_recall([{"mask_AP50": None}], ["red"]) == {}
