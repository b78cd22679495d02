"""The socket of a WebSocket handshake in the environ, and what the gateway makes of the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.errors import ResponseRelayed
from penstock.wsgi.gateway import Gateway
from penstock.wsgi.headers import check_headers
from penstock.wsgi.websocket import ApplicationSocket, is_handshake
from support.fake_exchange import FakeExchange, Records, make_environ, make_request
from support.websockets import FIELDS


def fields(**changes: str | None) -> dict[str, str]:
    """Return the fields of a handshake; ``changes`` have ``_`` in the place of ``-``."""
    found: dict[str, str | None] = dict(FIELDS)
    found |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name.lower(): value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"Upgrade": "h2c,\t WebSocket"}, True),
        ({"Connection": "keep-alive, upgrade"}, True),
        ({"Upgrade": "websocket2"}, False),
        ({"Upgrade": None}, False),
        ({"Connection": "close"}, False),
        ({"Sec_WebSocket_Version": "14"}, False),
        ({"Sec_WebSocket_Key": None}, False),
        ({"Sec_WebSocket_Key": "dGhl"}, False),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="[:-1]}, False),
        ({"Sec_WebSocket_Key": "\xe4" * 24}, False),
    ],
)
def test_rfc6455_4_2_1_what_a_handshake_has(changes: dict[str, Any], valid: bool) -> None:
    request = make_request(fields=fields(**changes))
    assert is_handshake(make_environ(request)) is valid
    assert not is_handshake(make_environ(make_request("POST", fields=fields(**changes))))
    old = make_request(fields=fields(**changes), version="HTTP/1.0")
    assert not is_handshake(make_environ(old))


class RealSocket:
    """What the application gets: it notes what is called."""

    timeout = 1.5

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def recv(self, *arguments: Any, **named: Any) -> bytes:
        self.calls.append((arguments, named))
        return b"data"


def test_the_first_call_opens_it_and_nothing_else_does() -> None:
    opened: list[RealSocket] = []

    def open_socket() -> RealSocket:
        opened.append(RealSocket())
        return opened[-1]

    sock = ApplicationSocket(open_socket, ("192.0.2.1", 4000))
    assert sock.getpeername() == ("192.0.2.1", 4000)
    sock.setsockopt(6, 1, 1)
    repr(sock)
    assert not hasattr(sock, "_private")
    recv = sock.recv
    assert recv.__name__ == "recv"
    assert not opened
    assert recv(10, flags=2) == b"data"
    assert opened[0].calls == [((10,), {"flags": 2})]
    assert sock.timeout == 1.5
    assert len(opened) == 2


class FakeWebSocket:
    """`penstock.transport.WebSocket`; a test sets what the application has done."""

    def __init__(self, *, begun: bool = False, refused: bool = False) -> None:
        self.begun = begun
        self.refused = refused
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1


def outcome(application: Any, websocket: FakeWebSocket) -> tuple[FakeExchange, Records]:
    """Return an exchange that the application was called with, and what was logged."""
    exchange, log = FakeExchange(), Records()
    exchange.websocket = websocket
    noted: list[BaseException] = []
    gateway = Gateway(
        application, logger=log.logger, note_failure=lambda _, error: noted.append(error)
    )
    gateway.handle(exchange)
    assert len(noted) == len(log.lines)
    return exchange, log


def raised_from(error: BaseException) -> BaseException:
    made = RuntimeError("of a framework")
    made.__cause__ = error
    return made


def chain(length: int, last: BaseException) -> BaseException:
    for _ in range(length):
        last = raised_from(last)
    return last


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (StopIteration(), False),
        (ConnectionError(), False),
        (BrokenPipeError(), False),
        (ConnectionResetError(), False),
        (ResponseRelayed(), False),
        (raised_from(ConnectionError()), False),
        (ConnectionRefusedError("the database"), True),
        (ValueError("a defect"), True),
        (chain(20, StopIteration()), True),
    ],
)
def test_after_a_websocket_its_end_is_no_error_and_another_one_is_logged(
    error: BaseException, logged: bool
) -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        raise error

    websocket = FakeWebSocket(begun=True)
    exchange, log = outcome(application, websocket)
    assert websocket.finished == 1
    assert not exchange.events
    assert len(log.lines) == int(logged)
    refused = FakeWebSocket(begun=True, refused=True)
    _, log = outcome(application, refused)
    assert refused.finished == 1
    assert not log.lines


def test_an_application_that_returns_without_an_answer_gets_501_only_in_a_handshake() -> None:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return []

    def stopping(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        raise StopIteration

    def refused(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            start_response("no status", [])
        except ValueError:
            pass
        return []

    for each in (application, stopping):
        exchange, log = outcome(each, FakeWebSocket())
        assert exchange.status == "501 Not Implemented"
        assert not log.lines
    exchange, log = outcome(refused, FakeWebSocket())
    assert exchange.status.startswith("500")
    assert len(log.lines) == 1


def test_rfc9110_15_5_22_a_426_keeps_its_upgrade_field() -> None:
    given = [("uPgrade", "websocket"), ("TE", "x")]
    kept = [("uPgrade", "websocket"), ("Connection", "upgrade")]
    assert check_headers(given, keeps_upgrade=True) == (kept, None, False)
    assert check_headers(given) == ([], None, False)
