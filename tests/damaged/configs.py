"""Python files given to --config, values given to their fields, and config.json of a run."""

import json

from ctxseg.commands import command_line
from ctxseg.training import checks
from tests.damaged.bench import Input, Line, call, changed

FCN = "--config=configs/fcn.py:folder"
HEAD = "from ctxseg.configs import fcn\n"


def checked(*arguments):
    """The config of a command line, after the checks that precede a training."""
    config = command_line.parse(["main.py", *arguments]).config
    checks.check_fields(config, ["road", "tree"])
    return config


def body(*lines, head=HEAD):
    """A file whose get_config has these lines, with `c` the FCN's config."""
    return head + "def get_config():\n    c = fcn.get_config()\n" + "".join(f"    {line}\n" for line in lines)


FILES = {
    "nothing": ("", Line("has no get_config")),
    "get_config is no function": ("get_config = 5\n", Line("TypeError")),
    "it returns nothing": (body("c.seed = 1"), Line("get_config .*NoneType.*ConfigDict")),
    "it returns a dict": (body("return c.to_dict()"), Line("get_config .*dict.*ConfigDict")),
    "it returns a config of its own": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})\n", Line("get_config .*no config."),
    ),
    "a section less": (body("with c.unlocked():", "    del c.optimizer", "return c"), Line("get_config .*no config.optimizer.")),
    "a field less": (body("with c.unlocked():", "    del c.train.steps", "return c"), Line("get_config .*no config.train.steps")),
    "a field more": (body("with c.unlocked():", "    c.train.stepz = 1", "return c"), Line("train.stepz")),
    "a misspelt field": (body("c.train.stepz = 1", "return c"), Line("did you mean --config.train.steps")),
    "a value of another kind": (body("c.train.steps = 'ten'", "return c"), Line("mine.py: TypeError")),
    "a section that is a number": (
        body("with c.unlocked():", "    with c.ignore_type():", "        c.train = 5", "return c"), Line("get_config .*no config.train."),
    ),
    "a number that is a section": (
        body("with c.ignore_type():", "    c.seed = {'a': 1}", "return c"), Line("get_config .*no config.seed"),
    ),
    "NaN": (body("c.optimizer.learning_rate = float('nan')", "return c"), Line("config.optimizer.learning_rate is nan")),
    "it raises": (body("raise ValueError('a\\nb')"), Line("mine.py: ValueError: a b")),
    "it raises without a word": (body("raise KeyError"), Line("mine.py: KeyError")),
    "it exits": (body("raise SystemExit('bye')"), Line("mine.py: SystemExit: bye")),
    "it takes two arguments": ("def get_config(a, b):\n    pass\n", Line("mine.py: TypeError")),
    "an import that fails": ("import ctxseg.nothing\n" + body("return c"), Line("mine.py: ModuleNotFoundError")),
    "it is cut off": (body("return c")[:-8] + "(", Line("mine.py: SyntaxError")),
    "indented otherwise": (body("c.seed = 1", "\treturn c"), Line("mine.py: (TabError|IndentationError)")),
    "not UTF-8": (HEAD.encode() + b"# stra\xdfe\n" + body("return c", head="").encode(), "fcn"),
    "NUL": (b"\0\0\0", Line("mine.py: (SyntaxError|ValueError)")),
    "a checkpoint's bytes": (bytes(range(256)), Line("mine.py: (SyntaxError|ValueError)")),
    "a table": (
        "from ctxseg.studies.tables import Table\ndef get_table(d=''):\n    return Table()\n",
        Line("has no get_config: .*a table"),
    ),
}  # fmt: skip


def file_reader(content):
    def read(bench, folder):
        (folder / "mine.py").write_bytes(content if isinstance(content, bytes) else content.encode())
        return checked(f"--config={folder / 'mine.py'}").system

    return read


FIELDS = {
    "train.steps=1e3": "train.steps=1e3: .*whole number",
    "train.steps=10.0": "train.steps=10.0: .*whole number",
    "train.steps=": "train.steps=: .*whole number",
    "train.steps=99999999999999999999": "config.train.steps is 99999999999999999999.*at most",
    "train.batch_size=-8": "config.train.batch_size is -8.*at least 1",
    "train.stepz.x=1": "there is no --config.train.stepz.x",
    "train.log_every=None": "train.log_every=None: .*give a value",
    "seed=99999999999999999999": "config.seed is 9+.*less than 4294967296",
    "seed=-9": "config.seed is -9.*at least 0",
    "seed=true": "seed=true: .*whole number",
    "optimizer.learning_rate=nan": "config.optimizer.learning_rate is nan.*number",
    "optimizer.learning_rate=inf": "config.optimizer.learning_rate is inf.*finite",
    "optimizer.learning_rate=-1": "config.optimizer.learning_rate is -1.0.*at least 0",
    "optimizer.momentum=nan": "config.optimizer.momentum is nan.*number",
    "optimizer.weight_decay=-0.1": "config.optimizer.weight_decay is -0.1.*at least 0",
    "optimizer.rates=classifier=nan": "config.optimizer.rates has 'classifier=nan'",
    "optimizer.warmup_steps=-1": "config.optimizer.warmup_steps is -1.*at least 0",
    "data.crop=nan,nan": r"config.data.crop is .*nan.*nan.*\(256, 256\)",
    "data.crop=999999999,999999999": "config.data.crop is .*250 megapixels",
    "data.scale_range=nan,1.0": "config.data.scale_range is .*nan",
    "data.scale_range=1.0,inf": "config.data.scale_range is .*inf",
    "data.rotate=nan": "config.data.rotate is nan",
    "data.rotate=-1": "config.data.rotate is -1",
    "data.brightness=nan": "config.data.brightness is nan",
    "data.contrast=-0.5": "config.data.contrast is -0.5",
    "data.hue=inf": "config.data.hue is inf",
    "data.padding=mirror": "config.data.padding is 'mirror'",
    "data.threads=100000000": "config.data.threads is 100000000.*at most",
    "model.backbone.width=-4": "config.model.backbone.width is -4",
    "model.classifier.dropout=nan": "config.model.classifier.dropout is nan",
    "model.classifier.hidden=-1": "config.model.classifier.hidden is -1",
    "model.kernel_std=nan": "config.model.kernel_std is nan",
    "model.kernel_std=-1": "config.model.kernel_std is -1",
    "eval.batch_size=0": "config.eval.batch_size is 0",
    "eval.scales=nan,": "config.eval.scales is .*nan",
    "eval.scales=-1.0,": "config.eval.scales is .*-1.0",
    "eval.samples=-1": "config.eval.samples is -1.*at least 0",
    "eval.crf.iterations=-1": "config.eval.crf.iterations is -1",
    "eval.crf_images=0": "config.eval.crf_images is 0.*at least 1",
    "eval.flip=2": "eval.flip=2: .*true or false",
}  # fmt: skip


