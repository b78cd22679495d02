"""The capabilities of this process, and how it gives them up; Linux alone.

A process that changes from root to another user loses its permitted, effective and ambient
capabilities, unless its secure bits say otherwise (capabilities(7)). It keeps the inheritable and
the bounding set, and a process that was started without root, with systemd's
``AmbientCapabilities=``, loses nothing. So every set is emptied here, and then read back.
"""

from __future__ import annotations

import ctypes
import os
import sys

from penstock.records import dataclass

# Bits of a set; capabilities(7).
CAP_SETGID = 1 << 6
CAP_SETUID = 1 << 7
CAP_SETPCAP = 1 << 8

_VERSION_3 = 0x2008_0522  # of capset(2): two words of 32 bits for each set
_HIGHEST = 63
"""The kernel's sets have 64 bits; it knows fewer capabilities, and says so for each above."""

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
"""The sets that give a thread something, as /proc/PID/status names them."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Words(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@dataclass(frozen=True)
class Held:
    """What a thread may do, by /proc/PID/status; proc_pid_status(5)."""

    inheritable: int
    permitted: int
    effective: int
    ambient: int
    bounding: int
    no_new_privileges: bool

    @property
    def is_nothing(self) -> bool:
        """Whether the thread has no capability now. An exec may still give it some."""
        return not (self.inheritable | self.permitted | self.effective | self.ambient)


def held(thread: str = "self") -> Held:
    """Return what this process holds, or one of its threads (``self/task/TID``).

    Raises OSError where /proc is not mounted, and ValueError where it says nothing of this.
    """
    found: dict[str, int] = {}
    with open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            name, _, value = line.decode("ascii", "replace").partition(":")
            if name in (*_SETS, "CapBnd"):
                found[name] = int(value, 16)
            elif name == "NoNewPrivs":
                found[name] = int(value)
    try:
        return Held(
            found["CapInh"], found["CapPrm"], found["CapEff"], found.get("CapAmb", 0),
            found["CapBnd"], found["NoNewPrivs"] == 1,
        )  # fmt: skip
    except KeyError as missing:
        raise ValueError(f"/proc/{thread}/status has no line {missing}") from None


def effective() -> int:
    """Return the bits of this process's effective capabilities; 0 where they are not known."""
    try:
        return held().effective
    except (OSError, ValueError):
        return 0


def forbid_new_privileges() -> None:
    """Keep this thread, and all that it starts, from gaining privileges by an exec.

    A setuid program runs with the rights of its caller from now on; prctl(2), PR_SET_NO_NEW_PRIVS.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def empty_bounding_set() -> None:
    """Empty the set that limits what an exec can give.

    Without CAP_SETPCAP nothing changes: then `forbid_new_privileges` alone has that effect.
    """
    if sys.platform != "linux" or not effective() & CAP_SETPCAP:
        return
    for number in range(_HIGHEST + 1):
        if _prctl(_PR_CAPBSET_READ, number) == 1:
            _prctl(_PR_CAPBSET_DROP, number)
    if left := held().bounding:
        raise OSError(f"the bounding set is not empty: {left:#x}")


def has_any() -> bool:
    """Return True if this thread has a permitted or an inheritable capability."""
    if sys.platform != "linux":
        return False
    header, found = _Header(_VERSION_3, 0), (_Words * 2)()
    if _libc().capget(ctypes.byref(header), ctypes.byref(found)):
        return False  # a kernel without capabilities
    return any(words.permitted | words.inheritable for words in found)


def drop() -> None:
    """Empty the ambient, inheritable, permitted and effective sets of this thread."""
    if sys.platform != "linux":
        return
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    # KEEP_CAPS keeps the permitted set when the user changes. The next call empties that, too, and
    # without permitted capabilities no secure bit gives any.
    _prctl(_PR_SET_KEEPCAPS, 0)
    header, nothing = _Header(_VERSION_3, 0), (_Words * 2)()
    _libc().capset(ctypes.byref(header), ctypes.byref(nothing))


def check_dropped(*, nothing_new: bool) -> None:
    """Raise OSError or ValueError unless no thread of this process has a capability.

    With ``nothing_new`` no thread may gain any by an exec, either. A sandbox may accept the calls
    and ignore them, and a thread that a hook has started has sets of its own.
    """
    if sys.platform != "linux":
        return
    for number in os.listdir("/proc/self/task"):
        found = held(f"self/task/{number}")
        if not found.is_nothing:
            raise ValueError(f"capabilities are left: {found.permitted | found.inheritable:#x}")
        if nothing_new and not found.no_new_privileges:
            raise ValueError("no_new_privs is not set")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _prctl(option: int, argument: int) -> int:
    # As unsigned long: the kernel refuses other bits in the arguments that it does not use.
    rest = [ctypes.c_ulong(each) for each in (argument, 0, 0, 0)]
    return int(_libc().prctl(option, *rest))
