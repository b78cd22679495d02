"""Watching the files of an application for changes, with ``--reload``: for development.

A worker watches: it knows what was imported. What it reports is a file's *state*; whoever is told
can see from it whether a change is news, and so may be told by several workers.
"""

from __future__ import annotations

import glob
import importlib.machinery
import importlib.util
import logging
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from penstock.system.stacks import PACKAGE

State = tuple[int, int, int] | None
"""A file's time of change (ns), size and number (inode); None where there is none.

An editor that renames a new file into place changes the number, whatever the times are.
"""

LOOK_SECONDS = 0.5
"""How often the files are looked at where nothing tells of changes."""

CHECK_SECONDS = 1.0
"""How often they are where `watchfiles` does: not every file system tells it of every change."""

QUIET_SECONDS = 0.08
"""Nothing may change for so long before a change is told: one save is often several writes."""

ABSENT_SECONDS = 0.5
"""The same where a file is gone: some editors remove it before they write it anew."""

LONGEST_SECONDS = 3.0
"""A change is told after this time at the latest, whatever else goes on changing."""

CLOCK_NS = 20_000_000
"""How far a file system's clock may be behind: it ticks with the kernel's timer, 10 ms apart."""

CACHE_SECONDS = 2.0
"""Code this young is not put into ``__pycache__``: there, times of change are whole seconds."""

_UNKNOWN: State = (-1, -1, -1)
"""Of what was loaded from a file that may have changed since: it equals no state."""

_logger = logging.getLogger("penstock")


class Watch:
    """Looks at the files of this process's modules, and at others, from before they are loaded.

    `begin` starts a thread that does so until `end`. The rest may be called from any thread.
    """

    def __init__(self, more: Iterable[str], tell: Callable[[dict[str, State]], None]) -> None:
        """To be made before the application is loaded.

        ``more`` are other files, patterns of files and directories; ``tell`` is called with the
        new states of the files that have changed.
        """
        self._more = tuple(more)
        self._tell = tell
        self._began = self._looked = time.time_ns()
        self._lock = threading.Lock()  # guards the next two, and the time above
        self._states: dict[str, State] = {}  # as loaded, or as told
        self._modules: dict[str, str | None] = {}  # each one's file, where it is to be watched
        self._others = _other_peoples_directories()
        self._loaded = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Watch from now on, unless that is done already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="penstock-reload", daemon=True)
            self._thread.start()

    def loaded(self) -> None:
        """Take note of what was loaded: there is a first state of all of it."""
        self.look()
        self._loaded.set()

    def failed(self, error: BaseException) -> int:
        """Take note of a load that has failed, and watch; return how many files are watched."""
        self.look()
        with self._lock:
            for path in files_of(error):
                self._states.setdefault(path, _first_state(path, self._began))
        self._loaded.set()
        self.begin()
        return len(self._states)

    def end(self) -> None:
        """Watch no more."""
        self._over.set()

    # -- the files --------------------------------------------------------------------------------

    def look(self) -> dict[str, State]:
        """Return the files that have changed since they were loaded or told, and their states."""
        with self._lock:
            since, self._looked = self._looked, time.time_ns()
            for path in (*self._files_of_new_modules(), *self._more_files()):
                if path not in self._states:
                    # It was read after the look before; what has changed since may be newer.
                    self._states[path] = _first_state(path, since)
            found = {path: state_of(path) for path in self._states}
            return {path: state for path, state in found.items() if state != self._states[path]}

    def _files_of_new_modules(self) -> Iterator[str]:
        for name, module in sys.modules.copy().items():
            if name in self._modules:
                continue
            file = _file_of(module)
            if file is not None:
                file = os.path.abspath(file)
                if file.startswith(self._others) or name == "__main__":
                    file = None
            self._modules[name] = file
            if file is not None:
                yield file

    def _more_files(self) -> Iterator[str]:
        for pattern in self._more:
            whole = os.path.join(pattern, "**") if os.path.isdir(pattern) else pattern
            found = glob.glob(whole, recursive=True) if glob.has_magic(whole) else [whole]
            for path in found:
                if not os.path.isdir(path):
                    yield os.path.abspath(path)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        notices: _Notices | None = None
        while not self._over.is_set():
            changed = self.look()
            if changed:
                changed = self._settled(changed)
            if changed and not self._over.is_set():
                with self._lock:
                    self._states.update(changed)
                self._tell(changed)
            if notices is None and self._loaded.is_set():
                # Not before: what the application imports is not to wait for what we do.
                notices = _Notices.find(self._over)
                self._introduce(notices)
            if notices is None or not notices.wait(self._states):
                # What the load has brought is worth a look at once.
                pause = self._over if self._loaded.is_set() else self._loaded
                pause.wait(LOOK_SECONDS)

    def _introduce(self, notices: _Notices) -> None:
        count = len(self._states)
        how = "told by watchfiles" if notices.work else f"looked at every {LOOK_SECONDS:g} s"
        _logger.info(
            "watching %d %s for changes, %s", count, "file" if count == 1 else "files", how
        )

    def _settled(self, changed: dict[str, State]) -> dict[str, State]:
        """Return what has changed once nothing moves any more."""
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end:
            if self._over.wait(ABSENT_SECONDS if None in changed.values() else QUIET_SECONDS):
                break
            before, changed = changed, self.look()
            if changed == before:
                break
        return changed


