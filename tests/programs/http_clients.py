"""Clients of several languages that keep their connections in pools.

Each sends the same requests: a third by GET, a third with a body of a known length, a third in
chunks; at first to workers that stay, and then to workers that are replaced after 50 requests each.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from programs.program import Program, Run
from support.server_process import ServerProcess

CLIENTS = 8
EACH = 200
SOURCES = Path(__file__).parent / "clients"

PER_WORKER = 50
RECYCLED = ["--max-requests", str(PER_WORKER)]
MOST_ROUNDS = 10
"""Times that all is sent at most: a quick client is done before the first worker is replaced."""
LEAST_WORKERS = 3
"""Processes that have to have answered where workers are replaced: more than the first two."""

Client = Callable[[Run, str], str]
"""Sends all requests to an address; returns what has been answered, a line for each."""


def go(run: Run, url: str) -> str:
    program = run.folder / "pool"
    environ = {
        "GO111MODULE": "off",
        # net/http is compiled once.
        "GOCACHE": str(Path(sys.prefix) / "go-cache"),
        "GOFLAGS": "-buildvcs=false",
    }
    if not program.exists():
        run.command("go", "build", "-o", program, SOURCES / "pool.go", environ=environ, within=300)
    return run.command(program, url, CLIENTS, EACH)


def java(run: Run, url: str) -> str:
    return run.command("java", SOURCES / "Pool.java", url, CLIENTS, EACH)


def node(run: Run, url: str) -> str:
    return run.command("node", SOURCES / "pool.mjs", "http", url, CLIENTS, EACH)


def fetch(run: Run, url: str) -> str:
    return run.command("node", SOURCES / "pool.mjs", "fetch", url, CLIENTS, EACH)


def python(run: Run, url: str) -> str:
    return run.command(sys.executable, SOURCES / "pool.py", url, CLIENTS, EACH)


def checked(client: Client, connections: int) -> Callable[[Run], None]:
    """Return the check of a client that may open a number of connections."""

    def check(run: Run) -> None:
        with run.serve("echo", "--workers", "2") as server:
            ports, _ = answers(client(run, server.url))
            assert len(ports) <= connections, f"{len(ports)} connections of {CLIENTS} clients"
        with run.serve("echo", "--workers", "2", *RECYCLED) as server:
            workers: set[str] = set()
            for _ in range(MOST_ROUNDS):
                if len(workers) < LEAST_WORKERS:
                    workers |= answers(client(run, server.url))[1]
            assert len(workers) >= LEAST_WORKERS, workers

    return check


def answers(said: str) -> tuple[set[str], set[str]]:
    """Check that each request has its answer; return the ports and the processes in them."""
    lines = [line.split() for line in said.splitlines()]
    found = {(query, checksum) for query, checksum, _, _ in lines}
    expected = {(str(number), checksum(number)) for number in range(CLIENTS * EACH)}
    assert found == expected, sorted(found ^ expected)[:20]
    assert len(lines) == len(expected), "some requests have two answers"
    return {line[2] for line in lines}, {line[3] for line in lines}


def checksum(number: int) -> str:
    """Return the checksum of the body that a client sends with a number."""
    body = str(number).encode() * (number % 7 * 3000) if number % 3 else b""
    return f"{zlib.crc32(body):08x}"


UPLOAD = 2 << 20
"""Bytes of a body, enough that curl asks first whether it may send them (Expect: 100-continue)."""


def curl(run: Run) -> None:
    """GET many addresses and upload many bodies, on several connections at a time."""
    body = run.folder / "body"
    body.write_bytes(b"0123456789abcdef" * (UPLOAD // 16))
    sums = {"get": f"{zlib.crc32(b''):08x}", "put": f"{zlib.crc32(body.read_bytes()):08x}"}
    base = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--parallel"]
    base += ["--parallel-max", str(CLIENTS)]

    def ask(server: ServerProcess, name: str, count: int, *more: object) -> set[str]:
        out = run.path(name)
        run.command(*base, *more, "-o", out / "#1", f"{server.url}/?[1-{count}]")
        lines = [(out / str(number)).read_text().split() for number in range(1, count + 1)]
        expected = [[str(number), sums[name[:3]]] for number in range(1, count + 1)]
        assert [line[:2] for line in lines] == expected
        return {line[2] for line in lines}

    chunked = ["-H", "Transfer-Encoding: chunked"]
    with run.serve("echo", "--workers", "2") as server:
        assert len(ask(server, "get", 1000)) <= CLIENTS
        ask(server, "put", 60, "--upload-file", body)
        ask(server, "put-chunked", 60, *chunked, "--upload-file", body)
    with run.serve("echo", "--workers", "2", *RECYCLED) as server:
        ask(server, "get-recycled", 2000)
        ask(server, "put-recycled", 200, "--data-binary", f"@{body}")


def wget(run: Run) -> None:
    """GET and POST many addresses, one after the other on one connection."""
    body = run.folder / "body"
    body.write_bytes(b"0123456789" * 10_000)
    post = ["--post-file", body]

    def ask(server: ServerProcess, count: int, *more: object) -> set[str]:
        addresses = run.folder / "addresses"
        addresses.write_text("".join(f"{server.url}/?{number}\n" for number in range(count)))
        said = run.command(
            "wget", "-q", "--no-proxy", "--tries=1", "-O", "-", "-i", addresses, *more
        )
        lines = [line.split() for line in said.splitlines()]
        check = f"{zlib.crc32(body.read_bytes() if more else b''):08x}"
        assert [line[:2] for line in lines] == [[str(number), check] for number in range(count)]
        return {line[2] for line in lines}

    with run.serve("echo", "--workers", "2") as server:
        # wget does not reuse a connection whose response came in chunks: each fifth.
        assert len(ask(server, 500)) <= 101
        ask(server, 200, *post)
    with run.serve("echo", "--workers", "2", *RECYCLED) as server:
        ask(server, 500)
        ask(server, 200, *post)


SENDS = (
    f"{CLIENTS * EACH:,} requests on a pool of connections, {CLIENTS} at a time: GET, POST with a "
    "length and in chunks"
)
AGAIN = "; the same while workers are replaced after 50 requests"


def client(
    name: str, title: str, ask: Client, connections: int = CLIENTS, **more: object
) -> Program:
    return Program(name, title, checked(ask, connections), SENDS + AGAIN, **more)  # type: ignore[arg-type]


PROGRAMS = [
    client("go", "net/http of Go", go, commands={"go": r"go version go(\S+)"}),
    client("java", "java.net.http", java, commands={"java": r"(?:openjdk|java) (\S+)"}),
    client("node", "node:http", node, commands={"node": r"v(\S+)"}),
    # It opens a second connection while a body that is a stream is being sent on the first.
    client("fetch", "fetch of Node", fetch, CLIENTS * 2, commands={"node": r"v(\S+)"}),
    client("requests", "requests", python, packages=("requests", "urllib3")),
    Program(
        "curl",
        "curl",
        curl,
        f"3,000 GETs and 320 uploads of 2 MB on {CLIENTS} connections, with a length, in chunks, "
        "and with `Expect`; most of them while workers are replaced after 50 requests",
        commands={"curl": r"curl (\S+)"},
    ),
    Program(
        "wget",
        "wget",
        wget,
        f"700 GETs and POSTs on one connection{AGAIN}",
        commands={"wget": r"GNU Wget (\S+)"},
    ),
]
