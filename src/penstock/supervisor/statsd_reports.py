"""Sends to a statsd server, once a second, what the workers have counted."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock import messages
from penstock.system.network import accept_queue_length
from penstock.telemetry.histograms import histograms_of, sum_without_websockets
from penstock.telemetry.statsd import COUNTS, Statsd, Totals, connected

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.supervisor.helpers import Helpers
    from penstock.supervisor.status import Overview
    from penstock.system.as_user import Change, HelperError

STATSD_SECONDS = 1.0
"""How often something is sent: servers of statsd gather for 10 s."""

LOOK_UP_SECONDS = 60.0
"""How often the server's name is looked up: its address may change."""


class StatsdReports:
    """Sends where the settings ask for it. For the supervisor: it never waits.

    A helper process looks the server's name up and connects, since a resolver may take its time.
    """

    def __init__(self, overview: Overview, helpers: Helpers, logger: logging.Logger) -> None:
        self._overview = overview
        self._helpers = helpers
        self._logger = logger
        self._wanted: tuple[str, str, str] | None = None
        """The settings that are in force: address, prefix and tags."""
        self._statsd: Statsd | None = None
        self._before: Totals | None = None
        self._due = self._look_up_at = math.inf
        self._give_up: Callable[[], None] = _nothing
        self._told = ""

    def tick(
        self, now: float, settings: Settings, workers: int, listeners: Iterable[Listener]
    ) -> None:
        """Send what is due; ``workers`` is how many there are to be."""
        wanted = None
        if settings.statsd is not None:
            wanted = (settings.statsd, settings.statsd_prefix, settings.statsd_tags)
        if wanted != self._wanted:
            self.finish(workers, listeners)
            self._wanted = wanted
            if wanted is not None:
                self._due = self._look_up_at = now
                # What was counted before this has been sent to another address, or by the
                # supervisor before this one.
                self._before = self._totals(workers, listeners)
        if now >= self._look_up_at:
            self._look_up_at = now + LOOK_UP_SECONDS
            self._look_up()
        if now >= self._due:
            self._due = now + STATSD_SECONDS
            self._send(workers, listeners)

    def _look_up(self) -> None:
        assert self._wanted is not None
        self._give_up()
        work = partial(_connect, self._wanted[0])
        self._give_up = self._helpers.run(work, self._connected, self._failed)

    def _connected(self, descriptors: Sequence[int], _text: str) -> None:
        assert self._wanted is not None
        self._told = ""
        if self._statsd is not None:
            self._statsd.close()
        _, prefix, tags = self._wanted
        self._statsd = Statsd(socket.socket(fileno=descriptors[0]), prefix, tags)

    def _failed(self, error: HelperError) -> None:
        assert self._wanted is not None
        if self._statsd is None:
            self._before = None  # the name may be unknown for hours: what is counted is not kept
        if str(error) != self._told:  # each minute it would be the same
            self._told = str(error)
            messages.STATSD_NOT_FOUND.log(self._logger, address=self._wanted[0], error=error)

    def _send(self, workers: int, listeners: Iterable[Listener]) -> None:
        if self._statsd is None:
            return
        now = self._totals(workers, listeners)
        self._statsd.send(self._before or now, now)
        self._before = now

    def _totals(self, workers: int, listeners: Iterable[Listener]) -> Totals:
        times = histograms_of(sum_without_websockets(self._overview.series()))
        counts = self._overview.counts()
        lengths = [accept_queue_length(each.socket) for each in listeners]
        known = [length for length in lengths if length is not None]
        return Totals(
            statuses=self._overview.statuses(),
            durations=times["duration"],
            counts={name: counts[name] for name in COUNTS},
            workers=workers,
            backlog=sum(known) if known else None,
        )

    def finish(self, workers: int, listeners: Iterable[Listener]) -> None:
        """Send what the last workers have counted, and nothing after that."""
        self._send(workers, listeners)
        self.close()

    def close(self) -> None:
        """Send nothing any more."""
        self._give_up()
        self._give_up = _nothing
        if self._statsd is not None:
            self._statsd.close()
        self._statsd = self._before = self._wanted = None
        self._due = self._look_up_at = math.inf

    def close_in_child(self) -> None:
        """Close the socket in a forked child."""
        if self._statsd is not None:
            self._statsd.close()


def _nothing() -> None:
    pass


def _connect(address: str, _change: Change) -> Sequence[int]:
    """Return a socket that is connected to the server, in a helper process."""
    return [connected(address).detach()]
