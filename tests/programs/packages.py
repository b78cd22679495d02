"""pypiserver, with twine and pip."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path

from programs.program import Program, Run, script

LARGE = 20 << 20
"""Bytes in one of the packages that are uploaded."""


def wheel(folder: Path, name: str, content: bytes) -> Path:
    """Write a package with one file of data."""
    metadata = f"{name}-1.0.dist-info"
    files = {
        f"{name}.bin": content,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{metadata}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},sha256={digest(data)},{len(data)}\n" for file, data in files.items())
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
        archive.writestr(f"{metadata}/RECORD", f"{record}{metadata}/RECORD,,\n")
    return path


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def check(run: Run) -> None:
    written, target = run.path("written"), run.folder / "installed"
    contents = {"small": b"small", "large": os.urandom(LARGE)}
    wheels = [wheel(written, name, content) for name, content in contents.items()]
    environ = {"FOLDER": str(run.path("packages"))}
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check"]
    with run.serve("pypi", "--workers", "2", environ=environ) as server:
        anyone = ["--username", "any", "--password", "any", "--non-interactive"]
        url = ["--repository-url", f"{server.url}/"]
        run.command(script("twine"), "upload", "--disable-progress-bar", *url, *anyone, *wheels)
        index = ["--no-cache-dir", "--index-url", f"{server.url}/simple/"]
        run.command(*pip, "install", "--target", target, *index, *contents)
        for name, content in contents.items():
            assert (target / f"{name}.bin").read_bytes() == content
        said = run.command(*pip, "index", "versions", *index, "large")
        assert "1.0" in said


PROGRAMS = [
    Program(
        "pypiserver",
        "pypiserver",
        check,
        "`twine upload` of packages of up to 20 MB, `pip install` and `pip index`",
        packages=("pypiserver", "twine", "pip"),
    )
]
