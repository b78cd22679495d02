"""Calls that pass their deadline, over the wire: what client and log get, what is not harmed."""

from __future__ import annotations

import json
import os
import queue
import random
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.telemetry.scoreboard import (
    AWAITING_CLIENT,
    LIVE,
    PROGRESS,
    READY,
    SERVING,
    SINCE,
    STATE,
    STUCK,
)
from penstock.worker import deadlines
from support.server_process import ServerProcess
from support.serving import TEXT, Environ, Gate, connect, eventually, get
from support.wire import DEADLINE, Client

if TYPE_CHECKING:
    from penstock.api import RunningServer

threads = pytest.mark.parametrize("threads", [1, 4])


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


class Hang:
    """An application whose calls for ``/hang...`` do not return before `over` is set."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failures: list[BaseException] = []

    def wait(self) -> None:
        try:
            assert self.over.wait(DEADLINE)
        except BaseException as error:
            self.failures.append(error)
            raise

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/hang"):
            self.wait()
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode()]


@threads
def test_a_call_that_hangs_is_warned_of_then_its_client_gets_504_at_once(
    transport: str, threads: int, logs: Logs
) -> None:
    hang = Hang()
    with penstock.running(
        hang, transport=transport, threads=threads, timeout_for=["/hang=0.4s"], timeout_grace=60,
        **logs.settings,
    ) as server:  # fmt: skip
        with connect(server) as client:
            port = client.socket.getsockname()[1]
            response = client.request("GET", "/hang?a=1")
            assert not hang.over.is_set()
            assert response.status == 504
            assert response.body == b"The application did not answer in time.\n"
            assert response.header("Connection") == "close"
            assert client.read_to_end() == b""
        hang.over.set()
        with connect(server) as client:
            for _ in range(threads + 1):
                assert client.request("GET", "/after").body == b"/after"
        eventually(lambda: "the response is discarded" in logs.error)
    assert hang.failures == []  # nothing was raised in the call
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
    assert warning[0].index("in __call__\n") < warning[0].index("in wait\n")
    error = re.search(
        rf"\[ERROR\] PEN-6120 {named}: timeout after 0\.4 s \(settings: timeout, timeout_for\);"
        r" the server has ended the request; its thread is in:\n(  .*\n)+",
        logs.error,
    )
    assert error
    assert "in wait\n" in error[0]
    discarded = f"GET /hang?a=1 (request {first['request_id']}): the response is discarded: "
    assert f"[INFO] {discarded}the server ended the request: timeout after 0.4 s" in logs.error
    assert "Traceback" not in logs.error


@threads
def test_a_call_that_hangs_after_its_response_has_begun_is_cut_off(
    transport: str, threads: int, logs: Logs
) -> None:
    hang = Hang()
    closed = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            yield b"begun"
            if environ["PATH_INFO"] == "/hang":
                hang.wait()
                yield b"more"
                raise AssertionError("the block did not fail")
        finally:
            closed.set()

    with penstock.running(
        application, transport=transport, threads=threads, timeout_for=["/hang=0.3s"],
        timeout_grace=60, **logs.settings,
    ) as server:  # fmt: skip
        with connect(server) as client:
            response = client.request("GET", "/hang")
            assert (response.status, response.body, response.complete) == (200, b"begun", False)
        assert not closed.is_set()
        hang.over.set()
        assert closed.wait(DEADLINE)
        with connect(server) as other:
            assert other.request("GET", "/").body == b"begun"
    assert hang.failures == []
    assert logs.access[0]["reason"] == "timeout after 0.3 s"
    assert logs.access[0]["http.response.status_code"] == 200


class Hanging:
    """A response whose `close` hangs."""

    def __init__(self, hang: Hang) -> None:
        self.hang = hang
        self.closes = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Hanging:
        start_response("200 OK", TEXT)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])

    def close(self) -> None:
        self.closes += 1
        self.hang.wait()


@threads
def test_a_close_that_hangs_is_logged_and_the_response_stands(
    transport: str, threads: int, logs: Logs
) -> None:
    hanging = Hanging(Hang())
    with (
        penstock.running(
            hanging, transport=transport, threads=threads, timeout=0.3, timeout_grace=60,
            **logs.settings,
        ) as server,
        connect(server) as client,
    ):  # fmt: skip
        assert client.request("GET", "/").body == b"whole"
        eventually(lambda: "its response was complete; its thread is in" in logs.error)
        hanging.hang.over.set()
        assert client.request("GET", "/").body == b"whole"
    assert hanging.closes == 2
    assert hanging.hang.failures == []
    assert {line["http.response.status_code"] for line in logs.access} == {200}


@threads
def test_an_application_that_checks_its_deadline_answers_itself(
    transport: str, threads: int
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        # Its own deadline is earlier than the server's.
        early = environ["penstock.deadline"] - 20.0
        try:
            while True:
                threading.Event().wait(0.001)
                penstock.check_deadline({"penstock.extend_deadline": lambda seconds: early})
        except penstock.RequestTimeout:
            start_response("503 Service Unavailable", [*TEXT, ("Retry-After", "9")])
            return [b"later"]

    with (
        penstock.running(application, transport=transport, threads=threads, timeout=20.2) as server,
        connect(server) as client,
    ):
        for _ in range(2):
            response = client.request("GET", "/")
            assert (response.status, response.body) == (503, b"later")


@threads
def test_a_call_that_checks_its_deadline_ends_after_its_client_was_answered(
    transport: str, threads: int, logs: Logs
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        while environ["PATH_INFO"] == "/long":
            threading.Event().wait(0.001)
            penstock.check_deadline(environ)
        start_response("200 OK", TEXT)
        return [b"short"]

    with penstock.running(
        application, transport=transport, threads=threads, timeout_for=["/long=0.2s"],
        **logs.settings,
    ) as server:  # fmt: skip
        for _ in range(threads + 1):
            with connect(server) as client:
                assert client.request("GET", "/long").status == 504
        with connect(server) as client:
            assert client.request("GET", "/short").body == b"short"
    assert "is stuck" not in logs.error


@threads
def test_a_call_that_does_not_return_is_stuck_until_it_ends(
    transport: str, threads: int, logs: Logs
) -> None:
    hang = Hang()
    with (
        penstock.running(
            hang, transport=transport, threads=threads,
            timeout_for=["/hang=0.3s"], timeout_grace=0.2, **logs.settings,
        ) as server,
        connect(server) as client,
    ):  # fmt: skip
        client.send(get("/hang"))
        words = server.worker.slot.words
        eventually(lambda: words[STATE] == STUCK)
        assert words[LIVE] == (threads > 1)
        assert words[READY] == 0
        assert client.read_response().status == 504
        if threads > 1:  # it serves on with the others
            with connect(server) as other:
                assert other.request("GET", "/other").body == b"/other"
        hang.over.set()
        eventually(lambda: words[STATE] == SERVING)
        eventually(lambda: words[LIVE] == words[READY] == 1)
        with connect(server) as other:
            assert other.request("GET", "/after").body == b"/after"
    stacks = logs.error.partition("[CRITICAL]")[2]
    assert "is stuck: the call has not returned 0.2 s after its deadline" in stacks
    assert f"free threads of the worker: {threads - 1}." in stacks
    assert "thread MainThread\n" in stacks
    assert re.search(r"\n  thread penstock-\d: GET /hang \(request ", stacks)


def test_each_path_has_the_timeout_of_the_first_pattern_that_matches(transport: str) -> None:
    gate = Gate()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        while environ["PATH_INFO"].startswith("/quick/"):
            threading.Event().wait(0.001)
            penstock.check_deadline(environ)
        return gate(environ, start_response)

    with (
        penstock.running(
            application, transport=transport, threads=2, timeout=0.2,
            timeout_for=["/quick/*=200ms", "/wait*=1h"],
        ) as server,
        connect(server) as waiting,
    ):  # fmt: skip
        waiting.send(get("/wait"))
        eventually(lambda: "/wait" in gate.seen)
        for _ in range(3):
            with connect(server) as quick:
                assert quick.request("GET", "/quick/a").status == 504
        gate.open()
        assert waiting.read_response().body == b"/wait"


def test_without_a_timeout_nothing_is_ended_but_the_beats_go_on(transport: str) -> None:
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


def test_a_call_is_not_cut_off_as_stuck_by_a_stop_after_its_process_was_stopped(
    transport: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "app.py").write_text(
        "def app(environ, start_response):\n"
        "    with open('fifo', 'rb') as file:\n"
        "        body = file.read()\n"
        "    start_response('200 OK', [])\n"
        "    return [body]\n"
    )
    with (
        ServerProcess(
            "app:app", "--no-supervisor", "--transport", transport, "--threads", "1",
            "--timeout", "2s", "--timeout-grace", "0.1s", cwd=tmp_path,
        ) as server,
        Client(server.address) as client,
    ):  # fmt: skip
        client.send(get("/"))
        with open(fifo, "wb") as call:  # it is in the call now
            server.signal(signal.SIGSTOP)
            client.socket.settimeout(4.0)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            server.signal(signal.SIGTERM)
            server.signal(signal.SIGCONT)
            server.wait_for_line("stopping: finishing")
            client.socket.settimeout(0.3)  # the server looks for calls to cut off more often
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(DEADLINE)
            call.write(b"whole")
        assert client.read_response().body == b"whole"
        assert server.wait() == 0


# -- what counts against the deadline ------------------------------------------------------------


@threads
def test_a_stream_may_last_longer_than_the_timeout_as_long_as_blocks_come(
    transport: str, threads: int, logs: Logs
) -> None:
    deadlines: list[float] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            threading.Event().wait(0.05)
            deadlines.append(environ["penstock.deadline"] - time.monotonic())
            yield b"."

    with (
        penstock.running(
            application, transport=transport, threads=threads, timeout=2.0, **logs.settings
        ) as server,
        connect(server) as client,
    ):
        response = client.request("GET", "/")
        assert (response.status, response.complete) == (200, True)
    assert all(0 < left <= 2.0 for left in deadlines)
    assert deadlines[-1] > 0.3  # the environ is kept up to date
    assert "PEN-6120" not in logs.error


def test_empty_blocks_are_no_progress(transport: str, logs: Logs) -> None:
    closed = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            while True:
                threading.Event().wait(0.01)
                yield b""
        finally:
            closed.set()

    with penstock.running(application, transport=transport, timeout=0.3, **logs.settings) as server:
        with connect(server) as client:
            assert client.request("GET", "/").status == 504
        assert closed.wait(DEADLINE)  # the next block has failed


def test_time_in_which_a_call_waits_for_its_clients_body_does_not_count(
    transport: str, logs: Logs
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read()
        left = environ["penstock.deadline"] - time.monotonic()
        start_response("200 OK", TEXT)
        return [b"%.1f " % left + body]

    settings: dict[str, Any] = {"threads": 1, "timeout": 1.0, "stream_requests": True}
    with penstock.running(application, transport=transport, **settings, **logs.settings) as server:
        with connect(server) as client:
            client.send(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
            words = server.worker.slot.records[0].words
            eventually(lambda: words[AWAITING_CLIENT])
            begun = words[SINCE]
            for number in range(10):
                # So long has it waited by now: about twice the timeout in the end.
                waited = (number + 1) * 200_000_000
                eventually(lambda waited=waited: words[PROGRESS] > begun + waited)  # type: ignore[misc]
                client.send(b"%d" % number)
            left, body = client.read_response().body.split()
        assert body == b"0123456789"
        assert 0.0 < float(left) <= 1.0
    assert "PEN-6120" not in logs.error


def test_a_body_that_comes_too_slowly_ends_as_an_oserror_in_the_read(
    transport: str, logs: Logs
) -> None:
    failures: list[OSError] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            failures.append(error)
            raise
        return []

    settings: dict[str, Any] = {
        "threads": 1,
        "timeout": 1.0,
        "timeout_grace": 0.1,
        "body_timeout": 2.0,
        "stream_requests": True,
    }
    with penstock.running(application, transport=transport, **settings, **logs.settings) as server:
        with connect(server) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome")
            assert client.read_response().status == 408
    assert len(failures) == 1
    assert "PEN-6120" not in logs.error


@threads
def test_a_client_that_takes_nothing_ends_as_an_oserror_in_the_block(
    transport: str, threads: int, logs: Logs
) -> None:
    closed = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            for _ in range(1000):
                yield bytes(1_000_000)
        finally:
            closed.set()

    settings: dict[str, Any] = {"timeout": 1.0, "timeout_grace": 0.1, "write_timeout": 2.0}
    with (
        penstock.running(
            application, transport=transport, threads=threads, **settings, **logs.settings
        ) as server,
        connect(server, receive_buffer=4096) as client,
    ):
        client.send(get("/all"))
        assert closed.wait(DEADLINE)
    assert "PEN-6120" not in logs.error


@threads
def test_an_application_may_extend_its_deadline(transport: str, threads: int, logs: Logs) -> None:
    seen: list[tuple[float, float, float]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for _ in range(8):
            threading.Event().wait(0.3)
            before = time.monotonic()
            deadline = environ["penstock.extend_deadline"](2.5)
            seen.append((before, deadline, environ["penstock.deadline"]))
        start_response("200 OK", TEXT)
        return [b"done"]

    with (
        penstock.running(
            application, transport=transport, threads=threads, timeout=2.0, timeout_max=60,
            **logs.settings,
        ) as server,
        connect(server) as client,
    ):  # fmt: skip
        assert client.request("GET", "/").body == b"done"
    assert all(deadline == shown for _, deadline, shown in seen)
    assert all(before + 2.5 <= deadline < before + 10 for before, deadline, _ in seen)
    assert "PEN-6120" not in logs.error


def test_no_extension_goes_beyond_timeout_max_or_brings_the_deadline_forward(
    transport: str,
) -> None:
    seen: list[tuple[float, float]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        extend = environ["penstock.extend_deadline"]
        first = environ["penstock.deadline"]
        assert extend(0) == extend(-5) == extend(0.001) == first
        assert extend(float("nan")) == extend(float("-inf")) == first
        assert extend(-(10**400)) == first
        most = extend(10**400)
        assert extend(1e12) == extend(float("inf")) == most
        assert extend(99) == extend(1) == environ["penstock.deadline"] == most
        seen.append((first, most))
        start_response("200 OK", TEXT)
        return [b"done"]

    with (
        penstock.running(
            application, transport=transport, timeout=60.0, timeout_max=60.3
        ) as server,
        connect(server) as client,
    ):
        assert client.request("GET", "/").body == b"done"
    ((first, most),) = seen
    assert most - first == pytest.approx(0.3, abs=0.001)


def test_a_call_that_goes_on_extending_its_deadline_is_ended_at_timeout_max(
    transport: str, logs: Logs
) -> None:
    answered = threading.Event()
    ended: list[BaseException] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        while not answered.wait(0.001):
            assert environ["penstock.extend_deadline"](99) == environ["penstock.deadline"]
        with pytest.raises(penstock.RequestTimeout) as caught:
            penstock.check_deadline(environ)
        ended.append(caught.value)
        raise caught.value

    with penstock.running(
        application, transport=transport, timeout=2.0, timeout_max=2.2, **logs.settings
    ) as server:
        with ExitStack() as stack:
            stack.callback(answered.set)
            client = stack.enter_context(connect(server))
            assert client.request("GET", "/").status == 504
        eventually(lambda: ended)
    assert logs.access[0]["reason"] == "timeout after 2.2 s"


def test_another_thread_may_extend_the_deadline_of_a_call_and_of_no_other(transport: str) -> None:
    gate = Gate()
    environs: dict[str, Environ] = {}

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environs[environ["PATH_INFO"]] = environ
        return gate(environ, start_response)

    with (
        penstock.running(application, transport=transport, threads=2, timeout=30) as server,
        connect(server) as one,
        connect(server) as other,
    ):
        one.send(get("/wait/one"))
        other.send(get("/wait/other"))
        eventually(lambda: gate.inside == 2)
        before = environs["/wait/other"]["penstock.deadline"]
        extended = environs["/wait/one"]["penstock.extend_deadline"](300)
        assert extended == environs["/wait/one"]["penstock.deadline"] > before + 200
        assert environs["/wait/other"]["penstock.deadline"] == before
        gate.open()
        assert one.read_response().status == other.read_response().status == 200
        eventually(lambda: not list(server.worker.slot.requests()))
        # After its request it does nothing, and says that no time is left.
        assert environs["/wait/one"]["penstock.extend_deadline"](300) <= time.monotonic()


def test_what_extends_a_deadline_extends_no_later_one(transport: str) -> None:
    kept: list[Callable[[float], float]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        before = environ["penstock.deadline"]
        over = all(extend(300) <= time.monotonic() for extend in kept)
        unmoved = environ["penstock.deadline"] == before
        kept.append(environ["penstock.extend_deadline"])
        moved = kept[-1](300) == environ["penstock.deadline"] > before
        start_response("200 OK", TEXT)
        return [repr((over, unmoved, moved)).encode()]

    with penstock.running(application, transport=transport, threads=1, timeout=30) as server:
        for requests in (2, 1):  # on the same connection, then on the next
            with connect(server) as client:
                for _ in range(requests):
                    assert client.request("GET", "/").body == b"(True, True, True)"
    assert len(kept) == 3


def test_paths_without_a_timeout_have_no_deadline_to_extend(transport: str) -> None:
    keys: list[set[str]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        keys.append({"penstock.deadline", "penstock.extend_deadline"} & environ.keys())
        start_response("200 OK", TEXT)
        return [b"ok"]

    with (
        penstock.running(
            application, transport=transport, timeout=30, timeout_for=["/free=0"]
        ) as server,
        connect(server) as client,
    ):
        for path in ("/", "/free", "/"):
            assert client.request("GET", path).status == 200
    both = {"penstock.deadline", "penstock.extend_deadline"}
    assert keys == [both, set(), both]


# -- nothing else is harmed ----------------------------------------------------------------------


class Shared:
    """What requests share: a lock, a condition with a queue, and a database with transactions."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.Lock()
        self.queue: queue.Queue[str] = queue.Queue()
        self.path = str(folder / "orders.sqlite3")
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("CREATE TABLE orders (name TEXT, half INTEGER)")

    def order(self, name: str, pause: Callable[[], object]) -> None:
        """Write two rows in one transaction, with a pause between them."""
        with closing(sqlite3.connect(self.path, timeout=DEADLINE)) as database, database:
            database.execute("INSERT INTO orders VALUES (?, 1)", (name,))
            pause()
            database.execute("INSERT INTO orders VALUES (?, 2)", (name,))

    def rows(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.path)) as database:
            return dict(database.execute("SELECT name, COUNT(*) FROM orders GROUP BY name"))


