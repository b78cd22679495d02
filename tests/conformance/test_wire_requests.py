"""Every case of the corpus through a server: whole, byte by byte, and with a request behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import penstock
from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING, Case
from penstock.api import RunningServer
from support.serving import Recorder, connect, get
from support.wire import Client, Response

CASES = [*requests.CASES, *vulnerabilities.CASES]

BYTEWISE = 4096
"""Bytes at each end of a case that are sent one by one; what is between them goes in blocks."""

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@dataclass
class Target:
    """The server under test, and what its application has seen."""

    server: RunningServer
    recorder: Recorder


@pytest.fixture(scope="module", params=[1, 4], ids=["1 thread", "4 threads"])
def target(transport: str, request: pytest.FixtureRequest) -> Iterator[Target]:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=request.param) as server:
        yield Target(server, recorder)


def send_in_pieces(client: Client, data: bytes) -> None:
    first, middle, last = data[:BYTEWISE], data[BYTEWISE:-BYTEWISE], data[BYTEWISE:][-BYTEWISE:]
    client.send_bytewise(first)
    for start in range(0, len(middle), 997):
        client.send(middle[start : start + 997])
    client.send_bytewise(last)


def send(client: Client, case: Case, data: bytes, *, in_pieces: bool) -> None:
    try:
        if in_pieces:
            send_in_pieces(client, data)
        else:
            client.send(data)
        if case.ends_early:
            client.end_sending()
    except (BrokenPipeError, ConnectionResetError):
        assert case.status is not None, "the server closed within a valid request"


def final_response(client: Client, case: Case) -> Response:
    response = client.read_response(case.method)
    while response.status == 100:
        assert case.expect_continue
        response = client.read_response(case.method)
    return response


def check_answer(client: Client, case: Case) -> None:
    response = final_response(client, case)
    if case.status is not None:
        check_refusal(client, response, case.status)
        return
    assert response.status == 200
    assert response.header("Connection") == {
        ("HTTP/1.1", False): "close",
        ("HTTP/1.0", False): "close",
        ("HTTP/1.0", True): "keep-alive",
    }.get((case.version, case.keep_alive))
    if case.path == "*":
        assert (response.body, response.header("Content-Length")) == (b"", "0")
    elif case.method != "HEAD":
        assert json.loads(response.body) == {
            "REQUEST_METHOD": case.method,
            "RAW_URI": case.target,
            "QUERY_STRING": case.query,
            "SERVER_PROTOCOL": case.version,
            "body": case.body.decode("latin-1"),
        }


def check_refusal(client: Client, response: Response, status: int) -> None:
    """RFC 9112, section 9.6: the refusal says that it is the last word, and it is."""
    assert response.status == status
    assert response.header("Connection") == "close"
    assert str(response.header("Content-Type")).startswith("text/plain")
    assert 0 < len(response.body) < 300
    assert response.header("Date")
    assert response.header("Server") == "penstock"
    assert client.read_to_end() == b""


@each_case
def test_case_fed_whole(target: Target, case: Case) -> None:
    with connect(target.server) as client:
        send(client, case, case.raw, in_pieces=False)
        check_answer(client, case)


@each_case
def test_case_fed_byte_by_byte(target: Target, case: Case) -> None:
    with connect(target.server) as client:
        send(client, case, case.raw, in_pieces=True)
        check_answer(client, case)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.ends_early], ids=lambda case: case.id
)
def test_case_with_a_request_behind_it(target: Target, case: Case) -> None:
    target.recorder.targets.clear()
    with connect(target.server) as client:
        send(client, case, case.raw + FOLLOWING, in_pieces=False)
        check_answer(client, case)
        if case.status is None and case.keep_alive:
            response = client.read_response()
            assert response.status == 200
            assert json.loads(response.body)["RAW_URI"] == "/following"
            assert target.recorder.targets[-1] == "/following"
        else:
            assert client.read_to_end() == b""
    with connect(target.server) as client:  # by now, it would have been called
        client.send(get("/afterwards", "Connection: close"))
        assert client.read_response().status == 200
    wanted = case.status is None and case.keep_alive
    assert target.recorder.targets.count("/following") == wanted
    if case.status is not None:
        assert target.recorder.targets == ["/afterwards"]
