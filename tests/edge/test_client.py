"""Who a client is, and which networks may connect: one table, which is run on both transports."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edge.client import client_of, compile_networks, key_of
from penstock.transport.config import TransportConfig


def words_of(address: str) -> list[float]:
    """Return an address in words of 32 bits, as native code takes it in the test."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return [float(int.from_bytes(packed[i : i + 4], "big")) for i in range(0, len(packed), 4)]


def native_decide(config: TransportConfig, name: str, numbers: list[float]) -> float:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    decided: float = native.NativeTransport.decide(config, name, numbers)
    return decided


def native_key(address: str) -> int:
    halves = [
        native_decide(TransportConfig(), "key_of", [float(half), *words_of(address)])
        for half in (0, 1)
    ]
    return int(halves[0]) << 32 | int(halves[1])


def python_key(address: str) -> int:
    client = client_of(address)
    assert client is not None
    return key_of(client)


def python_admits(allow: list[str], deny: list[str], address: str) -> bool:
    networks = compile_networks(allow, deny)
    return networks is None or networks.admits(client_of(address))


def native_admits(allow: list[str], deny: list[str], address: str) -> bool:
    config = TransportConfig(networks=compile_networks(allow, deny))
    return native_decide(config, "networks_admit", words_of(address)) == 1


every_key = pytest.mark.parametrize("key", [python_key, native_key], ids=["python", "native"])
every_side = pytest.mark.parametrize(
    "admits", [python_admits, native_admits], ids=["python", "native"]
)


def test_the_clients_of_a_unix_socket_are_not_told_apart() -> None:
    assert client_of("") is None
    networks = compile_networks([], ["0.0.0.0/0", "::/0"])
    assert networks is not None
    assert networks.admits(None)


@every_key
def test_a_client_is_an_address_of_IPv4_or_a_64_of_IPv6(key: type) -> None:
    assert key("192.0.2.1") == key("192.0.2.1")
    assert key("192.0.2.1") != key("192.0.2.2")
    assert key("2001:db8::1") == key("2001:db8::ffff:1:2:3")
    assert key("2001:db8::1") != key("2001:db8:0:1::1")
    assert key("::ffff:192.0.2.1") == key("192.0.2.1")  # a listener for both families
    assert key("0.0.0.0") != key("::1")


def test_a_scope_is_no_part_of_a_client() -> None:
    assert client_of("fe80::1%eth0") == client_of("fe80::1")


TABLE: list[tuple[list[str], list[str], dict[str, bool]]] = [
    ([], ["10.0.0.0/8"], {"10.1.2.3": False, "11.0.0.0": True, "9.255.255.255": True,
                          "::a00:1": True}),
    (["10.0.0.0/8"], [], {"10.0.0.0": True, "10.255.255.255": True, "11.0.0.0": False,
                          "2001:db8::1": False}),
    # The smallest network decides, in whatever order they are given.
    (["10.0.0.0/8", "10.1.1.0/24"], ["10.1.0.0/16"],
     {"10.0.0.1": True, "10.1.0.1": False, "10.1.1.1": True, "10.1.2.1": False, "10.2.0.0": True}),
    (["10.0.0.0/8"], ["10.0.0.0/8"], {"10.0.0.1": False}),
    (["10.0.0.1"], ["0.0.0.0/0"], {"10.0.0.1": True, "10.0.0.0": False, "10.0.0.2": False}),
    ([], ["255.255.255.255", "0.0.0.0"],
     {"255.255.255.255": False, "255.255.255.254": True, "0.0.0.0": False, "0.0.0.1": True}),
    # The families are apart, whatever form an address has.
    ([], ["::/0"], {"192.0.2.1": True, "::ffff:192.0.2.1": True, "2001:db8::1": False}),
    ([], ["192.0.2.0/24"], {"::ffff:192.0.2.1": False, "::c000:201": True}),
    (["2001:db8::/32"], [], {"2001:db8:ffff::1": True, "2001:db9::": False, "192.0.2.1": False}),
]  # fmt: skip


@every_side
@pytest.mark.parametrize(("allow", "deny", "wanted"), TABLE)
def test_the_smallest_network_that_contains_an_address_decides(
    admits: type, allow: list[str], deny: list[str], wanted: dict[str, bool]
) -> None:
    assert {address: admits(allow, deny, address) for address in wanted} == wanted


def test_without_networks_there_is_nothing_to_look_up() -> None:
    assert compile_networks([], []) is None


def network(address: int, prefix: int) -> str:
    return str(ipaddress.ip_network((address, prefix), strict=False))


# Few bits vary, so that the networks contain one another.
near = st.integers(0, 63).map(lambda low: (10 << 24) | low)
networks = st.lists(st.builds(network, near, st.integers(26, 32)), max_size=12)


def plainly_admits(allow: list[str], deny: list[str], address: int) -> bool:
    """Return what the rule says, by looking at each network."""
    found = [(ipaddress.ip_network(text).prefixlen, verdict)
             for verdict, texts in ((True, allow), (False, deny)) for text in texts
             if ipaddress.ip_address(address) in ipaddress.ip_network(text)]  # fmt: skip
    if not found:
        return not allow
    return min(found, key=lambda pair: (-pair[0], pair[1]))[1]


@given(networks, networks, near)
def test_the_look_up_says_what_a_look_at_each_network_says(
    allow: list[str], deny: list[str], address: int
) -> None:
    text = str(ipaddress.ip_address(address))
    wanted = plainly_admits(allow, deny, address)
    assert python_admits(allow, deny, text) is wanted
    assert native_admits(allow, deny, text) is wanted
