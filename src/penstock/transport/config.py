"""Everything that both transports need to know, in one frozen object.

The worker builds it from the settings. The transport in Python reads its attributes, and so does
the one in Rust: neither has a copy of a value that is declared here. The settings, with the reasons
for their defaults, are in ``penstock.config.settings``; after them come the constants that no
setting changes, each with its reason.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from penstock.edge.forwarded import TRUSTS_NOBODY, ForwardedPolicy, Peers
from penstock.http1 import ParserLimits
from penstock.records import dataclass
from penstock.system.temporary_files import default_directory
from penstock.telemetry.observers import MAX_QUEUED_BYTES, MAX_QUEUED_REQUESTS
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import STALE_BEAT_SECONDS
from penstock.telemetry.trace import MAX_BODY_BYTES
from penstock.transport.notable import LEAST_SLOW_SECONDS, MOST_OF_HEAD, NotableRequests

if TYPE_CHECKING:
    from penstock.edge.client import Networks
    from penstock.edge.rate_limit import RateLimit, RateTable
    from penstock.wsgi.environ import HeaderMap


def _random_key() -> tuple[int, int]:
    """Return two secret words of 64 bits."""
    return int.from_bytes(os.urandom(8), "big"), int.from_bytes(os.urandom(8), "big")


HEALTHY = b"ok\n"
"""The body of a health or readiness check's 200."""

UNHEALTHY = b"no\n"
"""The body of a health or readiness check's 503."""


