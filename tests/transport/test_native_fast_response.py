"""When the full response takes over from the native fast one: no client can tell which it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from support.serving import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT = [("Content-Type", "text/plain")]


class Text(str):
    __slots__ = ()


class Headers(list[tuple[str, str]]):
    pass


class Pair(tuple[str, str]):
    __slots__ = ()


class Block(bytes):
    pass


CASES: dict[str, tuple[str, Any, Any, list[bytes], bool]] = {
    # name: method, status, headers, body, whether the head stays with the fast response
    "plain": ("GET", "200 OK", TEXT, [b"hello"], True),
    "no field": ("GET", "200 OK", [], [b"hello"], True),
    "its length": ("GET", "200 OK", [("Content-Length", "5")], [b"hello"], True),
    "no body": ("GET", "200 OK", TEXT, [], True),
    "an empty block": ("GET", "200 OK", TEXT, [b""], True),
    "two blocks": ("GET", "200 OK", TEXT, [b"hel", b"lo"], True),
    "a subclass of bytes": ("GET", "200 OK", TEXT, [Block(b"hello")], True),
    "a large block": ("GET", "200 OK", TEXT, [b"x" * 100_000], True),
    "a text of all of Latin-1": ("GET", "200 \xe9t\xe9", [("X-A", "\xe9\xff")], [b"hello"], True),
    "more than its length": ("GET", "200 OK", [("Content-Length", "3")], [b"hello"], True),
    "less than its length": ("GET", "200 OK", [("Content-Length", "9")], [b"hello"], True),
    "HEAD": ("HEAD", "200 OK", TEXT, [b"hello"], False),
    "HEAD with a length": ("HEAD", "200 OK", [("Content-Length", "9")], [], False),
    "204": ("GET", "204 No Content", [], [], False),
    "204 with a body": ("GET", "204 No Content", [], [b"hello"], False),
    "304": ("GET", "304 Not Modified", [("ETag", '"a"')], [], False),
    "304 with a length": ("GET", "304 Not Modified", [("Content-Length", "5")], [], False),
    "205": ("GET", "205 Reset Content", [], [], False),
    "a subclass of str": ("GET", Text("200 OK"), TEXT, [b"hello"], False),
    "a value of a subclass of str": ("GET", "200 OK", [("X-A", Text("a"))], [b"hello"], False),
    "a subclass of list": ("GET", "200 OK", Headers(TEXT), [b"hello"], False),
    "a subclass of tuple": ("GET", "200 OK", [Pair(TEXT[0])], [b"hello"], False),
    "a status of bytes": ("GET", b"200 OK", TEXT, [b"hello"], False),
    "a status of int": ("GET", 200, TEXT, [b"hello"], False),
    "a tuple of fields": ("GET", "200 OK", tuple(TEXT), [b"hello"], False),
    "a list for a field": ("GET", "200 OK", [["X-A", "a"]], [b"hello"], False),
    "a value of int": ("GET", "200 OK", [("X-A", 1)], [b"hello"], False),
    "a value of bytes": ("GET", "200 OK", [("X-A", b"a")], [b"hello"], False),
    "three in a field": ("GET", "200 OK", [("X-A", "a", "b")], [b"hello"], False),
    "CR LF in a value": ("GET", "200 OK", [("X-A", "a\r\nX-B: b")], [b"hello"], False),
    "NUL in a value": ("GET", "200 OK", [("X-A", "a\0")], [b"hello"], False),
    "LF in a status": ("GET", "200 OK\nX-B: b", TEXT, [b"hello"], False),
    "DEL in a status": ("GET", "200 \x7f", TEXT, [b"hello"], False),
    "a space in a name": ("GET", "200 OK", [("X A", "a")], [b"hello"], False),
    "an empty name": ("GET", "200 OK", [("", "a")], [b"hello"], False),
    "beyond Latin-1": ("GET", "200 OK", [("X-A", "\u20ac")], [b"hello"], False),
    "1xx": ("GET", "100 Continue", TEXT, [b"hello"], False),
    "no reason and no space": ("GET", "200", TEXT, [b"hello"], False),
    "two lengths": ("GET", "200 OK", [("Content-Length", "5")] * 2, [b"hello"], False),
    "a length of words": ("GET", "200 OK", [("Content-Length", "five")], [b"hello"], False),
    "a negative length": ("GET", "200 OK", [("Content-Length", "-5")], [b"hello"], False),
    "Connection: close": ("GET", "200 OK", [("Connection", "close")], [b"hello"], False),
    "Transfer-Encoding": ("GET", "200 OK", [("Transfer-Encoding", "chunked")], [b"a"], False),
}


def answers(transport: str) -> dict[str, tuple[bytes, str, str]]:
    """Return of each case the bytes, who has the head, and the exception of start_response."""
    seen: dict[str, tuple[str, str]] = {}

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        name = list(CASES)[int(environ["PATH_INFO"][1:])]
        _, status, headers, body, _ = CASES[name]
        try:
            write = start_response(status, headers)
        except Exception as error:
            seen[name] = "", repr(error)
            raise
        seen[name] = type(getattr(write, "__self__", write)).__name__, ""
        return body

    received = {}
    with penstock.running(application, transport=transport) as server:
        for number, (name, case) in enumerate(CASES.items()):
            with connect(server) as client:
                line = f"{case[0]} /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                client.send(line.encode())
                received[name] = re.sub(rb"\r\nDate: [^\r]*", b"", client.read_to_end())
    return {name: (received[name], *seen[name]) for name in CASES}


def test_the_fast_response_keeps_plain_heads_and_answers_all_as_the_full_one_does() -> None:
    """PEP 3333, "The start_response() Callable"; `penstock.wsgi.response` is the reference."""
    pytest.importorskip("penstock._native")
    native, reference = answers("native"), answers("python")
    wrong = {}
    for name, case in CASES.items():
        (ours, holder, error), (theirs, _, expected) = native[name], reference[name]
        fast = holder == "FastResponse"
        if ours != theirs or error != expected or fast != case[-1]:
            wrong[name] = ours, theirs, holder, error, expected
    assert not wrong


def test_a_traceback_begins_with_the_frame_of_the_application(tmp_path: Path) -> None:
    pytest.importorskip("penstock._native")

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("the database is gone")

    log = tmp_path / "log"
    with penstock.running(application, transport="native", error_logfile=str(log)) as server:
        with connect(server) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 500
    _, traceback, first, *_, last = log.read_text().splitlines()
    assert "Traceback" in traceback
    assert first.endswith("in application")
    assert last == "  ValueError: the database is gone"
