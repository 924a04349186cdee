import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from ctxseg import figures, logs, report
from ctxseg.errors import UserError

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
    log = logs.MetricsLog(tmp_path)
    for step in range(10, 610, 10):
        log.write(step, "train", {"loss": 3 / step, "learning_rate": 0.01, "images_per_second": 5.0})
    log.write(300, "eval", {"mIoU": 0.4321, "group_iou": {"appearance": 0.5, "distant cue": None}})
    logs.write_json(tmp_path / "config.json", CONFIG)
    logs.write_json(tmp_path / "results.json", RESULTS)
    arrays = {"names": np.array(["0001", "<0002>"])}
    for i, size in enumerate([(8, 16), (12, 12)]):
        arrays |= dict(zip((f"image_{i}", f"label_{i}", f"prediction_{i}"), sample(*size), strict=True))
    np.savez_compressed(tmp_path / "samples.npz", **arrays)
    return tmp_path


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects text, references and images."""

    VOID = ("meta", "img", "wbr", "!doctype")

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_has_what_the_run_has(workdir):
    page = Page(report.write_report(workdir))
    assert page.text.count("zigzag on scenes") == 2  # title and heading
    scores = ("0.6123", "0.8123", "0.7000", "0.9111", "0.3333", "0.5555", "0.4444")
    for text in (*scores, "600", "1,234,567", "5:12", "single scale", NAMES[1], "<0002>", '"steps": 600'):
        assert text in page.text
    kinds = [link.split(";")[0] for link in page.links]
    assert kinds == ["data:image/svg+xml"] * 3 + ["data:image/png"] * 2


def test_report_asks_for_nothing_outside(workdir):
    path = report.write_report(workdir)
    assert all(link.startswith("data:") for link in Page(path).links)
    assert not re.search(r"https?://|url\(|@import|<script", path.read_text())


def test_report_shows_the_samples(workdir):
    png = Page(report.write_report(workdir)).links[3].split(",")[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
    expected = figures.prediction_grid([sample()], PALETTE)
    np.testing.assert_array_equal(picture, expected)


def test_report_lists_overrides_and_the_command(workdir):
    base = CONFIG | {"data": {"name": "scenes", "crop": (128, 128)}}
    text = Page(report.write_report(workdir, base)).text
    command = "python main.py \\\n    --config=configs/zigzag.py:scenes \\\n    '--config.data.crop=(64, 64)'"
    assert command in text and "train.steps" not in text
    assert "Nothing is overridden" in Page(report.write_report(workdir, CONFIG)).text


def test_report_of_a_run_that_is_not_evaluated(workdir):
    for name in ("results.json", "samples.npz"):
        (workdir / name).unlink()
    text = Page(report.write_report(workdir)).text
    assert "zigzag on scenes" in text and "Not evaluated yet" in text and "At step 300, mIoU was 0.4321" in text


def test_report_of_a_folder_that_is_no_run_or_another(workdir, tmp_path):
    with pytest.raises(UserError, match="config.json is missing: --workdir is not the folder of a run"):
        report.write_report(tmp_path.parent)
    with pytest.raises(UserError, match="holds another run, that of --config=configs/zigzag.py:scenes"):
        report.write_report(workdir, CONFIG | {"system": "fcn"})


@pytest.mark.parametrize(
    "name, text",
    [("results.json", "[1]"), ("results.json", '{"mIoU": "x"}'), ("config.json", "null"), ("config.json", "{}"),
     ("metrics.jsonl", '[1, 2]\n{"step": 1, "kind": "train"}\n'), ("metrics.jsonl", '{"a": 1}\n')],
)  # fmt: skip
def test_json_that_is_something_else_is_named(workdir, name, text):
    (workdir / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.* (is damaged|is missing)"):
        report.write_report(workdir)


@pytest.mark.parametrize("name", ["results.json", "config.json", "samples.npz"])
def test_a_damaged_file_is_named(workdir, name):
    path = workdir / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=name):
        report.write_report(workdir)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        report.write_report(tmp_path / "nowhere")


def test_colourise():
    picture = figures.colourise(np.array([[0, 3], [255, -1], [4, 2]]), PALETTE)
    assert picture.dtype == np.uint8 and picture.shape == (3, 2, 3)
    assert picture[0].tolist() == [PALETTE[0], PALETTE[3]] and picture[2, 1].tolist() == PALETTE[2]
    ignored = figures.colourise(np.full((16, 16), 255), PALETTE)
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


def test_curves_leave_out_what_is_not_there():
    assert figures.training_curves([]) == {}
    entry = {"step": 1, "kind": "train", "loss": None, "learning_rate": 0.1}
    assert list(figures.training_curves([entry])) == ["learning rate"]


def test_running_mean_is_unbiased_from_the_start():
    np.testing.assert_allclose(figures._running_mean([2.0] * 5, 10), 2.0)
    np.testing.assert_allclose(figures._running_mean([1.0, 4.0], 2), [1.0, (0.5 * 1 + 4) / 1.5])
    assert figures._running_mean([1.0, 4.0], 0.1) == [1.0, 4.0]
