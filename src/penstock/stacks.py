"""The Python stacks of threads, as text for a log."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType

MOST_FRAMES = 50
"""Frames of one stack that are shown, the innermost: what matters is where it stands."""


def stack_text(frame: FrameType | None) -> str:
    """Return the stack that ends in ``frame``, the most recent call last, as tracebacks have it."""
    if frame is None:
        return "  (no Python code)"
    # Without the source, which the formatting reads: the frames are let go of as soon as they can
    # be, because their thread's objects live as long as they do.
    frames = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=MOST_FRAMES + 1, lookup_lines=False
    )
    del frame
    cut = len(frames) > MOST_FRAMES
    shown = traceback.StackSummary.from_list(list(reversed(frames[:MOST_FRAMES])))
    lines = ["  (outer calls are left out)\n"] if cut else []
    return "".join([*lines, *shown.format()]).rstrip("\n")


def stack_of(ident: int) -> str:
    """Return the stack of a thread by its ``threading.get_ident()``."""
    return stack_text(sys._current_frames().get(ident))


def all_stacks(notes: Mapping[int, str]) -> str:
    """Return the stacks of all threads of this process; ``notes`` tell more, by identifier."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        title = f"thread {names.get(ident, 'unknown to Python')}"
        if note := notes.get(ident):
            title = f"{title}: {note}"
        parts.append(f"{title}\n{stack_text(frame)}")
    return "\n".join(parts)