@threads
def test_a_deadline_harms_no_later_request_lock_transaction_or_queue(
    transport: str, threads: int, logs: Logs, tmp_path: Path
) -> None:
    shared = Shared(tmp_path)

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        name = environ["PATH_INFO"].strip("/")

        def pause() -> None:
            if name.startswith("late"):
                assert answered[name].wait(DEADLINE)

        with shared.lock:  # for longer than the deadline, where it is late
            shared.order(name, pause)
            shared.queue.put(name)
        start_response("200 OK", TEXT)
        return [name.encode()]

    names = [f"{kind}-{number}" for number in range(6) for kind in ("late", "quick")]
    answered = {name: threading.Event() for name in names}
    with penstock.running(
        application, transport=transport, threads=threads, timeout=0.2,
        timeout_for=["/quick*=60s"], timeout_grace=60, **logs.settings,
    ) as server:  # fmt: skip
        statuses = {}
        for name in names:
            with connect(server) as client:
                response = client.request("GET", f"/{name}")
                answered[name].set()
                statuses[name] = response.status
                if response.status == 200:
                    assert response.body == name.encode()
        eventually(lambda: not list(server.worker.slot.requests()))
        assert server.worker.slot.words[READY] == 1
    # The client of each late one got 504, and the work was done as a whole all the same.
    assert statuses == {name: 504 if "late" in name else 200 for name in names}
    assert shared.rows() == dict.fromkeys(names, 2)
    assert sorted(shared.queue.get_nowait() for _ in names) == sorted(names)
    assert shared.lock.acquire(blocking=False)
    assert "Traceback" not in logs.error
    assert logs.error.count("the response is discarded") == 6


