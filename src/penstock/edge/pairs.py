"""Checking a certificate with its key, each failure with its own reason.

``ssl`` alone knows which key belongs to a certificate, and takes both from files alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.edge.certificates import der_of, pem_blocks, read_certificate
from penstock.edge.tls import CertificatePair, TlsError
from penstock.system.temporary_files import default_directory, named_file

if TYPE_CHECKING:
    import ssl

_LEAST_RSA_BITS = 2048
_LEAST_EC_BITS = 256
"""Shorter keys are refused by clients, and by OpenSSL's security level 2."""

_DER_SEQUENCE = b"\x30"
_PKCS12_VERSION = b"\x02\x01\x03"  # RFC 7292, section 4; keys have 0 or 1, certificates none
_MISMATCHES = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""What OpenSSL says of a key that does not belong to a certificate, also of another kind."""


def checked_pair(
    certificate: bytes, key: bytes, certificate_path: str, key_path: str
) -> CertificatePair:
    """Return the pair that two PEM files hold, checked; the paths are for messages.

    Raises `TlsError`. Whether it is valid at this time is not checked here.
    """
    chain = certificates_in(certificate, certificate_path)
    own_key = _key_in(key, key_path)
    try:
        leaf = read_certificate(der_of(chain[0]))
    except ValueError as error:
        raise TlsError(f"{certificate_path} has a malformed certificate: {error}") from None
    least = {"RSA": _LEAST_RSA_BITS, "EC": _LEAST_EC_BITS}.get(leaf.key_kind, 0)
    if 0 < leaf.key_bits < least:
        raise TlsError(
            f"{certificate_path} has a weak key: {leaf.key_kind} of {leaf.key_bits} bits, and "
            f"clients want {least}"
        )
    pair = CertificatePair(b"".join(chain), own_key, leaf.names, leaf.not_after)
    _check_match(pair, chain, certificate_path, key_path)
    return pair


def certificates_in(text: bytes, path: str) -> list[bytes]:
    """Return the certificates of a PEM file, each with a line end. Raises `TlsError`."""
    found = [block + b"\n" for label, block in pem_blocks(text) if label == "CERTIFICATE"]
    if not found:
        raise TlsError(f"{path} has no certificate in PEM{_advice(text, 'x509 -inform der')}")
    return found


def _advice(text: bytes, command: str) -> str:
    """Return how PEM is made of another form; empty where that is not known.

    ``command`` is OpenSSL's for DER.
    """
    if not text.startswith(_DER_SEQUENCE):
        return ""
    length = text[1] & 0x7F if text[1:2] > b"\x80" else 0
    if text.startswith(_PKCS12_VERSION, 2 + length):
        return ": it is PKCS#12, and openssl pkcs12 -in FILE -nodes makes PEM of it"
    return f": it is DER, and openssl {command} -in FILE makes PEM of it"


def has_key(text: bytes) -> bool:
    """Return True if a PEM file has a private key."""
    return any(label.endswith("PRIVATE KEY") for label, _ in pem_blocks(text))


def _key_in(text: bytes, path: str) -> bytes:
    for label, block in pem_blocks(text):
        if label == "ENCRYPTED PRIVATE KEY" or (
            label.endswith("PRIVATE KEY") and b"Proc-Type: 4,ENCRYPTED" in block
        ):
            raise TlsError(
                f"the key in {path} is encrypted, and the server cannot ask for a password: "
                "openssl pkey -in FILE writes it without one"
            )
        if label.endswith("PRIVATE KEY"):
            return block + b"\n"
    raise TlsError(f"{path} has no private key in PEM{_advice(text, 'pkey -inform der')}")


def _check_match(
    pair: CertificatePair, chain: list[bytes], certificate_path: str, key_path: str
) -> None:
    import ssl  # where there is a certificate only, to keep the start short

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_pair(context, pair)
        return
    except ssl.SSLError as error:
        reason = error.reason or "a part of these is damaged"
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason not in _MISMATCHES:
        raise TlsError(
            f"{certificate_path} with the key in {key_path} cannot be used: "
            f"{reason.lower().replace('_', ' ')}"
        )
    for index, other in enumerate(chain[1:]):
        turned = [other, *chain[: index + 1], *chain[index + 2 :]]
        if _fits(CertificatePair(b"".join(turned), pair.key, (), 0.0)):
            raise TlsError(
                f"the first certificate in {certificate_path} has to be the server's own: the key "
                f"in {key_path} belongs to number {index + 2}"
            )
    raise TlsError(
        f"the key in {key_path} does not belong to the certificate in {certificate_path} (for "
        f"{pair.label})"
    )


def _fits(pair: CertificatePair) -> bool:
    import ssl

    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    except (OSError, ValueError):
        return False
    return True


def load_pair(context: ssl.SSLContext, pair: CertificatePair) -> None:
    """Have a context use a pair. Raises OSError (`ssl.SSLError`) or ValueError."""

    def no_password() -> str:
        raise ValueError("the key is encrypted")

    with _private_file(pair.certificate + pair.key) as path:
        context.load_cert_chain(path, password=no_password)


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """Give ``content`` a path that no other user can open: ``ssl`` takes keys from files alone."""
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("penstock-key", os.MFD_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            path = f"/proc/self/fd/{descriptor}"
            if os.path.exists(path):  # there may be no /proc, as in a chroot
                os.write(descriptor, content)
                yield path
                return
        finally:
            os.close(descriptor)
    descriptor, path = named_file(os.path.join(default_directory(), "penstock-"))
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)
