"""The native transport: `penstock._native`, in Rust, behind the transport's contract."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock import _native, messages
from penstock.transport.io_bound import IO_BOUND_KEY, IoBound, no_thread
from penstock.transport.log_lines import RequestLog
from penstock.transport.notable import EndedCall
from penstock.transport.spool import SpooledBody
from penstock.transport.waiting_clients import clients_wait
from penstock.transport.websockets import WebSockets
from penstock.wsgi.environ import DroppedFields
from penstock.wsgi.headers import check_head

if TYPE_CHECKING:
    from penstock.edge.tls import TlsMaterial
    from penstock.listeners import Listener
    from penstock.telemetry.observers import Observers
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport import Exchange, TransportExchange
    from penstock.transport.config import TransportConfig
    from penstock.transport.notable import NotableRequests
    from penstock.wsgi.headers import CheckHead
    from penstock.wsgi.response import FastResponse, Response


PAUSE_AFTER_ERROR_SECONDS = 0.1
"""How long a thread of the transport's own rests after an error of ours."""


class NativeTransport:
    """`penstock.transport.Transport` over native code.

    ``endpoints`` are listening sockets, each with the environ that its requests begin with.
    ``slot`` is the worker's place on the scoreboard, which the transport keeps up to date.
    ``add_thread`` starts another thread that calls `next`; it returns False if it could not.
    """

    check_head: CheckHead = _native.HeadCheck(check_head).check
    """See `penstock.transport.ResponseSupport.check_head`."""

    next: Callable[[], Exchange | None]
    """See `penstock.transport.Transport.next`."""

    serve: Callable[..., None]
    """See `penstock.transport.Transport.serve`."""

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
        self.request_log = RequestLog(logger, config)
        self._websockets = WebSockets(self, config, slot, self.request_log)
        logs = {
            "logger": logger,
            "request_log": self.request_log,
            "dropped_fields": DroppedFields(logger, config.forwarded.fields),
            "open_spooled": _open_spooled,
            "offer_websocket": self._websockets.offer,
            "attend": weakref.WeakMethod(self._attend),
            "note_call": _noting(config.notable, slot),
            "when_idle": config.when_idle,
            **_reporting(observers),
        }
        self._listeners = [listener for listener, _ in endpoints]
        self._handed_over = False
        self._config = config
        self._slot = slot
        self._starting = threading.Lock()
        # The log's first: without it the stall monitor would stop leading for each entry.
        self._unstarted = [
            ("penstock-log-queue", "write_logs"),
            ("penstock-stall-monitor", "watch"),
        ]
        self._add_thread = add_thread
        io_bound = {IO_BOUND_KEY: IoBound(self, config, logger)}
        endpoints = [(listener, environ | io_bound) for listener, environ in endpoints]
        self._native = _native.NativeTransport(endpoints, config, logs, slot)
        self.next = self._native.next
        self.serve = self._native.serve
        self._logger = logger
        if config.has_stall_monitor:
            self._attend()

    def _attend(self) -> None:
        """Start the threads of the transport's own: once, at the latest when calls prove slow.

        Raises `RuntimeError` where the system has no thread left; then the next call tries again.
        """
        with self._starting:
            while self._unstarted:
                name, work = self._unstarted[0]
                args = (getattr(self._native, work), name)
                threading.Thread(target=self._keep, args=args, name=name, daemon=True).start()
                del self._unstarted[0]
                if not self._unstarted:
                    self._native.note_attended()

    def _keep(self, work: Callable[[], None], name: str) -> None:
        """Run what a thread of the transport's own is for, until its end, whatever happens."""
        while True:
            try:
                work()
                return
            except BaseException:
                # A defect of ours (a panic comes as an exception): the others go on, and so does
                # this thread, but it does not spin.
                messages.TRANSPORT_THREAD_DEFECT.log(self._logger, thread=name, exc_info=True)
                threading.Event().wait(PAUSE_AFTER_ERROR_SECONDS)

    def response_maker(
        self, make_full: Callable[[Exchange | None, bool], Response]
    ) -> Callable[[Exchange, bool], FastResponse]:
        """See `penstock.transport.ResponseSupport.response_maker`."""
        return _native.ResponseMaker(make_full).make

    def set_tls(self, material: TlsMaterial) -> None:
        """See `penstock.transport.Transport.set_tls`."""
        set_tls = getattr(self._native, "set_tls", None)
        if set_tls is None:
            from penstock.edge.tls import TlsError

            raise TlsError("the native transport was built without TLS (set transport = python)")
        set_tls(material)

    def drain(self, *, hand_over: bool = False) -> None:
        """See `penstock.transport.Transport.drain`."""
        self._handed_over |= hand_over
        lasting = []
        if not self._handed_over:
            lasting = [listener.ignore_new_connections() for listener in self._listeners]
        self._websockets.drain()
        self._native.drain(self._handed_over, lasting)

    def current_exchange(self) -> TransportExchange | None:
        """See `penstock.transport.Transport.current_exchange`."""
        return self._native.current_exchange()

    def leave_count(self, *, websocket: bool = False) -> bool:
        """See `penstock.transport.Transport.leave_count`."""
        return self._native.leave_count(self._add_thread, websocket)

    def abort_all(self, reason: str) -> int:
        """See `penstock.transport.Transport.abort_all`."""
        return self._native.abort_all(reason)

    def expire(self, number: int, reason: str) -> bool:
        """See `penstock.transport.Transport.expire`."""
        return self._native.expire(number, reason)

    def look_at_calls(self) -> None:
        """See `penstock.transport.Transport.look_at_calls`."""
        if self._unstarted and self._slot.longest_call() >= self._config.busy_accept_seconds:
            with contextlib.suppress(RuntimeError):  # no thread is left for this process, now
                self._attend()

    def look_for_clients(self) -> None:
        """See `penstock.transport.Transport.look_for_clients`."""
        if len(self._slot.scoreboard.slots) > 1 and clients_wait(self._listeners):
            self._native.look_for_clients()

    def publish(self) -> None:
        """See `penstock.transport.Transport.publish`."""
        self._native.publish()

    def close(self) -> None:
        """See `penstock.transport.Transport.close`."""
        self._websockets.close()
        self._native.close()

    def finish_logs(self, timeout: float) -> bool:
        """See `penstock.transport.Transport.finish_logs`."""
        return self._native.finish_logs(timeout)

    def snapshot(self) -> dict[str, Any]:
        """See `penstock.transport.Transport.snapshot`."""
        return self._native.snapshot()

    def close_in_child(self) -> None:
        """See `penstock.transport.Transport.close_in_child`."""
        self._native.close_in_child()
        self._websockets.close_in_child()
        for listener in self._listeners:
            listener.socket.close()


