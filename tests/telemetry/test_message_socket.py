"""Messages to a daemon: none waits longer than it may, and none is lost without being counted."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.telemetry import message_socket
from penstock.telemetry.message_socket import MessageSocket, Place
from support.invariant import eventually


def notice(count: int) -> bytes:
    return b"lost %d" % count


def datagrams(path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(path))
    receiver.settimeout(10)
    return receiver


def to(path: Path, kind: int = socket.SOCK_DGRAM, *, keeps: bool = True) -> MessageSocket:
    return MessageSocket([Place(socket.AF_UNIX, kind, str(path))], notice=notice, keeps=keeps)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a socket connect again without a pause."""
    monkeypatch.setattr(message_socket, "RETRY_SECONDS", 0.0)


def test_messages_arrive_whole_and_in_order(path: Path) -> None:
    with closing(datagrams(path)) as receiver:
        sender = to(path)
        for number in range(5):
            assert sender.send(b"message %d" % number)
        assert [receiver.recv(100) for _ in range(5)] == [b"message %d" % n for n in range(5)]
        sender.close()
        assert sender.dropped == 0


def test_what_a_slow_reader_does_not_take_waits_and_is_sent_later(path: Path) -> None:
    with closing(datagrams(path)) as receiver:
        sender = to(path)
        sent = 0
        while not sender.is_waiting:
            assert sender.send(b"%d" % sent)
            sent += 1
        before = time.monotonic()
        for _ in range(20):
            assert sender.send(b"%d" % sent)
            sent += 1
        assert time.monotonic() - before < 1.0
        got: list[int] = []
        while len(got) < sent:
            got.append(int(receiver.recv(100)))
            sender.pump()
        assert got == list(range(sent))
        assert not sender.is_waiting
        sender.close()


def test_a_queue_that_is_full_loses_messages_and_says_how_many(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    monkeypatch.setattr(message_socket, "MAX_QUEUED_MESSAGES", 3)
    sender = to(path)
    results = [sender.send(b"%d" % number) for number in range(5)]
    assert results == [True, True, True, False, False]
    assert (sender.dropped, sender.failure) == (2, "No such file or directory")
    with closing(datagrams(path)) as receiver:
        sender.pump()
        assert sender.send(b"5")
        got = [receiver.recv(100) for _ in range(5)]
        assert got == [b"0", b"1", b"2", b"lost 2", b"5"]
        sender.close()


def test_the_bytes_that_may_wait_are_bounded_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_socket, "MAX_QUEUED_BYTES", 1000)
    sender = to(path)
    assert [sender.send(bytes(600)) for _ in range(3)] == [True, True, False]
    sender.close()


def test_a_daemon_that_was_restarted_gets_the_next_message(path: Path, at_once: None) -> None:
    first = datagrams(path)
    sender = to(path)
    sender.send(b"one")
    assert first.recv(100) == b"one"
    first.close()
    path.unlink()
    with closing(datagrams(path)) as second:
        assert sender.send(b"two")
        assert second.recv(100) == b"two"
        sender.close()
    assert sender.dropped == 0


def test_without_a_connection_a_message_that_may_not_wait_is_lost_at_once(
    path: Path, at_once: None
) -> None:
    sender = to(path, keeps=False)
    assert not sender.send(b"one")
    assert sender.dropped == 1
    with closing(datagrams(path)) as receiver:
        assert sender.send(b"two")
        assert [receiver.recv(100), receiver.recv(100)] == [b"lost 1", b"two"]
        sender.close()


def test_between_two_attempts_to_connect_there_is_a_pause(path: Path) -> None:
    sender = to(path)
    sender.send(b"one")
    with closing(datagrams(path)) as receiver:
        receiver.setblocking(False)
        sender.pump()
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
        assert sender.is_waiting
        sender.close()


def test_a_datagram_that_is_too_long_is_lost_alone(path: Path) -> None:
    with closing(datagrams(path)) as receiver:
        sender = to(path)
        sender.send(bytes(16 << 20))
        assert sender.dropped == 1
        sender.send(b"short")
        assert [receiver.recv(100), receiver.recv(100)] == [b"lost 1", b"short"]
        sender.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def over_tcp(server: socket.socket) -> MessageSocket:
    place = Place(socket.AF_INET, socket.SOCK_STREAM, server.getsockname())
    return MessageSocket([place], notice=notice)


