"""TLS on the wire: handshakes, names, client certificates, and how a connection ends."""

from __future__ import annotations

import dataclasses
import os
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.edge.tls import TlsError, TlsMaterial
from support.certificates import Authority, Issued, authority, material, server_certificate
from support.serving import TEXT, Environ, Gate, Recorder, connect, eventually, get, post
from support.tls import MemoryClient, RecordWriter, TlsClient
from support.transports import BareServer, serving
from support.wire import DEADLINE, Client, Response

CLOSE = "Connection: close"
PLAIN_HTTP = b"This port speaks TLS: ask for https.\n"


@pytest.fixture
def settings(tls_transport: str, threads: int) -> dict[str, Any]:
    return {"transport": tls_transport, "threads": threads}


def tell(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with the environ's part about TLS."""
    names = [name for name in environ if name.startswith(("SSL_", "HTTP_", "HTTPS", "wsgi.url"))]
    start_response("200 OK", TEXT)
    return ["\n".join(f"{name}={environ[name]!r}" for name in sorted(names)).encode("latin-1")]


def variables(response: Response) -> dict[str, str]:
    """Return what `tell` has answered."""
    assert response.status == 200
    lines = response.body.decode("latin-1").split("\n")
    found = dict(line.split("=", 1) for line in lines)
    return {name: value[1:-1] for name, value in found.items()}


def place(server: BareServer) -> tuple[str, int]:
    return server.host, server.port


def context(**attributes: Any) -> ssl.SSLContext:
    """Return a client's context that trusts the tests' authority, with attributes set."""
    made = authority().client_context()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    return context(minimum_version=version, maximum_version=version)


def ask(
    server: BareServer, context: ssl.SSLContext | None = None, **connection: Any
) -> dict[str, str]:
    with TlsClient(place(server), context, **connection) as client:
        client.send(get("/", CLOSE))
        return variables(client.read_response())


# What a session tells the application


def test_the_environ_names_scheme_version_cipher_and_name(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), **settings) as server:
        found = ask(server)
        assert found["wsgi.url_scheme"] == "https"
        assert found["HTTPS"] == "on"
        assert found["SSL_PROTOCOL"] == "TLSv1.3"
        assert found["SSL_CIPHER"].startswith("TLS_")
        assert found["SSL_SERVER_NAME"] == "localhost"
        assert not any(name.startswith("SSL_CLIENT") for name in found)
        old = only(ssl.TLSVersion.TLSv1_2)
        old.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        found = ask(server, old)
        assert found["SSL_PROTOCOL"] == "TLSv1.2"
        assert found["SSL_CIPHER"] == "ECDHE-ECDSA-AES128-GCM-SHA256"
        anonymous = context(check_hostname=False)
        assert "SSL_SERVER_NAME" not in ask(server, anonymous, server_hostname=None)


def test_a_name_is_given_in_lower_case_and_only_if_it_is_one(settings: dict[str, Any]) -> None:
    loose = context(check_hostname=False)
    with serving(tell, tls=material(), **settings) as server:
        found = ask(server, loose, server_hostname="LocalHost")
        assert found["SSL_SERVER_NAME"] == "localhost"
        found = ask(server, loose, server_hostname="localhost.")
        assert found["SSL_SERVER_NAME"] == "localhost"


LABEL = b"a" * 63
LONGEST = b".".join((LABEL, LABEL, LABEL, b"a" * 61))

NAMES = [
    # Names of hosts: letters of both cases, digits, hyphens, and underscores, which hosts have.
    (b"shop.example", "chosen"),
    (b"SHOP.example", "chosen"),
    (b"shop.example.", "chosen"),
    (b"a_b.shop.example", "chosen"),
    (b"a-b.shop.example", "chosen"),
    (b"1.shop.example", "chosen"),
    (b"xn--bcher-kva.shop.example", "chosen"),
    (b"other.example", "default"),
    (b"localhost", "default"),
    (b"a.0x7g", "default"),
    (LABEL + b".example", "default"),
    (LONGEST, "default"),
    # An address is not permitted, and many clients send one: it counts as no name.
    (b"127.0.0.1", "default"),
    (b"::1", "default"),
    (b"2001:db8::192.0.2.1", "default"),
    # Anything else is no name of a host.
    (b"a b.example", "refused"),
    (b"shop.example:443", "refused"),
    (b"user@shop.example", "refused"),
    (b"*.shop.example", "refused"),
    (b"shop..example", "refused"),
    (b".shop.example", "refused"),
    (b"shop.example..", "refused"),
    (b".", "refused"),
    (b"-a.example", "refused"),
    (b"a-.example", "refused"),
    (b"a.example-", "refused"),
    (b"[::1]", "refused"),
    (b"fe80::1%eth0", "refused"),
    (b"1.2.3", "refused"),
    (b"1.2.3.4.", "refused"),
    (b"256.1.1.1", "refused"),
    (b"a.0", "refused"),
    (b"a.0x7f", "refused"),
    (b"a.0X", "refused"),
    (b"caf\xe9.example", "refused"),
    (b"shop\x00.example", "refused"),
    (b"shop.example\n", "refused"),
    (b"a" * 64 + b".example", "refused"),
    (b"a" + LONGEST, "refused"),
    (LONGEST + b".", "refused"),
    (b"aa" + LONGEST, "refused"),
]


