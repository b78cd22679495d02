"""Calls that outlive their timeout, over the wire: who is told what, and that all else goes on."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.telemetry.scoreboard import LIVE, READY, SERVING, STATE, STUCK
from penstock.worker import deadlines as watchdog
from support.server_process import ServerProcess
from support.serving import TEXT, Environ, Gate, connect, eventually, get
from support.wire import Client

if TYPE_CHECKING:
    from penstock.api import RunningServer

STRESS_SECONDS = float(os.environ.get("PENSTOCK_STRESS_SECONDS", "1.5"))
"""How long the test under stress takes on each transport; make it longer by the variable."""

threads = pytest.mark.parametrize("threads", [1, 4])


def spin(over: Callable[[], bool] = lambda: False) -> None:
    """Take time in small pieces of Python, until ``over`` says so."""
    while not over():
        select.select([], [], [], 0.001)


class Logs:
    """The files of a server's logs."""

    def __init__(self, folder: Path) -> None:
        self.settings = {
            "access_logfile": str(folder / "access.log"),
            "access_logformat": "json",
            "error_logfile": str(folder / "error.log"),
        }
        self._access = folder / "access.log"
        self._error = folder / "error.log"

    @property
    def access(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._access.read_text().splitlines()]

    @property
    def error(self) -> str:
        return self._error.read_text()


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def hangs(environ: Environ, start_response: StartResponse) -> list[bytes]:
    if environ["PATH_INFO"].startswith("/hang"):
        spin()
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode()]


@threads
def test_a_call_that_hangs_is_warned_of_then_answered_504_and_its_thread_serves_on(
    transport: str, threads: int, logs: Logs
) -> None:
    with (
        penstock.running(
            hangs, transport=transport, threads=threads, timeout=0.4, **logs.settings
        ) as server,
        connect(server) as client,
    ):
        port = client.socket.getsockname()[1]
        for _ in range(threads + 1):
            response = client.request("GET", "/hang?a=1")
            assert (response.status, response.body) == (504, b"Gateway Timeout\n")
            assert response.header("Connection") is None
        assert client.request("GET", "/after").body == b"/after"
    first, *_, after = logs.access
    assert (first["http.response.status_code"], first["reason"]) == (504, "timeout after 0.4 s")
    assert (after["http.response.status_code"], after["reason"]) == (200, None)
    named = (
        rf"GET /hang\?a=1 \(request {first['request_id']}, 0\.\d s old, from 127\.0\.0\.1:{port}\)"
    )
    warning = re.search(
        rf"\[WARNING\] PEN-6110 {named} has used half of its 0\.4 s"
        r" \(settings: timeout, timeout_for\); its thread is in:\n(  .*\n)+",
        logs.error,
    )
    assert warning
    assert "in spin\n" in warning[0]
    assert warning[0].index("in hangs\n") < warning[0].index("in spin\n")
    error = re.search(
        rf"\[ERROR\] PEN-6120 {named} is out of time: RequestTimeout is raised", logs.error
    )
    assert error
    assert (
        f"GET /hang?a=1 (request {first['request_id']}): timeout after 0.4 s"
        " (settings: timeout, timeout_for)" in logs.error
    )
    assert "Traceback" not in logs.error


@threads
def test_a_call_that_hangs_after_its_response_has_begun_is_cut_off(
    transport: str, threads: int, logs: Logs
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"begun"
        if environ["PATH_INFO"] == "/hang":
            spin()

    with (
        penstock.running(
            application, transport=transport, threads=threads, timeout=0.3, **logs.settings
        ) as server,
        connect(server) as client,
    ):
        response = client.request("GET", "/hang")
        assert (response.status, response.body, response.complete) == (200, b"begun", False)
        with connect(server) as other:
            assert other.request("GET", "/").body == b"begun"
    assert logs.access[0]["reason"] == "timeout after 0.3 s"
    assert logs.access[0]["http.response.status_code"] == 200


class Hanging:
    """A response whose `close` hangs."""

    closes = 0

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        start_response("200 OK", TEXT)

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])

    def close(self) -> None:
        Hanging.closes += 1
        spin()


@threads
def test_a_close_that_hangs_is_interrupted_and_the_response_stands(
    transport: str, threads: int, logs: Logs
) -> None:
    Hanging.closes = 0
    with (
        penstock.running(
            Hanging, transport=transport, threads=threads, timeout=0.3, **logs.settings
        ) as server,
        connect(server) as client,
    ):
        for _ in range(threads + 1):
            assert client.request("GET", "/").body == b"whole"
        eventually(lambda: logs.error.count("timeout after 0.3 s") == threads + 1)
    assert Hanging.closes == threads + 1
    assert {line["http.response.status_code"] for line in logs.access} == {200}


