from __future__ import annotations

import os

import pytest

import penstock
from applications import app
from harness import environment, processes
from harness.idle import idle_connections

pytestmark = pytest.mark.skipif(not processes.PROC.joinpath("stat").exists(), reason="no /proc")


def test_so_many_connections_are_held() -> None:
    with penstock.running(app) as server:
        with idle_connections(os.getpid(), server.port, 20):
            assert server.snapshot()["connections"] == 20


def test_a_server_that_closes_idle_connections_is_found_out() -> None:
    with penstock.running(app) as server:
        with pytest.raises(environment.EnvironmentProblem, match="closed 3 of 3"):
            with idle_connections(os.getpid(), server.port, 3):
                server.worker.transport.close()


def test_more_than_this_process_may_open_is_refused() -> None:
    with pytest.raises(environment.EnvironmentProblem, match="ulimit"):
        with idle_connections(os.getpid(), 1, environment.descriptors()):
            raise AssertionError


def test_a_server_that_does_not_answer_is_found_out() -> None:
    with penstock.running(app) as server:
        port = server.port
    with pytest.raises(environment.EnvironmentProblem, match="connection 1"):
        with idle_connections(os.getpid(), port, 3):
            raise AssertionError
