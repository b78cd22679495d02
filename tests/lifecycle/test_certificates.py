"""Certificates in a running server: renewed, refused, warned of, and lost by nothing."""

from __future__ import annotations

import os
import re
import signal
import ssl
import time
from pathlib import Path

import pytest

import penstock
from penstock.config.checks import native_built, native_has_tls
from support.certificates import Issued, authority, server_certificate
from support.invariant import eventually
from support.lifecycle import Supervised, json_of
from support.many_commands import Command, run_each
from support.serving import Recorder, get
from support.tls import TlsClient
from support.wire import Client

TLS = ("--certfile", "server.pem", "--keyfile", "server.key", "--bind", "https://127.0.0.1:0")


def loose() -> ssl.SSLContext:
    context = authority().client_context()
    context.check_hostname = False
    return context


def names(server: Supervised) -> set[str]:
    with TlsClient(server.address, loose()) as client:
        return client.names()


def told(server: Supervised) -> str:
    """Return what the log has said by the start-up line."""
    return "\n".join(server.lines)


def replace(folder: Path, issued: Issued) -> None:
    """Put other files in the places of the old ones, as programs that renew them do."""
    issued.write(folder, "fresh")
    for kind in ("pem", "key"):
        (folder / f"fresh.{kind}").replace(folder / f"server.{kind}")


