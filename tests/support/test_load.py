"""The load finds every kind of loss, and takes nothing for one that is none."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.load import Counts, Ending, Load, mixture, plain

END = b"\r\n\r\n"


def number_in(request: bytes) -> bytes:
    """Return what a good answer to a request begins with."""
    return request.split(b" ")[1].partition(b"?")[2]


def good(request: bytes, *fields: str) -> bytes:
    """Return a good answer."""
    body = number_in(request) + b" A"
    head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


class Peer:
    """One accepted connection, as a misbehaving server sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def request(self) -> bytes:
        """Return the next request, which has no body; empty at the end of the connection."""
        data = b""
        while not data.endswith(END):
            block = self.connection.recv(65536)
            if not block:
                return b""
            data += block
        return data

    def answer(self, *fields: str) -> bool:
        """Answer the next request correctly; return True if there was one."""
        request = self.request()
        if request:
            self.connection.sendall(good(request, *fields))
        return bool(request)

    def reset(self) -> None:
        """Close with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def server(behave: Callable[[Peer], None]) -> Iterator[tuple[str, int]]:
    """Serve connections, one after the other, each in the way of ``behave``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        behave(Peer(connection))
                    except OSError:
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def count(
    behave: Callable[[Peer], None], until: Callable[[Counts], object], *, closing: bool = False
) -> Counts:
    """Load a misbehaving server with one client until a condition holds."""
    clients = {"keep_alive": 0, "closing": 1} if closing else {"keep_alive": 1, "closing": 0}
    with server(behave) as address:
        with Load(address, **clients, ask=plain) as load:  # type: ignore[arg-type]
            load.wait_until(lambda: until(load.counts), 10)
    return load.counts


def first_loss(behave: Callable[[Peer], None], *, closing: bool = False) -> Ending:
    counts = count(behave, lambda counts: counts.losses, closing=closing)
    with pytest.raises(AssertionError, match="lost"):
        counts.check()
    return counts.losses[0].ending


