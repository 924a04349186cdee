import fcntl
import json
import re

import pytest

from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.runs import workdir
from ctxseg.settings import fields


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "a"
    workdir.check(folder, fcn.get_config())
    workdir.claim(folder, fcn.get_config())
    return folder


def changed(**changes):
    config = fcn.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def test_the_config_is_saved_resolved(run):
    config = fcn.get_config()
    saved = json.loads((run / "config.json").read_text())
    assert fields.flatten_as_json(saved) == fields.flatten_as_json(config)
    assert saved["data"]["crop"] == [128, 128] and saved["model"]["backbone"]["width"] is None
    assert fields.flatten_as_json({"a": {"b": (1, 2), "c": {"d": None}}}) == {"a.b": [1, 2], "a.c.d": None}
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_fields_that_do_not_affect_training_may_change(run):
    free = changed(
        train__log_every=1, train__checkpoint_every=7, train__keep=9, eval__batch_size=3, eval__split="test",
        data__data_dir="elsewhere", data__threads=0, data__manual_dir="there",
    )  # fmt: skip
    workdir.check(run, free)
    workdir.claim(run, free)
    assert json.loads((run / "config.json").read_text())["train"]["keep"] == 9


def test_the_message_about_another_config_names_the_fields_that_differ(run):
    before = (run / "config.json").read_text()
    with pytest.raises(UserError) as one:
        workdir.check(run, changed(seed=3))
    assert re.fullmatch(rf"{run} .*: config\.seed is 3 .* 0 [^;]*; [^;]*--workdir", str(one.value))
    changes = {
        "seed": 3,
        "train__steps": 7,
        "model__backbone__width": 9,
        "optimizer__momentum": 0.5,
        "data__flip": False,
    }
    message = "config.data.flip is False .* True .*; config.model.backbone.width is 9 .* 24 .*; "
    with pytest.raises(UserError, match=rf"{message}config.optimizer.momentum is .* \(and 2 more\).*--workdir"):
        workdir.check(run, changed(**changes))
    assert (run / "config.json").read_text() == before


def test_removed_fields_are_reported_and_new_fields_are_not(run):
    saved = json.loads((run / "config.json").read_text())
    del saved["seed"]
    saved["model"]["depth"] = 3
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=": config.model.depth is None .* 3 [^;]*; .*--workdir"):
        workdir.check(run, fcn.get_config())


def test_an_unset_field_counts_as_the_default_of_its_module(run):
    workdir.check(run, changed(model__backbone__width=24))
    workdir.claim(run, changed(model__backbone__width=24))
    workdir.check(run, fcn.get_config())
    with pytest.raises(UserError, match="config.model.backbone.width is 25 .* 24 "):
        workdir.check(run, changed(model__backbone__width=25))


def test_pixels_that_are_not_given_are_those_of_the_run(tmp_path):
    """Those of its weights: the same command continues the run, and the same sweep finds it."""
    pixels = {"model__pixels__mean": (127.0, 127.0, 127.0), "model__pixels__order": "bgr"}
    workdir.claim(tmp_path, changed(**pixels))
    workdir.check(tmp_path, fcn.get_config())
    with pytest.raises(UserError, match="config.model.pixels.order is rgb .* bgr "):
        workdir.check(tmp_path, changed(model__pixels__order="rgb"))


def test_a_field_added_after_the_run_counts_as_its_default(run):
    saved = json.loads((run / "config.json").read_text())
    for section, field in (("data", "padding"), ("model", "auxiliary"), ("train", "split"), ("eval", "flip")):
        del saved[section][field]
    for field in ("width", "layout"):
        del saved["model"]["backbone"][field]
    del saved["model"]["context"]["bring"]
    (run / "config.json").write_text(json.dumps(saved))
    same = {
        "model__backbone__width": 24,  # the module's default
        "eval__flip": True,  # may change
        "model__context__bring": "average",  # not read by this system
        "model__backbone__layout": "hrenet",
    }
    workdir.check(run, fcn.get_config())
    workdir.check(run, changed(**same))
    others = {
        "config.data.padding is reflect here and ignore in the run": {"data__padding": "reflect"},
        "config.model.auxiliary.levels is ['res4'] here and [] in the run": {"model__auxiliary__levels": ("res4",)},
        "config.model.backbone.width is 8 here and 24 in the run": {"model__backbone__width": 8},
        "config.train.split is train+val here and train in the run": {"train__split": "train+val"},
    }
    for message, changes in others.items():
        with pytest.raises(UserError) as error:
            workdir.check(run, changed(**changes))
        assert re.fullmatch(rf"{run} .*: {re.escape(message)}; [^;]*--workdir", str(error.value))
    saved["model"]["context"]["name"] = "gone"  # a context that was removed
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="config.model.context.name is none .* gone .*--workdir"):
        workdir.check(run, fcn.get_config())


