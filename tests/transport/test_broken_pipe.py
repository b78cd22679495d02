"""A client that is gone while a file is sent is an error of its connection, and of no other."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.server_process import ServerProcess
from support.serving import get
from support.wire import Client

HERE = Path(__file__).parents[1] / "support"


# A reset after the end of the input fails the first write with EPIPE, any other one the second.
@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_sigpipe_where_the_application_restores_its_default_action(
    transport: str, threads: int, half_closed: bool
) -> None:
    arguments = ("sigpipe_default:app", "--transport", transport, "--threads", str(threads))
    with ServerProcess(*arguments, cwd=HERE) as server:
        with Client(server.address) as client:
            worker = client.request("GET", "/").body
        for _ in range(5):
            with Client(server.address, receive_buffer=4096) as client:
                client.send(get("/file"))
                assert client.socket.recv(4096)
                if half_closed:
                    client.socket.shutdown(socket.SHUT_WR)
                client.reset()
            with Client(server.address) as client:
                assert client.request("GET", "/").body == worker
