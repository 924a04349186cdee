"""The page on where a run fails has the numbers of the run's files, and its links have targets."""

import base64
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ctxseg import files
from ctxseg.commands import failures as command
from ctxseg.errors import UserError
from ctxseg.runs import record
from ctxseg.views import curves, failures, report, semantic_failures
from tests import browser
from tests.html_page import Page
from tests.instance_lists import CAT, A, B, found, write_run

ROAD, SKY, TREE = NAMES = ["road", '<b>"sky" & sea</b>', "tree"]
PALETTE = [[90, 90, 90], [40, 50, 250], [10, 200, 30]]
OLDER = "This run was evaluated by an earlier version; --mode=evaluate adds this."


def pictures():
    """{name: (label, prediction)}, 4×5 pixels each: all are right; half are wrong; a quarter of the labelled ones are; no label."""
    road, tree = np.zeros((4, 5), np.uint8), np.full((4, 5), 2, np.uint8)
    sky_below = road.copy()
    sky_below[2:] = 1
    tree[0, :4] = 255
    wrong = tree.copy()
    wrong[0] = 2
    wrong[3, :4] = 0
    return {
        "all right": (road, road),
        "<half> wrong": (sky_below, road),
        "a quarter wrong": (tree, wrong),
        "no label": (np.full_like(road, 255), road),
    }


COUNTS = {  # correct, in the truth, predicted
    "all right": [[20, 20, 20], [0, 0, 0], [0, 0, 0]],
    "<half> wrong": [[10, 10, 20], [0, 10, 0], [0, 0, 0]],
    "a quarter wrong": [[0, 0, 4], [0, 0, 0], [12, 16, 12]],
    "no label": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
}
RESULTS = {
    "mIoU": 0.5079,
    "pixel_accuracy": 0.75,
    "mean_accuracy": 0.5833,
    "per_class_iou": {ROAD: 30 / 44, SKY: 0.0, TREE: 0.75},
    "boundary_IoU": 0.3,
    "per_class_boundary_iou": {ROAD: 0.6, SKY: None, TREE: 0.25},
    "confusion": [[30, 0, 0], [10, 0, 0], [4, 0, 12]],
    "by_distance": {
        "limits": [1, 2, 4, 8, 16, 32],
        "pixels": [10, 10, 20, 16, 0, 0, 0],
        "correct": [4, 8, 16, 14, 0, 0, 0],
    },
    "by_size": {
        "limits": [0.001, 0.01, 0.1],
        "regions": {ROAD: [0, 0, 0, 2], SKY: [0, 0, 0, 1], TREE: [0, 1200, 1, 0]},
        "pixels": {ROAD: [0, 0, 0, 30], SKY: [0, 0, 0, 10], TREE: [0, 8, 8, 0]},
        "correct": {ROAD: [0, 0, 0, 30], SKY: [0, 0, 0, 0], TREE: [0, 5, 7, 0]},
    },
    "step": 600,
    "split": "val",
    "protocol": "single scale",
    "class_names": NAMES,
    "palette": PALETTE,
}


def write_samples(folder, worst=("a quarter wrong", "<half> wrong"), samples=("all right",)):
    names = [*worst, *samples]
    arrays = {"names": np.array(names), "kinds": np.array(["worst"] * len(worst) + ["sample"] * len(samples))}
    for i, name in enumerate(names):
        label, prediction = pictures()[name]
        arrays |= {f"image_{i}": np.full((4, 5, 3), 77, np.uint8), f"label_{i}": label, f"prediction_{i}": prediction}
    np.savez(folder / "samples.npz", **arrays)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "the run"
    folder.mkdir()
    files.write_json(folder / "config.json", {"system": "zigzag", "data": {"name": "scenes"}})
    files.write_json(folder / "results.json", RESULTS)
    write_samples(folder)
    counts = np.array([COUNTS[name] for name in sorted(COUNTS)], np.int32)
    np.savez(folder / "images.npz", names=np.array(sorted(COUNTS)), counts=counts)
    return folder


