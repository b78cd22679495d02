"""With one thread the application runs in the main thread, as under gunicorn's sync worker.

The application is written as a user of that worker would write it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised
from support.server_process import BUSY_SECONDS
from support.wire import Client

APPLICATION = """
import asyncio
import atexit
import decimal
import hashlib
import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
database = sqlite3.connect(":memory:", isolation_level=None)  # for its own thread alone
database.execute("CREATE TABLE visits (number INTEGER)")
decimal.getcontext().prec = 5
asyncio.set_event_loop(asyncio.new_event_loop())
local = threading.local()
local.value = "set at import"
stopping = False


def note(text):
    with (HERE / "events").open("a") as file:
        file.write(f"{text} in {threading.current_thread().name}\\n")


def on_alarm(number, frame):
    raise TimeoutError("alarm")


def wait_for(name):
    (HERE / name).with_suffix(".begun").touch()
    end = time.monotonic() + 30
    while not (HERE / name).with_suffix(".go").exists() and time.monotonic() < end:
        time.sleep(0.005)


def thread(environ):
    return threading.current_thread().name


def alarm(environ):
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(30)
    except TimeoutError as error:
        return str(error)
    return "nothing came"


def alarm_in_read(environ):
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        environ["wsgi.input"].read()
    except TimeoutError as error:
        return str(error)
    return "nothing came"


def alarm_too_late(environ):
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    return "returned"


def loop(environ):
    async def answer():
        await asyncio.sleep(0)
        return "from the loop"
    return asyncio.get_event_loop().run_until_complete(answer())


def sqlite(environ):
    database.execute("INSERT INTO visits VALUES (1)")
    return str(database.execute("SELECT COUNT(*) FROM visits").fetchone()[0])


def division(environ):
    return str(decimal.Decimal(1) / 3)


def locals(environ):
    return getattr(local, "value", "nothing")


def hold(environ):
    wait_for("held")
    return f"stopping: {stopping}"


def crunch(environ):
    (HERE / "crunch.begun").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C, without the interpreter's lock
    return "done"


def takes_descriptor(environ):
    signal.set_wakeup_fd(-1)
    return "taken"


def takes_sigterm(environ):
    signal.signal(signal.SIGTERM, lambda number, frame: note("the view's handler"))
    return "taken"


def uses_asyncio(environ):
    async def answer():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
        return "run"
    return asyncio.run(answer())


def app(environ, start_response):
    body = globals()[environ["PATH_INFO"].strip("/")](environ).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

supervised = pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "alone"])


@contextmanager
def serving(
    folder: Path, transport: str, supervised: bool, *arguments: str, more: str = ""
) -> Iterator[Supervised]:
    (folder / "shop.py").write_text(APPLICATION + more)
    alone = () if supervised else ("--no-supervisor",)
    arguments = ("--transport", transport, "--threads", "1", *alone, *arguments)
    with Supervised(folder, *arguments) as server:
        yield server


def events(server: Supervised) -> list[str]:
    path = server.folder / "events"
    return path.read_text().splitlines() if path.exists() else []


def begin(server: Supervised, path: str, file: str) -> Client:
    client = Client(server.address)
    client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert eventually((server.folder / file).exists)
    return client


