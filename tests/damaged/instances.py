"""Instance segmentation: annotations.json in a user's folder, and results.json and samples.npz of a run."""

import json

import numpy as np
from PIL import Image

from ctxseg import data
from ctxseg.data.instances import InstanceSource
from ctxseg.views.report import write_report
from tests.damaged.bench import ErrorLine, Input, with_value
from tests.damaged.results import cut_in_half, notes
from tests.instance_lists import CAT, DOG, NOWHERE, A, B, C, found, write_run

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]
CONTENT = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 12} for i in range(3)],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 4, "bbox": [2, 1, 4, 4], "area": 16, "iscrowd": 0, "segmentation": [SQUARE]}
        for i in range(2)
    ],
    "categories": [{"id": 4, "name": "cat"}],
}  # fmt: skip
BOXES = {"0": [[2, 1, 6, 5]], "1": [[2, 1, 6, 5]], "2": []}


def objects(make):
    """{image: boxes of its objects} of a folder, after `make` has changed it."""

    def read(bench, folder):
        root = folder / "mine"
        (root / "images").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 12, 3), 50 * i, np.uint8)).save(root / f"images/{i}.png")
        (root / "annotations.json").write_text(json.dumps(CONTENT))
        make(root)
        builder = data.load("folder_instances", str(folder / "prepared"), str(root))
        sources = [InstanceSource(builder, split) for split in builder.info.splits]
        return {source[i]["name"]: source[i]["boxes"].tolist() for source in sources for i in range(len(source))}

    return read


def text(content):
    encoded = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / "annotations.json").write_bytes(encoded)


def entry(path, value):
    """Changes a value of annotations.json; the parts of `path` are keys and indices."""

    def make(root):
        content = json.loads(json.dumps(CONTENT))
        inner = content
        *sections, last = path
        for key in sections:
            inner = inner[key]
        inner[last] = value
        (root / "annotations.json").write_text(json.dumps(content))

    return make


def first(**fields):
    """Changes the first annotation."""
    return entry(("annotations", 0), CONTENT["annotations"][0] | fields)


def image(content):
    """Replaces the bytes of image 0."""
    return lambda root: (root / "images/0.png").write_bytes(content)


def run_lengths(counts, size=(8, 12)):
    return first(segmentation={"size": list(size), "counts": counts})