def after_good_ones(then: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Answer two requests well, and misbehave after that."""

    def behave(peer: Peer) -> None:
        if peer.answer() and peer.answer():
            then(peer)

    return behave


def one_answer(peer: Peer) -> None:
    """Answer one request well, and close without a word."""
    peer.answer()


def swallow(peer: Peer) -> None:
    """Read a request, and close."""
    peer.request()


def send(data: bytes) -> Callable[[Peer], None]:
    """Answer with some bytes, and close."""

    def behave(peer: Peer) -> None:
        if peer.request():
            peer.connection.sendall(data)

    return behave


def test_good_answers_are_counted_and_nothing_is_lost() -> None:
    def behave(peer: Peer) -> None:
        while peer.answer():
            pass

    counts = count(behave, lambda counts: counts.answered >= 50)
    counts.check()
    assert (counts.connections, counts.refused, counts.announced) == (1, 0, 0)
    assert counts.servers == {"A": counts.answered}


def test_a_connection_for_each_request_is_what_a_closing_client_takes() -> None:
    counts = count(one_answer, lambda counts: counts.answered >= 20, closing=True)
    counts.check()
    assert counts.connections == counts.answered


def test_a_close_that_was_announced_is_no_loss() -> None:
    def behave(peer: Peer) -> None:
        peer.answer()
        peer.answer("Connection: close")

    counts = count(behave, lambda counts: counts.announced >= 5)
    counts.check()
    # The last connection may not have come to its second answer.
    assert 2 * counts.announced <= counts.answered <= 2 * counts.connections


@pytest.mark.parametrize("closing", [False, True])
def test_an_end_without_an_answer_is_found(closing: bool) -> None:
    assert first_loss(lambda peer: None, closing=closing) is Ending.ENDED
    assert first_loss(Peer.reset, closing=closing) is Ending.ENDED


@pytest.mark.parametrize("closing", [False, True])
def test_an_end_after_the_request_was_read_is_found(closing: bool) -> None:
    assert first_loss(swallow, closing=closing) is Ending.ENDED


def test_a_request_that_crosses_an_unannounced_close_is_a_race_that_was_lost() -> None:
    assert first_loss(after_good_ones(swallow)) is Ending.RACED


def test_an_unannounced_close_that_met_no_request_is_counted_and_no_loss() -> None:
    with server(one_answer) as address:
        with Load(address, keep_alive=1, closing=0, ask=plain, pause=0.5) as load:
            load.wait_until(lambda: load.counts.closed_idle >= 2)
    load.counts.check()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1 A",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n1 A and more",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n1 A\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n1 A",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n1 ABC0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n1 A\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n1 A",
        b"HELLO\r\n\r\n",
    ],
)
def test_a_broken_response_is_found(answer: bytes) -> None:
    assert first_loss(send(answer)) is Ending.BROKEN


def test_a_chunked_answer_in_pieces_is_read_whole() -> None:
    def behave(peer: Peer) -> None:
        while request := peer.request():
            number = number_in(request)
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer += b"%x\r\n%b\r\n2\r\n A\r\n0\r\nX: y\r\n\r\n" % (len(number), number)
            for index in range(len(answer)):
                peer.connection.sendall(answer[index : index + 1])

    counts = count(behave, lambda counts: counts.answered >= 3)
    counts.check()
    assert set(counts.servers) == {"A"}


def test_the_answer_to_another_request_is_found() -> None:
    assert first_loss(send(good(b"GET /echo?99 HTTP/1.1"))) is Ending.WRONG


def test_a_status_that_the_application_did_not_give_is_found() -> None:
    refusal = b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n"
    assert first_loss(send(refusal % b"400 Bad Request")) is Ending.WRONG
    assert first_loss(send(refusal % b"503 Service Unavailable")) is Ending.SERVER_ERROR


def test_silence_is_found() -> None:
    stop = threading.Event()

    def behave(peer: Peer) -> None:
        stop.wait(30)

    with server(behave) as address:
        with Load(address, keep_alive=1, closing=1, ask=plain, answer_within=0.2) as load:
            load.wait_until(lambda: load.counts.of(Ending.TIMEOUT) >= 2)
        stop.set()


def test_bytes_without_a_request_are_found() -> None:
    def behave(peer: Peer) -> None:
        if request := peer.request():
            peer.connection.sendall(good(request))
            sent.set()
            more.wait(30)
            peer.connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            peer.request()

    sent, more = threading.Event(), threading.Event()
    with server(behave) as address:
        # The client still rests when the bytes come.
        with Load(address, keep_alive=1, closing=0, ask=plain, pause=4.0) as load:
            load.wait_for(1)
            more.set()
            load.wait_until(lambda: load.counts.losses)
    assert load.counts.losses[0].ending is Ending.BROKEN


def test_who_waits_in_a_queue_that_is_dropped_is_lost_and_who_comes_later_is_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with Load(
        listener.getsockname(), keep_alive=2, closing=2, ask=plain, until_refused=True
    ) as load:
        load.wait_until(lambda: load.counts.connections == 4)
        listener.close()
        counts = load.join()
    assert counts.of(Ending.ENDED) == 4
    assert (counts.answered, counts.refused) == (0, 4)


def test_clients_come_again_after_they_were_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Load(address, keep_alive=1, closing=1, ask=plain) as load:
        load.wait_until(lambda: load.counts.refused > 5)
    load.counts.check()


def test_a_unix_socket_is_loaded_the_same_way(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Load(path, keep_alive=1, closing=0, ask=plain, until_refused=True) as load:
            connection, _ = listener.accept()
            with connection:
                peer = Peer(connection)
                assert peer.answer()
                assert peer.answer("Connection: close")
            listener.close()
            counts = load.join()
    assert counts.answered == 2
    assert counts.of(Ending.ENDED) <= 1  # it may have been in the queue already


def test_the_mixture_has_numbers_of_its_own_in_every_request() -> None:
    asked = [mixture(number) for number in range(100)]
    assert len({one.data for one in asked}) == len({one.answer for one in asked}) == 100
    assert {one.target.partition("?")[0] for one in asked} == {"/echo", "/upload", "/pieces"}
