"""Applications drawn at random: what they say, in which order, and where they fail."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse

from hypothesis import strategies as st

from support.serving import Environ

Headers = list[tuple[str, Any]]


@dataclass(frozen=True)
class Start:
    """A call of ``start_response``."""

    status: Any
    headers: Headers
    with_exc_info: bool = False


@dataclass(frozen=True)
class Write:
    """A call of what ``start_response`` returned."""

    data: Any


@dataclass(frozen=True)
class Hint:
    """A call of ``wsgi.early_hints``."""

    headers: Headers


@dataclass(frozen=True)
class Read:
    """A read of the request's body; ``size`` -1 for all of it."""

    size: int


@dataclass(frozen=True)
class Fail:
    """An exception, raised."""


Step = Start | Write | Hint | Read | Fail


@dataclass(frozen=True)
class Behaviour:
    """What an application does with one request: some steps, and what it returns."""

    steps: list[Step]
    kind: str
    """Of what is returned: see `Application`."""
    blocks: list[Any]
    """Of the body: bytes, or a step to take in the midst of them."""
    close_fails: bool = False


@dataclass
class Application:
    """Behaves towards the request for ``/N`` as the behaviour number N says.

    What fails in its own calls it notes, and goes on.
    """

    behaviours: list[Behaviour] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def is_idle(self) -> bool:
        """Return True if each body was closed, which happens soon after the response."""
        return all(body.closed for body in self.bodies)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        number = int(environ["PATH_INFO"][1:])
        call = Call(self.behaviours[number], environ, start_response, self.notes)
        result = call.run()
        if isinstance(result, Body):
            self.bodies.append(result)
        return result


class Call:
    """One call of the application, and the iterable that it returns."""

    def __init__(
        self,
        behaviour: Behaviour,
        environ: Environ,
        start_response: StartResponse,
        notes: list[str],
    ) -> None:
        self._behaviour = behaviour
        self._environ = environ
        self._start_response = start_response
        self._notes = notes
        self._write: Any = None

    def run(self) -> Any:
        for step in self._behaviour.steps:
            self._take(step)
        kind, blocks = self._behaviour.kind, self._behaviour.blocks
        plain = [block for block in blocks if not isinstance(block, Step)]
        if kind == "list":
            return plain
        if kind == "tuple":
            return tuple(plain)
        if kind == "generator":
            return self._generate()
        if kind == "iterable":
            return Body(self._generate(), self._behaviour.close_fails, self._notes)
        if kind == "sized":
            return SizedBody(self._generate(), self._behaviour.close_fails, self._notes)
        if kind == "file":
            return self._wrap(b"".join(block for block in plain if isinstance(block, bytes)))
        return {"none": None, "text": "text", "bytes": b"bytes", "number": 7}[kind]

    def _generate(self) -> Iterator[Any]:
        for block in self._behaviour.blocks:
            if isinstance(block, Step):
                self._take(block)
            else:
                yield block

    def _wrap(self, content: bytes) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the wrapper closes it
        file.write(content)
        file.seek(min(len(content), 1))
        return self._environ["wsgi.file_wrapper"](file)

    def _take(self, step: Step) -> None:
        if isinstance(step, Fail):
            raise ZeroDivisionError("as drawn")
        try:
            self._call(step)
        except Exception as error:
            self._notes.append(f"{type(error).__name__}: {error}")

    def _call(self, step: Step) -> None:
        if isinstance(step, Start):
            headers = list(step.headers)
            if not step.with_exc_info:
                self._write = self._start_response(step.status, headers)
                return
            try:
                raise KeyError("before")
            except KeyError:
                self._write = self._start_response(step.status, headers, sys.exc_info())
        elif isinstance(step, Write):
            if self._write is not None:
                self._write(step.data)
        elif isinstance(step, Hint):
            self._environ["wsgi.early_hints"](list(step.headers))
        elif isinstance(step, Read):
            self._notes.append(f"read {self._environ['wsgi.input'].read(step.size)!r}")


class Body:
    """An iterable of one's own, with a ``close`` that may fail."""

    def __init__(self, blocks: Iterable[Any], close_fails: bool, notes: list[str]) -> None:
        self._blocks = blocks
        self._close_fails = close_fails
        self._notes = notes
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        return iter(self._blocks)

    def close(self) -> None:
        self._notes.append("closed")
        self.closed = True
        if self._close_fails:
            raise OSError(os.EX_IOERR, "close() fails, as drawn")


class SizedBody(Body):
    """One that says that it has a single block, whatever it has."""

    def __len__(self) -> int:
        return 1


LARGE = 70_000
"""Bytes of a block that is not copied behind the head."""

