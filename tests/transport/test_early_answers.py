"""An answer that comes before a large upload is over reaches the client, which is curl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.http1 import ParserLimits
from support.certificates import material
from support.proxies import found
from support.serving import TEXT, Environ
from support.transports import serving
from support.wire import DEADLINE

UPLOAD = 1 << 30
TAKEN = 256 << 20
"""More than the server reads of it after the answer."""


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    status, fields = {
        "/login": ("401 Unauthorized", [("WWW-Authenticate", "Basic")]),
        "/moved": ("302 Found", [("Location", "/login")]),
        "/large": ("413 Content Too Large", []),
    }[environ["PATH_INFO"]]
    start_response(status, [*TEXT, *fields])
    return [b"early"]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("streamed", [False, True, "auto"], ids=["collected", "streamed", "auto"])
def test_an_early_answer_to_a_large_upload_reaches_the_client(
    transport: str, tmp_path: Path, secure: bool, streamed: bool | str
) -> None:
    upload = tmp_path / "upload"
    with upload.open("wb") as file:
        file.truncate(UPLOAD)  # without a block on the disk
    # Where bodies are collected the server itself answers, because of its own limit.
    settings: dict[str, Any] = {} if streamed else {"parser": ParserLimits(body=1000)}
    with serving(
        application,
        transport,
        threads=2,
        tls=material() if secure else None,
        stream_requests=streamed,
        **settings,
    ) as server:
        scheme = "https" if secure else "http"
        for target, status in [("/login", 401), ("/moved", 302), ("/large", 413)]:
            for expect in ("Expect:", "Expect: 100-continue"):
                done = subprocess.run(
                    [found("curl"), "--silent", "--insecure", "--noproxy", "*", "--request",
                     "POST", "--upload-file", str(upload), "--header", expect, "--write-out",
                     '{"status": %{http_code}, "sent": %{size_upload}}', "--output",
                     str(tmp_path / "answer"), f"{scheme}://127.0.0.1:{server.port}{target}"],
                    capture_output=True,
                    timeout=DEADLINE,
                    check=True,
                )  # fmt: skip
                told = json.loads(done.stdout)
                assert told["status"] == (status if streamed else 413), (target, expect)
                assert told["sent"] < TAKEN, (target, expect)
                answer = (tmp_path / "answer").read_bytes()
                assert answer == (b"early" if streamed else b"The request body is too large.\n")
