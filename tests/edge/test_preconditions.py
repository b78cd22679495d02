"""Conditional requests, ranges and content codings as functions of field values (RFC 9110)."""

from __future__ import annotations

import time

import pytest

from penstock.edge.media_types import is_hashed, media_type
from penstock.edge.preconditions import (
    MOST_RANGES,
    choose_coding,
    evaluate,
    format_date,
    if_range_holds,
    matches_strongly,
    matches_weakly,
    parse_date,
    requested_ranges,
)

TAG = '"1a-2b"'
THEN = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"


def test_rfc9110_5_6_7_a_date_has_one_of_three_forms() -> None:
    assert format_date(THEN) == DATE
    two_digits = "Sunday, 06-Nov-94 08:49:37 GMT"
    for text in (DATE, two_digits, "Sun Nov  6 08:49:37 1994"):
        assert parse_date(text) == THEN
    soon = time.gmtime().tm_year + 1
    found = parse_date(f"Sunday, 06-Nov-{soon % 100:02} 08:49:37 GMT")
    assert found is not None
    assert time.gmtime(found).tm_year == soon, "a year is of the past if it is 50 years ahead"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
    ],
)
def test_rfc9110_5_6_7_what_has_none_of_them_is_no_date(text: str) -> None:
    assert parse_date(text) is None


def test_rfc9110_8_8_3_2_tags_are_compared_weakly_or_strongly() -> None:
    lists = {
        TAG: (True, True),
        f"W/{TAG}": (True, False),
        f'"x", {TAG}': (True, True),
        f'"x",,\t{TAG} , "y"': (True, True),
        f'"x" , W/{TAG}': (True, False),
        " * ": (True, True),
        '"1a-2c"': (False, False),
        "1a-2b": (False, False),
        f"w/{TAG}": (False, False),
        f'"{TAG}"': (False, False),
        f'"a\x7f", {TAG}': (False, False),
        "": (False, False),
    }
    found = {value: (matches_weakly(value, TAG), matches_strongly(value, TAG)) for value in lists}
    assert found == lists
    assert matches_weakly(TAG, f"W/{TAG}")
    assert not matches_strongly(f"W/{TAG}", f"W/{TAG}")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"IF_NONE_MATCH": TAG}, 304),
        ({"IF_NONE_MATCH": '"no"'}, 200),
        ({"IF_NONE_MATCH": '"no"', "IF_MODIFIED_SINCE": DATE}, 200),  # 13.1.3: the tag counts
        ({"IF_MODIFIED_SINCE": DATE}, 304),
        ({"IF_MODIFIED_SINCE": LATER}, 304),
        ({"IF_MODIFIED_SINCE": EARLIER}, 200),
        ({"IF_MODIFIED_SINCE": "never"}, 200),
        ({"IF_MATCH": TAG}, 200),
        ({"IF_MATCH": "*"}, 200),
        ({"IF_MATCH": f"W/{TAG}"}, 412),
        ({"IF_MATCH": '"no"'}, 412),
        ({"IF_MATCH": TAG, "IF_UNMODIFIED_SINCE": EARLIER}, 200),  # 13.1.4: the tag counts
        ({"IF_UNMODIFIED_SINCE": EARLIER}, 412),
        ({"IF_UNMODIFIED_SINCE": DATE}, 200),
        ({"IF_UNMODIFIED_SINCE": "never"}, 200),
        ({"IF_MATCH": '"no"', "IF_NONE_MATCH": TAG}, 412),  # 13.2.2: in this order
        ({"IF_MATCH": TAG, "IF_NONE_MATCH": TAG}, 304),
    ],
)
def test_rfc9110_13_2_2_preconditions_in_their_order(fields: dict[str, str], status: int) -> None:
    environ = {f"HTTP_{name}": value for name, value in fields.items()}
    assert evaluate(environ, TAG, THEN) == status


