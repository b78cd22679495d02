"""What both transports decide alike, as pure functions of numbers.

Native code has the same functions in ``decisions.rs``; ``tests/transport/test_decisions.py`` has
the table of what they return, and runs it on both. What the numbers are compared with comes from
`TransportConfig`.
"""

from __future__ import annotations

from enum import IntEnum
from math import ceil
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig

# -- accept balancing ---------------------------------------------------------------------------
#
# Where the kernel can wake one of the workers that share a listening socket for a new connection,
# it wakes the one that has watched the socket for longest among those that wait. That one accepts
# it, since no other one may know of it, and then goes behind the others. A worker that might not
# accept is woken beside the one that does.
#
# Elsewhere all of them are woken. In both cases a worker accepts in small steps, and leaves the
# rest for a moment to workers that have fewer connections. If these do not come, because they are
# stopped or get no processor, the worker accepts after a few such moments, and then in steps that
# grow.


def watches_exclusively(
    config: TransportConfig, alone: bool, hindered: bool, connections: int, descriptors: int
) -> bool:
    """Return True if a worker that is about to wait is woken for a client in place of another one.

    ``alone`` is whether no other worker serves, ``hindered`` whether this one might not accept the
    client at once; ``connections`` and ``descriptors`` are as for `has_room`.
    """
    if alone or hindered or not config.exclusive_wake:
        return False
    return has_room(config, connections, descriptors)


def steps_back(own: int, fewest: int | None) -> bool:
    """Return True if a worker that has accepted goes behind the others in the kernel's queue.

    ``own`` is its number of connections, ``fewest`` the least of the others (see
    `leaves_to_others`). One that still has fewer than all others stays: it is new, and gets the
    next connections until it has its share.
    """
    return fewest is not None and own >= fewest


def leaves_to_others(config: TransportConfig, own: int, fewest: int | None, threads: int) -> bool:
    """Return True if a worker leaves new connections to another one.

    ``own`` is its number of connections, ``fewest`` the least that any other worker has which would
    accept now (None without one), ``threads`` how many calls each of them can make at a time.
    """
    if fewest is None:
        return False
    # The slack saves waiting. There is none where a new connection may have to wait for a thread,
    # and would not with the other worker.
    slack = config.balance_slack if own < threads else 0
    return own > fewest + slack + fewest // config.balance_share


def accepts_into_queue(
    config: TransportConfig, waited: float, own: int, fewest: int | None
) -> bool:
    """Return True if a worker without a free thread accepts a client into its queue.

    No other worker has a free thread either. ``waited`` is for how long clients have waited in the
    accept queue without a break, in seconds; ``own`` how many requests wait for a thread of this
    worker, and ``fewest`` the least that wait in any other busy one (None without one).
    """
    # Where requests wait in each worker, none would serve a new client sooner by leaving it.
    if own > 0 and fewest != 0:
        return True
    return waited >= config.busy_accept_seconds


def accept_step(config: TransportConfig, alone: bool, deferrals: int, in_vain: int) -> int:
    """Return how many connections a worker accepts in one turn.

    ``alone`` is whether no other worker serves. ``deferrals`` counts how often in a row it has left
    them to others, ``in_vain`` how often in a row it had to accept them in the end.
    """
    if alone:
        return config.accept_batch
    if deferrals < config.balance_deferrals:
        return config.balance_batch
    return 1 << min(in_vain, config.balance_doublings)


def reads_at_once(config: TransportConfig, credit: int, number: int) -> bool:
    """Return True if a connection that was just accepted is read from at once.

    Many clients send their request with the connection. Where it ends with the response, it need
    not be watched at all. ``credit`` is how many such reads may begin before one has found
    something, ``number`` counts the connections. Without credit some are tried all the same: other
    clients may have come.
    """
    return credit > 0 or number % config.first_reads == 0


def first_read_credit(config: TransportConfig, credit: int, *, found: bool) -> int:
    """Return how many such reads may begin after another one has begun, or has ``found`` something.

    One that finds something pays for itself, and for another one that does not.
    """
    return min(config.first_reads, credit + 2) if found else max(0, credit - 1)


# -- the target of a request ----------------------------------------------------------------------


