"""The scenarios, as data: which servers, which load, what is to be seen, and what to reach."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from harness.conformance import Need
from harness.proxies import Proxy
from harness.servers import PEERS, PLAIN, Candidate, Setup

GREETING_BYTES = 14
FLASK_PAGE_BYTES = 19_600
DJANGO_PAGE_BYTES = 19_601
JSON_BYTES = 2_029
MOST_BODY_MEMORY_MIB = 512
"""What --max-body-memory is at most where nothing is set."""
DEFAULT_THREADS = 4
"""Penstock's own default, which every server gets where default settings are compared."""
INDEX_PAGE = "index.md"
KIB = 1 << 10
MIB = 1 << 20

DIRECT = frozenset({Need.RESPONSE, Need.REFUSAL})
"""Clients reach the server itself, and are not all well-meaning."""
CLOSED = DIRECT | {Need.CLOSE}
"""What the application returns has a close(), as every response of Flask and Django has."""
IN_BLOCKS = CLOSED | {Need.BLOCKS}
PIPELINED = DIRECT | {Need.PIPELINING}
UPLOADED = DIRECT | {Need.UPLOAD}
PROXIED = frozenset({Need.RESPONSE, Need.CLOSE})
"""What the proxy would not let through does not reach the server."""


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
    offered: float | None = None
    """An open load, made with benchmarks/steady: requests are due at this share of the rate that
    the server has just had under the closed load of `Scenario.plain`."""


class Measure(Enum):
    """What a target is about."""

    BEST_PEER = "rate against the best peer"
    PEER = "rate against"
    ONE_THREAD = "rate against its own with 1 thread"
    ALONE = "rate against its own without it"
    LAW = "rate against what is possible"
    P99_MS = "p99 in ms"
    P99_BY_P50 = "p99 against p50"
    P999_BY_PEER = "p99.9 against the lowest of the peers"
    IDLE_KIB = "KiB resident for each idle connection"
    PEAK_MIB = "MiB resident at most"

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self in (
            Measure.P99_MS,
            Measure.P99_BY_P50,
            Measure.P999_BY_PEER,
            Measure.IDLE_KIB,
            Measure.PEAK_MIB,
        )


@dataclass(frozen=True)
class Target:
    """What a candidate of ours is to reach."""

    measure: Measure
    bound: float
    threads: int = 1
    peer: str = "penstock"
    against: Candidate | None = None
    """Whose rate `Measure.PEER` divides by."""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.peer, self.threads)

    @property
    def what(self) -> str:
        """Return what is measured, in words."""
        return f"{self.measure.value} {self.against}" if self.against else self.measure.value


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
    slow_readers: int = 0
    """Connections that have asked for 1 MiB and read it slowly."""
    with_and_without: bool = False
    """Measure first without background, idle connections, slow readers and access log, and with a
    closed load."""
    needs: frozenset[Need] = DIRECT
    """What a peer has to keep to be compared with."""
    usual: bool = True
    """Whether it is measured unless it, or its page, is asked for."""
    law: float | None = None
    """Requests a second that no server can exceed."""
    least_seconds: int = 1
    """What a run takes at least: where each request takes long, a few would be all there is."""
    page: str = INDEX_PAGE
    """The page of docs/performance/ that it is on."""

    def plain(self) -> Scenario:
        """Return what is measured first for `with_and_without`."""
        setup = replace(self.setup, access_log=False)
        load = replace(self.load, offered=None)
        return replace(self, setup=setup, load=load, background=None, idle=0, slow_readers=0)


def servers(*threads: int, among: Collection[str]) -> tuple[Candidate, ...]:
    """Return a candidate for each server and number of threads; with 1 where it has no more.

    ``among`` are the names of the servers.
    """
    return tuple(
        Candidate(name, number)
        for name in among
        for number in (threads if PEERS[name].threaded else (1,))
    )


