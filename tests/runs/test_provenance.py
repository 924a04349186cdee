"""A run records its data set. Other data are refused; the same data in another folder are accepted."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ctxseg.commands import command_line
from ctxseg.errors import UserError
from tests.commands.test_main import call, parse

FCN = "--config=configs/fcn.py:folder"


def write(root, seed):
    """Six images of 32×32, of two classes."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        label = np.kron(rng.integers(0, 2, (2, 2)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(np.repeat(label[..., None] * 90, 3, 2)).save(root / f"images/{i}.png")
        Image.fromarray(label).save(root / f"labels/{i}.png")
    (root / "classes.txt").write_text("ground 10 20 30\nroof 40 50 60\n")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with own data in `mine` and `other` and a run on `mine` in `run`, and the settings of the run."""
    place = tmp_path_factory.mktemp("place")
    write(place / "mine", 0)
    write(place / "other", 1)
    settings = [
        f"--config.data.data_dir={place}/prepared", "--config.data.crop=32,32", "--config.data.threads=0",
        "--config.model.backbone.name=tiny", "--config.model.backbone.width=4", "--config.model.pretrained=none",
        "--config.train.steps=1", "--config.train.batch_size=1", "--config.eval.batch_size=2",
    ]  # fmt: skip
    call(FCN, *settings, f"--config.data.manual_dir={place}/mine", f"--workdir={place}/run")
    return place, settings


@pytest.fixture
def run(place, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(place[0] / "run", tmp_path / "run")


def test_the_default_folder_of_a_run_depends_on_the_data_folder(place):
    folders = [
        parse(FCN, *place[1], f"--config.data.manual_dir={place[0]}/{name}").workdir for name in ("mine", "other/")
    ]
    assert folders == ["runs/fcn-mine", "runs/fcn-other"]
    assert parse(FCN, *place[1]).workdir == "runs/fcn-mine"  # the only prepared data


def test_data_folders_with_the_same_name_have_separate_runs(place, tmp_path, monkeypatch):
    """The README's command finds the run of each folder again, also after the first folder was moved."""
    (place, settings), config = place, f"--config={os.path.abspath('configs/fcn.py')}:folder"
    monkeypatch.chdir(tmp_path)
    for name, data in (("a", "mine"), ("b", "other")):
        shutil.copytree(place / data, tmp_path / name / "data")

    def command(name):
        return [config, *settings, f"--config.data.manual_dir={name}/data"]

    scores = [call(*command(name)).splitlines()[-1] for name in ("a", "b")]
    assert sorted(os.listdir("runs")) == ["fcn-b-data", "fcn-data"]
    assert [call(*command(name)).splitlines()[-1] for name in ("a", "b")] == scores
    assert sorted(os.listdir("runs")) == ["fcn-b-data", "fcn-data"]

    os.rename("a", "c")
    shutil.copytree(place / "mine", tmp_path / "d" / "data")
    (tmp_path / "d/data/images/5.png").unlink()
    (tmp_path / "d/data/labels/5.png").unlink()
    workdirs = {name: parse(*command(name)).workdir for name in "bcd"}
    assert workdirs == {"b": "runs/fcn-b-data", "c": "runs/fcn-data", "d": "runs/fcn-d-data"}
    shutil.rmtree("runs/fcn-data")
    assert parse(*command("b")).workdir == "runs/fcn-b-data"
    os.makedirs("runs/table-data/0-first-0")  # a run of a sweep
    shutil.copy("runs/fcn-b-data/config.json", "runs/table-data/0-first-0")
    of_table = [command_line.default_workdir("table", "folder", f"{name}/data", f"{place}/prepared") for name in "bc"]
    assert of_table == ["runs/table-data", "runs/table-c-data"]


