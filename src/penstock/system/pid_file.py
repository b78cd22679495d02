"""The pid file, which holds the supervisor's process id.

It is never half-written, and the file of another running server is never replaced.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from penstock.errors import SettingsError
from penstock.system.as_user import Change, HelperError, Work, wait_for
from penstock.system.paths import find
from penstock.system.privileges import COMMAND_NAME
from penstock.system.temporary_files import named_file, temporary_file

if TYPE_CHECKING:
    from penstock.system.privileges import Identity

_TICKS = os.sysconf("SC_CLK_TCK")
_PID = re.compile(rb"\s*-?[0-9]{0,40}\s*")
"""What a pid file may hold, whichever program wrote it: one that was cut short is empty."""

_SUPERVISORS = {COMMAND_NAME.encode(), f"{COMMAND_NAME}: supervisor"[:15].encode()}
"""The name that the kernel has for a supervisor, without and with the package setproctitle."""

_CLOCK_SECONDS = 60.0
"""A file counts as older than a process only if their times differ by more than this."""


class PidFile:
    """A pid file: `create` it at the start, `remove` it at the end.

    During an upgrade the new supervisor writes ``PID.2``, and moves it to ``PID`` when the old
    supervisor has ended, as gunicorn does.
    """

    def __init__(self, path: str, source: str = "--pid", identity: Identity | None = None) -> None:
        """Name the file. ``source`` is the source of the setting ``pid``, for error messages.

        Where root does this, and others can change the file's directory, all is done with the
        rights of ``identity``.
        """
        self.path = os.path.abspath(path)
        self._source = source
        self._pid = 0
        self._moves_to: str | None = None
        self._identity = identity

    def create(self) -> None:
        """Write this process's id; raises `SettingsError` where another server holds the file."""
        self._pid = os.getpid()
        try:
            self._do(self.path, lambda: self._create(self.path))
        except BaseException:
            self._pid = 0
            raise

    def move_to(self, path: str, left_by: int = 0) -> None:
        """Move the file to ``path``. On an error it stays where it is: raises `SettingsError`.

        ``left_by`` is the process id of a predecessor that was killed. A file that holds it may be
        replaced although that process may still seem to run.
        """
        path = os.path.abspath(path)
        self._do(path, lambda: self._create(path, left_by))
        if path != self.path:
            self.remove()
        self.path = path

    def begin_move(
        self,
        path: str,
        left_by: int,
        run: Callable[[Work, Callable[..., None], Callable[[HelperError], None]], object],
        failed: Callable[[SettingsError], None],
    ) -> None:
        """Do as `move_to` without waiting for a helper process; call ``failed`` with an error.

        ``run`` does some work in one, and then calls the second or the third of its arguments.
        """
        path = os.path.abspath(path)
        if not self._has_other_user:
            try:
                self.move_to(path, left_by)
            except SettingsError as error:
                failed(error)
            return

        def move() -> None:
            self._create(path, left_by)
            if path != self.path:
                self._remove(self.path)

        def moved(*_: object) -> None:
            self.path, self._moves_to = path, None

        self._moves_to = path
        run(
            partial(self._do_in_helper, path, move),
            moved,
            lambda error: failed(self._error_of(path, error)),
        )

    def remove(self) -> None:
        """Remove the file if it still holds this process's id. Never raises.

        A process that was forked since then removes nothing, and neither does one whose file was
        replaced.
        """
        if self._pid != os.getpid():
            return
        for path in filter(None, (self.path, self._moves_to)):  # it may be on its way
            with suppress(SettingsError):
                self._do(path, partial(self._remove, path))

    def _remove(self, path: str) -> None:
        if _read(path) == self._pid:
            with suppress(OSError):
                os.unlink(path)

    @property
    def is_users(self) -> bool:
        """Whether the file is that user's, because others than root can change its directory."""
        with suppress(OSError):  # else it was not created
            return self._has_other_user and os.stat(self.path, follow_symlinks=False).st_uid != 0
        return False

    @property
    def _has_other_user(self) -> bool:
        return self._identity is not None and not self._identity.is_root and os.geteuid() == 0

    def _do(self, path: str, work: Callable[[], None]) -> None:
        """Work on a file, with the rights that its place asks for. Raises `SettingsError`.

        Where root has another user for the workers, even the path is looked up by a process of its
        own: a file system that a user has mounted can make that last for ever.
        """
        if not self._has_other_user:
            work()
            return
        try:
            wait_for(partial(self._do_in_helper, path, work))
        except HelperError as error:
            raise self._error_of(path, error) from None

    def _error_of(self, path: str, error: HelperError) -> SettingsError:
        text = str(error)
        if path in text:  # the error names what could not be done
            return SettingsError(text)
        return self._cannot_write(path, text)

    def _do_in_helper(self, path: str, work: Callable[[], None], change: Change) -> tuple[int, ...]:
        # Root writes nothing where it does not know who can change the directory.
        with find(path) as place:
            is_users = place.changeable is not None
        if not is_users:
            work()
            return ()
        assert self._identity is not None
        change(self._identity)
        try:
            work()
        except SettingsError as error:
            raise SettingsError(
                f"{error} (done as user {self._identity.uid}, because others than root can change "
                "its directory)"
            ) from None
        return ()

    def _create(self, path: str, left_by: int = 0) -> None:
        if not left_by or _read(path) != left_by:
            self._check_free(path)
        self._write(path)

    def check(self) -> None:
        """Raise the `SettingsError` of `create`, as far as it is known without writing the file.

        The file may be that of a server that runs. It makes a file without a name beside it.
        """
        self._do(self.path, self._check)

    def _check(self) -> None:
        self._check_kind(self.path)
        try:
            temporary_file(os.path.dirname(self.path)).close()
        except OSError as error:
            raise self._cannot_write(self.path, error.strerror) from None

    def _check_kind(self, path: str) -> None:
        if kind := _not_a_pid_file(path):
            raise SettingsError(
                f"the pid file {path} (pid from {self._source}) is {kind}: it stays as it is; name "
                "another file, or remove this one"
            )

    def _check_free(self, path: str) -> None:
        self._check_kind(path)
        holder = _read(path)
        if holder is None or holder == self._pid or not _is_held(path, holder):
            return
        raise SettingsError(
            f"the pid file {path} (pid from {self._source}) belongs to process {holder}, which "
            "is running: stop that process first, or set another file with --pid"
        )

    def _write(self, path: str) -> None:
        try:
            # A temporary file is renamed: readers never see half a number, and a symbolic link at
            # the path is replaced and not followed.
            directory, name = os.path.split(path)
            descriptor, temporary = named_file(os.path.join(directory, f".{name}."))
            try:
                with open(descriptor, "wb") as file:
                    file.write(b"%d\n" % self._pid)
                    os.fchmod(file.fileno(), 0o644)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise self._cannot_write(path, error.strerror) from None

    def _cannot_write(self, path: str, reason: str | None) -> SettingsError:
        return SettingsError(
            f"cannot write the pid file {path} (pid from {self._source}): {reason}"
        )


