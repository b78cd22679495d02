"""Answers and log lines if the application fails, the client leaves, or the body is broken."""

from __future__ import annotations

import errno
import gc
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.errors import ClientDisconnected, FileTruncatedError, RequestBodyError
from penstock.transport import Exchange
from penstock.wsgi.gateway import Gateway
from penstock.wsgi.headers import check_head
from penstock.wsgi.response import FastResponse, Response
from support import applications
from support.applications import TEXT, length
from support.fake_exchange import FakeExchange, Records, make_environ, make_request, serve

Environ = dict[str, Any]


def recurse() -> None:
    recurse()


def fail_with(error: BaseException) -> Callable[..., Any]:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise error

    return application


def after_the_head(error: BaseException) -> Callable[..., Any]:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"sent"
        raise error

    return application


FAILURES = [
    ValueError("details that no client may see"),
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    RecursionError(),
]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_faults_21_error_before_the_head_is_a_plain_500(error: BaseException) -> None:
    log = Records()
    request = make_request("POST", "/a?b=\x1b[0m\r\nforged", path="/a")
    exchange = serve(fail_with(error), request, log=log)
    assert exchange.events == ["respond", "finish"]
    assert exchange.status == "500 Internal Server Error"
    assert exchange.headers == [("Content-Type", "text/plain; charset=utf-8")]
    assert exchange.sent == b"Internal Server Error\n"
    assert log.lines == [
        r"PEN-3010 POST /a?b=\x1b[0m\r\nforged (request r1): the application failed"
    ]
    assert log.records[0].levelname == "ERROR"
    assert type(error).__name__ in log.text
    assert "Traceback" in log.text


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_faults_21_error_after_the_head_cuts_the_response_off(error: BaseException) -> None:
    log = Records()
    exchange = serve(after_the_head(error), log=log)
    assert exchange.events == ["respond", "send", "abort"]
    assert type(error).__name__ in log.text


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (ValueError("a defect"), True),
        (ClientDisconnected("it has left"), False),
        (RequestBodyError(400, "it is broken"), False),
    ],
)
def test_what_the_application_raises_is_noted_and_what_the_client_causes_is_not(
    error: BaseException, noted: bool
) -> None:
    found: list[tuple[object, BaseException]] = []
    exchange = FakeExchange(make_environ())
    checked: Exchange = exchange
    Gateway(
        fail_with(error),
        logger=Records().logger,
        note_failure=lambda *given: found.append(given),
    ).handle(checked)
    assert found == ([(exchange, error)] if noted else [])


def test_faults_30_endless_recursion_is_a_500() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        recurse()
        return []

    log = Records()
    assert serve(application, log=log).status == "500 Internal Server Error"
    assert "RecursionError" in log.text


def test_error_in_the_first_next_is_a_500_and_replaces_the_head() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(5)])
        yield b""
        raise ValueError

    exchange = serve(application)
    assert (exchange.status, exchange.content_length) == ("500 Internal Server Error", 22)


def test_error_after_the_last_byte_is_logged_and_the_response_is_complete() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(1)])
        yield b"x"
        raise ValueError("afterwards")

    log = Records()
    exchange = serve(application, log=log)
    assert exchange.events == ["respond", "finish"]
    assert "ValueError: afterwards" in log.text


def test_a_failure_is_logged_even_if_the_application_emptied_the_environ() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ.clear()
        raise ValueError

    log = Records()
    assert serve(application, log=log).status == "500 Internal Server Error"
    assert log.lines == ["PEN-3010 None None (request r1): the application failed"]


class BrokenLogger:
    """A logger that fails, as it does if memory ran out."""

    def __getattr__(self, name: str) -> Any:
        raise MemoryError


def test_faults_30_handle_never_raises_even_if_logging_fails() -> None:
    class Closing(list[bytes]):
        def close(self) -> None:
            raise ValueError

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])
        return Closing([b"x"])

    broken: Any = BrokenLogger()
    exchange = FakeExchange()
    Gateway(fail_with(ValueError()), logger=broken).handle(exchange)
    assert exchange.aborted
    exchange = FakeExchange()
    Gateway(application, logger=broken).handle(exchange)
    assert exchange.sent == b"x"


# The client leaves


def test_faults_12_client_that_left_stops_the_iteration_at_the_next_block() -> None:
    asked: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        for number in range(9):
            asked.append(number)
            yield b"ab"

    log = Records()
    exchange = serve(application, exchange=FakeExchange(gone_after=4), log=log)
    assert exchange.aborted
    assert asked == [0, 1, 2]
    assert log.text == "INFO GET / (request r1): client disconnected: the client is gone"


def test_faults_23_client_that_left_a_waiting_generator_stops_it() -> None:
    asked: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"ab"
        for number in range(1000):
            asked.append(number)
            yield b""

    log = Records()
    exchange = serve(application, exchange=FakeExchange(gone_after=2), log=log)
    assert exchange.aborted
    assert asked == [0]
    assert log.text.startswith("INFO GET / (request r1): client disconnected")


@pytest.mark.parametrize(
    "application", [applications.hello, applications.writes, applications.generator]
)
def test_client_that_left_before_the_first_byte_is_logged_as_one_info_line(
    application: Any,
) -> None:
    log = Records()
    exchange = serve(application, exchange=FakeExchange(gone_after=0), log=log)
    assert exchange.aborted
    assert log.text == "INFO GET / (request r1): client disconnected: the client is gone"


