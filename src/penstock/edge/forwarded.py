"""What a trusted proxy says about a request: who the client is, and what it asked the proxy for.

The policy is one object, made from the settings. It decides which peers are trusted, and reads the
fields of those alone. A list in which each proxy has added an entry is read from its end: the last
entry is the peer's own, and the entry before it counts only if the last one names another trusted
proxy. What stands left of the first hop that is not trusted is a client's, and is not parsed.

Native code has the same functions in ``reactor/src/forwarded.rs``; ``tests/edge/test_forwarded.py``
runs one table on both.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

from penstock import percent
from penstock.edge.addresses import shown
from penstock.edge.client import Networks, client_of, compile_networks
from penstock.http1 import ProtocolError
from penstock.http1.grammar import is_host
from penstock.records import dataclass

UNIX_PEER = "unix"
"""In `forwarded_allow_ips` and `proxy_allow_from`: the peers of unix sockets."""
ANY_PEER = "*"
"""The same: every peer. As a hop of a list, only a peer that a network names is trusted."""

_Named = TypeVar("_Named")

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PORT = re.compile(r"[0-9]{1,5}")
# RFC 7239, section 6.3.
_OBFUSCATED = re.compile(r"_[0-9A-Za-z._\-]+")
_QUOTED = r'"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)"'
_PAIR = re.compile(rf"({_TOKEN})=(?:({_TOKEN})|{_QUOTED})")
_ESCAPE = re.compile(r"\\(.)")
# Segments of RFC 3986, section 3.3, without the comma, which separates the entries. What is refused
# would make another URL of what an application makes of it: an empty segment (a URL that begins
# with // names another host), . and .., slashes of both kinds in escapes, control characters.
_PREFIX = re.compile(
    r"(?:/(?!(?:\.|%2[Ee]){1,2}(?:/|\Z))"
    r"(?:[0-9A-Za-z\-._~!$&'()*+;=:@\x80-\xff]|%(?![01]|2[Ff]|5[Cc]|7[Ff])[0-9A-Fa-f]{2})+)*/?"
)
REQUEST_ID = re.compile(r"[0-9A-Za-z._:+/=@\-]+")
"""What a proxy may give as the id of a request."""
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Node:
    """One hop, as an entry of a list names it."""

    address: str
    """In its usual form; empty for a unix socket, and where the proxy does not tell."""
    port: str = field(compare=False)
    """The port, if it is told."""
    unix: bool = False


@dataclass(slots=True)
class Forwarded:
    """What trusted proxies say of a request. Text is empty, and a node None, where they do not."""

    client: Node | None = None
    scheme: str = ""
    """``http`` or ``https``."""
    host: str = ""
    """Takes the place of Host."""
    port: str = ""
    """The port to which the client connected."""
    prefix: str = ""
    """What the proxies have removed from the beginning of the path, not decoded."""
    script_name: str = ""
    """What the path begins with that is SCRIPT_NAME, not decoded."""
    request_id: str = ""

    def complete(self, said: Forwarded) -> None:
        """Fill what the fields leave out with what the front-end says that passed them on."""
        if not (self.scheme or self.host or self.port):
            self.port = said.port  # else it is the one of another hop
        self.scheme = self.scheme or said.scheme
        self.script_name = self.script_name or said.script_name
        self.request_id = self.request_id or said.request_id

    def set_mount(self, environ: dict[str, Any]) -> None:
        """Set what the path of a request is split by, before it is."""
        if self.script_name:
            environ["SCRIPT_NAME"] = _decoded(self.script_name)

    def set_in(self, environ: dict[str, Any]) -> None:
        """Set the variables of a request that follow, but for the client's address."""
        if self.scheme:
            environ["wsgi.url_scheme"] = self.scheme
            if self.scheme == "https":
                environ["HTTPS"] = "on"
            else:
                environ.pop("HTTPS", None)
        if self.host:
            environ["HTTP_HOST"] = self.host
            environ["SERVER_PORT"] = (
                _port_of(self.host) or _DEFAULT_PORTS[environ["wsgi.url_scheme"]]
            )
        if self.port:
            environ["SERVER_PORT"] = self.port
        if self.prefix:
            environ["SCRIPT_NAME"] = _decoded(self.prefix) + environ["SCRIPT_NAME"]


