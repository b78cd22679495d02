"""The wire corpus on a stream that is no socket: what a connection needs is its stream alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from corpus.case import FOLLOWING, Case
from support.asking import check_answer, send
from support.batches import EVERY_CASE, check_each
from support.buffers import BufferServer
from support.serving import Recorder


class Target:
    """The server under test, and what its application has seen."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.server = BufferServer(self.recorder)

    def check_whole(self, case: Case) -> None:
        with self.server.connect() as client:
            send(client, case, case.raw, in_pieces=False)
            check_answer(client, case)

    def check_byte_by_byte(self, case: Case) -> None:
        with self.server.connect() as client:
            send(client, case, case.raw, in_pieces=True)
            check_answer(client, case)

    def check_followed(self, case: Case) -> None:
        self.recorder.targets.clear()
        with self.server.connect() as client:
            send(client, case, case.raw + FOLLOWING, in_pieces=False)
            check_answer(client, case)
            if case.status is None and case.keep_alive:
                response = client.read_response()
                assert json.loads(response.body)["RAW_URI"] == "/following"
            else:
                assert client.read_to_end() == b""
        assert self.recorder.targets.count("/following") == (
            case.status is None and case.keep_alive
        )


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.server.close()


every_source = pytest.mark.parametrize("source", EVERY_CASE)


@every_source
def test_cases_fed_whole(target: Target, source: str) -> None:
    check_each(EVERY_CASE[source], target.check_whole)
    assert not target.server.loop.connections


@every_source
def test_cases_fed_byte_by_byte(target: Target, source: str) -> None:
    check_each(EVERY_CASE[source], target.check_byte_by_byte)


@every_source
def test_cases_with_a_request_behind_them(target: Target, source: str) -> None:
    cases = [case for case in EVERY_CASE[source] if not case.ends_early]
    check_each(cases, target.check_followed)
