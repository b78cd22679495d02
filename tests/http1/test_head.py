"""Heads: what is cached between requests, and what an error for a bad head says."""

from __future__ import annotations

import pytest

from corpus.case import get, head
from penstock.http1 import ProtocolError
from penstock.http1.head import (
    MAX_CACHED_LINE,
    FieldLines,
    FieldNames,
    check_host,
    parse_content_length,
    parse_fields,
    parse_request_line,
)
from support.parsing import byte_by_byte, parse


def test_the_cache_of_field_names_is_bounded() -> None:
    names = FieldNames()
    for n in range(2 * FieldNames.MAX_COUNT):
        assert names[f"X-{n}"] == f"x-{n}"
    assert len(names) == FieldNames.MAX_COUNT


def test_long_field_names_are_not_cached() -> None:
    names = FieldNames()
    assert names["X" * 65] == "x" * 65
    assert not names


def test_the_cache_of_field_lines_is_bounded() -> None:
    lines = FieldLines()
    for n in range(2 * FieldLines.MAX_COUNT):
        assert lines[f"X: \t{n}"] == ("x", str(n))
        assert len(lines) <= FieldLines.MAX_COUNT


def test_long_field_lines_are_not_cached() -> None:
    lines = FieldLines()
    assert lines["X: " + "y" * FieldLines.MAX_LENGTH] == ("x", "y" * FieldLines.MAX_LENGTH)
    assert not lines


@pytest.mark.parametrize("line", ["", "X", "X : y", " X: y"])
def test_a_line_that_is_no_field_is_neither_accepted_nor_cached(line: str) -> None:
    lines = FieldLines()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            lines[line]
    assert not lines


@pytest.mark.parametrize("length", [MAX_CACHED_LINE, MAX_CACHED_LINE + 1])
def test_a_request_line_is_read_alike_at_first_and_again(length: int) -> None:
    target = "/" + "a" * (length - len("GET / HTTP/1.1"))
    for _ in range(2):
        assert parse_request_line(f"GET {target} HTTP/1.1") == (
            "GET", target, "HTTP/1.1", target, "", "",
        )  # fmt: skip


@pytest.mark.parametrize("name", ["", " ", "a b", "caf\xe9", "a:"])
def test_a_name_that_is_not_a_token_is_neither_accepted_nor_cached(name: str) -> None:
    names = FieldNames()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            names[name]
    assert not names


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (" X: y", "RFC 9112, section 5.2"),
        ("\tX: y", "RFC 9112, section 5.2"),
        ("X : y", "RFC 9112, section 5.1"),
        ("X\t: y", "RFC 9112, section 5.1"),
        (": y", "RFC 9110, section 5.1"),
        ("X(: y", "RFC 9110, section 5.1"),
        ("X", "RFC 9112, section 5"),
    ],
)
def test_a_bad_field_line_names_the_rule_it_breaks(line: str, rule: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_fields(["A: b", line])
    assert caught.value.rule == rule


def test_many_repeats_are_joined_in_order() -> None:
    fields = parse_fields([f"X: {n}" for n in range(1000)] + ["Y: z"])
    assert fields == {"x": ",".join(map(str, range(1000))), "y": "z"}


def test_an_invalid_host_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ProtocolError):
            check_host("a/b")
    check_host("a")


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("000", 0), ("0010", 10), ("10", 10)])
def test_content_length_is_decimal(value: str, length: int) -> None:
    assert parse_content_length(value, 10) == length


@pytest.mark.parametrize("value", ["11", "9" * 19, "9" * 20, "9" * 5000])
def test_content_length_above_the_limit_is_too_large_however_large(value: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_content_length(value, 10)
    assert caught.value.status == 413


def test_no_reason_repeats_what_the_client_sent() -> None:
    marker = b"m4rk3r"
    for raw in (
        marker + b"\r\n",
        get(target=marker),
        get(target=b"/", version=marker),
        get(marker + b"( : x"),
        get(b"Host: " + marker),
        get(b"Transfer-Encoding: " + marker),
        get(b"Content-Length: " + marker),
        get(b"Expect: " + marker),
    ):
        error = parse([raw]).error
        assert error is not None
        assert marker.decode() not in f"{error} {error.reason} {error.rule} {error.setting}"


def test_the_error_for_a_head_has_the_host_that_its_target_names() -> None:
    for raw in (
        get(b"Expect: x", target=b"http://b/"),
        head(b"GET http://b/ HTTP/1.1", b"Host: /"),
    ):
        error = parse([raw]).error
        assert error is not None
        assert error.fields["host"] == "b"


def test_the_error_for_a_head_has_its_request_line_however_it_was_split() -> None:
    raw = head(b"HEAD / HTTP/1.1", b"X: y")
    for blocks in ([raw], byte_by_byte(raw)):
        error = parse(blocks).error
        assert error is not None
        assert error.request_line == error.beginning == "HEAD / HTTP/1.1"


def test_the_error_for_a_request_line_has_the_line_however_it_was_split() -> None:
    raw = head(b"HEAD / HTTP/1.x")
    for blocks in ([raw], byte_by_byte(raw)):
        error = parse(blocks).error
        assert error is not None
        assert error.request_line == "HEAD / HTTP/1.x"


def test_the_error_for_an_incomplete_request_line_has_its_beginning() -> None:
    raw = b"PROXY TCP4 \x7f"
    for blocks in ([raw], byte_by_byte(raw)):
        error = parse(blocks).error
        assert error is not None
        assert (error.request_line, error.beginning[:11]) == ("", "PROXY TCP4 ")