_STATUSES = ["200 OK"] * 4 + ["204 No Content", "205 Reset Content", "304 Not Modified"]
_STATUSES += ["404 Not Found", "500 Oh", "299 "]
_ODD_STATUSES: list[Any] = ["200", "099 No", "101 Switching Protocols", "2000 OK", "200 O\nK"]
_ODD_STATUSES += ["200 \xe9", "200 \u20ac", 200, b"200 OK", "600 Odd", "100 Continue"]
_FIELDS: Headers = [
    ("Content-Type", "text/plain"),
    ("X-A", "b"),
    ("Set-Cookie", "a=b"),
    ("Set-Cookie", "c=d"),
    ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("server", "another"),
    ("Connection", "close"),
    ("X-Empty", ""),
    ("X-Latin", "caf\xe9"),
]
_ODD_FIELDS: Headers = [
    ("Transfer-Encoding", "chunked"),
    ("Connection", "keep-alive"),
    ("Connection", "upgrade"),
    ("X-Break", "a\r\nb"),
    ("X Y", "z"),
    ("X-Euro", "\u20ac"),
    ("X-Number", 5),
    ("Upgrade", "h2c"),
    ("Trailer", "X"),
    ("Keep-Alive", "5"),
    ("", "z"),
]
_LENGTHS = ["0", "1", "4", "70000", "70001", "99999999999999999999", "-1", "+3", "3x", "", "3, 3"]
_BLOCKS = [b"abc", b"abc", b"d", b"", b"\0\r\n0\r\n\r\n", b"M" * 5000, b"L" * LARGE]
_ODD_BLOCKS = ["text", None, bytearray(b"abc"), memoryview(b"abc"), 5]
_KINDS = ["list"] * 3 + ["generator"] * 4 + ["iterable", "iterable", "sized", "file", "tuple"]
_ODD_KINDS = ["none", "text", "bytes", "number"]

PARTS = ["status", "field", "length", "start", "steps", "block", "fail", "kind", "close"]
"""Of a behaviour: one of them may be odd."""

_writes = st.builds(Write, st.sampled_from(_BLOCKS))
_reads = st.builds(Read, st.sampled_from([-1, 0, 1, 2, 100]))
_hints = st.builds(Hint, st.lists(st.sampled_from(_FIELDS), max_size=2))


@st.composite
def _starts(draw: st.DrawFn, odd: str, size: int) -> Start:
    status = draw(st.sampled_from(_ODD_STATUSES if odd == "status" else _STATUSES))
    headers: Headers = draw(st.lists(st.sampled_from(_FIELDS), max_size=3))
    if odd == "field":
        headers.append(draw(st.sampled_from(_ODD_FIELDS)))
    elif odd == "length":
        headers.append(("content-length", draw(st.sampled_from(_LENGTHS))))
    elif draw(st.booleans()):
        headers.append(("Content-Length", str(size)))
    return Start(status, headers, odd == "start")


@st.composite
def _odd_steps(draw: st.DrawFn) -> list[Step]:
    odd = draw(st.sampled_from(PARTS))
    kinds: list[st.SearchStrategy[Step]] = [
        _starts(odd, 3),
        _starts("start", 3),
        _writes,
        _hints,
        _reads,
        st.builds(Fail),
    ]
    return draw(st.lists(st.one_of(kinds), min_size=1, max_size=3))


def _size(blocks: list[Any], steps: list[Step]) -> int:
    given_blocks = [block for block in blocks if isinstance(block, bytes)]
    written = [step.data for step in steps if isinstance(step, Write)]
    return sum(map(len, given_blocks + written))


@st.composite
def behaviours(draw: st.DrawFn) -> Behaviour:
    """Return a behaviour that is right in all but one of its `PARTS`, or in all."""
    odd = draw(st.one_of(st.just(""), st.sampled_from(PARTS)))
    blocks: list[Any] = draw(st.lists(st.sampled_from(_BLOCKS), max_size=4))
    kind = draw(st.sampled_from(_ODD_KINDS if odd == "kind" else _KINDS))
    steps: list[Step] = draw(st.lists(_writes, max_size=1)) if draw(st.booleans()) else []
    steps.insert(0, draw(_starts(odd, _size(blocks, steps))))
    steps[:0] = draw(st.lists(st.one_of(_hints, _reads), max_size=2))
    lazy = kind in ("generator", "iterable", "sized")
    if lazy and draw(st.integers(0, 3)) == 0:
        blocks[:0] = steps
        steps = []
    if odd == "steps":
        place = draw(st.integers(0, len(steps)))
        steps[place : place + draw(st.integers(0, 1))] = draw(_odd_steps())
    elif odd in ("block", "fail"):
        there: list[Any] = blocks if lazy or odd == "block" else steps
        what = st.builds(Fail) if odd == "fail" else st.sampled_from(_ODD_BLOCKS)
        there.insert(draw(st.integers(0, len(there))), draw(what))
    if lazy and odd == "close":
        extra = draw(_odd_steps())
        place = draw(st.integers(0, len(blocks)))
        blocks[place:place] = extra
    return Behaviour(steps, kind, blocks, odd == "close")


@st.composite
def requests_for(draw: st.DrawFn, number: int) -> bytes:
    """Return a valid request for ``/number``."""
    method = draw(st.sampled_from(["GET", "GET", "HEAD", "POST", "POST", "OPTIONS"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    lines = [f"{method} /{number} HTTP/{version}", "Host: a"]
    connection = draw(st.sampled_from(["", "", "", "keep-alive", "close"]))
    if connection:
        lines.append(f"Connection: {connection}")
    body = b""
    if method == "POST":
        body = draw(st.sampled_from([b"", b"xyz", b"p" * 300]))
        if version == "1.1" and draw(st.booleans()):
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
