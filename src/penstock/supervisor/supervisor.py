"""The supervisor: the process that starts, watches and ends the workers, and serves no requests.

It is single-threaded and imports no application, so that a defect in one cannot harm it. Signal
handlers only enqueue. Whatever happens becomes an event, and `Supervisor.handle` looks up in
`penstock.supervisor.state` what the event means in the current state. Nothing here waits, except
in the loop; the hooks of a gunicorn.conf.py are the one exception.
"""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace as with_changes
from functools import partial
from typing import TYPE_CHECKING

from penstock import messages
from penstock.config.identity import identity_of, title_of
from penstock.control.commands import ControlError, Outcome, Reply
from penstock.control.server import ControlServer
from penstock.errors import PenstockError, SettingsError
from penstock.listeners import close_all
from penstock.records import compile_now
from penstock.supervisor import events
from penstock.supervisor.certificates import FIRST_SECONDS, Certificates
from penstock.supervisor.commands import Commands
from penstock.supervisor.helpers import Helpers
from penstock.supervisor.hooks import ServerHooks
from penstock.supervisor.logs import report_not_reopened
from penstock.supervisor.loop import Loop
from penstock.supervisor.pool import Pool
from penstock.supervisor.recycling import BY_COMMAND, Recycling
from penstock.supervisor.reload import (
    Autoreload,
    Preparation,
    ReloadInProgress,
    RemovedListeners,
    given_up,
)
from penstock.supervisor.reports import MOST_OF_MESSAGE
from penstock.supervisor.scaling import Scaled
from penstock.supervisor.signal_events import event_of
from penstock.supervisor.state import (
    IGNORE,
    TABLE,
    BootError,
    Delaying,
    Down,
    Draining,
    HandingOver,
    Preparing,
    Refuse,
    Reloading,
    Serving,
    Starting,
    Stopping,
    Upgrading,
    traceback_of,
)
from penstock.supervisor.statsd_reports import StatsdReports
from penstock.supervisor.status import Counters, LastError
from penstock.supervisor.successors import Successors
from penstock.supervisor.upgrade import TOTALS_SECONDS, Successor
from penstock.supervisor.worker_process import Stage, numbered
from penstock.system.cgroups import Cgroups
from penstock.system.memory import keep_what_is_loaded
from penstock.system.pid_file import PidFile
from penstock.system.privileges import set_title
from penstock.system.signals import FROM_OUTSIDE, Signals
from penstock.system.standard_streams import has_terminal
from penstock.system.systemd import Notifier
from penstock.system.terminal import Terminal
from penstock.telemetry.error_log import ErrorLog, log_daemons, process_logger
from penstock.telemetry.log_config import configure
from penstock.telemetry.log_counts import LogCounts
from penstock.telemetry.log_files import opener_for
from penstock.telemetry.log_sink import cannot_open
from penstock.telemetry.scoreboard import READY
from penstock.telemetry.terminal import NOT_ON_TERMINAL
from penstock.transport.config import TransportConfig
from penstock.worker.child import INTERRUPTED, Assignment
from penstock.worker.main import CUT_OFF, STOPPED, tell_serving, tell_settings
from penstock.worker.metric_files import remove_old_metric_files
from penstock.worker.worker import transport_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.supervisor.generation import Generation, Launch
    from penstock.supervisor.logs import WorkerLogs
    from penstock.supervisor.state import State
    from penstock.supervisor.upgrade import Predecessor
    from penstock.worker.channel import Message

_OF_ERROR_LOG = (
    "error_logfile", "log_level", "error_logformat", "log_syslog", "log_syslog_to",
    "log_syslog_format", "log_syslog_facility", "log_syslog_prefix", "log_syslog_access", "name",
    "log_journal", "access_logfile",
)  # fmt: skip
"""The settings that say where the supervisor's error log goes, and what it looks like."""

LAST_MESSAGES_SECONDS = 0.5
"""How long the last messages for syslog may take."""

BUSY_SECONDS = 0.05
"""How often the supervisor looks while something changes: a worker boots, or leaves."""

WATCHFUL_SECONDS = 0.25
"""How often it looks where workers are to be replaced at a number of requests, or the like."""

IDLE_SECONDS = 1.0
"""How often it looks otherwise: at heartbeats, above all."""

_SUCCESSORS_SUFFIX = ".2"
"""gunicorn's: of the pid file, while the old supervisor still runs."""

_RELOAD_FAILED = "serving; the last reload failed"
"""systemd is told so, too: a service that reloads is not active before it reports the end."""


def _log_settings(settings: Settings) -> list[object]:
    """Return what a change of means another error log."""
    return [getattr(settings, name) for name in _OF_ERROR_LOG]


