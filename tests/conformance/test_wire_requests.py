"""Every case of the corpus through a server: whole, byte by byte, and with a request behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import penstock
from corpus.case import FOLLOWING, Case
from penstock.api import RunningServer
from support.asking import check_answer, send
from support.batches import EVERY_CASE, SENTINELS, check_each
from support.certificates import files
from support.serving import Recorder, connect, get


@dataclass
class Target:
    """The server under test, and what its application has seen."""

    server: RunningServer
    recorder: Recorder

    def check_whole(self, case: Case) -> None:
        with connect(self.server) as client:
            send(client, case, case.raw, in_pieces=False)
            check_answer(client, case)

    def check_byte_by_byte(self, case: Case) -> None:
        with connect(self.server) as client:
            send(client, case, case.raw, in_pieces=True)
            check_answer(client, case)

    def check_followed(self, case: Case) -> None:
        self.recorder.targets.clear()
        with connect(self.server) as client:
            send(client, case, case.raw + FOLLOWING, in_pieces=False)
            check_answer(client, case)
            if case.status is None and case.keep_alive:
                response = client.read_response()
                assert response.status == 200
                assert json.loads(response.body)["RAW_URI"] == "/following"
                assert self.recorder.targets[-1] == "/following"
            else:
                assert client.read_to_end() == b""
        with connect(self.server) as client:  # by now, it would have been called
            client.send(get("/afterwards", "Connection: close"))
            assert client.read_response().status == 200
        wanted = case.status is None and case.keep_alive
        assert self.recorder.targets.count("/following") == wanted
        if case.status is not None:
            assert self.recorder.targets == ["/afterwards"]


def running(transport: str, threads: int) -> Iterator[Target]:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        yield Target(server, recorder)


@pytest.fixture(scope="module")
def target(transport: str) -> Iterator[Target]:
    yield from running(transport, threads=1)


@pytest.fixture(scope="module")
def threaded(transport: str) -> Iterator[Target]:
    yield from running(transport, threads=4)


@pytest.fixture(scope="module")
def secured(tls_transport: str) -> Iterator[Target]:
    recorder = Recorder()
    with penstock.running(
        recorder, transport=tls_transport, bind=["https://127.0.0.1:0"], **files()
    ) as server:
        yield Target(server, recorder)


every_source = pytest.mark.parametrize("source", EVERY_CASE)


@every_source
def test_cases_fed_whole(target: Target, source: str) -> None:
    check_each(EVERY_CASE[source], target.check_whole)


@every_source
def test_cases_with_a_request_behind_them(target: Target, source: str) -> None:
    cases = [case for case in EVERY_CASE[source] if not case.ends_early]
    check_each(cases, target.check_followed)


@every_source
def test_cases_fed_byte_by_byte(target: Target, source: str) -> None:
    check_each(SENTINELS[source], target.check_byte_by_byte)


@every_source
def test_cases_to_four_threads(threaded: Target, source: str) -> None:
    cases = SENTINELS[source]
    check_each(cases, threaded.check_whole)
    check_each(cases, threaded.check_byte_by_byte)
    check_each([case for case in cases if not case.ends_early], threaded.check_followed)


@every_source
def test_cases_over_tls(secured: Target, source: str) -> None:
    cases = SENTINELS[source]
    check_each(EVERY_CASE[source], secured.check_whole)
    check_each([case for case in cases if not case.ends_early], secured.check_followed)
    check_each(cases, secured.check_byte_by_byte)
