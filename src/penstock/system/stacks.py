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
"""Frames of one stack that are shown, the innermost: what matters is where it stands."""

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""What the files of the server's own code begin with."""

THREADING: Final = threading.Thread.start.__code__.co_filename


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
    shown = list(reversed(frames[:MOST_FRAMES]))
    while len(shown) > 1 and _is_the_servers(shown[0].filename):
        del shown[0]  # what leads to an application is the same for all
    lines = ["  (outer calls are left out)\n"] if cut else []
    return "".join([*lines, *traceback.StackSummary.from_list(shown).format()]).rstrip("\n")


def _is_the_servers(file: str) -> bool:
    return file in (THREADING, "<frozen runpy>") or file.startswith(PACKAGE)


def current_frames() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by ``threading.get_ident()``.

    Without the garbage collector: CPython holds a lock on all threads meanwhile, and waits for
    ever where a collection that its own allocations start frees a ``threading.local``, which takes
    that lock (gh-106883 of CPython, mended in 3.12 and later).
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

    ``notes`` tell more, by identifier; threads that have one come first.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in current_frames().items():
        title = f"thread {names.get(ident, 'unknown to Python')}"
        if note := notes.get(ident):
            title = f"{title}: {note}"
        parts.append((not note, f"{title}\n{stack_text(frame)}"))
    return "\n".join(text for _, text in sorted(parts))