@supervised
def test_what_was_set_up_at_import_is_there_in_a_view(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    with serving(tmp_path, transport, supervised) as server:
        with Client(server.address) as client:
            for path, answer in [
                ("/thread", b"MainThread"),
                ("/locals", b"set at import"),
                ("/division", b"0.33333"),
                ("/sqlite", b"1"),
                ("/sqlite", b"2"),
                ("/loop", b"from the loop"),
                ("/alarm", b"alarm"),
                ("/alarm", b"alarm"),
                ("/loop", b"from the loop"),
            ]:
                assert client.request("GET", path).body == answer, path
        assert server.stop() == 0


def test_an_alarm_interrupts_a_view_that_waits_for_its_client(
    tmp_path: Path, transport: str
) -> None:
    with serving(tmp_path, transport, False, "--stream-requests") as server:
        with Client(server.address) as client:
            client.send(b"POST /alarm_in_read HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome")
            assert client.read_response().body == b"alarm"
        assert server.ask("/thread").body == b"MainThread"
        assert server.stop() == 0


def test_a_handler_that_raises_outside_of_a_view_costs_no_request(
    tmp_path: Path, transport: str
) -> None:
    with serving(tmp_path, transport, False) as server:
        with Client(server.address) as client:
            for _ in range(3):
                assert client.request("GET", "/alarm_too_late").body == b"returned"
                server.wait_for_line("PEN-6910")
                server.wait_for_line("TimeoutError: alarm")
                assert client.request("GET", "/thread").body == b"MainThread"
        assert server.stop() == 0


@supervised
def test_a_handler_that_raises_again_and_again_outside_of_a_view_ends_no_worker(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = """
left = 10

def raise_often(number, frame):
    global left
    left -= 1
    if not left:
        signal.setitimer(signal.ITIMER_REAL, 0)
    note("raised")
    raise TimeoutError("again")

def raise_later(environ):
    signal.signal(signal.SIGALRM, raise_often)
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.03)
    return str(os.getpid())

def pid(environ):
    return str(os.getpid())
"""
    with serving(tmp_path, transport, supervised, more=more) as server:
        pid = server.ask("/raise_later").body
        assert eventually(lambda: len(events(server)) == 10)
        assert server.ask("/pid").body == pid
        assert server.stop() == 0


@supervised
def test_a_timer_whose_handler_raises_without_end_does_not_spoil_the_stop(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = """
def raise_always(number, frame):
    raise TimeoutError("again")

def raise_without_end(environ):
    atexit.register(note, "atexit")
    signal.signal(signal.SIGALRM, raise_always)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.002)
    return "set"
"""
    with serving(tmp_path, transport, supervised, more=more) as server:
        assert server.ask("/raise_without_end").body == b"set"
        server.wait_for_line("PEN-6910")
        assert server.stop() == 0
    assert events(server) == ["atexit in MainThread"]


@supervised
def test_a_timer_of_the_applications_runs_while_no_request_is_there(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = """
signal.signal(signal.SIGALRM, lambda number, frame: note("tick"))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
"""
    with serving(tmp_path, transport, supervised, more=more) as server:
        assert server.ask("/thread").body == b"MainThread"
        before = len(events(server))
        assert eventually(lambda: len(events(server)) > before + 5)
        assert server.ask("/thread").body == b"MainThread"
        assert server.stop() == 0
    assert set(events(server)) == {"tick in MainThread"}


@supervised
def test_signals_arrive_at_once_while_the_main_thread_is_stuck_in_c(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    access = tmp_path / "access.log"
    arguments = ("--graceful-timeout", "2s", "--access-logfile", str(access))
    with serving(tmp_path, transport, supervised, *arguments) as server:
        with begin(server, "/crunch", "crunch.begun") as client:
            access.rename(tmp_path / "access.log.1")
            server.signal(signal.SIGUSR1)
            assert eventually(access.exists)
            before = time.monotonic()
            server.signal(signal.SIGTERM)
            assert client.read_response().status == 504
            status = server.wait()
            assert time.monotonic() - before < 2 + BUSY_SECONDS
        assert status == 1  # a request was cut off
        assert not server.members()


HANDLERS = {
    "returns": "pass",
    "leaves": "sys.exit(0)",
    "fails": "raise ValueError('on purpose')",
}


@supervised
@pytest.mark.parametrize("kind", HANDLERS)
def test_the_applications_own_sigterm_handler_runs_once_and_the_worker_stops(
    tmp_path: Path, transport: str, supervised: bool, kind: str
) -> None:
    more = f"""
def on_term(number, frame):
    global stopping
    stopping = number == signal.SIGTERM
    note("handler")
    {HANDLERS[kind]}

signal.signal(signal.SIGTERM, on_term)
atexit.register(note, "atexit")
"""
    with serving(tmp_path, transport, supervised, more=more) as server:
        with begin(server, "/hold", "held.begun") as client:
            server.signal(signal.SIGTERM)
            assert eventually(lambda: events(server) == ["handler in MainThread"])
            (tmp_path / "held.go").touch()
            # The request in progress is finished, whatever the handler raised.
            assert client.read_response().body == b"stopping: True"
        assert server.wait() == 0
    assert events(server) == ["handler in MainThread", "atexit in MainThread"]
    assert ("PEN-6240" in "\n".join(server.lines)) == (kind == "fails")


@supervised
@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_handler_runs_where_the_worker_is_idle_and_has_more_threads(
    tmp_path: Path, transport: str, supervised: bool, threads: str
) -> None:
    more = 'signal.signal(signal.SIGTERM, lambda number, frame: note("handler"))\n'
    with serving(tmp_path, transport, supervised, "--threads", threads, more=more) as server:
        assert server.ask("/division").status == 200
        assert server.stop() == 0
    assert events(server) == ["handler in MainThread"]


@supervised
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_handler_that_does_not_return_keeps_no_worker_from_stopping(
    tmp_path: Path, transport: str, supervised: bool, threads: str
) -> None:
    more = """
def on_term(number, frame):
    note("handler")
    time.sleep(60)

signal.signal(signal.SIGTERM, on_term)
"""
    arguments = ("--graceful-timeout", "2s", "--threads", threads)
    with serving(tmp_path, transport, supervised, *arguments, more=more) as server:
        before = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait()
        # The handler may hold what the end needs: that is waited for, a second at a time.
        assert time.monotonic() - before < 2 + BUSY_SECONDS
        assert not server.members()
    assert events(server) == ["handler in MainThread"]


@pytest.mark.parametrize(
    ("supervised", "paths"),
    [
        (False, ["/takes_descriptor"]),
        (False, ["/takes_sigterm"]),
        # The supervisor's word comes over the channel.
        (True, ["/takes_descriptor", "/takes_sigterm"]),
    ],
)
def test_a_view_that_takes_signals_for_itself_does_not_keep_the_server_from_stopping(
    tmp_path: Path, transport: str, supervised: bool, paths: list[str]
) -> None:
    with serving(tmp_path, transport, supervised) as server:
        for path in paths:
            assert server.ask(path).body == b"taken"
        assert server.stop() == 0
        assert not server.members()
    took_it = "/takes_sigterm" in paths
    assert events(server) == (["the view's handler in MainThread"] if took_it else [])


@supervised
def test_a_view_that_uses_signals_of_asyncio_does_not_keep_the_server_from_stopping(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    with serving(tmp_path, transport, supervised) as server:
        assert server.ask("/uses_asyncio").body == b"run"
        assert server.stop() == 0
        assert not server.members()


@supervised
def test_exit_handlers_run_also_where_the_main_thread_does_not_come_back(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = 'atexit.register(note, "atexit")\n'
    times = ("--timeout", "0.3s", "--timeout-grace", "0.1s")
    with serving(tmp_path, transport, supervised, *times, more=more) as server:
        with begin(server, "/hold", "held.begun"):
            server.signal(signal.SIGTERM)
            server.wait()
    assert events(server) == ["atexit in penstock-control"]


@supervised
def test_threads_and_exit_handlers_have_what_is_left_of_the_graceful_timeout(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = """
def late():
    threading.main_thread().join()
    time.sleep(1.5)
    note("thread")

def last():
    time.sleep(1.5)
    note("atexit")

threading.Thread(target=late, name="late").start()
atexit.register(last)
"""
    with serving(tmp_path, transport, supervised, "--graceful-timeout", "15s", more=more) as server:
        assert server.ask("/division").status == 200
        assert server.stop() == 0
    assert events(server) == ["thread in late", "atexit in MainThread"]


@supervised
def test_exit_handlers_that_do_not_return_end_with_the_graceful_timeout(
    tmp_path: Path, transport: str, supervised: bool
) -> None:
    more = "atexit.register(time.sleep, 60)\n"
    with serving(tmp_path, transport, supervised, "--graceful-timeout", "2s", more=more) as server:
        before = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait()
        assert 1.0 < time.monotonic() - before < 2 + BUSY_SECONDS
        assert not server.members()
