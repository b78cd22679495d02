"""Whether gevent or eventlet has replaced the threads of the standard library by greenlets.

Penstock serves with threads of the system. With greenlets in their place, a worker would wait for
ever for a thread that never runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

_INSTEAD = (
    "has replaced threads of the standard library by greenlets, and Penstock serves with threads "
    "of the system: leave that call out"
)


def greenlet_patches() -> str | None:
    """Return what was replaced and what to do; None where the standard library is as it was.

    Imports neither library. Other patches, such as those of sockets, do no harm in threads of the
    system: each thread has an event loop of its own.
    """
    modules: Mapping[str, object] = sys.modules
    is_patched = getattr(modules.get("gevent.monkey"), "is_module_patched", None)
    # gevent's `select` of the main thread cannot be waited for in another one.
    if is_patched is not None and (is_patched("threading") or is_patched("select")):
        return (
            f"gevent.monkey.patch_all() {_INSTEAD}, or write "
            "gevent.monkey.patch_all(thread=False, select=False)"
        )
    is_patched = getattr(modules.get("eventlet.patcher"), "is_monkey_patched", None)
    # eventlet's `select` lacks what CPython's has.
    if is_patched is not None and (is_patched("thread") or is_patched("select")):
        return (
            f"eventlet.monkey_patch() {_INSTEAD}, or write "
            "eventlet.monkey_patch(thread=False, select=False)"
        )
    return None
