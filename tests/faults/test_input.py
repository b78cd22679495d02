"""What clients send, or do not send, on purpose or not (scenarios 1 to 12)."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator

import pytest

from support.invariant import (
    descriptors,
    eventually,
    faulty_server,
    probe,
    status,
    unharmed,
)
from support.server_process import ServerProcess
from support.wire import Client

MIB = 1024 * 1024
GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server whose deadlines are short enough to be waited for."""
    arguments = [
        *("--header-timeout", "0.8s", "--body-timeout", "0.8s", "--keep-alive", "1.5s"),
        *("--write-timeout", "0.8s", "--max-body", "100MiB", "--out-buffer", "1MiB"),
    ]
    with faulty_server(*arguments) as process:
        yield process


def state(server: ServerProcess) -> dict[str, object]:
    """Return what the application remembers."""
    found: dict[str, object] = json.loads(probe(server, "/tell"))
    return found


@pytest.mark.parametrize(
    "data",
    [bytes(MIB), random.Random(1).randbytes(MIB)],
    ids=["zeros", "random"],
)
def test_fault_01_a_megabyte_of_nonsense_gets_400_and_one_log_line(
    server: ServerProcess, data: bytes
) -> None:
    with unharmed(server, [r"\[INFO\] refused .* from 127.0.0.1: 4\d\d "]) as lines:
        with Client(server.address) as client:
            try:
                client.send(data)
            except ConnectionError:
                pass  # it had heard enough
            response = client.read_response()
            assert response.status in (400, 414, 431)
            assert response.header("Connection") == "close"
            assert client.is_closed_by_server()
    assert "Traceback" not in "\n".join(lines.all())


def test_fault_02_a_request_in_one_byte_segments_is_answered_as_one_in_one(
    server: ServerProcess,
) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    with unharmed(server):
        answers = []
        for send in (Client.send, Client.send_bytewise):
            with Client(server.address) as client:
                send(client, request)
                response = client.read_response()
                headers = [field for field in response.headers if field[0] != "Date"]
                answers.append((response.status, headers, response.body))
        assert answers[0] == answers[1]
        assert answers[0][2] == b"hello"


