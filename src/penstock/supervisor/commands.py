"""Executes what clients of the control server ask for, and answers their questions."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.config.checks import chosen_transport
from penstock.config.worker_count import allowed_cpus
from penstock.control.commands import (
    Command,
    ControlError,
    EndProfile,
    Outcome,
    Profile,
    Question,
    Recycle,
    Reload,
    Reply,
    Scale,
    ShowFigures,
    ShowFindings,
    ShowHistory,
    ShowNotable,
    ShowRecent,
    ShowRequests,
    ShowSettings,
    ShowStacks,
    ShowStatus,
    ShowWorkers,
    Stop,
    Upgrade,
)
from penstock.supervisor import events
from penstock.supervisor.figures import cpu_seconds_of, figures_of
from penstock.supervisor.history import History
from penstock.supervisor.notable import Notable
from penstock.supervisor.profiles import Profiles
from penstock.supervisor.stack_collector import StackCollector
from penstock.supervisor.state import HandingOver, Preparing, Reloading, Serving, Upgrading
from penstock.supervisor.status import Overview, recent_rows
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.cgroups import Cgroups, resident_memory

if TYPE_CHECKING:
    from penstock.control.rows import Figures, Status
    from penstock.supervisor.supervisor import Supervisor
    from penstock.worker.channel import Message

_DAY = 86400.0

FINDINGS_SECONDS = 10.0
"""How often the rules look at the last hour, however many clients ask: it takes milliseconds."""


class Commands:
    """Commands whose outcome is waited for, and questions, all in the supervisor's thread."""

    def __init__(self, supervisor: Supervisor, application: str) -> None:
        """``application`` is as it was named."""
        self.stacks = StackCollector(WorkerProcess.ask_for_dump)
        self.notable = Notable()
        self.profiles = Profiles()
        self._supervisor = supervisor
        self._application = application
        self.overview = Overview(supervisor.pool, supervisor.counters, resident_memory)
        self._cgroups = Cgroups()
        self._history = History(self._figures)
        self._findings_due = 0.0
        self._found: Mapping[str, object] = {}
        self._since = time.time()
        self._began = time.monotonic()
        self._awaited: list[tuple[Callable[[], Outcome | None], Reply]] = []

    @property
    def is_busy(self) -> bool:
        """Whether `tick` is to be called again soon."""
        return bool(self._awaited) or self.stacks.is_busy or self.profiles.is_busy

    def tick(self, now: float) -> None:
        """Check deadlines and the outcomes that clients wait for."""
        self.stacks.tick(now)
        if self._supervisor.counts_alone:
            self._history.tick(now)
        self.profiles.tick(now)
        awaited, self._awaited = self._awaited, []
        for outcome, reply in awaited:
            self._await(outcome, reply)

    def handle(self, asked: Question | Command, reply: Reply) -> None:
        """Execute a command or answer a question, as `penstock.control.commands.Handle` says."""
        supervisor = self._supervisor
        match asked:
            case ShowStatus():
                reply(self.status())
            case ShowWorkers():
                reply({"workers": self.overview.workers()})
            case ShowRequests():
                reply({"requests": self.overview.requests()})
            case ShowFigures():
                reply(self._figures())
            case ShowHistory(since, most):
                events_ = [row for row in supervisor.counters.events if row["at"] > since]
                reply({**self._history.since(since, most), "events": events_})
            case ShowFindings():
                reply(self._findings())
            case ShowSettings():
                from penstock.config.shown import setting_rows  # where they are asked for only

                reply({"settings": setting_rows(supervisor.current.settings)})
            case ShowStacks(number):
                # A worker that has not loaded its application takes no orders: C code writes.
                workers = [worker for worker in supervisor.pool if worker.pid]
                self.stacks.ask([self._find(number)] if number is not None else workers, reply)
            case ShowRecent(number, query):
                reply({"recent": recent_rows(self._find(number), with_query=query)})
            case ShowNotable(kind):
                reply(getattr(self.notable, kind)())
            case Profile(number):
                self.profiles.ask(self._find(number), asked, reply)
            case EndProfile(number):
                with suppress(ControlError):  # it has ended meanwhile
                    self.profiles.give_up(self._find(number))
            case Reload():
                supervisor.handle(events.ReloadWanted(reply))
            case Upgrade():
                supervisor.handle(events.UpgradeWanted(reply))
            case Stop(graceful):
                supervisor.handle(
                    events.StopWanted(reply) if graceful else events.QuitWanted(reply)
                )
            case Scale(workers):
                self._scale(workers, reply)
            case Recycle(number):
                self._recycle(self._find(number), reply)

    def _findings(self) -> Mapping[str, object]:
        """Return what is wrong with the server, as of some seconds ago at most."""
        now = time.monotonic()
        if now >= self._findings_due:
            from penstock.control.doctor import Evidence, diagnose
            from penstock.control.past import Past

            self._findings_due = now + FINDINGS_SECONDS
            past = Past(self._history.since(0))
            evidence = Evidence(past, self.status(), self.overview.requests())
            self._found = {
                "at": round(time.time(), 3),
                "seconds": past.seconds,
                "is_enough": evidence.is_enough,
                "findings": [asdict(finding) for finding in diagnose(evidence)],
            }
        return self._found

    def _find(self, number: int) -> WorkerProcess:
        """Return the worker with this process id, or else the one with this number."""
        workers = list(self._supervisor.pool)
        for worker in workers:
            if number and worker.pid == number:
                return worker
        for worker in workers:
            if worker.number == number:
                return worker
        raise ControlError(f"no worker has the number or the process id {number}", 404)

    def status(self) -> Status:
        """Return the state of the server."""
        supervisor = self._supervisor
        current = supervisor.current
        return {
            "version": __version__,
            "pid": os.getpid(),
            "application": self._application,
            "state": self._state(),
            "next_start": self._next_start(),
            "generation": current.number,
            "since": round(self._since, 3),
            "age": round(time.monotonic() - self._began, 3),
            "listeners": [listener.name for listener in supervisor.listeners],
            "transport": chosen_transport(current.settings),
            "threads": current.settings.threads,
            "workers": current.wanted,
            "cpus": self._cpus(),
            "top_client": self.overview.top_client(),
            "trusted_proxies": list(current.settings.forwarded_allow_ips),
            "unknown_proxies": self.overview.forwarding_peers(),
            "certificates": [
                {
                    "names": list(each.names),
                    "expires": each.not_after,
                    "days": math.floor((each.not_after - time.time()) / _DAY),
                    "renewal": supervisor.certificates.renewal_of(each.names),
                }
                for each in supervisor.certificates.expiries
            ],
            "counts": self.overview.counts(),
            "crashes": dict(supervisor.counters.crashes),
            "last_crashes": list(supervisor.counters.last_crashes),
            "last_reload": supervisor.counters.last_reload,
            "last_error": supervisor.counters.last_error,
            "ready": self._is_ready(),
            "live": self.overview.is_live(),
        }

    def _cpus(self) -> float:
        quota = self._cgroups.cpu_quota()
        return min(float(allowed_cpus()), quota or math.inf)

    def _figures(self) -> Figures:
        supervisor = self._supervisor
        return figures_of(
            self.status(),
            self.overview,
            supervisor.pool,
            supervisor.listeners,
            self._cgroups,
            supervisor.counters.cpu_seconds,
            resident_memory,
            self.notable.exemplars.by_series(),
        )

    def totals(self) -> dict[str, float]:
        """Return what a supervisor counts on from that takes this one's place."""
        supervisor = self._supervisor
        before = supervisor.counters.cpu_seconds
        return self.overview.totals(before + cpu_seconds_of(supervisor.pool))

    def hand_over(self, send: Callable[[Message], None]) -> None:
        """Send what is kept to look back on to the supervisor that takes this one's place."""
        send(self._history.hand_over())
        send(self._supervisor.counters.hand_over())
        self.notable.hand_over(send)

    def take_over(self, message: Message) -> None:
        """Keep what the supervisor before this one has sent, which may be of another version."""
        match message["event"]:
            case "history":
                self._history.take_over(message)
            case "life cycle":
                self._supervisor.counters.take_over(message)
            case "noted":
                self.notable.take_over(message)

    def _state(self) -> str:
        """Return the state of the supervisor; ``down`` where it serves and no worker does."""
        supervisor = self._supervisor
        down = isinstance(supervisor.state, Serving) and not any(
            worker.stage is Stage.SERVING for worker in supervisor.pool
        )
        return "down" if down else supervisor.state.name

    def _next_start(self) -> float | None:
        """Return in how many seconds the next worker is started; None where none waits for that."""
        pause = self._supervisor.current.paused_until - time.monotonic()
        return round(pause, 3) if pause > 0 else None

    def _is_ready(self) -> bool:
        match self._supervisor.state:
            case HandingOver():
                return True  # asked on a connection from before: the successor serves
            case Serving() | Preparing() | Reloading() | Upgrading():
                return self.overview.is_ready()
        return False

    # -- commands whose outcome shows in the workers ----------------------------------------------

    def _scale(self, workers: int, reply: Reply) -> None:
        supervisor = self._supervisor
        supervisor.handle(events.ScaleWanted(workers))
        current = supervisor.current
        deadline = time.monotonic() + current.settings.boot_timeout

        def outcome() -> Outcome | None:
            serving = len(current.serving)
            if current is not supervisor.current or current.wanted != workers:
                return Outcome(False, "something else was asked for in the meantime")
            if serving == workers:
                noun = "worker serves" if workers == 1 else "workers serve"
                return Outcome(True, f"{workers} {noun}")
            if time.monotonic() > deadline:
                return Outcome(False, f"only {serving} of {workers} workers serve by now")
            return None

        self._await(outcome, reply)

    def _recycle(self, worker: WorkerProcess, reply: Reply) -> None:
        self._supervisor.handle(events.RecycleWanted(worker))
        successor = worker.replaced_by
        if successor is None:
            raise ControlError(f"no successor of {worker} could be started; the log says why")

        def outcome() -> Outcome | None:
            if worker.stage is Stage.ENDED:
                return Outcome(True, f"{worker} was replaced by {successor}")
            if worker.stage is Stage.SERVING and worker.replaced_by is None:
                return Outcome(False, f"{worker} goes on: its successor could not start")
            return None

        self._await(outcome, reply)

    def _await(self, outcome: Callable[[], Outcome | None], reply: Reply) -> None:
        known = outcome()
        if known is None:
            self._awaited.append((outcome, reply))
        else:
            reply(known)
