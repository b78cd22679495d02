"""What a case of the corpus is: bytes that a client sends, and what a server does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FOLLOWING = b"GET /following HTTP/1.1\r\nHost: next.example\r\n\r\n"
"""A second request, to send behind a case: run after a good one, never after a bad one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request, complete unless ``ends_early``, and its fate.

    ``status`` is the status of the refusal, after which the connection closes and nothing that
    follows is looked at; None where the request is handed to the application, which then sees
    ``method``, ``target``, ``path``, ``query``, ``body`` and, among others, ``fields``.
    """

    name: str
    source: str
    raw: bytes
    status: int | None = None
    method: str = "GET"
    target: str = "/"
    path: str = "/"
    query: str = ""
    version: str = "HTTP/1.1"
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    expect_continue: bool = False
    ends_early: bool = False
    """Whether the refusal needs the client to end its side of the connection."""

    @property
    def id(self) -> str:
        """Name the case in a test report."""
        return f"{self.source}: {self.name}"


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a GET with a Host field and ``fields``."""
    return head(b"GET " + target + b" " + version, b"Host: a", *fields)


def head(request_line: bytes, *fields: bytes) -> bytes:
    """Return a head of exactly these lines."""
    return b"".join(line + b"\r\n" for line in (request_line, *fields, b""))


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """Return a POST with a Host field, ``fields``, and ``body`` as it is."""
    return head(b"POST / HTTP/1.1", b"Host: a", *fields) + body


def chunked(body: bytes) -> bytes:
    """Return a POST that announces chunks, and then ``body`` as it is."""
    return post(b"Transfer-Encoding: chunked", body=body)


def coding(*values: bytes) -> bytes:
    """Return a POST with a Transfer-Encoding field for each value, and an empty chunked body."""
    return post(*(b"Transfer-Encoding: " + value for value in values), body=b"0\r\n\r\n")


def refused(source: str, status: int, **requests: bytes) -> list[Case]:
    """Return a case for each request, named by its keyword: all are refused with ``status``."""
    return [
        Case(name.replace("_", " "), source, raw, status=status) for name, raw in requests.items()
    ]
