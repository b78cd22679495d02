"""The challenges of an ACME authority are answered (RFC 8555, section 8.3, and RFC 8737)."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import Any

import pytest

from penstock.config.checks import native_built, native_has_tls
from penstock.edge.acme.orders import alpn_certificate
from penstock.edge.pairs import checked_pair
from penstock.transport.config import TransportConfig
from penstock.transport.redirect import redirect
from support.applications import hello
from support.certificates import material
from support.transports import BareServer, serving

PREFIX = "/.well-known/acme-challenge/"
CONFIG = TransportConfig(challenges=lambda: {"token": "token.thumbprint"})

CASES = {
    "the answer": ("GET", f"{PREFIX}token", "200 OK"),
    "its head": ("HEAD", f"{PREFIX}token", "200 OK"),
    "another method": ("POST", f"{PREFIX}token", "308 Permanent Redirect"),
    "an unknown token": ("GET", f"{PREFIX}other", "301 Moved Permanently"),
    "no token": ("GET", PREFIX, "301 Moved Permanently"),
    "a token and more": ("GET", f"{PREFIX}token/x", "301 Moved Permanently"),
    "a token and a query": ("GET", f"{PREFIX}token?x", "301 Moved Permanently"),
    "another path": ("GET", "/token", "301 Moved Permanently"),
    "a path below another one": ("GET", f"/x{PREFIX}token", "301 Moved Permanently"),
}


@pytest.mark.parametrize("case", CASES)
def test_rfc_8555_8_3_what_a_redirecting_address_answers(case: str) -> None:
    method, target, status = CASES[case]
    found, fields, body = redirect(CONFIG, method, "a.example", target)
    assert found == status
    if status == "200 OK":
        assert body == b"token.thumbprint"
        assert fields == [("Content-Type", "application/octet-stream")]
    else:
        assert ("Location", f"https://a.example{target}") in fields


def test_rfc_8555_8_3_an_answer_needs_no_host() -> None:
    assert redirect(CONFIG, "GET", "", f"{PREFIX}token")[0] == "200 OK"


def test_without_challenges_every_path_is_redirected() -> None:
    status, *_ = redirect(TransportConfig(), "GET", "a.example", f"{PREFIX}token")
    assert status == "301 Moved Permanently"


ACME_IDENTIFIER = bytes.fromhex("06082b0601050507011f")
"""The object identifier of RFC 8737, section 6.1, in DER."""


def shake_hands(server: BareServer, name: str, protocols: list[str]) -> tuple[str | None, bytes]:
    """Return the protocol that was chosen, and the certificate that was sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    with (
        socket.create_connection((server.host, server.port), 10) as sock,
        context.wrap_socket(sock, server_hostname=name) as session,
    ):
        certificate = session.getpeercert(binary_form=True)
        assert certificate is not None
        return session.selected_alpn_protocol(), certificate


@pytest.mark.skipif(not (native_built() and native_has_tls()), reason="native TLS is not built")
def test_rfc_8737_3_the_authority_gets_the_challenge_and_others_the_usual_certificate() -> None:
    """Its critical extension is one that no library for clients knows."""
    certificate, key = alpn_certificate("a.example", "token.thumbprint")
    pair = checked_pair(certificate, key, "the challenge", "the challenge")
    challenged = replace(material(), alpn_challenges=(pair,))
    settings: dict[str, Any] = {"transport": "native", "threads": 4}
    with serving(hello, tls=challenged, **settings) as server:
        protocol, sent = shake_hands(server, "a.example", ["acme-tls/1"])
        assert protocol == "acme-tls/1"
        assert ACME_IDENTIFIER in sent
        for name, protocols in (("a.example", ["http/1.1"]), ("localhost", ["http/1.1"])):
            protocol, sent = shake_hands(server, name, protocols)
            assert protocol == "http/1.1"
            assert ACME_IDENTIFIER not in sent
        with pytest.raises(ssl.SSLError):
            shake_hands(server, "other.example", ["acme-tls/1"])
