"""When to order a certificate, to renew it, and to try again: decisions without input or output.

All times are Unix time in seconds, because certificates have such times. The clock of the machine
can be set at any moment; so what is decided holds for an instant, and is decided again whenever
something has happened, and each minute otherwise.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from penstock.records import dataclass

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

RENEW_AT = 2 / 3
"""The share of its life after which a certificate is renewed, where the authority suggests no time:
30 days before the end of 90, so that an authority may be away for weeks."""

SPREAD = 1 / 30
"""The share of its life by which the renewal may be earlier, so that the certificates of many
servers that were started together are not renewed together."""

LONGEST_RETRY_AFTER = 8 * DAY
"""The longest pause that an authority can ask for: the longest rate limit known is a week."""

NEAR_THE_END = 1 * DAY
"""From this time before the end of a certificate, pauses are at most `LONGEST_NEAR_THE_END`."""

LONGEST_NEAR_THE_END = 1 * HOUR

ASK_WINDOW_EVERY = 6 * HOUR
"""How often the authority is asked for a renewal window, where it does not say itself how often
(RFC 9773, section 4.3.3, suggests this)."""

SHORTEST_WINDOW_PAUSE, LONGEST_WINDOW_PAUSE = 1 * MINUTE, 1 * DAY
"""The bounds of what it can say (RFC 9773, section 4.3.2)."""

LEAST_BETWEEN = 1 / 12
"""The share of its life for which a new certificate is not renewed, whatever the authority's window
and this machine's clock say, but at most a day. Else a wrong clock would order without end."""

MOST_CLOCK_ERROR = 1 * DAY
"""How far this machine's clock may be from the authority's; with more nothing is ordered."""


class Cause(Enum):
    """Why an attempt has failed."""

    AWAY = "away"
    """The authority does not answer, or answers that it is out of order."""
    REFUSED = "refused"
    """The authority does not issue the certificate, most often because it cannot reach this server
    by that name."""
    LOCAL = "local"
    """It is this machine: a full disk, a clock that is wrong."""


_IN_WORDS = {
    Cause.AWAY: "the authority did not answer",
    Cause.REFUSED: "the authority refused",
    Cause.LOCAL: "this machine is the reason",
}


class _BackOff(NamedTuple):
    first: float
    longest: float


_BACK_OFF = {
    # An authority that was restarted is back soon.
    Cause.AWAY: _BackOff(30.0, 1 * HOUR),
    # Let's Encrypt allows five failed validations an hour for each name; these are four.
    Cause.REFUSED: _BackOff(6 * MINUTE, 12 * HOUR),
    Cause.LOCAL: _BackOff(1 * MINUTE, 10 * MINUTE),
}


@dataclass(frozen=True, slots=True)
class Validity:
    """What a certificate says of its life."""

    not_before: float
    not_after: float
    fraction: float
    """A number from 0 to 1 that is the certificate's own: it spreads renewals, and stays the same
    when the process starts again."""

    @classmethod
    def of(cls, not_before: float, not_after: float, certificate: bytes) -> Validity:
        """Return the validity of a certificate; ``certificate`` is any constant form of it."""
        import hashlib  # loads OpenSSL, which a server without ACME does without

        digest = hashlib.sha256(certificate).digest()
        return cls(not_before, not_after, int.from_bytes(digest[:6], "big") / (1 << 48))

    def holds(self, now: float) -> bool:
        """Return True if the certificate is valid at a time."""
        return self.not_before <= now < self.not_after


@dataclass(frozen=True, slots=True)
class Window:
    """When the authority suggests to renew a certificate (ACME Renewal Information, RFC 9773)."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempts that have failed since the last that did not."""

    count: int
    cause: Cause
    at: float
    """When the last one failed."""
    retry_at: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one name."""

    validity: Validity | None = None
    """Of the certificate that is served; None where there is none but a self-signed one."""
    window: Window | None = None
    window_due: float = 0.0
    """When to ask for the window again; infinite where the authority offers none."""
    issued_at: float = 0.0
    """When it came, by this machine's clock."""
    order_is_open: bool = False
    """An order has been begun, by this process or an earlier one."""
    failure: Failure | None = None


class Action(Enum):
    """What is done next for a name."""

    ORDER = "order"
    RESUME = "resume"
    ASK_WINDOW = "ask for the renewal window"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, or until when nothing is."""

    action: Action
    until: float
    """With `Action.WAIT`: when to decide again."""
    reason: str


def decide(now: float, facts: Facts) -> Decision:
    """Return what to do for a name at this time. docs/acme.md has this as a table."""
    failure, validity = facts.failure, facts.validity
    if failure is not None and now < (until := retry_time(now, failure)):
        return Decision(Action.WAIT, until, f"the last attempt failed ({_IN_WORDS[failure.cause]})")
    if facts.order_is_open:
        return Decision(Action.RESUME, now, "an order is open")
    if validity is None:
        return Decision(Action.ORDER, now, "there is no certificate yet")
    life = validity.not_after - validity.not_before
    pause_until = facts.issued_at + min(LEAST_BETWEEN * life, DAY)
    if facts.issued_at <= now < pause_until:
        return Decision(Action.WAIT, pause_until, "the certificate is new")
    if now >= validity.not_after:
        return Decision(Action.ORDER, now, "the certificate has expired")
    if now >= facts.window_due:
        return Decision(Action.ASK_WINDOW, now, "the renewal window is not known")
    due = renewal_time(validity, facts.window)
    if now >= due:
        return Decision(Action.ORDER, now, "the renewal is due")
    return Decision(Action.WAIT, min(due, facts.window_due), "the certificate is valid")


def renewal_time(validity: Validity, window: Window | None) -> float:
    """Return when to renew a certificate: within its window, else at two thirds of its life."""
    if window is not None and window.start < window.end and window.start < validity.not_after:
        chosen = window.start + validity.fraction * (window.end - window.start)
        return min(chosen, validity.not_after)
    life = validity.not_after - validity.not_before
    return validity.not_before + life * (RENEW_AT - SPREAD * validity.fraction)


def retry_time(now: float, failure: Failure) -> float:
    """Return when to try again; at once where the clock was set back behind the failure."""
    if now < failure.at - MINUTE:
        return now
    return min(failure.retry_at, failure.at + LONGEST_RETRY_AFTER)


def next_failure(
    now: float,
    before: Failure | None,
    cause: Cause,
    *,
    retry_after: float,
    chance: float,
    validity: Validity | None,
) -> Failure:
    """Return what is known after one more failed attempt.

    ``retry_after`` is how long the authority asks to wait, in seconds, 0 where it does not.
    ``chance`` is a random number from 0 to 1: the pauses of many servers must differ.
    """
    count = before.count + 1 if before is not None and before.cause is cause else 1
    first, longest = _BACK_OFF[cause]
    if validity is not None and validity.not_after - now < NEAR_THE_END:
        longest = min(longest, LONGEST_NEAR_THE_END)
    pause = min(first * 2.0 ** min(count - 1, 30), longest) * (0.75 + 0.25 * chance)
    pause = max(pause, min(retry_after, LONGEST_RETRY_AFTER))
    return Failure(count, cause, now, now + pause)


def next_window_time(now: float, retry_after: float | None) -> float:
    """Return when to ask for the renewal window again."""
    if retry_after is None:
        return now + ASK_WINDOW_EVERY
    return now + min(max(retry_after, SHORTEST_WINDOW_PAUSE), LONGEST_WINDOW_PAUSE)
