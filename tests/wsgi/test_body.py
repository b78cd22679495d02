"""When the bytes of a body are sent, and which length the client is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest

from penstock.http1 import Framing, choose_framing
from support import applications
from support.applications import TEXT, OneBlock, length
from support.fake_exchange import (
    FakeExchange,
    Records,
    make_base,
    make_environ,
    make_request,
    serve,
)

Environ = dict[str, Any]


def returning(result: Any, *headers: tuple[str, str], status: str = "200 OK") -> WSGIApplication:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [TEXT, *headers])
        body: Iterable[bytes] = result() if callable(result) else result
        return body

    return application


@pytest.mark.parametrize(
    "application",
    [
        applications.hello,
        applications.hello_with_length,
        applications.in_a_tuple,
        applications.list_of_blocks,
        applications.one_block_of_its_own_type,
    ],
)
def test_pep3333_body_that_is_complete_is_sent_together_with_the_head(
    application: WSGIApplication,
) -> None:
    exchange = serve(application)
    assert exchange.events == ["respond", "finish"]
    assert (exchange.content_length, exchange.sent) == (5, b"hello")
    assert exchange.headers == [TEXT]


@pytest.mark.parametrize(
    "application",
    [
        applications.nothing,
        applications.empty_generator,
        applications.empty_with_length_0,
        returning([b""]),
        returning([b"", b""]),
        returning(lambda: iter([b"", b""])),
        returning(lambda: OneBlock(b"")),
    ],
)
def test_pep3333_exhaustion_without_a_byte_is_an_empty_body(application: WSGIApplication) -> None:
    exchange = serve(application)
    assert exchange.events == ["respond", "finish"]
    assert (exchange.content_length, exchange.sent) == (0, b"")


def test_pep3333_each_block_is_sent_before_the_application_is_asked_for_the_next() -> None:
    exchange = FakeExchange()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        assert exchange.events == []
        yield b""
        assert exchange.events == []
        yield b"one"
        assert exchange.sent == b"one"
        yield b""
        assert exchange.events == ["respond", "send"]
        yield b"two"
        assert exchange.sent == b"onetwo"

    serve(application, exchange=exchange)
    assert exchange.events == ["respond", "send", "send", "finish"]
    assert exchange.content_length is None


def test_last_block_of_a_content_length_ends_the_response() -> None:
    after: list[list[str]] = []
    exchange = FakeExchange()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(5)])
        yield b"he"
        yield b"llo"
        after.append(exchange.events.copy())

    serve(application, exchange=exchange)
    assert after == [["respond", "send", "finish"]]
    assert exchange.sent == b"hello"


def test_large_list_is_sent_block_by_block() -> None:
    exchange = serve(applications.large_list)
    assert exchange.events == ["respond", "send", "send", "finish"]
    assert exchange.sent == b"a" * 60_000 + b"b" * 60_000


def test_pep3333_len_may_raise() -> None:
    assert serve(applications.length_that_raises).sent == b"hello"


def test_wrong_len_of_1_sends_the_first_block() -> None:
    log = Records()
    exchange = serve(returning(lambda: OneBlock(b"one", b"two")), log=log)
    assert (exchange.content_length, exchange.sent) == (3, b"one")
    assert "more than its Content-Length of 3" in log.text


def test_subclass_of_bytes_is_bytes() -> None:
    class Block(bytes):
        pass

    assert serve(returning([Block(b"x")])).sent == b"x"
    assert serve(returning(lambda: iter([Block(b"x")]))).sent == b"x"


@pytest.mark.parametrize("block", ["text", None, 1, bytearray(b"x"), ["nested"]])
@pytest.mark.parametrize("kind", [list, iter])
def test_pep3333_block_that_is_not_bytes_is_a_500(block: Any, kind: Any) -> None:
    log = Records()
    exchange = serve(returning(lambda: kind([block])), log=log)
    assert exchange.status == "500 Internal Server Error"
    assert "not bytes" in log.text


@pytest.mark.parametrize("block", ["text", None, 1])
def test_pep3333_block_that_is_not_bytes_aborts_a_response_that_has_begun(block: Any) -> None:
    exchange = serve(returning(lambda: iter([b"sent", block])))
    assert exchange.aborted
    assert exchange.sent == b"sent"


@pytest.mark.parametrize("result", ["text", b"bytes", b"", bytearray(b"x"), memoryview(b"x"), None])
def test_pep3333_result_that_is_not_an_iterable_of_bytes_is_a_500(result: Any) -> None:
    log = Records()
    exchange = serve(returning(result), log=log)
    assert exchange.status == "500 Internal Server Error"
    assert f"it returned {type(result).__name__}" in log.text


@pytest.mark.parametrize("result", [1, object()])
def test_result_that_cannot_be_iterated_is_a_500(result: Any) -> None:
    assert serve(returning(result)).status == "500 Internal Server Error"


def test_coroutine_of_an_asynchronous_application_is_a_500_without_a_warning() -> None:
    async def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        return []

    broken: Any = application
    assert serve(broken).status == "500 Internal Server Error"


# Content-Length against the body


@pytest.mark.parametrize(
    "result",
    [[b"abcdef"], [b"ab", b"cdef"], lambda: iter([b"abcdef"]), lambda: iter([b"ab", b"cdef"]),
     lambda: iter([b"abc", b"d"]), lambda: OneBlock(b"abcdef")],
)  # fmt: skip
def test_body_longer_than_its_content_length_is_cut_and_logged(result: Any) -> None:
    log = Records()
    exchange = serve(returning(result, length(3)), log=log)
    assert exchange.finished
    assert exchange.sent == b"abc"
    assert log.text.startswith(
        "ERROR PEN-3030 GET / (request r1): the application gave more than its"
    )


def test_application_that_exceeds_its_content_length_is_not_asked_for_more() -> None:
    asked: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number in range(9):
            asked.append(number)
            yield b"ab"

    serve(returning(blocks, length(3)))
    assert asked == [0, 1]


def test_body_for_a_content_length_of_0_is_dropped() -> None:
    log = Records()
    exchange = serve(returning(lambda: iter([b"x"]), length(0)), log=log)
    assert exchange.finished
    assert exchange.sent == b""
    assert "more than its Content-Length" in log.text


def test_write_and_iterable_together_are_cut_at_the_content_length() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT, length(3)])(b"ab")
        return [b"cd"]

    assert serve(application).sent == b"abc"


def test_empty_block_after_the_end_is_not_logged() -> None:
    log = Records()
    assert serve(returning(lambda: iter([b"abc", b""]), length(3)), log=log).finished
    assert log.lines == []


@pytest.mark.parametrize("result", [[b"ab"], lambda: iter([b"ab"]), lambda: iter([b"a", b"b"])])
def test_body_shorter_than_its_content_length_aborts_the_response(result: Any) -> None:
    log = Records()
    exchange = serve(returning(result, length(3)), log=log)
    assert exchange.aborted
    assert (exchange.content_length, exchange.sent) == (3, b"ab")
    assert "ended after 2 of the 3 bytes" in log.text
    assert "Traceback" not in log.text


@pytest.mark.parametrize("result", [[], lambda: iter([])])
def test_empty_body_for_a_content_length_is_a_500(result: Any) -> None:
    exchange = serve(returning(result, length(3)))
    assert exchange.status == "500 Internal Server Error"


# Responses that have no body


@pytest.mark.parametrize("result", [[b"hello"], [], lambda: iter([b"he", b"llo"])])
@pytest.mark.parametrize(("headers", "expected"), [([], None), ([length(5)], 5)])
def test_rfc9110_9_3_2_head_keeps_the_content_length_and_does_not_invent_one(
    result: Any, headers: list[tuple[str, str]], expected: int | None
) -> None:
    log = Records()
    exchange = serve(returning(result, *headers), make_request("HEAD"), log=log)
    assert exchange.events == ["respond", "finish"]
    assert exchange.content_length == expected
    assert log.lines == []


@pytest.mark.parametrize(
    ("status", "headers", "field"),
    [
        ("204 No Content", [], ""),
        ("204 No Content", [length(5)], ""),
        ("205 Reset Content", [], "Content-Length: 0\r\n"),
        ("205 Reset Content", [length(5)], "Content-Length: 0\r\n"),
        ("304 Not Modified", [], ""),
        ("304 Not Modified", [length(5)], "Content-Length: 5\r\n"),
    ],
)
@pytest.mark.parametrize("result", [[b"hello"], [], lambda: iter([b"hello"]), "write"])
def test_rfc9110_8_6_body_for_a_status_without_one_is_dropped_and_logged_once(
    status: str, headers: list[tuple[str, str]], field: str, result: Any
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(status, headers)
        write(b"hel")
        write(b"lo")
        return []

    log = Records()
    if result != "write":
        application = returning(result, *headers, status=status)  # type: ignore[assignment]
    exchange = serve(application, log=log)
    assert exchange.events == ["respond", "finish"]
    code, given = int(status[:3]), exchange.content_length
    assert choose_framing(False, "HTTP/1.1", code, given) == (Framing.NONE, field)
    assert len(log.lines) == (0 if result == [] else 1)


def test_head_stops_the_iteration_early_and_closes() -> None:
    log: list[str] = []

    def blocks() -> Iterator[bytes]:
        try:
            for _ in range(1000):
                log.append("next")
                yield b"x"
        finally:
            log.append("closed")

    serve(returning(blocks), make_request("HEAD"))
    assert log == ["next", "closed"]


# Requests that the application does not see


def test_path_outside_the_mount_prefix_is_a_404_of_the_server() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise AssertionError("was called")

    environ = make_environ(make_request(target="/apple"), base=make_base(script_name="/app"))
    exchange = serve(application, exchange=FakeExchange(environ))
    assert exchange.status == "404 Not Found"
    assert (exchange.content_length, exchange.sent) == (10, b"Not Found\n")
