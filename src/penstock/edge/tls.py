"""What a worker needs to serve TLS: certificates with their keys, and how they are used.

The supervisor reads and checks the files, and passes their bytes to the workers. A transport takes
them by `penstock.transport.Transport.set_tls`, at the start and whenever they change.
"""

from __future__ import annotations

import binascii
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from penstock.edge.certificates import read_subject
from penstock.errors import PenstockError
from penstock.records import dataclass

ClientCertificates = Literal["none", "optional", "required"]
"""Whether a client is asked for a certificate, and whether it must have one."""

TlsVersion = Literal["1.2", "1.3"]

ALPN = ("http/1.1",)
"""The protocols that the server speaks over TLS, the one that it likes best first."""

DEFAULT_CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""The cipher suites of TLS 1.2: those with forward secrecy and authenticated encryption, as
Mozilla's intermediate configuration has them. All suites of TLS 1.3 have both."""

TICKET_KEY_BYTES = 32

TICKET_KEY_SECONDS = 12 * 3600.0
"""How long a ticket key encrypts: with it, what was recorded meanwhile can be decrypted."""

TICKET_KEYS = 3
"""The newest encrypts session tickets; the others are for tickets that clients have still."""

_PEM_LINE = 64


class TlsError(PenstockError):
    """Certificates cannot be used; the text names the pair and the reason."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate with its private key, checked against each other."""

    certificate: bytes
    """PEM: the leaf first, then its chain."""
    key: bytes
    """PEM, not encrypted."""
    names: tuple[str, ...]
    """DNS names (also ``*.example.org``) and IP addresses of the leaf, in lower case."""
    not_after: float
    """When the leaf expires, in Unix time."""

    @property
    def label(self) -> str:
        """What messages call it: its first name, and how many others it has."""
        if not self.names:
            return "a certificate without names"
        others = len(self.names) - 1
        return self.names[0] + (f" and {others} more" if others else "")

    def __repr__(self) -> str:
        """Return the names alone: a key must not get into a log."""
        return f"<CertificatePair {', '.join(self.names)}>"


@dataclass(frozen=True, slots=True)
class OrderedCertificates:
    """What the server has ordered itself, and challenges of open orders (setting: acme_domain)."""

    pairs: tuple[CertificatePair, ...] = ()
    """One for each name, in the order of the setting."""
    challenges: tuple[tuple[str, str], ...] = ()
    """See `TlsMaterial.challenges`."""
    alpn_challenges: tuple[CertificatePair, ...] = ()
    """See `TlsMaterial.alpn_challenges`."""


