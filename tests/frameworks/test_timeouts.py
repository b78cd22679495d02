"""A view that hangs gets 504, whatever its framework does about exceptions."""

from __future__ import annotations

import importlib

import pytest

import penstock
from support.serving import connect


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_a_view_that_hangs_is_ended_with_504_and_the_next_is_served(
    framework: str, transport: str
) -> None:
    app = importlib.import_module(f"frameworks.{framework}_site").app
    with (
        penstock.running(app, transport=transport, threads=2, timeout=0.3) as server,
        connect(server) as client,
    ):
        for _ in range(3):
            response = client.request("GET", "/hang")
            assert (response.status, response.body) == (504, b"Gateway Timeout\n")
        assert client.request("GET", "/page").status == 200
