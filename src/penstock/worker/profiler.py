"""Samples the Python stacks of a worker: what its requests spend their time on.

A thread of its own looks at `sys._current_frames` some times a second. Nothing is interrupted, and
no signal is sent: what it costs is that this thread takes the interpreter lock for each look.
Imported where a profile is asked for (``penstockctl profile``), and not before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.telemetry.scoreboard import NUMBER, THREAD, Slot, without_query

if TYPE_CHECKING:
    from types import CodeType, FrameType

MOST_FRAMES = 5000
"""Names of functions and requests. Beyond these all others have one name..."""
MOST_OF_NAME = 160
"""... and of each this many characters are kept."""
MOST_DEPTH = 200
"""Functions of one stack: of a deeper one the innermost are kept."""
MOST_IN_STACKS = 300_000
"""Functions in all stacks that differ: with the names, a message of 3 MiB at most."""
MOST_REQUESTS = 500
"""Methods with paths that have a name of their own."""
NAMES_SECONDS = 1.0
"""How often the names of threads are looked up: one may end, and another have its identity."""

OTHER_FRAMES = "(other functions)"
OTHER_REQUESTS = "(other requests)"
CUT_OFF = "(outer functions)"

_GATEWAY = "/penstock/wsgi/gateway.py"
"""Where a request's call begins: what is around it is the same for all."""

_LOOP = ("/penstock/worker/worker.py", "Worker._serve_until_error")
"""What is around a call by native code, which has no frame of the gateway: file and function."""

SERVERS_OWN = "penstock-"
"""What the names of the server's own threads begin with."""