WITHOUT_FIRST = BOXES | {"0": []}
FIRST = r"annotations.json annotation 0: "
ANNOTATIONS = {
    "unchanged": (text(json.dumps(CONTENT)), BOXES),
    "a byte order mark": (text("\ufeff" + json.dumps(CONTENT)), BOXES),
    "UTF-16": (text(json.dumps(CONTENT).encode("utf-16")), BOXES),
    "a box of no area": (first(bbox=[3, 3, 0, 0]), BOXES),
    "a box outside of the image": (first(bbox=[50, 50, 4, 4]), BOXES),
    "a box of negative width": (first(bbox=[6, 1, -4, 4]), BOXES),
    "no box": (first(bbox=[]), BOXES),
    "a box of null": (first(bbox=None), BOXES),
    "a box that reaches out": (first(bbox=[2, 1, 4, 900], segmentation=[[2, 1, 6, 1, 6, 9, 2, 9]]), BOXES | {"0": [[2, 1, 6, 8]]}),
    "a polygon of one point": (first(segmentation=[[2, 1]]), WITHOUT_FIRST),
    "a polygon of two points": (first(segmentation=[[2, 1, 6, 5]]), WITHOUT_FIRST),
    "a polygon of two points beside another": (first(segmentation=[[2, 1, 6, 5], SQUARE]), BOXES),
    "a polygon outside of the image": (first(segmentation=[[13, 1, 17, 1, 17, 5]], bbox=[]), WITHOUT_FIRST),
    "an area that is a word": (first(area="large"), BOXES),
    "iscrowd is null": (first(iscrowd=None), BOXES),
    "run lengths of no pixel": (run_lengths([96]), WITHOUT_FIRST),
    "run lengths": (run_lengths([17, 4, 4, 4, 4, 4, 4, 4, 51]), BOXES),
    "an empty file": (text(""), ErrorLine("annotations.json: the file is empty")),
    "cut in half": (text(json.dumps(CONTENT)[:200]), ErrorLine("annotations.json: damaged, or not JSON")),
    "zeros": (text(bytes(100)), ErrorLine("annotations.json: damaged, or not JSON")),
    "Latin-1": (text(b'{"images": "\xe9"}'), ErrorLine("annotations.json: damaged, or not JSON")),
    "an image": (text(b"\x89PNG\r\n\x1a\n\0\0"), ErrorLine("annotations.json: damaged, or not JSON")),
    "brackets without end": (text("[" * 100_000), ErrorLine("annotations.json: damaged, or not JSON")),
    "a list": (text("[]"), ErrorLine("annotations.json: expected COCO's JSON .*missing: images, annotations, categories")),
    "null": (text("null"), ErrorLine("annotations.json: expected COCO's JSON")),
    "no categories": (entry(("categories",), None), ErrorLine("annotations.json: expected .*missing: categories")),
    "images are an object": (entry(("images",), {}), ErrorLine("annotations.json: expected .*missing: images")),
    "no images": (entry(("images",), []), ErrorLine("there is no image 0; .*lists no images")),
    "an image that is a number": (entry(("images", 2), 5), ErrorLine("image at position 2: its id is None")),
    "an annotation that is null": (entry(("annotations", 1), None), ErrorLine("annotation at position 1: its id is None")),
    "a category that is a list": (entry(("categories", 0), [4, "cat"]), ErrorLine("category at position 0: its id is None")),
    "an id that is true": (entry(("images", 2, "id"), True), ErrorLine("image at position 2: its id is True")),
    "an id that is a list": (entry(("images", 2, "id"), [2]), ErrorLine(r"image at position 2: its id is \[2\]")),
    "an id of an image twice": (entry(("images", 2, "id"), 1), ErrorLine("two entries for image 1")),
    "an id of an annotation twice": (entry(("annotations", 1, "id"), 0), ErrorLine("two entries for annotation 0")),
    "a file_name that is a number": (entry(("images", 2, "file_name"), 7), ErrorLine("image 2: it has no file_name")),
    "a file_name with NUL": (entry(("images", 2, "file_name"), "a\0.png"), ErrorLine("image 2: ")),
    "a file_name outside of the folder": (entry(("images", 2, "file_name"), "../../x.png"), ErrorLine("image 2: .*missing")),
    "a very long file_name": (entry(("images", 2, "file_name"), "x" * 5000), ErrorLine("image 2: ")),
    "the same file twice": (entry(("images", 2, "file_name"), "1.png"), ErrorLine("image 2: 1.png is also image 1")),
    "a size of 10¹²": (entry(("images", 0, "height"), 10**12), ErrorLine("0.png: the image is 12x8, but .* 12x1000000000000")),
    "a size that is negative": (entry(("images", 0, "height"), -8), ErrorLine(r"image 0: its height and width are \(-8, 12\)")),
    "a size that is a word": (entry(("images", 0, "height"), "8"), ErrorLine(r"image 0: its height and width are \('8', 12\)")),
    "an unlisted category": (first(category_id=99), ErrorLine(FIRST + "there is no category 99")),
    "a category that is an object": (first(category_id={"id": 4}), ErrorLine(FIRST + "there is no category {'id': 4}")),
    "an unlisted image": (first(image_id=99), ErrorLine(FIRST + "there is no image 99")),
    "a category without a name": (entry(("categories", 0, "name"), " "), ErrorLine("category 4: it has no name")),
    "no mask": (first(segmentation=[]), ErrorLine(FIRST + "it has no mask")),
    "a mask that is a word": (first(segmentation="x"), ErrorLine(FIRST + "an object has neither polygons nor run lengths")),
    "a mask that is a number": (first(segmentation=5), ErrorLine(FIRST + "an object has neither polygons nor run lengths")),
    "a polygon of NaN": (first(segmentation=[[2, 1, float("nan"), 1, 6, 5]]), ErrorLine(FIRST + ".*not a list of numbers")),
    "a polygon of 10³⁰⁸": (first(segmentation=[[2, 1, 1e308, 1, 6, 5]]), ErrorLine(FIRST + ".*1e\\+308")),
    "a polygon of words": (first(segmentation=[["a"] * 6]), ErrorLine(FIRST + ".*not a list of numbers")),
    "a polygon of pairs": (first(segmentation=[[[2, 1], [6, 1], [6, 5]]]), ErrorLine(FIRST + ".*not a list of numbers")),
    "a polygon that is not in a list": (first(segmentation=SQUARE), ErrorLine(FIRST + ".*not a list of numbers")),
    "a polygon of an odd number": (first(segmentation=[SQUARE[:-1]]), ErrorLine(FIRST + ".*not a list of numbers")),
    "a box of NaN": (first(bbox=[1, 2, float("nan"), 4]), ErrorLine(FIRST + "its box is .*four finite numbers")),
    "a box that is infinite": (first(bbox=[1, 2, float("inf"), 4]), ErrorLine(FIRST + "its box is .*four finite numbers")),
    "a box of three numbers": (first(bbox=[1, 2, 3]), ErrorLine(FIRST + "its box is .*four finite numbers")),
    "a box that is a word": (first(bbox="1 2 3 4"), ErrorLine(FIRST + "its box is .*four finite numbers")),
    "run lengths of another size": (run_lengths([96], (12, 8)), ErrorLine(FIRST + r"an object's mask is \[12, 8\]")),
    "run lengths that are too few": (run_lengths([5]), ErrorLine(FIRST + "the run lengths .* do not add up")),
    "run lengths of 10³⁰": (run_lengths([10**30, 96]), ErrorLine(FIRST + "the run lengths .* do not add up")),
    "run lengths that are negative": (run_lengths([-4, 100]), ErrorLine(FIRST + "the run lengths .* do not add up")),
    "run lengths that are null": (run_lengths(None), ErrorLine(FIRST + "the run lengths .* do not add up")),
    "compressed run lengths of other characters": (run_lengths("\x7f\x1b"), ErrorLine(FIRST + ".*compressed form")),
    "compressed run lengths without end": (run_lengths("o" * 9), ErrorLine(FIRST + "the run lengths")),
    "a missing image": (lambda root: (root / "images/0.png").unlink(), ErrorLine("image 0: 0.png is missing")),
    "a damaged image": (image(b"\x89PNG\r\n\x1a\n\0\0"), ErrorLine("0.png: ")),
    "an empty image": (image(b""), ErrorLine("0.png: the file is empty")),
}  # fmt: skip


