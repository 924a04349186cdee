"""The config is collected from the modules' fields and `declared.py`."""

import dataclasses
import re
from pathlib import Path

import pytest

from ctxseg.commands import command_line
from ctxseg.errors import UserError
from ctxseg.settings import collect, declared, page
from ctxseg.settings.fields import flatten

ROOT = Path(__file__).parents[2]


def test_the_config_has_the_fields_of_the_modules():
    """Each has a meaning in the docstring of its class; fields shared by modules have the same type."""
    config = collect.get_config()
    for path, (chooser, _, modules) in collect.CHOSEN.items():
        section = config.model[path.removeprefix("model.")]
        names = {name for module in modules.values() for name in collect.config_fields(module)}
        assert set(section) == names | {chooser}
        for module in filter(None, modules.values()):
            for name, annotation in collect.config_fields(module).items():
                assert collect.kind(annotation) is section.get_type(name), (path, module, name)
                assert collect.meanings(collect.class_of(module)).get(name), (module, name)
    for path, cls in (declared.SECTIONS | collect.FIXED).items():
        names = (
            collect.config_fields(cls) if path in collect.FIXED else {field.name for field in dataclasses.fields(cls)}
        )
        assert not [name for name in names if not collect.meanings(cls).get(name)], path
    assert config.model.context.stages is None and config.model.auxiliary.channels == 512
    assert "phases" not in config.model.connections and "num_classes" not in config.model.memory


def test_docs_list_the_fields():
    """If this fails, run `python -m ctxseg.settings.page > docs/fields.md`."""
    assert (ROOT / "docs/fields.md").read_text() == page.page()


def override(*arguments):
    return command_line.read_flags(["main.py", f"--config={ROOT}/configs/mcibi.py", *arguments]).config


def test_none_turns_fields_off():
    config = override(
        "--config.optimizer.clip_norm=none", "--config.data.base_size=none", "--config.eval.samples=none",
        "--config.model.memory.name=none", "--config.model.auxiliary.levels=none",
    )  # fmt: skip
    off = config.optimizer.clip_norm, config.data.base_size, config.eval.samples, config.model.memory.name
    assert off == (0.0, (), 0, "none") and config.model.auxiliary.levels == ()
    names = "model.frozen", "train.loggers", "train.log_every", "train.checkpoint_every", "optimizer.rates"
    values = flatten(override(*(f"--config.{name}=none" for name in names)))
    assert [values[name] for name in names] == [(), (), 0, 0, ()]
    with pytest.raises(UserError, match="--config.optimizer.learning_rate=none: .*a number"):
        override("--config.optimizer.learning_rate=none")


def test_none_is_documented_exactly_for_the_fields_that_it_turns_off():
    def is_turned_off(name):
        try:
            argv = ["main.py", f"--config={ROOT}/configs/mcibi.py", f"--config.{name}=none"]
            return flatten(command_line.check_flags(argv).config)[name] in (0, (), None)
        except UserError:
            return False

    config = collect.get_config()
    off = {name for name in flatten(config) if is_turned_off(name)}
    assert {"data.rotate", "data.base_size", "eval.size", "model.auxiliary.levels"} < off
    listed, section = set(), ""
    for line in page.page().splitlines():
        if heading := re.match(r"## config\.?(.*)", line):
            section = heading[1]
        elif (row := re.match(r"\| `(\w+)` \| .* \| (.*) \| .* \|$", line)) and row[2].endswith("or none"):
            listed.add(f"{section}.{row[1]}")
    assert listed == off
    assert {name for name in flatten(config) if re.search(r"(?<!`)\bnone: ", collect.meaning(config, name))} == off


def test_the_evaluation_size_defaults_to_the_training_size():
    assert override("--config.data.base_size=(64,)").eval.size == (64,)
    assert override("--config.data.base_size=(64,)", "--config.eval.size=(32,)").eval.size == (32,)
