"""An override of a field that is not read is an error, in commands and in sweeps. Modules declare correctly which fields they read."""

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

from ctxseg.bounds import NONZERO
from ctxseg.commands import command_line, report
from ctxseg.configs import defaults, zigzag
from ctxseg.errors import UserError
from ctxseg.evaluation import semantic
from ctxseg.models import CONTEXTS, MultiScale, create_model
from ctxseg.models.context.none import NoContext
from ctxseg.runs import workdir
from ctxseg.settings import collect, reading
from ctxseg.settings.fields import flatten
from ctxseg.studies import sweep
from ctxseg.studies.tables import Column, Row, Table
from ctxseg.training import checks


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def parse(system, *fields, **flags):
    arguments = [f"--config.{field}" for field in fields] + [f"--{flag}={value}" for flag, value in flags.items()]
    return command_line.parse(["main.py", f"--config=configs/{system}.py", *arguments]).config


# {case: (system, a condition, a field that is read only under the condition, what the field needs according to the message)}.
CASES = {
    "context": ("zigzag", "model.context.name=ppm", "model.context.bins=(1,)", "ppm, ann or apcnet"),
    "one field of a context": (
        "zigzag", "model.context.region_context=rce", "model.context.subdivisions=(2,)",
        "rce, or zigzag with region_context=rce",
    ),
    "two fields of a context": (
        "zigzag", "model.context.exchange=True", "model.context.stages=3", "msci, or zigzag with exchange=True, fusion=True",
    ),
    "alternative fields of a context": (
        "zigzag", "model.context.exchange=True", "model.context.bring=average",
        "zigzag with readout=up, fusion=True, or with stages=2 or more, exchange=True, fusion=True",
    ),
    "fusion of zigzag": ("zigzag", "model.context.fusion=True", "model.context.exchange=True", "zigzag with fusion=True"),
    "switch of a context": ("encoder_decoder", "model.context.aspp=True", "model.context.dilations=(2,)",
                   "aspp or deeplabv3plus, or zigzag with region_context=aspp, or encoder_decoder with aspp=True"),
    "backbone": ("fcn", "model.backbone.name=resnet34", "model.backbone.stem=conv3",
                     "resnet18, resnet34, resnet50, resnet101 or resnet152"),
    "offsets of a backbone": ("fcn", "model.backbone.deformable=(0,0,0,1)", "model.backbone.offset_groups=2",
                     "tiny, resnet18, resnet34, resnet50, resnet101 or resnet152 with deformable=an entry above 0"),
    "memory": ("fcn", "model.memory.name=mcibi", "model.memory.fusion=add", "mcibi"),
    "initialisation of the memory": ("mcibi", "model.memory.first=clustering", "model.memory.clustering_batches=3",
                               "mcibi with first=random or clustering"),
    "weight of the memory's loss": ("mcibi", "loss.memory=1.0", "model.memory.consistency_norm=entries", "config.loss.memory and"),
    "rotation": ("fcn", "data.rotate=10.0", "data.rotate_share=0.5", "config.data.rotate above 0"),
    "phases of msci": ("fcn", "model.context.name=msci", "model.context.reset_states=True", "msci with cell_states=True, phases=all"),
    "connections": ("fcn", "model.connections.name=msci", "model.connections.stages=1", "msci"),
    "hidden convolution": ("fcn", "model.classifier.hidden=8", "model.classifier.hidden_kernel=3",
                           "config.model.classifier.hidden above 0"),
    "auxiliary heads": ("fcn", "model.auxiliary.levels=('res4',)", "loss.heads=0.2", "config.model.auxiliary.levels"),
    "super-pixels and several scales": ("msci", "eval.scales=(0.5, 1.0)", "eval.superpixels=scale", "super-pixels and config.eval.scales"),
    "scales": ("fcn", "model.scales.merge=max", "model.scales.scales=(1.0,)", "attention, average or max"),
    "attention over scales": ("fcn", "model.scales.merge=attention", "model.scales.head_kernel=1", "attention"),
    "layers of the attention head": ("attention", "model.scales.head_layers=2", "model.scales.head_filters=8",
                         "attention with head_layers=2"),
    "poly schedule": ("fcn", "optimizer.schedule=poly", "optimizer.poly_power=1.0", "config.optimizer.schedule=poly"),
    "step schedule": ("fcn", "optimizer.schedule=step", "optimizer.step_boundaries=(3,)",
                           "config.optimizer.schedule=step"),
    "momentum": ("fcn", "optimizer.momentum=0.9", "optimizer.nesterov=True", "config.optimizer.momentum above 0"),
    "auxiliary scores": ("fcn", "model.context.name=ocr", "loss.auxiliary=0.4", "auxiliary scores: config.model.context.name=ocr"),
    "loss of the memory": ("fcn", "model.memory.name=mcibi", "loss.memory=0.0", "a memory: config.model.memory.name"),
    "loss of several scales": ("fcn", "model.scales.merge=average", "loss.scales=0.0", "several scales: config.model.scales.merge"),
    "super-pixels": ("fcn", "model.context.name=msci", "data.superpixels=9", "config.model.context.name=msci, or connections"),
    "window": ("fcn", "eval.window=(32, 32)", "eval.stride=0.5", "config.eval.window"),
    "evaluation size": ("fcn", "eval.size=(32, 32)", "eval.score=resized", "config.eval.size"),
    "CRF": ("fcn", "eval.crf.iterations=2", "eval.crf.colour_sigma=3.0", "config.eval.crf.iterations"),
}  # fmt: skip
# {condition that the system already meets: override that breaks it}.
BREAKING = {
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
def test_an_override_of_an_unread_field_is_an_error(kind):
    system, condition, override, needs = CASES[kind]
    field = override.partition("=")[0]
    assert field not in reading.unread(parse(system, condition, override))
    others = [BREAKING[condition]] if condition in BREAKING else []
    with pytest.raises(UserError) as error:
        parse(system, *others, override)
    assert re.match(rf"config\.{re.escape(field)} is not used.* needs {re.escape(needs)}", str(error.value))
    assert "\n" not in str(error.value)


def test_an_override_with_the_default_value_is_an_error_too():
    for override in ("model.context.aspp=None", "data.superpixels=0", "loss.scales=1.0"):
        with pytest.raises(UserError, match="is not used"):
            parse("fcn", override)


def test_each_mode_accepts_the_fields_that_it_reads():
    context, costs = "model.context.dilations=(2,)", "complexity.channels=8"
    for mode, override in (("complexity", costs), ("complexity", context), ("prepare", "data.superpixels=9")):
        parse("fcn", override, mode=mode)
        with pytest.raises(UserError, match="is not used"):
            parse("fcn", override)
    with pytest.raises(UserError, match="dilations is not used.*needs aspp"):  # the rows of config.complexity.contexts
        parse("fcn", context, "complexity.contexts=('ppm',)", mode="complexity")
    with pytest.raises(UserError, match="config.model.context.channels .*mode.*complexity.*config.complexity.contexts"):
        parse("fcn", "model.context.channels=8", mode="complexity")
    parse("fcn", "eval.crf.spatial_sigma=2.0", mode="crf")
    searched = {f"eval.crf.{name}" for name in semantic.CRF_GRID}
    assert {f for f in reading.unread(defaults.get_config(), "crf") if f.startswith("eval.crf.")} == searched


def test_unread_values_of_a_config_file_are_dropped(tmp_path):
    """Values that --mode=crf, evaluate or complexity may read are kept."""
    config = parse("msci", "model.context.name=aspp", "model.context.dilations=(2,)")
    context = config.model.context
    assert (context.stages, context.region_pool, context.regions, config.data.superpixels) == (None, None, None, 0)
    assert (context.channels, context.dilations) == (24, (2,))
    config = parse("msci")
    assert (config.model.context.stages, config.model.context.regions, config.data.superpixels) == (2, 128, 128)
    assert parse("msci", "data.superpixels=64").model.context.regions == 64

    # Older runs have these values in their config.json. They count as the same runs.
    config = zigzag.get_config()
    config.model.context.name = "aspp"
    workdir.claim(str(tmp_path), config)
    now = parse("zigzag", "model.context.name=aspp")
    assert config.model.context.stages == 2 and now.model.context.stages is None
    workdir.check_same(str(tmp_path / "config.json"), now)
    assert report.config_without_overrides(tmp_path)["model"]["context"]["stages"] == 2
    with pytest.raises(UserError, match="config.model.context.name .*zigzag.*aspp"):
        workdir.check_same(str(tmp_path / "config.json"), parse("zigzag"))


def plan(rows, common=(), **parts):
    table = Table("t", "", "scenes", rows, **parts)
    return sweep.plan(table, 1, "x", common, lambda arguments: command_line.read_flags(["main.py", *arguments]).config)


def test_a_neck_reads_more_than_the_context_of_a_segmenter():
    """A detector reads all levels of ZigZagNet, and so `bring` with a single stage too."""
    fields = "model.context.stages=1", "model.context.bring=strided"
    with pytest.raises(UserError, match=r"model\.context\.bring is not used"):
        parse("zigzag", *fields)
    config = parse("zigzag_mask_rcnn", *fields, "model.backbone.name=tiny")
    assert "model.context.bring" in reading.effective(config)
    model = create_model(config.model, 2)
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), *model.example(()))
    assert "bring1to2_1" in shapes["params"]["neck"]["stage1"]


