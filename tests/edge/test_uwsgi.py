"""What a packet of the uwsgi protocol says; one table for both languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.edge.uwsgi import parse, scan
from penstock.http1 import ParserLimits, ProtocolError
from penstock.transport.config import TransportConfig
from support.uwsgi import BASIC, packet, packet_of, pairs

Found = Any
Read = Callable[[bytes], Found]

LIMITS = ParserLimits(head=60000)


def python_read(data: bytes) -> Found:
    try:
        size = scan(data[:4], LIMITS.head)
        if size > len(data):
            return size
        found = parse(data[:size], TransportConfig().forwarded.request_id_length)
    except ProtocolError as error:
        return error.status, error.reason, error.setting
    said = found.said
    return (
        found.head,
        (found.address, found.port) if found.address else None,
        said.scheme,
        said.port,
        said.script_name,
        said.request_id,
        found.variables,
    )


def native_read(data: bytes) -> Found:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    return native.NativeTransport.read_packet(TransportConfig(parser=LIMITS), data)


every_side = pytest.mark.parametrize("read", [python_read, native_read], ids=["python", "native"])


def refused(reason: str, status: int = 400, setting: str = "") -> tuple[int, str, str]:
    return status, reason, setting


MALFORMED = refused("The uwsgi packet is malformed.")
NO_PACKET = refused("The connection does not begin with a uwsgi packet.", setting="bind")
TOO_LONG = refused("The uwsgi packet is too long.", 431, "limit_request_head")


@every_side
def test_a_packet_of_nginx(read: Read) -> None:
    assert read(packet() + b"body") == (
        b"GET /x?a=1 HTTP/1.0\r\nhost: example.org\r\n\r\n",
        ("192.0.2.1", "4711"),
        "http",
        "8080",
        "",
        "",
        {"SERVER_NAME": "example.org"},
    )


@every_side
def test_the_size_of_a_packet_is_known_with_its_first_four_bytes(read: Read) -> None:
    whole = packet()
    for size in range(4):
        assert read(whole[:size]) == 4
    for size in (4, 5, len(whole) - 1):
        assert read(whole[:size]) == len(whole)


@every_side
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", NO_PACKET),
        (b"\x16\x03\x01\x02\x00", NO_PACKET),
        (b"\x01\x00\x00\x00", NO_PACKET),  # another language
        (packet_of(b"", modifier2=1), NO_PACKET),
        (packet_of(bytes(60001)), TOO_LONG),
        (b"\x00\xff\xff\x00", TOO_LONG),
        (packet_of(b"\x01"), MALFORMED),
        (packet_of(b"\x05\x00HTTPS"), MALFORMED),
        (packet_of(b"\x05\x00HTTPS\x02"), MALFORMED),
        (packet_of(b"\x05\x00HTTPS\x03\x00on"), MALFORMED),
        (packet_of(b"\xff\xffHTTPS\x02\x00on"), MALFORMED),
    ],
)
def test_what_is_no_packet(read: Read, data: bytes, found: Found) -> None:
    assert read(data) == found


# What REQUEST_URI, SCRIPT_NAME, PATH_INFO and QUERY_STRING make of the target, and of the prefix.
TARGETS = [
    # nginx's own file
    ("/x?a=1", None, "/x", "a=1", "/x?a=1", ""),
    ("/x", "", "/x", "", "/x", ""),
    # REQUEST_URI alone
    ("/%C3%A9?b", None, None, None, "/%C3%A9?b", ""),
    ("/app/x", "/app", None, None, "/app/x", "/app"),
    ("/x?", None, "", "", "/x?", ""),
    # nginx has decoded the path, and the target stays as it was sent
    ("/%C3%A9/a%20b", None, "/\xc3\xa9/a b", "", "/%C3%A9/a%20b", ""),
    # nginx has normalized or rewritten the path: that one counts
    ("/a/../b//c?q", None, "/b/c", "q", "/b/c?q", ""),
    ("/old?q", None, "/new/a b", "r=1", "/new/a%20b?r=1", ""),
    ("/old?q", None, "/new", None, "/new?q", ""),
    ("/old?q", None, "/old", "", "/old", ""),
    # both parts of the path, as the specification of CGI has it
    ("/app/x?q", "/app", "/x", "q", "/app/x?q", "/app"),
    ("/app", "/app", "", "", "/app", "/app"),
    ("/app/app/x", "/app", "/app/x", "", "/app/app/x", "/app"),
    (None, "/app", "/x", "q", "/app/x?q", "/app"),
    ("/elsewhere/x", "/app", "/x", "", "/app/x", "/app"),
    # the whole path, as nginx's own file has it beside a SCRIPT_NAME (uwsgi_modifier1 30)
    ("/app/x?q", "/app", "/app/x", "q", "/app/x?q", "/app"),
    ("/app", "/app/", "/app", "", "/app", "/app"),
    ("/apple", "/app", "/apple", "", "/app/apple", "/app"),
    ("/b%C3%A9/x", "/b\xc3\xa9", "/b\xc3\xa9/x", "", "/b%C3%A9/x", "/b%C3%A9"),
    (None, None, "/x", None, "/x", ""),
]


@every_side
@pytest.mark.parametrize("modifier1", [0, 30])
def test_target_and_prefix(read: Read, modifier1: int) -> None:
    for uri, script_name, info, query, target, prefix in TARGETS:
        names = ("REQUEST_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
        given = dict(zip(names, (uri, script_name, info, query), strict=True))
        found = read(bytes([modifier1]) + packet(**given)[1:])
        assert found[0].startswith(f"GET {target} HTTP/1.0\r\n".encode()), (given, found)
        assert found[4] == prefix, (given, found)


@every_side
@pytest.mark.parametrize(
    ("changed", "scheme"),
    [
        ({}, "http"),
        ({"REQUEST_SCHEME": None}, ""),
        ({"REQUEST_SCHEME": "HTTPS"}, "https"),
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": ""}, "http"),
        ({"HTTPS": "off", "REQUEST_SCHEME": "https"}, "http"),
        ({"UWSGI_SCHEME": "https"}, "https"),
        ({"UWSGI_SCHEME": "http", "HTTPS": "on"}, "http"),
        ({"UWSGI_SCHEME": "", "HTTPS": "on"}, "https"),
    ],
)
def test_the_scheme(read: Read, changed: dict[str, str | None], scheme: str) -> None:
    assert read(packet(**changed))[2] == scheme


@every_side
def test_who_the_client_is(read: Read) -> None:
    for address, port, found in [
        ("192.0.2.1", "0", ("192.0.2.1", "")),
        ("192.0.2.1", "", ("192.0.2.1", "")),
        ("192.0.2.1", None, ("192.0.2.1", "")),
        ("2001:db8:0::1", "00443", ("2001:db8::1", "443")),
        ("::ffff:192.0.2.1", "1", ("192.0.2.1", "1")),
        ("unix:", "", None),  # of nginx for a client of a unix socket
        ("", "4711", None),
        (None, None, None),
    ]:
        assert read(packet(REMOTE_ADDR=address, REMOTE_PORT=port))[1] == found


@every_side
def test_fields_are_those_of_the_client(read: Read) -> None:
    head = read(
        packet_of(
            pairs(
                [
                    *BASIC,
                    ("HTTP_X_A_B", "1"),
                    ("HTTP_COOKIE", "a=\xe9"),
                    ("HTTP_COOKIE", "b"),
                    ("HTTP_EMPTY", ""),
                    ("HTTP_TAB", "a\tb"),
                    ("HTTP_PROXY", "evil"),
                ]
            )
        )
    )[0]
    assert head == (
        b"GET /x?a=1 HTTP/1.0\r\nhost: example.org\r\nx-a-b: 1\r\ncookie: a=\xe9\r\n"
        b"cookie: b\r\nempty: \r\ntab: a\tb\r\nproxy: evil\r\n\r\n"
    )  # what comes of a field such as Proxy is for HTTP to say


@every_side
def test_what_is_no_field_and_no_variable_that_counts_is_left_out(read: Read) -> None:
    basic = read(packet())
    for name in (
        "UWSGI_FILE", "UWSGI_SCRIPT", "UWSGI_CHDIR", "SERVER_SOFTWARE", "wsgi.input", "PATH", "",
        "HTTP_", "HTTP_a", "HTTP_X-Y", "HTTP_X\r\nY: ", "http_x", "HTTP_X ", "HTTP_\xe9", "HTTP",
        "HTTP_CONNECTION", "HTTP_KEEP_ALIVE", "HTTP_PROXY_CONNECTION", "HTTP_TE", "HTTP_TRAILER",
        "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_EXPECT", "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
    ):  # fmt: skip
        assert read(packet_of(pairs([(name, "chunked\r\n"), *BASIC]))) == basic, name


@every_side
def test_variables_that_the_application_gets(read: Read) -> None:
    given = {"REMOTE_USER": "j\xe9", "AUTH_TYPE": "Basic", "SSL_CLIENT_VERIFY": "SUCCESS",
             "SSL_CLIENT_S_DN": "CN=a", "SSL_PROTOCOL": "TLSv1.3"}  # fmt: skip
    assert read(packet(**given))[6] == {"SERVER_NAME": "example.org", **given}
    for name in ("_", "~^(www|x)$", "a b", "a:80", ""):
        assert read(packet(SERVER_NAME=name))[6] == {}


@every_side
def test_the_id_of_a_request(read: Read) -> None:
    assert read(packet(REQUEST_ID="a-1"))[5] == "a-1"
    for text in ("a b", "a" * 129, "a\n"):
        assert read(packet(REQUEST_ID=text))[5] == ""


@every_side
def test_the_length_and_the_type_of_the_body(read: Read) -> None:
    head = read(packet(CONTENT_LENGTH="5", CONTENT_TYPE="a/b", HTTP_CONTENT_LENGTH="7"))[0]
    assert head.endswith(b"\r\ncontent-type: a/b\r\ncontent-length: 5\r\n\r\n")


@every_side
def test_of_a_name_that_is_there_twice_the_last_counts_unless_it_frames(read: Read) -> None:
    def twice(name: str, value: str) -> Found:
        return read(packet_of(pairs([*BASIC, (name, value)])))

    assert twice("PATH_INFO", "/y")[0].startswith(b"GET /y?a=1 ")
    assert twice("REMOTE_ADDR", "192.0.2.7")[1] == ("192.0.2.7", "4711")
    for name in ("REQUEST_METHOD", "REQUEST_URI", "CONTENT_LENGTH", "CONTENT_TYPE"):
        again = refused(f"{name} of the uwsgi packet is there twice.")
        assert twice(name, "") == again
        assert twice(name, str(dict(BASIC)[name])) == again


@every_side
@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("REQUEST_METHOD", "", "is no method"),
        ("REQUEST_METHOD", None, "is no method"),
        ("REQUEST_METHOD", "GET /evil HTTP/1.1\r\nX:", "is no method"),
        ("REQUEST_METHOD", "G\xc9T", "is no method"),
        ("REQUEST_URI", "/x HTTP/1.1\r\nX: ", "is no path"),
        ("REQUEST_URI", "/x\n", "is no path"),
        ("REQUEST_URI", "/\0", "is no path"),
        ("REQUEST_URI", "x", "is no path"),
        ("REQUEST_URI", "*", "is no path"),
        ("REQUEST_URI", "http://evil/", "is no path"),
        ("PATH_INFO", "x", "is no path"),
        ("QUERY_STRING", "a b", "has a control character"),
        ("QUERY_STRING", "a\r\nX: y", "has a control character"),
        ("SCRIPT_NAME", "app", "is no path"),
        ("SCRIPT_NAME", "//evil", "is no path"),
        ("SCRIPT_NAME", "/a/../b", "is no path"),
        ("SCRIPT_NAME", "/a\r\n", "is no path"),
        ("SCRIPT_NAME", "/a\\b", "is no path"),
        ("REMOTE_USER", "a\nb", "has a control character"),
        ("REMOTE_ADDR", "192.0.2.1, 192.0.2.2", "is no address"),
        ("REMOTE_ADDR", "192.0.2.01", "is no address"),
        ("REMOTE_ADDR", "fe80::1%eth0", "is no address"),
        ("REMOTE_ADDR", "192.0.2.1\0", "is no address"),
        ("REMOTE_ADDR", "::1\0", "is no address"),
        ("REMOTE_ADDR", "\xe9", "is no address"),
        ("REMOTE_PORT", "65536", "is no port"),
        ("REMOTE_PORT", "-1", "is no port"),
        ("SERVER_PORT", "123456", "is no port"),
        ("SERVER_PORT", "8\xb2", "is no port"),
        ("REQUEST_SCHEME", "ftp", "is no scheme"),
        ("UWSGI_SCHEME", "https, http", "is no scheme"),
    ],
)
def test_values_that_are_refused(read: Read, name: str, value: str | None, what: str) -> None:
    assert read(packet(**{name: value})) == refused(f"{name} of the uwsgi packet {what}.")


@every_side
def test_a_field_breaks_no_line(read: Read) -> None:
    for name, value in [
        ("CONTENT_LENGTH", "5\r\nTransfer-Encoding: chunked"),
        ("CONTENT_TYPE", "a\0"),
        ("HTTP_X", "a\r\nY: z"),
        ("HTTP_X", "a\nb"),
        ("HTTP_X", "a\rb"),
        ("HTTP_X", "\x7f"),
    ]:
        reason = "A field of the uwsgi packet has a control character."
        assert read(packet(**{name: value})) == refused(reason)


@every_side
def test_a_request_without_a_target(read: Read) -> None:
    missing = refused("REQUEST_URI of the uwsgi packet is missing.")
    assert read(packet(REQUEST_URI=None, PATH_INFO=None)) == missing
    assert read(packet_of(pairs([("REQUEST_METHOD", "GET")]))) == missing
