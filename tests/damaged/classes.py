"""What says which classes there are: classes.txt, labelmap.txt, _classes.csv."""

import json

from tests.damaged.bench import Input, Line, mine, prepared

THREE = ["road", "tree", "sky"]


def text(content, name="classes.txt"):
    def make(root):
        (root / "classes.txt").unlink()
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def many(count):
    return text("".join(f"class {chr(97 + i // 26)}{chr(97 + i % 26)}\n" for i in range(count)))


def folder_instead(root):
    (root / "classes.txt").unlink()
    (root / "classes.txt").mkdir()


WEIRD = ["<script>alert(1)</script>", "日本", "a" * 1000]
CASES = {
    "nothing": (text(""), Line("classes.txt has 0 classes")),
    "a mark alone": (text("\ufeff\n"), Line("classes.txt has 0 classes")),
    "comments alone": (text("# road\n#tree\n"), Line("classes.txt has 0 classes")),
    "ignore alone": (text("ignore\nignore\n"), Line("classes.txt has 0 classes")),
    "one class": (text("road\n"), Line("classes.txt has one class, 'road'")),
    "no file": (lambda root: (root / "classes.txt").unlink(), Line("classes.txt is missing")),
    "a folder": (folder_instead, Line("classes.txt: Is a directory")),
    "254 classes": (many(254), 254),
    "255 classes": (many(255), Line("classes.txt has 255 classes: .* 2 to 254")),
    "300 classes": (many(300), Line("classes.txt has 300 classes: .* 2 to 254")),
    "line ends of Windows": (text("road\r\ntree\r\nsky\r\n"), THREE),
    "line ends of old Macs": (text("road\rtree\rsky"), THREE),
    "a mark and a heading": (text("\ufeffid,name\n0,road\n1,tree\n2,sky\n"), THREE),
    "no UTF-8": (text("straße\nroad\n".encode("cp1252")), Line("classes.txt is not UTF-8")),
    "an image": (text(b"\x89PNG\r\n\x1a\n"), Line("classes.txt is not UTF-8")),
    "NUL": (text("road\0\ntree\n"), Line("classes.txt is not plain text")),
    "a class twice": (text("road\ntree\nroad\n"), Line("classes.txt line 3: 'road' is there twice")),
    "a class in two cases": (text("road\ntree\nRoad\n"), ["road", "tree", "Road"]),
    "odd names": (text("\n".join(WEIRD)), WEIRD),
    "a gap of ids": (text("0 road\n1 tree\n3 sky\n"), Line("classes.txt line 3: id 3 where 2 is due")),
    "ids that are not in order": (text("1: tree\n0: road\n2: sky\n"), Line("classes.txt line 1: id 1 where 0 is due")),
    "an id twice": (text("0: road\n1: tree\n1: sky\n"), Line("classes.txt line 3: id 1 where 2 is due")),
    "negative ids": (text("-1: road\n0: tree\n1: sky\n"), Line("classes.txt line 1: '-1: road' has no id")),
    "a huge id": (text("0: road\n1: tree\n" + "9" * 5000 + ": sky\n"), Line("classes.txt line 3: id 9+ where 2 is due")),
    "a huge colour": (text("road " + "9" * 5000 + " 1 2\ntree 1 2 3\nsky 3 4 5\n"), Line("classes.txt line 1: .9+, 1, 2. is no colour")),
    "two colours for one name": (text("road 1 2 3\nroad 4 5 6\n"), Line("classes.txt line 2: 'road' is there twice")),
    "one colour for two": (text("road 1 2 3\ntree 1 2 3\n"), Line("classes.txt line 2: 'tree' has the colour of another")),
    "a negative colour": (text("road -1 2 3\ntree 1 2 3\n"), Line("classes.txt line 1: 'road -1 2 3' ends in no colour")),
    "a missing colour": (text("road 1 2 3\ntree\n"), Line("classes.txt line 2: 'tree' has no colour")),
    "a colour of two numbers": (text("road 1 2 3\ntree 4 5\n"), Line("classes.txt line 2: 'tree 4 5' has no colour")),
    "digits that are no ASCII": (text("road ٣ ٤ ٥\ntree 1 2 3\nsky 9 9 9\n"), THREE),
    "superscripts": (text("² road\n³ tree\n¹ sky\n"), ["² road", "³ tree", "¹ sky"]),
    "CVAT's": (text("# label:color_rgb:parts:actions\nroad:1,2,3::\ntree:4,5,6::\nsky:7,8,9::\n", "labelmap.txt"), THREE),
    "CVAT's, half": (text("# label:color_rgb:parts:actions\nroad:1,2,3::\ntr", "labelmap.txt"), Line("labelmap.txt line 3: 'tr' has no")),
    "CVAT's, empty": (text("# label:color_rgb:parts:actions\n", "labelmap.txt"), Line("labelmap.txt has 0 classes")),
    "Roboflow's": (text("Pixel Value, Class\r\n0, road\r\n1, tree\r\n2, sky\r\n", "_classes.csv"), THREE),
    "Roboflow's, not in order": (text("Pixel Value, Class\n1, tree\n0, road\n", "_classes.csv"), Line("_classes.csv line 2: id 1 where 0")),
    "Roboflow's, a gap": (text("Pixel Value, Class\n0, road\n2, tree\n", "_classes.csv"), Line("_classes.csv line 3: id 2 where 1")),
    "Roboflow's, one-hot": (text("filename, road\n0.jpg, 1\n1.jpg, 0\n", "_classes.csv"), Line("line 1: 'filename, road' has no id")),
    "quotes": (text('"road"\n"tree"\n"sky"\n'), THREE),
    "JSON": (text(json.dumps(THREE, indent=1)), Line("classes.txt line 1: '.' is no class")),
    "YAML": (text("names:\n- road\n- tree\n- sky\n"), Line("classes.txt line 1: 'names:' looks like a heading")),
    "columns": (text("road,tree,sky\n"), Line("classes.txt has one class, 'road,tree,sky'")),
    "comments behind classes": (text("road # asphalt\ntree #00ff00 # green\nsky #0000ff\n"), Line("line 1: 'road' has no colour")),
    "a comment behind a class": (text("road # asphalt\ntree\nsky\n"), THREE),
    "two words of headings": (text("red label\ntree\nsky\n"), Line("classes.txt line 1: 'red label' looks like a heading")),
    "columns parted by spaces": (text("name r g b\nroad 1 2 3\ntree 4 5 6\nsky 7 8 9\n"), THREE),
    "ids behind spaces": (text("sky 2\nroad 1\nbackground 0\n"), Line("classes.txt line 1: id 2 where 0 is due")),
    "numbered classes": (text("type 0\ntype 1\ntype 2\n"), ["type 0", "type 1", "type 2"]),
    "ids behind =": (text("sky=2\nroad=1\nbackground=0\n"), Line("classes.txt line 1: id 2 where 0 is due")),
    "ids before =": (text("1=road\n0=sky\n"), Line("classes.txt line 1: id 1 where 0 is due")),
    "ids with = in order": (text("0=road\n1=tree\n2=sky\n"), THREE),
    "hexadecimal colours": (text("road #ff0000\ntree #00ff00\nsky #0000ff\n"), THREE),
    "colours of floats": (text("road 0.5 0.5 0.5\ntree 1.0 1.0 1.0\n"), Line("2 of 2 faulty: .*'road 0.5 0.5 0.5' ends in no colour")),
    "classes that no label has": (text("road\ntree\nsky\nsea\n"), [*THREE, "sea"]),
}  # fmt: skip


def reader(make):
    def read(bench, folder):
        root = mine(folder)
        make(root)
        metadata = prepared(folder, root).info.metadata
        names = list(metadata["class_names"])
        assert len(metadata["palette"]) == len(names)
        return len(names) if len(names) > 100 else names

    return read


INPUTS = [Input("classes", what, reader(make), right) for what, (make, right) in CASES.items()]
