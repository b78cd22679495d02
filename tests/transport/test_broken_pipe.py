"""A client that is gone while a file is sent is an error of its connection, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import TRANSPORTS
from support.server_process import ServerProcess
from support.serving import get
from support.wire import Client

HERE = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("transport", [each for each in TRANSPORTS if each == "native"])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_sigpipe_where_the_application_restores_its_default_action(
    transport: str, threads: int
) -> None:
    arguments = ("sigpipe_default:app", "--transport", transport, "--threads", str(threads))
    with ServerProcess(*arguments, cwd=HERE) as server:
        with Client(server.address) as client:
            worker = client.request("GET", "/").body
        for _ in range(5):
            with Client(server.address, receive_buffer=4096) as client:
                client.send(get("/file"))
                assert client.socket.recv(4096)
                client.reset()
            with Client(server.address) as client:
                assert client.request("GET", "/").body == worker
