"""An address that redirects answers the challenges of an ACME authority (RFC 8555, section 8.3)."""

from __future__ import annotations

import pytest

from penstock.transport.config import TransportConfig
from penstock.transport.redirect import redirect

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