def test_a_common_override_must_be_read_by_at_least_one_row():
    rows = [Row("a", "fcn"), Row("b", "deeplabv3")]
    first, second = plan(rows, common=["--config.model.context.dilations=(3,)"]).values()
    assert (first.config.model.context.dilations, second.config.model.context.dilations) == (None, (3,))
    assert not [a for a in first.arguments if "dilations" in a] and [a for a in second.arguments if "dilations" in a]
    with pytest.raises(UserError, match=r"^t: config\.model\.memory\.fusion is not used.* needs mcibi$"):
        plan(rows, common=["--config.model.memory.fusion=add"])
    grid = sweep.grid("fcn", "scenes", ["model.context.name=none,aspp", "model.context.fuse_kernel=1,3"])
    with pytest.raises(
        UserError, match=r"row 0 \(name=none, fuse_kernel=1\): config\.model\.context\.fuse_kernel is not used"
    ):
        plan(grid.rows)


def test_an_override_of_a_row_must_be_read_by_the_row():
    rows = [
        Row("a", "deeplabv3", {"model.context.dilations": (3,)}),
        Row("b", "fcn", {"model.context.dilations": (3,)}),
    ]
    with pytest.raises(UserError, match=r"^t, row 1 \(b\): config\.model\.context\.dilations is not used.* needs aspp"):
        plan(rows)


