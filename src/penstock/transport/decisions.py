"""What both transports decide alike, as pure functions of numbers.

Native code has the same functions in ``decisions.rs``; ``tests/transport/test_decisions.py`` has
the table of what they return, and runs it on both. What the numbers are compared with comes from
`TransportConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig

# -- accept balancing ---------------------------------------------------------------------------
#
# Workers that share a listening socket are all woken for a new connection. Each accepts in small
# steps, and leaves the rest for a moment to workers that have fewer connections. If these do not
# come, because they are stopped or get no processor, the worker accepts after a few such moments,
# and then in steps that grow.


def leaves_to_others(config: TransportConfig, own: int, fewest: int | None, threads: int) -> bool:
    """Return True if a worker leaves new connections to another one.

    ``own`` is its number of connections, ``fewest`` the least that any other worker has which would
    accept now (None without one), ``threads`` how many calls each of them can make at a time.
    """
    if fewest is None:
        return False
    # The slack saves waiting. There is none where a new connection may have to wait for a thread,
    # and would not with the other worker.
    slack = config.balance_slack if own < threads else 0
    return own > fewest + slack + fewest // config.balance_share


def accept_step(config: TransportConfig, deferrals: int, in_vain: int) -> int:
    """Return how many connections a worker accepts in one turn, where others accept, too.

    ``deferrals`` counts how often in a row it has left them to others, ``in_vain`` how often in a
    row it had to accept them in the end.
    """
    if deferrals < config.balance_deferrals:
        return config.balance_batch
    return 1 << min(in_vain, config.balance_doublings)


# -- eviction -----------------------------------------------------------------------------------


def evicted(idle: int) -> int:
    """Return how many of ``idle`` evictable connections make room, those idle for longest first.

    A share of them at once, so that not every new connection has to look at all of them.
    """
    return min(idle, 1 + idle // 16)


# -- the end of a connection --------------------------------------------------------------------


def keeps_connection(config: TransportConfig, continue_owed: bool, remaining: int | None) -> bool:
    """Return True if the unread rest of a request's body is dropped to keep the connection.

    ``remaining`` is its length in bytes, None where that is unknown. With ``continue_owed`` the
    client may never send it.
    """
    return not continue_owed and remaining is not None and remaining <= config.discard_bytes


def linger_deadline(config: TransportConfig, now: float, since: float, draining: bool) -> float:
    """Return when a connection that lingers since ``since`` is closed if nothing arrives."""
    idle = config.linger_idle_seconds
    if draining:
        idle = min(idle, config.drain_linger)
    return min(now + idle, since + config.linger_seconds)


def drain_patience(config: TransportConfig, *, in_head: bool) -> float:
    """Return how long a draining transport waits for an idle or lingering client.

    ``in_head`` means that the head of a request has begun.
    """
    if in_head:
        return max(config.drain_linger, config.drain_head_seconds)
    return config.drain_linger


# -- the slow-path estimate ---------------------------------------------------------------------

ALL_SLOW = 254
"""The share of slow calls of a path is kept in these units, so that it fits into a byte."""


def next_share(share: int, slow: bool) -> int:
    """Return a path's share of slow calls after another call: an eighth of it is the new one."""
    if slow:
        return share + -(-(ALL_SLOW - share) // 8)
    return share - -(-share // 8)


def next_overall_share(share: float, slow: bool) -> float:
    """Return the share of slow calls of all paths after another call; a tiny one becomes 0."""
    moved = share + ((1.0 if slow else 0.0) - share) * 0.05
    return moved if moved >= 0.0001 else 0.0


def is_slow_path(config: TransportConfig, share: int) -> bool:
    """Return True if calls of a path with this share of slow ones are expected to be slow."""
    return share > round(config.slow_share * ALL_SLOW)
