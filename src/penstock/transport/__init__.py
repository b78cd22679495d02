"""The contract between a transport, which owns sockets and bytes, and the rest of a worker.

A worker's thread is this loop and nothing more::

    while (exchange := transport.next()) is not None:   # all socket work happens in here
        gateway.handle(exchange)                        # all of PEP 3333 happens in here

`Transport.serve` is that loop. In native code it also does what `handle` does for the responses of
most requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from _typeshed import WriteableBuffer

    from penstock.edge.tls import TlsMaterial
    from penstock.transport.log_lines import RequestLog
    from penstock.wsgi.headers import CheckHead
    from penstock.wsgi.response import FastResponse, Response

HeaderList = list[tuple[str, str]]


class Outlet(Protocol):
    """The part of an exchange that a response is sent through, or what changes it on its way."""

    @property
    def head_sent(self) -> bool:
        """Whether the response's head has left: from then on `respond` is an error."""

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """See `Exchange.send_informational`."""

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        """See `Exchange.respond`."""

    def send(self, data: bytes) -> None:
        """See `Exchange.send`."""

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """See `Exchange.send_file`."""

    def finish(self, data: bytes = b"") -> None:
        """See `Exchange.finish`."""

    def close_after_response(self) -> None:
        """See `Exchange.close_after_response`."""


class ClientStream(Protocol):
    """The client's stream, without HTTP: what a relay passes bytes on from, and to.

    One thread at a time uses it. An error is `BlockingIOError`, after which an event follows, or
    another ``OSError``, which is final.
    """

    @property
    def early(self) -> bytes:
        """What has come behind the request already."""

    @property
    def descriptor(self) -> int:
        """What a selector watches."""

    @property
    def secure(self) -> bool:
        """Whether it has TLS."""

    @property
    def holds_input(self) -> bool:
        """Whether there is input of which no event tells."""

    def receive(self, size: int) -> bytes:
        """Return what is there, about ``size`` bytes at most; ``b""`` at the end."""

    def send(self, data: bytes) -> int:
        """Send what is taken at once; return how many bytes. The rest has to come again."""

    def shut_down(self) -> None:
        """End the output: the client reads what was sent, and then the end."""

    def lose(self) -> None:
        """Note that the client is gone."""


class WebSocket(Protocol):
    """What the request of a valid WebSocket handshake offers to the application."""

    @property
    def begun(self) -> bool:
        """Whether the application has asked for the socket: then the response is not HTTP."""

    @property
    def refused(self) -> bool:
        """Whether it did not get it."""

    def finish(self) -> None:
        """End it once the application has returned; waits until all that it has sent has left."""


