"""Clients that others have written, where they are installed: Go, Java, Chromium, openssl."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.certificates import authority, material
from support.serving import TEXT, Environ
from support.transports import BareServer, serving

CLIENTS = Path(__file__).parent / "clients"
SECONDS = 120


def hello(environ: Environ, start_response: object) -> list[bytes]:
    start_response("200 OK", TEXT)  # type: ignore[operator]
    return [f"hello by {environ['SSL_PROTOCOL']}".encode()]


def run(*command: str, data: bytes = b"", folder: Path | None = None) -> bytes:
    done = subprocess.run(
        command, input=data, capture_output=True, timeout=SECONDS, check=False, cwd=folder,
        env=os.environ | {"GO111MODULE": "off", "no_proxy": "*"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def url(server: BareServer) -> str:
    return f"https://localhost:{server.port}/"


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_gos_client_gets_two_answers(tls_transport: str) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run("go", "run", str(CLIENTS / "client.go"), url(server), str(authority().path))
    assert said == b"HTTP/1.1 200 hello by TLSv1.3\n" * 2


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_javas_client_gets_two_answers(tls_transport: str) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run("java", str(CLIENTS / "Client.java"), url(server), str(authority().path))
    assert said == b"HTTP_1_1 200 hello by TLSv1.3\n" * 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_chromium_shows_the_page(tls_transport: str, tmp_path: Path) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run(
            "chromium", "--headless", "--no-sandbox", "--ignore-certificate-errors",
            f"--user-data-dir={tmp_path}", "--dump-dom", url(server),
        )  # fmt: skip
    assert b"hello by TLSv1.3" in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_s_client_sees_the_proper_end_of_a_response(tls_transport: str, version: str) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run(
            "openssl", "s_client", "-connect", f"localhost:{server.port}", version, "-ign_eof",
            "-verify_return_error", "-CAfile", str(authority().path), "-servername", "localhost",
            data=b"GET / HTTP/1.0\r\n\r\n",
        )  # fmt: skip
    assert b"hello by TLSv1." in said
    assert b"unexpected eof" not in said
    assert b"Verification: OK" in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_without_a_common_kind_of_key_is_told_so(tls_transport: str, version: str) -> None:
    # And not that access is denied, which judges of servers take for their own defect.
    with serving(hello, tls_transport, tls=material()) as server:
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"localhost:{server.port}", version,
             "-sigalgs", "RSA-PSS+SHA256"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert b"alert handshake failure" in done.stderr
