"""An exchange in memory: a test can look at what a gateway says, and what it may not say fails."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication

from penstock.errors import ClientDisconnected
from penstock.http1 import Request
from penstock.transport import Exchange, HeaderList, WebSocket
from penstock.wsgi.environ import HeaderMap, base_environ, build_environ, client_environ
from penstock.wsgi.errors import ErrorStream
from penstock.wsgi.gateway import Gateway

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Records(logging.Handler):
    """A logger of its own, whose records stay in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.logger = logging.Logger("penstock.test", logging.DEBUG)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        """Every record as its level and message, with a traceback where it has one."""
        formatter = logging.Formatter("%(levelname)s %(message)s")
        return "\n".join(map(formatter.format, self.records))

    @property
    def lines(self) -> list[str]:
        """The messages alone."""
        return [record.getMessage() for record in self.records]


def make_request(method: str = "GET", target: str = "/", **changes: Any) -> Request:
    """Return a request with a plain head; ``changes`` are attributes of `Request`."""
    path, _, query = target.partition("?")
    values: dict[str, Any] = {
        "version": "HTTP/1.1",
        "path": path,
        "query": query,
        "fields": {"host": "example.org"},
        "content_length": None,
        "chunked": False,
        "keep_alive": True,
        "expect_continue": False,
        "body_expected": False,
    }
    return Request(method=method, target=target, **(values | changes))


def make_base(**changes: Any) -> dict[str, Any]:
    """Return what `base_environ` gives for a usual listener."""
    values: dict[str, Any] = {
        "multithread": True,
        "multiprocess": False,
        "server_name": "example.org",
        "server_port": "8000",
        "errors": ErrorStream(logging.Logger("wsgi.errors").error),
        "software": "penstock/test",
    }
    return base_environ(**(values | changes))


def make_environ(
    request: Request | None = None,
    *,
    base: dict[str, Any] | None = None,
    remote: tuple[str, str] = ("192.0.2.1", "4000"),
    content_length: int | None = None,
    header_map: HeaderMap = "drop",
) -> dict[str, Any]:
    """Return a finished environ, as a transport makes it."""
    if base is None:
        base = make_base()
    if request is None:
        request = make_request()
    client = client_environ(base, request.fields, *remote, header_map)
    environ = build_environ(client, request, content_length)
    environ["penstock.request_id"] = "r1"
    return environ


class FakeExchange:
    """`penstock.transport.Exchange`, strict about the order of calls.

    ``events`` tells the calls, ``sent`` the body's bytes that the client gets. ``chunks`` is a
    streamed body: blocks, and exceptions to raise in their place. The client leaves once it
    has ``gone_after`` bytes.
    """

    def __init__(
        self,
        environ: dict[str, Any] | None = None,
        *,
        body: bytes | IO[bytes] = b"",
        chunks: Iterable[bytes | Exception] | None = None,
        gone_after: int | None = None,
    ) -> None:
        self.environ: dict[str, Any] = make_environ() if environ is None else environ
        self.body: Any = io.BytesIO(body) if isinstance(body, bytes) else body
        if chunks is not None:
            self.body = None
        self.request_id = "r1"
        self.websocket: WebSocket | None = None
        self.head_sent = False
        self.events: list[str] = []
        self.status = ""
        self.headers: HeaderList = []
        self.content_length: int | None = None
        self.sent = b""
        self.informational: list[tuple[str, HeaderList]] = []
        self.finished = self.aborted = self.closes = False
        self.reason = ""
        self.gone_after = gone_after
        self._chunks = list(chunks or [])
        self._method = self.environ["REQUEST_METHOD"]

    @property
    def over(self) -> bool:
        return self.finished or self.aborted

    def receive_into(self, target: WriteableBuffer) -> int:
        view = memoryview(target)
        assert view
        if not self._chunks:
            return 0
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            self._chunks.insert(0, chunk)
            raise chunk
        if chunk[len(view) :]:
            self._chunks.insert(0, chunk[len(view) :])
        data = chunk[: len(view)]
        view[: len(data)] = data
        return len(data)

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        assert not self.head_sent
        self._check_client()
        self.informational.append((status, list(headers)))

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        assert not self.head_sent, "the head has left"
        assert not self.over
        names = {name.lower() for name, _ in headers}
        assert not names & {"content-length", "transfer-encoding", "connection"}
        self.events.append("respond")
        self.status, self.headers, self.content_length = status, headers, content_length

    def send(self, data: bytes) -> None:
        self.events.append("send")
        if data:
            self._send(data)

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        self.events.append("send_file")
        assert count > 0
        self._send(os.pread(descriptor, count, offset))

    def finish(self, data: bytes = b"") -> None:
        self.events.append("finish")
        self._send(data)
        self.finished = True
        if self.content_length is not None and not self.bodiless:
            assert len(self.sent) == self.content_length

    def abort(self) -> None:
        if not self.over:
            self.events.append("abort")
            self.aborted = True

    def set_reason(self, reason: str) -> None:
        self.reason = reason

    def close_after_response(self) -> None:
        assert not self.head_sent
        self.closes = True

    def client_gone(self) -> bool:
        assert not self.over
        return self.gone_after is not None and len(self.sent) >= self.gone_after

    @property
    def bodiless(self) -> bool:
        return self._method == "HEAD" or self.status[:3] in ("204", "205", "304")

    def _check_client(self) -> None:
        if self.gone_after is not None and len(self.sent) >= self.gone_after:
            raise ClientDisconnected("the client is gone")

    def _send(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert self.status, "no head was set"
        assert not self.over
        self._check_client()
        self.head_sent = True
        if not self.bodiless:
            self.sent += data
            assert self.content_length is None or len(self.sent) <= self.content_length


def serve(
    application: WSGIApplication,
    request: Request | None = None,
    *,
    log: Records | None = None,
    exchange: FakeExchange | None = None,
    sendfile: bool = True,
) -> FakeExchange:
    """Have a gateway answer one exchange; it is over when this returns, or the test fails."""
    if exchange is None:
        exchange = FakeExchange(make_environ(request))
    checked: Exchange = exchange
    logger = (log if log is not None else Records()).logger
    Gateway(application, logger=logger, sendfile=sendfile).handle(checked)
    assert exchange.finished != exchange.aborted
    return exchange