class _Notices:
    """Waits for a notice of the operating system, by `watchfiles`, that something may have changed.

    Where that is not installed, or fails, there are none.
    """

    def __init__(self, library: Any, over: threading.Event) -> None:
        self.work = library is not None
        self._library = library
        self._over = over
        self._directories: frozenset[str] = frozenset()
        self._notices: Iterator[object] = iter(())

    @classmethod
    def find(cls, over: threading.Event) -> _Notices:
        try:
            import watchfiles
        except Exception as error:  # whatever the application has put in the way
            if not isinstance(error, ModuleNotFoundError):
                _logger.debug("watchfiles is not used: %s: %s", type(error).__name__, error)
            return cls(None, over)
        return cls(watchfiles, over)

    def wait(self, paths: Iterable[str]) -> bool:
        """Wait for a notice on the directories of some files; tell whether that can be done."""
        if not self.work:
            return False
        directories = frozenset(filter(os.path.isdir, {os.path.dirname(path) for path in paths}))
        try:
            if directories != self._directories:
                self._directories = directories
                self._notices = self._watch(directories)
            next(self._notices)
        except Exception as error:  # the limit on watches (inotify), above all
            self.work = False
            _logger.debug(
                "watchfiles cannot watch, so files are looked at every %g s: %s",
                LOOK_SECONDS,
                error or type(error).__name__,
            )
        return self.work

    def _watch(self, directories: Iterable[str]) -> Iterator[object]:
        found: Iterator[object] = self._library.watch(
            *directories,
            watch_filter=None,  # the files' states tell what counts
            debounce=200,
            step=20,
            stop_event=self._over,
            rust_timeout=int(CHECK_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        return found


def state_of(path: str) -> State:
    """Return a file's state. Never raises."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _first_state(path: str, since: int) -> State:
    """Return the state of what was loaded from a file after the time ``since``."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    # st_ctime: unlike st_mtime, nobody can set it, and a rename sets it.
    if found.st_ctime_ns > since - CLOCK_NS:
        return _UNKNOWN
    return found.st_mtime_ns, found.st_size, found.st_ino


def files_of(error: BaseException) -> set[str]:
    """Return the files that have to do with an error: a save of one of them may mend it.

    They need not exist, such as those in which a missing module might be.
    """
    found: set[str] = set()
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        found.update(_files_in(one.__traceback__))
        if isinstance(one, SyntaxError) and one.filename:
            found.add(one.filename)
        elif isinstance(one, ModuleNotFoundError) and one.name:
            found.update(_places_for(one.name))
        pending += [one.__cause__, one.__context__]
    others = _other_peoples_directories()
    paths = {os.path.abspath(path) for path in found if not path.startswith("<")}
    return {path for path in paths if not path.startswith(others)}


def _files_in(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next


def _places_for(name: str) -> Iterator[str]:
    """Yield the files in which a missing module might be."""
    parent, _, last = name.rpartition(".")
    directories = list(getattr(sys.modules.get(parent), "__path__", ())) if parent else sys.path
    for directory in filter(os.path.isdir, directories):
        yield os.path.join(directory, f"{last}.py")
        yield os.path.join(directory, last, "__init__.py")


def _file_of(module: object) -> str | None:
    """Return a module's file; whatever a module does when it is asked for an attribute."""
    try:
        # A module that is loaded lazily would be by any other way.
        file = object.__getattribute__(module, "__dict__").get("__file__")
    except Exception:
        return None
    return file if isinstance(file, str) else None


def _other_peoples_directories() -> tuple[str, ...]:
    """Return where the files are that nobody edits: Python's, what was installed, and our own."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(kind) for kind in kinds}
    found |= {path for path in sys.path if os.path.basename(path).endswith("-packages")}
    found.add(PACKAGE)
    return tuple(os.path.join(os.path.abspath(path), "") for path in found if path)


def keep_young_code_out_of_the_cache() -> None:
    """Have this process not put into ``__pycache__`` what was saved just before, or is saved now.

    What is there counts as current if the source's time of change, in whole seconds, and its size
    are the same: a second save within the second would not be noticed by any process to come.
    """
    began = time.time()
    write = importlib.machinery.SourceFileLoader.set_data

    def set_data(
        self: importlib.machinery.SourceFileLoader, path: str, data: Any, **rest: Any
    ) -> None:
        try:
            saved = os.stat(importlib.util.source_from_cache(path)).st_mtime
        except (OSError, ValueError):  # it is nothing of the cache
            saved = 0.0
        if saved < began - CACHE_SECONDS:
            write(self, path, data, **rest)

    importlib.machinery.SourceFileLoader.set_data = set_data  # type: ignore[method-assign]
