"""A refusal in the log names what to look at: the value of Host, the sender's likely setting."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.transport.likely_causes import _CAUSES, likely_cause
from support.applications import hello
from support.serving import connect, eventually

ROOT = Path(__file__).resolve().parents[2]

REFUSED: list[tuple[bytes, *tuple[str, ...]]] = [
    (
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        '"GET / HTTP/1.1" with Host: ""',
        "proxy_set_header Host $host",
    ),
    (
        b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n",
        '"[fe80::1%25eth0]"',
        "the zone of an address",
    ),
    (b"GET / HTTP/1.1\r\nHost: caf\xc3\xa9.test\r\n\r\n", '"caf\xc3\xa9.test"', "xn--"),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", '"a, b"', "two proxies"),
    (
        b"GET / HTTP/1.1\r\n\r\n",
        "Host field is missing",
        "http-check send ver HTTP/1.1 hdr Host NAME",
    ),
    (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "no Transfer-Encoding",
        "proxy_http_version 1.1",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "does not end in one 'chunked'",
        "'identity' is to be left out",
    ),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", '"GET /a b HTTP/1.1"', "without $uri"),
    (
        b"\x16\x03\x01\x02\x00",
        "The client speaks TLS, and this address is for plain HTTP.",
        "--bind https://HOST:PORT with --certfile and --keyfile",
        "proxy_pass http://",
    ),
    (b"\x00", "begins with no method", "likely not HTTP"),
]


def test_the_line_of_a_refusal_names_what_to_look_at(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with penstock.running(hello, transport=transport) as server:
        for request, *parts in REFUSED:
            caplog.clear()
            with connect(server) as client:
                client.send(request)
                assert client.read_response().status == 400
            eventually(lambda: "refused a request" in caplog.text)
            for part in parts:
                assert part in caplog.text, caplog.text


def test_each_cause_belongs_to_a_reason_of_the_server() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/penstock").rglob("*.py"))
    assert [reason for reason in _CAUSES if sources.count(f'"{reason}"') < 2] == []


def test_other_refusals_have_no_cause() -> None:
    assert likely_cause("The request body is too large.", "a") == ""
