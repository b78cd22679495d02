"""What a worker needs to serve TLS."""

from __future__ import annotations

from penstock.edge.tls import CertificatePair, TlsMaterial

PAIR = CertificatePair(b"certificate", b"secret key", ("example.org", "*.example.org"), 0.0)


def test_no_key_gets_into_a_log_by_its_representation() -> None:
    material = TlsMaterial((PAIR,), ticket_keys=(b"secret ticket",))
    assert repr(PAIR) == "<CertificatePair example.org, *.example.org>"
    assert "secret" not in repr(material)
