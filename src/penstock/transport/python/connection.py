"""One client's connection: reading requests, and going on or closing after each.

A connection belongs to the leader, but for the time in which its request is handed out
(`Phase.HANDED_OUT`): then the thread that answers the request reads and writes the socket, and
the leader only watches. It comes back through the loop's inbox, so that it changes hands at one
point, in the leader's own time.
"""

from __future__ import annotations

import errno
import io
import math
import time
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any, BinaryIO

from penstock.edge import proxy_protocol
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
from penstock.telemetry.histograms import SHORT_SECONDS
from penstock.transport.decisions import (
    Holding,
    accepts_scheme,
    drain_patience,
    linger_deadline,
    lingers,
    streams_body,
)
from penstock.transport.log_lines import (
    CLIENT_STALLED,
    CLIENT_TOO_SLOW,
    FILE_READ_TOO_SLOWLY,
    STORED_TOO_SLOWLY,
    cut_off_reason,
)
from penstock.transport.python import handshaking, proxying, storing
from penstock.transport.python.body_clock import BodyClock
from penstock.transport.python.clients import named
from penstock.transport.python.exchange import PythonExchange, StreamedBody
from penstock.transport.python.exchange_trace import ConnectionTrace
from penstock.transport.python.finished import (
    log_cut_off,
    log_host_replaced,
    note_call,
    report_exchange,
    report_refusal,
)
from penstock.transport.python.output import Flushed, Output
from penstock.transport.python.stream import NO_SIGNAL, Traffic, is_disconnect
from penstock.transport.spool import BodySpool, no_room
from penstock.transport.states import (
    ANSWERED,
    AWAITING_PROXY,
    CLOSE,
    CLOSED,
    DISCARDING,
    FLUSHING,
    HANDED_OUT,
    HANDSHAKING,
    KEEP,
    LINGERING,
    READING,
    REFUSING,
    RELAYING,
    RESET,
    STORING,
)
from penstock.wsgi.environ import build_environ, client_environ, set_request

if TYPE_CHECKING:
    from collections.abc import Container

    from penstock.edge.forwarded import Forwarded
    from penstock.telemetry.histograms import Finished
    from penstock.transport.python.clients import ClientRate
    from penstock.transport.python.loop import Loop
    from penstock.transport.python.tls_stream import AnyStream

PROCEED = 1 << 8
"""In an event mask: go on with what is buffered already. The selector has no such event."""


# An enum's attributes are slow to look up.
IDLE, HEAD, BODY, DONE = State.IDLE, State.HEAD, State.BODY, State.DONE


