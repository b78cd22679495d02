"""What each transport counts of requests, bytes and connections, as metrics show it."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from penstock.listeners import Address, open_listeners
from penstock.telemetry.histograms import (
    Histogram,
    Labels,
    histograms_of,
    read_series,
    series_labels,
)
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import (
    BYTES_RECEIVED,
    BYTES_SENT,
    CLOSING,
    HANDSHAKES,
    HANDSHAKING,
    IDLE,
    IN_APPLICATION,
    QUEUED,
    READING,
    REFUSED,
    RESUMPTIONS,
    SENDING,
)
from support.certificates import authority, material
from support.serving import Gate, connect, eventually, get, post
from support.tls import TlsClient
from support.transports import BareServer, serving
from support.websockets import ClientSide, ServerSide

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

SLOW_SECONDS = 0.03
LARGE = 16 << 20
"""Bytes of a response that no kernel takes at once."""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the status in the path; slowly where the path ends in ``slow``."""
    _, status, how = environ["PATH_INFO"].split("/")
    if how == "slow":
        threading.Event().wait(SLOW_SECONDS)
    start_response(f"{status} Some Reason", [("Content-Type", "text/plain")])
    if how == "stream":
        return _blocks()
    if how == "body":
        return [environ["wsgi.input"].read()]
    if how == "large":
        return [bytes(LARGE)]
    return [b"hello"]


def _blocks() -> Iterator[bytes]:
    yield b"first"
    threading.Event().wait(SLOW_SECONDS)
    yield b"last"


def measured(server: BareServer) -> dict[Labels, dict[str, Histogram]]:
    """Return the times that both transports count."""
    server.transport.publish()
    found = {
        series_labels(number): histograms_of(words)
        for number, words in read_series(server.slot).items()
    }
    for times in found.values():
        del times["request_lock_wait"]
    return found


def count(found: Histogram) -> int:
    return sum(found.counts)


def slow(found: Histogram) -> int:
    """Return how many took longer than 25 ms."""
    return sum(found.counts[3:])


def counted(server: BareServer) -> dict[tuple[str, str, str], int]:
    return {
        (of.method, of.status, of.protocol): count(times["duration"])
        for of, times in measured(server).items()
    }


def test_requests_are_counted_by_method_class_of_status_and_protocol(transport: str) -> None:
    with serving(application, transport) as server:
        with connect(server) as client:
            for request in (
                get("/200/whole"),
                get("/204/whole"),
                get("/404/whole"),
                post(b"abc", target="/500/whole"),
                get("/200/stream"),
                get("/200/whole").replace(b"GET", b"BREW"),
            ):
                client.send(request)
                client.read_response()
        with connect(server) as client:
            client.send(get("/302/whole", version="HTTP/1.0"))
            client.read_response()
        expected = {
            ("GET", "2xx", "HTTP/1.1"): 3,
            ("GET", "4xx", "HTTP/1.1"): 1,
            ("POST", "5xx", "HTTP/1.1"): 1,
            ("other", "2xx", "HTTP/1.1"): 1,
            ("GET", "3xx", "HTTP/1.0"): 1,
        }
        eventually(lambda: counted(server) == expected)
        for times in measured(server).values():
            assert len({count(found) for found in times.values()}) == 1


def test_the_native_transport_alone_counts_waits_for_the_interpreter_lock(transport: str) -> None:
    with serving(application, transport) as server, connect(server) as client:
        for target in ("/200/whole", "/200/stream", "*"):  # the server itself answers the last one
            client.send(get(target).replace(b"GET", b"OPTIONS", 1))
            client.read_response()
        eventually(lambda: sum(counted(server).values()) == 3)
        [words] = read_series(server.slot).values()
        waits = histograms_of(words)["request_lock_wait"]
        assert count(waits) == (2 if transport == "native" else 0)


