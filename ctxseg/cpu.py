"""What a process sets before JAX starts, if JAX has nothing but a CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Larger blocks are given back: kept, they would leave holes that the next ones do not fit into. The largest value that mallopt takes.
LARGEST = 2**31 - 1
# Options of XLA with which its compiler for CPUs keeps the barrier between a map and its second computation.
RECOMPUTE = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def keep_freed_memory() -> None:
    """Keeps freed blocks of memory of up to 2 GiB, for the rest of this process.

    XLA allocates the intermediate results of each call of a program anew. The C library of Linux (glibc) gives so large a block back to
    the system when it is freed, and the next call pays for each of its pages again. docs/speed.md has what this costs. Without effect with
    another C library or an old glibc, and where an environment variable of glibc's malloc is set.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or chosen or not _only_cpu():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Old versions of glibc refuse so high a threshold. The other two alone would make things worse.
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGEST):
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_ARENA_MAX, 1)  # threads with an arena of their own would still give large blocks back


def recompute() -> None:
    """Lets XLA recompute maps in the backward pass (`config.model.remat`).

    By default, its compiler for CPUs removes the barrier between both computations of a map, and merges them.
    """
    if _only_cpu():
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = " ".join([flags, *(f"--{k}={v}" for k, v in RECOMPUTE.items())]).strip()


def _only_cpu() -> bool:
    """Whether JAX has nothing but a CPU, as far as can be said without starting it."""
    platforms = os.getenv("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    # JAX finds a plugin by its entry point, or by its module within the package `jax_plugins`.
    plugins = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