@threads
def test_an_application_that_catches_the_timeout_answers_itself(
    transport: str, threads: int
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            spin()
        except penstock.RequestTimeout:
            start_response("503 Service Unavailable", [*TEXT, ("Retry-After", "9")])
            return [b"later"]
        raise AssertionError

    with (
        penstock.running(application, transport=transport, threads=threads, timeout=0.3) as server,
        connect(server) as client,
    ):
        for _ in range(2):
            response = client.request("GET", "/")
            assert (response.status, response.body) == (503, b"later")


@threads
def test_a_call_that_swallows_the_timeout_is_stuck_until_it_ends(
    transport: str, threads: int, logs: Logs
) -> None:
    over = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        while not over.is_set():
            try:
                spin(over.is_set)
            except BaseException:
                pass
        start_response("200 OK", TEXT)
        return [b"at last"]

    with (
        penstock.running(
            application, transport=transport, threads=threads,
            timeout=0.3, timeout_grace=0.2, **logs.settings,
        ) as server,
        connect(server) as client,
    ):  # fmt: skip
        client.send(get("/"))
        words = server.worker.slot.words
        eventually(lambda: words[STATE] == STUCK)
        eventually(lambda: words[LIVE] == (threads > 1))
        assert words[READY] == 0
        over.set()
        assert client.read_response().body == b"at last"
        eventually(lambda: words[STATE] == SERVING)
        eventually(lambda: words[LIVE] == words[READY] == 1)
    stacks = logs.error.partition("[CRITICAL]")[2]
    assert "is stuck: it goes on 0.2 s after RequestTimeout was raised" in stacks
    assert "thread MainThread\n" in stacks
    assert re.search(r"\n  thread penstock-\d: GET / \(request ", stacks)


def test_each_path_has_the_timeout_of_the_first_pattern_that_matches(transport: str) -> None:
    gate = Gate()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/quick/"):
            spin()
        return gate(environ, start_response)

    with (
        penstock.running(
            application, transport=transport, threads=2, timeout=0.2,
            timeout_for=["/quick/*=200ms", "/wait*=1h"],
        ) as server,
        connect(server) as waiting,
        connect(server) as quick,
    ):  # fmt: skip
        waiting.send(get("/wait"))
        eventually(lambda: "/wait" in gate.seen)
        for _ in range(3):
            assert quick.request("GET", "/quick/a").status == 504
        gate.open()
        assert waiting.read_response().body == b"/wait"


def test_without_a_timeout_nothing_is_interrupted_but_the_beats_go_on(transport: str) -> None:
    gate = Gate()
    deadlines: list[object] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        deadlines.append(environ.get("penstock.deadline"))
        return gate(environ, start_response)

    with (
        penstock.running(application, transport=transport, threads=1, timeout=0) as server,
        connect(server) as client,
    ):
        client.send(get("/wait"))
        eventually(lambda: gate.inside)
        eventually(lambda: server.worker.slot.words[LIVE])
        gate.open()
        assert client.read_response().status == 200
    assert deadlines == [None]


def test_time_in_which_a_process_is_stopped_is_not_the_calls(
    transport: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "import threading\n"
        "opened = threading.Event()\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/open':\n"
        "        opened.set()\n"
        "    elif environ['PATH_INFO'] == '/wait':\n"
        "        while not opened.wait(0.01):\n"
        "            pass\n"
        "    start_response('200 OK', [])\n"
        "    return [b'done']\n"
    )
    with (
        ServerProcess(
            "app:app", "--no-supervisor", "--transport", transport, "--threads", "2",
            "--timeout", "2s", cwd=tmp_path,
        ) as server,
        socket.create_connection(server.address) as other,
    ):  # fmt: skip
        other.settimeout(4.0)
        with Client(server.address) as client:
            assert client.request("GET", "/").body == b"done"
            client.send(get("/wait"))
            server.signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                other.recv(1)
            server.signal(signal.SIGCONT)
            with Client(server.address) as third:
                assert third.request("GET", "/open").body == b"done"
            assert client.read_response().body == b"done"


# -- under stress --------------------------------------------------------------------------------


class Block:
    """A result that tells how often its `close` was called, whatever interrupts that call."""

    def __init__(self, blocks: list[bytes], until: float) -> None:
        self._blocks = blocks
        self._until = until
        self.closes: list[None] = []
        self.close = partial(self.closes.append, None)  # all of it is C: one step

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield block
            spin_until(self._until)


class Brinkman:
    """Applications that take about as long as they may, give or take a millisecond."""

    def __init__(self) -> None:
        self.results: list[Block] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        kind, number = environ["PATH_INFO"][1:].split("/")
        end = environ.get("penstock.deadline", 0.0)
        if kind == "late":
            spin_until(end + random.uniform(-0.001, 0.001))
        start_response("200 OK", TEXT)
        if kind != "blocks":
            return [number.encode()]
        result = Block([number.encode(), b"!"], end + random.uniform(-0.001, 0.001))
        try:
            self.results.append(result)
            return result
        except BaseException:
            result.close()  # it is not returned
            raise


def spin_until(end: float) -> None:
    while time.monotonic() < end:
        pass


class Customer:
    """A client that takes what it gets, as long as that belongs to its own request."""

    def __init__(self, server: RunningServer, name: int, end: float) -> None:
        self._server = server
        self._name = name
        self._end = end
        self.sent: list[str] = []
        self.broken: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            while time.monotonic() < self._end:
                with connect(self._server) as client:
                    self._use(client)
        except BaseException as error:
            self.failure = error

    def _use(self, client: Client) -> None:
        while time.monotonic() < self._end:
            number = f"{self._name}.{len(self.sent)}"
            target = f"/{random.choice(['late', 'blocks', 'plain'])}/{number}"
            self.sent.append(target)
            try:
                response = client.request("GET", target)
            except ConnectionError:
                self.broken.add(target)
                return
            if response.status == 504:
                self.outcomes["504"] += 1
                continue
            assert response.status == 200
            if not response.complete:
                self.outcomes["cut off"] += 1
                return
            assert response.body.rstrip(b"!") == number.encode()
            self.outcomes["200"] += 1


@pytest.fixture
def sharp_watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a watchdog that looks all the time, and interrupts wherever a thread stands."""
    monkeypatch.setattr(watchdog, "SHORTEST_LOOK_SECONDS", 0.0002)
    monkeypatch.setattr(watchdog, "DELICATE_SECONDS", 0.0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


# It may come in a finalizer, where Python says so on standard error, and forgets it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@threads
def test_calls_that_end_about_when_they_time_out_lose_nothing(
    transport: str, threads: int, logs: Logs, sharp_watchdog: None
) -> None:
    application = Brinkman()
    with penstock.running(
        application, transport=transport, threads=threads, log_level="critical",
        timeout=0.003, timeout_for=["/plain/*=0"], **logs.settings,
    ) as server:  # fmt: skip
        end = time.monotonic() + STRESS_SECONDS
        customers = [Customer(server, name, end) for name in range(2 * threads)]
        for customer in customers:
            customer.thread.join()
        assert [customer.failure for customer in customers if customer.failure] == []
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(threads)]
            for client in clients * 3:
                assert client.request("GET", "/plain/last").body == b"last"
        eventually(lambda: server.snapshot()["connections"] == 0)
        assert not list(server.worker.slot.requests())
    outcomes = sum((customer.outcomes for customer in customers), Counter[str]())
    sent = [target for customer in customers for target in customer.sent]
    assert outcomes["504"] > 0, outcomes
    assert {len(result.closes) for result in application.results} == {1}
    logged = Counter(f"{line['url.path']}" for line in logs.access)
    del logged["/plain/last"]
    # A request on a connection that ended before it was read has none. Where it is the log that is
    # interrupted, there are rather two than none.
    broken = {target for customer in customers for target in customer.broken}
    assert set(sent) - broken <= set(logged) <= set(sent)
    assert logged.total() <= len(sent) * 1.01
    assert logs.error == ""


def reads(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode()]


@pytest.mark.parametrize("sent", [b"", b"some"])
def test_a_call_that_waits_for_its_clients_body_is_interrupted(
    transport: str, logs: Logs, sent: bytes
) -> None:
    settings: dict[str, Any] = {
        "threads": 1,
        "timeout": 0.2,
        "timeout_grace": 20,
        "stream_requests": True,
    }
    with penstock.running(reads, transport=transport, **settings, **logs.settings) as server:
        with connect(server) as client:
            client.send(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n" + sent)
            assert client.read_response().status == 504
        with connect(server) as client:
            assert client.request("GET", "/next").body == b"/next"
    assert "is stuck" not in logs.error


def pours(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    if environ["PATH_INFO"] == "/next":
        return [b"/next"]
    return (bytes(100_000) for _ in range(1000))


def test_a_call_that_waits_until_its_client_takes_more_is_interrupted(
    transport: str, logs: Logs
) -> None:
    settings: dict[str, Any] = {"threads": 1, "timeout": 0.2, "timeout_grace": 20}
    with penstock.running(pours, transport=transport, **settings, **logs.settings) as server:
        with connect(server) as client:
            client.send(get("/all"))
            with connect(server) as other:
                assert other.request("GET", "/next").body == b"/next"
    assert "is out of time" in logs.error
    assert "is stuck" not in logs.error