def what_becomes_of(server: BareServer, name: bytes) -> str:
    """Say what the server answers to a client that asks for a name."""
    placeholder = "".join("." if at % 50 == 49 else "x" for at in range(len(name) - 1)) + "x"
    with Client(place(server)) as plain:
        # In TLS 1.2 the server's certificate is not encrypted.
        hello = MemoryClient(None, only(ssl.TLSVersion.TLSv1_2), placeholder).flight()
        start = struct.pack("!BH", HOST_NAME, len(name))
        assert start + placeholder.encode() in hello
        plain.send(hello.replace(start + placeholder.encode(), start + name))
        answer = b""
        while not answer.endswith(SERVER_HELLO_DONE):
            data = plain.socket.recv(65536)
            answer += data
            if not data:
                assert answer[:1] == ALERT, answer
                return "refused"
    return "chosen" if b"shop.example" in answer else "default"


HOST_NAME = 0
ALERT = b"\x15"
SERVER_HELLO_DONE = b"\x0e\x00\x00\x00"


def test_rfc6066_3_what_is_no_name_of_a_host_is_refused_and_an_address_is_none(
    settings: dict[str, Any],
) -> None:
    shop = authority().issue("shop.example", "*.shop.example")
    served = material(server_certificate(), shop)
    with serving(tell, tls=served, **settings) as server:
        found = [(name, what_becomes_of(server, name)) for name, _ in NAMES]
        assert found == NAMES


