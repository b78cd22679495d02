"""What runs in a worker's process, from the fork to its end."""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from penstock import messages
from penstock.app.loading import SpecError
from penstock.compat.gunicorn.hooks import Hooks, WorkerOfServer, show_application
from penstock.errors import PenstockError
from penstock.listeners import kept_from_children
from penstock.records import dataclass
from penstock.system.memory import keep_what_is_loaded
from penstock.system.prctl import end_with_parent, name_forks, outlive_parent
from penstock.system.privileges import (
    COMMAND_NAME,
    Identity,
    become,
    drop_capabilities,
    forbid_setuid_programs,
    set_title,
    short_name,
)
from penstock.system.processes import children_of
from penstock.system.signals import FROM_OUTSIDE, IGNORES_INTERRUPTS, Signals
from penstock.system.standard_streams import flush_all
from penstock.system.titles import title_writer
from penstock.telemetry.error_log import SinkHandler, process_logger
from penstock.telemetry.scoreboard import PID, RequestInProgress, Slot
from penstock.worker.channel import Channel, Message
from penstock.worker.filters import import_filters
from penstock.worker.load_title import LoadTitle
from penstock.worker.main import (
    leave_for_certain,
    run_exit_handlers,
    serve_under_control,
    shut_down,
)
from penstock.worker.metric_files import set_up_metric_files
from penstock.worker.worker import Worker, transport_class

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.app.file_watcher import State, Watch
    from penstock.compat.gunicorn.hooks import Server
    from penstock.config.budgets import Budgets
    from penstock.config.settings import Settings
    from penstock.edge.rate_limit import RateTable
    from penstock.edge.tls import TlsMaterial
    from penstock.listeners import Listener
    from penstock.worker.profiler import Profiler

DUMP_SIGNAL = signal.SIGURG
"""Makes C code write the stacks of a worker whose interpreter may be stuck.

The kernel ignores it by default, so that it does no harm where it arrives too early.
"""

SEND_SECONDS = 5.0
"""How long the supervisor may take to read a profile: it never waits for anything itself."""

FAILED_TO_BOOT = 3
"""Exit status of a worker that could not serve; it has reported the reason."""

INTERRUPTED = 130
"""Exit status of a worker that was interrupted while it loaded: 128 + SIGINT, as in shells."""


_logger = logging.getLogger("penstock")


@dataclass(frozen=True)
class Assignment:
    """What a worker's process is given when it is forked."""

    number: int
    """Counts the workers of the server, from 1."""
    settings: Settings
    listeners: Sequence[Listener]
    multiprocess: bool
    """There may be other workers."""
    identity: Identity | None
    """The user that the worker becomes; None where it stays the supervisor's."""
    title: str
    """For the title of the process."""
    server: Server
    """The ``server`` of gunicorn's hooks."""
    slot: Slot
    budgets: Budgets
    """The same for all workers of the generation."""
    rate_table: RateTable | None
    """Where they count the requests of each client (setting: max_requests_per_client)."""
    channel: Channel
    """The worker's end."""
    dump: int
    """Descriptor that `faulthandler` writes stacks to."""
    prepare: Callable[[Settings], None]
    """Gives the process the directory, the search path, the variables and the mask."""
    load: Callable[[], WSGIApplication]
    logs: Mapping[str, int]
    """A descriptor for each setting of a log file; the worker takes them over."""
    watches: bool = False
    """It watches the application's files from the start (setting: reload)."""


def run(assignment: Assignment, close_in_child: Callable[[], None]) -> NoReturn:
    """Serve until an order to leave; the process ends with that.

    ``close_in_child`` closes what was the parent's alone: another worker's channel, held open here,
    would keep that worker from seeing that the supervisor has ended.
    """
    status = FAILED_TO_BOOT
    try:
        close_in_child()
        status = _Child(assignment).run()
        run_exit_handlers()
        _report_children(assignment.channel)
    except BaseException as error:
        report(assignment.channel, error)
    finally:
        flush_all()
        os._exit(status)


def report(channel: Channel, error: BaseException, watched: int = 0) -> None:
    """Report to the supervisor why this process cannot serve; wait until the message is sent.

    ``watched`` is the number of files that it goes on watching; with 0 it ends.
    """
    message, traceback, status = f"{type(error).__name__}: {error}", "", 1
    if isinstance(error, PenstockError):
        message, status = str(error), error.exit_status
        traceback = getattr(error, "traceback", "")
    elif isinstance(error, KeyboardInterrupt):
        message, status = "interrupted", INTERRUPTED
    else:
        from traceback import format_exception

        traceback = "".join(format_exception(error))
    channel.socket.setblocking(True)
    channel.send(
        {
            "event": "failed",
            "message": message,
            "traceback": traceback,
            "status": status,
            "watched": watched,
        }
    )