def test_a_run_records_its_data_set(place):
    config, results = (json.loads((place[0] / "run" / name).read_text()) for name in ("config.json", "results.json"))
    dataset = config["dataset"]
    assert (dataset["name"], dataset["folder"]) == ("folder", f"{place[0]}/mine") and len(dataset["fingerprint"]) == 12
    assert dataset["class_names"] == ["ground", "roof"] and dataset["palette"] == [[10, 20, 30], [40, 50, 60]]
    assert results["dataset"] == {key: dataset[key] for key in ("name", "folder", "fingerprint")}


def test_other_data_are_refused_and_moved_data_are_accepted(place, run, tmp_path):
    (place, settings), scores = place, call("--mode=evaluate", f"--workdir={run}").splitlines()[-1]
    moved = shutil.copytree(place / "mine", tmp_path / "moved")
    for mode in ("train", "evaluate"):
        command = [FCN, *settings, f"--mode={mode}", f"--workdir={run}"]
        assert call(*command, f"--config.data.manual_dir={moved}").splitlines()[-1] == scores
        with pytest.raises(UserError) as error:
            call(*command, f"--config.data.manual_dir={place}/other")
        remedy = "choose another --workdir" if mode == "train" else "--config.eval.data=folder evaluates on it, if .*"
        message = rf"{run} was trained on folder in \S*/mine \(\w+\), .* folder in {place}/other \(\w+\): {remedy}"
        assert re.fullmatch(message, str(error.value).replace(str(moved), "/mine"))
    evaluation = [f"--workdir={run}", "--mode=evaluate", f"--config.data.manual_dir={place}/other"]
    printed = call(*evaluation, "--config.eval.data=folder").splitlines()
    assert re.fullmatch(
        rf"{run}: trained on folder in .* \(\w+\), evaluated on folder in {place}/other \(\w+\)", printed[0]
    )
    assert json.loads((run / "results.json").read_text())["dataset"]["folder"] == f"{place}/other"
    label = np.asarray(Image.open(moved / "labels/0.png")).copy()
    label[0, 0] ^= 1
    Image.fromarray(label).save(moved / "labels/0.png")
    with pytest.raises(UserError, match=rf"folder in {moved} \(\w+\).*changed"):
        call("--mode=evaluate", f"--workdir={run}", f"--config.data.manual_dir={moved}")


def test_a_data_folder_with_the_name_of_a_built_in_data_set(place, tmp_path, monkeypatch):
    """The runs on the two have different default folders."""
    (place, settings), config = place, f"--config={os.path.abspath('configs/fcn.py')}"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "mine", "photos/scenes")
    mine = [f"{config}:folder", *settings, "--config.data.manual_dir=photos/scenes"]
    assert parse(*mine).workdir == "runs/fcn-photos-scenes" and parse(config).workdir == "runs/fcn-scenes"
    shutil.copytree(place / "run", "runs/fcn-photos-scenes")
    assert parse(*mine).workdir.endswith("photos-scenes") and parse(config).workdir == "runs/fcn-scenes"
    shutil.move("runs/fcn-photos-scenes", "runs/fcn-scenes")  # the name that earlier versions gave it
    saved = json.loads((tmp_path / "runs/fcn-scenes/config.json").read_text())
    saved["dataset"]["folder"] = str(tmp_path / "photos/scenes")
    (tmp_path / "runs/fcn-scenes/config.json").write_text(json.dumps(saved))
    assert parse(*mine).workdir == "runs/fcn-scenes"
    with pytest.raises(UserError, match=r"config\.data\.name is scenes .* folder .*--workdir"):
        call(config)


def test_a_sweep_refuses_its_runs_on_earlier_contents_of_the_folder(place, tmp_path):
    (place, settings), mine = place, shutil.copytree(place[0] / "mine", tmp_path / "mine")
    command = [FCN, "--mode=sweep", *settings, f"--config.data.manual_dir={mine}", f"--workdir={tmp_path}/sweep"]
    call(*command)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(mine / "labels/0.png")
    with pytest.raises(UserError, match=r"sweep/\S+ .*folder in \S+ \(\w+\).*changed"):
        call(*command)


