"""penstockctl: what it asks, what it prints, and the status that it ends with."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import __version__
from penstock.control import client as ctl_client
from penstock.control import penstockctl as ctl
from penstock.control import tables as ctl_tables
from penstock.control.commands import (
    Command,
    ControlError,
    EndProfile,
    Outcome,
    Profile,
    Recycle,
    Reload,
    Scale,
    ShowNotable,
    ShowRecent,
    Stop,
    Upgrade,
)
from penstock.control.connection import BACKLOG
from penstock.control.directories import Directory, of_client, of_server
from support.control_loop import ControlLoop, request, worker
from support.server_process import START_WITHIN, checkout_environ
from support.wire import DEADLINE

Capture = pytest.CaptureFixture[str]


class Server:
    """A server that can be asked, and the command that asks it."""

    def __init__(self, loop: ControlLoop, address: str, capture: Capture) -> None:
        self.loop = loop
        self.fake = loop.fake
        self.address = address
        self._capture = capture

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command on this server; return its status, output and complaints."""
        status = ctl.main(["--control", self.address, *arguments])
        return status, *self._capture.readouterr()

    def lines(self, *arguments: str) -> list[str]:
        """Run a command that succeeds, and return what it prints."""
        status, out, err = self.run(*arguments)
        assert (status, err) == (ctl.DONE, "")
        return out.splitlines()

    @contextmanager
    def meanwhile(self, function: Callable[..., object], *arguments: Any) -> Iterator[None]:
        """Call a function in another thread while the command waits."""
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        yield
        thread.join(DEADLINE)


@pytest.fixture
def server(tmp_path: Path, capsys: Capture) -> Iterator[Server]:
    loop = ControlLoop()
    address = str(tmp_path / "control.sock")
    loop.control(address)
    with loop:
        yield Server(loop, address, capsys)


# What is printed


def test_the_status_is_a_line_for_each_thing(server: Server) -> None:
    assert server.lines("status") == [
        "state        serving",
        "age          75.0s",
        "application  shop:app",
        "version      1.0",
        f"pid          {os.getpid()}",
        "generation   1",
        "listeners    http://127.0.0.1:8000",
        "transport    native",
        "workers      2 of 4 threads",
        "ready        yes",
        "live         yes",
        "requests     2468",
        "crashed      3 (2 SIGSEGV, 1 exit status 1)",
        "last_reload  2023-11-14 22:13:20 UTC: reloaded: generation 1 serves",
        "last_error   -",
    ]


def test_workers_are_an_aligned_table(server: Server) -> None:
    server.fake.rows = [
        worker(1, 101),
        worker(12, 23456, state="draining", age=4000.0, memory=None, beat=None, busy=4)
        | {"io_bound": 12, "websockets": 3},
    ]
    left = [
        "WORKER    PID  GEN  STATE       AGE  REQUESTS  CONNS  WAITING",
        "     1    101    1  serving    3.2s      1234      7        0",
        "    12  23456    1  draining  1h06m      1234      7        0",
    ]
    right = [
        "  BUSY  IO-BOUND  WEBSOCKETS    MEMORY  BEAT",
        "   1/4         0           0  84.3 MiB  0.1s",
        "   4/4        12           3         -     -",
    ]
    assert server.lines("workers") == [a + b for a, b in zip(left, right, strict=True)]


def test_requests_are_an_aligned_table(server: Server) -> None:
    server.fake.in_progress.append(
        request(
            102,
            "/",
            method="POST",
            age=0.04,
            client="",
            id="4f2b-77",
            deadline=None,
            io_bound=True,
            websocket=True,
        )
    )
    left = [
        "WORKER  PID  THREAD    AGE   LEFT  IO-BOUND  WEBSOCKET",
        "     1  101       2  12.3s  17.7s         -          -",
        "     1  102       2   0.0s      -       yes        yes",
    ]
    right = [
        "  CLIENT             ID       REQUEST",
        "  203.0.113.7:51234  4f2a-1   GET /reports/7",
        "  unix               4f2b-77  POST /",
    ]
    assert server.lines("requests") == [a + b for a, b in zip(left, right, strict=True)]


