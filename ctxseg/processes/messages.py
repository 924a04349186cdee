"""Messages between the processes of a run: a kind (one byte), a length (eight bytes), and the contents."""

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Sequence

HEADER = struct.Struct(">cQ")
# A process introduces itself; process 0 accepts or refuses it.
HELLO, WELCOME, REFUSED = b"H", b"W", b"R"
# The first message of a connection that carries the runtime's data from then on.
RUNTIME = b"J"
# A sign of life; a part of `Link.gather` and its result; the line with which a process ends; the run is finished.
ALIVE, PART, ALL, FAILED, FINISHED = b"A", b"P", b"G", b"F", b"E"
# The longest first message: a longer one comes from another program.
LONGEST = 1 << 24


class Peer:
    """The connection to another process.

    Attributes:
        connection: the socket.
        index: of the other process.
        host: its name.
        seen: when its last message came, in seconds of the monotonic clock.
        received: the contents of its messages `PART` and `ALL`.
    """

    def __init__(self, connection: socket.socket, index: int, host: str):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection, self.index, self.host = connection, index, host
        self.seen = time.monotonic()
        self.received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._sending = threading.Lock()

    def send(self, kind: bytes, contents: bytes = b"") -> None:
        """Sends a message. OSError if the connection has ended."""
        with self._sending:
            self.connection.sendall(HEADER.pack(kind, len(contents)) + contents)

    def send_now(self, kind: bytes, contents: bytes = b"") -> None:
        """Sends a short message, but does not wait for a process that no longer reads."""
        if self._sending.acquire(timeout=1):
            with contextlib.suppress(OSError):
                self.connection.send(HEADER.pack(kind, len(contents)) + contents, socket.MSG_DONTWAIT)
            self._sending.release()

    def has_ended(self) -> bool:
        """Whether the other process, which has sent nothing more, has closed the connection."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def receive(connection: socket.socket, longest: int | None = None) -> tuple[bytes, bytes]:
    """The next message: its kind and its contents. OSError or EOFError: the connection has ended. ValueError: longer than `longest`."""
    kind, length = HEADER.unpack(_read(connection, HEADER.size))
    if longest is not None and length > longest:
        raise ValueError
    return kind, _read(connection, length)


def _read(connection, length):
    parts = []
    while length:
        parts.append(connection.recv(min(length, 1 << 20)))
        if not parts[-1]:
            raise EOFError
        length -= len(parts[-1])
    return b"".join(parts)


def join(parts: Sequence[bytes]) -> bytes:
    """Several contents as one."""
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def split(joined: bytes) -> list[bytes]:
    """The contents that `join` joined."""
    parts, start = [], 0
    while start < len(joined):
        (length,) = struct.unpack_from(">Q", joined, start)
        parts.append(joined[start + 8 : start + 8 + length])
        start += 8 + length
    return parts
