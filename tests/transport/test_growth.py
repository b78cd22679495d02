"""No input makes a server grow: what a request took is given back, whatever became of it."""

from __future__ import annotations

import gc
import sys
import weakref
from wsgiref.types import StartResponse

import pytest

import penstock
from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING
from penstock.api import RunningServer
from support.serving import TEXT, Environ, Recorder, connect, descriptors, eventually
from support.transcripts import SILENT, transcript

CASES = [case.raw for case in requests.CASES + vulnerabilities.CASES if len(case.raw) < 10_000]

ALLOWED = 200
"""Blocks of memory that there may be more of after a round.

What each request left behind would be a block for each of some 900 of them.
"""

ROUNDS = 12
"""In one of these rounds the memory must not grow: caches fill in the first ones, and what other
tests have left comes and goes."""


def send_corpus(server: RunningServer) -> None:
    for raw in CASES:
        transcript(server, [FOLLOWING + raw], paced_by=None)
    eventually(lambda: server.snapshot()["connections"] == 0)


def blocks_allocated() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_corpus_sent_again_and_again_leaves_nothing_behind(
    transport: str, streamed: bool
) -> None:
    recorder = Recorder()
    settings = {"transport": transport, "threads": 2, "stream_requests": streamed, **SILENT}
    with penstock.running(recorder, **settings) as server:
        send_corpus(server)
        files = descriptors()
        growth: list[int] = []
        while not growth or growth[-1] > ALLOWED:
            assert len(growth) < ROUNDS, growth
            recorder.targets.clear()
            before = blocks_allocated()
            send_corpus(server)
            recorder.targets.clear()
            growth.append(blocks_allocated() - before)
        assert descriptors() <= files


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_that_waits_keeps_nothing_of_its_last_request(
    transport: str, threads: int
) -> None:
    """For hours, where there are more threads than requests."""

    class Kept:
        """What an application puts into its environ."""

    kept: list[weakref.ref[Kept]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["test.kept"] = thing = Kept()
        kept.append(weakref.ref(thing))
        start_response("200 OK", TEXT)
        return [b"done"]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            for _ in range(3):
                assert client.request("GET", "/").status == 200
            eventually(lambda: not [each for each in kept if each() is not None])
    assert len(kept) == 3
