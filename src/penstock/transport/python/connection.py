"""One client's connection: reading requests, and going on or closing after each.

A connection belongs to the leader, but for the time in which its request is handed out
(`Phase.HANDED_OUT`): then the thread that answers the request reads and writes the socket, and
the leader only watches. It comes back through the loop's inbox, so that it changes hands at one
point, in the leader's own time.
"""

from __future__ import annotations

import io
import math
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.http1 import (
    CONNECTION_CLOSED,
    CONTINUE,
    Data,
    EndOfMessage,
    ProtocolError,
    Request,
    RequestParser,
    State,
    error_response,
)
from penstock.transport.decisions import linger_deadline
from penstock.transport.log_lines import cut_off_line
from penstock.transport.python.deadlines import await_output, hurry_up
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.finished import refused_line
from penstock.transport.python.output import Output
from penstock.transport.python.stream import is_disconnect
from penstock.transport.spool import BodySpool
from penstock.transport.states import Fate, Phase
from penstock.wsgi.environ import build_environ, client_environ

if TYPE_CHECKING:
    from penstock.transport.python.exchange_trace import ExchangeTrace
    from penstock.transport.python.loop import Loop
    from penstock.transport.python.stream import Stream

PROCEED = 0
"""In place of an event mask: go on with what is buffered already."""


# An enum's attributes are slow to look up.
READING, DISCARDING, HANDED_OUT, ANSWERED, FLUSHING, REFUSING, LINGERING, CLOSED = Phase
KEEP, CLOSE, RESET = Fate
IDLE, HEAD, BODY, DONE = State.IDLE, State.HEAD, State.BODY, State.DONE


