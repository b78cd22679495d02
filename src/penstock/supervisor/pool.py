"""All workers of a server: their messages, their deadlines, and their ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from penstock.supervisor.exit_report import Death, requests_lost
from penstock.supervisor.generation import Generation
from penstock.supervisor.hooks import ServerHooks
from penstock.supervisor.last_lines import BAD_GATEWAY, GATEWAY_TIMEOUT, log_last_lines
from penstock.supervisor.loop import Loop
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.scoreboard import RequestInProgress
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.listeners import Listener


class Director(Protocol):
    """Who decides what is to be done about what workers say and do."""

    def on_ready(self, worker: WorkerProcess) -> None:
        """Act on a worker that has loaded the application, and waits to be let serve."""

    def on_serving(self, worker: WorkerProcess) -> None:
        """Act on a worker that has begun to serve."""

    def on_boot_failure(self, worker: WorkerProcess, failure: Message) -> None:
        """Act on the end of a worker that has never served; ``failure`` says why."""

    def on_crash(self, worker: WorkerProcess, pause: float) -> None:
        """Act on the end of a worker that nobody has told to; the next one comes after a pause."""

    def on_left(self, worker: WorkerProcess, clean: bool) -> None:
        """Act on the end of a worker that was told to; ``clean`` if nothing was cut off."""

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        """Act on what else a worker says."""


class Workforce:
    """The workers of all generations that still have some."""

    def __init__(
        self,
        loop: Loop,
        logger: logging.Logger,
        director: Director,
        hooks: ServerHooks,
        out_of_memory: Callable[[], int | None],
    ) -> None:
        """Have no workers yet; ``out_of_memory`` counts what the kernel killed for want of it."""
        self.generations: list[Generation] = []
        self.unclaimed: dict[int, int] = {}
        """Processes that have ended, with their status, one of which may be a worker's that has
        not told its process id yet."""
        self._loop = loop
        self._logger = logger
        self._director = director
        self._hooks = hooks
        self._count_oom = out_of_memory
        self._oom_kills = out_of_memory()
        self._number = 0
        self.counts = {"started": 0, "crashed": 0, "killed": 0}
        """Workers so far: all that were started, those that ended untold, those we killed."""

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

    def spawn(
        self, generation: Generation, replaces: WorkerProcess | None = None
    ) -> WorkerProcess | None:
        """Start a worker, one that replaces another perhaps; None where that fails."""
        self._number += 1
        self.counts["started"] += 1
        self._hooks.begin(self._number)
        worker = generation.spawn(self._number, self._watch, replaces)
        if worker is None:
            self._hooks.remove(self._number, 0)
        elif worker.pid:
            self._hooks.add(worker.number, worker.pid)
        return worker

    def fill(self, generation: Generation, most: int = 1000) -> None:
        """Start what is missing, ``most`` workers at once; have those leave that are too many."""
        if time.monotonic() < generation.paused_until:
            return
        if not generation.spawner.is_ready:
            generation.spawner.begin()
            return
        missing = generation.wanted - len(generation.members)
        for _ in range(min(missing, most)):
            if self.spawn(generation) is None:
                break
        for worker in sorted(generation.members, key=lambda w: w.since)[generation.wanted :]:
            worker.leave("fewer workers are wanted")

    # -- what they say ----------------------------------------------------------------------------

    def _watch(self, worker: WorkerProcess) -> None:
        def read_dump() -> None:
            if not worker.read_dump():  # nothing follows after the worker's end
                self._loop.forget(worker.dump)

        self._loop.watch(worker.channel.fileno(), lambda: self.listen_to(worker))
        self._loop.watch(worker.dump, read_dump)

    def listen_to(self, worker: WorkerProcess) -> None:
        """Act on what a worker has said."""
        if worker.channel.ended:
            return
        messages = worker.channel.receive()
        if worker.channel.ended:
            self._loop.forget(worker.channel.fileno())
        for message in messages:
            self._take(worker, message)
        if worker.channel.ended:
            self._lose(worker)

    def _take(self, worker: WorkerProcess, message: Message) -> None:
        event = message["event"]
        if event == "hello":
            if worker.pid == 0:
                worker.pid = int(message["pid"])
                self._hooks.add(worker.number, worker.pid)
                if worker.killed_because:
                    worker.kill(worker.killed_because)  # there was nobody to kill then
            if worker.pid in self.unclaimed:
                self._end(worker, self.unclaimed.pop(worker.pid))
        elif event == "failed":
            worker.failure = message
            if message["watched"] and worker.stage is Stage.BOOTING:
                self._note_failure(worker, message)
        elif event == "ready" and worker.stage is Stage.BOOTING:
            worker.stage = Stage.READY
            self._director.on_ready(worker)
        elif event == "serving" and worker.stage is Stage.STARTING:
            worker.stage = Stage.SERVING
            worker.serving_since = time.monotonic()
            self.generation_of(worker).has_served = True
            self._director.on_serving(worker)
        else:
            self._director.on_message(worker, message)

    def _note_failure(self, worker: WorkerProcess, failure: Message) -> None:
        """Count one as ended that is there only to watch the files it could not load."""
        generation = self.generation_of(worker)
        worker.stage = Stage.FAILED
        generation.unlink(worker)
        generation.note_death(worker)
        self.counts["crashed"] += 1
        self._director.on_boot_failure(worker, failure)

    # -- their deadlines --------------------------------------------------------------------------

    def check_deadlines(self) -> None:
        """Kill what does not boot, or does not leave, in time."""
        now = time.monotonic()
        for generation in self.generations:
            generation.spawner.check_deadline()
        for worker in self:
            settings = worker.settings
            if worker.is_booting and worker.stage is not Stage.READY:
                if not worker.killed_because and now > worker.must_boot_by:
                    worker.kill(
                        f"it was not ready within {settings.boot_timeout:g} s "
                        "(setting: boot_timeout)"
                    )
                    if not worker.pid:
                        self.generation_of(worker).spawner.end()  # another one may do better
                    self._lose(worker)
            elif worker.must_end_by is not None and now > worker.must_end_by:
                worker.must_end_by = None
                worker.kill("it had not ended in time (setting: graceful_timeout)")
                self._lose(worker)
            worker.channel.flush()

    # -- their ends -------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of every child that has ended."""
        if not any(worker.pid == 0 for worker in self):
            self.unclaimed.clear()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self:  # one that was forked by another process tells its id itself
                if worker.pid == 0:
                    self.listen_to(worker)
            for generation in list(self.generations):
                generation.spawner.note_end(pid)
            worker_ended = self.find(pid)
            if worker_ended is not None:
                self._end(worker_ended, status)
            elif any(worker.pid == 0 for worker in self):
                self.unclaimed[pid] = status
            # Else it is a stranger's, as process 1 of a container gets to reap them.

    def _lose(self, worker: WorkerProcess) -> None:
        """Give up one whose process nobody has heard of: no end of it will be told.

        Another process was to fork it, and could not, has ended, or hangs. Should it come later
        all the same, it finds its line closed, and leaves.
        """
        self.listen_to(worker)
        if worker.pid or worker.stage is Stage.ENDED:
            return
        worker.failure = {
            "message": worker.killed_because or "the process that preloads has not forked it",
            "status": 1,
        }
        self._end(worker, 0)

    def _end(self, worker: WorkerProcess, status: int) -> None:
        worker.exit_status = status
        self.listen_to(worker)
        if worker.stage is Stage.ENDED:
            return
        worker.read_dump()
        self._loop.forget(worker.channel.fileno())
        self._loop.forget(worker.dump)
        generation = self.generation_of(worker)
        stage = worker.stage
        requests = list(worker.slot.requests())
        death = Death(worker.exit_status, worker.killed_because, self._memory_ran_out())
        told = stage in (Stage.LEAVING, Stage.FAILED)
        if told:
            self._tell_of_leaving(worker, death, requests)
        elif not worker.is_booting or worker.failure is None:
            self._tell_of_crash(worker, death, requests)
        if death.signal or not told:  # else it has written them itself
            status = GATEWAY_TIMEOUT if worker.killed_because else BAD_GATEWAY
            log_last_lines(worker.settings, requests, status, f"the worker {death.describe()}")
        was_booting = worker.is_booting
        pause = 0.0 if told else generation.note_death(worker)
        self.counts["killed"] += bool(worker.killed_because and worker.serving_since)
        self.counts["crashed"] += not told
        generation.discard(worker)
        self._hooks.remove(worker.number, worker.pid)
        if told:
            self._director.on_left(worker, clean=status == 0 or not worker.let_in)
        elif was_booting:
            failure = worker.failure or {"message": f"it {death.describe()}", "status": 1}
            self._director.on_boot_failure(worker, failure)
        else:
            self._director.on_crash(worker, pause)

    def _memory_ran_out(self) -> bool:
        before, self._oom_kills = self._oom_kills, self._count_oom()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def _tell_of_leaving(
        self, worker: WorkerProcess, death: Death, requests: list[RequestInProgress]
    ) -> None:
        # One that never served had nothing to lose, and why it could not was told of another.
        if worker.let_in and (death.signal or requests or worker.failure is not None):
            self._logger.warning(
                "%s, told to leave because %s, %s%s%s",
                worker,
                worker.leaving_because,
                death.describe(),
                requests_lost(requests),
                _told(worker),
            )
        else:
            because = worker.leaving_because or "it could not load the application"
            self._logger.info("%s has left: %s", worker, because)

    def _tell_of_crash(
        self, worker: WorkerProcess, death: Death, requests: list[RequestInProgress]
    ) -> None:
        self._logger.error(
            "%s %s%s%s", worker, death.describe(), requests_lost(requests), _told(worker)
        )
        if worker.dumped:
            text = worker.dumped.decode("utf-8", "backslashreplace")
            self._logger.error("what %s was doing:\n%s", worker, text)

    def forget_empty(self, *kept: Generation | None) -> None:
        """Forget the generations whose last worker has left, but for those that are ``kept``."""
        for generation in list(self.generations):
            if not generation.workers and generation not in kept:
                generation.spawner.end()
                self.generations.remove(generation)

    def order(self, what: str) -> None:
        """Send an order to every worker."""
        for worker in self:
            worker.order(what)

    def share(self, shares: bool) -> None:
        """Tell every worker whether another supervisor has the listeners, too."""
        for worker in self:
            if worker.shares != shares:
                worker.shares = shares
                worker.order("share" if shares else "own")

    def leave(self, because: str, *, last: bool = False) -> None:
        """Have every worker leave, as `WorkerProcess.leave` does it."""
        for worker in self:
            worker.leave(because, last=last)

    def quit(self, because: str) -> None:
        """Have every worker cut off what is in progress, and end."""
        for worker in self:
            worker.leaving_because = worker.leaving_because or because
            worker.quit()

    def abandon(self, kept: Sequence[Listener]) -> None:
        """Close, in a forked child, the lines to all workers, and all listeners but these."""
        for generation in self.generations:
            for listener in generation.listeners:
                if listener not in kept:
                    listener.socket.close()
        for worker in self:
            worker.channel.close()
            os.close(worker.dump)
        for generation in self.generations:
            generation.spawner.abandon()


def _told(worker: WorkerProcess) -> str:
    """Return what a worker itself has said of its end, where it could."""
    failure = worker.failure
    return f"\n{failure['message']}\n{failure.get('traceback', '')}" if failure else ""
