"""The scenarios, as data: which servers, which load, what is to be seen, and what to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from harness.servers import PEERS, PLAIN, Candidate, Kind, Setup

GREETING_BYTES = 14
INDEX_PAGE = "index.md"
KIB = 1 << 10
MIB = 1 << 20


class Handshakes(Enum):
    """Which requests begin with a handshake of TLS, for native/reactor/examples/tls_load.rs."""

    KEPT = "kept"
    """None: the connections are open."""
    FULL = "full"
    RESUMED = "resumed"


@dataclass(frozen=True)
class Load:
    """Keep-alive connections that ask for one path, each again once it is answered."""

    path: str
    connections: int
    script: str = "browser.lua"
    """What wrk sends; a file beside this one."""
    argument: int | None = None
    """For the script."""
    posted: int | None = None
    """Bytes of each request's body, where there is one."""
    bulk: bool = False
    """Made with benchmarks/bulk, since wrk would be slower than the server."""
    handshakes: Handshakes | None = None
    """Made with tls_load, over TLS; None is without TLS."""
    answered: int = GREETING_BYTES
    """Bytes of each response's body: what a server has to give before it is measured."""


class Measure(Enum):
    """What a target is about: a ratio of rates, where nothing else is said."""

    BEST_PEER = "rate against the best WSGI peer"
    NGINX = "rate against nginx"
    FLOOR = "rate against the floor"
    WAITRESS = "rate against waitress"
    GUNICORN = "rate against gunicorn with its Python parser"
    ONE_THREAD = "rate against its own with 1 thread"
    ALONE = "rate against its own without it"
    UNSUPERVISED = "rate against its own without supervisor and deadlines"
    LAW = "rate against what is possible"
    P99_MS = "p99 in ms"
    IDLE_KIB = "KiB resident for each idle connection"

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self in (Measure.P99_MS, Measure.IDLE_KIB)


@dataclass(frozen=True)
class Target:
    """What a candidate of ours is to reach."""

    measure: Measure
    bound: float
    threads: int = 1
    peer: str = "penstock"

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.peer, self.threads)


@dataclass(frozen=True)
class Scenario:
    """One table of the report."""

    name: str
    """For --only."""
    title: str
    about: str
    candidates: tuple[Candidate, ...]
    load: Load
    targets: tuple[Target, ...] = ()
    setup: Setup = PLAIN
    background: Load | None = None
    """What else the server is busy with; its requests are not in the rate or the percentiles."""
    idle: int = 0
    """Connections that have asked once and then stay silent."""
    with_and_without: bool = False
    """Measure first without background, idle connections and access log."""
    law: float | None = None
    """Requests a second that no server can exceed."""
    least_seconds: int = 1
    """What a run takes at least: where each request takes long, a few would be all there is."""
    page: str = INDEX_PAGE
    """The page of docs/performance/ that it is on."""

    def plain(self) -> Scenario:
        """Return what is measured first for `with_and_without`."""
        setup = replace(self.setup, access_log=False)
        return replace(self, setup=setup, background=None, idle=0)


def servers(*threads: int) -> tuple[Candidate, ...]:
    """Return a candidate for each WSGI server and number of threads; with 1 where it has no more.

    gunicorn with its parser in Python is measured where a scenario names it.
    """
    return tuple(
        Candidate(peer.name, number)
        for peer in PEERS.values()
        if peer.kind is not Kind.REFERENCE and peer.everywhere
        for number in (threads if peer.threaded else (1,))
    )


FLOOR = Candidate("floor", 1)
NGINX = Candidate("nginx", 1)
SLOW_GUNICORN = Candidate("gunicorn-python", 1)
SLOW = ("gunicorn", "waitress")
"""Far from being the best where little is asked of the application; a run of all takes long."""
FAST_SERVERS = tuple(candidate for candidate in servers(1) if candidate.peer not in SLOW)
LOGGING = tuple(
    candidate for candidate in servers(1) if PEERS[candidate.peer].access_log is not None
)


SENDING_FILES = tuple(candidate for candidate in servers(1) if PEERS[candidate.peer].files)
SPEAKING_TLS = tuple(candidate for candidate in servers(1) if PEERS[candidate.peer].tls)
FILES_PAGE = "files.md"
TLS_PAGE = "tls.md"
TLS = Setup(tls=True)


def better(bound: float, threads: int = 1) -> Target:
    """Return the target to be ``bound`` times as fast as the best WSGI peer."""
    return Target(Measure.BEST_PEER, bound, threads)


