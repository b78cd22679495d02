"""The rule for sustained overload: the same events on both transports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.admission import Overload
from penstock.transport.config import TransportConfig

CONFIG = TransportConfig()
SECOND = 1_000_000_000
MILLISECOND = 1_000_000

Event = tuple[int, int, int]


def served(duration: int) -> Event:
    return 0, duration, 0


def moved(now: float, oldest: float) -> Event:
    return 1, int(now * SECOND), int(oldest * SECOND)


def replay(events: list[Event]) -> tuple[int, bool]:
    """Return the mean and whether the overload is sustained, after events."""
    overload = Overload(CONFIG)
    for kind, first, second in events:
        if kind == 0:
            overload.served(first)
        else:
            overload.queue_moved(first, second)
    return overload.mean_service, overload.sustained


def replay_native(events: list[Event]) -> tuple[int, bool]:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    numbers = [float(number) for event in events for number in event]
    both = native.NativeTransport.decide(CONFIG, "overload", numbers)
    return int(both) // 2, int(both) % 2 == 1


every_side = pytest.mark.parametrize("side", [replay, replay_native], ids=["python", "native"])

LATE = [moved(100, 0), *(moved(100 + step, 1.5) for step in range(1, 10))]
"""A queue whose oldest request has waited for more than a second, nine times in nine seconds."""

CASES: dict[str, tuple[list[Event], bool]] = {
    "no event": ([], False),
    "an empty queue at the start": ([moved(100, 0)], False),
    "less than ten seconds": (LATE, False),
    "ten seconds": ([*LATE, moved(110, 1.5)], True),
    "a request that waited for less in between": ([*LATE, moved(109, 0.9), moved(118, 2)], False),
    "an empty queue in between": ([*LATE, moved(109, 0), moved(118, 2)], False),
    "clients that leave soon": ([*LATE, moved(110, 1.5), moved(110.5, 0.5)], True),
    "an empty queue": ([*LATE, moved(110, 1.5), moved(110.5, 0)], False),
    "another ten seconds": (
        [*LATE, moved(110, 1.5), moved(111, 0), moved(120, 1.5), moved(120.9, 2)],
        False,
    ),
    "twice a slow call is no long wait": ([served(SECOND), *LATE, moved(111, 1.5)], False),
    "more than twice a slow call": (
        [served(SECOND), moved(100, 0), moved(105, 2.1), moved(111, 2.1)],
        True,
    ),
    "a burst of five seconds": ([moved(100, 0), *(moved(100 + t, t) for t in range(5))], False),
}


@every_side
@pytest.mark.parametrize("name", CASES)
def test_overload_is_sustained_when_no_request_waited_for_less_than_a_second_for_ten(
    side: type, name: str
) -> None:
    events, wanted = CASES[name]
    assert side(events)[1] is wanted


@every_side
def test_a_call_counts_for_a_sixteenth_of_the_mean(side: type) -> None:
    assert side([served(16_000)])[0] == 16_000
    assert side([served(16_000), served(32_000)])[0] == 17_000
    assert side([served(16_000), served(0)])[0] == 15_000
    assert side([served(16), served(15)])[0] == 15  # rounded down


events = st.lists(
    st.one_of(
        st.builds(served, st.integers(0, 10 * SECOND)),
        st.builds(moved, st.floats(0, 1000), st.floats(0, 30)),
    ),
    max_size=30,
)


@given(events)
def test_both_languages_make_the_same_of_any_events(events: list[Event]) -> None:
    assert replay_native(events) == replay(events)
