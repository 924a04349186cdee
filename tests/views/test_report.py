import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ctxseg import files
from ctxseg.data.colours import colourise
from ctxseg.errors import UserError
from ctxseg.runs import metrics_log
from ctxseg.views import curves, figures, report
from tests import browser
from tests.html_page import Page

NAMES = ["grass", '<b>"sky" & sea</b>', "far", "near"]
PALETTE = [[10, 200, 30], [40, 50, 250], [250, 0, 0], [0, 0, 90]]
GROUPS = {"appearance": ["grass"], "distant cue": ["far", "near"]}
RESULTS = {
    "mIoU": 0.61234,
    "pixel_accuracy": 0.8123,
    "mean_accuracy": 0.7,
    "per_class_iou": {"grass": 0.9111, NAMES[1]: None, "far": 0.3333, "near": 0.5555},
    "group_iou": {"appearance": 0.9111, "distant cue": 0.4444},
    "step": 600,
    "system": "zigzag",
    "data": "scenes",
    "split": "val",
    "protocol": "single scale",
    "seconds": 312.3,
    "parameters": 1234567,
    "class_names": NAMES,
    "palette": PALETTE,
    "groups": GROUPS,
}
CONFIG = {"system": "zigzag", "data": {"name": "scenes", "crop": [64, 64]}, "train": {"steps": 600}}


def sample(height=8, width=16):
    """Image, truth (class 0 over 1, the rightmost quarter ignored) and prediction (class 2)."""
    label = np.zeros((height, width), np.uint8)
    label[height // 2 :] = 1
    label[:, -width // 4 :] = 255
    return np.full((height, width, 3), 77, np.uint8), label, np.full_like(label, 2)


@pytest.fixture
def workdir(tmp_path):
    log = metrics_log.MetricsLog(tmp_path)
    for step in range(10, 610, 10):
        log.write(step, "train", {"loss": 3 / step, "learning_rate": 0.01, "images_per_second": 5.0})
    log.write(300, "eval", {"mIoU": 0.4321, "group_iou": {"appearance": 0.5, "distant cue": None}})
    files.write_json(tmp_path / "config.json", CONFIG)
    files.write_json(tmp_path / "results.json", RESULTS)
    arrays = {"names": np.array(["0001", "<0002>"])}
    for i, size in enumerate([(8, 16), (12, 12)]):
        arrays |= dict(zip((f"image_{i}", f"label_{i}", f"prediction_{i}"), sample(*size), strict=True))
    np.savez_compressed(tmp_path / "samples.npz", **arrays)
    return tmp_path


def test_report_has_the_contents_of_the_run(workdir):
    page = Page(report.write_report([workdir]))
    assert page.text.count("zigzag on scenes") == 2  # title and heading
    scores = ("0.6123", "0.8123", "0.7000", "0.9111", "0.3333", "0.5555", "0.4444")
    for text in (*scores, "600", "1,234,567", "5:12", "single scale", NAMES[1], "<0002>", '"steps": 600'):
        assert text in page.text
    kinds = [link.split(";")[0] for link in page.links if link.startswith("data:")]
    assert kinds == ["data:image/svg+xml"] * 3 + ["data:image/jpeg", *["data:image/png"] * 3] * 2


def test_report_is_self_contained(workdir, other):
    path = report.write_report([workdir, other], path=workdir / "both.html")
    assert all(link.startswith(("data:", "#")) for link in Page(path).links)
    assert not re.search(r"https?://|url\(|@import|<script", path.read_text())


def test_report_shows_the_samples(workdir):
    """The pictures on the page have the data set's colours for truth and prediction, and those of errors."""
    links = [link for link in Page(report.write_report([workdir])).links if link.startswith("data:image/png")]
    truth, prediction, errors = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).convert("RGBA")) for link in links[:3]
    )
    assert truth.shape == (8, 16, 4)
    np.testing.assert_array_equal(truth[:4, :12, :3], np.broadcast_to(PALETTE[0], (4, 12, 3)))
    np.testing.assert_array_equal(truth[4:, :12, :3], np.broadcast_to(PALETTE[1], (4, 12, 3)))
    assert (truth[:, 12:, :3] == 128).all() and (prediction[..., :3] == PALETTE[2]).all()
    assert (errors[:, :12, 0] > 200).all() and (errors[:, 12:, :3] == 128).all() and (errors[..., 3] > 100).all()


