"""The tests' own client, against a server that sends given bytes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.wire import Client, chunked, exchange


@contextmanager
def answering(data: bytes) -> Iterator[tuple[str, int]]:
    """Accept one connection, send ``data`` byte by byte, close once the client has sent its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                for index in range(len(data)):
                    connection.sendall(data[index : index + 1])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(10)


def test_responses_in_a_row_are_told_apart() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n"
    data += b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: 1\r\na:2\r\n\r\nabc"
    data += b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    data += b"HTTP/1.0 404 \r\n\r\nrest"
    with answering(data) as address, Client(address) as client:
        assert client.read_response().status == 100
        second = client.read_response()
        assert (second.status, second.reason, second.body) == (200, "OK", b"abc")
        assert second.all("A") == ["1", "2"]
        assert client.read_response("HEAD").body == b""
        last = client.read_response()
        assert (last.version, last.status, last.reason) == ("HTTP/1.0", 404, "")
        assert last.body == b"rest"
        assert client.is_closed_by_server()


def test_chunked_body_is_decoded_with_its_trailers() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = chunked(b"abc", b"d" * 20)[:-2] + b"Some: trailer\r\n\r\n"
    with answering(head + body) as address, Client(address) as client:
        response = client.read_response()
        assert response.complete
        assert response.body == b"abc" + b"d" * 20
        assert response.trailers == [("Some", "trailer")]


@pytest.mark.parametrize(
    "cut",
    [
        b"Content-Length: 4\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ],
)
def test_response_that_breaks_off_is_incomplete(cut: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n" + cut) as address, Client(address) as client:
        response = client.read_response()
        assert response.body == b"abc"
        assert not response.complete


def test_connection_that_ends_before_a_response_is_an_error() -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\n") as address,
        Client(address) as client,
        pytest.raises(ConnectionError),
    ):
        client.read_response()


@pytest.mark.parametrize("bytewise", [False, True])
def test_exchange_returns_all_that_came(bytewise: bool) -> None:
    with answering(b"anything") as address:
        assert exchange(address, b"a request", bytewise=bytewise) == b"anything"


def test_a_connection_that_is_reset_at_once_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def reset() -> None:
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        try:
            # Before or after `connect` has returned: the caller cannot know.
            with Client(listener.getsockname()) as client:
                assert client.is_closed_by_server()
        finally:
            thread.join(10)
