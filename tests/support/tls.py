"""Clients that speak TLS."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import struct
from pathlib import Path
from typing import Any, cast

from support.certificates import authority
from support.wire import Client


class TlsClient(Client):
    """A connection over TLS, with the handshake done. A missing close_notify is an error.

    ``session`` is the `ssl.SSLSocket`, also as ``socket``.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext | None = None,
        *,
        server_hostname: str | None = "localhost",
        session: ssl.SSLSession | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        """Connect; without a ``context``, trust the authority of the tests alone."""
        super().__init__(address, receive_buffer=receive_buffer)
        context = context or authority().client_context()
        try:
            self.session = context.wrap_socket(
                self.socket,
                server_hostname=server_hostname,
                suppress_ragged_eofs=False,
                session=session,
            )
        except BaseException:
            self.socket.close()
            raise
        self.socket = self.session

    def end_sending(self) -> None:
        """Close the sending half of the socket, without a close_notify."""
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def ends_in_order(self) -> bool:
        """Wait for the server's end; return True if it has sent a close_notify."""
        try:
            while self.socket.recv(65536):
                pass
        except (ssl.SSLEOFError, ConnectionResetError):
            return False
        return True

    def certificate(self) -> dict[str, Any]:
        """Return the server's certificate as `ssl.SSLSocket.getpeercert` does."""
        return cast("dict[str, Any]", self.session.getpeercert())

    def names(self) -> set[str]:
        """Return the names in the server's certificate."""
        return {value for _, value in self.certificate()["subjectAltName"]}


class MemoryClient:
    """The client's side of TLS between two buffers: a test moves the bytes itself."""

    def __init__(
        self,
        sock: socket.socket | None,
        context: ssl.SSLContext | None = None,
        server_hostname: str = "localhost",
    ) -> None:
        """Take a connected socket with a timeout; None is for bytes alone."""
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or authority().client_context()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_hostname)

    def flight(self) -> bytes:
        """Go on with the handshake; return the bytes that are to be sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` as records."""
        self.tls.write(data)
        return self.outgoing.read()

    def receive(self) -> bool:
        """Take what the server sends; return False at its end."""
        assert self.socket is not None
        data = self.socket.recv(65536)
        self.incoming.write(data)
        return bool(data)

    def handshake(self) -> None:
        """Do the whole handshake."""
        assert self.socket is not None
        while flight := self.flight():
            self.socket.sendall(flight)
            if self.tls.version() is not None:
                return
            assert self.receive()

    def close_notify(self) -> bytes:
        """Return the record that ends the client's side."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self.outgoing.read()

    def read(self) -> bytes:
        """Return some data of the server's, ``b""`` at its close_notify."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if not self.receive():
                    raise ConnectionError("no close_notify") from None


class RecordWriter:
    """Writes a client's records of TLS 1.3 itself, from the secret that its session has logged."""

    def __init__(self, client: MemoryClient, key_log: Path, sent: int) -> None:
        """``client`` has done its handshake, and has sent this number of records since.

        Its context has ``key_log`` as its ``keylog_filename``.
        """
        suite = client.tls.cipher()
        assert suite is not None
        self._hash = "sha384" if suite[0].endswith("SHA384") else "sha256"
        self._key_bytes = 16 if "AES_128" in suite[0] else 32
        self._is_chacha = "CHACHA20" in suite[0]
        self._secret = next(
            bytes.fromhex(line.split()[2])
            for line in key_log.read_text().splitlines()
            if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
        )
        self._sent = sent

    def key_update(self) -> bytes:
        """Return a record with a KeyUpdate that asks for one in return (RFC 8446, 4.6.3)."""
        record = self._record(b"\x18\0\0\x01\x01", 22)
        size = hashlib.new(self._hash).digest_size
        self._secret, self._sent = self._expand(b"traffic upd", size), 0
        return record

    def data(self, content: bytes) -> bytes:
        """Return a record with application data."""
        return self._record(content, 23)

    def _record(self, content: bytes, kind: int) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

        cipher = ChaCha20Poly1305 if self._is_chacha else AESGCM
        inner = content + bytes([kind])
        head = struct.pack("!BHH", 23, 0x303, len(inner) + 16)
        number = self._sent.to_bytes(12, "big")
        nonce = bytes(a ^ b for a, b in zip(self._expand(b"iv", 12), number, strict=True))
        self._sent += 1
        key = self._expand(b"key", self._key_bytes)
        return head + bytes(cipher(key).encrypt(nonce, inner, head))

    def _expand(self, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label of RFC 8446, section 7.1, for what fits one block of the hash."""
        label = b"tls13 " + label
        info = struct.pack("!HB", size, len(label)) + label + b"\0"
        return hmac.digest(self._secret, info + b"\x01", self._hash)[:size]
