"""Which pool of connections a thread waits for, by its stack."""

from __future__ import annotations

import pytest

from penstock.control.connection_pools import POOLS, waits_by_pool
from support.stacks import (
    CONDITION,
    DBUTILS,
    DJANGO,
    PACKAGES,
    PSYCOPG,
    QUEUE,
    REDIS,
    SQLALCHEMY,
    stack,
    stacks_of_worker,
)

WAITS = {
    "Django's pool for PostgreSQL": DJANGO,
    "psycopg_pool": PSYCOPG,
    "SQLAlchemy's QueuePool": SQLALCHEMY,
    "DBUtils": DBUTILS,
    "redis-py's BlockingConnectionPool": REDIS,
}


def names(*stacks: str) -> dict[str, int]:
    return {pool.name: number for pool, number in waits_by_pool(stacks).items()}


@pytest.mark.parametrize(("name", "frames"), WAITS.items(), ids=WAITS)
def test_threads_that_wait_for_a_pool_are_counted_over_all_workers(
    name: str, frames: tuple[tuple[str, str], ...]
) -> None:
    one = stacks_of_worker(stack(*frames), stack(("/srv/shop/views.py", "sums")), stack(*frames))
    other = stacks_of_worker(stack(*frames))
    assert names(one, other) == {name: 3}


def test_every_pool_has_a_case() -> None:
    assert [pool.name for pool in POOLS] == [*WAITS]


@pytest.mark.parametrize(
    "frames",
    [
        (),
        CONDITION,
        QUEUE,  # of the application's own
        # It makes a connection, waits for the answer, or is about to look into the pool.
        (*SQLALCHEMY[:1], (f"{PACKAGES}/psycopg/connection.py", "connect"), *CONDITION),
        (*REDIS[:1], (f"{PACKAGES}/redis/connection.py", "connect")),
        REDIS[:1],
        SQLALCHEMY[:2],
        # The same library waits for something else.
        ((f"{PACKAGES}/psycopg_pool/pool.py", "close"), *CONDITION),
        SQLALCHEMY[1:],  # a queue of the application's, of this class
        # Other modules of these names.
        (("/srv/shop/pool.py", "wait"), *CONDITION),
        (("/srv/shop/noredis/connection.py", "get_connection"), *QUEUE),
    ],
)
def test_a_thread_that_does_anything_else_waits_for_no_pool(
    frames: tuple[tuple[str, str], ...],
) -> None:
    assert names(stacks_of_worker(stack(*frames))) == {}


def test_a_thread_without_a_request_is_not_counted() -> None:
    assert names(stacks_of_worker(stack(*DBUTILS, request=False))) == {}


def test_stacks_that_c_code_has_written_are_counted_as_well() -> None:
    text = stack(*DBUTILS, request=False).replace("thread penstock-2", "thread 0x00007f11 [app]")
    assert names(f"current {text}\n{text}") == {"DBUtils": 2}


@pytest.mark.parametrize("text", ["", "\n", "thread x: (request ", '  File "a", line 1, in b'])
def test_text_that_is_no_stack_is_passed_over(text: str) -> None:
    assert names(text) == {}
