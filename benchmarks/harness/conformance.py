"""What a server has to keep of PEP 3333 and RFC 9112 to be compared with in a scenario.

A server that leaves out work is fast. Each is asked before anything is measured, over its own
socket; what it fails in is a breach, and where a scenario needs that, its row stands aside: it is
measured and shown, and not compared with.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import Enum

from applications_conformance import BETWEEN_BLOCKS_SECONDS, PATTERN
from harness import environment
from harness.servers import HOST, Candidate, Running, Setup, running

SETUP = Setup("applications_conformance:app")
ANSWER_SECONDS = 5.0
REFUSAL_SECONDS = 1.0
"""How long a forbidden request may stay without an answer: no answer is none that is good."""
AT_ONCE = 16
"""Requests that a connection sends together, as the scenario that pipelines does."""


class Need(Enum):
    """What a scenario may need."""

    CLOSE = "close() of the iterable is called"
    BLOCKS = "a block of a generator leaves before the next one is asked for"
    PIPELINING = "pipelined requests are all answered, in order"
    RESPONSE = "a response of 1 MiB is complete"
    UPLOAD = "a request of 1 MiB is complete"
    REFUSAL = "a request whose end is ambiguous is refused, or ends the connection"


@dataclass(frozen=True)
class Forbidden:
    """A request that two programs may disagree on the end of: RFC 9112, 6.3 and 7.1."""

    what: str
    request: bytes


def _post(fields: str, body: bytes) -> bytes:
    head = f"POST /checksum HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"
    return head.encode("ascii") + body


_CHUNKED = "Transfer-Encoding: chunked"
_NOTHING = b"0\r\n\r\n"

FORBIDDEN = (
    Forbidden(
        "Transfer-Encoding with Content-Length",
        _post(f"Content-Length: 5\r\n{_CHUNKED}", _NOTHING),
    ),
    Forbidden("two lengths", _post("Content-Length: 5\r\nContent-Length: 6", b"hello")),
    Forbidden("a list of lengths", _post("Content-Length: 5, 6", b"hello")),
    Forbidden("a length with a sign", _post("Content-Length: +5", b"hello")),
    Forbidden("a blank before the colon", _post("Content-Length : 5", b"hello")),
    Forbidden("bare LF behind a chunk's size", _post(_CHUNKED, b"5\nhello\r\n" + _NOTHING)),
    Forbidden("bare LF behind a chunk's data", _post(_CHUNKED, b"5\r\nhello\n" + _NOTHING)),
    Forbidden("a chunk's size with 0x", _post(_CHUNKED, b"0x5\r\nhello\r\n" + _NOTHING)),
    Forbidden(
        "a chunk's size beyond 64 bits",
        _post(_CHUNKED, b"10000000000000005\r\nhello\r\n" + _NOTHING),
    ),
    Forbidden("an unknown coding", _post("Transfer-Encoding: xchunked", _NOTHING)),
    Forbidden("chunked not last", _post("Transfer-Encoding: chunked, identity", _NOTHING)),
)
FOLLOWING = b"GET /hello?smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def breaches(candidate: Candidate) -> dict[Need, str]:
    """Start a server and return what it fails in, each with the reason in words.

    Raises `EnvironmentProblem` where it does not run at all. Takes some seconds.
    """
    with running(candidate, SETUP):
        pass
    found = {need: why for need in _CHECKS if (why := _breach(candidate, need))}
    if accepted := _accepted(candidate):
        found[Need.REFUSAL] = f"accepts {', '.join(accepted)}"
    return found


def failed(breaches: Mapping[str, str], needs: Collection[Need]) -> list[str]:
    """Return why a server fails in what is needed; ``breaches`` are by the names of the needs."""
    return [why for name, why in breaches.items() if Need[name] in needs]


def _breach(candidate: Candidate, need: Need) -> str:
    """Return how a server fails in a need; nothing where it keeps it."""
    why = ""
    try:
        with running(candidate, SETUP) as server:  # one of its own: some checks end some servers
            try:
                why = _CHECKS[need](server)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = f"gives no good answer ({error})"
    except environment.EnvironmentProblem as problem:
        why = f"ends: {str(problem).strip().splitlines()[-1]}"
    return why


def _accepted(candidate: Candidate) -> list[str]:
    """Return which forbidden requests a server answers as good ones."""
    found = []
    left = list(FORBIDDEN)
    while left:
        # A forbidden request ends some servers. That is a refusal, and the next one gets a new one.
        try:
            with running(candidate, SETUP) as server:
                while left:
                    server.check()
                    asked = left.pop(0)
                    statuses, is_closed = _answers_to(server, asked.request)
                    if accepts(statuses, is_closed):
                        found.append(asked.what)
        except environment.EnvironmentProblem:
            if not left or left == list(FORBIDDEN):
                break
    return found


def accepts(statuses: list[int], is_closed: bool) -> bool:
    """Return whether a server took a forbidden request for a good one, and went on behind it.

    ``statuses`` are those of all responses to it and to the good request right behind it. A server
    that answers and then closes does not take the next bytes for a request: nothing is smuggled.
    """
    good = [status for status in statuses if status < 400]
    return len(good) > 1 or (bool(good) and not is_closed)


def _answers_to(server: Running, request: bytes) -> tuple[list[int], bool]:
    """Return the statuses that a request and a good one behind it get, and whether it closed."""
    received = b""
    try:
        with socket.create_connection((HOST, server.port), REFUSAL_SECONDS) as connection:
            connection.sendall(request + FOLLOWING)
            while block := connection.recv(65536):
                received += block
        is_closed = True
    except TimeoutError:
        is_closed = False
    except OSError:
        is_closed = True
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", received)], is_closed


def _closes(server: Running) -> str:
    before = int(_got(server, "/closed"))
    _got(server, "/closing")
    deadline = time.monotonic() + ANSWER_SECONDS
    while (now := int(_got(server, "/closed"))) == before:
        # A server may call it once the response is out.
        if time.monotonic() > deadline:
            return "never calls close()"
        time.sleep(0.05)
    return "" if now == before + 1 else f"calls close() {now - before} times"


def _sends_blocks(server: Running) -> str:
    request = b"GET /blocks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received, first_at = b"", 0.0
    with socket.create_connection((HOST, server.port), ANSWER_SECONDS) as connection:
        connection.sendall(request)
        while b"second\n" not in received:
            if not (block := connection.recv(65536)):
                return "does not send all blocks"
            received += block
            if not first_at and b"first\n" in received:
                first_at = time.monotonic()
    early = time.monotonic() - first_at
    return "" if early > BETWEEN_BLOCKS_SECONDS / 2 else "keeps the blocks of a generator back"


def _answers_pipelined(server: Running) -> str:
    asked = b"".join(
        b"GET /hello?number%02d HTTP/1.1\r\nHost: a\r\n\r\n" % each for each in range(AT_ONCE)
    )
    wanted = [b"number%02d" % each for each in range(AT_ONCE)]
    received = b""
    with socket.create_connection((HOST, server.port), ANSWER_SECONDS) as connection:
        connection.sendall(asked)
        try:
            while received.count(b"number") < AT_ONCE and (block := connection.recv(65536)):
                received += block
        except OSError:
            pass  # what has come so far is counted
    answered = re.findall(rb"number\d\d", received)
    if len(answered) < AT_ONCE:
        return f"answers {len(answered)} of {AT_ONCE} pipelined requests"
    return "" if answered == wanted else "answers pipelined requests out of order"


def _sends_bodies(server: Running) -> str:
    return "" if _got(server, "/pattern") == PATTERN else "does not send 1 MiB as it is"


def _takes_bodies(server: Running) -> str:
    right = _got(server, "/checksum", PATTERN) == b"%08x" % zlib.crc32(PATTERN)
    return "" if right else "does not hand over 1 MiB as it is"


_CHECKS: dict[Need, Callable[[Running], str]] = {
    Need.CLOSE: _closes,
    Need.BLOCKS: _sends_blocks,
    Need.PIPELINING: _answers_pipelined,
    Need.RESPONSE: _sends_bodies,
    Need.UPLOAD: _takes_bodies,
}


def _got(server: Running, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=ANSWER_SECONDS)
    with closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        received = response.read()
        if response.status != 200:
            raise ValueError(f"{path} was answered with status {response.status}")
        return received
