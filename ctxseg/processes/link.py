"""The connections between the processes of a run: whether the others are alive, and what they tell each other on the CPU.

Process 0 has a connection to each of the others, and each of them has one to process 0.
"""

import contextlib
import threading
import time
from collections.abc import Sequence

from ctxseg import interrupts
from ctxseg.processes import messages
from ctxseg.processes.messages import Peer

AGAIN = "run the same command again to continue from the newest checkpoint"


class Link:
    """Ends this process with one line if another one ends or hangs.

    Args:
        index: of this process.
        host: name of its machine.
        peers: connections to the other processes in their order; of processes other than 0, the connection to process 0.
        timeout: seconds without a sign of life after which another process counts as lost.
    """

    def __init__(self, index: int, host: str, peers: Sequence[Peer], timeout: float):
        self.index = index
        self._host, self._peers, self._timeout = host, peers, timeout
        self._ended = False
        for peer in peers:
            peer.seen = time.monotonic()
            # For each, as one that no longer reads must not keep signs of life from the others.
            threading.Thread(target=self._send_signs, args=(peer,), daemon=True).start()
            threading.Thread(target=self._read, args=(peer,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def gather(self, contents: bytes) -> list[bytes]:
        """The `contents` of all processes, in the order of their indices. All processes call this equally often.

        If another process has ended, this does not return: the thread that reads its messages ends this process.
        """
        if self.index:
            with contextlib.suppress(OSError):
                self._peers[0].send(messages.PART, contents)
            return messages.split(self._peers[0].received.get())
        everything = [contents, *(peer.received.get() for peer in self._peers)]
        joined = messages.join(everything)
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.send(messages.ALL, joined)
        return everything

    def fail(self, line: str) -> None:
        """Ends the other processes, because this one ends with `line`. Does nothing if the run has ended."""
        if not self._ended:
            self._ended = True
            line = line.removeprefix("error: ")
            line = line if self.index else f"process 0 on {self._host}: {line}"
            for peer in self._peers:
                peer.send_now(messages.FAILED, line.encode(errors="surrogateescape"))

    def close(self) -> None:
        """Ends the run, after the last `gather`."""
        self._ended = True
        for peer in self._peers:
            peer.send_now(messages.FINISHED)

    def _read(self, peer):
        """Reads the messages of another process until the connection ends."""
        try:
            while True:
                kind, contents = messages.receive(peer.connection)
                peer.seen = time.monotonic()
                if kind in (messages.PART, messages.ALL):
                    peer.received.put(contents)
                elif kind == messages.FAILED:
                    line = contents.decode(errors="surrogateescape")
                    self._end(line if self.index else f"{_name(peer)}: {line}")
                elif kind == messages.FINISHED:
                    return
        except (OSError, EOFError):
            self._end(f"{_name(peer)} has ended (killed, or out of memory?): {AGAIN}")

    def _send_signs(self, peer):
        while not self._ended:
            with contextlib.suppress(OSError):
                peer.send(messages.ALIVE)
            time.sleep(self._timeout / 10)

    def _watch(self):
        """Looks for processes without a sign of life."""
        pause, before = self._timeout / 10, time.monotonic()
        while not self._ended:
            time.sleep(pause)
            now = time.monotonic()
            for peer in self._peers:
                if now - before > 2 * pause + 1:  # this process itself was stopped
                    peer.seen = now
                elif now - peer.seen > self._timeout:
                    self._end(f"{_name(peer)} has given no sign of life for {self._timeout:g} seconds: {AGAIN}")
            before = now

    def _end(self, line):
        """Ends all processes, because of another one."""
        if self._ended:
            return
        self._ended = True
        if self.index == 0:
            for peer in self._peers:
                peer.send_now(messages.FAILED, line.encode(errors="surrogateescape"))
        interrupts.leave(f"error: {line}")


def _name(peer):
    return f"process {peer.index} on {peer.host}"
