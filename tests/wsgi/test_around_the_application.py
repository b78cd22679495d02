"""What is asked before the application, and what its responses are sent through."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.errors import ClientDisconnected
from penstock.transport import Exchange, HeaderList, Outlet
from penstock.wsgi.gateway import Gateway
from penstock.wsgi.headers import CheckHead
from support.applications import TEXT
from support.fake_exchange import FakeExchange, Records, make_environ

Environ = dict[str, Any]


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"application"]


class Body(io.BytesIO):
    """A request's body."""


@dataclass
class First:
    """What is asked first, for the paths below a prefix."""

    answer: Callable[[Exchange], bool]
    beginnings: tuple[str, ...] = ("/",)


def handled(
    first: Callable[[Exchange], bool],
    log: Records | None = None,
    beginnings: tuple[str, ...] = ("/",),
    **given: Any,
) -> FakeExchange:
    exchange = FakeExchange(body=Body(b"abc"), **given)
    gateway = Gateway(application, logger=(log or Records()).logger)
    gateway.ask_first(First(first, beginnings))
    gateway.handle_unless_first(exchange)
    assert exchange.body.closed, "the request's body is not kept, whatever answers"
    return exchange


def answers(exchange: Exchange) -> bool:
    exchange.respond("200 OK", [], 5)
    exchange.finish(b"first")
    return True


def test_what_is_asked_first_answers_in_place_of_the_application() -> None:
    assert handled(answers).sent == b"first"


def test_the_application_answers_where_it_does_not() -> None:
    assert handled(lambda exchange: False).sent == b"application"


def unasked(exchange: Exchange) -> bool:
    raise AssertionError("asked for another path")


@pytest.mark.parametrize("beginnings", [("/files",), ("/files", "/media")])
def test_the_application_answers_for_another_path(beginnings: tuple[str, ...]) -> None:
    environ = make_environ() | {"PATH_INFO": "/fil"}
    assert handled(unasked, beginnings=beginnings, environ=environ).sent == b"application"


def test_it_is_asked_where_the_path_was_split_at_the_mount() -> None:
    environ = make_environ() | {"PATH_INFO": "/a.css", "SCRIPT_NAME": "/files"}
    assert handled(answers, beginnings=("/files",), environ=environ).sent == b"first"


def test_an_error_of_what_is_asked_first_is_500_and_logged() -> None:
    def first(exchange: Exchange) -> bool:
        raise ZeroDivisionError("as the test wants it")

    log = Records()
    exchange = handled(first, log)
    assert exchange.status == "500 Internal Server Error"
    assert "ZeroDivisionError: as the test wants it" in log.text


def test_a_client_that_leaves_meanwhile_is_no_error() -> None:
    def first(exchange: Exchange) -> bool:
        raise ClientDisconnected("as the test wants it")

    log = Records()
    exchange = handled(first, log)
    assert exchange.aborted
    assert "ERROR" not in log.text


class Doubling:
    """Filters that send each block twice, and know no length."""

    def check_head(self, check: CheckHead) -> CheckHead:
        def checked(status: str, headers: HeaderList) -> tuple[int, HeaderList, int | None, bool]:
            code, fields, _, close = check(status, headers)
            return code, [*fields, ("X-Checked", "yes")], None, close

        return checked

    def outlet(self, exchange: Exchange, is_head: bool) -> Outlet:
        return _Twice(exchange, is_head)


class _Twice(FakeExchange):
    """The outlet of `Doubling`: an exchange of its own, which passes on what it is given."""

    def __init__(self, exchange: Exchange, is_head: bool) -> None:
        super().__init__(exchange.environ)
        self.exchange = exchange
        self.is_head = is_head

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        self.exchange.respond(status, headers, None)

    def finish(self, data: bytes = b"") -> None:
        self.exchange.finish(data * 2)


@pytest.mark.parametrize("length", [[], [("Content-Length", "99")]])
def test_responses_are_sent_through_the_outlet_of_the_filters(length: HeaderList) -> None:
    def given(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT, *length])
        return [b"ab"]

    exchange = FakeExchange()
    Gateway(given, logger=Records().logger, filters=Doubling()).handle(exchange)
    assert exchange.sent == b"abab"
    assert exchange.headers == [TEXT, ("X-Checked", "yes")]
    assert exchange.finished
