"""Overrides that nothing reads: each is an error, wherever it is given; and what the modules say of their fields is so."""

import dataclasses
import itertools
import re
import sys
import typing
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ctxseg.commands import command_line, report
from ctxseg.configs import defaults, zigzag
from ctxseg.errors import UserError
from ctxseg.evaluation import evaluate
from ctxseg.models import CONTEXTS, MultiScale, create_model
from ctxseg.runs import workdir
from ctxseg.settings import collect, reading
from ctxseg.settings.fields import flatten
from ctxseg.studies import sweep
from ctxseg.studies.tables import Column, Row, Table


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def parse(system, *fields, **flags):
    arguments = [f"--config.{field}" for field in fields] + [f"--{flag}={value}" for flag, value in flags.items()]
    return command_line.parse(["main.py", f"--config=configs/{system}.py", *arguments]).config


# System, fields that make it read the last one, and what is said without them.
CASES = {
    "a context's": ("zigzag", "model.context.name=ppm", "model.context.bins=(1,)", "ppm, ann, apcnet have it"),
    "that of another value": (
        "zigzag", "model.context.region_context=rce", "model.context.subdivisions=(2,)",
        "rce has it, and zigzag with region_context=rce",
    ),
    "that of two values": (
        "zigzag", "model.context.exchange=True", "model.context.stages=3", "msci has it, and zigzag with exchange=True, fusion=True",
    ),
    "that of one or another": (
        "zigzag", "model.context.exchange=True", "model.context.bring=average",
        "zigzag with readout=up, fusion=True, or with stages=2 or more, exchange=True, fusion=True has it",
    ),
    "that of one pass": ("zigzag", "model.context.fusion=True", "model.context.exchange=True", "zigzag with fusion=True has it"),
    "a switch's": ("encoder_decoder", "model.context.aspp=True", "model.context.dilations=(2,)",
                   "aspp, deeplabv3plus have it, and zigzag with region_context=aspp, and encoder_decoder with aspp=True"),
    "a backbone's": ("fcn", "model.backbone.name=resnet34", "model.backbone.stem=conv3",
                     "resnet18, resnet34, resnet50, resnet101, resnet152 have it"),
    "a memory's": ("fcn", "model.memory.name=mcibi", "model.memory.fusion=add", "mcibi has it"),
    "a memory's beginning's": ("mcibi", "model.memory.first=clustering", "model.memory.clustering_batches=3",
                               "mcibi with first=random or clustering has it"),
    "the memory's entries'": ("mcibi", "loss.memory=1.0", "model.memory.consistency_norm=entries", "it wants config.loss.memory and"),
    "a rotation's": ("fcn", "data.rotate=10.0", "data.rotate_share=0.5", "it wants config.data.rotate above 0"),
    "phases'": ("fcn", "model.context.name=msci", "model.context.reset_states=True", "msci with cell_states=True, phases=all has it"),
    "the connections'": ("fcn", "model.connections.name=msci", "model.connections.stages=1", "msci has it"),
    "an auxiliary head's": ("fcn", "model.auxiliary.levels=('res4',)", "loss.heads=0.2", "it wants config.model.auxiliary.levels"),
    "super-pixels at scales": ("msci", "eval.scales=(0.5, 1.0)", "eval.superpixels=scale", "it wants super-pixels, and"),
    "scales": ("fcn", "model.scales.merge=max", "model.scales.scales=(1.0,)", "attention, average, max have it"),
    "a head's": ("fcn", "model.scales.merge=attention", "model.scales.head_kernel=1", "attention has it"),
    "a head's layer's": ("attention", "model.scales.head_layers=2", "model.scales.head_filters=8",
                         "attention with head_layers=2 has it"),
    "a schedule's": ("fcn", "optimizer.schedule=poly", "optimizer.poly_power=1.0", "it wants config.optimizer.schedule=poly"),
    "another schedule's": ("fcn", "optimizer.schedule=step", "optimizer.step_boundaries=(3,)",
                           "it wants config.optimizer.schedule=step"),
    "momentum's": ("fcn", "optimizer.momentum=0.9", "optimizer.nesterov=True", "it wants config.optimizer.momentum above 0"),
    "a loss of scores": ("fcn", "model.context.name=ocr", "loss.auxiliary=0.4", "it wants more scores than the classifier's"),
    "a loss of the memory": ("fcn", "model.memory.name=mcibi", "loss.memory=0.0", "it wants a memory: config.model.memory.name"),
    "a loss of scales": ("fcn", "model.scales.merge=average", "loss.scales=0.0", "it wants several scales"),
    "super-pixels": ("fcn", "model.context.name=msci", "data.superpixels=9", "it wants config.model.context.name=msci, or connections"),
    "a window's": ("fcn", "eval.window=(32, 32)", "eval.stride=0.5", "it wants config.eval.window"),
    "a size's": ("fcn", "eval.size=(32, 32)", "eval.score=resized", "it wants config.eval.size"),
    "a CRF's": ("fcn", "eval.crf.iterations=2", "eval.crf.colour_sigma=3.0", "it wants config.eval.crf.iterations"),
}  # fmt: skip
# What takes the condition away, where the system has it.
AGAINST = {
    "model.context.region_context=rce": "model.context.region_context=gcn",
    "model.context.exchange=True": "model.context.exchange=False",
    "model.context.fusion=True": "model.context.fusion=False",
    "model.scales.head_layers=2": "model.scales.head_layers=1",
    "optimizer.schedule=poly": "optimizer.schedule=constant",
    "model.memory.first=clustering": "model.memory.first=mean",
    "loss.memory=1.0": "loss.memory=0.0",
    "optimizer.momentum=0.9": "optimizer.momentum=0",
}


