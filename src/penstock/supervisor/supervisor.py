"""The supervisor: a process that looks after the workers, and never serves a request itself.

It is single-threaded and imports no application, so that nothing an application does can hurt it.
Signal handlers only enqueue; everything is decided in the loop, in one thread.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace as with_changes
from typing import TYPE_CHECKING

from penstock.control.commands import Answer, ControlError, Outcome
from penstock.control.server import ControlServer
from penstock.errors import PenstockError
from penstock.listeners import close_all
from penstock.supervisor import resources
from penstock.supervisor.autoreload import Edits
from penstock.supervisor.commands import Commands
from penstock.supervisor.founding import Founder
from penstock.supervisor.generation import Generation
from penstock.supervisor.hooks import ServerHooks
from penstock.supervisor.loop import Loop
from penstock.supervisor.phases import (
    IDLE_SECONDS,
    SIGNALS,
    BootError,
    Phase,
    longest_pause,
    traceback_of,
)
from penstock.supervisor.pool import Workforce
from penstock.supervisor.predecessor import Succession
from penstock.supervisor.process_environment import Surroundings
from penstock.supervisor.recycling import Turnover
from penstock.supervisor.reload import Reload
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.cgroups import Cgroups
from penstock.system.signals import Signals
from penstock.telemetry.error_log import ErrorLog, process_logger
from penstock.telemetry.scoreboard import READY
from penstock.worker.channel import Message
from penstock.worker.child import INTERRUPTED
from penstock.worker.main import CUT_OFF, STOPPED, tell_serving, tell_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.supervisor.launch import Launch
    from penstock.supervisor.upgrade import Predecessor

_RELOAD_FAILED = "serving; the last reload failed"
"""systemd waits for this, too: a service that has said that it reloads is not active until then."""


class Supervisor:
    """Looks after the workers from the first start to the stop."""

    def __init__(
        self,
        launch: Launch,
        listeners: Sequence[Listener],
        predecessor: Predecessor | None = None,
    ) -> None:
        """Open the log; the listeners are bound, and not listened on yet.

        ``predecessor`` is the supervisor that this one is to replace. Raises `SettingsError`.
        """
        self.launch = launch
        self.settings = launch.settings
        self.listeners = list(listeners)
        self.pid = os.getpid()
        self.error_log = ErrorLog(
            self.settings.error_logfile, self.settings.log_level, process_logger()
        )
        self.logger = self.error_log.logger
        self.phase = Phase.STARTING
        self.loop = Loop(self.logger)
        self.hooks = ServerHooks(self.settings, launch.application, listeners, self.logger)
        self.cgroups = Cgroups()
        self.workforce = Workforce(self.loop, self.logger, self, self.hooks, self.cgroups.oom_kills)
        self._founder = Founder(
            self.loop, self.logger, self.hooks, self.cgroups, self._abandon, self._on_load_failure
        )
        self._turnover = Turnover(self.workforce, self.cgroups, self.logger)
        self.current: Generation
        self.reload: Reload | None = None
        self.commands = Commands(self, launch.application)
        self.control = ControlServer(self.commands.handle, self.loop.selector, self.logger)
        self._edits = Edits(self, self.workforce, self.logger)
        self._surroundings = Surroundings(self.settings, launch.application, self.logger)
        left = self._surroundings.predecessor_left
        self._succession = Succession(predecessor, self.loop, self.logger, left, self._hand_over)
        self._signals: Signals
        self._start_failure: Message | None = None
        self._stop_at = 0.0
        """When the workers are told, on the monotonic clock: after the shutdown delay."""
        self._told_to_stop = False
        self._workers_told = False
        self._handing_over = False
        self._cut_off = False
        self._failing = False
        """The last tick has failed, of a defect of ours: the next one takes its time."""
        self._stop_answers: list[Answer] = []

    # -- from the start to the end ----------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; return the exit status.

        Raises a `PenstockError` where it cannot start, and KeyboardInterrupt where it is
        interrupted before it serves.
        """
        self._signals = Signals(SIGNALS)
        self.loop.watch(self._signals.fileno(), self._take_signals)
        try:
            predecessor = self._succession.predecessor
            self._surroundings.open(has_predecessor=predecessor is not None)
            inherited = predecessor.services if predecessor is not None else None
            self.control.open(self.settings, inherited)
            tell_settings(self.settings, self.logger)
            self.hooks.call("on_starting")
            self.current = self._new_generation(self.settings, self.listeners)
            self.hooks.scale(self.current.wanted)  # before pre_fork: some count workers by it
            self.workforce.fill(self.current)
            while not self._is_over():
                self.loop.turn(IDLE_SECONDS if self._failing else self._pause())
                self._failing = not self.loop.guard(self._tick)
            return self._end()
        finally:
            self.control.close()
            self._surroundings.close()

    def _end(self) -> int:
        if not self._handing_over:
            close_all(self.listeners)
        for generation in self.workforce.generations:
            generation.spawner.end()
        if self._start_failure is not None:
            if self._start_failure["status"] == INTERRUPTED:
                raise KeyboardInterrupt
            raise BootError(self._start_failure)
        self.logger.info("stopped")
        self.hooks.call("on_exit")
        for answer in self._stop_answers:
            answer(Outcome(True, "stopped"))
        return CUT_OFF if self._cut_off else STOPPED

    def _is_over(self) -> bool:
        return self.phase is Phase.STOPPING and self._workers_told and not any(self.workforce)

    def _pause(self) -> float:
        """Return how long to wait for something to happen, in seconds."""
        now = time.monotonic()
        busy = (
            self.phase is not Phase.SERVING
            or self._succession.is_under_way
            or self.commands.is_busy
            or not self.current.spawner.is_ready
            or any(worker.stage is not Stage.SERVING for worker in self.workforce)
        )
        longest = longest_pause(self.settings, busy=busy)
        return max(0.0, min(longest, self._surroundings.next_due - now))

    def _tick(self) -> None:
        self.workforce.reap()  # whatever has become of the signal
        self.workforce.check_deadlines()
        self._surroundings.tick(time.monotonic())
        now = time.monotonic()
        self.control.tick(now)
        self.commands.tick(now)
        self._turnover.end_hung()
        if self.phase is Phase.STOPPING:
            if not self._workers_told:
                self.workforce.fill(self.current)
                if time.monotonic() >= self._stop_at:
                    self._tell_workers_to_stop()
            return
        self._succession.tick()
        self.workforce.share(self._succession.is_under_way)
        if self.reload is not None:
            self.reload.proceed()
        self._edits.tick()
        self._recycle()
        self.workforce.fill(self.current)

    def _take_signals(self) -> None:
        """Act on the signals that have come."""
        while (number := self._signals.take()) is not None:
            self._act_on(signal.Signals(number))

    def _act_on(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self.workforce.reap()
            return
        self.logger.debug("received %s", number.name)
        actions = {
            signal.SIGTERM: lambda: self.stop(graceful=not self._told_to_stop),
            signal.SIGINT: self._interrupt,
            signal.SIGQUIT: lambda: self.stop(graceful=False),
            signal.SIGHUP: self.begin_reload,
            signal.SIGUSR1: self.reopen_logs,
            signal.SIGUSR2: self.upgrade,
            signal.SIGTTIN: lambda: self.scale(self.current.wanted + 1),
            signal.SIGTTOU: lambda: self.scale(max(1, self.current.wanted - 1)),
            signal.SIGWINCH: self._act_on_winch,
        }
        try:
            actions[number]()
        except ControlError as error:
            self.logger.error("%s: %s", number.name, error)

    def _interrupt(self) -> None:
        if self.phase is Phase.STARTING:
            self._fail_start({"message": "interrupted", "status": INTERRUPTED})
        self.stop(graceful=False)

    # -- what workers do (Director) ---------------------------------------------------------------

    def on_ready(self, worker: WorkerProcess) -> None:
        """See `Director.on_ready`."""
        reload = self.reload
        if reload is not None and worker.generation == reload.coming.number:
            if reload.on_ready():
                self._let_in(reload.coming)
        elif self.phase is Phase.STARTING:
            members = self.current.members
            if len(members) >= self.current.wanted and all(
                member.stage is Stage.READY for member in members
            ):
                self._let_in(self.current)
        elif not self._workers_told:
            worker.let_serve()

    def on_serving(self, worker: WorkerProcess) -> None:
        """See `Director.on_serving`."""
        reload = self.reload
        if reload is not None and worker.generation == reload.coming.number:
            if reload.is_complete():
                self._complete_reload(reload)
        elif self.phase is Phase.STARTING:
            if len(self.current.serving) >= self.current.wanted:
                self._complete_start()
        elif self.phase is Phase.STOPPING:
            worker.slot.words[READY] = 0  # as of those who were there when the delay began
        elif worker.replaces is not None:
            worker.replaces.leave(worker.replaces.leaving_because)
            worker.replaces = None

    def on_boot_failure(self, worker: WorkerProcess, failure: Message) -> None:
        """See `Director.on_boot_failure`."""
        reload = self.reload
        self._edits.keep_lookout(worker)
        if reload is not None and worker.generation == reload.coming.number:
            self._take_back(reload, worker, failure)
        elif self.phase is Phase.STARTING:
            if not self._edits.wait(worker, failure):
                self._fail_start(failure)
        elif not self._workers_told and worker.generation == self.current.number:
            self.logger.error(
                "%s could not start: %s; the next attempt is in %g s%s",
                worker,
                failure["message"],
                self.current.pause(),
                traceback_of(failure),
            )

    def _on_load_failure(self, generation: Generation, failure: Message) -> None:
        """Act on an application that could not be preloaded, or whose process has ended."""
        reload = self.reload
        if reload is not None and generation is reload.coming:
            self._take_back(reload, None, failure)
        elif self.phase is Phase.STARTING:
            self._fail_start(failure)
        elif not self._workers_told and generation is self.current:
            self.logger.error(
                "the application is preloaded again in %g s, because %s%s",
                generation.pause(),
                failure["message"],
                traceback_of(failure),
            )

    def _fail_start(self, failure: Message) -> None:
        if self._start_failure is None:
            self._start_failure = failure
            self.phase = Phase.STOPPING
            self._quit_workers()

    def on_crash(self, worker: WorkerProcess, pause: float) -> None:
        """See `Director.on_crash`."""
        if self.phase is Phase.STOPPING:
            self._cut_off = True
        elif pause and worker.generation == self.current.number:
            self.logger.critical(
                "workers end soon after their start, again and again: the next one is started in "
                "%g s; %d of %d serve",
                pause,
                len(self.current.serving),
                self.current.wanted,
            )
        # A successor starts with the next tick, which follows at once.

    def on_left(self, worker: WorkerProcess, clean: bool) -> None:
        """See `Director.on_left`."""
        if self.phase is Phase.STOPPING and not clean:
            self._cut_off = True
        self._forget_empty_generations()

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        """See `Director.on_message`."""
        event = message["event"]
        if event == "asked to stop":
            worker.told_to_stop = True
            self._recycle()
        elif event == "stuck":
            worker.stuck = str(message["request"])
            self._recycle()
        elif event == "stacks":
            self.commands.stacks.on_stacks(worker, str(message["text"]))
        elif event == "changed":
            self._edits.take(message["files"])

    def _abandon(self, kept: Sequence[Listener]) -> None:
        """Let go, in a forked child, of what is the supervisor's alone, and of other listeners.

        An address that a reload removes would stay open in a child that holds on to it: clients
        could connect, and nobody would answer.
        """
        self.workforce.abandon(kept)
        self.control.abandon()
        self._surroundings.abandon()
        self._succession.abandon()
        self.loop.close()

    # -- generations ------------------------------------------------------------------------------

    def _new_generation(self, settings: Settings, listeners: Sequence[Listener]) -> Generation:
        generation = self._founder.found(self.launch, settings, listeners)
        self.workforce.generations.append(generation)
        return generation

    def _forget_empty_generations(self) -> None:
        coming = self.reload.coming if self.reload is not None else None
        self.workforce.forget_empty(self.current, coming)

    def _let_in(self, generation: Generation) -> None:
        """Have a generation's workers let clients in: all of them are ready."""
        try:
            generation.listen()
        except PenstockError as error:
            failure = {"message": str(error), "status": error.exit_status}
            self.on_boot_failure(generation.members[0], failure)
            return
        for worker in generation.members:
            worker.let_serve()

    @property
    def is_starting(self) -> bool:
        """Whether nothing was ever served."""
        return self.phase is Phase.STARTING

    def _complete_start(self) -> None:
        self.phase = Phase.SERVING
        self._edits.all_is_well()
        self._tell_serving()
        self.hooks.call("when_ready")
        resources.take_over(self.listeners)
        self.control.take_over()
        self._succession.tell_ready()

    def _tell_serving(self) -> None:
        current = self.current
        tell_serving(
            self.settings,
            self.logger,
            self.listeners,
            self.launch.application,
            f"{current.size} of ",
            current.because,
        )
        self._surroundings.notifier.ready(f"serving with {current.size}")

    def begin_reload(self, answer: Answer | None = None) -> None:
        """Start a new generation with settings and code as they are now.

        Raises `ControlError` where the settings cannot be, or the server is stopping.
        """
        if self.phase is Phase.STOPPING:
            raise ControlError("the server is stopping")
        if self.phase is Phase.STARTING:
            if not self._edits.retry():
                raise ControlError("the server is still starting")
            if answer is not None:
                answer(Outcome(True, "the start is tried again"))
            return
        if self.reload is not None:
            # What was changed since is what is wanted now.
            self.reload.give_up("another one has come")
            self._end_reload()
        self.logger.info("reloading settings and code")
        self._surroundings.notifier.reloading("reloading")
        listeners = self.listeners
        try:
            settings = self.launch.read_settings()
            listeners = resources.rebind(settings, self.settings, self.listeners)
            coming = self._new_generation(settings, listeners)
        except PenstockError as error:
            self._close_unused(listeners)
            self._resume_settings()
            traceback = traceback_of({"traceback": getattr(error, "traceback", "")})
            message = f"not reloaded, all goes on as it was: {error}"
            self.logger.error("%s%s", message, traceback)
            self._surroundings.notifier.ready(_RELOAD_FAILED)
            if answer is not None:
                answer(Outcome(False, message))
            return
        resources.tell_of_new_settings(settings, self.settings, self.logger)
        self.hooks.call("on_reload")
        self.phase = Phase.RELOADING
        self.reload = Reload(
            self.workforce, coming, self.logger, [answer] if answer is not None else []
        )
        self.reload.proceed()

    def _complete_reload(self, reload: Reload) -> None:
        old, self.current = self.current, reload.coming
        self.settings = self.current.settings
        removed = [each for each in self.listeners if each not in self.current.listeners]
        self.listeners = self.current.listeners
        self._end_reload()
        self._edits.all_is_well()
        self.launch = with_changes(self.launch, settings=self.settings)
        self.control.follow(self.settings)
        resources.run_dry(removed)
        old.end_all(f"{self.current} serves in its place")
        close_all(removed)
        self.error_log = resources.renew_log(self.error_log, old.settings, self.settings)
        self.hooks.scale(self.current.wanted)
        self._tell_serving()
        reload.answer(True, f"reloaded: {self.current} serves")

    def _take_back(self, reload: Reload, worker: WorkerProcess | None, failure: Message) -> None:
        self._end_reload()
        self._resume_settings()
        self._surroundings.notifier.ready(_RELOAD_FAILED)
        reload.fail(worker, failure)

    def _resume_settings(self) -> None:
        """Be again what the settings in force make of this process."""
        self.hooks.use(self.settings, self.listeners)
        with suppress(OSError):  # it was removed
            os.chdir(self.current.directory)

    def _close_unused(self, listeners: Sequence[Listener]) -> None:
        """Close what a reload has bound that came to nothing."""
        close_all(each for each in listeners if each not in self.listeners)

    def _end_reload(self) -> None:
        if self.reload is not None:
            self._close_unused(self.reload.coming.listeners)
        self.reload = None
        if self.phase is Phase.RELOADING:
            self.phase = Phase.SERVING
        self._forget_empty_generations()

    def replace(self, worker: WorkerProcess, reason: str) -> None:
        """Start a successor; the worker leaves when that one serves."""
        self._turnover.replace(self.current, worker, reason)

    def _recycle(self) -> None:
        if self.phase is Phase.SERVING:
            self._turnover.recycle(self.current)

    def scale(self, workers: int) -> None:
        """Want so many workers from now on. Raises `ControlError` where there is no room."""
        if self.phase is not Phase.SERVING:
            raise ControlError(f"the server is {self.phase.value}: the number of workers stays")
        most = len(self.current.scoreboard.slots) // 2
        if not 1 <= workers <= most:
            raise ControlError(f"{workers} is no number of workers: allowed is 1 to {most}")
        if workers != self.current.wanted:
            self.logger.info("%d workers are wanted, not %d", workers, self.current.wanted)
            self.hooks.scale(workers)
            self.current.wanted, self.current.paused_until = workers, 0.0
            self.workforce.fill(self.current)

    def _act_on_winch(self) -> None:
        """Do as gunicorn does: in the background, have the workers leave; else, it is a resize."""
        if resources.has_terminal():
            self.logger.debug("a terminal was resized")
            return
        if self.phase is Phase.STARTING:
            raise ControlError("the server is still starting")
        self.logger.info("SIGWINCH: the workers leave; SIGTTIN or SIGHUP starts some again")
        self.current.wanted = 0
        self.current.end_all("SIGWINCH was received")

    def reopen_logs(self) -> None:
        """Open the log files again by their names, after a rotation."""
        resources.reopen_log(self.error_log)
        self.workforce.order("reopen")

    # -- the upgrade ------------------------------------------------------------------------------

    def upgrade(self, answer: Answer | None = None) -> None:
        """Start a new supervisor, which takes the sockets over. Raises `ControlError`."""
        if self.phase is not Phase.SERVING:
            raise ControlError(f"the server is {self.phase.value}: no upgrade now")
        if self._succession.is_under_way:
            raise ControlError("an upgrade is on its way already")
        if self._succession.predecessor is not None:
            raise ControlError("the last upgrade is not over: the old supervisor still ends")
        if self.pid == 1:
            raise ControlError(
                "as process 1 of a container this one cannot be replaced: SIGHUP takes new code in"
            )
        self.hooks.call("pre_exec")
        self._succession.begin(
            self.launch,
            self.listeners,
            self.control.descriptors(),
            self._surroundings.notifier.variables_for,
            lambda: self._abandon(self.listeners),
            answer,
        )

    def _hand_over(self, pid: int) -> None:
        """Leave: a new supervisor serves, and has all sockets."""
        self.logger.info("process %d serves in this one's place: leaving", pid)
        self._surroundings.notifier.hand_over(pid)
        self.control.hand_over()
        self.commands.handed_over = True
        self.phase = Phase.STOPPING
        self._give_reload_up()
        self._handing_over = self._workers_told = True
        resources.hand_over(self.listeners)
        self.workforce.leave("a new supervisor serves")

    # -- the stop ---------------------------------------------------------------------------------

    def stop(self, *, graceful: bool, answer: Answer | None = None) -> None:
        """Stop the server: gracefully, or at once where it is told so a second time."""
        if answer is not None:
            self._stop_answers.append(answer)
        self._told_to_stop = True
        if graceful and self._handing_over:
            return  # it leaves already
        first = self.phase is not Phase.STOPPING
        if first:
            self._surroundings.notifier.stopping("stopping")
            self._succession.give_up("the server stops")
        graceful = graceful and self.phase is not Phase.STARTING  # nobody was let in yet
        self.phase = Phase.STOPPING
        if first and graceful:
            # 1. No load balancer is to send any more, but who comes is served for a while.
            for worker in self.workforce:
                worker.slot.words[READY] = 0
            self._give_reload_up()
            delay = self.settings.shutdown_delay
            self._stop_at = time.monotonic() + delay
            if delay:
                self.logger.info(
                    "stopping in %g s: not ready any more (setting: shutdown_delay)", delay
                )
            else:
                self._tell_workers_to_stop()
            return
        # 2. At once: whatever was told before.
        if first:
            self._give_reload_up()
        self.logger.info("stopping at once")
        self._quit_workers()

    def _quit_workers(self) -> None:
        self._workers_told = True
        self.workforce.quit("the server stops at once")

    def _give_reload_up(self) -> None:
        reload = self.reload
        if reload is not None:
            self._end_reload()
            reload.give_up("the server stops")

    def _tell_workers_to_stop(self) -> None:
        """Have all workers empty the listen queues, finish what is in progress, and leave."""
        self._workers_told = True
        limit = self.settings.graceful_timeout
        self.logger.info("stopping: finishing the requests in progress, for up to %g s", limit)
        for listener in self.listeners:
            listener.ignore_new_connections()
        self.workforce.leave("the server stops", last=True)
