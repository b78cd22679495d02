"""One request that is with the application, and the means to answer it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.errors import ClientDisconnected, RequestAborted
from penstock.http1 import (
    LAST_CHUNK,
    Framing,
    ProtocolError,
    Request,
    State,
    choose_framing,
    encode_chunk,
    encode_head,
    error_response,
    has_body,
)
from penstock.transport import HeaderList
from penstock.transport.decisions import keeps_connection
from penstock.transport.python.output import FileRegion, FileTruncatedError, Output
from penstock.transport.python.stream import is_disconnect
from penstock.transport.python.streamed_body import StreamedBody
from penstock.transport.states import Fate, Phase

if TYPE_CHECKING:
    from penstock.transport.python.call_deadline import CallDeadline
    from penstock.transport.python.connection import Connection

GATEWAY_TIMEOUT = "504 Gateway Timeout"

_DATE_OR_SERVER = frozenset({len("Date"), len("Server")})

# Looking up an attribute of an Enum is slow.
NONE, _, CHUNKED, CLOSE = Framing
KEEP, RESET = Fate.KEEP, Fate.RESET
ANSWERED = Phase.ANSWERED


class PythonExchange:
    """`penstock.transport.Exchange` over one `Connection`, by the thread that handles it."""

    __slots__ = (
        "_body_length",
        "_content_length",
        "_framing",
        "_headers",
        "_status",
        "_streamed",
        "aborted",
        "body",
        "body_sent",
        "call_deadline",
        "connection",
        "done",
        "environ",
        "first_byte_at",
        "handed_out_at",
        "head_sent",
        "reason",
        "request",
        "request_id",
        "silent",
    )

    def __init__(
        self,
        connection: Connection,
        request: Request,
        environ: dict[str, Any],
        body: BinaryIO | None,
        body_length: int | None,
        request_id: str,
    ) -> None:
        self.connection = connection
        self.request = request
        self.environ = environ
        self.body = body
        self.request_id = request_id
        self.head_sent = False
        self.done = False
        self.first_byte_at: float | None = None  # when the head was sent, if there are observers
        self.silent = False  # the observers do not get it
        self.handed_out_at = 0  # in monotonic nanoseconds; set by the leader-followers
        self.body_sent = 0  # bytes of the response's body, without framing
        self.reason = ""  # what the application's end is explained by, for the logs
        self._status = ""
        self._headers: HeaderList = []
        self.aborted = False  # by the server, under the thread that has it
        self.call_deadline: CallDeadline | None = None  # set by the leader-followers
        self._content_length: int | None = None
        self._framing = NONE
        self._body_length = body_length or 0
        self._streamed = StreamedBody(connection, request) if body is None else None

    def receive(self, size: int) -> bytes:
        """See `penstock.transport.Exchange.receive`."""
        assert self._streamed is not None
        return self._streamed.receive(self, size)

    # -- the response ---------------------------------------------------------------------------

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """See `penstock.transport.Exchange.send_informational`."""
        if self.request.version == "HTTP/1.1" and not self.head_sent:
            self._require_open()
            self.transmit(encode_head(status, headers))
            if self.connection.trace is not None:
                self.connection.trace.sent_interim(status)

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        """See `penstock.transport.Exchange.respond`."""
        if self.head_sent:
            self._require_open()
            raise RuntimeError("the response's head has been sent already")
        self._status = status
        self._headers = headers
        self._content_length = content_length

    def send(self, data: bytes) -> None:
        """See `penstock.transport.Exchange.send`."""
        if not data:
            return
        self._require_open()
        head = b"" if self.head_sent else self._make_head()
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
        if connection.trace is not None:
            connection.trace.body_sent(data)
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
            region = FileRegion(descriptor, offset, count)
        except OSError:
            # No descriptor is left for a second one: then this one has to do, while it is open.
            self._send_by_reading(descriptor, offset, count)
            return
        self._send_region(region)

    def require_kept(self) -> None:
        """Raise `RequestAborted` where the server has ended the request under its thread."""
        if self.aborted:
            raise RequestAborted(f"the server ended the request: {self.reason}")

    def _require_open(self) -> None:
        self.require_kept()
        if self.done:  # the connection may be at its next request
            raise RuntimeError("the response has ended")

    def _send_region(self, region: FileRegion) -> None:
        head = b"" if self.head_sent else self._make_head()
        framing, count = self._framing, region.count
        output = self._output()
        if framing is NONE:
            region.close()
            if head:
                self.transmit(head)
            return
        if framing is CHUNKED:
            head += b"%x\r\n" % count
        if head:
            output.append(head)
        if self.connection.trace is not None:
            shown = min(count, self.connection.loop.config.trace_body_bytes)
            start = os.pread(region.descriptor, shown, region.offset)
            self.connection.trace.body_sent(start)
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
                raise FileTruncatedError(errno.EIO, "the file became shorter while it was sent")
            self.send(block)
            offset += len(block)

    def finish(self, data: bytes = b"") -> None:
        """See `penstock.transport.Exchange.finish`."""
        if self.done:
            self.require_kept()
            return
        if self.head_sent:
            self._finish_body(data)
        else:
            self._finish_whole(data)
        self._end()

    def _finish_whole(self, data: bytes) -> None:
        """Send head and body at once."""
        # Without a body, `data` does not tell what its length would be (RFC 9110, section 8.6).
        if self._content_length is None and has_body(
            self.request.method == "HEAD", int(self._status[:3])
        ):
            self._content_length = len(data)
        head = self._make_head()
        if not data or self._framing is NONE:
            self.transmit(head)
            return
        if len(data) <= self.connection.loop.config.join_bytes:
            self.transmit(head + data)
        else:
            self._transmit(head, data)
        self.body_sent = len(data)
        if self.connection.trace is not None:
            self.connection.trace.body_sent(data)

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
            if self.connection.trace is not None:
                self.connection.trace.body_sent(data)

    def abort(self) -> None:
        """See `penstock.transport.Exchange.abort`."""
        if self.done:
            return
        connection = self.connection
        # A body that ends with the connection would look complete; so would a connection that
        # closes in good order before any response, to a client that retries.
        if connection.stream.client_gone.known or not self.head_sent or self._framing is CLOSE:
            connection.worsen(RESET)
        else:
            connection.close_after_response()
        self._end(self.reason or "response cut off")

    def drop_if_departed(self) -> bool:
        """End an exchange whose client has disconnected. Return True if it was one."""
        ended_for = time.monotonic() - self.connection.ended_at
        if ended_for < self.connection.loop.config.disconnect_seconds and not self.client_gone():
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """End an exchange whose client left before a thread was free."""
        self.connection.worsen(RESET)
        self.handed_out_at = time.monotonic_ns()
        self._end("the client left before a thread was free")

    def time_out(self, reason: str) -> bool:
        """End an exchange while a thread still has it. Return True if it was in progress.

        That thread may be in any of the methods. It sets ``head_sent``, and then looks at ``done``;
        here it is the other order: so there are never two heads.
        """
        if self.done:
            return False
        self.reason = reason
        self.aborted = True  # before it is over: its thread looks at them in the other order
        if not self._claim_end():
            self.aborted = False
            return False
        connection = self.connection
        connection.close_after_response()
        if self.head_sent:
            connection.worsen(RESET)
        else:
            self.head_sent = True
            self._status, self._headers = GATEWAY_TIMEOUT, []
            error = ProtocolError(int(GATEWAY_TIMEOUT[:3]), connection.loop.config.timed_out)
            head, body = error_response(error, connection.loop.server_fields.now())
            if self.request.method == "HEAD":
                body = b""
            self.body_sent = len(body)
            if connection.trace is not None:
                connection.trace.answered(head, body)
            try:
                self.transmit(head + body)
            except ClientDisconnected:
                connection.worsen(RESET)
        self._give_back(reason)
        return True

    def set_reason(self, reason: str) -> None:
        """See `penstock.transport.Exchange.set_reason`."""
        self.reason = reason

    def close_after_response(self) -> None:
        """See `penstock.transport.Exchange.close_after_response`."""
        self.connection.close_after_response()

    def client_gone(self) -> bool:
        """See `penstock.transport.Exchange.client_gone`."""
        return self.aborted or self.connection.stream.client_gone()

    # -- the head -------------------------------------------------------------------------------

    def _make_head(self) -> bytes:
        request, connection = self.request, self.connection
        status = self._status
        framing, framing_field = choose_framing(
            request.method == "HEAD", request.version, int(status[:3]), self._content_length
        )
        self._framing = framing
        if self._streamed is not None and not self._streamed.over:
            self._settle_request_body(self._streamed)
        added = self._date_and_server() + framing_field
        if (
            connection.fate is not KEEP
            or not request.keep_alive
            or framing is CLOSE
            or connection.loop.draining
        ):
            connection.close_after_response()
            added += "Connection: close\r\n"
        elif request.version == "HTTP/1.0":
            added += "Connection: keep-alive\r\n"
        self.head_sent = True
        if connection.loop.observers is not None:
            self.first_byte_at = time.monotonic()
        if self.done:
            self._require_open()
        if connection.trace is not None:
            connection.trace.head_sent(status, self._headers, added)
        return encode_head(status, self._headers, added)

    def _date_and_server(self) -> str:
        """Return the lines of Date and Server, but for what the application gave itself."""
        fields = self.connection.loop.server_fields
        for name, _ in self._headers:
            if len(name) in _DATE_OR_SERVER and name.lower() in ("date", "server"):
                break
        else:
            return fields.now()
        given = {name.lower() for name, _ in self._headers}
        date = "" if "date" in given else fields.date_line()
        return date if "server" in given else date + fields.server_line()

    def _settle_request_body(self, streamed: StreamedBody) -> None:
        """Decide what to do with a streamed body that was not read to its end.

        A short rest is dropped later, to keep the connection; otherwise the connection
        ends. The rest of a body is never taken for a request.
        """
        parser = self.connection.parser
        if parser.state is State.DONE:
            return
        remaining = parser.body_remaining
        if not keeps_connection(self.connection.loop.config, streamed.continue_owed, remaining):
            self.connection.close_after_response()

    # -- sending --------------------------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """Send bytes now where the kernel takes them, and queue the rest."""
        connection = self.connection
        if connection.output is not None and connection.output.busy():
            self._queue(connection.output, data)
            return
        try:
            sent = connection.stream.send(data)
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
        output = self._output()
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            output.append(memoryview(piece)[sent:])
            sent = 0

    def _output(self) -> Output:
        connection = self.connection
        if connection.output is None:
            connection.output = Output(connection.stream, connection.loop.config.flush_bytes)
        return connection.output

    def _flush(self, output: Output) -> None:
        try:
            output.flush()
        except OSError as error:
            raise self.disconnected(error) from error

    def _apply_back_pressure(self, output: Output) -> None:
        """Wait while more is unsent than may be; have the loop send what then remains."""
        if not output.busy():
            return
        loop = self.connection.loop
        self._flush(output)
        limit = loop.config.unsent_limit
        if output.size > limit:
            with self.waiting_for_client():
                self._wait_for_room(output, limit)
        if output.size:
            # The block has to be on its way before the application is asked for the next one.
            loop.post(self.connection)
            loop.hurry()

    @contextmanager
    def waiting_for_client(self) -> Iterator[None]:
        """Stop the clock of the call's deadline: its thread waits for the client."""
        if self.call_deadline is None:
            yield
            return
        number = self.call_deadline.stop_clock()
        try:
            yield
        finally:
            self.call_deadline.go_on(number, self.environ)

    def _wait_for_room(self, output: Output, mark: int) -> None:
        connection = self.connection
        connection.awaiting_room = True
        try:
            self._wait_until_below(output, mark)
        finally:
            connection.awaiting_room = False

    def _wait_until_below(self, output: Output, mark: int) -> None:
        connection = self.connection
        config = connection.loop.config
        before = output.acknowledged()
        deadline = time.monotonic() + config.write_timeout
        while output.size > mark:
            remaining = deadline - time.monotonic()
            if remaining > 0:
                connection.stream.wait_writable(min(remaining, config.wait_slice_seconds))
                self._flush(output)
                continue
            taken = output.acknowledged()
            if taken - before < config.least_progress:
                connection.stream.client_gone.known = True
                raise ClientDisconnected("the client stalled past the write deadline")
            before = taken
            deadline = time.monotonic() + config.write_timeout

    def disconnected(self, error: OSError) -> ClientDisconnected:
        """Return what is to be raised where the socket failed."""
        if is_disconnect(error):
            self.connection.stream.client_gone.known = True
        self.connection.close_after_response()
        return ClientDisconnected(f"the client is gone: {error.strerror or error}")

    # -- the end --------------------------------------------------------------------------------

    def _claim_end(self) -> bool:
        """Mark the exchange as over. Return True for the first of two threads that do so."""
        # Nothing is called between the look and the store, so that no other thread runs there.
        if self._streamed is None:
            over, self.done = self.done, True
        else:
            with (
                self._streamed.taking
            ):  # what is being taken off the socket is still of this request
                over, self.done = self.done, True
        return not over

    def _end(self, reason: str = "") -> None:
        if self._streamed is not None:
            over = not self._claim_end()
        else:  # as `_claim_end` does, without the call: each request comes here
            over, self.done = self.done, True
        if not over:
            self._give_back(reason)

    def _give_back(self, reason: str) -> None:
        """Tell of an exchange that is over, and give the connection back to the leader."""
        connection = self.connection
        loop = connection.loop
        duration = time.monotonic_ns() - self.handed_out_at
        unsent = connection.output is not None and connection.output.size > 0
        if not self.silent:
            loop.note_call(self.request.path, duration)
            if unsent and not reason:
                connection.exchange = self  # reported when the client has it, or never will
            elif loop.observers is not None:
                loop.report_exchange(self, reason)
        connection.phase = ANSWERED
        loop.post(connection)
        # The leader need not hurry where the client's next request is what wakes it up anyway.
        # Looked at only now: it may just have stopped to watch for that request.
        if (
            connection.fate is not KEEP
            or connection.watched != EVENT_READ
            or connection.parser.buffer.data
            or unsent
            or loop.draining
        ):
            loop.hurry()

    # What the record of a finished request asks for.

    @property
    def status(self) -> str:
        """The response's status line, such as ``200 OK``; empty when there was none."""
        return self._status

    @property
    def response_headers(self) -> HeaderList:
        """The application's response fields."""
        return self._headers

    @property
    def body_received(self) -> int:
        """How many bytes of the request's body have arrived."""
        return self._body_length if self._streamed is None else self._streamed.received
