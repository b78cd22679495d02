"""`penstock.serve` and `penstock.running` as a Python program calls them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.errors import SettingsError
from support.applications import hello
from support.server_process import ROOT, checkout_environ
from support.serving import Environ, connect
from support.wire import Client


def start(application: Any, **settings: Any) -> None:
    with penstock.running(application, **settings):
        raise AssertionError("it started")


@pytest.mark.parametrize("call", [penstock.serve, start])
@pytest.mark.parametrize("wrong", [None, 5, [hello]])
def test_what_is_no_callable_is_refused_at_once(call: Any, wrong: object) -> None:
    with pytest.raises(TypeError) as error:
        call(wrong)
    assert "an application object is needed, which is a callable: " in str(error.value)
    assert repr(type(wrong).__name__) in str(error.value)


@pytest.mark.parametrize("call", [penstock.serve, start])
def test_the_commands_form_of_an_application_is_told_apart(call: Any) -> None:
    with pytest.raises(TypeError, match="'module:callable' is for the penstock command"):
        call("wsgiapp:app")


IN_A_THREAD = """
import socket, sys, threading
import penstock

place, log, wait_for = sys.argv[1:]

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

statuses = []
def serve():
    settings = {"bind": f"unix:{place}", "access_logfile": log, "error_logfile": log + ".errors"}
    statuses.append(penstock.serve(app, **settings))
    print("served", statuses, flush=True)

def is_reached():
    if wait_for == "line":
        try:
            with open(log + ".errors") as lines:
                return "serving app on unix:" in lines.read()
        except FileNotFoundError:
            return False
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(place) == 0

thread = threading.Thread(target=serve)
thread.start()
while not is_reached():
    pass
with socket.socket(socket.AF_UNIX) as client:
    client.connect(place)
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
    answer = b""
    while block := client.recv(1000):
        answer += block
print(answer.decode().splitlines()[-1], flush=True)
"""


@pytest.mark.parametrize("wait_for", ["line", "connection"])
def test_serve_outside_of_the_main_thread_serves_until_that_has_ended(
    tmp_path: Path, wait_for: str
) -> None:
    """devpi, which was written for waitress, starts its server so.

    One that accepts a connection has not started all of its threads yet.
    """
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD, tmp_path / "socket", tmp_path / "log", wait_for],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n") == ["hello", "served [0]", ""], done.stderr
    assert not done.stderr
    assert '"GET / HTTP/1.1" 200' in (tmp_path / "log").read_text()
    assert not (tmp_path / "socket").exists()


ENDS_WHILE_A_REQUEST_IS_STUCK = """
import sys, threading, time
from contextlib import suppress
import penstock
from support.serving import connect

entered = threading.Event()

def forever():
    enter()
    while True:
        pass

def enter():
    global stuck
    stuck = threading.current_thread()
    entered.set()

class Blocks:
    def __iter__(self):
        return forever() if where == "iter" else self

    def __next__(self):
        if where == "next":
            forever()
        raise StopIteration

    def close(self):
        forever()

class Headers(list):
    def __iter__(self):
        return forever()

def app(environ, start_response):
    if where == "start_response":
        start_response("200 OK", Headers())
    write = start_response("200 OK", [])
    if where == "write":
        enter()
        with suppress(OSError):
            while True:
                write(b"block")
        forever()
    return forever() if where == "call" else Blocks()

# Another thread has the interpreter for a moment, while that ends.
class GivesWay:
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

where, transport = sys.argv[1:]
sys.gives_way = GivesWay()
with penstock.running(app, transport=transport, graceful_timeout=0.1) as server:
    client = connect(server)
    client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    assert entered.wait(60)