def test_no_rows_are_a_sentence(server: Server) -> None:
    server.fake.in_progress = []
    server.fake.rows = []
    assert server.lines("requests") == ["no requests in progress"]
    assert server.lines("workers") == ["no workers"]


def test_stacks_stand_under_their_worker(server: Server) -> None:
    with server.meanwhile(server.loop.answer_stacks, {101: "Thread 1\n  here\n", 102: "none"}):
        lines = server.lines("stacks")
    assert lines == [
        "worker 1 (pid 101)",
        "Thread 1",
        "  here",
        "",
        "worker 2 (pid 102)",
        "none",
    ]


@pytest.mark.parametrize("number", ["102", "2"])
def test_a_worker_is_named_by_process_id_or_number(server: Server, number: str) -> None:
    asked: list[int | None] = []
    with server.meanwhile(lambda: asked.append(server.loop.answer_stacks({102: "here"}))):
        assert server.lines("stacks", number) == ["worker 2 (pid 102)", "here"]
    assert asked == [int(number)]


@pytest.mark.parametrize("command", ["status", "requests", "workers"])
def test_nothing_that_a_terminal_would_act_on_is_printed(server: Server, command: str) -> None:
    evil = "/\x1b]0;x\x07\r\n\x9b\t\u202e"
    server.fake.application = evil
    server.fake.in_progress = [request(101, evil, client=evil, id=evil, method=evil)]
    server.fake.rows = [worker(1, 101, state=evil)]
    _, out, _ = server.run(command)
    assert not set(out) & set("\x1b\x07\r\x9b\t\u202e")
    assert "/\\x1b]0;x\\x07\\x0d\\x0a\\x9b\\t\\u202e" in out


def test_stacks_keep_their_lines_and_nothing_else(server: Server) -> None:
    with server.meanwhile(server.loop.answer_stacks, {101: "one\n\x1b[2Jtwo\rthree"}):
        assert server.lines("stacks") == ["worker 1 (pid 101)", "one", "\\x1b[2Jtwo\\x0dthree"]


PAST = {
    "worker": 1,
    "pid": 101,
    "thread": 0,
    "method": "GET",
    "target": "/a?...",
    "age": 3.2,
    "took": 0.0123,
    "status": 200,
    "client": "203.0.113.7:51234",
    "id": "4f2a-1",
    "in_progress": False,
}


def test_the_last_requests_are_a_table(server: Server) -> None:
    running = PAST | {"thread": 1, "took": None, "status": None, "in_progress": True}
    lost = PAST | {"client": "", "took": 0.0, "status": None}
    server.fake.answer = {"recent": [running, PAST, lost]}
    assert server.lines("recent", "1") == [
        "THREAD     BEGUN     TOOK  STATUS  CLIENT             ID      REQUEST",
        "     1  3.2s ago  running       -  203.0.113.7:51234  4f2a-1  GET /a?...",
        "     0  3.2s ago  0.0123s     200  203.0.113.7:51234  4f2a-1  GET /a?...",
        "     0  3.2s ago     <1ms       -  unix               4f2a-1  GET /a?...",
    ]
    assert server.fake.questions.get() == ShowRecent(1, query=False)
    server.fake.answer = {"recent": []}
    assert server.lines("recent", "1", "--query") == ["no requests yet"]
    assert server.fake.questions.get() == ShowRecent(1, query=True)


NOTED = {
    "worker": 1,
    "pid": 101,
    "at": 1_700_000_000.0,
    "method": "GET",
    "path": "/a",
    "client": "203.0.113.7:51234",
    "id": "4f2a-1",
    "took": 1.5,
    "status": 500,
    "reason": "no database",
}


def test_slow_and_failed_requests_are_tables(server: Server) -> None:
    server.fake.answer = {"slow": [NOTED], "seconds": 600.0}
    row = "2023-11-14 22:13:20 UTC       1  101  1.5000s     500  203.0.113.7:51234  4f2a-1  GET /a"
    head = (
        "AT                       WORKER  PID     TOOK  STATUS  CLIENT             ID      REQUEST"
    )
    assert server.lines("slow") == [head, row]
    assert server.fake.questions.get() == ShowNotable("slow")
    server.fake.answer = {"failed": [NOTED, NOTED | {"status": 0, "reason": ""}], "left_out": 7}
    lines = server.lines("failed")
    assert lines[0] == f"{head}  REASON"
    assert lines[1] == f"{row}   no database"
    assert lines[2] == f"{row.replace('500  203', '  -  203')}   -"
    assert lines[3:] == ["(7 more failed, too many at once to be kept)"]
    assert server.fake.questions.get() == ShowNotable("failed")


