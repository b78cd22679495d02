"""An answer may wait for those to other requests of the same poll, but for no call that lasts."""

from __future__ import annotations

import select
import threading
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, connect, get
from support.wire import DEADLINE, Client

pytestmark = pytest.mark.parametrize("threads", [1, 4])


@pytest.fixture
def settings(transport: str, threads: int) -> dict[str, Any]:
    return {"transport": transport, "threads": threads}


class Application:
    """``/send`` has clients send requests while no thread polls, so that one poll brings them all.

    Of the requests with a query, the first is answered at once, and the call of the others lasts
    until `arrived` is set.
    """

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.arrived = threading.Event()
        self.first = threading.Event()
        self.waited: list[bool] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/send":
            for client in self.clients:
                client.send(get("/?q"))
        elif environ["QUERY_STRING"]:
            if self.first.is_set():
                self.waited.append(self.arrived.wait(DEADLINE))
            self.first.set()
        start_response("200 OK", TEXT)
        return [b"ok"]


def test_an_answer_reaches_its_client_while_the_next_call_of_the_same_poll_lasts(
    settings: dict[str, Any],
) -> None:
    application = Application()
    with (
        penstock.running(application, **settings) as server,
        connect(server) as other,
        connect(server) as one,
        connect(server) as two,
        connect(server) as three,
    ):
        application.clients = [one, two, three]
        for client in application.clients:
            client.send(get("/"))  # the path proves fast
            assert client.read_response().status == 200
        other.send(get("/send"))
        assert other.read_response().status == 200
        sockets = [client.socket for client in application.clients]
        assert select.select(sockets, [], [], DEADLINE)[0]
        assert not application.waited
        application.arrived.set()
        for client in application.clients:
            assert client.read_response().body == b"ok"
    assert application.waited == [True, True]


def test_many_requests_of_one_poll_are_all_answered_and_their_connections_are_kept(
    settings: dict[str, Any],
) -> None:
    application = Application()
    application.first.set()
    application.arrived.set()
    with penstock.running(application, **settings) as server, connect(server) as other:
        application.clients = [connect(server) for _ in range(100)]
        try:
            for _ in range(3):
                other.send(get("/send"))
                assert other.read_response().status == 200
                for client in application.clients:
                    assert client.read_response().body == b"ok"
        finally:
            for client in application.clients:
                client.close()
    assert len(application.waited) == 300
