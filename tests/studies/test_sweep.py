"""Sweeps: their plan, the execution of runs by a stand-in for main.py, and the resulting tables."""

import csv
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ctxseg import commands, files
from ctxseg.commands import command_line
from ctxseg.configs import datasets
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.runs import metrics_log
from ctxseg.studies import execution, sweep, tables
from ctxseg.studies.execution import execute, read_scores, unique
from ctxseg.studies.tables import Column, Row, Table

ROOT = Path(__file__).parents[2]
TABLES = sorted(p.stem for p in (ROOT / "configs" / "tables").glob("[a-z]*.py"))
THREE = Table(
    "three",
    "Paper, Table 1",
    "scenes",
    [
        Row("none", "zigzag", {"model.context.exchange": False}, (80.0,)),
        Row("half", "zigzag", {"model.context.dense": False}, (81.0,)),
        Row("all", "zigzag", {}, (83.5,)),
    ],
)


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def resolve(arguments):
    """The config of a run; for the stand-in, a line in the file `$RESOLVED`."""
    config = command_line.read_flags(["main.py", *arguments]).config
    if "RESOLVED" in os.environ:
        with open(os.environ["RESOLVED"], "a") as file:
            file.write(json.dumps([list(arguments), config.to_dict()]) + "\n")
    return config


def plan(table, folder, seeds=1, common=()):
    return sweep.plan(table, seeds, str(folder), common, resolve)