def change(folder, **entries):
    """Changes entries of results.json; None removes one."""
    results = json.loads((folder / "results.json").read_text()) | entries
    files.write_json(folder / "results.json", {k: v for k, v in results.items() if v is not None})


def rows(source, heading):
    """The cells of the table after a heading, as texts."""
    table = source.split(f">{heading}</h2>")[1].split("<table")[1].split("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
    return [[re.sub("<[^>]*>", "", cell).strip() for cell in row] for row in cells]


def test_the_worst_images(run):
    path = failures.write_failures(run)
    assert path == run / "failures.html"
    source, text = path.read_text(), Page(path).text
    assert text.count("zigzag on scenes: where it fails") == 2 and "0.5079" in text and "600" in text
    # The mean of 1/2 and 0; of 0 and 12/16; 1.
    assert "IoU is 0.2500 in the worst image, and 0.3750 in the median of 3 images." in text
    sky = "&lt;b&gt;&#34;sky&#34; &amp; sea&lt;/b&gt;"
    assert rows(source, "Worst images")[1:] == [
        ["&lt;half&gt; wrong", "0.2500", "50.0 %", f"{sky} (100.0 %)", "road (100.0 %)"],
        ["a quarter wrong", "0.3750", "75.0 %", "tree (100.0 %)", "road (100.0 %)"],
        ["all right", "1.0000", "100.0 %", "–", "–"],
    ]
    # The pictures begin with the worst; the sample is shown because the table links to it.
    headings = re.findall(r"<h3 id=(\w+)>(.*?)</h3>\s*<p class=note>(.*?)</p>", source)
    assert [name for _, name, _ in headings] == ["&lt;half&gt; wrong", "a quarter wrong", "all right"]
    assert headings[1][2] == "IoU 0.3750. Most frequent confusion: tree predicted as road, 100.0 % of its wrong pixels."


def test_only_some_images_are_listed(run, monkeypatch):
    """A sample that no table links to is not shown."""
    monkeypatch.setattr(semantic_failures, "LISTED_IMAGES", 1)
    path = failures.write_failures(run)
    assert "in the median of 3 images. The 1 worst have 71.4 % of all wrong pixels." in Page(path).text
    source = path.read_text()
    assert [row[0] for row in rows(source, "Worst images")] == ["image", "&lt;half&gt; wrong"]
    assert re.findall(r"<h3 id=\w+>(.*?)</h3>", source) == ["&lt;half&gt; wrong", "a quarter wrong"]


def test_the_panels_of_a_picture(run):
    """Image, truth and prediction in the colours of the classes, and the errors over the image again."""
    links = [link for link in Page(failures.write_failures(run)).links if link.startswith("data:image/")]
    assert [link.split(";")[0].split("/")[1] for link in links[:5]] == ["jpeg", "png", "png", "jpeg", "png"]
    truth, prediction, errors = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).convert("RGBA"))
        for link in (links[1], links[2], links[4])
    )
    assert (truth[2:, :, :3] == PALETTE[1]).all() and (prediction[..., :3] == PALETTE[0]).all()
    assert (errors[:2, :, 3] == 0).all() and (errors[2:, :, 0] > 200).all() and (errors[2:, :, 3] > 200).all()


def test_confusions_are_linked_to_the_pictures_that_have_most_of_them(run):
    source = failures.write_failures(run).read_text()
    sky, half = "&lt;b&gt;&#34;sky&#34; &amp; sea&lt;/b&gt;", "&lt;half&gt; wrong"
    assert (
        f"71.4 % of the wrong pixels are {sky} predicted as road; the 2 confusions below have 100.0 % of them."
        in source
    )
    assert rows(source, "Most confused classes")[1:] == [
        [sky, "road", "100.0 %", "71.4 %", f"{half} (100.0 %)"],
        ["tree", "road", "25.0 %", "28.6 %", "a quarter wrong (100.0 %)"],
    ]
    # A sample that is not among the worst is shown too.
    (run / "images.npz").unlink()
    write_samples(run, worst=["<half> wrong"], samples=["<half> wrong", "a quarter wrong", "all right"])
    source = failures.write_failures(run).read_text()
    assert re.findall(r"<h3 id=(\w+)>(.*?)</h3>", source) == [("worst0", half), ("other0", "a quarter wrong")]
    section = source.split("id=classes>")[1].split("</section>")[0]
    assert '<a href="#other0">a quarter wrong</a>' in section and f'<a href="#worst0">{half}</a>' in section


