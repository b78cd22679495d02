"""The response to one request: ``start_response``, ``write``, and when bytes are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from penstock import messages
from penstock.http1.statuses import BODILESS
from penstock.wsgi.headers import check_head, check_headers, put_right

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from penstock.transport import HeaderList, Outlet
    from penstock.wsgi.headers import CheckHead

    ExcInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    )


class ProtocolBreach(RuntimeError):
    """The application broke PEP 3333, and raised no exception itself."""


class Unanswered(ProtocolBreach):
    """The application returned, and has not called `start_response`."""


class FastResponse(Protocol):
    """The part of a response that a gateway needs until it knows what the application returns."""

    def start_response(
        self, status: str, headers: HeaderList, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """See `Response.start_response`."""

    def early_hints(self, headers: HeaderList, /) -> None:
        """See `Response.early_hints`."""

    def send_whole(self, block: bytes) -> bool:
        """See `Response.send_whole`."""

    def full_response(self) -> Response:
        """Return the full response. It takes over: this one may not be used after that."""

    def forget_exchange(self) -> None:
        """See `Response.forget_exchange`."""


class Response:
    """The full response: what the application has passed so far, and what of it has been sent."""

    __slots__ = (
        "_called",
        "_check_head",
        "_close",
        "_exchange",
        "_is_head",
        "_warn_once",
        "begun",
        "bodiless",
        "code",
        "content_length",
        "finished",
        "headers",
        "overran",
        "sent",
        "status",
    )

    status: str
    code: int
    """The status code; 0 until a call of `start_response` succeeded."""
    headers: HeaderList
    content_length: int | None
    """Bytes of the body: what the application gave, or what the server knows; None if unknown."""
    bodiless: bool
    """Whether the response has no body, whatever the application returns."""
    sent: int
    """Bytes of the body that the exchange has been given."""
    begun: bool
    """Whether the exchange has the head. It sends the head with the first block."""
    finished: bool
    """Whether the exchange has the whole response."""
    overran: bool
    """Whether the application gave more than its Content-Length."""

    def __init__(
        self,
        exchange: Outlet | None,
        is_head: bool,
        warn_once: Callable[[messages.Notice], None],
        check_head: CheckHead = check_head,
    ) -> None:
        """Begin without a head; ``is_head`` is True in answer to HEAD.

        Without an ``exchange`` the response has ended: then each method raises what it raises after
        the end.
        """
        self._exchange = exchange
        self._is_head = is_head
        self._warn_once = warn_once
        self._check_head = check_head
        self._called = self._close = False
        self.begun = self.finished = self.bodiless = self.overran = False
        self.code = self.sent = 0
        self.content_length = None

    # What the application calls

    def start_response(
        self, status: str, headers: HeaderList, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        """Take the response's head and return `write`. The second argument of an application.

        Nothing is sent. Raises `TypeError` and `ValueError` for a head that may not be sent,
        `RuntimeError` for a second call without ``exc_info``, and the exception in ``exc_info`` if
        the head has been sent and cannot be replaced.
        """
        if exc_info is not None:
            try:
                self._replace(exc_info)
            finally:
                exc_info = None  # the reason is in _replace
        elif self._called:
            raise RuntimeError("start_response was called a second time without exc_info")
        self._called = True
        code, self.headers, length, self._close = self._check_head(status, headers)
        if put_right:
            self._warn_of_what_was_put_right()
        if len(status) == 3:  # a code alone
            status += " "
        self.bodiless = self._is_head or code in BODILESS
        self.content_length = length
        self.status = status
        self.code = code
        return self.write

    def _warn_of_what_was_put_right(self) -> None:
        while True:
            try:
                notice = put_right.popleft()
            except IndexError:  # another thread has taken the last one
                return
            self._warn_once(notice)

    def write(self, data: bytes, /) -> None:
        """Send a block of the body at once. PEP 3333 has this for old applications.

        Raises `TypeError` for anything except bytes, and `RuntimeError` if the block exceeds the
        Content-Length or the response has ended; then nothing of the block is sent.
        """
        exchange = self._exchange
        if exchange is None or self.finished or not self.code:
            raise RuntimeError("write() was called outside of a response")
        if not isinstance(data, bytes):
            raise TypeError(f"write() takes bytes, not {type(data).__name__}")
        if self.bodiless:
            self._drop(data)
            return
        if self.content_length is not None and self.sent + len(data) > self.content_length:
            raise RuntimeError("write() was given more than the Content-Length")
        if data:
            self._begin(exchange)
            self.sent += len(data)
            exchange.send(data)

    def early_hints(self, headers: HeaderList, /) -> None:
        """Send ``103 Early Hints`` (RFC 8297); does nothing once the response has begun.

        Raises `TypeError` and `ValueError` as `start_response` does.
        """
        fields, _, _ = check_headers(headers)
        exchange = self._exchange
        if exchange is not None and not self.finished and not exchange.head_sent:
            exchange.send_informational("103 Early Hints", fields)

    # What the gateway calls. All methods that send raise `ClientDisconnected`.

    def full_response(self) -> Response:
        """Return this response (see `FastResponse.full_response`)."""
        return self

    def adopt(
        self, status: str, code: int, headers: HeaderList, length: int | None, sent: int
    ) -> None:
        """Take over from a native `FastResponse`, which has checked the head.

        ``sent`` bytes of the body are with the exchange; with the first it was given the head.
        """
        self._called = True
        self.status = status
        self.code = code
        self.headers = headers
        self.content_length = length
        self.sent = sent
        self.begun = sent > 0

    def send_whole(self, block: bytes) -> bool:
        """Send the body that the application returned in one piece, and end the response.

        Return True if that was all of it, and not more than its Content-Length.
        """
        size = len(block)
        length = self.content_length
        if self.begun or self.bodiless or not self.code or (length is not None and length != size):
            if block:
                self.send(block)
            self.end()
            return not self.overran
        self.content_length = size
        exchange = self._exchange
        assert exchange is not None
        self.begun = True
        if self._close:
            self._close_after_response(exchange)
        exchange.respond(self.status, self.headers, size)
        exchange.finish(block)
        self.finished = True
        return True

    def send(self, block: bytes) -> bool:
        """Send a block, not empty, of the body that the application returned.

        Ends the response with the last byte of the Content-Length. Return False if the gateway need
        not ask the application for another block.
        """
        self._require_start()
        if self.bodiless:
            self._drop(block)
            self.end()
            return False
        exchange = self.exchange
        self._begin(exchange)
        if self.content_length is not None:
            left = self.content_length - self.sent
            if len(block) >= left:
                self.overran = len(block) > left
                self.sent += left
                exchange.finish(block[:left])
                self.finished = True
                return not self.overran
        self.sent += len(block)
        exchange.send(block)
        return True

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Send a file as the rest of the body, up to the Content-Length, and end the response."""
        exchange = self.exchange
        if self.content_length is None and not self.begun:
            self.content_length = count
        if self.content_length is not None:
            count = min(count, self.content_length - self.sent)
        self._begin(exchange)
        self.sent += count
        if count:
            exchange.send_file(descriptor, offset, count)
        self.end()

    def end(self) -> None:
        """End the response if it has not ended; raises `ProtocolBreach` if it is too short."""
        if self.finished:
            return
        self._require_start()
        if not self.bodiless:
            if self.content_length is None and not self.begun:
                self.content_length = 0
            if self.content_length is not None and self.sent < self.content_length:
                raise ProtocolBreach(
                    f"the body ended after {self.sent} of the {self.content_length} bytes"
                    " of its Content-Length"
                )
        exchange = self.exchange
        self._begin(exchange)
        exchange.finish()
        self.finished = True

    def forget_exchange(self) -> None:
        """Drop the reference to the exchange: ``environ`` leads here, and may be kept."""
        self._exchange = None

    @property
    def exchange(self) -> Outlet:
        """The exchange; only until the response has ended."""
        assert self._exchange is not None
        return self._exchange

    def _replace(self, exc_info: ExcInfo) -> None:
        try:
            if not isinstance(exc_info, tuple) or len(exc_info) != 3:
                raise TypeError("exc_info must be what sys.exc_info() returns")
            exchange = self._exchange
            if exchange is None or self.finished or exchange.head_sent:
                if exc_info[1] is None:
                    raise RuntimeError("the head has left: it cannot be replaced")
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            # The traceback will refer to this frame, so this frame must not refer to it: the cycle
            # would keep the environ until it is collected (PEP 3333, "Error Handling").
            del exc_info
        self.code = 0  # if the new head is refused, the old one is not valid either
        self.begun = False
        self.sent = 0

    def _require_start(self) -> None:
        if not self._called:
            raise Unanswered("start_response was not called")
        if not self.code:
            raise ProtocolBreach("start_response was not called, or refused its arguments")

    def _begin(self, exchange: Outlet) -> None:
        if not self.begun:
            self.begun = True
            if self._close:
                self._close_after_response(exchange)
            exchange.respond(self.status, self.headers, self.content_length)

    def _close_after_response(self, exchange: Outlet) -> None:
        self._warn_once(messages.APPLICATION_SENT_CLOSE.notice())
        exchange.close_after_response()

    def _drop(self, block: bytes) -> None:
        if block and not self._is_head:
            self._warn_once(messages.APPLICATION_SENT_NEEDLESS_BODY.notice(status=self.code))
