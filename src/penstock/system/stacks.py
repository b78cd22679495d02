"""The Python stacks of threads, as text for a log."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Final

MOST_FRAMES = 50
"""Frames of one stack that are shown: the innermost ones, which show where the thread is."""

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""The directory of the server's own code, with a separator at the end."""

THREADING: Final = threading.Thread.start.__code__.co_filename


def stack_text(frame: FrameType | None) -> str:
    """Return the stack that ends in ``frame``, the most recent call last, as in a traceback."""
    if frame is None:
        return "  (no Python code)"
    # Without the source lines, which the formatting reads later: the frames are released as early
    # as possible, because they keep the objects of their thread alive.
    try:
        frames = traceback.StackSummary.extract(
            traceback.walk_stack(frame), limit=MOST_FRAMES + 1, lookup_lines=False
        )
    except AttributeError:
        # The thread went on meanwhile, and CPython 3.11 gave what was a frame's place to another
        # object.
        return "  (the thread went on while its stack was read)"
    del frame
    cut = len(frames) > MOST_FRAMES
    shown = list(reversed(frames[:MOST_FRAMES]))
    while len(shown) > 1 and _is_the_servers(shown[0].filename):
        del shown[0]  # the calls that lead to the application are the same in every stack
    lines = ["  (outer calls are left out)\n"] if cut else []
    return "".join([*lines, *traceback.StackSummary.from_list(shown).format()]).rstrip("\n")


def _is_the_servers(file: str) -> bool:
    return file in (THREADING, "<frozen runpy>") or file.startswith(PACKAGE)


def current_frames() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by ``threading.get_ident()``.

    The garbage collector is off during the call: CPython holds a lock on all threads, and
    deadlocks where a collection that its own allocations start frees a ``threading.local``, which
    takes that lock (gh-106883 of CPython, fixed in 3.12).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()


def stack_of(ident: int) -> str:
    """Return the stack of a thread by its ``threading.get_ident()``."""
    return stack_text(current_frames().get(ident))


def all_stacks(notes: Mapping[int, str]) -> str:
    """Return the stacks of all threads of this process.

    ``notes`` has a remark for some threads, by identifier; these threads come first.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in current_frames().items():
        title = f"thread {names.get(ident, 'unknown to Python')}"
        if note := notes.get(ident):
            title = f"{title}: {note}"
        parts.append((not note, f"{title}\n{stack_text(frame)}"))
    return "\n".join(text for _, text in sorted(parts))
