"""The rate of one client: the same requests on both transports, and what holds for any requests."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.edge.rate_limit import ROW_WORDS, TICK_BITS, TIME_BITS, RateLimit, RateTable
from penstock.edge.siphash import siphash
from penstock.transport.config import TransportConfig

SECOND = 1_000_000_000
SEED = bytes(range(16))
START = 1000 * SECOND
TICK = 1 << TICK_BITS

Take = Callable[[RateTable, RateLimit, int, int], int]


def python_take(table: RateTable, limit: RateLimit, client: int, now: int) -> int:
    return table.take(limit, 1 << 32 | client, now)


def native_take(table: RateTable, limit: RateLimit, client: int, now: int) -> int:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    config = TransportConfig(request_rate=limit, rate_table=table)
    numbers = [float(now), float(client)]
    return int(native.NativeTransport.decide(config, "take_request", numbers))


every_side = pytest.mark.parametrize("take", [python_take, native_take], ids=["python", "native"])


@every_side
def test_a_burst_is_admitted_and_then_the_rate(take: Take) -> None:
    table, limit = RateTable(), RateLimit.of(0.01, 20)
    assert [take(table, limit, 1, START) == 0 for _ in range(30)] == [True] * 20 + [False] * 10
    # A second later, a burst again, and no more: unused time is not saved.
    later = START + SECOND
    assert [take(table, limit, 1, later) == 0 for _ in range(30)] == [True] * 20 + [False] * 10
    admitted = sum(take(table, limit, 1, later + step * SECOND // 1000) == 0
                   for step in range(1, 1001))  # fmt: skip
    assert 99 <= admitted <= 101


@every_side
def test_a_refusal_says_when_the_next_request_is_admitted(take: Take) -> None:
    table, limit = RateTable(), RateLimit.of(0.5, 1)
    assert take(table, limit, 1, START) == 0
    wait = take(table, limit, 1, START + SECOND // 10)
    assert abs(wait - SECOND * 4 // 10) <= TICK
    again = START + SECOND // 10 + wait
    assert take(table, limit, 1, again - 2 * TICK) > 0
    assert take(table, limit, 1, again + TICK) == 0


@every_side
def test_clients_do_not_use_up_one_another_s_rate(take: Take) -> None:
    table, limit = RateTable(), RateLimit.of(1.0, 1)
    for client in range(1000):
        assert take(table, limit, client, START) == 0
    assert all(take(table, limit, client, START) > 0 for client in range(1000))


@every_side
def test_in_a_full_row_the_entry_that_expires_first_makes_room(take: Take) -> None:
    table = RateTable(rows=1)
    long, short = RateLimit.of(10.0, 10), RateLimit.of(1.0, 10)
    for client in range(ROW_WORDS):
        assert take(table, short if client == 3 else long, client, START) == 0
    assert take(table, long, 99, START) == 0  # in place of client 3
    for client in range(ROW_WORDS):
        if client != 3:
            for _ in range(9):
                assert take(table, long, client, START) == 0
            assert take(table, long, client, START) > 0


@every_side
def test_a_time_that_is_further_ahead_than_possible_does_not_refuse_for_days(take: Take) -> None:
    table, limit = RateTable(rows=1, seed=SEED), RateLimit.of(1.0, 1)
    assert take(table, limit, 1, START) == 0
    # The clock of 40 bits begins anew, or the rate has been raised.
    assert take(table, limit, 1, START - 100 * SECOND) == 0
    wrap = 1 << (TIME_BITS + TICK_BITS)
    assert take(table, limit, 2, wrap - SECOND // 2) == 0
    assert take(table, limit, 2, wrap + SECOND // 4) > 0
    assert take(table, limit, 2, wrap + SECOND) == 0


def test_the_hash_is_the_one_that_Python_uses_itself() -> None:
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this Python hashes with {sys.hash_info.algorithm}")
    words = [0, 1, 0x0123456789ABCDEF, (1 << 64) - 1]
    program = f"import struct; print(*(hash(struct.pack('<Q', w)) for w in {words}))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    wanted = [int(text) & (1 << 64) - 1 for text in run.stdout.split()]
    assert [siphash(0, 0, word) for word in words] == wanted


def test_a_client_does_not_know_its_row_without_the_key() -> None:
    rows = [{siphash(*RateTable(rows=1).keys, client) & 8191 for client in range(64)}
            for _ in range(2)]  # fmt: skip
    assert rows[0] != rows[1]


requests = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 3 * SECOND)), min_size=1, max_size=60
)
limits = st.builds(RateLimit.of, st.sampled_from([0.0001, 0.01, 0.3, 60.0]), st.integers(1, 100))


@settings(deadline=None)
@given(limits, requests, st.sampled_from([1, 2, 8192]))
def test_both_languages_make_the_same_of_any_requests(
    limit: RateLimit, requests: list[tuple[int, int]], rows: int
) -> None:
    pytest.importorskip("penstock._native", reason="the native transport is not built")
    tables = [RateTable(rows, SEED) for _ in range(2)]
    now = START
    for client, pause in requests:
        now += pause
        assert python_take(tables[0], limit, client, now) == native_take(
            tables[1], limit, client, now
        )
    words = [struct.unpack(f"@{rows * ROW_WORDS}Q", table.memory[:]) for table in tables]
    assert words[0] == words[1]


@settings(deadline=None)
@given(st.integers(1, 50), st.lists(st.integers(0, SECOND // 5), min_size=1, max_size=200))
def test_no_more_is_admitted_in_any_time_than_the_burst_and_the_rate(
    burst: int, pauses: list[int]
) -> None:
    table, limit = RateTable(rows=1), RateLimit.of(0.05, burst)
    now, admitted = START, []
    for pause in pauses:
        now += pause
        if python_take(table, limit, 1, now) == 0:
            admitted.append(now)
    interval = limit.interval << TICK_BITS
    for first, begin in enumerate(admitted):
        for last in range(first, len(admitted)):
            count = last - first + 1
            assert count <= burst + (admitted[last] - begin) / interval + 1e-3


@settings(deadline=None)
@given(st.integers(1, 50), st.lists(st.integers(0, SECOND // 10), min_size=1, max_size=100))
def test_a_client_that_keeps_to_the_rate_is_never_refused(burst: int, late: list[int]) -> None:
    table, limit = RateTable(rows=1), RateLimit.of(0.05, burst)
    now = START
    for pause in late:
        now += (limit.interval << TICK_BITS) + TICK + pause
        assert python_take(table, limit, 1, now) == 0


def test_workers_share_a_table_that_was_made_before_the_fork() -> None:
    table, limit = RateTable(), RateLimit.of(60.0, 10)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if all(python_take(table, limit, 1, START) == 0 for _ in range(3)) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [python_take(table, limit, 1, START) == 0 for _ in range(3)] == [True, False, False]
