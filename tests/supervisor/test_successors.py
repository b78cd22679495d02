"""The line of the log that says which worker serves in the place of which."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from penstock.supervisor.successors import Successors
from support.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_a_successor_is_named_with_its_predecessor_or_with_one_that_has_ended(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, crashed = workers.add(1), workers.add(2)
    successor, third, fourth = workers.add(3), workers.add(4), workers.add(5)
    successors = Successors(logging.getLogger())
    successor.replaces = old
    successors.note_end(crashed)
    for worker in (successor, third, fourth):
        successors.note_serving(worker)
    successors.note_end(third)
    successors.forget()
    successors.note_serving(fourth)
    said = [re.sub(r" \(pid \d+\)| \(\d+\.\d s\)", "", line) for line in caplog.messages]
    assert said == [
        "worker 3 serves in place of worker 1",
        "worker 4 serves in place of worker 2",
        "worker 5 serves",
        "worker 5 serves",
    ]
