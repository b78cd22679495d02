"""The text of an address, and which text is one, are those of `ipaddress`."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

from penstock.edge.addresses import shown
from penstock.http1.grammar import is_host


def packed_addresses() -> list[bytes]:
    chosen = random.Random(3)
    groups = [0, 0, 0, 1, 0xFFFF, 0x0A00, 0x2001]
    return [
        b"".join(chosen.choice(groups).to_bytes(2, "big") for _ in range(8)) for _ in range(3000)
    ]


def test_an_address_is_shown_as_the_standard_library_shows_it() -> None:
    mapped = [bytes(10) + b"\xff\xff" + packed[:4] for packed in packed_addresses()[:100]]
    for packed in [*packed_addresses(), *mapped]:
        address = IPv6Address(packed)
        assert shown(packed) == str(address.ipv4_mapped or address)
        assert shown(packed[:4]) == str(IPv4Address(packed[:4]))


def is_address(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def test_a_host_in_brackets_is_an_address_as_the_standard_library_reads_it() -> None:
    chosen = random.Random(5)
    parts = [
        "::",
        ":",
        "0",
        "1",
        "ab",
        "FFFF",
        "12345",
        "1.2.3.4",
        "1.2.3",
        "256.1.1.1",
        "01.2.3.4",
    ]
    found = {True: 0, False: 0}
    for _ in range(30_000):
        if chosen.random() < 0.5:
            count = chosen.choice((6, 7, 8, 9))
            text = ":".join(chosen.choices(["0", "1", "ffff", "", "10.0.0.1"], k=count))
        else:
            text = "".join(chosen.choices(parts, k=chosen.randrange(1, 9)))
        if 2 <= len(text) <= 45:
            found[is_address(text)] += 1
            assert is_host(f"[{text}]") is is_address(text), text
    assert min(found.values()) > 100
