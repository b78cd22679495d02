"""A server that orders its certificates: from a self-signed one to the ordered one, and onwards.

The authority is a real one (pebble), and validates at the server's own addresses.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.config.checks import native_built, native_has_tls
from penstock.edge.certificates import Certificate, read_certificate
from support.acme_authority import Pebble, free_port, running
from support.descriptors import links
from support.invariant import eventually
from support.lifecycle import Supervised, json_of
from support.server_process import run_penstock
from support.service_user import NOBODY, as_root, public_folder
from support.wire import Client

NAME = "one.example"
ISSUER = "CN=Pebble Intermediate CA"


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with running(tmp_path_factory.mktemp("pebble")) as found:
        yield found


def arguments(pebble: Pebble, folder: Path, *names: str, tls: int, http: int | None) -> list[str]:
    found = ["--bind", f"https://127.0.0.1:{tls}", "--acme-directory", pebble.url,
             "--acme-dir", str(folder / "acme"), "--log-level", "debug"]  # fmt: skip
    for name in names:
        found += ["--acme-domain", name]
    return [*found, "--redirect-http", f"127.0.0.1:{http}"] if http is not None else found


def serving(pebble: Pebble, folder: Path, transport: str, *more: str, **others: Any) -> Supervised:
    """Return a server that the authority can validate at both of its addresses."""
    bundle = others.pop("bundle", pebble.bundle)
    given = {"tls": pebble.tls_port, "http": pebble.http_port} | others
    return Supervised(
        folder,
        *arguments(pebble, folder, NAME, **given),
        "--transport",
        transport,
        *more,
        environ={"REQUESTS_CA_BUNDLE": bundle},
    )


def served(port: int, name: str = NAME) -> Certificate:
    """Return the certificate that a client gets for a name, whatever it is worth."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        context.wrap_socket(sock, server_hostname=name) as session,
    ):
        der = session.getpeercert(binary_form=True)
    assert der is not None
    return read_certificate(der)


def is_ordered(port: int, name: str = NAME) -> bool:
    found = served(port, name)
    return found.issuer.startswith(ISSUER) and name in found.names