@dataclass(frozen=True, slots=True)
class Peers:
    """Which peers are trusted: by network, all, and those of unix sockets."""

    networks: Networks
    any_peer: bool = False
    unix: bool = False

    @classmethod
    def of(cls, allowed: Sequence[str]) -> Peers:
        """Return the peers that a setting names: networks, ``unix`` and ``*``."""
        named = [text for text in allowed if text not in (UNIX_PEER, ANY_PEER)]
        others = () if named else ("0.0.0.0/0", "::/0")
        networks = compile_networks(named, others)
        assert networks is not None  # one of the two is given
        return cls(networks, ANY_PEER in allowed, UNIX_PEER in allowed)

    def trusts(self, address: str) -> bool:
        """Return True for a trusted peer; the address of a unix socket is empty."""
        return self.any_peer or (self._names(address) if address else self.unix)

    def trusts_hop(self, node: Node) -> bool:
        """Return True if an entry of a list names a trusted proxy.

        ``*`` is for peers: if each hop were trusted, the client would choose its own address.
        """
        if node.address:
            return self._names(node.address)
        return node.unix and self.unix

    def _names(self, address: str) -> bool:
        client = client_of(address)
        return client is not None and self.networks.admits(client)


@dataclass(frozen=True, slots=True)
class ForwardedPolicy:
    """Which peers are believed, and which of their fields."""

    peers: Peers
    fields: frozenset[str]
    """The names of the believed fields, in lower case."""
    secure: tuple[tuple[str, str], ...] = ()
    """Further fields, in lower case, each with the value that means https; any other means http."""
    drops: bool = False
    """Whether the application does not get the forwarding fields of other peers."""
    request_id_length: int = 128
    """The most characters of a request id that a proxy has given: no known format has more."""

    @classmethod
    def of(cls, allowed: Sequence[str], believed: Sequence[str], *, drops: bool) -> ForwardedPolicy:
        """Return the policy that the settings say; ``believed`` has names and ``NAME=VALUE``."""
        pairs = [text.partition("=") for text in believed]
        return cls(
            Peers.of(allowed),
            frozenset(name for name, equals, _ in pairs if not equals),
            tuple((name, value) for name, equals, value in pairs if equals),
            drops,
        )

    def names_in(self, fields: Mapping[str, str]) -> list[str]:
        """Return which fields of a request speak of another hop."""
        named = {"forwarded", *(name for name, _ in self.secure)}
        return [name for name in fields if name.startswith("x-forwarded-") or name in named]

    def read(self, fields: Mapping[str, str]) -> Forwarded | None:
        """Return what a trusted peer says in the fields of a request; None if nothing.

        Raises `ProtocolError` (400) if it is malformed or contradicts itself.
        """
        if not any(fields.get(name) for name in self.fields) and not self.secure:
            return None
        found = Forwarded()
        clients, schemes, hosts = _Said[Node](), _Said[str](), _Said[str]()
        depth = 1
        if value := self._value(fields, "x-forwarded-for"):
            client, depth = self._client(value)
            clients.add("x-forwarded-for", client)
        if value := self._value(fields, "forwarded"):
            elements, named = self._elements(value)
            if named is not None:
                clients.add("forwarded", named)
            schemes.add_some("forwarded", _last_said(elements, "proto"), _scheme)
            hosts.add_some("forwarded", _last_said(elements, "host"), _host)
        text = self._entry(fields, "x-forwarded-proto", depth)
        schemes.add_some("x-forwarded-proto", text, _scheme)
        for name, secure in self.secure:
            if value := _entry(fields.get(name, ""), depth):
                schemes.add(name, "https" if value == secure else "http")
        text = self._entry(fields, "x-forwarded-host", depth)
        hosts.add_some("x-forwarded-host", text, _host)
        found.client = clients.agreed
        found.scheme = schemes.agreed or ""
        found.host = hosts.agreed or ""
        if value := self._entry(fields, "x-forwarded-port", depth):
            found.port = _port(value, "x-forwarded-port")
        if value := self._entry(fields, "x-forwarded-prefix", depth):
            found.prefix = _prefix(value, "x-forwarded-prefix")
        if value := self._value(fields, "script_name"):
            found.script_name = _prefix(value, "script_name")
            if found.prefix:
                raise _contradiction("x-forwarded-prefix", "script_name")
        value = self._value(fields, "x-request-id")
        if 0 < len(value) <= self.request_id_length and REQUEST_ID.fullmatch(value):
            found.request_id = value
        return found

    def _value(self, fields: Mapping[str, str], name: str) -> str:
        return fields.get(name, "") if name in self.fields else ""

    def _entry(self, fields: Mapping[str, str], name: str, depth: int) -> str:
        value = self._value(fields, name)
        return _entry(value, depth) if value else ""

    def _client(self, value: str) -> tuple[Node, int]:
        """Return the client that X-Forwarded-For names, and at which entry from the end."""
        end, depth = len(value), 0
        while True:
            comma = value.rfind(",", 0, end)
            node = _node(value[comma + 1 : end].strip(" \t"), "x-forwarded-for", bare_ipv6=True)
            depth += 1
            if comma < 0 or not self.peers.trusts_hop(node):
                return node, depth
            end = comma

    def _elements(self, value: str) -> tuple[list[dict[str, str]], Node | None]:
        """Return the elements of Forwarded, from the last one on, and the client that they name."""
        elements: list[dict[str, str]] = []
        end, client = len(value), None
        while True:
            comma = _last_comma(value, end)
            element = _pairs(value[comma + 1 : end].strip(" \t"))
            elements.append(element)
            if "for" not in element:
                return elements, client
            client = _node(element["for"], "forwarded", bare_ipv6=False)
            if comma < 0 or not self.peers.trusts_hop(client):
                return elements, client
            end = comma


