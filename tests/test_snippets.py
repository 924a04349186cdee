"""The code on the pages works: Python blocks run, and commands name files, flags, fields and versions that exist."""

import contextlib
import functools
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctxseg import commands
from ctxseg.commands import command_line
from ctxseg.configs import datasets
from ctxseg.errors import UserError
from ctxseg.inference import export
from ctxseg.models import CONTEXTS
from ctxseg.runs import workdir
from ctxseg.settings import collect, config_file
from ctxseg.settings.fields import flatten
from ctxseg.studies import sweep
from tests.inference.test_predict import picture, run  # noqa: F401  # a fixture

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# {placeholder in a command: what is tried in its place}.
PLACEHOLDERS = {"RUN": "runs/zigzag-scenes", "SYSTEM": "zigzag", "DATASET": "scenes", "STEP": "3"}
PROGRAMS = ("python", "ctxseg", "pip", "unzip")

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^for (\w+) in ([^;\n]+);\s*do\s(.*?)\bdone$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
MODULE = re.compile(r"# (\w+)\.py\n")
# `labels = …  # uint8 [H,W]`: a comment with the dtype and shape of an array.
SHAPE = re.compile(r"^(\w+) = [^#\n]*#[^#\n]*?(?:\b(uint8|float32) )?\[(\w+(?:,\w+)*)\]", re.MULTILINE)


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(line, code) of the fenced blocks of a language."""
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


# Commands.


def shell_code(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of the shell code on a page: paragraphs that are indented by four spaces, and blocks fenced as bash."""
    yield from blocks(text, "bash")
    unfenced = BLOCK.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in re.finditer(r"(?:^    .*\n?)+", unfenced, re.MULTILINE):
        yield unfenced.count("\n", 0, match.start()) + 1, re.sub(r"^    ", "", match[0], flags=re.MULTILINE)


