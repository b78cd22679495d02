"""Clients that keep the server busy with what it answers itself do not keep others waiting."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from support.flood import Flood
from support.invariant import processor_seconds
from support.server_process import ServerProcess
from support.serving import Gate, connect, eventually, get
from support.transports import LOGGER, serving
from support.wire import DEADLINE, Client

HERE = Path(__file__).parents[1] / "support"

MOST_SECONDS = 2.0
"""What the server may compute until another client has its answers: all its requests together."""

OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("request_bytes", [OPTIONS, get("/healthz")], ids=["OPTIONS *", "health"])
def test_a_flood_of_requests_that_the_server_answers_itself_lets_others_through(
    transport: str, threads: int, request_bytes: bytes
) -> None:
    arguments = ("sleeper:app", "--transport", transport, "--threads", str(threads))
    with ServerProcess(*arguments, "--health-path", "/healthz", cwd=HERE) as server:
        with Flood(server.address, request_bytes, connections=4) as flood:
            eventually(lambda: flood.received > 100_000)
            begun = processor_seconds(server)
            for _ in range(5):
                with Client(server.address) as other:
                    assert other.request("GET", "/").status == 200
            assert processor_seconds(server) - begun < MOST_SECONDS
            before = flood.received
            eventually(lambda: flood.received > before)


def test_a_path_whose_timeout_is_not_known_yet_keeps_no_other_client_waiting(
    transport: str,
) -> None:
    asked, known = threading.Event(), threading.Event()

    def timeout_for(path: str) -> float:
        if path == "/unknown":
            asked.set()
            assert known.wait(DEADLINE)
        return 60.0

    with serving(Gate(), transport, threads=2, timeout_for=timeout_for) as server:
        with connect(server) as first, connect(server) as other:
            first.send(get("/unknown"))
            assert asked.wait(DEADLINE)
            try:
                for _ in range(3):
                    assert other.request("GET", "/other").body == b"/other"
            finally:
                known.set()
            assert first.read_response().body == b"/unknown"


def test_a_log_that_blocks_keeps_no_other_client_waiting(transport: str) -> None:
    """As a pipe does whose reader stands still: a dropped field is logged before the call."""
    logged, unblocked = threading.Event(), threading.Event()

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "x_odd" in record.getMessage().lower():
                logged.set()
                assert unblocked.wait(DEADLINE)

    handler = Blocking()
    LOGGER.addHandler(handler)
    try:
        with serving(Gate(), transport, threads=2) as server:
            with connect(server) as first, connect(server) as other:
                first.send(get("/first", "X_Odd: 1"))
                assert logged.wait(DEADLINE)
                try:
                    for _ in range(3):
                        assert other.request("GET", "/other").body == b"/other"
                finally:
                    unblocked.set()
                assert first.read_response().body == b"/first"
    finally:
        LOGGER.removeHandler(handler)
