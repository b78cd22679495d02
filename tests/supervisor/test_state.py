"""Every event in every state: what the supervisor does, and which state follows."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.config.settings import Settings
from penstock.control.commands import ControlError, Outcome
from penstock.errors import SettingsError
from penstock.supervisor.events import (
    BootFailed,
    Event,
    Interrupted,
    NoWorkersWanted,
    PredecessorLeft,
    QuitWanted,
    RecycleWanted,
    ReloadWanted,
    ReopenWanted,
    ScaleWanted,
    StopWanted,
    SuccessorFailed,
    SuccessorServes,
    Tick,
    UpgradeWanted,
    WorkerCrashed,
    WorkerLeft,
    WorkerReady,
    WorkerReported,
    WorkerServing,
)
from penstock.supervisor.generation import Generation, Launch
from penstock.supervisor.reload import Preparation, ReloadInProgress, RemovedListeners
from penstock.supervisor.state import (
    IGNORE,
    STATES,
    TABLE,
    Delaying,
    Down,
    Draining,
    HandingOver,
    Preparing,
    Refuse,
    Reloading,
    Serving,
    Starting,
    State,
    Stopping,
    Upgrading,
    page,
)
from penstock.supervisor.supervisor import Supervisor
from penstock.supervisor.upgrade import Successor
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.error_log import process_logger
from support.workers import Workers

FOREVER = 1e12
"""On the monotonic clock: later than any test."""


class FakeSuccessor(Successor):
    """A new supervisor without a process."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        super().__init__(cast(Any, None), lambda _: None, self.answers.append)
        self.pid = 0
        self.ended = False

    def check_deadline(self, now: float) -> None:
        """Wait for ever."""

    def send_totals(self, totals: Mapping[str, float]) -> None:
        """Send nothing: there is no process."""

    def send_kept(self, message: Mapping[str, Any]) -> None:
        """Send nothing, likewise."""

    def flush(self) -> None:
        """Have nothing to send."""

    def end(self) -> None:
        """Note the order."""
        self.ended = True


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """Give the process's logger back as it was: a supervisor keeps it until its process ends."""
    logger = process_logger()
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    for handler in [each for each in logger.handlers if each not in handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = propagate


class Server:
    """A supervisor that has one generation of one fake worker, and starts no process."""

    def __init__(self, path: Path) -> None:
        settings = replace(
            Settings(),
            error_logfile=str(path / "log"),
            workers=1,
            control="off",
            shutdown_delay=0.0,
        )

        def read_settings() -> Settings:
            raise SettingsError("the settings cannot be read")

        launch = Launch(os.getcwd(), {}, "shop:app", settings, read_settings, lambda settings: None)
        self.supervisor = Supervisor(launch, [])
        self.workers = Workers()
        self.supervisor.current = self.generation = self.make_generation()
        self.worker = self.add(self.generation, Stage.SERVING)
        self.log = path / "log"

    def make_generation(self) -> Generation:
        """Make a generation that starts no worker by itself."""
        supervisor = self.supervisor
        generation = supervisor.pool.new_generation(
            supervisor.launch, supervisor.settings, supervisor.listeners
        )
        generation.paused_until = FOREVER
        return generation

    def add(self, generation: Generation, stage: Stage) -> WorkerProcess:
        """Add a worker to a generation."""
        worker = self.workers.add(0, stage, generation.number)
        worker.let_in = stage is not Stage.BOOTING
        generation.workers.append(worker)
        return worker

    def orders(self) -> list[str]:
        """Return what the worker was ordered since the last call."""
        return [str(message["do"]) for message in self.workers.lines[0].receive()]

    def be(self, kind: type[Any]) -> State:
        """Put the supervisor into a state."""
        supervisor = self.supervisor
        if kind is Reloading:
            coming = self.make_generation()
            source = supervisor.certificates.prepare(supervisor.settings)
            reload = ReloadInProgress(supervisor.pool, coming, supervisor.logger, None, source)
            supervisor.state = Reloading(reload)
        elif kind is Preparing:
            settings = replace(supervisor.settings, bind=())
            preparation = Preparation(settings, settings, [], supervisor._helpers, None)
            preparation._awaited = 1  # as if a directory did not answer
            supervisor.state = Preparing(preparation)
        elif kind is Upgrading:
            supervisor.state = Upgrading(FakeSuccessor())
        elif kind is Delaying:
            supervisor.state = Delaying(FOREVER, FOREVER)
        else:
            supervisor.state = kind()
        return supervisor.state

    def event(self, kind: type[Any]) -> Event:
        """Return an event of a kind, of the generation that serves."""
        worker, generation = self.worker, self.generation
        made: dict[type[Any], Callable[[], Event]] = {
            ScaleWanted: lambda: ScaleWanted(1),
            RecycleWanted: lambda: RecycleWanted(worker),
            WorkerReady: lambda: WorkerReady(worker),
            WorkerServing: lambda: WorkerServing(worker),
            BootFailed: lambda: BootFailed(generation, worker, {"message": "no", "status": 3}),
            WorkerCrashed: lambda: WorkerCrashed(worker, 0.0, 1),
            WorkerLeft: lambda: WorkerLeft(worker, clean=True),
            WorkerReported: lambda: WorkerReported(
                worker, {"event": "asked to stop", "at_once": False}
            ),
            SuccessorServes: lambda: SuccessorServes(4711),
            SuccessorFailed: lambda: SuccessorFailed("it ended"),
            PredecessorLeft: lambda: PredecessorLeft(4710),
            Tick: lambda: Tick(0.0),
        }
        return cast(Event, made.get(kind, kind)())

    def close(self) -> None:
        """Close what is open."""
        self.supervisor.loop.close()
        self.supervisor.error_log.close()
        self.workers.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


ENDING = (Draining, HandingOver, Stopping)

FOLLOWS: dict[type[Any], dict[type[Any], type[Any]]] = {
    StopWanted: {
        Starting: Draining, Serving: Draining, Preparing: Draining, Reloading: Draining,
        Upgrading: Draining,
    },
    QuitWanted: dict.fromkeys([state for state in STATES if state is not Down], Stopping),
    Interrupted: dict.fromkeys([state for state in STATES if state is not Down], Stopping),
    # Given up; these settings cannot be read.
    ReloadWanted: {Preparing: Serving, Reloading: Serving},
    WorkerServing: {Starting: Serving},
    BootFailed: {Starting: Stopping},
    SuccessorServes: {Upgrading: HandingOver},
    SuccessorFailed: {Upgrading: Serving},
}  # fmt: skip
"""The state after an event, where it is another one."""

REFUSED: dict[type[Any], list[type[Any]]] = {
    ReloadWanted: [Starting, Upgrading, Delaying, *ENDING],
    UpgradeWanted: [Starting, Preparing, Reloading, Upgrading, Delaying, *ENDING],
    ScaleWanted: [Starting, Preparing, Reloading, Upgrading, Delaying, *ENDING],
    RecycleWanted: [Starting, Preparing, Reloading, Delaying, *ENDING],
    NoWorkersWanted: [Starting],
}
"""The states in which a command is refused."""

CELLS = [
    (event, state)
    for event, state in itertools.product(TABLE, STATES)
    # These two start a process. tests/lifecycle has them.
    if (event, state) not in {(UpgradeWanted, Serving), (RecycleWanted, Serving)}
    and (event, state) != (RecycleWanted, Upgrading)
]


def test_every_event_has_a_cell_for_every_state_and_every_action_a_method() -> None:
    wrong = []
    for event, state in itertools.product(Event.__args__, State.__args__):
        reaction = TABLE[event][state]
        action = getattr(Supervisor, f"_{reaction}", None)
        if reaction != IGNORE and not isinstance(reaction, Refuse) and not callable(action):
            wrong.append((event.__name__, state.__name__, reaction))
    assert not wrong
    assert set(STATES) == set(State.__args__)


def test_the_page_of_the_states_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs/supervisor-states.md"
    assert path.read_text("utf-8") == page(), "run make docs"


def test_only_commands_are_refused() -> None:
    refused = {
        event: [state for state in STATES if isinstance(TABLE[event][state], Refuse)]
        for event in TABLE
    }
    refused[ReloadWanted].insert(0, Starting)  # unless the start waits for a change
    assert {event: states for event, states in refused.items() if states} == REFUSED


@pytest.mark.parametrize(
    ("event", "state"), CELLS, ids=[f"{event.__name__}-{state.__name__}" for event, state in CELLS]
)
def test_an_event_leads_from_a_state_to_the_next(
    server: Server, event: type[Any], state: type[Any]
) -> None:
    before = server.be(state)
    if state in REFUSED.get(event, []):
        with pytest.raises(ControlError, match=r"^(the server is|an upgrade)"):
            server.supervisor.handle(server.event(event))
        assert server.supervisor.state is before
        return
    server.supervisor.handle(server.event(event))
    after = server.supervisor.state
    expected = FOLLOWS.get(event, {}).get(state)
    if expected is not None:
        assert isinstance(after, expected)
    else:
        assert isinstance(after, state)


@pytest.mark.parametrize("state", [Serving, Preparing, Reloading, Upgrading])
def test_a_stop_gives_up_what_is_under_way_and_orders_the_workers_to_finish(
    server: Server, state: type[Any]
) -> None:
    before = server.be(state)
    server.supervisor.handle(StopWanted())
    assert server.orders() == ["stop"]
    if isinstance(before, Upgrading):
        assert cast(FakeSuccessor, before.successor).ended
        assert "not upgraded, this supervisor goes on: the server stops" in server.log.read_text()
    if isinstance(before, Reloading):
        assert before.reload.coming not in server.supervisor.pool.generations
    server.supervisor.handle(StopWanted())
    assert isinstance(server.supervisor.state, Draining)
    assert server.orders() == []
    server.supervisor.handle(QuitWanted())
    assert server.orders() == ["quit"]


def test_a_stop_leaves_a_removed_address_open_until_its_queue_is_empty(server: Server) -> None:
    server.be(Serving)
    waiting, answers = removed_address(server)
    server.supervisor.handle(StopWanted())
    assert server.orders() == ["stop"]  # with which the workers accept what waits there, too
    assert server.supervisor._removed == [waiting]
    assert answers == []
    server.supervisor._close_removed(FOREVER)
    assert answers == [Outcome(True, "reloaded: generation 2 serves")]


def test_workers_that_accept_at_a_removed_address_leave_when_that_is_closed(
    server: Server,
) -> None:
    server.be(Upgrading)
    _, answers = removed_address(server)
    server.supervisor.handle(SuccessorServes(4711))
    assert server.orders() == []
    server.supervisor._close_removed(FOREVER)
    assert server.orders() == ["leave"]
    assert len(answers) == 1


def removed_address(server: Server) -> tuple[RemovedListeners, list[Any]]:
    """Have the workers be the old ones of a reload that has removed an address."""
    answers: list[Any] = []
    supervisor = server.supervisor
    coming = server.make_generation()
    source = supervisor.certificates.prepare(supervisor.settings)
    reload = ReloadInProgress(supervisor.pool, coming, supervisor.logger, answers.append, source)
    removed = RemovedListeners([], server.generation, reload, FOREVER, FOREVER)
    supervisor._removed.append(removed)
    return removed, answers


def test_one_deadline_covers_the_shutdown_delay_and_the_drain(server: Server) -> None:
    server.supervisor.settings = replace(
        server.supervisor.settings, shutdown_delay=10.0, graceful_timeout=25.0
    )
    server.be(Serving)
    server.supervisor.handle(StopWanted())
    state = server.supervisor.state
    assert isinstance(state, Delaying)
    assert state.end_by - state.until == pytest.approx(15.0)
    assert server.orders() == []
    server.supervisor.handle(Tick(state.until - 1))
    assert server.supervisor.state is state
    server.supervisor.state = replace(state, end_by=state.end_by - 10.0)  # as 10 s later
    server.supervisor.handle(Tick(state.until))
    assert isinstance(server.supervisor.state, Draining)
    [order] = server.workers.lines[0].receive()
    assert order["do"] == "stop"
    assert order["within"] == pytest.approx(15.0, abs=1.0)


def test_a_server_that_hands_over_is_stopped_at_once_by_the_second_signal(server: Server) -> None:
    server.be(HandingOver)
    server.supervisor.handle(StopWanted())
    assert server.supervisor.state == HandingOver(told_to_stop=True)
    assert server.orders() == []
    server.supervisor.handle(StopWanted())
    assert isinstance(server.supervisor.state, Stopping)
    assert server.orders() == ["quit"]


@pytest.mark.parametrize("state", ENDING)
def test_it_is_down_when_the_last_worker_has_ended(server: Server, state: type[Any]) -> None:
    server.be(state)
    server.supervisor.handle(Tick(0.0))
    assert isinstance(server.supervisor.state, state)
    server.generation.workers.clear()
    server.supervisor.handle(Tick(0.0))
    assert server.supervisor.state == Down()


@pytest.mark.parametrize("state", [Delaying, *ENDING])
def test_a_worker_that_serves_first_during_the_stop_is_not_ready(
    server: Server, state: type[Any]
) -> None:
    from penstock.telemetry.scoreboard import READY

    server.be(state)
    assert server.worker.slot.words[READY] == 1
    server.supervisor.handle(WorkerServing(server.worker))
    assert server.worker.slot.words[READY] == 0


def test_an_upgrade_that_fails_is_answered_and_the_server_goes_on(server: Server) -> None:
    state = server.be(Upgrading)
    assert isinstance(state, Upgrading)
    server.supervisor.handle(SuccessorFailed("it ended"))
    message = "not upgraded, this supervisor goes on: it ended"
    assert cast(FakeSuccessor, state.successor).answers == [Outcome(False, message)]
    assert server.orders() == []


def test_an_upgrade_that_serves_is_answered_and_the_workers_leave(server: Server) -> None:
    state = server.be(Upgrading)
    assert isinstance(state, Upgrading)
    server.supervisor.handle(SuccessorServes(4711))
    message = "upgraded: the new supervisor is process 4711"
    assert cast(FakeSuccessor, state.successor).answers == [Outcome(True, message)]
    assert server.orders() == ["leave"]
    assert server.supervisor.counters.upgrades == 1


def test_a_reload_that_cannot_begin_is_answered_and_counted(server: Server) -> None:
    answers: list[Any] = []
    server.be(Serving)
    server.supervisor.handle(ReloadWanted(answers.append))
    message = "not reloaded, all goes on as it was: the settings cannot be read"
    assert answers == [Outcome(False, message)]
    last = server.supervisor.counters.last_reload
    assert last is not None
    assert last["message"] == message
    error = server.supervisor.counters.last_error
    assert error is not None
    assert message in error["message"]


def test_only_a_worker_that_serves_can_be_recycled(server: Server) -> None:
    server.be(Serving)
    server.worker.stage = Stage.LEAVING
    with pytest.raises(ControlError, match=r"does not serve: it is leaving"):
        server.supervisor.handle(RecycleWanted(server.worker))


@pytest.mark.parametrize(("workers", "most"), [(0, 33), (34, 33)])
def test_a_number_of_workers_without_room_is_refused(
    server: Server, workers: int, most: int
) -> None:
    server.be(Serving)
    with pytest.raises(ControlError, match=f"allowed is 1 to {most}"):
        server.supervisor.handle(ScaleWanted(workers))


def test_a_stuck_request_and_its_end_are_noted(server: Server) -> None:
    server.be(Reloading)
    stuck = {"event": "stuck", "request": "GET /slow", "free_threads": 3}
    server.supervisor.handle(WorkerReported(server.worker, stuck))
    assert (server.worker.stuck, server.worker.free_threads) == ("GET /slow", 3)
    server.supervisor.handle(WorkerReported(server.worker, {"event": "stuck", "request": ""}))
    assert server.worker.stuck == ""


@pytest.mark.parametrize("event", [ReopenWanted, PredecessorLeft])
def test_events_without_a_worker_change_no_state(server: Server, event: type[Any]) -> None:
    before = server.be(Serving)
    server.supervisor.handle(server.event(event))
    assert server.supervisor.state is before
