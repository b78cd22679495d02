"""What a PROXY header says: one table, which is run on both transports.

The rules are those of HAProxy's specification, "The PROXY protocol", versions 1 and 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edge.proxy_protocol import (
    SIGNATURE,
    VERSIONS,
    ProxyHeader,
    crc32c,
    explained,
    parse,
    scan,
)
from penstock.http1 import ProtocolError
from penstock.transport.config import TransportConfig

Found = int | str | tuple[int, tuple[str, str] | None, dict[str, str]]
Read = Callable[[str, bytes], Found]

MOST = TransportConfig().proxy_header_bytes


def python_read(versions: str, data: bytes) -> Found:
    try:
        size, complete = scan(data, VERSIONS[versions], MOST)
        if not complete:
            return size
        header = parse(data[:size])
    except ProtocolError as error:
        return error.reason
    return size, (header.address, header.port) if header.address else None, header.variables


def native_read(versions: str, data: bytes) -> Found:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    config = TransportConfig(proxy_versions=VERSIONS[versions])
    found: Found = native.NativeTransport.read_proxy_header(config, data)
    return found


every_side = pytest.mark.parametrize("read", [python_read, native_read], ids=["python", "native"])


def v2(
    addresses: bytes = b"", *values: bytes, family: int = 0x11, command: int = 0x21, more: int = 0
) -> bytes:
    """Return a header of version 2; ``more`` is added to the length that it tells."""
    block = addresses + b"".join(values)
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) + more) + block


def value(kind: int, data: bytes) -> bytes:
    return struct.pack("!BH", kind, len(data)) + data


def tls(flags: int, verified: int, *values: bytes) -> bytes:
    return value(0x20, struct.pack("!BI", flags, verified) + b"".join(values))


def summed(header: bytes) -> bytes:
    """Return a header with the sum in the place of the zeros that its last four bytes are."""
    return header[:-4] + crc32c(header).to_bytes(4, "big")


TCP4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 4711, 443)
TCP6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "00" * 15 + "01") + struct.pack("!HH", 1, 2)
MAPPED = bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + bytes(16) + struct.pack("!HH", 1, 2)
CLIENT = ("192.0.2.1", "4711")
HTTPS = {"wsgi.url_scheme": "https", "HTTPS": "on"}
HAPROXYS = tls(0x01, 0, value(0x21, b"TLSv1.3"), value(0x23, b"TLS_AES_256_GCM_SHA384"))
CERTIFIED = tls(0x07, 0, value(0x21, b"TLSv1.2"), value(0x22, "Zoë".encode()))

MALFORMED = "The PROXY header is malformed."
NONE = "The connection does not begin with a PROXY header."

COMPLETE: list[tuple[bytes, tuple[str, str] | None, dict[str, str]]] = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", CLIENT, {}),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
     ("255.255.255.255", "65535"), {}),
    (b"PROXY TCP6 2001:db8::1 ::1 0 443\r\n", ("2001:db8::1", "0"), {}),
    (b"PROXY TCP6 2001:DB8:0::1 ::1 1 443\r\n", ("2001:db8::1", "1"), {}),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", CLIENT, {}),
    (b"PROXY UNKNOWN\r\n", None, {}),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, {}),
    (v2(TCP4), CLIENT, {}),
    (v2(TCP6, family=0x21), ("2001:db8::1", "1"), {}),
    (v2(MAPPED, family=0x21), ("192.0.2.1", "1"), {}),
    (v2(bytes(216), family=0x31), None, {}),
    (v2(family=0x00), None, {}),
    (v2(b"\x04\0\1x", family=0x00), None, {}),
    # LOCAL: a health check. What follows is not looked at.
    (v2(command=0x20, family=0x00), None, {}),
    (v2(TCP4, command=0x20), None, {}),
    (v2(b"anything", command=0x20, family=0xFF), None, {}),
    # Values behind the addresses.
    (v2(TCP4, value(0x04, bytes(7)), value(0xEA, b"\x01vpce-1"), value(0x05, b"id")), CLIENT, {}),
    (v2(TCP4, HAPROXYS), CLIENT,
     HTTPS | {"SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
              "SSL_CLIENT_VERIFY": "NONE"}),
    (v2(TCP4, value(0x02, b"example.org"), HAPROXYS), CLIENT,
     HTTPS | {"SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
              "SSL_SERVER_NAME": "example.org", "SSL_CLIENT_VERIFY": "NONE"}),
    (v2(TCP4, CERTIFIED), CLIENT,
     HTTPS | {"SSL_PROTOCOL": "TLSv1.2", "SSL_CLIENT_S_DN_CN": "Zo\xc3\xab",
              "SSL_CLIENT_VERIFY": "SUCCESS"}),
    (v2(TCP4, tls(0x03, 18)), CLIENT, HTTPS | {"SSL_CLIENT_VERIFY": "FAILED"}),
    (v2(TCP4, tls(0x05, 0)), CLIENT, HTTPS | {"SSL_CLIENT_VERIFY": "SUCCESS"}),
    (v2(TCP4, tls(0x00, 0, value(0x21, b"TLSv1.3"))), CLIENT, {}),  # it was not secured
    (v2(TCP4, value(0x02, b"example.org")), CLIENT, {}),
    (summed(v2(TCP4, value(0x04, b"x"), value(0x03, bytes(4)))), CLIENT, {}),
]  # fmt: skip

REFUSED: list[tuple[bytes, str]] = [
    (b"GET / HTTP/1.1\r\n", NONE),
    (b"\x16\x03\x01", NONE),
    (b"P\r\n", NONE),
    (b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", NONE),
    (b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 1\r\n", NONE),
    (b"\r\n\r\n\r\n", NONE),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", MALFORMED),
    (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3 1 1\r\n", MALFORMED),
    (b"PROXY TCP4 ::1 ::1 1 1\r\n", MALFORMED),
    (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", MALFORMED),
    (b"PROXY TCP6 fe80::1%a ::1 1 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", MALFORMED),
    (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", MALFORMED),
    (b"PROXY UNKNOWNS\r\n", MALFORMED),
    (b"PROXY UNKNOWN \x01\r\n", MALFORMED),
    (b"PROXY \r\n", MALFORMED),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n\r\n", MALFORMED),
    (b"PROXY UNKNOWN " + b"x" * 93, MALFORMED),  # 107 bytes without a line end
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", MALFORMED),
    (v2(TCP4, command=0x11), MALFORMED),  # another version
    (v2(TCP4, command=0x22), MALFORMED),  # another command
    (v2(TCP4, family=0x12), MALFORMED),  # datagrams
    (v2(TCP4, family=0x41), MALFORMED),
    (v2(TCP4[:11]), MALFORMED),
    (v2(TCP4, family=0x21), MALFORMED),
    (v2(TCP4, b"\x04"), MALFORMED),
    (v2(TCP4, b"\x04\0"), MALFORMED),
    (v2(TCP4, b"\x04\0\2x"), MALFORMED),
    (v2(TCP4, value(0x20, b"\1\0\0\0")), MALFORMED),
    (v2(TCP4, tls(1, 0, b"\x21\0\1")), MALFORMED),
    (v2(TCP4, tls(1, 0, value(0x21, b"a\0b"))), MALFORMED),
    (v2(TCP4, tls(1, 0, value(0x21, b""))), MALFORMED),
    (v2(TCP4, tls(1, 0, value(0x22, b"x" * 256))), MALFORMED),
    (v2(TCP4, value(0x03, bytes(4))), MALFORMED),  # not the sum
    (v2(TCP4, value(0x03, bytes(3))), MALFORMED),
    (summed(v2(TCP4, value(0x03, bytes(4)), value(0x03, bytes(4)))), MALFORMED),
    (v2(TCP4, value(0x04, bytes(4096))), "The PROXY header is too long."),
    (v2(more=0xFFFF), "The PROXY header is too long."),
]  # fmt: skip


@every_side
def test_a_header_names_the_client_and_its_tls(read: Read) -> None:
    wrong = []
    for data, client, variables in COMPLETE:
        for behind in (b"", b"GET / HTTP/1.1\r\n", b"PROXY UNKNOWN\r\n"):
            found = read("auto", data + behind)
            if found != (len(data), client, variables):
                wrong.append(f"{data!r}: {found}")
        for size in range(1, len(data)):
            if read("auto", data[:size]) != size:
                wrong.append(f"{data[:size]!r} is not incomplete")
    assert not wrong, "\n".join(wrong)


@every_side
def test_anything_else_is_refused(read: Read) -> None:
    wrong = [
        f"{data!r}: {found}" for data, reason in REFUSED if (found := read("auto", data)) != reason
    ]
    assert not wrong, "\n".join(wrong)


@every_side
def test_only_the_versions_that_the_setting_names_are_taken(read: Read) -> None:
    first, second = COMPLETE[0][0], v2(TCP4)
    assert isinstance(read("v1", first), tuple)
    assert read("v1", second) == "The PROXY header has version 2."
    assert isinstance(read("v2", second), tuple)
    assert read("v2", first) == "The PROXY header has version 1."


pieces = st.sampled_from(
    [b"PROXY ", b"TCP4 ", b"1.2.3.4 ", b"80", b" ", b"\r\n", SIGNATURE, b"\x21\x11\0\x0c", TCP4,
     b"\x20\0\5\1\0\0\0\0", b"\x03\0\4", b"\0", b"\x21\x21\0\x30", b"::1 ", HAPROXYS]
)  # fmt: skip


@given(st.lists(pieces, max_size=8).map(b"".join))
def test_both_transports_read_the_same(data: bytes) -> None:
    for versions in ("v1", "v2", "auto"):
        assert native_read(versions, data) == python_read(versions, data)


@given(st.binary(max_size=80))
def test_whatever_the_addresses_and_values_are_both_read_the_same(block: bytes) -> None:
    for family in (0x00, 0x11, 0x21):
        data = v2(block, family=family)
        assert native_read("auto", data) == python_read("auto", data)


def test_rfc4960_appendix_b_the_sum_is_that_of_the_known_texts() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_header_says_nothing_where_it_names_no_client() -> None:
    assert parse(b"PROXY UNKNOWN\r\n") == ProxyHeader()


def test_an_error_of_a_later_request_stays_what_it_is() -> None:
    error = ProtocolError(400, "The request line is not 'method target version'.")
    error.beginning = "PROXY TCP4 1.2.3.4"
    assert explained(error, first=False) is error
    assert explained(error, first=True).setting == "proxy_protocol"
