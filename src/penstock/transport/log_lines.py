"""What both transports log about clients and their requests, and how much of it.

Clients decide how many requests are refused, or lost. `RequestLog` bounds what that writes to the
error log.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock import messages
from penstock.telemetry.refusals import RULES, rule_number
from penstock.telemetry.scoreboard import REFUSED
from penstock.transport.likely_causes import BAD_HOST, likely_cause

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig

CLIENT_GONE = "the client is gone"
CLIENT_STALLED = "the client takes no data (setting: write_timeout)"
CLIENT_TOO_SLOW = "the client reads too slowly (setting: max_unsent)"
STORED_TOO_SLOWLY = "the disk took longer than a body may (max_body_time)"
FILE_READ_TOO_SLOWLY = "the file could not be read in time (setting: write_timeout)"
FILE_TRUNCATED = "the file became shorter while it was sent"

_SHOWN_CHARACTERS = 200
"""How much of a request line that was refused is logged: enough to recognise it."""


class _Kind:
    """Lines of one kind, since the first of them."""

    __slots__ = ("begun", "left_out", "logged", "summary")

    def __init__(self, begun: float, summary: str) -> None:
        self.begun = begun
        self.logged = 0
        self.left_out = 0
        self.summary = summary


class RequestLog:
    """Logs what clients can bring about as often as they like: a few lines of a kind, then a count.

    Of each kind the first `TransportConfig.error_log_repeats` are logged. After
    `TransportConfig.request_log_seconds` one more line says how many others came. A kind of
    refusals is its status with its rule and setting; a kind of messages, the id. These are
    constants of the server's, so that there are some dozens of kinds at most.

    Thread-safe. `report` has to be called now and then, and `close` at the end.
    """

    def __init__(
        self,
        logger: logging.Logger,
        config: TransportConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Log to ``logger``, at level INFO or that of a message; ``clock`` returns seconds."""
        self._logger = logger
        self._notable = config.notable
        self._lines = config.error_log_repeats or math.inf
        self.seconds = config.request_log_seconds
        self._clock = clock
        # Guards the kinds. Reentrant: the handler of a signal may run in the middle of a call, and
        # drain the transport, which logs. No log is written with the lock held.
        self.lock = threading.RLock()
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._refusals = [0] * len(RULES)

    def publish(self, words: memoryview[int]) -> None:
        """Write to the words of a slot how many requests were refused by which rule."""
        for number, count in enumerate(self._refusals):
            words[REFUSED + number] = count

    def refused(
        self,
        client: str,
        request_line: str,
        request_id: str,
        status: int,
        reason: str,
        *,
        cause: str = "",
        rule: str = "",
        setting: str = "",
        host: str = "",
        disconnected: bool = False,
        received: bytes = b"",
    ) -> None:
        """Log a request that was refused, or lost with its client.

        ``client`` is an address, empty for a unix socket; ``cause`` the system's word for why;
        ``rule`` a section of the standard, ``setting`` the setting that moves the limit; ``host``
        the value of Host, empty if there is none; ``received`` what has come of the head, where it
        is known.
        """
        if not disconnected:
            if self._notable is not None:
                self._notable.refused(
                    client, request_line, request_id, status, reason, rule, setting, received
                )
            number = rule_number(rule, setting)
            self._refusals[number] += 1  # in one step: nothing is called in it
        verb = "lost" if disconnected else "refused"
        where = [rule, f"setting: {setting}" if setting else ""]
        kind = (disconnected, status, rule, setting)
        if self._may_log(kind, lambda: f"%(count)s more {verb} with {status}{_in_brackets(where)}"):
            shown = f'"{request_line[:_SHOWN_CHARACTERS]}"' if request_line else ""
            if reason == BAD_HOST:
                shown += f' with Host: "{host[:_SHOWN_CHARACTERS]}"'
            likely = likely_cause(reason, host)
            notes = _in_brackets([shown, *where, likely, f"request {request_id}"])
            self._logger.info(
                "%s a request from %s: %d %s%s%s",
                verb,
                client or "a unix socket",
                status,
                reason,
                f" {cause}." if cause else "",
                notes,
            )

    def host_replaced(self, client: str, target: str, host: str, request_id: str) -> None:
        """Log a request whose target names another host than its Host field."""
        if self._may_log(("host",), lambda: "%(count)s more targets replaced the Host field"):
            self._logger.info(
                'the host in the target "%s" replaces the Host field "%s" (request %s) for %s',
                target[:_SHOWN_CHARACTERS],
                host[:_SHOWN_CHARACTERS],
                request_id,
                client or "a unix socket",
            )

    def ended(self, request: str, what: str, detail: str) -> None:
        """Log a request that ended without a whole response, or with an error of its client.

        ``request`` describes it, ``what`` is one of a few constants, ``detail`` the reason.
        """
        if self._may_log((what,), lambda: f'%(count)s more with "{what}"'):
            self._logger.info("%s: %s: %s", request, what, detail)

    def cut_off(self, method: str, target: str, request_id: str, reason: str) -> None:
        """Log that the client did not get a response whole, as the gateway does for its part."""
        request = f"{method} {target} (request {request_id})"
        if reason.endswith(FILE_TRUNCATED):
            self.message(messages.FILE_TRUNCATED, request=request)
        else:
            what, _, detail = reason.partition(": ")
            self.ended(request, what, detail)

    def message(
        self, message: messages.Message, *, exc_info: Any = None, **arguments: object
    ) -> None:
        """Log a message that clients can bring about; the arguments are those of `Message.log`."""
        if self._may_log((message.id,), lambda: f"%(count)s more {message.id}", message.level):
            message.log(self._logger, exc_info=exc_info, **arguments)

    def handshake_failed(self, client: str, reason: str) -> None:
        """Log a TLS handshake that failed; ``reason`` has no byte of the client's."""
        if self._may_log(("handshake",), lambda: "%(count)s more TLS handshakes failed"):
            self._logger.info(
                "the TLS handshake of %s failed: %s", client or "a unix socket", reason
            )

    def report(self) -> None:
        """Log how many lines were left out in the intervals that are over."""
        if self._kinds:
            self._report_until(self._clock() - self.seconds)

    def close(self) -> None:
        """Log how many lines were left out since then, too."""
        self._report_until(math.inf)

    def _may_log(
        self, kind: tuple[object, ...], summary: Callable[[], str], level: int = logging.INFO
    ) -> bool:
        """Count a line of a kind; return True if it is to be logged."""
        if not self._logger.isEnabledFor(level):
            return False
        self.report()  # in order: what came before this line
        with self.lock:
            found = self._kinds.get(kind)
            if found is None:
                found = self._kinds[kind] = _Kind(self._clock(), summary())
            if found.logged < self._lines:
                found.logged += 1
                return True
            found.left_out += 1
            return False

    def _report_until(self, begun: float) -> None:
        """Log the counts of the intervals that began by ``begun``, and end these."""
        with self.lock:
            now = self._clock()
            # The handler of a signal may add kinds, and end some, in the middle of this.
            over = [name for name, kind in list(self._kinds.items()) if kind.begun <= begun]
            ended = [kind for name in over if (kind := self._kinds.pop(name, None)) is not None]
        for kind in ended:
            if kind.left_out:
                count = f"{kind.left_out:,}"
                seconds = max(1, round(now - kind.begun))
                self._logger.info("... and %s in %d s", kind.summary % {"count": count}, seconds)


def _in_brackets(notes: list[str]) -> str:
    """Return the notes that are not empty, behind a blank; an empty text without any."""
    found = "; ".join(filter(None, notes))
    return f" ({found})" if found else ""


def lost_client(error: OSError) -> str:
    """Return why the client did not get more, by the error of its socket.

    The error itself depends on what the server was about to do, and is left out.
    """
    if error.errno == errno.ENOBUFS:
        return CLIENT_TOO_SLOW
    return CLIENT_STALLED if error.errno == errno.ETIMEDOUT else CLIENT_GONE


def cut_off_reason(error: OSError, *, disconnected: bool) -> str:
    """Return the reason of a response that ``error`` cut off, for both logs."""
    if disconnected:
        return f"client disconnected: {lost_client(error)}"
    return f"response cut off: {error.strerror or error}"