@pytest.fixture
def other(workdir, tmp_path):
    """A second run: another system and number of steps, better at one class, without the second sample."""
    folder = tmp_path / "other <run>"
    folder.mkdir()
    config = CONFIG | {"system": "fcn", "train": {"steps": 900}}
    results = json.loads(json.dumps(RESULTS))
    results["per_class_iou"]["far"] = 0.4555
    results["group_iou"]["appearance"] = 0.9
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "results.json", results)
    image, label, _ = sample()
    np.savez(folder / "samples.npz", names=np.array(["0001"]), image_0=image, label_0=label, prediction_0=label)
    return folder


def test_the_share_of_waiting_is_that_of_the_whole_time(workdir, other):
    """Runs of before it was logged have none. Lines count by their time: 100 steps at 5 images a second, 60 at 1."""
    assert "waited" not in Page(report.write_report([workdir])).text
    log = metrics_log.MetricsLog(other)
    log.write(100, "train", {"images_per_second": 5.0, "waiting_for_data": 0.5})
    log.write(160, "train", {"images_per_second": 1.0, "waiting_for_data": 0.05})
    text = Page(report.write_report([workdir, other], path=workdir / "both.html")).text
    assert text.count("waited") == 1
    assert "other <run>: the devices waited for data during 16.2 % of the training time" in text


def test_several_runs_side_by_side(workdir, other):
    base_configs = {workdir: CONFIG, other: CONFIG | {"system": "fcn"}}
    path = report.write_report([workdir, other], base_configs.get, workdir / "both.html")
    page = Page(path)
    assert "(+12.2)" in page.text and "(-1.1)" in page.text and "(±0.0)" in page.text
    assert (
        "other <run> does not have this sample" in page.text and page.text.count("Nothing logged yet: other <run>") == 1
    )
    assert "--config=configs/fcn.py:scenes \\\n    --config.train.steps=900" in page.text
    rows = re.findall(
        r"<tr><th>train.<wbr>steps</th><td><code>600</code></td><td><code>900</code></td></tr>", path.read_text()
    )
    assert len(rows) == 1 and "data.<wbr>crop" not in path.read_text()


def test_intervals_of_differences(workdir, other, tmp_path):
    """Only runs evaluated on the same images have an interval."""
    truth = np.random.default_rng(0).integers(50, 90, (40, 4))

    def write(folder, share, names):
        counts = np.stack([(share * truth).astype(int), truth, truth], -1)[: len(names)].astype(np.int32)
        np.savez(folder / "images.npz", names=np.array(names), counts=counts)

    page = tmp_path / "both.html"
    names = [str(i) for i in range(40)]
    write(workdir, 0.6, names)
    assert "bootstrap" not in Page(report.write_report([workdir, other], path=page)).text
    write(other, 0.8, names)
    text = Page(report.write_report([workdir, other], path=page)).text
    # IoU: 0.6 / 1.4 and 0.8 / 1.2, minus the effect of rounding down.
    assert (
        re.search(r"other <run> − .*: \+2[34]\.\d points, \+2[34]\.\d to \+2[34]\.\d\.", text)
        and "the 40 images" in text
    )
    write(other, 0.6, names)
    assert "no significant difference" in Page(report.write_report([workdir, other], path=page)).text
    write(other, 0.6, names[:-1])
    assert (
        "other <run> was evaluated on other images than" in Page(report.write_report([workdir, other], path=page)).text
    )


def test_runs_that_cannot_be_compared(workdir, other, tmp_path):
    """Other data is an error; another protocol is noted; pictures of other sizes are compared with their own truth."""
    results = json.loads((other / "results.json").read_text())
    files.write_json(other / "results.json", results | {"protocol": "scales 0.5, 1"})
    image, label, prediction = sample(12, 24)
    np.savez(other / "samples.npz", names=np.array(["0001"]), image_0=image, label_0=label, prediction_0=label)
    path = tmp_path / "both.html"
    assert "different protocols" in Page(report.write_report([workdir, other], path=path)).text
    files.write_json(other / "config.json", CONFIG | {"data": {"name": "camvid"}})
    with pytest.raises(UserError, match="other <run> .* on camvid, .* on scenes; .*same data"):
        report.write_report([workdir, other], path=path)
    with pytest.raises(UserError, match="nowhere/page.html .*No such file"):
        report.write_report([workdir], path=tmp_path / "nowhere" / "page.html")