@pytest.mark.parametrize("kind", CASES)
def test_an_override_that_nothing_reads_is_an_error(kind):
    system, condition, override, readers = CASES[kind]
    field = override.partition("=")[0]
    assert field not in reading.unread(parse(system, condition, override))
    others = [AGAINST[condition]] if condition in AGAINST else []
    with pytest.raises(UserError) as error:
        parse(system, *others, override)
    assert str(error.value).startswith(f"config.{field} is read by nothing here: {readers}")
    assert "\n" not in str(error.value)


def test_an_override_of_the_same_value_is_one_too():
    for override in ("model.context.aspp=None", "data.superpixels=0", "loss.scales=1.0"):
        with pytest.raises(UserError, match="is read by nothing here"):
            parse("fcn", override)


def test_modes_read_what_they_are_for():
    context, costs = "model.context.dilations=(2,)", "complexity.channels=8"
    for mode, override in (("complexity", costs), ("complexity", context), ("prepare", "data.superpixels=9")):
        parse("fcn", override, mode=mode)
        with pytest.raises(UserError, match="is read by nothing here"):
            parse("fcn", override)
    with pytest.raises(UserError, match="dilations is read by nothing here: aspp"):  # of the rows that are asked for
        parse("fcn", context, "complexity.contexts=('ppm',)", mode="complexity")
    with pytest.raises(UserError, match="wants another mode than complexity, which has config.complexity.contexts"):
        parse("fcn", "model.context.channels=8", mode="complexity")
    parse("fcn", "eval.crf.spatial_sigma=2.0", mode="crf")
    searched = {f"eval.crf.{name}" for name in evaluate.CRF_GRID}
    assert {f for f in reading.unread(defaults.get_config(), "crf") if f.startswith("eval.crf.")} == searched


def test_what_a_config_file_says_and_nothing_reads_is_dropped(tmp_path):
    """But for what --mode=crf, evaluate or complexity may still read of the run."""
    config = parse("msci", "model.context.name=aspp", "model.context.dilations=(2,)")
    context = config.model.context
    assert (context.stages, context.region_pool, context.regions, config.data.superpixels) == (None, None, None, 0)
    assert (context.channels, context.dilations) == (24, (2,))
    config = parse("msci")
    assert (config.model.context.stages, config.model.context.regions, config.data.superpixels) == (2, 128, 128)
    assert parse("msci", "data.superpixels=64").model.context.regions == 64

    # Runs of before have it in their config.json, and are the same runs.
    config = zigzag.get_config()
    config.model.context.name = "aspp"
    workdir.claim(str(tmp_path), config)
    now = parse("zigzag", "model.context.name=aspp")
    assert config.model.context.stages == 2 and now.model.context.stages is None
    workdir.check_same(str(tmp_path / "config.json"), now)
    assert report.usual(tmp_path)["model"]["context"]["stages"] == 2
    with pytest.raises(UserError, match="config.model.context.name is zigzag here and aspp there"):
        workdir.check_same(str(tmp_path / "config.json"), parse("zigzag"))


def plan(rows, common=(), **parts):
    table = Table("t", "", "scenes", rows, **parts)
    return sweep.plan(table, 1, "x", common, lambda arguments: command_line.read_flags(["main.py", *arguments]).config)


def test_an_override_of_all_rows_is_read_by_one():
    rows = [Row("a", "fcn"), Row("b", "deeplabv3")]
    first, second = plan(rows, common=["--config.model.context.dilations=(3,)"]).values()
    assert (first.config.model.context.dilations, second.config.model.context.dilations) == (None, (3,))
    assert not [a for a in first.arguments if "dilations" in a] and [a for a in second.arguments if "dilations" in a]
    with pytest.raises(UserError, match=r"^t: config\.model\.memory\.fusion is read by nothing here: mcibi has it$"):
        plan(rows, common=["--config.model.memory.fusion=add"])
    grid = sweep.grid("fcn", "scenes", ["model.context.name=none,aspp", "model.context.fuse_kernel=1,3"])
    with pytest.raises(
        UserError, match=r"row 0 \(name=none, fuse_kernel=1\): config\.model\.context\.fuse_kernel is read"
    ):
        plan(grid.rows)


def test_an_override_of_a_row_is_read_by_the_row():
    rows = [
        Row("a", "deeplabv3", {"model.context.dilations": (3,)}),
        Row("b", "fcn", {"model.context.dilations": (3,)}),
    ]
    with pytest.raises(
        UserError, match=r"^t, row 1 \(b\): config\.model\.context\.dilations is read by nothing here: aspp"
    ):
        plan(rows)


