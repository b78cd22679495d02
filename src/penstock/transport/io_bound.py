"""``penstock.io_bound`` of an environ: how a call that will wait for long leaves the count."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from penstock import messages

if TYPE_CHECKING:
    import logging

    from penstock.transport import Transport
    from penstock.transport.config import TransportConfig

IO_BOUND_KEY = "penstock.io_bound"
"""The key of the environ. It is a part of what every request of a transport begins with."""


def no_thread() -> bool:
    """Start no thread: for a transport whose threads are fixed."""
    return False


class IoBound:
    """One object for all requests of a transport, so that a request costs none.

    It asks which call the calling thread is in, and so keeps nothing of a request. Nor does it keep
    the transport: an application may hold it for ever.
    """

    __slots__ = ("_logger", "_transport", "_warns")

    def __init__(self, transport: Transport, config: TransportConfig, logger: logging.Logger):
        self._transport = weakref.ref(transport)
        self._logger = logger
        # Where the setting is 0, the answer is what was asked for.
        self._warns = config.threads == 1 and config.max_io_bound > 0

    def __call__(self) -> bool:
        """Return True if the calling thread's call does not count as one of `threads` now.

        Another thread takes its place until the call has returned. A second time it changes
        nothing. False means that the call keeps its thread: `max_io_bound` calls have left the
        count, no thread could be started, the worker has one thread, or the calling thread is in
        no call.
        """
        if self._warns:
            self._warns = False
            messages.IO_BOUND_WITH_ONE_THREAD.log(self._logger)
        transport = self._transport()
        return transport is not None and transport.leave_count()