def test_an_older_run_with_new_layer_factor_continues_only_if_it_is_1(run):
    """The field, which `rates` replaced, was the learning-rate factor of everything but the backbone."""
    saved = json.loads((run / "config.json").read_text())
    del saved["optimizer"]["rates"]
    for factor in (1.0, 10.0):
        saved["optimizer"]["new_layer_factor"] = factor
        (run / "config.json").write_text(json.dumps(saved))
        assert workdir.read_config(run) == fcn.get_config()  # evaluation needs no more
        if factor == 1:
            workdir.check(run, fcn.get_config())
            continue
        with pytest.raises(
            UserError, match="config.json has config.optimizer.new_layer_factor=10.0, .*optimizer.rates"
        ):
            workdir.check(run, fcn.get_config())
    del saved["optimizer"]
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="config.optimizer.learning_rate is 0.2 .* 0.01 "):
        workdir.check(run, fcn.get_config())  # a missing field has its default


@pytest.mark.parametrize("stride, refused", [(32, False), (8, True)])
def test_an_older_dilated_resnet18_is_refused(run, stride, refused):
    """The shapes of its weights are the same, but the second convolutions of dilated stages had another dilation."""
    saved = json.loads((run / "config.json").read_text())
    saved["model"]["backbone"] |= {"name": "resnet18", "output_stride": stride}
    for auxiliary in (saved["model"]["auxiliary"], None):
        saved["model"].pop("auxiliary", None)
        saved["model"] |= {"auxiliary": auxiliary} if auxiliary else {}
        (run / "config.json").write_text(json.dumps(saved))
        if refused and not auxiliary:
            with pytest.raises(UserError, match="output_stride=8.*train again"):
                workdir.read_config(run)
        else:
            assert workdir.read_config(run).model.backbone.output_stride == stride


@pytest.mark.parametrize("kernel", [None, 1, 3])
def test_an_older_vgg16_has_the_layout_hrenet(run, kernel):
    """Its poolings were 2×2. Its conv7 was 1×1, unless the config has 3."""
    saved = json.loads((run / "config.json").read_text())
    saved["model"]["backbone"] |= {"name": "vgg16", "conv7_kernel": kernel}
    del saved["model"]["backbone"]["layout"]
    (run / "config.json").write_text(json.dumps(saved))
    config = workdir.read_config(run)
    assert (config.model.backbone.layout, config.model.backbone.conv7_kernel) == ("hrenet", kernel or 1)
    workdir.check(run, config)
    with pytest.raises(UserError, match="layout is largefov .* hrenet "):
        workdir.check(run, changed(model__backbone__name="vgg16", model__backbone__layout="largefov"))


@pytest.mark.parametrize("size", [[], [512, 512]])
def test_an_older_run_without_base_size_keeps_its_eval_size(run, size):
    saved = json.loads((run / "config.json").read_text())
    del saved["data"]["base_size"], saved["data"]["rotate_share"]
    saved["eval"]["size"] = size
    (run / "config.json").write_text(json.dumps(saved))
    config = workdir.read_config(run)
    assert (config.data.base_size, config.data.rotate_share, config.eval.size) == ((), 1.0, tuple(size))
    workdir.check(run, config)


@pytest.mark.parametrize("text", ["", '{"seed": ', "[1, 2]", "null", "\x00\xff"])
def test_a_damaged_config_is_reported(run, text):
    (run / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        workdir.check(run, fcn.get_config())
    assert str(error.value).startswith(f"{run}/config.json is damaged (") and "\n" not in str(error.value)


def test_folders_that_cannot_be_used(tmp_path):
    config, file = fcn.get_config(), tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(UserError, match=f"^--workdir={folder} cannot be used: "):
            workdir.check(folder, config)
        with pytest.raises(UserError, match=f"^--workdir={folder} cannot be used: "):
            workdir.claim(folder, config)
    with pytest.raises(UserError, match="file/config.json cannot be read: Not a directory"):
        workdir.check_same(file / "config.json", config)
    with pytest.raises(UserError, match="nowhere/config.json is missing.*--workdir"):
        workdir.check_same(tmp_path / "nowhere" / "config.json", config)


def test_only_one_process_locks_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a"
    with workdir.hold(str(folder), create=True):
        with pytest.raises(UserError, match=f"another process .* {folder}: wait .*--workdir"):
            with workdir.hold(str(folder), create=True):
                pass
    assert not (tmp_path / "runs").exists(), "nothing was written"
    with workdir.hold(str(folder), create=False):
        assert not folder.exists()

    with workdir.hold(str(folder), create=True):
        (folder / "config.json").touch()
    assert (folder / "config.json").exists()
    with open(folder / ".lock", "w") as lock:  # like a sweep, which tells the process of its run by a variable
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setenv(workdir.LOCK, str(folder))
        with workdir.hold(str(folder), create=True):
            pass
        for other in (None, str(tmp_path)):
            monkeypatch.setenv(workdir.LOCK, other) if other else monkeypatch.delenv(workdir.LOCK)
            with pytest.raises(UserError, match="^another process"), workdir.hold(str(folder), create=True):
                pass
    with workdir.hold(str(folder), create=True):
        pass


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match="^--workdir=.*/file/run cannot be used: Not a directory; choose another --workdir$"
    ):
        with workdir.hold(f"{tmp_path}/file/run", create=True):
            pass
