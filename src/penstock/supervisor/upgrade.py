"""An upgrade: a new supervisor, of the code as it is installed now, takes the sockets over.

The new one is started as the old one was, with the same arguments, and inherits the listening
sockets, so that no connection is refused and none is lost in their queues. When its workers serve,
it says so, and the old one leaves; if it ends before that, the old one goes on.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from penstock.config.sources import FIRST_PASSED_DESCRIPTOR
from penstock.control.commands import Answer, Outcome
from penstock.worker.channel import Channel

if TYPE_CHECKING:
    from penstock.listeners import Listener
    from penstock.supervisor.launch import Launch
    from penstock.supervisor.loop import Loop

VARIABLE = "_PENSTOCK_PREDECESSOR"
"""The variable in which a new supervisor is told what it inherits, in JSON."""

MARGIN_SECONDS = 10.0
"""What a new supervisor may take beyond the boot timeout of its workers, for its own start."""


@dataclass
class Predecessor:
    """The supervisor that this one is to replace, as the new one sees it."""

    pid: int
    channel: Channel
    listeners: list[tuple[str, int]]
    """Addresses, each with the descriptor of the socket that listens on it."""
    services: dict[str, int]
    """The sockets of control and health, by setting and address."""

    def tell_ready(self) -> None:
        """Say that the workers serve: now the other one may leave."""
        self.channel.send({"event": "ready", "pid": os.getpid()})


def find_predecessor() -> Predecessor | None:
    """Return what the environment tells of a predecessor, and forget the variable."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    told = json.loads(text)
    for descriptor in (told["channel"], *told["services"].values()):
        os.set_inheritable(descriptor, False)
    return Predecessor(
        pid=told["pid"],
        channel=Channel(socket.socket(fileno=told["channel"])),
        listeners=[(address, descriptor) for address, descriptor in told["listeners"]],
        services=told["services"],
    )


class Upgrade:
    """One upgrade, as the old supervisor sees it: from the fork to its success or failure."""

    def __init__(self, loop: Loop, logger: logging.Logger, on_ready: Callable[[], None]) -> None:
        """``on_ready`` is called when the new supervisor serves."""
        self.pid = 0
        self.is_over = False
        self.answers: list[Answer] = []
        self._loop = loop
        self._logger = logger
        self._on_ready = on_ready
        self._channel: Channel
        self._deadline = 0.0

    def start(
        self,
        launch: Launch,
        listeners: Sequence[Listener],
        services: Mapping[str, int],
        variables: Callable[[int], dict[str, str]],
        abandon: Callable[[], None],
    ) -> None:
        """Start the new supervisor; raises OSError where that cannot be.

        ``variables`` returns what its environment has besides the original one, for its process
        id; ``abandon`` lets go of what is this process's alone.
        """
        self._channel, theirs = Channel.pair()
        self._deadline = time.monotonic() + launch.settings.boot_timeout + MARGIN_SECONDS
        self.pid = os.fork()
        if self.pid == 0:
            _become(launch, listeners, services, theirs, variables, abandon)
        theirs.close()
        self._loop.watch(self._channel.fileno(), self._listen)

    def _listen(self) -> None:
        """Act on the messages of the new supervisor, or on its end."""
        for message in self._channel.receive():
            if message["event"] == "ready" and not self.is_over:
                self.is_over = True
                self._answer(True, f"upgraded: the new supervisor is process {self.pid}")
                self._on_ready()
        if self._channel.ended:
            self._loop.forget(self._channel.fileno())
            if not self.is_over:
                self.fail("the new supervisor has ended; its messages are in the log above")

    def check_deadline(self) -> None:
        """Give up a new supervisor that takes too long."""
        if not self.is_over and time.monotonic() > self._deadline:
            self.fail("the new supervisor was not ready in time (setting: boot_timeout)")

    def fail(self, reason: str) -> None:
        """Take the upgrade back: the new supervisor goes, if it is not gone, and all stays."""
        if self.is_over:
            return
        self.is_over = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        message = f"not upgraded, this supervisor goes on: {reason}"
        self._logger.error("%s", message)
        self._answer(False, message)

    def _answer(self, done: bool, message: str) -> None:
        for answer in self.answers:
            answer(Outcome(done, message))
        self.answers.clear()

    def abandon(self) -> None:
        """Close the line in a forked child."""
        self._channel.close()


def _become(
    launch: Launch,
    listeners: Sequence[Listener],
    services: Mapping[str, int],
    channel: Channel,
    variables: Callable[[int], dict[str, str]],
    abandon: Callable[[], None],
) -> NoReturn:
    """Turn this forked child into the new supervisor."""
    try:
        # Control and health are the old supervisor's own, and closed here with the rest.
        kept = {name: os.dup(descriptor) for name, descriptor in services.items()}
        abandon()
        passed = [each for each in listeners if each.address.descriptor is not None]
        told = {
            "pid": os.getppid(),
            "channel": channel.fileno(),
            "listeners": [
                (each.address.text, each.socket.fileno())
                for each in listeners
                if each not in passed
            ],
            "services": kept,
        }
        for each in listeners:
            each.socket.set_inheritable(True)
        for descriptor in (channel.fileno(), *kept.values()):
            os.set_inheritable(descriptor, True)
        environ = {**launch.environ, **variables(os.getpid()), VARIABLE: json.dumps(told)}
        if "LISTEN_FDS" in launch.settings.source_of("bind"):
            # systemd's: they stand where they stood, and are this process's now.
            assert min(each.socket.fileno() for each in passed) == FIRST_PASSED_DESCRIPTOR
            environ["LISTEN_PID"] = str(os.getpid())
        os.chdir(launch.directory)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
    except BaseException as error:
        logging.getLogger("penstock").error("cannot start the new supervisor: %s", error)
    finally:
        os._exit(1)
