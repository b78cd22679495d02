"""One request, and the means to answer it.

The exchange begins when the request's head is complete. While its connection still reads the body
(`Phase.READING`), it belongs to the leader; from the time at which it is handed out until it is
over, to the thread that answers it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.errors import (
    ClientDisconnected,
    FileTruncatedError,
    RequestAborted,
    RequestBodyError,
    ResponseRelayed,
)
from penstock.http1 import (
    CONTINUE,
    LAST_CHUNK,
    Data,
    EndOfMessage,
    Framing,
    ProtocolError,
    Request,
    State,
    choose_framing,
    encode_chunk,
    encode_head,
    encode_head_of_lines,
    error_response,
    has_body,
)
from penstock.http1.statuses import REASON_PHRASES
from penstock.transport import HeaderList
from penstock.transport.decisions import HandOver, OutputStep, hand_over, keeps_connection
from penstock.transport.log_lines import CLIENT_STALLED, FILE_TRUNCATED, lost_client
from penstock.transport.python.body_clock import BodyClock
from penstock.transport.python.client_stream import PythonClientStream
from penstock.transport.python.finished import log_refused
from penstock.transport.python.output import FileRegion, Output, RoomAwaited
from penstock.transport.python.response_head import Head, ResponseFields
from penstock.transport.python.stream import NO_SIGNAL, is_disconnect
from penstock.transport.states import (
    ABORTED,
    CLOSE,
    ENDED,
    KEEP,
    RELAYING,
    RESET,
    SENDING,
    WAITING,
    Fate,
    ResponseState,
)
from penstock.wsgi.headers import status_code

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from penstock.transport.python.call_deadline import CallDeadline
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange_trace import ExchangeTrace
    from penstock.transport.python.response_head import HeadParts
    from penstock.transport.spool import BodySpool
    from penstock.transport.websockets import WebSocket

# Looking up an attribute of an Enum is slow.
NONE, _, CHUNKED, UNTIL_CLOSE = Framing


class StreamedBody:
    """The state of a request's body that is taken off the connection as the application reads."""

    __slots__ = ("clock", "continue_owed", "over", "taken", "taking", "unread", "waited")

    def __init__(self, *, continue_owed: bool, come: bytes = b"") -> None:
        self.continue_owed = continue_owed
        self.over = False
        # Held while input is taken, not while it is waited for: an application may read in
        # another thread than the one that ends the response, and so gives the connection back.
        self.taking = threading.Lock()
        self.unread = come
        self.taken = 0  # of what is unread
        self.clock: BodyClock | None = None  # counts only while the body is waited for
        self.waited = 0.0  # seconds for which `receive` has waited for the client


