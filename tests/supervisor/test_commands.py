"""What is between those who ask and the supervisor: addresses, and outcomes that are waited for."""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest

from penstock.config.settings import Settings
from penstock.control.commands import Answer, ControlError, Outcome
from penstock.control.requests import Reception
from penstock.errors import ListenError
from penstock.listeners import Listener
from penstock.supervisor.worker_process import Stage, WorkerProcess
from support.fleets import Messages
from support.wire import Client, Response
from support.workers import Workers, begin


class Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Generation:
    """The one that takes new connections."""

    def __init__(self, workers: Workers) -> None:
        self.number = 1
        self.wanted = 1
        self.settings = Settings()
        self._workers = workers

    @property
    def serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.all if worker.stage is Stage.SERVING]


class Workforce:
    """The workers that have not ended."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def __iter__(self) -> Iterator[WorkerProcess]:
        return (worker for worker in self._workers.all if worker.stage is not Stage.ENDED)


class FakeSupervisor:
    """Does nothing of what it is told, but for successors, which it makes where it can."""

    def __init__(self) -> None:
        self.fake = Workers()
        self.phase: Enum = Phase.SERVING
        self.current = Generation(self.fake)
        self.workforce = Workforce(self.fake)
        self.listeners: list[Listener] = []
        self.told: list[tuple[object, ...]] = []
        self.has_room = True

    def begin_reload(self, answer: Answer) -> None:
        self.told.append(("reload", answer))

    def upgrade(self, answer: Answer) -> None:
        self.told.append(("upgrade", answer))

    def scale(self, workers: int) -> None:
        if workers > 5:
            raise ControlError("no room")
        self.current.wanted = workers

    def replace(self, worker: WorkerProcess, reason: str) -> None:
        self.told.append(("replace", worker.pid, reason))
        if self.has_room:
            worker.replaced_by = self.fake.add(worker.pid + 1, Stage.BOOTING)
            worker.replaced_by.replaces = worker

    def stop(self, *, graceful: bool, answer: Answer) -> None:
        self.told.append(("stop", graceful, answer))


class Here:
    """A reception, its supervisor, and the loop that both would run in."""

    def __init__(self) -> None:
        self.supervisor = FakeSupervisor()
        self.selector = selectors.DefaultSelector()
        self.messages = Messages()
        logger = logging.Logger("penstock.test")
        logger.addHandler(self.messages)
        self.dumps: list[WorkerProcess] = []
        self.reception = Reception(
            self.supervisor, "shop:app", self.selector, logger, lambda pid: 4096, self.dumps.append
        )
        self.outcomes: list[Outcome] = []

    def turn(self) -> None:
        """Do what is to be done now."""
        for _ in range(3):  # accept, read, write
            for key, mask in self.selector.select(0.05):
                key.data.handle_events(mask)
        self.reception.tick()

    def ask(self, address: str | tuple[str, int], method: str, target: str) -> Response:
        """Ask by a socket."""
        with Client(address) as client:
            client.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            self.turn()
            return client.read_response()


@pytest.fixture
def here() -> Iterator[Here]:
    here = Here()
    yield here
    here.reception.close()
    here.supervisor.fake.close()
    here.selector.close()


# Questions


def test_the_status_is_put_together_from_what_there_is(here: Here) -> None:
    worker = here.supervisor.fake.add(7)
    begin(worker, 0, 2.0, None, "/")
    status = here.reception.status()
    assert abs(status["since"] + status["age"] - time.time()) < 5
    assert status | {"since": 0, "age": 0} == {
        "version": status["version"],
        "pid": os.getpid(),
        "application": "shop:app",
        "state": "serving",
        "generation": 1,
        "since": 0,
        "age": 0,
        "listeners": [],
        "transport": status["transport"],
        "threads": Settings().threads,
        "workers": 1,
        "counts": status["counts"],
    }
    assert status["transport"] in ("native", "python")
    assert status["counts"]["in_progress"] == 1
    assert here.reception.workers()[0]["memory"] == 4096
    assert here.reception.requests()[0]["target"] == "/"


@pytest.mark.parametrize(
    ("phase", "ready"), [(Phase.STARTING, False), (Phase.SERVING, True), (Phase.STOPPING, False)]
)
def test_it_is_ready_neither_before_it_serves_nor_once_it_stops(
    here: Here, phase: Phase, ready: bool
) -> None:
    here.supervisor.fake.add(7)
    here.supervisor.phase = phase
    assert here.reception.is_ready() is ready
    assert here.reception.is_live()


def test_stacks_are_those_of_one_worker_or_of_all_that_are_known(here: Here) -> None:
    first, second = here.supervisor.fake.add(7), here.supervisor.fake.add(8)
    here.supervisor.fake.add(0, Stage.BOOTING)
    answers: list[dict[int, str]] = []
    here.reception.ask_stacks(8, answers.append)
    here.reception.ask_stacks(None, answers.append)
    assert here.reception.is_busy
    here.reception.stacks.on_stacks(second, "there")
    here.reception.stacks.on_stacks(first, "here")
    assert answers == [{8: "there"}, {7: "here", 8: "there"}]
    with pytest.raises(ControlError, match="no worker has the process id 99"):
        here.reception.ask_stacks(99, answers.append)


# Commands


def test_what_the_supervisor_answers_itself_is_passed_on(here: Here) -> None:
    def answer(outcome: Outcome) -> None:
        raise AssertionError("nobody has answered")

    here.reception.reload(answer)
    here.reception.upgrade(answer)
    here.reception.stop(False, answer)
    expected: list[tuple[object, ...]] = [
        ("reload", answer),
        ("upgrade", answer),
        ("stop", False, answer),
    ]
    assert here.supervisor.told == expected


def test_a_scale_is_over_when_there_are_as_many_workers(here: Here) -> None:
    fake = here.supervisor.fake
    fake.add(7)
    here.reception.scale(2, here.outcomes.append)
    second = fake.add(8, Stage.BOOTING)
    here.reception.tick()
    assert here.reception.is_busy
    assert here.outcomes == []
    second.stage = Stage.SERVING
    here.reception.tick()
    assert here.outcomes == [Outcome(True, "2 workers serve")]
    assert not here.reception.is_busy
    here.reception.scale(1, here.outcomes.append)
    second.stage = Stage.LEAVING
    here.reception.tick()
    assert here.outcomes[1:] == [Outcome(True, "1 worker serves")]


def test_a_scale_that_changes_nothing_is_over_at_once(here: Here) -> None:
    here.supervisor.fake.add(7)
    here.reception.scale(1, here.outcomes.append)
    assert here.outcomes == [Outcome(True, "1 worker serves")]


def test_a_scale_that_cannot_begin_is_refused(here: Here) -> None:
    with pytest.raises(ControlError, match="no room"):
        here.reception.scale(9, here.outcomes.append)
    assert not here.reception.is_busy


def test_a_scale_is_overtaken_by_the_next_and_by_a_reload(here: Here) -> None:
    here.reception.scale(3, here.outcomes.append)
    here.reception.scale(2, here.outcomes.append)
    here.reception.tick()
    overtaken = Outcome(False, "something else was asked for in the meantime")
    assert here.outcomes == [overtaken]
    here.supervisor.current = Generation(here.supervisor.fake)
    here.reception.tick()
    assert here.outcomes == [overtaken, overtaken]


def test_a_scale_does_not_wait_for_workers_that_do_not_boot(here: Here) -> None:
    here.supervisor.current.settings = replace(Settings(), boot_timeout=0.0)
    here.supervisor.fake.add(7)
    here.reception.scale(2, here.outcomes.append)
    here.reception.tick()
    assert here.outcomes == [Outcome(False, "only 1 of 2 workers serve by now")]


def test_a_recycling_is_over_when_the_worker_has_gone(here: Here) -> None:
    worker = here.supervisor.fake.add(7)
    here.reception.recycle(7, here.outcomes.append)
    assert here.supervisor.told == [("replace", 7, "penstockctl recycle")]
    successor = worker.replaced_by
    assert successor is not None
    successor.stage = Stage.SERVING
    worker.stage = Stage.LEAVING
    here.reception.tick()
    assert here.outcomes == []
    worker.stage = Stage.ENDED
    worker.replaced_by = None
    here.reception.tick()
    assert here.outcomes == [
        Outcome(True, "worker 7 (pid 7) was replaced by worker 8 (pid 8)"),
    ]


def test_a_recycling_fails_when_the_successor_does(here: Here) -> None:
    worker = here.supervisor.fake.add(7)
    here.reception.recycle(7, here.outcomes.append)
    worker.replaced_by = None
    here.reception.tick()
    text = "worker 7 (pid 7) goes on: its successor could not start"
    assert here.outcomes == [Outcome(False, text)]


def test_a_worker_that_is_being_replaced_is_not_replaced_twice(here: Here) -> None:
    worker = here.supervisor.fake.add(7)
    here.reception.recycle(7, here.outcomes.append)
    here.reception.recycle(7, here.outcomes.append)
    assert len(here.supervisor.told) == 1
    worker.stage = Stage.ENDED
    here.reception.tick()
    assert [outcome.done for outcome in here.outcomes] == [True, True]


def test_only_a_worker_that_serves_can_be_recycled(here: Here) -> None:
    here.supervisor.fake.add(7, Stage.BOOTING)
    with pytest.raises(ControlError, match=r"worker 7 \(pid 7\) does not serve: it is booting"):
        here.reception.recycle(7, here.outcomes.append)
    with pytest.raises(ControlError, match="no worker has the process id 8"):
        here.reception.recycle(8, here.outcomes.append)
    here.supervisor.has_room = False
    here.supervisor.fake.add(9)
    with pytest.raises(ControlError, match="no successor"):
        here.reception.recycle(9, here.outcomes.append)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
def test_no_worker_is_recycled_while_the_server_starts_or_stops(here: Here, phase: Phase) -> None:
    here.supervisor.fake.add(7)
    here.supervisor.phase = phase
    with pytest.raises(ControlError, match=f"the server is {phase.value}"):
        here.reception.recycle(7, here.outcomes.append)
    assert here.supervisor.told == []


# Addresses


def settings(control: str, admin: str | None = None) -> Settings:
    return replace(Settings(), control=control, admin=admin)


def admin_address(here: Here) -> tuple[str, int]:
    host, port = here.reception._services["admin"].listener.socket.getsockname()
    return host, port


def test_both_addresses_are_opened_and_answered(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    here.reception.open(settings(path, "127.0.0.1:0"))
    here.supervisor.fake.add(7)
    assert here.ask(path, "GET", "/workers").status == 200
    assert here.ask(admin_address(here), "GET", "/readyz").status == 200
    here.reception.close()
    assert not os.path.exists(path)


def test_nothing_is_open_where_one_address_cannot_be(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with pytest.raises(ListenError, match=r"setting: --admin"):
        here.reception.open(settings(path, "unix:" + str(tmp_path / "none" / "admin.sock")))
    assert not os.path.exists(path)
    assert here.reception.descriptors() == {}


def test_addresses_that_stay_are_left_alone_in_a_reload(here: Here, tmp_path: Path) -> None:
    same = settings(str(tmp_path / "control.sock"), "127.0.0.1:0")
    here.reception.open(same)
    before = here.reception.descriptors()
    here.reception.follow(same)
    assert here.reception.descriptors() == before


def test_addresses_that_change_are_followed_and_the_old_one_answers_who_waits(
    here: Here, tmp_path: Path
) -> None:
    old, new = str(tmp_path / "old.sock"), str(tmp_path / "new.sock")
    here.reception.open(settings(old))
    with Client(old) as waiting:
        waiting.send(b"POST /reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        here.turn()
        here.reception.follow(settings(new, "127.0.0.1:0"))
        assert not os.path.exists(old)
        assert here.ask(new, "GET", "/status").status == 200
        assert here.ask(admin_address(here), "GET", "/healthz").status == 200
        [(_, answer)] = here.supervisor.told
        answer(Outcome(True, "reloaded"))  # type: ignore[operator]
        assert waiting.read_response().status == 200
    here.turn()
    assert here.reception._leaving == []
    here.reception.follow(settings("off"))
    assert not os.path.exists(new)
    assert here.reception.descriptors() == {}


def test_an_address_that_cannot_be_followed_leaves_the_old_one(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    here.reception.open(settings(path))
    here.reception.follow(settings(str(tmp_path / "none" / "control.sock")))
    assert here.ask(path, "GET", "/status").status == 200
    assert "ERROR: control stays as it was: cannot listen" in "\n".join(here.messages.texts)


def test_sockets_with_a_name_of_their_own_are_passed_to_a_successor(
    here: Here, tmp_path: Path
) -> None:
    wanted = settings(str(tmp_path / "control.sock"), "127.0.0.1:0")
    here.reception.open(wanted)
    address = admin_address(here)
    successor = Here()
    passed = {name: os.dup(number) for name, number in here.reception.descriptors().items()}
    assert set(passed) == {"control", "admin"}
    successor.reception.open(wanted, passed)
    here.reception.hand_over()
    successor.reception.take_over()
    assert successor.ask(wanted.control, "GET", "/status").status == 200
    assert successor.ask(address, "GET", "/healthz").status == 200
    here.reception.close()
    assert successor.ask(wanted.control, "GET", "/status").status == 200
    successor.reception.close()
    successor.supervisor.fake.close()
    successor.selector.close()
    assert not os.path.exists(wanted.control)


def test_the_socket_of_auto_is_not_passed_since_the_process_is_in_its_name(here: Here) -> None:
    here.reception.open(settings("auto"))
    assert here.reception.descriptors() == {}
