"""Commands of control clients: what the supervisor answers, and outcomes that are waited for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from penstock.config.settings import Settings
from penstock.config.worker_count import allowed_cpus
from penstock.control import tables
from penstock.control.commands import (
    Command,
    ControlError,
    Outcome,
    Question,
    Recycle,
    Reload,
    Scale,
    ShowRequests,
    ShowStacks,
    ShowStatus,
    ShowWorkers,
    Stop,
    Upgrade,
)
from penstock.listeners import Listener
from penstock.supervisor.certificates import Certificates
from penstock.supervisor.commands import Commands
from penstock.supervisor.events import (
    Event,
    QuitWanted,
    RecycleWanted,
    ReloadWanted,
    ScaleWanted,
    StopWanted,
    UpgradeWanted,
)
from penstock.supervisor.loop import Loop
from penstock.supervisor.state import (
    Delaying,
    Draining,
    HandingOver,
    Serving,
    Starting,
    State,
    Stopping,
    Upgrading,
)
from penstock.supervisor.status import Counters
from penstock.supervisor.supervisor import Supervisor
from penstock.supervisor.upgrade import Successor
from penstock.supervisor.worker_process import Stage, WorkerProcess
from support.workers import Workers, begin


class Generation:
    """The one that takes new connections."""

    def __init__(self, workers: Workers) -> None:
        self.number = 1
        self.wanted = 1
        self.paused_until = 0.0
        self.settings = Settings()
        self._workers = workers

    @property
    def serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.all if worker.stage is Stage.SERVING]


class Pool:
    """The workers that have not ended."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def __iter__(self) -> Iterator[WorkerProcess]:
        return (worker for worker in self._workers.all if worker.stage is not Stage.ENDED)


class FakeSupervisor:
    """Does nothing of what it is told, but for successors, which it makes where it can."""

    def __init__(self) -> None:
        self.fake = Workers()
        self.state: State = Serving()
        self.counters = Counters()
        self.current = Generation(self.fake)
        self.pool = Pool(self.fake)
        self.listeners: list[Listener] = []
        self.certificates = Certificates(
            cast(Loop, None), logging.getLogger(__name__), "shop:app", None, lambda: None
        )
        self.told: list[Event] = []
        self.has_room = True
        self.counts_alone = True

    def handle(self, event: Event) -> None:
        if isinstance(event, ScaleWanted):
            if event.workers > 5:
                raise ControlError("no room")
            self.current.wanted = event.workers
            return
        self.told.append(event)
        if isinstance(event, RecycleWanted) and event.worker.replaced_by is None and self.has_room:
            successor = self.fake.add(event.worker.pid + 1, Stage.BOOTING)
            event.worker.replaced_by = successor
            successor.replaces = event.worker


class Asking:
    """Commands, and the fake supervisor that they are for."""

    def __init__(self) -> None:
        self.supervisor = FakeSupervisor()
        self.commands = Commands(cast(Supervisor, self.supervisor), "shop:app")
        self.answers: list[Any] = []

    def ask(self, asked: Question | Command) -> Any:
        """Ask, and return the answer if there is one already."""
        before = len(self.answers)
        self.commands.handle(asked, self.answers.append)
        return self.answers[-1] if len(self.answers) > before else None

    def tick(self) -> None:
        """Have the supervisor check what is waited for."""
        self.commands.tick(time.monotonic())


@pytest.fixture
def here() -> Iterator[Asking]:
    here = Asking()
    yield here
    here.supervisor.fake.close()


# Questions


def test_the_status_is_put_together_from_what_there_is(here: Asking) -> None:
    worker = here.supervisor.fake.add(7)
    begin(worker, 0, 2.0, None, "/")
    status = here.ask(ShowStatus())
    assert abs(status["since"] + status["age"] - time.time()) < 5
    assert status | {"since": 0, "age": 0} == {
        "version": status["version"],
        "pid": os.getpid(),
        "application": "shop:app",
        "state": "serving",
        "next_start": None,
        "generation": 1,
        "since": 0,
        "age": 0,
        "listeners": [],
        "transport": status["transport"],
        "threads": Settings().threads,
        "workers": 1,
        "cpus": float(allowed_cpus()),
        "top_client": None,
        "trusted_proxies": ["127.0.0.0/8", "::1/128", "unix"],
        "unknown_proxies": [],
        "certificates": [],
        "counts": status["counts"],
        "crashes": {},
        "last_crashes": [],
        "last_reload": None,
        "last_error": None,
        "ready": True,
        "live": True,
    }
    assert status["transport"] in ("native", "python")
    assert status["counts"]["in_progress"] == 1
    assert here.ask(ShowWorkers())["workers"][0]["pid"] == 7
    assert here.ask(ShowRequests())["requests"][0]["target"] == "/"


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (Starting(), False),
        (Serving(), True),
        (Upgrading(cast(Successor, None)), True),
        (Delaying(0.0, 0.0), False),
        (Draining(), False),
        (Stopping(), False),
    ],
)
def test_it_is_ready_neither_before_it_serves_nor_once_it_stops(
    here: Asking, state: State, ready: bool
) -> None:
    here.supervisor.fake.add(7)
    here.supervisor.state = state
    status = here.ask(ShowStatus())
    assert (status["ready"], status["live"]) == (ready, True)
    here.supervisor.state = HandingOver()
    assert here.ask(ShowStatus())["ready"]  # a successor serves


def test_it_is_down_while_no_worker_serves_and_says_when_the_next_one_starts(here: Asking) -> None:
    here.supervisor.state = Serving()
    here.supervisor.fake.add(7, Stage.BOOTING)
    here.supervisor.current.paused_until = time.monotonic() + 1000.0
    status = here.ask(ShowStatus())
    assert status["state"] == "down"
    assert 0 < status["next_start"] <= 1000.0
    shown = tables.status(status, None)
    assert "down: no worker serves; the next start is in 16m" in shown
    here.supervisor.fake.add(8)
    assert here.ask(ShowStatus())["state"] == "serving"


