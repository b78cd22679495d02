"""What the server answers to its operator and to probes, even when every worker is stuck."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.invariant import eventually
from support.lifecycle import Supervised, json_of, write_app
from support.load import Load
from support.wire import Client


def controlled(folder: Path, *arguments: str) -> Supervised:
    """Return a server whose control is at a path."""
    return Supervised(folder, "--control", str(folder / "control"), *arguments)


def told(server: Supervised, *command: str) -> Any:
    """Return what control answers."""
    address = str(server.folder / "control")
    return json_of(server.control("--control", address, "--json", *command))


def test_control_tells_and_does(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, "-w", "2", "--transport", transport) as server:
        status = told(server, "status")
        assert status["pid"] == server.supervisor
        assert status["workers"] == 2
        assert {row["pid"] for row in told(server, "workers")["workers"]} == server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            old = server.workers()
            write_app(tmp_path, "two")
            told(server, "reload")
            assert server.wait_for_workers(2, old)
            assert server.served_by()[0] == "two"
            told(server, "scale", "3")
            server.wait_for_workers(3)
            victim = max(server.workers())
            told(server, "recycle", str(victim))
            server.wait_for_workers(3, {victim})
            load.wait_for(50)
        load.counts.check()
        assert load.counts.refused == 0
        told(server, "stop")
        assert server.wait() == 0


def test_the_status_keeps_what_has_happened(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, "-w", "1", "--transport", transport) as server:
        for _ in range(5):
            server.served_by()
        [first] = server.workers()
        before = told(server, "status")
        assert before["counts"]["requests"] >= 5
        assert (before["crashes"], before["last_reload"], before["last_error"]) == ({}, None, None)
        os.kill(first, signal.SIGKILL)
        server.wait_for_workers(1, {first})
        server.served_by()
        status = told(server, "status")
        assert status["crashes"] == {"SIGKILL": 1}
        assert status["counts"]["crashed"] == 1
        assert f"(pid {first}) was ended by SIGKILL" in status["last_error"]["message"]
        for count in ("requests", "accepted"):
            assert status["counts"][count] > before["counts"][count]
        told(server, "reload")
        assert told(server, "status")["last_reload"]["message"] == "reloaded: generation 2 serves"
        write_app(tmp_path, "broken", "raise RuntimeError('on purpose')")
        server.control("--control", str(tmp_path / "control"), "reload")
        status = told(server, "status")
        assert status["last_reload"]["message"].startswith("not reloaded, the old workers go on: ")
        assert (status["counts"]["reloads"], status["counts"]["reloads_failed"]) == (1, 1)
        write_app(tmp_path, "two")
        told(server, "upgrade")
        assert server.process.wait(20) == 0
        status = told(server, "status")
        server.supervisor = status["pid"]
        assert status["counts"]["upgrades"] == 1
        server.stop()


def test_control_names_requests_and_stacks_when_every_worker_is_stuck(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("-w", "2", "--threads", "1", "--transport", transport)
    with controlled(tmp_path, *arguments, "--graceful-timeout", "1s") as server:
        with ExitStack() as stuck:
            for number in ("1", "2"):
                stuck.enter_context(server.begin(f"/keep-the-gil?{number}&", f"stuck{number}"))
            rows = told(server, "requests")["requests"]
            targets = sorted(row["target"].partition("&")[0] for row in rows)
            assert targets == ["/keep-the-gil?1", "/keep-the-gil?2"]
            assert {row["pid"] for row in rows} == server.workers()
            assert told(server, "status")["pid"] == server.supervisor
            assert "keep_the_gil" in str(told(server, "stacks"))


def test_an_upgrade_by_control_loses_nothing(tmp_path: Path, transport: str) -> None:
    with controlled(tmp_path, "-w", "2", "--transport", transport) as server:
        with Load(server.address, keep_alive=4, closing=4) as load:
            write_app(tmp_path, "two")
            told(server, "upgrade")
            assert server.process.wait(20) == 0
            server.supervisor = told(server, "status")["pid"]
            load.wait_for(100)
            assert server.served_by()[0] == "two"
        server.stop()
    load.counts.check()
    assert load.counts.refused == 0


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with controlled(tmp_path) as server:
        (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
        address = str(tmp_path / "control")
        failed = server.control("--control", address, "reload")
        assert failed.returncode != 0
        assert "old" in failed.stderr or "on purpose" in failed.stderr
        assert server.control("--control", address, "recycle", "1").returncode != 0
        assert server.served_by()[0] == "one"
    unreachable = server.control("--control", address, "status")
    assert unreachable.returncode != 0
    assert address in unreachable.stderr


PROBES = ("--health-path", "/healthz", "--ready-path", "/readyz")


def test_probes_are_answered_with_all_threads_busy(tmp_path: Path, transport: str) -> None:
    arguments = ("--threads", "2", *PROBES, "--transport", transport)
    with Supervised(tmp_path, *arguments) as server, ExitStack() as held:
        # Connections that are there before, since a busy worker accepts none.
        probes = [held.enter_context(Client(server.address)) for _ in range(2)]
        for client in probes:
            assert client.request("GET", "/healthz").status == 200
        for number in "12":
            held.enter_context(server.begin(f"/hold?{number}&", f"held{number}"))
        assert probes[0].request("GET", "/healthz").status == 200
        assert probes[1].request("GET", "/readyz").status in (200, 503)
        for number in "12":
            server.let_go(f"held{number}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def admin(port: int, path: str) -> int:
    """Return the status that the admin address answers with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_the_admin_address_answers_when_every_worker_is_stuck(tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--admin", f"127.0.0.1:{port}", "--threads", "1", "--graceful-timeout", "1s")
    with Supervised(tmp_path, *arguments) as server:
        assert admin(port, "/healthz") == 200
        assert admin(port, "/readyz") == 200
        with server.begin("/keep-the-gil?1&", "stuck"):
            assert admin(port, "/healthz") in (200, 503)  # not yet for long enough
            assert eventually(lambda: admin(port, "/readyz") == 503, 20)


def test_readiness_at_the_admin_address_is_negative_while_the_server_stops(tmp_path: Path) -> None:
    port = free_port()
    with Supervised(tmp_path, "--admin", f"127.0.0.1:{port}", "--shutdown-delay", "20s") as server:
        assert admin(port, "/readyz") == 200
        server.signal()
        assert eventually(lambda: admin(port, "/readyz") == 503)
        assert admin(port, "/healthz") == 200
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_nothing_is_written_to_disk_for_control(tmp_path: Path) -> None:
    before = set()
    with Supervised(tmp_path) as server:
        before = {path.name for path in tmp_path.iterdir()}
        done = server.control("--json", "status")
    assert before == {"shop.py"}
    if done.returncode == 0:  # the one server that answers at the default address
        assert '"pid"' in done.stdout
