"""What is known of requests that are over: after a crash, and by penstockctl."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.invariant import eventually
from support.lifecycle import Supervised, json_of
from support.server_process import checkout_environ
from support.wire import DEADLINE, Client

APP = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/burn":
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    while path == "/late" and not os.path.exists("go"):
        time.sleep(0.01)
    if path == "/die":
        os.abort()
    status = "500 No" if path in ("/fail", "/late") else "200 OK"
    start_response(status, [("Content-Length", "1")])
    return [b"x"]
"""


def controlled(folder: Path, transport: str, *arguments: str) -> Supervised:
    """Return a server of one worker that is controlled at a path."""
    (folder / "shop.py").write_text(APP)
    control = ("--control", str(folder / "control"), "--transport", transport)
    return Supervised(folder, "-w", "1", "--threads", "2", *control, *arguments)


def told(server: Supervised, *command: str) -> Any:
    """Return what control answers."""
    address = str(server.folder / "control")
    return json_of(server.control("--control", address, "--json", *command))


def test_a_crash_names_the_last_requests_of_each_thread(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, transport) as server:
        with Client(server.address) as client:
            for number in range(5):
                assert client.request("GET", f"/page{number}?secret").status == 200
            client.send(b"GET /die HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_to_end() == b""
        server.wait_for_line(r"PEN-7020 worker 1 .* was ended by SIGABRT")
        server.wait_for_line(r"GET /die \(request ")
        server.wait_for_line("the last requests of each thread before that:")
        line = server.wait_for_line(r"GET /page4\?\.\.\. \(request \S+, 200 after [^,]+, begun ")
        assert "secret" not in "".join(
            line for line in server.lines_so_far() if "/page" in line and "after" in line
        )
        assert line
        assert server.stop() == 0


def test_penstockctl_shows_the_last_requests_of_a_worker(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, transport, "--recent-requests", "3") as server:
        for number in range(4):
            server.ask(f"/page{number}?secret")
        rows = told(server, "recent", "1")["recent"]
        assert {row["target"] for row in rows} <= {f"/page{number}?..." for number in range(4)}
        assert rows[0]["target"] == "/page3?..."
        assert rows[0]["status"] == 200
        assert not rows[0]["in_progress"]
        assert transport == "python" or 0 < rows[0]["took"] < DEADLINE
        (shown, *_) = told(server, "recent", "1", "--query")["recent"]
        assert shown["target"] == "/page3?secret"
        # Two threads, of three requests each, and one more while none is in progress.
        for number in range(20):
            server.ask(f"/page{number}")
        assert len(told(server, "recent", "1")["recent"]) <= 8


def test_penstockctl_shows_what_was_slow_has_failed_and_was_refused(
    tmp_path: Path, transport: str
) -> None:
    with controlled(tmp_path, transport) as server:
        assert server.ask("/burn?secret").status == 200
        assert server.ask("/fail?secret").status == 500
        head = b"GET /bad?secret HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nX: \x01\r\n\r\n"
        with Client(server.address) as client:
            client.send(head)
            assert client.read_response().status == 400
        assert eventually(lambda: told(server, "refused")["refused"])
        answers = {kind: told(server, kind) for kind in ("slow", "failed", "refused")}
        assert "secret" not in json.dumps(answers)
        slow = answers["slow"]["slow"][0]  # the slowest
        assert (slow["path"], slow["status"]) == ("/burn?...", 200)
        assert slow["took"] >= 0.5
        (failed,) = answers["failed"]["failed"]
        assert (failed["path"], failed["status"]) == ("/fail?...", 500)
        (refused,) = answers["refused"]["refused"]
        assert refused["status"] == 400
        assert refused["position"] == head.index(b"\x01")
        assert refused["excerpt"][refused["position"]] == "\x01"
        # They survive their worker.
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        server.wait_for_workers(1, {worker})
        assert told(server, "failed") == answers["failed"]


def test_a_flood_of_refusals_is_a_sample_and_a_count(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, transport) as server:
        for _ in range(100):
            with Client(server.address) as client:
                client.send(b"bad\x01\r\n\r\n")
                assert client.read_response().status == 400
        answer = told(server, "refused")
        assert 1 <= len(answer["refused"]) <= 50
        (worker,) = server.workers()
        assert server.ask("/").status == 200
        assert server.workers() == {worker}  # it has not sent too much


def test_penstockctl_profiles_a_worker(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, transport) as server, Client(server.address) as client:
        address = str(tmp_path / "control")
        command = [sys.executable, "-m", "penstock.control.penstockctl", "--control", address]
        profile = subprocess.Popen(
            [*command, "profile", "1", "--seconds", "2", "--rate", "50"],
            env=checkout_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun = 0
        while profile.poll() is None and begun < 50:
            client.request("GET", "/burn?secret")
            begun += 1
        out, err = profile.communicate(timeout=DEADLINE)
        assert profile.returncode == 0, err
        lines = [line for line in out.splitlines() if line.startswith("GET /burn?...;")]
        assert lines, out
        assert any(";app (" in line and "shop.py" in line for line in lines)
        assert "secret" not in out
        assert "penstock-" not in out  # threads of the server without a request
        assert " samples in " in err


def test_a_profile_ends_with_its_client_and_another_can_begin(
    tmp_path: Path, transport: str
) -> None:
    with controlled(tmp_path, transport) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "control"))
            fields = "Host: localhost\r\nPenstock-Control: 1\r\n\r\n"
            client.sendall(f"POST /profile?worker=1&seconds=300 HTTP/1.1\r\n{fields}".encode())

            def is_refused() -> bool:
                address = str(tmp_path / "control")
                asked = server.control("--control", address, "profile", "1", "--seconds", "1")
                return asked.returncode == 1 and "being profiled already" in asked.stderr

            assert is_refused()
        assert eventually(lambda: not is_refused())
        assert server.ask("/").status == 200


