"""A view may fork while other threads of the server are at work: the child does not hang."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from support.batches import WHOLE_MATRIX
from support.serving import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.api import RunningServer

FORKS = 60 if WHOLE_MATRIX else 25
CLIENTS = 3
LARGE = b"x" * 300_000

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = LARGE
    if environ["PATH_INFO"] == "/fork":
        body = fork(environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def fork(environ: dict[str, Any]) -> bytes:
    child = os.fork()
    if not child:
        # The hooks after the fork have run. What follows is a call into the transport.
        environ["penstock.client_gone"]()
        os._exit(7)
    killer = threading.Timer(20, os.kill, (child, signal.SIGKILL))
    killer.start()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    return b"ended" if os.waitstatus_to_exitcode(status) == 7 else b"hung"


def load(server: RunningServer, over: threading.Event) -> None:
    while not over.is_set():
        with connect(server) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            client.read_to_end()


def test_a_child_that_a_view_forks_under_load_does_not_hang_in_what_another_thread_held(
    transport: str,
) -> None:
    over = threading.Event()
    with penstock.running(application, transport=transport, threads=4) as server:
        others = [threading.Thread(target=load, args=(server, over)) for _ in range(CLIENTS)]
        for thread in others:
            thread.start()
        try:
            with connect(server) as client:
                bodies = [client.request("GET", "/fork").body for _ in range(FORKS)]
        finally:
            over.set()
            for thread in others:
                thread.join()
    assert bodies == [b"ended"] * FORKS
