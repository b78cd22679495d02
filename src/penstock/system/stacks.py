"""The Python stacks of threads, as text for a log."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

MOST_FRAMES = 50
"""Frames of one stack that are shown: the innermost ones, which show where the thread is."""

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""The directory of the server's own code, with a separator at the end."""

GATEWAY: Final = os.path.join(PACKAGE, "wsgi", "gateway.py")
"""What calls the application."""

_SERVING: Final = os.path.join(PACKAGE, "worker", "worker.py")
"""What takes requests: a thread in it that is not in the gateway waits for one."""

_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep
_PACKAGES: Final = tuple(_LIBRARY + name + os.sep for name in ("site-packages", "dist-packages"))

_SECTION: Final = re.compile(
    r"^((?:Current thread|Thread) 0x[0-9a-f]+[^\n]*) \(most recent call first\):\n", re.MULTILINE
)
DUMPED_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
"""A frame as `faulthandler` writes it: file, line and function."""

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
    # The calls that lead to the application are the same in every stack.
    del shown[: _leading([(each.filename, each.name) for each in shown])]
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
    folded = _Folded()
    for ident, frame in current_frames().items():
        note = notes.get(ident)
        if not note and not folded.shows(_frames_of(frame)):
            continue
        title = f"thread {names.get(ident, 'unknown to Python')}"
        if note:
            title = f"{title}: {note}"
        parts.append((not note, f"{title}\n{stack_text(frame)}"))
    return "\n".join([*(text for _, text in sorted(parts)), *folded.summary()])


def dump_text(dump: bytes) -> str:
    """Return what `faulthandler` has written in the form of `all_stacks`.

    Text that is of no stack stays where it is, such as the name of a signal.
    """
    text = dump.decode("utf-8", "backslashreplace")
    before, *sections = _SECTION.split(text)
    if not sections:
        return text.rstrip("\n")
    shown, after = [], []
    folded = _Folded()
    # Of each stack its heading, then its lines.
    for heading, lines in zip(sections[::2], sections[1::2], strict=True):
        frames = DUMPED_FRAME.findall(lines)
        rest = [line for line in lines.splitlines() if line and not line.startswith("  ")]
        after += rest
        frames.reverse()
        if frames and not folded.shows([(file, name) for file, _, name in frames]):
            continue
        del frames[: _leading([(file, name) for file, _, name in frames])]
        called = [f'  File "{file}", line {line}, in {name}' for file, line, name in frames]
        shown.append("\n".join([heading.strip().lower(), *(called or ["  (no Python code)"])]))
    return "\n".join(filter(None, [before.strip(), *shown, *folded.summary(), *after]))


class _Folded:
    """The threads whose stacks are left out: they show nothing of the application."""

    def __init__(self) -> None:
        self._idle = 0
        self._servers = 0

    def shows(self, frames: Sequence[tuple[str, str]]) -> bool:
        """Return True for a stack that has code of the application; else count it.

        ``frames`` are files and functions, the outermost first. What is called by the gateway
        counts as well: the application may have no code of its own on the stack.
        """
        files = [file for file, _ in frames[_has_script(frames) :]]
        if not files or GATEWAY in files or not all(map(_is_known, files)):
            return True
        if not any(file.startswith(PACKAGE) for file in files):
            return True
        if _SERVING in files:
            self._idle += 1
        else:
            self._servers += 1
        return False

    def summary(self) -> list[str]:
        """Return the line that counts them; nothing where there are none."""
        if not self._idle and not self._servers:
            return []
        noun = "thread" if self._idle == 1 else "threads"
        return [f"not shown: {self._idle} idle {noun}, {self._servers} of the server's"]


def _frames_of(frame: FrameType) -> list[tuple[str, str]]:
    """Return files and functions, the outermost first."""
    try:
        codes = [each.f_code for each, _ in traceback.walk_stack(frame)]
    except AttributeError:  # as in `stack_text`
        return []
    return [(code.co_filename, code.co_name) for code in reversed(codes)]


def _has_script(frames: Sequence[tuple[str, str]]) -> bool:
    """Return True if the outermost frame is the program that has called the server."""
    return (
        len(frames) > 1
        and frames[0][1] == "<module>"
        and not _is_the_servers(frames[0][0])
        and _is_the_servers(frames[1][0])
    )


def _leading(frames: Sequence[tuple[str, str]]) -> int:
    """Return how many outer frames only lead to the application; one at least is none of them."""
    count = int(_has_script(frames))
    begun = count
    while count < len(frames) - 1 and _is_the_servers(frames[count][0]):
        count += 1
    if count > begun:  # the server imports the application
        while count < len(frames) - 1 and _is_import(frames[count][0]):
            count += 1
    return count


def _is_import(file: str) -> bool:
    return file == importlib.__file__ or file.startswith("<frozen importlib")


def _is_known(file: str) -> bool:
    """Return True for code of the server's, and of the standard library."""
    return _is_the_servers(file) or is_of_library(file)


def is_of_library(file: str) -> bool:
    """Return True for code of the standard library."""
    if file.startswith("<frozen "):
        return True
    return file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)
