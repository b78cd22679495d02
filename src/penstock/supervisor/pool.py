"""The pool: all workers of a server, their messages, their deadlines and their ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from penstock import messages
from penstock.config.identity import identity_of, title_of
from penstock.config.worker_count import count_workers
from penstock.supervisor import events
from penstock.supervisor.exit_report import (
    ExitReport,
    last_requests,
    listed,
    log_lost_requests,
    requests_lost,
    status_of_lost,
)
from penstock.supervisor.generation import Generation
from penstock.supervisor.reports import MOST_SHOWN, is_report, shortened
from penstock.supervisor.slow_boots import Booting, SlowBoots, stacks_of
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.crash_site import crash_site
from penstock.system.prctl import adopt_orphans
from penstock.system.processes import is_child
from penstock.telemetry.scoreboard import RequestInProgress
from penstock.telemetry.terminal import NOT_ON_TERMINAL
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.supervisor.generation import Launch
    from penstock.supervisor.helpers import Helpers
    from penstock.supervisor.hooks import ServerHooks
    from penstock.supervisor.logs import WorkerLogs
    from penstock.supervisor.loop import Loop
    from penstock.supervisor.scaling import Scaled
    from penstock.supervisor.status import Counters
    from penstock.system.as_user import HelperError
    from penstock.system.cgroups import Cgroups


MOST_REAPED = 100
"""Children whose ends one turn of the loop acts on: signals, messages and deadlines go on."""

MOST_UNCLAIMED = 1000
"""Ended processes that may be a worker's of the preloader. One that is forgotten costs its worker
the time until `boot_timeout`."""


class Pool:
    """The workers of all generations that still have some."""

    def __init__(
        self,
        loop: Loop,
        logger: logging.Logger,
        hooks: ServerHooks,
        cgroups: Cgroups,
        counters: Counters,
        helpers: Helpers,
        notify: Callable[[events.Event], None],
        close_in_child: Callable[[Generation], None],
        note_end: Callable[[int], None],
    ) -> None:
        """Have no workers yet.

        ``notify`` takes the events of workers, and ``note_end`` the process ids of all children
        that have ended. ``close_in_child`` closes, in a forked child of a
        generation, what is the supervisor's alone.
        """
        self.generations: list[Generation] = []
        self._loop = loop
        self._logger = logger
        self._hooks = hooks
        self._cgroups = cgroups
        self._counters = counters
        self._helpers = helpers
        self._notify = notify
        self._close_in_child = close_in_child
        self._note_end = note_end
        self._slow_boots = SlowBoots(logger)
        self._oom_kills = cgroups.oom_kills()
        self._told_of_counts = False
        self._workers_started = 0
        self._generations_made = 0
        self.has_more_to_reap = False
        """Other children may have ended than those that the last `reap` has acted on."""
        self._unclaimed: dict[int, int] = {}
        """Processes that have ended, with their status. One of them may be a worker whose process
        id is not known yet."""

    def __iter__(self) -> Iterator[WorkerProcess]:
        """Yield every worker that has not ended."""
        for generation in list(self.generations):
            yield from list(generation.workers)

    def find(self, pid: int) -> WorkerProcess | None:
        """Return the worker with this process id."""
        return next((worker for worker in self if worker.pid == pid), None)

    def generation_of(self, worker: WorkerProcess) -> Generation:
        """Return the generation that a worker belongs to."""
        return next(g for g in self.generations if g.number == worker.generation)

    # -- starting workers -------------------------------------------------------------------------

    def new_generation(
        self,
        launch: Launch,
        settings: Settings,
        listeners: Sequence[Listener],
        spool: tuple[int | None, bool] | None = None,
        scaled: Scaled | None = None,
    ) -> Generation:
        """Return a generation without workers; raises `SettingsError` for an impossible user.

        ``spool`` is what is known of ``temp_dir``: see `penstock.config.budgets.facts`. ``scaled``
        is the number of workers that a command has set.
        """
        identity = identity_of(settings)
        count = count_workers(settings, self._cgroups)
        if scaled is not None:
            scaled.report(settings, count.number, self._logger)
            if not scaled.lasts(settings):
                scaled = None
        self._hooks.use(settings, listeners)
        self._generations_made += 1
        generation = Generation(
            self._generations_made,
            launch,
            settings,
            count.number if scaled is None else scaled.workers,
            listeners,
            identity,
            self._hooks.server,
            title_of(settings, launch.application),
            self._logger,
            self._helpers,
            self._close_in_child,
            spool,
        )
        if settings.workers == "auto" and scaled is None:
            generation.reason = count.because
        if settings.preload and self._can_preload():
            from penstock.supervisor.preloader import Preloader

            generation.preloader = Preloader(generation, self._loop, self._preload_failed)
        self.generations.append(generation)
        return generation

    def _can_preload(self) -> bool:
        if adopt_orphans():
            return True
        messages.PRELOAD_UNAVAILABLE.log(self._logger)
        return False

    def _preload_failed(self, generation: Generation, failure: Message) -> None:
        self._notify(events.BootFailed(generation, None, failure))

    def spawn(
        self, generation: Generation, replaces: WorkerProcess | None = None
    ) -> WorkerProcess | None:
        """Start a worker, which may replace another; return None where that fails."""
        self._workers_started += 1
        self._hooks.begin(self._workers_started)
        worker = generation.spawn(self._workers_started, self._watch, replaces)
        if worker is None:
            self._hooks.remove(self._workers_started, 0)
        elif worker.pid:
            self._hooks.add(worker.number, worker.pid)
        return worker

    def fill(self, generation: Generation, most: int = 1000) -> None:
        """Start missing workers, up to ``most`` at once; order surplus workers to leave."""
        if time.monotonic() < generation.paused_until or not generation.logs.are_open:
            return
        preloader = generation.preloader
        if preloader is not None and not preloader.is_ready:
            preloader.begin()
            return
        missing = generation.wanted - len(generation.members)
        for _ in range(min(missing, most)):
            if self.spawn(generation) is None:
                break
        for worker in sorted(generation.members, key=lambda w: w.since)[generation.wanted :]:
            worker.leave("fewer workers are wanted")

    # -- their messages ---------------------------------------------------------------------------

    def _watch(self, worker: WorkerProcess) -> None:
        def read_dump() -> None:
            if not worker.read_dump():  # nothing follows after the worker's end
                self._loop.forget(worker.dump)

        self._loop.watch(worker.channel.fileno(), lambda: self._listen_to(worker))
        self._loop.watch(worker.dump, read_dump)

    def _listen_to(self, worker: WorkerProcess) -> None:
        """Act on the messages of a worker, and on the end of its channel."""
        if worker.channel.ended:
            return
        channel = worker.channel
        received = channel.receive()
        if channel.ended:
            self._loop.forget(channel.fileno())
        for message in received:
            if not (is_report(message) and self._is_credible(worker, message)):
                channel.reject(f"an unknown message ({str(message)[:MOST_SHOWN]})")
                self._loop.forget(channel.fileno())
                break
            self._take(worker, message)
        if channel.broken:
            self._end_broken(worker)
        if channel.ended:
            self._lose(worker)

    def _is_credible(self, worker: WorkerProcess, message: Message) -> bool:
        """Return False for what no worker has a reason to send: it would have an effect on others.

        The supervisor sends signals to the process id that a worker of the preloader gives.
        """
        if message["event"] == "hello" and worker.pid == 0:
            pid, taken = message["pid"], self.find(message["pid"]) is not None
            taken |= any(
                g.preloader is not None and g.preloader.pid == pid for g in self.generations
            )
            identity = self.generation_of(worker).identity
            return not taken and (pid in self._unclaimed or is_child(pid, identity))
        if message["event"] == "failed":
            return not message["watched"] or worker.settings.reload
        return True

    def _end_broken(self, worker: WorkerProcess) -> None:
        """End a worker that has written something else than messages to its channel."""
        because = f"it has sent the supervisor {worker.channel.broken}"
        if worker.is_booting:
            worker.kill(because)  # counted as a crash when it is reaped
        elif worker.stage is Stage.SERVING:
            messages.CHANNEL_BROKEN.log(self._logger, worker=worker, because=because)
            self._counters.add_crash("wrote to its channel", worker)
            self.generation_of(worker).note_death(worker)
            worker.leave(because)  # its requests are finished: it still takes orders

    def _take(self, worker: WorkerProcess, message: Message) -> None:
        event = message["event"]
        if event == "hello":
            if worker.pid == 0:
                worker.pid = int(message["pid"])
                self._hooks.add(worker.number, worker.pid)
                if worker.killed_because:
                    worker.kill(worker.killed_because)  # its process id was not known then
            if worker.pid in self._unclaimed:
                self._end(worker, self._unclaimed.pop(worker.pid))
        elif event == "failed":
            worker.failure = shortened(message)
            if message["watched"] and worker.stage is Stage.BOOTING:
                self._note_failed(worker, worker.failure)
        elif event == "ready" and worker.stage is Stage.BOOTING:
            worker.stage = Stage.READY
            self._notify(events.WorkerReady(worker))
        elif event == "serving" and worker.stage is Stage.STARTING:
            worker.stage = Stage.SERVING
            worker.serving_since = time.monotonic()
            self.generation_of(worker).has_served = True
            self._notify(events.WorkerServing(worker))
        else:
            self._notify(events.WorkerReported(worker, message))

    def _note_failed(self, worker: WorkerProcess, failure: Message) -> None:
        """Count a worker as ended that only watches the files it could not load."""
        generation = self.generation_of(worker)
        worker.stage = Stage.FAILED
        generation.unlink(worker)
        generation.note_death(worker)
        self._counters.add_crash("could not load the application", worker)
        self._notify(events.BootFailed(generation, worker, failure))

    # -- their deadlines --------------------------------------------------------------------------

    def check_deadlines(self) -> None:
        """Kill workers that do not boot, or do not leave, in time."""
        now = time.monotonic()
        booting: list[Booting] = [each for each in self if each.stage is Stage.BOOTING]
        booting += [g.preloader for g in self.generations if g.preloader and g.preloader.is_loading]
        self._slow_boots.check(booting, now)
        for generation in self.generations:
            if generation.preloader is not None:
                generation.preloader.check_deadline()
        for worker in self:
            if worker.is_booting and worker.stage is not Stage.READY:
                if not worker.killed_because and now > worker.must_boot_by:
                    limit = worker.settings.boot_timeout
                    worker.kill(f"it was not ready within {limit:g} s (setting: boot_timeout)")
                    if not worker.pid:
                        self.generation_of(worker).end_preloader()  # another may do better
                    self._lose(worker)
            elif worker.must_end_by is not None and now > worker.must_end_by:
                worker.must_end_by = None
                worker.kill("it had not ended in time (setting: graceful_timeout)")
                self._lose(worker)
            worker.channel.flush()

    # -- their ends -------------------------------------------------------------------------------

    def reap(self) -> None:
        """Act on children that have ended; on further ones with the next turn of the loop.

        A worker can make processes without end, which become this one's children when it ends.
        """
        if not any(worker.pid == 0 for worker in self):
            self._unclaimed.clear()
        self.has_more_to_reap = False
        for _ in range(MOST_REAPED):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self:  # a worker that the preloader has forked sends its process id
                if worker.pid == 0:
                    self._listen_to(worker)
            for generation in list(self.generations):
                if generation.preloader is not None:
                    generation.preloader.note_end(pid)
            self._note_end(pid)
            ended = self.find(pid)
            if ended is not None:
                self._end(ended, status)
            elif any(worker.pid == 0 for worker in self):
                self._unclaimed[pid] = status
                if len(self._unclaimed) > MOST_UNCLAIMED:
                    self._unclaimed.pop(next(iter(self._unclaimed)))
            # Else it is another program's: process 1 of a container reaps them, too.
        self.has_more_to_reap = True

    def _lose(self, worker: WorkerProcess) -> None:
        """Give up a worker whose process id is not known: ``waitpid`` will not report its end.

        The preloader was to fork it, and could not, has ended, or hangs. If the worker starts
        later all the same, it finds its channel closed, and leaves.
        """
        self._listen_to(worker)
        if worker.pid or worker.stage is Stage.ENDED:
            return
        worker.failure = {
            "message": worker.killed_because or "the process that preloads has not forked it",
            "status": 1,
        }
        self._end(worker, 0)

    def _end(self, worker: WorkerProcess, status: int) -> None:
        worker.exit_status = status
        self._listen_to(worker)
        if worker.stage is Stage.ENDED:
            return
        worker.read_dump()
        self._loop.forget(worker.channel.fileno())
        self._loop.forget(worker.dump)
        generation = self.generation_of(worker)
        requests = list(worker.slot.requests())
        report = ExitReport(status, worker.killed_because, self._memory_ran_out())
        told = worker.stage in (Stage.LEAVING, Stage.FAILED)
        told |= worker.leaves_by_itself and status == 0
        if told:
            self._log_leaving(worker, report, requests)
        elif not worker.is_booting or worker.failure is None:
            self._log_crash(worker, report, requests)
        if report.signal or not told:  # else the worker has written them itself
            killed = bool(worker.killed_because)
            lost = [(each, status_of_lost(each, killed, worker.silent_since)) for each in requests]
            reason = f"the worker {report.describe()}"
            log_lost_requests(worker.settings, generation.logs, lost, reason)
        if worker.children:
            messages.WORKER_LEFT_CHILDREN.log(
                self._logger, worker=worker, children=listed(worker.children)
            )
        if (directory := generation.settings.prometheus_multiproc) is not None:
            self._remove_live_gauges(directory, generation)
        was_booting = worker.is_booting
        pause = 0.0 if told else generation.note_death(worker)
        impossible = self._counters.add_ended(worker, "" if told else report.reason)
        if impossible and not self._told_of_counts:
            self._told_of_counts = True
            messages.COUNTS_LEFT_OUT.log(self._logger, worker=worker, what=impossible)
        if report.signal and (site := crash_site(bytes(worker.dumped))) is not None:
            self._counters.add_crash_site(report.reason, worker, site)
        generation.discard(worker)
        self._hooks.remove(worker.number, worker.pid)
        if told:
            # One that crashes cannot tell by its status what it has cut off.
            crashed = report.signal and not worker.killed_because
            clean = not requests if crashed else status == 0
            self._notify(events.WorkerLeft(worker, clean=clean or not worker.let_in))
        elif was_booting:
            failure = worker.failure or {
                "message": f"the worker {report.describe()}",
                "traceback": f"{stacks_of(worker)}\n" if worker.dumped else "",
                "status": 1,
            }
            self._notify(events.BootFailed(generation, worker, failure))
        else:
            self._notify(events.WorkerCrashed(worker, pause, len(requests)))

    def _remove_live_gauges(self, directory: str, generation: Generation) -> None:
        """Have the files removed of the application's gauges that only a running process counts."""
        from penstock.telemetry.application_metrics import remove_live_gauges, work_as

        def failed(error: HelperError) -> None:
            messages.LIVE_GAUGES_NOT_REMOVED.log(self._logger, directory=directory, error=error)

        work = work_as(generation.identity, remove_live_gauges, directory)
        self._helpers.run(work, lambda _descriptors, _text: None, failed)

    def _memory_ran_out(self) -> bool:
        before, self._oom_kills = self._oom_kills, self._cgroups.oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def _log_leaving(
        self, worker: WorkerProcess, report: ExitReport, requests: list[RequestInProgress]
    ) -> None:
        # One that never served had no requests, and why it could not was logged for another.
        if worker.let_in and (report.signal or requests or worker.failure is not None):
            messages.WORKER_LOST_REQUESTS.log(
                self._logger,
                worker=worker,
                because=worker.leaving_because,
                how=report.describe(),
                details=requests_lost(requests)
                + (last_requests(worker.slot.past_requests()) if report.signal else "")
                + _failure_of(worker),
            )
        else:
            because = worker.leaving_because or "it could not load the application"
            self._logger.info("%s has left: %s", worker, because, extra=NOT_ON_TERMINAL)

    def _log_crash(
        self, worker: WorkerProcess, report: ExitReport, requests: list[RequestInProgress]
    ) -> None:
        messages.WORKER_CRASHED.log(
            self._logger,
            worker=worker,
            how=report.describe(),
            details=requests_lost(requests)
            + last_requests(worker.slot.past_requests())
            + _failure_of(worker),
        )
        if worker.dumped and not worker.is_booting:  # else they follow with the failure
            messages.WORKER_STACKS.log(self._logger, worker=worker, stacks=stacks_of(worker))

    def forget_empty(self, *kept: Generation | None) -> None:
        """Forget the generations whose last worker has left, except those in ``kept``."""
        for generation in list(self.generations):
            if not generation.workers and generation not in kept:
                generation.end_preloader()
                generation.logs.close()
                self.generations.remove(generation)

    # -- orders to all ----------------------------------------------------------------------------

    def share(self, shares: bool) -> None:
        """Tell every worker whether another supervisor has the listeners, too."""
        for worker in self:
            if worker.shares != shares:
                worker.shares = shares
                worker.order("share" if shares else "own")

    def leave(self, because: str, *, last: bool = False, end_by: float | None = None) -> None:
        """Order every worker to leave, as `WorkerProcess.leave` does."""
        for worker in self:
            worker.leave(because, last=last, end_by=end_by)

    def quit(self, because: str) -> None:
        """Order every worker to cut off the requests in progress, and end."""
        for worker in self:
            worker.leaving_because = worker.leaving_because or because
            worker.quit()

    def close_in_child(self, kept: Sequence[Listener], logs: WorkerLogs | None = None) -> None:
        """Close the channels of all workers, and all listeners and logs but these.

        Must be called in a forked child.
        """
        for generation in self.generations:
            if generation.logs is not logs:
                generation.logs.close()
            for listener in generation.listeners:
                if listener not in kept:
                    listener.close_in_child()
            if generation.preloader is not None:
                generation.preloader.close_in_child()
        for worker in self:
            worker.channel.close()
            os.close(worker.dump)


def _failure_of(worker: WorkerProcess) -> str:
    """Return what a worker has reported of its end, where it could."""
    failure = worker.failure
    return f"\n{failure['message']}\n{failure.get('traceback', '')}" if failure else ""
