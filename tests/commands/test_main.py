"""The command line, from flags to results and error messages."""

import contextlib
import errno
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ctxseg import commands, devices, interrupts, processes
from ctxseg.commands import command_line
from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.progress import Progress
from ctxseg.runs import metrics_log, workdir
from ctxseg.training import loop

ROOT = Path(__file__).parents[2]
FCN = "--config=configs/fcn.py"
RESULTS = r"mIoU (0|1)\.\d{4}  pixel accuracy (0|1)\.\d{4}  mean accuracy (0|1)\.\d{4}"


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def parse(*arguments):
    return command_line.parse(["main.py", *arguments])


def call(*arguments):
    """The output of `main` on stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        commands.main(["main.py", *map(str, arguments)])
    return out.getvalue()


def test_no_arguments_give_no_value():
    assert command_line.value_of([], "config") == ""  # a sweep without overrides


def test_defaults():
    f = parse(FCN)
    assert (f.config.system, f.config.data.name, f.mode, f.workdir) == ("fcn", "scenes", "train", "runs/fcn-scenes")
    assert f.config.to_dict() == fcn.get_config().to_dict()
    f = parse("--config", "configs/zigzag.py:camvid", "--mode=evaluate", "--workdir=/x")
    assert (f.config.system, f.config.data.name, f.mode, f.workdir) == ("zigzag", "camvid", "evaluate", "/x")


def test_overrides():
    config = parse(
        FCN, "--config.train.steps=7", "--config.data.crop=(64, 32)", "--config.data.scale_range=1,2",
        "--noconfig.data.flip", "--config.model.context.levels=res3,res5",
        "--config.optimizer.nesterov", "--config.model.backbone.width=4", "--config.data.manual_dir=x",
    ).config  # fmt: skip
    assert config.train.steps == 7 and config.data.crop == (64, 32) and config.data.scale_range == (1, 2)
    assert not config.data.flip and config.optimizer.nesterov
    assert config.model.context.levels == ("res3", "res5")
    assert config.model.backbone.width == 4 and config.data.manual_dir == "x"
    assert parse(FCN).config.to_dict() == fcn.get_config().to_dict()  # independent of the first parse


def test_words_of_a_tuple_need_no_quotes():
    for text in (
        "classifier/scores=10,backbone=0.1",
        "(classifier/scores=10,backbone=0.1)",
        "('classifier/scores=10', 'backbone=0.1')",
    ):
        assert parse(FCN, f"--config.optimizer.rates={text}").config.optimizer.rates == (
            "classifier/scores=10",
            "backbone=0.1",
        )
    levels = "--config.model.auxiliary.levels=res4,"
    assert parse(FCN, levels).config.model.auxiliary.levels == ("res4",)
    assert parse(FCN, "--config.optimizer.rates=backbone=0").config.optimizer.rates == ("backbone=0",)
    assert parse(FCN, "--config.data.crop=(64,96)", "--config.data.manual_dir=a,b").config.data.manual_dir == "a,b"


BAD_COMMAND_LINES = {
    "misspelt field": ([FCN, "--config.train.stepz=3"], r"no --config.train.stepz: did you mean --config.train.steps\?"),
    "misspelt section": ([FCN, "--config.optimiser.momentum=0"], r"did you mean --config.optimizer.momentum\?"),
    "misspelt switch": ([FCN, "--noconfig.data.flop"], r"no --config.data.flop: did you mean --config.data.flip\?"),
    "a section": ([FCN, "--config.train=3"], "--config.train: .*section .*batch_size.*steps"),
    "misspelt flag": ([FCN, "--wrkdir=x"], r"no --wrkdir: did you mean --workdir\?"),
    "misspelt --config": (["--confg=configs/fcn.py"], r"no --confg: did you mean --config\?"),
    "misspelt --config of a table": (["--mode=sweep", "--confg=configs/tables/a.py"], r"no --confg: did you mean --config\?"),
    "mode": ([FCN, "--mode=trian"], r"--mode=trian: .*<train\|evaluate\|predict\|"),
    "not a flag": ([FCN, "evaluate"], "'evaluate' .*flag.*--config.a.b=value"),
    "no config": (["--mode=show"], "--config is missing: .*--config=configs/zigzag.py.*--workdir="),
    "no config but fields": (["--config.seed=1"], "--config is missing: .*--config=configs/zigzag.py.*--workdir="),
    "empty config": (["--config="], "--config is missing: .*--config=configs/zigzag.py.*--workdir="),
    "two configs": ([FCN, FCN], "--config .*twice: configs/fcn.py and configs/fcn.py"),
    "no such file": (["--config=configs/zigzg.py"], r"configs/zigzg.py .*did you mean configs/zigzag.py\?"),
    "a folder": (["--config=configs"], "--config: .* no config configs"),
    "not a system": (["--config=configs/datasets.py"], "--config: configs/datasets.py has no get_config"),
    "data set": ([f"{FCN}:camvit"], "'camvit' after the colon of --config.*scenes, scenes_half, scenes_rare, scenes_instances, camvid"),
    "int": ([FCN, "--config.train.steps=ten"], "--config.train.steps=ten: .*whole number"),
    "int of a placeholder": ([FCN, "--config.model.context.stages=2.5"], "stages=2.5: .*whole number"),
    "float": ([FCN, "--config.optimizer.learning_rate=low"], "learning_rate=low: .*number"),
    "bool": ([FCN, "--config.data.flip=maybe"], "--config.data.flip=maybe: .*true or false"),
    "no steps to trace": ([FCN, "--profile=0"], "--profile=0: .*positive integer"),
    "steps to trace": ([FCN, "--profile=few"], "--profile=few: .*int"),
    "a remote trace": ([FCN, "--profile=3", "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run: .*local folder.* --profile"),
    "no value": ([FCN, "--config.train.steps"], "Missing value for flag --config.train.steps"),
    "a tuple twice": ([FCN, "--config.eval.scales=0.5", "--config.eval.scales=1"], "--config.eval.scales .*twice.*A,B"),
    "a folder for show": ([FCN, "--mode=show", "--workdir=x"], "--workdir .*--mode=show .*--config"),
    "a folder for prepare": ([FCN, "--mode=prepare", "--workdir=x"], "--workdir .*--mode=prepare .*--config"),
    "one number": ([FCN, "--config.data.crop=64"], r"config.data.crop is \(64,\).*\(128, 128\)"),
    "three numbers": ([FCN, "--config.data.crop=(64, 64, 3)"], r"crop is \(64, 64, 3\).*\(128, 128\)"),
    "no numbers": ([FCN, "--config.data.crop=('a', 'b')"], r"crop is \('a', 'b'\).*\(128, 128\)"),
    "no whole numbers": ([FCN, "--config.data.crop=(64, 0.5)"], r"config.data.crop is \(64, 0.5\).*\(128, 128\)"),
}  # fmt: skip


# {flag that was given: flag that is suggested, or None}.
SUGGESTIONS = {
    "config.optimizer.lr": "config.optimizer.learning_rate",
    "lr": "config.optimizer.learning_rate",
    "train.steps": "config.train.steps",
    "config.train.max_steps": "config.train.steps",
    "config.data.batch_size": "config.train.batch_size",
    "config.model.learning_rate": "config.optimizer.learning_rate",
    "config.model.backbone": "config.model.backbone.name",
    "config.backbone.name": "config.model.backbone.name",
    "ckpt": "checkpoint",
    "config.loss.class_weight": "config.loss.class_weights",
    "config.model.pretrain": "config.model.pretrained",
    "config.optimizer.kind": None,
    "config.data.path": None,
    "gpu": None,
    "config.model.name": None,  # four sections have a name
    "config.model.dropout": None,
    "config.model.context.heads": None,
    "config.model.memory.size": None,
    "config.data.size": "config.data.base_size",
    "config.data.scale": "config.data.scale_range",
    "config.optimizer.warmup": "config.optimizer.warmup_steps",
    "config.optimizer.decay": "config.optimizer.weight_decay",
    "config.optimizer.grad_clip": "config.optimizer.clip_norm",
    "config.train.weight_decay": "config.optimizer.weight_decay",
}


@pytest.mark.parametrize("given", SUGGESTIONS)
def test_only_similar_names_are_suggested(given):
    near = SUGGESTIONS[given]
    for mode in ("train", "sweep") if not given.startswith("config.") else ("train",):
        with pytest.raises(UserError) as error:
            call(FCN, f"--mode={mode}", f"--{given}=1")
        message = str(error.value)
        assert re.search(rf"--{re.escape(given)}\b", message)
        assert f"did you mean --{near}?" in message if near else "did you mean" not in message


def test_similar_runs_and_files_are_suggested(copied, tmp_path):
    with pytest.raises(UserError, match=f"runn/config.json is missing: .*did you mean {copied}\\?$"):
        call("--mode=report", f"--workdir={copied.parent / 'runn'}")
    with pytest.raises(UserError, match=r"configs/fnc.py .*did you mean configs/fcn.py\?$"):
        parse("--config=configs/fnc.py")
    with pytest.raises(UserError, match="config.eval.data is 'foldr'.*scenes, "):
        call("--mode=evaluate", f"--workdir={copied}", "--config.eval.data=foldr")


def test_no_dissimilar_file_is_suggested():
    with pytest.raises(UserError, match="configs/unrelated.py is not a file$"):
        parse("--config=configs/unrelated.py")


def test_a_flag_is_only_for_the_modes_that_read_it():
    """Every other mode refuses it."""
    given = {
        "images": "1", "input": "x", "output": "x", "probabilities": "true", "checkpoint": "best",
        "overwrite": "true", "seeds": "2", "rows": "0", "row": "0", "sweep": "seed=1", "jobs": "1", "dry_run": "true",
        "profile": "3", "names": "torchvision", "format": "voc",
        "coordinator": "a:1", "process_count": "2", "process_id": "0", "process_timeout": "9",
    }  # fmt: skip
    common = {"mode", "workdir", "debug", "help", "config"}
    assert (
        given.keys() == set(command_line.define_flags(["main.py"], command_line.base_config(["main.py", FCN]))) - common
    )
    several = {"coordinator", "process_count", "process_id", "process_timeout"}
    read = {
        "train": {"profile", *several}, "pictures": {"images"},
        "predict": {"input", "output", "probabilities", "checkpoint", "overwrite", "format"},
        "export": {"output", "checkpoint", "overwrite"}, "evaluate": {"checkpoint", *several}, "crf": {"checkpoint"},
        "sweep": {"seeds", "rows", "row", "sweep", "jobs", "dry_run"}, "convert": {"input", "output", "names", "overwrite"},
    }  # fmt: skip
    for mode in command_line.MODES:
        for name in given.keys() - read.get(mode, set()):
            readers = " and ".join(reader for reader in command_line.MODES if name in read.get(reader, set()))
            readers = readers.replace(" and ", ", ", readers.count(" and ") - 1)
            with pytest.raises(UserError, match=f"^--{name} .*--mode={mode}, .*by {readers}$"):
                (command_line.read_sweep if mode == "sweep" else command_line.read_flags)(
                    ["main.py", FCN, f"--mode={mode}", f"--{name}={given[name]}"]
                )
        if mode != "sweep":
            extra = {"predict": {"input"}, "convert": {"input"}}.get(mode, set())
            config = [] if mode == "convert" else [FCN]
            for name in read.get(mode, set()):
                flags = [f"--{n}={given[n]}" for n in {name} | extra]
                assert command_line.read_flags(["main.py", *config, f"--mode={mode}", *flags]).mode == mode


@pytest.mark.parametrize("fault", BAD_COMMAND_LINES)
def test_bad_command_lines_are_reported_in_one_line(fault):
    arguments, message = BAD_COMMAND_LINES[fault]
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_folders_of_several_runs_must_differ():
    assert command_line.folders_of(parse(FCN, "--mode=report", "--workdir=a,b")) == ["a", "b"]
    for folders in ("a,a", "a,", "a,./a"):
        with pytest.raises(UserError, match=f"^--workdir={folders}: .*different"):
            command_line.folders_of(parse(FCN, "--mode=report", f"--workdir={folders}"))


def test_a_faulty_config_file_is_reported(tmp_path):
    path = tmp_path / "mine.py"
    for text, message in {
        "def get_config(): return nothing": "NameError: name 'nothing' is not defined",
        "def get_config(:": "SyntaxError: ",
        "import no_such_module": "ModuleNotFoundError: ",
        "from ctxseg.configs import fcn\ndef get_config(): return fcn.get_config('x')": "unknown data set 'x'",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message) as error:
            parse(f"--config={path}")
        assert "unknown" in message or str(error.value).startswith(f"--config: {path}: ")


def process(*arguments, **environment):
    command = [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=120)


def test_exit_status_and_streams(tiny, tmp_path):
    done = process(FCN, "--config.train.stepz=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*--config\.train\.stepz.*--config\.train\.steps\b.*\n", done.stderr)

    done = process(FCN, "--config.train.stepz=3", "--debug")
    assert done.returncode != 0
    assert done.stderr.startswith("Traceback ") and "did you mean --config.train.steps?" in done.stderr

    done = process("--help")
    assert done.returncode == 0 and "--config.a.b=value" in done.stdout and "--workdir" in done.stdout

    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = process(f"{FCN}:camvid", *tiny, "--config.train.batch_size=6", f"--workdir={tmp_path}/run", **four)
    assert (done.returncode, done.stdout) == (2, "")
    start, error = done.stderr.splitlines()
    assert start == f"train: fcn on camvid, {tmp_path}/run: starting"
    assert re.fullmatch(r"error: config\.train\.batch_size is 6.* 4 devices.* 8", error)
    assert not (tmp_path / "run").exists()


def test_the_nearest_batch_size_is_suggested(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    devices.check_batch_size("train.batch_size", 8)
    for size, message in {
        1: "try 4",
        9: "try 8",
        11: "try 12",
        0: "at least 1",
        -4: "at least 1",
    }.items():
        with pytest.raises(UserError, match=rf"^config.eval.batch_size is {size}[,;] .*{message}$"):
            devices.check_batch_size("eval.batch_size", size)


BAD_VALUES = {
    "train.steps=0": "config.train.steps is 0.*at least 1",
    "train.steps=-5": "config.train.steps is -5.*at least 1",
    "train.batch_size=0": "config.train.batch_size is 0.*at least 1",
    "train.micro_batches=0": "config.train.micro_batches is 0.*at least 1",
    "train.micro_batches=3": "config.train.micro_batches is 3.* each device has 4 .*config.train.batch_size.*1, 2 or 4",
    "train.keep=0": "config.train.keep is 0.*at least 1",
    "train.log_every=-1": "config.train.log_every is -1.*at least 0",
    "train.eval_every=-1": "config.train.eval_every is -1.*at least 0",
    "train.checkpoint_every=-1": "config.train.checkpoint_every is -1.*at least 0",
    "eval.batch_size=0": "config.eval.batch_size is 0.*at least 1",
    "eval.split=vall": "config.eval.split is 'vall'.*camvid.*train, val",
    "seed=-1": "config.seed is -1.*at least 0",
    "data.name=foo": "config.data.name is 'foo'.*scenes, scenes_half, scenes_rare, scenes_instances, folder",
    "data.name=scenes_instances": "config.data.name is scenes_instances.*has objects.*mask_rcnn",
    "eval.data=scenes_instances": "config.eval.data is scenes_instances.*has objects.*mask_rcnn",
    "model.detector.name=mask_rcnn": "config.data.name is .*has labels of pixels.*scenes_instances",
    "data.threads=-1": "config.data.threads is -1.*at least 0",
    "data.crop=(0, 32)": r"config.data.crop is \(0, 32\).*\(height, width\).*1",
    "data.crop=(32, -8)": r"config.data.crop is \(32, -8\).*\(height, width\).*1",
    "data.scale_range=(2.0, 0.5)": r"config.data.scale_range is \(2.0, 0.5\).*\(low, high\), 0 < low <= h",
    "data.hue=0.7": "config.data.hue is 0.7.*at most 0.5",
    "optimizer.schedule=foo": "config.optimizer.schedule is 'foo'.*poly, cosine, step, constant",
    "optimizer.momentum=1.5": "config.optimizer.momentum is 1.5.*less than 1",
    "model.dtype=float16": "config.model.dtype is 'float16'.*float32, bfloat16",
    "model.backbone.name=resnet19": "config.model.backbone.name is 'resnet19'.*none, tiny, efficientnet_lite0, vgg16, ",
    "model.backbone.output_stride=7": "config.model.backbone.output_stride is 7.*32, 16, 8",
    "model.backbone.width=0": "config.model.backbone.width is 0.*at least 1",
    "model.context.name=zigzug": "config.model.context.name is 'zigzug'.*none, fcn, renet, ",
    "model.context.combine=prodct": "config.model.context.combine is 'prodct'.*product, sum",
    "model.context.region_pool=max": "config.model.context.region_pool is 'max'.*sum, mean",
    "model.context.levels=res9": "config.model.context.levels has 'res9'.*pixels, res2, res3, res4",
    "model.context.levels=()": r"config.model.context.levels is \(\).*one or more different",
    "model.context.levels=('res5', 'res5')": r"config.model.context.levels is \('res5', 'res5'\).*different",
    "model.context.levels=(4, 5)": r"config.model.context.levels is \(4, 5\).*one or more .*names",
    "model.context.subdivisions=(3, 0)": r"config.model.context.subdivisions is \(3, 0\).*at least 1",
    "model.context.subdivisions=a": r"config.model.context.subdivisions is \('a',\).*one or more .*whole numbers",
    "model.context.stages=0": "config.model.context.stages is 0.*at least 1",
    "model.frozen=backbone/stem": "config.model.frozen .*config.model.pretrained",
    "optimizer.rates=classifier/scores=10,backbone/stam=2": "config.optimizer.rates has 'backbone/stam'.*backbone/stem",
    "optimizer.rates=": "config.optimizer.rates has ''.*NAME=FACTOR",
    "optimizer.rates==2": "config.optimizer.rates has '=2'.*NAME=FACTOR",
    "optimizer.rates=ten": "config.optimizer.rates has 'ten'.*NAME=FACTOR.*0",
    "model.scales.merge=maximum": "config.model.scales.merge is 'maximum'.*none, attention, average, max",
    "model.memory.name=mcibi2": "config.model.memory.name is 'mcibi2'.*none, mcibi",
    "model.classifier.dropout=1.0": "config.model.classifier.dropout is 1.0.*less than 1",
    "model.context.fuse_kernel=2": "config.model.context.fuse_kernel is 2.*1, 3, 5, 7",
}  # fmt: skip


def replace(arguments, *others):
    """`arguments`, with `others` in place of those with the same names: a tuple that is given twice is an error."""
    names = [other.partition("=")[0] for other in others]
    return [a for a in arguments if a.partition("=")[0] not in names] + list(others)


@pytest.mark.parametrize("change", BAD_VALUES)
def test_bad_values_are_found_before_the_training(change, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_loop", None)  # must not be reached
    with pytest.raises(UserError, match=f"^{BAD_VALUES[change]}") as error:
        call("--config=configs/zigzag.py:camvid", *replace(tiny, f"--config.{change}"), f"--workdir={tmp_path}/run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists(), "the folder must stay free for the corrected command"


def test_only_layers_with_pretrained_weights_can_be_frozen(tiny, tmp_path):
    with pytest.raises(UserError, match="config.model.frozen .*config.model.pretrained"):
        parse(FCN, "--config.model.frozen=backbone/stem,backbone/res2")
    flags = [flag for flag in tiny if "width" not in flag] + [f"--workdir={tmp_path}/run"]
    flags += ["--config.model.pretrained=efficientnet_lite0", "--config.model.backbone.name=efficientnet_lite0"]
    faults = {
        "": "an empty name.*, or none$",
        "backbone/stam,": "'backbone/stam'.*backbone/stem",
        "backbone,classifier": "classifier/.*efficientnet_lite0",
    }
    for frozen, fault in faults.items():
        with pytest.raises(UserError, match=f"config.model.frozen .*{fault}"):
            call(f"{FCN}:camvid", *flags, f"--config.model.frozen={frozen}")
    with pytest.raises(UserError, match="^config.optimizer.head_steps is 5; expected at most config.train.steps, 4$"):
        call(f"{FCN}:camvid", *flags, "--config.optimizer.head_steps=5")
    assert not (tmp_path / "run" / "config.json").exists()


def test_bad_data_folders(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in {
        "nowhere": "nowhere .*camvid",
        "emty": r"emty .*did you mean .*/empty\?",
        "empty": "empty is empty.*camvid",
    }.items():
        for mode in ("train", "prepare"):
            with pytest.raises(UserError, match=f"^config.data.manual_dir: .*{message}"):
                changes = replace(tiny, f"--config.data.manual_dir={tmp_path / folder}")
                workdir = [f"--workdir={tmp_path}/run"] if mode == "train" else []
                call(f"{FCN}:camvid", *changes, f"--mode={mode}", *workdir)
    missing = "^config.data.manual_dir .*camvid .*/other.*--mode=prepare"
    with pytest.raises(UserError, match=missing):
        call(f"{FCN}:camvid", f"--config.data.data_dir={tmp_path}/other", f"--workdir={tmp_path}/run")


def test_show_prints_the_config_and_writes_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path)
        out = call(f"--config={ROOT}/configs/fcn.py", "--mode=show", "--config.model.backbone.width=4")
        assert not os.listdir(tmp_path)
    assert "config.model.backbone.width = 4  # channels of the stem" in out and "config.model.backbone.stem" not in out
    assert "logits (1, 16, 16, 11) for an image (1, 128, 128, 3)" in out
    assert "config.model.context.levels = ['res5']  #" in out
    assert "config.data.manual_dir = (not given)  #" in out and "= None" not in out
    out = call("--config=configs/largefov.py:voc2012", "--mode=show")
    assert "config.model.backbone.conv7_kernel = 1  # " in out
    assert "config.model.context.levels = ['conv7']  #" in out, "the last map, not the last name"
    out = call("--config=configs/zigzag.py", "--mode=show")
    assert "config.model.context.levels = ['res2', 'res3', 'res4', 'res5']  #" in out
    for field, value in {"combine": "product", "region_context": "rce", "subdivisions": "[3, 5, 7]"}.items():
        assert f"config.model.context.{field} = {value}  # " in out, "the module's own default"
    assert "config.model.context.dilations" not in out and "complexity" not in out
    with pytest.raises(UserError, match="^config.data.crop is .0, 32..*height, width"):
        call(FCN, "--mode=show", "--config.data.crop=(0, 32)")
    with pytest.raises(UserError, match="^config.data.superpixels is -1.*at least 0"):
        call("--config=configs/msci.py", "--mode=show", "--config.data.superpixels=-1")


# Errors that training raises at its start, one for each part of the config.
REFUSED = {
    "data.hue=0.7": "config.data.hue is 0.7.*at most 0.5",
    "eval.scales=(1.0, 0.0)": r"config.eval.scales is \(1.0, 0.0\).*more than 0",
    "eval.window=(32,)": r"config.eval.window is \(32,\).*a height and a width",
    "eval.shapes=padded": "config.eval.shapes is 'padded'.*buckets, exact",
    "eval.crf.iterations=-1": "config.eval.crf.iterations is -1.*at least 0",
    "model.frozen=backbone/stem": "config.model.frozen .*config.model.pretrained",
    "optimizer.rates=backbone/stam=2": "config.optimizer.rates has 'backbone/stam'.*backbone/stem",
    "optimizer.momentum=1.5": "config.optimizer.momentum is 1.5.*less than 1",
    "train.batch_size=1": "config.train.batch_size .* is 1.*context/pool1/norm",
}


@pytest.mark.parametrize("change", REFUSED)
def test_show_raises_the_errors_of_training(change):
    with pytest.raises(UserError, match=f"^{REFUSED[change]}"):
        call("--config=configs/pspnet.py", "--mode=show", "--config.model.backbone.width=4", f"--config.{change}")


# The tests below train.


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A finished run: its folder and its output."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    before = os.getcwd()
    os.chdir(ROOT)
    out = call(f"{FCN}:camvid", *tiny, "--config.train.eval_every=2", "--profile=9", f"--workdir={folder}")
    os.chdir(before)
    return folder, out


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def printed(folder, finished):
    """The lines that the finished run would have printed in `folder`."""
    return finished[1].replace(str(finished[0]), str(folder)).splitlines()


def read_metrics(folder, kind):
    return [entry for entry in metrics_log.read_metrics(folder) if entry["kind"] == kind]


def newest(folder):
    """The step of the newest checkpoint, and its parameters by name."""
    with ocp.CheckpointManager(folder / "checkpoints", item_names=("state", "data")) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state = manager.restore(manager.latest_step(), args=args)["state"]
    leaves = jax.tree_util.tree_flatten_with_path(state["params"])[0]
    return int(state["step"]), {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_run_writes_its_files(finished, street):
    folder, out = finished
    assert out.splitlines()[-2] == f"{folder}/report.html" and re.fullmatch(RESULTS, out.splitlines()[-1])
    assert {"config.json", "metrics.jsonl", "results.json", "checkpoints", "tensorboard", "report.html"} <= set(
        os.listdir(folder)
    )
    assert sorted(os.listdir(folder / "checkpoints"))[-2:] == ["3", "4"]  # and perhaps another best one
    results = json.loads((folder / "results.json").read_text())
    assert (results["system"], results["data"], results["split"], results["step"]) == ("fcn", "camvid", "val", 4)
    assert len(results["per_class_iou"]) == 11 and results["seconds"] > 0 and results["protocol"]
    assert results["parameters"] == sum(value.size for value in newest(folder)[1].values())
    assert f"mIoU {results['mIoU']:.4f}  pixel accuracy {results['pixel_accuracy']:.4f}" in out

    trained = read_metrics(folder, "train")
    assert [entry["step"] for entry in trained] == [1, 2, 3, 4]
    assert all(entry["loss"] > 0 and entry["images_per_second"] > 0 for entry in trained)
    assert all(0 <= entry["waiting_for_data"] <= 1 for entry in trained)
    expected = [0.1 * (1 - t / 4) ** 0.9 for t in range(4)]
    assert [entry["learning_rate"] for entry in trained] == pytest.approx(expected)
    assert [entry["step"] for entry in read_metrics(folder, "eval")] == [2, 4]
    assert read_metrics(folder, "eval")[-1]["mIoU"] == results["mIoU"]
    assert json.loads((folder / "config.json").read_text())["data"]["manual_dir"] == str(street)
    page = (folder / "report.html").read_text()
    assert "fcn on camvid" in page and "--config.model.backbone.width=4" in page
    assert re.search(r"fcn: the devices waited for data during \d+\.\d % of the training time", page)


def test_a_trace_has_the_steps_after_the_first_two(finished):
    (path,) = (finished[0] / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "train"]
    assert [event["args"]["step_num"] for event in sorted(steps, key=lambda event: event["ts"])] == ["3", "4"]
    assert not any(event.get("name", "").startswith("$") for event in events)  # functions of Python


def test_the_same_command_again_evaluates(copied, finished, tiny):
    out = call(f"{FCN}:camvid", *tiny, "--config.train.eval_every=2", f"--workdir={copied}")
    assert out.splitlines() == [f"{copied}: finished; evaluating", *printed(copied, finished)]
    assert (copied / "metrics.jsonl").read_text() == (finished[0] / "metrics.jsonl").read_text()


def test_evaluate_and_report(copied, finished, tiny):
    (copied / "results.json").unlink()
    (copied / "report.html").unlink()
    # Another batch size, with an incomplete last batch: the same scores.
    changes = replace(tiny, "--config.eval.batch_size=3")
    out = call(f"{FCN}:camvid", *changes, "--mode=evaluate", f"--workdir={copied}")
    assert out.splitlines() == printed(copied, finished)
    results = [json.loads((folder / "results.json").read_text()) for folder in (copied, finished[0])]
    assert results[0]["per_class_iou"] == results[1]["per_class_iou"]
    (copied / "report.html").unlink()
    assert call(f"{FCN}:camvid", *tiny, "--mode=report", f"--workdir={copied}") == f"{copied}/report.html\n"
    assert (copied / "report.html").exists()


def test_where_it_fails(copied, finished, tiny):
    """An evaluation renews the page, if there is one."""
    assert not (copied / "failures.html").exists()
    assert call("--mode=failures", f"--workdir={copied}") == f"{copied}/failures.html\n"
    content = (copied / "failures.html").read_text()
    assert "fcn on camvid: where it fails" in content
    (copied / "failures.html").write_text("old")
    assert call("--mode=evaluate", f"--workdir={copied}").splitlines() == printed(copied, finished)
    assert "fcn on camvid: where it fails" in (copied / "failures.html").read_text()
    with pytest.raises(UserError, match=f"^{copied} .*config.seed"):
        call(f"{FCN}:camvid", *tiny, "--mode=failures", "--config.seed=1", f"--workdir={copied}")


def test_a_run_needs_no_config_flag(copied, finished):
    """The modes that read a run need no --config; overrides are still applied and checked."""
    command = ["--mode=evaluate", f"--workdir={copied}"]
    assert call(*command, "--config.eval.batch_size=3").splitlines() == printed(copied, finished)
    with pytest.raises(UserError, match=r"--config.eval.flp: did you mean --config.eval.flip\?"):
        call(*command, "--config.eval.flp")
    config = json.loads((copied / "config.json").read_text())
    for section, field, value in (("seed", None, "x"), ("data", "crop", 3)):
        damaged = json.loads(json.dumps(config))
        if field:
            damaged[section][field] = value
        else:
            damaged[section] = value
        (copied / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=f"config.json is damaged: {section}"):
            call(*command)


def test_a_folder_of_another_run_is_refused(finished, tiny):
    folder, files = finished[0], {path: path.read_bytes() for path in finished[0].glob("*.json*")}
    for mode in ("train", "evaluate"):
        changes = replace(tiny, "--config.model.backbone.width=6", "--config.seed=1")
        with pytest.raises(UserError) as error:
            call(f"{FCN}:camvid", *changes, f"--mode={mode}", f"--workdir={folder}")
        message = f"^{folder} .*config.model.backbone.width .*6.*4.*config.seed .*1.*0.*another --workdir$"
        assert re.match(message, str(error.value))
    assert files == {path: path.read_bytes() for path in folder.glob("*.json*")}


def test_a_misspelt_choice_is_reported_before_other_differences_from_the_run(finished, tiny):
    for mode in ("train", "evaluate"):
        changes = replace(tiny, "--config.model.context.name=zigzug", "--config.seed=1")
        with pytest.raises(UserError, match="^config.model.context.name is 'zigzug'.*zigzag"):
            call(f"{FCN}:camvid", *changes, f"--mode={mode}", f"--workdir={finished[0]}")


def test_one_process_at_a_time_writes_to_a_run(copied, tiny):
    command = [f"{FCN}:camvid", *tiny, "--config.train.eval_every=2", f"--workdir={copied}"]
    with workdir.hold(str(copied), create=False):
        for mode in ("train", "evaluate"):
            with pytest.raises(UserError, match=f"^another process .*{copied}.*wait.*choose"):
                call(*command, f"--mode={mode}")
        assert call(*command, "--mode=report") == f"{copied}/report.html\n"


def test_a_full_disk_is_reported_on_one_line():
    full = OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl")
    assert commands.error_line(full) == (
        "error: run/metrics.jsonl: No space left on device: free some space and run the same command to continue"
    )
    with pytest.raises(OSError, match="Is a directory"):  # a bug keeps its traceback
        commands.error_line(OSError(errno.EISDIR, "Is a directory"))


def test_a_checkpoint_of_another_model_is_refused(copied, tiny):
    """For example after a change of config.json or of the code."""
    config = json.loads((copied / "config.json").read_text())
    config["model"]["backbone"]["width"] = 6
    (copied / "config.json").write_text(json.dumps(config))
    changes = replace(tiny, "--config.model.backbone.width=6")
    message = r"/4 .*another model: .*params/backbone/res2_1/conv1/conv/kernel .*4\).*6\)"
    for mode in ("train", "evaluate"):
        with pytest.raises(UserError, match=message):
            call(f"{FCN}:camvid", *changes, f"--mode={mode}", f"--workdir={copied}")
    assert newest(copied)[0] == 4


def test_a_closed_pipe_of_one_of_several_processes_ends_all(monkeypatch):
    """The runtime of a process that ends normally would wait for the others."""
    lines = []

    def fail(_):
        raise BrokenPipeError

    def leave(line):
        lines.append(line)
        raise SystemExit(2)

    monkeypatch.setattr(commands, "main", fail)
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(interrupts, "leave", leave)
    with pytest.raises(SystemExit, match="2"):
        commands.run()
    assert lines == [commands.CLOSED]


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()


def test_folders_without_a_run(copied, tiny, tmp_path):
    command = [f"{FCN}:camvid", *tiny, "--mode=evaluate"]
    with pytest.raises(UserError, match="none/config.json is missing: .*--workdir"):
        call(*command, f"--workdir={tmp_path}/none")
    with pytest.raises(UserError, match="--workdir=.*/none is not a folder"):
        call(*command[:-1], "--mode=report", f"--workdir={tmp_path}/none")
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(UserError, match=r"run/checkpoints has no checkpoint.*--mode=train"):
        call(*command, f"--workdir={copied}")
    (copied / "config.json").write_text("{")
    for mode in ("train", "evaluate"):
        with pytest.raises(UserError, match="run/config.json is damaged .*another --workdir.*remove"):
            call(*command[:-1], f"--mode={mode}", f"--workdir={copied}")


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path):
    folder = tmp_path / "run"
    rates = ["--config.optimizer.learning_rate=1e10", "--config.optimizer.warmup_steps=2", "--config.train.steps=9"]
    with pytest.raises(UserError) as error:
        call(f"{FCN}:camvid", *tiny, *rates, f"--workdir={folder}")
    step = int(re.search(r"at step (\d+)", str(error.value))[1])
    quantity = "loss|gradient|norm of the parameters"
    checkpoint = f"checkpoint of step {step - 1} in {folder}"
    message = rf"the ({quantity}) .*(nan|inf) at step {step}.*{checkpoint}.*config.optimizer.learning_rate"
    assert step > 1 and re.match(message, str(error.value))
    saved, params = newest(folder)
    assert saved == step - 1
    assert all(np.isfinite(value).all() for value in params.values())
    assert [entry["step"] for entry in read_metrics(folder, "train")] == list(range(1, step))
    assert not (folder / "results.json").exists()


def test_parameters_that_are_not_finite_are_not_saved(tiny, tmp_path):
    """The loss of a step belongs to the parameters before it; the parameters after it must be finite too."""
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="norm of the parameters .* at step 1.*no checkpoint"):
        call(f"{FCN}:camvid", *tiny, "--config.optimizer.learning_rate=3e38", f"--workdir={folder}")
    assert not list((folder / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(
    "loss, norm, good, message",
    [
        (np.nan, 1.0, 2, "the loss .*nan at step 4.*checkpoint of step 2 in w"),
        (np.inf, np.nan, 0, "the loss .*inf at step 4.*no checkpoint"),
        (1.0, np.nan, 2, "the gradient .*nan at step 4.*checkpoint of step 2 in w"),
    ],
)
def test_the_first_step_that_is_not_finite_is_reported(loss, norm, good, message):
    def metrics(loss, norm):
        values = {"loss": loss, "gradient_norm": norm, "state_norm": 1.0}
        return devices.replicate({name: np.float32(value) for name, value in values.items()})

    steps = [(3, metrics(2.0, 1.0)), (4, metrics(loss, norm)), (5, metrics(np.nan, np.nan))]
    assert loop._mean_loss([steps[0], (4, metrics(4.0, 1.0))], "w", good) == 3.0
    with pytest.raises(UserError, match=f"^{message}"):
        loop._mean_loss(steps, "w", good)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_reaches_the_original_handler(number):
    def original(*_):
        raise InterruptedError

    before = signal.signal(number, original)
    try:
        with loop._Interrupt() as interrupt:
            with pytest.raises(InterruptedError):  # nothing to save yet
                os.kill(os.getpid(), number)
            interrupt.defer()
            interrupt.defer()
            assert not interrupt.stops_after(1)
            os.kill(os.getpid(), number)
            assert interrupt.stops_after(2)
            with pytest.raises(InterruptedError):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is original
    finally:
        signal.signal(number, before)


def test_a_terminated_run_resumes(finished, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = [f"{FCN}:camvid", *tiny, "--config.train.checkpoint_every=0", f"--workdir={folder}"]

    def update(self, step, values=None):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(Progress, "update", update)
        call(*command)
    assert re.match(f"interrupted at step 2, .*{folder}.*same command", str(error.value))
    assert signal.getsignal(signal.SIGTERM) == handler
    assert newest(folder)[0] == 2

    out = call(*command)
    assert out.splitlines() == [f"{folder}: continuing from step 2", *printed(folder, finished)]
    (step, params), (_, expected) = newest(folder), newest(finished[0])
    assert step == 4
    for name in expected:
        np.testing.assert_array_equal(params[name], expected[name], err_msg=name)
    losses = [[entry["loss"] for entry in read_metrics(f, "train")] for f in (folder, finished[0])]
    assert losses[0] == losses[1]
