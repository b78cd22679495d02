"""Metrics of whole servers: no counter falls, whatever happens to the workers that it counts."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parsed

from penstock.control.client import ask
from support.invariant import eventually
from support.lifecycle import Supervised, json_of, write_app
from support.load import Load
from support.wire import DEADLINE, Client

Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: Supervised) -> Counters:
    """Return what `penstockctl metrics` prints of the counters."""
    printed = server.control("--control", str(server.folder / "control"), "metrics").stdout
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed(printed)
        for sample in family.samples
        if family.type == "counter"
    }


def check_that_none_falls(found: list[Counters]) -> None:
    """Check what several scrapes have found, the first one first."""
    for before, after in pairwise(found):
        assert before.keys() <= after.keys()
        assert all(after[name] >= value for name, value in before.items())


def test_no_counter_falls_over_crashes_recycling_and_reloads(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("-w", "2", "--transport", transport, "--control", str(tmp_path / "control"))
    with Supervised(tmp_path, *arguments) as server:
        found = [scrape(server)]
        with Load(server.address, keep_alive=2, closing=2) as load:
            load.wait_for(20)
            found.append(scrape(server))
            workers = server.workers()
            os.kill(min(workers), signal.SIGKILL)
            server.wait_for_workers(2, {min(workers)})
            found.append(scrape(server))
            server.control("--control", str(tmp_path / "control"), "recycle", str(max(workers)))
            found.append(scrape(server))
            old = server.workers()
            write_app(tmp_path, "two")
            server.signal(signal.SIGHUP)
            server.wait_for_workers(2, old)
            load.wait_for(20)
            found.append(scrape(server))
        check_that_none_falls(found)
        served = found[-1]["penstock_requests_total", ()]
        assert served > found[0]["penstock_requests_total", ()] + 40
        assert found[-1]["penstock_workers_crashed_total", (("reason", "SIGKILL"),)] == 1
        assert found[-1]["penstock_reloads_total", (("outcome", "success"),)] == 1
        assert server.stop() == 0


def test_no_counter_falls_over_an_upgrade(tmp_path: Path, transport: str) -> None:
    arguments = ("-w", "1", "--transport", transport, "--control", str(tmp_path / "control"))
    with Supervised(tmp_path, *arguments, "--pid", "pid") as server:
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        server.wait_for_workers(1, {worker})
        with Load(server.address, keep_alive=2, closing=2) as load:
            load.wait_for(50)
            found = [scrape(server)]
            server.control("--control", str(tmp_path / "control"), "upgrade")
            found.append(scrape(server))  # the old supervisor may still wait for its workers
            assert eventually(lambda: not (tmp_path / "pid.2").exists())
            server.supervisor = int((tmp_path / "pid").read_text())
            load.wait_for(20)
            answered = load.counts.answered
            found.append(scrape(server))
        check_that_none_falls(found)
        last = found[-1]
        assert last["penstock_requests_total", ()] >= answered
        assert last["penstock_workers_crashed_total", (("reason", "SIGKILL"),)] == 1
        assert last["penstock_upgrades_total", ()] == 1
        assert server.stop() == 0


def test_times_of_requests_are_counted_over_recycling_and_an_upgrade(
    tmp_path: Path, transport: str
) -> None:
    control = str(tmp_path / "control")
    arguments = ("-w", "1", "--transport", transport, "--control", control)
    with Supervised(tmp_path, *arguments, "--pid", "pid") as server:

        def counted() -> dict[str, float]:
            printed = server.control("--control", control, "metrics").stdout
            return {
                sample.name: sample.value
                for family in parsed(printed)
                if family.type == "histogram"
                for sample in family.samples
                if sample.name.endswith("_count") and sample.labels.get("status") == "2xx"
            }

        for _ in range(5):
            assert server.ask("/left").status == 200
        assert eventually(lambda: set(counted().values()) == {5})
        [worker] = server.workers()
        server.control("--control", control, "recycle", str(worker))
        assert server.ask("/left").status == 200
        assert eventually(lambda: set(counted().values()) == {6})
        server.control("--control", control, "upgrade")
        assert eventually(lambda: not (tmp_path / "pid.2").exists())
        server.supervisor = int((tmp_path / "pid").read_text())
        assert server.ask("/left").status == 200
        assert eventually(lambda: set(counted().values()) == {7})
        assert server.stop() == 0


COMPUTES = """
import sys