def test_an_override_of_a_column_must_be_read_by_at_least_one_run():
    columns = [Column("without", overrides={"loss.scales": 0.0}), Column("with", overrides={"loss.scales": 1.0})]
    rows = [Row("a", "fcn"), Row("b", "attention")]
    runs = plan(rows, columns=columns)
    assert runs[0, 0, 0, 0] is runs[0, 1, 0, 0] and runs[1, 0, 0, 0] is not runs[1, 1, 0, 0]
    assert [runs[1, c, 0, 0].config.loss.scales for c in (0, 1)] == [0, 1]
    with pytest.raises(
        UserError, match=r"^t, column 0 \(without\): config\.loss\.scales is not used.* needs several scales"
    ):
        plan(rows[:1], columns=columns)
    with pytest.raises(UserError, match=r"^t, fold 1: config\.eval\.stride is not used"):
        plan(rows, folds=[{}, {"eval.stride": 0.5}])


class Regional(NoContext):
    """A context from outside the package that declares that it reads super-pixels. It has none of msci's fields."""

    most_superpixels = 9


def test_an_external_context_can_declare_that_it_reads_superpixels():
    name = f"model.context.name={__name__}:Regional"
    assert parse("fcn", name, "data.superpixels=9").data.superpixels == 9
    with pytest.raises(UserError, match="config.data.superpixels is 10; expected at most 9, .*config.model.context"):
        checks.check_fields(parse("fcn", name, "data.superpixels=10"))