class Exchange(Protocol):
    """One request, and the means to answer it. One thread at a time uses it."""

    @property
    def environ(self) -> dict[str, Any]:
        """Fresh; complete but for ``wsgi.input``, ``wsgi.early_hints``; the gateway's to keep."""

    @property
    def body(self) -> BinaryIO | None:
        """The complete request body, at its start; None where `receive_into` has it to be read."""

    @property
    def websocket(self) -> WebSocket | None:
        """What it offers, if the request is a valid WebSocket handshake."""

    @property
    def request_id(self) -> str:
        """Names the request in every log; unique in a worker's life, printable ASCII."""

    @property
    def head_sent(self) -> bool:
        """Whether the response's head has left: from then on `respond` is an error."""

    def receive_into(self, target: WriteableBuffer) -> int:
        """Put the next bytes of a streamed body there; return how many, 0 at its end and after it.

        Sends ``100 Continue`` first where the client waits for it and no response has begun.
        Raises `ClientDisconnected` where the client reset the connection, and
        `RequestBodyError` where the body breaks a rule or a limit, comes too slowly, or ends
        too early: after that the client may still read an answer.
        """

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """Send an interim response, such as ``103 Early Hints``, before the final one.

        Does nothing towards an HTTP/1.0 client (RFC 9110, section 15.2). Raises
        `ClientDisconnected`.
        """

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        """Set the response's head; nothing is sent yet, and a later call replaces it.

        ``status`` is ``"200 OK"``; status and ``headers`` are valid already (the gateway's
        task) and hold no ``Content-Length``, ``Transfer-Encoding`` or ``Connection``.
        ``content_length`` is the body's length in bytes where it is known. The transport adds
        ``Date``, ``Server``, the framing and the connection's fields.
        """

    def send(self, data: bytes) -> None:
        """Send a block of the body (the head first); returns when kernel, buffer or file has it.

        Blocks while more is unsent than these may hold; raises `ClientDisconnected`
        when the client is gone or stalls past the write deadline. ``b""`` sends nothing at all,
        not even the head. Bytes that the response may not carry (HEAD, 204, 304) are dropped.
        """

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Send ``count`` bytes of an open regular file, from ``offset``, as a block of the body.

        The descriptor is duplicated: the caller may close its own when this returns. A file
        that shrinks in the meantime ends the connection, as a short body does.
        """

    def finish(self, data: bytes = b"") -> None:
        """Send ``data`` as the body's last block and end the response; the caller is free then.

        Never blocks: what the kernel does not take is sent by the transport. Raises
        `ClientDisconnected` only where that is known at once.
        """

    def abort(self) -> None:
        """Close so that the client can see that the response is incomplete.

        Never raises, and does nothing where the response is over.
        """

    def set_reason(self, reason: str) -> None:
        """Set the reason that the access log's line tells; the last before the end counts."""

    def close_after_response(self) -> None:
        """Make this the connection's last response; called before the head is sent."""

    def client_gone(self) -> bool:
        """Return True if the client is known to have disconnected. Cheap to call between blocks."""


class TransportExchange(Exchange, Protocol):
    """What a transport's own exchanges have, beyond what the gateway uses."""

    @property
    def began(self) -> float:
        """When the first byte of the request was read, in seconds of the monotonic clock."""

    @property
    def peer_addr(self) -> str:
        """The address of the connection's peer: a proxy's, where the client is behind one.

        It is empty for a unix socket.
        """

    def take_stream(self) -> ClientStream:
        """Give the connection up: HTTP is no longer spoken on it. Only before the head is sent.

        From then on what would send a response raises `ResponseRelayed`. `end_relay` takes it back.
        """

    def end_relay(
        self,
        status: str,
        headers: HeaderList,
        counts: tuple[int, int],
        reason: str,
        reset: bool,
        aborted: bool,
    ) -> None:
        """End the exchange after `take_stream`; the stream is no longer used. For any thread.

        The rest is for the logs: what the application has answered, the bytes that were received
        and sent then, and why it was cut short. With ``reset`` the connection is reset, and with
        ``aborted`` the server has ended it. Does nothing where the exchange is over.
        """


class ResponseSupport(Protocol):
    """What a transport may do in native code of the gateway's work on responses."""

    @property
    def check_head(self) -> CheckHead:
        """What checks responses' heads: the reference, or native code that is as strict."""

    def response_maker(
        self, make_full: Callable[[Exchange | None, bool], Response]
    ) -> Callable[[Exchange, bool], FastResponse]:
        """Return the function that makes a response from an exchange and from whether it is a HEAD.

        That is ``make_full`` itself, or native code that calls it for a response that is not plain.
        """


class ApplicationCalls(Protocol):
    """The steps of `penstock.wsgi.gateway.Gateway.handle`, which is the reference for their order.

    For a transport that calls the application itself.
    """

    application: WSGIApplication

    beginnings: tuple[str, ...]
    """What the paths of requests begin with that the application is not called for at once."""

    make_full: Callable[[Exchange | None, bool], Response]
    """See `ResponseSupport.response_maker`."""

    def answer(
        self,
        exchange: Exchange,
        response: FastResponse,
        body: BinaryIO,
        result: Any,
        blocks: Iterator[bytes] | None = None,
    ) -> None:
        """Send and close what the application has returned. Raises nothing.

        ``blocks`` are what is left of ``result``, where its iteration has begun.
        """

    def fail(
        self,
        exchange: Exchange,
        response: FastResponse | None,
        body: BinaryIO | None,
        error: BaseException,
        result: object = None,
    ) -> None:
        """Answer an exchange for which ``error`` was raised. Raises nothing."""

    def log_close_failure(self, exchange: Exchange, error: BaseException) -> None:
        """Log what the ``close()`` of something that the application returned has raised."""


