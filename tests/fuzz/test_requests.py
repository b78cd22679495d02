"""Both servers are sent the same bytes, whole and split, and answer the same.

The application puts into its response all that it was given, so that what is compared on the
wire is statuses, environ, bodies, framing, and which requests were served before the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.checks import native_built
from support.fuzzing import fuzz
from support.serving import Environ
from support.streams import places, split, streams, variants
from support.transcripts import CONTINUE, Pair, Transcript, pair, transcript

pytestmark = pytest.mark.skipif(not native_built(), reason="needs the native transport")

VARIANTS = 2

REFUSAL = re.compile(
    rb"(HTTP/1\.1 [45][0-9]{2}) [^\r]*\r\nContent-Type: text/plain[^\r]*\r\n"
    rb"Content-Length: [0-9]+\r\nConnection: close\r\n.*\Z",
    re.DOTALL,
)
"""The last answer on a connection, to a request that breaks a rule or a limit."""

OWN = {"REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "penstock.request_id"}
OWN |= {"penstock.queue_time", "HTTP_X_REQUEST_START"}  # how long the request waited, and whether
"""What differs from one connection, or request, to the next."""

SMALL = {
    "limit_request_line": 64,
    "limit_request_fields": 5,
    "limit_request_field_size": 64,
    "limit_request_head": 256,
    "limit_chunk_overhead": 16,
    "max_body": 40,
    "body_memory": 4,
    "header_map": "refuse",
}


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with the environ and the body; the path says how that is read."""
    told = {
        name: value if isinstance(value, str | int | tuple) else type(value).__name__
        for name, value in environ.items()
        if name not in OWN
    }
    for name in ("wsgi.early_hints", "penstock.client_gone", "penstock.extend_deadline"):
        told[name] = callable(environ[name])
    stream = environ["wsgi.input"]
    path = environ["PATH_INFO"]
    if path == "/p":
        body = stream.read(2)
    elif path == "//h/p":
        body = b""
    elif path.startswith("/a"):
        body = b"|".join(stream)
    else:
        body = stream.read()
    told["body"] = body.decode("latin-1")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told, sort_keys=True).encode()]


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "1 thread": {"threads": 1},
    "4 threads": {"threads": 4, "script_name": "/a", "header_map": "dangerous"},
    "streamed": {"threads": 2, "stream_requests": True},
    "small limits": {"threads": 1, **SMALL},
    "small limits, streamed": {"threads": 1, "stream_requests": True, **SMALL},
}


@pytest.fixture(scope="module", params=CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pair, Path]]:
    folder = tmp_path_factory.mktemp("sockets")
    with pair(application, folder, **request.param) as both:
        yield both, folder


def check(servers: tuple[Pair, Path], raw: bytes, cuts: list[int]) -> None:
    both, folder = servers
    ways: list[tuple[list[bytes], Path | None]] = [([raw], None), (split(raw, cuts), folder)]
    answers = []
    for blocks, sockets in ways:
        expected, given_back = (
            transcript(server, blocks, paced_by=sockets and sockets / name)
            for name, server in (("python", both.python), ("native", both.native))
        )
        assert given_back == expected
        answers.append(expected)
    assert essence(answers[1]) == essence(answers[0])


def essence(answer: Transcript) -> object:
    """Return what must not depend on how the bytes were split.

    That is all but what of several faults in a request is found first, and whether the client
    had to be told to go on.
    """
    return REFUSAL.sub(rb"\1 refused", answer.sent.replace(CONTINUE, b""))


@fuzz(50)
@given(st.data(), streams)
def test_both_servers_answer_the_same_however_the_bytes_are_split(
    servers: tuple[Pair, Path], data: st.DataObject, raw: bytes
) -> None:
    cuts = data.draw(places(raw))
    check(servers, raw, cuts)
    for near in variants(raw, data.draw(st.integers(0, 1 << 30)), VARIANTS):
        check(servers, near, [cut for cut in cuts if cut <= len(near)])


def chunked(path: str, *chunks: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x;a\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + b"0\r\n\r\n"


@pytest.mark.parametrize("path", ["/p", "//h/p", "/a", "/z"])
def test_both_keep_a_connection_with_a_body_that_is_not_read_to_its_end_or_neither(
    servers: tuple[Pair, Path], path: str
) -> None:
    for chunks in ([b"aa"], [b"a", b"a"], [b"aaa"], [b"a", b"aa"], [b"aa", b"a"], []):
        check(servers, 2 * chunked(path, *chunks), [])
