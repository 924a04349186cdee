"""How processes meet and notice each other's end: each is a thread here."""

import json
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctxseg import interrupts
from ctxseg.errors import UserError
from ctxseg.processes import meeting, messages, relay
from ctxseg.processes.launch import Launch, check_address
from ctxseg.processes.link import Link


@pytest.fixture
def lines(monkeypatch):
    """The lines with which processes would end."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(interrupts, "leave", lines.put)
    links = []

    def link(*arguments):
        links.append(Link(*arguments))
        return links[-1]

    monkeypatch.setattr(meeting, "Link", link)
    yield lines
    for each in links:  # their threads would end the tests once `leave` is the real one
        each.close()


def meet(*processes, timeout=20.0, host="127.0.0.1"):
    """The result of `meeting.meet` in each process, or its UserError. `processes`: (index, count, identity)."""
    coordinator = f"{host}:{relay.free_address().rpartition(':')[2]}"

    def one(index, count, identity):
        try:
            return meeting.meet(Launch(coordinator, count, index), timeout, identity)
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(processes)) as pool:
        return [future.result() for future in [pool.submit(one, *process) for process in processes]]


def connected(coordinator):
    """A connection to process 0, which another thread starts."""
    while True:
        try:
            return socket.create_connection(check_address(coordinator))
        except OSError:
            time.sleep(0.01)


def test_processes_exchange_data_and_end(lines):
    links = [link for link, _ in meet(*((i, 3, {"a": [1]}) for i in range(3)))]
    contents = [b"", b"x" * 3_000_000, b"third"]
    with ThreadPoolExecutor(3) as pool:
        for gathered in pool.map(lambda link: [link.gather(contents[link.index]) for _ in range(2)], links):
            assert gathered == [contents, contents]
    for link in links:
        link.close()
    for link in links:
        for peer in link._peers:
            peer.connection.close()
    assert lines.empty()


def has_ipv6_loopback():
    """Whether ::1 exists. A kernel may know IPv6, and have it disabled for all interfaces, as in many containers."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no IPv6 loopback address")
def test_ipv6(lines):
    one, other = meet((0, 2, {}), (1, 2, {}), host="[::1]")
    assert one[0].index == 0 and other[0].index == 1


def test_the_end_of_a_process_ends_all_with_its_line(lines):
    links = [link for link, _ in meet(*((i, 3, {}) for i in range(3)))]
    links[2].fail("error: config.x is wrong")
    host = socket.gethostname()
    assert [lines.get(timeout=30) for _ in range(2)] == [f"error: process 2 on {host}: config.x is wrong"] * 2


@pytest.mark.parametrize("index", [0, 1])
def test_data_for_a_process_that_has_ended_raise_no_error(index, lines):
    """The thread that reads its messages ends this process."""
    links = [link for link, _ in meet(*((i, 2, {}) for i in range(2)))]
    links[1 - index]._ended = True
    links[1 - index]._peers[0].connection.shutdown(socket.SHUT_RDWR)
    assert "has ended" in lines.get(timeout=30)
    for _ in range(2):  # the first message to a closed connection is not yet an error
        links[index]._peers[0].received.put(b"")  # `gather` would wait for the end of this process
        links[index].gather(b"contents")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_is_named(victim, lines):
    links = [link for link, _ in meet(*((i, 2, {}) for i in range(2)))]
    links[victim]._ended = True
    links[victim]._peers[0].connection.shutdown(socket.SHUT_RDWR)
    line = lines.get(timeout=30)
    assert line.startswith(f"error: process {victim} on {socket.gethostname()} has ended")


def test_a_process_without_a_sign_of_life_is_named(lines, monkeypatch):
    monkeypatch.setattr(
        messages.Peer,
        "send",
        lambda self, kind, contents=b"": None if kind == messages.ALIVE else SEND(self, kind, contents),
    )
    meet(*((i, 2, {}) for i in range(2)), timeout=1.0)
    ends = {lines.get(timeout=30) for _ in range(2)}
    assert any("process 1" in line and "no sign of life for 1 seconds" in line for line in ends)


SEND = messages.Peer.send


def test_different_commands(lines):
    one, other = meet((0, 2, {"config.a": 1, "config.b": 2}), (1, 2, {"config.a": 1, "config.b": 3}))
    assert str(one) == str(other) and "process 1" in str(one) and "config.b=3" in str(one) and "has 2" in str(one)


def test_two_processes_of_one_index(lines):
    messages_ = [str(result) for result in meet((0, 3, {}), (1, 3, {}), (1, 3, {}))]
    assert len(set(messages_)) == 1 and "index 1" in messages_[0]


def test_a_process_that_was_started_again_before_all_had_met(lines):
    coordinator = relay.free_address()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(meeting.meet, Launch(coordinator, 3, 0), 20.0, {})
        hello = json.dumps({"index": 1, "count": 3, "host": "node", "identity": {}}).encode()
        with connected(coordinator) as connection:
            connection.sendall(messages.HEADER.pack(messages.HELLO, len(hello)) + hello)
            time.sleep(0.5)
        others = [pool.submit(meeting.meet, Launch(coordinator, 3, i), 20.0, {}) for i in (1, 2)]
        assert [future.result()[0].index for future in [first, *others]] == [0, 1, 2]


def test_another_number_of_processes(lines):
    one, other = map(str, meet((0, 2, {}), (1, 3, {})))
    assert one == other and "one of 3 processes" in one


def test_a_process_that_does_not_start(lines):
    (first,) = meet((0, 3, {}), timeout=1.0)
    assert "1, 2 did not start" in str(first)
    (second,) = meet((1, 2, {}), timeout=1.0)
    assert "process 0 does not answer" in str(second)


def test_another_program_at_the_port(lines):
    with socket.create_server(("127.0.0.1", 0)) as server:
        launch = Launch(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(UserError, match="cannot use port"):
            meeting.meet(launch, 1.0, {})

        def answer():
            server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match="not process 0"):
            meeting.meet(Launch(launch.coordinator, 2, 1), 1.0, {})


def test_process_0_ignores_other_programs(lines):
    coordinator = relay.free_address()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meeting.meet, Launch(coordinator, 2, 0), 20.0, {})
        for data in (b"GET / HTTP/1.1\r\n\r\n", messages.HEADER.pack(messages.HELLO, 1 << 60), b""):
            with connected(coordinator) as connection:
                connection.sendall(data)
        second = pool.submit(meeting.meet, Launch(coordinator, 2, 1), 20.0, {})
        assert first.result()[0].index == 0 and second.result()[0].index == 1


def test_the_runtime_of_a_process_is_carried_to_process_0(lines):
    (_, service), (_, client) = meet((0, 2, {}), (1, 2, {}))
    with socket.create_server(check_address(service)) as server:
        connection = socket.create_connection(check_address(client))
        accepted, _ = server.accept()
        connection.sendall(b"question")
        assert accepted.recv(8) == b"question"
        accepted.sendall(b"answer")
        assert connection.recv(6) == b"answer"
