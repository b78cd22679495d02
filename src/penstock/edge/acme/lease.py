"""Which of the processes that share a directory orders: the one that holds the lease.

The lease is the file ``lease.N`` with the highest N. Its holder writes it anew every few seconds.
Who finds the highest one unchanged for `LEASE_SECONDS`, or released, takes over by creating
``lease.N+1``, and the kernel or the NFS server lets one succeed.

What this relies on, also over NFS (any version): ``link`` creates a name or fails because it
exists, and whether it succeeded shows in the number of links, where the answer was lost; ``rename``
replaces a file as a whole; a file that is opened and read has what was closed before (close-to-open
consistency); a listing of the directory is at most `LISTING_SECONDS` old, NFS's default for cached
directories (``acdirmax``). Locks (``flock``, ``fcntl``) are not relied on, for they differ in what
is left of them when a host or the NFS server restarts; and clocks are not compared: each process
measures with its own monotonic clock.

A holder that was halted for longer than the lease may go on for the time of one step beside its
successor. So each step asks `Lease.holds` before it, which renews. What remains is harmless: two
orders for a name, and the pair that is written last counts.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from penstock.edge.acme.state import write_whole

LEASE_SECONDS = 90.0
"""After how long without a sign of life another process takes over: more than `LISTING_SECONDS`
and the longest request to an authority."""

LISTING_SECONDS = 60.0
RENEW_SECONDS = 15.0
LOOK_SECONDS = 2.0
"""How often a process that does not hold the lease looks."""

_FILE = re.compile(r"lease\.([1-9][0-9]{0,14})")
_MOST_BYTES = 4096


def this_process() -> dict[str, Any]:
    """Return what identifies this process: its host as started, and its process id there."""
    pid = os.getpid()
    return {
        "host": socket.gethostname()[:64],
        "boot": _read_line("/proc/sys/kernel/random/boot_id"),
        "pids": _namespace(),
        "pid": pid,
        "started": _started(pid),
    }


def has_ended(process: Mapping[str, Any]) -> bool:
    """Return True if a process is known to have ended: it was one of this host, as it was started.

    Of another host, or of another container, that is not known.
    """
    mine = this_process()
    for part in ("boot", "pids"):
        if not mine[part] or process.get(part) != mine[part]:
            return False
    pid, started = process.get("pid"), process.get("started")
    return isinstance(pid, int) and pid > 0 and _started(pid) != started


class Lease:
    """The lease of one directory, as one process sees it."""

    def __init__(
        self,
        directory: str,
        *,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        process: Mapping[str, Any] | None = None,
    ) -> None:
        """``clock`` returns seconds, and ``process`` identifies this one; for tests."""
        self._directory = directory
        self._seconds = seconds
        self._clock = clock
        self._process = dict(process if process is not None else this_process())
        self._temporary = os.path.join(
            directory, f".lease-{self._process['host']}-{self._process['pid']}"
        )
        self._number = 0  # of the file that this process holds, 0 for none
        self._beat = 0
        self._renewed = -seconds
        self._seen: tuple[int, bytes] = (0, b"")
        self._seen_at = clock()

    @property
    def is_mine(self) -> bool:
        """Whether this process held the lease when it looked last."""
        return self._number > 0

    def holds(self) -> bool:
        """Return True if this process holds the lease; take it where it is free, and renew it.

        Raises OSError where the directory cannot be read or written: then nothing is held.
        """
        try:
            highest = self._highest()
            if self._number and highest == self._number:
                if self._clock() - self._renewed >= min(RENEW_SECONDS, self._seconds / 4):
                    self._write()
                return True
            self._number = 0
            if highest and not self._is_free(highest):
                return False
            return self._take(highest + 1)
        except OSError:
            self._number = 0
            raise

    def release(self) -> None:
        """Let another process take over at once."""
        if self._number:
            with suppress(OSError):
                if self._highest() == self._number:
                    self._write(released=True)
        self._number = 0

    def _highest(self) -> int:
        found = [_FILE.fullmatch(name) for name in os.listdir(self._directory)]
        return max((int(match[1]) for match in found if match), default=0)

    def _is_free(self, number: int) -> bool:
        """Return True if the holder has released it, has ended, or shows no sign of life."""
        content = self._read(number)
        now = self._clock()
        if self._seen != (number, content):
            self._seen, self._seen_at = (number, content), now
        try:
            holder = json.loads(content)
            if holder["released"] is True or has_ended(holder["process"]):
                return True
        except (ValueError, LookupError, TypeError, AttributeError):
            pass  # damaged: its holder has this long to write it anew
        return now - self._seen_at >= self._seconds

    def _take(self, number: int) -> bool:
        def create() -> bool:
            with suppress(FileExistsError):
                os.link(self._temporary, self._path(number))
            # An NFS server whose answer was lost is asked again, and finds its own link.
            return os.stat(self._temporary).st_nlink == 2

        if not write_whole(self._temporary, self._content(), self._then_unlink(create)):
            return False
        if self._highest() != number:  # a listing was old, and others have gone on since
            with suppress(OSError):
                os.unlink(self._path(number))
            return False
        self._number, self._renewed = number, self._clock()
        self._remove_older()
        return True

    def _then_unlink(self, call: Callable[[], bool]) -> Callable[[], bool]:
        def both() -> bool:
            try:
                return call()
            finally:
                os.unlink(self._temporary)

        return both

    def _remove_older(self) -> None:
        for name in os.listdir(self._directory):
            match = _FILE.fullmatch(name)
            if match and int(match[1]) < self._number:
                with suppress(OSError):
                    os.unlink(os.path.join(self._directory, name))

    def _write(self, *, released: bool = False) -> None:
        self._beat += 1
        path = self._path(self._number)
        content = self._content(released)
        write_whole(self._temporary, content, lambda: os.rename(self._temporary, path))
        self._renewed = self._clock()

    def _content(self, released: bool = False) -> bytes:
        content = {"process": self._process, "beat": self._beat, "released": released}
        return json.dumps(content).encode()

    def _read(self, number: int) -> bytes:
        try:
            descriptor = os.open(self._path(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.read(descriptor, _MOST_BYTES)
        finally:
            os.close(descriptor)

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, f"lease.{number}")


def _read_line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(100).strip()
    except (OSError, ValueError):
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started, as /proc says it; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
        # A zombie has ended, and is not reaped yet.
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
    except (OSError, IndexError, ValueError):
        return ""
