"""What native code does of the gateway's work, compared with the gateway: bytes, calls and log."""

from __future__ import annotations

import io
import itertools
import logging
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from penstock import messages
from penstock.wsgi.file_wrapper import FileWrapper
from penstock.wsgi.headers import put_right
from support.fake_exchange import Records
from support.serving import connect, eventually, get, post
from support.threads import running
from support.transports import LOGGER, serving
from support.wire import Client

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

pytest.importorskip("penstock._native", reason="the native transport is not built")

Environ = dict[str, Any]
Note = Callable[[str], None]
Case = Callable[[Environ, "StartResponse", Note], Iterable[bytes]]

PLAIN = [("Content-Type", "text/plain")]


class Failed(Exception):
    """What the applications raise."""


class Blocks:
    """Yields blocks, and notes when it is asked for one, and when it is closed."""

    def __init__(self, note: Note, *blocks: Any, closes: bool = True) -> None:
        self._note, self._blocks, self._begun = note, iter(blocks), False
        if closes:
            self.close = self._close

    def __iter__(self) -> Iterator[bytes]:
        # An iterator may be asked for itself again: that has no meaning.
        if not self._begun:
            self._note("iter")
        self._begun = True
        return self

    def __next__(self) -> bytes:
        try:
            block = next(self._blocks)
        except StopIteration:
            self._note("end")
            raise
        self._note(f"next {block!r}")
        if isinstance(block, BaseException):
            raise block
        return block  # type: ignore[no-any-return]

    def _close(self) -> None:
        self._note(f"close, while {sys.exc_info()[1]!r} is handled")


class Sized(Blocks):
    """The same with a length."""

    def __init__(self, note: Note, length: Any, *blocks: Any) -> None:
        super().__init__(note, *blocks)
        self._length = length

    def __len__(self) -> int:
        if isinstance(self._length, BaseException):
            raise self._length
        return self._length  # type: ignore[no-any-return]


class ClosesWithError(Blocks):
    """The same, whose end fails."""

    def _close(self) -> None:
        super()._close()
        raise Failed("close")


class Bytes(bytes):
    """A kind of bytes."""


class List(list):  # type: ignore[type-arg]
    """A kind of list."""


def started(result: Callable[[Note], Any], status: str = "200 OK", headers: Any = None) -> Case:
    """Return an application that calls `start_response` first."""

    def application(_environ: Environ, start_response: StartResponse, note: Note) -> Any:
        start_response(status, PLAIN if headers is None else headers)
        return result(note)

    return application


def length(size: int) -> list[tuple[str, str]]:
    return [*PLAIN, ("Content-Length", str(size))]


def begun_late(_environ: Environ, start_response: StartResponse, note: Note) -> Iterator[bytes]:
    note("begin")
    start_response("202 Accepted", PLAIN)
    yield b"one"
    note("between")
    yield b"two"
    note("behind")


def never_started(_environ: Environ, _start: StartResponse, _note: Note) -> Iterable[bytes]:
    return [b"x"]


def never_started_generator(
    _environ: Environ, _start: StartResponse, note: Note
) -> Iterable[bytes]:
    return Blocks(note, b"x")


