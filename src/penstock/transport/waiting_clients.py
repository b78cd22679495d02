"""Whether clients wait to be accepted, for any thread to ask."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.listeners import Listener


def clients_wait(listeners: Iterable[Listener]) -> bool:
    """Return True if a client waits at one of the listeners; those that are closed have none."""
    poll = select.poll()
    for listener in listeners:
        descriptor = listener.socket.fileno()
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    # A listener that another thread closes meanwhile is reported with another event.
    return any(event & select.POLLIN for _, event in poll.poll(0))
