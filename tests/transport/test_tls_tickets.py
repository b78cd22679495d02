"""Sessions that another worker resumes, and what failed handshakes leave behind."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from penstock.edge.tls import TlsMaterial
from penstock.telemetry.scoreboard import HANDSHAKES_FAILED
from support.certificates import authority, material, server_certificate
from support.serving import Recorder, connect, eventually, get
from support.tls import TlsClient
from support.transports import BareServer, serving

OLD, NEW, NEWEST = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def settings(tls_transport: str, threads: int) -> dict[str, Any]:
    return {"transport": tls_transport, "threads": threads}


@pytest.fixture
def native(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["transport"] != "native":
        pytest.skip("the Python transport resumes within one worker")
    return settings


def under(*keys: bytes, **fields: object) -> TlsMaterial:
    return material(server_certificate(), ticket_keys=keys, **fields)


def session_of(
    server: BareServer, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    """Make a request; return whether the session was resumed, and the session."""
    with TlsClient((server.host, server.port), context, session=session) as client:
        client.send(get())
        assert client.read_response().status == 200
        return bool(client.session.session_reused), client.session.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_by_another_worker_until_its_key_is_rotated_out(
    native: dict[str, Any], version: ssl.TLSVersion
) -> None:
    context = authority().client_context()
    context.minimum_version = context.maximum_version = version
    with (
        serving(Recorder(), tls=under(OLD), **native) as one,
        serving(Recorder(), tls=under(NEW, OLD), **native) as other,
    ):
        _, session = session_of(one, context)
        assert session_of(other, context, session)[0]
        other.transport.set_tls(under(NEWEST, NEW))
        assert not session_of(other, context, session)[0]


def test_no_session_is_resumed_that_began_when_clients_needed_no_certificate(
    native: dict[str, Any],
) -> None:
    context = authority().client_context()
    asking = {"client_ca": authority().certificate}
    with serving(Recorder(), tls=under(OLD), **native) as server:
        _, session = session_of(server, context)
        server.transport.set_tls(under(OLD, client_certificates="optional", **asking))
        reused, session = session_of(server, context, session)
        assert not reused
        server.transport.set_tls(under(OLD, client_certificates="required", **asking))
        with pytest.raises((ssl.SSLError, ConnectionError)):  # of 1.3 with the first answer
            session_of(server, context, session)


def test_failed_handshakes_are_counted_but_for_clients_without_a_word(
    settings: dict[str, Any],
) -> None:
    with serving(Recorder(), tls=material(), **settings) as server:
        for sent in (b"", b"\x01\x02\x03", b""):
            with connect(server) as client:
                if sent:
                    client.send(sent)
                else:
                    client.end_sending()
                client.read_to_end()
        eventually(lambda: server.word(HANDSHAKES_FAILED) == 1)
        assert server.word(HANDSHAKES_FAILED) == 1