HELLO = Load("/hello", 64)
FAST = ("penstock", "peregrine", "weft", "freastal", "bjoern", "fastpysgi", "granian")
"""Ours, and the peers that are the best in some scenario. The others are far behind where little is
asked of the application, and a run of all takes long: hello shows them all."""
THREADED = tuple(name for name in FAST if PEERS[name].threaded)
FLOOR = Candidate("floor", 1)
FLOOR_WSGI = Candidate("floor-wsgi", 1)
"""The bare loop that calls the application: what is out of its reach is out of a server's."""
NGINX = Candidate("nginx", 1)
WAITRESS = Candidate("waitress", DEFAULT_THREADS)
GUNICORN = Candidate("gunicorn-python", DEFAULT_THREADS)
"""As it is installed by itself: its parser in C is a package of its own."""
PYTHON = Candidate("penstock-python", 1)
UNSUPERVISED = "penstock-alone"
FILES_PAGE = "files.md"
TLS_PAGE = "tls.md"
TLS = Setup(tls=True)
FLASK = Setup("applications_flask:app")
DJANGO = Setup("applications_django:app")
LOGGING = servers(1, among=[name for name in FAST if PEERS[name].access_log])
SENDING_FILES = servers(1, among=[name for name in FAST if PEERS[name].files])
SPEAKING_TLS = servers(1, among=[name for name in FAST if PEERS[name].tls])
WITH_WORKERS = servers(1, among=[name for name in FAST if PEERS[name].workers])


def better(bound: float, threads: int = 1) -> Target:
    """Return the target to be ``bound`` times as fast as the best peer."""
    return Target(Measure.BEST_PEER, bound, threads)


def against(other: Candidate, bound: float, threads: int = 1, peer: str = "penstock") -> Target:
    """Return the target to have ``bound`` times the rate of another."""
    return Target(Measure.PEER, bound, threads, peer, other)


def _site(name: str, title: str, about: str, load: Load, setup: Setup) -> Scenario:
    """Return what is asked of an application as sites have it."""
    return Scenario(
        name=name,
        title=title,
        about=about,
        candidates=(*servers(1, DEFAULT_THREADS, among=FAST), FLOOR_WSGI),
        load=load,
        setup=setup,
        needs=CLOSED,
        targets=(better(1.0), better(1.0, DEFAULT_THREADS)),
    )


def _proxied(proxy: Proxy) -> Scenario:
    return Scenario(
        name=f"through-{proxy.program}",
        title=f"Flask through {proxy.program}",
        about=f"{proxy.program} on the load's core, with keep-alive on both sides; it adds who the "
        "client is. Each server has the same proxy before it; the processor time is the server's.",
        candidates=servers(1, among=FAST),
        load=Load("/hello", 64),
        setup=replace(FLASK, proxy=proxy),
        needs=PROXIED,
        targets=(better(1.0),),
    )