# Replaces main.py and writes results that depend only on the config. In the parent folder, a file `fault` makes the run that it names
# fail, and a file `slow` makes every run wait until the file is gone. It looks up the config of its arguments, because importing the
# command line takes seconds.
STAND_IN = """
import json, os, pathlib, sys, time
*arguments, workdir = sys.argv[1:]
folder = pathlib.Path(workdir.removeprefix("--workdir="))
with open(os.environ["RESOLVED"]) as f:
    config = next(config for given, config in map(json.loads, f) if given == arguments)
above = folder.parent
with open(above / "log", "a") as f:
    f.write(folder.name + (" again" if (folder / "checkpoints").exists() else "") + "\\n")
if (above / "fault").exists() and (above / "fault").read_text() == folder.name:
    sys.exit("error: the loss became nan")
while (above / "slow").exists():
    time.sleep(0.1)
(folder / "config.json").write_text(json.dumps(config))
(folder / "checkpoints").mkdir(exist_ok=True)
context, steps = config["model"]["context"], config["train"]["steps"]
score = 0.5 + 0.1 * (context["exchange"] is None) + 0.01 * config["seed"] + 0.02 * config["eval"]["flip"]
score += 0.03 * (context["exchange"] is None and context["dense"] is None)
metrics = [{"kind": "train", "step": step, "images_per_second": 10.0} for step in (100, steps)]
(folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\\n" for m in metrics))
(folder / "results.json").write_text(json.dumps({
    "mIoU": score, "eval": config["eval"], "pixel_accuracy": 0.9, "mean_accuracy": None, "step": steps,
    "parameters": 2_500_000, "per_class_iou": {"a": score, "b": None if "half" in folder.name else score},
}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("RESOLVED", str(tmp_path / "resolved"))
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "sweep").mkdir()
    yield [sys.executable, str(tmp_path / "stand_in.py")]
    (tmp_path / "sweep" / "slow").unlink(missing_ok=True)  # no process outlives a test that fails


def test_grid():
    table = sweep.grid("fcn", "scenes", ["data.crop=(64,64), (96,96)", "config.optimizer.learning_rate=0.01,0.02"])
    assert [row.name for row in table.rows] == [
        "crop=(64,64), learning_rate=0.01",
        "crop=(64,64), learning_rate=0.02",
        "crop=(96,96), learning_rate=0.01",
        "crop=(96,96), learning_rate=0.02",
    ]
    configs = [run.config for run in plan(table, "x").values()]
    assert [c.data.crop for c in configs] == [(64, 64), (64, 64), (96, 96), (96, 96)]
    assert [c.optimizer.learning_rate for c in configs] == [0.01, 0.02, 0.01, 0.02]
    assert [row.overrides for row in sweep.grid("fcn", "scenes", []).rows] == [{}]  # only seeds
    for wrong in ("stages", "=3", "a=", "a=1,,2"):
        with pytest.raises(UserError, match=f"--sweep={wrong}: .*FIELD=VALUE"):
            sweep.grid("fcn", "scenes", [wrong])
    with pytest.raises(UserError, match=r"--sweep .*twice .*train\.steps"):
        sweep.grid("fcn", "scenes", ["train.steps=1", "train.steps=2"])
    with pytest.raises(UserError, match="--sweep=a=1,2,1: .*different"):
        sweep.grid("fcn", "scenes", ["a=1,2,1"])


def test_rows_and_columns_share_equal_runs():
    columns = [Column("a", overrides={"data.rotate": 0.0}), Column("b", overrides={"data.rotate": 5.0})]
    rows = [
        Row("base", "fcn", {"data.rotate": 5.0}),
        Row("other", "fcn"),
        Row("not here", None, {}, (3.0,)),
    ]
    runs = plan(Table("t", "", "scenes", rows, columns), "runs/t", seeds=2)
    assert list(runs) == [(r, c, seed, 0) for seed in (0, 1) for r in (0, 1) for c in (0, 1)]
    assert runs[0, 0, 0, 0] is runs[0, 1, 0, 0] is runs[1, 1, 0, 0] is not runs[1, 0, 0, 0]
    assert [run.folder for run in unique(runs.values())] == [
        "runs/t/0-base-a-0", "runs/t/1-other-a-0", "runs/t/0-base-a-1", "runs/t/1-other-a-1",
    ]  # fmt: skip
    assert {key[2]: run.config.seed for key, run in runs.items()} == {0: 0, 1: 1}


def test_a_row_has_overrides_on_one_data_set():
    """They take precedence over those of the row and of the column."""
    columns = [Column("a", overrides={"train.steps": 3}, dataset="scenes"), Column("b", dataset="camvid")]
    row = Row("row", "fcn", {"data.rotate": 5.0}, on={"camvid": {"data.rotate": 2.0}, "scenes": {"train.steps": 4}})
    table = Table("t", "", "papers", [row], columns)
    runs = plan(table, "runs/t")
    assert [(run.config.data.rotate, run.config.train.steps) for run in runs.values()] == [(5.0, 4), (2.0, 700)]
    runs = plan(table._replace(rows=[row._replace(on={"camvid": None})]), "runs/t")
    assert [(*key, run.config.data.name) for key, run in runs.items()] == [(0, 0, 0, 0, "scenes")]
    with pytest.raises(UserError, match=r"config\.seed .*--seeds"):
        plan(table._replace(rows=[row._replace(on={"camvid": {"seed": 1}})]), "runs/t")


def test_the_commands_resolve_to_the_configs():
    runs = plan(THREE, "runs/t", 2, ["--config.train.steps=9"])
    lines = list(execution.commands(runs.values()))
    assert lines[0] == (
        "python main.py --config=configs/zigzag.py:scenes --config.train.steps=9 --config.model.context.exchange=False "
        "--config.seed=0 --workdir=runs/t/0-none-0"
    )
    for line, run in zip(lines, runs.values(), strict=True):
        values = command_line.parse(line.split()[1:])
        assert values.config.to_dict() == run.config.to_dict() and values.workdir == run.folder


def test_common_overrides_replace_those_of_a_row():
    rows = [Row("a", "fcn", {"data.crop": (64, 64), "train.steps": 5}), Row("b", "fcn", {"data.crop": (96, 96)})]
    table = Table("t", "", "scenes", rows)
    runs = plan(table, "x", common=["--config.train.steps=9"])
    assert [(run.config.train.steps, run.config.data.crop) for run in runs.values()] == [(9, (64, 64)), (9, (96, 96))]
    with pytest.raises(UserError, match=r"t: rows 0 \(a\) and 1 \(b\) .*same run: --config.(train.steps|data.crop)"):
        plan(table, "x", common=["--config.train.steps=9", "--config.data.crop=32,32"])
    for seeded in (
        {"common": ["--config.seed=3"]},
        {"table": sweep.grid("fcn", "scenes", ["seed=0,1"])},
    ):
        with pytest.raises(UserError, match=r"config\.seed .*--seeds"):
            plan(**{"table": table, "folder": "x"} | seeded)


def test_a_result_is_the_mean_over_folds(tmp_path):
    table = importlib.import_module("ctxseg.configs.tables.nrenet_stanford").get_table()
    runs = plan(table, tmp_path, seeds=2)
    splits = [(seed, fold, run.config.eval.split) for (_, column, seed, fold), run in runs.items() if column == 0]
    assert splits == [(seed, i, f"fold{i}") for seed in (0, 1) for i in range(5)]
    assert all(run.config.eval.split not in run.config.train.split.split("+") for run in runs.values())
    for (_, _, seed, fold), run in runs.items():
        os.makedirs(run.folder, exist_ok=True)
        scores = {"step": run.config.train.steps, "eval": run.config.eval.to_dict(), "parameters": 1, "mIoU": 0.1}
        scores |= {"pixel_accuracy": 0.5 + 0.1 * fold + 0.02 * seed, "mean_accuracy": 0.4, "per_class_iou": {}}
        files.write_json(Path(run.folder) / "results.json", scores)
    results = sweep.tabulate(table, runs, {})
    cell = results["rows"][0]["cells"][0]
    assert cell["ours"] == {0: pytest.approx(70), 1: pytest.approx(72)} and cell["std"] == pytest.approx(2**0.5)
    assert "2 seeds" in tables.markdown(results) and results["rows"][0]["cells"][2]["ours"] == {}
    os.remove(Path(runs[0, 0, 1, 3].folder) / "results.json")  # a seed with a missing fold has no result
    assert sweep.tabulate(table, runs, {})["rows"][0]["cells"][0]["ours"] == {0: pytest.approx(70)}


# Tables that no paper prints.
OF_NO_PAPER = {"pretrained_camvid", "finetune_scenes", "hrenet_frozen", "rare_class", "small_backbones"}
# Arguments that a table needs.
NEEDED = {"hrenet_frozen": ("--config.model.pretrained=vgg16.pth",)}


@pytest.mark.parametrize("name", TABLES)
def test_every_table(name):
    """Every row has a valid network, on the paper's data and on the built-in data, and the paper's results."""
    get_table = importlib.import_module(f"ctxseg.configs.tables.{name}").get_table
    for table in (get_table(), get_table("scenes")):
        assert table.name == name
        tables.check(table)
        runs, created = plan(table, "x", common=NEEDED.get(name, ())), set()
        sweep.check_scores(table, runs)
        for run in execution.unique(runs.values()):
            key = json.dumps(run.config.model.to_dict(), sort_keys=True)
            if run.mode == "train" and key not in created:
                create_model(run.config.model, 21)
                created.add(key)
        if name in OF_NO_PAPER:
            assert not any(row.paper for row in table.rows)
            continue
        for row in table.rows:
            assert len(row.paper) == len(table.columns)
        if table == get_table():
            without = [row.name for row in table.rows if not any(result is not None for result in row.paper)]
            # The paper gives these only in words.
            assert all(row.endswith("on the connections") for row in without), without
    assert get_table("scenes").dataset == "scenes" and "scenes" in datasets.SMALL


def test_a_row_starts_from_another_run(tmp_path, stand_in):
    """That run comes first, once for all rows that start from it, and is no row of the table. It alone takes weights of all rows."""
    start = Row("first", "fcn", {"train.steps": 3}, dataset="camvid")
    rows = [Row("a", "fcn", start=start), Row("b", "fcn", {"train.steps": 2}, start=start), Row("c", "fcn")]
    runs = plan(Table("t", "", "scenes", rows), tmp_path / "sweep", common=("--config.model.pretrained=x.pth",))
    first, a, b, c = unique(runs.values())
    assert first is a.start is b.start and c.start is None and first.folder == str(tmp_path / "sweep" / "start-first-0")
    assert (first.config.data.name, first.config.train.steps, first.config.model.pretrained) == ("camvid", 3, "x.pth")
    assert (a.config.model.pretrained, c.config.model.pretrained) == (first.folder, "x.pth")
    assert [f"--config.model.pretrained={first.folder}" in run.arguments for run in (first, a, b, c)] == [
        False,
        True,
        True,
        False,
    ]
    assert [line.split("=")[-1] for line in execution.commands(runs.values())] == [r.folder for r in (first, a, b, c)]
    with pytest.raises(UserError, match=r"row 0 \(a\): start is .*no other row"):
        tables.check(Table("t", "", "scenes", [Row("a", "fcn", start=rows[0])]))


def test_rows_do_not_start_from_a_failed_run(tmp_path, stand_in, monkeypatch):
    started = []

    def fail(run, *_):
        started.append(run.title)
        return "broken"

    monkeypatch.setattr(execution, "_execute", fail)
    start = Row("first", "fcn", dataset="camvid")
    runs = plan(Table("t", "", "scenes", [Row("a", "fcn", start=start)]), tmp_path / "sweep")
    failed = execute(list(runs.values()), stand_in)
    assert started == ["first, seed 0"]
    assert sorted(failed.values()) == ["broken", "the run that it starts from failed: first, seed 0"]


def test_a_column_of_a_class(tmp_path, stand_in):
    """It has the IoU of the class; none if the class is neither in the truth nor in the prediction."""
    table = THREE._replace(columns=[Column("a", "IoU of a"), Column("b", "IoU of b")], rows=THREE.rows[:2])
    runs = plan(table, tmp_path / "sweep")
    execute(list(runs.values()), stand_in, jobs=2)
    tables.check(table)
    rows = sweep.tabulate(table, runs, {})["rows"]
    assert [[cell["ours"] for cell in row["cells"]] for row in rows] == [[{0: 50.0}, {0: 50.0}], [{0: 60.0}, {}]]
    assert rows[1]["cells"][0]["difference"] == pytest.approx(10)
    with pytest.raises(UserError, match=r"column 0 \(a\): score is 'IoU of a'.*scenes.*background, "):
        sweep.check_scores(table, runs)


def test_the_papers_tables_of_classes():
    """The transcribed numbers agree with the means in the paper, or leave a plausible IoU of the background."""
    parts, voc = (
        importlib.import_module(f"ctxseg.configs.tables.{name}").get_table()
        for name in ("attention_parts", "hrenet_voc_test")
    )
    assert [column.score for column in parts.columns[-2:]] == ["IoU of background", "mIoU"] and len(parts.columns) == 8
    *figures, mean = parts.rows[0].paper
    assert sum(figures) / 7 == pytest.approx(mean, abs=0.005)
    assert (voc.columns[1].score, voc.rows[1].paper[1]) == ("IoU of bicycle", 39.6)  # from the text of the paper
    for row in voc.rows:
        *figures, mean = row.paper
        assert len(figures) == 20 and 90 < 21 * mean - sum(figures) < 96, row.name
    persons = importlib.import_module("ctxseg.configs.tables.attention_coco_person").get_table
    assert {column.score for column in persons().columns} == {"IoU of person"}
    assert persons().rows[-1].paper == (70.14, 72.72) and persons("scenes").columns[0].score == "IoU of long wall"


# Rows and columns of the papers' tables, or whole tables, that have only the paper's results.
ONLY_PAPER = {
    "attention_voc_test": ...,  # test images, and from COCO
    "hrenet_voc_test": ...,  # the same
    "msci_state_of_the_art": {"VOC 2012 test"},
    "zigzag_state_of_the_art": {"VOC 2012 test"},
    "zigzag_instances_test": ...,
}  # fmt: skip
COMMAND = r"--config=\S+(?: --config\.\S+)*"


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_cannot_be_run_have_only_the_papers_result(name):
    """They need the labels of a test server. The table's note names the most similar runs, which are valid."""
    get_table = importlib.import_module(f"ctxseg.configs.tables.{name}").get_table
    only_paper = ONLY_PAPER.get(name, set())
    table = get_table()
    runs = {(r, c) for r, c, *_ in plan(table, "x", common=NEEDED.get(name, ()))}
    for (r, row), (c, column) in itertools.product(enumerate(table.rows), enumerate(table.columns)):
        names = {row.name, column.title}
        if column.dataset and not row.runs_on(column.dataset):  # the paper has no such result
            assert (r, c) not in runs and row.paper[c] is None
            continue
        assert ((r, c) not in runs) == (only_paper is ... or bool(names & only_paper)), names
        assert only_paper is ... or names & only_paper or not re.search(r"\btest\b", f"{names}"), names
    if only_paper is ...:
        assert not plan(get_table("scenes"), "x")
        assert f"{table.source}**; only the paper's figures\n" in tables.markdown(sweep.tabulate(table, {}, {}))
    assert bool(only_paper) == bool(re.search("only (the paper's|its) figures?", table.note))
    nearest = [command.split() for command in re.findall(COMMAND, table.note)]
    assert bool(nearest) == (bool(only_paper) and name != "zigzag_instances_test")
    for first, *rest in nearest:
        path, dataset = first.removeprefix("--config=").split(":")
        if path.startswith("configs/tables/"):
            other = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_table(dataset)
            assert len({r for r, *_ in plan(other, "x")}) == len(other.rows) and not rest
        else:
            command_line.parse(["main.py", first, *rest])


