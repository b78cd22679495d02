"""An application that ends its call at the deadline, and one whose request the server has ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest

import penstock
from penstock.errors import ClientDisconnected, RequestAborted, RequestTimeout
from penstock.wsgi.gateway import Gateway
from support.applications import TEXT, Environ, length
from support.fake_exchange import FakeExchange, Records, serve

REASON = "timeout: the application ended the call at its deadline"


class Closed:
    """An application that is also its result, and counts the calls of `close`."""

    def __init__(self, blocks: Iterable[bytes], error: type[BaseException] | None = None) -> None:
        self.blocks = blocks
        self.error = error
        self.closes = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Closed:
        start_response("200 OK", [TEXT])
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        self.closes += 1
        if self.error is not None:
            raise self.error


class Deadline:
    """``penstock.extend_deadline`` of an environ, with a deadline in this number of seconds."""

    def __init__(self, left: float) -> None:
        self.at = time.monotonic() + left

    def __call__(self, seconds: float) -> float:
        assert seconds == 0
        return self.at


# -- penstock.check_deadline ---------------------------------------------------------------------


def test_check_deadline_raises_once_the_deadline_has_passed() -> None:
    penstock.check_deadline({"penstock.extend_deadline": Deadline(60)})
    with pytest.raises(penstock.RequestTimeout):
        penstock.check_deadline({"penstock.extend_deadline": Deadline(-0.001)})


def test_check_deadline_does_nothing_without_a_deadline() -> None:
    penstock.check_deadline({})


def test_except_Exception_does_not_catch_the_timeout() -> None:
    assert not issubclass(RequestTimeout, Exception)


def times_out(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    penstock.check_deadline({"penstock.extend_deadline": Deadline(-1)})
    raise AssertionError


def handle(application: WSGIApplication, exchange: FakeExchange, log: Records) -> FakeExchange:
    Gateway(application, logger=log.logger).handle(exchange)
    assert exchange.finished != exchange.aborted
    return exchange


def test_a_timeout_before_the_head_is_a_504_and_the_connection_is_kept() -> None:
    log = Records()
    exchange = handle(times_out, FakeExchange(), log)
    assert exchange.status == "504 Gateway Timeout"
    assert exchange.headers == [("Content-Type", "text/plain; charset=utf-8")]
    assert exchange.sent == b"Gateway Timeout\n"
    assert not exchange.closes
    assert exchange.reason == REASON
    assert log.lines == [
        "PEN-3050 GET / (request r1): the application ended the call at its deadline"
        " (settings: timeout, timeout_for)"
    ]
    assert log.records[0].levelname == "ERROR"


def test_a_timeout_after_the_head_aborts_the_response() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"sent"
        raise RequestTimeout

    exchange = handle(application, FakeExchange(), Records())
    assert exchange.events == ["respond", "send", "abort"]
    assert exchange.reason == REASON


def test_an_exception_raised_from_a_timeout_counts_as_a_timeout() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise RequestTimeout
        except RequestTimeout as error:
            raise RuntimeError("the query was cancelled") from error

    assert serve(application).status == "504 Gateway Timeout"


def test_an_application_may_catch_a_timeout_and_answer_itself() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise RequestTimeout
        except RequestTimeout:
            start_response("503 Service Unavailable", [TEXT])
            return [b"later"]

    log = Records()
    exchange = serve(application, log=log)
    assert (exchange.status, exchange.sent) == ("503 Service Unavailable", b"later")
    assert log.lines == []


def test_a_timeout_after_the_end_of_the_response_sends_nothing_more() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(4)])
        yield b"sent"
        raise RequestTimeout

    log = Records()
    exchange = handle(application, FakeExchange(), log)
    assert exchange.events == ["respond", "finish"]
    assert "PEN-3050" in log.text


@pytest.mark.parametrize("blocks", [[b"a"], [b"a", b"b"]])
def test_a_timeout_in_close_leaves_the_response_as_it_is(blocks: list[bytes]) -> None:
    closed = Closed(blocks, RequestTimeout)
    log = Records()
    exchange = handle(closed, FakeExchange(), log)
    assert (exchange.finished, exchange.sent) == (True, b"".join(blocks))
    assert closed.closes == 1
    assert "close() of the response failed" in log.text


def test_a_timeout_is_a_504_even_if_a_view_of_the_body_is_kept() -> None:
    kept = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(environ["wsgi.input"].getbuffer())
        raise RequestTimeout

    assert serve(application, exchange=FakeExchange(body=b"abc")).status == "504 Gateway Timeout"
    kept.pop().release()


def test_an_application_object_that_raises_stop_iteration_gets_a_500() -> None:
    class Application:
        def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            raise StopIteration

    log = Records()
    assert serve(Application(), log=log).status == "500 Internal Server Error"
    assert "StopIteration" in log.text


# -- a request that the server has ended ---------------------------------------------------------


class Ended(FakeExchange):
    """An exchange that the server ends under the application: whatever is sent raises."""

    def respond(self, *arguments: Any) -> None:
        raise RequestAborted("the server ended the request: timeout after 30 s")


@pytest.mark.parametrize("blocks", [[b"a"], [b"a", b"b"]])
def test_what_a_call_returns_after_its_request_was_ended_is_closed_and_discarded(
    blocks: list[bytes],
) -> None:
    closed, log = Closed(blocks), Records()
    exchange = Ended()
    Gateway(closed, logger=log.logger).handle(exchange)
    assert exchange.events == ["abort"]
    assert closed.closes == 1
    assert log.lines == [
        "GET / (request r1): the response is discarded: the server ended the request: timeout after"
        " 30 s"
    ]
    assert log.records[0].levelname == "INFO"


def test_an_ended_request_is_a_disconnect_to_the_application() -> None:
    assert issubclass(RequestAborted, ClientDisconnected)
    assert issubclass(RequestAborted, OSError)
