"""Settings for CPUs. Freed memory is kept: what the C library and the system do, in processes of their own."""

import importlib.metadata
import importlib.util
import mmap
import os
import subprocess
import sys

import pytest

from ctxseg import cpu

# Faults of pages when 64 MiB are allocated and filled for the second time, in a thread, as XLA does.
SCRIPT = """
import ctypes, resource, threading
from ctxseg import cpu
{first}
cpu.keep_freed_memory()
malloc, free, memset = (getattr(ctypes.CDLL(None), name) for name in ("malloc", "free", "memset"))
malloc.restype, free.argtypes, memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def fill():
    block = malloc({size})
    assert block
    memset(block, 1, {size})
    free(block)
def twice():
    fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""
SIZE = 64 * 2**20
PAGES = SIZE // mmap.PAGESIZE


def faults(first="", **environment):
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    script = SCRIPT.format(first=first, size=SIZE)
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=own | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


def can_keep():
    """Whether the C library has mallopt(3), and it takes a threshold of 2 GiB: old versions of glibc refuse it, and others have none."""
    script = "import ctypes; print(ctypes.CDLL(None).mallopt(-3, 2**31 - 1))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "1\n"


needs_mallopt = pytest.mark.skipif(not can_keep(), reason="the C library takes no threshold of 2 GiB, as an old glibc")


@needs_mallopt
def test_a_block_that_was_freed_is_kept():
    assert faults() < PAGES / 100


@needs_mallopt
@pytest.mark.parametrize("environment", [{"MALLOC_ARENA_MAX": "2"}, {"JAX_PLATFORMS": "cuda,cpu"}])
def test_the_environment_decides(environment):
    assert faults(**environment) > PAGES / 2


def test_another_c_library_is_left_alone():
    faults("cpu.ctypes = type('', (), {'CDLL': lambda name: object()})")


@pytest.mark.parametrize(
    "platforms, module, entry, expected",
    [
        (None, None, False, True),
        ("", None, False, True),
        (None, "libtpu", False, False),
        (None, "jax_plugins", False, False),
        (None, None, True, False),
        ("cpu", "libtpu", True, True),
        ("cuda,cpu", None, False, False),
    ],
)
def test_whether_jax_has_nothing_but_a_cpu(platforms, module, entry, expected, monkeypatch):
    """By the environment, or else by the installed plugins."""
    if platforms is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == module else None)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ("xla_cuda13",) if entry else ())
    assert cpu._only_cpu() == expected


@pytest.mark.parametrize(
    "platforms, added", [("cpu", " --xla_disable_hlo_passes=cse_barrier_expander"), ("cuda,cpu", "")]
)
def test_recomputing_needs_a_flag_on_a_cpu_only(platforms, added, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    cpu.recompute()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x" + added