def written(_environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    write = start_response("200 OK", PLAIN)
    write(b"one")
    note("written")
    return Blocks(note, b"two")


def written_within(environ: Environ, start_response: StartResponse, note: Note) -> Iterator[bytes]:
    write = start_response("200 OK", PLAIN)
    yield b"one"
    write(b"two")
    yield b"three"


def hinted(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
    start_response("200 OK", PLAIN)
    return [b"x"]


def raised(_environ: Environ, _start: StartResponse, _note: Note) -> Iterable[bytes]:
    raise Failed("call")


def raised_when_started(
    _environ: Environ, start_response: StartResponse, _note: Note
) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    raise Failed("call")


def left(_environ: Environ, _start: StartResponse, _note: Note) -> Iterable[bytes]:
    raise SystemExit(3)


def replaced(_environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    try:
        raise Failed("first")
    except Failed:
        start_response("500 Oh", PLAIN, sys.exc_info())
    return [b"replaced"]


def replaced_too_late(
    _environ: Environ, start_response: StartResponse, note: Note
) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    yield b"one"
    try:
        raise Failed("late")
    except Failed:
        start_response("500 Oh", PLAIN, sys.exc_info())
    yield b"never"


def started_twice(_environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"x"]


def refused_head(_environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    try:
        start_response("200 OK", [("A", "b\nc")])
    except ValueError:
        note("refused")
    return [b"x"]


def kept_input(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    kept.append(environ["wsgi.input"])
    note(f"read {environ['wsgi.input'].read()!r}")
    start_response("200 OK", PLAIN)
    return [b"x"]


def popped_input(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    kept.append(environ.pop("wsgi.input"))
    start_response("200 OK", PLAIN)
    return [b"x"]


def replaced_input(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    kept.append(environ["wsgi.input"])
    environ["wsgi.input"] = io.BytesIO()
    start_response("200 OK", PLAIN)
    return [b"x"]


def kept_environ(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    kept.append(environ)
    start_response("200 OK", PLAIN)
    return Blocks(note, b"x")


def method_changed(environ: Environ, start_response: StartResponse, note: Note) -> Iterable[bytes]:
    environ["REQUEST_METHOD"] = "HEAD"
    start_response("200 OK", PLAIN)
    return [b"x"]


kept: list[Any] = []
SMALL, LARGE = b"s" * 100, b"l" * 300_000

CASES: dict[str, Case] = {
    "one block": started(lambda _: [b"hello"]),
    "one block with its length": started(lambda _: [b"hello"], headers=length(5)),
    "one block with less than its length": started(lambda _: [b"hell"], headers=length(5)),
    "one block with more than its length": started(lambda _: [b"hello!"], headers=length(5)),
    "one large block": started(lambda _: [LARGE]),
    "an empty block": started(lambda _: [b""]),
    "an empty block of length 0": started(lambda _: [b""], headers=length(0)),
    "no block": started(lambda _: []),
    "two blocks in a list": started(lambda _: [b"one", b"two"]),
    "a tuple": started(lambda _: (b"one", b"two")),
    "a kind of list": started(lambda _: List([b"one"])),
    "a kind of bytes in a list": started(lambda _: [Bytes(b"one")]),
    "a kind of bytes in an iterator": started(lambda note: Blocks(note, Bytes(b"one"))),
    "text in a list": started(lambda _: ["text"]),
    "text in an iterator": started(lambda note: Blocks(note, "text")),
    "text behind a block": started(lambda note: Blocks(note, b"one", "text")),
    "bytes": started(lambda _: b"bytes"),
    "text": started(lambda _: "text"),
    "None": started(lambda _: None),
    "a number": started(lambda _: 7),
    "blocks": started(lambda note: Blocks(note, b"one", b"two", b"three")),
    "blocks without close": started(lambda note: Blocks(note, b"one", b"two", closes=False)),
    "large blocks": started(lambda note: Blocks(note, SMALL, LARGE, SMALL)),
    "one block of an iterator": started(lambda note: Blocks(note, b"one")),
    "no block of an iterator": started(Blocks),
    "an empty block first": started(lambda note: Blocks(note, b"", b"one")),
    "an empty block between": started(lambda note: Blocks(note, b"one", b"", b"two")),
    "an empty block last": started(lambda note: Blocks(note, b"one", b"")),
    "blocks with their length": started(
        lambda note: Blocks(note, b"one", b"two"), headers=length(6)
    ),
    "blocks that end with their length": started(
        lambda note: Blocks(note, b"one", b"two", b""), headers=length(6)
    ),
    "blocks with less than their length": started(
        lambda note: Blocks(note, b"one", b"two"), headers=length(7)
    ),
    "blocks with more than their length": started(
        lambda note: Blocks(note, b"one", b"two", b"three"), headers=length(6)
    ),
    "a block with more than the length": started(
        lambda note: Blocks(note, b"one", b"two"), headers=length(4)
    ),
    "an error behind the length": started(
        lambda note: Blocks(note, b"one", Failed("behind")), headers=length(3)
    ),
    "an error before the first block": started(lambda note: Blocks(note, Failed("first"))),
    "an error behind a block": started(lambda note: Blocks(note, b"one", Failed("second"))),
    "SystemExit behind a block": started(lambda note: Blocks(note, b"one", SystemExit(1))),
    "an iterator of length 1": started(lambda note: Sized(note, 1, b"one")),
    "an iterator of length 2": started(lambda note: Sized(note, 2, b"one", b"two")),
    "an iterator whose length fails": started(lambda note: Sized(note, Failed("len"), b"one")),
    "a close that fails": started(lambda note: ClosesWithError(note, b"one")),
    "a close that fails behind the length": started(
        lambda note: ClosesWithError(note, b"one"), headers=length(3)
    ),
    "a close that fails after an error": started(
        lambda note: ClosesWithError(note, b"one", Failed("second"))
    ),
    "a file": started(lambda _: FileWrapper(io.BytesIO(b"abc"), 2)),
    "a head that comes with the first block": begun_late,
    "no head": never_started,
    "no head, and an iterator": never_started_generator,
    "write()": written,
    "write() between two blocks": written_within,
    "early hints": hinted,
    "an error": raised,
    "an error behind the head": raised_when_started,
    "SystemExit": left,
    "a head that is replaced": replaced,
    "a head that is replaced too late": replaced_too_late,
    "a second head": started_twice,
    "a head that is refused": refused_head,
    "the method changed": method_changed,
    "an input that is kept": kept_input,
    "an input that is kept and taken out": popped_input,
    "an input that is kept and replaced": replaced_input,
    "an environ that is kept": kept_environ,
    "204": started(lambda _: [b""], "204 No Content"),
    "204 with a body": started(lambda note: Blocks(note, b"one", b"two"), "204 No Content"),
    "304": started(lambda _: [], "304 Not Modified", [("ETag", '"a"')]),
    "a code alone": started(lambda _: [b"x"], "200"),
    "a status of text": started(lambda _: [b"x"], "404 Non trouv\xe9"),
    "its own Date and Server": started(
        lambda _: [b"x"], headers=[("Date", "today"), ("Server", "mine")]
    ),
    "a wish to close": started(lambda _: [b"x"], headers=[("Connection", "close")]),
    "a field of the connection": started(lambda _: [b"x"], headers=[("Keep-Alive", "x")]),
    "headers in a tuple": started(lambda _: [b"x"], headers=(("A", "b"),)),
}

REQUESTS: dict[str, Callable[[str], bytes]] = {
    "GET": get,
    "HEAD": lambda path: get(path).replace(b"GET", b"HEAD", 1),
    "POST": lambda path: post(b"some body", target=path),
    "HTTP/1.0": lambda path: get(path).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "a streamed body": lambda path: post(b"some body", target=path),
}


class Seen(NamedTuple):
    """What there was to see of a request."""

    response: bytes
    calls: list[str]
    logged: list[list[str]]
    body_closed: list[bool]


def all_of(client: Client) -> bytes:
    """Return all that a server sends until it closes the connection, or that it resets it.

    What it has sent before a reset may be lost.
    """
    data = bytearray()
    try:
        client.end_sending()
        while received := client.socket.recv(1 << 16):
            data += received
    except OSError:  # also where the server has reset it before
        return b"(reset)"
    return bytes(data)


def lines_of(record: logging.LogRecord) -> list[str]:
    """Return the level, the message without the request's id, and the error without its context."""
    message = re.sub(r"request [0-9a-f-]+", "request", record.getMessage())
    error = record.exc_info[1] if record.exc_info else None
    return [record.levelname, message, repr(error)]


def seen_of_all(kind: str, *, calls_itself: bool) -> dict[str, Seen]:
    """Return what is seen of each case with a request of this kind."""
    names = list(CASES)
    calls: list[str] = []
    put_right.clear()  # what other tests have left there

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        case = CASES[names[int(environ["PATH_INFO"][1:])]]
        return case(environ, start_response, calls.append)

    seen = {}
    streams = kind == "a streamed body"
    with serving(
        application, "native", calls_itself=calls_itself, stream_requests=streams
    ) as server:
        for index, name in enumerate(names):
            calls.clear()
            kept.clear()
            records = Records()
            LOGGER.addHandler(records)
            with connect(server) as client:
                client.send(REQUESTS[kind](f"/{index}"))
                response = all_of(client)
            # The thread is done with the request when it takes the next one.
            with connect(server) as client:
                client.send(get("/0"))
                client.read_response()
            LOGGER.removeHandler(records)
            bodies = [each if hasattr(each, "closed") else each["wsgi.input"] for each in kept]
            seen[name] = Seen(
                re.sub(rb"\r\nDate: [^\r]*GMT", b"", response),
                list(calls),
                # Of an odd status the process is told once, and so not in the second of both runs.
                [
                    lines_of(record)
                    for record in records.records
                    if messages.APPLICATION_SENT_ODD_STATUS.id not in record.getMessage()
                ],
                [body.closed for body in bodies],
            )
    return seen


@pytest.mark.parametrize("kind", REQUESTS)
def test_native_code_calls_the_application_as_the_gateway_does(kind: str) -> None:
    native = seen_of_all(kind, calls_itself=True)
    for name, expected in seen_of_all(kind, calls_itself=False).items():
        assert native[name] == expected, name


def test_a_request_has_nothing_that_the_application_has_kept_of_another_one() -> None:
    """Native code uses objects of a thread's last request again, where they were not kept."""
    kept: list[tuple[Any, ...]] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        given = (
            environ["wsgi.input"],
            environ["wsgi.early_hints"],
            environ["penstock.extend_deadline"],
            start_response,
        )
        path = environ["PATH_INFO"]
        write = start_response("200 OK", [("X-Path", path)])
        for index, each in enumerate((*given, write, environ)):
            if path == f"/{index}":
                kept.append((each,))
        assert len({id(each) for each in given} & {id(each) for [each] in kept[:-1]}) == 0
        assert environ["wsgi.input"].read() == b""
        return [path.encode()]

    with serving(application, "native", timeout=60) as server, connect(server) as client:
        for path in ("/none", *(f"/{index}" for index in range(6)), "/none", "/none"):
            client.send(get(path))
            response = client.read_response()
            assert (response.body, response.header("X-Path")) == (path.encode(), path)
    assert len(kept) == 6
    body, early_hints, extend_deadline, start_response, write, environ = (each for [each] in kept)
    assert body.closed
    assert early_hints([("Link", "</a>")]) is None  # its response is over
    assert extend_deadline(10) <= time.monotonic()
    with pytest.raises(RuntimeError, match="outside of a response"):
        write(b"x")
    with pytest.raises(RuntimeError, match="a second time"):
        start_response("200 OK", [])
    assert environ["PATH_INFO"] == "/5"


@pytest.mark.parametrize(
    "leaves", ["text", "a closed body", "a view", "an attribute", "a position"]
)
def test_the_empty_body_of_a_request_is_not_what_another_one_has_made_of_its_own(
    leaves: str,
) -> None:
    views = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        read = body.read()
        assert body.tell() == 0
        assert not vars(body)
        if leaves == "an attribute":
            body.user = "secret"
        elif leaves == "a position":
            body.seek(7)
        elif leaves == "text":
            body.write(b"secret")
        elif leaves == "a closed body":
            body.close()
        else:
            views.append(body.getbuffer())
        start_response("200 OK", PLAIN)
        return [b"read " + read]

    with serving(application, "native") as server, connect(server) as client:
        for _ in range(3):
            client.send(get())
            assert client.read_response().body == b"read "
    for view in views:
        view.release()  # else the end of its body is one that nothing handles


def test_what_only_a_weak_reference_points_to_ends_with_its_request() -> None:
    ended: list[str] = []
    known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        given = {
            "start_response": start_response,
            "early_hints": environ["wsgi.early_hints"],
            "input": environ["wsgi.input"],
        }
        for name, each in given.items():
            assert each not in known, name
            known[each] = name
            weakref.finalize(each, ended.append, name)
        del each
        start_response("200 OK", PLAIN)
        return [b"x"]

    with serving(application, "native") as server, connect(server) as client:
        for number in range(1, 4):
            client.send(get())
            assert client.read_response().status == 200
            eventually(lambda number=number: len(ended) == 3 * number)  # type: ignore[misc]


@contextmanager
def ticking() -> Iterator[list[float]]:
    """Have a thread note the time again and again, as often as it has the interpreter lock."""
    times: list[float] = []

    def tick(ended: threading.Event) -> None:
        while not ended.wait(0.001):
            times.append(time.monotonic())

    with running(tick, 1):
        eventually(lambda: bool(times))
        yield times


def test_an_iterator_of_native_code_gives_other_threads_their_turn() -> None:
    """Nothing of it asks the interpreter whether another thread waits for its lock."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return itertools.repeat(b"x" * 20, 100_000)

    with serving(application, "native", threads=2) as server, connect(server) as client:
        with ticking() as times:
            begun = time.monotonic()
            client.send(get())
            assert len(client.read_response().body) == 2_000_000
            ended = time.monotonic()
        within = [begun, *(each for each in times if begun < each < ended), ended]
        longest = max(after - before for before, after in itertools.pairwise(within))
        assert longest < (ended - begun) / 2


def test_a_thread_that_waits_keeps_nothing_of_its_last_request() -> None:
    class Text(str):
        """Text that a weak reference may point to."""

    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["kept"] = Text("x")
        alive.add(environ["kept"])
        result = Blocks(lambda _: None, b"x", closes=False)  # else it is in a cycle
        alive.add(result)
        start_response("200 OK", PLAIN)
        return result

    with serving(application, "native") as server, connect(server) as client:
        client.send(get())
        client.read_response()
        eventually(lambda: not alive)