class Connection:
    """HTTP/1.1 on one stream. See the module's text for who may touch it when."""

    __slots__ = (
        "accepted_at",
        "awaited",
        "awaiting_room",
        "base_environ",
        "began",
        "body_at",
        "client",
        "deadline",
        "ended_at",
        "exchange",
        "fate",
        "head_at",
        "late",
        "lingered",
        "loop",
        "number",
        "output",
        "parser",
        "peer",
        "phase",
        "progress",
        "queued",
        "remote_addr",
        "remote_port",
        "request",
        "requests",
        "since",
        "spool",
        "stream",
        "trace",
        "watched",
    )

    def __init__(
        self,
        loop: Loop,
        stream: Stream,
        base_environ: dict[str, Any],
    ) -> None:
        self.loop = loop
        self.stream = stream
        self.base_environ = base_environ
        self.remote_addr = stream.remote_addr
        self.remote_port = stream.remote_port
        self.peer = (
            f"{self.remote_addr}:{self.remote_port}".encode("latin-1") if self.remote_port else b""
        )
        self.parser = RequestParser(loop.config.parser)
        self.phase = READING
        self.awaited = IDLE  # the parser's state when it last asked for data
        self.deadline = loop.now + loop.config.keep_alive
        self.accepted_at = loop.now
        self.head_at = loop.now  # when the request's head was complete
        self.body_at: float | None = None  # when its body was; None for one that is streamed
        self.began = loop.now  # when the first byte of the request was read
        self.late = loop.now >= loop.late_from  # it may have waited for long to be accepted
        self.since = loop.now  # when `awaited` changed, or the lingering began
        self.number = loop.accepted + 1
        self.requests = 0
        self.watched = 0  # the selector's event mask; changed by the leader only
        self.request: Request | None = None
        self.client: dict[str, Any] | None = None  # the environ that repeated fields make
        self.spool: BodySpool | None = None
        self.exchange: PythonExchange | None = None  # finished, and still being flushed
        self.output: Output | None = None
        self.queued = False  # what is buffered already has a turn coming (`Loop.unpolled`)
        self.progress = 0  # what the client had acknowledged when the deadline was set
        self.awaiting_room = False  # the thread that answers waits until there is less output
        self.fate = KEEP
        self.ended_at = math.inf  # when the end of input was seen, while the request is handed out
        self.lingered = 0
        self.trace: ExchangeTrace | None = loop.new_exchange_trace(self)

    # -- what the leader calls --------------------------------------------------------------

    def handle_events(self, mask: int) -> PythonExchange | None:
        """Do what the socket is ready for; return a request that became ready."""
        phase = self.phase
        if phase is READING or phase is DISCARDING:
            # What is buffered goes first: a client that pipelines without a pause would fill the
            # memory if one more block were read for each of its requests.
            if mask == PROCEED or self.queued:
                self.queued = False
                return self._advance()
            return self._read()
        if phase is HANDED_OUT or phase is ANSWERED:
            self._watch_client(mask)
        elif phase is FLUSHING or phase is REFUSING:
            self._flush()
        elif phase is LINGERING:
            self._discard_input()
        return None  # CLOSED: the event was older than the closing

    def attend(self) -> None:
        """Do what the thread that has the request asks for: see to its output, or take it back."""
        phase = self.phase
        if phase is not ANSWERED and phase is not HANDED_OUT:
            return  # it was asked for twice
        output = self.output
        unsent = output is not None and output.size > 0
        if phase is HANDED_OUT:
            # Drained from here while the application makes the next block. Where that goes on
            # already the deadline stands: an application that trickles does not put it off.
            if unsent and not self.watched & EVENT_WRITE:
                await_output(self, self.watched | EVENT_WRITE)
        elif self.loop.drained:
            # It came back after all else was torn down.
            self.report_response("response cut off: the server stopped" if unsent else "")
            self.close()
        elif self.fate is RESET:
            self.reset()
        elif output is not None and output.failure is not None:
            self._cut_off(output.failure)  # after its thread had ended the response
        elif unsent:
            self.phase = FLUSHING
            await_output(self, EVENT_WRITE)
        else:
            if self.exchange is not None:
                self.report_response()  # what was unsent when its thread ended it has left since
            if self.fate is not KEEP:
                self._after_response()
            else:  # as `_after_response` does, without the call: each request comes here
                self._next_request()

    def close_after_response(self) -> None:
        """Have the response in progress be the connection's last. For any thread."""
        self.worsen(CLOSE)

    def worsen(self, fate: Fate) -> None:
        """Set what happens after the response, unless that is worse already. For any thread."""
        with self.loop.fate_lock:  # the server may end a response while its thread ends it
            if fate > self.fate:
                self.fate = fate

    def is_with_a_thread(self) -> bool:
        """Return True if a thread still uses the socket."""
        return self.phase is HANDED_OUT

    def close(self) -> None:
        """Close now, and forget everything. Not while the request is handed out."""
        if self.phase is CLOSED:
            return
        self.phase = CLOSED
        self.loop.forget(self)
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        if self.output is not None:
            self.output.close()
        self.stream.close()

    def reset(self) -> None:
        """Close with a reset, which no client can take for a response's proper end."""
        self.stream.reset_on_close()
        self.close()

    def idle(self) -> bool:
        """Return True if no request is in progress, not even its first byte."""
        return self.phase is READING and self.awaited is IDLE and not self.parser.buffered

    def has_input(self) -> bool:
        """Return True if the client has sent bytes that have not been read yet."""
        try:
            return self.stream.peek()
        except OSError:
            return False

    # -- reading a request --------------------------------------------------------------------

    def _read(self) -> PythonExchange | None:
        loop = self.loop
        try:
            receive = self.stream.recv  # calling a slot without this takes longer
            data = receive(loop.config.receive_bytes)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            self._lose_client()
            return None
        if data:
            if self.trace is not None:
                self.trace.received(data)
            self.parser.receive_data(data)
        else:
            self.parser.receive_eof()
        exchange = self._advance()
        if exchange is None or not (self.late or loop.now >= loop.late_from):
            return exchange
        if not self._has_departed():
            return exchange
        exchange.drop()
        return None

    def _has_departed(self) -> bool:
        """Return True if a request may have waited in the kernel after its client disconnected.

        For a single thread, which looks at no socket while it is in the application. The time at
        which the end of input arrived is not known, only the time since the last look.
        """
        loop = self.loop
        self.late = False
        if (
            loop.now < loop.late_from
            and loop.late_from - loop.config.disconnect_seconds > self.since
        ):
            return False  # it waited to be accepted, but its request came later than the next poll
        try:
            return not self.stream.peek()
        except OSError:
            return False  # nothing is there, or a reset, which has its own way of being noticed

    def _lose_client(self) -> None:
        """Tell of a request that the client broke off by a reset, and close."""
        if self.awaited is not IDLE and self.phase is READING:
            error = ProtocolError(
                self.loop.config.client_left_status, "The client reset the connection within it."
            )
            error.request_line = self.parser.request_line
            received = self.spool.size if self.spool is not None else 0
            self.loop.report_refusal(self, error, received, 0)
        self.close()

    def _advance(self) -> PythonExchange | None:
        """Take events from the parser until a request is complete or it needs more data."""
        discarding = self.phase is DISCARDING
        try:
            while True:
                event = self.parser.next_event()
                kind = type(event)
                if kind is Request:
                    if self._begin_request(event):  # type: ignore[arg-type]
                        return self._hand_out(None)
                elif kind is EndOfMessage:
                    if not discarding:
                        return self._complete()
                    self._next_request()
                    return None
                elif kind is Data:
                    if not discarding:
                        self._collect(event.data)  # type: ignore[union-attr]
                else:
                    break
        except ProtocolError as error:
            if discarding:
                self.linger()  # the request has been answered already
            else:
                self.refuse(error)
            return None
        if event is CONNECTION_CLOSED:
            self.close()
        else:
            self._await_data()
        return None

    def _begin_request(self, request: Request) -> bool:
        """Look at a request's head. Return True if it goes to the application at once."""
        self.request = request
        self.requests += 1
        self.began = self.since if self.awaited is HEAD else self.loop.now
        self.fate = KEEP
        loop = self.loop
        self.head_at = loop.now
        if self.trace is not None:
            self.trace.head_received(self.parser.buffered)
        if loop.config.header_map == "refuse" and any("_" in name for name in request.fields):
            raise ProtocolError(
                400, "A header field's name contains an underscore.", setting="header_map"
            )
        if not request.body_expected:
            return False
        if loop.config.stream_requests and not loop.own_answers.wants(request):
            return True
        self.spool = BodySpool(loop.config.body_memory, loop.config.temp_dir)
        if request.expect_continue and not self.parser.buffered:
            self._send_continue()
        return False

    def _collect(self, data: bytes) -> None:
        assert self.spool is not None
        self.spool.write(data)
        if self.trace is not None:
            self.trace.body_received(data, self.parser.buffered)

    def _send_continue(self) -> None:
        # 25 bytes on a connection that waits for them: the kernel has room. Were it otherwise,
        # the client goes on without (RFC 9110, section 10.1.1).
        try:
            self.stream.send(CONTINUE)
        except OSError:
            pass
        if self.trace is not None:
            self.trace.sent_interim("100 Continue")

    def _await_data(self) -> None:
        """Set the deadline for what the parser waits for."""
        loop = self.loop
        state = self.parser.state
        if state is not self.awaited:
            self.awaited = state
            self.since = loop.now
            if state is HEAD:
                self.deadline = loop.now + loop.config.header_timeout
                if loop.draining:
                    hurry_up(self)
        if state is BODY:
            received = self.spool.size if self.spool is not None else 0
            allowed = loop.config.body_allowance(received, loop.now - self.since)
            self.deadline = self.since + allowed

    def _complete(self) -> PythonExchange | None:
        """Hand a request with its whole body out, or answer it here."""
        self.body_at = self.loop.now
        request = self.request
        assert request is not None
        body: BinaryIO
        length = request.content_length
        if self.spool is None:
            body = io.BytesIO()
        else:
            length = self.spool.size
            body = self.spool.finish()
            self.spool = None
        exchange = self._hand_out(body, length)
        loop = self.loop
        if request.path in loop.own_paths and loop.own_answers.wants(request):
            loop.own_answers.answer(exchange)
            return None
        return exchange

    def _hand_out(self, body: BinaryIO | None, length: int | None = None) -> PythonExchange:
        request = self.request
        assert request is not None
        loop = self.loop
        if body is None:
            self.body_at = None
            length = request.content_length
        client = self.client if request.repeated else None
        if client is None:
            client = client_environ(
                self.base_environ,
                request.fields,
                self.remote_addr,
                self.remote_port,
                loop.config.header_map,
                loop.dropped_names.append,
            )
            client["penstock.client_gone"] = self.stream.client_gone
            # Each request sets these. Here they have room in each copy: a dictionary that has to
            # grow for a key costs as much as a tenth of a request.
            client["penstock.request_id"] = ""
            if loop.thread_slots.limits_calls:
                client["penstock.deadline"] = 0.0
                client["penstock.extend_deadline"] = None
            # Kept for fields that have come twice: the parser remembers none but short ones.
            self.client = client if request.repeated else None
        environ = build_environ(client, request, length)
        request_id = environ["penstock.request_id"] = loop.new_request_id()
        self.phase = HANDED_OUT
        self.ended_at = math.inf
        self.deadline = math.inf
        return PythonExchange(self, request, environ, body, length, request_id)

    # -- while the request is handed out ------------------------------------------------------

    def _watch_client(self, mask: int) -> None:
        """Note what happens on the socket of a thread that is busy with the application."""
        watched = self.watched
        if mask & EVENT_WRITE and watched & EVENT_WRITE:
            try:
                drained = self.output is None or self.output.flush()
            except OSError:
                self.stream.client_gone.known = drained = (
                    True  # the next send of the application's thread tells it
                )
            if drained:
                watched &= ~EVENT_WRITE
                self.deadline = math.inf
        if mask & EVENT_READ and watched & EVENT_READ:
            # More input (a pipelined request, a body that is streamed), the end of input, or a
            # reset. It stays readable, so it is no longer watched until the response is done.
            # The end of input does not mean that the client left: it may have half-closed.
            watched &= ~EVENT_READ
            try:
                if not self.stream.peek():
                    self.ended_at = self.loop.now
            except BlockingIOError:
                pass
            except OSError:
                self.stream.client_gone.known = True
        if self.stream.client_gone.known:
            watched = 0
        self.loop.watch(self, watched)

    # -- after the response ---------------------------------------------------------------------

    def _flush(self) -> None:
        assert self.output is not None
        try:
            if not self.output.flush():
                return
        except OSError as error:
            self._cut_off(error)
            return
        self.report_response()
        if self.phase is REFUSING:
            self.linger()
        else:
            self._after_response()

    def _cut_off(self, error: OSError) -> None:
        """Close where a finished response can no longer be sent to its end."""
        if is_disconnect(error):
            self.stream.client_gone.known = True
        self.report_response(f"response cut off: {error.strerror or error}")
        self.reset()

    def report_response(self, reason: str = "") -> None:
        """Report the response that was flushed, or was not flushed because of ``reason``."""
        if reason and self.output is not None:
            self.output.close()  # what is unsent was not delivered: it counts as lost
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if reason and self.output is not None:
                exchange.body_sent -= self.output.size  # what is dropped with the connection
            self.loop.report_exchange(exchange, reason)
            if reason:
                request = exchange.request
                line = cut_off_line(
                    self.remote_addr, request.method, request.target, exchange.request_id, reason
                )
                self.loop.logger.info("%s", line)

    def _after_response(self) -> None:
        if self.fate is KEEP:
            self._next_request()
        else:
            # Even where the client has said that it sends no more: old ones send a CRLF behind a
            # body, and one stray byte would reset the connection under the response.
            self.linger()

    def _next_request(self) -> None:
        loop = self.loop
        if self.parser.state is not DONE:
            # A streamed body that the application did not read to its end, and that is short
            # enough to be dropped (`PythonExchange` decided): what follows is the next request.
            self.phase = DISCARDING
            self.awaited = BODY
            self.since = loop.now
            self.deadline = loop.now + loop.config.body_timeout
        else:
            self.phase = READING
            self.parser.start_next_request()
            if self.trace is not None:
                self.trace.message_over(self.parser.buffered)
            self.request = None
            self.awaited = IDLE
            self.since = loop.now
            self.deadline = loop.now + (
                loop.config.drain_linger if loop.draining else loop.config.keep_alive
            )
        # As `buffered`, without a call: each request comes here.
        if self.parser.buffer.data or self.phase is DISCARDING:
            self.queued = True
            loop.unpolled.append(self)
        if self.watched != EVENT_READ:
            loop.watch(self, EVENT_READ)

    # -- refusing and closing -----------------------------------------------------------------

    def refuse(self, error: ProtocolError) -> None:
        """Answer a request that breaks a rule or a limit, and close."""
        loop = self.loop
        if self.request is None:
            self.began = self.since if self.awaited is HEAD else loop.now
        received = 0
        if self.spool is not None:
            received = self.spool.size
            self.spool.close()
            self.spool = None
        head, body = error_response(error, loop.server_fields.now())
        if refused_line(self, error).startswith("HEAD "):
            body = b""
        if self.trace is not None:
            self.trace.answered(head, body)
        loop.report_refusal(self, error, received, len(body))
        self.request = None
        self.output = Output(self.stream, loop.config.flush_bytes)
        self.output.append(head + body)
        self.phase = REFUSING
        self._flush()
        if self.phase is REFUSING:
            await_output(self, EVENT_WRITE)

    def linger(self) -> None:
        """Close for writing, and drop what still arrives until the client closes too.

        RFC 9112, section 9.6: closing at once would reset the connection if there is unread
        input, and the client might never see the response.
        """
        try:
            self.stream.shut_down()
        except OSError:
            self.close()
            return
        self.phase = LINGERING
        self.since = self.loop.now
        self._set_linger_deadline()
        self.loop.watch(self, EVENT_READ)

    def _set_linger_deadline(self) -> None:
        loop = self.loop
        self.deadline = linger_deadline(loop.config, loop.now, self.since, loop.draining)

    def _discard_input(self) -> None:
        try:
            count = self.stream.recv_into(self.loop.scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        self.lingered += count
        if count == 0 or self.lingered > self.loop.config.linger_bytes:
            self.close()
            return
        self._set_linger_deadline()