def test_where_there_are_none_that_is_a_sentence(server: Server) -> None:
    server.fake.answer = {"slow": [], "seconds": 600.0}
    assert server.lines("slow") == ["no slow requests in the last 10m00s"]
    server.fake.answer = {"failed": [], "left_out": 0}
    assert server.lines("failed") == ["no requests have failed"]
    server.fake.answer = {"refused": [], "left_out": 0}
    assert server.lines("refused") == ["nothing was refused"]


def test_a_refusal_shows_the_head_with_a_caret_below_the_fault(server: Server) -> None:
    refused = {
        "worker": 1,
        "pid": 101,
        "at": 1_700_000_000.0,
        "client": "203.0.113.7",
        "id": "4f2a-1",
        "status": 400,
        "reason": "The request has a control character.",
        "rule": "RFC 9110, section 5.5",
        "setting": "",
        "line": "GET / HTTP/1.1",
        "excerpt": "GET / HTTP/1.1\r\nHost: a\r\nX-\x1b: b\0c\r\n",
        "begin": 0,
        "position": 31,
        "received": 35,
    }
    server.fake.answer = {"refused": [refused, refused | {"position": None, "setting": "queue"}],
                          "left_out": 0}  # fmt: skip
    first = [
        "2023-11-14 22:13:20 UTC  400 The request has a control character. (RFC 9110, section 5.5)",
        '  worker 1, from 203.0.113.7, request 4f2a-1, "GET / HTTP/1.1"',
        "  at byte 31 of 35:",
        "  00000  GET / HTTP/1.1\\r\\n",
        "  00016  Host: a\\r\\n",
        "  00025  X-\\x1b: b\\x00c\\r\\n",
        "                  ^",
    ]
    second = [line for line in first[:-1] if "at byte" not in line]
    second[0] = second[0].replace("5.5)", "5.5; setting: queue)")
    assert server.lines("refused") == [*first, "", *second]


FRAMES = {"frames": ["GET /a", "view (a.py:1)", "query (b.py:2)"]}
PROFILED = FRAMES | {
    "worker": 1,
    "pid": 101,
    "rate": 50,
    "seconds": 2.0,
    "samples": 100,
    "late": 3,
    "cost": 0.01,
    "stacks": [[7, [0, 1, 2]], [3, [0, 1]]],
}


def test_a_profile_without_a_request_says_so(server: Server) -> None:
    with server.meanwhile(server.loop.conclude, PROFILED | {"stacks": []}):
        status, out, err = server.run("profile", "1", "--seconds", "2")
    assert (status, out) == (ctl.DONE, "")
    assert err.endswith("; no thread had a request (--idle shows the others)\n")


def test_a_profile_is_printed_as_collapsed_stacks(server: Server) -> None:
    with server.meanwhile(server.loop.conclude, PROFILED):
        status, out, err = server.run("profile", "1", "--seconds", "2", "--rate", "50")
    assert status == ctl.DONE
    assert out.splitlines() == [
        "GET /a;view (a.py:1) 3",
        "GET /a;view (a.py:1);query (b.py:2) 7",
    ]
    assert err == (
        "penstockctl: 100 samples in 2.0 s, 3 more came too late; sampling took 0.010 s of "
        "processor time\n"
    )
    assert server.fake.asked.get() == Profile(1, 2, 50, idle=False)


def test_a_profile_is_printed_for_speedscope(server: Server) -> None:
    with server.meanwhile(server.loop.conclude, PROFILED):
        _, out, _ = server.run("profile", "1", "--format", "speedscope", "--idle")
    document = json.loads(out)
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [frame["name"] for frame in document["shared"]["frames"]] == FRAMES["frames"]
    (profile,) = document["profiles"]
    assert profile["samples"] == [[0, 1], [0, 1, 2]]
    assert profile["weights"] == [0.06, 0.14]
    assert (profile["startValue"], profile["endValue"], profile["unit"]) == (0, 0.2, "seconds")
    assert server.fake.asked.get() == Profile(1, 10, 100, idle=True)


@pytest.mark.parametrize(
    "arguments", [("--seconds", "0"), ("--seconds", "301"), ("--rate", "0"), ("--rate", "1001")]
)
def test_a_profile_is_bounded(server: Server, arguments: tuple[str, str]) -> None:
    status, _, err = server.run("profile", "1", *arguments)
    assert status == ctl.FAILED
    assert "a whole number from 1 to" in err


def test_a_profile_ends_when_its_client_leaves(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.address)
        fields = "Host: localhost\r\nPenstock-Control: 1\r\n"
        client.sendall(f"POST /profile?worker=7 HTTP/1.1\r\n{fields}\r\n".encode())
        assert server.fake.asked.get(timeout=DEADLINE) == Profile(7, 10, 100, idle=False)
    assert server.fake.questions.get(timeout=DEADLINE) == EndProfile(7)


def test_json_is_the_servers_own(server: Server) -> None:
    server.fake.in_progress[0]["target"] = "/\x9b"
    status, out, _ = server.run("requests", "--json")
    assert status == ctl.DONE
    assert out.isascii()
    assert json.loads(out) == {"requests": server.fake.in_progress}


def test_lines_fit_the_terminal_and_are_whole_without_one(server: Server) -> None:
    server.fake.in_progress = [request(101, "/" + "x" * 300)]
    assert len(server.lines("requests")[1]) > 300
    assert all(len(line) <= 60 for line in on_terminal(60, "--control", server.address, "requests"))


def on_terminal(columns: int, *arguments: str) -> list[str]:
    """Run the command on a terminal that is so wide, and return the lines it shows."""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, columns))
    environ = checkout_environ()
    environ.pop("COLUMNS", None)
    command = [sys.executable, "-m", "penstock.control.penstockctl", *arguments]
    with subprocess.Popen(command, stdout=end, stdin=subprocess.DEVNULL, env=environ) as process:
        assert process.wait(DEADLINE) == ctl.DONE
    os.close(end)
    shown = b""
    try:
        while block := os.read(terminal, 65536):
            shown += block
    except OSError:  # EIO, which is the end of a terminal
        pass
    os.close(terminal)
    lines = shown.decode().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("…")
    return lines


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0, "0.0s"),
        (3.21, "3.2s"),
        (99.9, "99.9s"),
        (99.96, "1m40s"),
        (245, "4m05s"),
        (3599.7, "1h00m"),
        (11520, "3h12m"),
        (187_200, "2d04h"),
        (-1.5, "-1.5s"),
    ],
)
def test_ages_are_short(seconds: float | None, shown: str) -> None:
    assert ctl_tables.age(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "-"), (0, "0 B"), (1023, "1.0 KiB"), (88_400_000, "84.3 MiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes_are_short(count: int | None, shown: str) -> None:
    assert ctl_tables.size(count) == shown


# Commands


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (("reload",), Reload()),
        (("upgrade",), Upgrade()),
        (("scale", "3"), Scale(3)),
        (("recycle", "101"), Recycle(101)),
        (("recycle", "0"), Recycle(0)),
        (("stop",), Stop(graceful=True)),
        (("stop", "--now"), Stop(graceful=False)),
    ],
)
def test_a_command_waits_for_its_outcome(
    server: Server, typed: tuple[str, ...], asked: Command
) -> None:
    with server.meanwhile(server.loop.conclude, Outcome(True, "as it was told")):
        assert server.lines(*typed) == ["as it was told"]
    assert server.fake.asked.get(timeout=DEADLINE) == asked


def test_a_command_need_not_be_waited_for(server: Server) -> None:
    assert server.lines("reload", "--no-wait") == ["reload has begun"]
    assert server.fake.asked.get(timeout=DEADLINE) == Reload()


def test_a_roll_back_is_a_failure_that_says_why(server: Server) -> None:
    server.fake.at_once = Outcome(False, "rolled back: the new workers did not boot: \x1bx")
    status, out, err = server.run("reload")
    assert (status, out) == (ctl.FAILED, "")
    assert err == "penstockctl: error: rolled back: the new workers did not boot: \\x1bx\n"


