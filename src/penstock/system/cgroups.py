"""The limits of the process's control groups: processors, memory, and kills for lack of memory.

A container's limits are those of its control groups; most of ``/proc`` shows the whole machine.
Both versions of the interface are read, also on a system that mixes them. A limit of a group
applies to all groups below it, so each limit is looked up in the process's own group and in every
visible group above it. A file that is missing or unreadable limits nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from penstock.records import dataclass

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as the largest number of whole pages, which depends on the page size.
No machine has this number of bytes."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy of control groups."""

    root: str
    """The group that is mounted at ``point``."""
    point: str
    controllers: frozenset[str] | None
    """None for version 2, which has all controllers in one hierarchy."""


class Cgroups:
    """The control groups of a process. They are found once; their files are read at each call."""

    def __init__(self, root: str | Path = "/", process: int | str = "self") -> None:
        """Find the groups of ``process`` by the ``/proc`` and ``/sys`` beneath ``root``."""
        base = os.fspath(root)
        groups = dict(_groups(_lines(os.path.join(base, "proc", str(process), "cgroup"))))
        mounts = list(_mounts(base, process)) or _usual_mounts(base)
        self._unified = _chain(mounts, groups.get(None), None)
        self._memory = _chain(mounts, groups.get("memory"), "memory")
        self._cpu = _chain(mounts, groups.get("cpu"), "cpu")
        self._proc = os.path.join(base, "proc")

    def cpu_quota(self) -> float | None:
        """Return the quota in processors (3.5 is three and a half), or None without a quota."""
        quotas = [*map(_quota, self._unified), *map(_quota_1, self._cpu)]
        return min((quota for quota in quotas if quota is not None), default=None)

    def memory_limit(self) -> int | None:
        """Return the limit of the process's group in bytes of memory, or None without a limit."""
        limits = [
            *_numbers(self._unified, "memory.max"),
            # Above memory.high the kernel kills no process, but slows all of them to a standstill.
            *_numbers(self._unified, "memory.high"),
            *_numbers(self._memory, "memory.limit_in_bytes"),
            *(
                _entry(os.path.join(group, "memory.stat"), "hierarchical_memory_limit")
                for group in self._memory
            ),
        ]
        return min((limit for limit in limits if limit is not None and limit < UNLIMITED),
                   default=None)  # fmt: skip

    def memory_current(self) -> int | None:
        """Return the bytes that the process's group uses now, including the page cache."""
        return next(
            (
                number
                for number in (
                    *_numbers(self._unified[:1], "memory.current"),
                    *_numbers(self._memory[:1], "memory.usage_in_bytes"),
                )
                if number is not None
            ),
            None,
        )

    def oom_kills(self) -> int | None:
        """Return how many processes of the group the kernel has killed for lack of memory.

        If the number has grown between two calls, the kernel sent the SIGKILL. Return None where
        the kernel does not report the number.
        """
        files = [
            *(os.path.join(group, "memory.events") for group in self._unified[:1]),
            *(os.path.join(group, "memory.oom_control") for group in self._memory[:1]),
        ]
        counts = [_entry(file, "oom_kill") for file in files]
        return max((count for count in counts if count is not None), default=None)

    def throttled_seconds(self) -> float | None:
        """Return for how long the quota of the process's group has kept it from a processor.

        Return None where the kernel does not report it.
        """
        for group in self._unified[:1]:
            microseconds = _entry(os.path.join(group, "cpu.stat"), "throttled_usec")
            if microseconds is not None:
                return microseconds / 1e6
        for group in self._cpu[:1]:
            nanoseconds = _entry(os.path.join(group, "cpu.stat"), "throttled_time")
            if nanoseconds is not None:
                return nanoseconds / 1e9
        return None

    def machine_memory(self) -> int | None:
        """Return the bytes of memory of the machine, or None where that is not known."""
        for line in _lines(os.path.join(self._proc, "meminfo")):
            if match := re.fullmatch(r"MemTotal:\s+([0-9]+) kB", line):
                return int(match[1]) * 1024
        return None

    def available_memory(self) -> int | None:
        """Return the limit, or the machine's memory where that is less."""
        amounts = (self.memory_limit(), self.machine_memory())
        return min((amount for amount in amounts if amount is not None), default=None)


