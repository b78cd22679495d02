"""What an application says too late, or in an odd order, is answered alike on every transport."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from support.serving import TEXT, Environ, connect

if TYPE_CHECKING:
    from wsgiref.types import StartResponse


def answers(transport: str, application: Any, requests: int = 1, **settings: Any) -> list[bytes]:
    """Return the bodies of the answers to a number of requests, in a row."""
    running = penstock.running(application, transport=transport, **settings)
    with running as server, connect(server) as client:
        return [client.request("GET", f"/{number}").body for number in range(requests)]


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


LATE: dict[str, tuple[Callable[[Any, Any, Any], object], str]] = {
    "start_response": (
        lambda start, write, hints: start("200 OK", []),
        "RuntimeError: start_response was called a second time without exc_info",
    ),
    "start_response with exc_info": (
        lambda start, write, hints: start("200 OK", [], (KeyError, KeyError("late"), None)),
        "KeyError: 'late'",
    ),
    "write": (
        lambda start, write, hints: write(b"late"),
        "RuntimeError: write() was called outside of a response",
    ),
    "early_hints": (lambda start, write, hints: hints([("Link", "</a>")]), "done"),
    "early_hints that are none": (
        lambda start, write, hints: hints([("Link", "a\nb")]),
        "ValueError: the value of the header Link holds a control character or one beyond latin-1",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_pep3333_what_is_called_after_the_response_changes_nothing(
    transport: str, name: str
) -> None:
    late, expected = LATE[name]
    kept: list[Any] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        told = outcome(lambda: late(*kept)) if kept else "first"
        write = start_response("200 OK", TEXT)
        if not kept:
            kept.extend([start_response, write, environ["wsgi.early_hints"]])
        return [told.encode()]

    # With one thread: a second one may come while the first has not left the response yet.
    assert answers(transport, application, 3, threads=1) == [b"first", *[expected.encode()] * 2]


def test_pep3333_a_second_start_response_with_exc_info_replaces_the_head(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "999")])
        exc_info: Any = (KeyError, KeyError(), None)
        start_response("500 Oops", TEXT, exc_info)
        return [b"replaced"]

    with penstock.running(application, transport=transport) as server, connect(server) as client:
        response = client.request("GET", "/")
    assert (response.status, response.header("X-First")) == (500, None)
    assert (response.header("Content-Length"), response.body) == ("8", b"replaced")


def test_pep3333_write_goes_before_the_one_block_that_is_returned(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [*TEXT, ("Content-Length", "10")])
        write(b"first")
        return [b"later"]

    assert answers(transport, application, 2) == [b"firstlater"] * 2


def test_pep3333_headers_that_the_application_changes_afterwards_stay_as_they_were(
    transport: str,
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Any:
        headers = [("X-A", "1")]
        start_response("200 OK", headers)
        headers.append(("X-B", "2\r\nX-C: 3"))
        return [b"one block"] if environ["PATH_INFO"] == "/one" else iter([b"a", b"b"])

    with penstock.running(application, transport=transport) as server, connect(server) as client:
        for target in ("/one", "/many"):
            response = client.request("GET", target)
            assert (response.all("X-A"), response.all("X-B")) == (["1"], [])


def test_an_environ_is_freed_with_its_request_whoever_keeps_start_response(transport: str) -> None:
    class Mark:
        pass

    marks: list[weakref.ref[Mark]] = []
    kept: list[StartResponse] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        mark = environ["test.mark"] = Mark()
        marks.append(weakref.ref(mark))
        kept.append(start_response)
        start_response("200 OK", TEXT)
        return [b""]

    gc.disable()
    try:
        answers(transport, application, 3)
        assert [mark() for mark in marks] == [None] * 3
    finally:
        gc.enable()