def test_links_have_targets_and_the_page_needs_no_network(run):
    source = failures.write_failures(run).read_text()
    links = re.findall(r'href="?([^">]*)', source)
    anchors = re.findall(r"id=(\w+)", source)
    assert len(links) >= 4 + 2 + 2 and len(set(anchors)) == len(anchors)
    assert {link.removeprefix("#") for link in links} <= set(anchors)
    assert all(link.startswith(("#", "data:")) for link in Page(run / "failures.html").links)
    assert not re.search(r"https?://|url\(|@import|<script", source)
    assert re.findall("<img(?! alt)", source) == []
    change(run, palette=None)  # without colours, there are no pictures, and no links to them
    assert set(re.findall(r'href="#(\w+)"', failures.write_failures(run).read_text())) == set(
        semantic_failures.CONTENTS
    )


def test_boundaries(run):
    source = failures.write_failures(run).read_text()
    # Wrong pixels: 6, 2, 4 and 2 of 14.
    assert "57.1 % of the wrong pixels are within 2 pixels of a boundary, where 35.7 % of all pixels are." in source
    table = rows(source, "Boundaries")
    assert table[1] == ["≤ 1", "17.9 %", "40.0 %", "42.9 %", "42.9 %"]
    assert table[3] == ["2–4", "35.7 %", "80.0 %", "28.6 %", "85.7 %"]
    assert table[5] == ["8–16", "0.0 %", "–", "0.0 %", "100.0 %"] and table[7][0] == "&gt; 32"
    # Boundary IoU beside IoU, the largest loss first; without a boundary IoU last.
    boundary = source.split("boundary IoU</th>")[1].split("</table>")[0]
    names = re.findall(r"<tr class=\w+><th>(?:<i[^>]*></i>)?(.*?)</th>", boundary)
    assert names == ["all classes", "tree", "road", "&lt;b&gt;&#34;sky&#34; &amp; sea&lt;/b&gt;"]
    assert re.findall(r"\(([-+.\d]+)\)", boundary) == ["-20.8", "-50.0", "-8.2"]


def test_small_and_large_regions(run):
    source = failures.write_failures(run).read_text()
    # All classes: 5 of 8, 7 of 8, 30 of 40.
    assert (
        "62.5 % of the pixels are correct in regions of 0.1–1 % of the image, and 75.0 % in regions of more than 10 %."
        in source
    )
    heading, everything, road, sky, tree = rows(source, "Small and large regions")
    assert heading == ["", "≤ 0.1 %", "0.1–1 %", "1–10 %", "&gt; 10 %"]
    assert everything == ["all classes", "", "", "", "0.62501,200 regions", "", "0.87501 region", "", "0.75003 regions"]
    assert road == ["road", "", "", "", "", "", "", "", "1.00002 regions"] and tree[4] == "0.62501,200 regions"
    assert sky[-1] == "0.00001 region"
    # Bars of fewer than ten regions are grey.
    assert source.split("id=sizes>")[1].count("var(--faint)") == 5


