"""Freed memory is kept: what the C library and the system do, in processes of their own."""

import mmap
import os
import subprocess
import sys

import pytest

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


def new_glibc():
    """Whether the C library is glibc 2.35 or newer."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return False
    return version.startswith("glibc") and tuple(map(int, version.split()[1].split(".")[:2])) >= (2, 35)


@pytest.mark.skipif(not new_glibc(), reason="needs glibc 2.35")
def test_a_block_that_was_freed_is_kept():
    assert faults() < PAGES / 100


@pytest.mark.skipif(not new_glibc(), reason="needs glibc 2.35")
@pytest.mark.parametrize("environment", [{"MALLOC_ARENA_MAX": "2"}, {"JAX_PLATFORMS": "cuda,cpu"}])
def test_the_environment_decides(environment):
    assert faults(**environment) > PAGES / 2


def test_another_c_library_is_left_alone():
    faults("cpu.ctypes = type('', (), {'CDLL': lambda name: object()})")
