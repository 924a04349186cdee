"""Carries the connections of jax.distributed through the port of process 0.

So a run needs only one port. And the runtime of a process does not notice the end of process 0: it would abort with a stack trace before
`link` could end the process with a line.
"""

import contextlib
import socket
import threading

from ctxseg.processes import messages


def free_address() -> str:
    """127.0.0.1:PORT with a port that nothing uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def listen(coordinator: tuple[str, int]) -> str:
    """An address on this machine, HOST:PORT, whose connections are carried to process 0 at `coordinator`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                remote = socket.create_connection(coordinator)
                remote.sendall(messages.HEADER.pack(messages.RUNTIME, 0))
                carry(connection, remote)

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carries data between two connections in both directions. Neither is closed if the other one is."""
    for connection in (one, other):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for source, target in ((one, other), (other, one)):
        threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
