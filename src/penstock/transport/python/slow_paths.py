"""The slow-path estimate: for which paths the application's calls are expected to be slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.transport.decisions import ALL_SLOW, is_slow_path, next_overall_share, next_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.transport.config import TransportConfig

PATH_HASHES = 256
"""Paths are told apart by a byte of their hash, which is enough for an estimate."""


class SlowPaths:
    """The share of slow calls, of all and by path. For any thread: a lost update costs nothing."""

    __slots__ = (
        "_are_slow",
        "_marked",
        "_most_stalls",
        "_next_shares",
        "_shares",
        "_stalled_ns",
        "_stalls",
        "calm",
        "on_stalls",
        "overall",
        "slow_ns",
    )

    def __init__(self, config: TransportConfig) -> None:
        self.slow_ns = int(config.slow_call_seconds * 1e9)
        """A call that takes longer, in nanoseconds, is slow."""
        self.calm = True
        """Whether no path has slow calls, or had any lately: a fast call needs no `note` then."""
        self._stalled_ns = int(config.stalled_call_seconds * 1e9)
        self._most_stalls = config.stalled_calls
        self.on_stalls: Callable[[], object] | None = None  # called once
        self._stalls = 0  # how many more calls than others lasted for so long, of the last ones
        self.overall = 0.0  # moving share of all calls that were slow
        self._shares = bytearray(PATH_HASHES)  # the same by path, in parts of `ALL_SLOW`
        self._marked: set[int] = set()  # those that are not 0
        # What `next_share` and `is_slow_path` return, since each request asks them.
        self._next_shares = [
            bytes(next_share(share, slow) for share in range(ALL_SLOW + 1))
            for slow in (False, True)
        ]
        self._are_slow = bytes(is_slow_path(config, share) for share in range(ALL_SLOW + 1))

    def note(self, path: str, nanoseconds: int) -> None:
        """Keep account of how long a call took. Not needed for a fast one while it is `calm`."""
        slow = nanoseconds > self.slow_ns
        index = hash(path) % PATH_HASHES
        share = self._shares[index]
        if slow or share:
            share = self._shares[index] = self._next_shares[slow][share]
            if share:
                self._marked.add(index)
            else:
                self._marked.discard(index)
        if slow and nanoseconds > self._stalled_ns:
            self._stalls += 1
            if self._stalls >= self._most_stalls and self.on_stalls is not None:
                on_stalls, self.on_stalls = self.on_stalls, None
                on_stalls()
        elif self._stalls:
            self._stalls -= 1
        if slow or self.overall:
            self.overall = next_overall_share(self.overall, slow)
        self.calm = not (self._marked or self._stalls or self.overall)

    def expects_slow_call(self, path: str) -> bool:
        """Return True if the calls of a path have proved slow."""
        return bool(self._are_slow[self._shares[hash(path) % PATH_HASHES]])
