"""The client of a view that hangs gets 504, in every framework, and other requests are served."""

from __future__ import annotations

import importlib

import pytest

import penstock
from frameworks.contents import released
from support.serving import connect

ANSWER = b"The application did not answer in time.\n"


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_the_client_of_a_view_that_hangs_gets_504_and_the_next_request_is_served(
    framework: str, transport: str
) -> None:
    released.clear()
    app = importlib.import_module(f"frameworks.{framework}_site").app
    settings = {"transport": transport, "threads": 4, "timeout_for": ["/hang=0.3s"]}
    with penstock.running(app, **settings) as server:
        try:
            for _ in range(3):
                with connect(server) as client:
                    response = client.request("GET", "/hang")
                    assert (response.status, response.body) == (504, ANSWER)
            with connect(server) as client:
                assert client.request("GET", "/page").status == 200
        finally:
            released.set()