class Brinkman:
    """Applications that take about as long as they may, give or take a millisecond."""

    def __init__(self) -> None:
        self.results: list[Block] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        kind, number = environ["PATH_INFO"][1:].split("/")
        if kind == "late":
            spin_until(environ["penstock.deadline"] + random.uniform(-0.001, 0.001))
        start_response("200 OK", TEXT)
        if kind != "blocks":
            return [number.encode()]
        result = Block([number.encode(), b"!"], environ)
        self.results.append(result)
        return result


class Block:
    """A result that counts the calls of its `close`."""

    def __init__(self, blocks: list[bytes], environ: Environ) -> None:
        self._blocks = blocks
        self._environ = environ
        self.closes = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield block
            spin_until(self._environ["penstock.deadline"] + random.uniform(-0.001, 0.001))

    def close(self) -> None:
        self.closes += 1


def spin_until(end: float) -> None:
    while time.monotonic() < end:
        pass


STRESS_SECONDS = float(os.environ.get("PENSTOCK_STRESS_SECONDS", "1.5"))
"""How long the test under stress takes on each transport; make it longer by the variable."""


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
                assert response.header("Connection") == "close"
                assert client.read_to_end() == b""
                self.outcomes["504"] += 1
                return
            assert response.status == 200
            if not response.complete:
                self.outcomes["cut off"] += 1
                return
            assert response.body.rstrip(b"!") == number.encode()
            self.outcomes["200"] += 1


@pytest.fixture
def sharp_deadlines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have deadlines looked at all the time, and threads take turns often."""
    monkeypatch.setattr(deadlines, "SHORTEST_LOOK_SECONDS", 0.0002)
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


@threads
def test_calls_that_end_about_when_they_time_out_lose_nothing(
    transport: str, threads: int, logs: Logs, sharp_deadlines: None
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
        # A thread ends its record after it has given the connection back.
        eventually(lambda: not list(server.worker.slot.requests()))
    outcomes = sum((customer.outcomes for customer in customers), Counter[str]())
    sent = [target for customer in customers for target in customer.sent]
    assert outcomes["504"] > 0, outcomes
    assert outcomes["200"] > 0, outcomes
    assert {result.closes for result in application.results} == {1}
    logged = Counter(f"{line['url.path']}" for line in logs.access)
    del logged["/plain/last"]
    # A request on a connection that ended before it was read has no line.
    broken = {target for customer in customers for target in customer.broken}
    assert set(sent) - broken <= set(logged) <= set(sent)
    assert logged.total() == len(logged)  # each has one line
    assert logs.error == ""
