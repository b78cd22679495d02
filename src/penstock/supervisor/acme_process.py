"""What runs in the process that orders certificates: the owner of ``acme_dir``.

It hands over to the supervisor all that is to be served for its names, first what it finds in the
directory, or a self-signed certificate. Of the processes that share the directory, the one with the
lease orders; the others serve what it publishes there: challenges, and new pairs.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field, replace
from random import random
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.edge.acme.lease import LOOK_SECONDS, Lease, has_ended, this_process
from penstock.edge.acme.schedule import (
    MINUTE,
    Action,
    Cause,
    Facts,
    Validity,
    decide,
    next_failure,
    next_window_time,
)
from penstock.edge.acme.state import Published, Schedule, StateDirectory
from penstock.edge.certificates import der_of, pem_blocks, read_certificate
from penstock.records import dataclass
from penstock.supervisor.acme_settings import HTTP, Stop

if TYPE_CHECKING:
    from penstock.edge.acme.orders import AttemptFailed
    from penstock.supervisor.acme_settings import AcmeSettings
    from penstock.worker.channel import Channel

WORKERS_SECONDS = 20.0
"""How long to wait until all workers of this server answer a challenge: some may boot."""

HOSTS_SECONDS = 20.0
"""How long to wait until the other hosts do. One that does not say so in time has ended."""

_LONGEST_SLEEP = 1 * MINUTE
"""The clock may be set, so what is due is decided anew at least this often."""

_WATCH_SECONDS = 0.2


@dataclass(slots=True)
class _Name:
    """What this process has of a name."""

    certificate: bytes = b""
    key: bytes = b""
    validity: Validity | None = None
    """None where the certificate is self-signed."""
    not_after: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    detail: str = ""
    next_at: float = 0.0

    def state(self, now: float) -> str:
        if self.validity is None:
            return "self-signed"
        return "valid" if now < self.validity.not_after else "expired"


class OrderingProcess:
    """Hands over what is to be served, and orders what is due."""

    def __init__(self, settings: AcmeSettings, channel: Channel, agent: str) -> None:
        """``agent`` is what this program calls itself towards the authority."""
        # Not above: it needs a library that may be missing.
        from penstock.edge.acme import orders

        self._orders = orders
        self._settings = settings
        self._channel = channel
        self._state = StateDirectory(settings.path, settings.directory)
        self._process = this_process()
        self._host = f"{self._process['host']}-{self._process['pid']}-{os.urandom(4).hex()}"
        self._lease = Lease(settings.path, process=self._process)
        self._names = {name: _Name() for name in settings.names}
        self._published = Published()
        self._noted = -1
        """The number of what was published that this process has noted to serve."""
        self._sent = self._served = 0
        """Numbers of what was handed over last, and of what all workers serve."""
        self._server_serves = False
        self._statuses: list[dict[str, Any]] = []
        self._directory_fails = ""
        self._authority = orders.Authority(
            settings.directory,
            self._state,
            settings.email,
            agent,
            before_request=self._before_request,
            pause=self._pause,
            step=self._step,
        )
        self._at_work = ""

    def run(self) -> NoReturn:
        """Work until the supervisor ends. Raises `StateError`, and `Stop` at the end."""
        self._state.open()
        self._published = self._state.read_published()
        for name in self._names:
            self._load(name)
        self._report()
        self._hand_over()
        try:
            while True:
                until = self._turn()
                self._report()
                self._attend(min(max(until - time.time(), 0.0), _LONGEST_SLEEP))
        finally:
            self._lease.release()
            self._state.forget_host(self._host)

    # -- one turn ---------------------------------------------------------------------------------

    def _turn(self) -> float:
        """Do what is due; return when to look again, in Unix time."""
        soon = time.time() + LOOK_SECONDS
        if not self._server_serves:
            return soon
        try:
            holds = self._lease.holds()
            self._follow()
        except OSError as error:
            self._note_directory(error)
            return soon
        self._note_directory(None)
        if not holds:
            for each in self._names.values():
                each.detail, each.next_at = "another process orders", 0.0
            return soon
        self._withdraw()
        # The lease is renewed by looking.
        return min(soon, *(self._look_after(name) for name in self._names))

    def _look_after(self, name: str) -> float:
        """Do what is due for a name; return when something is due again."""
        each = self._names[name]
        now = time.time()
        decision = decide(now, self._facts(name))
        each.detail, each.next_at = decision.reason, decision.until
        if decision.action is Action.WAIT:
            return decision.until
        self._at_work = name
        try:
            if decision.action is Action.ASK_WINDOW:
                self._ask_window(name)
            else:
                self._order(name)
        except _LeaseLost:
            pass
        finally:
            self._at_work = ""
        return now

    def _facts(self, name: str) -> Facts:
        each = self._names[name]
        schedule = each.schedule
        return Facts(
            each.validity,
            schedule.window,
            schedule.window_due,
            schedule.issued_at,
            self._state.read_order(name) is not None,
            schedule.failure,
        )

    def _order(self, name: str) -> None:
        each = self._names[name]
        attempts = each.schedule.attempts % len(self._settings.kinds)
        kinds = self._settings.kinds[attempts:] + self._settings.kinds[:attempts]
        replaces = each.certificate if each.validity is not None else None
        try:
            pair = self._authority.obtain(name, kinds, replaces, self._publish_challenge)
            self._take(name, *pair)
            self._hand_over()  # before it is stored: the disk may be full
            self._log("issued", name)
            self._state.write_pair(name, *pair)
            self._state.remove_order(name)
            self._keep_schedule(name, Schedule(issued_at=time.time()))
        except self._orders.AttemptFailed as error:
            self._fail(name, error)
        except OSError as error:
            reason = f"{self._settings.path} cannot be written: {error.strerror}"
            self._fail(name, self._orders.AttemptFailed(Cause.LOCAL, reason))
        finally:
            if self._lease.is_mine:
                self._publish((), ())  # this also makes the other hosts read the new pair

    def _ask_window(self, name: str) -> None:
        each = self._names[name]
        window, retry_after = each.schedule.window, None
        try:
            window, retry_after = self._authority.window(each.certificate)
        except self._orders.AttemptFailed as error:
            self._log("window", name, reason=str(error))
        due = next_window_time(time.time(), retry_after)
        self._keep_schedule(name, replace(each.schedule, window=window, window_due=due))

    def _fail(self, name: str, error: AttemptFailed) -> None:
        each = self._names[name]
        schedule = each.schedule
        failure = next_failure(
            time.time(),
            schedule.failure,
            error.cause,
            retry_after=error.retry_after,
            chance=random(),
            validity=each.validity,
        )
        pause = failure.retry_at - failure.at
        self._log("failed", name, reason=str(error), cause=error.cause.value, pause=pause)
        attempts = schedule.attempts + 1
        self._keep_schedule(name, replace(schedule, failure=failure, attempts=attempts))

    def _keep_schedule(self, name: str, schedule: Schedule) -> None:
        """Keep it in memory in any case: a full disk must not make attempts follow each other."""
        each = self._names[name]
        each.schedule = replace(schedule, window_of=_digest(each.certificate))
        with suppress(OSError):
            self._state.write_schedule(name, each.schedule)

    # -- what is served ---------------------------------------------------------------------------

    def _load(self, name: str) -> None:
        """Read a name's files; make a self-signed certificate where there is no pair."""
        pair = self._state.read_pair(name)
        if pair is None or not self._take(name, *pair):
            each = self._names[name]
            if not each.certificate:
                each.certificate, each.key = self._orders.self_signed(name)
                each.not_after = _read(each.certificate).not_after
        schedule = self._state.read_schedule(name)
        each = self._names[name]
        if schedule.window_of != _digest(each.certificate):
            schedule = replace(schedule, window=None, window_due=0.0)
        each.schedule = schedule

    def _take(self, name: str, certificate: bytes, key: bytes) -> bool:
        """Serve a pair, if it is one of this name."""
        try:
            found = _read(certificate)
        except ValueError:
            return False
        if name not in found.names or not self._orders.fits(certificate, key):
            return False
        each = self._names[name]
        each.certificate, each.key, each.not_after = certificate, key, found.not_after
        validity = Validity.of(found.not_before, found.not_after, certificate)
        # What another authority has issued is served, and replaced.
        own = self._at_work == name or self._state.has_own_pair(name)
        each.validity = validity if own else None
        return True

    def _hand_over(self) -> None:
        """Send the supervisor all that is to be served."""
        self._sent += 1
        published = self._published
        self._channel.send(
            {
                "event": "serve",
                "number": self._sent,
                "pairs": [
                    [name, each.certificate.decode("ascii"), each.key.decode("ascii")]
                    for name, each in self._names.items()
                ],
                "challenges": [
                    [token, authorization]
                    for name, token, authorization in published.challenges
                    if name in self._names
                ],
                "alpn": [
                    list(entry) for entry in published.alpn_challenges if entry[0] in self._names
                ],
            }
        )

    def _follow(self) -> None:
        """Serve what the holder of the lease has published, and note it when all workers do."""
        published = self._state.read_published()
        if published != self._published:
            self._published = published
            for name in self._names:
                self._load(name)
            self._hand_over()
        if self._served >= self._sent and self._noted != self._published.number:
            number = self._published.number
            self._state.note_host(self._host, {"process": self._process, "number": number})
            self._noted = number

    def _publish_challenge(self, name: str, kind: str, token: str, authorization: str) -> None:
        """Have all workers of all hosts answer a challenge. Raises `AttemptFailed`."""
        if kind == HTTP:
            self._publish(((name, token, authorization),), ())
        else:
            certificate, key = self._orders.alpn_certificate(name, authorization)
            self._publish((), ((name, certificate.decode("ascii"), key.decode("ascii")),))
        if not self._wait(lambda: self._served >= self._sent, WORKERS_SECONDS):
            raise self._orders.AttemptFailed(
                Cause.LOCAL, f"the workers did not take the challenge within {WORKERS_SECONDS:g} s"
            )
        self._wait_for_hosts()

    def _publish(
        self,
        challenges: tuple[tuple[str, str, str], ...],
        alpn_challenges: tuple[tuple[str, str, str], ...],
    ) -> None:
        self._published = Published(self._published.number + 1, challenges, alpn_challenges)
        with suppress(OSError):  # the other hosts do not get it; `_wait_for_hosts` gives them up
            self._state.publish(self._published)
        self._hand_over()

    def _wait_for_hosts(self) -> None:
        wanted = self._published.number
        behind: dict[str, Mapping[str, Any]] = {}

        def all_serve() -> bool:
            behind.clear()
            for host, content in self._state.hosts().items():
                number = content.get("number")
                if host != self._host and not (isinstance(number, int) and number >= wanted):
                    behind[host] = content
            for host, content in list(behind.items()):
                process = content.get("process")
                if isinstance(process, dict) and has_ended(process):
                    self._state.forget_host(host)
                    del behind[host]
            return not behind

        if not self._wait(all_serve, HOSTS_SECONDS):
            for host in behind:
                self._state.forget_host(host)  # one that lives notes itself again

    def _withdraw(self) -> None:
        """Withdraw the challenges of a process that was killed."""
        if self._published.challenges or self._published.alpn_challenges:
            self._publish((), ())

    # -- the supervisor ---------------------------------------------------------------------------

    def _report(self) -> None:
        now = time.time()
        statuses = [
            {
                "name": name,
                "state": each.state(now),
                "detail": each.detail,
                "next_at": min(max(each.next_at, 0.0), 1e11),
                "not_after": each.not_after,
            }
            for name, each in self._names.items()
        ]
        if statuses != self._statuses:
            self._statuses = statuses
            self._channel.send({"event": "status", "names": statuses})

    def _log(self, what: str, name: str, **details: Any) -> None:
        self._channel.send({"event": what, "name": name, **details})

    def _step(self, step: str) -> None:
        if self._at_work:
            self._names[self._at_work].detail = f"ordering: {step}"
            self._report()
            self._log("step", self._at_work, step=step)

    def _note_directory(self, error: OSError | None) -> None:
        reason = (error.strerror or str(error)) if error is not None else ""
        if reason != self._directory_fails:
            self._directory_fails = reason
            if reason:
                self._channel.send({"event": "directory", "reason": reason})

    def _before_request(self) -> None:
        """Look before each request that this process still is the one that orders."""
        self._attend(0.0)
        if not self._lease.holds():
            raise _LeaseLost

    def _pause(self, seconds: float) -> None:
        self._wait(lambda: False, seconds)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition holds; return False if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._attend(min(left, _WATCH_SECONDS))
            with suppress(OSError):
                self._lease.holds()
        return True

    def _attend(self, seconds: float) -> None:
        """Wait for messages of the supervisor, and act on them. Raises `Stop` at its end."""
        wanted = select.POLLIN
        if not self._channel.flush():
            wanted |= select.POLLOUT
        poll = select.poll()
        poll.register(self._channel, wanted)
        poll.poll(seconds * 1000)
        for message in self._channel.receive():
            if message.get("event") == "served":
                self._served = max(self._served, int(message["number"]))
            elif message.get("event") == "serving":
                self._server_serves = True
        if self._channel.ended:
            raise Stop


class _LeaseLost(Exception):
    """Another process orders now."""


def _read(certificate: bytes) -> Any:
    blocks = [block for label, block in pem_blocks(certificate) if label == "CERTIFICATE"]
    if not blocks:
        raise ValueError("no certificate")
    return read_certificate(der_of(blocks[0]))


def _digest(certificate: bytes) -> str:
    import hashlib  # loads OpenSSL, which a server without ACME does without

    return hashlib.sha256(certificate).hexdigest()[:16]
