"""The ``ssl`` contexts that connections are accepted with, and what sessions add to environ."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence

from penstock.edge.pairs import load_pair
from penstock.edge.tls import (
    DEFAULT_CIPHERS,
    CertificatePair,
    ClientCertificates,
    TlsError,
    TlsMaterial,
    client_certificate_environ,
    default_pairs,
    host_name,
    pairs_by_name,
    wildcard_of,
)
from penstock.transport.python.stream import Traffic
from penstock.transport.python.tls_stream import TlsObject, TlsStream

MakeContext = Callable[[Callable[[], ssl.SSLContext]], ssl.SSLContext]
"""Makes a context from the function that makes the server's own: gunicorn's ``ssl_context``."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY_MODES: dict[ClientCertificates, ssl.VerifyMode] = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_GROUPS = "X25519:prime256v1:secp384r1"
"""Those of Mozilla's intermediate configuration."""


class TlsContexts:
    """A context for each set of certificates that a client may get.

    Immutable: new certificates make new contexts, and connections keep the one they were accepted
    with.
    """

    def __init__(self, material: TlsMaterial, make: MakeContext | None = None) -> None:
        """Raises `TlsError`, which names the pair."""
        _report_no_wrong_names()
        self.material = material
        first = default_pairs(material.pairs)
        # What the client is asked for, and its session ticket, are of this one for all names.
        self._default = self._build(first) if make is None else make(lambda: self._build(first))
        self._default.sslobject_class = TlsObject
        built = {first: self._default}
        self._by_name: dict[str, ssl.SSLContext] = {}
        for name, pairs in pairs_by_name(material.pairs).items():
            if pairs not in built:
                built[pairs] = self._build(pairs)
            self._by_name[name] = built[pairs]
        if self._default.sni_callback is None:
            self._default.sni_callback = self._choose

    def stream(
        self, sock: socket.socket, remote_addr: str, remote_port: str, traffic: Traffic
    ) -> TlsStream:
        """Return the stream of a connection that was accepted just now."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._default.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(tls, TlsObject)
        buffers = (tls, incoming, outgoing)
        return TlsStream(sock, remote_addr, remote_port, traffic, self, buffers)

    def environ(self, tls: TlsObject) -> dict[str, str]:
        """Return what a session adds to the environ of its requests."""
        cipher = tls.cipher()
        found = {"SSL_PROTOCOL": tls.version() or "", "SSL_CIPHER": cipher[0] if cipher else ""}
        if tls.server_name:
            found["SSL_SERVER_NAME"] = tls.server_name
        if self.material.client_certificates != "none":
            found |= client_certificate_environ(tls.getpeercert(binary_form=True))
        return found

    def _choose(
        self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        """Act on the name that a client asks for; ``name`` is its text, None without one.

        Return the alert with which the handshake fails, None where it goes on.
        """
        if name is None:
            return None
        assert isinstance(tls, TlsObject)
        found = host_name(name)
        if found is None:
            tls.refusal = "the name that the client asks for is no name of a host"
            return ssl.AlertDescription.ALERT_DESCRIPTION_ILLEGAL_PARAMETER
        tls.server_name = found
        chosen = self._by_name.get(found) or self._by_name.get(wildcard_of(found))
        if chosen is not None and chosen is not self._default:
            tls.context = chosen
        return None

    def _build(self, pairs: Sequence[CertificatePair]) -> ssl.SSLContext:
        material = self.material
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = TlsObject
        context.minimum_version = _VERSIONS[material.minimum_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            context.set_ciphers(material.ciphers or DEFAULT_CIPHERS)
        except ssl.SSLError:
            raise TlsError(
                f"OpenSSL has none of the ciphers {material.ciphers} (setting: ciphers)"
            ) from None
        if hasattr(context, "set_groups"):  # from Python 3.15 on
            context.set_groups(_GROUPS)
        if material.alpn:
            context.set_alpn_protocols(list(material.alpn))
        if material.client_ca is not None:
            try:
                context.load_verify_locations(cadata=material.client_ca.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise TlsError(f"ca_certs cannot be used: {error}") from None
        context.verify_mode = _VERIFY_MODES[material.client_certificates]
        # Of each kind of key the last one loaded counts, and the first one given should.
        for pair in reversed(pairs):
            try:
                load_pair(context, pair)
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", None) or str(error)
                raise TlsError(
                    f"the certificate for {pair.label} cannot be used: {reason}"
                ) from None
        if material.key_log is not None:
            try:
                # With it each recorded session can be read: OpenSSL would make it for all users.
                _make_private_file(material.key_log)
                context.keylog_filename = material.key_log
            except OSError as error:
                raise TlsError(f"cannot open {material.key_log}: {error.strerror}") from None
        return context


def _make_private_file(path: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


def _report_no_wrong_names() -> None:
    """Have Python not write a traceback for each name (SNI) that is not ASCII.

    `ssl` decodes the name before it calls `TlsContexts._choose`, fails the handshake, and reports
    the error by `sys.unraisablehook`: to the standard error, as often as clients wish. The
    handshake's failure is logged as all others are.
    """
    report = sys.unraisablehook
    if getattr(report, "leaves_out_wrong_names", False):
        return

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        error = unraisable.exc_value
        # The decoded bytes are the object that it names; a destructor's is a function.
        if not (isinstance(error, UnicodeDecodeError) and error.object == unraisable.object):
            report(unraisable)

    hook.leaves_out_wrong_names = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
