import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctxseg import commands, compiled

# Compiles the same program twice. The second time it is found on disk, as it is another function.
TWICE = """
import sys, jax, numpy
from ctxseg import compiled
compiled.keep_beside(sys.argv[1])
for _ in range(3):
    print(jax.jit(lambda x: 2 * x + 1)(numpy.float32(3)))
"""


def run(folder, **variables):
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    environment = own | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | variables
    result = subprocess.run(
        [sys.executable, "-c", TWICE, str(folder)], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == "7.0\n" * 3
    return result.stderr


def test_programs_are_kept_and_read(tmp_path):
    folder = tmp_path / "prepared" / "compiled"
    line = f"reading programs compiled before from {folder}\n"
    assert run(tmp_path / "prepared") == line
    (program,) = folder.glob("*-cache")
    program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    program.write_bytes(b"")
    assert run(tmp_path / "prepared") == line, "what a killed process left is replaced"
    assert program.stat().st_size
    program.write_bytes(b"")
    assert run(tmp_path / "prepared") == line, "what a loss of power emptied is replaced"
    assert program.stat().st_size
    program.write_bytes(b"damaged")
    assert run(tmp_path / "prepared") == "", "a damaged program is compiled, without a word"


def test_settings_of_jax_take_precedence(tmp_path):
    other = tmp_path / "other"
    assert (
        run(tmp_path / "prepared", JAX_COMPILATION_CACHE_DIR=str(other))
        == f"reading programs compiled before from {other}\n"
    )
    assert run(tmp_path / "prepared", JAX_ENABLE_COMPILATION_CACHE="false") == ""
    assert not list(tmp_path.glob("prepared/compiled/*-cache"))


@pytest.mark.parametrize("error", [NotImplementedError, OSError])
def test_a_file_system_without_locks(error, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(compiled, "FileLock", refuse)
    (program := tmp_path / "a-cache").touch()
    compiled._remove_incomplete(tmp_path)
    assert program.exists()


@pytest.mark.parametrize("fault", ["writable by others", "a file", "remote"])
def test_a_folder_that_is_not_the_users_own(fault, tmp_path):
    """JAX executes what it reads."""
    folder = tmp_path / "compiled"
    if fault == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    elif fault == "a file":
        folder.write_text("")
    assert compiled._own_folder("gs://bucket/prepared" if fault == "remote" else tmp_path) is None


@pytest.mark.parametrize("mode, kept", [("train", True), ("complexity", True), ("show", False), ("prepare", False)])
def test_modes_that_compile_keep_their_programs_beside_the_data(mode, kept, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr(importlib.import_module(f"ctxseg.commands.{mode}"), "run", lambda values: 0)
    folders: list[str] = []
    monkeypatch.setattr(compiled, "keep_beside", folders.append)
    arguments = f"--mode={mode}", f"--config.data.data_dir={tmp_path}"
    assert commands.main(["main.py", "--config=configs/fcn.py", *arguments]) == 0
    assert folders == ([str(tmp_path)] if kept else [])
