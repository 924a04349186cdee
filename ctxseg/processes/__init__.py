"""Runs of several processes: `joined` connects them, and `gather` and `is_first` are for the rest of the program.

With a single process, `gather` returns its own contents, and `is_first` is true.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ctxseg import interrupts
from ctxseg.errors import UserError
from ctxseg.processes import meeting
from ctxseg.processes.launch import Launch
from ctxseg.processes.launch import find as find
from ctxseg.processes.launch import started_together as started_together
from ctxseg.processes.link import Link

# The connection to the other processes of this run; None in a run of one process.
_link: Link | None = None
# The machine of each process of a run of several.
_hosts: list[str] = []


@contextlib.contextmanager
def joined(
    launch: Launch | None, timeout: float, identity: Mapping[str, Any], preemption: bool = False
) -> Iterator[None]:
    """Makes this process part of a run of several, before anything uses a device. Does nothing if `launch` is None.

    If one of the processes ends before all of them leave this context, the others end with its line. Processes other than the first print
    nothing but errors.

    Args:
        launch, timeout, identity: see `meeting.meet`.
        preemption: whether SIGTERM is left to `multihost_utils.reached_preemption_sync_point`.

    Raises:
        UserError: see `meeting.meet`.
    """
    global _link, _hosts
    if launch is None:
        yield
        return
    import jax  # here, as it takes seconds

    _link, runtime = meeting.meet(launch, timeout, identity)
    interrupts.cleanups.append(_link.fail)
    _hosts = [host.decode() for host in gather(socket.gethostname().encode())]
    jax.config.update("jax_enable_preemption_service", preemption)
    jax.distributed.initialize(
        runtime,
        launch.count,
        launch.index,
        launch.devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=runtime,
        initialization_timeout=int(timeout) + 10,
        # The runtime aborts later than `Link` ends a process.
        heartbeat_timeout_seconds=10 * int(timeout) + 60,
    )
    with _silent() if launch.index else contextlib.nullcontext():
        yield
        gather(b"")
        jax.distributed.shutdown()
        end_together()
        interrupts.cleanups.remove(_link.fail)
        _link = None


def gather(contents: bytes) -> list[bytes]:
    """The `contents` of all processes, in the order of their indices. All processes call this equally often, in the same order."""
    return _link.gather(contents) if _link else [contents]


def check_equal(what: str, value: str, remedy: str) -> None:
    """UserError, in all processes, if they call this with different values.

    Args:
        what: what `value` is of, in the message.
        value: the same in all processes, if all is well.
        remedy: the end of the message.
    """
    first, *others = [part.decode() for part in gather(value.encode())]
    for index, other in enumerate(others, 1):
        if other != first:
            end_together()
            raise UserError(f"process {index} on {_hosts[index]} has {what} {other}, process 0 has {first}: {remedy}")


def end_together() -> None:
    """Ends the connections, when all processes are about to end, each with a line of its own."""
    if _link:
        gather(b"")
        _link.close()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return _link is None or _link.index == 0


def several() -> bool:
    """Whether the run has several processes."""
    return _link is not None


def await_cause() -> None:
    """After an error of one of several: waits a moment, as another process may have ended, which then ends this one with a better line."""
    time.sleep(3)


@contextlib.contextmanager
def _silent():
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield
