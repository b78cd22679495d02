"""The control socket and the probes: what is answered, to whom, at which addresses."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.config.settings import Settings
from penstock.control.commands import (
    Command,
    ControlError,
    Outcome,
    Recycle,
    Reload,
    Scale,
    Stop,
    Upgrade,
)
from penstock.control.connection import MAX_CONNECTIONS, Service
from penstock.control.directories import Directory
from penstock.control.server import ControlServer, wanted_by
from penstock.control.socket_file import Passed, SocketFile
from penstock.errors import ListenError
from support.control_loop import COMMAND, ControlLoop, command, connect, worker
from support.serving import eventually
from support.wire import DEADLINE, Client, Response

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's alone")


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[ControlLoop]:
    loop = ControlLoop()
    loop.control(str(tmp_path / "control.sock"))
    with loop:
        yield loop


@pytest.fixture
def client(loop: ControlLoop) -> Iterator[Client]:
    with connect(loop.services[0]) as client:
        yield client


def value_of(response: Response) -> Any:
    assert response.header("Content-Type") == "application/json"
    assert response.body.isascii()
    return json.loads(response.body)


def error_of(response: Response) -> str:
    return str(value_of(response)["error"])


# Questions


def test_the_status_is_the_supervisors(loop: ControlLoop, client: Client) -> None:
    loop.fake.ready = False
    value = value_of(client.request("GET", "/status"))
    assert value == loop.fake.status()


def test_workers_and_requests_are_the_supervisors(loop: ControlLoop, client: Client) -> None:
    assert value_of(client.request("GET", "/workers")) == {"workers": loop.fake.rows}
    assert value_of(client.request("GET", "/requests")) == {"requests": loop.fake.in_progress}


def test_an_answer_is_not_to_be_kept(client: Client) -> None:
    assert client.request("GET", "/status").header("Cache-Control") == "no-store"


def test_what_clients_have_sent_is_escaped(loop: ControlLoop, client: Client) -> None:
    loop.fake.in_progress[0]["target"] = "/\x1b[2J\x9b\u00e9"
    response = client.request("GET", "/requests")
    assert value_of(response)["requests"][0]["target"] == "/\x1b[2J\x9b\u00e9"
    assert not set(response.body) & {0x1B, 0x9B}


@pytest.mark.parametrize(("query", "asked"), [("", None), ("?worker=102", 102), ("?worker=1", 1)])
def test_stacks_come_when_the_supervisor_has_them(
    loop: ControlLoop, client: Client, query: str, asked: int | None
) -> None:
    client.send(f"GET /stacks{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert loop.answer_stacks({102: "Thread 1:\n  here"}) == asked
    assert value_of(client.read_response()) == {
        "stacks": {"102": "Thread 1:\n  here"},
        "workers": {"102": 2},
    }


def test_other_clients_are_answered_while_one_waits_for_stacks(
    loop: ControlLoop, client: Client
) -> None:
    client.send(b"GET /stacks HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with connect(loop.services[0]) as other:
        assert other.request("GET", "/status").status == 200
    loop.answer_stacks({})
    assert value_of(client.read_response())["stacks"] == {}


# Commands


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/reload", Reload()),
        ("/upgrade", Upgrade()),
        ("/scale?workers=3", Scale(3)),
        ("/recycle?worker=101", Recycle(101)),
        ("/stop", Stop(graceful=True)),
        ("/stop?now=1", Stop(graceful=False)),
    ],
)
def test_a_command_is_answered_with_its_outcome(
    loop: ControlLoop, client: Client, target: str, asked: Command
) -> None:
    client.send(command(target, "Content-Length: 0"))
    assert loop.fake.asked.get(timeout=DEADLINE) == asked
    loop.conclude(Outcome(True, "as it was told"))
    response = client.read_response()
    assert (response.status, value_of(response)) == (200, {"message": "as it was told"})


def test_a_command_is_logged_with_who_gave_it(loop: ControlLoop, client: Client) -> None:
    loop.fake.at_once = Outcome(True, "")
    assert client.request("POST", "/reload", COMMAND).status == 200
    who = f"process {os.getpid()} of user {os.getuid()}"
    assert loop.messages.texts == [f"INFO: control: reload, asked for by {who}"]


def test_a_command_that_fails_in_the_end_says_why(loop: ControlLoop, client: Client) -> None:
    client.send(command("/reload"))
    loop.conclude(Outcome(False, "rolled back: SyntaxError"))
    response = client.read_response()
    assert (response.status, error_of(response)) == (500, "rolled back: SyntaxError")


def test_a_command_that_cannot_begin_says_why(loop: ControlLoop, client: Client) -> None:
    loop.fake.refusal = ControlError("a reload is in progress")
    response = client.request("POST", "/reload", COMMAND)
    assert (response.status, error_of(response)) == (409, "a reload is in progress")


def test_a_refusal_has_the_status_of_its_kind(loop: ControlLoop, client: Client) -> None:
    loop.fake.refusal = ControlError("no worker has the number 99", 404)
    response = client.request("POST", "/recycle?worker=99", COMMAND)
    assert (response.status, error_of(response)) == (404, "no worker has the number 99")


def test_a_command_need_not_be_waited_for(loop: ControlLoop, client: Client) -> None:
    response = client.request("POST", "/reload?wait=0", COMMAND)
    assert (response.status, value_of(response)) == (202, {"message": "reload has begun"})
    loop.conclude(Outcome(False, "of no interest any more"))
    assert client.request("GET", "/workers").status == 200


def test_an_outcome_that_is_known_at_once_is_told_without_waiting(
    loop: ControlLoop, client: Client
) -> None:
    loop.fake.at_once = Outcome(False, "no such file")
    response = client.request("POST", "/upgrade?wait=0", COMMAND)
    assert (response.status, error_of(response)) == (500, "no such file")


def test_an_outcome_goes_nowhere_when_its_client_has_left(loop: ControlLoop) -> None:
    with connect(loop.services[0]) as leaving:
        leaving.send(command("/reload"))
        reply = loop.fake.replies.get(timeout=DEADLINE)
    loop.call(lambda: reply(Outcome(True, "no client reads this")))
    with connect(loop.services[0]) as other:
        assert other.request("GET", "/status").status == 200


def test_an_outcome_that_never_comes_is_not_waited_for_for_ever(
    loop: ControlLoop, client: Client
) -> None:
    client.send(command("/reload"))
    loop.fake.replies.get(timeout=DEADLINE)
    loop.expire(3601)
    assert client.read_response().status == 504


def test_what_was_answered_before_the_end_still_arrives(tmp_path: Path) -> None:
    loop = ControlLoop()
    service = loop.control(str(tmp_path / "control.sock"))
    with loop, connect(service) as client:
        client.send(command("/stop"))
        reply = loop.fake.replies.get(timeout=DEADLINE)

        def stop() -> None:
            reply(Outcome(True, "stopped"))
            service.close()

        loop.call(stop)
        assert value_of(client.read_response()) == {"message": "stopped"}
        assert client.is_closed_by_server()


# Wrong requests


@pytest.mark.parametrize(
    ("method", "target", "status", "said"),
    [
        ("GET", "/", 404, "there are /failed, /findings, /history, /metrics, "),
        ("GET", "/healthz", 404, "there is no such path"),
        ("GET", "/status?x=1", 400, "the query can have nothing in it"),
        ("GET", "/stacks?pid=1", 400, "the query can have worker in it"),
        ("GET", "/stacks?worker=", 400, "give worker=N, a whole number of 0 or more"),
        ("GET", "/stacks?worker=-1", 400, "give worker=N, a whole number of 0 or more"),
        ("GET", "/stacks?worker=%D9%A1", 400, "give worker=N, a whole number"),
        ("GET", "/stacks?worker", 400, "the query is to be name=value"),
        ("POST", "/scale", 400, "give workers=N, a whole number from 1 to 1000"),
        ("POST", "/scale?workers=0", 400, "from 1 to 1000"),
        ("POST", "/scale?workers=1001", 400, "from 1 to 1000"),
        ("POST", "/scale?workers=2&workers=3", 400, "given twice"),
        ("POST", "/scale?workers=2&now=1", 400, "can have wait, workers in it"),
        ("POST", "/stop?now=yes", 400, "now is 0 or 1"),
        ("POST", "/reload?wait=no", 400, "wait is 0 or 1"),
    ],
)
def test_what_is_wrongly_asked_is_refused_with_the_reason(
    client: Client, method: str, target: str, status: int, said: str
) -> None:
    response = client.request(method, target, COMMAND)
    assert response.status == status
    assert said in error_of(response)


@pytest.mark.parametrize(("method", "target"), [("GET", "/reload"), ("HEAD", "/stop")])
def test_nothing_is_changed_by_a_method_that_is_safe(
    loop: ControlLoop, client: Client, method: str, target: str
) -> None:
    response = client.request(method, target)
    assert (response.status, response.header("Allow")) == (405, "POST")
    assert loop.fake.asked.empty()


def test_a_question_is_no_post(client: Client) -> None:
    response = client.request("POST", "/status", COMMAND)
    assert (response.status, response.header("Allow")) == (405, "GET, HEAD")


def test_a_defect_is_logged_and_answered(loop: ControlLoop, client: Client) -> None:
    loop.fake.broken = True
    response = client.request("GET", "/status")
    assert (response.status, response.body) == (500, b"internal error; see the log\n")
    assert "ERROR: PEN-8900 internal error" in loop.messages.texts[0]
    assert client.request("GET", "/workers").status == 200


# HTTP


def test_requests_on_one_connection_are_answered_in_their_order(
    loop: ControlLoop, client: Client
) -> None:
    client.send(
        b"GET /stacks HTTP/1.1\r\nHost: localhost\r\n\r\n"
        b"HEAD /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        + command("/scale?workers=0", "Content-Length: 2")
        + b"{}"
        b"GET /workers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    loop.answer_stacks({})
    assert value_of(client.read_response())["stacks"] == {}
    head = client.read_response("HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.header("Content-Length") or 0) > 0
    assert client.read_response().status == 400
    last = client.read_response()
    assert (last.status, last.header("Connection")) == (200, "close")
    assert client.is_closed_by_server()


def test_a_request_may_come_in_pieces(client: Client) -> None:
    client.send_bytewise(b"GET /workers HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.read_response().status == 200


def test_a_client_that_has_ended_its_side_is_answered(client: Client) -> None:
    client.send(b"GET /workers HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.end_sending()
    assert client.read_response().status == 200
    assert client.is_closed_by_server()


def test_an_http_1_0_client_gets_an_answer_and_an_end(client: Client) -> None:
    client.send(b"GET /workers HTTP/1.0\r\n\r\n")
    response = client.read_response()
    assert (response.status, response.header("Connection")) == (200, "close")
    assert client.is_closed_by_server()


def test_a_client_that_waits_to_send_a_body_is_told_to(loop: ControlLoop, client: Client) -> None:
    loop.fake.at_once = Outcome(True, "")
    client.send(command("/reload", "Expect: 100-continue", "Content-Length: 2"))
    assert client.read_response().status == 100
    client.send(b"{}")
    assert client.read_response().status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01 TLS\r\n\r\n", 400),
        (b"GET /status\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n\r\n", 400),
        (b"GET /%b HTTP/1.1\r\n" % (b"x" * 5000), 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: %b\r\n" % (b"b" * 4000) * 3, 431),
        (
            command("/reload", "Content-Length: 9000"),
            413,
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ],
)
def test_what_is_no_request_or_too_large_is_refused_and_ends_the_connection(
    loop: ControlLoop, client: Client, sent: bytes, status: int
) -> None:
    client.send(sent)
    assert client.read_response().status == status
    assert client.is_closed_by_server()
    assert loop.fake.asked.empty()


def test_half_a_request_is_waited_for_for_a_short_time(loop: ControlLoop, client: Client) -> None:
    client.send(b"GET /sta")
    service = loop.services[0]
    eventually(lambda: any(c._parser.buffered for c in list(service._connections)))
    loop.expire(4.0)
    loop.expire(5.1)
    assert client.read_response().status == 408
    assert client.is_closed_by_server()


def test_an_idle_connection_is_closed_after_a_minute(loop: ControlLoop, client: Client) -> None:
    assert client.request("GET", "/workers").status == 200
    loop.expire(30)
    assert client.request("GET", "/workers").status == 200
    loop.expire(60.1)
    assert client.is_closed_by_server()


def test_a_client_that_does_not_read_its_answer_holds_nobody_up(loop: ControlLoop) -> None:
    loop.fake.rows = [worker(number, 1000 + number) for number in range(5000)]
    with connect(loop.services[0]) as slow, connect(loop.services[0]) as other:
        slow.send(b"GET /workers HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.request("GET", "/status").status == 200
        assert len(value_of(slow.read_response())["workers"]) == 5000
        slow.send(b"GET /workers HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.request("GET", "/status").status == 200
        loop.expire(5.1)
        assert not slow.read_response().complete


# Many connections


def test_the_connection_that_has_been_idle_for_longest_makes_room(
    loop: ControlLoop, client: Client
) -> None:
    service = loop.services[0]
    assert client.request("GET", "/status").status == 200
    others = [connect(service) for _ in range(MAX_CONNECTIONS - 1)]
    try:
        for other in others:
            assert other.request("GET", "/status").status == 200
        assert client.request("GET", "/status").status == 200  # the first is now the youngest
        with connect(service) as newcomer:
            assert newcomer.request("GET", "/status").status == 200
            assert others[0].is_closed_by_server()
            assert client.request("GET", "/status").status == 200
    finally:
        for other in others:
            other.close()


def test_a_client_that_comes_while_all_connections_are_busy_waits_for_the_first_that_ends(
    loop: ControlLoop,
) -> None:
    service = loop.services[0]
    busy = [connect(service) for _ in range(MAX_CONNECTIONS)]
    try:
        for each in busy:
            each.send(command("/reload", "Connection: close"))
        replies = [loop.fake.replies.get(timeout=DEADLINE) for _ in busy]
        with connect(service) as newcomer:
            newcomer.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not select.select([newcomer.socket], [], [], 0.05)[0]
            loop.call(lambda: replies[0](Outcome(True, "")))
            assert busy[0].read_response().status == 200
            busy[0].close()
            assert newcomer.read_response().status == 200
    finally:
        for each in busy:
            each.close()


EXHAUSTED = """
import os, resource, sys
from support.control_loop import ControlLoop, command, connect
from support.serving import eventually

loop = ControlLoop()
service = loop.control(sys.argv[1])
with loop:
    spare = [connect(service).socket for _ in range(2)]
    client = connect(service)
    assert client.request("GET", "/status").status == 200
    client.send(command("/reload"))
    reply = loop.fake.replies.get(timeout=10)
    for sock in spare:  # busy, too: none can make room
        sock.sendall(command("/reload"))
    loop.fake.replies.get(timeout=10), loop.fake.replies.get(timeout=10)
    import socket
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used + 100))
    while True:
        try:
            os.dup(0)
        except OSError:
            break
    waiting[0].connect(sys.argv[1])
    eventually(lambda: any("cannot accept" in text for text in loop.messages.texts))
    loop.expire(1)
    loop.expire(2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, used + 100))
    waiting[0].settimeout(10)
    waiting[0].sendall(b"GET /status HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    assert waiting[0].recv(100).startswith(b"HTTP/1.1 200")
    assert len([text for text in loop.messages.texts if "cannot accept" in text]) == 1
    print("survived")
os._exit(0)
"""


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@on_linux
def test_a_lack_of_descriptors_is_told_once_and_survived(tmp_path: Path) -> None:
    result = run_python(EXHAUSTED, str(tmp_path / "control.sock"))
    assert result.stdout == "survived\n", result.stderr


# Who may


OTHER_USER = """
import os, sys
from support.wire import Client  # which another user may not be able to read
os.setgid(1234)
os.setuid(1234)
client = Client(sys.argv[1].replace("@", "\\0", 1))
response = client.request("POST", "/stop", {"Penstock-Control": "1"})
print(response.status, response.body.decode())
assert client.is_closed_by_server()
"""


@on_linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_another_user_is_refused_and_named_in_the_log_once() -> None:
    loop = ControlLoop()
    service = loop.control(f"@penstock-test/{os.getpid()}")
    address = service.name.removeprefix("unix:")
    with loop:
        for _ in range(2):
            result = run_python(OTHER_USER, address, cwd="/")
            assert result.stdout.startswith("403 "), result.stderr
            assert "only root may use this socket, and you are user 1234" in result.stdout
        assert loop.fake.asked.empty()
        [line] = loop.messages.texts
        assert re.fullmatch(
            r"WARNING: PEN-8010 control: refused process \d+ of user 1234: "
            r"only root may ask",
            line,
        )


SILENT_USER = """
import os, socket, sys
os.setgid(1234)
os.setuid(1234)
address = sys.argv[1].replace("@", "\\0", 1)
held = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    held.append(sock)
print("held", flush=True)
sys.stdin.read()
"""


@on_linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_another_user_cannot_keep_the_owner_out() -> None:
    loop = ControlLoop()
    service = loop.control(f"@penstock-test/{os.getpid()}")
    address = service.name.removeprefix("unix:")
    with loop, connect(service) as early:
        assert early.request("GET", "/status").status == 200
        process = subprocess.Popen(
            [sys.executable, "-c", SILENT_USER, address, str(MAX_CONNECTIONS + 10)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert early.request("GET", "/status").status == 200
            with connect(service) as newcomer:
                assert newcomer.request("GET", "/status").status == 200


# Addresses


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that `auto` uses."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "penstock"))
    (tmp_path / "penstock").mkdir(mode=0o700)
    return tmp_path / "penstock"


def test_auto_is_a_file_for_its_owner_alone_and_goes_with_the_server(place: Path) -> None:
    loop = ControlLoop()
    service = loop.control("auto")
    assert service.name == f"unix:{place}/shop.sock"
    assert stat.S_IMODE((place / "shop.sock").stat().st_mode) == 0o600
    with loop, connect(service) as client:
        assert client.request("GET", "/status").status == 200
    assert list(place.iterdir()) == []


def test_auto_takes_another_name_where_a_server_that_runs_has_the_first(place: Path) -> None:
    first, second, third = ControlLoop(), ControlLoop(), ControlLoop()
    first.control("auto")
    for number, other in (("", second), ("-2", third)):  # as in containers that share a directory
        assert other.control("auto").name == f"unix:{place}/shop-{os.getpid()}{number}.sock"
        [text] = other.messages.texts
        assert text.startswith("INFO: control: a server that runs has the name shop: ")
    for loop in (first, second, third):
        loop.close()
    assert list(place.iterdir()) == []


def test_auto_removes_the_sockets_of_servers_of_its_name_that_have_ended(place: Path) -> None:
    names = ("shop.sock", "shop-4711.sock", "shopping.sock", "shop-x.sock")
    for name in names:
        with socket.socket(socket.AF_UNIX) as former:
            former.bind(str(place / name))
    (place / "shop-1.sock").write_text("no socket", "utf-8")
    loop = ControlLoop()
    assert loop.control("auto").name == f"unix:{place}/shop.sock"
    left = {path.name for path in place.iterdir()}
    assert left == {"shop.sock", "shop-1.sock", "shopping.sock", "shop-x.sock"}
    loop.close()


def test_auto_replaces_nothing_that_is_no_socket(place: Path) -> None:
    (place / "shop.sock").write_text("mine", "utf-8")
    loop = ControlLoop()
    assert loop.control("auto").name == f"unix:{place}/shop-{os.getpid()}.sock"
    loop.close()
    assert (place / "shop.sock").read_text("utf-8") == "mine"


def test_auto_removes_no_socket_while_another_server_makes_one(place: Path) -> None:
    """A socket that is bound and does not listen yet looks like that of a server that has ended."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / "shop.sock"))
        directory = os.open(place, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
        loop = ControlLoop()
        assert loop.control("auto").name == f"unix:{place}/shop-{os.getpid()}.sock"
        os.close(directory)
        other.listen()
        with Client(str(place / "shop.sock")):
            pass
    loop.close()


def test_a_socket_that_another_server_has_put_in_its_place_is_not_removed(place: Path) -> None:
    loop = ControlLoop()
    loop.control("auto")
    (place / "shop.sock").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / "shop.sock"))
        loop.close()
        assert (place / "shop.sock").is_socket()


def test_auto_that_cannot_be_had_is_a_warning_that_says_what_to_do_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = [Directory(str(tmp_path / name / "penstock")) for name in ("one", "two")]
    monkeypatch.setattr("penstock.control.server.of_server", lambda environ, uid: nowhere)
    loop = ControlLoop()
    server = ControlServer(loop.fake.handle, loop.selector, loop.logger)
    server.open(replace(Settings(), admin="127.0.0.1:0"))
    assert set(server.descriptors()) == {"admin"}
    server.follow(replace(Settings(), admin="127.0.0.1:0"))
    assert [text for text in loop.messages.texts if "8030" in text] == []  # it is known
    server.follow(replace(Settings(), admin="127.0.0.1:0", control="off"))
    server.close()
    assert loop.messages.texts[:1] == [
        f"WARNING: PEN-8020 no control socket: {tmp_path}/one/penstock: its directory does not "
        f"exist; {tmp_path}/two/penstock: its directory does not exist (see --control, and "
        "RuntimeDirectory= of systemd)"
    ]
    loop.close()


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_off_is_no_socket(word: str) -> None:
    assert wanted_by(replace(Settings(), control=word), None) == {}


def refusal(address: str) -> str:
    loop = ControlLoop()
    with pytest.raises(ListenError) as caught:
        loop.control(address)
    loop.close()
    return str(caught.value)


def test_a_path_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    umask = os.umask(0)
    try:
        loop = ControlLoop()
        loop.control(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        assert os.umask(umask) == 0
    loop.close()
    assert not path.exists()


def test_a_path_of_a_server_that_runs_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    loop = ControlLoop()
    loop.control(path)
    text = refusal(path)
    assert "it is in use by another program" in text
    assert text.endswith("(setting: --control)")
    loop.close()


def test_the_socket_of_a_former_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
    loop = ControlLoop()
    service = loop.control(str(path))
    with loop, connect(service) as client:
        assert client.request("GET", "/status").status == 200


def test_a_path_without_its_directory_is_refused(tmp_path: Path) -> None:
    assert "its directory does not exist" in refusal(str(tmp_path / "none" / "control.sock"))


def test_a_path_that_penstockctl_will_refuse_is_one_warning_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    path = f"{tmp_path}/control.sock"
    settings = replace(Settings(), control=path)
    loop = ControlLoop()
    server = ControlServer(loop.fake.handle, loop.selector, loop.logger)
    server.open(settings)
    server.follow(settings)
    server.close()
    loop.close()
    assert [text for text in loop.messages.texts if "DEBUG" not in text] == [
        f"WARNING: PEN-8026 penstockctl will refuse the control socket {path}: any user can "
        "replace it in its directory"
    ]


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine", "utf-8")
    assert "exists and is not a socket" in refusal(str(tmp_path / "notes"))


@on_linux
def test_a_name_that_is_taken_is_refused() -> None:
    loop = ControlLoop()
    name = f"@penstock-test/{os.getpid()}"
    loop.control(name)
    assert "in use by another program (setting: --control)" in refusal(name)
    loop.close()


def test_an_address_without_a_name_is_refused() -> None:
    assert refusal("@") == "cannot listen on @: the path is missing (setting: --control)"


@pytest.mark.parametrize("kind", ["path", pytest.param("name", marks=on_linux)])
def test_a_socket_is_handed_to_a_successor_without_a_gap(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "control.sock") if kind == "path" else f"@penstock-test/{os.getpid()}"
    old = ControlLoop()
    service = old.control(address)
    with old, connect(service) as client:
        client.send(command("/upgrade"))
        reply = old.fake.replies.get(timeout=DEADLINE)
        new = ControlLoop()
        listener = service.listener
        directory = os.dup(listener.directory) if isinstance(listener, SocketFile) else None
        passed = Passed(os.dup(listener.socket.fileno()), directory)
        successor = new.control(address, inherited=passed)
        old.call(lambda: service.stop_accepting(keep_path=True))
        old.call(lambda: reply(Outcome(True, "process 2 serves")))
        new.call(successor.take_over)
        assert value_of(client.read_response()) == {"message": "process 2 serves"}
        with new, connect(successor) as other:
            new.fake.application = "new:app"
            assert value_of(other.request("GET", "/status"))["application"] == "new:app"
    assert not (tmp_path / "control.sock").exists()


FORKING = """
import os, sys
from support.control_loop import ControlLoop, connect
path = sys.argv[1]
loop = ControlLoop()
service = loop.control(path)
client = connect(service)
service.accept()
before = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    service.close_in_child()
    left = len(os.listdir("/proc/self/fd"))
    service.close()
    os._exit(before - left)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 3, status
with loop:
    assert client.request("GET", "/status").status == 200
assert not os.path.exists(path)
print("served")
client.close()
"""


@on_linux
def test_a_forked_worker_lets_go_without_disturbing_the_supervisor(tmp_path: Path) -> None:
    result = run_python(FORKING, str(tmp_path / "control.sock"))
    assert result.stdout == "served\n", result.stderr


# Probes


@pytest.mark.parametrize(
    ("path", "ready", "live", "expected"),
    [
        ("/healthz", True, True, (200, b"ok\n")),
        ("/healthz", False, True, (200, b"ok\n")),
        ("/healthz", True, False, (503, b"no\n")),
        ("/readyz", True, True, (200, b"ok\n")),
        ("/readyz", False, True, (503, b"no\n")),
    ],
)
def test_probes_learn_whether_it_is_live_and_ready_and_nothing_else(
    path: str, ready: bool, live: bool, expected: tuple[int, bytes]
) -> None:
    loop = ControlLoop()
    address = loop.admin()
    loop.fake.ready, loop.fake.live = ready, live
    with loop, Client(address) as client:
        response = client.request("GET", path)
        assert (response.status, response.body) == expected
        assert response.header("Cache-Control") == "no-store"
        head = client.request("HEAD", path)
        assert (head.status, head.body) == (expected[0], b"")
        assert client.request("POST", path).status == 404
    assert loop.fake.asked.empty()


def test_the_address_for_probes_that_is_in_use_is_an_error_of_that_setting() -> None:
    loop = ControlLoop()
    _, port = loop.admin()
    with pytest.raises(ListenError, match=r"in use by another program: .* \(setting: --admin\)"):
        loop.admin(f"127.0.0.1:{port}")
    loop.close()


def test_probes_and_control_share_a_loop(tmp_path: Path) -> None:
    loop = ControlLoop()
    service: Service = loop.control(str(tmp_path / "control.sock"))
    address = loop.admin()
    with loop, Client(address) as probe, connect(service) as client:
        assert probe.request("GET", "/readyz").status == 200
        assert client.request("GET", "/status").status == 200