TRUSTS_NOBODY = ForwardedPolicy(Peers.of(()), frozenset())
"""The policy under which no peer is believed."""


class _Said(dict[str, _Named]):
    """What each field says of the same thing."""

    def add(self, name: str, value: _Named) -> None:
        """Add what a field says; raises `ProtocolError` if another one says something else."""
        for other, said in self.items():
            if said != value:
                raise _contradiction(other, name)
        self[name] = value

    def add_some(self, name: str, value: str, read: Callable[[str, str], _Named]) -> None:
        """Do the same with text that is still to be read; empty text says nothing."""
        if value:
            self.add(name, read(value, name))

    @property
    def agreed(self) -> _Named | None:
        return next(iter(self.values()), None)


def _malformed(name: str) -> ProtocolError:
    return ProtocolError(
        400, f"The field {_shown(name)} of the proxy is malformed.", setting="forwarded_headers"
    )


def _contradiction(one: str, other: str) -> ProtocolError:
    return ProtocolError(
        400,
        f"The fields {_shown(one)} and {_shown(other)} of the proxy contradict each other.",
        setting="forwarded_headers",
    )


def _shown(name: str) -> str:
    """Return a field's name as it is usually written."""
    return name.upper() if "_" in name else name.title()


def _entry(value: str, depth: int) -> str:
    """Return the entry of a list at a place from the end, or its first if it has fewer."""
    end = len(value)
    while True:
        comma = value.rfind(",", 0, end)
        depth -= 1
        if comma < 0 or not depth:
            return value[comma + 1 : end].strip(" \t")
        end = comma


