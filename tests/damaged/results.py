"""Files of a run: results.json, metrics.jsonl, images.npz, samples.npz; read for a report, a comparison, pictures and a sweep."""

import json
import re
import shutil

import numpy as np

from tests.damaged.bench import ErrorLine, Input, call, with_value


def report(change):
    """The notes in the report of a run, after `change` of its files."""

    def read(bench, folder):
        run = bench.copy(folder)
        change(run)
        call("--mode=report", f"--workdir={run}")
        return notes(run / "report.html")

    return read


def notes(page):
    return [
        one or other
        for one, other in re.findall(r"<p class=note>([^<]*)|<li>(other[^<]*)", page.read_text(encoding="utf-8"))
    ]


def comparison(change):
    """The notes in a comparison of the run with a copy of it, after `change` of the copy."""

    def read(bench, folder):
        run = bench.copy(folder)
        other = shutil.copytree(run, folder / "other")
        change(other)
        call("--mode=report", f"--workdir={run},{other}")
        return notes(folder / "comparison.html")

    return read


def pictures(change):
    """The number of pictures that --mode=pictures draws, after `change` of the run's files."""

    def read(bench, folder):
        run = bench.copy(folder)
        change(run)
        call("--mode=pictures", f"--workdir={run}", "--images=0")
        return len(list((run / "pictures").iterdir()))

    return read


def text(name, content):
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def entry(path, value):
    """Changes a value of results.json."""

    def change(run):
        file = run / "results.json"
        file.write_text(json.dumps(with_value(json.loads(file.read_text()), path, value)))

    return change


def line(**values):
    """Adds a line to metrics.jsonl."""

    def change(run):
        with open(run / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 3, "kind": "train"} | values) + "\n")

    return change


def arrays(name, **values):
    """Changes arrays of an .npz file; None removes one."""

    def change(run):
        with np.load(run / name) as old:
            new = dict(old) | values
        np.savez(run / name, **{key: value for key, value in new.items() if value is not None})

    return change


def folder_instead(name):
    return lambda run: [(run / name).unlink(), (run / name).mkdir()]


def cut_in_half(name):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])


