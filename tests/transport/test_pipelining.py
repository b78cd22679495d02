"""Requests that come before the answer to the last one: in order, bounded, and fair to others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.api import RunningServer
from penstock.transport import Exchange
from support.serving import TEXT, Environ, Gate, connect, eventually, get, post
from support.wire import DEADLINE, Client

pytestmark = pytest.mark.parametrize("threads", [1, 4])


def test_rfc9112_9_3_2_a_thousand_requests_are_answered_in_order(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(b"".join(get(f"/{number}") for number in range(1000)))
            for number in range(1000):
                assert client.read_response().body == b"/%d" % number
    assert gate.seen == [f"/{number}" for number in range(1000)]
    assert gate.most == 1  # one connection is served one request at a time


def test_rfc9112_9_3_2_bodies_and_heads_that_come_in_odd_pieces(
    transport: str, threads: int
) -> None:
    data = b"".join(post(b"x" * number, target=f"/{number}") for number in range(300))
    with penstock.running(Gate(), transport=transport, threads=threads) as server:
        with connect(server) as client:
            for start in range(0, len(data), 777):
                client.send(data[start : start + 777])
            for number in range(300):
                assert client.read_response().body == b"/%d" % number


def test_a_client_that_pipelines_without_end_does_not_keep_others_waiting(
    transport: str, threads: int
) -> None:
    gate = Gate()
    answered = threading.Event()

    def send_until_the_other_is_answered(greedy: Client) -> None:
        while not answered.is_set():
            greedy.send(get("/greedy") * 100)
        greedy.send(get("/last"))

    def read_all(greedy: Client) -> None:
        while greedy.read_response().body != b"/last":
            pass

    with penstock.running(gate, transport=transport, threads=threads) as server:
        with connect(server) as greedy, connect(server) as modest:
            greedy.send(get("/wait") + get("/greedy") * 100)
            eventually(lambda: gate.inside == 1)
            with ThreadPoolExecutor(2) as pool:
                sending = pool.submit(send_until_the_other_is_answered, greedy)
                reading = pool.submit(read_all, greedy)
                try:
                    modest.send(get("/modest"))
                    gate.open()
                    assert modest.read_response().body == b"/modest"
                finally:
                    answered.set()
                sending.result()
                reading.result()


def test_answers_that_are_not_read_stop_a_pipelining_client_not_the_server(
    transport: str, threads: int
) -> None:
    calls = 2000
    body = b"x" * 50_000
    seen = []

    def application(environ: object, start_response: object) -> list[bytes]:
        seen.append(1)
        start_response("200 OK", [])  # type: ignore[operator]
        return [body]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server, receive_buffer=4096) as greedy:
            greedy.send(get() * calls)
            eventually(lambda: seen)
            with connect(server) as other:
                for _ in range(20):
                    assert other.request("GET", "/").status == 200
            # 100 MB of answers were asked for, and a few can be under way.
            assert len(seen) < calls / 2
            for _ in range(calls):
                assert len(greedy.read_response().body) == len(body)


def test_no_more_is_read_of_a_client_that_pipelines_than_is_answered(
    transport: str, threads: int
) -> None:
    requests = get() * 5000
    may_answer = threading.Semaphore(0)

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert may_answer.acquire(timeout=DEADLINE)
        start_response("200 OK", TEXT)
        return [b"answer"]

    def send_all_that_is_taken(client: Client) -> int:
        sent = 0
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                # Where this cuts a request off is far behind the ones that are answered.
                sent += client.socket.send(requests)
        client.socket.settimeout(DEADLINE)
        return sent

    def answer(client: Client, count: int) -> int:
        sent = 0
        for _ in range(count):
            may_answer.release()
            assert client.read_response().body == b"answer"
            sent += send_all_that_is_taken(client)
        return sent

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            send_all_that_is_taken(client)
            answer(client, 20)  # by then the kernel's buffers have grown as far as they do
            more = answer(client, 500)
            client.reset()
            may_answer.release(2)
    assert more < 500_000  # these 500 requests have 13,500 bytes; a block for each would be 32 MB


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_waits_for_100_continue_gets_the_answers_before_it_and_then_that(
    transport: str, threads: int, streamed: bool
) -> None:
    gate = Gate()
    waiting = post(b"", "Expect: 100-continue", length=4)
    settings = {"transport": transport, "threads": threads, "stream_requests": streamed}

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        return gate(environ, start_response)

    with penstock.running(application, **settings) as server:
        with connect(server) as client:
            for _ in range(3):  # so that it is known to be answered at once
                assert client.request("GET", "/").status == 200
            client.send(get() * 2 + waiting)
            assert [client.read_response().status for _ in range(3)] == [200, 200, 100]
            client.send(b"body")
            assert client.read_response().status == 200


def answer_at_once(server: RunningServer, target: str) -> None:
    """Have the server learn that a target is answered at once, whatever the answer's size."""
    with connect(server) as client:
        for _ in range(30):
            assert client.request("HEAD", target).status == 200


@pytest.mark.parametrize("last", [False, True])
def test_a_large_answer_behind_a_small_one_arrives_as_if_it_were_alone(
    transport: str, threads: int, last: bool
) -> None:
    large = b"x" * 20_000_000

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = large if environ["PATH_INFO"] == "/large" else b"small"
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    with penstock.running(application, transport=transport, threads=threads) as server:
        for _ in range(5):
            answer_at_once(server, "/small")
            answer_at_once(server, "/large")
            # The kernel never has all of it, or all of it at once.
            with connect(server, receive_buffer=None if last else 4096) as client:
                client.send(get("/small") + get("/large", *["Connection: close"] * last))
                assert client.read_response().body == b"small"
                assert len(client.read_response().body) == len(large)
                if last:
                    assert client.read_to_end() == b""
                else:
                    assert client.request("GET", "/small").body == b"small"


def test_what_the_kernel_does_not_take_of_an_answer_does_not_wait_for_the_next_body(
    transport: str, threads: int, tmp_path: Path
) -> None:
    answer = b"x" * 15_000

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [answer]

    settings = {"transport": transport, "threads": threads, "bind": [f"unix:{tmp_path}/s"]}
    with penstock.running(application, **settings) as server:
        answer_at_once(server, "/")
        for count in range(1, 40):  # a unix socket takes some 200 KB: one of these ends there
            with connect(server) as client:
                least = server.snapshot()["requests"] + min(count, 10)
                client.send(get() * count + post(b"", length=5))
                eventually(lambda least=least: server.snapshot()["requests"] >= least)  # type: ignore[misc]
                for _ in range(count):
                    assert client.read_response().body == answer
                client.send(b"hello")
                assert client.read_response().body == answer


def test_nothing_is_sent_behind_a_response_that_has_ended(transport: str, threads: int) -> None:
    exchanges: list[Exchange] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        # What `write` leads to in a thread that is halted between its checks and the sending.
        response = start_response.__self__.full_response()  # type: ignore[attr-defined]
        exchanges.append(response.exchange)
        start_response("200 OK", TEXT)
        return [b"answer"]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            assert client.request("GET", "/").body == b"answer"
            eventually(lambda: server.snapshot()["requests_in_progress"] == 0)
            with pytest.raises(RuntimeError, match="has ended"):
                exchanges[0].send(b"stray")
            assert client.request("GET", "/").body == b"answer"
    exchanges.clear()
