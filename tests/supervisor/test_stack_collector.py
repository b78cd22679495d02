"""Collecting the stacks of workers: who answers, who is made to tell, who has nothing to tell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from penstock.control.commands import Outcome
from penstock.supervisor.stack_collector import (
    ANSWER_SECONDS,
    DUMP_SECONDS,
    GONE,
    NO_ANSWER,
    StackCollector,
)
from penstock.supervisor.worker_process import Stage, WorkerProcess
from support.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


class Asked:
    """A collector, who was made to write a dump, and the answers that came."""

    def __init__(self) -> None:
        self.dumps: list[int] = []
        self.answers: list[dict[str, str]] = []
        self.collector = StackCollector(self._dump)

    def _dump(self, worker: WorkerProcess) -> None:
        self.dumps.append(worker.pid)

    def ask(self, *workers: WorkerProcess) -> None:
        def reply(answer: Outcome | Mapping[str, Any]) -> None:
            assert not isinstance(answer, Outcome)
            self.answers.append(answer["stacks"])

        self.collector.ask(workers, reply)

    def later(self, seconds: float) -> None:
        self.collector.tick(time.monotonic() + seconds)


def test_workers_that_answer_are_told_together(workers: Workers) -> None:
    first, second = workers.add(8), workers.add(7)
    asked = Asked()
    asked.ask(first, second)
    assert workers.lines[7].receive() == [{"do": "stacks"}]
    assert workers.lines[8].receive() == [{"do": "stacks"}]
    asked.collector.on_stacks(first, "here")
    assert asked.answers == []
    assert asked.collector.is_busy
    asked.collector.on_stacks(second, "there")
    assert asked.answers == [{"7": "there", "8": "here"}]
    assert not asked.collector.is_busy
    assert asked.dumps == []


def test_of_no_workers_there_are_no_stacks() -> None:
    asked = Asked()
    asked.ask()
    assert asked.answers == [{}]


def test_one_that_does_not_answer_is_made_to_write_by_c_code(workers: Workers) -> None:
    hung, well = workers.add(7), workers.add(8)
    asked = Asked()
    asked.ask(hung, well)
    asked.collector.on_stacks(well, "here")
    asked.later(ANSWER_SECONDS)
    assert asked.dumps == [7]
    hung.dumped += b"Current thread 0x1:\n  File \xff"
    asked.later(ANSWER_SECONDS)
    assert asked.answers == []
    asked.later(ANSWER_SECONDS + DUMP_SECONDS)
    assert asked.answers == [{"7": "Current thread 0x1:\n  File \\xff", "8": "here"}]
    assert not hung.dumped  # which would be told again when it ends


def test_one_that_writes_nothing_either_is_said_to_be_halted(workers: Workers) -> None:
    asked = Asked()
    asked.ask(workers.add(7))
    asked.later(ANSWER_SECONDS)
    asked.later(ANSWER_SECONDS + DUMP_SECONDS)
    assert asked.answers == [{"7": NO_ANSWER}]


@pytest.mark.parametrize(("dumped", "shown"), [(b"where it hung", "where it hung"), (b"", "here")])
def test_what_c_code_wrote_is_shown_rather_than_an_answer_that_came_after_it(
    workers: Workers, dumped: bytes, shown: str
) -> None:
    """A signal may end the call that hung: the worker answers then, and no longer shows it."""
    worker = workers.add(7)
    asked = Asked()
    asked.ask(worker)
    asked.later(ANSWER_SECONDS)
    worker.dumped += dumped
    asked.collector.on_stacks(worker, "here")
    asked.later(ANSWER_SECONDS + DUMP_SECONDS)
    assert asked.answers == [{"7": shown}]
    assert not worker.dumped


def test_an_answer_that_comes_too_late_is_dropped(workers: Workers) -> None:
    worker = workers.add(7)
    asked = Asked()
    asked.ask(worker)
    asked.later(ANSWER_SECONDS)
    asked.later(ANSWER_SECONDS + DUMP_SECONDS)
    asked.collector.on_stacks(worker, "here")
    assert asked.answers == [{"7": NO_ANSWER}]


@pytest.mark.parametrize("dumping", [False, True])
def test_one_that_ends_meanwhile_is_not_waited_for(workers: Workers, dumping: bool) -> None:
    worker = workers.add(7)
    asked = Asked()
    asked.ask(worker)
    if dumping:
        asked.later(ANSWER_SECONDS)
    worker.stage = Stage.ENDED
    asked.later(0)
    assert asked.answers == [{"7": GONE}]


def test_several_who_ask_get_the_same_answer_of_a_worker(workers: Workers) -> None:
    first, second = workers.add(7), workers.add(8)
    asked = Asked()
    asked.ask(first, second)
    asked.ask(first)
    assert workers.lines[7].receive() == [{"do": "stacks"}]
    asked.collector.on_stacks(first, "here")
    assert asked.answers == [{"7": "here"}]
    asked.collector.on_stacks(second, "there")
    assert asked.answers == [{"7": "here"}, {"7": "here", "8": "there"}]
