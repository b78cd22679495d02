"""The inputs behind known vulnerabilities, each fed whole, byte by byte, and followed by more."""

from __future__ import annotations

import gc
import time

import pytest

from corpus.case import FOLLOWING, Case, chunked, get
from corpus.vulnerabilities import CASES
from penstock.http1 import ParserLimits, ProtocolError, RequestParser
from support.batches import by_source, check_each
from support.parsing import byte_by_byte, parse
from support.parsing_cases import check, check_followed

SOURCES = by_source(CASES)

every_source = pytest.mark.parametrize("source", SOURCES)


def check_whole(case: Case) -> None:
    check(case, parse([case.raw]))


def check_byte_by_byte(case: Case) -> None:
    check(case, parse(byte_by_byte(case.raw)))


def check_with_bytes_behind(case: Case) -> None:
    check_followed(case, parse([case.raw + FOLLOWING]))


@every_source
def test_fed_whole(source: str) -> None:
    check_each(SOURCES[source], check_whole)


@every_source
def test_fed_byte_by_byte(source: str) -> None:
    check_each(SOURCES[source], check_byte_by_byte)


@every_source
def test_with_bytes_behind_them(source: str) -> None:
    check_each(SOURCES[source], check_with_bytes_behind)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(get(b"Bad: " + b"x" * 8000 + b"\x10"), id="CVE-2020-5236: control in a value"),
        pytest.param(get(b"Host: " + b":" * 8000), id="run of colons in Host"),
        pytest.param(get(b"X" * 8000), id="name without a colon"),
        pytest.param(get(b"X:" + b" " * 8000 + b"\x0b"), id="run of blanks"),
        pytest.param(get(b"Transfer-Encoding: " + b"a;" * 4000), id="run of parameters"),
        pytest.param(chunked(b"1;" + b"a" * 4000 + b"("), id="long name of an extension"),
        pytest.param(chunked(b"1;a" + b" " * 4000 + b"("), id="run of blanks in an extension"),
        pytest.param(chunked(b"1" + b";a" * 2000 + b"("), id="run of extensions"),
        pytest.param(chunked(b'1;a="' + b'\\"' * 2000), id="run of quoted quotes"),
    ],
)
def test_no_pattern_backtracks_without_end(raw: bytes) -> None:
    began = time.process_time()
    for _ in range(10):
        parse([raw + b"\r\n\r\n"])
    # A quadratic match of 8,000 bytes takes seconds; ten linear ones take milliseconds.
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("start", "filler"),
    [
        pytest.param(chunked(b""), b"1\r\nx\r\n", id="CVE-2025-69229: chunks of one byte"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", get(), id="pipelined requests"),
    ],
)
def test_work_is_linear_however_much_is_buffered(start: bytes, filler: bytes) -> None:
    def cost(count: int) -> float:
        began = time.process_time()
        parse([start + filler * count])
        return time.process_time() - began

    cost(100)
    # A collection of garbage would look at whatever the tests before have left in this process.
    gc.disable()
    try:
        small = min(cost(1_000) for _ in range(3))
        # Sixteen times the bytes: quadratic work would cost 256 times as much.
        assert cost(16_000) < 100 * small
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param((b"GET / HTTP/1.1\r\nX: ", b"a"), id="field"),
        pytest.param((chunked(b"1;"), b"a"), id="gunicorn 26.2.1: chunk line"),
        pytest.param((chunked(b"0\r\na: "), b"a"), id="CVE-2026-22815: trailer"),
        pytest.param((chunked(b"0\r\n"), b"a: b\r\n"), id="CVE-2026-22815: trailers"),
        pytest.param((b"", b"\r\n"), id="empty lines"),
    ],
)
def test_what_never_ends_is_refused_with_little_of_it_held(endless: tuple[bytes, bytes]) -> None:
    start, dribble = endless
    parser = RequestParser(ParserLimits())
    parser.receive_data(start)

    def feed_without_end() -> None:
        for _ in range(100_000):
            parser.receive_data(dribble)
            parser.next_event()
            assert parser.buffered <= 8192

    with pytest.raises(ProtocolError):
        feed_without_end()
    parser.receive_data(b"more" * 1000)
    assert parser.buffered == 0


def test_CVE_2024_49768_after_an_error_nothing_is_parsed_any_more() -> None:
    parser = RequestParser(ParserLimits())
    parser.receive_data(b"GET /\r\n" + FOLLOWING)
    for _ in range(3):
        with pytest.raises(ProtocolError) as caught:
            parser.next_event()
        assert caught.value.status == 400
        parser.receive_data(FOLLOWING)
    with pytest.raises(RuntimeError):
        parser.start_next_request()