SCENARIOS = (
    _site(
        "flask-page",
        "Flask: a page",
        "A session in a signed cookie, a template, 20 KiB of HTML.",
        Load("/page", 64, answered=FLASK_PAGE_BYTES),
        Setup("applications_flask_page:app"),
    ),
    _site(
        "django-page",
        "Django: a page",
        "A session in a signed cookie, a template, 20 KiB of HTML.",
        Load("/page", 64, answered=DJANGO_PAGE_BYTES),
        Setup("applications_django_page:app"),
    ),
    _site("flask", "Flask: a short text", "What the framework itself costs.", HELLO, FLASK),
    _site("django", "Django: a short text", "What the framework itself costs.", HELLO, DJANGO),
    Scenario(
        name="json",
        title="A JSON API",
        about="The application encodes some objects for each request: 2 KiB.",
        candidates=(*servers(1, DEFAULT_THREADS, among=FAST), FLOOR_WSGI),
        load=Load("/json", 64, answered=JSON_BYTES),
        targets=(better(1.1), better(1.1, DEFAULT_THREADS)),
    ),
    _proxied(Proxy.NGINX),
    _proxied(Proxy.HAPROXY),
    Scenario(
        name="open-loop",
        title="Flask at 70 % of its capacity",
        about="An open load: requests are due at random times, at 70 % of the rate that the same "
        "server has just had under a closed load (the rate without). A request's time counts from "
        "when it was due. Percentiles are what counts here, not the rate.",
        candidates=servers(1, among=FAST),
        load=Load("/hello", 64, offered=0.7),
        setup=FLASK,
        needs=CLOSED,
        with_and_without=True,
        targets=(Target(Measure.P999_BY_PEER, 1.0),),
    ),
    Scenario(
        name="varied",
        title="Hello world, with fields that change",
        about="Cookie, Referer and X-Forwarded-For differ from request to request, as a site "
        "behind a proxy sees it: what a server remembers of a connection's fields does not help.",
        candidates=(*servers(1, among=FAST), PYTHON, FLOOR_WSGI),
        load=Load("/hello", 64, script="varied.lua"),
        targets=(better(1.2),),
    ),
    Scenario(
        name="hello",
        title="Hello world",
        about="64 keep-alive connections, and an application that returns a short text with its "
        "Content-Length: what the server itself costs.",
        candidates=(
            *servers(1, DEFAULT_THREADS, among=(*FAST, "penstock-python")),
            *servers(DEFAULT_THREADS, among=("uwsgi", "gunicorn", "gunicorn-python", "waitress")),
            NGINX,
            FLOOR,
            FLOOR_WSGI,
        ),
        load=HELLO,
        targets=(
            better(1.15),
            better(1.15, DEFAULT_THREADS),
            *(
                against(other, bound, threads)
                for threads in (1, DEFAULT_THREADS)
                for other, bound in ((Candidate("freastal", 1), 1.0), (NGINX, 0.9), (FLOOR, 0.75))
            ),
            Target(Measure.ONE_THREAD, 0.9, DEFAULT_THREADS),
            against(WAITRESS, 3.5, DEFAULT_THREADS, "penstock-python"),
            against(GUNICORN, 7.0, DEFAULT_THREADS, "penstock-python"),
        ),
    ),
    Scenario(
        name="supervised",
        title="Hello world, supervised",
        about="What the supervisor and the deadlines of requests cost: Penstock as it is, and "
        "alone (`--no-supervisor --timeout 0`).",
        candidates=servers(1, DEFAULT_THREADS, among=("penstock", UNSUPERVISED)),
        load=HELLO,
        targets=tuple(
            against(Candidate(UNSUPERVISED, threads), 0.98, threads)
            for threads in (1, DEFAULT_THREADS)
        ),
        usual=False,
    ),
    Scenario(
        name="workers",
        title="Hello world, 4 workers",
        about="Four worker processes, which share the one core.",
        candidates=WITH_WORKERS,
        load=HELLO,
        setup=Setup(workers=4),
        targets=(better(1.0),),
    ),
    Scenario(
        name="generator",
        title="Hello world from a generator",
        about="The application is a generator, and gives no Content-Length: the server has to "
        "frame the body.",
        candidates=servers(1, among=FAST),
        load=Load("/generate", 64),
        needs=IN_BLOCKS,
        targets=(better(1.15),),
    ),
    Scenario(
        name="chunks",
        title="A response of 100 blocks",
        about="A generator gives 100 blocks of 1 KiB, without a Content-Length.",
        candidates=servers(1, among=FAST),
        load=Load("/chunks", 64, answered=100 * KIB),
        needs=IN_BLOCKS,
        targets=(better(2.0),),
    ),
    Scenario(
        name="pipelined",
        title="Hello world, pipelined",
        about="Each connection sends 16 requests at once, and the next 16 when all are answered. "
        "The percentiles are those of such batches. With several threads Penstock lets small "
        "answers leave together: its stall monitor sends them if a call takes long.",
        candidates=(
            *servers(1, among=FAST),
            Candidate("penstock", DEFAULT_THREADS),
            NGINX,
            FLOOR,
        ),
        load=Load("/hello", 64, script="pipelined.lua", argument=16),
        needs=PIPELINED,
        targets=(better(3.0), against(NGINX, 1.3), against(NGINX, 1.3, DEFAULT_THREADS)),
    ),
    Scenario(
        name="close",
        title="A connection for each request",
        about="Requests with `Connection: close`: 64 clients connect anew for each.",
        candidates=(*servers(1, among=FAST), NGINX, FLOOR, FLOOR_WSGI),
        load=Load("/hello", 64, script="close.lua"),
        setup=Setup(closing=True),
        targets=(better(1.1),),
    ),
    Scenario(
        name="10-kib",
        title="A response of 10 KiB",
        about="The body is one block of bytes.",
        candidates=(*servers(1, among=FAST), FLOOR_WSGI),
        load=Load("/bytes-10-kib", 64, answered=10 * KIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="1-mib",
        title="A response of 1 MiB",
        about="The body is one block of bytes.",
        candidates=(*servers(1, among=FAST), FLOOR_WSGI),
        load=Load("/bytes-1-mib", 64, bulk=True, answered=MIB),
        targets=(better(1.0),),
    ),
    Scenario(
        name="file",
        title="A file of 100 MiB",
        about="4 connections; the application gives the file to `wsgi.file_wrapper`, or reads it "
        "in blocks of 64 KiB where the server has none.",
        candidates=servers(1, among=FAST),
        load=Load("/file", 4, bulk=True, answered=100 * MIB),
        needs=CLOSED,
        targets=(better(1.0),),
    ),
    Scenario(
        name="static",
        title="A file of 10 KiB, by the server itself",
        about="The servers that send files without the application (`--static`).",
        candidates=(*SENDING_FILES, NGINX),
        load=Load("/files/10-kib.css", 64, answered=10 * KIB),
        setup=Setup(files=True),
        targets=(better(1.0), against(NGINX, 0.6)),
        page=FILES_PAGE,
    ),
    Scenario(
        name="static-large",
        title="A file of 100 MiB, by the server itself",
        about="4 connections; the same servers.",
        candidates=(*SENDING_FILES, NGINX),
        load=Load("/files/100-mib.bin", 4, bulk=True, answered=100 * MIB),
        setup=Setup(files=True),
        targets=(better(1.0), against(NGINX, 0.9)),
        page=FILES_PAGE,
    ),
    Scenario(
        name="post",
        title="A request of 10 KiB",
        about="64 connections that post 10 KiB, which the application reads.",
        candidates=(*servers(1, among=FAST), FLOOR_WSGI),
        load=Load("/take", 64, script="post.lua", argument=10 * KIB, posted=10 * KIB),
        targets=(better(1.1),),
    ),
    Scenario(
        name="upload-1-mib",
        title="A request of 1 MiB",
        about="16 connections that post 1 MiB, which the application reads in blocks of 64 KiB.",
        candidates=(*servers(1, among=FAST), FLOOR_WSGI),
        needs=UPLOADED,
        load=Load("/take", 16, script="post.lua", argument=MIB, posted=MIB),
        targets=(better(0.9),),
    ),
    Scenario(
        name="upload",
        title="A request of 100 MiB",
        about="4 connections that post 100 MiB, which the application reads in blocks of 64 KiB. "
        "Penstock stores a body before it calls the application, unless it is told not to "
        "(`--stream-requests`): then a client that sends slowly holds a thread, as with granian.",
        candidates=(
            *servers(DEFAULT_THREADS, among=FAST),
            Candidate("penstock-streaming", DEFAULT_THREADS),
        ),
        load=Load("/take", 4, script="post.lua", argument=100 * MIB, posted=100 * MIB),
        needs=UPLOADED,
        least_seconds=2,
        targets=(
            better(0.9, DEFAULT_THREADS),
            Target(Measure.PEAK_MIB, MOST_BODY_MEMORY_MIB + 32, DEFAULT_THREADS),
        ),
    ),
    Scenario(
        name="blocking",
        title="A view that waits for 10 ms",
        about="256 connections on a view that sleeps for 10 ms, as one that waits for a database "
        "does. 64 threads can answer at most 6,400 such requests a second.",
        candidates=servers(64, among=THREADED),
        load=Load("/block-10-ms", 256),
        law=6400.0,
        targets=(
            better(1.0, threads=64),
            Target(Measure.LAW, 0.9, threads=64),
            Target(Measure.P99_BY_P50, 1.2, threads=64),
        ),
    ),
    Scenario(
        name="mixed",
        title="Fast requests beside slow ones",
        about="32 connections on a fast view, and beside them 5 on a view that sleeps for 50 ms; 8 "
        "threads. Rate and percentiles are those of the fast requests.",
        candidates=servers(8, among=THREADED),
        load=Load("/hello", 32),
        background=Load("/block-50-ms", 5),
        with_and_without=True,
        targets=(
            better(2.0, threads=8),
            Target(Measure.ALONE, 0.9, threads=8),
            Target(Measure.P99_MS, 1.0, threads=8),
        ),
    ),
    Scenario(
        name="slow-readers",
        title="Fast readers beside slow ones",
        about="64 connections on a short text, and beside them 64 that have asked for 1 MiB and "
        "read 4 KiB of it at a time, ten times a second. Rate and percentiles are those of the "
        "short text.",
        candidates=servers(DEFAULT_THREADS, among=FAST),
        load=HELLO,
        slow_readers=64,
        with_and_without=True,
        targets=(Target(Measure.ALONE, 0.9, DEFAULT_THREADS), better(1.0, DEFAULT_THREADS)),
    ),
    Scenario(
        name="computing",
        title="A view that computes for 1 ms",
        about="64 connections on a view that needs the interpreter lock for 1 ms: at most 1,000 "
        "requests a second. More threads cannot help here, but they should not harm.",
        candidates=servers(1, 8, among=THREADED),
        load=Load("/compute-1-ms", 64),
        law=1000.0,
        targets=(Target(Measure.ONE_THREAD, 0.95, threads=8),),
        usual=False,
    ),
    Scenario(
        name="idle",
        title="Beside 10,000 idle connections",
        about="64 busy connections, without and with 10,000 others that have asked once and then "
        "stay silent. The memory is that of the processes; the kernel keeps some more.",
        candidates=servers(1, among=("penstock", "peregrine")),
        load=HELLO,
        idle=10_000,
        with_and_without=True,
        targets=(Target(Measure.ALONE, 0.97), Target(Measure.IDLE_KIB, 0.5)),
    ),
    Scenario(
        name="access-log",
        title="With an access log",
        about="64 connections, without and with an access log that goes to a file; the servers "
        "that can write one.",
        candidates=LOGGING,
        load=HELLO,
        setup=Setup(access_log=True),
        with_and_without=True,
        targets=(Target(Measure.ALONE, 0.92),),
    ),
    Scenario(
        name="tls-hello",
        title="Hello world over TLS",
        about="64 keep-alive connections, opened before the time begins.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/hello", 64, handshakes=Handshakes.KEPT),
        targets=(better(1.2), against(NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-full",
        title="Full handshakes",
        about="32 clients that open a connection for each hello, and know no earlier session.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/hello", 32, handshakes=Handshakes.FULL),
        targets=(better(1.2), against(NGINX, 0.9)),
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
        targets=(better(1.0), against(NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
    ),
    Scenario(
        name="tls-1-mib",
        title="A response of 1 MiB over TLS",
        about="16 connections; the body is one block of bytes. nginx sends a file.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/bytes-1-mib", 16, answered=MIB, handshakes=Handshakes.KEPT),
        targets=(better(1.0), against(NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
        usual=False,
    ),
    Scenario(
        name="tls-file",
        title="A file of 100 MiB over TLS",
        about="4 connections; the application gives the file to `wsgi.file_wrapper`, or reads it "
        "in blocks of 64 KiB where the server has none. nginx sends it itself.",
        candidates=(*SPEAKING_TLS, NGINX),
        load=Load("/file", 4, answered=100 * MIB, handshakes=Handshakes.KEPT),
        least_seconds=2,
        targets=(better(1.0), against(NGINX, 0.9)),
        setup=TLS,
        page=TLS_PAGE,
        usual=False,
    ),
    Scenario(
        name="tls-upload",
        title="A request of 100 MiB over TLS",
        about="4 connections that post 100 MiB, which the application reads in blocks of 64 KiB.",
        candidates=(*SPEAKING_TLS, Candidate("penstock-streaming", 1)),
        load=Load("/take", 4, posted=100 * MIB, handshakes=Handshakes.KEPT),
        needs=UPLOADED,
        least_seconds=5,
        targets=(better(1.0), Target(Measure.BEST_PEER, 1.0, peer="penstock-streaming")),
        setup=TLS,
        page=TLS_PAGE,
        usual=False,
    ),
)
