"""`penstock.serve` and `penstock.running` as a Python program calls them."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import penstock
from support.applications import hello


def start(application: Any) -> None:
    with penstock.running(application):
        raise AssertionError("it started")


@pytest.mark.parametrize("call", [penstock.serve, start])
@pytest.mark.parametrize("wrong", [None, 5, [hello]])
def test_what_is_no_callable_is_refused_at_once(call: Any, wrong: object) -> None:
    with pytest.raises(TypeError) as error:
        call(wrong)
    assert "an application object is needed, which is a callable: " in str(error.value)
    assert repr(type(wrong).__name__) in str(error.value)


@pytest.mark.parametrize("call", [penstock.serve, start])
def test_the_commands_form_of_an_application_is_told_apart(call: Any) -> None:
    with pytest.raises(TypeError, match="'module:callable' is for the penstock command"):
        call("wsgiapp:app")


def test_serve_outside_of_the_main_thread_says_so_before_anything_is_opened() -> None:
    errors: list[BaseException] = []
    before = os.listdir("/dev/fd")

    def serve() -> None:
        try:
            penstock.serve(hello, bind="127.0.0.1:0")
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(30)
    [error] = errors
    assert "serve() needs the main thread" in str(error)
    assert "running()" in str(error)
    assert os.listdir("/dev/fd") == before