def test_only_attention_plus_has_random_scaling():
    """Attention to Scale, §4.2: "randomly scaling input images (from 0.6 to 1.4)"."""
    note = importlib.import_module("ctxseg.configs.tables.attention_voc_test").get_table().note
    _, crf, plus = (command.split() for command in re.findall(COMMAND, note))
    crf, plus = (command_line.parse(["main.py", *arguments]).config for arguments in (crf, plus))
    assert (crf.data.scale_range, plus.data.scale_range) == ((1.0, 1.0), (0.6, 1.4))
    assert crf.eval.crf.iterations == plus.eval.crf.iterations == 10 and plus.model.scales.merge == "attention"
    for name in ("attention_voc_imagenet", "attention_design"):
        table = importlib.import_module(f"ctxseg.configs.tables.{name}").get_table()
        for (r, *_), run in plan(table, "x").items():
            assert run.config.data.scale_range == (1.0, 1.0), table.rows[r].name
            if run.config.model.scales.merge != "none":
                assert len(run.config.model.scales.scales) in (2, 3, 4) and run.config.data.name == table.dataset
    assert table.dataset == "pascal_person_part"


def test_the_rows_of_hrenets_table_4():
    """(a) to (g) on the paper's data. According to Table 6, 72.6 is with 2 iterations of the CRF."""
    table = importlib.import_module("ctxseg.configs.tables.hrenet_variants").get_table()
    settings = []
    for run in plan(table, "x").values():
        config, context = run.config, run.config.model.context
        renet = (context.name, context.levels, context.entering) if context.name == "renet" else ("none",)
        settings.append((*renet, config.train.steps, config.optimizer.step_boundaries, config.eval.crf.iterations))
    conv7, three = ("conv7",), ("pool4", "pool5", "conv7")
    assert settings == [
        ("none", 12_000, (6_000,), 0),
        ("renet", conv7, "none", 30_000, (15_000,), 0),
        ("renet", conv7, "batch", 30_000, (15_000,), 0),
        ("renet", three, "batch", 40_000, (20_000,), 0),
        ("none", 12_000, (6_000,), 2),
        ("renet", conv7, "batch", 30_000, (15_000,), 2),
        ("renet", three, "batch", 40_000, (20_000,), 2),
    ]
    times = importlib.import_module("ctxseg.configs.tables.hrenet_time").get_table()
    assert [run.config.eval.crf.iterations for run in plan(times, "x").values()][::2] == [0, 0, 2]


