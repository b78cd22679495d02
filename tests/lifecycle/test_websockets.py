"""WebSockets of whole processes: reload, upgrade, recycling, stop, and what the operator sees."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, json_of, write_app
from support.load import Load
from support.websockets import CLOSE, GOING_AWAY, TEXT, ClientSide
from support.wire import Client

SOCKETS = 200


def opened(server: Supervised, stack: ExitStack) -> tuple[ClientSide, int]:
    """Return a client with a WebSocket, and the worker that has the other side."""
    side = ClientSide(stack.enter_context(Client(server.address)))
    assert side.open("/websocket?").status == 101
    told = side.read()
    assert told is not None
    return side, int(told[1])


def take_leave(side: ClientSide) -> None:
    """Check that the server goes away, answer that, and read the end."""
    assert side.read() == GOING_AWAY
    side.send(*GOING_AWAY)
    assert side.read() is None


@pytest.mark.parametrize("how", ["reload", "upgrade", "recycle"])
def test_each_client_of_a_worker_that_is_replaced_gets_1001_and_finds_the_next_one(
    tmp_path: Path, transport: str, how: str
) -> None:
    sockets = SOCKETS if how == "reload" else 10
    pid_file = tmp_path / "pid"
    arguments = ["--threads", "2", "--max-websockets", str(SOCKETS), "--transport", transport]
    arguments += ["--workers", "1" if how == "recycle" else "2", "--pid", str(pid_file)]
    control = ("--control", str(tmp_path / "control"))
    arguments += control
    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        old = server.workers()
        sides = [opened(server, stack) for _ in range(sockets)]
        assert {worker for _, worker in sides} <= old
        assert sides[0][0].echoes()
        with Load(server.address, keep_alive=2, closing=2) as load:
            if how == "reload":
                write_app(tmp_path, "two")
                server.signal(signal.SIGHUP)
            elif how == "upgrade":
                server.signal(signal.SIGUSR2)
            else:
                [worker] = old
                recycling = server.control(*control, "recycle", "--no-wait", str(worker))
                assert recycling.returncode == 0
            for side, _ in sides:
                take_leave(side)
            if how == "upgrade":
                assert eventually(lambda: server.has_new_supervisor(pid_file))
            assert eventually(lambda: not old & set(server.members()))
            load.wait_for(20)
        load.counts.check()
        again, worker = opened(server, stack)
        assert worker not in old
        assert again.echoes()
        again.send(CLOSE, b"")
        assert again.read() == (CLOSE, b"")
        assert server.stop() == 0


def test_the_operator_sees_it_and_no_deadline_ends_it(tmp_path: Path, transport: str) -> None:
    control = ("--control", str(tmp_path / "control"))
    arguments = ("--threads", "2", "--timeout", "0.2s", "--transport", transport, *control)

    def told(question: str) -> Any:
        return json_of(server.control(*control, "--json", question))

    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        side, worker = opened(server, stack)
        with server.begin("/hold?7&", "late") as late:  # which has a deadline
            assert late.read_response().status == 504
            server.let_go("late")
        assert side.echoes()
        [request] = told("requests")["requests"]
        assert request["websocket"] is True
        assert request["io_bound"] is False
        assert request["deadline"] is None
        assert request["age"] > 0.2
        assert request["target"] == "/websocket?"
        [row] = told("workers")["workers"]
        assert (row["pid"], row["busy"], row["io_bound"], row["websockets"]) == (worker, 0, 0, 1)
        counts = told("status")["counts"]
        assert (counts["in_progress"], counts["websockets"]) == (1, 1)
        assert counts["websockets_refused"] == 0
        assert "yes" in server.control(*control, "requests").stdout
        server.signal(signal.SIGTERM)
        take_leave(side)
        assert server.wait() == 0


def test_a_client_that_does_not_close_is_cut_off_at_the_end_of_the_stop(
    tmp_path: Path, transport: str
) -> None:
    log = tmp_path / "log"
    arguments = ("--graceful-timeout", "1s", "--access-logfile", str(log), "--transport", transport)
    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        side, _ = opened(server, stack)
        server.signal(signal.SIGTERM)
        assert side.read() == GOING_AWAY
        try:
            assert side.read() is None
        except ConnectionResetError:
            pass
        server.wait()
    assert '"GET /websocket? HTTP/1.1" 101 ' in log.read_text()


def test_of_a_worker_that_is_killed_the_log_names_it(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--transport", transport) as server, ExitStack() as stack:
        side, worker = opened(server, stack)
        assert side.echoes()
        os.kill(worker, signal.SIGKILL)
        try:
            assert side.read() is None
        except ConnectionResetError:
            pass
        server.wait_for_line(r"GET /websocket\?")
        server.wait_for_serving(1, {worker})
        again, other = opened(server, stack)
        assert other != worker
        again.send(TEXT, b"x")
        assert again.read() == (TEXT, b"x")
        server.signal(signal.SIGTERM)
        take_leave(again)
        assert server.wait() == 0