def test_rfc9110_13_1_without_a_validator_only_a_star_matches() -> None:
    found = {
        (name, value): evaluate({f"HTTP_{name}": value}, "", None)
        for name in ("IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "IF_UNMODIFIED_SINCE")
        for value in ("*", TAG, '""', DATE)
    }
    matched = {("IF_NONE_MATCH", "*"): 304}
    failed = {("IF_MATCH", value): 412 for value in (TAG, '""', DATE)}
    assert found == dict.fromkeys(found, 200) | matched | failed


def test_rfc9110_13_1_5_if_range_takes_a_strong_validator_alone() -> None:
    later = THEN + 10.0
    assert if_range_holds(None, TAG, THEN, later)
    assert if_range_holds(TAG, TAG, THEN, later)
    assert if_range_holds(DATE, TAG, THEN, later)
    for value in (f"W/{TAG}", '"no"', "*", LATER, EARLIER, "never", f"{TAG}, {TAG}"):
        assert not if_range_holds(value, TAG, THEN, later), value
    assert not if_range_holds(DATE, TAG, THEN, THEN + 0.5), "it may change again in this second"
    assert not if_range_holds(TAG, "", None, later)


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-499", [(0, 100)]),
        ("bytes=99-", [(99, 1)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-500", [(0, 100)]),
        ("BYTES = 0-1".replace(" ", ""), [(0, 2)]),
        ("bytes= 0-1 ,\t5-6", [(0, 2), (5, 2)]),
        ("bytes=5-6,,0-1,", [(5, 2), (0, 2)]),  # in the order that was asked for
        ("bytes=0-5,5-9", [(0, 10)]),  # they overlap
        ("bytes=50-,-60", [(40, 60)]),
        ("bytes=0-4,5-9", [(0, 5), (5, 5)]),  # they do not
        ("bytes=100-", []),
        ("bytes=-0", []),
        ("bytes=200-300,-0", []),
        ("bytes=0-1,200-", [(0, 2)]),
        ("bytes=" + "9" * 400 + "-", []),
        ("bytes=0-" + "9" * 400, [(0, 100)]),
        ("bytes=" + "0" * 400 + "5-6", [(5, 2)]),
        ("bytes=" + ",".join(["0-1"] * MOST_RANGES), [(0, 2)]),
        ("bytes=" + ",".join(["0-1"] * (MOST_RANGES + 1)), None),
        ("bytes=5-1", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=,", None),
        ("bytes=a-b", None),
        ("bytes=0-1;5-6", None),
        ("bytes=+0-1", None),
        ("bytes=0x1-2", None),
        ("bytes=0 - 1", None),
        ("bytes", None),
        ("0-1", None),
        ("items=0-1", None),
        ("bytes=\u0661-", None),
    ],
)
def test_rfc9110_14_1_2_ranges(value: str, ranges: list[tuple[int, int]] | None) -> None:
    assert requested_ranges(value, 100) == ranges


def test_rfc9110_14_1_2_the_last_bytes_of_an_empty_file_are_all_of_it() -> None:
    assert requested_ranges("bytes=-5", 0) is None
    assert requested_ranges("bytes=0-", 0) == []


@pytest.mark.parametrize(
    ("value", "available", "coding"),
    [
        (None, ["br"], "identity"),
        ("", ["br"], "identity"),
        ("gzip", ["br"], "identity"),
        ("gzip", ["br", "gzip"], "gzip"),
        ("GZip", ["gzip"], "gzip"),
        ("x-gzip", ["gzip"], "gzip"),
        ("gzip, br", ["br", "gzip"], "br"),
        ("gzip;q=1.0, br;q=0.9", ["br", "gzip"], "gzip"),
        ("gzip ; q=0.5\t,br; Q=0.501", ["br", "gzip"], "br"),
        ("gzip;q=0", ["gzip"], "identity"),
        ("gzip;q=0.000", ["gzip"], "identity"),
        ("*", ["br", "gzip"], "br"),
        ("br;q=0, *", ["br", "gzip"], "gzip"),
        ("*;q=0", ["gzip"], None),
        ("identity;q=0", ["gzip"], None),
        ("identity;q=0, gzip", ["gzip"], "gzip"),
        ("identity;q=0, br", ["gzip"], None),
        ("gzip, *;q=0", ["br"], None),
        ("gzip, identity, *;q=0", ["br"], "identity"),
        ("identity, gzip;q=0.5", ["gzip"], "identity"),
        ("identity;q=0.5, gzip;q=0.5", ["gzip"], "gzip"),
        ("gzip;q=0.001", ["gzip"], "gzip"),
        ("gzip;q=2, br;level=4, zstd;q=", ["br", "zstd", "gzip"], "identity"),  # malformed
        ("gzip" + " " * 300, ["gzip"], "gzip"),
        ("identity;q=0", [], None),
    ],
)
def test_rfc9110_12_5_3_the_coding_that_the_client_likes_best(
    value: str | None, available: list[str], coding: str | None
) -> None:
    assert choose_coding(value, available) == coding


def test_rfc9110_8_3_types_are_the_same_on_every_system() -> None:
    expected = {
        "a.css": "text/css; charset=utf-8",
        "a.JS": "text/javascript; charset=utf-8",
        "a.mjs": "text/javascript; charset=utf-8",
        "a.html": "text/html; charset=utf-8",
        "a.svg": "image/svg+xml",
        "a.json": "application/json",
        "a.wasm": "application/wasm",
        "a.woff2": "font/woff2",
        "a.tar.gz": "application/gzip",
        "a.py": "text/x-python; charset=utf-8",  # of the standard library
        "a.zzzz": "application/octet-stream",
        "a": "application/octet-stream",
        "css": "application/octet-stream",
    }
    assert {name: media_type(name) for name in expected} == expected


def test_names_with_a_hash_are_those_of_django_and_webpack() -> None:
    hashed = [
        "app.55e7cbb9ba48.css",  # Django's manifest
        "jquery.min.55e7cbb9ba48.js",
        "main.a1b2c3d4e5f6a7b8c9d0.js",  # webpack, [name].[contenthash].js
        "main.0a1b2c3d.chunk.js",
        "runtime-0a1b2c3d.js",
        "a1b2c3d4e5f6a7b8c9d0.png",  # webpack, [hash][ext]
        "app-" + "0123456789abcdef" * 4 + ".css",  # Sprockets
        "main.a1b2c3d4e5f6a7b8c9d0.js.map",
    ]
    plain = [
        "app.css",
        "jquery-3.7.1.min.js",
        "report.20261129.csv",  # a date
        "20261129.csv",
        "wall.deadbeef.png",  # a word
        "app.55E7CBB9BA48.css",
        "app.55e7cbb.css",
        "app55e7cbb9ba48.css",
        "55e7cbb9ba48",
        "photo-550e8400-e29b-41d4-a716-44665544000a.jpg",  # a UUID
        "index-BwTRfOxC.js",  # Vite's: as good as any word
    ]
    assert [name for name in hashed + plain if is_hashed(name)] == hashed