def test_a_wrong_override_is_found_before_the_first_run(tmp_path, stand_in):
    for overrides, message in (
        (
            {"model.context.stagse": 3},
            r"three, row 1 \(half\): .*--config\.model\.context\.stagse: did you mean",
        ),
        ({"model.context.combine": "max"}, r"half, seed 0: config\.model\.context\.combine is 'max'.*product"),
        ({"model.backbone.output_stride": 64}, r"half, seed 0: config\.model\.backbone\.output_stride is 64"),
        ({"train.split": "trian"}, r"config\.train\.split is 'trian'.*scenes.*train, val"),
        ({"train.batch_size": 0}, r"half, seed 0: config\.train\.batch_size is 0"),
    ):
        rows = [THREE.rows[0], THREE.rows[1]._replace(overrides=overrides), THREE.rows[2]]
        with pytest.raises(UserError, match=message):
            sweep.sweep(THREE._replace(rows=rows), str(tmp_path / "sweep"), [], resolve, stand_in)
    with pytest.raises(UserError, match=r"--rows=3: .*0 to 2"):
        sweep.sweep(THREE, str(tmp_path / "sweep"), [], resolve, stand_in, rows="3")
    with pytest.raises(UserError, match="--seeds is 0.*at least 1"):
        sweep.sweep(THREE, str(tmp_path / "sweep"), [], resolve, stand_in, seeds=0)
    assert not (tmp_path / "sweep" / "log").exists()
    assert sweep.parse_rows("0,2-4", 5) == (0, 2, 3, 4)


