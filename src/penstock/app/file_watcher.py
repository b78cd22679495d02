"""Watching the files of an application for changes, with ``--reload``; for development.

A worker watches, because it knows which modules were imported. It reports the *state* of a file.
From the state the supervisor sees whether a change is new, so several workers may report it.
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
"""The modification time (ns), size and inode of a file; None if it does not exist.

An editor that renames a new file into place changes the inode, whatever the times are.
"""

LOOK_SECONDS = 0.5
"""Interval of the checks of all files where the operating system reports no changes."""

CHECK_SECONDS = 1.0
"""The same with `watchfiles`: not every file system reports every change to it."""

QUIET_SECONDS = 0.08
"""A change is reported after this time without another: one save is often several writes."""

ABSENT_SECONDS = 0.5
"""The same where a file is missing: some editors remove a file before they write it again."""

LONGEST_SECONDS = 3.0
"""A change is reported after this time at the latest, even if files go on changing."""

CLOCK_NS = 20_000_000
"""How far the clock of a file system may be behind `file_clock`, where that is not its clock."""

_CLOCK_REALTIME_COARSE = 5  # of Linux; the time module does not have it

CACHE_NS = 2_000_000_000
"""Code this young is not written to ``__pycache__``, which has modification times in seconds."""

_UNKNOWN: State = (-1, -1, -1)
"""The state of a file that may have changed since it was loaded: it equals no real state."""

_logger = logging.getLogger("penstock")


class Watch:
    """Watches the files of this process's modules, and other files.

    Create it before the application is loaded. `begin` starts a thread that watches until `end`.
    The other methods may be called from any thread.
    """

    def __init__(self, more: Iterable[str], report: Callable[[dict[str, State]], None]) -> None:
        """Watch modules, and ``more``: other files, patterns of files, and directories.

        ``report`` is called with the new states of the files that have changed.
        """
        self._more = tuple(more)
        self._report = report
        self._began = self._looked = file_clock()
        self._lock = threading.Lock()  # guards _looked, _states and _modules
        self._states: dict[str, State] = {}  # as loaded, or as reported
        self._modules: dict[str, str | None] = {}  # the file of each, or None: not watched
        self._others = _unedited_directories()
        self._loaded = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread, unless it is running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="penstock-reload", daemon=True)
            self._thread.start()

    def loaded(self) -> None:
        """Record the state of the files that were loaded, when the application is loaded."""
        self.look()
        self._loaded.set()

    def failed(self, error: BaseException) -> int:
        """Record a load that failed, and start to watch. Return the number of watched files."""
        self.look()
        with self._lock:
            for path in files_of(error):
                self._states.setdefault(path, _first_state(path, self._began))
        self._loaded.set()
        self.begin()
        return len(self._states)

    def end(self) -> None:
        """Stop watching."""
        self._over.set()

    # -- the files --------------------------------------------------------------------------------

    def look(self) -> dict[str, State]:
        """Return the files that changed since they were loaded or reported, and their states."""
        with self._lock:
            since, self._looked = self._looked, file_clock()
            for path in (*self._files_of_new_modules(), *self._more_files()):
                if path not in self._states:
                    # The file was read after the previous look, and may have changed since then.
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
                changed = self._all_changes(changed)
            if changed and not self._over.is_set():
                with self._lock:
                    self._states.update(changed)
                self._report(changed)
            if notices is None and self._loaded.is_set():
                # Not earlier: the import of watchfiles must not delay those of the application.
                notices = _Notices.find(self._over)
                self._log_start(notices)
            if notices is None or not notices.wait(self._states):
                # Look at the loaded files at once.
                pause = self._over if self._loaded.is_set() else self._loaded
                pause.wait(LOOK_SECONDS)

    def _log_start(self, notices: _Notices) -> None:
        count = len(self._states)
        how = "with watchfiles" if notices.work else f"every {LOOK_SECONDS:g} s"
        _logger.info(
            "watching %d %s for changes, %s", count, "file" if count == 1 else "files", how
        )

    def _all_changes(self, changed: dict[str, State]) -> dict[str, State]:
        """Wait until no file changes any more, and return all changes."""
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end:
            if self._over.wait(ABSENT_SECONDS if None in changed.values() else QUIET_SECONDS):
                break
            before, changed = changed, self.look()
            if changed == before:
                break
        return changed


class _Notices:
    """Waits for the operating system to report, through `watchfiles`, that files may have changed.

    Without `watchfiles`, or when it fails, there are no reports.
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
        except Exception as error:  # the application may have a module of that name
            if not isinstance(error, ModuleNotFoundError):
                _logger.debug("watchfiles is not used: %s: %s", type(error).__name__, error)
            return cls(None, over)
        return cls(watchfiles, over)

    def wait(self, paths: Iterable[str]) -> bool:
        """Wait for a report on the directories of files. Return False if that is impossible."""
        if not self.work:
            return False
        directories = frozenset(filter(os.path.isdir, {os.path.dirname(path) for path in paths}))
        try:
            if directories != self._directories:
                self._directories = directories
                self._notices = self._watch(directories)
            next(self._notices)
        except Exception as error:  # most often the limit on watches of inotify
            self.work = False
            _logger.debug(
                "watchfiles failed; the files are looked at every %g s instead: %s",
                LOOK_SECONDS,
                error or type(error).__name__,
            )
        return self.work

    def _watch(self, directories: Iterable[str]) -> Iterator[object]:
        found: Iterator[object] = self._library.watch(
            *directories,
            watch_filter=None,  # the states of the files decide
            debounce=200,
            step=20,
            stop_event=self._over,
            rust_timeout=int(CHECK_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        return found


def file_clock() -> int:
    """Return the time in nanoseconds, as a file that is written now has it.

    Linux gives files the time of the kernel's last timer interrupt. That may be late by any time
    where the machine is busy, or is a virtual one that is halted now and then.
    """
    if sys.platform == "linux":
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    return time.time_ns()


def state_of(path: str) -> State:
    """Return a file's state. Never raises."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _first_state(path: str, since: int) -> State:
    """Return the state of a file that was loaded after the time ``since``."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    # st_ctime cannot be set by programs, unlike st_mtime, and a rename updates it.
    if found.st_ctime_ns > since - CLOCK_NS:
        return _UNKNOWN
    return found.st_mtime_ns, found.st_size, found.st_ino


def files_of(error: BaseException) -> set[str]:
    """Return the files that are involved in an error: a change of one of them may correct it.

    They need not exist, such as the files in which a missing module might be.
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
    others = _unedited_directories()
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
    """Return a module's file. Runs no code of the module, which may define ``__getattr__``."""
    try:
        # Any other access would load a module that is loaded lazily.
        file = object.__getattribute__(module, "__dict__").get("__file__")
    except Exception:
        return None
    return file if isinstance(file, str) else None


def _unedited_directories() -> tuple[str, ...]:
    """Return the directories of Python, of installed packages and of Penstock: not watched."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(kind) for kind in kinds}
    found |= {path for path in sys.path if os.path.basename(path).endswith("-packages")}
    found.add(PACKAGE)
    return tuple(os.path.join(os.path.abspath(path), "") for path in found if path)


def keep_young_code_out_of_the_cache() -> None:
    """Keep this process from writing code that was saved a moment ago to ``__pycache__``.

    A file there counts as current if it has the source's modification time, in whole seconds, and
    size. After a second save within the same second, later processes would run the old code.
    """
    began = file_clock()  # `time.time` may be ahead of the files' times by more than the limit
    write = importlib.machinery.SourceFileLoader.set_data

    def set_data(
        self: importlib.machinery.SourceFileLoader, path: str, data: Any, **rest: Any
    ) -> None:
        try:
            saved = os.stat(importlib.util.source_from_cache(path)).st_mtime_ns
        except (OSError, ValueError):  # not a file of the cache
            saved = 0
        if saved < began - CACHE_NS:
            write(self, path, data, **rest)

    importlib.machinery.SourceFileLoader.set_data = set_data  # type: ignore[method-assign]
