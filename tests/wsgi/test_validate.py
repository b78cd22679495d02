"""The applications of the tests obey PEP 3333, and so do the arguments of their calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication
from wsgiref.validate import validator

import pytest

from support.applications import ALL
from support.fake_exchange import FakeExchange, Records, make_environ, make_request, serve


def make_exchange(method: str, streamed: bool) -> FakeExchange:
    request = make_request(method, "/x?y", content_length=4)
    environ = make_environ(request)
    if streamed:
        return FakeExchange(environ, chunks=[b"a\n", b"b\n"])
    return FakeExchange(environ, body=b"a\nb\n")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("application", ALL)
def test_pep3333_validator_finds_nothing_and_changes_nothing(
    application: WSGIApplication, method: str, streamed: bool
) -> None:
    log = Records()
    plain = serve(application, exchange=make_exchange(method, streamed), log=log)
    checked = serve(validator(application), exchange=make_exchange(method, streamed), log=log)
    assert log.lines == []
    assert (checked.status, checked.headers) == (plain.status, plain.headers)
    assert checked.sent == plain.sent
    assert plain.finished
    assert checked.finished


def test_pep3333_application_is_called_by_position_with_a_plain_dict() -> None:
    def application(*args: Any, **kwargs: Any) -> Iterable[bytes]:
        environ, start_response = args
        assert type(environ) is dict
        assert not kwargs
        start: StartResponse = start_response
        start("200 OK", [])
        return [b"called"]

    assert serve(application).sent == b"called"
