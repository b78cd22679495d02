"""Everything at once: no request is lost, and no answer goes astray."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.api import RunningServer
from support.serving import TEXT, Environ, connect, eventually, get, post
from support.wire import chunked

ROUNDS = 60
CLIENTS = 12


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    if environ["PATH_INFO"] == "/slow":
        threading.Event().wait(0.003)
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    large = b"x" * 300_000 if environ["PATH_INFO"] == "/large" else b""
    return [environ["RAW_URI"].encode(), b" ", body, large]


def behave(server: RunningServer, number: int) -> int:
    """Be a client of some kind, and return how many answers it got."""
    chance = random.Random(number)
    answers = 0
    client = connect(server)
    for index in range(ROUNDS):
        path = chance.choice(["/fast", "/fast", "/slow", "/large"])
        target = f"{path}?{number}.{index}"
        kind = chance.choice(["get", "get", "post", "chunked", "pipelined", "reset", "new"])
        if kind == "reset":
            client.send(get("/slow") + get("/large")[: chance.randrange(40)])
            client.reset()
        elif kind == "new":
            client.close()
        if kind in ("reset", "new"):
            client = connect(server)
        expected = [target.encode() + b" "]
        if kind == "post":
            client.send(post(b"p" * index, target=target))
            expected[0] += b"p" * index
        elif kind == "chunked":
            head = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.send(head.encode() + chunked(b"c" * (index + 1), b"d"))
            expected[0] += b"c" * (index + 1) + b"d"
        elif kind == "pipelined":
            client.send(get(target) + get("/fast?next"))
            expected.append(b"/fast?next ")
        else:
            client.send(get(target))
        for body in expected:
            answers += 1
            assert client.read_response().body.rstrip(b"x") == body
    client.close()
    return answers


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_clients_of_all_kinds_at_once_get_their_own_answers(
    transport: str, threads: int, streamed: bool
) -> None:
    settings = {"transport": transport, "threads": threads, "stream_requests": streamed}
    with penstock.running(application, **settings) as server:
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(lambda number: behave(server, number), range(CLIENTS)))
        assert min(answers) >= ROUNDS
        eventually(lambda: server.snapshot()["connections"] == 0)