def read(connection: socket.socket, count: int) -> bytes:
    connection.settimeout(10)
    got = b""
    while len(got) < count:
        data = connection.recv(65536)
        if not data:
            break
        got += data
    return got


def pumped(sender: MessageSocket) -> bool:
    """Send what is possible; return True if nothing is left."""
    sender.pump()
    return not sender.is_waiting


def test_a_stream_gets_long_messages_in_pieces_without_waiting(listening: socket.socket) -> None:
    sender = over_tcp(listening)
    message = bytes(range(256)) * 2000
    before = time.monotonic()
    count = 0
    while not sender.is_waiting or count < 2:
        assert sender.send(message)
        count += 1
    assert time.monotonic() - before < 5.0
    connection, _ = listening.accept()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(connection, count * len(message))))
    reader.start()
    assert eventually(lambda: pumped(sender))
    reader.join(10)
    assert got == [message * count]
    connection.close()
    sender.close()


def test_a_broken_stream_gets_the_message_whole_on_its_next_connection(
    listening: socket.socket, at_once: None
) -> None:
    sender = over_tcp(listening)
    sender.send(b"one\n")
    sender.pump(5.0)
    connection, _ = listening.accept()
    assert read(connection, 4) == b"one\n"
    message = bytes(1000) * 8000 + b"\n"
    while not sender.is_waiting:
        sender.send(message)
    connection.close()  # with data unread: a reset, in the middle of a message
    got: list[bytes] = []

    def take() -> None:
        with listening.accept()[0] as again:
            got.append(read(again, len(message)))

    taker = threading.Thread(target=take)
    taker.start()

    def is_taken() -> bool:
        sender.pump()
        return not taker.is_alive()

    assert eventually(is_taken)
    assert got[0].startswith(message)
    sender.close()


def test_the_last_messages_are_sent_when_it_is_closed(listening: socket.socket) -> None:
    sender = over_tcp(listening)
    sender.send(b"one\n")
    sender.send(b"two\n")
    sender.close(5.0)
    connection, _ = listening.accept()
    assert read(connection, 100) == b"one\ntwo\n"
    connection.close()
    assert not sender.send(b"three\n")


def test_the_next_place_is_tried_where_the_first_takes_nothing(tmp_path: Path) -> None:
    places = [Place(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / name)) for name in "ab"]
    with closing(datagrams(tmp_path / "b")) as receiver:
        sender = MessageSocket(places, notice=notice)
        assert sender.send(b"one")
        assert receiver.recv(100) == b"one"
        sender.close()


def in_child(work: Callable[[], None]) -> int:
    """Return the exit status of a forked child that does some work."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def test_a_forked_child_sends_nothing_of_its_parents(listening: socket.socket) -> None:
    sender = over_tcp(listening)
    sender.send(b"first\n")
    sender.pump(5.0)
    connection, _ = listening.accept()
    assert read(connection, 6) == b"first\n"
    block = bytes(100_000) + b"\n"
    while not sender.is_waiting:
        sender.send(block)
    assert in_child(sender.close) == 0

    def send() -> None:
        sender.send(b"child\n")
        sender.pump(5.0)
        sender.close()

    assert in_child(send) == 0
    own, _ = listening.accept()
    assert read(own, 100) == b"child\n"
    assert sender.is_waiting
    own.close()
    connection.close()
    sender.close()


def test_a_sender_that_waits_holds_no_other_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_socket, "MAX_QUEUED_MESSAGES", 2)
    with closing(datagrams(path)):
        sender = to(path)
        while not sender.is_waiting:
            sender.send(b"x")
        sender.send(b"x")
        waiting = threading.Thread(target=sender.send, args=(b"y",), kwargs={"patience": 3.0})
        waiting.start()
        before = time.monotonic()
        sender.send(b"z")
        assert time.monotonic() - before < 2.0
        waiting.join()
        before = time.monotonic()
        assert not sender.send(b"y", patience=3.0)  # that was in vain before
        assert time.monotonic() - before < 1.0
        sender.close()