def _read(path: str) -> int | None:
    """Return the process id in a file, or None if the file cannot be read or holds none."""
    try:
        # O_NONBLOCK: a named pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 31 else None


def _not_a_pid_file(path: str) -> str:
    """Return what is at the path, if that is no pid file; empty for one, and for nothing.

    A symbolic link is replaced, and not followed.
    """
    try:
        kind = os.lstat(path).st_mode
        if stat.S_ISLNK(kind):
            return ""
        if not stat.S_ISREG(kind):
            return "no regular file"
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return "" if _PID.fullmatch(file.read(64)) else "a file that holds something else"
    except OSError:
        return ""  # there is none, or writing it gives a better reason


def _is_held(path: str, pid: int) -> bool:
    """Return True if the process that wrote a file is running.

    After a restart of the machine, or of a container that keeps its files, another process may
    have the same id: a process that is younger than the file did not write it. The clock may have
    been set in the meantime, so the name that a supervisor gives itself counts as well. Its command
    line does not: the paths in that of any program may have the name of this one.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    try:
        state, started = _state_and_start(pid)
        if state == b"Z":  # it has ended, and its parent has not waited for it yet
            return False
        with open(f"/proc/{pid}/comm", "rb") as command:
            named = command.read().rstrip(b"\n") in _SUPERVISORS
        return named or started <= os.stat(path).st_mtime + _CLOCK_SECONDS
    except (OSError, ValueError, IndexError):
        return True  # the system does not say: believe the file


def _state_and_start(pid: int) -> tuple[bytes, float]:
    """Return a process's state and its start time in seconds since the epoch; proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The second field is a name in parentheses, which may hold anything.
        fields = stat.read().rpartition(b")")[2].split()
    with open("/proc/stat", "rb") as lines:
        for line in lines:
            if line.startswith(b"btime "):
                return fields[0], int(line.split()[1]) + int(fields[19]) / _TICKS
    raise ValueError("no btime")
