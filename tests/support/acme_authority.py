"""A real ACME authority for tests: pebble, Let's Encrypt's, on loopback, with its test name server.

It is built by Go, where Go is installed, for it is newer than Debian's: that has no renewal
information (RFC 9773). `running` starts both. `Front` stands between it and its client, and can
lose requests, lose answers, refuse, or kill the client at any of them.
"""

from __future__ import annotations

import datetime
import fcntl
import functools
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.threads import listening

START_SECONDS = 30.0


VERSION = "v2.10.0"
"""Of pebble, as Go builds it."""

BUILD_SECONDS = 240.0

BUILT = Path(__file__).resolve().parents[2] / ".bench" / f"pebble-{VERSION}"
"""Where the programs are kept that were built."""


def program(name: str) -> str:
    """Return the path of a program of pebble, or skip the test."""
    reason = build()
    places = [str(BUILT), os.environ.get("PATH", ""), os.path.expanduser("~/go/bin")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install pebble), and {reason}")
    return found


@functools.cache
def build() -> str:
    """Build pebble, unless it was built; return why it cannot be built, or nothing.

    Several test processes may come here: one of them builds.
    """
    go = shutil.which("go")
    if go is None:
        return "there is no Go that could build it"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (BUILT / "pebble-challtestsrv").exists():
            return ""
        lock.seek(0)
        if reason := lock.read():
            return reason  # another process has tried it
        module = "github.com/letsencrypt/pebble/v2/cmd"
        commands = [f"{module}/{name}@{VERSION}" for name in ("pebble", "pebble-challtestsrv")]
        environ = os.environ | {"GOBIN": str(BUILT), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        try:
            subprocess.run(
                [go, "install", *commands],
                cwd=BUILT, env=environ, capture_output=True, timeout=BUILD_SECONDS, check=True,
            )  # fmt: skip
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", None) or str(error).encode()
            reason = f"Go cannot build it: {said.decode(errors='replace').strip()[-300:]}"
            lock.write(reason)
            return f"{reason} (remove {BUILT} to try again)"
    return ""


@dataclass
class Pebble:
    """An authority that runs."""

    url: str
    """Of its directory."""
    bundle: str
    """The file with the certificate that its clients have to trust."""
    key: str
    """The file with the key of that certificate."""
    http_port: int
    """Where it looks for the answer to an http-01 challenge, at 127.0.0.1."""
    tls_port: int
    management: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.bundle)

    @property
    def has_windows(self) -> bool:
        """Whether it offers renewal information: it does since version 2.5."""
        with urllib.request.urlopen(self.url, context=self.context, timeout=10) as answer:
            return "renewalInfo" in json.load(answer)

    def root(self) -> str:
        """Return the certificate that what it issues is to be verified with, in PEM."""
        url = self.management + "/roots/0"
        with urllib.request.urlopen(url, context=self.context, timeout=10) as answer:
            return str(answer.read().decode())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def own_certificate(directory: Path) -> tuple[str, str]:
    """Write a certificate for localhost and its key; return their paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1000))
        .not_valid_after(now + datetime.timedelta(days=1000))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(public, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "authority.pem", directory / "authority.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(paths[0]), str(paths[1])


@contextmanager
def running(
    directory: Path, *, validity: int = 90 * 86400, listen: int = 0, **variables: str
) -> Iterator[Pebble]:
    """Run an authority whose certificates are valid for a number of seconds.

    ``listen`` is its port, 0 for a free one; ``variables`` are pebble's.
    """
    pebble_program, names_program = program("pebble"), program("pebble-challtestsrv")
    bundle, key = own_certificate(directory)
    names, management, http, tls, other = (free_port() for _ in range(5))
    listen = listen or other
    config = {
        "listenAddress": f"127.0.0.1:{listen}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": bundle,
        "privateKey": key,
        "httpPort": http,
        "tlsPort": tls,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "retryAfter": {"authz": 1, "order": 1},
        # Before and since 2.7, where profiles came.
        "certificateValidityPeriod": validity,
        "profiles": {"default": {"description": "-", "validityPeriod": validity}},
    }
    path = directory / "pebble.json"
    path.write_text(json.dumps({"pebble": config}))
    quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
    environ = os.environ | quick | variables
    log = (directory / "pebble.log").open("ab")
    # It is a fake name server: each name is 127.0.0.1. It answers no challenges itself. Newer ones
    # have other options.
    usage = subprocess.run([names_program, "-help"], capture_output=True, text=True, check=False)
    options = {"http01": "", "https01": "", "tlsalpn01": "", "doh": "", "defaultIPv6": ""}
    options |= dict.fromkeys(("dns01", "dnsserver"), f"127.0.0.1:{names}")
    options["management"] = f"127.0.0.1:{free_port()}"
    serve_names = [names_program]
    for option, value in options.items():
        if f"  -{option} " in usage.stderr:
            serve_names += [f"-{option}", value]
    with (
        log,
        _process(serve_names, log, environ),
        _process(
            [pebble_program, "-config", str(path), "-dnsserver", f"127.0.0.1:{names}", "-strict"],
            log,
            environ,
        ) as process,
    ):
        url = f"https://localhost:{listen}/dir"
        found = Pebble(url, bundle, key, http, tls, f"https://localhost:{management}", process)
        _wait_until_up(found, process, directory)
        yield found


@contextmanager
def _process(
    command: list[str], log: Any, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_until_up(pebble: Pebble, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=START_SECONDS)
    while datetime.datetime.now() < deadline and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(pebble.url, context=pebble.context, timeout=5).close()
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError((directory / "pebble.log").read_text())


Act = Callable[[int, str], str]
"""What happens to a request: its number from 1 and its path are given. ``""``: it is passed on.
``"lose"``: the connection is closed before it is passed on. ``"lose answer"``: it is passed on, and
the connection is closed then. ``"429 SECONDS"``, ``"503 SECONDS"``: it is answered so."""


class Front:
    """Stands in front of an authority, under an address of its own."""

    def __init__(
        self, pebble: Pebble, act: Act, *, after: Callable[[], None] | None = None
    ) -> None:
        """``after`` is called before the connection is closed, where an answer is lost."""
        self.passed: list[tuple[str, str]] = []
        """Method and path of each request that was passed on."""
        self._after = after
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request, in their order."""
        self._pebble = pebble
        self._act = act
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.bundle, pebble.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = False
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"https://localhost:{self._server.server_address[1]}/dir"

    @contextmanager
    def serving(self) -> Iterator[Front]:
        with listening(self._server):
            yield self

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests.append((handler.command, handler.path))
            number = len(self.requests)
        length = int(handler.headers.get("Content-Length", "0"))
        body = handler.rfile.read(length) if length else None
        handler.close_connection = True
        act = self._act(number, handler.path)
        if act == "lose":
            return
        if act and act[0].isdigit():
            status, seconds = act.split()
            self._refuse(handler, int(status), seconds)
            return
        with self._lock:
            self.passed.append((handler.command, handler.path))
        host, port = self._pebble.url.split("/")[2].split(":")
        connection = HTTPSConnection(host, int(port), context=self._pebble.context, timeout=30)
        try:
            # The Host field is the front's: pebble makes its URLs of it.
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if act == "lose answer":
            if self._after is not None:
                self._after()
            return
        handler.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, seconds: str) -> None:
        kind = "rateLimited" if status == 429 else "serverInternal"
        content = json.dumps(
            {"type": f"urn:ietf:params:acme:error:{kind}", "detail": "too much", "status": status}
        ).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/problem+json")
        handler.send_header("Retry-After", seconds)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)
