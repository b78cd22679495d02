"""Requests that have left the count of threads, while their worker is stopped or replaced."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.config.sources import settings_from_kwargs
from penstock.listeners import open_listeners
from penstock.telemetry.scoreboard import IO_BOUND_CALLS
from penstock.worker.worker import Worker
from support.fake_exchange import Records
from support.invariant import eventually
from support.lifecycle import Supervised, json_of
from support.load import Load
from support.wire import DEADLINE, Client

POLLS = 4


def polling(server: Supervised, stack: ExitStack, polls: int = POLLS) -> dict[str, Client]:
    """Return clients of one worker whose requests wait out of the count, by the files' names."""
    names = [f"poll{number}" for number in range(polls)]
    return {name: stack.enter_context(server.begin("/poll?7&", name)) for name in names}


def finish(server: Supervised, clients: dict[str, Client]) -> None:
    """Let the requests be answered, and check the answers."""
    for name, client in clients.items():
        server.let_go(name)
        assert client.read_response().body.startswith(b"7 True one:")


def test_the_operator_sees_what_has_left_the_count_and_a_stop_waits_for_it(
    tmp_path: Path, transport: str
) -> None:
    control = ("--control", str(tmp_path / "control"))
    arguments = ("--threads", "2", "--max-io-bound", "3", "--transport", transport, *control)

    def told(question: str) -> Any:
        return json_of(server.control(*control, "--json", question))

    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        clients = polling(server, stack, 3)
        fourth = stack.enter_context(server.begin("/poll?7&", "fourth"))
        assert server.ask("/echo?1").body.startswith(b"1 one:")  # one thread is free
        [row] = told("workers")["workers"]
        assert (row["busy"], row["io_bound"], row["threads"]) == (1, 3, 2)
        requests = told("requests")["requests"]
        assert sorted(request["io_bound"] for request in requests) == [False, True, True, True]
        counts = told("status")["counts"]
        assert (counts["in_progress"], counts["io_bound"]) == (4, 3)
        assert counts["io_bound_refused"] == 1
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        finish(server, clients)
        server.let_go("fourth")
        assert fourth.read_response().body.startswith(b"7 False one:")
        assert server.wait() == 0


@pytest.mark.parametrize("how", ["reload", "recycle"])
def test_a_worker_that_is_replaced_finishes_what_has_left_the_count(
    tmp_path: Path, transport: str, how: str
) -> None:
    recycling = ("--max-requests", "50") if how == "recycle" else ()
    with (
        Supervised(tmp_path, "--threads", "2", *recycling, "--transport", transport) as server,
        ExitStack() as stack,
    ):
        old = server.workers()
        clients = polling(server, stack)
        with Load(server.address, keep_alive=2, closing=2) as load:
            if how == "reload":
                server.signal(signal.SIGHUP)
            load.wait_until(lambda: server.workers() - old)
            load.wait_for(20)
            finish(server, clients)
            server.wait_for_workers(1, old)
        load.counts.check()
        assert load.counts.refused == 0
        assert server.stop() == 0


def test_the_deadline_holds_for_a_call_out_of_the_count_and_no_thread_of_the_count_is_lost(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("--timeout", "0.4s", "--timeout-grace", "0.1s", "--threads", "2")
    more = ("--timeout-for", "/hold=60s", "--no-supervisor", "--transport", transport)
    with Supervised(tmp_path, *arguments, *more) as server, ExitStack() as stack:
        late = stack.enter_context(server.begin("/poll?7&", "late"))
        assert late.read_response().status == 504
        line = server.wait_for_line("PEN-6130")
        assert "free threads of the worker: 2." in line
        first, second = (
            stack.enter_context(server.begin("/hold?8&", name)) for name in ("first", "second")
        )
        for name, client in (("first", first), ("second", second)):
            server.let_go(name)
            assert client.read_response().body.startswith(b"8 one:")
        server.let_go("late")
        server.wait_for_line("PEN-6140")
        assert server.stop() == 0


def test_a_call_may_leave_the_count_while_the_worker_still_starts_its_threads(
    transport: str,
) -> None:
    settings = settings_from_kwargs(bind="127.0.0.1:0", threads=200, transport=transport)
    listeners = open_listeners(settings.bind, 16)
    worker = Worker(settings, listeners)
    answers: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        answers.append(environ["penstock.io_bound"]())
        start_response("200 OK", [])
        return [b""]

    with Client(listeners[0].socket.getsockname()[:2]) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # the first thread takes it
        try:
            worker.start(application)
            assert client.read_response().status == 200
        finally:
            worker.drain()
            assert worker.join(DEADLINE)
            worker.close_logs()
    assert answers == [True]


def test_a_request_keeps_its_thread_where_the_system_starts_no_more(transport: str) -> None:
    log = Records()
    settings = settings_from_kwargs(bind="127.0.0.1:0", threads=2, transport=transport)
    listeners = open_listeners(settings.bind, 16)
    worker = Worker(settings, listeners)
    worker.logger.addHandler(log)
    answers: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        # A stack of this size is more than the address space has.
        before = threading.stack_size(1 << 47 if environ["PATH_INFO"] == "/none" else 0)
        try:
            answers.append(environ["penstock.io_bound"]())
        finally:
            threading.stack_size(before)
        start_response("200 OK", [])
        return [b""]

    worker.start(application)
    try:
        with Client(listeners[0].socket.getsockname()[:2]) as client:
            for path in ("/none", "/none", "/", "/none", "/"):
                assert client.request("GET", path).status == 200
                assert eventually(lambda: worker.slot.words[IO_BOUND_CALLS] == 0)
    finally:
        worker.drain()
        assert worker.join(DEADLINE)
        worker.close_logs()
    assert answers == [False, False, True, True, True]  # the last take the place of one another
    assert len([line for line in log.lines if line.startswith("PEN-6160 ")]) == 1