def test_each_time_is_that_of_its_part_of_the_request(transport: str) -> None:
    with serving(application, transport) as server, connect(server) as client:
        client.send(get("/200/slow"))
        client.read_response()
        client.send(get("/200/stream").replace(b"GET", b"PUT", 1))
        client.read_response()
        eventually(lambda: len(measured(server)) == 2)
        found = measured(server)
        view, stream = (found[Labels(method, "2xx", "HTTP/1.1")] for method in ("GET", "PUT"))
        assert [slow(view[name]) for name in view] == [1, 1, 0, 1]
        assert [slow(stream[name]) for name in stream] == [1, 0, 0, 1]
        assert view["duration"].seconds >= view["application"].seconds >= SLOW_SECONDS


def test_the_first_byte_of_a_response_does_not_wait_for_a_client_that_reads_slowly(
    transport: str,
) -> None:
    with serving(application, transport) as server, connect(server) as client:
        client.send(get("/200/large"))

        def is_sending() -> bool:
            server.transport.publish()
            return server.word(SENDING) == 1

        eventually(is_sending)
        began = time.monotonic()
        threading.Event().wait(SLOW_SECONDS)
        waited = time.monotonic() - began
        assert len(client.read_response().body) == LARGE
        eventually(lambda: len(measured(server)) == 1)
        [times] = measured(server).values()
        assert times["duration"].seconds - times["first_byte"].seconds >= waited
        assert count(times["first_byte"]) == 1


def test_time_in_the_application_does_not_include_waits_for_the_client(transport: str) -> None:
    with (
        serving(application, transport, stream_requests=True, timeout=30.0) as server,
        connect(server) as client,
    ):
        whole = post(b"0123456789", target="/200/body")
        client.send(whole[:-5])
        eventually(lambda: server.slot.calls_of_count() == 1)
        began = time.monotonic()
        threading.Event().wait(SLOW_SECONDS)
        client.send(whole[-5:])
        assert client.read_response().body == b"0123456789"
        waited = time.monotonic() - began
        eventually(lambda: len(measured(server)) == 1)
        [times] = measured(server).values()
        assert times["duration"].seconds >= SLOW_SECONDS
        assert times["application"].seconds < times["duration"].seconds
        assert times["duration"].seconds - times["application"].seconds >= SLOW_SECONDS / 2
        assert waited >= SLOW_SECONDS


def test_refused_requests_are_counted_with_their_rule_and_without_the_application(
    transport: str,
) -> None:
    with serving(application, transport) as server:
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            b"nonsense\r\n\r\n",
        ):
            with connect(server) as client:
                client.send(request)
                assert client.read_response().status == 400
        expected = {
            ("GET", "4xx", "HTTP/1.1"): 1,
            ("POST", "4xx", "HTTP/1.1"): 1,
            ("other", "4xx", "other"): 1,
        }
        eventually(lambda: counted(server) == expected)
        for times in measured(server).values():
            assert [count(times[name]) for name in times] == [1, 1, 0, 0]

        def refused() -> dict[str, int]:
            server.transport.publish()
            return {rule: n for i, rule in enumerate(RULES) if (n := server.word(REFUSED + i))}

        eventually(lambda: sum(refused().values()) == 3)
        assert refused()["RFC 9112, section 3.2"] == 1
        assert refused()["RFC 9112, section 6.3"] == 1