class Profiler:
    """One profile of this process. It ends by itself, or by `stop`."""

    def __init__(
        self,
        slot: Slot,
        *,
        seconds: float,
        rate: int,
        idle: bool,
        done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Sample for ``seconds``, ``rate`` times a second, and call ``done`` with the profile.

        With ``idle`` the server's own threads are in it, too, while they have no request. The
        profile is called from another thread.
        """
        self._slot = slot
        self._seconds = seconds
        self._interval = 1 / rate
        self._idle = idle
        self._done = done
        # Released to end it. An Event takes ten times as long for each wait.
        self._over = threading.Lock()
        self._over.acquire()
        # The thread's alone from here on.
        self._names: list[str] = []
        self._indexes: dict[str, int] = {}  # of the names
        self._codes: dict[int, int] = {}  # the index of a function's name, by its id
        self._gateway: set[int] = set()  # the indexes of the functions of `_GATEWAY`
        self._loop: set[int] = set()  # and of `_LOOP`
        self._kept: list[CodeType] = []  # so that no other function gets that id
        self._requests: dict[str, int] = {}
        self._running: dict[int, tuple[int, int]] = {}  # by thread: a request's number, its name
        self._threads: dict[int, str] = {}
        self._threads_at = 0.0
        self._stacks: dict[tuple[int, ...], int] = {}
        self._in_stacks = 0
        self._thread = threading.Thread(target=self._run, name="penstock-profiler", daemon=True)

    @property
    def is_over(self) -> bool:
        """Whether it samples no more."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin. Raises RuntimeError where no thread can be started."""
        self._thread.start()

    def stop(self) -> None:
        """End it before its time: what was sampled is handed over."""
        with suppress(RuntimeError):  # it was released before
            self._over.release()

    def _run(self) -> None:
        error = ""
        begun = due = time.monotonic()
        samples = late = 0
        try:
            while not self._over.acquire(timeout=max(0.0, due - time.monotonic())):
                now = time.monotonic()
                if now - begun >= self._seconds:
                    break
                self._sample(now)
                samples += 1
                due += self._interval
                while due < now:  # the interpreter lock was not to be had in time
                    due += self._interval
                    late += 1
        except Exception as failure:  # memory has run out, perhaps
            error = f"{type(failure).__name__}: {failure}"
        self._done(
            {
                "error": error[:MOST_OF_NAME],
                "seconds": round(time.monotonic() - begun, 3),
                "samples": samples,
                "late": late,
                "cost": round(time.thread_time(), 6),
                "frames": self._names,
                "stacks": [[count, list(stack)] for stack, count in self._stacks.items()],
            }
        )

    def _sample(self, now: float) -> None:
        if now - self._threads_at >= NAMES_SECONDS:
            self._threads_at = now
            self._threads = {
                thread.ident: thread.name
                for thread in threading.enumerate()
                if thread.ident is not None
            }
        roots = dict(self._requests_now())
        own = threading.get_ident()
        for ident, frame in sys._current_frames().items():
            root = roots.get(ident)
            if root is None:
                root = self._root_of_other(ident)
            if root is not None and ident != own:
                self._count(root, frame)

    def _requests_now(self) -> Iterator[tuple[int, int]]:
        """Yield each thread that is in a request, and the name of that."""
        for record in self._slot.records:
            ident = record.words[THREAD]
            if not ident:
                break  # threads take records in their order
            number = record.words[NUMBER]
            if not number:
                continue
            known = self._running.get(ident)
            if known is None or known[0] != number:
                request = record.read()
                if request is None or request.number != number:
                    continue
                name = f"{request.method} {without_query(request.target)}"
                known = self._running[ident] = (number, self._name_request(name))
            yield ident, known[1]

    def _name_request(self, name: str) -> int:
        index = self._requests.get(name)
        if index is None:
            if len(self._requests) >= MOST_REQUESTS:
                return self._index_of(OTHER_REQUESTS)
            index = self._requests[name] = self._index_of(name)
        return index

    def _root_of_other(self, ident: int) -> int | None:
        """Return what a thread without a request is shown as; None where it is left out."""
        name = self._threads.get(ident)
        if name is None:
            return self._index_of("(a new thread)")
        servers = name.startswith(SERVERS_OWN) or ident == threading.main_thread().ident
        if servers and not self._idle:
            return None
        return self._index_of(f"(thread {name})")

    def _count(self, root: int, frame: FrameType) -> None:
        stack: list[int] = []
        outer: FrameType | None = frame
        while outer is not None:
            code = outer.f_code
            index = self._codes.get(id(code))
            if index is None:
                index = self._index_of_code(code)
            if index in self._loop:
                break
            stack.append(index)
            if len(stack) >= MOST_DEPTH:
                stack.append(self._index_of(CUT_OFF))
                break
            if index in self._gateway:
                self._add_gateway(outer, stack)
                break
            outer = outer.f_back
        stack.append(root)
        stack.reverse()
        key = tuple(stack)
        if key not in self._stacks:
            if self._in_stacks + len(key) > MOST_IN_STACKS:
                key = (root, self._index_of(OTHER_FRAMES))
            self._in_stacks += len(key)
        self._stacks[key] = self._stacks.get(key, 0) + 1

    def _add_gateway(self, frame: FrameType, stack: list[int]) -> None:
        """Add the frames of the gateway, and none of those that are around them."""
        outer = frame.f_back
        while outer is not None and (index := self._index_of_code(outer.f_code)) in self._gateway:
            stack.append(index)
            outer = outer.f_back

    def _index_of_code(self, code: CodeType) -> int:
        index = self._codes.get(id(code))
        if index is None:
            name = f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
            index = self._index_of(name)
            if self._names[index] != OTHER_FRAMES:
                if code.co_filename.endswith(_GATEWAY):
                    self._gateway.add(index)
                elif code.co_filename.endswith(_LOOP[0]) and code.co_qualname == _LOOP[1]:
                    self._loop.add(index)
            if len(self._kept) < MOST_FRAMES:
                self._kept.append(code)
                self._codes[id(code)] = index
        return index

    def _index_of(self, name: str) -> int:
        """Return the index of a name, without what would end a frame or a line of the output."""
        name = name.encode("unicode_escape").decode("ascii").replace(";", ",")
        if len(name) > MOST_OF_NAME:
            name = f"{name[: MOST_OF_NAME // 4]}...{name[-MOST_OF_NAME // 2 :]}"
        index = self._indexes.get(name)
        if index is None:
            if len(self._names) >= MOST_FRAMES and name not in (OTHER_FRAMES, OTHER_REQUESTS):
                return self._index_of(OTHER_FRAMES)
            index = self._indexes[name] = len(self._names)
            self._names.append(name)
        return index
