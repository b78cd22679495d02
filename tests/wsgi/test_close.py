"""The gateway calls ``close()`` of what the application returned, exactly once in every case."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import StartResponse

import pytest

from support.applications import TEXT, length
from support.fake_exchange import FakeExchange, Records, make_environ, make_request, serve

Environ = dict[str, Any]


class Closing:
    """An iterable that is not its own iterator. It records each call of ``close``."""

    def __init__(self, exchange: FakeExchange, *blocks: Any) -> None:
        self.exchange = exchange
        self.blocks = blocks
        self.calls: list[tuple[bool, int]] = []
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks:
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        self.calls.append((self.exchange.over, threading.get_ident()))
        if self.failure is not None:
            raise self.failure


def run(
    *blocks: Any,
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    gone_after: int | None = None,
    failure: BaseException | None = None,
    start: bool = True,
    log: Records | None = None,
) -> FakeExchange:
    exchange = FakeExchange(make_environ(make_request(method)), gone_after=gone_after)
    result = Closing(exchange, *blocks)
    result.failure = failure

    def application(environ: Environ, start_response: StartResponse) -> Closing:
        if start:
            start_response("200 OK", [TEXT, *(headers or [])])
        return result

    serve(application, exchange=exchange, log=log)
    # Once, after the response was over, on the thread that called the application.
    assert result.calls == [(True, threading.get_ident())]
    return exchange


@pytest.mark.parametrize(
    "handle",
    [
        lambda: run(b"a", b"b"),
        run,
        lambda: run(b"a", ValueError("in the middle")),
        lambda: run(ValueError("at once")),
        lambda: run(b"a", SystemExit(3)),
        lambda: run("text"),
        lambda: run(b"a", method="HEAD"),
        lambda: run(b"abc", b"d", headers=[length(2)]),
        lambda: run(b"a", headers=[length(2)]),
        lambda: run(b"a", b"b", gone_after=1),
        lambda: run(b"a", gone_after=0),
        lambda: run(b"a", start=False),
    ],
    ids=["success", "empty", "error", "error at once", "exit", "not bytes", "HEAD", "too long",
         "too short", "client left", "client left at once", "not started"],
)  # fmt: skip
def test_pep3333_close_is_called_once_after_the_last_block(
    handle: Callable[[], FakeExchange],
) -> None:
    assert handle().over


@pytest.mark.parametrize("failure", [ValueError("close"), SystemExit(1), KeyboardInterrupt()])
def test_pep3333_error_in_close_is_logged_and_the_response_is_complete(
    failure: BaseException,
) -> None:
    log = Records()
    exchange = run(b"a", b"b", failure=failure, log=log)
    assert exchange.finished
    assert exchange.sent == b"ab"
    assert "close() of the response failed" in log.lines[0]
    assert type(failure).__name__ in log.text


def test_error_while_looking_up_close_is_logged() -> None:
    class Strange(list[bytes]):
        @property
        def close(self) -> None:
            raise ValueError("no close for you")

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])
        return Strange([b"x"])

    log = Records()
    assert serve(application, log=log).sent == b"x"
    assert "no close for you" in log.text


def test_result_without_close_is_accepted() -> None:
    log = Records()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        return iter((b"x",))

    assert serve(application, log=log).sent == b"x"
    assert log.lines == []
