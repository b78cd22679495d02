"""Responses: their framing, heads and chunks, and the answer to a bad request."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.http1 import (
    LAST_CHUNK,
    ProtocolError,
    choose_framing,
    encode_chunk,
    encode_head,
    error_response,
    has_body,
)

FRAMING = json.loads(Path(__file__).with_name("framing.json").read_text("utf-8"))
"""How each response is framed. The native code is tested with the same table."""


@pytest.mark.parametrize("row", FRAMING, ids=lambda row: str(row["rule"]))
def test_a_response_is_framed_as_the_table_says(row: dict[str, Any]) -> None:
    for method, version, status, length in itertools.product(
        row["methods"], row["versions"], row["statuses"], row["lengths"]
    ):
        case = (method == "HEAD", version, status, length)
        framing, field = choose_framing(*case)
        assert framing.value == row["framing"], case
        expected = row["field"].format(length=length)
        assert field == (f"{expected}\r\n" if expected else ""), case
        assert has_body(method == "HEAD", status) is (row["framing"] != "none"), case


def test_RFC9112_4_a_head_has_the_fields_of_the_application_before_those_of_the_server() -> None:
    assert encode_head("200 OK", [("A", "b"), ("C", "")], "Date: now\r\n") == (
        b"HTTP/1.1 200 OK\r\nA: b\r\nC: \r\nDate: now\r\n\r\n"
    )
    assert encode_head("200 \xe9", [("A", "\xff")]) == b"HTTP/1.1 200 \xe9\r\nA: \xff\r\n\r\n"


def test_a_head_of_more_than_latin_1_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_head("200 OK", [("A", "\u20ac")])


def test_RFC9112_7_1_chunks() -> None:
    assert encode_chunk(b"hello") == b"5\r\nhello\r\n"
    assert encode_chunk(b"x" * 255) == b"ff\r\n" + b"x" * 255 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"
    with pytest.raises(ValueError):
        encode_chunk(b"")


def test_the_answer_to_a_bad_request_is_a_line_of_text_and_closes_the_connection() -> None:
    error = ProtocolError(400, "The Host field is missing.", "RFC 9112, section 3.2")
    added = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: Penstock\r\n"
    assert b"".join(error_response(error, added)) == (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 27\r\n"
        b"Connection: close\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        b"Server: Penstock\r\n"
        b"\r\n"
        b"The Host field is missing.\n"
    )


def test_RFC9110_9_3_2_the_answer_to_a_bad_head_request_has_no_body() -> None:
    error = ProtocolError(400, "The Host field is missing.")
    whole, body = error_response(error, "")
    error.request_line = "HEAD / HTTP/1.1"
    assert error_response(error, "") == (whole, b"")
    error.request_line = "HEADER / HTTP/1.1"
    assert error_response(error, "") == (whole, body)


def test_an_error_of_an_unknown_status_has_no_phrase() -> None:
    assert error_response(ProtocolError(499, "No."), "")[0].startswith(b"HTTP/1.1 499 \r\n")


def test_RFC9110_10_2_3_a_503_says_when_to_ask_again_and_may_keep_the_connection() -> None:
    error = ProtocolError(503, "The server is overloaded.")
    error.retry_after = 7
    head, _ = error_response(error, "", "")
    assert b"\r\nRetry-After: 7\r\n" in head
    assert b"Connection" not in head


def test_RFC9110_15_5_6_a_405_names_the_allowed_methods() -> None:
    assert b"\r\nAllow: GET, " in error_response(ProtocolError(405, "No."), "")[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProtocolError(400, "No."), "No."),
        (ProtocolError(400, "No.", "RFC 9112"), "No. (RFC 9112)"),
        (ProtocolError(413, "No.", "RFC 9110", "max_body"), "No. (max_body)"),
    ],
)
def test_the_text_of_an_error_is_its_reason_with_the_setting_or_rule(
    error: ProtocolError, text: str
) -> None:
    assert str(error) == text