def test_execute_runs_unfinished_runs_and_reports_failures(tmp_path, stand_in):
    folder = tmp_path / "sweep"
    (folder / "fault").write_text("1-half-0")
    runs = plan(THREE, folder, seeds=2)
    failed = execute(list(runs.values()), stand_in, jobs=2)
    assert failed == {str(folder / "1-half-0"): f"the loss became nan ({folder / '1-half-0' / 'log.txt'})"}
    results = sweep.tabulate(THREE, runs, failed)
    assert [row["cells"][0]["ours"] for row in results["rows"]] == [
        {0: 50.0, 1: 51.0}, {1: 61.0}, {0: 63.0, 1: 64.0},
    ]  # fmt: skip
    text = tables.markdown(results)
    assert "61.0 (1 of 2)" in text and "failed: half: the loss became nan" in text

    (folder / "fault").unlink()
    (folder / "log").unlink()
    assert execute(list(runs.values()), stand_in) == {}
    assert (folder / "log").read_text().split("\n") == ["1-half-0", ""]  # the others are not run again


def test_runs_that_differ_only_in_evaluation_are_trained_once(tmp_path, stand_in):
    table = THREE._replace(rows=[THREE.rows[2], Row("mirrored", "zigzag", {"eval.flip": True}, (84.0,))])
    runs = plan(table, tmp_path / "sweep")
    assert not execute(list(runs.values()), stand_in, jobs=2)
    assert (tmp_path / "sweep" / "log").read_text().split("\n") == ["0-all-0", "1-mirrored-0 again", ""]
    results = sweep.tabulate(table, runs, {})
    assert [row["cells"][0]["mean"] for row in results["rows"]] == pytest.approx([63, 65])


