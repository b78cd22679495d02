"""What the fast responses of a transport leave to `penstock.wsgi.response.Response`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from penstock.transport import Exchange
from penstock.wsgi.gateway import Gateway
from penstock.wsgi.headers import CheckHead, check_head
from penstock.wsgi.response import Response
from support.fake_exchange import FakeExchange, Records, make_environ, serve

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

    from penstock.transport import HeaderList

Environ = dict[str, Any]
MakeFull = Callable[[Exchange | None, bool], Response]


class FakeFastResponse:
    """Takes the first head itself, as native code does, and leaves the rest to `Response`."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._head: tuple[str, int, HeaderList, int | None] | None = None

    def start_response(
        self, status: str, headers: HeaderList, exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        code, fields, length, _ = check_head(status, headers)
        self._head = status, code, fields, length
        return self.write

    def write(self, data: bytes, /) -> None:
        self.full_response().write(data)

    def early_hints(self, headers: HeaderList, /) -> None:
        self.full_response().early_hints(headers)

    def send_whole(self, block: bytes) -> bool:
        return self.full_response().send_whole(block)

    def full_response(self) -> Response:
        if self._head is not None:
            self._response.adopt(*self._head, 0)
            self._head = None
        return self._response

    def forget_exchange(self) -> None:
        self._response.forget_exchange()


class Support:
    """The part of a transport that a gateway uses to make responses."""

    check_head: CheckHead = staticmethod(check_head)

    def response_maker(self, make_full: MakeFull) -> Callable[[Exchange, bool], FakeFastResponse]:
        return lambda exchange, is_head: FakeFastResponse(make_full(exchange, is_head))


def answer(result: Callable[[Any], Iterable[bytes]], headers: HeaderList) -> FakeExchange:
    """Return the exchange of a request whose response began as a fast one."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return result(start_response("201 Created", headers))

    exchange = FakeExchange(make_environ())
    checked: Exchange = exchange
    Gateway(application, logger=Records().logger, transport=Support()).handle(checked)
    return exchange


def test_the_full_response_takes_over_the_head_of_the_fast_one() -> None:
    def written(write: Callable[[bytes], object]) -> list[bytes]:
        write(b"abc")
        return []

    for result in (lambda write: iter([b"ab", b"c"]), lambda write: [b"abc"], written):
        exchange = answer(result, [("X-A", "1"), ("Content-Length", "3")])
        assert (exchange.finished, exchange.sent) == (True, b"abc")
        assert (exchange.status, exchange.headers) == ("201 Created", [("X-A", "1")])
        assert exchange.content_length == 3


def never(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise AssertionError("the test calls the steps of the gateway itself")


def test_the_gateway_sends_what_is_left_of_an_iteration_that_native_code_has_begun() -> None:
    exchange = FakeExchange(make_environ())
    checked: Exchange = exchange
    gateway = Gateway(never, logger=Records().logger)
    response = gateway.make_full(checked, False)
    response.start_response("200 OK", [])
    gateway.answer(checked, response, io.BytesIO(), iter([b"not asked"]), iter([b"a", b"b"]))
    assert (exchange.finished, exchange.sent) == (True, b"ab")


def test_what_runs_after_a_failure_in_native_code_finds_the_exception_as_one_that_is_handled() -> (
    None
):
    handled: list[BaseException | None] = []

    class Result:
        def close(self) -> None:
            handled.append(sys.exc_info()[1])

    exchange, log = FakeExchange(make_environ()), Records()
    checked: Exchange = exchange
    gateway = Gateway(never, logger=log.logger)
    error = ValueError("of the application")
    body = io.BytesIO()
    gateway.fail(checked, gateway.make_full(checked, False), body, error, Result())
    assert exchange.status == "500 Internal Server Error"
    assert handled == [error]
    assert body.closed
    assert "ValueError: of the application" in log.text


def test_rfc9112_9_6_a_response_of_several_blocks_may_ask_for_the_close_too() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Connection", "close")])
        yield b"a"
        yield b"b"

    log = Records()
    exchange = serve(application, log=log)
    assert exchange.sent == b"ab"
    assert exchange.closes
    assert "the application sent the field Connection: close" in log.text
