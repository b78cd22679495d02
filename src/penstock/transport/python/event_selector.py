"""What the loop waits in: sockets, each with a mask of events and the handler of these.

`selectors` has the same, and makes a key of each registration and looks through each event's bits,
which costs a fiftieth of a request. It stands in where the system has no epoll.
"""

from __future__ import annotations

import contextlib
import math
import select
import selectors
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol

Ready = list[tuple[Any, int]]
"""Handlers, each with the events that it is to act on."""


class Source(Protocol):
    """A socket, or a stream on one."""

    def fileno(self) -> int:
        """Return the descriptor."""


class OtherSelector:
    """The system's best selector. The handler is registered as the data of a key."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, source: Source, mask: int, handler: object) -> None:
        """Watch a source for the events of ``mask``. Raises ``OSError``."""
        self._selector.register(source, mask, handler)

    def register_listener(self, source: Source, handler: object, *, exclusive: bool) -> None:
        """Watch a listening socket for clients. Raises ``OSError``.

        If it is ``exclusive``, a client that comes ends the wait of one process that watches it so,
        where the kernel can do that: of the one that has watched it for longest among those that
        wait.
        """
        self.register(source, EVENT_READ, handler)

    def modify(self, source: Source, mask: int, handler: object) -> None:
        """Watch it for other events from now on. Raises ``OSError``."""
        self._selector.modify(source, mask, handler)

    def unregister(self, source: Source) -> None:
        """Watch it no longer, before it is closed. Raises `KeyError` if it is not watched."""
        self._selector.unregister(source)

    def select(self, timeout: float | None) -> Ready:
        """Wait up to ``timeout`` seconds for events, without end if it is None; return them."""
        return [(key.data, mask) for key, mask in self._selector.select(timeout)]

    def close(self) -> None:
        """Free the selector's descriptor."""
        self._selector.close()


if hasattr(select, "epoll"):
    _EVENTS = {
        EVENT_READ: select.EPOLLIN,
        EVENT_WRITE: select.EPOLLOUT,
        EVENT_READ | EVENT_WRITE: select.EPOLLIN | select.EPOLLOUT,
    }
    _EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 0)
    _EVERY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP | select.EPOLLPRI
    # An error, or the end of both sides, makes reading and writing return it.
    _MASKS = [
        (EVENT_READ if event & ~select.EPOLLOUT else 0)
        | (EVENT_WRITE if event & ~select.EPOLLIN else 0)
        for event in range(_EVERY + 1)
    ]

    class EpollSelector:
        """See `OtherSelector`, which it does the same as."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._watched: dict[int, tuple[object, int]] = {}  # by descriptor

        def register(self, source: Source, mask: int, handler: object) -> None:
            """See `OtherSelector.register`."""
            descriptor = source.fileno()
            self._epoll.register(descriptor, _EVENTS[mask])
            self._watched[descriptor] = (handler, mask)

        def register_listener(self, source: Source, handler: object, *, exclusive: bool) -> None:
            """See `OtherSelector.register_listener`."""
            descriptor = source.fileno()
            self._epoll.register(descriptor, select.EPOLLIN | (_EXCLUSIVE if exclusive else 0))
            self._watched[descriptor] = (handler, EVENT_READ)

        def modify(self, source: Source, mask: int, handler: object) -> None:
            """See `OtherSelector.modify`."""
            descriptor = source.fileno()
            self._epoll.modify(descriptor, _EVENTS[mask])
            self._watched[descriptor] = (handler, mask)

        def unregister(self, source: Source) -> None:
            """See `OtherSelector.unregister`."""
            descriptor = source.fileno()
            del self._watched[descriptor]
            with contextlib.suppress(OSError):  # another socket has taken its place (`cut_off`)
                self._epoll.unregister(descriptor)

        def select(self, timeout: float | None) -> Ready:
            """See `OtherSelector.select`."""
            if timeout is None:
                timeout = -1.0
            else:
                # Not shorter than that: epoll counts milliseconds.
                timeout = math.ceil(timeout * 1e3) / 1e3 if timeout > 0.0 else 0.0
            watched = self._watched
            try:
                events = self._epoll.poll(timeout, len(watched) or 1)
            except InterruptedError:
                return []
            ready: Ready = []
            for descriptor, event in events:
                found = watched.get(descriptor)
                if found is not None:
                    mask = _MASKS[event]
                    # As it is registered, where all has happened that is watched for: mostly.
                    ready.append(found if mask == found[1] else (found[0], mask & found[1]))
            return ready

        def close(self) -> None:
            """See `OtherSelector.close`."""
            self._epoll.close()

    EventSelector: type[OtherSelector | EpollSelector] = EpollSelector
else:  # pragma: no cover
    EventSelector = OtherSelector


class IdleSelector:
    """A selector that has something done before it waits, while there is no event (setting: gc)."""

    def __init__(self, when_idle: Callable[[], None]) -> None:
        """Call ``when_idle`` before each wait, unless there are events."""
        selector = EventSelector()
        self._selector = selector
        self._when_idle = when_idle
        self.register, self.modify = selector.register, selector.modify
        self.register_listener = selector.register_listener
        self.unregister, self.close = selector.unregister, selector.close

    def select(self, timeout: float | None) -> Ready:
        """See `OtherSelector.select`."""
        events = self._selector.select(0.0)
        if events or timeout == 0.0:
            return events
        self._when_idle()
        return self._selector.select(timeout)
