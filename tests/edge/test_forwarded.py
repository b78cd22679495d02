"""What a trusted proxy's fields say: one table, which is run on both transports.

A row has the lines of a request, and what they say: client (with its port), scheme, host, port,
prefix, script name and request id; or a part of the reason for which the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.options import forwarded_fields, peers
from penstock.config.settings import FORWARDED_FIELDS
from penstock.edge.forwarded import Forwarded, ForwardedPolicy, Node, Peers
from penstock.http1 import ParserLimits, ProtocolError, Request, RequestParser
from penstock.transport.config import TransportConfig

Read = Callable[[ForwardedPolicy, Sequence[str]], "dict[str, str] | str"]

PARTS = ("client", "scheme", "host", "port", "prefix", "script_name", "request_id")


def policy(*believed: str, allowed: Sequence[str] = ("10.0.0.0/8", "fd00::/8")) -> ForwardedPolicy:
    return ForwardedPolicy.of(allowed, believed, drops=False)


ALL = policy(*FORWARDED_FIELDS)
FOR = policy("x-forwarded-for")
UNIX = policy("x-forwarded-for", allowed=("10.0.0.0/8", "unix"))
EVERY_PEER = policy("x-forwarded-for", allowed=("*",))
BEHIND_EVERY_PEER = policy("x-forwarded-for", allowed=("*", "10.0.0.0/8"))
RFC7239 = policy("forwarded")
SECURE = policy("x-forwarded-proto", "x-forwarded-ssl=on", "front-end-https=on")


def head(lines: Sequence[str]) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


def python_read(which: ForwardedPolicy, lines: Sequence[str]) -> dict[str, str] | str:
    parser = RequestParser(ParserLimits())
    parser.receive_data(head(lines))
    request = parser.next_event()
    assert isinstance(request, Request)
    try:
        found = which.read(request.fields)
    except ProtocolError as error:
        return error.reason
    return {} if found is None else said(found)


def said(found: Forwarded) -> dict[str, str]:
    parts: dict[str, str] = {name: getattr(found, name) for name in PARTS[1:]}
    if (node := found.client) is not None:
        parts["client"] = "unix" if node.unix else f"{node.address} {node.port}".rstrip()
    return {name: part for name, part in parts.items() if part or name == "client"}


def native_read(which: ForwardedPolicy, lines: Sequence[str]) -> dict[str, str] | str:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    config = TransportConfig(forwarded=which)
    found = native.NativeTransport.read_forwarded(config, head(lines))
    if found is None or isinstance(found, str):
        return found or {}
    parts = dict(zip(PARTS, found, strict=True))
    return {name: part for name, part in parts.items() if part or (name, part) == ("client", "")}


every_side = pytest.mark.parametrize("read", [python_read, native_read], ids=["python", "native"])

Row = tuple[ForwardedPolicy, list[str], "dict[str, str] | str"]

LISTS: list[Row] = [
    # The last entry is the peer's own: what a client writes before it is never taken.
    (FOR, ["X-Forwarded-For: 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 10.6.6.6, 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1, 10.0.0.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.2, 10.0.0.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 10.0.0.3, 10.0.0.2"], {"client": "10.0.0.3"}),  # all are proxies
    # What stands left of the first hop that is not trusted is not looked at, whatever it is.
    (FOR, ["X-Forwarded-For: <script>, 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: \", 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: ,,,, ,192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: \xff\xfe,192.0.2.1,10.0.0.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For:192.0.2.1 \t"], {"client": "192.0.2.1"}),
    # Several lines are one list (RFC 9110, section 5.3).
    (FOR, ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1", "A: b", "x-forwarded-for: 10.0.0.1"],
     {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: ", "X-Forwarded-For: 192.0.2.1"], {"client": "192.0.2.1"}),
    # The trusted hop's own entry has to be one.
    (FOR, ["X-Forwarded-For: 192.0.2.1,"], "X-Forwarded-For of the proxy is malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For:"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1, , 10.0.0.1"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.256"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.02.1"], "malformed"),
    (FOR, ["X-Forwarded-For: 0x7f.1"], "malformed"),
    (FOR, ["X-Forwarded-For: localhost"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1 192.0.2.2"], "malformed"),
    (FOR, ["X-Forwarded-For: \"192.0.2.1\""], "malformed"),
    (FOR, ["X-Forwarded-For: for=192.0.2.1"], "malformed"),
    (FOR, ["X-Forwarded-For:"], {}),  # nothing is said
    (FOR, [], {}),
    # Ports.
    (FOR, ["X-Forwarded-For: 192.0.2.1:4711"], {"client": "192.0.2.1 4711"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1:0080"], {"client": "192.0.2.1 80"}),
    (FOR, ["X-Forwarded-For: 192.0.2.9, 10.0.0.1:80"], {"client": "192.0.2.9"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1:_p"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1:"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1:0"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1:65536"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1:+80"], "malformed"),
    (FOR, ["X-Forwarded-For: 192.0.2.1:\xb2"], "malformed"),
    # IPv6, with brackets and without.
    (FOR, ["X-Forwarded-For: 2001:db8::1"], {"client": "2001:db8::1"}),
    (FOR, ["X-Forwarded-For: 2001:DB8:0:0::1"], {"client": "2001:db8::1"}),
    (FOR, ["X-Forwarded-For: [2001:db8::1]"], {"client": "2001:db8::1"}),
    (FOR, ["X-Forwarded-For: [2001:db8::1]:4711"], {"client": "2001:db8::1 4711"}),
    (FOR, ["X-Forwarded-For: 2001:db8::1, fd00::7"], {"client": "2001:db8::1"}),
    (FOR, ["X-Forwarded-For: 2001:db8::1, [fd00::7]:80"], {"client": "2001:db8::1"}),
    (FOR, ["X-Forwarded-For: ::ffff:192.0.2.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: 192.0.2.1, ::ffff:10.0.0.1"], {"client": "192.0.2.1"}),
    (FOR, ["X-Forwarded-For: ::1.2.3.4"], {"client": "::102:304"}),
    (FOR, ["X-Forwarded-For: 1:0:0:2:0:0:0:3"], {"client": "1:0:0:2::3"}),
    (FOR, ["X-Forwarded-For: [2001:db8::1"], "malformed"),
    (FOR, ["X-Forwarded-For: 2001:db8::1]"], "malformed"),
    (FOR, ["X-Forwarded-For: [2001:db8::1]80"], "malformed"),
    (FOR, ["X-Forwarded-For: [2001:db8::1]:"], "malformed"),
    (FOR, ["X-Forwarded-For: [192.0.2.1]"], "malformed"),
    (FOR, ["X-Forwarded-For: fe80::1%eth0"], "malformed"),
    (FOR, ["X-Forwarded-For: [::1]]"], "malformed"),
    (FOR, ["X-Forwarded-For: :"], "malformed"),
    (FOR, ["X-Forwarded-For: ["], "malformed"),
    # A hop that is not told is not trusted, and the client has no address.
    (FOR, ["X-Forwarded-For: 192.0.2.1, unknown"], {"client": ""}),
    (FOR, ["X-Forwarded-For: 192.0.2.1, UnKnown, 10.0.0.1"], {"client": ""}),
    (FOR, ["X-Forwarded-For: 192.0.2.1, _hidden"], {"client": ""}),
    (FOR, ["X-Forwarded-For: _hidden:80"], {"client": ""}),
    (FOR, ["X-Forwarded-For: _"], "malformed"),
    (FOR, ["X-Forwarded-For: _a b"], "malformed"),
    # A unix socket between two proxies, as nginx writes it.
    (FOR, ["X-Forwarded-For: 192.0.2.1, unix:"], {"client": "unix"}),
    (UNIX, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1, unix:"], {"client": "192.0.2.1"}),
    (UNIX, ["X-Forwarded-For: unix:"], {"client": "unix"}),
    (UNIX, ["X-Forwarded-For: unix:/run/x"], "malformed"),
    # Every peer is trusted, and no hop that it names: a client cannot choose its address.
    (EVERY_PEER, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1"], {"client": "192.0.2.1"}),
    (BEHIND_EVERY_PEER, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.1"], {"client": "192.0.2.1"}),
    # Only what the setting names is believed.
    (FOR, ["X-Forwarded-Proto: https", "Forwarded: for=192.0.2.1"], {}),
]  # fmt: skip

OTHERS: list[Row] = [
    (ALL, ["X-Forwarded-Proto: https"], {"scheme": "https"}),
    (ALL, ["X-Forwarded-Proto: HTTP"], {"scheme": "http"}),
    (ALL, ["X-Forwarded-Proto: wss"], {"scheme": "https"}),
    (ALL, ["X-Forwarded-Proto: ws"], {"scheme": "http"}),
    (ALL, ["X-Forwarded-Proto: ftp"], "X-Forwarded-Proto of the proxy is malformed"),
    (ALL, ["X-Forwarded-Proto: https://"], "malformed"),
    (ALL, ["X-Forwarded-Proto: \"https\""], "malformed"),
    (ALL, ["X-Forwarded-Proto:"], {}),
    # The entry is that of the hop that the client connected to.
    (ALL, ["X-Forwarded-Proto: https, http"], {"scheme": "http"}),
    (ALL, ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"], {"scheme": "http"}),
    (ALL, ["X-Forwarded-Proto: nonsense, http"], {"scheme": "http"}),
    (ALL, ["X-Forwarded-For: 192.0.2.1, 10.0.0.1", "X-Forwarded-Proto: https, http"],
     {"client": "192.0.2.1", "scheme": "https"}),
    (ALL, ["X-Forwarded-For: 192.0.2.1, 10.0.0.1", "X-Forwarded-Proto: x, https, http"],
     {"client": "192.0.2.1", "scheme": "https"}),
    (ALL, ["X-Forwarded-For: 6.6.6.6, 192.0.2.1", "X-Forwarded-Proto: https, http"],
     {"client": "192.0.2.1", "scheme": "http"}),
    (ALL, ["X-Forwarded-For: 192.0.2.1, 10.0.0.1", "X-Forwarded-Proto: https"],
     {"client": "192.0.2.1", "scheme": "https"}),
    # Fields whose value means https, as gunicorn's secure_scheme_headers.
    (SECURE, ["X-Forwarded-Ssl: on"], {"scheme": "https"}),
    (SECURE, ["X-Forwarded-Ssl: off"], {"scheme": "http"}),
    (SECURE, ["Front-End-Https: on", "X-Forwarded-Proto: https"], {"scheme": "https"}),
    (SECURE, ["X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"],
     "The fields X-Forwarded-Proto and X-Forwarded-Ssl of the proxy contradict each other."),
    (SECURE, ["Front-End-Https: on", "X-Forwarded-Ssl: off"],
     "The fields X-Forwarded-Ssl and Front-End-Https of the proxy contradict each other."),
    (SECURE, ["Accept: */*"], {}),
    # Hosts.
    (ALL, ["X-Forwarded-Host: example.org"], {"host": "example.org"}),
    (ALL, ["X-Forwarded-Host: example.org:8443"], {"host": "example.org:8443"}),
    (ALL, ["X-Forwarded-Host: [2001:db8::1]:8443"], {"host": "[2001:db8::1]:8443"}),
    (ALL, ["X-Forwarded-Host: evil.example, example.org"], {"host": "example.org"}),
    (ALL, ["X-Forwarded-Host: a/b"], "X-Forwarded-Host of the proxy is malformed"),
    (ALL, ["X-Forwarded-Host: user@example.org"], "malformed"),
    (ALL, ["X-Forwarded-Host: example.org:99999"], "malformed"),
    (ALL, ["X-Forwarded-Host: example.org,"], {}),
    # Ports.
    (ALL, ["X-Forwarded-Port: 443"], {"port": "443"}),
    (ALL, ["X-Forwarded-Port: 80,443"], {"port": "443"}),
    (ALL, ["X-Forwarded-Port: 0"], "X-Forwarded-Port of the proxy is malformed"),
    (ALL, ["X-Forwarded-Port: 65536"], "malformed"),
    (ALL, ["X-Forwarded-Port: 443443"], "malformed"),
    (ALL, ["X-Forwarded-Port: https"], "malformed"),
    # Prefixes.
    (ALL, ["X-Forwarded-Prefix: /app"], {"prefix": "/app"}),
    (ALL, ["X-Forwarded-Prefix: /app/"], {"prefix": "/app"}),
    (ALL, ["X-Forwarded-Prefix: /a/b%20c"], {"prefix": "/a/b%20c"}),
    (ALL, ["X-Forwarded-Prefix: /"], {}),
    (ALL, ["X-Forwarded-Prefix: //evil.example"], "X-Forwarded-Prefix of the proxy is malformed"),
    (ALL, ["X-Forwarded-Prefix: /%2Fevil.example"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a/%2f"], "malformed"),
    (ALL, ["SCRIPT_NAME: /%2fevil.example"], "SCRIPT_NAME of the proxy is malformed"),
    (ALL, ["X-Forwarded-Prefix: app"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a?b"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a#b"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a\\b"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: https://evil.example"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: //"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a//"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /caf\xc3\xa9"], {"prefix": "/caf\xc3\xa9"}),
    (ALL, ["X-Forwarded-Prefix: /caf%C3%A9"], {"prefix": "/caf%C3%A9"}),
    # Dot segments, also coded: clients and caches remove them (RFC 3986, section 5.2.4).
    (ALL, ["X-Forwarded-Prefix: /.."], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /../"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a/../b"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a/."], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /%2e%2E"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /.%2e/a"], "malformed"),
    (ALL, ["SCRIPT_NAME: /a/.."], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /..."], {"prefix": "/..."}),
    (ALL, ["X-Forwarded-Prefix: /a..b/.c/d."], {"prefix": "/a..b/.c/d."}),
    # Control characters, and what a browser reads as a slash.
    (ALL, ["X-Forwarded-Prefix: /a%0d%0aSet-Cookie:%20a=b"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%00"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%1F"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%7f"], "malformed"),
    (ALL, ["SCRIPT_NAME: /a%0a"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /%5Cevil.example"], "malformed"),
    # Escapes that are none.
    (ALL, ["X-Forwarded-Prefix: /a%"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%2"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%zz"], "malformed"),
    (ALL, ["X-Forwarded-Prefix: /a%+1"], "malformed"),
    (ALL, ["SCRIPT_NAME: /app"], {"script_name": "/app"}),
    (ALL, ["SCRIPT_NAME: app"], "SCRIPT_NAME of the proxy is malformed"),
    (ALL, ["SCRIPT_NAME: /a", "X-Forwarded-Prefix: /b"],
     "The fields X-Forwarded-Prefix and SCRIPT_NAME of the proxy contradict each other."),
    # Request ids: what is none is as good as none.
    (ALL, ["X-Request-ID: 7d1c9e5a-b3f0-4826"], {"request_id": "7d1c9e5a-b3f0-4826"}),
    (ALL, ["X-Request-ID: Root=1-67891233-abc/+:._@"], {"request_id": "Root=1-67891233-abc/+:._@"}),
    (ALL, ["X-Request-ID: " + "a" * 128], {"request_id": "a" * 128}),
    (ALL, ["X-Request-ID: " + "a" * 129], {}),
    (ALL, ["X-Request-ID: a b"], {}),
    (ALL, ["X-Request-ID: a\"b"], {}),
    (ALL, ["X-Request-ID: caf\xe9"], {}),
    (ALL, ["X-Request-ID: a", "X-Request-ID: b"], {}),
    (FOR, ["X-Request-ID: a"], {}),
]  # fmt: skip

ELEMENTS: list[Row] = [
    # RFC 7239, section 4.
    (RFC7239, ["Forwarded: for=192.0.2.1"], {"client": "192.0.2.1"}),
    (RFC7239, ["Forwarded: For=192.0.2.1;Proto=https;by=10.0.0.1;host=example.org"],
     {"client": "192.0.2.1", "scheme": "https", "host": "example.org"}),
    (RFC7239, ["Forwarded: for=\"192.0.2.1:4711\""], {"client": "192.0.2.1 4711"}),
    (RFC7239, ["Forwarded: for=\"[2001:db8::1]:4711\""], {"client": "2001:db8::1 4711"}),
    (RFC7239, ["Forwarded: for=\"[2001:db8::1]\""], {"client": "2001:db8::1"}),
    (RFC7239, ["Forwarded: for=\"\\1\\9\\2.0.2.1\""], {"client": "192.0.2.1"}),
    (RFC7239, ["Forwarded: for=6.6.6.6, for=192.0.2.1, for=10.0.0.1"], {"client": "192.0.2.1"}),
    (RFC7239, ["Forwarded: for=6.6.6.6", "Forwarded: for=192.0.2.1"], {"client": "192.0.2.1"}),
    (RFC7239, ["Forwarded: for=192.0.2.1;host=\"a,b\", for=10.0.0.1"],
     {"client": "192.0.2.1", "host": "a,b"}),
    (RFC7239, ["Forwarded: for=192.0.2.1 ; proto=https"], {"client": "192.0.2.1",
                                                           "scheme": "https"}),
    (RFC7239, ["Forwarded: for=192.0.2.1;;proto=http;"], {"client": "192.0.2.1",
                                                          "scheme": "http"}),
    (RFC7239, ["Forwarded: for=unknown"], {"client": ""}),
    (RFC7239, ["Forwarded: for=192.0.2.1, for=_hidden"], {"client": ""}),
    (RFC7239, ["Forwarded: for=\"_hidden:_port\""], {"client": ""}),
    (RFC7239, ["Forwarded: for=192.0.2.1;extension=\"a;b,c=\\\"d\""], {"client": "192.0.2.1"}),
    # What a client leaves open does not reach into the proxy's element.
    (RFC7239, ["Forwarded: for=\"6.6.6.6, for=192.0.2.1"], {"client": "192.0.2.1"}),
    (RFC7239, ["Forwarded: for=6.6.6.6;by=\", for=\"[2001:db8::1]\""], {"client": "2001:db8::1"}),
    (RFC7239, ["Forwarded: for=\"", "Forwarded: for=\"192.0.2.1:80\""], {"client": "192.0.2.1 80"}),
    (RFC7239, ["Forwarded: ;;=\\\"\\, for=192.0.2.1"], {"client": "192.0.2.1"}),
    # What a hop says of scheme and host is taken of the one that the client connected to.
    (RFC7239, ["Forwarded: for=192.0.2.1;proto=https, for=10.0.0.1;proto=http"],
     {"client": "192.0.2.1", "scheme": "https"}),
    (RFC7239, ["Forwarded: for=6.6.6.6;proto=https, for=192.0.2.1;proto=http"],
     {"client": "192.0.2.1", "scheme": "http"}),
    (RFC7239, ["Forwarded: for=192.0.2.1, for=10.0.0.1;proto=https"],
     {"client": "192.0.2.1", "scheme": "https"}),
    (RFC7239, ["Forwarded: proto=https"], {"scheme": "https"}),
    (RFC7239, ["Forwarded: for=6.6.6.6, proto=https"], {"scheme": "https"}),
    # Malformed ones.
    (RFC7239, ["Forwarded: 192.0.2.1"], "Forwarded of the proxy is malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1,"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1, "], "malformed"),
    (RFC7239, ["Forwarded: for="], "malformed"),
    (RFC7239, ["Forwarded: for=\"\""], "malformed"),
    (RFC7239, ["Forwarded: for=\"192.0.2.1"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1\""], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1:80"], "malformed"),  # to be quoted
    (RFC7239, ["Forwarded: for=[2001:db8::1]"], "malformed"),
    (RFC7239, ["Forwarded: for=\"2001:db8::1\""], "malformed"),  # to be in brackets
    (RFC7239, ["Forwarded: for = 192.0.2.1"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1;for=192.0.2.2"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1 proto=https"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1;proto=gopher"], "malformed"),
    (RFC7239, ["Forwarded: for=192.0.2.1;host=\"a b\""], "malformed"),
    (RFC7239, ["Forwarded: for=\"unix:\""], "malformed"),
    (RFC7239, ["Forwarded: ;"], "malformed"),
    # Both kinds of fields.
    (ALL, ["Forwarded: for=192.0.2.1;proto=https", "X-Forwarded-For: 192.0.2.1",
           "X-Forwarded-Proto: https"], {"client": "192.0.2.1", "scheme": "https"}),
    (ALL, ["Forwarded: for=\"192.0.2.1:9\"", "X-Forwarded-For: 192.0.2.1"],
     {"client": "192.0.2.1"}),
    (ALL, ["Forwarded: for=192.0.2.2", "X-Forwarded-For: 192.0.2.1"],
     "The fields X-Forwarded-For and Forwarded of the proxy contradict each other."),
    (ALL, ["Forwarded: for=192.0.2.1;proto=http", "X-Forwarded-Proto: https"],
     "The fields Forwarded and X-Forwarded-Proto of the proxy contradict each other."),
    (ALL, ["Forwarded: for=192.0.2.1;host=a", "X-Forwarded-Host: b"],
     "The fields Forwarded and X-Forwarded-Host of the proxy contradict each other."),
]  # fmt: skip


@every_side
@pytest.mark.parametrize(
    "table", [LISTS, OTHERS, ELEMENTS], ids=["x-forwarded-for", "others", "rfc7239"]
)
def test_the_fields_of_a_trusted_proxy_are_read_from_the_right(
    read: Read, table: list[Row]
) -> None:
    wrong = []
    for which, lines, wanted in table:
        found = read(which, lines)
        if isinstance(wanted, str):
            right = isinstance(found, str) and wanted in found
        else:
            right = found == wanted
        if not right:
            wrong.append(f"{lines}: {found}, not {wanted}")
    assert not wrong, "\n".join(wrong)


pieces = st.sampled_from(
    ["for=", "proto=", "host=", "192.0.2.1", "10.0.0.1", "[fd00::1]", "unknown", "_x", "https", '"',
     "\\", ",", ";", " ", ":", "80", "=", "a", "\t", "\xff", "/", "unix:"]
)  # fmt: skip
values = st.lists(pieces, max_size=12).map("".join)
names = st.sampled_from(["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"])
fields = st.lists(st.tuples(names, values).map(": ".join), max_size=3)


@given(fields)
def test_both_transports_read_the_same(lines: list[str]) -> None:
    for which in (ALL, RFC7239, UNIX):
        assert native_read(which, lines) == python_read(which, lines)


@given(values)
def test_what_a_client_sends_changes_nothing_of_what_the_proxy_appends(spoofed: str) -> None:
    for which, name, entry in (
        (FOR, "X-Forwarded-For", "192.0.2.77"),
        (RFC7239, "Forwarded", 'for="192.0.2.77:80"'),
        (RFC7239, "Forwarded", "for=192.0.2.77"),
    ):
        for read in (python_read, native_read):
            found = read(which, [f"{name}: {spoofed}, {entry}"])
            assert isinstance(found, dict)
            assert found["client"].startswith("192.0.2.77"), found
            assert set(found) == {"client"}


def test_a_peer_is_trusted_by_its_network() -> None:
    some = Peers.of(["10.0.0.0/8", "fd00::/8"])
    assert some.trusts("10.1.2.3")
    assert some.trusts("::ffff:10.1.2.3")  # a listener for both families
    assert some.trusts("fd00::1")
    assert not some.trusts("11.0.0.1")
    assert not some.trusts("")
    assert Peers.of(["unix"]).trusts("")
    assert not Peers.of(["unix"]).trusts("127.0.0.1")
    assert Peers.of(["*"]).trusts("203.0.113.1")
    assert Peers.of(["*"]).trusts("")
    assert not Peers.of(["*"]).trusts_hop(Node("203.0.113.1", ""))
    assert not Peers.of([]).trusts("127.0.0.1")


def test_the_setting_takes_networks_unix_and_a_star_but_not_the_network_of_all_addresses() -> None:
    kind = peers()
    assert kind.convert("10.0.0.5, fd00::/8,unix") == ("10.0.0.5/32", "fd00::/8", "unix")
    assert kind.convert("*") == ("*",)
    assert kind.convert("none") == ()
    for value in ("0.0.0.0/0", "::/0", "proxy.example", "10.0.0.1/8", "", "10.0.0.1,"):
        with pytest.raises((ValueError, TypeError)):
            kind.convert(value)


def test_the_setting_takes_known_fields_and_those_whose_value_means_https() -> None:
    kind = forwarded_fields(FORWARDED_FIELDS)
    assert kind.convert("X-Forwarded-For,forwarded") == ("x-forwarded-for", "forwarded")
    assert kind.convert({"X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}) == (
        "x-forwarded-proto",
        "x-forwarded-ssl=on",
    )
    assert kind.convert("none") == ()
    for value in ("x-real-ip", "x-forwarded-for=on", "a b=on", "x_y=on", "x-y=", "", "=on"):
        with pytest.raises((ValueError, TypeError)):
            kind.convert(value)


def test_the_names_that_speak_of_other_hops() -> None:
    which = replace(ALL, secure=(("front-end-https", "on"),))
    fields = {"host": "a", "x-forwarded-for": "1", "forwarded": "2", "x-forwarded-new": "3",
              "front-end-https": "on", "x-request-id": "4", "x-real-ip": "5"}  # fmt: skip
    assert which.names_in(fields) == [
        "x-forwarded-for",
        "forwarded",
        "x-forwarded-new",
        "front-end-https",
    ]