def _reporting(observers: Observers | None) -> dict[str, Any]:
    """Return what native code reports finished requests with."""
    if observers is None:
        return dict.fromkeys(("observers", "requests", "needs", "line_format"))
    requests = _native.RequestQueue(observers.most, observers.most_bytes)
    observers.take_from(requests)
    return {
        "observers": observers,
        "requests": requests,
        "needs": observers.needs,
        "line_format": observers.line_format,
    }


def _noting(
    notable: NotableRequests | None, slot: Slot
) -> Callable[[int, str, object, int, float, int, str, bool], None] | None:
    """Return what native code calls when a call was slow or has failed, by the scoreboard's record.

    It gives the record's index, and the other fields of an `EndedCall` in their order.
    """
    if notable is None:
        return None
    call_ended = notable.call_ended

    def note(
        record: int,
        protocol: str,
        trace_id: object,
        took: int,
        duration: float,
        status: int,
        reason: str,
        aborted: bool,
    ) -> None:
        request = slot.records[record].read()
        if request is not None:
            call_ended(
                EndedCall(
                    request.method,
                    request.target,
                    protocol,
                    request.client,
                    request.request_id,
                    trace_id,
                    took,
                    duration,
                    status,
                    reason,
                    aborted,
                )
            )

    return note


def _open_spooled(descriptor: int) -> BinaryIO:
    """Return a file object that owns ``descriptor``."""
    return SpooledBody(open(descriptor, "r+b", buffering=0))