def test_a_run_of_an_older_version(run):
    """The page says what is missing, and has the rest."""
    change(run, by_distance=None, by_size=None, per_class_boundary_iou=None, boundary_IoU=None)
    (run / "images.npz").unlink()
    with np.load(run / "samples.npz") as arrays:
        np.savez(run / "samples.npz", **{name: array for name, array in arrays.items() if name != "kinds"})
    text = Page(failures.write_failures(run)).text
    assert text.count(OLDER) == 4 and "IoU is" not in text and "regions of" not in text and "are within" not in text
    assert "71.4 % of the wrong pixels" in text and "a quarter wrong (100.0 %)" in text
    (run / "samples.npz").unlink()
    change(run, eval={"samples": 0})
    assert "No pictures: config.eval.samples was 0." in Page(failures.write_failures(run)).text
    change(run, confusion=None, class_names=None, palette=None, eval=None)
    assert Page(failures.write_failures(run)).text.count(OLDER) == 5


def test_nothing_is_wrong_and_nothing_is_labelled(run):
    write_samples(run, worst=["all right"], samples=["no label"])
    right = {"limits": [1], "pixels": [5, 6], "correct": [5, 6]}
    change(run, confusion=[[30, 0, 0], [0] * 3, [0] * 3], by_distance=right)
    text = Page(failures.write_failures(run)).text
    assert text.count("No pixel is wrong.") == 3  # the picture, confusions and boundaries
    nothing = {name: [0, 0] for name in NAMES}
    by_size = {"limits": [0.1], "regions": nothing, "pixels": nothing, "correct": nothing}
    change(run, confusion=[[0] * 3] * 3, by_distance=right | {"pixels": [0, 0], "correct": [0, 0]}, by_size=by_size)
    np.savez(run / "images.npz", names=np.array(["a"]), counts=np.zeros((1, 3, 3), np.int32))
    assert Page(failures.write_failures(run)).text.count("No pixel of the split has a label.") == 4


def test_one_size_of_regions(run):
    one = {key: {ROAD: [12, 0]} for key in ("regions", "pixels", "correct")}
    change(run, by_size={"limits": [0.1]} | one)
    assert (
        "100.0 % of the pixels are correct in regions of at most 10 % of the image; there are no others."
        in Page(failures.write_failures(run)).text
    )


def test_a_prediction_of_an_unknown_class_is_not_counted(run):
    with np.load(run / "samples.npz") as arrays:
        np.savez(run / "samples.npz", **dict(arrays) | {"prediction_0": np.full((4, 5), 77, np.uint8)})
    assert "a quarter wrong" in Page(failures.write_failures(run)).text


def test_confusion_of_an_image():
    label, prediction = np.array([[0, 1, 255], [1, 1, 0]]), np.array([[0, 0, 1], [1, 0, 9]])
    assert semantic_failures.confusion_of(label, prediction, 2).tolist() == [[1, 0], [2, 1]]


def test_a_run_that_is_not_evaluated(run):
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="the run/results.json is missing: .*--mode=evaluate --workdir=.*the run$"):
        failures.write_failures(run)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        failures.write_failures(run / "nowhere")


def test_damaged_files_are_reported(run):
    def arrays(name, **values):
        with np.load(run / name) as old:
            return dict(old) | values

    samples, images = (run / name for name in ("samples.npz", "images.npz"))
    for path, values, message in (
        (samples, {"kinds": np.array(["worst"])}, "samples.npz is damaged"),
        (samples, {"kinds": np.array(["worst", "best", "sample"])}, "samples.npz is damaged .*unknown kind"),
        (samples, {"kinds": np.array([1, 2, 3])}, "samples.npz is damaged"),
        (samples, {"label_0": np.zeros((2, 2), np.uint8)}, "samples.npz is damaged"),
        (images, {"counts": np.ones((4, 7, 3), np.int32)}, "images.npz is damaged: expected counts of 3 classes"),
        (images, {"counts": np.tile(np.int32([2, 1, 1]), (4, 3, 1))}, "images.npz is damaged.*more correct pixels"),
    ):
        content = path.read_bytes()
        np.savez(path, **arrays(path.name, **values))
        with pytest.raises(UserError, match=f"{message}.*evaluate"):
            failures.write_failures(run)
        path.write_bytes(content)
    for name in ("results.json", "samples.npz", "images.npz"):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-30])
        with pytest.raises(UserError, match=f"{name} is damaged"):
            failures.write_failures(run)
        (run / name).write_bytes(content)