def test_reports_and_pictures_compare_only_runs_on_the_same_data(place, run, tmp_path):
    """The contents decide. The report of a run that was evaluated on other data says so."""
    (place, settings), other = place, f"{tmp_path}/other"
    data = f"--config.data.manual_dir={place}/other"
    call(FCN, *settings, data, f"--workdir={other}")
    with pytest.raises(UserError, match=rf"{other} .*folder in {place}/other \(\w+\).*{run} .*same data"):
        call("--mode=report", f"--workdir={run},{other}")
    call(f"--workdir={run}", "--mode=evaluate", data, "--config.eval.data=folder")
    assert f"folder in {place}/other" in (run / "report.html").read_text()
    call("--mode=report", f"--workdir={run},{other}")  # both are now evaluated on the same data
    for folder in (run, other):
        saved = json.loads(open(f"{folder}/config.json").read())
        saved["data"] |= {"data_dir": f"{tmp_path}/nowhere", "manual_dir": "/nowhere"}
        open(f"{folder}/config.json", "w").write(json.dumps(saved))
    with pytest.raises(UserError, match=f"{other} .*folder in .*{run} .*same data"):
        call("--mode=pictures", f"--workdir={run},{other}", "--images=0")


@pytest.mark.parametrize("older", [False, True])
def test_a_run_can_be_used_without_its_data(older, place, run, tmp_path):
    """It predicts, exports, reports and draws. So does an older run, which has its classes only in results.json. Nothing is prepared."""
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"data_dir": f"{tmp_path}/nowhere", "manual_dir": "/nowhere"}
    if older:
        config.pop("dataset")
    (run / "config.json").write_text(json.dumps(config))
    call(f"--workdir={run}", "--mode=predict", f"--input={place[0]}/mine/images/0.png")
    assert Image.open(run / "predictions/0.png").getpalette()[:6] == [10, 20, 30, 40, 50, 60]
    call(f"--workdir={run}", "--mode=export")
    assert call(f"--workdir={run}", "--mode=report") == f"{run}/report.html\n"
    drawn = call(f"--workdir={run}", "--mode=pictures", "--images=0").splitlines()
    assert drawn == [f"{run}/pictures/{name}.png" for name in ("predictions", "confusion")]
    with pytest.raises(UserError, match=f"--images has 99.*{run}/samples.npz .*0 to "):
        call(f"--workdir={run}", "--mode=pictures", "--images=99")
    assert not (tmp_path / "nowhere").exists()


def test_the_best_checkpoint_may_be_known_only_from_results(run):
    """A run was stopped before its own evaluation, and --mode=evaluate has evaluated it."""
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines(True) if '"eval"' not in line]
    (run / "metrics.jsonl").write_text("".join(lines))
    where = [f"--input={run}/x.png", "--mode=predict", f"--workdir={run}"]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run / "x.png")
    call(*where, "--checkpoint=best")
    with pytest.raises(UserError, match="checkpoints .*step 77"):  # although all images have results
        call(*where, "--checkpoint=77")
    shutil.rmtree(run / "checkpoints")
    for mode in ("predict", "export"):
        with pytest.raises(UserError, match="no checkpoint.*train"):
            call(f"--mode={mode}", f"--workdir={run}", f"--output={run}/new", *where[: mode == "predict"])
    assert not (run / "checkpoints").exists()


def test_a_run_without_a_recorded_data_set_continues_with_a_note(place, run, capsys):
    config = json.loads((run / "config.json").read_text())
    dataset = config.pop("dataset")
    (run / "config.json").write_text(json.dumps(config))
    call("--mode=train", f"--workdir={run}")
    note = capsys.readouterr().err
    assert f"note: {run} " in note and "data set" in note
    assert json.loads((run / "config.json").read_text())["dataset"] == dataset
    (run / "config.json").write_text(json.dumps(config | {"dataset": {"name": 3}}))
    with pytest.raises(UserError, match=r"config\.json is damaged: dataset "):
        call("--mode=train", f"--workdir={run}")
