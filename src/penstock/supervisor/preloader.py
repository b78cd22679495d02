"""Preloading: a process that loads the application once, and is then forked for each worker.

It stands between the supervisor, which never imports an application, and the workers, which share
the memory of what it has imported. A worker is forked twice over, and so has the supervisor, which
adopts orphans, for its parent: its end is told there, and the nursery may go before it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from penstock.app.loading import load_application
from penstock.listeners import kept_from_children
from penstock.supervisor.generation import Ends, Generation
from penstock.system.fork_safety import fork_hazards, open_descriptors
from penstock.system.prctl import end_with_parent, outlive_parent
from penstock.telemetry.error_log import ErrorLog, process_logger
from penstock.worker import child
from penstock.worker.channel import Channel, Message

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.compat.gunicorn.hooks import Server
    from penstock.supervisor.launch import Launch
    from penstock.supervisor.loop import Loop
    from penstock.telemetry.scoreboard import Slot

_MESSAGE_BYTES = 96
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1,
            signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)  # fmt: skip


class Nursery:
    """Makes workers of one generation, which share an application that was loaded before.

    The supervisor's side of it: a `penstock.supervisor.generation.Spawner`.
    """

    def __init__(
        self,
        launch: Launch,
        generation: Generation,
        server: Server,
        loop: Loop,
        abandon: Callable[[], None],
        on_failure: Callable[[Generation, Message], None],
    ) -> None:
        """``on_failure`` is told why the application could not be loaded."""
        self.pid = 0
        self.is_ready = False
        self._launch = launch
        self._generation = generation
        self._server = server
        self._loop = loop
        self._abandon = abandon
        self._on_failure = on_failure
        self._channel: Channel | None = None
        self._failure: Message | None = None
        self._since = 0.0

    def begin(self) -> None:
        """Start the process that loads the application, unless it is there."""
        if self._channel is not None:
            return
        self._failure = None
        self._since = time.monotonic()
        try:
            self._channel, theirs = Channel.pair()
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    self._load(theirs)
            finally:
                theirs.close()
        except OSError as error:
            self._fail({"message": f"cannot start a process for it: {error.strerror}", "status": 1})
            return
        self._loop.watch(self._channel.fileno(), self._listen)

    def _load(self, channel: Channel) -> NoReturn:
        _Nurse(self._launch, self._generation, self._server, channel, self._abandon_all).run()

    def _abandon_all(self) -> None:
        self._abandon()
        if self._channel is not None:
            self._channel.close()

    def spawn(self, number: int, slot: Slot, ends: Ends) -> int:
        """See `penstock.supervisor.generation.Spawner.spawn`. Raises OSError."""
        if self._channel is None:
            raise OSError(0, "the process that has loaded the application is gone")
        what = {"number": number, "slot": slot.index, "lenient": ends.has_served}
        order = json.dumps(what).encode().ljust(_MESSAGE_BYTES)
        descriptors = [ends.channel.fileno(), ends.dump]
        try:
            socket.send_fds(self._channel.socket, [order], descriptors)
        except BlockingIOError:
            raise OSError(
                0, "the process that has loaded the application does not answer"
            ) from None
        return 0

    def check_deadline(self) -> None:
        """Give up a load that takes too long."""
        limit = self._generation.settings.boot_timeout
        if self._channel is None or self.is_ready or time.monotonic() - self._since < limit:
            return
        message = f"the application was not loaded within {limit:g} s (setting: boot_timeout)"
        self._fail({"message": message, "status": 1})

    def note_end(self, pid: int) -> None:
        """Act on its end, though a child of the application may hold the other end of the line."""
        if pid == self.pid:
            self.pid = 0
            self._listen()

    def _listen(self) -> None:
        if self._channel is None:
            return
        for message in self._channel.receive():
            if message["event"] == "loaded":
                self.is_ready = True
            else:
                self._failure = message
        if self._channel.ended or not self.pid:
            self._fail(self._failure or {"message": "the process that loads it ended", "status": 1})

    def _fail(self, failure: Message) -> None:
        self.end()
        self._on_failure(self._generation, failure)

    def end(self) -> None:
        """End the process, whatever the import of the application is about."""
        if self.pid:  # not reaped yet, or else `note_end` had been told
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self._channel is not None:
            self._loop.forget(self._channel.fileno())
            self._channel.close()
        self._channel = None
        self.is_ready = False

    def abandon(self) -> None:
        """Close the line in a forked child."""
        if self._channel is not None:
            self._channel.close()


class _Nurse:
    """What runs in the process that loads the application."""

    def __init__(
        self,
        launch: Launch,
        generation: Generation,
        server: Server,
        channel: Channel,
        abandon: Callable[[], None],
    ) -> None:
        self._server = server
        self._launch = launch
        self._generation = generation
        self._channel = channel
        self._abandon = abandon
        self._application: WSGIApplication

    def run(self) -> NoReturn:
        """Load the application, then fork workers until the supervisor closes the line."""
        settings = self._generation.settings
        try:
            end_with_parent(self._server.pid)
            self._abandon()
            for number in _IGNORED:
                # Not SIG_IGN, which the workers would keep. It ends when the supervisor wants it.
                signal.signal(number, _do_nothing)
            logger = ErrorLog(settings.error_logfile, settings.log_level, process_logger()).logger
            before = open_descriptors()
            os.chdir(self._generation.directory)
            self._launch.prepare(settings)
            with kept_from_children(self._generation.listeners):
                self._application = load_application(self._launch.application)
            _warn_of_survivors(logger, before)
            gc.collect()
            gc.freeze()  # a collection in a worker would write to, and so copy, all these pages
            outlive_parent()  # from here on the end of the line is enough
            self._channel.send({"event": "loaded"})
            self._serve()
        except BaseException as error:
            child.report(self._channel, error)
        finally:
            os._exit(0)

    def _serve(self) -> None:
        sock = self._channel.socket
        sock.setblocking(True)
        while True:
            data, descriptors, _flags, _address = socket.recv_fds(
                sock, _MESSAGE_BYTES, 2, socket.MSG_WAITALL
            )
            if not data:
                return
            order = json.loads(data)
            self._fork(order, *descriptors)

    def _fork(self, order: Message, channel: int, dump: int) -> None:
        pid = os.fork()
        if pid:
            os.close(channel)
            os.close(dump)
            os.waitpid(pid, 0)
            return
        if os.fork():
            os._exit(0)  # its child is an orphan now, and the supervisor's
        for number in _IGNORED:
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, signal.SIG_DFL)
        generation = self._generation
        os.set_inheritable(dump, False)
        assignment = child.Assignment(
            number=order["number"],
            launch=self._launch,
            generation=generation,
            server=self._server,
            slot=generation.scoreboard.slots[order["slot"]],
            channel=Channel(socket.socket(fileno=channel)),
            dump=dump,
            load=lambda: self._application,
            lenient=order["lenient"],
        )
        child.run(assignment, self._channel.close)


def _warn_of_survivors(logger: logging.Logger, before: frozenset[int]) -> None:
    for what in fork_hazards(before):
        logger.warning("preload: %s; make it in the worker instead, after the fork", what)


def _do_nothing(_number: int, _frame: object) -> None:
    pass
