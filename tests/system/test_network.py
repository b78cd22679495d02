"""What the kernel tells of listening sockets."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from penstock.system.network import accept_queue_length, listen_overflows
from support.invariant import eventually


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells it")
def test_the_length_of_an_accept_queue_is_that_of_the_clients_in_it() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        assert accept_queue_length(server) == 0
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        assert eventually(lambda: accept_queue_length(server) == 3)
        server.accept()[0].close()
        assert accept_queue_length(server) == 2
        for client in clients:
            client.close()


def test_a_unix_socket_has_no_length(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert accept_queue_length(server) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 14 15\n", 14),
        ("IpExt: InOctets\nIpExt: 9\nTcpExt: ListenOverflows\nTcpExt: 3\n", 3),
        ("TcpExt: ListenDrops\nTcpExt: 3\n", None),
        ("TcpExt: ListenDrops ListenOverflows\nTcpExt: 3\n", None),
        ("", None),
        (None, None),
    ],
)
def test_overflows_are_found_by_their_name(
    tmp_path: Path, text: str | None, expected: int | None
) -> None:
    if text is not None:
        path = tmp_path / "proc" / "net" / "netstat"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert listen_overflows(tmp_path) == expected
