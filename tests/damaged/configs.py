"""Python files for --config, values of config fields, and config.json of a run."""

import json

from ctxseg.commands import command_line
from ctxseg.training import checks
from tests.damaged.bench import ErrorLine, Input, call, with_value

FCN = "--config=configs/fcn.py:camvid"
HEAD = "from ctxseg.configs import fcn\n"


def checked(*arguments):
    """The config of a command line, after the checks before training."""
    config = command_line.parse(["main.py", *arguments]).config
    checks.check_fields(config, ["road", "tree"])
    return config


def body(*lines, head=HEAD):
    """A file whose get_config has these lines; `c` is the FCN's config."""
    return head + "def get_config():\n    c = fcn.get_config()\n" + "".join(f"    {line}\n" for line in lines)


FILES = {
    "empty": ("", ErrorLine("mine.py .*get_config")),
    "get_config is not a function": ("get_config = 5\n", ErrorLine("mine.py.*TypeError")),
    "it returns nothing": (body("c.seed = 1"), ErrorLine("mine.py.*get_config .*NoneType.*ConfigDict")),
    "it returns a dict": (body("return c.to_dict()"), ErrorLine("mine.py.*get_config .*dict.*ConfigDict")),
    "it returns another config": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})\n",
        ErrorLine(r"mine.py.*get_config .*config\."),
    ),
    "a missing section": (body("with c.unlocked():", "    del c.optimizer", "return c"), ErrorLine(r"mine.py.*config\.optimizer\.")),
    "a missing field": (body("with c.unlocked():", "    del c.train.steps", "return c"), ErrorLine(r"mine.py.*config\.train\.steps")),
    "an additional field": (body("with c.unlocked():", "    c.train.stepz = 1", "return c"), ErrorLine("mine.py.*train.stepz")),
    "a misspelt field": (body("c.train.stepz = 1", "return c"), ErrorLine("mine.py.*did you mean --config.train.steps")),
    "a value of another type": (body("c.train.steps = 'ten'", "return c"), ErrorLine("mine.py: TypeError")),
    "a section that is a number": (
        body("with c.unlocked():", "    with c.ignore_type():", "        c.train = 5", "return c"),
        ErrorLine(r"mine.py.*config\.train\."),
    ),
    "a number that is a section": (
        body("with c.ignore_type():", "    c.seed = {'a': 1}", "return c"), ErrorLine(r"mine.py.*config\.seed"),
    ),
    "NaN": (body("c.optimizer.learning_rate = float('nan')", "return c"), ErrorLine(r"config\.optimizer\.learning_rate .*nan")),
    "it raises": (body("raise ValueError('a\\nb')"), ErrorLine("mine.py: ValueError: a b")),
    "it raises without a message": (body("raise KeyError"), ErrorLine("mine.py: KeyError")),
    "it exits": (body("raise SystemExit('bye')"), ErrorLine("mine.py: SystemExit: bye")),
    "it has two required arguments": ("def get_config(a, b):\n    pass\n", ErrorLine("mine.py: TypeError")),
    "an import that fails": ("import ctxseg.nothing\n" + body("return c"), ErrorLine("mine.py: ModuleNotFoundError")),
    "cut off": (body("return c")[:-8] + "(", ErrorLine("mine.py: SyntaxError")),
    "mixed indentation": (body("c.seed = 1", "\treturn c"), ErrorLine("mine.py: (TabError|IndentationError)")),
    "not UTF-8": (HEAD.encode() + b"# stra\xdfe\n" + body("return c", head="").encode(), "fcn"),
    "NUL": (b"\0\0\0", ErrorLine("mine.py: (SyntaxError|ValueError)")),
    "binary": (bytes(range(256)), ErrorLine("mine.py: (SyntaxError|ValueError)")),
    "a table": (
        "from ctxseg.studies.tables import Table\ndef get_table(d=''):\n    return Table()\n",
        ErrorLine("mine.py .*get_config.*table"),
    ),
}  # fmt: skip


def file_reader(content):
    def read(bench, folder):
        (folder / "mine.py").write_bytes(content if isinstance(content, bytes) else content.encode())
        return checked(f"--config={folder / 'mine.py'}").system

    return read


