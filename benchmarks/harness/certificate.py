"""A certificate for servers that are measured over TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness.environment import EnvironmentProblem

MAKING_SECONDS = 60.0


def make(certificate: Path, key: Path) -> None:
    """Make a key of ECDSA P-256, and a certificate for it. Raises `EnvironmentProblem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise EnvironmentProblem("a certificate is made with openssl, which is not installed")
    command = [openssl, "req", "-x509", "-nodes", "-days", "3650", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=MAKING_SECONDS
    )
    if done.returncode:
        raise EnvironmentProblem(f"openssl made no certificate: {done.stderr.strip()[-200:]}")