def field_reader(change):
    return lambda *_: checked(FCN, f"--config.{change}").to_dict()


TEXT = {
    "empty": ("", "is damaged"),
    "cut off": ('{"seed": 0, "model": {', "is damaged"),
    "a list": ("[1, 2]", "is damaged .*object"),
    "a number": ("5", "is damaged .*object"),
    "null": ("null", "is damaged .*object"),
    "not UTF-8": (b'{"system": "\xff"}', "is damaged"),
        "brackets without end": ("[" * 100_000, "is damaged .it is nested too deeply"),
    "a number without end": ('{"seed": ' + "9" * 5000 + "}", "is damaged"),
    "an empty object": ("{}", "checkpoints/2 is a checkpoint of another model"),
}  # fmt: skip
CHANGES = {
    "system a number": ("system", 5, "is damaged: system .*5"),
    "seed a word": ("seed", "x", "is damaged: seed .*\"x\""),
    "seed half": ("seed", 0.5, "is damaged: seed .*0.5"),
    "a section a number": ("model", 3, "is damaged: model .*3"),
    "a section a list": ("optimizer", [1], r"is damaged: optimizer .*\[1\]"),
    "a section a word": ("eval", "all", "is damaged: eval .*all"),
    "a section null": ("train", None, None),
    "a field an object": ("train.steps", {"a": 1}, "is damaged: train.steps "),
    "a tuple of lists": ("data.crop", [[1], [2]], "is damaged: data.crop "),
    "a tuple too short": ("data.crop", [8], "is damaged: data.crop "),
    "a tuple of words": ("eval.scales", ["a"], "is damaged: eval.scales "),
    "NaN": ("eval.stride", float("nan"), "is damaged .*NaN"),
    "a batch size below 1": ("eval.batch_size", -1, "config.eval.batch_size is -1"),
    "a backbone that there is not": ("model.backbone.name", "resnet19", "config.model.backbone.name is 'resnet19'"),
    "a data set that there is not": ("data.name", "nothing", "config.data.name is 'nothing'"),
    "a data set above": ("data.name", "../x", "config.data.name is '../x'"),
    "a field of the future": ("model.future", 7, "config.model.future is None .* 7 "),
    "a section of the future": ("future", {"a": 1}, "config.future.a is None .* 1 "),
    "dataset a list": ("dataset", [1], "is damaged: dataset"),
    "dataset empty": ("dataset", {}, "is damaged: dataset"),
    "classes that are numbers": ("dataset.class_names", [1, 2, 3], "is damaged: dataset"),
    "no classes": ("dataset.class_names", [], "is damaged: dataset"),
    "classes one less": ("dataset.class_names", ["road", "tree"], "is damaged: dataset"),
    "a palette of two channels": ("dataset.palette", [[1, 2]] * 3, "is damaged: dataset"),
    "a palette of words": ("dataset.palette", ["red"] * 3, "is damaged: dataset"),
    "no palette": ("dataset.palette", [], "is damaged: dataset"),
    "a palette too short": ("dataset.palette", [[1, 2, 3]], "is damaged: dataset"),
    "groups a list": ("dataset.groups", [1], "is damaged: dataset"),
    "a folder that is a number": ("dataset.folder", 5, "is damaged: dataset"),
    "another fingerprint": ("dataset.fingerprint", "0" * 12, "was trained on folder in .*, .*folder"),
    "another data set": ("dataset.name", "camvid", "was trained on camvid"),
}  # fmt: skip


def json_reader(change, mode="evaluate"):
    def read(bench, folder):
        run = bench.copy(folder)
        path = run / "config.json"
        if isinstance(change, tuple):
            path.write_text(json.dumps(changed(json.loads(path.read_text()), *change)))
        else:
            path.write_bytes(change if isinstance(change, bytes) else change.encode())
        (run / "results.json").unlink()
        call(f"--mode={mode}", f"--workdir={run}")
        return (run / "results.json").exists()

    return read


def line_or_true(words):
    return True if words is None else Line(words)


INPUTS = [Input("config files", what, file_reader(text), right) for what, (text, right) in FILES.items()]
INPUTS += [Input("fields", change, field_reader(change), Line(words)) for change, words in FIELDS.items()]
INPUTS += [Input("config.json", what, json_reader(text), Line(words)) for what, (text, words) in TEXT.items()]
INPUTS += [
    Input("config.json", what, json_reader(tuple(change)), line_or_true(words))
    for what, (*change, words) in CHANGES.items()
]