def accepts_scheme(https_target: bool, secure: bool) -> bool:
    """Return True if a request's target may have its scheme on this connection.

    ``secure`` is whether the connection is secured, here or by a trusted proxy in front. A target
    that has no scheme has none to check. (RFC 9110, section 7.4: what is asked for as ``https`` is
    not answered over a connection that anyone can read.)
    """
    return secure or not https_target


# -- a request's body -----------------------------------------------------------------------------


def streams_body(
    config: TransportConfig, length: int | None, expects: bool, streaming: int
) -> bool:
    """Return True if the application is called before a request's body has come.

    ``length`` is its Content-Length, None for chunks; ``expects`` is whether the client waits for
    ``100 Continue``; ``streaming`` is how many requests with such a body are with the application,
    or wait for a thread.

    With ``fast`` `hand_over` decides, once some of the body has come. With ``auto`` it is so where
    that saves something: the client need not send what the application refuses, and the disk need
    not take it. A slow client holds a thread meanwhile, so that half of the threads are left to
    others, and a single thread is left alone. Of chunks, applications that read CONTENT_LENGTH
    bytes would see nothing: they are collected.
    """
    if isinstance(config.stream_requests, bool):
        return config.stream_requests
    if config.stream_requests == "fast" or length is None or streaming >= most_streamed(config):
        return False
    return expects or length > config.body_memory


class HandOver(IntEnum):
    """What is done with a body of which the memory takes no more."""

    NEVER = 0
    """It goes to a file."""
    LATER = 1
    """It may wait until the application reads fewer."""
    NOW = 2
    """The application is called, and reads the rest as it arrives."""


def hand_over(
    config: TransportConfig, length: int | None, received: int, took: float, streaming: int
) -> HandOver:
    """Return what is done with a body of which ``received`` bytes came within ``took`` seconds.

    The other arguments are those of `streams_body`. A body that comes fast holds a thread hardly
    longer than one that has come, and costs no writing and reading of files. A client that sends
    its rest slowly after all holds one of those that are not left to others.
    """
    if isinstance(config.stream_requests, bool) or length is None or config.threads == 1:
        return HandOver.NEVER
    took = max(took, config.fast_least_seconds)
    if (length - received) * took > received * config.fast_rest_seconds:
        return HandOver.NEVER
    return HandOver.NOW if streaming < most_streamed(config) else HandOver.LATER


def most_streamed(config: TransportConfig) -> int:
    """Return how many threads may read bodies as they arrive; the rest is left to others.

    It is no limit where ``stream_requests`` is True.
    """
    return config.threads // 2


# -- eviction -----------------------------------------------------------------------------------


