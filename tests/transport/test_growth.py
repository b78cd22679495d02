"""No input makes a server grow: what a request took is given back, whatever became of it."""

from __future__ import annotations

import gc
import sys

import pytest

import penstock
from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING
from penstock.api import RunningServer
from support.serving import Recorder, descriptors, eventually
from support.transcripts import SILENT, transcript

CASES = [case.raw for case in requests.CASES + vulnerabilities.CASES if len(case.raw) < 10_000]

ALLOWED = 200
"""Blocks of memory that there may be more of afterwards, where the caches are not quite full.

What each request left behind would be a block for each of some 900 of them in a round.
"""

WARM_UP, ROUNDS = 5, 2


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
        for _ in range(WARM_UP):
            send_corpus(server)
        recorder.targets.clear()
        files, before = descriptors(), blocks_allocated()
        for _ in range(ROUNDS):
            send_corpus(server)
            recorder.targets.clear()
        assert blocks_allocated() - before < ALLOWED
        assert descriptors() <= files
