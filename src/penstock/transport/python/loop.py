"""The loop over all sockets. One thread at a time, the leader, runs it.

`leader_followers` decides which thread leads. Everything here belongs to the leader, except
the section "for any thread", and what is marked so where it is initialised.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, Protocol

from penstock import messages
from penstock.telemetry.histograms import RequestHistograms
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    BYTES_RECEIVED,
    BYTES_SENT,
    CONNECTIONS,
    EVICTED_BODY,
    EVICTED_HEAD,
    EVICTED_IDLE,
    POLLED,
)
from penstock.transport.date import ServerFields
from penstock.transport.decisions import (
    Holding,
    evicted,
    eviction_key,
    exceeds_heads,
    exceeds_unsent,
    first_read_credit,
    has_room,
    input_is_scarce,
    reads_at_once,
    turn_seconds,
)
from penstock.transport.log_lines import RequestLog
from penstock.transport.python.accept_balancing import AcceptBalancing
from penstock.transport.python.budget import Budget
from penstock.transport.python.clients import ClientRate, Clients
from penstock.transport.python.connection import IDLE, PROCEED, Connection
from penstock.transport.python.connection_states import CONNECTION_STATES, state_word
from penstock.transport.python.disk import SENDERS, Disk
from penstock.transport.python.event_selector import EventSelector, IdleSelector
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.own_answers import OwnAnswers
from penstock.transport.python.remainder import Remainder
from penstock.transport.python.request_queue import RequestQueue
from penstock.transport.python.slow_paths import SlowPaths
from penstock.transport.python.slow_readers import SlowReaders
from penstock.transport.python.stream import Traffic
from penstock.transport.states import HANDED_OUT, READING, Phase
from penstock.transport.waker import Waker
from penstock.wsgi.environ import DroppedFields

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.observers import Observers
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.acceptor import Acceptor
    from penstock.transport.python.event_selector import EpollSelector, OtherSelector
    from penstock.transport.python.thread_slots import ThreadSlots
    from penstock.transport.python.tls_contexts import TlsContexts
    from penstock.transport.websockets import WebSockets

DROPPED_NAMES = 100
"""How many names of dropped fields wait to be logged. `DroppedFields` warns of fewer."""

RANDOM_WORDS = 512
"""How many request ids are made of what the system is asked for at once."""

IN_PROGRESS = frozenset({Phase.HANDED_OUT, Phase.ANSWERED, Phase.FLUSHING, Phase.REFUSING})
"""The phases in which a request is with the application, or its response under way."""


_EVICTIONS = {
    Holding.LINGERING: EVICTED_IDLE,
    Holding.IDLE: EVICTED_IDLE,
    Holding.HEAD: EVICTED_HEAD,
    Holding.BODY: EVICTED_BODY,
}


class Handler(Protocol):
    """What the selector has for each socket."""

    def handle_events(self, mask: int) -> PythonExchange | None:
        """Act on the events of ``mask``; return a request that became ready."""


class Loop:
    """The sockets of one transport, and what all its connections share: limits, logs, counts."""

    # Slots, because each request looks at some of these a few times.
    __slots__ = (
        "_drain_begun",
        "_dropped_fields",
        "_first_read_credit",
        "_handshakes_until",
        "_inbox",
        "_listening",
        "_next_sweep",
        "_polled_at",
        "_polling",
        "_random",
        "_slot",
        "_slow_readers",
        "_sweep_interval",
        "_told_forwarding",
        "_told_full",
        "_unwatched",
        "_waker",
        "accepted",
        "acceptors",
        "ask_full",
        "attend",
        "balancing",
        "batch",
        "budget",
        "clients",
        "closed",
        "config",
        "connections",
        "disk",
        "drained",
        "draining",
        "dropped_names",
        "fate_lock",
        "full",
        "handing_over",
        "heads",
        "histograms",
        "logger",
        "look_again_at",
        "look_for_clients",
        "notable_ns",
        "now",
        "observers",
        "own_answers",
        "own_paths",
        "post",
        "queue",
        "rate",
        "receive_bytes",
        "refused",
        "remainder",
        "request_log",
        "requests",
        "scratch",
        "selector",
        "senders",
        "server_fields",
        "shares",
        "slot_words",
        "slow_paths",
        "streaming",
        "thread_slots",
        "tls",
        "tls_server_fields",
        "traffic",
        "turn_ends",
        "unpolled",
        "untrusted_fields",
        "websockets",
    )

    def __init__(
        self,
        slot: Slot,
        *,
        config: TransportConfig,
        logger: logging.Logger,
        observers: Observers | None,
    ) -> None:
        # What any thread may use.
        self.config = config
        self.logger = logger
        self.request_log = RequestLog(logger, config)
        self.observers = observers
        self._dropped_fields = DroppedFields(logger, config.forwarded.fields)
        # Logged by the thread that takes the request, when it no longer leads: a log may block.
        self.dropped_names: deque[str] = deque(maxlen=DROPPED_NAMES)
        # The same, with the peer: a forwarding field of one that is not trusted. There is one.
        self.untrusted_fields: deque[tuple[str, str]] = deque(maxlen=1)
        self._told_forwarding = False
        self.server_fields = ServerFields(config.server_header)
        self.tls_server_fields = ServerFields(config.server_header, config.hsts)
        self.slow_paths = SlowPaths(config)
        self.notable_ns = int(config.notable_call_seconds * 1e9)
        self.budget = Budget(config, slot)
        self.disk = Disk(logger, config.disk_idle_seconds)
        self.senders = Disk(
            logger, config.disk_idle_seconds, name=SENDERS, threads=config.send_threads
        )
        self.rate: ClientRate | None = None
        if config.request_rate is not None and config.rate_table is not None:
            self.rate = ClientRate(config.request_rate, config.rate_table, slot)
        self.queue = RequestQueue(config, slot)
        # Requests whose body is still being read by the application. The leader adds, and looks at
        # the length; a thread discards: each is one step.
        self.streaming: set[PythonExchange] = set()
        self.fate_lock = threading.Lock()  # held for a comparison, and only by unusual responses
        self.tls: TlsContexts | None = None  # set by any thread; for new connections
        self.draining = False  # set by any thread
        self.closed = False  # set by any thread
        self.accepted = 0
        self.requests = 0
        self.refused = 0
        self._random: list[str] = []  # what the next request ids end with

        self.thread_slots: ThreadSlots  # set by LeaderFollowers
        self.attend: Callable[[], bool]  # the same: have a stall monitor from now on, if there can
        self.websockets: WebSockets  # set by PythonTransport
        self.slot_words = slot.words
        self._slot = slot
        self.traffic = Traffic()
        self.histograms = RequestHistograms(slot)
        shared = len(slot.scoreboard.slots) > 1
        self.balancing = AcceptBalancing(self.config, slot) if shared else None
        self.own_answers = OwnAnswers(self, slot)
        self.own_paths = self.own_answers.paths
        self.scratch = bytearray(self.config.receive_bytes)  # what lingering connections read into

        self.selector: OtherSelector | EpollSelector | IdleSelector = (
            EventSelector() if config.when_idle is None else IdleSelector(config.when_idle)
        )
        self.batch: deque[tuple[Handler, int]] = deque()  # polled, and not yet handled
        # The same, of connections, once a turn has lasted for too long: `_poll` fills it.
        self.remainder = Remainder(self)
        self._slow_readers = SlowReaders()
        # With more input buffered already. Each takes its turn with what the next poll brings: a
        # client that pipelines does not delay the others.
        self.unpolled: deque[Handler] = deque()
        self.connections: set[Connection] = set()
        self.clients = Clients(config, slot)
        self.heads: dict[Connection, None] = {}  # within a head, the oldest first
        self.acceptors: list[Acceptor] = []
        self._unwatched: list[Connection] = []  # these are watched from the next poll on
        self._first_read_credit = config.first_reads
        self.now = time.monotonic()
        self._polled_at = self.now
        self.turn_ends = self.now
        self.receive_bytes = self.config.receive_bytes  # the most that one read takes
        self.shares = False  # what one read brings of a body is written before the next one
        self._sweep_interval = self.config.sweep_interval
        self._next_sweep = self.now
        self.look_again_at = math.inf  # when an acceptor that left connections to others does
        self._inbox: deque[Connection] = deque()  # appended to by any thread
        self.post = self._inbox.append
        """Have the leader attend to a connection by the next event; `hurry` brings that about.

        Each request calls it: a method that passes the call on would cost as much again."""
        self._polling = False  # the leader is, or is about to be, blocked in the poll
        self._waker = Waker()
        self.selector.register(self._waker.reader, EVENT_READ, self._waker)

        self.handing_over = False  # set by any thread, before `draining`
        # Set by any thread: a client waits that the kernel may have woken another worker for.
        self.look_for_clients = False
        self.ask_full: Callable[[], bool] | None = None  # set while the stall monitor leads
        self.full = False  # every thread is in the application, and the monitor leads
        self._told_full = False
        self.drained = False  # nothing is left to do, and will not be
        self._drain_begun = False
        self._listening = True  # not all listeners are closed
        self._handshakes_until = math.inf

    # -- for any thread -------------------------------------------------------------------------

    def hurry(self) -> None:
        """Have the leader look at what was posted now."""
        # Posted first, looked at second; the leader sets the flag first and looks at the
        # inbox second. One of the two sees the other.
        if self._polling:
            self._waker.wake()

    def wake(self) -> None:
        """End the leader's poll."""
        self._waker.wake()

    def number_request(self, given: str = "") -> str:
        """Count a request, and return its id: ``given``, or one that cannot be guessed.

        For the leader.
        """
        self.requests += 1
        if given:
            return given
        if not self._random:
            # Asked for by the hundred: the system takes as long for one as for the work on it.
            self._random = os.urandom(8 * RANDOM_WORDS).hex(" ", 8).split()
        return self.config.id_prefix + self._random.pop()

    def note_untrusted(self, name: str, peer: str) -> None:
        """Take note of the forwarding field of a peer that is not trusted. For the leader."""
        if not self._told_forwarding:
            self._told_forwarding = True
            self._slot.set_forwarding_peer(peer)
            self.untrusted_fields.append((name, peer))

    def log_dropped_fields(self) -> None:
        """Log the fields that were left out of an environ, or not believed.

        Not for a thread that leads.
        """
        while self.untrusted_fields:
            try:
                name, peer = self.untrusted_fields.popleft()
            except IndexError:  # perhaps another thread was faster
                break
            messages.FORWARDING_NOT_BELIEVED.log(
                self.logger, field=name.title(), peer=peer or "a unix socket"
            )
        while True:
            try:
                name = self.dropped_names.popleft()
            except IndexError:  # perhaps another thread was faster
                return
            self._dropped_fields.report(name)

    def publish(self) -> None:
        """Write to the slot what is counted elsewhere: see `penstock.transport.Transport`."""
        words, connections = self.slot_words, list(self.connections)
        counts = Counter(map(state_word, connections))
        for word in CONNECTION_STATES:
            words[word] = counts[word]
        clients = Counter(each.remote_addr for each in connections if each.remote_addr)
        self._slot.set_top_client(*(clients.most_common(1) or [("", 0)])[0])
        words[BYTES_RECEIVED] = self.traffic.received
        words[BYTES_SENT] = self.traffic.sent
        self.histograms.publish()
        self.request_log.publish(words)

    # -- leading --------------------------------------------------------------------------------

    def run(self, *, only_posted: bool = False) -> PythonExchange | None:
        """Poll, read and write until a request is ready; return it.

        Return None when there is nothing left to do, and will not be. With ``only_posted``, handle
        only what was posted.
        """
        now = self.now = time.monotonic()
        inbox, batch, remainder = self._inbox, self.batch, self.remainder
        over = now >= self.turn_ends
        while True:
            while inbox:
                connection = inbox.popleft()
                try:
                    connection.attend()
                except Exception:
                    self._contain(connection)
            if only_posted:
                return None
            if self.closed:
                self._tear_down()
                return None  # before anything else is handed out
            while (batch or remainder.size) and not over:
                handler, mask = batch.popleft() if batch else self._take_from_remainder()
                try:
                    exchange = handler.handle_events(mask)
                except Exception:
                    self._contain(handler)
                    exchange = None
                if exchange is not None:
                    return exchange
                now = self.now = time.monotonic()
                over = now >= self.turn_ends
            # Looked at after the batch, which may have taken the wake-up that `close` sent. Without
            # that wake-up the next poll would not end.
            if inbox or self.closed:
                continue
            if self._do_what_is_due():
                return None
            self._poll()
            over = False

    def _poll(self) -> None:
        batch, unpolled, remainder = self.batch, self.unpolled, self.remainder
        if self._unwatched:
            self._watch_accepted()
        self._polling = True
        began = time.monotonic()
        balancing = self.balancing
        looks = balancing is not None and self._looks_for_clients(balancing)
        behind = bool(batch or remainder.size)
        at_once = behind or self._inbox or unpolled or looks or self._slow_readers.slowest_last
        if not at_once and balancing is not None:
            self._begin_wait(balancing)
        timeout = 0.0 if at_once else self._time_to_sweep(began)
        if timeout != 0.0:
            self.slot_words[POLLED] = 1
        events = self.selector.select(timeout)
        if not events and timeout != 0.0:
            # A process that was halted in the poll comes back with nothing, whatever has arrived
            # meanwhile; a client that sent in time must not be taken for late.
            events = self.selector.select(0.0)
        self._polling = False
        now = self.slot_words[POLLED] = time.monotonic_ns()
        self.now = self._polled_at = now / 1e9
        if balancing is not None:
            balancing.went_behind = False
            if looks and not any(handler in self.acceptors for handler, _ in events):
                balancing.forget_deferrals()  # other workers took what was left to them
        batch.extend(events)
        while unpolled:
            batch.append((unpolled.popleft(), PROCEED))
        if behind:
            self._put_in_remainder()
            self.now = time.monotonic()
            self.turn_ends = math.inf  # it begins behind the batch: `_take_from_remainder`
            self.receive_bytes = self.config.shared_receive_bytes
            self.shares = True
        else:
            self.turn_ends = self.now + turn_seconds(self.config, len(batch))
            self.receive_bytes = self.config.receive_bytes
            self.shares = False
        held, storing = self.budget.bodies, self.disk.held
        # Without a call where there is nothing: each turn comes here.
        if (held or storing) and input_is_scarce(self.config, held, storing):
            self.receive_bytes = self.config.scarce_receive_bytes
            self.shares = True
        if timeout != 0.0 and balancing is not None and balancing.exclusive:
            self._accept_first(balancing)

    def _begin_wait(self, balancing: AcceptBalancing) -> None:
        """Have the listeners watched as fits a leader that is about to wait.

        One that might not accept is woken beside the others, and not in place of one. A call in
        another thread may keep the interpreter lock when the leader is woken.
        """
        if self.draining:
            return
        hindered = self.full or self.thread_slots.calling()
        count = len(self.connections)
        if balancing.changes_watch(hindered, count, count + self.budget.files):
            for acceptor in self.acceptors:
                acceptor.watch_again()

    def _accept_first(self, balancing: AcceptBalancing) -> None:
        """Accept before a request goes to the application: others may not know of the client."""
        found = [handler for handler, _ in self.batch if handler in self.acceptors]
        if not found:
            return
        others = [item for item in self.batch if item[0] not in found]
        self.batch.clear()
        self.batch.extend(others)
        for acceptor in found:
            try:
                acceptor.accept_first(balancing)
            except Exception:
                self._contain(acceptor)

    def _take_from_remainder(self) -> tuple[Connection, int]:
        """Take the connection that is next, with its events.

        The turn begins with the first of them, so that there is one in each: clients that connect
        without a pause do not keep those waiting for ever that have sent a request.
        """
        if self.turn_ends == math.inf:
            self.turn_ends = self.now + self.config.shared_turn_seconds
        return self.remainder.take()

    def _put_in_remainder(self) -> None:
        """Have what connections have for the leader wait, shared by client: a turn was not enough.

        What is not a connection's stays in the batch, and so comes first.
        """
        batch = self.batch
        for _ in range(len(batch)):
            handler, mask = batch.popleft()
            if isinstance(handler, Connection):
                self.remainder.add(handler, mask, self._polled_at)
            else:
                batch.append((handler, mask))

    def proceed(self, connection: Connection) -> None:
        """Have a connection go on in this turn, with what it has already."""
        if self.remainder.size:
            self.remainder.add(connection, PROCEED, self.now)
        else:
            self.batch.append((connection, PROCEED))

    def _looks_for_clients(self, balancing: AcceptBalancing) -> bool:
        """Return True if the next poll shows whether clients still wait that were left to others.

        That poll does not wait: afterwards it would be unknown since when a client waits.
        """
        deferred = balancing.has_deferred() and all(acceptor.watched for acceptor in self.acceptors)
        return balancing.went_behind or deferred

    def _time_to_sweep(self, now: float) -> float | None:
        if not self.connections and not self.draining and all(a.watched for a in self.acceptors):
            return self.config.idle_wait  # nothing has a deadline
        return max(0.0, min(self._next_sweep, self.look_again_at) - now)

    def _do_what_is_due(self) -> bool:
        """Do what is due between two polls. Return True if the loop is at its end."""
        if self.draining:
            if not self._drain_begun:
                self._begin_drain()
                return False  # what was accepted just now is read before anything expires
            if self._listening:
                self._empty_queues()
            if not self._listening and not self.connections:
                self._tear_down()
                return True
        if self._slow_readers.slowest_last or exceeds_unsent(self.config, self.budget.unsent):
            self._slow_readers.cut_off(self)
        if self.ask_full is not None:
            self.full = self.ask_full()
        if self._told_full is not self.full:
            self._tell_full()
        if self._polled_at >= self.look_again_at:
            self._look_again()
        if self.look_for_clients:
            self._look_for_clients()
        # Measured against the last poll, not against now: what had arrived by then has been
        # handled. Deadlines do not count time in which the process did not run.
        if self._polled_at >= self._next_sweep:
            self._sweep(self._polled_at)
        return self.drained

    def _tell_full(self) -> None:
        """Act on that every thread is busy now, or that one has come back."""
        self._told_full = self.full
        self.tell_accepting()
        if self.balancing is not None:
            self.balancing.note_busy()
        if not self.full:
            for acceptor in self.acceptors:
                if acceptor.left_to_others:
                    acceptor.start()

    def _look_again(self) -> None:
        """Let the acceptors that left connections to other workers look again."""
        self.look_again_at = math.inf
        for acceptor in self.acceptors:
            acceptor.look_again()

    def _look_for_clients(self) -> None:
        self.look_for_clients = False
        balancing = self.balancing
        if balancing is not None and balancing.exclusive and not self.draining:
            for acceptor in self.acceptors:
                acceptor.watch_again()  # otherwise the next poll shows each client

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + self._sweep_interval
        self._sweep_queue()
        waits_since = self.remainder.since
        for connection in [c for c in self.connections if c.deadline <= now]:
            if connection.deadline >= waits_since(connection):
                continue  # what it waited for had come in time
            try:
                connection.expire()
            except Exception:
                self._contain(connection)
        for acceptor in self.acceptors:
            acceptor.resume()

    def queue_up(self, exchange: PythonExchange, *, taken_at_once: bool) -> None:
        """Have a request wait for a thread; refuse one where the queue is full. For the leader."""
        refused = self.queue.put(exchange, taken_at_once=taken_at_once)
        if refused is not None:
            self._end_unserved(refused, partial(self.queue.refuse_full, refused))

    def _sweep_queue(self) -> None:
        """End the requests in the queue whose time is over, and those whose clients have left."""
        try:
            ended = self.queue.sweep()
        except Exception:
            # A bug, or no memory. The leader goes on, and threads take requests off the queue.
            self.request_log.message(messages.QUEUE_DEFECT, exc_info=True)
            return
        for exchange, status in ended:
            self._end_unserved(exchange, partial(self.queue.end, exchange, status))

    def _refuse_stopped(self, exchange: PythonExchange) -> None:
        self.queue.refuse_stopped(exchange)
        exchange.connection.attend()

    def _end_unserved(self, exchange: PythonExchange, end: Callable[[], None]) -> None:
        """End a request that no thread is to have; confine a defect to its connection."""
        try:
            end()
        except Exception:
            self._contain(exchange.connection)
            exchange.connection.reset()

    def _contain(self, handler: Handler) -> None:
        """Confine a defect of ours to the connection that met it."""
        self.request_log.message(messages.CONNECTION_DEFECT, detail="", exc_info=True)
        if isinstance(handler, Connection) and not handler.is_with_a_thread():
            handler.reset()

    # -- connections ----------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Take a new connection in."""
        self.accepted += 1
        self.connections.add(connection)
        self.slot_words[ACCEPTED] = self.accepted
        self.slot_words[CONNECTIONS] = len(self.connections)
        if self._drain_begun:
            if self._begin_to_watch(connection):
                connection.hurry_first_request()
            return
        config, credit = self.config, self._first_read_credit
        # Where a turn was not enough, it would overtake those that wait already.
        may = connection.phase is READING and not self.remainder.size
        if may and reads_at_once(config, credit, self.accepted):
            # It may have its answer, and the end, before the next poll: then it is never watched.
            self._first_read_credit = first_read_credit(config, credit, found=False)
            connection.unwatched = True
            self._unwatched.append(connection)
            self.batch.append((connection, EVENT_READ))
        else:
            self._begin_to_watch(connection)

    def _begin_to_watch(self, connection: Connection) -> bool:
        """Watch a new connection for input. Return True unless it was closed instead."""
        connection.unwatched = False
        try:
            self.watch(connection, connection.watched | EVENT_READ)
        except OSError:  # no memory, or no watch is left (epoll(7), max_user_watches)
            self._contain(connection)
            return False
        return True

    def _watch_accepted(self) -> None:
        """Watch what was accepted since the last poll, and is still there.

        In other phases than these a connection is watched for what it waits for.
        """
        credit = self._first_read_credit
        for connection in self._unwatched:
            begun = connection.requests or connection.awaited is not IDLE
            if begun or connection.phase is not READING:
                credit = first_read_credit(self.config, credit, found=True)
            if connection.phase is READING or connection.phase is HANDED_OUT:
                self._begin_to_watch(connection)
            connection.unwatched = False
        self._first_read_credit = credit
        self._unwatched.clear()

    def watch(self, connection: Connection, mask: int) -> None:
        """Watch a connection for the events of ``mask``, 0 for none."""
        watched = connection.watched
        if mask == watched:
            return
        connection.watched = mask
        if not watched:
            self.selector.register(connection.stream, mask, connection)
        elif mask:
            self.selector.modify(connection.stream, mask, connection)
        else:
            # Not only a mask of 0, under which the kernel goes on telling errors.
            with contextlib.suppress(KeyError):  # forgotten when it could not be watched
                self.selector.unregister(connection.stream)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is about to be closed."""
        self.watch(connection, 0)
        self.connections.discard(connection)
        self.heads.pop(connection, None)
        if connection.client_key is not None:
            self.clients.leave(connection.client_key)
            connection.client_key = None
        self.slot_words[CONNECTIONS] = len(self.connections)
        if not self.closed and not self.drained:
            for acceptor in self.acceptors:
                acceptor.resume()  # a client that waits for room need not wait for the next sweep
                if self.balancing is not None:
                    acceptor.reconsider(self.balancing)

    def tell_accepting(self) -> None:
        """Tell on the scoreboard whether a newcomer would be accepted now."""
        able = all(acceptor.able for acceptor in self.acceptors)
        self.slot_words[ACCEPTING] = able and not self.draining and not self.full

    def has_room(self) -> bool:
        """Return True if another connection may be accepted."""
        # At the end, even beyond the cap: who is left in the queue of a listener is reset.
        count = len(self.connections)
        return self._drain_begun or has_room(self.config, count, count + self.budget.files)

    def make_room(self) -> bool:
        """Return True if another connection may be accepted, after evicting some if needed.

        Without evicting, a client that holds connections open could keep all others out until their
        deadlines are over.
        """
        if not self.has_room():
            self.evict()
        return self.has_room()

    def evict(self) -> bool:
        """Evict the first connections in the order of eviction. Return True if there were any."""
        before = len(self.connections)
        kinds: dict[Holding, list[tuple[float, Connection]]] = {}
        for connection in self.connections:
            kind = connection.holding()
            exchange = connection.exchange
            received = 0 if exchange is None else exchange.body_received
            key = eviction_key(self.config, kind, self.now - connection.since, received)
            if key >= 0:
                kinds.setdefault(kind, []).append((key, connection))
        for kind in sorted(kinds):
            found = kinds[kind]
            for _, connection in heapq.nlargest(evicted(len(found)), found, key=itemgetter(0)):
                if not connection.has_input():
                    self._evict(connection, kind, "max_connections")
            if len(self.connections) < before:
                return True
        return False

    def head_begins(self, connection: Connection) -> None:
        """Take note of an unfinished head; evict the oldest where there are too many."""
        self.heads[connection] = None
        if exceeds_heads(self.config, len(self.heads)):
            self._evict(next(iter(self.heads)), Holding.HEAD, "max_unfinished_heads")

    def _evict(self, connection: Connection, kind: Holding, setting: str) -> None:
        self.slot_words[_EVICTIONS[kind]] += 1
        connection.evict(setting)

    # -- the end --------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        """Accept the last ones, or leave them to others; give idle connections a short while."""
        self._drain_begun = True
        if self.handing_over:
            self.hand_listeners_over()
        else:
            for acceptor in self.acceptors:
                acceptor.begin_drain()
            self._handshakes_until = self.now + self.config.drain_handshake_seconds
            self._empty_queues()
        self.tell_accepting()
        for connection in self.connections:
            connection.hurry_up()
        self._next_sweep = self.now
        self._sweep_interval = min(self._sweep_interval, self.config.drain_sweep_seconds)

    def hand_listeners_over(self) -> None:
        """Close the listeners: other processes accept on the same sockets."""
        for acceptor in self.acceptors:
            acceptor.close()
        self._listening = False
        self.tell_accepting()

    def _empty_queues(self) -> None:
        """Accept what waits in the accept queues: the kernel has accepted it, so it is served.

        Where there is no room for all of it, the rest waits until others have left. A queue into
        which no new client comes stays open for a while, for handshakes that are under way.
        """
        if self.handing_over:
            self.hand_listeners_over()
            return
        last = not self.connections or self.now >= self._handshakes_until
        for acceptor in self.acceptors:
            if last or not acceptor.refuses_new:
                acceptor.close_when_empty()
        self._listening = any(acceptor.is_open() for acceptor in self.acceptors)

    def _tear_down(self) -> None:
        if self.drained:
            return
        self.drained = True
        for exchange in self.queue.take_all():
            self._end_unserved(exchange, partial(self._refuse_stopped, exchange))
        for connection in list(self.connections):
            if connection.phase in (Phase.HANDED_OUT, Phase.ANSWERED):
                self.watch(connection, 0)
                connection.stream.cut_off()
            elif connection.phase in (Phase.FLUSHING, Phase.REFUSING):
                connection.report_response("response cut off: the server stopped")
                connection.reset()
            else:
                connection.close()
        for acceptor in self.acceptors:
            acceptor.stop()
            acceptor.listener.close()
        self.selector.close()
        self._waker.close()
        self.disk.end()
        self.senders.end()

    def close_in_child(self) -> None:
        """Close all descriptors in a forked child, for the parent's sake.

        A child that kept them would keep clients waiting for an end that the parent has sent
        long ago. Nothing is unregistered: the epoll instance is still the parent's, too.
        """
        sockets = [acceptor.listener.socket for acceptor in self.acceptors]
        streams = [connection.stream for connection in list(self.connections)]
        for connection in list(self.connections):
            if connection.output is not None:
                connection.output.close_in_child()
        self.disk.close_in_child()
        descriptors = [*(it.detach() for it in sockets), *(it.detach() for it in streams)]
        for descriptor in descriptors:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._waker.close()
        self.selector.close()

    def snapshot(self) -> dict[str, Any]:
        """Return counts of what is there now, and of what was since the start."""
        phases = [c.phase for c in list(self.connections)]
        return {
            "connections": len(phases),
            "connections_accepted": self.accepted,
            "requests": self.requests,
            "requests_in_progress": sum(phase in IN_PROGRESS for phase in phases),
            "requests_refused": self.refused,
            "draining": self.draining,
            "slow_share": round(self.slow_paths.overall, 3),
            "next_deadline": min((c.deadline for c in list(self.connections)), default=math.inf),
        }