FIELDS = {
    "train.steps=1e3": "config.train.steps.*1e3.*whole number",
    "train.steps=10.0": "config.train.steps.*10.0.*whole number",
    "train.steps=": "config.train.steps.*whole number",
    "train.steps=99999999999999999999": "config.train.steps.*99999999999999999999.*at most",
    "train.batch_size=-8": "config.train.batch_size.*-8.*at least 1",
    "train.stepz.x=1": "config.train.stepz.x",
    "train.log_every=None": "config.train.log_every.*None.* a value",
    "seed=99999999999999999999": "config.seed.*9{20}.*less than 4294967296",
    "seed=-9": "config.seed.*-9.*at least 0",
    "seed=true": "config.seed.*true.*whole number",
    "optimizer.learning_rate=nan": "config.optimizer.learning_rate.*nan.*a number",
    "optimizer.learning_rate=inf": "config.optimizer.learning_rate.*inf.*finite",
    "optimizer.learning_rate=-1": "config.optimizer.learning_rate.*-1.0.*at least 0",
    "optimizer.momentum=nan": "config.optimizer.momentum.*nan.*a number",
    "optimizer.weight_decay=-0.1": "config.optimizer.weight_decay.*-0.1.*at least 0",
    "optimizer.rates=classifier=nan": "config.optimizer.rates.*'classifier=nan'",
    "optimizer.warmup_steps=-1": "config.optimizer.warmup_steps.*-1.*at least 0",
    "data.crop=nan,nan": r"config.data.crop.*nan.*\(\d+, \d+\)",
    "data.crop=999999999,999999999": "config.data.crop.*999999999.* 250 megapixels",
    "data.scale_range=nan,1.0": "config.data.scale_range.*nan",
    "data.scale_range=1.0,inf": "config.data.scale_range.*inf",
    "data.rotate=nan": "config.data.rotate.*nan.*a number",
    "data.rotate=-1": "config.data.rotate.*-1.*at least 0",
    "data.brightness=nan": "config.data.brightness.*nan.*a number",
    "data.contrast=-0.5": "config.data.contrast.*-0.5.*at least 0",
    "data.hue=inf": "config.data.hue.*inf.*at most 0.5",
    "data.padding=mirror": "config.data.padding.*'mirror'.*ignore, reflect",
    "data.threads=100000000": "config.data.threads.*100000000.*at most",
    "model.backbone.width=-4": "config.model.backbone.width.*-4.*at least 1",
    "model.classifier.dropout=nan": "config.model.classifier.dropout.*nan.*a number",
    "model.classifier.hidden=-1": "config.model.classifier.hidden.*-1.*at least 0",
    "model.kernel_std=nan": "config.model.kernel_std.*nan.*a number",
    "model.kernel_std=-1": "config.model.kernel_std.*-1.*at least 0",
    "train.best=ECE": "config.train.best.*ECE.*lower.*expected one of mIoU",
    "eval.batch_size=0": "config.eval.batch_size.* 0.*at least 1",
    "eval.scales=nan,": r"config.eval.scales.*nan.*\(1.0,\)",
    "eval.scales=-1.0,": "config.eval.scales.*-1.0.*more than 0",
    "eval.samples=-1": "config.eval.samples.*-1.*at least 0",
    "eval.crf.iterations=-1": "config.eval.crf.iterations.*-1.*at least 0",
    "eval.crf_images=0": "config.eval.crf_images.* 0.*at least 1",
    "eval.flip=2": "config.eval.flip.*2.*true or false",
}  # fmt: skip


def field_reader(change):
    return lambda *_: checked(FCN, f"--config.{change}").to_dict()