print(stuck.is_alive())
"""


@pytest.mark.parametrize("where", ["call", "start_response", "write", "iter", "next", "close"])
def test_a_program_ends_as_it_would_while_a_request_is_stuck(transport: str, where: str) -> None:
    """An interpreter that ends unwinds the threads that are left, before Python 3.14.

    Rust aborts a process whose frames are unwound.
    """
    environ = checkout_environ()
    environ["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_A_REQUEST_IS_STUCK, where, transport],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_main_starts_a_server_with_workers_in_the_place_of_gunicorns_base_application(
    tmp_path: Path,
) -> None:
    """The three lines of docs/migrating.md."""
    (tmp_path / "shop.py").write_text(
        "def create(name):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        return [name.encode()]\n"
        "    return app\n"
    )
    (tmp_path / "start.py").write_text(
        "import sys, penstock\n"
        "options = {'bind': 'unix:s', 'workers': 2}\n"
        "flags = [f'--{name}={value}' for name, value in options.items()]\n"
        "sys.exit(penstock.main([*flags, \"shop:create('of the shop')\"]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "start.py"], cwd=tmp_path, env=checkout_environ(), stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        assert any(b" transport, 2 workers of" in line for line in process.stderr)
        with Client(str(tmp_path / "s")) as client:
            assert client.request("GET", "/").body == b"of the shop"
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def fails(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.errors"].write("complaint\n")
    raise ValueError("boom")


def test_what_running_logs_is_seen_by_capfd_and_caplog_of_pytest(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with penstock.running(fails) as server, connect(server) as client:
        assert client.request("GET", "/").status == 500
    said = capfd.readouterr().err
    assert said.startswith("complaint\n")
    for text in (said, caplog.text):
        assert "PEN-3010 GET / (request " in text
        assert "ValueError: boom" in text


def test_a_server_that_runs_already_logs_to_standard_error_as_it_is_by_then(tmp_path: Path) -> None:
    """A fixture of a module starts the server, and capfd redirects descriptor 2 for each test."""
    with penstock.running(fails) as server, (tmp_path / "here").open("wb") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with connect(server) as client:
                assert client.request("GET", "/").status == 500
        finally:
            os.dup2(before, 2)
            os.close(before)
    assert os.fstat(2)
    assert "ValueError: boom" in (tmp_path / "here").read_text()


def test_two_servers_at_a_time_have_each_its_error_log(tmp_path: Path) -> None:
    def complain(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.errors"].write(f"complaint of {environ['PATH_INFO']}\n")
        return hello(environ, start_response)

    logs = [tmp_path / "first", tmp_path / "second"]
    before = os.listdir("/dev/fd")
    with penstock.running(complain, error_logfile=str(logs[0])) as first:
        with penstock.running(complain, error_logfile=str(logs[1])) as second:
            for server, path in [(first, "/1"), (second, "/2")]:
                with connect(server) as client:
                    assert client.request("GET", path).status == 200
        with connect(first) as client:
            assert client.request("GET", "/3").status == 200
    complaint = "complaint of /{}\n"
    said = [log.read_text() for log in logs]
    assert said == [complaint.format(1) + complaint.format(3), complaint.format(2)]
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("call", [penstock.serve, start])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"access_logfile": "missing/log"}, "access_logfile .*: its directory does not exist"),
        ({"access_logfile": "/proc/log"}, "access_logfile: cannot open '/proc/log'"),
        ({"access_logformat": "%(h"}, "begins no atom"),
        ({"temp_dir": "missing"}, "temp_dir \\(from argument temp_dir\\): No such file"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, wrong: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.listdir("/dev/fd")
    with pytest.raises(SettingsError, match=said):
        call(hello, bind="127.0.0.1:0", **{"access_logfile": "log", **wrong})
    assert os.listdir("/dev/fd") == before


SERVE_TWICE = """
import gc, os, resource, signal, socket, sys, threading, time
import penstock

path = sys.argv[1]

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

def ask_and_stop():
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
                if client.recv(1000):
                    break
        except OSError:
            threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

def own(*_):
    pass

def state():
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    files = len(os.listdir("/dev/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    return handlers, wakeup, files, gc.get_freeze_count()

signal.signal(signal.SIGTERM, own)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
reader, writer = socket.socketpair()
writer.setblocking(False)
signal.set_wakeup_fd(writer.fileno())
penstock.running(app)  # so that all is imported
for _ in range(2):
    before = state()
    thread = threading.Thread(target=ask_and_stop)
    thread.start()
    status = penstock.serve(app, bind="unix:" + path, drain_linger=0)
    thread.join()
    assert status == 0, status
    for thread in threading.enumerate()[1:]:
        thread.join(10)
    assert threading.active_count() == 1, threading.enumerate()
    assert state() == before, (state(), before)
assert not threading.Event().wait(1.5)
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def test_serve_gives_the_process_back_as_it_was_and_can_be_called_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE_TWICE, str(tmp_path / "socket")],
        env=checkout_environ(),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert [line[-7:] for line in done.stderr.splitlines()].count("stopped") == 2


def thread_name(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [threading.current_thread().name.encode()]


def test_running_serves_in_a_thread_of_its_own_with_one_thread_too() -> None:
    with penstock.running(thread_name, threads=1) as server, connect(server) as client:
        assert client.request("GET", "/").body == b"penstock-1"