# The declarations of the modules.

CLASSES = {module for _, _, modules in collect.CHOSEN.values() for module in modules.values() if module is not None}


def test_conditions_name_existing_fields_and_values():
    for module in CLASSES:
        cls = module.func if isinstance(module, partial) else module
        hints, names = typing.get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
        for field in getattr(cls, "READ_WHEN", {}):
            assert field in names, (cls, field)
            for other, values in (pair for alternative in reading.when(module, field) for pair in alternative.items()):
                assert other in names, (cls, field, other)
                if values is NONZERO:
                    assert typing.get_origin(hints[other]) is tuple, (cls, field, other)
                    continue
                assert set(values[:99]) < possible(hints[other]), (cls, field, other)
                assert values and (isinstance(values, tuple) or (values[0] > 1 and values.stop == sys.maxsize))
    config = defaults.get_config()
    names = [name for names, _, _ in reading.conditions(config, "train", {}) for name in names]
    assert len(set(names)) == len(names) and set(names) <= set(flatten(config))


def possible(annotation):
    """The values of a field with this annotation; for a number, the first few."""
    return {bool: {True, False}, int: set(range(200))}.get(annotation) or set(typing.get_args(annotation))


# {name: (fields of a small module, {field in `READ_WHEN`: another value})}.
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
def test_conditions_match_the_code(name):
    """A module's operations depend on a field exactly if its conditions in `READ_WHEN` are met. All combinations are tried."""
    small, others = SMALL[name]
    module = CONTEXTS.get(name, MultiScale)
    assert others.keys() == module.READ_WHEN.keys()
    maps = {key: jnp.zeros((1, 8 // 2**i, 8 // 2**i, 2)) for i, key in enumerate("abc")}
    config = defaults.get_config().model
    config.backbone.name = "none"

    def operations(fields):
        return trace(frozenset(pair for pair in fields if pair not in collect.defaults_of(module).items()))

    @cache
    def trace(fields):
        if name == "scales":
            network = module(create_model(config, 2), **dict(fields))
            inputs = (jnp.zeros((1, 16, 16, 3)),)
        else:
            network, inputs = module(**small | dict(fields)), (maps, jnp.zeros((1, 16, 16), jnp.int32))
        traced = jax.make_jaxpr(network.init_with_output)(jax.random.key(0), *inputs)
        return re.sub("0x[0-9a-f]+", "", str(traced)), str(traced.consts)

    hints = typing.get_type_hints(module)
    for field, other in others.items():
        alternatives, change = reading.when(module, field), {(field, other)}
        # {field of a condition: a value that meets the condition, and one that fails it}.
        tried = {}
        for key, values in (pair for alternative in alternatives for pair in alternative.items()):
            none = {0} if hints[key] is int else set()  # of these modules, whose numbers are at least 1
            failing = min(possible(hints[key]) - set(values[:99]) - none, key=str)
            tried.setdefault(key, set()).update({values[0], failing})
        outcomes = set()
        for chosen in itertools.product(*tried.values()):
            section = dict(zip(tried, chosen, strict=True))
            read = any(all(section[key] in values for key, values in a.items()) for a in alternatives)
            pairs = set(section.items())
            assert (operations(pairs) != operations(pairs | change)) == read, (field, section)
            outcomes.add(read)
        assert outcomes == {True, False}, field
