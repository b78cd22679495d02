"""What a worker needs to serve TLS."""

from __future__ import annotations

from penstock.edge.tls import CertificatePair, TicketKeys, TlsMaterial

PAIR = CertificatePair(b"certificate", b"secret key", ("example.org", "*.example.org"), 0.0)


def test_no_key_gets_into_a_log_by_its_representation() -> None:
    material = TlsMaterial((PAIR,), ticket_keys=(b"secret ticket",))
    assert repr(PAIR) == "<CertificatePair example.org, *.example.org>"
    assert "secret" not in repr(material)
    assert repr(TicketKeys((b"secret ticket",), 1.0)) == "<TicketKeys 1>"


def test_ticket_keys_cross_an_upgrade_unchanged() -> None:
    keys = TicketKeys.made(5.0, TicketKeys.made(1.0).keys)
    assert TicketKeys.from_message(keys.to_message()) == keys