@dataclass(frozen=True, slots=True)
class TicketKeys:
    """The keys of session tickets: the newest encrypts, all decrypt."""

    keys: tuple[bytes, ...]
    """As `TlsMaterial.ticket_keys` has them."""
    rotate_at: float
    """When the next key comes, in seconds of the monotonic clock, which all processes share."""

    @classmethod
    def made(cls, now: float, older: Sequence[bytes] = ()) -> TicketKeys:
        """Return a new key, and those of the older ones that still decrypt."""
        fresh = os.urandom(TICKET_KEY_BYTES)
        return cls((fresh, *older[: TICKET_KEYS - 1]), now + TICKET_KEY_SECONDS)

    def __repr__(self) -> str:
        """Return how many keys there are: they must not get into a log."""
        return f"<TicketKeys {len(self.keys)}>"

    def to_message(self) -> dict[str, Any]:
        """Return it as what JSON can hold, for the supervisor that takes over in an upgrade."""
        return {"keys": [_text(key) for key in self.keys], "rotate_at": self.rotate_at}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> TicketKeys:
        """Return what `to_message` has made a message of."""
        return cls(tuple(map(_bytes, message["keys"])), float(message["rotate_at"]))


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Everything that TLS is served with."""

    pairs: tuple[CertificatePair, ...]
    """The first is for clients that ask for no name, or for one that no pair has. A name may have
    one pair of each kind of key, ECDSA and RSA. Where there is none yet, handshakes fail."""
    client_ca: bytes | None = None
    """PEM: the authorities whose client certificates are accepted."""
    client_certificates: ClientCertificates = "none"
    minimum_version: TlsVersion = "1.2"
    ciphers: str | None = None
    """OpenSSL's names, separated by colons; None is the default."""
    alpn: tuple[str, ...] = ALPN
    ticket_keys: tuple[bytes, ...] = ()
    """Random bytes, `TICKET_KEY_BYTES` each; the first encrypts session tickets, all decrypt."""
    challenges: tuple[tuple[str, str], ...] = ()
    """Token and key authorization of challenges (http-01), for listeners that redirect."""
    alpn_challenges: tuple[CertificatePair, ...] = ()
    """For clients that ask for the protocol ``acme-tls/1`` alone (tls-alpn-01, RFC 8737)."""
    key_log: str | None = None
    """The file to which the secrets of each session are appended (SSLKEYLOGFILE)."""

    def __repr__(self) -> str:
        """Return the pairs alone: ticket keys must not get into a log."""
        return f"<TlsMaterial {self.pairs}>"

    def to_message(self) -> dict[str, Any]:
        """Return it as what JSON can hold, for the channel to a worker."""
        return {
            "pairs": _texts(self.pairs),
            "client_ca": None if self.client_ca is None else _text(self.client_ca),
            "client_certificates": self.client_certificates,
            "minimum_version": self.minimum_version,
            "ciphers": self.ciphers,
            "alpn": self.alpn,
            "ticket_keys": [_text(key) for key in self.ticket_keys],
            "challenges": self.challenges,
            "alpn_challenges": _texts(self.alpn_challenges),
            "key_log": self.key_log,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> TlsMaterial:
        """Return what `to_message` has made a message of."""
        client_ca = message["client_ca"]
        return cls(
            _pairs(message["pairs"]),
            None if client_ca is None else _bytes(client_ca),
            message["client_certificates"],
            message["minimum_version"],
            message["ciphers"],
            tuple(message["alpn"]),
            tuple(map(_bytes, message["ticket_keys"])),
            tuple((token, answer) for token, answer in message["challenges"]),
            _pairs(message["alpn_challenges"]),
            message["key_log"],
        )


def pairs_by_name(
    pairs: Sequence[CertificatePair],
) -> dict[str, tuple[CertificatePair, ...]]:
    """Return the pairs that a client may get which asks for a name, in their order.

    Besides the names there are wildcards, for the names that `wildcard_of` makes these of. Two
    pairs of one name are for two kinds of keys: of each kind the first counts.
    """
    found: dict[str, list[CertificatePair]] = {}
    for pair in pairs:
        for name in pair.names:
            found.setdefault(name, []).append(pair)
    return {name: tuple(listed) for name, listed in found.items()}


def default_pairs(pairs: Sequence[CertificatePair]) -> tuple[CertificatePair, ...]:
    """Return the pairs for a client that asks for no name, or for one that no pair has.

    They are the first, and those for the same names with another kind of key.
    """
    return tuple(
        pair for pair in pairs if pair is pairs[0] or set(pair.names) >= set(pairs[0].names)
    )


def host_name(text: str) -> str | None:
    """Return the name of a host that a client asks for (SNI), in lower case.

    An address is not permitted (RFC 6066, section 3), and many clients send one: it is as good as
    no name, and empty. None is for what is no name of a host, for which the handshake fails. rustls
    decides in the same way.
    """
    if len(text) <= _LONGEST_NAME and _HOST_NAME.fullmatch(text):
        # Some clients send the dot of an absolute name, which the section has without it.
        return text.lower().removesuffix(".")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return ""
    return None


_LONGEST_NAME = 253
# Labels of RFC 1123, section 2.1, with the underscore. What ends in a number is no name, as for
# browsers: some systems take it for an address.
_LABEL = "(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?\Z){_LABEL}\.?")


def wildcard_of(name: str) -> str:
    """Return the wildcard that a name falls under: its first label alone is open (RFC 6125)."""
    return "*." + name.partition(".")[2]


def client_certificate_environ(der: bytes | None) -> dict[str, str]:
    """Return the environ of a connection whose client was asked for a certificate, and verified.

    ``der`` is the client's certificate; None where it has sent none.
    """
    if der is None:
        return {"SSL_CLIENT_VERIFY": "NONE"}
    lines = _text(der)
    body = "\n".join(lines[at : at + _PEM_LINE] for at in range(0, len(lines), _PEM_LINE))
    subject = read_subject(der)
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        # PEP 3333: text whose characters stand for bytes.
        "SSL_CLIENT_S_DN": subject.encode("utf-8").decode("latin-1"),
        "SSL_CLIENT_CERT": f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n",
    }


def _texts(pairs: Sequence[CertificatePair]) -> list[list[Any]]:
    return [
        [_text(pair.certificate), _text(pair.key), pair.names, pair.not_after] for pair in pairs
    ]


def _pairs(texts: Sequence[Sequence[Any]]) -> tuple[CertificatePair, ...]:
    return tuple(
        CertificatePair(_bytes(certificate), _bytes(key), tuple(names), not_after)
        for certificate, key, names, not_after in texts
    )


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _bytes(text: str) -> bytes:
    return binascii.a2b_base64(text)
