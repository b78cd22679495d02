"""The process that orders certificates, as the supervisor sees it.

The supervisor starts it, starts it again where it ends, checks what it hands over, has the workers
serve that, and reports to it when they do. It never waits for it. What handles certificates is
imported where there are any: workers are forked from the supervisor.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from penstock import __version__, messages
from penstock.config.checks import chosen_transport
from penstock.config.identity import identity_of, title_of
from penstock.errors import PenstockError
from penstock.supervisor.acme_settings import ALPN, HTTP, AcmeSettings, Stop, stop_on_signals
from penstock.system.prctl import end_with_parent
from penstock.system.privileges import become, drop_capabilities, set_title
from penstock.worker.channel import Channel, Message

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.edge.acme.handed_over import HandedOver, HandedPair, NameStatus
    from penstock.edge.tls import CertificatePair, OrderedCertificates
    from penstock.supervisor.loop import Loop
    from penstock.system.privileges import Identity

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""The pauses before the process is started again; they double."""

HEALTHY_SECONDS = 60.0
"""A process that has lived for this long did not end because of how it was started."""

BETWEEN_SECONDS = 0.5
"""The least time between two changes of what is served: each goes to every worker."""

_FIRST_OTHER_DESCRIPTOR = 3
"""0 to 2 are the standard streams."""

END_SECONDS = 3.0
"""How long the process has to end after SIGTERM. Then it is killed."""


def acme_settings(settings: Settings) -> AcmeSettings | None:
    """Return what the settings say of ordering certificates; None where they order none."""
    if not settings.acme_domain:
        return None
    kinds = [HTTP] if settings.redirect_http else []
    if chosen_transport(settings) == "native":  # Python's ssl cannot answer the other kind
        kinds.append(ALPN)
    return AcmeSettings(
        settings.acme_domain,
        settings.acme_email,
        settings.acme_directory,
        settings.acme_dir or "",
        tuple(kinds),
    )


