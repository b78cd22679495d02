"""Sessions of TLS that clients resume: by any worker, across rotations, reloads and upgrades."""

from __future__ import annotations

import base64
import os
import signal
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from penstock.config.checks import native_built, native_has_tls
from support.certificates import authority, server_certificate
from support.invariant import eventually
from support.lifecycle import Supervised, server_of
from support.server_process import ROOT
from support.serving import get
from support.tls import TlsClient

TLS = ("--certfile", "server.pem", "--keyfile", "server.key", "--bind", "https://127.0.0.1:0")
MOST = 200
"""Connections, all of which stay open, until each worker has accepted one."""

needs_native_tls = pytest.mark.skipif(
    not (native_built() and native_has_tls()),
    reason="the Python transport resumes within one worker",
)

MARK = b"key-of-session-tickets"
MARKED_KEYS = f"""
import os
random = os.urandom
os.urandom = lambda size: ({MARK!r} + random(size))[:32] if size == 32 else random(size)
"""
"""Makes the keys of tickets recognizable, in a supervisor that imports it."""

ROTATION = 1.0
SHORT_ROTATION = f"""
from penstock.edge import tls
tls.TICKET_KEY_SECONDS = {ROTATION}
"""


def beginning_with(folder: Path, code: str) -> dict[str, str]:
    """Return the variables with which each Python process begins by running the code."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "src", ROOT / "tests")))}


def served(
    server: Supervised, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bool, int, ssl.SSLSession]:
    """Make a request; return whether the session was resumed, the worker, and the session."""
    with TlsClient(server.address, context, session=session) as client:
        client.send(get("/echo?0"))
        response = client.read_response()
        assert response.status == 200
        assert client.session.session is not None
        return bool(client.session.session_reused), server_of(response)[1], client.session.session


def resumed_by(
    server: Supervised, context: ssl.SSLContext, session: ssl.SSLSession, workers: set[int]
) -> dict[int, bool]:
    """Return for each of the workers whether it resumes the session."""
    found: dict[int, bool] = {}
    with ExitStack() as clients:
        for _ in range(MOST):
            client = clients.enter_context(TlsClient(server.address, context, session=session))
            client.send(get("/echo?0"))
            worker = server_of(client.read_response())[1]
            resumed = bool(client.session.session_reused)
            assert found.setdefault(worker, resumed) == resumed
            if found.keys() == workers:
                break
    assert found.keys() == workers
    return found


@needs_native_tls
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_by_each_worker_and_after_a_reload_and_an_upgrade(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    server_certificate().write(tmp_path)
    context = authority().client_context()
    context.minimum_version = context.maximum_version = version
    arguments = ("-w", "3", "--transport", "native", "--pid", "pid", *TLS)
    with Supervised(tmp_path, *arguments) as server:
        workers = server.workers()
        resumed, _, session = served(server, context)
        assert not resumed
        assert all(resumed_by(server, context, session, workers).values())
        server.signal(signal.SIGHUP)
        workers = server.wait_for_workers(3, workers)
        assert all(resumed_by(server, context, session, workers).values())
        server.signal(signal.SIGUSR2)
        assert server.process.wait(60) == 0
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        workers = server.wait_for_workers(3, workers)
        assert all(resumed_by(server, context, session, workers).values())
        server.stop()


@needs_native_tls
def test_a_session_is_resumed_until_its_key_is_rotated_out(tmp_path: Path) -> None:
    server_certificate().write(tmp_path)
    context, environ = authority().client_context(), beginning_with(tmp_path, SHORT_ROTATION)
    arguments = ("-w", "3", "--transport", "native", *TLS)
    with Supervised(tmp_path, *arguments, environ=environ) as server:
        workers = server.workers()
        begun = time.monotonic()
        _, _, session = served(server, context)
        refused: set[int] = set()

        def is_refused_by_all() -> bool:
            resumed, worker, _ = served(server, context, session)
            if not resumed:
                # The key encrypts until the next rotation, and decrypts for two periods more.
                assert time.monotonic() - begun >= 2 * ROTATION
                refused.add(worker)
            return refused == workers

        assert eventually(is_refused_by_all)
        _, _, session = served(server, context)
        assert eventually(lambda: served(server, context, session)[0])
        assert server.stop() == 0


def test_a_worker_of_the_python_transport_resumes_its_own_sessions(tmp_path: Path) -> None:
    server_certificate().write(tmp_path)
    context = authority().client_context()
    with Supervised(tmp_path, "--transport", "python", *TLS) as server:
        _, _, session = served(server, context)
        assert all(resumed_by(server, context, session, server.workers()).values())
        assert server.stop() == 0


def test_the_keys_of_tickets_are_in_no_environment_command_line_or_log(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    environ = beginning_with(tmp_path, MARKED_KEYS)
    arguments = ("-w", "2", "--transport", tls_transport, "--pid", "pid", "--log-level", "debug")
    with Supervised(tmp_path, *arguments, *TLS, environ=environ) as server:
        served(server, authority().client_context())
        server.signal(signal.SIGUSR2)
        places: set[bytes] = set()
        while server.process.poll() is None:
            for pid in server.members():
                for name in ("environ", "cmdline"):
                    places |= contents(Path(f"/proc/{pid}/{name}"))
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        served(server, authority().client_context())
        server.stop()
        places.add("\n".join(server.lines).encode())
    assert any(b"PYTHONPATH=" in place for place in places)
    for form in (MARK, MARK.hex().encode(), base64.b64encode(MARK)[:-4]):
        assert not [place for place in places if form in place]


def contents(path: Path) -> set[bytes]:
    try:
        return {path.read_bytes()}
    except (FileNotFoundError, ProcessLookupError):
        return set()  # it has ended
