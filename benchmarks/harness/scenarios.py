"""The scenarios, as data: which servers, which load, and what is to be seen."""

from __future__ import annotations

from dataclasses import dataclass

from harness.servers import PEERS, Candidate


@dataclass(frozen=True)
class Load:
    """So many keep-alive connections that ask for one path, each anew when it is answered."""

    path: str
    connections: int
    script: str = "browser.lua"
    """What wrk sends; a file beside this one."""


@dataclass(frozen=True)
class Scenario:
    """One table of the report."""

    name: str
    """For --only."""
    title: str
    about: str
    candidates: tuple[Candidate, ...]
    load: Load
    background: Load | None = None
    """What else the server is busy with; its requests are not in the rate or the percentiles."""


def every_peer(*threads: int) -> tuple[Candidate, ...]:
    """Return a candidate for each peer and number of threads."""
    return tuple(Candidate(peer, number) for peer in PEERS for number in threads)


SCENARIOS = (
    Scenario(
        name="hello",
        title="Hello world",
        about="64 keep-alive connections, and an application that returns a short text with its "
        "Content-Length: what the server itself costs.",
        candidates=every_peer(1, 4),
        load=Load("/hello", 64),
    ),
    Scenario(
        name="varied",
        title="Hello world, with fields that change",
        about="The same, but the Cookie differs from request to request, as in a browser that "
        "learns new ones: a server that remembers what a connection's fields meant (penstock does) "
        "has to read them anew each time.",
        candidates=every_peer(1, 4),
        load=Load("/hello", 64, script="varied.lua"),
    ),
    Scenario(
        name="blocking",
        title="A view that waits for 10 ms",
        about="256 connections on a view that sleeps for 10 ms, as one that waits for a database "
        "does. 64 threads can answer at most 6,400 such requests a second.",
        candidates=every_peer(64),
        load=Load("/block-10-ms", 256),
    ),
    Scenario(
        name="computing",
        title="A view that computes for 1 ms",
        about="64 connections on a view that needs the interpreter lock for 1 ms: at most 1,000 "
        "requests a second. More threads cannot help here, but they should not harm.",
        candidates=every_peer(1, 8),
        load=Load("/compute-1-ms", 64),
    ),
    Scenario(
        name="alone",
        title="Fast requests alone",
        about="32 connections, 8 threads: what the next table is to be compared with.",
        candidates=every_peer(8),
        load=Load("/hello", 32),
    ),
    Scenario(
        name="beside",
        title="Fast requests beside slow ones",
        about="The same 32 connections, and beside them 5 on a view that sleeps for 50 ms. Rate "
        "and percentiles are those of the fast requests.",
        candidates=every_peer(8),
        load=Load("/hello", 32),
        background=Load("/block-50-ms", 5),
    ),
)
