"""``start_response``, ``write`` and ``wsgi.early_hints``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from wsgiref.types import StartResponse

import pytest

from support import applications
from support.applications import TEXT, length
from support.fake_exchange import FakeExchange, Records, make_environ, make_request, serve

Environ = dict[str, Any]


def test_pep3333_start_response_takes_its_arguments_by_position_only() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        with pytest.raises(TypeError):
            start_response(status="200 OK", response_headers=[])
        start_response("200 OK", [TEXT], None)
        return [b"x"]

    assert serve(application).status == "200 OK"


def test_pep3333_start_response_sends_nothing() -> None:
    exchange = FakeExchange()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])
        assert exchange.events == []
        return [b"x"]

    serve(application, exchange=exchange)
    assert exchange.finished


def test_pep3333_start_response_may_come_with_the_first_next() -> None:
    exchange = serve(applications.generator)
    assert (exchange.status, exchange.sent) == ("200 OK", b"hello")


@pytest.mark.parametrize("result", [[], [b""], [b"x"], [b"x", b"y"], iter([b"x"]), iter([])])
def test_pep3333_start_response_that_is_never_called_is_a_500(result: Any) -> None:
    log = Records()
    exchange = serve(lambda environ, start_response: result, log=log)
    assert exchange.status == "500 Internal Server Error"
    assert "start_response was not called" in log.text


def test_pep3333_second_call_without_exc_info_is_an_error() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])
        with pytest.raises(RuntimeError, match="second time"):
            start_response("404 Not Found", [])
        return [b"x"]

    assert serve(application).status == "200 OK"


def test_pep3333_second_call_is_an_error_even_if_the_first_one_raised() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(ValueError, match="no status"):
            start_response("nonsense", [])
        with pytest.raises(RuntimeError, match="second time"):
            start_response("200 OK", [])
        return [b"x"]

    assert serve(application).status == "500 Internal Server Error"


def test_pep3333_exc_info_replaces_status_and_all_headers_before_they_are_sent() -> None:
    exchange = serve(applications.replaces_its_head)
    assert exchange.status == "503 Busy"
    assert exchange.headers == [TEXT, ("X-B", "2")]
    assert (exchange.content_length, exchange.sent) == (5, b"sorry")


def test_pep3333_exc_info_replaces_connection_close_too() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("204 No Content", [("Connection", "close")])
        start_response("200 OK", [TEXT], (None, None, None))
        return [b"x"]

    exchange = serve(application)
    assert (exchange.sent, exchange.closes) == (b"x", False)


def test_pep3333_exc_info_is_raised_again_once_the_head_is_sent() -> None:
    raised: list[BaseException] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"sent"
        try:
            raise KeyError("too late")
        except KeyError as error:
            with pytest.raises(KeyError) as caught:
                start_response("500 Oops", [], sys.exc_info())
            raised.extend([caught.value, error])
            raise

    log = Records()
    exchange = serve(application, log=log)
    assert raised[0] is raised[1]
    assert exchange.aborted
    assert exchange.sent == b"sent"
    assert "KeyError: 'too late'" in log.text


def test_exc_info_without_an_exception_is_an_error_once_the_head_is_sent() -> None:
    def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"sent"
        with pytest.raises(RuntimeError, match="head has left"):
            start_response("500 Oops", [], (None, None, None))

    assert serve(application).sent == b"sent"


@pytest.mark.parametrize("exc_info", [ValueError("x"), (), (ValueError,), [None] * 3, True])
def test_pep3333_exc_info_that_is_not_a_triple_is_an_error(exc_info: Any) -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])
        with pytest.raises(TypeError, match="exc_info"):
            start_response("500 Oops", [], exc_info)
        return [b"x"]

    assert serve(application).status == "200 OK"


def test_replacement_that_is_refused_leaves_no_head() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        with pytest.raises(ValueError, match="name"):
            start_response("500 Oops", [("a b", "")], (None, None, None))
        with pytest.raises(RuntimeError, match="outside"):
            write(b"x")
        return [b"x"]

    assert serve(application).status == "500 Internal Server Error"


def test_cve_2026_42545_header_that_is_invalid_is_an_error_in_the_call_and_a_plain_500() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT, ("Set-Cookie", "secret\r\nX: y")])
        return [b"never"]

    log = Records()
    exchange = serve(application, log=log)
    assert exchange.status == "500 Internal Server Error"
    assert exchange.sent == b"Internal Server Error\n"
    assert "secret" not in log.lines[0]
    assert "ValueError: the value of the header Set-Cookie" in log.text


def test_headers_that_change_after_the_call_are_not_sent() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        headers = [TEXT]
        start_response("200 OK", headers)
        headers.append(("Evil", "\r\n"))
        return [b"x"]

    assert serve(application).headers == [TEXT]


def test_date_and_server_of_the_application_are_kept() -> None:
    given = [TEXT, ("Date", "x"), ("Server", "y")]

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", given)
        return [b"x"]

    assert serve(application).headers == given


def test_pep3333_connection_close_closes_the_connection_and_is_logged_once() -> None:
    from penstock.wsgi.gateway import Gateway

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT, ("Connection", "close")])
        return [b"x"]

    log = Records()
    gateway = Gateway(application, logger=log.logger)
    for _ in range(2):
        exchange = FakeExchange()
        gateway.handle(exchange)
        assert exchange.closes
        assert exchange.headers == [TEXT]
    assert len(log.lines) == 1
    assert "Connection: close" in log.text


def test_what_another_server_may_have_sent_is_put_right_and_warned_of_once() -> None:
    from penstock.wsgi.gateway import Gateway

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("299", [TEXT, ("Trailer", "X-Sum")])
        return [b"x"]

    log = Records()
    gateway = Gateway(application, logger=log.logger)
    for _ in range(2):
        exchange = FakeExchange()
        gateway.handle(exchange)
        assert exchange.status == "299 "  # RFC 9112, section 4: the space is there without a reason
        assert exchange.headers == [TEXT]
    assert [line.split()[0] for line in log.lines] == ["PEN-3140", "PEN-3130"]


# write()


def test_pep3333_write_sends_at_once_and_before_the_iterable() -> None:
    exchange = FakeExchange()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        write(b"")
        assert exchange.events == []
        write(b"one ")
        assert exchange.sent == b"one "
        write(b"two ")
        assert exchange.sent == b"one two "
        return [b"three"]

    serve(application, exchange=exchange)
    assert exchange.sent == b"one two three"
    assert exchange.content_length is None
    assert exchange.events == ["respond", "send", "send", "send", "finish"]


def test_pep3333_write_alone_may_give_the_whole_content_length() -> None:
    exchange = serve(applications.writes_with_length)
    assert (exchange.content_length, exchange.sent) == (5, b"hello")


@pytest.mark.parametrize("data", ["text", None, 1, bytearray(b"x"), memoryview(b"x")])
def test_pep3333_write_takes_bytes_only(data: Any) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        with pytest.raises(TypeError, match="bytes"):
            write(data)
        return [b"x"]

    assert serve(application).sent == b"x"


def test_pep3333_write_past_the_content_length_is_an_error() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [TEXT, length(3)])
        write(b"ab")
        with pytest.raises(RuntimeError, match="Content-Length"):
            write(b"cd")
        return [b"c"]

    assert serve(application).sent == b"abc"


def test_write_after_the_end_is_an_error() -> None:
    kept: list[Any] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [TEXT, length(1)])
        kept.append((write, start_response))
        yield b"x"
        with pytest.raises(RuntimeError, match="outside"):
            write(b"y")

    assert serve(application).sent == b"x"
    write, start_response = kept[0]
    with pytest.raises(RuntimeError, match="outside"):
        write(b"y")
    with pytest.raises(KeyError):
        start_response("500 Oops", [], (KeyError, KeyError("x"), None))


def test_write_to_a_response_without_a_body_is_dropped() -> None:
    log = Records()
    exchange = serve(applications.writes, make_request("HEAD"), log=log)
    assert exchange.events == ["respond", "finish"]
    assert (exchange.sent, exchange.content_length, log.lines) == (b"", None, [])


# wsgi.early_hints


def test_rfc8297_early_hints_are_sent_before_the_response() -> None:
    links = [("Link", "</style.css>; rel=preload")]

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        environ["wsgi.early_hints"]([*links, ("Connection", "close"), length(3)])
        start_response("200 OK", [TEXT])
        environ["wsgi.early_hints"](links)
        yield b"x"
        environ["wsgi.early_hints"](links)  # too late to help

    exchange = serve(application)
    assert exchange.informational == [("103 Early Hints", links)] * 2
    assert exchange.sent == b"x"
    exchange.environ["wsgi.early_hints"](links)
    assert len(exchange.informational) == 2


def test_early_hints_are_checked_like_any_header() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(ValueError, match="Link"):
            environ["wsgi.early_hints"]([("Link", "a\r\nb")])
        return applications.hello(environ, start_response)

    assert serve(application).informational == []


def test_early_hints_after_the_last_byte_do_nothing() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(1)])
        yield b"x"
        environ["wsgi.early_hints"]([])

    assert serve(application).informational == []


def test_head_is_recognised_by_the_method_that_the_client_sent() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["REQUEST_METHOD"] = "GET"  # as middleware does for what it wraps
        return applications.hello(environ, start_response)

    exchange = serve(application, exchange=FakeExchange(make_environ(make_request("HEAD"))))
    assert (exchange.sent, exchange.content_length) == (b"", None)
