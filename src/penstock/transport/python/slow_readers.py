"""What is done about clients that read slowly, where too many bytes of responses are unsent."""

from __future__ import annotations

import time
from operator import itemgetter
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import SLOW_READER
from penstock.transport.decisions import far_exceeds_unsent, is_relieved
from penstock.transport.python.output import Output

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.loop import Loop


class SlowReaders:
    """Cuts the slowest readers off, over several turns of the loop. Only the leader uses it.

    The kernel takes up to half a millisecond to close a connection that has much to send: many of
    them in one turn would hold up all others.
    """

    __slots__ = ("slowest_last",)

    def __init__(self) -> None:
        """Begin with none."""
        self.slowest_last: list[tuple[float, Connection, Output]] = []
        """Those that may be cut off next; while there are some, the next turn goes on with it."""

    def cut_off(self, loop: Loop) -> None:
        """Cut off the slowest readers until the unsent bytes of all responses leave some room.

        It is for where they are too many, or some readers are left of the turn before. What takes
        longer than a turn is left to the next one, unless the bytes are far too many.
        """
        config, budget = loop.config, loop.budget
        if not self.slowest_last:
            self.slowest_last = _by_time_to_read(loop)
        turn_ends = time.monotonic() + config.shared_turn_seconds
        while not is_relieved(config, budget.unsent):
            if not self.slowest_last:
                return
            _, connection, output = self.slowest_last.pop()
            if connection.output is output and output.memory:  # it has not read, or left, meanwhile
                loop.slot_words[SLOW_READER] += 1
                connection.cut_off_slow_reader(output)
            if time.monotonic() >= turn_ends and not far_exceeds_unsent(config, budget.unsent):
                return
        self.slowest_last = []


def _by_time_to_read(loop: Loop) -> list[tuple[float, Connection, Output]]:
    """Return the clients that have not read what is in memory for them, the slowest last."""
    found = [
        (output.time_to_read(loop.now), connection, output)
        for connection in list(loop.connections)
        if (output := connection.output) is not None and output.memory
    ]
    found.sort(key=itemgetter(0))
    return found