class PythonExchange:
    """`penstock.transport.Exchange` over one `Connection`, by the thread that handles it."""

    __slots__ = (
        "_content_length",
        "_framing",
        "_websocket",
        "answered_after",
        "began",
        "body",
        "body_at",
        "body_received",
        "body_sent",
        "call_deadline",
        "client_addr",
        "client_name",
        "client_port",
        "client_wait",
        "code",
        "connection",
        "entry",
        "environ",
        "fate",
        "first_byte_at",
        "handed_out_at",
        "head_at",
        "held",
        "interim",
        "io_bound",
        "plain",
        "queue_time",
        "queued_at",
        "reason",
        "request",
        "request_id",
        "response_headers",
        "silent",
        "spool",
        "spooled",
        "state",
        "status",
        "streamed",
        "trace",
    )

    # Set by the connection when it hands the exchange out.
    environ: dict[str, Any]
    request_id: str
    body: BinaryIO | None

    def __init__(self, connection: Connection, request: Request, began: float) -> None:
        """``began`` is when the first byte of the request was read."""
        self.connection = connection
        self.request = request
        # The peer's; those that trusted proxies name take their place.
        self.client_addr = connection.remote_addr
        self.client_port = connection.remote_port
        self.client_name = connection.peer
        self.began = began
        self.head_at = connection.loop.now  # when the request's head was complete
        self.body_at: float | None = None  # when its body was; None for one that is streamed
        self.spool: BodySpool | None = None  # what has come of a body that is read beforehand
        self.held = 0  # how many bytes of it are in memory, until a thread gets it
        self.spooled = 0  # how many bytes of it are in a temporary file
        self.body_received = 0  # bytes of the body, without framing
        self.streamed: StreamedBody | None = None
        # In monotonic nanoseconds; set by the leader-followers. 0 before a thread takes it.
        self.handed_out_at = 0
        self.answered_after = 0  # nanoseconds for which a thread had it for the application
        self.queued_at = 0  # the same; 0 where it did not have to wait for a thread
        self.queue_time = 0.0  # for how long it waited, in seconds
        self.call_deadline: CallDeadline | None = None  # set by the leader-followers
        # On the scoreboard; set by the leader-followers when a thread takes it to the application.
        self.entry: memoryview | None = None
        self.io_bound = False  # its call has left the count of threads
        self.state = WAITING  # of the response
        self.fate = KEEP
        self.interim: threading.Lock | None = None  # held while an interim response is sent
        self.silent = False  # the observers do not get it
        self.reason = ""  # what the application's end is explained by, for the logs
        # When the head was sent; None also where it was sent with the end, unless there are
        # observers.
        self.first_byte_at: float | None = None
        self.client_wait = 0.0  # seconds for which the application has waited for its client
        # It was handed out at once, its response was sent at once, and without such a wait.
        self.plain = False
        self.body_sent = 0  # bytes of the response's body, without framing
        self.status = ""  # such as "200 OK"; empty until there is a response
        self.code = 0  # its number
        self.response_headers: HeaderList = []  # the application's
        self._content_length: int | None = None
        self._framing = NONE
        self.trace: ExchangeTrace | None = None
        if connection.trace is not None:
            self.trace = connection.trace.begin_exchange(connection.parser.buffered)

    @property
    def websocket(self) -> WebSocket | None:
        """See `penstock.transport.Exchange.websocket`."""
        # Not set for each request: those that are no handshake pay nothing.
        return getattr(self, "_websocket", None)

    def offer(self, websocket: WebSocket | None) -> None:
        """Set what a request offers that may be a handshake."""
        self._websocket = websocket

    @property
    def peer_addr(self) -> str:
        """See `penstock.transport.TransportExchange.peer_addr`."""
        return self.connection.stream.remote_addr

    @property
    def head_sent(self) -> bool:
        """See `penstock.transport.Exchange.head_sent`."""
        return self.state is not WAITING

    @property
    def done(self) -> bool:
        """Return True if the response is over, and the connection no longer the exchange's."""
        return self.state is ENDED or self.state is ABORTED

    # -- the request's body ---------------------------------------------------------------------

    def spool_body(self, data: bytes) -> bool:
        """Keep a part of the body; raises `ProtocolError` (413, 507) where there is no room.

        Returns False if the application reads the rest as it arrives: then it is not spooled.
        """
        assert self.spool is not None
        more = len(data)
        loop = self.connection.loop
        budget = loop.budget
        held = not self.spooled and budget.hold_body(self.held, more)
        self.body_received += more
        if held:
            self.held += more
        elif not self.spooled and self._is_handed_over():
            come = self.spool.finish().read() + data
            self.spool = None
            self.streamed = StreamedBody(continue_owed=False, come=come)
            loop.streaming.add(self)
        else:
            budget.take_spool(self.body_received, self.body_received - self.spooled)
            if not self.spooled:
                budget.take_file()
                self.release_held()
            self.spooled = self.body_received
        if self.spool is not None:
            self.spool.add(data, held=held)
        if self.trace is not None:
            self.trace.body_received(data, self.connection.parser.buffered)
        return self.spool is not None

    def _is_handed_over(self) -> bool:
        loop = self.connection.loop
        handing = hand_over(
            loop.config,
            self.request.content_length,
            self.body_received,
            loop.now - self.head_at,
            len(loop.streaming),
        )
        # None waits for its turn here: this transport is seldom faster than the disk.
        return handing is HandOver.NOW and not loop.own_answers.wants(self.request)

    def release_held(self) -> None:
        """Give the share of the budget back that the body has in memory."""
        held, self.held = self.held, 0
        if held:
            self.connection.loop.budget.release_body(held)

    def drop_spool(self) -> None:
        """Drop what has come of the body, where the request does not get to the application."""
        spool, self.spool = self.spool, None
        if spool is None:
            self.release_held()
            self.give_spool_back()
        else:
            self._close_spooled(spool.close)

    def _drop_body(self) -> None:
        """Drop the body of a request that no thread gets."""
        if self.body is not None:
            self._close_spooled(self.body.close)
            self.body = None

    def _close_spooled(self, close: Callable[[], None]) -> None:
        """Have the disk's thread close a temporary file, and give the body's share back then.

        Closing frees what the file takes of the disk, and waits for it. It comes behind what that
        thread may be writing to the file.
        """
        self.release_held()
        size, self.spooled = self.spooled, 0
        if not size:
            return
        budget, disk = self.connection.loop.budget, self.connection.loop.disk

        def drop() -> None:
            close()
            budget.give_spool_back(size)
            budget.give_file_back()

        try:
            disk.run(drop)
        except OSError:
            drop()  # there can be no thread

    def give_spool_back(self) -> None:
        """Give the share of the budget back that the body has taken."""
        if self.spooled:
            budget = self.connection.loop.budget
            budget.give_spool_back(self.spooled)
            budget.give_file_back()
            self.spooled = 0

    def receive_into(self, target: WriteableBuffer) -> int:
        """See `penstock.transport.Exchange.receive_into`."""
        body = self.streamed
        assert body is not None
        while body.taken == len(body.unread) and not body.over:
            with body.taking:
                self.require_kept()
                if self.done:
                    # The connection is the leader's again: what arrives may be of another request.
                    raise OSError("the response has ended: its request can no longer be read")
                waits = not self._receive_some(body)
            if waits:
                with self.waiting_for_client():
                    self._wait_for_input(body)
        view = memoryview(target)
        data = memoryview(body.unread)[body.taken : body.taken + len(view)]
        view[: len(data)] = data
        body.taken += len(data)
        return len(data)

    def _receive_some(self, body: StreamedBody) -> bool:
        """Look for a part of the body. Return True if there is one, or its end."""
        if self._take_from_parser(body):
            return True
        # PEP 3333 leaves the time to the server; with the first read is the one at which the
        # application has shown that it wants the body. Never once a response has begun.
        if body.continue_owed and self.state is WAITING:
            body.continue_owed = False
            self._send_interim("100 Continue", CONTINUE)
        self._read_socket()
        return self._take_from_parser(body)

    def _take_from_parser(self, body: StreamedBody) -> bool:
        """Take all of the body that has come. Return True if there is some of it, or its end.

        With the end that has come, too, the connection can stay, whatever is left unread.
        """
        parser = self.connection.parser
        blocks: list[bytes] = []
        while True:
            try:
                event = parser.next_event()
            except ProtocolError as error:
                if blocks:
                    break  # what came before the fault is read first; the parser fails again then
                self.close_after_response()
                raise RequestBodyError(error.status, error.reason) from error
            if type(event) is not Data:
                body.over = type(event) is EndOfMessage
                if body.over:
                    self.connection.loop.streaming.discard(self)
                break
            blocks.append(event.data)
            self.body_received += len(event.data)
            if self.trace is not None:
                self.trace.body_received(event.data, parser.buffered)
        body.unread, body.taken = b"".join(blocks), 0
        return bool(body.unread) or body.over

    def _read_socket(self) -> None:
        connection = self.connection
        try:
            received = connection.stream.recv(connection.loop.config.receive_bytes)
            connection.stream.note_received(len(received))
        except BlockingIOError:
            return
        except OSError as error:
            raise self.disconnected(error) from error
        if not received and connection.stream.client_gone.known:
            # The leader has met the reset, which the system reports once; then comes an end.
            raise ClientDisconnected("the client is gone: it reset the connection")
        connection.receive(received)

    def _has_unsent(self) -> bool:
        """Send what the kernel takes of earlier output. Return True if there is more."""
        output = self.connection.output
        if output is None or not output.size:
            return False
        try:
            unsent = not output.flush()
        except OSError:
            return False  # the next read meets it, and so does the answer
        if output.take_missed():
            self.connection.loop.post(self.connection)
            self.connection.loop.hurry()
        return unsent

    def _wait_for_input(self, body: StreamedBody) -> None:
        """Wait until the socket is readable, within what the body's clock allows.

        Only waiting counts: a client is not blamed for an application that reads slowly.
        """
        config = self.connection.loop.config
        if body.clock is None:
            body.clock = BodyClock(config, 0.0)
        body.clock.received(self.body_received, body.waited)
        allowed = body.clock.deadline - body.waited
        before = time.monotonic()
        stream = self.connection.stream
        # A client that has only a part of 100 Continue sends nothing before it has the rest.
        wait = stream.wait_writable if self._has_unsent() else stream.wait_readable
        ready = allowed > 0 and wait(min(allowed, config.wait_slice_seconds))
        waited = time.monotonic() - before
        body.waited += waited
        if not ready and waited >= allowed and not self.done:
            self.close_after_response()
            reason = "the request's body came too slowly (body_timeout)"
            if body.clock.is_over():
                reason = "the request's body did not arrive in time (max_body_time)"
            raise RequestBodyError(408, reason)

    def _decide_unread_body(self, body: StreamedBody) -> None:
        """Decide what to do with a streamed body that was not read to its end.

        A short rest that has arrived is dropped later, to keep the connection; otherwise the
        connection ends. The rest of a body is never taken for a request.
        """
        parser = self.connection.parser
        if parser.state is State.DONE:
            return
        config, remaining = self.connection.loop.config, parser.body_remaining
        arrived = self.connection.stream.arrived() if remaining else 0
        if not keeps_connection(config, body.continue_owed, remaining, arrived):
            self.close_after_response()

    # -- the response ---------------------------------------------------------------------------

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """See `penstock.transport.Exchange.send_informational`."""
        if self.request.version == "HTTP/1.1":
            self._send_interim(status, encode_head(status, headers))

    def _send_interim(self, status: str, head: bytes) -> None:
        """Send an interim response, unless the final one has begun: for another thread, perhaps.

        Whatever changes the state calls `_await_interim` before it sends.
        """
        with self.connection.loop.fate_lock:
            if self.interim is None:
                self.interim = threading.Lock()
        with self.interim:
            if self.state is WAITING:
                self.transmit(head)
                if self.trace is not None:
                    self.trace.sent_interim(status)

    def _await_interim(self) -> None:
        """Wait until no interim response is being sent. That takes one send, which never waits."""
        if self.interim is not None:
            with self.interim:
                pass

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        """See `penstock.transport.Exchange.respond`."""
        if self.state is not WAITING:
            self._require_open()
            raise RuntimeError("the response's head has been sent already")
        self.status = status
        self.code = status_code(status)
        self.response_headers = headers
        self._content_length = content_length

    def send(self, data: bytes) -> None:
        """See `penstock.transport.Exchange.send`."""
        if not data:
            return
        self._require_open()
        head = b"" if self.state is SENDING else self._begin_stream()
        framing = self._framing
        if framing is NONE:
            if head:
                self.transmit(head)
            return
        if len(data) > self.connection.loop.config.join_bytes:
            if framing is CHUNKED:
                self._transmit(head + b"%x\r\n" % len(data), data, b"\r\n")
            else:
                self._transmit(head, data)
        elif framing is CHUNKED:
            self.transmit(head + encode_chunk(data))
        else:
            self.transmit(head + data)
        self.body_sent += len(data)
        connection = self.connection
        if self.trace is not None:
            self.trace.body_sent(data)
        if self.call_deadline is not None:
            self.call_deadline.progress(self.environ)
        if connection.output is not None:
            self._apply_back_pressure(connection.output)

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """See `penstock.transport.Exchange.send_file`."""
        if count <= 0:
            return
        self._require_open()
        try:
            region = FileRegion(descriptor, offset, count, self.connection.loop.budget)
        except OSError:
            # No descriptor is left for a second one: then this one has to do, while it is open.
            self._send_by_reading(descriptor, offset, count)
            return
        self._send_region(region)

    def require_kept(self) -> None:
        """Raise `RequestAborted` where the server has ended the request under its thread."""
        if self.state is ABORTED:
            raise RequestAborted(f"the server ended the request: {self.reason}")

    def _require_open(self) -> None:
        self.require_kept()
        if self.state is ENDED:  # the connection may be at its next request
            raise RuntimeError("the response has ended")
        if self.state is RELAYING:
            raise ResponseRelayed("the application has taken the socket of this request")

    def _send_region(self, region: FileRegion) -> None:
        head = b"" if self.state is SENDING else self._begin_stream()
        framing, count = self._framing, region.count
        output = self.connection.make_output()
        if framing is NONE:
            region.close()
            if head:
                self.transmit(head)
            return
        if framing is CHUNKED:
            head += b"%x\r\n" % count
        if head:
            output.append(head)
        if self.trace is not None:
            shown = min(count, self.connection.loop.config.trace_body_bytes)
            start = os.pread(region.descriptor, shown, region.offset)
            self.trace.body_sent(start)
        output.append(region)
        self.body_sent += count
        if self.call_deadline is not None:
            self.call_deadline.progress(self.environ)
        if framing is CHUNKED:
            output.append(b"\r\n")
        self._flush(output)

    def _send_by_reading(self, descriptor: int, offset: int, count: int) -> None:
        end = offset + count
        most = self.connection.loop.config.join_bytes
        while offset < end:
            block = os.pread(descriptor, min(most, end - offset), offset)
            if not block:
                raise FileTruncatedError(errno.EIO, FILE_TRUNCATED)
            self.send(block)
            offset += len(block)

    def finish(self, data: bytes = b"") -> None:
        """See `penstock.transport.Exchange.finish`."""
        state = self.state
        if state is WAITING:
            # Without a body, `data` does not tell what its length would be (RFC 9110, section 8.6).
            if self._content_length is None and has_body(self.request.method == "HEAD", self.code):
                self._content_length = len(data)
            head = self._make_head()
            loop = self.connection.loop
            if loop.observers is not None:
                self.first_byte_at = time.monotonic()
            if not data or self._framing is NONE:
                self.transmit(head)
            else:
                size = len(data)
                if size <= loop.config.join_bytes:
                    self.transmit(head + data)
                else:
                    self._transmit(head, data)
                self.body_sent = size
                if self.trace is not None:
                    self.trace.body_sent(data)
        elif state is SENDING:
            self._finish_body(data)
        else:
            if state is not ENDED:
                self._require_open()
            return
        if self.streamed is not None:
            self._end()
        elif self.state is SENDING:  # as `_claim_end` does, without the call
            self.state = ENDED
            self.connection.take_back(self)

    def _finish_body(self, data: bytes) -> None:
        """Send the last block, and what ends the body."""
        framing = self._framing
        if framing is NONE:
            return
        if framing is CHUNKED:
            self.transmit(encode_chunk(data) + LAST_CHUNK if data else LAST_CHUNK)
        elif data:
            self.transmit(data)
        else:
            # Nothing is sent that would fail, where the leader found that no more can be.
            output = self.connection.output
            if output is not None and output.failure is not None:
                raise self.disconnected(output.failure)
        if data:
            self.body_sent += len(data)
            if self.trace is not None:
                self.trace.body_sent(data)

    def abort(self) -> None:
        """See `penstock.transport.Exchange.abort`."""
        if self.done:
            return
        if self.state is RELAYING and self.websocket is not None:
            self.websocket.cut(self.reason or "response cut off")
            return
        gone = self.connection.stream.client_gone.known
        # A body that ends with the connection would look complete; so would a connection that
        # closes in good order before any response, to a client that retries.
        if gone or self.state is WAITING or self._framing is UNTIL_CLOSE:
            self.worsen(RESET)
        else:
            self.connection.stream.forgo_end()
            self.close_after_response()
        self._end(self.reason or "response cut off")

    # -- a WebSocket in the place of a response --------------------------------------------------

    def take_stream(self) -> PythonClientStream:
        """See `penstock.transport.Exchange.take_stream`."""
        self._require_open()
        # Looked at and set in one step: nothing is called in between, so no other thread runs.
        if self.state is not WAITING:
            raise ResponseRelayed("the response has begun")
        self.state = RELAYING
        self.plain = False
        self.first_byte_at = time.monotonic()  # what answers the handshake follows at once
        self._await_interim()
        self.close_after_response()
        return PythonClientStream(self.connection)

    def end_relay(
        self,
        status: str,
        headers: HeaderList,
        counts: tuple[int, int],
        reason: str,
        reset: bool,
        aborted: bool,
    ) -> None:
        """See `penstock.transport.Exchange.end_relay`."""
        if aborted:
            self.reason = reason  # before its thread can find the response aborted
        if self._claim_end(ABORTED if aborted else ENDED) is not None:
            self.status = status
            self.code = status_code(status) if status else 0
            self.response_headers = headers
            self.body_received, self.body_sent = counts
            if reset:
                self.worsen(RESET)
            self.connection.take_back(self, reason)

    def look_at_relayed(self) -> None:
        """Have the relay look at the stream: the leader may have taken input off the socket."""
        if self.websocket is not None:
            self.websocket.look()

    # -- in the queue ---------------------------------------------------------------------------

    def waited_until(self, now: int) -> None:
        """Tell the application for how long the request has waited for its thread."""
        waited = self.queue_time = (now - self.queued_at) / 1e9
        self.environ["penstock.queue_time"] = waited
        # As nginx's "t=${msec}" makes it, which monitoring agents read.
        self.environ["HTTP_X_REQUEST_START"] = f"t={time.time() - waited:.3f}"

    def drop(self) -> None:
        """End an exchange whose client left before a thread was free."""
        self._drop_body()
        self.worsen(RESET)
        self._end(self.connection.loop.config.left_in_queue)

    def refuse(self, error: ProtocolError, reason: str) -> None:
        """Answer in the place of the application, which no thread has called.

        The connection is kept where the request was read whole, or nearly so. ``reason`` is for the
        access log.
        """
        if self._claim_end(ENDED) is not None:
            self._drop_body()
            if self.streamed is not None and not self.streamed.over:
                self._decide_unread_body(self.streamed)
            connection = ""
            if (
                self.fate is not KEEP
                or not self.request.keep_alive
                or self.connection.loop.draining
            ):
                self.close_after_response()
                connection = "close"
            elif self.request.version == "HTTP/1.0":
                connection = "keep-alive"
            self._answer(error, connection)
            log_refused(self, error)
            self.connection.take_back(self, reason)

    def time_out(self, reason: str) -> bool:
        """End an exchange while a thread still has it. Return True if it was in progress.

        That thread may be in any of the methods. Either it finds the response aborted before it
        sends a head, or it has begun to send one, and 504 is not sent: there are never two heads.
        """
        if self.done:
            return False
        if self.state is RELAYING and self.websocket is not None:
            self.websocket.cut(reason)
            return True
        self.reason = reason  # before its thread can find the response aborted
        before = self._claim_end(ABORTED)
        if before is None:
            return False
        self.close_after_response()
        if before is not WAITING:
            self.worsen(RESET)
        else:
            self._answer(ProtocolError(504, self.connection.loop.config.timed_out), "close")
        self.connection.take_back(self, reason)
        return True

    def _answer(self, error: ProtocolError, connection: str) -> None:
        """Send an answer of the server's own; ``connection`` is its Connection field."""
        self._await_interim()
        self.status = f"{error.status} {REASON_PHRASES[error.status]}"
        self.code = error.status
        self.response_headers = []
        self.describe(error)
        fields = self.connection.server_fields
        added = fields.now()
        if self.connection.loop.config.send_request_id:
            added += self._id_field()
        head, body = error_response(error, added, connection)
        self.body_sent = len(body)
        if self.trace is not None:
            self.trace.answered(head, body)
        try:
            self.transmit(head + body)
        except ClientDisconnected:
            self.worsen(RESET)

    def describe(self, error: ProtocolError) -> None:
        """Add to an error which request it answers."""
        request = self.request
        error.request_line = f"{request.method} {request.target} {request.version}"
        error.fields = request.fields

    def set_reason(self, reason: str) -> None:
        """See `penstock.transport.Exchange.set_reason`."""
        self.reason = reason

    def close_after_response(self) -> None:
        """See `penstock.transport.Exchange.close_after_response`."""
        self.worsen(CLOSE)

    def worsen(self, fate: Fate) -> None:
        """Set what happens after the response, unless that is worse already. For any thread."""
        with self.connection.loop.fate_lock:  # the server may end it while its thread does
            if fate > self.fate:
                self.fate = fate

    def client_gone(self) -> bool:
        """See `penstock.transport.Exchange.client_gone`."""
        return self.state is ABORTED or self.connection.stream.client_gone()

    # -- the head -------------------------------------------------------------------------------

    def _begin_stream(self) -> bytes:
        """Return the head of a response that is sent in parts."""
        head = self._make_head()
        self.first_byte_at = time.monotonic()
        self.plain = False
        return head

    def _make_head(self) -> bytes:
        request, connection, status = self.request, self.connection, self.status
        loop = connection.loop
        fields = self.response_headers
        if type(fields) is not ResponseFields:
            fields = self.response_headers = ResponseFields(fields)
        if self.streamed is not None and not self.streamed.over:
            self._decide_unread_body(self.streamed)
        closes = self.fate is not KEEP or not request.keep_alive or loop.draining
        own = connection.server_fields
        own_lines = own.now() if not fields.replaces_own else fields.lines_of(own)
        if loop.config.send_request_id:
            own_lines += self._id_field()
        made_of = (
            status,
            own_lines,
            request.method,
            request.version,
            self._content_length,
            closes,
        )
        made = fields.made
        if made.of != made_of:
            made = fields.made = self._encode_head(fields, made_of)
        self._framing = made.framing
        if closes or made.framing is UNTIL_CLOSE:
            self.close_after_response()
        # Looked at and set in one step: nothing is called in between, so no other thread runs.
        if self.state is WAITING:
            self.state = SENDING
        else:
            self._require_open()
        if self.interim is not None:
            self._await_interim()
        if self.trace is not None:
            self.trace.head_sent(status, fields, made.added)
        return made.head

    def _encode_head(self, fields: ResponseFields, made_of: HeadParts) -> Head:
        """Return the head of the response with ``fields``, made of nothing but ``made_of``."""
        status, added, method, version, content_length, closes = made_of
        framing, framing_field = choose_framing(
            method == "HEAD", version, self.code, content_length
        )
        added += framing_field
        kept = self.connection.loop.config.keep_alive_field
        if closes or framing is UNTIL_CLOSE:
            added += "Connection: close\r\n"
        elif version == "HTTP/1.0" or kept:
            added += f"Connection: keep-alive\r\n{kept}"
        head = encode_head_of_lines(status, fields.lines, added)
        return Head(made_of, framing, added, head)

    def _id_field(self) -> str:
        """Return the line with the id of the request, unless the application has set it."""
        if any(name.lower() == "x-request-id" for name, _ in self.response_headers):
            return ""
        return f"X-Request-ID: {self.request_id}\r\n"

    # -- sending --------------------------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """Send bytes now where the kernel takes them, and queue the rest."""
        connection = self.connection
        if connection.output is not None and connection.output.busy():
            self._queue(connection.output, data)
            return
        try:
            send = connection.stream.send  # calling a slot without this takes longer
            sent = send(data, NO_SIGNAL)
            connection.traffic.sent += sent
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self.disconnected(error) from error
        if sent != len(data):
            self._keep((data,), sent)

    def _transmit(self, *pieces: bytes) -> None:
        """Send pieces as one, without copying them together."""
        connection = self.connection
        if connection.output is not None and connection.output.busy():
            self._queue(connection.output, *pieces)
            return
        try:
            sent = connection.stream.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self.disconnected(error) from error
        self._keep(pieces, sent)

    def _queue(self, output: Output, *pieces: bytes) -> None:
        for piece in pieces:
            output.append(piece)
        self._flush(output)

    def _keep(self, pieces: Sequence[bytes], sent: int) -> None:
        """Queue what is left of ``pieces`` behind their first ``sent`` bytes."""
        output = self.connection.make_output()
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            output.append(memoryview(piece)[sent:])
            sent = 0

    def _flush(self, output: Output) -> None:
        try:
            output.flush()
        except OSError as error:
            raise self.disconnected(error) from error
        if output.take_missed():
            self.connection.loop.post(self.connection)
            self.connection.loop.hurry()

    def _apply_back_pressure(self, output: Output) -> None:
        """Wait or spool while more is unsent than may be; have the loop send what then remains."""
        if not output.busy():
            return
        loop = self.connection.loop
        self._flush(output)
        if output.memory > loop.config.unsent_limit:
            self._make_room(output)
        if output.size:
            # The block has to be on its way before the application is asked for the next one.
            loop.post(self.connection)
            loop.hurry()

    @contextmanager
    def waiting_for_client(self) -> Iterator[None]:
        """Stop the clock of the call's deadline: its thread waits for the client."""
        deadline, before = self.call_deadline, time.monotonic()
        number = 0 if deadline is None else deadline.stop_clock()
        try:
            yield
        finally:
            if deadline is not None:
                deadline.go_on(number, self.environ)
            waited = time.monotonic() - before
            self.client_wait += waited
            self.plain = False

    def _make_room(self, output: Output) -> None:
        stream, loop = self.connection.stream, self.connection.loop
        awaited = RoomAwaited(output, loop.config)
        step = OutputStep.SPOOL
        output.awaited = True
        try:
            while step == OutputStep.SPOOL:
                with self.waiting_for_client():
                    step = awaited.wait()
                # The time that a disk takes counts: it is no waiting for the client.
                if step == OutputStep.SPOOL:
                    awaited.begin_again(refused=not (loop.attend() and output.move_to_spool()))
        except OSError as error:
            raise self.disconnected(error) from error
        finally:
            output.awaited = False
        if step == OutputStep.WAIT:
            stream.client_gone.known = True
            raise ClientDisconnected(CLIENT_STALLED)

    def disconnected(self, error: OSError) -> OSError:
        """Return what is to be raised where ``error`` kept output from being sent."""
        self.close_after_response()
        if isinstance(error, FileTruncatedError):
            return error
        if is_disconnect(error):
            self.connection.stream.client_gone.known = True
        return ClientDisconnected(lost_client(error))

    # -- the end --------------------------------------------------------------------------------

    def _claim_end(self, after: ResponseState) -> ResponseState | None:
        """End the response, unless it is over. Return what its state was; None if it is over.

        The first of two threads that do so ends it.
        """
        if self.streamed is None:
            return self._swap(after)
        with self.streamed.taking:  # what is being taken off the socket is still of it
            return self._swap(after)

    def _swap(self, after: ResponseState) -> ResponseState | None:
        # Looked at and set in one step: nothing is called in between, so no other thread runs.
        before = self.state
        if before is WAITING or before is SENDING or before is RELAYING:
            self.state = after
            return before
        return None

    def _end(self, reason: str = "") -> None:
        if self._claim_end(ENDED) is not None:
            self.connection.take_back(self, reason)