def test_no_field_of_a_client_looks_like_a_fact_of_tls(settings: dict[str, Any]) -> None:
    forged = [
        "SSL-Client-Verify: SUCCESS",
        "SSL_Client_Verify: SUCCESS",
        "SSL-Client-S-DN: CN=root",
        "HTTPS: off",
        "SSL-Protocol: none",
    ]
    with serving(tell, tls=material(), **settings) as server, TlsClient(place(server)) as client:
        client.send(get("/", *forged))
        found = variables(client.read_response())
    assert not any(name.startswith("SSL_CLIENT") for name in found)
    assert found["HTTP_SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert (found["HTTPS"], found["SSL_PROTOCOL"]) == ("on", "TLSv1.3")


def test_rfc8446_4_6_3_key_updates_without_data_end_the_connection(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    with serving(tell, tls=material(), **settings) as server, Client(place(server)) as plain:
        log = tmp_path / "keys"
        client = MemoryClient(plain.socket, context(keylog_filename=str(log)))
        client.handshake()
        # Some are in order, also between requests.
        writer = RecordWriter(client, log, sent=0)
        for _ in range(5):
            plain.send(b"".join(writer.key_update() for _ in range(20)) + writer.data(get()))
            assert client.read().startswith(b"HTTP/1.1 200 OK\r\n")
        try:
            plain.send(b"".join(writer.key_update() for _ in range(1000)))
            while plain.socket.recv(65536):
                pass  # the answers to them, and an alert
        except ConnectionError:
            pass


# Which certificate a client gets


def test_sni_chooses_by_exact_name_then_wildcard_then_the_first(settings: dict[str, Any]) -> None:
    one = server_certificate()
    exact = authority().issue("a.wild.test")
    wild = authority().issue("*.wild.test", "other.test")
    cases = {
        "localhost": "localhost",
        "a.wild.test": "a.wild.test",
        "b.wild.test": "*.wild.test",
        "A.Wild.Test": "a.wild.test",
        "other.test": "*.wild.test",
        "other.test.": "*.wild.test",
        "a.b.wild.test": "localhost",
        "wild.test": "localhost",
        "unknown.test": "localhost",
    }
    loose = context(check_hostname=False)
    with serving(tell, tls=material(one, wild, exact), **settings) as server:
        for name, wanted in cases.items():
            with TlsClient(place(server), loose, server_hostname=name) as client:
                assert wanted in client.names(), name
        with TlsClient(place(server), loose, server_hostname=None) as client:
            assert "localhost" in client.names()


def test_a_name_has_an_ecdsa_and_an_rsa_certificate_side_by_side(settings: dict[str, Any]) -> None:
    both = material(server_certificate("rsa"), server_certificate("ecdsa"))
    with serving(tell, tls=both, **settings) as server:
        for kind in ("ECDSA", "RSA"):
            chosen = only(ssl.TLSVersion.TLSv1_2)
            chosen.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
            assert ask(server, chosen)["SSL_CIPHER"].startswith(f"ECDHE-{kind}-")
        assert ask(server)["SSL_PROTOCOL"] == "TLSv1.3"


def test_of_two_certificates_of_a_kind_for_a_name_the_first_one_given_counts(
    settings: dict[str, Any],
) -> None:
    both = material(
        authority().issue("localhost", "first"), authority().issue("localhost", "other")
    )
    with serving(tell, tls=both, **settings) as server, TlsClient(place(server)) as client:
        assert client.names() == {"localhost", "first"}


def test_a_client_without_a_name_gets_either_kind_of_the_first_name(
    settings: dict[str, Any],
) -> None:
    rsa = authority().issue("localhost", key="rsa")
    both = material(rsa, authority().issue("localhost", "more.test"), authority().issue("a.test"))
    with serving(tell, tls=both, **settings) as server:
        for kind in ("ECDSA", "RSA"):
            chosen = only(ssl.TLSVersion.TLSv1_2)
            chosen.check_hostname = False
            chosen.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
            with TlsClient(place(server), chosen, server_hostname=None) as client:
                assert "localhost" in client.names()


def test_without_a_certificate_handshakes_fail_until_there_is_one(settings: dict[str, Any]) -> None:
    with serving(tell, tls=TlsMaterial(()), **settings) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with pytest.raises(ssl.SSLError):
                TlsClient(place(server), only(version))
        server.transport.set_tls(material())
        assert ask(server)["SSL_SERVER_NAME"] == "localhost"


@pytest.fixture(scope="module")
def chain() -> tuple[Issued, Issued]:
    """Certificates for localhost and for a client, each with the two authorities between."""
    upper = authority().subordinate("Upper")
    lower = upper.subordinate("Lower")
    between = lower.certificate + upper.certificate
    made = lower.issue("localhost"), lower.issue(subject="/CN=client")
    for directory in (upper, lower):
        directory.remove()
    one, other = (
        dataclasses.replace(each, certificate=each.certificate + between) for each in made
    )
    return one, other


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_rfc8446_4_4_2_the_chain_is_sent_behind_its_certificate_in_its_order(
    settings: dict[str, Any], chain: tuple[Issued, Issued], version: str
) -> None:
    with serving(tell, tls=material(chain[0]), **settings) as server:
        assert ask(server)["HTTPS"] == "on"  # of a client that trusts the first authority alone
        command = ["openssl", "s_client", "-connect", f"{server.host}:{server.port}"]
        done = subprocess.run(
            [*command, "-showcerts", version],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
    blocks = re.findall(
        rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.S
    )
    assert b"".join(blocks) == chain[0].certificate


def test_new_certificates_serve_new_handshakes_and_open_connections_go_on(
    settings: dict[str, Any],
) -> None:
    loose = context(check_hostname=False)
    with serving(tell, tls=material(), **settings) as server:
        with TlsClient(place(server)) as early:
            early.send(get())
            assert early.read_response().status == 200
            server.transport.set_tls(material(authority().issue("fresh.test")))
            with TlsClient(place(server), loose) as late:
                assert late.names() == {"fresh.test"}
                late.send(get())
                assert late.read_response().status == 200
            early.send(get())
            assert early.read_response().status == 200


def test_a_pair_that_does_not_match_is_refused_by_name_and_the_old_one_stays(
    settings: dict[str, Any],
) -> None:
    other = authority().issue("wrong.test")
    mixed = Issued(other.certificate, server_certificate().key, other.names, other.not_after)
    with serving(tell, tls=material(), **settings) as server:
        with pytest.raises(TlsError, match=r"wrong\.test"):
            server.transport.set_tls(material(mixed))
        assert ask(server)["HTTPS"] == "on"


# Versions, ciphers, ALPN


def test_rfc8996_older_versions_than_1_2_are_refused(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), **settings) as server:
        with pytest.warns(DeprecationWarning, match="TLS"):
            old = only(ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            TlsClient(place(server), old)
        assert ask(server)["HTTPS"] == "on"


def test_the_lowest_version_can_be_1_3(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(minimum_version="1.3"), **settings) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            TlsClient(place(server), only(ssl.TLSVersion.TLSv1_2))
        assert ask(server)["SSL_PROTOCOL"] == "TLSv1.3"


def test_ciphers_are_those_of_the_setting(settings: dict[str, Any]) -> None:
    chosen = material(ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
    with serving(tell, tls=chosen, **settings) as server:
        found = ask(server, only(ssl.TLSVersion.TLSv1_2))
        assert found["SSL_CIPHER"] == "ECDHE-ECDSA-CHACHA20-POLY1305"


def test_ciphers_without_forward_secrecy_or_authentication_are_refused_by_default(
    settings: dict[str, Any],
) -> None:
    weak = only(ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:AES128-SHA")
    with serving(tell, tls=material(server_certificate("rsa")), **settings) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            TlsClient(place(server), weak)


def test_rfc7301_alpn_is_http_1_1(settings: dict[str, Any]) -> None:
    offering = context()
    offering.set_alpn_protocols(["h2", "http/1.1"])
    with serving(tell, tls=material(), **settings) as server:
        with TlsClient(place(server), offering) as client:
            assert client.session.selected_alpn_protocol() == "http/1.1"


def test_sessions_are_resumed(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(ticket_keys=(b"k" * 32,)), **settings) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            chosen = only(version)
            with TlsClient(place(server), chosen) as client:
                client.send(get())
                client.read_response()
                session = client.session.session
            with TlsClient(place(server), chosen, session=session) as client:
                assert client.session.session_reused


def test_sslkeylogfile_gets_the_secrets_of_each_session(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    with serving(tell, tls=material(key_log=str(path)), **settings) as server:
        ask(server)
    assert "CLIENT_TRAFFIC_SECRET_0" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600  # also with a umask that lets others read


# Client certificates


def with_clients(wanted: str) -> TlsMaterial:
    return material(client_ca=authority().certificate, client_certificates=wanted)


@pytest.fixture(scope="module")
def client_certificate() -> Issued:
    return authority().issue(subject='/O=Müller, \\+ Söhne/CN=Client "1"')


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_in_the_environ(
    settings: dict[str, Any], client_certificate: Issued, version: ssl.TLSVersion
) -> None:
    own = authority().client_context(client_certificate)
    own.minimum_version = own.maximum_version = version
    with serving(tell, tls=with_clients("required"), **settings) as server:
        found = ask(server, own)
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    subject = 'CN=Client \\"1\\",O=Müller\\, \\+ Söhne'.encode().decode("latin-1")
    assert found["SSL_CLIENT_S_DN"] == repr(subject)[1:-1]
    pem = found["SSL_CLIENT_CERT"].replace("\\n", "\n").encode()
    assert pem == client_certificate.certificate


def test_an_optional_client_certificate_may_be_missing(
    settings: dict[str, Any], client_certificate: Issued
) -> None:
    with serving(tell, tls=with_clients("optional"), **settings) as server:
        found = ask(server)
        assert found["SSL_CLIENT_VERIFY"] == "NONE"
        assert "SSL_CLIENT_S_DN" not in found
        own = authority().client_context(client_certificate)
        assert ask(server, own)["SSL_CLIENT_VERIFY"] == "SUCCESS"


def test_a_required_client_certificate_that_is_missing_or_foreign_is_refused(
    settings: dict[str, Any],
) -> None:
    foreign = Authority("others")
    stranger = authority().client_context()
    own = foreign.issue(subject="/CN=stranger").write(foreign.path.parent)
    stranger.load_cert_chain(*own)
    foreign.remove()
    recorder = Recorder()
    with serving(recorder, tls=with_clients("required"), **settings) as server:
        for refused in (context(), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):  # of 1.3 with the first answer
                ask(server, refused)
        for refused in (context(), stranger):
            refused.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(server, refused)
    assert recorder.targets == []


def test_the_log_says_why_a_client_certificate_is_refused(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Neither transport speaks in the terms of its library alone."""
    foreign = Authority("others")
    past = time.time() - 86400

    def is_logged(wanted: str) -> bool:
        return re.search(wanted, caplog.text) is not None

    refused = [
        (foreign.issue(subject="/CN=a"), "unable to get local issuer", "no authority of ca_certs"),
        (authority().issue(subject="/CN=a", not_after=past), "has expired", "has expired"),
    ]
    foreign.remove()
    if (oldest := authority().issue_as_version_1("/CN=a")) is not None:
        refused.append((oldest, "", "X.509 version 1, and has to be of version 3"))
    with (
        serving(tell, tls=with_clients("required"), **settings) as server,
        caplog.at_level("INFO"),
    ):
        for certificate, *reasons in refused:
            reason = reasons[settings["transport"] == "native"]
            if not reason:
                continue
            caplog.clear()
            client = authority().client_context()
            client.load_cert_chain(*certificate.write(tmp_path))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(server, client)
            eventually(partial(is_logged, f"the client's certificate is refused: .*{reason}"))


def test_rfc8446_6_2_the_alert_reaches_a_client_that_sends_its_request_already(
    settings: dict[str, Any],
) -> None:
    with serving(tell, tls=with_clients("required"), **settings) as server:
        with connect(server) as raw:
            # For a client of TLS 1.3 the handshake is complete before it is for the server.
            client = MemoryClient(raw.socket, only(ssl.TLSVersion.TLSv1_3))
            client.handshake()
            assert raw.socket.recv(1, socket.MSG_PEEK)  # the alert is there
            for _ in range(3):  # a server that has closed would reset the connection
                raw.send(get())
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                client.read()
            raw.close()
        eventually(lambda: server.snapshot()["connections"] == 0)


def test_a_client_certificate_leads_to_the_authority_by_those_that_the_client_sends(
    settings: dict[str, Any], chain: tuple[Issued, Issued]
) -> None:
    with serving(tell, tls=with_clients("required"), **settings) as server:
        found = ask(server, authority().client_context(chain[1]))
        assert found["SSL_CLIENT_S_DN"] == "CN=client"
        # The client's own alone, as the environ has it.
        assert found["SSL_CLIENT_CERT"].count("BEGIN CERTIFICATE") == 1
        alone = chain[1].certificate.partition(b"-----END CERTIFICATE-----\n")
        incomplete = dataclasses.replace(chain[1], certificate=b"".join(alone[:2]))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(server, authority().client_context(incomplete))


@pytest.mark.parametrize("wanted", ["optional", "required"])
def test_a_client_certificate_has_to_be_valid_now(settings: dict[str, Any], wanted: str) -> None:
    recorder, now = Recorder(), time.time()
    over = authority().issue(subject="/CN=client", not_after=now - 60)
    to_come = authority().issue(subject="/CN=client", not_before=now + 3600, not_after=now + 7200)
    with serving(recorder, tls=with_clients(wanted), **settings) as server:
        for issued in (over, to_come):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(server, authority().client_context(issued))
    assert recorder.targets == []


# What is not TLS


def test_fault_7_plain_http_to_a_tls_port_gets_a_400_that_says_so(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), hsts="max-age=1", **settings) as server:
        for request in (get(), get()[:1], post(b"x" * 1000)):
            with connect(server) as client:
                client.send(request)
                response = client.read_response()
                assert (response.status, response.body) == (400, PLAIN_HTTP)
                assert response.header("Connection") == "close"
                # RFC 6797, section 7.2: never over a connection without TLS.
                assert response.header("Strict-Transport-Security") is None
                assert client.read_to_end() == b""


def test_other_bytes_than_tls_end_the_connection(settings: dict[str, Any]) -> None:
    hello = MemoryClient(None).flight()
    cases = [b"\x00\x01", b"\x80\x2e\x01", b"\x16\x03\x01\xff\xff", b"\x15\x03\x01\x00\x02\x01\x00"]
    cases.append(b"get / HTTP/1.1\r\n\r\n")  # methods are in capitals
    cases += [hello[:20] + b"\xff" * 400, hello[:-30], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"]
    with serving(tell, tls=material(), tls_handshake_timeout=0.2, **settings) as server:
        for case in cases:
            with connect(server) as client:
                client.send(case)
                assert not client.read_to_end().startswith(b"HTTP")
        assert ask(server)["HTTPS"] == "on"


def test_a_name_that_is_no_text_ends_the_handshake_and_is_no_traceback(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda unraisable: reported.append(unraisable.object)
    )
    hello = MemoryClient(None).flight().replace(b"localhost", b"local\xffost")
    with serving(tell, tls=material(), **settings) as server:
        for _ in range(3):
            with connect(server) as client:
                client.send(hello)
                client.read_to_end()
        assert ask(server)["HTTPS"] == "on"
    assert reported == []


# Handshakes hold nothing up


@pytest.mark.parametrize("sent", [0, 1, 100])
def test_fault_7_a_handshake_has_a_deadline(settings: dict[str, Any], sent: int) -> None:
    with serving(tell, tls=material(), tls_handshake_timeout=0.3, **settings) as server:
        with connect(server) as client:
            begun = time.monotonic()
            client.send(MemoryClient(None).flight()[:sent])
            client.read_to_end()
            assert time.monotonic() - begun >= 0.25


def test_unfinished_handshakes_hold_no_thread(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), **settings) as server:
        clients = [connect(server) for _ in range(20)]
        for client in clients:
            client.send(MemoryClient(None).flight()[:100])
        assert ask(server)["HTTPS"] == "on"
        for client in clients:
            client.close()


def test_unfinished_handshakes_count_as_unfinished_heads(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), max_unfinished_heads=3, **settings) as server:
        clients = [connect(server) for _ in range(4)]
        for client in clients:
            client.send(MemoryClient(None).flight()[:100])
        ended, _, _ = select.select([each.socket for each in clients], [], [], DEADLINE)
        assert [sock.recv(1) for sock in ended] == [b""]  # one has made room
        assert ask(server)["HTTPS"] == "on"
        for client in clients:
            client.close()


def test_a_handshake_byte_by_byte_is_completed(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), **settings) as server, connect(server) as raw:
        client = MemoryClient(raw.socket)
        while client.tls.version() is None:
            raw.send_bytewise(client.flight())
            if client.tls.version() is None:
                client.receive()
        raw.send_bytewise(client.encrypt(get("/", CLOSE)))
        assert client.read().startswith(b"HTTP/1.1 200 OK")


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    settings: dict[str, Any],
) -> None:
    with serving(tell, tls=material(), **settings) as server, connect(server) as raw:
        client = MemoryClient(raw.socket)
        raw.send(client.flight())
        last = b""
        while client.tls.version() is None:
            client.receive()
            last += client.flight()
        raw.send(last + client.encrypt(get()) + client.encrypt(get()))
        answers = client.read()
        while answers.count(b"HTTP/1.1 200 OK") < 2:  # they may share a record
            answers += client.read()


# Bytes that were decrypted already


def test_pipelined_requests_in_one_record_are_all_answered(settings: dict[str, Any]) -> None:
    with serving(Recorder(), tls=material(), **settings) as server:
        with TlsClient(place(server)) as client:
            client.send(b"".join(get(f"/{number}") for number in range(50)))
            for number in range(50):
                assert f'"/{number}"'.encode() in client.read_response().body


def test_a_request_that_comes_while_another_is_answered_is_not_forgotten(
    settings: dict[str, Any],
) -> None:
    gate = Gate()
    with serving(gate, tls=material(), **settings) as server, TlsClient(place(server)) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        client.send(get("/second") + get("/third")[:10])
        client.send(get("/third")[10:])
        gate.open()
        for path in (b"/wait", b"/second", b"/third"):
            assert client.read_response().body == path


def test_a_body_in_small_records_arrives_whole(settings: dict[str, Any]) -> None:
    body = bytes(range(256)) * 40
    with serving(Recorder(), tls=material(), **settings) as server:
        with TlsClient(place(server)) as client:
            client.send(post(body)[: -len(body)])
            for start in range(0, len(body), 100):
                client.send(body[start : start + 100])
            assert len(client.read_response().body) > len(body)


@pytest.mark.parametrize("stream_requests", [False, True])
def test_a_large_body_is_echoed(settings: dict[str, Any], stream_requests: bool) -> None:
    def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    body = bytes(range(256)) * 12_000
    with serving(echo, tls=material(), stream_requests=stream_requests, **settings) as server:
        with TlsClient(place(server)) as client:
            for _ in range(2):
                client.send(post(body))
                assert client.read_response().body == body


@pytest.mark.parametrize("sent", [0, 5, 10])
def test_a_streamed_body_that_is_not_read_does_not_disturb_the_next_request(
    settings: dict[str, Any], sent: int
) -> None:
    gate = Gate()
    with serving(gate, tls=material(), stream_requests=True, **settings) as server:
        with TlsClient(place(server)) as client:
            request = post(b"0123456789", target="/wait")
            client.send(request[: len(request) - 10 + sent])
            eventually(lambda: gate.inside == 1)
            if sent == 10:
                client.send(get("/next"))
            gate.open()
            response = client.read_response()
            assert response.body == b"/wait"
            if sent == 10 and response.header("Connection") is None:
                assert client.read_response().body == b"/next"
            elif sent < 10:
                assert response.header("Connection") == "close"


# Responses


def blocks(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    for number in range(300):
        yield b"%06d" % number * 5000


STREAMED = b"".join(b"%06d" % number * 5000 for number in range(300))


def test_a_stream_to_a_slow_reader_arrives_whole(settings: dict[str, Any]) -> None:
    config: dict[str, Any] = {"out_buffer": 100_000, "out_spool_patience_seconds": 0.001}
    with serving(blocks, tls=material(), **config, **settings) as server:
        with TlsClient(place(server), receive_buffer=4096) as client:
            client.send(get("/", CLOSE))
            head = client.socket.recv(10)
            select.select([], [], [], 0.3)  # the client rests
            client.buffer += head
            assert client.read_response().body == STREAMED
            assert client.ends_in_order()


@pytest.mark.parametrize("size", [1, 16384, 65536, 65537, 5_000_000])
def test_blocks_of_any_size_arrive_whole(settings: dict[str, Any], size: int) -> None:
    body = b"0123456789abcdef" * (size // 16 + 1)

    def whole(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [body] if environ["PATH_INFO"] == "/" else iter([body, body])

    with serving(whole, tls=material(), **settings) as server, TlsClient(place(server)) as client:
        client.send(get() + get("/twice"))
        assert client.read_response().body == body
        assert client.read_response().body == body * 2


def test_a_file_of_wsgi_file_wrapper_arrives_whole(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 20_000
    path.write_bytes(content)

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](path.open("rb"))  # type: ignore[no-any-return]

    with serving(application, tls=material(), **settings) as server:
        with TlsClient(place(server), receive_buffer=4096) as client:
            for _ in range(2):
                client.send(get())
                assert client.read_response().body == content


def test_hsts_is_in_every_response_over_tls_unless_the_application_sets_it(
    settings: dict[str, Any],
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        own = [("strict-transport-security", "max-age=0")] if environ["PATH_INFO"] == "/own" else []
        start_response("200 OK", TEXT + own)
        return [b"x"]

    field = "Strict-Transport-Security"
    with serving(application, tls=material(), hsts="max-age=9", **settings) as server:
        with TlsClient(place(server)) as client:
            client.send(get() + get("/own") + b"BAD\r\n\r\n")
            assert client.read_response().header(field) == "max-age=9"
            assert client.read_response().header(field) == "max-age=0"
            refused = client.read_response()
            assert (refused.status, refused.header(field)) == (400, "max-age=9")


def test_hsts_is_in_no_response_without_tls(transport: str) -> None:
    with serving(Recorder(), transport, hsts="max-age=9") as server, connect(server) as client:
        client.send(get())
        assert client.read_response().header("Strict-Transport-Security") is None


# How a connection ends


def test_rfc8446_6_1_a_response_that_ends_the_connection_is_followed_by_close_notify(
    settings: dict[str, Any],
) -> None:
    with serving(Recorder(), tls=material(), **settings) as server:
        for request in (get("/", CLOSE), get(version="HTTP/1.0"), b"BAD\r\n\r\n"):
            with TlsClient(place(server)) as client:
                client.send(request)
                client.read_response()
                assert client.ends_in_order()


def test_an_idle_connection_is_closed_with_close_notify(settings: dict[str, Any]) -> None:
    with serving(Recorder(), tls=material(), keep_alive=0.2, **settings) as server:
        with TlsClient(place(server)) as client:
            client.send(get())
            client.read_response()
            assert client.ends_in_order()


@pytest.mark.parametrize("length", [[], [("Content-Length", "1000")]])
def test_a_response_that_is_cut_short_has_no_close_notify(
    settings: dict[str, Any], length: list[tuple[str, str]]
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT + length)
        yield b"begun"
        raise LookupError("on purpose")

    with serving(application, tls=material(), **settings) as server:
        for version in ("HTTP/1.1", "HTTP/1.0"):
            with TlsClient(place(server)) as client:
                client.send(get(version=version))
                assert not client.ends_in_order()


def test_a_client_that_ends_its_side_gets_its_answer(settings: dict[str, Any]) -> None:
    with serving(Recorder(), tls=material(), **settings) as server:
        for in_order in (True, False):
            with connect(server) as raw:
                client = MemoryClient(raw.socket)
                client.handshake()
                raw.send(client.encrypt(get()) + (client.close_notify() if in_order else b""))
                raw.end_sending()
                assert client.read().startswith(b"HTTP/1.1 200 OK")
                while client.read():
                    pass  # up to the close_notify


def test_a_body_that_a_close_notify_cuts_off_is_refused(settings: dict[str, Any]) -> None:
    with serving(Recorder(), tls=material(), **settings) as server, connect(server) as raw:
        client = MemoryClient(raw.socket)
        client.handshake()
        raw.send(client.encrypt(post(b"0123456789")[:-5]) + client.close_notify())
        raw.end_sending()
        assert client.read().startswith(b"HTTP/1.1 400 ")


def test_a_draining_server_completes_handshakes_and_answers(settings: dict[str, Any]) -> None:
    recorder = Recorder()
    with serving(recorder, tls=material(), drain_linger=DEADLINE, **settings) as server:
        with connect(server) as raw:
            client = MemoryClient(raw.socket)
            raw.send(client.flight())
            client.receive()
            server.transport.drain()
            while client.tls.version() is None:
                last = client.flight()
                if client.tls.version() is None:
                    client.receive()
            raw.send(last + client.encrypt(get()))
            assert client.read().startswith(b"HTTP/1.1 200 OK")
            while client.read():
                pass
        eventually(server.is_over)


def test_clients_that_leave_within_a_handshake_or_a_response_are_forgotten(
    settings: dict[str, Any],
) -> None:
    with serving(blocks, tls=material(), **settings) as server:
        for part in (10, 200):
            with connect(server) as raw:
                raw.send(MemoryClient(raw.socket).flight()[:part])
        with TlsClient(place(server), receive_buffer=4096) as client:
            client.send(get())
            client.socket.recv(10)
            client.reset()
        eventually(lambda: server.snapshot()["connections"] == 0)


# Other people's clients


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@needs_openssl
def test_a_client_cannot_renegotiate(settings: dict[str, Any]) -> None:
    """Renegotiation costs the server more than the client (CVE-2011-1473)."""
    recorder = Recorder()
    with serving(recorder, tls=material(), **settings) as server:
        command = ["openssl", "s_client", "-connect", f"{server.host}:{server.port}", "-tls1_2"]
        command += ["-legacy_server_connect", "-CAfile", str(authority().path)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            killer = threading.Timer(DEADLINE, process.kill)
            killer.start()
            process.stdin.write(b"R\n")  # a line with R alone asks s_client to renegotiate
            process.stdin.flush()
            said = b""
            while b"RENEGOTIATING" not in said or b"rror" not in said.partition(b"RENEGOT")[2]:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                said += data
            process.stdin.close()
            process.wait()
            killer.cancel()
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said.lower().replace(b"_", b" "), said
        assert ask_target(server) == 200
    assert recorder.targets == ["/"]


def ask_target(server: BareServer) -> int:
    with TlsClient(place(server)) as client:
        client.send(get())
        return client.read_response().status


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_an_answer_by_each_version(settings: dict[str, Any]) -> None:
    with serving(tell, tls=material(), **settings) as server:
        for version, limit in (("TLSv1.2", "1.2"), ("TLSv1.3", "1.3")):
            url = f"https://localhost:{server.port}/"
            command = ["curl", "-sS", "--cacert", str(authority().path), "--noproxy", "*"]
            command += [f"--tlsv{limit}", "--tls-max", limit, "--ipv4", url, url]
            done = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True)
            assert done.stdout.count(f"SSL_PROTOCOL='{version}'") == 2


def test_two_clients_at_once_do_not_disturb_each_other(settings: dict[str, Any]) -> None:
    with serving(blocks, tls=material(), **settings) as server:
        results: list[bool] = []

        def fetch() -> None:
            with TlsClient(place(server)) as client:
                client.send(get())
                results.append(client.read_response().body == STREAMED)

        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert results == [True] * 4


def test_a_tls_client_at_a_plain_port_is_refused(transport: str) -> None:
    with serving(Recorder(), transport) as server, Client(place(server)) as client:
        client.send(MemoryClient(None).flight())
        assert client.read_response().status == 400
