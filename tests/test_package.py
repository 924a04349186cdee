"""The archives that `python -m build` makes."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(project: Path, target: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)], cwd=project, check=True
    )
    (archive,) = folder.iterdir()
    return archive


def files(folder: str) -> set[str]:
    paths = (ROOT / folder).rglob("*")
    return {str(p.relative_to(ROOT)) for p in paths if p.is_file() and "__pycache__" not in p.parts}


def test_a_wheel_from_the_source_archive_is_the_whole_package(tmp_path):
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("ctxseg-*")
    unpacked = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    assert unpacked >= set().union(*map(files, ["ctxseg", "tests", "docs", "benchmarks"]))
    assert unpacked >= {
        "configs/zigzag.py",
        "configs/tables/zigzag_components.py",
        "CONTRIBUTING.md",
        "requirements-dev.txt",
    }

    with zipfile.ZipFile(build(source, "wheel", tmp_path / "wheel")) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == files("ctxseg")
    assert any(name.endswith("/licenses/LICENSE") for name in names)
