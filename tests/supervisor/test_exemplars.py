"""Which requests are exemplars of the histogram of durations."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.supervisor.exemplars import Exemplars
from penstock.telemetry.histograms import BOUNDS, METHODS, PROTOCOLS, Exemplar, series_number

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GET = series_number("GET", "2", "HTTP/1.1")


def request(duration: float, **known: Any) -> dict[str, Any]:
    given = {"method": "GET", "protocol": "HTTP/1.1", "status": 200, "id": "1-2", "trace_id": ""}
    return given | {"duration": duration, "at": 1.7e9} | known


def test_each_bucket_has_the_last_request_that_is_in_it() -> None:
    exemplars = Exemplars()
    for number, duration in enumerate((0.03, 0.05, 0.051, 11.0)):
        exemplars.add(request(duration, id=f"1-{number}", at=1.7e9 + number))
    assert exemplars.by_series() == {
        GET: {
            3: Exemplar({"request_id": "1-1"}, 0.05, 1.7e9 + 1),  # a bound is in its bucket
            4: Exemplar({"request_id": "1-2"}, 0.051, 1.7e9 + 2),
            len(BOUNDS): Exemplar({"request_id": "1-3"}, 11.0, 1.7e9 + 3),
        }
    }


def test_the_trace_names_a_request_that_has_one() -> None:
    exemplars = Exemplars()
    exemplars.add(request(0.03, trace_id=TRACE))
    assert exemplars.by_series()[GET][3].labels == {"trace_id": TRACE}


@pytest.mark.parametrize(
    ("known", "series"),
    [
        ({"method": "POST"}, series_number("POST", "2", "HTTP/1.1")),
        ({"method": "BREW"}, series_number("other", "2", "HTTP/1.1")),
        ({"status": 503}, series_number("GET", "5", "HTTP/1.1")),
        ({"status": 0}, series_number("GET", "4", "HTTP/1.1")),
        ({"protocol": "HTTP/1.0"}, series_number("GET", "2", "HTTP/1.0")),
    ],
)
def test_it_is_of_the_series_that_has_counted_it(known: dict[str, Any], series: int) -> None:
    exemplars = Exemplars()
    exemplars.add(request(0.03, **known))
    assert [*exemplars.by_series()] == [series]


@pytest.mark.parametrize(
    "known", [{"duration": 0}, {"id": "a\nb"}, {"id": "\ud800"}, {"trace_id": "\x7f"}]
)
def test_one_that_is_not_counted_yet_or_has_no_printable_name_is_none(
    known: dict[str, Any],
) -> None:
    exemplars = Exemplars()
    exemplars.add(request(0.03) | known)
    assert not exemplars.by_series()


def test_there_are_no_more_of_them_than_buckets() -> None:
    exemplars = Exemplars()
    for number in range(10_000):
        method, protocol = METHODS[number % 8], PROTOCOLS[number % 3]
        known = {"method": method, "protocol": protocol, "status": number}
        exemplars.add(request(0.001 * (number + 1), **known))
    found = exemplars.by_series()
    assert len(found) <= 120
    assert all(len(buckets) <= len(BOUNDS) + 1 for buckets in found.values())