def test_the_garbage_collector_runs_between_requests_and_is_counted(
    tmp_path: Path, transport: str
) -> None:
    (tmp_path / "shop.py").write_text(
        "kept = []\n"
        "def app(environ, start_response):\n"
        "    kept.extend([] for _ in range(10_000))\n"
        "    start_response('200 OK', [('Content-Length', '1')])\n"
        "    return [b'x']\n"
    )
    control = ("--control", str(tmp_path / "control"), "--transport", transport)
    with Supervised(tmp_path, "-w", "1", "--gc", "idle", *control) as server:

        def counts() -> dict[str, int]:
            return dict(told(server, "status")["counts"])

        def passes() -> int:
            return sum(counts()[f"gc_passes_{each}"] for each in range(3))

        for number in range(1, 4):
            assert server.ask("/").status == 200
            assert eventually(lambda number=number: passes() >= number)  # type: ignore[misc]
        assert sum(counts()[f"gc_nanoseconds_{each}"] for each in range(3)) > 0
        metrics = server.control("--control", str(tmp_path / "control"), "metrics").stdout
        assert 'penstock_gc_passes_total{generation="0"}' in metrics
        assert 'penstock_gc_seconds_total{generation="2"}' in metrics


def test_an_upgrade_hands_over_what_was_slow_has_failed_and_was_refused(
    tmp_path: Path, transport: str
) -> None:
    pid_file = tmp_path / "pid"
    with controlled(tmp_path, transport, "--pid", str(pid_file)) as server:
        assert server.ask("/burn").status == 200
        assert server.ask("/fail").status == 500
        with Client(server.address) as client:
            client.send(b"GET /bad HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n")
            assert client.read_response().status == 400
        kinds = ("slow", "failed", "refused")
        assert eventually(lambda: all(told(server, kind)[kind] for kind in kinds))
        before = {kind: told(server, kind)[kind] for kind in kinds}
        with Client(server.address) as late:
            late.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
            assert eventually(lambda: told(server, "requests")["requests"])
            told(server, "upgrade")
            assert eventually(lambda: told(server, "status")["pid"] != server.supervisor)
            assert {kind: told(server, kind)[kind] for kind in kinds} == before
            # What fails in a worker of the old supervisor is told to the new one.
            (tmp_path / "go").touch()
            assert late.read_response().status == 500
        assert server.process.wait(DEADLINE) == 0
        assert eventually(lambda: server.has_new_supervisor(pid_file))
        after = told(server, "failed")["failed"]
        assert [row["path"] for row in after] == ["/late", "/fail"]
        assert told(server, "slow")["slow"][0]["path"] == "/late"
        assert server.stop() == 0