def test_an_override_of_a_column_is_read_by_one_of_its_runs():
    columns = [Column("without", overrides={"loss.scales": 0.0}), Column("with", overrides={"loss.scales": 1.0})]
    rows = [Row("a", "fcn"), Row("b", "attention")]
    runs = plan(rows, columns=columns)
    assert runs[0, 0, 0, 0] is runs[0, 1, 0, 0] and runs[1, 0, 0, 0] is not runs[1, 1, 0, 0]
    assert [runs[1, c, 0, 0].config.loss.scales for c in (0, 1)] == [0, 1]
    with pytest.raises(
        UserError, match=r"^t, column 0 \(without\): config\.loss\.scales is read by nothing here: it wants"
    ):
        plan(rows[:1], columns=columns)
    with pytest.raises(UserError, match=r"^t, fold 1: config\.eval\.stride is read by nothing here"):
        plan(rows, folds=[{}, {"eval.stride": 0.5}])


# What the modules say of themselves.

CLASSES = {module for _, _, modules in collect.CHOSEN.values() for module in modules.values() if module is not None}


def test_conditions_name_fields_and_values_that_there_are():
    for module in CLASSES:
        cls = module.func if isinstance(module, partial) else module
        hints, own = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
        for field in getattr(cls, "READ_WHEN", {}):
            assert field in own, (cls, field)
            for other, values in (pair for way in reading.when(module, field) for pair in way.items()):
                assert other in own and set(values[:99]) < possible(hints[other]), (cls, field, other)
                assert values and (isinstance(values, tuple) or (values[0] > 1 and values.stop == sys.maxsize))
    config = defaults.get_config()
    names = [name for names, _, _ in reading.conditions(config, "train", set()) for name in names]
    assert len(set(names)) == len(names) and set(names) <= set(flatten(config))


def possible(kind):
    """What a field of a type may be; of a number, the first few."""
    return {bool: {True, False}, int: set(range(1, 200))}.get(kind) or set(typing.get_args(kind))


# A module, small, and of each field in its `READ_WHEN` another value than this.
SMALL = {
    "zigzag": (
        {"levels": ("a", "b", "c"), "channels": 2, "stages": 2, "subdivisions": (2,), "norm": "none", "context_norm": "none"},
        {
            "stages": 1, "subdivisions": (3,), "region_pool": "sum", "combine": "sum", "fuse_kernel": 1, "dilations": (2,),
            "fuse_order": "norm_relu_conv", "readout": "up", "bring": "average", "exchange": False,
        },
    ),
    "msci": (
        {"levels": ("a", "b", "c"), "channels": 2, "stages": 1},
        {"region_pool": "mean", "regions": 7, "region_shape": "grid", "reset_states": True},
    ),
    "encoder_decoder": ({"levels": ("a", "b"), "channels": 2}, {"dilations": (2,)}),
    "renet": ({"levels": ("a",), "units": (2,)}, {"l2_scale": 3.0}),
    "scales": ({}, {"head_input": "logits", "head_layers": 1, "head_kernel": 1, "head_filters": 8}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_the_conditions_are_those_of_the_code(name):
    """A module's operations depend on a field where it is said to be read, and nowhere else: under all combinations of its conditions,
    each met and failed."""
    given, others = SMALL[name]
    module = CONTEXTS.get(name, MultiScale)
    assert others.keys() == module.READ_WHEN.keys()
    maps = {key: jnp.zeros((1, 8 // 2**i, 8 // 2**i, 2)) for i, key in enumerate("abc")}
    config = defaults.get_config().model
    config.backbone.name = "none"

    def operations(fields):
        return trace(frozenset(of for of in fields if of not in collect.defaults_of(module).items()))

    @cache
    def trace(fields):
        if name == "scales":
            network = module(create_model(config, 2), **dict(fields))
            inputs = (jnp.zeros((1, 16, 16, 3)),)
        else:
            network, inputs = module(**given | dict(fields)), (maps, jnp.zeros((1, 16, 16), jnp.int32))
        traced = jax.make_jaxpr(network.init_with_output)(jax.random.key(0), *inputs)
        return re.sub("0x[0-9a-f]+", "", str(traced)), str(traced.consts)

    hints = typing.get_type_hints(module)
    for field, other in others.items():
        ways, change = reading.when(module, field), {(field, other)}
        tried = {}  # of each field that it depends on, a value that meets a condition, and one that fails it
        for of, values in (pair for way in ways for pair in way.items()):
            failing = min(possible(hints[of]) - set(values[:99]), key=str)
            tried.setdefault(of, set()).update({values[0], failing})
        found = set()
        for chosen in itertools.product(*tried.values()):
            section = dict(zip(tried, chosen, strict=True))
            read = any(all(section[of] in values for of, values in way.items()) for way in ways)
            pairs = set(section.items())
            assert (operations(pairs) != operations(pairs | change)) == read, (field, section)
            found.add(read)
        assert found == {True, False}, field