def test_a_failure_is_json_too_where_that_is_asked_for(server: Server) -> None:
    server.fake.refusal = ControlError("a reload is in progress")
    status, out, err = server.run("--json", "reload")
    assert (status, json.loads(out)) == (ctl.FAILED, {"error": "a reload is in progress"})
    assert err == ""


def test_a_worker_that_is_not_there_is_a_failure(server: Server) -> None:
    server.fake.refusal = ControlError("no worker has the number or the process id 99", 404)
    status, _, err = server.run("recycle", "99")
    assert status == ctl.FAILED
    assert "no worker has the number or the process id 99" in err


def leave(server: Server) -> None:
    """Have the server end in the middle of a command."""
    server.fake.replies.get(timeout=DEADLINE)
    server.loop.call(server.loop.services[0].close)


def test_a_server_that_is_gone_has_stopped(server: Server) -> None:
    with server.meanwhile(leave, server):
        assert server.lines("stop") == ["the server has stopped"]


def test_a_server_that_goes_during_another_command_is_a_failure(server: Server) -> None:
    with server.meanwhile(leave, server):
        status, _, err = server.run("reload")
    assert status == ctl.UNREACHABLE
    assert "ended without an answer" in err


# What is typed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("restart",), "'restart': reload takes new settings and code in"),
        (("status", "now"), "unrecognized arguments: now"),
        (("stat",), "no command 'stat'; did you mean 'status'?"),
        (("scale",), "the following arguments are required: N"),
        (("scale", "two"), "'two' is not a whole number"),
        (("scale", "-1"), "unrecognized arguments: -1"),
        (("recycle",), "the following arguments are required: WORKER"),
        (("stacks", "x"), "'x' is not a whole number of 0 or more"),
        (("recent", "9" * 20), "'99999999999999999999' is too large"),
        (("--timeout", "0", "status"), "'0' is not a number of seconds"),
        (("--timeout", "nan", "status"), "'nan' is not a number of seconds"),
        (("status", "--now"), "unrecognized arguments: --now"),
    ],
)
def test_what_is_wrongly_typed_is_a_usage_error(
    capsys: Capture, typed: tuple[str, ...], said: str
) -> None:
    assert ctl.main(typed) == ctl.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("penstockctl: error: ")
    assert said in err or typed == ("scale", "-1")
    assert err.count("\n") == 1


def test_options_may_stand_on_either_side_of_the_command(server: Server, capsys: Capture) -> None:
    after = ctl.main(["workers", "--json", "--timeout", "9s", "--control", server.address])
    out_after = capsys.readouterr().out
    before, out_before, _ = server.run("--json", "--timeout", "9", "workers")
    assert (before, after) == (ctl.DONE, ctl.DONE)
    assert out_before == out_after