class Transport(ResponseSupport, Protocol):
    """Everything between the listening sockets and the gateway. All methods are thread-safe."""

    @property
    def request_log(self) -> RequestLog:
        """What limits the lines about clients. Its owner calls `report` and `close`."""

    def set_tls(self, material: TlsMaterial) -> None:
        """Serve new TLS connections with ``material``; those that are open keep what they have.

        To be called before `next` where a listener has TLS, and again whenever certificates change.
        Raises `penstock.edge.tls.TlsError`, which names the pair, and then changes nothing.
        """

    def next(self) -> Exchange | None:
        """Block until a request is ready for the application. Return None once drained."""

    def serve(
        self, handle: Callable[[Exchange], None], calls: ApplicationCalls | None = None
    ) -> None:
        """Call ``handle`` with each exchange of `next`, until there is none.

        With ``calls``, which do the same as ``handle``, the transport may call the application
        itself. Raises what `next` and ``handle`` raise.
        """

    def drain(self, *, hand_over: bool = False) -> None:
        """Accept the connections in the accept queues, then no more; finish the requests.

        With ``hand_over`` other processes accept on the same sockets: then the queues are left to
        them, and the sockets are closed at once. A later call without it has no effect.
        """

    def current_exchange(self) -> TransportExchange | None:
        """Return the exchange that the calling thread has; None if it has none."""

    def leave_count(self, *, websocket: bool = False) -> bool:
        """Take the calling thread's call out of the count of `threads`; another thread replaces it.

        Return True if the call is out of the count now, also if it was before; False if it may not
        leave (`penstock.transport.decisions.may_leave_count`), if no thread could be started, or
        if the calling thread has no request. When the call has returned, its thread waits in `next`
        until it replaces another one.

        With ``websocket`` the call has a WebSocket from now on, and counts as one of
        `max_websockets` instead (`penstock.transport.decisions.may_open_websocket`); with one
        thread it keeps that.
        """

    def abort_all(self, reason: str) -> int:
        """End the requests that are still in the application. Return their number.

        For a process that is about to end with threads that do not return. Clients to which
        nothing was sent get 504; each request has its line in the access log, with 504 (or the
        status that was sent) and ``reason``; its connection closes. If a thread does return, its
        exchange is over: what it reads or sends raises `RequestAborted`.
        """

    def expire(self, number: int, reason: str) -> bool:
        """Do the same for the request with this number, whose deadline has passed.

        ``number`` is the one in the scoreboard's record. Returns whether the request was in
        progress: False where its response had ended before.
        """

    def look_at_calls(self) -> None:
        """See to the clients that wait while the only thread is in a long call.

        To be called about once a second, from another thread.
        """

    def look_for_clients(self) -> None:
        """Accept a client that waits, where the kernel woke another worker, and that one does not.

        It may have been stopped, or ended, between its waking and its accepting. To be called about
        once a second, from another thread.
        """

    def publish(self) -> None:
        """Write to the slot what is not kept up to date there all the time.

        That is how many connections do what, and what the Python transport counts of requests and
        bytes. To be called about once a second, by one thread at a time, and at the end.
        """

    def close(self) -> None:
        """Close every connection and listener now; threads in `next` return None."""

    def finish_logs(self, timeout: float) -> bool:
        """Have the logs and the observers get what is left of the requests that are over.

        To be called after `drain` or `close`, before the logs are closed. Waits up to ``timeout``
        seconds for threads of the transport's own that are about to do so; returns False where one
        of them is not done by then, because a handler of the log keeps it.
        """

    def snapshot(self) -> dict[str, Any]:
        """Return counts for logs and for humans: connections, requests, bytes, what is busy."""

    def close_in_child(self) -> None:
        """Release every socket, in a child process that the application forked."""
