"""The preloader: a process that loads the application once and is then forked for each worker.

It stands between the supervisor, which never imports an application, and the workers, which share
the memory of the imported modules. A worker is forked twice, so that its parent becomes the
supervisor, which adopts orphans: the supervisor reaps it, and the preloader may end before it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from penstock import messages
from penstock.app.loading import load_application
from penstock.listeners import kept_from_children
from penstock.supervisor.reports import is_report, shortened
from penstock.supervisor.slow_boots import stacks_of
from penstock.supervisor.worker_process import ask_for_dump, open_lines, read_dump
from penstock.system.descriptors import receive_descriptors
from penstock.system.fork_safety import fork_hazards, open_descriptors
from penstock.system.memory import keep_what_is_loaded
from penstock.system.prctl import end_with_parent, outlive_parent
from penstock.system.privileges import become, drop_capabilities, set_title
from penstock.telemetry.error_log import ErrorLog, log_daemons, process_logger
from penstock.telemetry.log_config import configure
from penstock.worker import child
from penstock.worker.channel import Channel, Message
from penstock.worker.metric_files import set_up_metric_files

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.config.settings import Settings
    from penstock.supervisor.generation import Generation
    from penstock.supervisor.loop import Loop
    from penstock.telemetry.scoreboard import Slot

_MESSAGE_BYTES = 160
_MOST_DESCRIPTORS = 4
"""With one order: a channel, a pipe for stacks, and two logs."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1,
            signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)  # fmt: skip


class Preloader:
    """The supervisor's side of the process that preloads for one generation."""

    def __init__(
        self,
        generation: Generation,
        loop: Loop,
        on_failure: Callable[[Generation, Message], None],
    ) -> None:
        """``on_failure`` is called with the reason why the application could not be loaded."""
        self.pid = 0
        self.is_ready = False
        """It has loaded the application."""
        self._generation = generation
        self._loop = loop
        self._on_failure = on_failure
        self._channel: Channel | None = None
        self._failure: Message | None = None
        self._dump: int | None = None
        self.settings = generation.settings
        self.must_boot_by = 0.0
        """When it is killed if it has not loaded the application."""
        self.dumped = bytearray()
        """What its C code has written about its stacks."""

    def __str__(self) -> str:
        """Return its name in logs."""
        return f"the preloader (pid {self.pid or '?'})"

    @property
    def is_loading(self) -> bool:
        """Whether it runs, and has not loaded the application yet."""
        return self._channel is not None and not self.is_ready

    def begin(self) -> None:
        """Start the process, unless it runs."""
        if self._channel is not None:
            return
        self._failure = None
        self.must_boot_by = time.monotonic() + self.settings.boot_timeout
        self.dumped.clear()
        try:
            self._channel, theirs, self._dump, their_dump = open_lines()
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    _PreloadingProcess(self._generation, theirs, their_dump).run()
            finally:
                theirs.close()
                os.close(their_dump)
        except OSError as error:
            self._fail({"message": f"cannot start a process for it: {error.strerror}", "status": 1})
            return
        self._loop.watch(self._channel.fileno(), self._listen)
        self._loop.watch(self._dump, self._read_dump)

    def ask_for_dump(self) -> None:
        """Make its C code write the stacks of all its threads to `dumped`."""
        self.dumped.clear()
        if self.pid:
            ask_for_dump(self.pid)

    def _read_dump(self) -> None:
        if self._dump is not None and not read_dump(self._dump, self.dumped):
            self._loop.forget(self._dump)

    def fork(
        self, number: int, slot: Slot, channel: Channel, dump: int, logs: Mapping[str, int]
    ) -> None:
        """Order a worker, which sends its process id when it runs. Raises OSError."""
        if self._channel is None:
            raise OSError(0, "the process that has loaded the application is gone")
        what = {"number": number, "slot": slot.index, "logs": list(logs)}
        order = json.dumps(what).encode().ljust(_MESSAGE_BYTES)
        passed = [channel.fileno(), dump, *logs.values()]
        try:
            socket.send_fds(self._channel.socket, [order], passed)
        except BlockingIOError:
            raise OSError(
                0, "the process that has loaded the application does not answer"
            ) from None

    def check_deadline(self) -> None:
        """End the process where it takes too long to load the application."""
        if not self.is_loading or time.monotonic() < self.must_boot_by:
            return
        limit = self.settings.boot_timeout
        message = f"the application was not loaded within {limit:g} s (setting: boot_timeout)"
        traceback = f"{stacks_of(self)}\n" if self.dumped else ""
        self._fail({"message": message, "traceback": traceback, "status": 1})

    def note_end(self, pid: int) -> None:
        """Act on its end, though a child of the application may hold the channel open."""
        if pid == self.pid:
            self.pid = 0
            self._listen()

    def _listen(self) -> None:
        if self._channel is None:
            return
        for message in self._channel.receive():
            if message.get("event") == "loaded":
                self.is_ready = True
            elif message.get("event") == "failed" and is_report(message):
                self._failure = shortened(message)
            else:
                self._channel.reject("an unknown message")
                break
        if self._channel.broken:
            what = f"the process that loads it has sent {self._channel.broken}"
            self._fail({"message": what, "status": 1})
        elif self._channel.ended or not self.pid:
            self._fail(self._failure or {"message": "the process that loads it ended", "status": 1})

    def _fail(self, failure: Message) -> None:
        self.end()
        self._on_failure(self._generation, failure)

    def end(self) -> None:
        """End the process, whatever the application does while it is imported."""
        if self.pid:  # not reaped yet: `note_end` would have set it to 0
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self._channel is not None:
            self._loop.forget(self._channel.fileno())
            self._channel.close()
        if self._dump is not None:
            self._loop.forget(self._dump)
            os.close(self._dump)
        self._channel = self._dump = None
        self.is_ready = False

    def close_in_child(self) -> None:
        """Close the channel in a forked child."""
        if self._channel is not None:
            self._channel.close()
        if self._dump is not None:
            os.close(self._dump)


