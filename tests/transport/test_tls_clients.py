"""Clients that others have written, where they are installed: Go, Java, Chromium, openssl."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support import browser_site
from support.certificates import authority, material, server_certificate
from support.chromium import chromium, needs_chromium
from support.server_process import ROOT, ServerProcess
from support.serving import TEXT, Environ, eventually
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


@pytest.mark.costly  # it compiles its client, and for the first time all of net/http
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_gos_client_gets_two_answers(tls_transport: str) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run("go", "run", str(CLIENTS / "client.go"), url(server), str(authority().path))
    assert said == b"HTTP/1.1 200 hello by TLSv1.3\n" * 2


@pytest.mark.costly  # it compiles its client
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_javas_client_gets_two_answers(tls_transport: str) -> None:
    with serving(hello, tls_transport, tls=material()) as server:
        said = run("java", str(CLIENTS / "Client.java"), url(server), str(authority().path))
    assert said == b"HTTP_1_1 200 hello by TLSv1.3\n" * 2


@needs_chromium
def test_chromium_follows_redirect_and_hsts_and_uses_one_connection(
    tls_transport: str, tmp_path: Path
) -> None:
    server_certificate().write(tmp_path)
    browser_site.write_files(tmp_path)
    report, log = tmp_path / "report", tmp_path / "access"
    with ServerProcess(
        "support.browser_site:app", "--no-supervisor", "--transport", tls_transport,
        "--certfile", "server.pem", "--keyfile", "server.key", "--bind", "https://127.0.0.1:0",
        "--redirect-http", "127.0.0.1:0", "--redirect-https-port", "443", "--hsts", "max-age=300",
        "--static", f"/static={tmp_path}", "--compress",
        "--access-logfile", str(log), "--access-logformat", "%(m)s %(U)s %(s)s",
        cwd=tmp_path, environ={"PYTHONPATH": str(ROOT / "tests"), "REPORT": str(report)},
    ) as server:  # fmt: skip
        plain = int(server.start_line.rpartition("http://127.0.0.1:")[2].partition(" ")[0])
        names = {"shop.test:80": plain, "shop.test:443": server.port}
        with subprocess.Popen(
            chromium(tmp_path / "profile", names, "http://shop.test/first"),
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ) as browser:  # fmt: skip
            try:
                eventually(report.exists, SECONDS)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
    assert json.loads(report.read_text()) == {
        "page": "https://shop.test/second", "protocol": "http/1.1", "ports": 1, "uploaded": True,
        "colour": "rgb(1, 2, 3)", "compressed": [True, True],
    }  # fmt: skip
    asked = log.read_text().splitlines()
    assert asked.count("GET /first 301") == asked.count("GET /first 200") == 1
    # RFC 6797, section 8.3: the browser itself turns the second http into https.
    assert [line for line in asked if "/second" in line] == ["GET /second 200"]


@needs_chromium
def test_chromium_without_a_client_certificate_gets_the_alert_in_place_of_a_page(
    tls_transport: str, tmp_path: Path
) -> None:
    wanted = material(client_ca=authority().certificate, client_certificates="required")
    log = tmp_path / "log"
    with serving(hello, tls_transport, tls=wanted) as server:
        names = {"localhost:443": server.port}
        options = (f"--log-net-log={log}", "--dump-dom")
        said = run(*chromium(tmp_path / "profile", names, *options, "https://localhost/"))
    assert said == b""
    # What the user reads depends on whether the alert is there before Chromium sends its request.
    alert = base64.b64encode(bytes([2, 116])).decode()  # fatal, certificate_required
    assert f'"bytes":"{alert}"' in log.read_text()


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
