"""Chromium without a window, as a client of a server of this machine alone."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.certificates import server_certificate

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
"""Tests of a browser are skipped where there is none."""


def chromium(profile: Path, names: dict[str, int], *arguments: str) -> list[str]:
    """Return the command that starts Chromium, with a profile of its own.

    It finds the addresses in ``names`` at ports of this machine, and no other address. It accepts
    certificates with the key of `server_certificate`, of whatever name and issuer.
    """
    key = x509.load_pem_x509_certificate(server_certificate().certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    rules = [f"MAP {address} 127.0.0.1:{port}" for address, port in names.items()]
    return [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-proxy-server", f"--user-data-dir={profile}",
        # Otherwise Chromium asks for https by itself, before it knows of any HSTS.
        "--disable-features=HttpsUpgrades",
        f"--ignore-certificate-errors-spki-list={digest}",
        f"--host-resolver-rules={', '.join([*rules, 'MAP * ~NOTFOUND'])}", *arguments,
    ]  # fmt: skip
