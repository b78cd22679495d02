"""What a worker needs to serve TLS: certificates with their keys, and how they are used.

The supervisor reads and checks the files, and passes their bytes to the workers. A transport takes
them by `penstock.transport.Transport.set_tls`, at the start and whenever they change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.errors import PenstockError

ClientCertificates = Literal["none", "optional", "required"]
"""Whether a client is asked for a certificate, and whether it must have one."""

TlsVersion = Literal["1.2", "1.3"]

ALPN = ("http/1.1",)
"""The protocols that the server speaks over TLS, the one that it likes best first."""

TICKET_KEY_BYTES = 32


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

    def __repr__(self) -> str:
        """Return the names alone: a key must not get into a log."""
        return f"<CertificatePair {', '.join(self.names)}>"


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Everything that TLS is served with."""

    pairs: tuple[CertificatePair, ...]
    """The first is for clients that ask for no name, or for one that no pair has. A name may have
    one pair of each kind of key, ECDSA and RSA."""
    client_ca: bytes | None = None
    """PEM: the authorities whose client certificates are accepted."""
    client_certificates: ClientCertificates = "none"
    minimum_version: TlsVersion = "1.2"
    ciphers: str | None = None
    """OpenSSL's names, separated by colons; None is the default."""
    alpn: tuple[str, ...] = ALPN
    ticket_keys: tuple[bytes, ...] = ()
    """Random bytes, `TICKET_KEY_BYTES` each; the first encrypts session tickets, all decrypt."""
    key_log: str | None = None
    """The file to which the secrets of each session are appended (SSLKEYLOGFILE)."""

    def __repr__(self) -> str:
        """Return the pairs alone: ticket keys must not get into a log."""
        return f"<TlsMaterial {self.pairs}>"