def answer(port: int, roots: ssl.SSLContext) -> bytes:
    """Return the status line that a client gets which verifies; nothing where it refuses."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        try:
            session = roots.wrap_socket(sock, server_hostname=NAME)
        except ssl.SSLError:
            return b""
        with session:
            session.sendall(b"GET /echo?0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return session.recv(100).partition(b"\r\n")[0]


def needs_tls(transport: str) -> None:
    if transport == "native" and not (native_built() and native_has_tls()):
        pytest.skip("the native transport is built without TLS")


def test_the_ordered_certificate_takes_the_place_of_the_self_signed_one(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    """http-01: the redirect address answers the challenge (RFC 8555, section 8.3)."""
    needs_tls(transport)
    control = str(tmp_path / "control")
    with serving(pebble, tmp_path, transport, "-w", "2", "--control", control) as server:
        assert "PEN-4210 a self-signed certificate is served" in (
            next((x for x in server.lines if "PEN-4210" in x), None)
            or server.wait_for_line("PEN-4210")
        )
        server.wait_for_line(f"a new certificate for {NAME} has come")
        roots = ssl.create_default_context(cadata=pebble.root())
        # The other worker may take its new certificate a little later.
        assert eventually(lambda: answer(pebble.tls_port, roots) == b"HTTP/1.1 200 OK")
        # A challenge that is over is redirected as every other path.
        with Client(("127.0.0.1", pebble.http_port)) as client:
            client.send(b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 301

        def renewal() -> str:
            status = json_of(server.control("--control", control, "status", "--json"))
            [row] = status["certificates"]
            assert row["names"] == [NAME]
            return str(row["renewal"])

        assert eventually(lambda: renewal().startswith("the certificate is"))
    assert not any("PEN-42" in line and "PEN-4210" not in line for line in server.lines)


def test_tls_alpn_01_needs_no_other_address(pebble: Pebble, tmp_path: Path) -> None:
    """RFC 8737: native transport alone."""
    needs_tls("native")
    with serving(pebble, tmp_path, "native", http=None) as server:
        server.wait_for_line(f"a new certificate for {NAME} has come")
        assert eventually(partial(is_ordered, pebble.tls_port))
        assert any("certificate for one.example: validation" in line for line in server.lines)


def test_the_certificate_is_there_at_once_after_a_restart(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    needs_tls(transport)
    with serving(pebble, tmp_path, transport) as server:
        server.wait_for_line(f"a new certificate for {NAME} has come")
        assert eventually(lambda: list((tmp_path / "acme").glob("*/*/schedule.json")))
    with serving(pebble, tmp_path, transport) as server:
        assert is_ordered(pebble.tls_port)
    assert not any("PEN-4" in line for line in server.lines)


def test_a_reload_orders_the_first_certificate(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    """The address has had no TLS before, and has a certificate from its first handshake on."""
    needs_tls(transport)
    settings = tmp_path / "penstock.toml"
    environ = {"REQUESTS_CA_BUNDLE": pebble.bundle}
    given = ["--transport", transport, "--bind", f"127.0.0.1:{pebble.tls_port}"]
    with Supervised(tmp_path, *given, bind=None, environ=environ) as server:
        settings.write_text(
            f'acme_domain = ["{NAME}"]\nacme_dir = "acme"\nacme_directory = "{pebble.url}"\n'
            f'redirect_http = ["127.0.0.1:{pebble.http_port}"]\n'
        )
        server.signal(signal.SIGHUP)
        server.wait_for_line("PEN-4210 a self-signed certificate is served")
        server.wait_for_line("penstock .* serving")
        assert NAME in served(pebble.tls_port).names
        server.wait_for_line(f"a new certificate for {NAME} has come")
        assert eventually(partial(is_ordered, pebble.tls_port))
        assert server.stop() == 0
    assert not any("PEN-4211" in line for line in server.lines)


def test_a_reload_whose_ordering_process_does_not_begin_is_refused(
    tmp_path: Path, transport: str
) -> None:
    """The address would have TLS, and no certificate. All goes on as it was."""
    needs_tls(transport)
    settings = tmp_path / "penstock.toml"
    asked = (
        f'acme_domain = ["{NAME}"]\nredirect_http = ["127.0.0.1:0"]\nboot_timeout = 3\n'
        'acme_directory = "https://127.0.0.1:9/dir"\nacme_dir = '
    )
    with Supervised(tmp_path, "--transport", transport) as server:
        settings.write_text(asked + '"/proc/acme"\n')
        server.signal(signal.SIGHUP)
        line = server.wait_for_line("PEN-.* not reloaded, the old workers go on")
        assert "no certificates can be ordered: /proc/acme cannot be used by user" in line
        with Client(server.address) as client:
            assert client.request("GET", "/echo?0").status == 200
        # Its library hangs.
        os.mkfifo(tmp_path / "hangs")
        (tmp_path / "acme").mkdir()
        (tmp_path / "acme" / "__init__.py").write_text("open('hangs').read()\n")
        settings.write_text(asked + '"state"\n')
        server.signal(signal.SIGHUP)
        line = server.wait_for_line("PEN-.* not reloaded, the old workers go on")
        assert "the process that orders has handed over none within 3 s" in line
        assert eventually(lambda: len(server.workers()) == 1)
        with Client(server.address) as client:
            assert client.request("GET", "/echo?0").status == 200
        assert server.stop() == 0
    assert not any("PEN-42" in line for line in server.lines)


def test_a_start_serves_while_the_ordering_process_does_not_begin(
    tmp_path: Path, transport: str
) -> None:
    """Its library may be in a file system that hangs."""
    needs_tls(transport)
    os.mkfifo(tmp_path / "hangs")
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("open('hangs').read()\n")
    tls = free_port()
    given = ["--transport", transport, "--bind", "127.0.0.1:0", "--bind",
             f"https://127.0.0.1:{tls}", "--acme-dir", "state", "--acme-domain", NAME,
             "--redirect-http", "127.0.0.1:0"]  # fmt: skip
    with Supervised(tmp_path, *given, bind=None) as server:
        server.wait_for_line("PEN-4211 there is no certificate yet")
        with Client(server.address) as client:
            assert client.request("GET", "/echo?0").status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            served(tls)
        assert server.stop() == 0


def test_a_reload_orders_for_a_new_name_and_keeps_what_is_there(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    needs_tls(transport)
    settings = tmp_path / "penstock.toml"
    settings.write_text(f'acme_domain = ["{NAME}"]\n')
    given = arguments(pebble, tmp_path, tls=pebble.tls_port, http=pebble.http_port)
    with Supervised(
        tmp_path, *given, "--transport", transport, environ={"REQUESTS_CA_BUNDLE": pebble.bundle}
    ) as server:
        server.wait_for_line(f"a new certificate for {NAME} has come")
        assert eventually(partial(is_ordered, pebble.tls_port))
        settings.write_text(f'acme_domain = ["two.example", "{NAME}"]\n')
        server.signal(signal.SIGHUP)
        server.wait_for_line("penstock .* serving")
        assert is_ordered(pebble.tls_port)
        server.wait_for_line("a new certificate for two.example has come")
        assert eventually(partial(is_ordered, pebble.tls_port, "two.example"))
        assert is_ordered(pebble.tls_port)
        settings.write_text('acme_domain = ["two.example"]\n')
        server.signal(signal.SIGHUP)
        server.wait_for_line("penstock .* serving")
        # Workers that leave may accept once more.
        assert eventually(lambda: served(pebble.tls_port, NAME).names == ("two.example",))


def test_after_an_upgrade_the_new_supervisor_orders(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    """Both run for a while, and one of them has the lease."""
    needs_tls(transport)
    pid_file = tmp_path / "pid"
    with serving(pebble, tmp_path, transport, "--pid", str(pid_file)) as server:
        server.wait_for_line(f"a new certificate for {NAME} has come")
        server.signal(signal.SIGUSR2)
        assert server.process.wait(30) == 0
        assert eventually(lambda: server.has_new_supervisor(pid_file))
        assert is_ordered(pebble.tls_port)
        # The old one has released the lease; the new one has taken it.
        assert eventually(
            lambda: [x.name for x in (tmp_path / "acme").glob("lease.*")] == ["lease.2"]
        )
        server.stop()


def test_a_killed_ordering_process_is_started_again_and_requests_go_on(
    pebble: Pebble, tmp_path: Path, transport: str
) -> None:
    needs_tls(transport)
    with serving(pebble, tmp_path, transport) as server:
        workers = server.serving()
        server.wait_for_line(f"a new certificate for {NAME} has come")
        [child] = server.workers() - workers
        os.kill(child, signal.SIGKILL)
        line = server.wait_for_line("PEN-4230")
        assert "has ended, and is started again in 1 s" in line
        assert is_ordered(pebble.tls_port)
        assert eventually(lambda: len(server.workers() - workers - {child}) == 1)


@as_root
def test_the_ordering_process_runs_as_the_user_and_has_nothing_of_roots_open(
    pebble: Pebble, transport: str
) -> None:
    needs_tls(transport)
    with public_folder() as folder:
        (folder / "shop.py").write_text("def app(e, s): s('200 OK', []); return [b'x']\n")
        (folder / "acme").mkdir()
        os.chown(folder / "acme", NOBODY.pw_uid, NOBODY.pw_gid)
        bundle, log = folder / "bundle.pem", folder / "access.log"
        bundle.write_bytes(Path(pebble.bundle).read_bytes())
        with serving(
            pebble, folder, transport, "--user", "nobody", "--access-logfile", str(log),
            bundle=str(bundle),
        ) as server:  # fmt: skip
            workers = server.serving()
            server.wait_for_line(f"a new certificate for {NAME} has come")
            [child] = server.workers() - workers
            status = Path(f"/proc/{child}/status").read_text()
            assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}" in status
            assert "CapBnd:\t0000000000000000\n" in status
            assert "NoNewPrivs:\t1\n" in status
            targets = links(child)
            others = [x for number, x in targets.items() if number > 2]
            assert all(x.startswith(("socket:", str(folder / "acme"))) for x in others), targets
            for path in (folder / "acme").rglob("*"):
                assert path.stat().st_uid == NOBODY.pw_uid


REFUSED = {
    "no directory": (["--redirect-http", "127.0.0.1:0"], "needs acme_dir"),
    "the Python transport without an address for http-01": (
        ["--acme-dir", "acme", "--transport", "python"], "needs redirect_http",
    ),
    "an address without TLS": (
        ["--acme-dir", "acme", "--bind", "http://127.0.0.1:0"], "needs an address with TLS",
    ),
    "no supervisor": (
        ["--acme-dir", "acme", "--redirect-http", "127.0.0.1:0", "--no-supervisor"],
        "needs a supervisor",
    ),
    "a name twice": (
        ["--acme-dir", "acme", "--redirect-http", "127.0.0.1:0", "--acme-domain", NAME],
        "names a domain twice",
    ),
    "a wildcard": (["--acme-domain", "*.example.org"], "bad value"),
    "an address in place of a name": (["--acme-domain", "192.0.2.1"], "bad value"),
    "a name in upper case": (["--acme-domain", "Example.org"], "bad value"),
    "an authority without TLS": (["--acme-directory", "http://ca.example/dir"], "bad value"),
    "a directory that cannot be used": (
        ["--acme-dir", "/proc/acme", "--redirect-http", "127.0.0.1:0"],
        "no certificates can be ordered: /proc/acme cannot be used by user",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_start_that_cannot_order_is_refused_with_the_remedy(tmp_path: Path, case: str) -> None:
    given, reason = REFUSED[case]
    bind = [] if "--bind" in given else ["--bind", f"https://127.0.0.1:{free_port()}"]
    (tmp_path / "application.py").write_text("app = print\n")
    done = run_penstock("application:app", *bind, "--acme-domain", NAME, *given, cwd=tmp_path)
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named_at_the_start(tmp_path: Path) -> None:
    """The package itself needs no other one."""
    (tmp_path / "application.py").write_text("app = print\n")
    code = (
        "import sys; sys.path = [x for x in sys.path if not x.endswith('site-packages')];"
        "from penstock.cli.command import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "application:app", "--bind", "https://127.0.0.1:0",
         "--acme-domain", NAME, "--acme-dir", "acme", "--redirect-http", "127.0.0.1:0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
    )  # fmt: skip
    assert done.returncode != 0
    assert "needs the package acme: pip install 'penstock[acme]'" in done.stderr
