"""An upgrade: a new supervisor, of the code as it is installed now, takes the sockets over.

The new one is started as the old one was, with the same arguments, and inherits the listening
sockets, so that no connection is refused and none is lost in their queues. When its workers serve,
it says so, and the old one leaves; if it ends before that, the old one goes on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING, NoReturn

from penstock import messages
from penstock.config.sources import FIRST_PASSED_DESCRIPTOR
from penstock.errors import SettingsError
from penstock.records import dataclass
from penstock.supervisor import events
from penstock.supervisor.scaling import Scaled
from penstock.system.descriptors import use_inherited
from penstock.worker.channel import Channel

if TYPE_CHECKING:
    from penstock.control.commands import Reply
    from penstock.edge.tls import TicketKeys
    from penstock.listeners import Inherited, Listener
    from penstock.supervisor.generation import Launch
    from penstock.supervisor.loop import Loop
    from penstock.worker.channel import Message

VARIABLE = "_PENSTOCK_PREDECESSOR"
"""The variable that lists, in JSON, what a new supervisor inherits."""

MARGIN_SECONDS = 10.0
"""The time that a new supervisor may take for its own start, beyond its workers' boot timeout."""

END_SECONDS = 5.0
"""The time that a new supervisor has to end after SIGTERM. It ends booting workers at once, and
ready ones within 2 s. Then it is killed, or else it would hold the listening sockets for ever."""

TOTALS_SECONDS = 5.0
"""How long a new supervisor that serves waits for what the old one has counted, before it answers
the clients of control and admin without that. One that runs has sent it at once; an earlier
version never does, and may need `graceful_timeout` to leave."""

_MOST_TICKET_BYTES = 4096
"""All keys of tickets are shorter, and a pipe takes this at once."""


@dataclass
class HandedOver:
    """What a supervisor has told its successor since the last time."""

    totals: dict[str, float] | None = None
    """What it has counted: `Overview.totals`."""
    kept: list[Message] = field(default_factory=list)
    """What it has kept to look back on, for `Commands.take_over`."""


@dataclass
class Predecessor:
    """The supervisor that this one is to replace, as the new one sees it."""

    pid: int
    channel: Channel
    listeners: list[Inherited]
    """Addresses, each with the socket that listens on it."""
    services: dict[str, int]
    """The sockets of control and admin, by setting."""
    tickets: TicketKeys | None
    """The keys of TLS sessions, so that clients resume theirs; None without TLS."""
    upgrades: int
    """How many upgrades there were before this one."""
    scaled: Scaled | None
    """How many workers a command has set."""
    has_user: bool
    """It runs its workers as another user, so that settings files have to be root's."""

    def report_ready(self) -> None:
        """Report that the workers serve: the predecessor may leave now."""
        self.channel.send({"event": "ready", "pid": os.getpid()})

    def receive(self) -> HandedOver:
        """Return what it has sent since the last call."""
        found = HandedOver()
        for message in self.channel.receive():
            if message["event"] == "totals":
                totals = message["totals"].items()
                found.totals = {str(name): float(total) for name, total in totals}
            else:
                found.kept.append(message)
        return found