def test_stacks_are_those_of_one_worker_or_of_all_that_are_known(here: Asking) -> None:
    first, second = here.supervisor.fake.add(7), here.supervisor.fake.add(8)
    here.supervisor.fake.add(0, Stage.BOOTING)
    assert here.ask(ShowStacks(8)) is None
    assert here.ask(ShowStacks(None)) is None
    assert here.commands.is_busy
    here.commands.stacks.on_stacks(second, "there")
    here.commands.stacks.on_stacks(first, "here")
    assert here.answers == [
        {"stacks": {"8": "there"}, "workers": {"8": 2}},
        {"stacks": {"7": "here", "8": "there"}, "workers": {"7": 1, "8": 2}},
    ]


def test_a_worker_is_named_by_its_process_id_or_else_by_its_number(here: Asking) -> None:
    first = here.supervisor.fake.add(7)
    here.supervisor.fake.add(0, Stage.BOOTING)  # its process id is not known yet
    assert here.commands._find(7) is first
    assert here.commands._find(1) is first
    for number in (99, 0):
        with pytest.raises(ControlError, match=f"the number or the process id {number}") as caught:
            here.ask(ShowStacks(number))
        assert caught.value.status == 404


def test_a_process_id_counts_more_than_a_number(here: Asking) -> None:
    here.supervisor.fake.add(5)
    here.supervisor.fake.add(6)
    third = here.supervisor.fake.add(1)
    assert here.commands._find(1) is third


# Commands


def test_what_the_supervisor_answers_itself_is_passed_on(here: Asking) -> None:
    for asked in (Reload(), Upgrade(), Stop(graceful=False)):
        assert here.ask(asked) is None
    assert here.ask(Stop(graceful=True)) is None
    reply = here.answers.append
    assert here.supervisor.told == [
        ReloadWanted(reply),
        UpgradeWanted(reply),
        QuitWanted(reply),
        StopWanted(reply),
    ]


def test_a_scale_is_over_when_there_are_as_many_workers(here: Asking) -> None:
    fake = here.supervisor.fake
    fake.add(7)
    here.ask(Scale(2))
    second = fake.add(8, Stage.BOOTING)
    here.tick()
    assert here.commands.is_busy
    assert here.answers == []
    second.stage = Stage.SERVING
    here.tick()
    assert here.answers == [Outcome(True, "2 workers serve")]
    assert not here.commands.is_busy
    here.ask(Scale(1))
    second.stage = Stage.LEAVING
    here.tick()
    assert here.answers[1:] == [Outcome(True, "1 worker serves")]


def test_a_scale_that_changes_nothing_is_over_at_once(here: Asking) -> None:
    here.supervisor.fake.add(7)
    here.ask(Scale(1))
    assert here.answers == [Outcome(True, "1 worker serves")]


def test_a_scale_that_cannot_begin_is_refused(here: Asking) -> None:
    with pytest.raises(ControlError, match="no room"):
        here.ask(Scale(9))
    assert not here.commands.is_busy


def test_a_scale_is_overtaken_by_the_next_and_by_a_reload(here: Asking) -> None:
    here.ask(Scale(3))
    here.ask(Scale(2))
    here.tick()
    overtaken = Outcome(False, "something else was asked for in the meantime")
    assert here.answers == [overtaken]
    here.supervisor.current = Generation(here.supervisor.fake)
    here.tick()
    assert here.answers == [overtaken, overtaken]


def test_a_scale_does_not_wait_for_workers_that_do_not_boot(here: Asking) -> None:
    here.supervisor.current.settings = replace(Settings(), boot_timeout=0.0)
    here.supervisor.fake.add(7)
    here.ask(Scale(2))
    here.tick()
    assert here.answers == [Outcome(False, "only 1 of 2 workers serve by now")]


def test_a_recycling_is_over_when_the_worker_has_gone(here: Asking) -> None:
    worker = here.supervisor.fake.add(7)
    here.ask(Recycle(7))
    assert here.supervisor.told == [RecycleWanted(worker)]
    successor = worker.replaced_by
    assert successor is not None
    successor.stage = Stage.SERVING
    worker.stage = Stage.LEAVING
    here.tick()
    assert here.answers == []
    worker.stage = Stage.ENDED
    worker.replaced_by = None
    here.tick()
    assert here.answers == [
        Outcome(True, "worker 1 (pid 7) was replaced by worker 2 (pid 8)"),
    ]


def test_a_recycling_fails_when_the_successor_does(here: Asking) -> None:
    worker = here.supervisor.fake.add(7)
    here.ask(Recycle(7))
    worker.replaced_by = None
    here.tick()
    text = "worker 1 (pid 7) goes on: its successor could not start"
    assert here.answers == [Outcome(False, text)]


def test_a_worker_that_is_being_replaced_is_not_replaced_twice(here: Asking) -> None:
    worker = here.supervisor.fake.add(7)
    here.ask(Recycle(7))
    here.ask(Recycle(7))
    assert [each.pid for each in here.supervisor.fake.all] == [7, 8]
    worker.stage = Stage.ENDED
    here.tick()
    assert [outcome.done for outcome in here.answers] == [True, True]


def test_a_worker_that_cannot_be_recycled_is_an_error(here: Asking) -> None:
    with pytest.raises(ControlError, match="no worker has the number or the process id 8"):
        here.ask(Recycle(8))
    here.supervisor.has_room = False
    here.supervisor.fake.add(9)
    with pytest.raises(ControlError, match="no successor"):
        here.ask(Recycle(9))