def test_results_of_other_configs_are_not_used(tmp_path, stand_in):
    """A run of another config stops the sweep, even in a row that is not selected. With another protocol, a run is evaluated again."""
    folder = str(tmp_path / "sweep")
    runs = plan(THREE, folder)
    execute(list(runs.values()), stand_in)
    sweep.check_folders(list(runs.values()))
    with pytest.raises(UserError, match=r"0-none-0 .*another config.*config\.optimizer\.learning_rate .*0\.5"):
        sweep.sweep(THREE, folder, ["--config.optimizer.learning_rate=0.5"], resolve, stand_in, rows="1")
    for common, is_same in (
        (["--config.eval.samples=2"], True),
        (["--config.eval.crf.iterations=1"], False),
        (["--config.eval.batch_size=1"], False),
    ):
        assert bool(read_scores(plan(THREE, folder, common=common)[0, 0, 0, 0])) == is_same, common


def test_a_damaged_file_fails_only_its_row(tmp_path, stand_in, capsys):
    runs = plan(THREE, tmp_path / "sweep")
    execute(list(runs.values()), stand_in)
    (tmp_path / "sweep/1-half-0/results.json").write_text("{")
    for name in ("0-none-0", "2-all-0"):
        (tmp_path / "sweep" / name / "images.npz").write_bytes(b"nothing")
    text = tables.markdown(sweep.tabulate(THREE, runs, {}))
    assert (
        "| 1 | half | failed |" in text
        and "1-half-0/results.json is damaged" in text
        and "| 2 | all | 63.0 | +13.0 |" in text
    )
    assert "images.npz is damaged" in capsys.readouterr().err
    (tmp_path / "sweep/1-half-0/results.json").unlink()
    (tmp_path / "sweep/1-half-0/log.txt").unlink()
    (tmp_path / "sweep/1-half-0/log.txt").mkdir()
    failed = execute(list(runs.values()), stand_in, jobs=2)
    assert list(failed.values()) == [f"{tmp_path}/sweep/1-half-0/log.txt: Is a directory"]


def test_a_sweep_that_is_killed_and_restarted_gives_the_same_table(tmp_path, stand_in, monkeypatch, capsys):
    """SIGTERM reaches the active runs. SIGKILL leaves them running: the next sweep waits for them and continues."""
    whole, folder = tmp_path / "whole", tmp_path / "sweep"
    code = (
        "import sys, tests.studies.test_sweep as t\n"
        "from ctxseg.studies import sweep\n"
        "sweep.check = sweep.prepare = lambda runs: None\n"
        "sys.exit(sweep.sweep(t.THREE, sys.argv[1], [], t.resolve, sys.argv[2:], seeds=2))\n"
    )

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder), *stand_in],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(path):
        for _ in range(6000):
            if path.exists():
                return
            time.sleep(0.05)
        raise AssertionError(f"no {path}")

    (folder / "slow").touch()
    first = start()
    wait_for(folder / "log")
    first.send_signal(signal.SIGTERM)
    assert "interrupted; " in first.communicate(timeout=1200)[1]
    (folder / "log").unlink()
    second = start()
    wait_for(folder / "log")
    second.kill()
    second.communicate()
    third = start()
    assert any("waiting for" in line and "0-none-0" in line for line in third.stderr)
    # The run that the second sweep left running.
    subprocess.run(["pkill", "-KILL", "-f", str(folder / "0-none-0")], check=True)
    (folder / "slow").unlink()
    out, _ = third.communicate(timeout=1200)
    monkeypatch.setattr(sweep, "check", lambda runs: None)
    monkeypatch.setattr(sweep, "prepare", lambda runs: None)
    assert third.returncode == sweep.sweep(THREE, str(whole), [], resolve, stand_in, seeds=2) == 0
    expected = capsys.readouterr().out
    assert out.replace(str(folder), "") == expected.replace(str(whole), "")
    assert (folder / "table.csv").read_text() == (whole / "table.csv").read_text()


