"""One request that is with the application, and the means to answer it."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Sequence
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.errors import ClientDisconnected, RequestBodyError
from penstock.http1 import (
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
)
from penstock.transport import HeaderList
from penstock.transport.limits import DISCARD_BYTES, JOIN_BYTES
from penstock.transport.python.output import FileRegion, FileTruncatedError, Output, is_disconnect
from penstock.transport.python.tap import BODY_BYTES

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

RECEIVE_PATIENCE_SECONDS = 1.0
"""How long a thread waits for the body before it looks whether the response has ended meanwhile:
then the input is no longer its own, and the leader may take it before the thread has woken."""

_DATE_OR_SERVER = frozenset({len("Date"), len("Server")})

NONE, LENGTH, CHUNKED, CLOSE = Framing  # an enum's attributes are slow to look up


class PythonExchange:
    """`penstock.transport.Exchange` over one `Connection`, by the thread that handles it."""

    __slots__ = (
        "_body_over",
        "_connection",
        "_content_length",
        "_continue_owed",
        "_framing",
        "_headers",
        "_received",
        "_receiving",
        "_status",
        "_unread",
        "_waited",
        "body",
        "body_sent",
        "done",
        "environ",
        "handed_out_at",
        "head_sent",
        "reason",
        "request",
        "request_id",
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
        self._connection = connection
        self.request = request
        self.environ = environ
        self.body = body
        self.request_id = request_id
        self.head_sent = False
        self.done = False
        self.handed_out_at = 0.0  # set by the crew
        self.body_sent = 0  # bytes of the response's body, without framing
        self.reason = ""  # what the application's end is explained by, for the logs
        self._status = ""
        self._headers: HeaderList = []
        self._content_length: int | None = None
        self._framing = NONE
        self._received = body_length or 0  # bytes of the request's body
        if body is None:
            self._received = 0
            self._body_over = False
            self._continue_owed = request.expect_continue
            self._unread = b""
            self._waited = 0.0  # seconds for which `receive` has waited for the client
            # Held while input is taken, not while it is waited for: an application may read in
            # another thread than the one that ends the response, and so gives the connection back.
            self._receiving = threading.Lock()
        else:
            self._body_over = True
            self._continue_owed = False

    # -- the request's body, where it is streamed -------------------------------------------

    def receive(self, size: int) -> bytes:
        """See `penstock.transport.Exchange.receive`."""
        while not self._unread and not self._body_over:
            with self._receiving:
                if self.done:
                    # The connection is the leader's again: what arrives may be of another request.
                    raise OSError("the response has ended: its request can no longer be read")
                waits = not self._receive_some()
            if waits:
                self._wait_for_input()
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _receive_some(self) -> bool:
        """Look for a part of the body; tell whether there is one, or its end."""
        if self._take_from_parser():
            return True
        self._send_continue_if_owed()
        self._read_socket()
        return self._take_from_parser()

    def _take_from_parser(self) -> bool:
        connection = self._connection
        parser = connection.parser
        try:
            event = parser.next_event()
        except ProtocolError as error:
            connection.close_after = True
            raise RequestBodyError(error.status, error.reason) from error
        kind = type(event)
        if kind is Data:
            self._unread = event.data  # type: ignore[union-attr]
            self._received += len(self._unread)
            if connection.tap is not None:
                connection.tap.body_received(self._unread, parser.buffered)
        elif kind is EndOfMessage:
            self._body_over = True
        return bool(self._unread) or self._body_over

    def _read_socket(self) -> None:
        connection = self._connection
        try:
            received = connection.socket.recv(JOIN_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._disconnected(error) from error
        if received:
            if connection.tap is not None:
                connection.tap.received(received)
            connection.parser.receive_data(received)
        else:
            connection.parser.receive_eof()

    def _send_continue_if_owed(self) -> None:
        # PEP 3333 leaves the time to the server; with the first read is the one at which the
        # application has shown that it wants the body. Never once a response has begun.
        if self._continue_owed and not self.head_sent:
            self._continue_owed = False
            self._transmit_one(CONTINUE)
            if self._connection.tap is not None:
                self._connection.tap.sent_interim("100 Continue")

    def _wait_for_input(self) -> None:
        """Wait until the socket is readable, within what the body's clock allows.

        Only waiting counts: a client is not blamed for an application that reads slowly.
        """
        limits = self._connection.loop.limits
        allowed = limits.body_allowance(self._received, self._waited) - self._waited
        before = time.monotonic()
        poller = select.poll()
        poller.register(self._connection.socket, select.POLLIN)
        ready = allowed > 0 and poller.poll(min(allowed, RECEIVE_PATIENCE_SECONDS) * 1000)
        waited = time.monotonic() - before
        self._waited += waited
        if not ready and waited >= allowed and not self.done:
            self._connection.close_after = True
            raise RequestBodyError(408, "the request's body came too slowly (body_timeout)")

    # -- the response ---------------------------------------------------------------------------

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        """See `penstock.transport.Exchange.send_informational`."""
        if self.request.version == "HTTP/1.1" and not self.head_sent:
            self._require_open()
            self._transmit_one(encode_head(status, headers))
            if self._connection.tap is not None:
                self._connection.tap.sent_interim(status)

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        """See `penstock.transport.Exchange.respond`."""
        if self.head_sent:
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
                self._transmit_one(head)
            return
        if len(data) > JOIN_BYTES:
            if framing is CHUNKED:
                self._transmit(head + b"%x\r\n" % len(data), data, b"\r\n")
            else:
                self._transmit(head, data)
        elif framing is CHUNKED:
            self._transmit_one(head + encode_chunk(data))
        else:
            self._transmit_one(head + data)
        self.body_sent += len(data)
        connection = self._connection
        if connection.tap is not None:
            connection.tap.body_sent(data)
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

    def _require_open(self) -> None:
        if self.done:  # the connection may be at its next request
            raise RuntimeError("the response has ended")

    def _send_region(self, region: FileRegion) -> None:
        head = b"" if self.head_sent else self._make_head()
        framing, count = self._framing, region.count
        output = self._output()
        if framing is NONE:
            region.close()
            if head:
                self._transmit_one(head)
            return
        if framing is CHUNKED:
            head += b"%x\r\n" % count
        if head:
            output.append(head)
        if self._connection.tap is not None:
            start = os.pread(region.descriptor, min(count, BODY_BYTES), region.offset)
            self._connection.tap.body_sent(start)
        output.append(region)
        self.body_sent += count
        if framing is CHUNKED:
            output.append(b"\r\n")
        self._flush(output)

    def _send_by_reading(self, descriptor: int, offset: int, count: int) -> None:
        end = offset + count
        while offset < end:
            block = os.pread(descriptor, min(JOIN_BYTES, end - offset), offset)
            if not block:
                raise FileTruncatedError(errno.EIO, "the file became shorter while it was sent")
            self.send(block)
            offset += len(block)

    def finish(self, data: bytes = b"") -> None:
        """See `penstock.transport.Exchange.finish`."""
        if self.done:
            return
        if self.head_sent:
            self._finish_body(data)
        else:
            self._finish_whole(data)
        self._end()

    def _finish_whole(self, data: bytes) -> None:
        """Send head and body at once."""
        # To HEAD, and with a 304, it would be the length of what is not sent here, which nobody
        # knows (RFC 9110, section 8.6).
        if self._content_length is None and not (
            self.request.method == "HEAD" or self._status.startswith("304")
        ):
            self._content_length = len(data)
        head = self._make_head()
        if not data or self._framing is NONE:
            self._transmit_one(head)
            return
        if len(data) <= JOIN_BYTES:
            self._transmit_one(head + data)
        else:
            self._transmit(head, data)
        self.body_sent = len(data)
        if self._connection.tap is not None:
            self._connection.tap.body_sent(data)

    def _finish_body(self, data: bytes) -> None:
        """Send the last block, and what ends the body."""
        framing = self._framing
        if framing is NONE:
            return
        if framing is CHUNKED:
            self._transmit_one(encode_chunk(data) + LAST_CHUNK if data else LAST_CHUNK)
        elif data:
            self._transmit_one(data)
        else:
            # Nothing is sent that would fail, where the leader found that no more can be.
            output = self._connection.output
            if output is not None and output.failure is not None:
                raise self._disconnected(output.failure)
        if data:
            self.body_sent += len(data)
            if self._connection.tap is not None:
                self._connection.tap.body_sent(data)

    def abort(self) -> None:
        """See `penstock.transport.Exchange.abort`."""
        if self.done:
            return
        connection = self._connection
        connection.close_after = True
        # A body that ends with the connection would look complete; so would a connection that
        # closes in good order before any response, to a client that retries.
        connection.broken = connection.gone or not self.head_sent or self._framing is CLOSE
        self._end(self.reason or "response cut off")

    def answer_options(self) -> None:
        """Answer ``OPTIONS *``, which is about the server as a whole (RFC 9110, section 9.3.7)."""
        self.handed_out_at = time.monotonic()
        try:
            self.respond("200 OK", [], 0)
            self.finish()
        except ClientDisconnected:
            self.abort()

    def drop_if_client_gone(self) -> bool:
        """End an exchange that nobody waits for any more; tell whether it was one."""
        if not self.client_gone():
            return False
        self._connection.broken = self._connection.close_after = True
        self.handed_out_at = time.monotonic()
        self._end("the client left before a thread was free")
        return True

    def explain(self, reason: str) -> None:
        """See `penstock.transport.Exchange.explain`."""
        self.reason = reason

    def close_after_response(self) -> None:
        """See `penstock.transport.Exchange.close_after_response`."""
        self._connection.close_after = True

    def client_gone(self) -> bool:
        """See `penstock.transport.Exchange.client_gone`."""
        connection = self._connection
        if not connection.gone:
            poller = select.poll()
            poller.register(connection.socket, 0)
            connection.gone = bool(poller.poll(0))  # POLLERR or POLLHUP, which are always told
        return connection.gone

    # -- the head -------------------------------------------------------------------------------

    def _make_head(self) -> bytes:
        request, connection = self.request, self._connection
        status, length = self._status, self._content_length
        framing = self._framing = choose_framing(
            request.method, request.version, int(status[:3]), length
        )
        if not self._body_over:
            self._settle_request_body()
        added = self._date_and_server()
        if framing is LENGTH:
            added = f"{added}Content-Length: {length}\r\n"
        elif framing is CHUNKED:
            added += "Transfer-Encoding: chunked\r\n"
        elif framing is NONE and length is not None and status[:3] != "204":
            # On HEAD and 304 it tells what a GET would have got (RFC 9110, section 8.6).
            added = f"{added}Content-Length: {length}\r\n"
        if (
            connection.close_after
            or not request.keep_alive
            or framing is CLOSE
            or connection.loop.draining
        ):
            connection.close_after = True
            added += "Connection: close\r\n"
        elif request.version == "HTTP/1.0":
            added += "Connection: keep-alive\r\n"
        self.head_sent = True
        if connection.tap is not None:
            connection.tap.head_sent(status, self._headers, added)
        return encode_head(status, self._headers, added)

    def _date_and_server(self) -> str:
        """Return the lines of Date and Server, but for what the application gave itself."""
        fields = self._connection.loop.server_fields
        for name, _ in self._headers:
            if len(name) in _DATE_OR_SERVER and name.lower() in ("date", "server"):
                break
        else:
            return fields.now()
        given = {name.lower() for name, _ in self._headers}
        date = "" if "date" in given else fields.date_line()
        return date if "server" in given else date + fields.server_line()

    def _settle_request_body(self) -> None:
        """Decide what becomes of a streamed body of which not all has been read.

        What is short is dropped later, for the connection's sake; otherwise the connection
        ends. In no case is the rest of a body taken for a request.
        """
        parser = self._connection.parser
        if parser.state is State.DONE:
            return
        remaining = parser.body_remaining
        if self._continue_owed or remaining is None or remaining > DISCARD_BYTES:
            self._connection.close_after = True

    # -- sending --------------------------------------------------------------------------------

    def _transmit_one(self, data: bytes) -> None:
        """Send bytes now where the kernel takes them, and queue the rest."""
        connection = self._connection
        if connection.output is not None and connection.output.busy():
            self._queue(connection.output, data)
            return
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._disconnected(error) from error
        if sent != len(data):
            self._keep((data,), sent)

    def _transmit(self, *pieces: bytes) -> None:
        """Send pieces as one, without copying them together."""
        connection = self._connection
        if connection.output is not None and connection.output.busy():
            self._queue(connection.output, *pieces)
            return
        try:
            sent = connection.socket.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._disconnected(error) from error
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
        connection = self._connection
        if connection.output is None:
            connection.output = Output(connection.socket)
        return connection.output

    def _flush(self, output: Output) -> None:
        try:
            output.flush()
        except OSError as error:
            raise self._disconnected(error) from error

    def _apply_back_pressure(self, output: Output) -> None:
        """Wait while more is unsent than may be; have the loop send what then remains."""
        if not output.busy():
            return
        loop = self._connection.loop
        self._flush(output)
        if output.size > loop.out_buffer:
            self._wait_for_room(output, loop.out_buffer)
        if output.size:
            # The block has to be on its way before the application is asked for the next one.
            loop.post(self._connection)
            loop.hurry()

    def _wait_for_room(self, output: Output, mark: int) -> None:
        connection = self._connection
        connection.awaiting_room = True
        try:
            self._wait_until_below(output, mark)
        finally:
            connection.awaiting_room = False

    def _wait_until_below(self, output: Output, mark: int) -> None:
        connection = self._connection
        limits = connection.loop.limits
        poller = select.poll()
        poller.register(connection.socket, select.POLLOUT)
        before = output.acknowledged()
        deadline = time.monotonic() + limits.write_timeout
        while output.size > mark:
            remaining = deadline - time.monotonic()
            if remaining > 0:
                poller.poll(remaining * 1000)
                self._flush(output)
                continue
            taken = output.acknowledged()
            if taken - before < limits.least_progress():
                connection.gone = True
                raise ClientDisconnected("the client stalled past the write deadline")
            before = taken
            deadline = time.monotonic() + limits.write_timeout

    def _disconnected(self, error: OSError) -> ClientDisconnected:
        if is_disconnect(error):
            self._connection.gone = True
        self._connection.close_after = True
        return ClientDisconnected(f"the client is gone: {error.strerror or error}")

    # -- the end --------------------------------------------------------------------------------

    def _end(self, reason: str = "") -> None:
        connection = self._connection
        if self.body is None:
            with self._receiving:  # what is being taken off the socket is still of this request
                self.done = True
        else:
            self.done = True
        loop = connection.loop
        duration = time.monotonic() - self.handed_out_at
        loop.note_call(duration)
        if connection.tap is not None:
            connection.tap.response_over(self.body_sent, reason or self.reason)
        unsent = connection.output is not None and connection.output.size > 0
        if loop.access_log is not None:
            if unsent and not reason:
                connection.exchange = self  # logged when it is known what became of it
            else:
                loop.log_exchange(self, reason)
        connection.answered = True
        loop.post(connection)
        # The leader need not hurry where the client's next request is what wakes it up anyway.
        # Looked at only now: it may just have stopped to watch for that request.
        if (
            connection.close_after
            or connection.watched != EVENT_READ
            or connection.parser.buffered > 0
            or unsent
            or loop.draining
        ):
            loop.hurry()

    def log(self, reason: str) -> None:
        """Write the access log's line."""
        self._connection.loop.log_exchange(self, reason)

    # What the access log asks for.

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
        return self._received

    @property
    def connection(self) -> Connection:
        """The connection that the request came on."""
        return self._connection
