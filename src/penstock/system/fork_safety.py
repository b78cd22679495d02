"""Fork safety: the threads, sockets and held locks that an application made while it loaded."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import types
from collections.abc import Iterator

_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def open_descriptors() -> frozenset[int]:
    """Return the numbers of all open descriptors; empty where the system does not list them."""
    try:
        return frozenset(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError:
        return frozenset()


def fork_hazards(before: frozenset[int]) -> list[str]:
    """Return a line for each thread, socket and held lock that a fork would break.

    ``before`` are the descriptors that were open before the application was loaded.
    """
    return [*_threads(), *_sockets(before), *sorted(set(_held_locks()))]


def _threads() -> Iterator[str]:
    known = 0
    for thread in threading.enumerate():
        known += 1
        if thread is not threading.main_thread():
            yield f"the thread {thread.name!r} does not run in the workers"
    try:
        others = len(os.listdir("/proc/self/task")) - known
    except OSError:
        return
    if others > 0:
        noun = "thread" if others == 1 else "threads"
        yield f"{others} {noun} of native code do not run in the workers"


def _sockets(before: frozenset[int]) -> Iterator[str]:
    for descriptor in sorted(open_descriptors() - before):
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                yield f"the {_describe(sock)} is shared by all workers"
        except OSError:
            continue  # closed in the meantime


def _describe(sock: socket.socket) -> str:
    try:
        return f"socket that is connected to {_place(sock.getpeername())}"
    except OSError:
        return f"socket at {_place(sock.getsockname())}"


def _place(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address) or "no address"


def _held_locks() -> Iterator[str]:
    """Yield the locks that are held: in a forked worker no thread would ever release them."""
    plain: dict[type, bool] = {}
    for owner in gc.get_objects():
        kind = type(owner)
        if kind not in plain:
            plain[kind] = _keeps_attributes_plainly(kind)
        if not plain[kind]:
            continue
        name = owner.__name__ if kind is types.ModuleType else f"{kind.__module__}.{kind.__name__}"
        if name.partition(".")[0] == "penstock":
            continue
        try:
            attributes = list(vars(owner).items())
        except Exception:  # of a proxy written in C, which asks what it stands for
            continue
        for key, value in attributes:
            # By the type: isinstance would ask the value, and so evaluate a lazy object.
            if type(value) in _LOCKS and repr(value).startswith("<locked"):
                yield f"the lock {key!r} of {name} is held, and stays held in the workers"


def _keeps_attributes_plainly(kind: type) -> bool:
    """Return True if reading the attributes of such an object runs none of its own code.

    Return False for classes, and for threads: a running thread holds locks, and is reported as a
    thread.
    """
    if issubclass(kind, type | threading.Thread):
        return False
    descriptor = next((c.__dict__["__dict__"] for c in kind.__mro__ if "__dict__" in c.__dict__), 0)
    return isinstance(descriptor, types.GetSetDescriptorType | types.MemberDescriptorType)
