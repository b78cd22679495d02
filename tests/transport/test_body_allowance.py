"""How long a request body may take: a pure rule, so without a server."""

from __future__ import annotations

from penstock.transport.config import TransportConfig

CONFIG = TransportConfig(body_timeout=20.0, body_min_rate=500.0)


def test_a_body_may_take_20_seconds_and_one_more_for_each_500_bytes() -> None:
    assert CONFIG.body_allowance(0, 0.0) == 20.0
    assert CONFIG.body_allowance(5_000, 12.0) == 30.0


def test_a_fast_beginning_buys_no_long_silence() -> None:
    assert CONFIG.body_allowance(1 << 30, 1.0) == 1.0 + CONFIG.body_stall_seconds


def test_a_longer_body_timeout_allows_a_longer_stall() -> None:
    patient = TransportConfig(body_timeout=300.0, body_min_rate=500.0)
    assert patient.body_allowance(1 << 30, 1.0) == 301.0