@pytest.mark.parametrize(("target", "status"), [("*", 200), ("/200/whole", 308)])
def test_what_the_server_answers_itself_is_counted_without_the_application(
    transport: str, target: str, status: int
) -> None:
    place = Address("127.0.0.1:0", host="127.0.0.1", port=0, redirects=status == 308)
    [listener] = open_listeners([place], 16)
    with (
        serving(application, transport, listener=listener) as server,
        connect(server) as client,
    ):
        client.send(f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.read_response().status == status
        eventually(lambda: len(measured(server)) == 1)
        [times] = measured(server).values()
        assert [count(times[name]) for name in times] == [1, 1, 0, 0]


def test_the_first_byte_of_a_websocket_is_that_of_the_answer_to_its_handshake(
    transport: str,
) -> None:
    def wait_for_the_end(environ: WSGIEnvironment, _: StartResponse) -> Iterable[bytes]:
        ServerSide(environ).read()
        return []

    with serving(wait_for_the_end, transport, max_websockets=4, threads=2) as server:
        with connect(server) as client:
            side = ClientSide(client)
            assert side.open("/").status == 101
            began = time.monotonic()
            threading.Event().wait(SLOW_SECONDS)
            waited = time.monotonic() - began
        eventually(lambda: len(measured(server)) == 1)
        [of], [times] = zip(*measured(server).items(), strict=True)
        assert of.status == "1xx"
        assert count(times["first_byte"]) == 1
        assert times["duration"].seconds - times["first_byte"].seconds >= waited


def test_refusals_are_counted_that_the_log_has_no_room_for(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2, log_entries=2, log_bytes=1000) as server:
        for _ in range(20):
            with connect(server) as client:
                client.send(b"GET / HTTP/1.1\r\n\r\n")
                assert client.read_response().status == 400

        def refused() -> int:
            server.transport.publish()
            return sum(server.word(REFUSED + number) for number in range(len(RULES)))

        eventually(lambda: refused() == 20)


def test_a_client_that_leaves_before_there_is_a_response_is_counted_as_4xx(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport) as server:
        with connect(server) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            client.reset()
        gate.open()
        eventually(lambda: sum(counted(server).values()) == 1)
        [of], [times] = zip(*measured(server).items(), strict=True)
        assert of.method == "GET"
        assert count(times["application"]) == 1


def test_requests_that_wait_for_a_thread_are_counted_with_their_wait(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2) as server:
        clients = [connect(server) for _ in range(3)]
        try:
            for number, client in enumerate(clients[:2]):
                client.send(get("/wait"))
                eventually(lambda number=number: gate.inside == number + 1)  # type: ignore[misc]
            # A request that comes before an idle thread waits for it is queued, too.
            queued = server.word(QUEUED) + 1
            clients[2].send(get("/waits-longer"))
            eventually(lambda: server.word(QUEUED) == queued)
            threading.Event().wait(SLOW_SECONDS)
            gate.open()
            for client in clients:
                client.read_response()
            eventually(lambda: sum(counted(server).values()) == 3)
            [times] = measured(server).values()
            assert slow(times["queue"]) == 1
            assert count(times["queue"]) == 3
            assert server.word(QUEUED) == queued
        finally:
            gate.open()
            for client in clients:
                client.close()


def test_bytes_are_those_that_the_sockets_receive_and_send(transport: str) -> None:
    with serving(application, transport) as server:
        request, sent = get("/200/stream", "Connection: close"), 0
        for _ in range(3):
            with connect(server) as client:
                client.send(request)
                sent += len(client.read_to_end())
        server.transport.publish()
        assert server.word(BYTES_RECEIVED) == 3 * len(request)
        assert server.word(BYTES_SENT) == sent


def test_connections_are_counted_by_what_they_do(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2) as server:
        clients = [connect(server) for _ in range(3)]
        try:
            clients[0].send(get("/wait"))
            clients[1].send(b"GET / HT")

            def states() -> list[int]:
                server.transport.publish()
                words = (HANDSHAKING, IDLE, READING, IN_APPLICATION, SENDING, CLOSING)
                return [server.word(word) for word in words]

            eventually(lambda: states() == [0, 1, 1, 1, 0, 0])
            gate.open()
            clients[0].read_response()
            eventually(lambda: states() == [0, 2, 1, 0, 0, 0])
        finally:
            gate.open()
            for client in clients:
                client.close()


def test_handshakes_are_counted_and_those_that_resume_a_session(tls_transport: str) -> None:
    context = authority().client_context()
    with serving(application, tls_transport, tls=material(ticket_keys=(bytes(32),))) as server:
        session: ssl.SSLSession | None = None
        for _ in range(2):
            address = (server.host, server.port)
            with TlsClient(address, context, session=session) as client:
                client.send(get("/200/whole"))
                client.read_response()
                session = client.session.session
        eventually(lambda: server.word(HANDSHAKES) == 2)
        assert server.word(RESUMPTIONS) == 1
        server.transport.publish()
        assert server.word(BYTES_RECEIVED) > 2 * len(get("/200/whole"))
