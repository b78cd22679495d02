"""Runs testssl and sslyze against servers of this checkout; see scripts/check-tls."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from support.certificates import authority, server_certificate
from support.server_process import ServerProcess

from penstock.config.checks import native_built, native_has_tls

SECONDS = 900
ABOVE_LOW = {"FATAL", "MEDIUM", "HIGH", "CRITICAL"}
OF_THE_TESTS = ("cert_chain_of_trust", "cert_trust", "cert_expirationStatus", "cert_crl", "cert_caIssuers",
                "cert_revocation", "cert_ocspURL", "cert_crlDistributionPoints", "cert_notAfter",
                "DNS_CAArecord", "HSTS", "HTTP_", "security_headers", "scanTime", "overall_grade",
                "grade_cap", "ipv6", "cert_mustStapleExtension", "OCSP_stapling", "cert_fingerprint")  # fmt: skip
"""What testssl says about the authority of the tests, and about fields that the application sets."""


def testssl(command: str, server: ServerProcess, folder: Path) -> list[str]:
    """Return the findings above LOW."""
    report = folder / "testssl.json"
    report.unlink(missing_ok=True)  # testssl would not write over the report of another transport
    subprocess.run(
        [command, "--quiet", "--warnings", "off", "--color", "0", "--jsonfile", str(report),
         "--add-ca", str(authority().path), "--connect-timeout", "5", "--openssl-timeout", "5",
         f"https://localhost:{server.port}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=SECONDS, check=False,
    )  # fmt: skip
    found = json.loads(report.read_text())
    print(f"  testssl: {len(found)} lines")
    for entry in found:
        if entry["severity"] in ABOVE_LOW | {"LOW"}:
            print(f"    {entry['severity']}: {entry['id']}: {entry['finding']}")
    return [
        f"{entry['severity']}: {entry['id']}: {entry['finding']}"
        for entry in found
        if entry["severity"] in ABOVE_LOW and not entry["id"].startswith(OF_THE_TESTS)
    ]


def sslyze(command: str, server: ServerProcess, folder: Path) -> list[str]:
    """Return where the server misses Mozilla's intermediate configuration."""
    report = folder / "sslyze.json"
    done = subprocess.run(
        [command, "--mozilla_config", "intermediate", "--json_out", str(report),
         f"localhost:{server.port}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    said = done.stdout.partition("COMPLIANCE AGAINST")[2]
    lines = [line.strip(" *") for line in said.splitlines() if line.strip().startswith("*")]
    print(f"  sslyze: {' '.join(said.split())[:400]}")
    results = json.loads(report.read_text())["server_scan_results"][0]["scan_result"]
    bad = []
    for name, value in results.items():
        result = value["result"]
        for key, flag in (result or {}).items():
            if key.startswith("is_vulnerable") and flag is True:
                bad.append(f"{name}: {key}")
        if value["status"] == "ERROR":
            bad.append(f"{name}: {value['error_reason']}")
    # Before Python 3.15, ssl has no way to leave out curves that are slow, and not weak.
    curves = [] if hasattr(ssl.SSLContext, "set_groups") else ["tls_curves"]
    return bad + [line for line in lines if not line.startswith(("certificate", *curves))]


def main() -> int:
    """Print what both find; return 1 where that is too much."""
    judges = {
        testssl: os.environ.get("TESTSSL") or shutil.which("testssl"),
        sslyze: os.environ.get("SSLYZE") or shutil.which("sslyze"),
    }
    transports = ["python"] + (["native"] if native_built() and native_has_tls() else [])
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "judged.py").write_text(
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
            "    return [b'hello']\n"
        )
        arguments = ["judged:app", "--bind", "https://127.0.0.1:0", "--hsts", "max-age=31536000"]
        for kind in ("ecdsa", "rsa"):
            certificate, key = server_certificate(kind).write(folder, kind)
            arguments += ["--certfile", str(certificate), "--keyfile", str(key)]
        for transport in transports:
            print(f"{transport}:")
            with ServerProcess(*arguments, "--transport", transport, cwd=folder) as server:
                for judge, command in judges.items():
                    if command is None:
                        print(f"  {judge.__name__} is not installed: skipped")
                        continue
                    for finding in judge(command, server, folder):
                        failed = True
                        print(f"  FOUND by {judge.__name__}: {finding}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
