from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

import penstock
import soak
from applications_soak import app
from harness import soaking

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def soaked(application: WSGIApplication, requests: int) -> soaking.Tally:
    total = soaking.Tally()
    with penstock.running(application, threads=2) as server:
        soaking.soak(server.port, requests, math.inf, 1, total.add)
    return total


def readings(*of_each: tuple[int, int]) -> list[soak.Reading]:
    return [soak.Reading(requests, resident, 10) for requests, resident in of_each]


def test_every_kind_of_request_is_answered_as_it_has_to_be() -> None:
    total = soaked(app, 600)
    assert not total.failures, total.examples
    assert total.requests >= 600
    assert total.bad >= len(soaking.BAD)
    assert total.aborted >= len(soaking.ABORTED)


def test_an_answer_that_belongs_to_another_request_is_found() -> None:
    def mistaken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["QUERY_STRING"].endswith("7"):
            environ["QUERY_STRING"] = "00000000"
        return app(environ, start_response)

    total = soaked(mistaken, 40)
    assert total.failures["pipelined"]
    assert any("was answered" in example for example in total.examples)


def test_a_response_that_is_cut_short_is_found() -> None:
    def brief(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for number, block in enumerate(app(environ, start_response)):
            if number == 1:
                raise RuntimeError("on purpose")
            yield block

    assert soaked(brief, 40).failures["pieces"]


def test_a_server_that_is_gone_does_not_hold_the_soak_up() -> None:
    with penstock.running(app) as server:
        port = server.port
    total = soaking.Tally()
    soaking.soak(port, 10**9, math.inf, 1, total.add)
    assert sum(total.failures.values()) >= soaking.MOST_FAILURES


@pytest.mark.parametrize(
    ("resident", "grown"),
    [
        ([10, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50], 0),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110], 70),
        ([50, 50, 50, 50, 50, 90, 50, 50, 50, 50, 50], 0),
    ],
)
def test_growth_is_what_comes_after_the_warm_up(resident: list[int], grown: int) -> None:
    found = readings(*((number * 10**6, kib) for number, kib in enumerate(resident)))
    assert soak.growth_kib(found) == pytest.approx(grown, abs=15)


def test_what_comes_in_the_warm_up_is_no_growth_in_a_short_run() -> None:
    found = readings(*((number * 10**5, 10 * min(number, 5)) for number in range(11)))
    assert soak.growth_kib(found) == 0


def test_too_few_requests_tell_nothing_of_growth() -> None:
    assert soak.growth_kib(readings((0, 10))) is None
    assert soak.growth_kib(readings(*((number * 10**4, number) for number in range(11)))) is None