def inline_code(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of the code spans within lines."""
    unfenced = BLOCK.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in INLINE.finditer(unfenced):
        yield unfenced.count("\n", 0, match.start()) + 1, match[1]


def expanded(loop: re.Match) -> str:
    """The commands of a `for` loop, repeated for each of its values, on as many lines as the loop."""
    variable, values, body = loop.groups()
    body = re.sub(r"\s*;\s*$", "", body.strip())
    parts = [re.sub(rf"\$\{{?{variable}\}}?", lambda _, value=value: value, body) for value in values.split()]
    return "; ".join(";".join(part.split("\n")) for part in parts) + "\n" * loop[0].count("\n")


def split(line: str) -> list[list[str]]:
    """The simple commands of a line, without comments, redirections and the folder of a program, such as .venv/bin."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if set(word) <= set("&|;()"):
            found.append([])
        elif not set(word) <= set("<>") and not redirected:
            found[-1].append(word)
        redirected = set(word) <= set("<>")
    for words in found:
        if words:
            words[0] = re.sub(r"^python3?(\.\d+)?$", "python", words[0].rpartition("/")[2])
    return [words for words in found if words and words[0] in PROGRAMS]


def commands_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of every command on a page: those in shell code, and code spans that have arguments."""
    code = [(line, LOOP.sub(expanded, block)) for line, block in shell_code(text)]
    code += [(line, span) for line, span in inline_code(text) if span.count(" ") > 1 and span.split()[0] in PROGRAMS]
    for start, block in sorted(code):
        lines = re.sub(r"\\\n", lambda _: " ", block).split("\n")
        for i, line in enumerate(lines):
            if re.match(r"[\w./]*(?:python[\d.]*|ctxseg|pip|unzip) ", line):
                for words in split(line):
                    yield start + i, words


def faults(text: str) -> list[str]:
    """`LINE: fault` for each command on a page that would fail, and for each flag that does not exist."""
    found, unpacked = [], set()
    for line, words in commands_of(text):
        unpacked |= set(words[2:]) if words[0] == "unzip" else set()
        found += [f"{line}: {what}" for what in wrong(words, unpacked)]
    for line, span in inline_code(text):
        for flag in re.findall(r"(?<!\S)--[\w.]+", span) if span.startswith("--") else ():
            if flag[2:].removeprefix("config.") not in NAMES and flag[2:] not in known_flags():
                found.append(f"{line}: there is no {flag}")
    return found


NAMES = {*flatten(collect.get_config()), "a.b"}


@functools.cache
def known_flags() -> set[str]:
    """The flags of the command line and of the benchmarks."""
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py")]
    return {*command_line.define_flags([])} | {flag for source in sources for flag in _arguments(source)}


def _arguments(source):
    """The flags that a script defines by argparse."""
    return re.findall(r"""add_argument\(\s*["']--([\w-]+)""", source)


def wrong(words: list[str], unpacked=()) -> Iterator[str]:
    """The faults of a command. `unpacked`: files that earlier commands have unpacked from an archive."""
    program, *arguments = words
    if program == "pip":
        yield from wrong_pip(arguments)
    elif program == "ctxseg":
        yield from wrong_main(arguments)
    elif program == "python" and arguments[:1] == ["-m"]:
        module, *rest = arguments[1:]
        if module == "pytest":
            yield from wrong_pytest(rest)
        elif module == "ctxseg":
            yield from wrong_main(rest)
        elif module.startswith("ctxseg") and not (ROOT / f"{module.replace('.', '/')}.py").exists():
            yield f"there is no module {module}"
    elif program == "python" and arguments[0] not in unpacked:
        script, *rest = arguments
        if script == "main.py":
            yield from wrong_main(rest)
        elif not (ROOT / script).is_file():
            yield f"there is no {script}"
        else:
            yield from wrong_script((ROOT / script).read_text(encoding="utf-8"), script, rest)


def wrong_pip(arguments):
    """Requirement files that do not exist, and versions that differ from those that the repository pins."""
    pins = {line for path in ROOT.glob("requirements*.txt") for line in re.split(r"[;\n]", path.read_text())}
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        if previous == "-r" and not (ROOT / argument).is_file():
            yield f"there is no {argument}"
        if "==" in argument and re.sub(r"\[.*?\]", "", argument) not in pins:
            yield f"{argument} is not what requirements.txt pins"


def wrong_pytest(arguments):
    """Files that do not exist, and tests that their file does not have."""
    valued = [previous in ("-n", "-k", "-m") for previous in ["", *arguments]]
    for argument in (a for a, v in zip(arguments, valued, strict=False) if not v and not a.startswith("-")):
        path, *names = argument.split("::")
        if not (ROOT / path).exists():
            yield f"there is no {path}"
        elif missing := [n for n in names if not re.search(rf"\b(?:def|class) {n}\b", (ROOT / path).read_text())]:
            yield f"{path} has no {missing[0]}"


def wrong_script(source, script, arguments):
    """Flags that a script does not define, and positional arguments that do not occur in it. Arguments after -- are for main.py."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, overrides = arguments[:end], arguments[end + 1 :]
    systems = [path.stem for path in config_file.CONFIGS.glob("[!_]*.py")]
    flags = _arguments(source)
    previous = ""
    for argument in own:
        name = re.match(r"--([\w-]+)", argument)
        if name and name[1] not in flags:
            yield f"{script} has no {name[0]}"
        positional = not name and not (previous.startswith("--") and "=" not in previous)
        if positional and flags and argument not in systems and not re.search(rf"""["']{argument}["']""", source):
            yield f"{script} has no {argument}"
        previous = argument
    for argument in overrides:
        if argument.partition("=")[0].removeprefix("--config.") not in NAMES:
            yield f"there is no {argument.partition('=')[0]}"


def filled(argument: str) -> str:
    """An argument with values in place of placeholders and shell variables."""
    argument = re.sub(r"\b(RUN|SYSTEM|DATASET|STEP)\b", lambda m: PLACEHOLDERS[m[1]], argument)
    return re.sub(r"\$\{?\w+\}?", "0", argument)


def wrong_main(arguments):
    """The error of the command line, if any. The runs that a command reads are created first."""
    argv = ["main.py", *map(filled, arguments)]
    try:
        if command_line.value_of(argv, "mode") == "sweep":
            given = command_line.read_sweep(argv)
            table = config_file.load(given.path, given.dataset, "get_table", "get_config")
            if hasattr(table, "data"):
                table = sweep.grid(table.system, table.data.name, given.values.sweep)
            resolve = lambda changes: command_line.read_flags(["main.py", *changes]).config  # noqa: E731
            sweep.plan(table, 1, "runs/sweep", given.overrides, resolve)
            sweep.parse_rows(str(given.values.row or given.values.rows or 0), len(table.rows))
            return
        if not command_line.value_of(argv, "config"):
            for folder in command_line.value_of(argv, "workdir").split(","):
                claim(folder)
        command_line.parse(argv)
        if any(re.match(r"--config\.[\w.]+=\w+:\w+$", argument) for argument in argv):
            show(argv)
    except UserError as e:
        yield str(e)


def claim(folder: str) -> None:
    """Creates the folder of a run, with the config in its name: runs/SYSTEM-DATASET…. Any other data set is the user's own data."""
    system, _, data = Path(folder).name.partition("-")
    if not Path(folder, "config.json").exists() and data:
        known = [name for name in datasets.PROTOCOLS if data.split("-")[0] == name]
        config = config_file.load(system, known[0] if known else "folder", "get_config")
        Path(folder).mkdir(parents=True, exist_ok=True)
        workdir.claim(folder, config)


def show(argv: list[str]) -> None:
    """Traces the network of a command, without computing it. This calls the modules that the command names."""
    kept = [argument for argument in argv if not re.match("--(workdir|mode)=", argument)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        commands.main([*kept, "--mode=show"])


# Python.


@pytest.fixture(scope="module")
def place(plain_convolutions, run, tmp_path_factory):  # noqa: F811
    """A folder with the files that the Python blocks read: a run, its export, and a photograph."""
    folder = tmp_path_factory.mktemp("place")
    copied = folder / "runs" / "zigzag-scenes"
    shutil.copytree(run[0], copied)
    (copied / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 3, "mIoU": 0.5}) + "\n")
    export.export(workdir.read_config(str(copied)), str(copied))
    Image.fromarray(picture()).save(folder / "photo.jpg")
    return folder


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working directory for one test. Modules that are imported from it are removed from `sys.modules` afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write_modules(text: str, folder: Path) -> list[str]:
    """Writes the blocks that begin with `# NAME.py` into files of these names, and returns the names."""
    found: dict[str, str] = {}
    for _, code in blocks(text, "python"):
        if match := MODULE.match(code):
            found[match[1]] = found.get(match[1], "") + code
    for name, code in found.items():
        (folder / f"{name}.py").write_text(code)
    return list(found)


def execute(text: str, page: str) -> None:
    """Runs the blocks of a page one after the other, as one program. AssertionError: an array differs from the comment beside it."""
    names: dict[str, Any] = {}
    for line, code in blocks(text, "python"):
        if MODULE.match(code):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * (line - 1) + code, page, "exec"), names)
        for name, dtype, axes in SHAPE.findall(code):
            for array in names[name].values() if isinstance(names[name], dict) else [names[name]]:
                assert array.ndim == len(axes.split(",")), f"{page}: {name} is {array.shape}, not [{axes}]"
                assert not dtype or array.dtype == dtype, f"{page}: {name} is {array.dtype}, not {dtype}"