RESULTS, METRICS, IMAGES, SAMPLES = "results.json", "metrics.jsonl", "images.npz", "samples.npz"
TEXT = {  # for every file
    "empty": lambda name: text(name, b""),
    "cut in half": cut_in_half,
    "a folder": folder_instead,
    "not UTF-8": lambda name: text(name, b'{"step": "\xff"}\n{"step": 1}\n'),
    "zeros": lambda name: text(name, bytes(100)),
}
WRONG = {
    "brackets without end": text(RESULTS, "[" * 100_000),
    "a list": text(RESULTS, "[]"),
    "null": text(RESULTS, "null"),
    "mIoU is a word": entry("mIoU", "high"),
    "mIoU is NaN": entry("mIoU", float("nan")),
    "mIoU is infinite": entry("mIoU", float("inf")),
    "mIoU of 10³⁰": entry("mIoU", 1e30),
    "mIoU is negative": entry("mIoU", -0.5),
    "mIoU is true": entry("mIoU", True),
    "step is not whole": entry("step", 1.5),
    "step is negative": entry("step", -1),
    "seconds is NaN": entry("seconds", float("nan")),
    "seconds is infinite": entry("seconds", float("inf")),
    "parameters is a word": entry("parameters", "many"),
    "per_class_iou is a list": entry("per_class_iou", [0.5]),
    "per_class_iou is null": entry("per_class_iou", None),
    "per_class_iou of words": entry("per_class_iou.road", "x"),
    "group_iou is a list": entry("group_iou", [1]),
    "groups is a list": entry("groups", [1]),
    "groups of numbers": entry("groups", {"a": 5}),
    "groups of lists": entry("groups", {"a": [["road"]]}),
    "groups of words": entry("groups", {"a": "road"}),
    "class_names are numbers": entry("class_names", [1, 2, 3]),
    "class_names has a duplicate": entry("class_names", ["road", "road", "sky"]),
    "palette of words": entry("palette", ["red", "green", "blue"]),
    "palette is too short": entry("palette", [[1, 2, 3]]),
    "palette is out of range": entry("palette", [[1, 2, 300]] * 3),
    "confusion is too small": entry("confusion", [[1, 2], [3, 4]]),
    "confusion is ragged": entry("confusion", [[1], [1, 2], [1, 2, 3]]),
    "confusion of words": entry("confusion", [["a"] * 3] * 3),
    "confusion is negative": entry("confusion", [[-1] * 3] * 3),
    "confusion of 10⁴⁰⁰": entry("confusion", [[10**400] * 3] * 3),
    "confusion is null": entry("confusion", None),
    "split is a number": entry("split", 5),
    "protocol is a list": entry("protocol", [1]),
    "boundary_IoU of 2": entry("boundary_IoU", 2),
    "ECE is a word": entry("ECE", "low"),
    "per_class_boundary_iou is a list": entry("per_class_boundary_iou", [0.5]),
    "reliability is null": entry("reliability", None),
    "reliability without accuracy": entry("reliability.accuracy", None),
    "reliability of other bins": entry("reliability.pixels", [1, 2]),
    "by_distance is a list": entry("by_distance", [1]),
    "by_distance without limits": entry("by_distance.limits", None),
    "by_distance with too few counts": entry("by_distance.pixels", [1, 2]),
    "by_distance with more correct pixels": entry("by_distance.correct", [10**6] * 7),
    "by_size with falling limits": entry("by_size.limits", [0.1, 0.01, 0.001]),
    "by_size is negative": entry("by_size.regions.road", [-1, 0, 0, 0]),
    "by_size without a class": entry("by_size.correct", {}),
}
LINES = {
    "a list": text(METRICS, "[]\n[]\n"),
    "brackets without end": text(METRICS, "[" * 100_000 + "\n{}\n"),
    "a step that is a word": line(step="x"),
    "a step that is not whole": line(step=1.5),
    "a step of 10⁴⁰⁰": line(step=10**400),
    "a negative step": line(step=-1),
    "a kind that is a number": line(kind=5),
    "a loss that is a word": line(loss="x"),
    "a loss that is a list": line(loss=[1]),
    "a rate that is an object": line(learning_rate={"a": 1}),
    "mIoU is a word": line(kind="eval", mIoU="x"),
    "group_iou is a list": line(kind="eval", group_iou=[1]),
    "a group is a word": line(kind="eval", group_iou={"a": "x"}),
}
COUNTS = {
    "only names": arrays(IMAGES, counts=None),
    "counts that are floats": arrays(IMAGES, counts=np.zeros((1, 3, 3))),
    "negative counts": arrays(IMAGES, counts=-np.ones((1, 3, 3), np.int32)),
    "counts without an axis": arrays(IMAGES, counts=np.ones((1, 3), np.int32)),
    "counts of one number": arrays(IMAGES, counts=np.int32(5)),
    "names of one": arrays(IMAGES, names=np.array("x")),
    "names one too many": arrays(IMAGES, names=np.array(["x", "y", "z"])),
    "objects": arrays(IMAGES, names=np.array([{"a": 1}], object)),
}
OTHER_IMAGES = {
    "counts of no image": arrays(IMAGES, names=np.array([], str), counts=np.zeros((0, 3, 3), np.int32)),
    "counts of more classes": arrays(IMAGES, counts=np.ones((1, 7, 3), np.int32)),
}
SAMPLE_FAULTS = {
    "objects": arrays(SAMPLES, names=np.array([{"a": 1}], object)),
    "names of one": arrays(SAMPLES, names=np.array("x")),
    "a name too many": arrays(SAMPLES, names=np.array(["1", "2", "3", "4"])),
    "no pictures": arrays(SAMPLES, image_0=None),
    "an image of floats": arrays(SAMPLES, image_0=np.zeros((8, 12, 3))),
    "an image of one channel": arrays(SAMPLES, image_0=np.zeros((8, 12, 1), np.uint8)),
    "an image of no pixels": arrays(SAMPLES, image_0=np.zeros((0, 12, 3), np.uint8)),
    "a label of floats": arrays(SAMPLES, label_0=np.full((8, 12), np.nan)),
    "a label of words": arrays(SAMPLES, label_0=np.full((8, 12), "a")),
    "a label of another size": arrays(SAMPLES, label_0=np.zeros((3, 3), np.uint8)),
    "a label of another size than its image": arrays(
        SAMPLES, label_0=np.zeros((3, 3), np.uint8), prediction_0=np.zeros((3, 3), np.uint8)
    ),
    "a prediction of no pixels": arrays(SAMPLES, prediction_0=np.zeros((0, 0), np.uint8)),
    "a kind too few": arrays(SAMPLES, kinds=np.array(["sample"])),
}