def test_fault_48_a_new_pair_serves_all_workers_and_a_broken_one_changes_nothing(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    fresh = authority().issue("fresh.test")
    with Supervised(tmp_path, "-w", "2", "--transport", tls_transport, *TLS) as server:
        workers = server.workers()
        with TlsClient(server.address) as early:
            early.send(get("/echo?0"))
            assert early.read_response().status == 200
            (tmp_path / "server.pem").write_bytes(fresh.certificate)
            server.wait_for_line("PEN-4130.*does not belong to the certificate")
            assert names(server) == {"localhost", "127.0.0.1"}
            replace(tmp_path, fresh)
            server.wait_for_line("the certificates have changed: new connections get fresh.test")
            assert eventually(lambda: names(server) == {"fresh.test"})
            assert all(names(server) == {"fresh.test"} for _ in range(10))  # whichever accepts
            early.send(get("/echo?0"))
            assert early.read_response().status == 200
        assert server.workers() == workers  # nothing was started again
        assert server.stop() == 0


def test_a_reload_reads_the_files_and_is_refused_where_they_are_broken(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    with Supervised(tmp_path, "--transport", tls_transport, *TLS) as server:
        (tmp_path / "server.key").write_bytes(authority().issue("other.test").key)
        server.signal(signal.SIGHUP)
        server.wait_for_line("PEN-7100 not reloaded.*does not belong to the certificate")
        assert names(server) == {"localhost", "127.0.0.1"}
        old = server.workers()
        replace(tmp_path, authority().issue("fresh.test"))
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)
        assert names(server) == {"fresh.test"}
        assert server.stop() == 0


def spoken(server: Supervised | Path, kind: type[Client]) -> str:
    """Say what an address answers to a client with or without TLS."""
    try:
        with kind(str(server) if isinstance(server, Path) else server.address) as client:
            client.send(get("/echo?0", "Connection: close"))
            response = client.read_response()
    except (ssl.SSLError, ConnectionError) as error:
        return type(error).__name__
    return "served" if response.status == 200 else response.body.decode().strip()


REFUSED = "This port speaks TLS: ask for https."


def test_a_reload_changes_what_is_spoken_at_an_address_at_one_moment(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    settings = tmp_path / "penstock.toml"
    settings.write_text('certfile = "server.pem"\nkeyfile = "server.key"\n')
    found: list[str] = []
    with Supervised(tmp_path, "-w", "2", "--transport", tls_transport) as server:
        for text, before, after in (("", REFUSED, "served"), (None, "served", REFUSED)):
            if text is None:
                settings.write_text('certfile = "server.pem"\nkeyfile = "server.key"\n')
            else:
                settings.write_text(text)
            old = server.workers()
            found = [spoken(server, Client)]
            server.signal(signal.SIGHUP)
            while server.workers() & old or len(server.workers()) != 2:
                found.append(spoken(server, Client))
            found += [spoken(server, Client) for _ in range(10)]
            # No connection is lost, and none meets the old generation behind the new one.
            assert set(found) == {before, after}, found
            switched = found.index(after)
            assert found == [before] * switched + [after] * (len(found) - switched)
        assert spoken(server, TlsClient) == "served"
        assert server.stop() == 0


def test_a_reload_that_fails_leaves_what_is_spoken(tmp_path: Path, tls_transport: str) -> None:
    server_certificate().write(tmp_path)
    path = tmp_path / "socket"
    arguments = ("--transport", tls_transport, "--bind", f"unix:{path}")
    with Supervised(tmp_path, *arguments, bind=None) as server:
        (tmp_path / "penstock.toml").write_text('certfile = "server.pem"\nkeyfile = "server.key"\n')
        application = (tmp_path / "shop.py").read_text()
        (tmp_path / "shop.py").write_text("raise ValueError('no')")
        server.signal(signal.SIGHUP)
        server.wait_for_line("PEN-7100 not reloaded, the old workers go on")
        assert spoken(path, Client) == "served"
        (tmp_path / "shop.py").write_text(application)
        old = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)
        assert spoken(path, Client) == REFUSED
        assert server.stop() == 0
    assert not path.exists()


def test_a_worker_that_comes_later_has_the_newest_certificates(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    arguments = ("--preload", "--transport", tls_transport, *TLS)
    with Supervised(tmp_path, *arguments) as server:
        replace(tmp_path, authority().issue("fresh.test"))
        server.wait_for_line("the certificates have changed")
        [old] = server.serving()
        os.kill(old, signal.SIGKILL)
        server.wait_for_serving(1, {old})
        assert names(server) == {"fresh.test"}
        assert server.stop() == 0


def test_an_upgrade_keeps_the_address_and_its_tls(tmp_path: Path, tls_transport: str) -> None:
    server_certificate().write(tmp_path)
    arguments = ("--transport", tls_transport, "--pid", "pid", *TLS)
    with Supervised(tmp_path, *arguments) as server:
        server.signal(signal.SIGUSR2)
        assert eventually((tmp_path / "pid.2").exists)
        assert eventually(lambda: not (tmp_path / "pid.2").exists())
        server.supervisor = int((tmp_path / "pid").read_text())
        with TlsClient(server.address) as client:
            client.send(get("/echo?0"))
            assert client.read_response().status == 200
        assert server.stop() == 0


def test_the_status_and_the_log_tell_when_a_certificate_expires(
    tmp_path: Path, tls_transport: str
) -> None:
    soon = authority().issue("localhost", not_after=time.time() + 3.5 * 86400)
    soon.write(tmp_path)
    control = str(tmp_path / "control")
    arguments = ("--control", control, "--transport", tls_transport, *TLS)
    with Supervised(tmp_path, *arguments) as server:
        assert "PEN-4110 the certificate for localhost expires in 3 days" in told(server)
        status = json_of(server.control("--control", control, "status", "--json"))
        assert status["certificates"] == [
            {"names": ["localhost"], "expires": soon.not_after, "days": 3, "renewal": None}
        ]
        shown = server.control("--control", control, "status").stdout
        assert "localhost, expires" in shown
        assert "(in 3 days)" in shown
        assert server.stop() == 0


def test_a_certificate_that_has_expired_is_served_with_an_error_in_the_log(
    tmp_path: Path, tls_transport: str
) -> None:
    authority().issue("localhost", not_after=time.time() - 5).write(tmp_path)
    with Supervised(tmp_path, "--transport", tls_transport, *TLS) as server:
        assert "PEN-4120 the certificate for localhost has expired" in told(server)
        blind = loose()
        blind.verify_mode = ssl.CERT_NONE
        with TlsClient(server.address, blind) as client:
            client.send(get("/echo?0"))
            assert client.read_response().status == 200
        assert server.stop() == 0


def test_sslkeylogfile_is_warned_of(tmp_path: Path, tls_transport: str) -> None:
    server_certificate().write(tmp_path)
    keys = tmp_path / "keys"
    arguments = ("--transport", tls_transport, *TLS)
    with Supervised(tmp_path, *arguments, environ={"SSLKEYLOGFILE": str(keys)}) as server:
        assert "PEN-4140" in told(server)
        assert names(server)
        assert eventually(lambda: "CLIENT_TRAFFIC_SECRET_0" in keys.read_text())
        assert server.stop() == 0


def test_one_server_has_addresses_with_and_without_tls_and_redirects(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    plain = tmp_path / "plain"
    arguments = (*TLS, "--bind", f"unix:{plain}", "--redirect-http", "127.0.0.1:0")
    with Supervised(tmp_path, "--transport", tls_transport, *arguments) as server:
        with Client(str(plain)) as client:
            assert client.request("GET", "/echo?0").status == 200
        with TlsClient(server.address) as secured:
            assert secured.request("GET", "/echo?0").status == 200
        port = int(server.start_line.rpartition("http://127.0.0.1:")[2].partition(" ")[0])
        with Client(("127.0.0.1", port)) as client:
            response = client.request("GET", "/a?b", {"Host": "shop.test:80"})
            assert response.status == 301
            assert response.header("Location") == f"https://shop.test:{server.port}/a?b"
        assert server.stop() == 0


# Without a supervisor


def test_a_process_without_a_supervisor_renews_its_certificates_itself(
    tmp_path: Path, tls_transport: str
) -> None:
    server_certificate().write(tmp_path)
    arguments = ("--no-supervisor", "--transport", tls_transport, *TLS)
    with Supervised(tmp_path, *arguments) as server:
        assert names(server) == {"localhost", "127.0.0.1"}
        replace(tmp_path, authority().issue("fresh.test"))
        server.wait_for_line("the certificates have changed")
        assert eventually(lambda: names(server) == {"fresh.test"})
        assert server.stop() == 0


def test_a_python_program_gives_certificates_by_name(tmp_path: Path, tls_transport: str) -> None:
    certificate, key = server_certificate().write(tmp_path)
    with penstock.running(
        Recorder(), transport=tls_transport, certfile=str(certificate), keyfile=[str(key)]
    ) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        with TlsClient((server.host, server.port)) as client:
            assert client.request("GET", "/").status == 200


# Refused at the start


NOT_SERVED: list[tuple[tuple[str, ...], str]] = [
    (("--bind", "https://127.0.0.1:0"), "has an address with TLS: set certfile"),
    (("--keyfile", "server.key"), "keyfile .* needs an address with TLS"),
    (("--hsts", "max-age=1"), "hsts .* needs an address with TLS"),
    (("--redirect-http", ":0"), "redirect_http .* needs an address with TLS"),
    (("--certfile", "server.pem", "--bind", "http://127.0.0.1:0"), "needs an address with TLS"),
    (
        ("--certfile", "server.pem", "--certfile", "server.pem", "--keyfile", "server.key"),
        "the n-th key belongs to the n-th certificate",
    ),
    ((*TLS, "--cert-reqs", "2"), "cert_reqs .* needs ca_certs"),
    ((*TLS, "--ca-certs", "server.pem"), "belongs into the file of certfile"),
    ((*TLS, "--ciphers", "NONE"), "knows none of the ciphers 'NONE' .from --ciphers"),
    ((*TLS, "--redirect-http", "https://:0"), "without TLS .setting: --redirect-http"),
    (("--certfile", "missing.pem"), "cannot read .*missing.pem .certfile.: No such file"),
    (("--certfile", "server.pem"), "server.pem has no private key: name its file"),
    (("--certfile", "server.pem", "--keyfile", "encrypted.key"), "is encrypted"),
]


def test_what_cannot_be_served_is_refused_at_the_start_and_by_check(tmp_path: Path) -> None:
    issued = server_certificate()
    issued.write(tmp_path)
    (tmp_path / "encrypted.key").write_bytes(authority().encrypt(issued.key))
    (tmp_path / "shop.py").write_text("def app(environ, start_response): ...\n")
    cases = [((*way, *given), said) for given, said in NOT_SERVED for way in ((), ("--check",))]
    done = run_each([Command(["shop:app", *given], tmp_path) for given, _ in cases])
    wrong = [
        (each.args, said, each.returncode, each.stderr)
        for each, (_, said) in zip(done, cases, strict=True)
        if each.returncode not in (2, 7) or not re.search(said, each.stderr)
    ]
    assert wrong == []


@pytest.mark.skipif(not (native_built() and native_has_tls()), reason="needs the native transport")
def test_for_ciphers_that_native_does_not_have_auto_takes_the_python_transport(
    tmp_path: Path,
) -> None:
    server_certificate().write(tmp_path)
    with Supervised(tmp_path, *TLS, "--ciphers", "HIGH:!aNULL") as server:
        said = "\n".join(server.lines_so_far())
        assert "the native one has no ciphers HIGH, !aNULL (ciphers from --ciphers)" in said
        with TlsClient(server.address) as client:
            assert client.request("GET", "/echo?0").status == 200
        assert server.stop() == 0
    (done,) = run_each(
        [Command(["shop:app", *TLS, "--ciphers", "HIGH", "--transport", "native"], tmp_path)]
    )
    assert "transport is native (from --transport), which has no ciphers HIGH" in done.stderr