def no_challenges() -> Mapping[str, str]:
    """Return no answer to any challenge."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """Settings and constants of a transport. Sizes are bytes, times are seconds."""

    # -- settings -------------------------------------------------------------------------------

    threads: int = 1
    """How many threads call `Transport.next`, but for those that replace calls that have left the
    count."""
    max_io_bound: int = 0
    """How many calls may leave the count of `threads` by ``penstock.io_bound``."""
    max_websockets: int = 0
    """How many WebSockets may be open."""
    parser: ParserLimits = field(default_factory=ParserLimits)
    body_memory: int = 64 * 1024
    ample_body_memory: int = 0
    """In place of `body_memory`, where it is more: while all bodies together take less than a
    quarter of `max_body_memory`."""
    body_setting: str = "max_body"
    """The setting that limits how long a body may be: ``max_spool`` where that has lowered it."""
    refusal_rules: tuple[str, ...] = RULES
    """What may refuse a request, in the order of the scoreboard's words: the last is all else."""
    out_buffer: int = 1024 * 1024
    max_connections: int = 10_000
    header_timeout: float = 30.0
    body_timeout: float = 20.0
    body_min_rate: float = 500.0
    keep_alive: float = 75.0
    write_timeout: float = 60.0
    drain_linger: float = 2.0
    timeout: float = 0.0
    """How long a call of the application may last without progress; 0 is without end."""
    timeout_for: Callable[[str], float] | None = None
    """Returns the same for a path (SCRIPT_NAME with PATH_INFO), where paths differ."""
    timeout_max: float = 0.0
    """How long without progress an application may make its deadline by extending it."""
    health_path: str | None = None
    """The path at which the transport answers whether the worker makes progress."""
    ready_path: str | None = None
    """The path at which the transport answers whether the worker wants requests."""
    server_header: str | None = "penstock"
    """The value of ``Server``; None leaves the field out."""
    header_map: HeaderMap = "drop"
    stream_requests: Literal["fast", "auto"] | bool = False
    temp_dir: str | None = None
    """The directory for spooled bodies; None is the system's."""
    tls_handshake_timeout: float = 10.0
    hsts: str | None = None
    """The value of ``Strict-Transport-Security`` in responses over TLS; None leaves it out."""
    ssl_context: Callable[[Callable[[], Any]], Any] | None = None
    """Makes an `ssl.SSLContext` from the function that makes the server's own: gunicorn's hook of
    this name. For the Python transport alone."""
    challenges: Callable[[], Mapping[str, str]] = no_challenges
    """Returns what listeners that redirect answer to the challenges of an ACME authority, by
    token."""
    redirect_https_port: int = 443
    """The port in the ``Location`` that requests to a redirecting listener get."""

    # -- budgets, as `penstock.config.budgets` computes them ------------------------------------

    max_descriptors: int = 1 << 20
    """Descriptors that connections, temporary files and files to send may take in the worker."""
    max_unfinished_heads: int = 5_000
    max_body_memory: int = 64 * 1024 * 1024
    """Bytes of all bodies of the worker that are in memory, until the application gets them."""
    max_spool: int = 1 << 40
    """Bytes in temporary files of all workers: the sum of SPOOLED over the scoreboard's slots."""
    out_spool: int = 64 * 1024 * 1024
    """Bytes of one streamed response in a temporary file; 0 is none."""
    max_unsent: int = 64 * 1024 * 1024
    """Unsent bytes of all responses of the worker."""
    max_body_time: float = 3 * 3600.0
    log_entries: int = MAX_QUEUED_REQUESTS
    """How many entries may wait for a log writer that is held up..."""
    log_bytes: int = MAX_QUEUED_BYTES
    """... and how many bytes of memory they may take."""

    # -- clients --------------------------------------------------------------------------------

    forwarded: ForwardedPolicy = TRUSTS_NOBODY
    """Which peers are believed about clients."""
    keep_alive_field: str = ""
    """The line with which a response says how long its connection may be idle; empty for none."""
    proxy_versions: frozenset[int] = frozenset()
    """The versions of the PROXY protocol of which a header has to come first..."""
    proxy_peers: Peers = TRUSTS_NOBODY.peers
    """... from these peers."""
    uwsgi_peers: Peers = TRUSTS_NOBODY.peers
    """Which peers may speak the uwsgi protocol, at the listeners that have it."""
    networks: Networks | None = None
    """Which clients may connect; None is all of them."""
    max_connections_per_client: int = 0
    """How many connections of the worker one client may have; 0 is any number."""
    request_rate: RateLimit | None = None
    """How many requests one client may send; None is any number."""
    rate_table: RateTable | None = None
    """Where all workers count them; there is one with `request_rate`."""

    # -- overload -------------------------------------------------------------------------------

    queue: int = 1024
    """How many requests may wait for a thread."""
    queue_timeout: float = 30.0
    overload_ready_after: float = 5.0
    """How long the queue may be full before the worker is not ready; 0 is without end."""
    id_prefix: str = ""
    """What each request id begins with; differs between workers."""
    id_key: tuple[int, int] = field(default_factory=_random_key, repr=False)
    """The key of the hash of native code that makes the rest of it."""
    send_request_id: bool = False
    """Whether each response has the id of its request."""

    # -- constants: turns of the loop -----------------------------------------------------------

    turn_seconds: float = 0.01
    """How long the leader works off what one poll has found until it polls again..."""
    turn_events: int = 64
    """... where it has found more events than this..."""
    few_events_turn_seconds: float = 0.1
    """... and how long otherwise: sharing costs time, and few requests seldom take as long.

    What is left then is shared by client (`penstock.transport.fair_queue`)...
    """
    shared_turn_seconds: float = 0.002
    """... and while something is left, it polls after this time: a client that has had little waits
    for the next poll, and no longer."""
    shared_receive_bytes: int = 8 * 1024
    """The most bytes that one read takes meanwhile: as chunks of a byte each, these take the Python
    transport 1 to 2 ms."""

    # -- constants: accepting -------------------------------------------------------------------

    accept_batch: int = 64
    """Connections accepted in one turn, so that a burst of them does not hold up the others."""
    first_reads: int = 64
    """How many connections may be read from as soon as they are accepted, before it is known
    whether anything has come. One on which something has come allows two more, up to this number.
    Where no more are allowed, one connection of this number is read from all the same.

    So clients that send nothing cost no more calls than without such reads.
    """
    max_backlog: int = 65535
    """The most connections that an accept queue can hold."""
    accept_pause_seconds: float = 0.5
    """How long accepting pauses when the system has no descriptor or memory for a connection.

    The waiting connections keep the listener readable: without a pause the loop would spin.
    """
    balance_batch: int = 4
    """Connections accepted in one turn where other workers accept as well.

    What these send is served in between, so that no worker takes more than its share.
    """
    balance_slack: int = 1
    """How many connections more than another worker has are no reason to leave one to it..."""
    balance_share: int = 16
    """... and one more for each group of this size that the other has: sharing costs time."""
    balance_pause_seconds: float = 0.002
    """How long connections are left to workers that have fewer: these are awake by then."""
    balance_deferrals: int = 5
    """A worker that has left a connection to others this often in a row accepts it."""
    balance_doublings: int = 6
    """Where the others still do not accept, it takes two the next time, then four, up to this
    power of two: the others may be stopped."""
    busy_pause_seconds: float = 0.01
    """How long a worker without a free thread waits until it looks whether others accept."""
    busy_accept_seconds: float = 1.0
    """Where no worker has a free thread, clients wait in the accept queue for this long until the
    workers accept them into their own queues, and a single thread's call lasts for this long until
    another thread looks at the sockets.

    Before that, a client goes to the worker that comes free first: a short burst is no overload.
    """
    responsive_seconds: float = 0.01
    """A worker that has not looked at its sockets for longer is not expected to accept."""
    exclusive_wake: bool = hasattr(select, "EPOLLEXCLUSIVE")
    """Whether the kernel can wake one of the workers that wait at a listener for a new connection,
    and not all of them; on Linux it can."""
    evict_idle_seconds: float = 1.0
    """At ``max_connections``, a connection that was idle for this long makes room for a new one."""

    # -- constants: reading ---------------------------------------------------------------------

    proxy_header_bytes: int = 4096
    """The most bytes of a PROXY header. One with all that a proxy tells of TLS has some hundred."""
    body_window_seconds: float = 60.0
    """A body has to bring what `body_min_rate` asks for within each time of this length.

    A fast beginning does not make up for a slow end: a gigabyte that comes in a second would buy
    weeks of silence.
    """
    receive_bytes: int = 64 * 1024
    """The most bytes that one read of a socket takes..."""
    scarce_receive_bytes: int = 4 * 1024
    """... and while requests take half of `max_body_memory`. What a read has taken
    cannot be refused: with 10,000 connections these are 40 MiB, and whole reads 640."""
    fast_rest_seconds: float = 1.0
    """A body comes fast if its rest is due within this time, at the speed of what has come. For as
    long it may hold a thread that could serve others."""
    fast_least_seconds: float = 0.001
    """What is read at once had come before, and says nothing of its speed: it counts as having come
    within this time. 64 KiB are then as fast as half a gigabit a second, and 1 MiB as eight."""
    store_bytes: int = 256 * 1024
    """How much of a body is written to its file at once, where that much has come: handing it to
    the disk's thread, and going on after that, costs two thread switches."""
    max_storing: int = 16 * 1024 * 1024
    """The most bytes of all bodies that wait for the disk. While there are as many, no more is read
    of bodies that are not held in memory."""
    disk_idle_seconds: float = 1.0
    """The disk's thread ends when it has had nothing to do for this long: few workers get long
    bodies all the time, and a thread is soon started."""
    send_threads: int = 4
    """How many threads send for the leader what is left of responses in files. One that waits for a
    disk must not stop the others, and they start only where such a response is under way."""
    discard_bytes: int = 256 * 1024
    """The unread rest of a body is dropped to keep the connection, if it has arrived and is not
    larger."""
    wait_slice_seconds: float = 0.1
    """How long a thread waits for its client before it looks whether the response has ended
    meanwhile. Then the input is the leader's, which may take it before the thread has woken."""

    # -- constants: writing ---------------------------------------------------------------------

    join_bytes: int = 64 * 1024
    """A body block up to this size is copied behind the head, so that both leave in one send.

    Copying 64 KiB costs about 5 µs, a second system call about as much.
    """
    flush_bytes: int = 1024 * 1024
    """The most bytes of one connection that one turn of the leader sends: others wait meanwhile."""
    ahead_bytes: int = 1024 * 1024
    """How many bytes that are not on their way the kernel may hold for a client that reads.

    Until a client has shown that it does, these are `penstock.listeners.FIRST_AHEAD_BYTES`. Such
    bytes are memory that no budget counts: 10,000 clients that read nothing would have the kernel
    hold gigabytes, and all connections of the machine would suffer.
    """

    out_spool_patience_seconds: float = 0.02
    """How long a thread waits for a client before it writes the response to a temporary file.

    A client that reads at the pace of a network makes room within less; a thread that waits for
    longer is missed by other requests.
    """

    # -- constants: ending ----------------------------------------------------------------------

    linger_seconds: float = 10.0
    """How long a closing connection is read from in all, so that its client can read the answer.

    Closing with unread input makes the kernel send RST, which can destroy a response that the
    client has not read yet (RFC 9112, section 9.6).
    """
    linger_idle_seconds: float = 2.0
    """A lingering connection on which nothing arrives for this long is closed before that."""
    linger_bytes: int = 256 * 1024 * 1024
    """How much a lingering connection may still send: with more, its client is no late reader."""
    unlingered_bytes: int = 12 * 1024
    """A response up to this size has left when a connection closes without lingering.

    TCP sends ten segments before the client has acknowledged any (RFC 6928), as far as the client's
    window allows. The application's fields and the body count.
    """
    drain_head_seconds: float = 2.0
    """How long a draining transport waits at least for the rest of a head that has begun.

    It is not a request yet, and its client may never mean to finish it.
    """
    drain_handshake_seconds: float = 1.0
    """How long a draining transport accepts clients whose first segment came before the drain.

    Their handshake is under way, and closing the listener would reset them. The kernel ignores
    later clients for this long, and refuses them then.
    """
    drain_sweep_seconds: float = 0.05
    """How often a draining transport looks at deadlines at least: they are short then."""
    drain_accepted_seconds: float = 1.0
    """How long a connection that was accepted during a drain has at least to send a request.

    A client that has connected sends at once; a segment that is lost comes again within a second.
    """

    # -- constants: threads ---------------------------------------------------------------------

    slow_call_seconds: float = 0.001
    """A call of the application that lasts longer counts as slow."""
    slow_share: float = 0.25
    """With a larger share of slow calls, the leader wakes its successor before it calls."""
    held_call_seconds: float = 0.000025
    """After a call that has lasted for at least so long, the native transport has an answer wait
    while it calls the application for the next request of the same poll: a system call between two
    calls costs the interpreter a part of what the processor's caches hold of it. A text that is
    ready takes 10 microseconds with what sends it, and to keep its answer would cost more than it
    saves; a framework, or some JSON, takes 30 and more..."""
    longest_held_call_seconds: float = 0.00025
    """... and at most so long: of a call that lasts longer, the loss is a small part."""
    stalled_call_seconds: float = 0.02
    """With one thread, the stall monitor starts when calls have lasted for this long..."""
    notable_call_seconds: float = LEAST_SLOW_SECONDS
    """A call that lasts longer may be among the slowest (``penstockctl slow``). To look at it costs
    a few microseconds."""
    stalled_calls: int = 10
    """... and these are ahead of the shorter ones by this many. Until then requests wait in the
    kernel: a fast application does not pay for the monitor's ticks."""
    monitor_tick_seconds: float = 0.001
    """How often the native transport's stall monitor looks. A slow call delays other clients by
    about twice as long, and about so long a block waits for the next ones."""
    monitor_idle_seconds: float = 0.05
    """The stall monitor sleeps when no request came for this long: an idle server does nothing."""
    signal_check_seconds: float = 1.0
    """How long a main thread that serves waits at most before it looks for signals.

    One that arrives right before the wait does not end it.
    """
    longest_timeout_seconds: float = 1e9
    """A longer timeout is cut to this, thirty years: deadlines are words of 64 bits."""

    # -- constants: overload --------------------------------------------------------------------

    overload_delay_seconds: float = 1.0
    """While some request waits for less than this, the server keeps up: clients wait longer."""
    overload_services: int = 2
    """The same holds while one waits for less than this many mean calls of the application: where
    a call takes seconds, waiting for one or two is no sign of overload."""
    overload_seconds: float = 10.0
    """Overload is sustained once every request has waited for longer than that for this time. A
    burst is not."""
    retry_after_seconds: int = 30
    """The most that ``Retry-After`` asks of a client."""

    # -- constants: what a client or a log is sent ----------------------------------------------

    healthy: bytes = HEALTHY
    unhealthy: bytes = UNHEALTHY
    stale_beat_seconds: float = STALE_BEAT_SECONDS
    """A worker that has not written its beat for this long fails its health check."""
    timed_out: str = "The application did not answer in time."
    """The reason in the 504 to a client whose request took too long."""
    overloaded: str = "The server has more requests than it can serve now."
    """The reason in the 503 to a client whose request got no thread."""
    queue_full: str = "the queue is full (queue)"
    """The reason in the access log of a 503 where too many requests were waiting."""
    left_in_queue: str = "the client left before a thread was free"
    """The reason in the access log of a request whose client left while it waited."""
    plain_http: str = "This port speaks TLS: ask for https."
    """The reason in the 400 to a client that sends a request without TLS to a TLS port."""
    no_redirect: str = "This port redirects to https, and needs to know the host."
    """The reason in the 400 to a request that names no host at a port that redirects."""
    stopping: str = "The server is stopping."
    """The reason in the 503 to a client whose request a stopping server does not serve."""
    stopped_in_queue: str = "the server stopped before a thread was free (graceful_timeout)"
    """The reason in the access log of a request that still waited when the server stopped."""
    client_left_status: int = 499
    """The status in the logs, as nginx has it, where the client left before there was an answer."""
    error_log_repeats: int = 10
    """Of the requests that are refused in the same way, this many have a line each in the error log
    (0 is for all)..."""
    request_log_seconds: float = 10.0
    """... within a time of this length. Then one line says how many others there were: clients
    decide about their number, and must not fill a disk, or hide other lines among theirs."""
    refused_head_bytes: int = MOST_OF_HEAD
    """How much is kept of a head that was refused, to find the fault in it."""
    when_idle: Callable[[], None] | None = None
    """What a thread calls that is about to wait, with nothing to do; None is nothing. It finds out
    by itself whether others have a request (setting: gc)."""
    notable: NotableRequests | None = None
    """Where requests are noted that took long, failed or were refused; None where none are."""
    trace_body_bytes: int = MAX_BODY_BYTES
    """How much of a body the trace shows."""
    trace_head_bytes: int = 4 * MAX_BODY_BYTES
    """How much of a head that never became complete the trace shows."""
    # -- what follows from these ----------------------------------------------------------------

    @property
    def has_checks(self) -> bool:
        """Whether the transport answers health or readiness checks."""
        return self.health_path is not None or self.ready_path is not None

    @property
    def has_stall_monitor(self) -> bool:
        """Whether a thread of the transport leads where all others are with the application."""
        return self.threads > 1 or self.has_checks

    @property
    def queue_late(self) -> str:
        """The reason in the access log of a 503 to a request that waited for too long."""
        return f"waited for a thread for {self.queue_timeout:g} s (queue_timeout)"

    @property
    def idle_wait(self) -> float | None:
        """How long the event loop waits at most while nothing has a deadline; None is without end.

        With one thread that is the main thread, where Python runs the handlers of signals.
        """
        return self.signal_check_seconds if self.threads == 1 else None

    @property
    def unsent_limit(self) -> int:
        """How many bytes of a response may wait unsent while the application goes on.

        With one thread no other drains a buffer while the application runs, so that the kernel has
        to take a block before the next one is asked for.
        """
        return self.out_buffer if self.threads > 1 else 0

    @property
    def max_responses_spooled(self) -> int:
        """How many bytes may be in temporary files of all workers where a response adds to them.

        The other half is for the bodies of requests: these are refused beyond `max_spool`, while a
        response waits.
        """
        return self.max_spool // 2

    @property
    def spool_dir(self) -> str:
        """The directory for temporary files."""
        return default_directory() if self.temp_dir is None else self.temp_dir

    @property
    def sweep_interval(self) -> float:
        """How often deadlines are looked at: fine enough for the shortest of them.

        A second in production; short timeouts, as tests use them, are kept to a tenth.
        """
        shortest = min(
            self.header_timeout,
            self.tls_handshake_timeout,
            self.body_timeout,
            self.keep_alive,
            self.write_timeout,
            self.drain_linger or self.keep_alive,
            self.queue_timeout,
        )
        return min(1.0, max(0.01, shortest / 10))

    @property
    def least_progress(self) -> float:
        """A client that takes fewer bytes within ``write_timeout`` counts as stalled."""
        return self.body_min_rate * self.write_timeout