def _report_children(channel: Channel) -> None:
    """Report the processes that the application has started, and that outlive this one."""
    if children := children_of(os.getpid()):
        channel.socket.setblocking(True)  # nothing follows
        channel.send({"event": "children", "left": children})


def import_for(settings: Settings) -> None:
    """Import what a worker with these settings needs: it may be where only root may read."""
    transport_class(settings)
    import_filters(settings)
    # For the error of an application that cannot be loaded.
    import difflib  # noqa: F401

    import penstock.app.hints

    if settings.hooks:
        import urllib.parse  # noqa: F401
    if settings.prometheus_multiproc is not None:
        import penstock.telemetry.application_metrics
    if settings.gc != "default":
        import penstock.worker.garbage
    if settings.reload:
        import sysconfig

        import penstock.app.file_watcher  # noqa: F401

        sysconfig.get_config_vars()  # in a file of Python's own


class _Child:
    """The main thread of a worker's process."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._settings = assignment.settings
        self._hooks = Hooks(self._settings.hooks, self._settings.gunicorn)
        self._channel = assignment.channel
        self._orders: deque[str] = deque()
        self._leaving = False
        self._serves = False
        self._certificates = 0  # the number of those that it is to serve with
        self._shares = False  # another supervisor has the listeners, too
        self._within = self._settings.graceful_timeout  # what is left of the stop's deadline
        self._watch: Watch | None = None
        self._load_title: LoadTitle | None = None
        self._profiler: Profiler | None = None
        self._profile_wanted: Message = {}
        self._worker: Worker
        self._facade: WorkerOfServer
        self._signals: Signals
        self._selector: selectors.BaseSelector

    def run(self) -> int:
        """Boot, serve and leave; return the exit status."""
        assignment, settings = self._assignment, self._settings
        # 1. Be able to write stacks, whatever the application does from here on. No order is read
        #    before it is loaded: an orphan that hangs in a hook, or in an import, would hold the
        #    port for ever, so the kernel ends it with the supervisor.
        self._introduce_itself()
        self._end_with_supervisor()
        self._restrict()
        # 2. Take the logs over, then become the user of the settings. The parent's log is closed:
        #    after a rotation it would keep the old file.
        inherited = [each for each in process_logger().handlers if isinstance(each, SinkHandler)]
        self._worker = Worker(
            settings,
            assignment.listeners,
            process_logger(),
            slot=assignment.slot,
            multiprocess=assignment.multiprocess,
            on_stuck=self._tell_stuck,
            budgets=assignment.budgets,
            rate_table=assignment.rate_table,
            logs=assignment.logs,
            tell_notable=self._tell_notable,
        )
        for handler in inherited:
            handler.close_sinks()
        for daemon in self._worker.error_log.daemons:
            daemon.name_worker(assignment.number)
        self._worker.load_title = self._load_title
        assignment.prepare(settings)  # hooks see the variables and the search path, too
        self._call_hook("post_fork", assignment.server, self._facade)
        if assignment.identity is not None:
            import_for(settings)
            become(assignment.identity, setuid_programs=settings.allow_setuid_programs)
            self._end_with_supervisor()  # the kernel forgets it when the user changes
        # 3. Load the application.
        self._worker.configure_logging()
        set_up_metric_files(settings)
        with kept_from_children(assignment.listeners):
            application = self._load()
        self._worker.set_up_spans()
        outlive_parent()
        self._facade.booted = True
        show_application(application, assignment.server, self._facade)
        # Only now: signal handlers that it set while it was imported would keep orders out.
        self._signals = Signals(FROM_OUTSIDE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._call_hook("post_worker_init", self._facade)
        self._worker.choose_access_logger()
        keep_what_is_loaded()
        self._worker.manage_garbage()
        # 4. Report that, and serve when ordered: a new generation starts to serve all at once.
        self._channel.send({"event": "ready"})
        order = self._await("go", "leave", "stop", "quit")
        if order != "go":
            leave_for_certain(0)
            return 0
        self._serves = True
        self._worker.start(self._hooks.wrap(application, self._facade), lent=settings.threads == 1)
        self._channel.send({"event": "serving"})
        self._report_certificates()
        # 5. Serve until another order.
        return serve_under_control(
            self._worker,
            lambda: self._leave(self._await("leave", "stop", "quit")),
            own_process=True,
            last=lambda: self._call_hook("worker_exit", assignment.server, self._facade),
        )

    def _restrict(self) -> None:
        """Give up what is given up thread by thread, while there is no other thread."""
        identity, settings = self._assignment.identity, self._settings
        for listener in self._assignment.listeners:
            listener.forget_directory()
        drop_capabilities()
        if identity is not None and not settings.allow_setuid_programs:
            forbid_setuid_programs(identity)

    def _end_with_supervisor(self) -> None:
        # A worker that the preloader has forked has the application already. The parent's process
        # id would not tell: the supervisor may have been killed since the fork.
        if not self._settings.preload:
            end_with_parent(self._assignment.server.pid)

    def _load(self) -> WSGIApplication:
        """Return the application, whose files are watched where the settings want it."""
        assignment, settings = self._assignment, self._settings
        if not settings.reload:
            return assignment.load()
        from penstock.app.file_watcher import Watch, keep_young_code_out_of_the_cache

        keep_young_code_out_of_the_cache()
        watch = self._watch = Watch(settings.reload_extra_file, self._tell_changed)
        if assignment.watches:
            watch.begin()
        try:
            application = assignment.load()
        except (KeyboardInterrupt, SpecError):  # no change of a file can mend such a name
            raise
        except BaseException as error:
            # The next change may be in a file that no other worker knows.
            report(self._channel, error, watch.failed(error))
            flush_all()
            while not self._channel.ended:
                self._channel.receive()  # it waits: `report` has made it
            raise
        watch.loaded()
        return application

    def _tell_changed(self, files: dict[str, State]) -> None:
        self._channel.send({"event": "changed", "files": files})

    def _introduce_itself(self) -> None:
        assignment = self._assignment
        faulthandler.enable(assignment.dump, all_threads=True)
        faulthandler.register(DUMP_SIGNAL, assignment.dump, all_threads=True, chain=False)
        # A terminal's Ctrl-C goes to the supervisor, too: before anything is served, both end. What
        # the supervisor ignores the worker ignores.
        interrupt = signal.SIG_IGN if IGNORES_INTERRUPTS else signal.default_int_handler
        signal.signal(signal.SIGINT, interrupt)
        pid = os.getpid()
        assignment.slot.words[PID] = pid
        self._channel.send({"event": "hello", "pid": pid})
        server = assignment.server
        # The object of pre_fork, unless the preloader has forked this process.
        known = server.starting.pop(assignment.number, None)
        self._facade = known or WorkerOfServer(
            assignment.number, server.pid, process_logger(), server.cfg
        )
        self._facade.pid = pid
        role = f"worker {assignment.number}"
        set_title(role, assignment.title)
        if (write := title_writer()) is not None:
            title = f"penstock: {role} [{assignment.title}]"
            write(title)
            self._load_title = LoadTitle(title, assignment.slot, write)
        # What the application forks has a name of its own: it may outlive this process.
        name_forks(f"{COMMAND_NAME}{short_name(role)}-f")

    def _leave(self, order: str) -> int:
        self._facade.alive = False
        if self._watch is not None:
            self._watch.end()
        if order == "quit":
            self._call_hook("worker_int", self._facade)
        else:
            self._leaving = True
            self._signals.run_application_handler()
        return shut_down(
            self._worker,
            graceful=order != "quit",
            interrupted=self._interrupted,
            own_process=True,
            hand_over=order == "leave" and (self._shares or not self._channel.ended),
            # One deadline covers the whole stop of the server: the shutdown delay has used some.
            within=min(self._worker.settings.graceful_timeout, self._within),
        )

    def _call_hook(self, name: str, *arguments: object) -> None:
        self._hooks.call(name, *arguments, logger=self._worker.logger)

    # -- orders -----------------------------------------------------------------------------------

    def _await(self, *wanted: str) -> str:
        """Return the first of these orders; follow others meanwhile."""
        while True:
            order = self._next(None)
            if order in wanted:
                return order
            if order is not None:
                self._follow(order)

    def _interrupted(self, timeout: float) -> int | None:
        """Return a signal that cuts a graceful stop short, within ``timeout`` seconds."""
        order = self._next(timeout)
        if order == "quit":
            return signal.SIGQUIT
        if order is not None:
            self._follow(order)
        return None

    def _follow(self, order: str) -> None:
        if order == "reopen":
            self._reopen_logs()
        elif order == "stacks":
            self._channel.send({"event": "stacks", "text": self._worker.describe_stacks()})
        elif order in ("share", "own"):
            self._shares = order == "share"
        elif order == "watch" and self._watch is not None:
            self._watch.begin()
        elif order == "profile":
            self._profile(self._profile_wanted)
        elif order == "end profile" and self._profiler is not None:
            self._profiler.stop()

    def _profile(self, wanted: Message) -> None:
        """Sample this process's stacks in a thread of its own, and send what was found."""
        try:
            from penstock.worker.profiler import Profiler  # most workers never need it

            self._profiler = Profiler(
                self._assignment.slot,
                seconds=float(wanted["seconds"]),
                rate=int(wanted["rate"]),
                idle=bool(wanted["idle"]),
                done=self._send_profile,
            )
            self._profiler.start()
        except (ImportError, OSError, RuntimeError) as error:
            # Only root may read the package, or no thread is left.
            self._send_profile(
                {
                    "error": f"{type(error).__name__}: {error}"[:200],
                    "seconds": 0, "samples": 0, "late": 0, "cost": 0, "frames": [], "stacks": [],
                }
            )  # fmt: skip

    def _send_profile(self, profile: dict[str, Any]) -> None:
        """Send a profile, which may be more than the socket takes at once."""
        channel = self._channel
        channel.send({"event": "profile", **profile})
        end = time.monotonic() + SEND_SECONDS
        while not channel.flush() and (left := end - time.monotonic()) > 0:
            select.select([], [channel], [], left)

    def _reopen_logs(self) -> None:
        """Act on a SIGUSR1 that was sent to this worker alone."""
        if self._assignment.identity is None:
            self._worker.reopen_logs()
        else:
            self._worker.logger.info("SIGUSR1: the supervisor opens the logs; send it there")

    def _next(self, timeout: float | None) -> str | None:
        """Return the next order, or None after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._orders:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._selector.select(remaining)
            while (number := self._signals.take()) is not None:
                self._take_signal(number)
            self._take_messages()
            if remaining == 0.0:
                break
        return self._orders.popleft() if self._orders else None

    def _take_signal(self, number: int) -> None:
        if number in (signal.SIGINT, signal.SIGQUIT):
            self._channel.send({"event": "asked to stop", "at_once": True})
            self._orders.append("quit")
        elif number == signal.SIGUSR1:
            self._orders.append("reopen")
        elif number == signal.SIGTERM and not self._leaving:
            # Process managers send it to all processes of a server at once. The supervisor decides
            # what follows: a successor first, or the end of all.
            self._channel.send({"event": "asked to stop", "at_once": False})
            if self._channel.ended:
                self._orders.append("stop")

    def _take_messages(self) -> None:
        if self._channel.ended:
            return
        for message in self._channel.receive():
            if "tls" in message:
                from penstock.edge.tls import TlsMaterial  # the supervisor has imported it

                self._certificates = message["number"]
                self._take_certificates(TlsMaterial.from_message(message["tls"]))
            self._within = float(message.get("within", self._within))
            if message["do"] == "reopen":
                names = message["logs"]
                passed = self._channel.take_descriptors(len(names))
                self._worker.reopen_logs(dict(zip(names, passed, strict=True)))
            elif message["do"] != "renew":
                if message["do"] == "profile":
                    self._profile_wanted = message
                self._orders.append(str(message["do"]))
        self._channel.flush()
        if self._channel.ended:
            self._selector.unregister(self._channel)
            messages.SUPERVISOR_GONE.log(_logger)
            # Where a new supervisor has the listeners, no client may be turned away from them.
            self._orders.append("leave" if self._shares else "stop")

    def _take_certificates(self, material: TlsMaterial) -> None:
        if not self._serves:
            self._worker.tls = material  # with the order to serve
        elif self._worker.renew_tls(material):
            self._report_certificates()

    def _report_certificates(self) -> None:
        """Report which certificates and challenges this worker serves with."""
        if self._certificates:
            self._channel.send({"event": "certificates", "number": self._certificates})

    def _tell_notable(self, kind: str, request: dict[str, Any]) -> None:
        """Tell the supervisor of a request that is worth a look; for `NotableRequests`."""
        self._channel.send({"event": "noted", "kind": kind, "request": request})

    def _tell_stuck(self, request: RequestInProgress | None, free_threads: int) -> None:
        """Tell the supervisor of a stuck call, or that no call is stuck; for `Deadlines`."""
        if request is not None and not self._facade.aborted:
            self._facade.aborted = True
            self._call_hook("worker_abort", self._facade)
        named = "" if request is None else str(request)
        self._channel.send({"event": "stuck", "request": named, "free_threads": free_threads})