def test_the_version_is_printed(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        ctl.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"penstockctl {__version__}\n"


def test_it_runs_as_a_module(server: Server) -> None:
    command = [
        sys.executable,
        "-m",
        "penstock.control.penstockctl",
        "--control",
        server.address,
        "workers",
    ]
    result = subprocess.run(
        command,
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=True,
    )
    assert result.stdout.startswith("WORKER")


def test_the_variable_of_the_setting_is_the_address(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PENSTOCK_CONTROL", server.address)
    assert ctl.main(["workers"]) == ctl.DONE
    monkeypatch.setenv("PENSTOCK_CONTROL", "/nowhere")
    assert server.run("workers")[0] == ctl.DONE


# A server that cannot be reached


def complaint(capture: Capture, *arguments: str) -> str:
    assert ctl.main(arguments) == ctl.UNREACHABLE
    out, err = capture.readouterr()
    assert out == ""
    assert err.startswith("penstockctl: error: ")
    return err


def test_an_address_where_nobody_listens_is_told(tmp_path: Path, capsys: Capture) -> None:
    path = str(tmp_path / "control.sock")
    assert "No such file" in complaint(capsys, "--control", path, "status")
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(path)
    assert "no server listens there" in complaint(capsys, "--control", path, "status")
    assert "the path is missing" in complaint(capsys, "--control", "@", "status")
    assert "too long" in complaint(capsys, "--control", "/" + "x" * 300, "status")


def test_a_supervisor_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: Capture
) -> None:
    loop = ControlLoop()
    address = str(tmp_path / "control.sock")
    loop.control(address)  # and no thread runs the loop
    err = complaint(capsys, "--control", address, "--timeout", "0.2", "status")
    assert f"no answer from {address} within 0.2 s" in err
    waiting = []
    for _ in range(BACKLOG + 10):
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        if waiting[-1].connect_ex(address):
            break
    err = complaint(capsys, "--control", address, "--timeout", "0.2", "status")
    assert "the server did not accept within 0.2 s" in err
    for sock in waiting:
        sock.close()
    loop.close()


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Have something that is no supervisor answer one connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(DEADLINE)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(DEADLINE)
                sock.recv(65536)
                try:
                    answer(sock)
                except OSError:
                    pass  # the client has given up, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(DEADLINE)


def test_an_answer_that_trickles_is_given_up_in_time(tmp_path: Path, capsys: Capture) -> None:
    pause = threading.Event()

    def trickle(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
        while not pause.wait(0.01):
            sock.sendall(b" ")

    with answering(tmp_path / "sock", trickle) as address:
        assert "within 0.3 s" in complaint(
            capsys, "--control", address, "--timeout", "0.3", "status"
        )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not a control socket of Penstock"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x9b", "not a control socket of Penstock"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n<htm>", "not a control socket of Penstock"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "ended without an answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "not a control socket of Penstock"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "not a control socket",
        ),
        (b"SSH-2.0\r\n", "not a control socket of Penstock"),
        (b"", "ended without an answer"),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"workers":1}',
            "not one that this version understands",
        ),
    ],
)
def test_what_is_no_server_of_ours_is_told(
    tmp_path: Path, capsys: Capture, answer: bytes, said: str
) -> None:
    with answering(tmp_path / "sock", lambda sock: sock.sendall(answer)) as address:
        assert said in complaint(capsys, "--control", address, "workers")


