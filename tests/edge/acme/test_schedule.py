"""When a certificate is ordered, renewed, and tried again: the table, and what follows from it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from penstock.edge.acme.schedule import (
    ASK_WINDOW_EVERY,
    DAY,
    HOUR,
    LONGEST_RETRY_AFTER,
    MINUTE,
    Action,
    Cause,
    Facts,
    Failure,
    Validity,
    Window,
    decide,
    next_failure,
    next_window_time,
    renewal_time,
)

NOW = 1_800_000_000.0
NEVER = float("inf")
LIFE = 90 * DAY
YOUNG = Validity(NOW - 1 * DAY, NOW - 1 * DAY + LIFE, 0.5)
DUE = Validity(NOW - 61 * DAY, NOW - 61 * DAY + LIFE, 0.0)
EXPIRED = Validity(NOW - 91 * DAY, NOW - 91 * DAY + LIFE, 0.0)
SERVED = Facts(YOUNG, window_due=NEVER)
AWAY = Failure(3, Cause.AWAY, NOW - 10, NOW + 50)

IN_WORDS = {
    Cause.AWAY: "the last attempt failed (the authority did not answer)",
    Cause.REFUSED: "the last attempt failed (the authority refused)",
    Cause.LOCAL: "the last attempt failed (this machine is the reason)",
}

TABLE: dict[str, tuple[Facts, Action, float]] = {
    "no certificate": (Facts(), Action.ORDER, NOW),
    "no certificate, an order is open": (Facts(order_is_open=True), Action.RESUME, NOW),
    "no certificate, a failure": (Facts(failure=AWAY), Action.WAIT, NOW + 50),
    "an open order, a failure": (Facts(order_is_open=True, failure=AWAY), Action.WAIT, NOW + 50),
    "a failure that is over": (Facts(failure=replace(AWAY, retry_at=NOW)), Action.ORDER, NOW),
    "a failure in the future: the clock was set back": (
        Facts(failure=Failure(3, Cause.AWAY, NOW + DAY, NOW + 2 * DAY)), Action.ORDER, NOW,
    ),
    "a pause longer than any authority asks for": (
        Facts(failure=Failure(1, Cause.REFUSED, NOW - LONGEST_RETRY_AFTER, NEVER)),
        Action.ORDER, NOW,
    ),
    "valid, no window offered": (SERVED, Action.WAIT, renewal_time(YOUNG, None)),
    "valid, the window is unknown": (replace(SERVED, window_due=0.0), Action.ASK_WINDOW, NOW),
    "valid, the window is asked for sooner than it begins": (
        Facts(YOUNG, Window(NOW + 50 * DAY, NOW + 60 * DAY), NOW + HOUR), Action.WAIT, NOW + HOUR,
    ),
    "valid, within the window": (
        Facts(YOUNG, Window(NOW - 2, NOW - 1), NEVER), Action.ORDER, NOW,
    ),
    "valid, two thirds are over": (Facts(DUE, window_due=NEVER), Action.ORDER, NOW),
    "two thirds are over, but the window is asked for first": (
        Facts(DUE), Action.ASK_WINDOW, NOW,
    ),
    "two thirds are over, but the window is later": (
        Facts(DUE, Window(NOW + DAY, NOW + 2 * DAY), NEVER), Action.WAIT, NOW + DAY,
    ),
    "expired": (Facts(EXPIRED), Action.ORDER, NOW),
    "not valid yet: the clock was set back": (
        Facts(Validity(NOW + DAY, NOW + 91 * DAY, 0.0), window_due=NEVER),
        Action.WAIT, NOW + DAY + 60 * DAY,
    ),
    "new, and expired: the clock is wrong": (
        Facts(EXPIRED, issued_at=NOW - 1), Action.WAIT, NOW - 1 + DAY,
    ),
    "new, and the window is over": (
        Facts(YOUNG, Window(NOW - 2, NOW - 1), NEVER, issued_at=NOW - 1),
        Action.WAIT, NOW - 1 + DAY,
    ),
    "new since a time in the future: the clock was set back": (
        Facts(DUE, window_due=NEVER, issued_at=NOW + DAY), Action.ORDER, NOW,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_decisions(row: str) -> None:
    facts, action, until = TABLE[row]
    found = decide(NOW, facts)
    assert (found.action, found.until) == (action, until)


def test_what_waits_waits_for_a_time_that_comes() -> None:
    for facts, action, _ in TABLE.values():
        if action is Action.WAIT:
            assert decide(decide(NOW, facts).until, facts).action is not Action.WAIT


def test_renewals_of_many_certificates_are_spread_over_days() -> None:
    times = [
        renewal_time(Validity.of(NOW, NOW + LIFE, str(number).encode()), None)
        for number in range(1000)
    ]
    assert NOW + 57 * DAY <= min(times) < NOW + 57.2 * DAY
    assert NOW + 59.8 * DAY < max(times) <= NOW + 60 * DAY


def test_the_time_within_a_window_is_each_certificates_own_and_stays() -> None:
    """RFC 9773, section 4.2: a random time within the window."""
    window = Window(NOW, NOW + 100.0)
    times = [
        renewal_time(Validity.of(NOW, NOW + LIFE, str(number).encode()), window)
        for number in range(1000)
    ]
    assert all(NOW <= time < NOW + 100 for time in times)
    assert len({round((time - NOW) / 10) for time in times}) == 11
    assert times[7] == renewal_time(Validity.of(NOW, NOW + LIFE, b"7"), window)


@pytest.mark.parametrize(
    "window",
    [Window(NOW + 5, NOW + 5), Window(NOW + 9, NOW + 5), Window(NOW + 400 * DAY, NOW + 500 * DAY)],
)
def test_a_senseless_window_counts_as_none(window: Window) -> None:
    """RFC 9773, section 4.2: the end is after the start."""
    assert renewal_time(YOUNG, window) == renewal_time(YOUNG, None)


def failures(cause: Cause, validity: Validity | None, chance: float) -> list[float]:
    """Return the times of attempts that all fail, as seconds after the first."""
    found, before, now = [0.0], None, NOW
    for _ in range(30):
        before = next_failure(now, before, cause, retry_after=0.0, chance=chance, validity=validity)
        now = before.retry_at
        found.append(now - NOW)
    return found


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_an_authority_that_refuses_is_asked_four_times_in_the_first_hour(chance: float) -> None:
    """Let's Encrypt allows five failed validations an hour for each name and account."""
    times = failures(Cause.REFUSED, None, chance)
    assert sum(time < HOUR for time in times) == 4
    assert times[-1] - times[-2] <= 12 * HOUR


