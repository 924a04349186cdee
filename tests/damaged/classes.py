"""Files that define the classes: classes.txt, labelmap.txt, _classes.csv."""

import json

from tests.damaged.bench import ErrorLine, Input, prepared, user_folder

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


UNUSUAL = ["<script>alert(1)</script>", "日本", "a" * 1000]
CVAT, ROBOFLOW = "# label:color_rgb:parts:actions\n", "Pixel Value, Class\n"  # headings
CASES = {
    "nothing": (text(""), ErrorLine("classes.txt has 0 classes")),
    "only a byte order mark": (text("\ufeff\n"), ErrorLine("classes.txt has 0 classes")),
    "only comments": (text("# road\n#tree\n"), ErrorLine("classes.txt has 0 classes")),
    "only ignore": (text("ignore\nignore\n"), ErrorLine("classes.txt has 0 classes")),
    "one class": (text("road\n"), ErrorLine("classes.txt .*one class.*'road'")),
    "no file": (lambda root: (root / "classes.txt").unlink(), ErrorLine("classes.txt is missing")),
    "a folder": (folder_instead, ErrorLine("classes.txt: Is a directory")),
    "254 classes": (many(254), 254),
    "255 classes": (many(255), ErrorLine("classes.txt has 255 classes.* 2 to 254")),
    "300 classes": (many(300), ErrorLine("classes.txt has 300 classes.* 2 to 254")),
    "line ends of Windows": (text("road\r\ntree\r\nsky\r\n"), THREE),
    "line ends of old Macs": (text("road\rtree\rsky"), THREE),
    "a byte order mark and a heading": (text("\ufeffid,name\n0,road\n1,tree\n2,sky\n"), THREE),
    "not UTF-8": (text("straße\nroad\n".encode("cp1252")), ErrorLine("classes.txt is not UTF-8")),
    "an image": (text(b"\x89PNG\r\n\x1a\n"), ErrorLine("classes.txt is not UTF-8")),
    "NUL": (text("road\0\ntree\n"), ErrorLine("classes.txt is not plain text")),
    "a class twice": (text("road\ntree\nroad\n"), ErrorLine("classes.txt line 3: 'road' .*twice")),
    "a class in two cases": (text("road\ntree\nRoad\n"), ["road", "tree", "Road"]),
    "unusual names": (text("\n".join(UNUSUAL)), UNUSUAL),
    "a gap of ids": (text("0 road\n1 tree\n3 sky\n"), ErrorLine("classes.txt line 3: id 3.*expected 2")),
    "ids that are not in order": (text("1: tree\n0: road\n2: sky\n"), ErrorLine("classes.txt line 1: id 1.*expected 0")),
    "an id twice": (text("0: road\n1: tree\n1: sky\n"), ErrorLine("classes.txt line 3: id 1.*expected 2")),
    "negative ids": (text("-1: road\n0: tree\n1: sky\n"), ErrorLine("classes.txt line 1: '-1: road' has no id")),
    "a huge id": (text("0: road\n1: tree\n" + "9" * 5000 + ": sky\n"), ErrorLine("classes.txt line 3: id 9+.*expected 2")),
    "a huge colour": (text("road " + "9" * 5000 + " 1 2\ntree 1 2 3\nsky 3 4 5\n"), ErrorLine("classes.txt line 1: .9+, 1, 2.* 0 to 255")),
    "two colours for one class": (text("road 1 2 3\nroad 4 5 6\n"), ErrorLine("classes.txt line 2: 'road' .*twice")),
    "one colour for two classes": (text("road 1 2 3\ntree 1 2 3\n"), ErrorLine("classes.txt line 2: 'tree' .*colour")),
    "a negative colour": (text("road -1 2 3\ntree 1 2 3\n"), ErrorLine("classes.txt line 1: 'road -1 2 3' .*colour.* 0 to 255")),
    "a missing colour": (text("road 1 2 3\ntree\n"), ErrorLine("classes.txt line 2: 'tree' has no colour")),
    "a colour of two numbers": (text("road 1 2 3\ntree 4 5\n"), ErrorLine("classes.txt line 2: 'tree 4 5' has no colour")),
    "digits that are not ASCII": (text("road ٣ ٤ ٥\ntree 1 2 3\nsky 9 9 9\n"), THREE),
    "superscripts": (text("² road\n³ tree\n¹ sky\n"), ["² road", "³ tree", "¹ sky"]),
    "CVAT": (text(CVAT + "road:1,2,3::\ntree:4,5,6::\nsky:7,8,9::\n", "labelmap.txt"), THREE),
    "CVAT, cut off": (text(CVAT + "road:1,2,3::\ntr", "labelmap.txt"), ErrorLine("labelmap.txt line 3: 'tr' has no colour")),
    "CVAT, empty": (text(CVAT, "labelmap.txt"), ErrorLine("labelmap.txt has 0 classes")),
    "Roboflow": (text("Pixel Value, Class\r\n0, road\r\n1, tree\r\n2, sky\r\n", "_classes.csv"), THREE),
    "Roboflow, not in order": (text(ROBOFLOW + "1, tree\n0, road\n", "_classes.csv"), ErrorLine("_classes.csv line 2: id 1.*expected 0")),
    "Roboflow, a gap": (text(ROBOFLOW + "0, road\n2, tree\n", "_classes.csv"), ErrorLine("_classes.csv line 3: id 2.*expected 1")),
    "Roboflow, one-hot": (text("filename, road\n0.jpg, 1\n1.jpg, 0\n", "_classes.csv"), ErrorLine("line 1: 'filename, road' has no id")),
    "quotes": (text('"road"\n"tree"\n"sky"\n'), THREE),
    "JSON": (text(json.dumps(THREE, indent=1)), ErrorLine("classes.txt line 1: '.' .*letters or digits")),
    "YAML": (text("names:\n- road\n- tree\n- sky\n"), ErrorLine("classes.txt line 1: 'names:' .*heading")),
    "columns": (text("road,tree,sky\n"), ErrorLine("classes.txt .*one class.*'road,tree,sky'")),
    "comments after classes": (text("road # asphalt\ntree #00ff00 # green\nsky #0000ff\n"), ErrorLine("line 1: 'road' has no colour")),
    "a comment after a class": (text("road # asphalt\ntree\nsky\n"), THREE),
    "a class of two words that occur in headings": (text("red label\ntree\nsky\n"), ErrorLine("classes.txt line 1: 'red label' .*heading")),
    "columns separated by spaces": (text("name r g b\nroad 1 2 3\ntree 4 5 6\nsky 7 8 9\n"), THREE),
    "ids after spaces": (text("sky 2\nroad 1\nbackground 0\n"), ErrorLine("classes.txt line 1: id 2.*expected 0")),
    "numbered classes": (text("type 0\ntype 1\ntype 2\n"), ["type 0", "type 1", "type 2"]),
    "ids after =": (text("sky=2\nroad=1\nbackground=0\n"), ErrorLine("classes.txt line 1: id 2.*expected 0")),
    "ids before =": (text("1=road\n0=sky\n"), ErrorLine("classes.txt line 1: id 1.*expected 0")),
    "ids with = in order": (text("0=road\n1=tree\n2=sky\n"), THREE),
    "hexadecimal colours": (text("road #ff0000\ntree #00ff00\nsky #0000ff\n"), THREE),
    "colours of floats": (text("road 0.5 0.5 0.5\ntree 1.0 1.0 1.0\n"), ErrorLine("classes.txt: 2 of 2 .*'road 0.5 0.5 0.5' .*colour")),
    "classes that no label has": (text("road\ntree\nsky\nsea\n"), [*THREE, "sea"]),
}  # fmt: skip


def reader(make):
    def read(bench, folder):
        root = user_folder(folder)
        make(root)
        metadata = prepared(folder, root).info.metadata
        names = list(metadata["class_names"])
        assert len(metadata["palette"]) == len(names)
        return len(names) if len(names) > 100 else names

    return read


INPUTS = [Input("classes", name, reader(make), expected) for name, (make, expected) in CASES.items()]
