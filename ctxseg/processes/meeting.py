"""How the processes of a run find each other: all connect to process 0, which checks that they belong together.

jax.distributed aborts a process with a stack trace if process 0 does not answer, or if two have the same index. So this comes before it.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from ctxseg.errors import UserError
from ctxseg.processes import messages, relay
from ctxseg.processes.launch import Launch, check_address
from ctxseg.processes.link import Link
from ctxseg.processes.messages import Peer

PAUSE = 0.3  # seconds between attempts


def meet(launch: Launch, timeout: float, identity: Mapping[str, Any]) -> tuple[Link, str]:
    """Connects the processes of a run.

    Args:
        launch: the place of this process in the run.
        timeout: seconds to wait for the others; see also `Link`.
        identity: what must be equal in all processes: {name in messages: JSON value}.

    Returns:
        The connection to the others, and the address HOST:PORT at which this process finds the service of jax.distributed, which process 0
        starts at that address.

    Raises:
        UserError: process 0 does not answer, or its port is in use; a process does not start in time; two have the same index; or their
            numbers of processes or identities differ.
    """
    if launch.index:
        return _join(launch, timeout, identity)
    meeting = _Meeting(launch, identity)
    return Link(0, meeting.host, meeting.wait(timeout), timeout), meeting.runtime


class _Meeting:
    """Process 0's side."""

    def __init__(self, launch, identity):
        self.host, self.runtime = socket.gethostname(), relay.free_address()
        self._launch, self._identity = launch, dict(identity)
        self._peers, self._refused = {}, []
        self._changed = threading.Condition()
        _, port = check_address(launch.coordinator)
        both = socket.has_dualstack_ipv6()
        try:
            self._listener = socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
            )
        except OSError as e:
            raise UserError(
                f"--coordinator={launch.coordinator}: process 0 cannot use port {port} ({os.strerror(e.errno)}); if another run, or "
                "another process 0, uses it, choose another port"
            ) from e
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self, timeout):
        """The connections to all other processes."""
        count, late = self._launch.count, _Late(f"waiting for the other processes at {self._launch.coordinator}")
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._met() < count - 1 and not self._refused and time.monotonic() < deadline:
                self._changed.wait(PAUSE)
                late.check()
            faults = list(self._refused)
            if missing := ", ".join(str(i) for i in range(1, count) if i not in self._peers):
                within = f"within --process_timeout={timeout:g} seconds"
                faults.append(f"of the {count} processes of this run, {missing} did not start {within}")
            answer = (messages.REFUSED, faults[0].encode()) if faults else (messages.WELCOME, self.host.encode())
            for peer in self._peers.values():
                peer.send_now(*answer)  # `Link` notices if it has ended
            if faults:
                raise UserError(faults[0])
            return [self._peers[i] for i in range(1, count)]

    def _met(self) -> int:
        """The number of other processes that are here. One that has ended may be started again."""
        self._peers = {index: peer for index, peer in self._peers.items() if not peer.has_ended()}
        return len(self._peers)

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        """Answers the first message of a connection."""
        connection.settimeout(10)
        try:
            kind, contents = messages.receive(connection, messages.LONGEST)
            hello = json.loads(contents) if kind == messages.HELLO else None
        except (OSError, EOFError, ValueError):  # another program
            connection.close()
            return
        if kind == messages.RUNTIME:
            host, port = check_address(self.runtime)
            with contextlib.suppress(OSError):
                relay.carry(connection, socket.create_connection((host, port)))
        elif hello:
            connection.settimeout(None)
            self._admit(Peer(connection, hello["index"], hello["host"]), hello)

    def _admit(self, peer, hello):
        with self._changed:
            fault = self._fault(hello)
            if not fault:
                self._peers[peer.index] = peer
            else:
                peer.send_now(messages.REFUSED, fault.encode())
                if len(self._peers) < self._launch.count - 1:  # a run that has started goes on
                    self._refused.append(fault)
            self._changed.notify_all()

    def _fault(self, hello):
        """Why the process that sent `hello` cannot take part, or ''."""
        index, host, count = hello["index"], hello["host"], self._launch.count
        if index == 0 or index in self._peers and not self._peers[index].has_ended():
            other = self._peers[index].host if index else self.host
            return f"two processes of this run have the index {index} (--process_id), on {other} and on {host}"
        if hello["count"] != count:
            return f"process {index} on {host} was started as one of {hello['count']} processes, process 0 as one of {count}"
        theirs = hello["identity"]
        for name in [*self._identity, *theirs]:
            one, other = theirs.get(name), self._identity.get(name)
            if one != other:
                return f"process {index} on {host} has {name}={one}, process 0 has {other}: start them with the same command"
        return ""


def _join(launch, timeout, identity):
    """The side of the other processes."""
    coordinator, host = check_address(launch.coordinator), socket.gethostname()
    late = _Late(f"process {launch.index}: waiting for process 0 at {launch.coordinator}")
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(coordinator, timeout=5)
            break
        except OSError as e:  # process 0 has not started yet, or its name is not known yet
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator={launch.coordinator}: process 0 does not answer there within --process_timeout={timeout:g} seconds "
                    f"({e.strerror or e})"
                ) from e
        late.check()
        time.sleep(PAUSE)
    hello = {"index": launch.index, "count": launch.count, "host": host, "identity": dict(identity)}
    peer = Peer(connection, 0, coordinator[0])
    connection.settimeout(timeout + 10)
    try:
        peer.send(messages.HELLO, json.dumps(hello).encode())
        kind, contents = messages.receive(connection, messages.LONGEST)
    except (OSError, EOFError, ValueError) as e:
        raise UserError(
            f"--coordinator={launch.coordinator}: what answers there is not process 0 of this run, or it has ended"
        ) from e
    text = contents.decode(errors="replace")
    if kind != messages.WELCOME:
        raise UserError(text)
    connection.settimeout(None)
    peer.host = text
    return Link(launch.index, host, [peer], timeout), relay.listen(coordinator)


class _Late:
    """Prints a line, once, when something takes longer than five seconds."""

    def __init__(self, line):
        self._line, self._at = line, time.monotonic() + 5

    def check(self):
        if self._line and time.monotonic() > self._at:
            print(self._line, file=sys.stderr, flush=True)
            self._line = ""