DAMAGE = {
    "class_names": None, "palette": [[1, 2]], "groups": [], "step": None, "seconds": "x", "confusion": [[-1] * 4] * 4,
}  # fmt: skip


@pytest.mark.parametrize("key", DAMAGE)
def test_a_damaged_entry_is_reported(workdir, key):
    files.write_json(workdir / "results.json", RESULTS | {key: DAMAGE[key]})
    with pytest.raises(UserError, match=f"results.json is damaged: {key}.*evaluate"):
        report.write_report([workdir])


def test_the_page_of_several_runs_is_beside_the_first(workdir, other, tmp_path):
    one, two = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    shutil.copytree(other, one)
    shutil.copytree(other, two)
    assert report.write_report([one, two]) == tmp_path / "runs" / "comparison.html"
    assert report.write_report([one]) == one / "report.html"


def test_confusions_in_words_and_in_cells(workdir):
    results = RESULTS | {"confusion": [[90, 0, 10, 0], [0, 0, 0, 0], [30, 0, 50, 20], [0, 0, 0, 7]]}
    files.write_json(workdir / "results.json", results)
    path = report.write_report([workdir])
    text, source = Page(path).text, path.read_text()
    words = re.findall(r"[\d.]+% of [a-z]+ is predicted as [a-z]+", text)
    assert words == [
        "30.0% of far is predicted as grass", "20.0% of far is predicted as near", "10.0% of grass is predicted as far",
    ]  # fmt: skip
    # Six cells are not empty.
    assert "<title>far → grass: 30.0%</title>" in source and source.count("<title>") == 1 + 6
    files.write_json(workdir / "results.json", results | {"confusion": [[1, 2]]})
    with pytest.raises(UserError, match="results.json is damaged: confusion.*evaluate"):
        report.write_report([workdir])
    files.write_json(workdir / "results.json", RESULTS)
    assert "No confusion matrix" in Page(report.write_report([workdir])).text


def test_calibration_and_boundaries(workdir, other):
    """The headline has both scores, and the page a reliability diagram; older runs have neither."""
    bins = [None] * 13
    reliability = {"pixels": [0] * 13 + [30, 90], "confidence": [*bins, 0.9, 0.97], "accuracy": [*bins, 0.5, 0.8]}
    results = RESULTS | {"boundary_IoU": 0.34567, "ECE": 0.0456, "reliability": reliability}
    assert "Calibration" not in Page(report.write_report([workdir])).text
    files.write_json(workdir / "results.json", results)
    page = Page(report.write_report([workdir]))
    assert "boundary IoU" in page.text and "0.3457" in page.text and page.text.count("0.0456") == 2
    assert len([link for link in page.links if link.startswith("data:image/svg+xml")]) == 4
    both = Page(report.write_report([workdir, other], path=workdir / "both.html")).text
    assert "other <run>: expected calibration error" not in both and "expected calibration error (ECE) 0.0456" in both
    identity, line = curves.reliability([reliability], ["red"]).axes[0].lines
    np.testing.assert_array_equal(identity.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(line.get_xydata(), [[0.9, 0.5], [0.97, 0.8]])


PROBE = f"""
document.title = "";
const stack = document.querySelector(".stack");
const visible = () => [...stack.children].map(e => getComputedStyle(e).visibility == "visible" ? 1 : 0).join("");
const layers = [];
for (const i of [2, 0, 1, 3, 4, 5]) {{ document.querySelector(`label[for=layer${{i}}]`).click(); layers.push(visible()); }}
const wide = {browser.WIDE};
document.body.innerHTML = JSON.stringify({{layers, scroll: document.documentElement.scrollWidth, width: innerWidth, wide}});"""


@pytest.mark.skipif(browser.BROWSER is None, reason="chromium is not installed")
def test_in_a_browser(workdir, other, tmp_path):
    """At a phone's width of 360 pixels only wide boxes scroll sideways, and the switch shows one layer over the image."""
    page = report.write_report([workdir, other], path=tmp_path / "both.html")
    assert browser.errors(page, tmp_path) == []
    probe = browser.on_a_phone(page, PROBE, tmp_path)
    assert probe["layers"] == ["101000", "100000", "110000", "100100", "100010", "100001"]
    assert probe["width"] == 360 and probe["scroll"] <= 360 and probe["wide"] == []


def test_report_lists_overrides_and_the_command(workdir):
    base = CONFIG | {"data": {"name": "scenes", "crop": (128, 128)}}
    text = Page(report.write_report([workdir], lambda *_: base)).text
    command = "python main.py \\\n    --config=configs/zigzag.py:scenes \\\n    '--config.data.crop=(64, 64)'"
    assert command in text and "train.steps" not in text
    assert "No field is overridden" in Page(report.write_report([workdir], lambda *_: CONFIG)).text


def test_report_of_a_run_that_is_not_evaluated(workdir):
    for name in ("results.json", "samples.npz"):
        (workdir / name).unlink()
    text = Page(report.write_report([workdir])).text
    assert "zigzag on scenes" in text and "Not evaluated yet" in text and "At step 300, mIoU was 0.4321" in text


def test_report_of_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="config.json is missing: --workdir"):
        report.write_report([tmp_path.parent])


