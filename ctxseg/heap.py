"""Memory that a training step frees is kept for the next one, on a CPU.

XLA allocates the intermediate results of each call of a program anew. The C library of Linux (glibc) gives so large a block back to the
system when it is freed, and the next call pays for each of its pages again: a fifth of a training step of EfficientNet-Lite0
(`benchmarks/cpu_steps.py --heap`).
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Larger blocks are given back: kept, they would leave holes that the next ones do not fit into. The largest value that mallopt takes.
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keeps freed blocks of up to 2 GiB, for the rest of this process. Call it before JAX starts its threads.

    Without effect where a GPU or a TPU computes, where the C library is not glibc, and where an environment variable of glibc's malloc
    says otherwise.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or chosen or not _computes_on_cpu():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_ARENA_MAX, 1)  # threads with an arena of their own would still give large blocks back


def _computes_on_cpu() -> bool:
    """Whether JAX has nothing but a CPU, as far as can be said without starting it."""
    platforms = os.getenv("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None