def resident_memory(pid: int, root: str | Path = "/") -> int | None:
    """Return the resident memory of a process in bytes, or None if it has ended.

    Memory that processes share, as after a fork, counts for each of them.
    """
    words = _text(os.path.join(root, "proc", str(pid), "statm")).split()
    return int(words[1]) * _PAGE if len(words) > 1 and words[1].isdigit() else None


def _groups(lines: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    """Yield each controller and its group; the controller is None for version 2.

    The lines are ``hierarchy:controllers:path``; the path may contain colons.
    """
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        group = path.removesuffix(" (deleted)") or "/"
        if number == "0" and not controllers:
            yield None, group
        for controller in controllers.split(",") if controllers else ():
            yield controller, group


def _mounts(base: str, process: int | str) -> Iterator[_Mount]:
    """Yield the mounted hierarchies. proc_pid_mountinfo(5) documents the fields."""
    for line in _lines(os.path.join(base, "proc", str(process), "mountinfo")):
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or not rest[0].startswith("cgroup"):
            continue
        root, point = map(_unescaped, fields[3:5])
        controllers = None if rest[0] == "cgroup2" else frozenset(rest[-1].split(","))
        yield _Mount(root, os.path.join(base, point.lstrip("/")), controllers)


def _usual_mounts(base: str) -> list[_Mount]:
    """Return the usual mounts, for systems where ``/proc`` does not list them."""
    top = os.path.join(base, "sys", "fs", "cgroup")
    return [
        _Mount("/", top, None),
        *(_Mount("/", os.path.join(top, name), frozenset({name})) for name in ("memory", "cpu")),
    ]


def _chain(mounts: Iterable[_Mount], group: str | None, controller: str | None) -> list[str]:
    """Return the directories of a group and of the groups above it, its own first.

    A hierarchy may be mounted several times, whole and in part: every mount counts.
    """
    found: list[str] = []
    for mount in mounts:
        if group is None or (controller is None) != (mount.controllers is None):
            continue
        if mount.controllers is not None and controller not in mount.controllers:
            continue
        inner: list[str] = []
        # Otherwise the mount is the container's own, and the path is the host's, or one from
        # outside the namespace (/../x).
        parts, outside = _parts(group), _parts(mount.root)
        if parts[: len(outside)] == outside and ".." not in parts:
            inner = parts[len(outside) :]
        while inner and not os.path.isdir(os.path.join(mount.point, *inner)):
            inner.pop()
        found += [os.path.join(mount.point, *inner[:depth]) for depth in range(len(inner), -1, -1)]
    return sorted(dict.fromkeys(found), key=lambda path: -len(_parts(path)))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _quota(group: str) -> float | None:
    """Read ``cpu.max``: ``max 100000`` or ``350000 100000``, in microseconds."""
    words = _text(os.path.join(group, "cpu.max")).split()
    return _share(words[0], words[1]) if len(words) == 2 else None


def _quota_1(group: str) -> float | None:
    return _share(
        _text(os.path.join(group, "cpu.cfs_quota_us")).strip(),
        _text(os.path.join(group, "cpu.cfs_period_us")).strip(),
    )


def _share(quota: str, period: str) -> float | None:
    # Version 1 writes no quota as -1, version 2 as max: neither is all digits.
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _numbers(groups: Iterable[str], name: str) -> Iterator[int | None]:
    """Yield the number in a file of each group; None for ``max`` and for a missing file."""
    for group in groups:
        text = _text(os.path.join(group, name)).strip()
        yield int(text) if text.isdigit() else None


def _entry(path: str, name: str) -> int | None:
    """Return the number after ``name`` in a file with one name and one number on each line."""
    for line in _lines(path):
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _lines(path: str) -> list[str]:
    return _text(path).splitlines()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