def test_the_table_as_markdown_csv_and_html(tmp_path, stand_in):
    runs = plan(THREE, tmp_path / "sweep", seeds=2)
    execute(list(runs.values()), stand_in, jobs=2)
    rng = np.random.default_rng(0)
    for run in runs.values():
        truth = rng.integers(50, 90, (20, 2))
        share = 0.6 if "none" in run.folder else 0.8
        counts = np.stack([(share * truth).astype(int), truth, truth], -1).astype(np.int32)
        np.savez(Path(run.folder) / "images.npz", names=np.arange(20).astype(str), counts=counts)
    results = sweep.tabulate(THREE._replace(note="A note."), runs, {})
    text = tables.markdown(results)
    assert text.startswith(
        "**Paper, Table 1**; here on scenes, 2 seeds\n\n| # | row | mIoU | vs. first row | 95 % | paper |"
    )
    # 0.50, 0.51 → 50.5 ± 0.7; the default batch of scenes has 8 images, at 10 images per second.
    minutes = 8 * runs[0, 0, 0, 0].config.train.steps / 10 / 60
    assert f"| 0 | none | 50.5 ± 0.7 | – | – | 80.0 | – | 2.50 M | {minutes:.1f} |" in text
    low, high = results["rows"][2]["cells"][0]["interval"]
    assert f"| 2 | all | 63.5 ± 0.7 | +13.0 | {low:+.1f} to {high:+.1f} | 83.5 | +3.5 |" in text
    assert 15 < low < high < 30  # IoU 0.43 and 0.67
    assert (
        "A note." in text
        and "Pairs of rows that differ in the paper: 3. In the same order here: 3. Within the variation between seeds: 0."
        in text
    )

    page = sweep.write(results, str(tmp_path / "sweep"))
    content = Path(page).read_text()
    assert 'href="2-all-1/report.html"' in content and "50.5 ± 0.7" in content and "A note." in content
    with open(tmp_path / "sweep" / "table.csv") as f:
        lines = list(csv.reader(f))
    assert lines[0][:8] == ["row", "name", "column", "mean", "std", "difference", "low", "high"]
    assert lines[0][8:] == ["paper", "paper_difference", "parameters", "minutes", "seed 0", "seed 1"]
    assert lines[3] == [
        "2", "all", "mIoU", *(str(x) for x in (63.5, results["rows"][2]["cells"][0]["std"], 13.0, low, high, 83.5, 3.5, 2500000)),
        *(str(x) for x in (results["rows"][2]["minutes"], 63.0, 64.0)),
    ]  # fmt: skip
    assert json.loads((tmp_path / "sweep" / "table.json").read_text())["rows"][1]["cells"][0]["mean"] == 60.5


@pytest.mark.parametrize(
    "fault, message",
    [
        (
            {"rows": [Row("a", "fcn", {}, 50.0)]},
            r"row 0 \(a\): paper is 50.0; .*list of at most 1",
        ),
        (
            {"rows": [Row("a", "fcn", {}, (50.0, 49.0))]},
            r"row 0 \(a\): paper is \(50.0, 49.0\); .*list of at most 1",
        ),
        ({"rows": [Row("a", "fcn", ("train.steps", 4))]}, r"row 0 \(a\): overrides is .*; .*{field: value}"),
        ({"rows": [("a", "fcn")]}, "rows is .*; .*one or more Row"),
        ({"rows": []}, "rows is .*; .*one or more Row"),
        ({"columns": Column()}, "columns is .*; .*one or more Column"),
        (
            {"columns": [Column("accuracy", "acc")]},
            r"column 0 \(accuracy\): score is 'acc'; .*mIoU, pixel accuracy",
        ),
        ({"rows": [Row("a", "fcn", {}, (float("nan"),))]}, r"row 0 \(a\): paper is \(nan,\); .*list of at most 1"),
        ({"rows": [Row(5, "fcn")]}, r"names of rows is \[5\]; .*different texts"),
        ({"rows": [Row("a", "fcn"), Row("a", "zigzag")]}, "names of rows is .*'a', 'a'.*; .*different texts"),
        ({"columns": [Column(None)]}, r"names of columns is \[None\]; .*different texts"),
        ({"note": ["a", "b"]}, r"note is \['a', 'b'\]; .*text"),
        ({"mode": ["train"]}, r"mode is \['train'\]; .*train or complexity"),
        ({"folds": [{"seed": 1}, {"seed": 2}]}, "config.seed .*--seeds"),
        ({"columns": [Column(overrides={"seed": 1})]}, "config.seed .*--seeds"),
        ({"folds": [{}, {}]}, "folds 0 and 1 are the same run"),
        ({"name": "../t"}, r"table '../t': name is '../t'; .*folder"),
        ({"mode": "evaluate"}, "mode is 'evaluate'; .*train or complexity"),
    ],
)
def test_an_invalid_table_is_found_before_the_first_run(tmp_path, fault, message):
    with pytest.raises(UserError, match=message):
        sweep.sweep(THREE._replace(**fault), str(tmp_path / "sweep"), [], resolve, [], dry_run=True)
    assert not (tmp_path / "sweep").exists()


def test_the_papers_results_belong_to_the_data_set():
    get_table = importlib.import_module("ctxseg.configs.tables.mcibi_frameworks").get_table
    figures = {
        dataset: [row.paper for row in get_table(dataset).rows[:2]]
        for dataset in ("cityscapes", "coco_stuff", "scenes")
    }
    assert figures == {
        "cityscapes": [(75.16,), (78.50,)], "coco_stuff": [(35.11,), (39.95,)], "scenes": [(36.96,), (42.84,)],
    }  # fmt: skip
    assert "The paper's results are on ADE20K." in get_table("scenes").note and not get_table("lip").note