def test_samples_are_read_by_their_kind(run):
    assert list(record.read_samples(run)) == ["all right"]
    assert list(record.read_samples(run, record.WORST)) == ["a quarter wrong", "<half> wrong"]


def test_the_report_and_the_page_are_linked(run):
    text = Page(report.write_report([run])).text
    assert f"This command shows where it fails: python main.py --mode=failures --workdir='{run}'" in text
    assert "report.html" in Page(failures.write_failures(run)).links
    assert "failures.html" in Page(report.write_report([run])).links
    assert "failures.html" not in Page(report.write_report([run], path=run.parent / "elsewhere.html")).links


def test_one_run_at_a_time():
    with pytest.raises(UserError, match="^--workdir=a,b: expected one folder.*one run"):
        command.run(SimpleNamespace(workdir="a,b"))


def test_curves_by_distance():
    drawn = curves.by_distance([1, 2], [0.5, None, 0.75], [0.25, 0, 0.75], [0.4, 0, 0.6])
    bars, lines = drawn["accuracy"].axes[0], drawn["share of pixels"].axes[0]
    assert [bar.get_height() for bar in bars.patches] == [0.5, 0, 0.75]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["1", "2", "∞"]
    assert [line.get_ydata().tolist() for line in lines.lines] == [[0.4, 0.4, 1], [0.25, 0.25, 1]]
    assert [text.get_text() for text in lines.get_legend().get_texts()] == ["wrong pixels", "all pixels"]


@pytest.fixture
def detector(tmp_path):
    """One cat found, one missed, and the dog taken for a cat."""
    return write_run(
        tmp_path / "first", [found((CAT, A, 0.9), (CAT, B, 0.8), image=1), found(image=2)], ["cat", "<dog>"]
    )


def test_a_detector(detector):
    path = failures.write_failures(detector)
    source, text = path.read_text(), Page(path).text
    assert "1 of 3 objects were found. The most frequent kind of miss is “wrong class” (1)." in text
    assert "IoU below" in text and sum(link.startswith("data:image/jpeg") for link in Page(path).links) == 2
    half = f"{51 / 101 / 2:.4f}"  # cat: precision 1 to recall 1/2; dog: 0
    # All objects have 50×50 pixels.
    assert f"AP of masks is {half} for medium objects." in text
    assert rows(source, "Small and large objects")[2] == ["small", "", "–", "", "–"]
    assert "AP of masks is lowest for <dog>, 0.0000; the mean is" in text
    assert [row[0] for row in rows(source, "Classes with the lowest AP")[1:]] == ["&lt;dog&gt;", "cat"]
    assert all(link.startswith(("data:", "#")) for link in Page(path).links)


def test_a_detector_without_objects_or_counts(detector):
    change(detector, misses=None, per_class_AP=None, mask_AP_medium=None)
    text = Page(failures.write_failures(detector)).text
    assert "Misses are not counted yet." in text and "No class has an object." in text and "AP of masks is" not in text


@pytest.mark.skipif(browser.BROWSER is None, reason="chromium is not installed")
def test_in_a_browser(run, tmp_path):
    """At a phone's width only wide boxes scroll sideways; all layers of a panel are visible; a link leads to its picture."""
    page = failures.write_failures(run)
    assert browser.errors(page, tmp_path) == []
    script = f"""
    const hidden = [...document.querySelectorAll(".panels img")].filter(e => getComputedStyle(e).visibility != "visible").length;
    const wide = {browser.WIDE};
    const size = document.documentElement.scrollWidth;
    document.body.innerHTML = JSON.stringify({{hidden, wide, size, width: innerWidth}});"""
    probe = browser.on_a_phone(page, script, tmp_path)
    assert probe["hidden"] == 0 and probe["wide"] == [] and probe["width"] == 360 and probe["size"] <= 360