def _node(text: str, name: str, *, bare_ipv6: bool) -> Node:
    """Return the hop that an entry names (RFC 7239, section 6). Raises `ProtocolError`."""
    if bare_ipv6:
        if text == "unix:":  # what nginx writes for a peer of a unix socket
            return Node("", "", unix=True)
        if text.count(":") > 1 and text[0] != "[":
            return Node(_ipv6(text, name), "")
    if text[:1] == "[":
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise _malformed(name)
        address, colon, port = _ipv6(literal, name), rest[:1], rest[1:]
    else:
        host, colon, port = text.partition(":")
        address = _ipv4(host, name)
    port = _node_port(port, name) if colon else ""
    return Node(address, port if address else "")


def _ipv4(text: str, name: str) -> str:
    """Return an address, or empty text for one that the proxy does not tell."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        if text.lower() == "unknown" or _OBFUSCATED.fullmatch(text):
            return ""
        raise _malformed(name) from None
    return text


def _ipv6(text: str, name: str) -> str:
    address = _ipv6_address(text)
    if address is None:
        raise _malformed(name)
    return address


def _ipv6_address(text: str) -> str | None:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return None
    return shown(packed)


def address_of(text: str) -> str | None:
    """Return an address in its usual form; None for what is none."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):  # NUL is a ValueError
        return _ipv6_address(text) if "\0" not in text else None
    return text


def _node_port(text: str, name: str) -> str:
    return "" if _OBFUSCATED.fullmatch(text) else _port(text, name)


def _port(text: str, name: str) -> str:
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise _malformed(name)
    return str(int(text))


def _scheme(text: str, name: str) -> str:
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise _malformed(name)
    return scheme


def _host(text: str, name: str) -> str:
    if not is_host(text):
        raise _malformed(name)
    return text


def _port_of(host: str) -> str:
    port = host.rpartition(":")[2] if not host.endswith("]") else ""
    return port if port != host else ""


def is_prefix(path: str) -> bool:
    """Return True if a path, not decoded, can be what another one begins with."""
    return bool(_PREFIX.fullmatch(path))


def _prefix(text: str, name: str) -> str:
    if not is_prefix(text):
        raise _malformed(name)
    return text.removesuffix("/")


def _decoded(path: str) -> str:
    return percent.decoded(path)


def _last_comma(value: str, end: int) -> int:
    """Return where the last comma before ``end`` is that is in no quoted string; -1 without one.

    Read from the end, so that what a client has left open does not reach into a proxy's entry.
    """
    quoted = False
    place = end
    while place > 0:
        place -= 1
        character = value[place]
        if character == '"':
            escapes = place
            while quoted and escapes > 0 and value[escapes - 1] == "\\":
                escapes -= 1
            if (place - escapes) % 2 == 0:
                quoted = not quoted
            place = escapes
        elif character == "," and not quoted:
            return place
    return -1


def _pairs(element: str) -> dict[str, str]:
    """Return the parameters of an element of Forwarded (RFC 7239, section 4)."""
    pairs: dict[str, str] = {}
    place = 0
    while place < len(element):
        match = _PAIR.match(element, place)
        if match is not None:
            name = match[1].lower()
            if name in pairs:
                raise _malformed("forwarded")
            pairs[name] = match[2] if match[2] is not None else _ESCAPE.sub(r"\1", match[3])
            place = match.end()
            while place < len(element) and element[place] in " \t":
                place += 1
        if place < len(element):
            if element[place] != ";":
                raise _malformed("forwarded")
            place += 1
            while place < len(element) and element[place] in " \t":
                place += 1
    if not pairs:
        raise _malformed("forwarded")
    return pairs


def _last_said(elements: Sequence[Mapping[str, str]], parameter: str) -> str:
    """Return a parameter of the hop that is nearest to the client, of those that have it."""
    for element in reversed(elements):
        if parameter in element:
            return element[parameter]
    return ""