class Acme:
    """The ordering process of one set of settings, and what it has handed over.

    A reload that changes these settings makes another one, and ends this one when it succeeds.
    """

    def __init__(
        self,
        loop: Loop,
        logger: logging.Logger,
        serve: Callable[[OrderedCertificates], Callable[[], bool]],
        close_in_child: Callable[[], None],
    ) -> None:
        """``serve`` has all workers serve something, and returns what says whether all of them do.

        ``close_in_child`` closes in the forked process what is the supervisor's alone.
        """
        self._loop = loop
        self._logger = logger
        self._serve = serve
        self._close_in_child = close_in_child
        self._settings: AcmeSettings | None = None
        self._identity: Identity | None = None
        self._title = ""
        self._pid = 0
        """0 where there is no process."""
        self._channel: Channel | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        """When a process is started again."""
        self._pause = 0.0
        self._kill_at: dict[int, float] = {}
        """Processes that were told to end, with the time at which they are killed."""
        self._failure = ""
        """Why the process has ended, as it has said."""
        self._wait_until = 0.0
        """Until when a start or a reload waits for what is served first, and reports a failure."""
        self._serving = False
        self._received: HandedOver | None = None
        """What came last, and waits for its turn."""
        self._changed_at = 0.0
        self._waits: tuple[int, Callable[[], bool]] | None = None
        """A number that is to be reported once all workers serve what came under it."""
        self._checked: dict[HandedPair, CertificatePair] = {}
        self._self_signed: set[str] = set()
        """Names of which a warning was logged."""
        self.material: OrderedCertificates | None = None
        """What was checked last; None before that."""
        self.statuses: dict[str, NameStatus] = {}
        """How each name stands, as the process has said."""

    def begin(self, settings: Settings, application: str, *, patience: float) -> None:
        """Start the process, if these settings want one; it orders after `note_serving`.

        ``application`` is for its title. ``patience`` is for how many seconds a start or a reload
        waits for what is to be served first. Raises `SettingsError`.
        """
        self._wait_until = time.monotonic() + patience
        self._settings, self._identity = acme_settings(settings), identity_of(settings)
        self._title = title_of(settings, application)
        if self._settings is not None:
            self._start()

    def is_for(self, settings: Settings) -> bool:
        """Return True if this is what these settings want."""
        return (acme_settings(settings), identity_of(settings)) == (self._settings, self._identity)

    def renewal_of(self, names: Sequence[str]) -> str | None:
        """Return what the process does for the certificate of a name, or when it will."""
        status = self.statuses.get(names[0]) if len(names) == 1 else None
        if status is None:
            return None
        when = ""
        if status.next_at > time.time():
            next_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(status.next_at))
            when = f"; next step: {next_at}"
        state = "self-signed" if status.state == "self-signed" else ""
        return ": ".join(filter(None, (state, status.detail))) + when

    @property
    def is_awaited(self) -> bool:
        """Whether the start, or the reload, still waits for what is to be served first."""
        return self.has_nothing and time.monotonic() < self._wait_until

    @property
    def has_nothing(self) -> bool:
        """Whether the settings want a certificate, and the process has handed over none yet."""
        return self.material is None and self._settings is not None

    @property
    def start_failure(self) -> str:
        """Why the process cannot work, where it is awaited; empty where it works."""
        return self._failure if self.is_awaited and self._channel is None else ""

    def note_serving(self) -> None:
        """Let the process order: the workers serve, so that challenges can be answered."""
        self._wait_until = 0.0
        if not self._serving:
            self._serving = True
            self._send({"event": "serving"})

    def tick(self, now: float) -> None:
        """Do what is due; ``now`` is on the monotonic clock."""
        for pid, at in list(self._kill_at.items()):
            if now >= at:
                self._kill(pid, signal.SIGKILL)
                del self._kill_at[pid]
        if self._channel is not None:
            self._channel.flush()
        elif self._settings is not None and now >= self._start_at:
            self._start()
        self._pass_on(now)
        if self._waits is not None and self._waits[1]():
            self._send({"event": "served", "number": self._waits[0]})
            self._waits = None

    @property
    def is_busy(self) -> bool:
        """Whether something is expected soon, so that the loop has to look often."""
        return self._received is not None or self._waits is not None or bool(self._kill_at)

    def note_end(self, pid: int) -> None:
        """Note that a child was reaped."""
        self._kill_at.pop(pid, None)
        if pid == self._pid:
            self._listen()
            self._ended("")

    def end(self) -> None:
        """End the process; it releases its lease."""
        if self._pid:
            self._kill(self._pid, signal.SIGTERM)
            self._kill_at[self._pid] = time.monotonic() + END_SECONDS
        self._forget()
        self._settings = None

    def end_at_once(self) -> None:
        """End the process without giving it time."""
        for pid in (self._pid, *self._kill_at):
            self._kill(pid, signal.SIGKILL)
        self._kill_at.clear()
        self._forget()
        self._settings = None

    def close_in_child(self) -> None:
        """Close the channel, in a forked child."""
        if self._channel is not None:
            self._channel.close()

    # -- the process ------------------------------------------------------------------------------

    def _start(self) -> None:
        assert self._settings is not None
        self._failure = ""
        self._started_at = time.monotonic()
        channel = None
        try:
            channel, theirs = Channel.pair()
            with theirs.socket:
                self._pid = os.fork()
                if self._pid == 0:
                    self._become(theirs, channel)
        except OSError as error:
            if channel is not None:
                channel.close()
            self._ended(f"no process can be started: {error.strerror}")
            return
        self._channel = channel
        self._loop.watch(channel.fileno(), self._listen)
        if self._serving:
            self._send({"event": "serving"})

    def _become(self, channel: Channel, parents: Channel) -> NoReturn:
        """Turn this forked child into the ordering process."""
        assert self._settings is not None
        supervisor = os.getppid()
        try:
            parents.close()
            end_with_parent(supervisor)
            stop_on_signals()
            self._close_in_child()
            # What root has open must not stay open in a process of the user.
            os.closerange(_FIRST_OTHER_DESCRIPTOR, channel.fileno())
            os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
            drop_capabilities()
            # Its modules and its library may be where only root may read.
            from penstock.supervisor.acme_process import OrderingProcess

            process = OrderingProcess(self._settings, channel, _AGENT)
            if self._identity is not None:
                become(self._identity)
                end_with_parent(supervisor)  # the kernel has forgotten it
            set_title("certificates", self._title)
            os.umask(0o077)
            process.run()
        except Stop:
            pass
        except BaseException as error:
            reason = str(error) if isinstance(error, PenstockError) else _described(error)
            channel.socket.settimeout(END_SECONDS)
            with suppress(OSError):
                channel.send({"event": "ended", "reason": reason})
        finally:
            os._exit(0)

    def _ended(self, reason: str) -> None:
        """Plan the next start: the process has ended, or was ended for what it has sent."""
        if self._pid:
            self._kill(self._pid, signal.SIGKILL)
        self._forget()
        now = time.monotonic()
        self._failure = reason or self._failure or "it has ended without a reason"
        if now - self._started_at >= HEALTHY_SECONDS:
            self._pause = 0.0
        self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), LONGEST_PAUSE_SECONDS)
        self._start_at = now + self._pause
        if not self.is_awaited:
            messages.ACME_PROCESS_ENDED.log(self._logger, reason=self._failure, pause=self._pause)

    def _forget(self) -> None:
        if self._channel is not None:
            self._loop.forget(self._channel.fileno())
            self._channel.close()
        self._channel, self._pid = None, 0
        self._received = self._waits = None

    def _kill(self, pid: int, number: signal.Signals) -> None:
        # Only what was not reaped: `note_end` takes out the others.
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    # -- what it sends ----------------------------------------------------------------------------

    def _listen(self) -> None:
        channel = self._channel
        if channel is None:
            return
        for message in channel.receive():
            try:
                self._take(message)
            except (ValueError, PenstockError) as error:
                self._refuse(str(error))
                return
        if channel.broken:
            self._refuse(channel.broken)
        elif channel.ended:
            self._ended("")

    def _refuse(self, what: str) -> None:
        """End the process for what it has sent: another program runs in it, or a defect."""
        messages.ACME_REFUSED.log(self._logger, what=what)
        self._ended("it was ended for what it has sent")

    def _take(self, message: Message) -> None:
        """Act on a message. Raises `ValueError` for one that is not allowed."""
        from penstock.edge.acme.handed_over import read_handed_over, read_statuses, read_text

        assert self._settings is not None
        names = self._settings.names
        event = message.get("event")
        if event == "serve":
            self._received = read_handed_over(message, names)
        elif event == "status":
            self.statuses = read_statuses(message, names)
            self._warn_of_self_signed()
        elif event == "ended":
            self._failure = read_text(message.get("reason"))
        elif event == "directory":
            reason = read_text(message.get("reason"))
            messages.ACME_DIRECTORY.log(self._logger, path=self._settings.path, reason=reason)
        else:
            self._take_news(message, names)

    def _warn_of_self_signed(self) -> None:
        found = {name for name, each in self.statuses.items() if each.state == "self-signed"}
        if new := found - self._self_signed:
            messages.ACME_SELF_SIGNED.log(self._logger, names=", ".join(sorted(new)))
        self._self_signed = found

    def _take_news(self, message: Message, names: tuple[str, ...]) -> None:
        from penstock.edge.acme.handed_over import read_text

        event, name = message.get("event"), message.get("name")
        if name not in names:
            raise ValueError("news of an unknown name")
        if event == "step":
            self._logger.debug("certificate for %s: %s", name, read_text(message.get("step")))
        elif event == "issued":
            self._logger.info("a new certificate for %s has come", name)
        elif event == "window":
            reason = read_text(message.get("reason"))
            self._logger.info("no renewal window for %s for now: %s", name, reason)
        elif event == "failed":
            pause = message.get("pause")
            if not isinstance(pause, int | float):
                raise ValueError("a malformed pause")
            messages.ACME_ATTEMPT_FAILED.log(
                self._logger,
                name=name,
                reason=read_text(message.get("reason")),
                pause=_duration(float(pause)),
                served=self._served_instead(str(name)),
            )
        else:
            raise ValueError("an unknown message")

    def _served_instead(self, name: str) -> str:
        status = self.statuses.get(name)
        if status is None or status.state == "self-signed":
            return "a self-signed certificate is served"
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(status.not_after))
        return f"the certificate that is served {_EXPIRY[status.state]} on {until}"

    def _pass_on(self, now: float) -> None:
        """Check what has come, and have the workers serve it."""
        received = self._received
        if received is None or now < self._changed_at + BETWEEN_SECONDS:
            return
        self._received, self._changed_at = None, now
        try:
            material = self._material_of(received)
        except (ValueError, PenstockError) as error:
            self._refuse(str(error))
            return
        if material != self.material:
            self.material = material
            self._waits = received.number, self._serve(material)
        else:
            self._waits = received.number, self._waits[1] if self._waits else _at_once

    def _material_of(self, received: HandedOver) -> OrderedCertificates:
        """Check each pair that is new. Raises `ValueError` or a `PenstockError`."""
        from penstock.edge.tls import OrderedCertificates

        checked: dict[HandedPair, CertificatePair] = {}
        for pair in (*received.pairs, *received.alpn_challenges):
            known = self._checked.get(pair)
            checked[pair] = known if known is not None else self._check_names(pair)
        self._checked = checked
        return OrderedCertificates(
            tuple(checked[pair] for pair in received.pairs),
            received.challenges,
            tuple(checked[pair] for pair in received.alpn_challenges),
        )

    def _check_names(self, pair: HandedPair) -> CertificatePair:
        from penstock.edge.pairs import checked_pair

        assert self._settings is not None
        place = f"the certificate for {pair.name}"
        found = checked_pair(pair.certificate, pair.key, place, place)
        if pair.name not in found.names:
            raise ValueError("a certificate of another name")
        if not set(found.names) <= set(self._settings.names):
            raise ValueError("a certificate with a name that is not in acme_domain")
        return found


_AGENT = f"penstock/{__version__}"
_EXPIRY: Mapping[str, str] = {"valid": "expires", "expired": "has expired"}


def _at_once() -> bool:
    return True


def _described(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"{error}: install penstock[acme]"
    return f"{type(error).__name__}: {error}"


def _duration(seconds: float) -> str:
    if not 0 <= seconds < 1e9:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