def find_predecessor() -> Predecessor | None:
    """Return the predecessor that the environment names, and remove the variable.

    Raises `SettingsError` unless that is the process that has started this one.
    """
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        passed = json.loads(text)
        sock = socket.socket(fileno=passed["channel"])
        if not _is_from_parent(sock, passed["pid"]):
            raise ValueError(f"process {passed['pid']} has not started this one")
        for descriptor in (passed["channel"], *passed["services"].values()):
            os.set_inheritable(descriptor, False)
            use_inherited(descriptor)
        for _, descriptor, *_ in passed["listeners"]:
            use_inherited(descriptor)
        return Predecessor(
            pid=passed["pid"],
            channel=Channel(sock),
            listeners=[_inherited(*each) for each in passed["listeners"]],
            services=passed["services"],
            tickets=_read_tickets(passed.get("tickets")),
            upgrades=passed.get("upgrades", 0),
            scaled=Scaled(*passed["scaled"]) if passed.get("scaled") else None,
            has_user=passed.get("has_user", False),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise SettingsError(
            f"the variable {VARIABLE}, which the server sets for an upgrade alone, is wrong: "
            f"{error}: remove it from the environment"
        ) from None


def _inherited(address: str, descriptor: int, identity: list[int] | None = None) -> Inherited:
    return address, descriptor, (identity[0], identity[1]) if identity else None


def _write_tickets(tickets: TicketKeys | None) -> int | None:
    """Return the descriptor from which the new program reads the keys: a pipe that holds them.

    Other processes of the user can read the variables of a process. Raises OSError.
    """
    if tickets is None:
        return None
    reader, writer = os.pipe()
    with open(writer, "wb") as pipe:
        pipe.write(json.dumps(tickets.to_message()).encode())  # less than what a pipe takes at once
    return reader


def _read_tickets(descriptor: int | None) -> TicketKeys | None:
    if descriptor is None:
        return None
    from penstock.edge.tls import TicketKeys

    with open(descriptor, "rb") as pipe:
        return TicketKeys.from_message(json.loads(pipe.read(_MOST_TICKET_BYTES)))


def _is_from_parent(sock: socket.socket, pid: int) -> bool:
    """Return True if the parent has this process id, and has made this socket.

    A parent that was killed since is the parent no more, and its end of the socket is closed.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is not None:
        maker, user, _group = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, 12))
        if maker != pid or user != os.geteuid():
            return False
    if os.getppid() == pid:
        return True
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


class Successor:
    """The new supervisor of an upgrade, as the old one sees it."""

    def __init__(
        self, loop: Loop, notify: Callable[[events.Event], None], reply: Reply | None
    ) -> None:
        """``notify`` takes `SuccessorServes` or `SuccessorFailed`; ``reply`` waits for the end."""
        self.pid = 0
        self.reply = reply
        self._loop = loop
        self._notify = notify
        self._channel: Channel
        self._deadline = 0.0
        self.has_ended = False
        """Its end of the channel is closed."""
        self._is_over = False
        """It serves, or was ended: nothing more is reported."""

    def start(
        self,
        launch: Launch,
        listeners: Sequence[Listener],
        services: Mapping[str, int],
        tickets: TicketKeys | None,
        upgrades: int,
        scaled: Scaled | None,
        variables: Callable[[int], dict[str, str]],
        close_in_child: Callable[[], None],
    ) -> None:
        """Start the new supervisor; raises OSError where that fails.

        ``upgrades`` counts those before this one; ``scaled`` is the number of workers that a
        command has set. ``variables`` returns what its environment has
        besides the original one, for its process id. ``close_in_child`` closes in the
        forked child what is this process's alone.
        """
        self._channel, theirs = Channel.pair()
        self._deadline = time.monotonic() + launch.settings.boot_timeout + MARGIN_SECONDS
        self.pid = os.fork()
        if self.pid == 0:
            _become(
                launch,
                listeners,
                services,
                tickets,
                upgrades,
                scaled,
                theirs,
                variables,
                close_in_child,
            )
        theirs.close()
        self._loop.watch(self._channel.fileno(), self._listen)

    def _listen(self) -> None:
        for message in self._channel.receive():
            if message["event"] == "ready" and not self._is_over:
                self._is_over = True
                self._notify(events.SuccessorServes(self.pid))
        if self._channel.ended:
            # Not closed before that: its end is how the new one learns that this process has ended.
            self._loop.forget(self._channel.fileno())
            self._channel.close()
            self.has_ended = True
            if not self._is_over:
                reason = "the new supervisor has ended; its messages are in the log above"
                self._notify(events.SuccessorFailed(reason))

    def send_totals(self, totals: Mapping[str, float]) -> None:
        """Tell the new supervisor what this one has counted; it answers clients from then on."""
        self._channel.send({"event": "totals", "totals": dict(totals)})

    def send_kept(self, message: Message) -> None:
        """Send it something to look back on: see `Commands.hand_over`."""
        self._channel.send(message)

    def flush(self) -> None:
        """Send what its socket did not take at once."""
        self._channel.flush()

    def check_deadline(self, now: float) -> None:
        """Report a new supervisor that takes too long, and kill one that does not end."""
        if now <= self._deadline:
            return
        if self._is_over:
            self._kill(signal.SIGKILL)
            self._deadline = math.inf
        else:
            reason = "the new supervisor was not ready in time (setting: boot_timeout)"
            self._notify(events.SuccessorFailed(reason))

    def end(self) -> None:
        """Order the new supervisor to end, if it has not ended; `check_deadline` enforces it."""
        self._is_over = True
        self._deadline = time.monotonic() + END_SECONDS
        self._kill(signal.SIGTERM)

    def end_at_once(self) -> None:
        """End the new supervisor without giving it time."""
        self._is_over = True
        self._deadline = math.inf
        self._kill(signal.SIGKILL)

    def _kill(self, number: signal.Signals) -> None:
        # One that was never started has no process id, and one that has ended perhaps another's.
        if self.pid and not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close_in_child(self) -> None:
        """Close the channel in a forked child."""
        self._channel.close()


def _become(
    launch: Launch,
    listeners: Sequence[Listener],
    services: Mapping[str, int],
    tickets: TicketKeys | None,
    upgrades: int,
    scaled: Scaled | None,
    channel: Channel,
    variables: Callable[[int], dict[str, str]],
    close_in_child: Callable[[], None],
) -> NoReturn:
    """Turn this forked child into the new supervisor."""
    try:
        # Control and admin are the old supervisor's own, and closed here with the rest.
        kept = {name: os.dup(descriptor) for name, descriptor in services.items()}
        close_in_child()
        keys = _write_tickets(tickets)
        activated = [each for each in listeners if each.address.descriptor is not None]
        passed = {
            "pid": os.getppid(),
            "channel": channel.fileno(),
            "listeners": [
                (each.address.text, each.socket.fileno(), each.path_identity)
                for each in listeners
                if each not in activated
            ],
            "services": kept,
            "tickets": keys,
            "upgrades": upgrades + 1,
            "scaled": (scaled.workers, scaled.setting) if scaled else None,
            "has_user": launch.settings.has_user,
        }
        for each in listeners:
            each.socket.set_inheritable(True)
        for descriptor in (channel.fileno(), *kept.values(), *([keys] if keys else [])):
            os.set_inheritable(descriptor, True)
        environ = {**launch.environ, **variables(os.getpid()), VARIABLE: json.dumps(passed)}
        if "LISTEN_FDS" in launch.settings.source_of("bind"):
            # systemd's sockets keep their descriptors, and belong to this process now.
            assert min(each.socket.fileno() for each in activated) == FIRST_PASSED_DESCRIPTOR
            environ["LISTEN_PID"] = str(os.getpid())
        os.chdir(launch.directory)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
    except BaseException as error:
        messages.SUCCESSOR_NOT_STARTED.log(logging.getLogger("penstock"), reason=error)
    finally:
        os._exit(1)