sys.setswitchinterval(0.05)
arrived = []

def app(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        while len(arrived) < 5:
            pass
    else:
        for _ in range(int(environ.get("CONTENT_LENGTH", "1"))):
            environ["wsgi.input"].read(1)
            arrived.append(environ)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""
COMPUTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


def wait_for_calls(server: Supervised, count: int) -> None:
    """Wait until that many requests are in the application."""

    def calls() -> int:
        control = str(server.folder / "control")
        return len(json_of(server.control("--control", control, "--json", "requests"))["requests"])

    assert eventually(lambda: calls() == count)


def lock_waits(server: Supervised, method: str) -> dict[str, float]:
    """Return how many requests of a method waited for the lock up to which time, and the sum."""
    printed = server.control("--control", str(server.folder / "control"), "metrics").stdout
    return {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for family in parsed(printed)
        if family.name == "penstock_request_lock_wait_seconds"
        for sample in family.samples
        if sample.labels["method"] == method
    }


def check_lock_waits(server: Supervised, method: str, count: int) -> None:
    """Check that requests of a method waited for the one that computes, which waited for none."""
    assert eventually(lambda: lock_waits(server, method).get("count") == count)
    # A switch of threads takes 50 ms, of which another thread may have waited for a part of one.
    assert lock_waits(server, method)["sum"] > 0.05
    assert eventually(lambda: lock_waits(server, "POST").get("0.025") == 1)


def test_a_request_that_waits_for_the_interpreter_lock_is_counted_by_its_method(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(COMPUTES)
    arguments = ("--control", str(tmp_path / "control"), "--transport", "native")
    with ExitStack() as stack:
        server = stack.enter_context(Supervised(tmp_path, "-w", "1", "--threads", "4", *arguments))
        computing = stack.enter_context(Client(server.address))
        computing.send(COMPUTING)
        wait_for_calls(server, 1)
        for _ in range(5):
            assert server.ask("/").status == 200
        assert computing.read_response().status == 200
        check_lock_waits(server, "GET", 5)


def test_waits_for_the_interpreter_lock_after_each_wait_for_the_client_are_added_up(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(COMPUTES)
    arguments = ("--control", str(tmp_path / "control"), "--transport", "native")
    with ExitStack() as stack:
        server = stack.enter_context(
            Supervised(tmp_path, "-w", "1", "--threads", "4", "--stream-requests", *arguments)
        )
        computing, uploading = (stack.enter_context(Client(server.address)) for _ in range(2))
        uploading.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        wait_for_calls(server, 1)
        computing.send(COMPUTING)
        wait_for_calls(server, 2)
        for byte in b"bytes":
            uploading.send(bytes([byte]))
        assert uploading.read_response().status == 200
        assert computing.read_response().status == 200
        check_lock_waits(server, "PUT", 1)


def test_history_goes_on_over_an_upgrade_and_no_count_falls_in_it(tmp_path: Path) -> None:
    control = str(tmp_path / "control")
    with Supervised(tmp_path, "--control", control, "--pid", "pid") as server:
        for _ in range(5):
            assert server.ask("/left").status == 200

        def rows() -> list[dict[str, float]]:
            history = ask(control, "GET", "/history?since=0", DEADLINE).value
            return [dict(zip(history["names"], row, strict=True)) for row in history["rows"]]

        assert eventually(rows)
        [before] = rows()
        server.control("--control", control, "upgrade")
        assert server.process.wait(DEADLINE) == 0
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        assert eventually(lambda: len(rows()) == 2)
        first, later = rows()
        assert first == before
        assert later["at"] > before["at"]
        assert later["requests"] == 5
        assert server.stop() == 0


def test_statsd_gets_the_requests_of_all_workers_and_a_reload_changes_where(
    tmp_path: Path, transport: str
) -> None:
    def line_of(sock: socket.socket, name: str) -> str:
        """Return the first line with a name that comes."""
        while True:
            for line in sock.recv(65536).decode().split("\n"):
                if f".{name}:" in line:
                    return line

    with ExitStack() as stack:
        one, other = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        )
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(DEADLINE)
        place = tmp_path / "penstock.toml"
        place.write_text(f"statsd = 'localhost:{one.getsockname()[1]}'\n")
        server = stack.enter_context(Supervised(tmp_path, "-w", "2", "--transport", transport))
        assert line_of(one, "workers") == "gunicorn.workers:2|g"
        assert server.ask("/left").status == 200
        assert line_of(one, "requests") == "gunicorn.requests:1|c"
        place.write_text(f"statsd = '127.0.0.1:{other.getsockname()[1]}'\nstatsd_prefix = 'shop'\n")
        old = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(2, old)
        assert line_of(other, "workers") == "shop.gunicorn.workers:2|g"
        assert server.ask("/left").status == 200
        assert line_of(other, "status.200") == "shop.gunicorn.request.status.200:1|c"
        assert server.stop() == 0


def test_statsd_gets_each_request_once_over_an_upgrade(tmp_path: Path, transport: str) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(DEADLINE)
        sent: list[int] = []

        def wait_for(start: str) -> None:
            found = False
            while not found:
                for line in sock.recv(65536).decode().split("\n"):
                    found = found or line.startswith(start)
                    if line.startswith("gunicorn.requests:"):
                        sent.append(int(line.removeprefix("gunicorn.requests:")[:-2]))

        to = f"127.0.0.1:{sock.getsockname()[1]}"
        arguments = ("--transport", transport, "--pid", "pid", "--statsd", to)
        server = stack.enter_context(Supervised(tmp_path, "-w", "1", *arguments))
        wait_for("gunicorn.workers:1|g")
        for _ in range(5):
            assert server.ask("/left").status == 200
        wait_for("gunicorn.requests:")
        os.mkfifo(tmp_path / "go")
        write_app(tmp_path, "two", "open('go').close()")
        held = stack.enter_context(server.begin("/hold?9&", "held"))
        server.signal(signal.SIGUSR2)
        with open(tmp_path / "go", "w"):  # once the new worker reads it
            for _ in range(3):
                wait_for("gunicorn.workers:")
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid.2"))
        (tmp_path / "held.go").touch()
        assert held.read_response().status == 200
        assert server.process.wait(DEADLINE) == 0  # the old one leaves by itself
        assert eventually((tmp_path / "pid").exists)
        assert server.ask("/left").status == 200
        assert server.stop() == 0
        sock.setblocking(False)
        with suppress(BlockingIOError):
            wait_for("nothing: all that has come is read")
        assert sum(sent) == 7


HOSTILE = """
import gc
from penstock.telemetry.scoreboard import STARTED, Slot

def app(environ, start_response):
    if environ["PATH_INFO"] == "/spoil":
        gc.unfreeze()
        for found in gc.get_objects():
            if isinstance(found, Slot):
                found.words[STARTED] = 2**64 - 1
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""


def test_a_worker_that_writes_nonsense_spoils_no_total_beyond_its_end(
    tmp_path: Path, transport: str
) -> None:
    (tmp_path / "shop.py").write_text(HOSTILE)
    arguments = ("-w", "1", "--transport", transport, "--control", str(tmp_path / "control"))
    with Supervised(tmp_path, *arguments) as server:
        (worker,) = server.workers()
        assert server.ask("/spoil").status == 200
        os.kill(worker, signal.SIGKILL)
        server.wait_for_line(r"PEN-7024 what worker 1 .* is impossible: requests \d{10,}")
        server.wait_for_workers(1, {worker})
        assert server.ask("/").status == 200
        assert scrape(server)["penstock_requests_total", ()] == 1
        assert server.stop() == 0
