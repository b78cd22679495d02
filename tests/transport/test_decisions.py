"""What both transports decide alike: one table, which is run on both.

A row is a function of `penstock.transport.decisions`, what it is given, and what it returns. Times
are seconds; for native code True is 1 and None is None.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest

from penstock.transport import decisions
from penstock.transport.config import TransportConfig

CONFIG = TransportConfig(drain_linger=0.5)
Value = float | None

TABLE: dict[str, list[tuple[Sequence[Value], float]]] = {
    # A worker's connections, the fewest of the others, threads.
    "leaves_to_others": [
        ((9, None, 4), False),  # no other worker would accept
        ((0, 0, 4), False),
        ((1, 0, 4), False),  # one more is no reason to wait
        ((2, 0, 4), True),
        ((1, 0, 1), True),  # but it is where a new connection may wait for a thread
        ((4, 4, 4), False),
        ((5, 4, 4), True),
        ((16, 16, 4), False),
        ((17, 16, 4), False),  # and one for each sixteen
        ((18, 16, 4), True),
        ((1062, 1000, 4), False),
        ((1063, 1000, 4), True),
    ],
    # How often it left connections to others, how often it had to take them all the same.
    "accept_step": [
        ((0, 0), 4),
        ((4, 9), 4),
        ((5, 0), 1),
        ((5, 1), 2),
        ((6, 3), 8),
        ((5, 6), 64),
        ((5, 60), 64),
    ],
    # Idle connections.
    "evicted": [((0,), 0), ((1,), 1), ((15,), 1), ((16,), 2), ((1600,), 101)],
    # Whether the client waits for 100 Continue, and how much of the body is left.
    "keeps_connection": [
        ((False, 0), True),
        ((False, 256 * 1024), True),
        ((False, 256 * 1024 + 1), False),
        ((False, None), False),  # a chunked body
        ((True, 1), False),  # it may never come
    ],
    # Now, when lingering began, whether the transport drains.
    "linger_deadline": [
        ((100.0, 100.0, False), 102.0),
        ((105.0, 100.0, False), 107.0),
        ((109.0, 100.0, False), 110.0),  # ten seconds in all
        ((100.0, 100.0, True), 100.5),
        ((109.75, 100.0, True), 110.0),
    ],
    # Whether a head has begun.
    "drain_patience": [((False,), 0.5), ((True,), 2.0)],
    # A path's share of slow calls in 254 parts, and whether another one was slow.
    "next_share": [
        ((0, False), 0),
        ((0, True), 32),
        ((32, True), 60),
        ((32, False), 28),
        ((1, False), 0),
        ((253, True), 254),
        ((254, True), 254),
    ],
    "next_overall_share": [
        ((0.0, True), 0.05),
        ((0.5, False), 0.475),
        ((1.0, True), 1.0),
        ((0.0001, False), 0.0),
    ],
    "is_slow_path": [((0,), False), ((64,), False), ((65,), True), ((254,), True)],
}

ROWS = [(name, given, wanted) for name, rows in TABLE.items() for given, wanted in rows]


def reference(name: str, given: Sequence[Value]) -> float:
    """Return what the function of Python returns."""
    function = getattr(decisions, name)
    parameters = list(inspect.signature(function).parameters.values())
    config = [CONFIG] if parameters[0].name == "config" else []
    names = [parameter.name for parameter in parameters[len(config) :]]
    returned: float = function(*config, **dict(zip(names, given, strict=True)))
    return returned


@pytest.mark.parametrize(("name", "given", "wanted"), ROWS)
def test_the_reference_decides_by_the_table(
    name: str, given: Sequence[Value], wanted: float
) -> None:
    assert reference(name, given) == pytest.approx(float(wanted))


@pytest.mark.parametrize(("name", "given", "wanted"), ROWS)
def test_native_code_decides_by_the_table(name: str, given: Sequence[Value], wanted: float) -> None:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    numbers = [None if value is None else float(value) for value in given]
    assert native.NativeTransport.decide(CONFIG, name, numbers) == pytest.approx(
        float(wanted), abs=1e-6
    )


def test_every_decision_has_a_table() -> None:
    functions = {name for name, member in vars(decisions).items() if inspect.isfunction(member)}
    assert functions == TABLE.keys()


def test_native_code_knows_no_other_decision() -> None:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    assert native.NativeTransport.decide(CONFIG, "another", []) is None