class Connection:
    """HTTP/1.1 on one stream. See the module's text for who may touch it when."""

    __slots__ = (
        "accepted_at",
        "awaited",
        "base_environ",
        "body_clock",
        "client",
        "client_key",
        "client_request",
        "counted_in",
        "counted_method",
        "counted_status",
        "counted_version",
        "deadline",
        "ended_at",
        "exchange",
        "fate",
        "forwarded",
        "header",
        "held_input",
        "is_last",
        "lingered",
        "loop",
        "number",
        "output",
        "packet",
        "parser",
        "peer",
        "phase",
        "proxied",
        "queued",
        "redirects",
        "remote_addr",
        "remote_port",
        "requests",
        "said",
        "sent",
        "server_fields",
        "share_key",
        "since",
        "stored",
        "storing_since",
        "stream",
        "trace",
        "traffic",
        "trusted",
        "unwatched",
        "watched",
    )

    def __init__(
        self,
        loop: Loop,
        stream: AnyStream,
        base_environ: dict[str, Any],
    ) -> None:
        self.loop = loop
        # TLS counts what its socket moves, which is more; then this is looked at by no one.
        self.traffic = Traffic() if stream.secure else stream.traffic
        # What the last request was counted as, and where: mostly the next one is the same.
        self.counted_status: str | None = None
        self.counted_method = self.counted_version = ""
        self.counted_in: Finished
        self.held_input = 0  # what the budget counts of requests behind an unsent response
        self.stream: AnyStream = stream
        self.base_environ = base_environ
        self.remote_addr = stream.remote_addr  # the client's, where the PROXY header names one
        self.remote_port = stream.remote_port
        self.peer = named(self.remote_addr, self.remote_port)
        self.trusted = loop.config.forwarded.peers.trusts(self.remote_addr)
        self.forwarded: Forwarded | None = None  # what trusted proxies say of the request
        self.parser = RequestParser(loop.config.parser)
        self.phase = READING
        self.header = b""  # what has come of the PROXY header
        self.packet: bytearray | None = None  # the same, where the uwsgi protocol is spoken
        self.proxied: dict[str, str] = {}  # what it says of TLS, for the environ
        self.said: Forwarded | None = None  # what the packet says, as trusted proxies do
        self.awaited = IDLE  # the parser's state when it last asked for data
        self.deadline = loop.now + loop.config.keep_alive
        self.body_clock: BodyClock | None = None  # set while a body is read beforehand
        self.client_key: int | None = None  # whose connections are counted, if they are
        self.share_key: int | None = None  # the client, once it has waited in the remainder
        self.accepted_at = loop.now
        self.since = loop.now  # when `awaited` changed, or the lingering began
        self.number: int = loop.accepted + 1
        self.requests: int = 0
        self.server_fields = loop.tls_server_fields if stream.secure else loop.server_fields
        self.watched = 0  # the selector's event mask; changed by the leader only
        self.unwatched = False  # it was accepted after the last poll, and is not watched yet
        self.is_last = False  # the client asked for the close, in a request without a body
        self.sent = 0  # how many bytes the application's fields and the body of its response have
        self.client: dict[str, Any] | None = None  # the environ that repeated fields make
        self.client_request: Request | None = None  # of which it has the rest, too
        # From when its head is complete until it is reported: so also while it is flushed.
        self.exchange: PythonExchange | None = None
        self.output: Output | None = None
        self.redirects = False  # requests are redirected to https
        self.queued = False  # what is buffered already has a turn coming (`Loop.unpolled`)
        self.storing_since = 0.0  # when the disk's thread was asked to write
        self.stored = False  # that thread has done so, and the leader has not acted on that yet
        self.fate = KEEP  # what the exchange that ended last has decided
        self.ended_at = math.inf  # when the end of input was seen, while the request is handed out
        self.lingered = 0
        self.trace: ConnectionTrace | None = None
        if loop.observers is not None and loop.observers.needs.transcript:
            self.trace = ConnectionTrace(self)

    # -- what the leader calls --------------------------------------------------------------

    def handle_events(self, mask: int) -> PythonExchange | None:
        """Do what the socket is ready for; return a request that became ready."""
        phase = self.phase
        if phase is READING or phase is DISCARDING:
            # What is buffered goes first: a client that pipelines without a pause would fill the
            # memory if one more block were read for each of its requests.
            if mask & EVENT_WRITE:
                self._send_rest()
                if mask == EVENT_WRITE:
                    return None
            if mask & PROCEED:
                self.queued = False
                exchange = self.advance()
                return self.read() if storing.unwritten(self) else exchange
            return None if self.queued else self.read()
        if phase is HANDED_OUT or phase is ANSWERED:
            self._watch_client(mask)
        elif phase is FLUSHING or phase is REFUSING:
            if self.watched == EVENT_READ:
                self._look_at_client()
            else:
                self._flush()
        elif phase is STORING:
            if mask & EVENT_WRITE:
                self._send_rest()
            if mask & PROCEED and self.stored:
                return storing.go_on(self)
        elif phase is LINGERING:
            self._discard_input()
        elif phase is HANDSHAKING:
            return handshaking.go_on(self)
        elif phase is AWAITING_PROXY:
            return proxying.go_on(self)
        return None  # CLOSED: the event was older than the closing

    def attend(self) -> None:
        """Do what the thread that has the request asks for: see to its output, or take it back."""
        phase, output = self.phase, self.output
        if phase is ANSWERED and output is None and self.fate is KEEP and not self.loop.drained:
            self._next_request()  # mostly: all has been sent at once
            return
        if phase is not ANSWERED and phase is not HANDED_OUT:
            if phase is STORING and self.stored:
                self.loop.proceed(self)  # a request may come of it
            elif phase is FLUSHING:
                self._go_on_flushing()
            return  # or it was asked for twice
        unsent = output is not None and output.size > 0
        if phase is HANDED_OUT:
            if output is not None and not unsent and self.deadline != math.inf:
                self._note_drained(output)
            # Drained from here while the application makes the next block. Where that goes on
            # already the deadline stands: an application that trickles does not put it off.
            if output is not None and unsent and not self.watched & EVENT_WRITE:
                if self.deadline == math.inf:
                    self._await_output(output, self.watched | EVENT_WRITE)
                else:
                    self.loop.watch(self, self.watched | EVENT_WRITE)
        elif self.loop.drained:
            # It came back after all else was torn down.
            self.report_response("response cut off: the server stopped" if unsent else "")
            self.close()
        elif self.fate is RESET:
            self.reset()
        elif output is not None and output.failure is not None:
            self._cut_off(output.failure)  # after its thread had ended the response
        elif output is not None and unsent:
            self.phase = FLUSHING
            self._await_output(output, EVENT_WRITE)
        else:
            if self.exchange is not None:
                self.report_response()  # what was unsent when its thread ended it has left since
            self._after_response()

    def is_with_a_thread(self) -> bool:
        """Return True if a thread still uses the socket."""
        return self.phase is HANDED_OUT

    def close(self) -> None:
        """Close now, and forget everything. Not while the request is handed out."""
        if self.phase is CLOSED:
            return
        self.phase = CLOSED
        self.loop.forget(self)
        if self.held_input:
            self._hold_input(0)
        if self.exchange is not None:
            self._end_exchange(None)
        if self.output is not None:
            self.output.close()
            self.output.close_stream()
        else:
            self.stream.close()

    def reset(self) -> None:
        """Close with a reset, which no client can take for a response's proper end."""
        self.stream.reset_on_close()
        self.close()

    def has_input(self) -> bool:
        """Return True if the client has sent bytes that are going to be read now, and matter."""
        if self.phase is STORING or self.phase is LINGERING:
            return False
        try:
            return self.stream.peek()
        except OSError:
            return False

    # -- what precedes the first request -----------------------------------------------------

    def begin_reading(self) -> None:
        """Expect the first request, behind what precedes it: a PROXY header, a handshake."""
        loop = self.loop
        self.phase = READING
        self.since = loop.now
        self.deadline = loop.now + loop.config.keep_alive
        if loop.draining:
            self.hurry_first_request()

    def take_decrypted(self) -> bool:
        """Give the parser what TLS has decrypted already; return True if there was any.

        No event of the socket would tell of it.
        """
        assert self.stream.secure
        data = self.stream.take_decrypted()
        if data is None:
            return False
        self.receive(data)
        return True

    def receive(self, data: bytes) -> None:
        """Give the parser what the client has sent; empty is the end of its input."""
        if data:
            if self.trace is not None:
                self.trace.received(data)
            self.parser.receive_data(data)
        else:
            self.parser.receive_eof()

    # -- reading a request --------------------------------------------------------------------

    def read(self) -> PythonExchange | None:
        """Read what the client has sent; return a request that became ready."""
        loop = self.loop
        while True:
            size = loop.receive_bytes
            if self.awaited is BODY and self.phase is READING:
                size = storing.room(self, size)
                if not size:
                    storing.store(self)
                    return None
            try:
                receive = self.stream.recv  # calling a slot without this takes longer
                data = receive(size)
            except (BlockingIOError, InterruptedError):
                if storing.unwritten(self):
                    storing.store(self)
                return None
            except OSError:
                self._lose_client()
                return None
            if data:  # as `receive`, without the call: each request comes here
                self.traffic.received += len(data)
                if self.trace is not None:
                    self.trace.received(data)
                self.parser.receive_data(data)
            else:
                self.parser.receive_eof()
            exchange = self.advance()
            if exchange is not None or self.awaited is not BODY:
                return exchange
            # What comes at once of a body is written at once, within bounds.
            unwritten = storing.unwritten(self)
            if not unwritten:
                return None
            if unwritten >= loop.config.store_bytes or loop.shares:
                storing.store(self)
                return None

    def _lose_client(self) -> None:
        """Report a request that the client broke off by a reset, and close."""
        if self.awaited is not IDLE and self.phase is not DISCARDING:
            error = ProtocolError(
                self.loop.config.client_left_status, "The client reset the connection within it."
            )
            error.request_line = self.parser.request_line
            report_refusal(self, self._end_exchange(error), error)
        self.close()

    def advance(self) -> PythonExchange | None:
        """Take events from the parser until a request is complete or it needs more data."""
        discarding = self.phase is DISCARDING
        try:
            while True:
                event = self.parser.next_event()
                kind = type(event)
                if kind is Request:
                    exchange = self._begin_exchange(event)  # type: ignore[arg-type]
                    if exchange.streamed is not None:
                        self._hand_out(exchange, None, exchange.request.content_length)
                        if self.redirects:
                            self.loop.own_answers.answer(exchange)
                            return None
                        return exchange
                    if not event.body_expected:  # type: ignore[union-attr]
                        return self.complete()
                elif kind is EndOfMessage:
                    if not discarding:
                        return self.complete()
                    self._next_request()
                    return None
                elif kind is Data:
                    exchange = self.exchange  # type: ignore[assignment]
                    if not discarding and not exchange.spool_body(event.data):  # type: ignore[union-attr]
                        self._hand_out(exchange, None, exchange.request.content_length)
                        return exchange
                else:
                    break
        except ProtocolError as error:
            if discarding:
                self.linger()  # the request has been answered already
            else:
                self.refuse(proxy_protocol.explained(error, first=self.requests == 0))
            return None
        if event is CONNECTION_CLOSED:
            self.close()
        else:
            self._await_data()
        return None

    def output_mask(self) -> int:
        """Return what to watch for because of what is left of an interim response."""
        return EVENT_WRITE if self.output is not None and self.output.size else 0

    def _begin_exchange(self, request: Request) -> PythonExchange:
        """Look at a request's head, and decide how its body gets to the application."""
        self.requests += 1
        loop = self.loop
        began = loop.now
        if self.awaited is HEAD:
            began = self.since
            loop.heads.pop(self, None)
        exchange = self.exchange = PythonExchange(self, request, began)
        if not request.repeated:
            self._read_forwarded(request)
        forwarded = self.forwarded
        if forwarded is not None and forwarded.client is not None:
            exchange.client_addr = forwarded.client.address
            exchange.client_port = forwarded.client.port
            exchange.client_name = named(exchange.client_addr, exchange.client_port)
        if loop.rate is not None and request.path not in loop.own_paths:
            self._count_request(loop.rate, exchange.client_addr)
        # Of a request that repeats the fields of the last one they are known to be allowed.
        if not request.repeated and loop.config.header_map == "refuse":
            self._refuse_underscores(request)
        if request.https_target:
            self._check_scheme(request, forwarded)
        if request.body_expected:
            streams = self.redirects or streams_body(
                loop.config, request.content_length, request.expect_continue, len(loop.streaming)
            )
            if streams and not loop.own_answers.wants(request):
                exchange.streamed = StreamedBody(continue_owed=request.expect_continue)
                loop.streaming.add(exchange)
            else:
                exchange.spool = BodySpool(loop.config.temp_dir)
                if request.expect_continue and not self.parser.buffered:
                    self._send_continue(exchange)
        return exchange

    def _read_forwarded(self, request: Request) -> None:
        """Read what a trusted proxy says of a request; raises `ProtocolError`.

        Requests that repeat the fields of the last one have what was read of those.
        """
        policy = self.loop.config.forwarded
        self.forwarded = None
        if self.trusted:
            self.forwarded = policy.read(request.fields)
        elif names := policy.names_in(request.fields):
            self.loop.note_untrusted(names[0], self.remote_addr)
        if self.said is not None:
            if self.forwarded is None:
                self.forwarded = self.said
            else:
                self.forwarded.complete(self.said)

    def _refuse_underscores(self, request: Request) -> None:
        """Refuse a name that has an underscore, unless it is one that the peer may send."""
        believed = self.loop.config.forwarded.fields if self.trusted else ()
        if any("_" in name and name not in believed for name in request.fields):
            raise ProtocolError(
                400, "A header field's name contains an underscore.", setting="header_map"
            )

    def _check_scheme(self, request: Request, forwarded: Forwarded | None) -> None:
        """Raise `ProtocolError` (400) for a target whose scheme is not the connection's."""
        secure = self.stream.secure or "HTTPS" in self.proxied
        if forwarded is not None and forwarded.scheme:
            secure = forwarded.scheme == "https"
        if not accepts_scheme(request.https_target, secure):
            reason = "The target is https, but the connection is not secure."
            raise ProtocolError(400, reason, "RFC 9110, section 7.4")

    def _count_request(self, rate: ClientRate, client: str) -> None:
        """Count a request of the client; raises `ProtocolError` (429) beyond its rate."""
        seconds = rate.take(client)
        if seconds:
            error = ProtocolError(
                429, "Too many requests come from this client.", setting="max_requests_per_client"
            )
            error.retry_after = seconds
            raise error

    def given_id(self) -> str:
        """Return the id of the request that a trusted proxy has given; empty without one."""
        return "" if self.forwarded is None else self.forwarded.request_id

    def holding(self) -> Holding:
        """Return what the connection has its place for, as far as eviction is concerned."""
        if self.phase is LINGERING:
            return Holding.LINGERING
        if self.phase is STORING:
            return Holding.BODY
        if self.phase is HANDSHAKING:
            return Holding.HEAD if self in self.loop.heads else Holding.IDLE
        if self.phase is AWAITING_PROXY:
            return Holding.HEAD if self.header or self.packet else Holding.IDLE
        if self.phase is not READING or (self.awaited is IDLE and self.parser.buffered):
            return Holding.CALL
        if self.awaited is IDLE:
            return Holding.IDLE
        return Holding.HEAD if self.awaited is HEAD else Holding.BODY

    def evict(self, setting: str) -> None:
        """Close to make room for others; ``setting`` is what limits them."""
        if self.awaited is not IDLE and self.phase is not LINGERING:
            error = ProtocolError(
                408, "The connection was closed to make room for others.", setting=setting
            )
            error.request_line = self.parser.request_line
            report_refusal(self, self._end_exchange(error), error)
        self.close()

    def head_began(self) -> float:
        """Return when the first byte of the head was read that is being read, or just was."""
        return self.since if self.awaited is HEAD else self.loop.now

    def _send_continue(self, exchange: PythonExchange) -> None:
        try:
            sent = self.stream.send(CONTINUE, NO_SIGNAL)
            self.stream.note_sent(sent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the next read meets it
        if sent < len(CONTINUE):
            # What is left goes before anything else, or the answer would begin within this one.
            self.make_output().append(CONTINUE[sent:])
            self.loop.watch(self, EVENT_READ | EVENT_WRITE)
        if exchange.trace is not None:
            exchange.trace.sent_interim("100 Continue")

    def make_output(self) -> Output:
        """Return the queue of what the kernel did not take; it is made where it is needed."""
        if self.output is None:
            loop = self.loop
            self.output = Output(self.stream, loop.config, loop.budget, loop.disk)
        return self.output

    def _send_rest(self) -> None:
        """Send what the kernel did not take of an interim response, while the body comes in."""
        try:
            sent = self.output is None or self._flush_output(self.output) is Flushed.ALL
        except OSError:
            sent = True  # the next read meets it, and so does the answer
        if sent:
            self.loop.watch(self, 0 if self.phase is STORING else EVENT_READ)

    def _await_data(self) -> None:
        """Set the deadline for what the parser waits for."""
        loop = self.loop
        state = self.parser.state
        if state is not self.awaited:
            self.awaited = state
            self.since = loop.now
            self.body_clock = None
            if state is HEAD:
                loop.head_begins(self)
                self.deadline = loop.now + loop.config.header_timeout
                if loop.draining:
                    self.hurry_up()
        if state is BODY:
            exchange = self.exchange
            if exchange is not None:  # else it is dropped, and `_next_request` has set a deadline
                if self.body_clock is None:
                    self.body_clock = BodyClock(loop.config, loop.now)
                self.body_clock.received(exchange.body_received, loop.now)
                self.deadline = self.body_clock.deadline

    def complete(self) -> PythonExchange | None:
        """Hand a request with its whole body out, or answer it here."""
        exchange, loop = self.exchange, self.loop
        assert exchange is not None
        request, spool = exchange.request, exchange.spool
        if exchange.body_at is None:
            exchange.body_at = loop.now
        if spool is not None and spool.unwritten:
            storing.store(self)
            return None
        own = self.redirects or (request.path in loop.own_paths and loop.own_answers.wants(request))
        if spool is None:
            self._hand_out(exchange, io.BytesIO(), request.content_length)
        elif own:
            self._hand_out(exchange, io.BytesIO(), spool.size)
            exchange.drop_spool()
        else:
            self._hand_out(exchange, spool.finish(), spool.size)
            exchange.spool = None
        if own:
            loop.own_answers.answer(exchange)
            return None
        return exchange

    def _hand_out(
        self, exchange: PythonExchange, body: BinaryIO | None, length: int | None
    ) -> PythonExchange:
        """Give the exchange what the application gets: the environ, and the body if it is whole."""
        request = exchange.request
        loop = self.loop
        client = self.client if request.repeated else None
        if client is None:
            policy = loop.config.forwarded
            fields = request.fields
            if policy.drops and not self.trusted:
                left_out = policy.names_in(fields)
                fields = _without(fields, left_out)
            client = client_environ(
                self.base_environ,
                fields,
                exchange.client_addr,
                exchange.client_port,
                loop.config.header_map,
                loop.dropped_names.append,
            )
            if self.proxied and not self.stream.secure:
                client.update(self.proxied)
            client["penstock.client_gone"] = self.stream.client_gone
            # Each request sets these. Here they have room in each copy: a dictionary that has to
            # grow for a key costs as much as a tenth of a request.
            client["penstock.request_id"] = ""
            if loop.thread_slots.limits_calls:
                client["penstock.deadline"] = 0.0
                client["penstock.extend_deadline"] = None
            client["penstock.queue_time"] = 0.0
            if self.forwarded is not None:
                self.forwarded.set_mount(client)
            may_upgrade = "upgrade" in fields and not request.body_expected
            # Kept for fields that have come twice: the parser remembers none but short ones.
            self.client = client if request.repeated and not may_upgrade else None
            self.client_request = None
        else:
            may_upgrade = False  # such fields are not kept
        if request is self.client_request:
            environ = client.copy()
        elif client is not self.client:
            environ = client
            set_request(environ, request, length)
        elif request.body_expected or client["SCRIPT_NAME"]:
            environ = build_environ(client, request, length)
        else:
            # What it sets, it sets for each request: so it is set in what is kept.
            set_request(client, request, length)
            self.client_request = request
            environ = client.copy()
        exchange.environ = environ
        given_id = ""
        if self.forwarded is not None:
            self.forwarded.set_in(environ)
            given_id = self.forwarded.request_id
        exchange.request_id = environ["penstock.request_id"] = loop.number_request(given_id)
        if request.replaced_host:
            log_host_replaced(exchange)
        if may_upgrade:
            exchange.offer(loop.websockets.offer(environ))
        exchange.body = body
        self.phase = HANDED_OUT
        self.ended_at = math.inf
        self.deadline = math.inf
        return exchange

    # -- while the request is handed out ------------------------------------------------------

    def _watch_client(self, mask: int) -> None:
        """Note what happens on the socket of a thread that is busy with the application."""
        watched = self.watched
        if mask & EVENT_WRITE and watched & EVENT_WRITE:
            output = self.output
            try:
                flushed = Flushed.ALL if output is None else self._flush_output(output)
            except OSError:
                self.stream.client_gone.known = True  # the application's next send tells it
                flushed = Flushed.ALL
            if flushed is Flushed.ALL:
                watched &= ~EVENT_WRITE
                self.deadline = math.inf
            elif flushed is not Flushed.BLOCKED or (output is not None and output.moving()):
                watched &= ~EVENT_WRITE  # a thread posts it when there is something to send again
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
        exchange = self.exchange
        if exchange is not None and exchange.state is RELAYING:
            # Looked at after the socket, from which a TLS stream has taken what has come. The relay
            # has its first look behind the change of the state: one of both finds it.
            exchange.look_at_relayed()
        if self.stream.client_gone.known and exchange is not None and exchange.queued_at:
            self.loop.queue.client_left(exchange)

    def take_back(self, exchange: PythonExchange, reason: str = "") -> None:
        """Take the connection back from an exchange that is over. For the thread that ended it.

        ``reason`` says why it was cut short, and is empty where it was not.
        """
        loop = self.loop
        output = self.output
        # Or failed: the leader, which sends the rest, may have found that the client is gone.
        unsent = output is not None and output.busy()
        if exchange.silent:
            self.exchange = None
        else:
            if exchange.spooled:
                exchange.give_spool_back()
            elif exchange.streamed is not None:
                loop.streaming.discard(exchange)
            entry = exchange.entry
            if entry is not None:
                took = exchange.answered_after = time.monotonic_ns() - exchange.handed_out_at
                slow_paths = loop.slow_paths
                if took > slow_paths.slow_ns or not slow_paths.calm:
                    slow_paths.note(exchange.request.path, took)
                    note_call(exchange, entry, took, reason, unsent)
                elif exchange.code != 200 or reason:
                    note_call(exchange, entry, took, reason, unsent)
                if loop.queue.requests.size and not exchange.io_bound:
                    loop.queue.note_service(took)
            # Otherwise it is reported when the client has it, or never will.
            if not unsent or reason:
                # Here, and not by the leader: what an application left in the environ may block
                # in its finalizer, in the thread that has the last reference.
                self.exchange = None
                # As `RequestHistograms.add`, without the call: each request comes here.
                request, now = exchange.request, time.monotonic()
                if (
                    exchange.plain
                    and exchange.status == self.counted_status
                    and request.method == self.counted_method
                    and request.version == self.counted_version
                    and (duration := now - exchange.began) <= SHORT_SECONDS
                ):
                    counted = self.counted_in
                    counted.short += 1
                    counted.short_seconds += duration
                    counted.short_nanoseconds += took  # a plain one has an entry
                else:
                    self.counted_in = loop.histograms.add(exchange, now)
                    self.counted_status = exchange.status or None
                    self.counted_method = request.method
                    self.counted_version = request.version
                if loop.observers is not None:
                    report_exchange(exchange, reason)
            else:
                exchange.plain = False
                if exchange.first_byte_at is None:
                    exchange.first_byte_at = time.monotonic()
        fate = self.fate = exchange.fate
        if fate is CLOSE:
            request = exchange.request
            last = not (request.keep_alive or request.body_expected)
            # During a slow call the client may have sent more, which no thread has seen yet.
            slow = time.monotonic_ns() - exchange.handed_out_at > loop.slow_paths.slow_ns
            self.is_last = last and not slow and exchange.websocket is None
            fields = exchange.response_headers
            self.sent = exchange.body_sent + sum(len(name) + len(of) + 4 for name, of in fields)
        self.phase = ANSWERED
        loop.post(self)
        # The leader need not hurry where the client's next request is what wakes it up anyway.
        # Looked at only now: it may just have stopped to watch for that request.
        if (
            fate is not KEEP
            or self.watched != EVENT_READ
            or self.parser.buffer.data
            or unsent
            or loop.draining
        ):
            loop.hurry()

    # -- after the response ---------------------------------------------------------------------

    def _note_drained(self, output: Output) -> None:
        """Note that another thread has sent all that there was, or has lost the client."""
        self.deadline = math.inf
        self._hold_input(0)
        if output.failure is not None:
            self.stream.client_gone.known = True  # the application's next send tells it
            self.loop.watch(self, 0)

    def _flush_output(self, output: Output) -> Flushed:
        """Send what the kernel takes, and have another thread send what is in a file.

        Raises ``OSError`` as `Output.flush` does.
        """
        flushed = output.flush_memory()
        if flushed is Flushed.FILE:
            try:
                if self.stream.client_gone():  # that thread would find it out behind the disk
                    raise ConnectionResetError(errno.ECONNRESET, "the client is gone")
                loop = self.loop
                loop.senders.run(self._flush_files, most=loop.config.max_connections)
            except OSError as error:
                output.fail(error)
                raise
        return flushed

    def _flush_files(self) -> None:
        """Send what the kernel takes, in a thread that may wait for the disk."""
        assert self.output is not None
        self.output.flush_asked()
        self.loop.post(self)
        self.loop.hurry()

    def _go_on_flushing(self) -> None:
        """Go on when another thread has sent what the kernel took."""
        output = self.output
        if output is None or not output.size or output.failure is not None:
            self._flush()
        else:
            self.loop.watch(self, EVENT_WRITE)

    def _flush(self) -> None:
        assert self.output is not None
        try:
            flushed = self._flush_output(self.output)
            if flushed is not Flushed.ALL:
                if flushed is not Flushed.BLOCKED:
                    # That thread posts it. It may wait for a disk, and the client leave meanwhile.
                    self.loop.watch(self, EVENT_READ)
                return
        except OSError as error:
            self._cut_off(error)
            return
        if self.held_input:
            self._hold_input(0)
        self.report_response()
        if self.phase is REFUSING:
            self.linger()
        else:
            self._after_response()

    def _look_at_client(self) -> None:
        """Cut a response off whose client has left while a thread sends from a file."""
        if self.stream.client_gone():
            self._cut_off(ConnectionResetError(errno.ECONNRESET, "the client is gone"))
        else:
            # It has sent something, or its end of input, and would be readable all the time. If it
            # leaves after that, the thread's next send meets it, or the write deadline.
            self.loop.watch(self, 0)

    def _cut_off(self, error: OSError) -> None:
        """Close where a finished response can no longer be sent to its end."""
        gone = is_disconnect(error)
        if gone:
            self.stream.client_gone.known = True
        self.report_response(cut_off_reason(error, disconnected=gone))
        self.reset()

    def report_response(self, reason: str = "") -> None:
        """Report the response that was flushed, or was not flushed because of ``reason``."""
        if reason and self.output is not None:
            self.output.close()  # what is unsent was not delivered: it counts as lost
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if reason and self.output is not None:
                exchange.body_sent -= self.output.size  # what is dropped with the connection
            self.loop.histograms.add(exchange, time.monotonic())
            report_exchange(exchange, reason)
            if reason:
                log_cut_off(exchange, reason)

    def _after_response(self) -> None:
        if self.fate is KEEP:
            self._next_request()
            return
        # What has come is in the parser, or an event has told of it: then it is not watched for.
        unread = bool(self.parser.buffered) or not (self.unwatched or self.watched & EVENT_READ)
        config, sent, secure = self.loop.config, self.sent, self.stream.secure
        if lingers(config, self.is_last, self.requests, unread, sent, secure):
            self.linger()
        else:
            self.close()

    def _next_request(self) -> None:
        loop, parser = self.loop, self.parser
        self.since = now = loop.now
        discards = parser.state is not DONE
        if discards:
            # A streamed body that the application did not read to its end, and that is short
            # enough to be dropped (`PythonExchange` decided): what follows is the next request.
            self.phase = DISCARDING
            self.awaited = BODY
            self.deadline = now + loop.config.body_timeout
        else:
            self.phase = READING
            parser.start_next_request()
            if self.trace is not None:
                self.trace.take(parser.buffered)  # as far as it belongs to the last one
            self.awaited = IDLE
            self.deadline = now + (
                loop.config.drain_linger if loop.draining else loop.config.keep_alive
            )
        # The leader may have looked for more input, and a thread for the rest of a body.
        decrypted = self.stream.secure and self.take_decrypted()
        if self.watched != EVENT_READ:
            loop.watch(self, EVENT_READ)
        # As `buffered`, without a call: each request comes here.
        if parser.buffer.data or decrypted or discards:
            self.queued = True
            loop.unpolled.append(self)

    # -- refusing and closing -----------------------------------------------------------------

    def refuse_in_plain(self, error: ProtocolError) -> None:
        """Answer a connection that does not begin as it has to, before TLS if that comes."""
        if self.stream.secure:
            self.stream = self.stream.in_plain()
            self.traffic = self.stream.traffic
            self.server_fields = self.loop.server_fields
        self.refuse(error)

    def refuse(self, error: ProtocolError) -> None:
        """Answer a request that breaks a rule or a limit, and close."""
        loop = self.loop
        if error.setting == "max_body":
            error.setting = loop.config.body_setting  # the one that has lowered it, if one has
        loop.heads.pop(self, None)
        exchange = self._end_exchange(error)
        request_id = loop.number_request("" if exchange is None else self.given_id())
        added = self.server_fields.now()
        if loop.config.send_request_id:
            added += f"X-Request-ID: {request_id}\r\n"
        head, body = error_response(error, added)
        report_refusal(self, exchange, error, head, body, request_id=request_id)
        output = self.make_output()
        output.append(head + body)  # behind what is left of an interim response
        self.phase = REFUSING
        self._flush()
        if self.phase is REFUSING:
            self._await_output(output, EVENT_WRITE)

    def _end_exchange(self, error: ProtocolError | None) -> PythonExchange | None:
        """Detach the exchange whose request was being read, and name that request in ``error``."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.drop_spool()
            if error is not None:
                exchange.describe(error)
        return exchange

    def linger(self) -> None:
        """Close for writing, and drop what still arrives until the client closes too.

        RFC 9112, section 9.6: closing at once would reset the connection if there is unread
        input, and the client might never see the response.
        """
        try:
            self.stream.shut_down()
        except BlockingIOError:
            self._await_end()
            return
        except OSError:
            self.close()
            return
        self.phase = LINGERING
        self.parser.buffer.clear()  # no request that is in it will be answered
        self.since = self.loop.now
        self._set_linger_deadline()
        self.loop.watch(self, EVENT_READ)

    def _await_end(self) -> None:
        """Wait until the kernel has room for the end of a TLS stream."""
        if self.phase is DISCARDING:
            self.close()
            return
        if self.phase is not REFUSING:
            self.phase = FLUSHING
        self._await_output(self.make_output(), EVENT_WRITE)

    def _set_linger_deadline(self) -> None:
        loop = self.loop
        self.deadline = linger_deadline(loop.config, loop.now, self.since, loop.draining)

    def _discard_input(self) -> None:
        try:
            count = self.stream.recv_into(self.loop.scratch)
            self.stream.note_received(count)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        self.lingered += count
        if count == 0 or self.lingered > self.loop.config.linger_bytes:
            self.close()
            return
        self._set_linger_deadline()

    # -- deadlines ------------------------------------------------------------------------------

    def expire(self) -> None:
        """Act on the deadline, which has passed, with all events before it handled."""
        phase = self.phase
        if phase is READING:
            self._expire_reading()
        elif phase is STORING:
            self.refuse(no_room(TimeoutError(errno.ETIMEDOUT, STORED_TOO_SLOWLY)))
        elif phase is LINGERING or phase is DISCARDING:
            self.close()
        elif phase is HANDSHAKING:
            handshaking.expire(self)
        elif phase is AWAITING_PROXY:
            proxying.expire(self)
        elif self.output is not None and self.output.size:
            self._expire_writing(self.output)
        elif phase is FLUSHING or phase is REFUSING:
            self.close()  # there is no room for the end of a TLS stream
        else:
            self.deadline = math.inf

    def _expire_reading(self) -> None:
        config = self.loop.config
        if self.awaited is IDLE and self.loop.draining:
            self.close()  # it was waited for in the drain, and a stop does not wait again
        elif self.awaited is IDLE:
            # RFC 9112, section 9.5: an idle connection is closed without a word. A request that is
            # on its way meets the end of the connection, and no reset: nothing of it was served.
            self.linger()
        elif self.awaited is HEAD and self.loop.draining:
            self.refuse(ProtocolError(503, config.stopping))
        elif self.awaited is HEAD:
            error = ProtocolError(
                408,
                f"The request's head did not arrive within {config.header_timeout:g} s.",
                setting="header_timeout",
            )
            error.request_line = self.parser.request_line
            self.refuse(error)
        elif self.body_clock is not None and self.body_clock.is_over():
            reason = f"The request's body did not arrive within {config.max_body_time:g} s."
            self.refuse(ProtocolError(408, reason, setting="max_body_time"))
        else:
            self.refuse(
                ProtocolError(
                    408,
                    f"The request's body came too slowly: {config.body_timeout:g} s and a second "
                    f"for each {config.body_min_rate:g} bytes are allowed.",
                    setting="body_timeout",
                )
            )

    def _expire_writing(self, output: Output) -> None:
        # A thread that waits for room keeps the deadline itself.
        if output.awaited or output.is_taken():
            self.deadline = self.loop.now + self.loop.config.write_timeout
        elif self.phase is FLUSHING and output.awaits_file():
            # It waits for the disk, and not for the client.
            self._cut_off(OSError(errno.EIO, FILE_READ_TOO_SLOWLY))
        else:
            self.give_up(output, TimeoutError(errno.ETIMEDOUT, CLIENT_STALLED))

    def give_up(self, output: Output, error: OSError) -> None:
        """Send no more of a response: its client takes no data, or not fast enough."""
        self.stream.client_gone.known = True
        if self.phase is FLUSHING or self.phase is REFUSING:
            self.report_response(f"client disconnected: {error.strerror}")
            self.reset()
        else:
            output.fail(error)
            self.deadline = math.inf
            self.loop.watch(self, 0)

    def cut_off_slow_reader(self, output: Output) -> None:
        """Do the same because of the unsent bytes of all responses."""
        if self.phase in (READING, STORING, DISCARDING):
            self._lose_client()  # what is unsent is the rest of earlier answers, or of 100 Continue
            return
        self.give_up(output, OSError(errno.ENOBUFS, CLIENT_TOO_SLOW))

    def _await_output(self, output: Output, mask: int) -> None:
        """Wait until the client takes output, within the write deadline; watch for ``mask``."""
        self.deadline = self.loop.now + self.loop.config.write_timeout
        output.is_taken()  # from now on
        self._hold_input(self.parser.buffered)
        self.loop.watch(self, mask)

    def _hold_input(self, size: int) -> None:
        """Count that the connection keeps ``size`` bytes of requests until its output has left."""
        self.loop.budget.hold_input(size - self.held_input)
        self.held_input = size

    def hurry_up(self) -> None:
        """Bring the deadline forward where a server that stops need not wait for long."""
        reading = self.phase is READING or self.phase is AWAITING_PROXY
        in_head = (reading and self.awaited is HEAD) or self.phase is HANDSHAKING
        if in_head or (reading and self.awaited is IDLE) or self.phase is LINGERING:
            patience = drain_patience(self.loop.config, in_head=in_head)
            self.deadline = min(self.deadline, self.loop.now + patience)

    def hurry_first_request(self) -> None:
        """Do the same for a connection whose first request is still to come, in a drain."""
        self.hurry_up()
        patience = self.loop.config.drain_accepted_seconds
        self.deadline = max(self.deadline, self.loop.now + patience)


def _without(fields: dict[str, str], names: Container[str]) -> dict[str, str]:
    # Not where it is called: variables that a comprehension uses cost each request a cell.
    return {name: fields[name] for name in fields if name not in names}