# Finding servers


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one directory in which servers are, and are looked for."""
    path = tmp_path / "penstock"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    only = [Directory(str(path)), Directory(str(tmp_path / "none"))]
    monkeypatch.setattr(ctl_client, "of_client", lambda environ, uid: only)
    return path


def test_the_one_server_there_is_needs_no_address(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ControlLoop()
    loop.control("auto")
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(place / "dead.sock"))
    with loop:
        for value in ("auto", "off", ""):
            monkeypatch.setenv("PENSTOCK_CONTROL", value)
            assert ctl.main(["status"]) == ctl.DONE
            out, err = capsys.readouterr()
            assert "shop:app" in out
            assert err == ""


def test_of_several_servers_one_is_to_be_chosen(place: Path, capsys: Capture) -> None:
    first, second = ControlLoop(), ControlLoop()
    first.control("auto")
    second.control("auto")
    second.fake.application = "blog:\x1bapp"
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(place / "dead.sock"))
    with first, second:
        assert ctl.main(["stop"]) == ctl.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    pid = os.getpid()
    who, where = f"pid {pid}, user {os.geteuid()}", "http://127.0.0.1:8000"
    assert err.splitlines() == [
        f"  {place}/dead.sock  (no server listens there)",
        f"  --control {place}/shop-{pid}.sock  {who}, blog:\\x1bapp on {where}",
        f"  --control {place}/shop.sock  {who}, shop:app on {where}",
        "penstockctl: error: there are 2 servers: choose one of those above",
    ]
    assert first.fake.asked.empty()
    assert second.fake.asked.empty()


def test_a_server_that_hangs_is_listed_too(place: Path, capsys: Capture) -> None:
    first, second = ControlLoop(), ControlLoop()
    first.control("auto")
    second.control("auto")  # and no thread runs its loop
    with first:
        assert ctl.main(["status"]) == ctl.USAGE
    assert "(no answer)" in capsys.readouterr().err
    second.close()


def test_no_server_is_told_with_where_it_was_looked_for(place: Path, capsys: Capture) -> None:
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(place / "dead.sock"))
    (place / "notes").write_text("", "utf-8")
    dead, said = (assert_unreachable(capsys)).splitlines()
    assert dead == f"  {place}/dead.sock  (no server listens there)"
    assert said.startswith(
        f"penstockctl: error: no server was found in {place} or {place.parent}/none; "
    )
    assert "--control" in said


def assert_unreachable(capture: Capture) -> str:
    assert ctl.main(["status"]) == ctl.UNREACHABLE
    out, err = capture.readouterr()
    assert out == ""
    return err


def test_a_directory_that_others_can_use_is_not_looked_in(place: Path, capsys: Capture) -> None:
    loop = ControlLoop()
    loop.control("auto")
    place.chmod(0o770)
    with loop:
        assert f"  other users can use {place}: its mode is 0770" in assert_unreachable(capsys)


def test_it_looks_where_a_server_can_be() -> None:
    environ = {
        "RUNTIME_DIRECTORY": "/run/shop:/run/x/penstock:relative",
        "XDG_RUNTIME_DIR": "/xdg",
        "TMPDIR": "/var/tmp",
    }
    for uid in (0, 1000):
        paths = [each.path for each in of_client(environ, uid)]
        assert set(paths) >= {each.path for each in of_server(environ, uid)}
        assert paths[:3] == ["/run/x/penstock", "/run/shop/penstock", "/run/penstock"]
        expected = ["/xdg/penstock", f"/run/user/{uid}/penstock", f"/var/tmp/penstock-{uid}"]
        ours = [each.path for each in of_client(environ, uid) if not each.foreign]
        assert ours[3:] == [*expected, f"/tmp/penstock-{uid}"]


def test_a_mistyped_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ctl.main(["statsu"]) == 2
    assert capsys.readouterr().err == (
        "penstockctl: error: there is no command 'statsu'; did you mean 'status'?\n"
    )


# What is wrong, and what happens now


def test_doctor_prints_the_findings_for_people_and_for_programs(server: Server) -> None:
    assert server.lines("doctor") == [
        "the last 10m00s: 6,000 requests, 10.0/s; half took 18 ms or less, 99 % 25 ms or less",
        "",
        "nothing is wrong",
    ]
    assert json.loads("\n".join(server.lines("doctor", "--json"))) == {"findings": []}


def test_top_is_printed_once_where_there_is_no_terminal(server: Server) -> None:
    lines = server.lines("top", "--interval", "0.01")
    assert lines[0].startswith("shop:app  serving  up 75.0s  generation 1  native")
    assert any("/reports/7" in line for line in lines)
    value = json.loads("\n".join(server.lines("top", "--interval", "0.01", "--json")))
    assert value["workers"][0]["worker"] == 1


@pytest.mark.parametrize(
    ("term", "curses"),
    [
        ("dumb", True),
        ("of-no-kind", True),
        pytest.param("xterm", False, id="python-without-curses"),
    ],
)
def test_top_is_printed_once_on_a_terminal_that_cannot_be_drawn_on(
    server: Server, tmp_path: Path, term: str, curses: bool
) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "penstock.control.penstockctl", "--control", server.address]
    environ = checkout_environ() | {"TERM": term}
    if not curses:
        (tmp_path / "curses.py").write_text("raise ImportError")
        environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environ['PYTHONPATH']}"
    top = subprocess.Popen(
        [*command, "top", "--interval", "0.01"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ,
    )
    os.close(theirs)
    try:
        seen, deadline = b"", time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                break  # its end of the terminal is closed
        assert b"/reports/7" in seen
        assert b"Traceback" not in seen
        assert top.wait(DEADLINE) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)


def test_top_draws_on_a_terminal_and_ends_with_q(server: Server) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-m", "penstock.control.penstockctl", "--control", server.address]
    environ = checkout_environ() | {"TERM": "xterm"}
    top = subprocess.Popen(
        [*command, "top"], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    try:
        seen, deadline = b"", time.monotonic() + DEADLINE
        while b"/reports/7" not in seen and time.monotonic() < deadline:
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536)
        assert b"shop:app" in seen
        assert b"/reports/7" in seen
        os.write(ours, b"krr")  # the last worker, which is above the requests
        assert server.fake.asked.get(timeout=DEADLINE) == Recycle(2)
        os.write(ours, b"q")
        while top.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    os.read(ours, 65536)
                except OSError:
                    break  # its end of the terminal is closed
        assert top.wait(DEADLINE) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)
