"""The files of `prometheus_client`, by slot: what `--prometheus-multiproc` sets up.

In its mode for several processes, `prometheus_client` has a few files for each process, named after
it. By default that is the process id, so that the files of each worker that was ever started stay.
Here it is a slot: the lowest number of which no other process has the lock. A worker that starts
later takes the slot of one that has ended, and counts on from the values in its files. Two
processes never have one slot, also while a successor starts before its predecessor has left, after
a reload or an upgrade, and where the application forks: the kernel keeps the locks, and gives each
back when its process ends, however that comes about.

The locks are those of fcntl(2), which a forked child does not have.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from penstock.system.as_user import Change, Work
    from penstock.system.privileges import Identity

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where `prometheus_client` finds the directory."""

_FORMER_VARIABLE: Final = "prometheus_multiproc_dir"

MOST_SLOTS: Final = 4096
"""More than there can be workers of two servers at once, with what their applications fork."""

PATIENCE_SECONDS: Final = 2.0
"""How long to wait for another process that gives out slots. That takes it milliseconds, unless it
is halted: then two may do so at once, which costs nothing but the order of the slots."""

_RETRY_SECONDS: Final = 0.005

_FILE: Final = re.compile(
    r"(?:counter|histogram|summary|gauge_(?P<mode>[a-z]+))_(?P<process>[A-Za-z0-9.-]+)\.db"
)
"""The names of `prometheus_client`: the kind of metric, for gauges their mode, and the process."""

_LIVE: Final = "live"
"""What the modes of gauges begin with that count while their process lives."""

_ORDER_LOCK: Final = "penstock-slots.lock"
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Slot:
    """The slot of this process. A process that is forked from it takes another one when it counts.

    `prometheus_client` calls `name` with a lock of its own held.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._process = 0
        self._name = ""
        self._lock = -1

    def take(self) -> None:
        """Take the lowest slot that no process has. Raises OSError."""
        if self._lock >= 0:
            os.close(self._lock)  # a copy of the parent's, which keeps its lock
            self._lock = -1
        with _opened(self.directory) as directory, _in_order(directory):
            for number in range(1, MOST_SLOTS + 1):
                name = _name_of(number)
                lock = _lock(directory, name)
                if lock is not None:
                    break
            else:
                raise OSError(errno.EAGAIN, f"{MOST_SLOTS} processes have slots there")
            _remove_live_gauges(directory, {name})
        self._lock, self._name, self._process = lock, name, os.getpid()

    def name(self) -> str:
        """Return what the files of this process are named after. Raises nothing."""
        process = os.getpid()
        if process != self._process:
            try:
                self.take()
            except OSError:  # the directory is gone, say: to count must not fail
                self._process, self._name = process, str(process)
        return self._name


_slot: Slot | None = None
"""The one of this process, or of the one that it was forked from."""


def set_up(directory: str) -> None:
    """Have `prometheus_client` name this process's files after its slot.

    To be called before the application is loaded, as the user that it runs as. A process that was
    forked from one that has called this takes a slot of its own. Raises `SettingsError`.
    """
    global _slot  # noqa: PLW0603 (a process has one, as it has one `prometheus_client`)
    os.environ[VARIABLE] = directory
    os.environ.pop(_FORMER_VARIABLE, None)
    if _slot is not None and _slot.directory == directory:
        _slot.name()
        return
    slot = Slot(directory)
    try:
        slot.take()
    except OSError as error:
        raise SettingsError(_unusable(directory, error.strerror)) from None
    try:
        from prometheus_client import values
    except ImportError as error:
        raise SettingsError(
            f"prometheus_multiproc is for applications that use the package prometheus_client, "
            f"which cannot be imported ({error}): pip install prometheus_client"
        ) from None
    values.ValueClass = values.MultiProcessValue(process_identifier=slot.name)
    _slot = slot


def remove_old_files(directory: str) -> None:
    """Remove what an earlier server has left, at the start of another one. Raises OSError.

    That is files of `prometheus_client`'s names. A link is removed, and never followed. Files of a
    slot that a process has stay: those of a server that still drains.
    """
    with _opened(directory) as opened, _in_order(opened):
        files = list(_files(opened))
        free = {process for _, process, _ in files if not _is_taken(opened, process)}
        for name, process, _ in files:
            if process in free:
                _remove(opened, name)


def remove_live_gauges(directory: str) -> None:
    """Remove the files of gauges of the modes live... of processes that have ended. Raises OSError.

    That is what `prometheus_client.multiprocess.mark_process_dead` does, for all at once: a worker
    that was killed cannot tell which slot it had.
    """
    with _opened(directory) as opened, _in_order(opened):
        processes = {process for _, process, mode in _files(opened) if mode.startswith(_LIVE)}
        slots = {process for process in processes if _number_of(process)}
        _remove_live_gauges(opened, {each for each in slots if not _is_taken(opened, each)})


def work_as(identity: Identity | None, do: Callable[[str], None], directory: str) -> Work:
    """Return what a helper process does: one of the functions above, with the workers' rights."""

    def work(change: Change) -> str:
        if identity is not None:
            change(identity)
        do(directory)
        return ""

    return work


def _unusable(directory: str, reason: object) -> str:
    return f"bad value {directory!r} for prometheus_multiproc: {reason}"


# -- slots and their locks -----------------------------------------------------------------------


def _name_of(number: int) -> str:
    return f"slot-{number}"


def _number_of(process: str) -> int:
    """Return the number of a slot by its name; 0 where it is another process's."""
    beginning, _, number = process.partition("-")
    return int(number) if beginning == "slot" and number.isdecimal() else 0


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _in_order(directory: int) -> Iterator[None]:
    """Keep other processes from taking slots meanwhile; go on without that if it takes too long."""
    lock = os.open(_ORDER_LOCK, _CREATE, 0o600, dir_fd=directory)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _locked(lock) and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(lock)


def _lock(directory: int, name: str) -> int | None:
    """Lock a slot; return the descriptor that keeps the lock, or None where a process has it."""
    lock = os.open(f"penstock-{name}.lock", _CREATE, 0o600, dir_fd=directory)
    if _locked(lock):
        return lock
    os.close(lock)
    return None


def _locked(lock: int) -> bool:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_taken(directory: int, process: str) -> bool:
    """Return True if a process has the slot of this name, which is not this process's."""
    if not _number_of(process):
        return False
    lock = _lock(directory, process)
    if lock is None:
        return True
    os.close(lock)  # which gives the lock back
    return False


# -- files ---------------------------------------------------------------------------------------


def _files(directory: int) -> Iterator[tuple[str, str, str]]:
    """Yield the names of `prometheus_client`'s files, each with its process and a gauge's mode."""
    for name in os.listdir(directory):
        if found := _FILE.fullmatch(name):
            yield name, found["process"], found["mode"] or ""


def _remove_live_gauges(directory: int, processes: set[str]) -> None:
    for name, process, mode in _files(directory):
        if process in processes and mode.startswith(_LIVE):
            _remove(directory, name)


def _remove(directory: int, name: str) -> None:
    """Remove a file, or a link but not what it leads to."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass  # another process has removed it
