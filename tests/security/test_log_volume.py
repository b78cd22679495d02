"""How much a client can have the server write to its logs, or keep for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.transport.config import TransportConfig
from support.server_process import ServerProcess
from support.serving import Environ, Recorder, connect, eventually, get, post

HERE = Path(__file__).parents[1] / "support"
LINES = TransportConfig().error_log_repeats
NEVER = 3600.0
"""Seconds of an interval that does not end while the test runs."""

NO_HOST = b"GET /refused HTTP/1.1\r\n\r\n"
LONG_LINE = b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n"


def refuse(server: penstock.api.RunningServer, data: bytes, status: int, times: int) -> None:
    for _ in range(times):
        with connect(server) as client:
            client.send(data)
            assert client.read_response().status == status


@pytest.mark.parametrize("threads", [1, 2])
def test_refusals_of_a_kind_have_a_few_lines_and_a_count(
    transport: str, tmp_path: Path, threads: int
) -> None:
    """SECURITY 11: a line for each refusal fills a disk at the rate that a client chooses."""
    errors, access = tmp_path / "errors.log", tmp_path / "access.log"
    settings = {"transport": transport, "threads": threads, "error_logfile": str(errors)}
    with penstock.running(Recorder(), access_logfile=str(access), **settings) as server:
        server.worker.transport.request_log.seconds = NEVER
        refuse(server, NO_HOST, 400, LINES + 25)
        refuse(server, LONG_LINE, 414, LINES + 1)
        refuse(
            server, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, 2
        )
        assert server.snapshot()["requests_refused"] == 2 * LINES + 28
    # The stop has logged what was left out, whatever time was left until then.
    lines = errors.read_text().splitlines()
    for status, number in ((400, LINES), (414, LINES), (501, 2)):
        refused = [line for line in lines if "refused a request" in line]
        assert sum(f": {status} " in line for line in refused) == number
    counts = [line.partition("] [INFO] ")[2] for line in lines if " more refused with " in line]
    assert [re.sub(r"in \d+ s$", "in N s", line) for line in sorted(counts)] == [
        "... and 1 more refused with 414 (RFC 9112, section 3; setting: limit_request_line) in N s",
        "... and 25 more refused with 400 (RFC 9112, section 3.2) in N s",
    ]
    # The access log has them all.
    assert len(access.read_text().splitlines()) == 2 * LINES + 28


def test_the_count_is_logged_at_the_end_of_the_interval(transport: str, tmp_path: Path) -> None:
    errors = tmp_path / "errors.log"
    with penstock.running(Recorder(), transport=transport, error_logfile=str(errors)) as server:
        log = server.worker.transport.request_log
        log.seconds = NEVER
        refuse(server, NO_HOST, 400, LINES + 3)
        # Native code logs what it has refused when a thread has the interpreter lock for that.
        eventually(lambda: [kind.left_out for kind in log._kinds.values()] == [3])
        assert errors.read_text().count("refused a request") == LINES
        assert " more refused" not in errors.read_text()
        log.seconds = 0.0  # as if they had passed
        eventually(lambda: "... and 3 more refused with 400" in errors.read_text())
        log.seconds = NEVER
        refuse(server, NO_HOST, 400, 1)  # a new interval begins
        eventually(lambda: errors.read_text().count("refused a request") == LINES + 1)


def test_replaced_hosts_are_counted_as_well(transport: str, tmp_path: Path) -> None:
    errors = tmp_path / "errors.log"
    with penstock.running(Recorder(), transport=transport, error_logfile=str(errors)) as server:
        server.worker.transport.request_log.seconds = NEVER
        with connect(server) as client:
            for _ in range(LINES + 7):
                client.send(b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n")
                assert client.read_response().status == 200
    text = errors.read_text()
    assert text.count('the host in the target "http://a/" replaces') == LINES
    assert "... and 7 more targets replaced the Host field in " in text


def never_ends(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Return more than a kernel buffers, in one block or in several, or read a streamed body."""
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * 8_000_000] if environ["PATH_INFO"] == "/whole" else repeat(b"x" * 100_000)


def test_clients_that_leave_and_broken_bodies_have_a_few_lines_and_a_count(
    transport: str, tmp_path: Path
) -> None:
    """Every line about a client is limited: one that leaves in time has a line as cheaply."""
    errors = tmp_path / "errors.log"
    bad = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    settings = {"transport": transport, "threads": 2, "error_logfile": str(errors)}
    with penstock.running(never_ends, stream_requests=True, **settings) as server:
        server.worker.transport.request_log.seconds = NEVER
        for number in range(LINES + 6):
            with connect(server, receive_buffer=65536) as client:
                client.send(get("/whole" if number % 2 else "/blocks"))
                assert client.socket.recv(1000)
                client.reset()
        for _ in range(LINES + 2):
            with connect(server) as client:
                client.send(bad)
                client.send(b"oops\r\n\r\n")
                assert client.read_response().status == 400
        eventually(lambda: server.snapshot()["connections"] == 0)
    text = errors.read_text()
    assert text.count(": client disconnected: the client is gone") == LINES
    assert text.count(": bad request body: ") == LINES
    assert '... and 6 more with "client disconnected" in ' in text
    assert '... and 2 more with "bad request body" in ' in text


def test_entries_that_wait_for_the_interpreter_lock_are_bounded_in_bytes(
    transport: str, tmp_path: Path
) -> None:
    """SECURITY 11: refusals with long heads took 215 MiB in 0.6 s while an application kept it."""
    if transport != "native":
        pytest.skip("no other transport goes on while the application keeps the lock")
    pipe = tmp_path / "until"
    os.mkfifo(pipe)
    limits = ("--threads", "2", "--max-body", "10", "--log-queue-bytes", "1MiB")
    refused, length = 300, 20_000
    pad = "X-Pad: " + "x" * (length // 4)
    with ServerProcess("gil_keeper:app", "--transport", "native", *limits, cwd=HERE) as server:
        with connect(server) as keeper:
            keeper.send(get(f"/keep-until?{pipe}"))
            with open(pipe, "wb", buffering=0) as until:  # returns once the application reads
                for _ in range(refused):
                    with connect(server) as client:
                        client.send(post(b"", pad, pad, pad, pad, length=11))
                        assert client.read_response().status == 413
                until.write(b"x")
            assert keeper.read_response().status == 200
        line = server.wait_for_line("PEN-5060")
        server.stop()
    found = re.search(r"log entries were lost: (\d+)", line)
    assert found is not None
    kept = refused - int(found[1])
    assert 0 < kept * length < 1 << 20


@pytest.mark.parametrize(("repeats", "shown"), [(2, 2), (0, 15)])
def test_the_number_of_lines_of_a_kind_is_a_setting(
    transport: str, tmp_path: Path, repeats: int, shown: int
) -> None:
    errors = tmp_path / "errors.log"
    settings = {"transport": transport, "error_logfile": str(errors)}
    with penstock.running(Recorder(), error_log_repeats=repeats, **settings) as server:
        server.worker.transport.request_log.seconds = NEVER
        refuse(server, NO_HOST, 400, 15)
    text = errors.read_text()
    assert text.count("refused a request") == shown
    assert text.count("more refused with 400") == (shown < 15)