@pytest.mark.parametrize("cause", Cause)
def test_pauses_grow_up_to_a_bound_and_differ(cause: Cause) -> None:
    short, long = failures(cause, YOUNG, 0.0), failures(cause, YOUNG, 1.0)
    for times in (short, long):
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert all(0 < one <= other * 1.001 for one, other in itertools.pairwise(pauses))
    assert short[1] < long[1]


def test_near_the_end_of_a_certificate_pauses_are_an_hour_at_most() -> None:
    ending = Validity(NOW - 89 * DAY, NOW + HOUR, 0.5)
    times = failures(Cause.REFUSED, ending, 1.0)
    assert max(after - before for before, after in itertools.pairwise(times)) <= HOUR


@pytest.mark.parametrize(
    ("asked", "pause"), [(0.0, 30.0), (3600.0, 3600.0), (1e9, LONGEST_RETRY_AFTER)]
)
def test_an_authority_that_asks_for_a_pause_gets_it_within_bounds(
    asked: float, pause: float
) -> None:
    """RFC 8555, section 6.6: Retry-After of a rate limit."""
    found = next_failure(NOW, None, Cause.AWAY, retry_after=asked, chance=1.0, validity=None)
    assert found.retry_at == NOW + pause


def test_another_cause_begins_to_count_anew() -> None:
    before = Failure(9, Cause.AWAY, NOW - 1, NOW)
    found = next_failure(NOW, before, Cause.REFUSED, retry_after=0.0, chance=1.0, validity=None)
    assert (found.count, found.retry_at) == (1, NOW + 6 * MINUTE)


@pytest.mark.parametrize(
    ("asked", "pause"), [(None, ASK_WINDOW_EVERY), (1.0, MINUTE), (7200.0, 7200.0), (1e9, DAY)]
)
def test_the_window_is_asked_for_again_as_the_authority_says_within_bounds(
    asked: float | None, pause: float
) -> None:
    """RFC 9773, section 4.3.2."""
    assert next_window_time(NOW, asked) == NOW + pause


@pytest.mark.parametrize("life", [90 * DAY, 6 * DAY, 1 * DAY])
@pytest.mark.parametrize("error", [-30 * DAY, -DAY, 0.0, 20 * HOUR, 30 * DAY, 400 * DAY])
def test_a_wrong_clock_orders_at_most_twelve_times_a_life(life: float, error: float) -> None:
    """`error` is how much the clock of the machine is fast."""
    orders, real = 0, NOW
    facts = Facts()
    while real < NOW + 2 * life:
        local = real + error
        decision = decide(local, facts)
        if decision.action is Action.WAIT:
            real = max(real + MINUTE, decision.until - error)
        elif decision.action is Action.ASK_WINDOW:
            facts = replace(facts, window_due=NEVER)
        else:
            orders += 1
            facts = Facts(Validity(real, real + life, 0.5), None, NEVER, issued_at=local)
    most_a_life = max(12, life / DAY)
    assert 1 <= orders <= 2 * most_a_life + 1
    if abs(error) < HOUR:
        assert orders == 4  # at 0, 2/3, 4/3 and 6/3, each a little earlier


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_of_a_failure_is_told_in_words(cause: Cause) -> None:
    assert decide(NOW, Facts(failure=replace(AWAY, cause=cause))).reason == IN_WORDS[cause]