def report(change):
    """The notes in the report of a run, after `change` of its files."""

    def read(bench, folder):
        detections = [found((CAT, A, 0.9), (CAT, B, 0.8), (DOG, NOWHERE, 0.7), image=1), found((CAT, C, 0.6), image=2)]
        run = write_run(folder / "run", detections, ["cat", "dog"])
        change(run)
        return notes(write_report([run]))

    return read


def result(path, value):
    def change(run):
        file = run / "results.json"
        file.write_text(json.dumps(with_value(json.loads(file.read_text()), path, value)))

    return change


def arrays(**values):
    """Changes arrays of samples.npz; None removes one."""

    def change(run):
        with np.load(run / "samples.npz") as old:
            new = dict(old) | values
        np.savez(run / "samples.npz", **{key: value for key, value in new.items() if value is not None})

    return change


RESULTS = {
    "cut in half": cut_in_half("results.json"),
    "task is a number": result("task", 5),
    "task is another": result("task", "panoptic"),
    "mask_AP is a word": result("mask_AP", "high"),
    "mask_AP is NaN": result("mask_AP", float("nan")),
    "mask_AP above 1": result("mask_AP", 37.5),
    "box_AP_small is a list": result("box_AP_small", [1]),
    "per_class_AP is a list": result("per_class_AP", [0.5]),
    "per_class_AP of words": result("per_class_AP.cat", "x"),
    "curves is a list": result("curves", [1]),
    "a curve is too short": result("curves.mask_AP50", [1.0]),
    "a curve of words": result("curves.mask_AP50", ["x"] * 101),
    "a curve of null": result("curves.mask_AP50", [None] * 101),
    "misses is a list": result("misses", [1]),
    "misses of words": result("misses.counts", {"missed": "many"}),
    "misses are negative": result("misses.counts", {"missed": -1}),
    "class_names are numbers": result("class_names", [1, 2]),
    "class_names has a duplicate": result("class_names", ["cat", "cat"]),
}
SAMPLES = {
    "cut in half": cut_in_half("samples.npz"),
    "of a segmenter": arrays(kinds=None),
    "objects": arrays(names=np.array([{"a": 1}], object)),
    "a name too many": arrays(names=np.array(["x"] * 99)),
    "no pictures": arrays(image_0=None),
    "an image of floats": arrays(image_0=np.zeros((8, 12, 3))),
    "an image of another size than its masks": arrays(image_0=np.zeros((8, 12, 3), np.uint8)),
    "boxes of three numbers": arrays(objects_boxes_0=np.zeros((2, 3), np.float32)),
    "boxes of NaN": arrays(detections_boxes_0=np.full((3, 4), np.nan, np.float32)),
    "a box too few": arrays(detections_boxes_0=np.zeros((1, 4), np.float32)),
    "an unknown class": arrays(objects_classes_0=np.array([0, 77], np.int32)),
    "a negative class": arrays(objects_classes_0=np.array([0, -1], np.int32)),
    "classes of one": arrays(objects_classes_0=np.int32(0)),
    "scores of words": arrays(detections_scores_0=np.array(["a", "b", "c"])),
    "no masks": arrays(detections_masks_0=None),
}


INPUTS = [Input("annotations.json", name, objects(make), expected) for name, (make, expected) in ANNOTATIONS.items()]
INPUTS += [
    Input("results of instances", f"results.json, {name}", report(change), ErrorLine("results.json .*damaged"))
    for name, change in RESULTS.items()
]
INPUTS += [
    Input("results of instances", f"samples.npz, {name}", report(change), ErrorLine("samples.npz .*damaged"))
    for name, change in SAMPLES.items()
]