def expected_of_text(file, name):
    if file == METRICS and name in ("empty", "zeros"):
        return ["Nothing logged yet: fcn."]
    # The last line of metrics.jsonl may be incomplete, if the run was killed.
    return [] if (file, name) == (METRICS, "cut in half") else ErrorLine(f"run/{file}")


FILES = (RESULTS, METRICS, IMAGES, SAMPLES)
INPUTS = [
    Input(file, name, report(make(file)), expected_of_text(file, name)) for file in FILES for name, make in TEXT.items()
]
INPUTS += [Input(RESULTS, name, report(change), ErrorLine("results.json .*damaged")) for name, change in WRONG.items()]
INPUTS += [
    Input(METRICS, name, report(change), ErrorLine("metrics.jsonl line [15]\\b.*delete"))
    for name, change in LINES.items()
]
OTHERS = ["In brackets: difference from run, in points.", "other was evaluated on other images than run."]
INPUTS += [
    Input(IMAGES, name, comparison(change), ErrorLine("images.npz .*damaged")) for name, change in COUNTS.items()
]
INPUTS += [Input(IMAGES, name, comparison(change), OTHERS) for name, change in OTHER_IMAGES.items()]
INPUTS += [
    Input(SAMPLES, name, report(change), ErrorLine("samples.npz .*damaged")) for name, change in SAMPLE_FAULTS.items()
]
INPUTS.append(
    Input(
        SAMPLES,
        "a prediction of an unknown class",
        report(arrays(SAMPLES, prediction_0=np.full((8, 12), 77, np.uint8))),
        [],
    )
)
INPUTS.append(Input(SAMPLES, "without kinds, as in older runs", report(arrays(SAMPLES, kinds=None)), []))
PICTURES = {
    k: WRONG[k]
    for k in (
        "brackets without end",
        "a list",
        "confusion is too small",
        "confusion of words",
        "confusion is ragged",
        "confusion is null",
        "confusion is negative",
        "confusion of 10⁴⁰⁰",
    )
}
DAMAGED = ErrorLine("results.json .*(damaged|confusion matrix)")
INPUTS += [Input(RESULTS, f"pictures, {name}", pictures(change), DAMAGED) for name, change in PICTURES.items()]


def sweep(change):
    """mIoU in % in the table of a sweep that finds its run finished, after `change` of the run's files."""

    def read(bench, folder):
        (folder / "sweep").mkdir()
        run = shutil.copytree(bench.run, folder / "sweep/0-fcn-0")
        change(run)
        call("--mode=sweep", *bench.flags, f"--workdir={folder / 'sweep'}")
        (row,) = json.loads((folder / "sweep/table.json").read_text())["rows"]
        return row["cells"][0]["mean"]

    return read


SWEEP = {
    "unchanged": (lambda run: entry("mIoU", 0.25)(run), 25.0),
    "without images.npz": (lambda run: [entry("mIoU", 0.25)(run), (run / IMAGES).unlink()], 25.0),
    "cut in half": (cut_in_half(RESULTS), ErrorLine("results.json .*damaged")),
    "mIoU is a word": (WRONG["mIoU is a word"], ErrorLine("results.json .*damaged.*mIoU")),
    "per_class_iou of words": (WRONG["per_class_iou of words"], ErrorLine("results.json .*damaged.*per_class_iou")),
    "no protocol": (entry("eval", None), ErrorLine("results.json .*damaged.*eval")),
    "a protocol that is a list": (entry("eval", [1]), ErrorLine("results.json .*damaged.*eval")),
    "no parameters": (entry("parameters", None), ErrorLine("results.json .*damaged.*parameters")),
    "a rate of 0 images a second": (
        line(images_per_second=0),
        ErrorLine("metrics.jsonl .*damaged.*images_per_second"),
    ),
    "a line without a rate": (line(loss=1), ErrorLine("metrics.jsonl .*damaged.*images_per_second")),
    "a loss that is a word": (LINES["a loss that is a word"], ErrorLine("metrics.jsonl line 5\\b.*damaged")),
}
INPUTS += [Input(RESULTS, f"sweep, {name}", sweep(change), expected) for name, (change, expected) in SWEEP.items()]
