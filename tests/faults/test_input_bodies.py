"""Bodies, pipelines, oversized parts and forged log lines (scenarios 13 to 19)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.invariant import eventually, faulty_server, probe, processor_seconds, unharmed
from support.server_process import ServerProcess
from support.wire import Client

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with faulty_server("--max-body", "10MiB", "--body-timeout", "1s") as process:
        yield process


def seen(server: ServerProcess) -> list[str]:
    found: list[str] = json.loads(probe(server, "/tell"))["seen"]
    return found


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def test_fault_13_what_is_pipelined_behind_a_bad_request_never_runs(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"refused .* from 127.0.0.1: 400 "]):
        with Client(server.address) as client:
            client.send(get("/see?first") + b"GET  / HTTP/1.1\r\n\r\n" + get("/see?third"))
            assert client.read_response().body == b"first"
            bad = client.read_response()
            assert (bad.status, bad.header("Connection")) == (400, "close")
            assert client.is_closed_by_server()
        assert "third" not in seen(server)


def test_fault_14_a_thousand_pipelined_requests_are_answered_in_order_and_hold_up_no_client(
    server: ServerProcess,
) -> None:
    numbers = [str(number).encode() for number in range(1000)]
    with unharmed(server):
        with Client(server.address) as client:
            client.send(b"".join(get(f"/see?{number}") for number in range(1000)))
            probe(server)
            assert [client.read_response().body for _ in numbers] == numbers


def test_fault_14_a_pipeline_behind_a_slow_request_is_held_in_bounded_memory(
    server: ServerProcess,
) -> None:
    with unharmed(server, None, growth=8 * MIB):
        with Client(server.address) as client:
            client.send(get("/hold"))
            client.socket.setblocking(False)
            sent, requests = 0, get("/hello") * 1000
            try:
                while sent < 64 * MIB:
                    sent += client.socket.send(requests)
            except BlockingIOError:
                pass  # the kernel's buffers are full: the server takes no more
            assert sent < 64 * MIB
            probe(server, "/release")
            client.socket.settimeout(10)
            assert client.read_response().body == b"held"


def test_fault_15_a_client_in_the_middle_of_an_upload_receives_the_early_refusal(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"413 .*max_body"]):
        with Client(server.address) as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
            block = bytes(MIB)
            for _ in range(100):
                client.send(block)  # would fail with a reset if the server just closed
            response = client.read_response()
            assert response.status == 413
            assert response.header("Connection") == "close"
            assert client.is_closed_by_server()


def test_fault_15_a_response_given_without_reading_the_streamed_body_arrives() -> None:
    with faulty_server("--stream-requests") as server:
        with unharmed(server):
            with Client(server.address) as client:
                client.send(
                    b"POST /reject HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
                )
                block = bytes(MIB)
                for _ in range(95):
                    client.send(block)
                response = client.read_response()
                assert (response.status, response.body) == (403, b"no")
                assert response.header("Connection") == "close"


def test_fault_16_an_expectation_that_is_rejected_unread_gets_no_100() -> None:
    with faulty_server("--stream-requests") as server:
        with unharmed(server):
            with Client(server.address) as client:
                client.send(
                    b"POST /reject HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                    b"Content-Length: 1000000\r\n\r\n"
                )
                response = client.read_response()
                assert response.status == 403
                assert response.header("Connection") == "close"
                assert client.is_closed_by_server()


def test_fault_16_an_expectation_that_is_too_large_is_refused_without_100(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"413 "]):
        with Client(server.address) as client:
            client.send(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                b"Content-Length: 100000000\r\n\r\n"
            )
            assert client.read_response().status == 413


CHUNKED = b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_fault_17_chunks_of_two_bytes_cost_time_in_proportion(server: ServerProcess) -> None:
    def seconds_for(count: int) -> float:
        before = processor_seconds(server)
        with Client(server.address) as client:
            client.send(CHUNKED + b"2\r\nxy\r\n" * count + b"0\r\n\r\n")
            assert client.read_response().body == str(2 * count).encode()
        return processor_seconds(server) - before

    # Without a bystander: it is the parser's time that is measured. The others' turn comes
    # between two reads of 64 KiB.
    with unharmed(server, bystander=False):
        few, many = seconds_for(20_000), seconds_for(160_000)
        assert many < 8 * few * 2 + 0.5  # by the square of the length it would be 64 times


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"1;" + b"e" * 65536 + b"\r\nx\r\n0\r\n\r\n", 400),
        (b"1;e=1\r\nx\r\n" * 4000 + b"0\r\n\r\n", 400),
        (b"0\r\n" + b"Trailer-Field: x\r\n" * 10_000, 400),
        (b"0" * 100_000, 400),
    ],
    ids=["one long extension", "many extensions", "endless trailers", "endless chunk line"],
)
def test_fault_17_framing_that_does_not_end_is_refused(
    server: ServerProcess, body: bytes, status: int
) -> None:
    with unharmed(server, [rf"refused .* from 127.0.0.1: (431|{status}) "]):
        with Client(server.address) as client:
            client.send(CHUNKED + body)
            assert client.read_response().status in (status, 431)
            assert client.is_closed_by_server()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * MIB, 431),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n", 414),
    ],
    ids=["10,000 fields", "a field of 1 MB", "a target of 100 KB"],
)
def test_fault_18_oversized_heads_are_refused_with_little_memory(
    server: ServerProcess, head: bytes, status: int
) -> None:
    count = 20
    with unharmed(server, [rf"refused .* from 127.0.0.1: {status} "] * count, growth=8 * MIB):
        clients = [Client(server.address) for _ in range(count)]
        for client in clients:
            try:
                client.send(head)
            except ConnectionError:
                pass  # it had heard enough
            assert client.read_response().status == status
            client.close()


def test_fault_19_nothing_in_a_request_forges_a_line_or_reaches_the_terminal(
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    with faulty_server("--access-logfile", str(log)) as server:
        with unharmed(server, None, bystander=False) as lines:
            with Client(server.address) as client:
                for target, agent in [
                    (b"/hello?a%0a127.0.0.1%20-%20forged", b"plain"),
                    (b'/hello?"quoted"', b'quo"ted\\'),
                    (b"/hello", b"caf\xc3\xa9 \xff\t"),
                    (b"/raise-at-call?%0a%1b[31m", b"x"),
                ]:
                    client.send(
                        b"GET "
                        + target
                        + b" HTTP/1.1\r\nHost: a\r\nUser-Agent: "
                        + agent
                        + b"\r\n\r\n"
                    )
                    assert client.read_response().status in (200, 500)
            with Client(server.address) as client:
                client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nUser-Agent: \x1b[31m\r\n\r\n")
                assert client.read_response().status == 400
            eventually(lambda: len(log.read_bytes().splitlines()) >= 6)
        records = lines.records()
    data = log.read_bytes()
    assert all(32 <= byte < 127 or byte == 10 for byte in data)
    assert sum(line.startswith(b"127.0.0.1 - - [") for line in data.splitlines()) == 7
    assert data.count(b"\n") == 7
    assert not [line for line in records if line[:2] != "20"]
