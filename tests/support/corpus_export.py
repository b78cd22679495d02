"""Exports the corpus, and how the parser here reads it, to a file for the tests of other parsers.

Each case has the whole outcome of feeding it in one block, and that of feeding it byte by byte if
it differs. (It differs in the text of an error, where another check is the first to find a fault.)
Bytes are written as text in latin-1, long runs of them as a list of pairs ``[text, count]``.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING
from penstock.http1 import (
    CONTINUE,
    LAST_CHUNK,
    ParserLimits,
    ProtocolError,
    encode_chunk,
    encode_head,
    error_response,
)
from penstock.http1.body import FORBIDDEN_TRAILERS
from penstock.http1.grammar import CHUNK_SIZE_DIGITS
from penstock.http1.head import MAX_METHOD
from penstock.http1.response import ALLOWED_METHODS
from penstock.http1.statuses import REASON_PHRASES
from penstock.transport.date import imf_fixdate
from support.parsing import SMALL_LIMITS, Message, Outcome, byte_by_byte, parse

LIMITS = (ParserLimits(), SMALL_LIMITS)
"""The default limits, and small ones that short inputs reach."""

MUTATIONS = 400
"""How many more cases the project's file has: changed cases of the corpus, and cases made of
fragments."""

_CHANGES = (b"", b"\r", b"\n", b" ", b"\t", b",", b"\0", b"0", b":", b"\xe9", b";", b"/", b"A")
_FRAGMENTS = (
    b"GET / HTTP/1.1\r\n",
    b"POST /p?q HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection:",
    b"Expect:100-continue",
    b"X: y\r\n",
    b"close",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"0",
    b"3\r\nabc\r\n",
    b"abc",
    b"0\r\n\r\n",
    b";a=b",
    b'"',
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"A" * 45,
    b"CONNECT",
    b"HTTP/2.0",
    b"OPTIONS *",
    b":",
    b"http://b/?",
    b",",
)
_RUN = re.compile(r"(.{1,16}?)\1{31,}", re.DOTALL)
_DATES = (0, 784111777, 951782400, 1709210096, 2147483648, 4107542400, 253402300799)
_ADDED = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: penstock\r\n"

Text = str | list[tuple[str, int]]


def export(mutations: int = MUTATIONS, seed: int = 0) -> str:
    """Return the file's text, a line for each case; ``mutations`` cases are made from ``seed``."""
    errors: dict[str, ProtocolError] = {}
    cases = [*_corpus_cases(errors), *_mutated_cases(mutations, random.Random(seed), errors)]
    parts: dict[str, Any] = {
        "following": FOLLOWING.decode("latin-1"),
        "limits": [asdict(limits) for limits in LIMITS],
        "dates": [(second, imf_fixdate(second)) for second in _DATES],
        "constants": _constants(),
        "responses": _responses(),
        "errors": [(reason, str(e), _refusal(e)) for reason, e in sorted(errors.items())],
    }
    lines = [f"{json.dumps(name)}: {json.dumps(part)},\n" for name, part in parts.items()]
    return "{\n" + "".join(lines) + '"cases": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]}\n"


def _corpus_cases(errors: dict[str, ProtocolError]) -> Iterator[dict[str, Any]]:
    for case in requests.CASES + vulnerabilities.CASES:
        yield _case(case.id, case.raw, case.ends_early, 0, errors)


def _mutated_cases(
    count: int, chance: random.Random, errors: dict[str, ProtocolError]
) -> Iterator[dict[str, Any]]:
    sources = [c.raw for c in requests.CASES + vulnerabilities.CASES if len(c.raw) < 300]

    def below(bound: int) -> int:
        return int(
            chance.random() * bound
        )  # random() is the one method whose results no version changes

    for number in range(count):
        if number % 4:
            raw = bytearray(sources[below(len(sources))])
        else:
            raw = bytearray().join(_FRAGMENTS[below(len(_FRAGMENTS))] for _ in range(below(16)))
        for _ in range(1 + below(4)):
            place = below(len(raw) + 1)
            raw[place : place + below(3)] = _CHANGES[below(len(_CHANGES))]
        if below(2):
            raw += FOLLOWING
        yield _case(f"mutation {number}", bytes(raw), bool(below(2)), below(2), errors)


def _case(
    name: str, raw: bytes, eof: bool, limits: int, errors: dict[str, ProtocolError]
) -> dict[str, Any]:
    """Return a case with its two outcomes, and add its errors, by reason, to ``errors``."""
    outcomes = [
        parse(blocks, eof=eof, limits=LIMITS[limits]) for blocks in ([raw], byte_by_byte(raw))
    ]
    errors |= {outcome.error.reason: outcome.error for outcome in outcomes if outcome.error}
    whole, by_bytes = map(_outcome, outcomes)
    case = {"name": name, "raw": _text(raw), "eof": eof, "limits": limits, "whole": whole}
    return case if by_bytes == whole else case | {"by_bytes": by_bytes}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "messages": [_message(message) for message in outcome.messages],
        "error": _error(outcome.error) if outcome.error else None,
        "closed": outcome.closed,
    }


def _message(message: Message) -> dict[str, Any]:
    request = message.request
    return {
        "method": request.method,
        "target": _text(request.target),
        "version": request.version,
        "path": _text(request.path),
        "query": _text(request.query),
        "fields": [(_text(name), _text(value)) for name, value in request.fields.items()],
        "content_length": request.content_length,
        "chunked": request.chunked,
        "keep_alive": request.keep_alive,
        "expect_continue": request.expect_continue,
        "body_expected": request.body_expected,
        "body": _text(message.body),
        "complete": message.complete,
    }


def _error(error: ProtocolError) -> dict[str, Any]:
    return {
        "status": error.status,
        "reason": error.reason,
        "rule": error.rule,
        "setting": error.setting,
        "request_line": _text(error.request_line),
    }


def _refusal(error: ProtocolError) -> str:
    return b"".join(error_response(error, _ADDED)).decode("latin-1")


def _text(data: str | bytes) -> Text:
    text = data if isinstance(data, str) else data.decode("latin-1")
    if len(text) < 500:
        return text
    pieces: list[tuple[str, int]] = []
    end = 0
    for run in _RUN.finditer(text):
        pieces += [(text[end : run.start()], 1), (run[1], len(run[0]) // len(run[1]))]
        end = run.end()
    return [*pieces, (text[end:], 1)]


def _constants() -> dict[str, Any]:
    """Return what no setting changes and both parsers have as a constant of their own."""
    return {
        "max_method": MAX_METHOD,
        "chunk_size_digits": CHUNK_SIZE_DIGITS,
        "forbidden_trailers": sorted(FORBIDDEN_TRAILERS),
        "allowed_methods": ALLOWED_METHODS,
        "continue": CONTINUE.decode("latin-1"),
        "last_chunk": LAST_CHUNK.decode("latin-1"),
    }


def _responses() -> dict[str, Any]:
    headers = [("Content-Type", "text/plain"), ("X-A", "caf\u00e9"), ("X-Empty", "")]
    return {
        "phrases": sorted(REASON_PHRASES.items()),
        "head": encode_head("200 OK", headers, _ADDED).decode("latin-1"),
        "headers": headers,
        "added": _ADDED,
        "chunk_of_1000": encode_chunk(b"x" * 1000).decode("latin-1"),
    }
