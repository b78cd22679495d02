"""Servers that run at once, on the same core, and take the load by turns.

What slows the machine for longer than a turn slows all of them, so that the ratio of two rates of
one round stays. The median of these ratios is shown with its quartiles; where a check decides by
it, with an interval that assumes nothing of how they are distributed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypeVar

CONFIDENCE = 0.95

Turn = TypeVar("Turn")


def order(turns: Sequence[Turn], number: int) -> list[Turn]:
    """Return the turns of a round: each begins one place further, every second goes backwards.

    So no server always comes first, or always after the same other one.
    """
    start = (number - 1) // 2 % len(turns) if turns else 0
    rotated = [*turns[start:], *turns[:start]]
    return rotated if number % 2 else rotated[::-1]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile; of one value, that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval that holds the median of what ``values`` are a sample of.

    Each value is above that median or below it, as a coin falls. So the median is between the
    values of ranks k and n + 1 - k unless fewer than k of n coins fall on one side.
    """
    ordered = sorted(values)
    count = len(ordered)
    beyond = (1 - confidence) / 2
    below, rank = 0.0, 0
    while rank < count // 2 and (below := below + math.comb(count, rank) / 2**count) <= beyond:
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]