TEXT = {
    "empty": ("", "config.json .*damaged"),
    "cut off": ('{"seed": 0, "model": {', "config.json .*damaged"),
    "a list": ("[1, 2]", "config.json .*damaged.* object"),
    "a number": ("5", "config.json .*damaged.* object"),
    "null": ("null", "config.json .*damaged.* object"),
    "not UTF-8": (b'{"system": "\xff"}', "config.json .*damaged"),
    "endless brackets": ("[" * 100_000, "config.json .*damaged.* nested too deeply"),
    "an endless number": ('{"seed": ' + "9" * 5000 + "}", "config.json .*damaged"),
    "an empty object": ("{}", "checkpoints/2 .*another model"),
}  # fmt: skip
CHANGES = {
    "system is a number": ("system", 5, "config.json .*system .*5"),
    "seed is a word": ("seed", "x", 'config.json .*seed .*"x"'),
    "seed is not whole": ("seed", 0.5, "config.json .*seed .*0.5"),
    "a section is a number": ("model", 3, "config.json .*model .*3"),
    "a section is a list": ("optimizer", [1], r"config.json .*optimizer .*\[1\]"),
    "a section is a word": ("eval", "all", 'config.json .*eval .*"all"'),
    "a section is null": ("train", None, None),
    "a field is an object": ("train.steps", {"a": 1}, 'config.json .*train.steps .*"a"'),
    "a tuple of lists": ("data.crop", [[1], [2]], r"config.json .*data.crop .*\[\[1\], \[2\]\]"),
    "a tuple that is too short": ("data.crop", [8], r"config.json .*data.crop .*\[8\]"),
    "a tuple of words": ("eval.scales", ["a"], r'config.json .*eval.scales .*\["a"\]'),
    "NaN": ("eval.stride", float("nan"), "config.json .*NaN"),
    "a batch size below 1": ("eval.batch_size", -1, "config.eval.batch_size.*-1.*at least 1"),
    "an unknown backbone": ("model.backbone.name", "resnet19", "config.model.backbone.name.*'resnet19'.*resnet18"),
    "an unknown data set": ("data.name", "nothing", "config.data.name.*'nothing'.*camvid"),
    "a data set in the folder above": ("data.name", "../x", "config.data.name.*'../x'"),
    "a field of a later version": ("model.future", 7, "config.model.future.*7"),
    "a section of a later version": ("future", {"a": 1}, "config.future.a.*1"),
    "dataset is a list": ("dataset", [1], "config.json .*dataset"),
    "dataset is empty": ("dataset", {}, "config.json .*dataset"),
    "classes that are numbers": ("dataset.class_names", [1, 2, 3], "config.json .*dataset"),
    "no classes": ("dataset.class_names", [], "config.json .*dataset"),
    "a missing class": ("dataset.class_names", ["road", "tree"], "config.json .*dataset"),
    "a palette of two channels": ("dataset.palette", [[1, 2]] * 3, "config.json .*dataset"),
    "a palette of words": ("dataset.palette", ["red"] * 3, "config.json .*dataset"),
    "no palette": ("dataset.palette", [], "config.json .*dataset"),
    "a palette that is too short": ("dataset.palette", [[1, 2, 3]], "config.json .*dataset"),
    "groups is a list": ("dataset.groups", [1], "config.json .*dataset"),
    "a folder that is a number": ("dataset.folder", 5, "config.json .*dataset"),
    "a mixture that is a number": ("dataset.mixture", 5, "config.json .*dataset"),
    "a mixture of names": ("dataset.mixture", ["voc2012"], "config.json .*dataset"),
    "another fingerprint": ("dataset.fingerprint", "0" * 12, "trained on folder in .* folder"),
    "another data set": ("dataset.name", "camvid", "trained on camvid.* folder"),
}  # fmt: skip


def json_reader(change, mode="evaluate"):
    def read(bench, folder):
        run = bench.copy(folder)
        path = run / "config.json"
        if isinstance(change, tuple):
            path.write_text(json.dumps(with_value(json.loads(path.read_text()), *change)))
        else:
            path.write_bytes(change if isinstance(change, bytes) else change.encode())
        (run / "results.json").unlink()
        call(f"--mode={mode}", f"--workdir={run}")
        return (run / "results.json").exists()

    return read


def error_or_true(pattern):
    return True if pattern is None else ErrorLine(pattern)


INPUTS = [Input("config files", name, file_reader(text), expected) for name, (text, expected) in FILES.items()]
INPUTS += [Input("fields", change, field_reader(change), ErrorLine(pattern)) for change, pattern in FIELDS.items()]
INPUTS += [Input("config.json", name, json_reader(text), ErrorLine(pattern)) for name, (text, pattern) in TEXT.items()]
INPUTS += [
    Input("config.json", name, json_reader(tuple(change)), error_or_true(pattern))
    for name, (*change, pattern) in CHANGES.items()
]