def evicted(idle: int) -> int:
    """Return how many of ``idle`` evictable connections make room, those idle for longest first.

    A share of them at once, so that not every new connection has to look at all of them.
    """
    return min(idle, 1 + idle // 16)


class Holding(IntEnum):
    """What a connection has its place for, as far as eviction is concerned."""

    LINGERING = 0
    """It is closed for writing, and its client has not closed yet."""
    IDLE = 1
    """It has sent nothing since it was accepted, or since its last response."""
    HEAD = 2
    """The head of a request has begun."""
    BODY = 3
    """The head is complete, and the body is not."""
    CALL = 4
    """Its request waits for a thread, is with the application, or is being answered."""


EVICTION_RANK = 1e9
"""What sets the kinds of connections apart in `eviction_key`: no age in seconds is as large."""


def eviction_key(config: TransportConfig, holding: int, age: float, received: int) -> float:
    """Return the place of a connection in the order of eviction: the highest goes first.

    First those that only linger, then those that are idle for longest, then the oldest unfinished
    heads, then the slowest bodies. ``age`` is for how long it has been like that in seconds,
    ``received`` how much of the body has come in bytes. A negative key means that it is not
    evicted: it is young, or has a request that is served.
    """
    if holding == Holding.CALL or age < config.evict_idle_seconds:
        return -1.0
    if holding == Holding.BODY:
        return age / max(1, received)
    return EVICTION_RANK * (Holding.BODY - holding) + age


def has_room(config: TransportConfig, connections: int, descriptors: int) -> bool:
    """Return True if a worker has room for another connection.

    ``descriptors`` are all that the transport has open: connections, spooled bodies, files to send.
    The rest up to the limit on open files is the application's.
    """
    return connections < config.max_connections and descriptors < config.max_descriptors


def client_has_room(config: TransportConfig, connections: int) -> bool:
    """Return True if a client that has this number of connections may have another one."""
    most = config.max_connections_per_client
    return most == 0 or connections < most


def exceeds_heads(config: TransportConfig, heads: int) -> bool:
    """Return True if the oldest of the unfinished heads is evicted because of their number."""
    return heads > config.max_unfinished_heads


# -- bodies -------------------------------------------------------------------------------------


def body_deadline(
    config: TransportConfig, deadline: float, now: float, began: float, more: int
) -> float:
    """Return until when the next byte of a body has to come, after ``more`` bytes came at ``now``.

    ``deadline`` is what it was before: for the first byte, `body_timeout` after the body ``began``.
    Each byte extends it by its share of `body_min_rate`, but never beyond `body_window_seconds`
    from now: within two windows at most, a body that brings less than a window's worth is over.
    ``began`` bounds the time of a whole body by `max_body_time`.
    """
    earned = deadline + more / config.body_min_rate
    return min(earned, now + config.body_window_seconds, began + config.max_body_time)


def body_deadline_after_storing(
    config: TransportConfig, deadline: float, began: float, storing: float
) -> float:
    """Return until when the next byte of a body has to come, after the disk kept it waiting.

    The client is not blamed for the ``storing`` seconds in which its body was not read, and yet no
    body lasts longer than `max_body_time`.
    """
    return min(deadline + storing, began + config.max_body_time)


def disk_is_full(config: TransportConfig, held: int) -> bool:
    """Return True if no more is read that would have to be written to a temporary file.

    ``held`` bytes wait for the disk.
    """
    return held + config.store_bytes > config.max_storing


def exceeds_body_time(config: TransportConfig, deadline: float, began: float) -> bool:
    """Return True if `max_body_time`, and no other setting, decided about the deadline of a body.

    ``began`` is when the body did.
    """
    return deadline >= began + config.max_body_time


def body_room(config: TransportConfig, body: int, held: int) -> int:
    """Return how many more bytes of a body may be held in memory; a longer one is spooled.

    ``body`` bytes of it are in memory, and ``held`` bytes of all bodies of the worker.
    """
    most = config.body_memory
    if 4 * held < config.max_body_memory:
        # No disk is as fast, and few bodies are longer than this.
        most = max(most, config.ample_body_memory)
    return max(0, min(most - body, config.max_body_memory - held))


def input_is_scarce(config: TransportConfig, held: int, storing: int) -> bool:
    """Return True if each read of a socket takes little, since requests take much of the memory.

    ``held`` is how many bytes of bodies and of requests behind unsent responses are in memory,
    ``storing`` how many bytes of bodies wait for the disk.
    """
    return 2 * (held + storing) >= config.max_body_memory


def spool_status(config: TransportConfig, body: int, spooled: int, more: int) -> int:
    """Return the status that refuses ``more`` bytes for a temporary file; 0 if they may go there.

    ``body`` is how long the body is with them, ``spooled`` what the workers have in temporary files
    without them.
    """
    if body > config.parser.body:
        return 413
    return 507 if spooled + more > config.max_spool else 0


# -- output -------------------------------------------------------------------------------------


class OutputStep(IntEnum):
    """What the application's thread does after a block of a response, before the next one."""

    GO_ON = 0
    WAIT = 1
    """It waits until the client has read more."""
    SPOOL = 2
    """It writes what is in memory to the response's temporary file."""
    WAIT_AT_LIMIT = 3
    """It waits, and has waited for a while, because no more may go into that file."""


def output_step(config: TransportConfig, memory: int, spool: int, waited: float) -> OutputStep:
    """Return what the application's thread does where a block of a response is unsent.

    ``memory`` is how many bytes of the response are unsent and in memory, ``spool`` how many have
    gone into its temporary file (0 without one), and ``waited`` for how many seconds the thread has
    waited for the client. Once there is a file the thread does not wait, until the file is as large
    as it may be: then until the client has read all of it.
    """
    if memory <= config.unsent_limit:
        return OutputStep.GO_ON
    waits_long = waited >= config.out_spool_patience_seconds
    if spool + memory > config.out_spool:
        return OutputStep.WAIT_AT_LIMIT if waits_long else OutputStep.WAIT
    return OutputStep.SPOOL if spool or waits_long else OutputStep.WAIT


class SpoolRefusal(IntEnum):
    """Why a response does not go into a temporary file."""

    NONE = 0
    FULL = 1
    """The temporary files of all workers have as many bytes as a response may add to."""
    FILES = 2
    """No descriptor is left for the transport."""


def out_spool_refusal(
    config: TransportConfig, spooled: int, more: int, descriptors: int | None
) -> int:
    """Return why ``more`` bytes of a response do not go into a temporary file.

    ``spooled`` is what the workers have in temporary files without them, ``descriptors`` how many
    the transport has open; None where the response has its file.
    """
    if spooled + more > config.max_responses_spooled:
        return SpoolRefusal.FULL
    if descriptors is not None and descriptors >= config.max_descriptors:
        return SpoolRefusal.FILES
    return SpoolRefusal.NONE


def exceeds_unsent(config: TransportConfig, unsent: int) -> bool:
    """Return True if the slowest reader is cut off because of the unsent bytes of all responses."""
    return unsent > config.max_unsent


def far_exceeds_unsent(config: TransportConfig, unsent: int) -> bool:
    """Return True if the slowest readers are cut off at once, whatever else is to be done."""
    return unsent > config.max_unsent + config.max_unsent // 16


def is_relieved(config: TransportConfig, unsent: int) -> bool:
    """Return True if no more readers are cut off, once one has been.

    They make a sixteenth of the room, so that not every new response has to look at all readers.
    """
    return unsent <= config.max_unsent - config.max_unsent // 16


def most_ahead(config: TransportConfig) -> int:
    """Return for how many connections at a time the kernel may hold ``ahead_bytes``.

    Together that is as much as may wait unsent in the worker.
    """
    return config.max_unsent // config.ahead_bytes


def time_to_read(unsent: int, taken: int, waited: float) -> float:
    """Return how many seconds a client needs for what it has not read yet, at its pace so far.

    The slowest reader is the one with the longest such time. ``taken`` is how many bytes it took in
    the ``waited`` seconds for which output has waited for it.
    """
    return waited * unsent / max(1, taken)


# -- turns of the loop ----------------------------------------------------------------------------


def turn_seconds(config: TransportConfig, found: int) -> float:
    """Return for how long the leader works off what one poll has found, until it polls again.

    ``found`` is the number of events. This is where nothing was left of the turn before.
    """
    return config.turn_seconds if found > config.turn_events else config.few_events_turn_seconds


# -- overload -----------------------------------------------------------------------------------


class Leaving(IntEnum):
    """What is known of the client of a request in the queue."""

    STAYS = 0
    HALF_CLOSED = 1
    """It has ended its side: it may have left, or wait for the answer."""
    GONE = 2
    """The connection is reset or broken."""


def queue_has_room(config: TransportConfig, waiting: int) -> bool:
    """Return True if another request may wait for a thread; else it gets 503."""
    return waiting < config.queue


def queued_status(config: TransportConfig, waited: float, leaving: int, sustained: bool) -> int:
    """Return how a request in the queue ends without a thread; 0 if a thread takes it.

    503 is sent; 499 is for the log, since its client has left. A client that only ends its side
    counts as one that has left while the overload is ``sustained``: it may not wait for an answer
    any more, and others do.
    """
    if leaving == Leaving.GONE or (leaving == Leaving.HALF_CLOSED and sustained):
        return config.client_left_status
    return 503 if waited > config.queue_timeout else 0


def retry_after(config: TransportConfig, waiting: int, service: float, threads: int) -> int:
    """Return ``Retry-After`` of a 503 in seconds: until the requests that wait have been served.

    ``service`` is the mean time of a call in seconds.
    """
    return min(max(1, ceil(waiting * service / max(1, threads))), config.retry_after_seconds)


class ReadyWithQueue(Protocol):
    """What decides it: the transport's configuration, and the settings that it comes from."""

    @property
    def overload_ready_after(self) -> float:
        """The setting, in seconds."""


def ready_with_queue(config: ReadyWithQueue, full: float) -> bool:
    """Return True unless the queue has been full for too long: ``full`` seconds."""
    return config.overload_ready_after == 0 or full < config.overload_ready_after


# -- calls that leave the count of threads -------------------------------------------------------


def may_leave_count(config: TransportConfig, left: int, threads: int) -> bool:
    """Return True if another call may leave the count of ``threads``; a thread replaces it then.

    ``left`` is how many have left it. With one thread none may: the worker's main thread alone
    runs the application.
    """
    return threads > 1 and left < config.max_io_bound


def may_open_websocket(config: TransportConfig, opened: int) -> bool:
    """Return True if another WebSocket may be opened; ``opened`` is how many there are."""
    return opened < config.max_websockets


# -- the end of a connection --------------------------------------------------------------------


def keeps_connection(
    config: TransportConfig, continue_owed: bool, remaining: int | None, arrived: int
) -> bool:
    """Return True if the unread rest of a request's body is dropped to keep the connection.

    ``remaining`` is its length in bytes, None where that is unknown, and ``arrived`` how many bytes
    the kernel holds. A rest that is still to come is never waited for: a proxy in front that frames
    the request in another way would send the next one in its place, and that would be dropped as
    the body, with the answer going to another client. With ``continue_owed`` the client may never
    send it.
    """
    if continue_owed or remaining is None:
        return False
    return remaining <= min(arrived, config.discard_bytes)


def lingers(
    config: TransportConfig, last: bool, requests: int, unread: bool, sent: int, secure: bool
) -> bool:
    """Return True if a connection lingers whose response has been sent; otherwise it is closed.

    If the kernel holds or gets input after the closing, it sends RST, and drops what the client has
    not acknowledged (RFC 9112, section 9.6). A client that asked for the close sends nothing behind
    that request, by the same section. So the connection is closed at once where nothing else is at
    stake. ``last`` is whether the client asked for the close, in a request without a body (old
    clients send CRLF behind one), and the call was not slow: during a long one the client may have
    sent what no thread has seen. ``requests`` is how many the connection had, since responses to
    earlier ones may be on their way. ``unread`` is whether the client is known to have sent more,
    ``sent`` how many bytes the application's fields and the body have: no more than a usual client
    has been sent by now. ``secure`` is whether TLS ends the stream, which is more than to close it.
    """
    return not last or requests != 1 or unread or sent > config.unlingered_bytes or secure


def linger_deadline(config: TransportConfig, now: float, since: float, draining: bool) -> float:
    """Return when a connection that lingers since ``since`` is closed if nothing arrives."""
    idle = config.linger_idle_seconds
    if draining:
        idle = min(idle, config.drain_linger)
    return min(now + idle, since + config.linger_seconds)


def drain_patience(config: TransportConfig, *, in_head: bool) -> float:
    """Return how long a draining transport waits for an idle or lingering client.

    ``in_head`` means that the head of a request has begun.
    """
    if in_head:
        return max(config.drain_linger, config.drain_head_seconds)
    return config.drain_linger


# -- the slow-path estimate ---------------------------------------------------------------------

ALL_SLOW = 254
"""The share of slow calls of a path is kept in these units, so that it fits into a byte."""


def next_share(share: int, slow: bool) -> int:
    """Return a path's share of slow calls after another call: an eighth of it is the new one."""
    if slow:
        return share + -(-(ALL_SLOW - share) // 8)
    return share - -(-share // 8)


def next_overall_share(share: float, slow: bool) -> float:
    """Return the share of slow calls of all paths after another call; a tiny one becomes 0."""
    moved = share + ((1.0 if slow else 0.0) - share) * 0.05
    return moved if moved >= 0.0001 else 0.0


def is_slow_path(config: TransportConfig, share: int) -> bool:
    """Return True if calls of a path with this share of slow ones are expected to be slow."""
    return share > round(config.slow_share * ALL_SLOW)
