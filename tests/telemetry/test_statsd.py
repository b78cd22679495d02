"""What is sent to a statsd server: gunicorn's names, and what has happened since the last time."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.telemetry.histograms import BOUNDS, Histogram
from penstock.telemetry.statsd import (
    COUNTS,
    DATAGRAM_BYTES,
    Statsd,
    Totals,
    connected,
    representatives,
)

NONE = Histogram([0] * 15, 0.0)
NOTHING = Totals({}, NONE, dict.fromkeys(COUNTS, 0), 2, None)
LINE = re.compile(r"[\w.]+:-?[0-9.]+\|(c|g|ms)(\|@[0-9.e-]+)?(\|#[^|]+)?")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


def histogram(seconds: float, **buckets: int) -> Histogram:
    counts = [0] * 15
    for name, number in buckets.items():
        counts[int(name[1:])] = number
    return Histogram(counts, seconds)


def test_requests_statuses_times_and_workers_have_gunicorns_names(server: socket.socket) -> None:
    now = Totals(
        {200: 5, 404: 1},
        histogram(0.012, b0=6),
        dict.fromkeys(COUNTS, 0) | {"log_warnings": 3, "log_exceptions": 1},
        4,
        7,
    )
    statsd = Statsd(connected(address_of(server)))
    statsd.send(NOTHING, now)
    lines = server.recv(65536).decode().split("\n")
    assert lines == [
        "gunicorn.request.status.200:5|c",
        "gunicorn.request.status.404:1|c",
        "gunicorn.requests:6|c",
        "gunicorn.request.duration:2|ms|@0.166666667",
        "gunicorn.log.warning:3|c",
        "gunicorn.log.exception:1|c",
        "gunicorn.workers:4|g",
        "gunicorn.backlog:7|g",
    ]
    statsd.close()


def test_only_what_is_new_is_sent(server: socket.socket) -> None:
    before = NOTHING._replace(statuses={200: 5}, durations=histogram(1.0, b0=5))
    now = NOTHING._replace(statuses={200: 7, 500: 1}, durations=histogram(1.5, b0=7, b9=1))
    statsd = Statsd(connected(address_of(server)), prefix="shop.", tags="env:test,app:shop")
    lines = list(statsd.lines(before, now))
    assert lines[:3] == [
        "shop.gunicorn.request.status.200:2|c|#env:test,app:shop",
        "shop.gunicorn.request.status.500:1|c|#env:test,app:shop",
        "shop.gunicorn.requests:3|c|#env:test,app:shop",
    ]
    assert all(LINE.fullmatch(line) for line in lines)
    assert list(statsd.lines(now, now)) == ["shop.gunicorn.workers:2|g|#env:test,app:shop"]
    statsd.close()


def test_times_stand_for_their_number_and_have_the_sum_where_they_can() -> None:
    now = histogram(0.9 + 0.004, b0=2, b8=1)
    [short, long] = representatives(NONE, now)
    assert long[0] == pytest.approx((0.5 * 0.75) ** 0.5)
    assert long[1] == 1
    assert short == (0.005, 2)  # no more than the bucket's bound, whatever is left of the sum
    [only] = representatives(NONE, histogram(0.004, b0=2))
    assert only[0] == pytest.approx(0.002)
    assert only[1] == 2
    [beyond] = representatives(NONE, histogram(60.0, b14=1))
    assert beyond[0] > BOUNDS[-1]
    assert list(representatives(now, now)) == []


def test_what_does_not_fit_into_one_datagram_goes_into_several(server: socket.socket) -> None:
    now = NOTHING._replace(statuses=dict.fromkeys(range(100, 600), 1))
    statsd = Statsd(connected(address_of(server)))
    statsd.send(NOTHING, now)
    lines: list[str] = []
    while len(lines) < 502:
        datagram = server.recv(65536)
        assert len(datagram) <= DATAGRAM_BYTES
        lines += datagram.decode().split("\n")
    assert all(LINE.fullmatch(line) for line in lines)
    statsd.close()


def test_a_server_that_does_not_listen_keeps_nothing_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = address_of(sock)
    statsd = Statsd(connected(address))
    for _ in range(3):
        statsd.send(NOTHING, NOTHING)
    statsd.close()


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_server_may_have_a_unix_socket(tmp_path: Path, form: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "statsd"))
        sock.settimeout(20)
        statsd = Statsd(connected(form.format(tmp_path / "statsd")))
        statsd.send(NOTHING, NOTHING)
        assert sock.recv(65536) == b"gunicorn.workers:2|g"
        statsd.close()