def name_of(path):
    return str(path.relative_to(ROOT))


def has_code(page):
    return any(not MODULE.match(code) for _, code in blocks(page.read_text(encoding="utf-8"), "python"))


@pytest.mark.parametrize("page", filter(has_code, PAGES), ids=name_of)
def test_python(page, place, monkeypatch):
    monkeypatch.chdir(place)
    execute(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands(page, workspace, monkeypatch):
    text = page.read_text(encoding="utf-8")
    if "mine" in write_modules(text, workspace):
        # The page adds a file to the package, and a line for it.
        monkeypatch.setitem(CONTEXTS, "mine", vars(__import__("mine"))["Mine"])
    assert faults(text) == []


PLANTED = {
    "    python main.py --config=configs/zigzag.py && python main.py --config=zigzag:voc2012": [],
    "    python main.py --config=configs/zigzga.py": ["1: --config: configs/zigzga.py is not a file: did you mean configs/zigzag.py?"],
    "text\n\n    ctxseg --config=zigzag --worksdir=RUN": ["3: there is no --worksdir: did you mean --workdir?"],
    "```bash\npython main.py \\\n  --config=configs/SYSTEM.py --config.train.step=3\n```":
        ["2: there is no --config.train.step: did you mean --config.train.steps?"],
    "    python main.py --config=configs/fcn.py --config.model.context.stages=2": ["1: config.model.context.stages"],
    "    python main.py --mode=evaluate --workdir=RUN --config.eval.flips": ["1: there is no --config.eval.flips"],
    "    python main.py --mode=evaluate --workdir=runs/zigzga-scenes": ["1: --config: there is no config zigzga"],
    "    python main.py --mode=predict --workdir=RUN": ["1: --input is missing"],
    "    python -m ctxseg --config=zigzag --mode=sweep --sweep=model.context.stage=1,2": ["1: zigzag-model.context.stage"],
    "    python main.py --config=configs/tables/zigzag_components.py --mode=sweep --row=$ROW --config.seed=3": ["1: config.seed is set"],
    "    python main.py --config=configs/tables/zigzag_components.py --mode=sweep --rows=5": ["1: --rows=5"],
    "    for t in zigzag zigzga; do\n      ctxseg --config=$t\n    done\n    ctxseg --config=zigza":
        ["1: --config: there is no config zigzga", "4: --config: there is no config zigza"],
    "    python benchmarks/costs.py dca --rounds=3 && python benchmarks/systems.py fcn -- --config.train.steps=3": [],
    "    python benchmarks/cost.py": ["1: there is no benchmarks/cost.py"],
    "    python benchmarks/costs.py dac --round=3": ["1: benchmarks/costs.py has no dac", "1: benchmarks/costs.py has no --round"],
    "    python benchmarks/systems.py fcn -- --config.train.step=3": ["1: there is no --config.train.step"],
    "    python -m pytest -n 0 tests/test_snippets.py::test_commands -k a": [],
    "    python -m pytest tests/test_snippet.py": ["1: there is no tests/test_snippet.py"],
    "    python -m pytest tests/test_snippets.py::test_nothing_of_this": ["1: tests/test_snippets.py has no test_nothing_of_this"],
    "    .venv/bin/pip install -r requirement.txt": ["1: there is no requirement.txt"],
    '    pip install "jax[cuda12]==0.10.1"  # NVIDIA': ["1: jax[cuda12]==0.10.1 is not what requirements.txt pins"],
    "    unzip a.zip run.py && python run.py a.zip": [],
    "    python run.py a.zip": ["1: there is no run.py"],
    "see `python -m ctxseg.settings.pages`": ["1: there is no module ctxseg.settings.pages"],
    "see `--mode=train`, `--config.a.b=value` and `--rounds`": [],
    "see `--mods=train` and `--config.trains=3`": ["1: there is no --mods", "1: there is no --config.trains"],
}  # fmt: skip


@pytest.mark.parametrize("text", PLANTED)
def test_faults_of_commands_are_found(text, workspace):
    found = faults(text)
    assert len(found) == len(PLANTED[text])
    for fault, beginning in zip(found, PLANTED[text], strict=True):
        assert fault.startswith(beginning)


def test_faults_of_modules_are_found(workspace):
    text = "```python\n# broken.py\nimport flax.linen as nn\n\n\nclass Broken(nn.Module):\n    levels: tuple = ()\n```\n\n{}"
    line = "    python main.py --config=fcn --config.model.context.name=broken:{}"
    write_modules(text, workspace)
    (fault,) = faults(text.format(line.format("Brokn")))
    assert "has no attribute 'Brokn'" in fault
    with pytest.raises((TypeError, AttributeError)):  # it cannot be called
        faults(text.format(line.format("Broken")))


@pytest.mark.parametrize(
    "code, error",
    [
        ("import numpy as np\na = np.zeros((2, 3), np.uint8)  # ids, uint8 [H,W]", None),
        ("a = b", NameError),
        ("import numpy as np\na = np.zeros((2, 3))  # [H,W,3]", AssertionError),
        ("import numpy as np\na = {'x': np.zeros(2)}  # {name: float32 [C]}", AssertionError),
    ],
)
def test_faults_of_python_are_found(code, error):
    with pytest.raises(error) if error else contextlib.nullcontext():
        execute(f"```python\n{code}\n```\n", "page")


def test_blocks_of_a_page_are_one_program():
    execute(
        "```python\na = 1\n```\n\ntext\n\n```python\n# other.py\nraise OSError\n```\n\n```python\nassert a == 1\n```\n",
        "page",
    )