def test_fault_03_slowloris_heads_end_at_a_total_deadline_with_408(server: ServerProcess) -> None:
    count = 300
    expected = [r"refused .* from 127.0.0.1: 408 .*header_timeout"] * count
    with unharmed(server, expected):
        clients = [Client(server.address) for _ in range(count)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        # A byte now and then must not put the deadline off.
        trickler = clients[0]
        trickler.socket.settimeout(0.1)
        for _ in range(100):
            try:
                trickler.send(b"X")
                if trickler.socket.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        else:
            pytest.fail("a byte now and then put the deadline off")
        for client in clients:
            client.socket.settimeout(10)
            assert client.read_response().status == 408
            client.close()


def test_fault_04_a_slow_body_ends_with_408_and_never_holds_a_thread(
    server: ServerProcess,
) -> None:
    # More of them than there are threads, while a bystander is served.
    expected = [r"refused .* from 127.0.0.1: 408 .*body_timeout"] * 20
    with unharmed(server, expected):
        clients = [Client(server.address) for _ in range(20)]
        for client in clients:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
        probe(server)
        for client in clients:
            response = client.read_response()
            assert response.status == 408
            client.close()


def test_fault_05_a_slow_reader_is_held_back_then_cut_off_and_the_body_closed(
    server: ServerProcess,
) -> None:
    before = state(server)["closed"]
    assert isinstance(before, int)
    with unharmed(server, [r"\[INFO\] GET /gigabyte .*client disconnected"], growth=16 * MIB):
        with Client(server.address, receive_buffer=4096) as client:
            client.send(b"GET /gigabyte HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.socket.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert eventually(lambda: state(server)["closed"] == before + 1)


def test_fault_06_connections_that_say_nothing_are_closed_without_a_word(
    server: ServerProcess,
) -> None:
    with unharmed(server):
        clients = [Client(server.address) for _ in range(200)]
        for client in clients:
            assert client.is_closed_by_server()
            client.close()


def test_fault_06_at_the_cap_idle_connections_make_room_for_new_clients() -> None:
    with faulty_server("--max-connections", "50") as server:
        with unharmed(server, bystander=False):
            held = [Client(server.address) for _ in range(120)]
            # Long before the keep-alive time of 75 s.
            with Client(server.address) as client:
                assert client.request("GET", "/hello").status == 200
            for client in held:
                client.close()


def test_fault_08_a_promise_of_a_terabyte_is_refused_with_413_before_it_is_sent(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"413 .*max_body"], growth=4 * MIB):
        with Client(server.address) as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n")
            assert client.read_response().status == 413


def test_fault_08_a_promise_below_the_limit_reserves_nothing(server: ServerProcess) -> None:
    with unharmed(server, None, growth=4 * MIB):
        clients = [Client(server.address) for _ in range(30)]
        for client in clients:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        probe(server)
        for client in clients:
            client.reset()


def test_fault_09_a_body_that_breaks_off_never_reaches_the_application(
    server: ServerProcess,
) -> None:
    before = state(server)["bodies"]
    with unharmed(server, None):
        with Client(server.address) as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
            client.end_sending()
            answer = client.read_to_end()
            assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert state(server)["bodies"] == before


@pytest.fixture(scope="module")
def streaming() -> Iterator[ServerProcess]:
    with faulty_server("--stream-requests", "--body-timeout", "1s") as process:
        yield process


def test_fault_09_a_streamed_body_that_breaks_off_raises_and_the_connection_ends(
    streaming: ServerProcess,
) -> None:
    with unharmed(streaming):
        with Client(streaming.address) as client:
            client.send(
                b"POST /read-guarded HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"
            )
            client.end_sending()
            response = client.read_response()
            assert response.body == b"guarded"
            assert client.is_closed_by_server()


def test_fault_09_an_application_that_lets_the_error_pass_gets_400_or_a_closed_connection(
    streaming: ServerProcess,
) -> None:
    with unharmed(streaming, [r"\[INFO\] POST /echo "]):
        with Client(streaming.address) as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
            client.end_sending()
            answer = client.read_to_end()
            assert not answer or answer.startswith(b"HTTP/1.1 400 ")


def test_fault_10_a_client_that_half_closes_gets_its_whole_response(
    server: ServerProcess,
) -> None:
    lines = 1_000_000
    with unharmed(server):
        with Client(server.address) as client:
            client.send(b"GET /pattern?%d HTTP/1.1\r\nHost: a\r\n\r\n" % lines)
            client.end_sending()
            response = client.read_response()
            assert response.complete
            assert response.body == b"".join(b"%07d\n" % number for number in range(lines))


@pytest.mark.parametrize("part", [5, 30, 60], ids=["in the line", "in the head", "in the body"])
def test_fault_11_a_reset_in_the_middle_of_a_request_costs_no_other_client(
    server: ServerProcess, part: int
) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100
    with unharmed(server, None) as lines:
        for _ in range(100):
            client = Client(server.address)
            client.send(request[:part])
            client.reset()
    # A line for each, but for those whose reset overtook what they had sent.
    assert all("[INFO] lost a request from 127.0.0.1: 499 " in line for line in lines.records())


def test_fault_11_a_reset_under_a_read_raises_in_the_application(
    streaming: ServerProcess,
) -> None:
    before = state(streaming)["errors"]
    assert isinstance(before, list)
    with unharmed(streaming, None):
        client = Client(streaming.address)
        client.send(
            b"POST /read-guarded HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Length: 10\r\n\r\n"
        )
        assert client.socket.recv(1000).startswith(b"HTTP/1.1 100 ")  # it is reading
        client.reset()
        after = eventually(lambda: len(state(streaming)["errors"]) > len(before))  # type: ignore[arg-type]
        assert after


@pytest.mark.parametrize("leave", [Client.reset, Client.close], ids=["RST", "FIN"])
def test_fault_12_a_client_that_leaves_a_stream_ends_it_with_close_and_a_line_at_info(
    server: ServerProcess, leave: object
) -> None:
    before = state(server)["closed"]
    assert isinstance(before, int)
    assert callable(leave)
    with unharmed(server, [r"\[INFO\] GET /stream .*client disconnected"]):
        client = Client(server.address)
        client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.socket.recv(100000)
        leave(client)
        assert eventually(lambda: state(server)["closed"] == before + 1)


def test_fault_12_a_storm_of_resets_leaves_nothing_behind(server: ServerProcess) -> None:
    with unharmed(server, None) as lines:
        for number in range(300):
            client = Client(server.address)
            client.send(GET if number % 2 else b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            if number % 3 == 0:
                client.socket.recv(1)
            client.reset()
    assert "Traceback" not in "\n".join(lines.all())
    assert status(server, "Threads") < 10
    assert len(descriptors(server)) < 30