SCENARIOS = (
    Scenario(
        name="hello",
        title="Hello world",
        about="64 keep-alive connections, and an application that returns a short text with its "
        "Content-Length: what the server itself costs.",
        candidates=(*servers(1, 8), SLOW_GUNICORN, NGINX, FLOOR),
        load=Load("/hello", 64),
        targets=(
            better(1.2),
            Target(Measure.NGINX, 1.0),
            Target(Measure.FLOOR, 0.75),
            better(1.2, threads=8),
            Target(Measure.ONE_THREAD, 0.9, threads=8),
            Target(Measure.WAITRESS, 4.0, peer="penstock-python"),
            Target(Measure.GUNICORN, 6.0, peer="penstock-python"),
        ),
    ),
    Scenario(
        name="supervised",
        title="Hello world, supervised",
        about="What the supervisor and the deadlines of requests cost: Penstock as it is, alone "
        "(`--no-supervisor --timeout 0`), and with two workers, which share the one core here.",
        candidates=tuple(
            Candidate(peer, threads)
            for threads in (1, 4)
            for peer in ("penstock", "penstock-alone", "penstock-two")
        ),
        load=Load("/hello", 64),
        targets=(
            Target(Measure.UNSUPERVISED, 0.98),
            Target(Measure.UNSUPERVISED, 0.98, threads=4),
        ),
    ),
    Scenario(
        name="varied",
        title="Hello world, with fields that change",
        about="The same, but the Cookie differs from request to request, as in a browser that "
        "learns new ones: a server that remembers what a connection's fields meant (penstock does) "
        "has to read them anew each time.",
        candidates=FAST_SERVERS,
        load=Load("/hello", 64, script="varied.lua"),
    ),
    Scenario(
        name="generator",
        title="Hello world from a generator",
        about="The application is a generator, and gives no Content-Length: the server has to "
        "frame the body.",
        candidates=FAST_SERVERS,
        load=Load("/generate", 64),
        targets=(better(1.2),),
    ),
    Scenario(
        name="pipelined",
        title="Hello world, pipelined",
        about="Each connection sends 16 requests at once, and the next 16 when all are answered. "
        "The percentiles are those of such batches. With several threads Penstock lets small "
        "answers leave together: its stall monitor sends them if a call takes long.",
        candidates=(*FAST_SERVERS, Candidate("penstock", 8), NGINX, FLOOR),
        load=Load("/hello", 64, script="pipelined.lua", argument=16),
        targets=(better(3.0), Target(Measure.NGINX, 2.0), Target(Measure.NGINX, 2.0, 8)),
    ),
    Scenario(
        name="close",
        title="A connection for each request",
        about="Requests with `Connection: close`: 64 clients connect anew for each.",
        candidates=(*FAST_SERVERS, NGINX, FLOOR),
        load=Load("/hello", 64, script="close.lua"),
        setup=Setup(closing=True),
        targets=(better(1.1),),
    ),
    Scenario(
        name="flask",
        title="Flask",
        about="A Flask application that returns a short text.",
        candidates=servers(1),
        load=Load("/hello", 64),
        setup=Setup("applications_flask:app"),
        targets=(better(1.0),),
    ),
    Scenario(
        name="django",
        title="Django",
        about="A Django application that returns a short text.",
        candidates=servers(1),
        load=Load("/hello", 64),
        setup=Setup("applications_django:app"),
        targets=(better(1.0),),
    ),
    Scenario(
        name="10-kib",
        title="A response of 10 KiB",
        about="64 connections; the body is one block of bytes.",
        candidates=FAST_SERVERS,
        load=Load("/bytes-10-kib", 64, answered=10 * KIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="1-mib",
        title="A response of 1 MiB",
        about="64 connections; the body is one block of bytes.",
        candidates=servers(1),
        load=Load("/bytes-1-mib", 64, bulk=True, answered=MIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="chunks",
        title="A response of 100 blocks",
        about="64 connections; a generator gives 100 blocks of 1 KiB, without a Content-Length.",
        candidates=servers(1),
        load=Load("/chunks", 64, answered=100 * KIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="file",
        title="A file of 100 MiB",
        about="4 connections; the application gives the file to `wsgi.file_wrapper`, or reads it "
        "in blocks of 64 KiB where the server has none.",
        candidates=servers(1),
        load=Load("/file", 4, bulk=True, answered=100 * MIB),
        least_seconds=5,
        targets=(better(1.1),),
    ),
    Scenario(
        name="static",
        title="A file of 10 KiB, by the server itself",
        about="64 connections; the servers that send files without the application (`--static`).",
        candidates=(*SENDING_FILES, NGINX),
        load=Load("/files/10-kib.css", 64, answered=10 * KIB),
        setup=Setup(files=True),
        targets=(better(1.0), Target(Measure.NGINX, 0.6)),
        page=FILES_PAGE,
    ),
    Scenario(
        name="static-large",
        title="A file of 100 MiB, by the server itself",
        about="4 connections; the same servers.",
        candidates=(*SENDING_FILES, NGINX),
        load=Load("/files/100-mib.bin", 4, bulk=True, answered=100 * MIB),
        setup=Setup(files=True),
        least_seconds=2,
        targets=(better(1.0), Target(Measure.NGINX, 0.9)),
        page=FILES_PAGE,
    ),
    Scenario(
        name="post",
        title="A request of 10 KiB",
        about="64 connections that post 10 KiB, which the application reads.",
        candidates=FAST_SERVERS,
        load=Load("/take", 64, script="post.lua", argument=10 * KIB, posted=10 * KIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="upload",
        title="A request of 100 MiB",
        about="4 connections that post 100 MiB, which the application reads in blocks of 64 KiB. "
        "Penstock stores a body before it calls the application, unless it is told not to "
        "(`--stream-requests`): then a client that sends slowly holds a thread, as with granian.",
        candidates=(*servers(1), Candidate("penstock-streaming", 1)),
        load=Load("/take", 4, script="post.lua", argument=100 * MIB, posted=100 * MIB),
        least_seconds=5,
        targets=(better(1.1), Target(Measure.BEST_PEER, 1.1, peer="penstock-streaming")),
    ),
    Scenario(
        name="blocking",
        title="A view that waits for 10 ms",
        about="256 connections on a view that sleeps for 10 ms, as one that waits for a database "
        "does. 64 threads can answer at most 6,400 such requests a second.",
        candidates=servers(64),
        load=Load("/block-10-ms", 256),
        law=6400.0,
        targets=(better(1.1, threads=64), Target(Measure.LAW, 0.9, threads=64)),
    ),
    Scenario(
        name="mixed",
        title="Fast requests beside slow ones",
        about="32 connections on a fast view, and beside them 5 on a view that sleeps for 50 ms; 8 "
        "threads. Rate and percentiles are those of the fast requests.",
        candidates=servers(8),
        load=Load("/hello", 32),
        background=Load("/block-50-ms", 5),
        with_and_without=True,
        targets=(
            better(1.5, threads=8),
            Target(Measure.ALONE, 0.9, threads=8),
            Target(Measure.P99_MS, 2.5, threads=8),
        ),
    ),
    Scenario(
        name="computing",
        title="A view that computes for 1 ms",
        about="64 connections on a view that needs the interpreter lock for 1 ms: at most 1,000 "
        "requests a second. More threads cannot help here, but they should not harm.",
        candidates=servers(1, 8),
        load=Load("/compute-1-ms", 64),
        law=1000.0,
        targets=(Target(Measure.ONE_THREAD, 0.95, threads=8),),
    ),
    Scenario(
        name="idle",
        title="Beside 10,000 idle connections",
        about="64 busy connections, without and with 10,000 others that have asked once and then "
        "stay silent. The memory is that of the processes; the kernel keeps some more.",
        candidates=servers(1),
        load=Load("/hello", 64),
        idle=10_000,
        with_and_without=True,
        targets=(Target(Measure.ALONE, 0.95), Target(Measure.IDLE_KIB, 1.0)),
    ),
    Scenario(
        name="access-log",
        title="With an access log",
        about="64 connections, without and with an access log that goes to a file; the servers "
        "that can write one.",
        candidates=LOGGING,
        load=Load("/hello", 64),
        setup=Setup(access_log=True),
        with_and_without=True,
        targets=(Target(Measure.ALONE, 0.85),),
    ),
    Scenario(
        name="tls-hello",
        title="Hello world over TLS",
        about="64 keep-alive connections, opened before the time begins.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/hello", 64, handshakes=Handshakes.KEPT),
        targets=(better(1.0), Target(Measure.NGINX, 0.6)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-full",
        title="Full handshakes",
        about="32 clients that open a connection for each hello, and know no earlier session.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/hello", 32, handshakes=Handshakes.FULL),
        targets=(better(1.0), Target(Measure.NGINX, 1.0)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-resumed",
        title="Resumed handshakes",
        about="The same, but each connection resumes the session of the client's previous one. A "
        "handshake that does not is an error.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/hello", 32, handshakes=Handshakes.RESUMED),
        targets=(better(1.0), Target(Measure.NGINX, 1.0)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-1-mib",
        title="A response of 1 MiB over TLS",
        about="16 connections; the body is one block of bytes. nginx sends a file.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/bytes-1-mib", 16, answered=MIB, handshakes=Handshakes.KEPT),
        targets=(better(1.0), Target(Measure.NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-file",
        title="A file of 100 MiB over TLS",
        about="4 connections; the application gives the file to `wsgi.file_wrapper`, or reads it "
        "in blocks of 64 KiB where the server has none. nginx sends it itself.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/file", 4, answered=100 * MIB, handshakes=Handshakes.KEPT),
        least_seconds=2,
        targets=(better(1.0), Target(Measure.NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-upload",
        title="A request of 100 MiB over TLS",
        about="4 connections that post 100 MiB, which the application reads in blocks of 64 KiB.",
        candidates=(*SPEAKING_TLS, Candidate("penstock-streaming", 1)),
        load=Load("/take", 4, posted=100 * MIB, handshakes=Handshakes.KEPT),
        least_seconds=5,
        targets=(better(1.0), Target(Measure.BEST_PEER, 1.0, peer="penstock-streaming")),
        setup=TLS,
        page=TLS_PAGE,
    ),
)
