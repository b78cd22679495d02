"""A reload that is taken back: a worker that may have accepted finishes its requests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import pytest

from penstock.compat.gunicorn.hooks import Server
from penstock.config.settings import Settings
from penstock.control.commands import Outcome
from penstock.supervisor.certificates import Source
from penstock.supervisor.generation import Generation, Launch
from penstock.supervisor.helpers import Helpers
from penstock.supervisor.loop import Loop
from penstock.supervisor.pool import Pool
from penstock.supervisor.reload import ReloadInProgress
from penstock.supervisor.worker_process import Stage
from support.workers import Workers

LOGGER = logging.getLogger("penstock.tests")


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def orders_when_taken_back(workers: Workers, stage: Stage, *, let_in: bool) -> list[str]:
    """Return what a worker is told from when it is let serve until its generation is no more."""
    worker = workers.add(1, stage)
    if let_in:
        worker.let_serve()
    launch, server = cast(Launch, None), cast(Server, None)
    opener = Helpers(Loop(LOGGER))
    coming = Generation(
        2, launch, Settings(), 1, [], None, server, "", LOGGER, opener, lambda _: None
    )
    coming.workers.append(worker)
    answers: list[object] = []
    # Taking back needs none of the other workers.
    reload = ReloadInProgress(cast(Pool, None), coming, LOGGER, answers.append, cast(Source, None))
    reload.abort("on purpose")
    assert answers == [Outcome(False, "this reload is given up: on purpose")]
    return [str(message["do"]) for message in workers.lines[1].receive()]


def test_a_worker_that_was_let_in_finishes_though_it_has_not_said_yet_that_it_serves(
    workers: Workers,
) -> None:
    assert orders_when_taken_back(workers, Stage.READY, let_in=True) == ["go", "leave"]


def test_a_worker_that_was_not_let_in_ends_at_once(workers: Workers) -> None:
    assert orders_when_taken_back(workers, Stage.READY, let_in=False) == ["quit"]