class _PreloadingProcess:
    """What runs in the process that loads the application."""

    def __init__(self, generation: Generation, channel: Channel, dump: int) -> None:
        self._generation = generation
        self._channel = channel
        self._dump = dump
        self._application: WSGIApplication

    def run(self) -> NoReturn:
        """Load the application, then fork workers until the supervisor closes the channel."""
        generation, settings = self._generation, self._generation.settings
        try:
            end_with_parent(generation.server.pid)
            set_title("preloader", generation.title)
            faulthandler.enable(self._dump, all_threads=True)
            faulthandler.register(child.DUMP_SIGNAL, self._dump, all_threads=True, chain=False)
            generation.move_in()
            for number in _IGNORED:
                # Not SIG_IGN, which the workers would keep. The supervisor ends this process.
                signal.signal(number, _do_nothing)
            passed = generation.logs.descriptors.pop("error_logfile", None)
            generation.logs.close()
            logger = ErrorLog(
                settings.error_logfile,
                settings.log_level,
                process_logger(),
                passed=passed,
                format=settings.error_logformat,
                daemons=log_daemons(settings),
            ).logger
            before = open_descriptors()
            generation.launch.prepare(settings)
            self._become(settings)
            configure(settings)
            set_up_metric_files(settings)
            with kept_from_children(generation.listeners):
                self._application = load_application(generation.launch.application)
            _warn_of_unsafe_state(logger, before)
            keep_what_is_loaded()
            outlive_parent()  # from here on the end of the channel is enough
            self._channel.send({"event": "loaded"})
            self._serve()
        except BaseException as error:
            child.report(self._channel, error)
        finally:
            os._exit(0)

    def _become(self, settings: Settings) -> None:
        """Give up privileges before the application is imported, as a worker does."""
        for listener in self._generation.listeners:
            listener.forget_directory()
        drop_capabilities()
        identity = self._generation.identity
        if identity is None:
            return
        child.import_for(settings)
        become(identity, setuid_programs=settings.allow_setuid_programs)
        end_with_parent(self._generation.server.pid)  # the kernel has forgotten it

    def _serve(self) -> None:
        sock = self._channel.socket
        sock.setblocking(True)
        while True:
            data, descriptors = receive_descriptors(
                sock, _MESSAGE_BYTES, _MOST_DESCRIPTORS, socket.MSG_WAITALL
            )
            if not data:
                return
            self._fork(json.loads(data), descriptors)

    def _fork(self, order: Message, descriptors: list[int]) -> None:
        adopted, adopt = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            for descriptor in (*descriptors, adopted):
                os.close(descriptor)
            os.waitpid(pid, 0)
            os.close(adopt)
            return
        if os.fork():
            os._exit(0)  # its child is an orphan now, which the supervisor adopts
        # Closed only now: the supervisor accepts messages only from its own children.
        os.close(adopt)
        os.read(adopted, 1)
        os.close(adopted)
        channel, dump, *logs = descriptors
        for number in _IGNORED:
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, signal.SIG_DFL)
        generation = self._generation
        assignment = generation.assignment(
            order["number"],
            generation.scoreboard.slots[order["slot"]],
            Channel(socket.socket(fileno=channel), is_workers=True),
            dump,
            lambda: self._application,
            dict(zip(order["logs"], logs, strict=True)),
        )
        child.run(assignment, self._close)

    def _close(self) -> None:
        """Close what is this process's alone, in a worker that it has forked."""
        self._channel.close()
        faulthandler.unregister(child.DUMP_SIGNAL)  # the worker has a pipe of its own
        faulthandler.disable()
        os.close(self._dump)


def _warn_of_unsafe_state(logger: logging.Logger, before: frozenset[int]) -> None:
    for what in fork_hazards(before):
        messages.PRELOAD_HAZARD.log(logger, hazard=what)


def _do_nothing(_number: int, _frame: object) -> None:
    pass