class Supervisor:
    """Runs the server from the first start to the stop."""

    def __init__(
        self,
        launch: Launch,
        listeners: Sequence[Listener],
        predecessor: Predecessor | None = None,
    ) -> None:
        """Open the log; the listeners are bound, and do not listen yet.

        ``predecessor`` is the supervisor that this one is to replace. Raises `SettingsError`.
        """
        self.launch = launch
        self.settings = launch.settings
        self.listeners = list(listeners)
        self.state: State = Starting()
        self.counters = Counters(upgrades=predecessor.upgrades if predecessor is not None else 0)
        self.error_log = ErrorLog(
            self.settings.error_logfile,
            self.settings.log_level,
            process_logger(),
            opener=opener_for(identity_of(self.settings)),
            format=self.settings.error_logformat,
            daemons=log_daemons(self.settings),
        )
        configure(self.settings)
        self.logger = self.error_log.logger
        self._count_messages()
        self.loop = Loop(self.logger)
        self._helpers = Helpers(self.loop)
        self._reopens_again = False
        """Logs are to be opened again once those are that are being opened."""
        self.hooks = ServerHooks(self.settings, launch.application, listeners, self.logger)
        cgroups = Cgroups()
        self.certificates = Certificates(
            self.loop,
            self.logger,
            launch.application,
            predecessor.tickets if predecessor is not None else None,
            lambda: self._close_in_child(()),
        )
        self.pool = Pool(
            self.loop, self.logger, self.hooks, cgroups, self.counters, self._helpers,
            self.handle,
            lambda generation: self._close_in_child(generation.listeners, generation.logs),
            self.certificates.note_end,
        )  # fmt: skip
        self.commands = Commands(self, launch.application)
        self._statsd = StatsdReports(self.commands.overview, self._helpers, self.logger)
        self.control = ControlServer(self.commands.handle, self.loop.selector, self.logger)
        self.current: Generation
        """The generation that takes new connections, or starts as the first one."""
        self._recycling = Recycling(self.pool, cgroups, self.counters, self.logger)
        self._autoreload = Autoreload(self.pool, self.logger)
        self._predecessor = predecessor
        self._rejected: Successor | None = None
        """The new supervisor of an upgrade that has failed, until it has ended."""
        self._removed: list[RemovedListeners] = []
        self._scaled = predecessor.scaled if predecessor is not None else None
        self._pid_file: PidFile | None = None
        self._successors = Successors(self.logger)
        self._notifier = Notifier()
        self._terminal = Terminal()
        self._watchdog_due = 0.0
        self._signals: Signals
        self._has_control = False
        """The services of control and admin accept: there is no predecessor that does."""
        self._control_due = math.inf
        """When they accept at the latest."""
        self._handed_over: Successor | None = None
        self._start_failure: Message | None = None
        self._cut_off = False
        self._failing = False
        """The last tick has failed because of a defect: the next one is not hurried."""
        self._stop_replies: list[Reply] = []

    # -- from the start to the end ----------------------------------------------------------------

    def run(self) -> int:
        """Serve until the server is told to stop; return the exit status.

        Raises a `PenstockError` where it cannot start, and KeyboardInterrupt where it is
        interrupted before it serves.
        """
        # Here, so that all workers share it.
        transport_class(self.settings)
        compile_now(Assignment, TransportConfig)
        keep_what_is_loaded()
        self._signals = Signals((*FROM_OUTSIDE, signal.SIGCHLD))
        self.loop.watch(self._signals.fileno(), self._take_signals)
        try:
            self._open()
            self.hooks.call("on_starting")
            identity = identity_of(self.settings)
            for listener in self.listeners:
                if identity is not None:
                    listener.give_to(identity)
            if self._predecessor is None:  # whose workers still count
                remove_old_metric_files(self.settings, identity)
            # Until a successor serves, its predecessor does.
            patience = FIRST_SECONDS if self._predecessor is None else math.inf
            source = self.certificates.prepare(self.settings)
            self.certificates.begin(source, patience=patience)
            self.current = self.pool.new_generation(
                self.launch, self.settings, self.listeners, scaled=self._scaled
            )
            self._keep_scaled()
            source.connect(self.current)
            self.certificates.use(source)
            self._helpers.wait()  # there are no workers yet that would have to wait, too
            self.current.logs.check()
            self.hooks.scale(self.current.wanted)  # before pre_fork: some count workers by it
            self.pool.fill(self.current)
            while not isinstance(self.state, Down):
                self.loop.turn(IDLE_SECONDS if self._failing else self._pause())
                self._failing = not self.loop.guard(self._tick)
            return self._end()
        finally:
            self.certificates.end_at_once()
            self.control.close()
            self._helpers.close()
            if self._pid_file is not None:
                self._pid_file.remove()
            self._notifier.close()

    def _open(self) -> None:
        """Write the pid file, and open the control server. Raises a `PenstockError`."""
        settings, predecessor = self.settings, self._predecessor
        # Before the pid file names it: another server recognises this process by its name.
        set_title("supervisor", title_of(settings, self.launch.application))
        if settings.pid is not None:
            suffix = _SUCCESSORS_SUFFIX if predecessor is not None else ""
            identity = identity_of(settings)
            pid_file = PidFile(settings.pid + suffix, settings.source_of("pid"), identity)
            pid_file.create()
            self._pid_file = pid_file
            if identity is not None and pid_file.is_users:
                messages.PID_FILE_OF_USER.log(self.logger, path=pid_file.path, user=identity.uid)
        if predecessor is not None:
            self.loop.watch(predecessor.channel.fileno(), self._listen_to_predecessor)
        self.control.open(settings, predecessor.services if predecessor is not None else None)
        tell_settings(settings, self.logger)

    def _end(self) -> int:
        self._close_removed(float("inf"))
        close_all(self.listeners)
        for generation in self.pool.generations:
            generation.end_preloader()
        if self._start_failure is not None:
            if self._start_failure["status"] == INTERRUPTED:
                raise KeyboardInterrupt
            raise BootError(self._start_failure)
        self.logger.info("stopped")
        self._statsd.finish(0, self.listeners)
        self.error_log.pump(LAST_MESSAGES_SECONDS)
        if self._handed_over is not None:
            self._handed_over.send_kept(self.counters.hand_over())
            self._handed_over.send_totals(self.commands.totals())
        self.hooks.call("on_exit")
        for reply in self._stop_replies:
            reply(Outcome(True, "stopped"))
        return CUT_OFF if self._cut_off else STOPPED

    def _pause(self) -> float:
        """Return how long to wait for something to happen, in seconds."""
        if self.pool.has_more_to_reap:
            return 0.0
        preloader = self.current.preloader
        settings = self.settings
        if (
            not isinstance(self.state, Serving)
            or self.commands.is_busy
            or self._helpers.is_busy
            or self.error_log.is_waiting
            or self.certificates.is_busy
            or self._removed
            or (preloader is not None and not preloader.is_ready)
            or any(worker.stage is not Stage.SERVING for worker in self.pool)
        ):
            longest = BUSY_SECONDS
        elif settings.max_requests or settings.max_age or settings.max_memory:
            longest = WATCHFUL_SECONDS
        else:
            longest = IDLE_SECONDS
        if self._notifier.watchdog_interval is not None:
            longest = min(longest, self._watchdog_due - time.monotonic())
        return max(0.0, longest)

    def _tick(self) -> None:
        now = time.monotonic()
        self.pool.reap()  # SIGCHLD may have been lost
        self.pool.check_deadlines()
        self._terminal.look(now)
        self._helpers.tick(now)
        self.error_log.pump()
        if self._reopens_again and not self._helpers.is_busy:
            self._reopen_logs(events.ReopenWanted())
        interval = self._notifier.watchdog_interval
        if interval is not None and now >= self._watchdog_due:
            self._watchdog_due = now + interval
            self._notifier.watchdog()
        if now >= self._control_due:
            self._take_control()
        self.control.tick(now)
        self.certificates.tick(now)
        self.commands.tick(now)
        if self.counts_alone:
            self._statsd.tick(now, self.settings, self.current.wanted, self.listeners)
        self._recycling.end_hung(now)
        self._close_removed(now)
        if self._handed_over is not None:
            self._handed_over.flush()
        if self._rejected is not None:
            self._rejected.check_deadline(now)
            if self._rejected.has_ended:
                self._rejected = None
        self.handle(events.Tick(now))

    def _close_in_child(self, kept: Sequence[Listener], logs: WorkerLogs | None = None) -> None:
        """Close what is the supervisor's alone, and all listeners and logs but these.

        Must be called in a forked child. An address that a reload removes would stay open in a
        child that holds it: clients could connect, and no process would answer.
        """
        self.pool.close_in_child(kept, logs)
        for removed in self._removed:
            for listener in removed.listeners:
                listener.socket.close()
        self.control.close_in_child()
        self._helpers.close_in_child()
        self.certificates.close_in_child()
        self._statsd.close_in_child()
        self._notifier.close()
        self._terminal.close()
        if isinstance(self.state, Upgrading):
            self.state.successor.close_in_child()
        if isinstance(self.state, Preparing):
            self.state.preparation.close_in_child()
        if self._rejected is not None:
            self._rejected.close_in_child()
        if self._predecessor is not None:
            self._predecessor.channel.close()
        self.loop.close()

    # -- events ---------------------------------------------------------------------------------

    def handle(self, event: events.Event) -> None:
        """Act on an event as the table of the state says. Raises `ControlError` for a refusal."""
        reaction = TABLE[type(event)][type(self.state)]
        if isinstance(reaction, Refuse):
            raise ControlError(reaction.text.format(state=self.state.name))
        if reaction != IGNORE:
            getattr(self, f"_{reaction}")(event)

    def _take_signals(self) -> None:
        while (number := self._signals.take()) is not None:
            if number == signal.SIGCHLD:
                self.pool.reap()
                continue
            name = signal.Signals(number).name
            self.logger.debug("received %s", name)
            try:
                self.handle(event_of(number, self.current.wanted, self._terminal, self.logger))
            except ControlError as error:
                messages.COMMAND_REFUSED.log(self.logger, command=name, reason=error)

    def _listen_to_predecessor(self) -> None:
        """Go on from what the predecessor has counted and kept, and note its end."""
        predecessor = self._predecessor
        if predecessor is None:
            return
        received = predecessor.receive()
        for message in received.kept:
            self.commands.take_over(message)
        if received.totals is not None:
            self.counters.inherit(received.totals)
            self._take_control()
        if predecessor.channel.ended:
            self._predecessor = None
            self.loop.forget(predecessor.channel.fileno())
            predecessor.channel.close()
            self._take_control()
            self.handle(events.PredecessorLeft(predecessor.pid))

    def _take_control(self) -> None:
        """Answer the clients of control and admin, once the workers serve and no predecessor does.

        Not before it has told what it has counted, where it does so in time: a total would fall.
        """
        if not self._has_control and not isinstance(self.state, Starting):
            self._has_control, self._control_due = True, math.inf
            self.control.take_over()

    @property
    def counts_alone(self) -> bool:
        """Whether its counts are those of the whole server: no other supervisor counts for itself.

        Those of a predecessor come once this one serves. In a history that begins before, they
        would seem to have happened then.
        """
        return self._has_control and self._handed_over is None

    # -- time: one method for each state --------------------------------------------------------

    def _tick_starting(self, _event: events.Tick) -> None:
        self.pool.share(False)
        if self._autoreload.waits_in_vain(self.current):
            self._start_over("no worker watches any more")
        self._autoreload.tick(self.current)
        self.pool.fill(self.current)
        if reason := self.certificates.start_failure:
            error = SettingsError(f"no certificates can be ordered: {reason}")
            self._fail_start({"message": str(error), "status": error.exit_status})
        elif self.current.members:
            self._let_in_ready()

    def _tick_serving(self, event: events.Tick) -> None:
        self.pool.share(False)
        self._look_after_workers(event.now)

    def _tick_preparing(self, event: events.Tick) -> None:
        assert isinstance(self.state, Preparing)
        self.pool.share(False)
        self._look_after_workers(event.now)
        preparation = self.state.preparation
        if preparation.failure:
            preparation.close()
            self.state = Serving()
            self._refuse_reload(PenstockError(preparation.failure), preparation.reply)
        elif preparation.is_complete:
            self.state = Serving()
            self._go_on_reload(preparation)

    def _tick_reloading(self, event: events.Tick) -> None:
        reload = self._reload
        self.pool.share(False)
        reload.proceed()
        self._let_in_reload(event.now)
        if reload.has_switched(self.current, event.now):
            self._let_in(reload.coming)
        if not isinstance(self.state, Reloading):
            return
        self._autoreload.tick(self.current)
        if not reload.is_switching:
            self.pool.fill(self.current)
        message = self._reload.coming.logs.failure
        if reason := self._reload.coming.start_failure:
            message = f"a worker cannot be started: {reason}"
        if reason := self.certificates.failure_to_order(reload.certificates):
            message = f"no certificates can be ordered: {reason}"
        if message:
            failure = {"message": message, "status": 1}
            self.handle(events.BootFailed(self._reload.coming, None, failure))

    def _tick_upgrading(self, event: events.Tick) -> None:
        assert isinstance(self.state, Upgrading)
        self.state.successor.check_deadline(event.now)
        self.pool.share(isinstance(self.state, Upgrading))
        self._look_after_workers(event.now)

    def _look_after_workers(self, now: float) -> None:
        self._autoreload.tick(self.current)
        self._recycling.recycle(self.current, now)
        self.pool.fill(self.current)

    def _tick_delaying(self, event: events.Tick) -> None:
        assert isinstance(self.state, Delaying)
        self.pool.fill(self.current)
        if event.now >= self.state.until:
            self._drain(self.state.end_by)

    def _tick_ending(self, _event: events.Tick) -> None:
        if not any(self.pool) and self._rejected is None:
            self.state = Down()

    # -- the start ------------------------------------------------------------------------------

    def _start_ready(self, _event: events.WorkerReady) -> None:
        self._let_in_ready()

    def _let_in_ready(self) -> None:
        """Let the workers of the start in when all are ready, and there is something to serve."""
        members = self.current.members
        if (
            not self.certificates.is_awaited
            and len(members) >= self.current.wanted
            and all(member.stage is Stage.READY for member in members)
        ):
            self._let_in(self.current)

    def _let_in(self, generation: Generation) -> None:
        """Order the workers of a generation to serve: all of them are ready."""
        try:
            generation.listen()
        except PenstockError as error:
            failure = {"message": str(error), "status": error.exit_status}
            self.handle(events.BootFailed(generation, generation.members[0], failure))
            return
        for worker in generation.members:
            worker.let_serve()

    def _start_serving(self, _event: events.WorkerServing) -> None:
        if len(self.current.serving) < self.current.wanted:
            return
        self.state = Serving()
        self._autoreload.end_failed()
        self._note_start()
        self._report_serving()
        self.certificates.note_serving()
        self.hooks.call("when_ready")
        for listener in self.listeners:
            listener.take_over()
        if self._predecessor is not None:
            self._predecessor.report_ready()
            self._control_due = time.monotonic() + TOTALS_SECONDS
        else:
            self._take_control()

    def _note_start(self) -> None:
        before = self._predecessor
        if before is None:
            self.counters.note("start", f"the supervisor, process {os.getpid()}, serves")
        else:
            text = f"process {os.getpid()} takes the place of process {before.pid}"
            self.counters.note("upgrade", text)

    def _report_serving(self, reloaded: str = "") -> None:
        current = self.current
        self.logger.info(
            "supervisor %d, workers: %s",
            os.getpid(),
            numbered(current.serving),
            extra=NOT_ON_TERMINAL,
        )
        tell_serving(
            self.settings,
            self.logger,
            self.listeners,
            self.launch.application,
            f"{current.size} of ",
            current.reason,
            reloaded=reloaded,
        )
        if self.certificates.has_none:
            messages.ACME_NO_CERTIFICATE.log(self.logger)
        self._notifier.ready(f"serving with {current.size}")

    def _start_failed(self, event: events.BootFailed) -> None:
        worker, failure = event.worker, event.failure
        self._autoreload.keep_failed(worker)
        if worker is not None and self._autoreload.wait(self.current, worker, failure):
            self.state = Starting(waits_for_change=True)
        else:
            self._fail_start(failure)

    def _fail_start(self, failure: Message) -> None:
        self._start_failure = failure
        self.state = Stopping()
        self.pool.quit("the server stops at once")

    def _start_over(self, because: str) -> None:
        self.state = Starting()
        self._autoreload.start_over(self.current, because)

    def _retry_start(self, event: events.ReloadWanted) -> None:
        assert isinstance(self.state, Starting)
        if not self.state.waits_for_change:
            raise ControlError("the server is still starting")
        self._start_over("another start is wanted")
        _reply(event.reply, True, "the start is tried again")

    def _interrupt_start(self, _event: events.Interrupted) -> None:
        self._stop_at_once(events.QuitWanted())
        self._start_failure = {"message": "interrupted", "status": INTERRUPTED}

    # -- workers --------------------------------------------------------------------------------

    def _let_serve(self, event: events.WorkerReady) -> None:
        event.worker.let_serve()

    def _end_replaced(self, event: events.WorkerServing) -> None:
        """Order the worker to leave whose successor serves now."""
        self._successors.note_serving(event.worker)
        replaced = event.worker.replaces
        if replaced is not None:
            replaced.leave(replaced.leaving_because)
            event.worker.replaces = None

    def _serve_unready(self, event: events.WorkerServing) -> None:
        """Make a worker that came during the stop not ready, as the others are."""
        event.worker.slot.words[READY] = 0

    def _report_failure(self, event: events.BootFailed) -> None:
        self._autoreload.keep_failed(event.worker)
        if event.generation is not self.current:
            return
        pause, traceback = self.current.pause(), traceback_of(event.failure)
        reason = event.failure["message"]
        if event.worker is None:
            messages.APPLICATION_NOT_PRELOADED.log(
                self.logger, pause=pause, reason=reason, traceback=traceback
            )
        else:
            messages.WORKER_NOT_BOOTED.log(
                self.logger,
                worker=event.worker,
                reason=reason,
                pause=pause,
                traceback=traceback,
            )

    def _report_crash(self, event: events.WorkerCrashed) -> None:
        # A successor starts with the next tick, which follows at once.
        self._successors.note_end(event.worker)
        if event.pause and event.worker.generation == self.current.number:
            messages.CRASH_LOOP.log(
                self.logger,
                pause=event.pause,
                serving=len(self.current.serving),
                wanted=self.current.wanted,
            )

    def _note_cut_off(self, event: events.WorkerCrashed) -> None:
        self._cut_off = self._cut_off or event.lost_requests > 0

    def _forget_left(self, event: events.WorkerLeft) -> None:
        if event.worker.left_without_successor:
            self._successors.note_end(event.worker)
        coming = self.state.reload.coming if isinstance(self.state, Reloading) else None
        self.pool.forget_empty(self.current, coming)

    def _note_left(self, event: events.WorkerLeft) -> None:
        self._cut_off = self._cut_off or not event.clean
        self._forget_left(event)

    def _take_report(self, event: events.WorkerReported) -> None:
        worker, message = event.worker, event.message
        match message["event"]:
            case "asked to stop":
                worker.note_asked_to_stop(message["at_once"])
            case "stuck":  # an empty name where no call is stuck any more
                worker.stuck = message["request"][:MOST_OF_MESSAGE]
                worker.stuck_since = time.monotonic()
                worker.free_threads = int(message.get("free_threads", 0))
            case "children":
                worker.children = [(pid, command) for pid, command in message["left"]]
            case "certificates":
                worker.certificates = message["number"]
            case "stacks":
                self.commands.stacks.on_stacks(worker, str(message["text"]))
            case "profile":
                self.commands.profiles.on_profile(worker, message)
            case "noted":
                self.commands.notable.add(worker, message)
            case "changed":
                if worker.settings.reload and self._autoreload.take(message["files"]):
                    self._reload_changed()
        # What makes a worker due is acted on with the next tick, which follows at once.

    def _reload_changed(self) -> None:
        if isinstance(self.state, Starting):
            self._start_over("its code has changed")
            return
        try:
            self.handle(events.ReloadWanted())
        except ControlError as error:
            messages.COMMAND_REFUSED.log(self.logger, command="the reload", reason=error)

    def _scale(self, event: events.ScaleWanted) -> None:
        current, workers = self.current, event.workers
        most = len(current.scoreboard.slots) // 2
        if not 1 <= workers <= most:
            raise ControlError(f"{workers} is no number of workers: allowed is 1 to {most}")
        if workers != current.wanted:
            wanted = f"{workers} workers are" if workers > 1 else "1 worker is"
            self.logger.info("%s wanted, not %d", wanted, current.wanted)
            self.hooks.scale(workers)
            current.wanted, current.paused_until = workers, 0.0
            setting = self.settings.workers
            self._scaled = Scaled(workers, setting) if workers != setting else None
            self.pool.fill(current)

    def _keep_scaled(self) -> None:
        """Forget the number that a command has set where the settings have another one since."""
        if self._scaled is not None and not self._scaled.lasts(self.settings):
            self._scaled = None

    def _recycle(self, event: events.RecycleWanted) -> None:
        worker = event.worker
        if worker.stage is not Stage.SERVING:
            raise ControlError(f"{worker} does not serve: it is {worker.stage.value}")
        if worker.replaced_by is None:
            self._recycling.replace(self.current, worker, BY_COMMAND)

    def _end_workers(self, _event: events.NoWorkersWanted) -> None:
        """Do as gunicorn does: without a terminal the workers leave; with one, it was resized."""
        if has_terminal():
            self.logger.debug("a terminal was resized")
            return
        self.logger.info("SIGWINCH: the workers leave; SIGTTIN or SIGHUP starts some again")
        self.current.wanted = 0
        self.current.end_all("SIGWINCH was received")

    def _reopen_logs(self, _event: events.ReopenWanted) -> None:
        """Open the log files again by their names, after a rotation."""
        # Those that are being opened may have been looked up before the last rotation.
        self._reopens_again = self._helpers.is_busy
        if self._reopens_again:
            return
        self._reopen_error_log()
        for generation in self.pool.generations:
            generation.reopen_logs()

    def _reopen_error_log(self) -> None:
        path = self.settings.error_logfile
        if path != "-":
            failed = partial(report_not_reopened, "error_logfile", self.logger)
            self._helpers.open_log(path, identity_of(self.settings), self.error_log.reopen, failed)

    # -- the reload -----------------------------------------------------------------------------

    @property
    def _reload(self) -> ReloadInProgress:
        assert isinstance(self.state, Reloading)
        return self.state.reload

    def _begin_reload(self, event: events.ReloadWanted) -> None:
        """Start a new generation with settings and code as they are now."""
        self.logger.info("reloading settings and code", extra=NOT_ON_TERMINAL)
        self._notifier.reloading("reloading")
        try:
            settings = self.launch.read_settings()
            preparation = Preparation(
                settings, self.settings, self.listeners, self._helpers, event.reply
            )
        except PenstockError as error:
            self._refuse_reload(error, event.reply)
            return
        if preparation.is_complete and not preparation.failure:
            self._go_on_reload(preparation)
        else:
            self.state = Preparing(preparation)

    def _go_on_reload(self, preparation: Preparation) -> None:
        """Start the workers: the addresses and directories of the new settings are there."""
        settings = preparation.settings
        try:
            certificates = self.certificates.prepare(settings)
            preparation.switch()
            coming = self.pool.new_generation(
                self.launch, settings, preparation.listeners, preparation.spool, self._scaled
            )
        except (PenstockError, OSError) as error:
            preparation.close()
            self._refuse_reload(error, preparation.reply)
            return
        self._warn_of_settings(settings)
        self.hooks.call("on_reload")
        certificates.connect(coming)
        reload = ReloadInProgress(
            self.pool, coming, self.logger, preparation.reply, certificates, preparation.switched
        )
        self.state = Reloading(reload)
        # Until there is something to serve, the old workers do.
        self.certificates.begin(certificates, patience=settings.boot_timeout)
        self._reload.proceed()

    def _refuse_reload(self, error: Exception, reply: Reply | None) -> None:
        """Go on as before, with an error in the new settings."""
        self._resume_settings()
        traceback = traceback_of({"traceback": getattr(error, "traceback", "")})
        message = f"not reloaded, all goes on as it was: {error}"
        messages.RELOAD_FAILED.log(self.logger, message=message, traceback=traceback)
        self.counters.note_reload(False, message)
        _reply(reply, False, message)

    def _warn_of_settings(self, settings: Settings) -> None:
        for warning in settings.warnings:
            if warning not in self.settings.warnings:  # those were logged when these came
                warning.log(self.logger)
        for name in ("pid", "name"):
            if getattr(settings, name) != getattr(self.settings, name):
                messages.SETTING_NEEDS_UPGRADE.log(self.logger, setting=name)

    def _reload_again(self, event: events.ReloadWanted) -> None:
        # What was changed since is what is wanted now.
        self._abort_reload("another one has come")
        self._begin_reload(event)

    def _reload_ready(self, event: events.WorkerReady) -> None:
        reload = self._reload
        if event.worker.generation != reload.coming.number:
            self._let_serve(event)
        else:
            reload.on_ready()
            self._let_in_reload(time.monotonic())

    def _let_in_reload(self, now: float) -> None:
        """Let the new workers in, or order the old ones to leave first, once all is ready."""
        reload = self._reload
        if not reload.is_ready or reload.is_switching:
            return
        if reload.switched:
            reload.switch(self.current, now)
        else:
            self._let_in(reload.coming)

    def _reload_serving(self, event: events.WorkerServing) -> None:
        if event.worker.generation != self._reload.coming.number:
            self._end_replaced(event)
        elif self._reload.is_complete:
            self._complete_reload(self._reload)

    def _reload_failed(self, event: events.BootFailed) -> None:
        reload = self._reload
        if event.generation is not reload.coming:
            self._report_failure(event)
            return
        self._autoreload.keep_failed(event.worker)
        self._leave_reload(reload)
        self._resume_settings()
        self.counters.note_reload(False, reload.fail(event.worker, event.failure))

    def _complete_reload(self, reload: ReloadInProgress) -> None:
        old, current = self.current, reload.coming
        switched = [before for before, _ in reload.switched]
        removed = [each for each in self.listeners if each not in (*current.listeners, *switched)]
        for before, after in reload.switched:
            before.disown()
            after.take_over()
            before.close()
        self.current, self.settings, self.listeners = current, current.settings, current.listeners
        self.launch = with_changes(self.launch, settings=self.settings)
        self._keep_scaled()
        self.certificates.use(reload.certificates)
        self.certificates.note_serving()
        self.state = Serving()
        self._autoreload.end_failed()
        self._successors.forget()
        self.control.follow(self.settings)
        self._renew_error_log(old)
        self.hooks.scale(current.wanted)
        self._report_serving(reload.success)
        self.counters.note_reload(True, reload.success)
        now = time.monotonic()
        self._removed.append(RemovedListeners.turn_away(removed, old, reload, now))
        self._close_removed(now)

    def _close_removed(self, now: float) -> None:
        """Close the addresses that reloads have removed, if their queues are empty."""
        due = [each for each in self._removed if each.is_due(now)]
        self._removed = [each for each in self._removed if each not in due]
        for each in due:
            each.close()

    def _abort_reload(self, because: str) -> None:
        """Take back a reload, if there is one."""
        if isinstance(self.state, Preparing):
            preparation = self.state.preparation
            preparation.close()
            self.state = Serving()
            message = given_up(because)
            self.logger.info("%s", message)
            self.counters.note_reload(False, message)
            _reply(preparation.reply, False, message)
        elif isinstance(self.state, Reloading):
            reload = self.state.reload
            self._leave_reload(reload)
            self.counters.note_reload(False, reload.abort(because))

    def _leave_reload(self, reload: ReloadInProgress) -> None:
        self._close_unused(reload.coming.listeners)
        self.certificates.give_up(reload.certificates)
        self.state = Serving()
        self.pool.forget_empty(self.current)

    def _close_unused(self, listeners: Sequence[Listener]) -> None:
        """Close the listeners that the failed reload has opened."""
        close_all(each for each in listeners if each not in self.listeners)

    def _resume_settings(self) -> None:
        """Put back what a reload that has failed has changed in this process."""
        self.hooks.use(self.settings, self.listeners)
        with suppress(OSError):  # the directory was removed
            os.chdir(self.current.directory)
        self._notifier.ready(_RELOAD_FAILED)

    def _renew_error_log(self, old: Generation) -> None:
        """Open the log that a reload wants: the same file again, or another."""
        before, identity = old.settings, self.current.identity
        settings = self.settings
        place = (settings.error_logfile, settings.log_level)
        if _log_settings(settings) == _log_settings(before) and identity == old.identity:
            self._reopen_error_log()
            return
        current = self.current

        def opened(descriptor: int | None) -> None:
            if self.current is not current:
                if descriptor is not None:
                    os.close(descriptor)  # another reload was faster
                return
            self._use_error_log(
                ErrorLog(
                    *place,
                    self.logger,
                    passed=descriptor,
                    format=settings.error_logformat,
                    daemons=log_daemons(settings),
                )
            )

        def failed(error: OSError | ValueError) -> None:
            # The directory has gone since the workers opened theirs.
            reason = cannot_open("error_logfile", place[0], error)
            messages.SUPERVISOR_LOG_NOT_RENEWED.log(self.logger, error=reason)

        if place[0] == "-":
            opened(None)
        else:
            self._helpers.open_log(place[0], identity, opened, failed)

    def _use_error_log(self, fresh: ErrorLog) -> None:
        self.error_log.close()
        self.error_log = fresh
        with suppress(SettingsError):  # the workers have applied it
            configure(self.settings)
        self._count_messages()

    def _count_messages(self) -> None:
        """Have the messages of the error log counted, and its last error kept."""
        self.logger.addHandler(LastError(self.counters))
        self.logger.addHandler(LogCounts(self.counters.count))

    # -- the upgrade ----------------------------------------------------------------------------

    def _begin_upgrade(self, event: events.UpgradeWanted) -> None:
        """Start a new supervisor, which takes the sockets over."""
        if self._predecessor is not None:
            raise ControlError("the last upgrade is not over: the old supervisor still ends")
        if self._rejected is not None:
            raise ControlError("the last upgrade has failed, and its supervisor still ends")
        if os.getpid() == 1:
            raise ControlError(
                "as process 1 of a container this one cannot be replaced: SIGHUP takes new code in"
            )
        self.hooks.call("pre_exec")
        self.logger.info("upgrading: starting a new supervisor")
        successor = Successor(self.loop, self.handle, event.reply)
        try:
            successor.start(
                self.launch,
                self.listeners,
                self.control.descriptors(),
                self.certificates.tickets,
                self.counters.upgrades,
                self._scaled,
                self._notifier.variables_for,
                lambda: self._close_in_child(self.listeners),
            )
        except OSError as error:
            raise ControlError(f"cannot start a new supervisor: {error.strerror}") from None
        self.state = Upgrading(successor)

    def _end_upgrade(self, event: events.SuccessorFailed) -> None:
        """End a new supervisor that does not serve: this one goes on."""
        assert isinstance(self.state, Upgrading)
        successor = self.state.successor
        self.state = Serving()
        successor.end()
        self._rejected = successor
        message = f"not upgraded, this supervisor goes on: {event.reason}"
        messages.UPGRADE_FAILED.log(self.logger, message=message)
        self.counters.note("upgrade failed", message)
        _reply(successor.reply, False, message)

    def _hand_over(self, event: events.SuccessorServes) -> None:
        """Leave: a new supervisor serves, and has all sockets."""
        assert isinstance(self.state, Upgrading)
        self._handed_over = self.state.successor
        _reply(
            self._handed_over.reply, True, f"upgraded: the new supervisor is process {event.pid}"
        )
        self.logger.info("the new supervisor (process %d) serves: this one ends", event.pid)
        self.state = HandingOver()
        self.counters.upgrades += 1
        self._notifier.hand_over(event.pid)
        self.control.hand_over()
        self._statsd.finish(self.current.wanted, self.listeners)
        self.commands.hand_over(self._handed_over.send_kept)
        self._handed_over.send_totals(self.commands.totals())
        self.certificates.end()  # that of the new supervisor orders from now on
        for listener in self.listeners:
            listener.disown()
            listener.close()
        # Workers that still accept at a removed address leave when that is closed.
        accepting = [removed.old for removed in self._removed]
        for generation in self.pool.generations:
            if generation not in accepting:
                generation.end_all("a new supervisor serves")

    def _take_pid_file(self, event: events.PredecessorLeft) -> None:
        """Move the pid file to its own name: the predecessor has ended."""
        if self._pid_file is not None and self.settings.pid is not None:
            self._pid_file.begin_move(
                self.settings.pid,
                event.pid,
                self._helpers.run,
                lambda error: messages.PID_FILE_NOT_MOVED.log(self.logger, error=error),
            )

    # -- the stop -------------------------------------------------------------------------------

    def _begin_stop(self, event: events.StopWanted) -> None:
        """Stop gracefully: let load balancers notice, then let the workers finish."""
        self._take_stop_reply(event.reply)
        self._abort_others()
        # 1. No load balancer is to send more requests; those that come are served for a while.
        for worker in self.pool:
            worker.slot.words[READY] = 0
        self.certificates.end()
        now = time.monotonic()
        end_by = now + self.settings.graceful_timeout
        if delay := self.settings.shutdown_delay:
            self.state = Delaying(now + delay, end_by)
            self.logger.info(
                "stopping in %g s: not ready any more (setting: shutdown_delay)", delay
            )
        else:
            self._drain(end_by)

    def _stop_start(self, event: events.StopWanted) -> None:
        """Stop during the start: at once, unless clients can connect already."""
        if any(worker.let_in for worker in self.current.workers):
            self._begin_stop(event)
        else:
            self._stop_at_once(event)

    def _note_stop(self, event: events.StopWanted) -> None:
        """Go on with the stop: wrappers and process managers send the signal twice."""
        self._take_stop_reply(event.reply)
        self.logger.info("stopping already: SIGINT or SIGQUIT cuts off the requests in progress")

    def _drain(self, end_by: float) -> None:
        """Order all workers to empty the accept queues, finish what is in progress, and end."""
        # 2. The end of the delay.
        self.state = Draining()
        limit = max(0.0, end_by - time.monotonic())
        self.logger.info("stopping: finishing the requests in progress, for up to %.3g s", limit)
        for listener in self.listeners:
            listener.ignore_new_connections()
        self.pool.leave("the server stops", last=True, end_by=end_by)

    def _stop_again(self, event: events.StopWanted) -> None:
        """Stop where the server hands over: the workers leave already."""
        assert isinstance(self.state, HandingOver)
        if self.state.told_to_stop:
            self._stop_at_once(event)
            return
        self._take_stop_reply(event.reply)
        self.state = HandingOver(told_to_stop=True)

    def _stop_at_once(
        self, event: events.StopWanted | events.QuitWanted | events.Interrupted
    ) -> None:
        """Order all workers to cut off what is in progress."""
        self._take_stop_reply(None if isinstance(event, events.Interrupted) else event.reply)
        if not isinstance(self.state, Delaying | Draining | HandingOver | Stopping):
            self._abort_others()
        self.state = Stopping()
        self.logger.info("stopping at once")
        self.certificates.end_at_once()
        if self._rejected is not None:
            self._rejected.end_at_once()
        self.pool.quit("the server stops at once")

    def _abort_others(self) -> None:
        """Take back what is under way when the server is told to stop."""
        self._notifier.stopping("stopping")
        self._abort_reload("the server stops")
        if isinstance(self.state, Upgrading):
            self._end_upgrade(events.SuccessorFailed("the server stops"))

    def _take_stop_reply(self, reply: Reply | None) -> None:
        if reply is not None:
            self._stop_replies.append(reply)


def _reply(reply: Reply | None, done: bool, message: str) -> None:
    if reply is not None:
        reply(Outcome(done, message))
