"""The pure-Python transport: the readable reference, on the standard library alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.transport.io_bound import IO_BOUND_KEY, IoBound, no_thread
from penstock.transport.python.acceptor import Acceptor
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.leader_followers import LeaderFollowers
from penstock.transport.python.loop import Loop
from penstock.transport.python.response_head import HeadCheck
from penstock.transport.waiting_clients import clients_wait
from penstock.transport.websockets import WebSockets
from penstock.wsgi.headers import check_head

if TYPE_CHECKING:
    from penstock.edge.tls import TlsMaterial
    from penstock.listeners import Listener
    from penstock.telemetry.observers import Observers
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport import ApplicationCalls, Exchange
    from penstock.transport.config import TransportConfig
    from penstock.wsgi.headers import CheckHead
    from penstock.wsgi.response import FastResponse, Response


class PythonTransport:
    """`penstock.transport.Transport` with ``selectors`` and ``socket``.

    ``endpoints`` are listening sockets, each with the environ that its requests begin with.
    ``slot`` is the worker's place on the scoreboard, which the transport keeps up to date.
    ``add_thread`` starts another thread that calls `next`; it returns False if it could not.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[Listener, dict[str, Any]]],
        config: TransportConfig,
        *,
        slot: Slot,
        logger: logging.Logger,
        observers: Observers | None = None,
        add_thread: Callable[[], bool] = no_thread,
    ) -> None:
        self.check_head: CheckHead = HeadCheck(check_head).check
        """See `penstock.transport.ResponseSupport.check_head`."""
        self._loop = Loop(slot, config=config, logger=logger, observers=observers)
        self.request_log = self._loop.request_log
        self._add_thread = add_thread
        self._websockets = self._loop.websockets = WebSockets(self, config, slot, self.request_log)
        io_bound = IoBound(self, config, logger)
        for listener, base_environ in endpoints:
            acceptor = Acceptor(self._loop, listener, base_environ | {IO_BOUND_KEY: io_bound})
            self._loop.acceptors.append(acceptor)
            acceptor.start()
        self._loop.tell_accepting()
        self._threads = LeaderFollowers(self._loop, slot)

    def next(self) -> PythonExchange | None:
        """See `penstock.transport.Transport.next`."""
        return self._threads.next()

    def response_maker(
        self, make_full: Callable[[Exchange | None, bool], Response]
    ) -> Callable[[Exchange, bool], FastResponse]:
        """See `penstock.transport.ResponseSupport.response_maker`."""
        return make_full

    def set_tls(self, material: TlsMaterial) -> None:
        """See `penstock.transport.Transport.set_tls`."""
        from penstock.transport.python.tls_contexts import TlsContexts  # only where it is needed

        before = self._loop.tls
        # Python's ssl has ticket keys of its own, one set for each context: other ones change
        # nothing here.
        material = replace(material, ticket_keys=())
        if before is None or before.material != material:
            self._loop.tls = TlsContexts(material, self._loop.config.ssl_context)

    def drain(self, *, hand_over: bool = False) -> None:
        """See `penstock.transport.Transport.drain`."""
        if hand_over:
            self._loop.handing_over = True
        self._loop.draining = True
        self._websockets.drain()
        self._threads.interrupt()
        if hand_over:
            self._threads.lead_briefly(self._loop.hand_listeners_over)

    def current_exchange(self) -> PythonExchange | None:
        """See `penstock.transport.Transport.current_exchange`."""
        return self._threads.current_exchange()

    def leave_count(self, *, websocket: bool = False) -> bool:
        """See `penstock.transport.Transport.leave_count`."""
        return self._threads.leave_count(self._add_thread, websocket=websocket)

    def abort_all(self, reason: str) -> int:
        """See `penstock.transport.Transport.abort_all`."""
        return self._threads.abort_all(reason)

    def expire(self, number: int, reason: str) -> bool:
        """See `penstock.transport.Transport.expire`."""
        return self._threads.expire(number, reason)

    def look_at_calls(self) -> None:
        """See `penstock.transport.Transport.look_at_calls`."""
        self._threads.look_at_calls()

    def look_for_clients(self) -> None:
        """See `penstock.transport.Transport.look_for_clients`."""
        loop = self._loop
        if loop.balancing is not None and clients_wait(it.listener for it in loop.acceptors):
            loop.look_for_clients = True
            loop.wake()

    def serve(
        self, handle: Callable[[Exchange], None], _calls: ApplicationCalls | None = None
    ) -> None:
        """See `penstock.transport.Transport.serve`."""
        thread, next_of = self._threads.thread(), self._threads.next_of
        while (exchange := next_of(thread)) is not None:
            handle(exchange)
            exchange = None  # a thread that waits keeps nothing of its last request

    def publish(self) -> None:
        """See `penstock.transport.Transport.publish`."""
        self._loop.publish()

    def close(self) -> None:
        """See `penstock.transport.Transport.close`."""
        self._loop.closed = True
        self._websockets.close()
        self._threads.interrupt()

    def finish_logs(self, timeout: float) -> bool:
        """See `penstock.transport.Transport.finish_logs`: each thread reports what it ends."""
        return True

    def snapshot(self) -> dict[str, Any]:
        """See `penstock.transport.Transport.snapshot`."""
        return self._loop.snapshot()

    def close_in_child(self) -> None:
        """See `penstock.transport.Transport.close_in_child`."""
        self._threads.close_in_child()
        self._websockets.close_in_child()
        self._loop.close_in_child()
