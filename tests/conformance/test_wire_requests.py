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
from support.asking import check_answer, send
from support.serving import Recorder, connect, get

CASES = [*requests.CASES, *vulnerabilities.CASES]

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