def test_a_file_that_became_shorter_cuts_the_response_off_and_is_named_as_the_reason() -> None:
    log = Records()
    error = FileTruncatedError(errno.EIO, "the file became shorter while it was sent")
    exchange = serve(after_the_head(error), log=log)
    assert exchange.aborted
    assert exchange.reason == "response cut off: the file became shorter while it was sent"
    assert "PEN-3060" in log.text


def test_client_that_left_before_the_500_is_not_a_second_error() -> None:
    log = Records()
    exchange = serve(fail_with(KeyError("x")), exchange=FakeExchange(gone_after=0), log=log)
    assert exchange.aborted
    assert len(log.lines) == 1


def test_disconnect_that_the_application_wrapped_counts_as_a_disconnect() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raise KeyError("unreadable") from error
        return []

    log = Records()
    chunks: list[bytes | Exception] = [b"ab", ClientDisconnected("it left")]
    exchange = serve(application, exchange=FakeExchange(chunks=chunks), log=log)
    assert exchange.aborted
    assert log.text == "INFO GET / (request r1): client disconnected: it left"


def test_circular_chain_of_causes_does_not_loop_for_ever() -> None:
    one, two = KeyError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    assert serve(fail_with(one)).status == "500 Internal Server Error"
    one.__cause__ = None  # a circle that only the collector frees


# The body of the request is broken


def reading(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [environ["wsgi.input"].read()]


def test_request_body_error_is_answered_with_its_status() -> None:
    log = Records()
    chunks: list[bytes | Exception] = [b"ab", RequestBodyError(413, "too large")]
    exchange = serve(reading, exchange=FakeExchange(chunks=chunks), log=log)
    assert (exchange.status, exchange.closes) == ("413 Content Too Large", True)
    assert log.text == "INFO GET / (request r1): bad request body: too large"


def test_request_body_error_after_the_head_cuts_the_response_off() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield environ["wsgi.input"].read(2)
        yield environ["wsgi.input"].read(2)

    chunks: list[bytes | Exception] = [b"ab", RequestBodyError(400, "bad chunk")]
    exchange = serve(application, exchange=FakeExchange(chunks=chunks))
    assert exchange.aborted
    assert exchange.sent == b"ab"


def test_request_body_error_may_be_handled_by_the_application() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(OSError, match="bad chunk"):
            environ["wsgi.input"].read()
        return applications.hello(environ, start_response)

    chunks = [RequestBodyError(400, "bad chunk")]
    assert serve(application, exchange=FakeExchange(chunks=chunks)).sent == b"hello"


# Nothing is kept


class Token:
    """An object in the environ that shows when the environ is freed."""


def with_token(application: Any, **options: Any) -> weakref.ref[Token]:
    token = Token()
    environ = make_environ()
    environ["test.token"] = token
    logger = logging.Logger("quiet")  # one that keeps no record, and so no traceback
    logger.addHandler(logging.NullHandler())
    exchange = FakeExchange(environ, **options)
    Gateway(application, logger=logger).handle(exchange)
    assert exchange.over
    return weakref.ref(token)


def fails_with_exc_info(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"sent"
    try:
        raise KeyError
    except KeyError:
        start_response("500 Oops", [], sys.exc_info())


def fails(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise ValueError


@pytest.mark.parametrize(
    ("application", "options"),
    [
        (applications.hello, {}),
        (applications.writes, {}),
        (applications.generator, {}),
        (applications.replaces_its_head, {}),
        (applications.wraps_a_file, {}),
        (reading, {"chunks": [b"x"]}),
        (fails, {}),
        (fails_with_exc_info, {}),
        (applications.generator, {"gone_after": 1}),
    ],
)
def test_environ_is_freed_with_the_exchange_without_the_collector(
    application: Any, options: dict[str, Any]
) -> None:
    gc.disable()
    try:
        with_token(application, **options)  # what is first used now stays: imports, caches
        assert with_token(application, **options)() is None
    finally:
        gc.enable()


def test_environ_that_an_application_keeps_does_not_keep_the_exchange() -> None:
    kept: list[Environ] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(environ)
        return applications.hello(environ, start_response)

    exchange = serve(application, exchange=FakeExchange(chunks=[b"x"]))
    gone = weakref.ref(exchange)
    del exchange
    assert gone() is None
    with pytest.raises(OSError, match="ended"):
        kept[0]["wsgi.input"].read()


class NoMemoryForResponses:
    """A transport whose part of the gateway finds no memory for a response."""

    check_head = staticmethod(check_head)

    def response_maker(
        self, reference: Callable[[Exchange | None, bool], Response]
    ) -> Callable[[Exchange, bool], FastResponse]:
        def make(exchange: Exchange, is_head: bool) -> FastResponse:
            raise MemoryError

        return make


def test_an_exchange_for_which_memory_runs_out_before_the_call_gets_a_500() -> None:
    log = Records()
    exchange = FakeExchange()
    gateway = Gateway(
        fail_with(AssertionError()), logger=log.logger, transport=NoMemoryForResponses()
    )
    gateway.handle(exchange)
    assert exchange.status == "500 Internal Server Error"
    assert "MemoryError" in log.text