def test_means_over_different_classes_are_reported(tmp_path, stand_in):
    runs = plan(THREE, tmp_path / "sweep")
    execute(list(runs.values()), stand_in, jobs=2)
    remarks = tables.remarks(sweep.tabulate(THREE, runs, {}))
    assert any(
        "in the truth or in the prediction: 1 in runs of row 1; 2 in runs of row 0, 2" in text for text in remarks
    )
    assert "One seed does not show the variation between seeds." in remarks[0]


def test_orderings():
    cells = [
        (50.0, 1.0, 70.0),
        (60.0, 1.0, 69.0),
        (55.0, 1.0, 72.0),
        (55.0, 1.0, None),
        (None, None, 80.0),
        (40.0, 1.0, "similar"),
    ]
    cells += [(54.0, 1.0, 75.0)]
    rows = [{"name": str(i), "cells": [{"mean": m, "std": s, "paper": p}]} for i, (m, s, p) in enumerate(cells)]
    # In the paper 6 > 2 > 0 > 1; here 1 > 2 ≈ 6 > 0: 2 and 6 differ by 1, less than the variation of 1.4.
    pairs = tables.orderings({"columns": ["mIoU"], "rows": rows}, 0)
    assert (pairs.same, pairs.undecided) == (2, 1) and sorted(pairs.reversed) == [("0", "1"), ("2", "1"), ("6", "1")]


def test_small_numbers_keep_their_digits():
    """Such as the seconds in hrenet_time."""
    cell = {"ours": {0: 0}, "std": None, "interval": None, "classes": []}
    rows = [
        {"name": "a|b", "failed": None, "parameters": 1e6, "minutes": 2.0, "cells": [cell | {
            "mean": mean, "paper": paper, "difference": difference, "paper_difference": difference} for mean in means]}
        for means, paper, difference in (((0.21, 63.0), 0.21, None), ((0.24, 63.4), 0.24, 0.03))
    ]  # fmt: skip
    text = tables.markdown(
        {"source": "s", "dataset": "d", "seeds": 1, "note": "", "columns": ["seconds", "mIoU"], "rows": rows}
    )
    assert "| # | row | seconds: ours | seconds: vs. first row | seconds: paper |" in text
    assert r"| 1 | a\|b | 0.24 | +0.03 | 0.24 | +0.03 | 63.4 | +0.0 |" in text


def test_a_table_of_complexity(tmp_path):
    arguments = [
        "--config.complexity.input=1,8,8,16",
        "--config.complexity.channels=8",
        "--config.complexity.repeats=0",
    ]
    command = ["main.py", "--config=configs/tables/mcibi_complexity.py:scenes", "--mode=sweep", *arguments]
    assert commands.main([*command, "--rows=1", f"--workdir={tmp_path}"]) == 0
    results = json.loads((tmp_path / "table.json").read_text())
    # PPM: four 1×1 convolutions 16→8 and a 3×3 one 48→8, each with a scale and an offset.
    assert results["rows"][1]["cells"][0]["ours"] == {"0": pytest.approx((4 * (128 + 16) + 9 * 48 * 8 + 16) / 1e6)}
    assert results["rows"][1]["cells"][2]["ours"] == {} and results["rows"][0]["cells"][0]["mean"] is None


def test_command_line(tmp_path, tiny, capsys):
    """A grid with the real main.py: one run of a few steps."""
    common = [a for a in tiny if "steps" not in a]
    arguments = ["main.py", "--config=configs/fcn.py:camvid", "--mode=sweep", "--sweep=train.steps=2,3", *common]
    commands.main([*arguments, "--dry_run", f"--workdir={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(f"--config.train.steps=3 --config.seed=0 --workdir={tmp_path}/1-steps=3-0")
    commands.main([*arguments, "--row=1", f"--workdir={tmp_path}"])
    assert "| 1 | steps=3 | " in capsys.readouterr().out
    assert metrics_log.read_metrics(tmp_path / "1-steps=3-0")[-1]["step"] == 3 and not os.path.exists(
        tmp_path / "0-steps=2-0"
    )
    for wrong, message in (
        (["--row=0", "--rows=1"], "--row and --rows "),
        (["--sweeep=a=1"], "did you mean --sweep"),
        (["--seeds=many"], "seeds"),
        (["--row=2"], "0 to 1"),
        (["stages"], "'stages' .*--config.a.b=value"),
    ):
        with pytest.raises(UserError, match=message):
            commands.main([*arguments, *wrong, f"--workdir={tmp_path}"])
    with pytest.raises(UserError, match="table.*--mode=sweep"):
        commands.main(["main.py", "--config=configs/tables/zigzag_components.py"])
    with pytest.raises(UserError, match="is a table"):
        commands.main(
            ["main.py", "--config=configs/tables/zigzag_components.py:scenes", "--mode=sweep", "--sweep=seed=1,2"]
        )
