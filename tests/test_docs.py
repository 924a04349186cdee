"""References in pages, docstrings and comments are valid: sections of the spec, links, files, modules and fields of the config."""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest

from ctxseg.configs import defaults

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ctxseg", "tests", "benchmarks", "docs")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = sorted([ROOT / "main.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
FILE_NAMES = {path.name for path in [*PAGES, *MODULES]}

# Files outside the repository: a reader's own, those that a command writes, and another project's.
ELSEWHERE = {
    "ctxseg/models/context/mine.py", "mine.py", "run.py", "table.md", "gpu.md", "helpers/labels.py", "labelme2coco.py",
}  # fmt: skip
PLACEHOLDER = re.compile("SYSTEM|NAME")

CITATION = re.compile(r"\bSPEC\b((?:(?:,|\s+and|\s+to)?\s+§\w+)*)")
PATH = re.compile(
    r"(?<![\w/.~$*-])(?:(?:ctxseg|configs|tests|docs|benchmarks|\.ci)/[\w./*-]*|(?:[\w-]+/)*[\w*-]+\.(?:py|md)\b)"
)
MODULE = re.compile(r"(?<![\w./])ctxseg((?:\.[A-Za-z_]\w*)+)")
FIELD = re.compile(r"(?<![\w.])config\.([a-z_]\w*(?:\.[a-z_]\w*)*)(\.\*)?")
SWEPT = re.compile(r"""--sweep=["']?([\w.]+)=""")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@functools.cache
def prose(path: Path) -> list[tuple[int, str]]:
    """(line, text): the whole text of a page, or each docstring and comment of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [(1, text)]
    layout = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    # A docstring is a statement that is a string and nothing else; parsing the whole module takes longer.
    code = [token for token in tokens if token.type != tokenize.COMMENT]
    docstrings = [
        (token.start[0], ast.literal_eval(token.string))
        for i, token in enumerate(code)
        if token.type == tokenize.STRING
        and code[i + 1].type == tokenize.NEWLINE
        and (i == 0 or code[i - 1].type == tokenize.NEWLINE)
    ]
    return docstrings + comments


def faults(paths, check) -> list[str]:
    """`FILE:LINE: fault` for each (position in the text, fault) that `check(text, path)` yields."""
    return [
        f"{path.relative_to(ROOT)}:{line + text.count(chr(10), 0, position)}: {what}"
        for path in paths
        for line, text in prose(path)
        for position, what in check(text, path)
    ]


SECTIONS = re.findall(r"^## (\w+)\. ", (ROOT / "docs/spec.md").read_text(encoding="utf-8"), re.MULTILINE)


def wrong_citations(text, _path=None):
    """Citations such as "SPEC §1 and §6": sections that docs/spec.md does not have, and citations that name no section."""
    for match in CITATION.finditer(text):
        cited = re.findall(r"§(\w+)", match[1])
        yield from ((match.start(), f"there is no SPEC §{section}") for section in cited if section not in SECTIONS)
        if not cited:
            yield match.start(), "SPEC without a section"


def wrong_paths(text, path):
    """Files of the repository that do not exist. A name may begin at the root, in `ctxseg/`, in `tests/` or beside `path`."""
    for match in PATH.finditer(text):
        name = match[0].rstrip(".")
        places = (
            [ROOT]
            if name.startswith(tuple(f"{folder}/" for folder in FOLDERS))
            else [ROOT, ROOT / "ctxseg", ROOT / "tests", path.parent]
        )
        exists = any(any(place.glob(name)) if "*" in name else (place / name).exists() for place in places)
        exempt = name in ELSEWHERE or PLACEHOLDER.search(name) or "/" not in name and name in FILE_NAMES
        if not exists and not exempt:
            yield match.start(), f"there is no {name}"


def wrong_modules(text, _path=None):
    """Dotted names of modules of the package that do not exist, and names that do not occur in the module before them."""
    for match in MODULE.finditer(text):
        place, (*names,) = ROOT / "ctxseg", match[1][1:].split(".")
        while names and (place / names[0]).is_dir():
            place /= names.pop(0)
        module = place / "__init__.py"
        if names and (place / f"{names[0]}.py").exists():
            module = place / f"{names.pop(0)}.py"
        if names and not re.search(rf"\b{names[0]}\b", module.read_text(encoding="utf-8")):
            yield match.start(), f"there is no {match[0]}"


def _names(config, prefix=""):
    """Names of all fields and sections."""
    for key, value in config.items():
        yield prefix + key
        if hasattr(value, "items"):
            yield from _names(value, f"{prefix}{key}.")


NAMES = set(_names(defaults.get_config()))


def wrong_fields(text, _path=None):
    """Fields and sections in `config.a.b`, `config.train.*` and `--sweep=a.b=…` that the config does not have."""
    for match in [*FIELD.finditer(text), *SWEPT.finditer(text)]:
        name = match[1]
        # A run's config.json, and the placeholder of all help texts.
        if name not in NAMES and name not in ("json", "a.b"):
            yield match.start(), f"there is no field config.{name}"
        elif match.re is FIELD and match[2] and not any(other.startswith(f"{name}.") for other in NAMES):
            yield match.start(), f"config.{name} is no section"


def without_code(text: str) -> str:
    """A page with spaces in place of its code, fenced or within a line, so that positions do not change."""
    return re.sub(r"^```.*?^```|`[^`\n]+`", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of headings, as GitHub forms them: lower case, no punctuation, hyphens for spaces, numbers for repetitions."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeated = sum(other == slug or re.fullmatch(re.escape(slug) + r"-\d+", other) is not None for other in found)
        found.add(f"{slug}-{repeated}" if slug in found else slug)
    return found


def wrong_links(text, page):
    """Relative links whose file, or heading in it, does not exist."""
    for match in LINK.finditer(without_code(text)):
        name, _, anchor = match[1].partition("#")
        if re.match(r"\w+:", name):
            continue
        target = page.parent / name if name else page
        if not target.exists():
            yield match.start(), f"link to {name}, which does not exist"
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            yield match.start(), f"link to #{anchor}, which {target.name} does not have"


@pytest.mark.parametrize("check", [wrong_citations, wrong_paths, wrong_modules, wrong_fields])
def test_references_exist(check):
    assert faults([*PAGES, *MODULES], check) == []


def test_links_have_targets():
    assert faults(PAGES, wrong_links) == []


@pytest.mark.parametrize(
    "check, text, found",
    [
        (wrong_citations, "SPEC §4, SPEC §1 and §6b, SPEC §2 to §7", []),
        (wrong_citations, "SPEC §11. SPEC §2,\n§12", ["there is no SPEC §11", "there is no SPEC §12"]),
        (wrong_citations, "SPEC section 4", ["SPEC without a section"]),
        (wrong_paths, "`tests/conftest.py`, ctxseg/models/, configs/tables/*.py, `data/images.py`, `crf.py`.", []),
        (wrong_paths, "configs/gone.py:voc2012", ["there is no configs/gone.py"]),
        (wrong_paths, "`data/gone.py` and gone.py", ["there is no data/gone.py", "there is no gone.py"]),
        (wrong_paths, "docs/gone.png, ctxseg/gone/*.py", ["there is no docs/gone.png", "there is no ctxseg/gone/*.py"]),
        (wrong_modules, "ctxseg.data, ctxseg.data.scenes, `ctxseg.models.CONTEXTS`", []),
        (wrong_modules, "ctxseg.gone.draw", ["there is no ctxseg.gone.draw"]),
        (wrong_modules, "ctxseg.models.Contexts", ["there is no ctxseg.models.Contexts"]),
        (wrong_fields, "--config.train.steps=3, config.model.context.*, a config.json, config.model", []),
        (wrong_fields, "`config.model.context.sizes`", ["there is no field config.model.context.sizes"]),
        (wrong_fields, "config.train.steps.*", ["config.train.steps is no section"]),
        (wrong_fields, '--sweep="model.stages=1,2"', ["there is no field config.model.stages"]),
        (wrong_links, "[a](docs/spec.md#4-msci), [`b`](#ctxseg), [c](https://a.b/c.md), `[d](e)`", []),
        (wrong_links, "![a](docs/gone.png)", ["link to docs/gone.png, which does not exist"]),
        (wrong_links, "[a](docs/spec.md#gone)", ["link to #gone, which spec.md does not have"]),
        (wrong_links, "[a](#gone)", ["link to #gone, which README.md does not have"]),
    ],
)
def test_checks_find_planted_faults(check, text, found):
    assert [what for _, what in check(text, ROOT / "README.md")] == found


def test_prose_consists_of_pages_docstrings_and_comments(tmp_path):
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text("a\n")
    module.write_text('"""b"""\n\n\ndef f():\n    """c"""\n    return "no # prose"  # d\n')
    assert [prose(page), prose(module)] == [[(1, "a\n")], [(1, "b"), (5, "c"), (6, "# d")]]
