"""The file that tells the supervisor's process id: never half-written, never another's."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

from penstock.errors import SettingsError

_NAME_IN_COMMANDS = b"penstock"
_TICKS = os.sysconf("SC_CLK_TCK")
_CLOCK_SECONDS = 60.0
"""How far a file's time may be off that of a process, before it counts as older."""


class PidFile:
    """A pid file; `create` it, `remove` it at the end.

    While a server is being upgraded the new supervisor writes ``PID.2``, and moves it to ``PID``
    when the old one has left, as with gunicorn.
    """

    def __init__(self, path: str, source: str = "--pid") -> None:
        """Name the file; ``source`` says where the setting ``pid`` was given, for errors."""
        self.path = os.path.abspath(path)
        self._source = source
        self._pid = 0

    def create(self) -> None:
        """Write this process's id; raises `SettingsError` where another server holds the file."""
        self._check_free(self.path)
        self._pid = os.getpid()
        self._write(self.path)

    def move_to(self, path: str, left_by: int = 0) -> None:
        """Have the file at ``path`` from now on; raises `SettingsError`, and stays then.

        ``left_by`` is the process id of a predecessor that was killed: it may be about to end, and
        still seem to run.
        """
        path = os.path.abspath(path)
        if _read(path) != left_by:
            self._check_free(path)
        self._write(path)
        if path != self.path:
            self.remove()
        self.path = path

    def remove(self) -> None:
        """Remove the file if it holds this process's id still; never raises.

        A process that was forked since removes nothing, nor does one whose file was replaced.
        """
        if self._pid == os.getpid() and _read(self.path) == self._pid:
            with suppress(OSError):
                os.unlink(self.path)

    def _check_free(self, path: str) -> None:
        holder = _read(path)
        if holder is None or holder == os.getpid() or not _is_held(path, holder):
            return
        raise SettingsError(
            f"the pid file {path} (pid from {self._source}) belongs to process {holder}, which "
            "runs: stop that one first, or set another with --pid"
        )

    def _write(self, path: str) -> None:
        try:
            # A file of its own that is renamed: readers never see half a number, and a symbolic
            # link that somebody put at the path is replaced and not followed.
            descriptor, temporary = tempfile.mkstemp(
                dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}."
            )
            try:
                with open(descriptor, "wb") as file:
                    file.write(b"%d\n" % os.getpid())
                    os.fchmod(file.fileno(), 0o644)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise SettingsError(
                f"cannot write the pid file {path} (pid from {self._source}): {error.strerror}"
            ) from None


def _read(path: str) -> int | None:
    """Return the process id in a file; None where there is none to be read."""
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 31 else None


def _is_held(path: str, pid: int) -> bool:
    """Tell whether the process that wrote a file runs.

    After a restart of the machine, or of a container that keeps its files, some other process may
    have that number: one that is younger than the file did not write it. As the clock may have been
    set meanwhile, that alone is not enough.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    try:
        state, started = _state_and_start(pid)
        if state == b"Z":  # it has ended, and its parent has not looked
            return False
        with open(f"/proc/{pid}/cmdline", "rb") as command_line:
            named = _NAME_IN_COMMANDS in command_line.read()
        return named or started <= os.stat(path).st_mtime + _CLOCK_SECONDS
    except (OSError, ValueError, IndexError):
        return True  # nobody tells: believe the file


def _state_and_start(pid: int) -> tuple[bytes, float]:
    """Return a process's state, and when it began in seconds of the epoch; proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The second field is a name in parentheses, which may hold anything.
        fields = stat.read().rpartition(b")")[2].split()
    with open("/proc/stat", "rb") as lines:
        for line in lines:
            if line.startswith(b"btime "):
                return fields[0], int(line.split()[1]) + int(fields[19]) / _TICKS
    raise ValueError("no btime")