@pytest.mark.parametrize(
    "name, text",
    [("results.json", "[1]"), ("results.json", '{"mIoU": "x"}'), ("config.json", "null"), ("config.json", "{}"),
     ("metrics.jsonl", '[1, 2]\n{"step": 1, "kind": "train"}\n'), ("metrics.jsonl", '{"a": 1}\n')],
)  # fmt: skip
def test_json_of_another_kind_is_reported(workdir, name, text):
    (workdir / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.* (is damaged|is missing)"):
        report.write_report([workdir])


@pytest.mark.parametrize("name", ["results.json", "config.json", "samples.npz"])
def test_a_damaged_file_is_reported(workdir, name):
    path = workdir / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=name):
        report.write_report([workdir])


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        report.write_report([tmp_path / "nowhere"])


def test_colourise():
    picture = colourise(np.array([[0, 3], [255, -1], [4, 2]]), PALETTE)
    assert picture.dtype == np.uint8 and picture.shape == (3, 2, 3)
    assert picture[0].tolist() == [PALETTE[0], PALETTE[3]] and picture[2, 1].tolist() == PALETTE[2]
    ignored = colourise(np.full((16, 16), 255), PALETTE)
    assert {tuple(c) for c in ignored.reshape(-1, 3).tolist()} == {(0, 0, 0), (128, 128, 128)}


def test_prediction_grid():
    grid = figures.prediction_grid([sample(8, 16), sample(12, 12)], PALETTE, width=32, gap=4)
    assert grid.dtype == np.uint8 and grid.shape == (16 + 4 + 32, 3 * 32 + 2 * 4, 3)
    assert (grid[:16, :32] == 77).all()  # image
    assert (grid[:16, 32:36] == 128).all() and (grid[16:20] == 128).all()  # between pictures
    truth = grid[:16, 36:68]
    assert (truth[:8, :24] == PALETTE[0]).all() and (truth[8:, :24] == PALETTE[1]).all()
    assert np.isin(truth[:, 24:], (0, 128)).all()
    assert (grid[:16, 72:] == PALETTE[2]).all() and (grid[20:, 72:] == PALETTE[2]).all()


def test_prediction_grid_with_a_legend():
    grid = figures.prediction_grid([sample()], PALETTE, NAMES, width=128)
    legend = grid[64 + 4 :].reshape(-1, 3).tolist()
    assert all(legend.count(colour) > 100 for colour in PALETTE)


def test_curves_leave_out_missing_values():
    assert curves.training_curves([[]]) == {}
    entry = {"step": 1, "kind": "train", "loss": None, "learning_rate": 0.1}
    assert list(curves.training_curves([[entry]])) == ["learning rate"]


def test_running_mean_is_unbiased_from_the_start():
    np.testing.assert_allclose(curves.running_mean([2.0] * 5, 10), 2.0)
    np.testing.assert_allclose(curves.running_mean([1.0, 4.0], 2), [1.0, (0.5 * 1 + 4) / 1.5])
    assert curves.running_mean([1.0, 4.0], 0.1) == [1.0, 4.0]
