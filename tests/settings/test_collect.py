"""The config is collected from the modules' own fields and `declared.py`."""

import dataclasses
from pathlib import Path

import pytest

from ctxseg.commands import command_line
from ctxseg.errors import UserError
from ctxseg.settings import collect, declared, page

ROOT = Path(__file__).parents[2]


def test_the_config_has_the_fields_of_the_modules():
    """Each with a meaning in its class's docstring; those that two modules share are of one type."""
    config = collect.get_config()
    for path, (chooser, _, modules) in collect.CHOSEN.items():
        section = config.model[path.removeprefix("model.")]
        named = {name for module in modules.values() for name in collect.own_fields(module)}
        assert set(section) == named | {chooser}
        for module in filter(None, modules.values()):
            for name, annotation in collect.own_fields(module).items():
                assert collect.kind(annotation) is section.get_type(name), (path, module, name)
                assert collect.meanings(collect.class_of(module)).get(name), (module, name)
    for path, cls in (declared.SECTIONS | collect.FIXED).items():
        names = collect.own_fields(cls) if path in collect.FIXED else {field.name for field in dataclasses.fields(cls)}
        assert not [name for name in names if not collect.meanings(cls).get(name)], path
    assert config.model.context.stages is None and config.model.auxiliary.channels == 512
    assert "phases" not in config.model.connections and "num_classes" not in config.model.memory


def test_docs_list_the_fields_as_they_are():
    """`python -m ctxseg.settings.page > docs/fields.md` where this fails."""
    assert (ROOT / "docs/fields.md").read_text() == page.page()


def override(*arguments):
    return command_line.read_flags(["main.py", f"--config={ROOT}/configs/mcibi.py", *arguments]).config


def test_none_turns_off_whatever_can_be_off():
    config = override(
        "--config.optimizer.clip_norm=none", "--config.data.base_size=none", "--config.eval.samples=none",
        "--config.model.memory.name=none", "--config.model.auxiliary.levels=none",
    )  # fmt: skip
    off = config.optimizer.clip_norm, config.data.base_size, config.eval.samples, config.model.memory.name
    assert off == (0.0, (), 0, "none") and config.model.auxiliary.levels == ()
    with pytest.raises(UserError, match="--config.optimizer.learning_rate=none .*a number"):
        override("--config.optimizer.learning_rate=none")


def test_a_field_of_a_run_with_its_reference():
    """Testing has the base size of training, unless it is given one."""
    assert override("--config.data.base_size=(64,)").eval.size == (64,)
    assert override("--config.data.base_size=(64,)", "--config.eval.size=(32,)").eval.size == (32,)
