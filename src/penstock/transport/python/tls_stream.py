"""A stream over TLS, by the standard library's ``ssl``.

The server moves the encrypted bytes itself, between the socket and the two buffers of an
`ssl.SSLObject` (``ssl.MemoryBIO``). With a socket in the hands of ``ssl``, a write that the kernel
does not take whole would have to be repeated with the same bytes, and what was decrypted already
would be invisible to the event loop.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from penstock.transport.python.stream import (
    NO_SIGNAL,
    HandshakeFailed,
    PlainHttp,
    SocketStream,
    Stream,
    Traffic,
)

if TYPE_CHECKING:
    from penstock.transport.python.tls_contexts import TlsContexts

ENCRYPT_BYTES = 64 * 1024
"""The most bytes that are encrypted at once, as four records: a connection whose client does not
read holds that much besides its output."""

RECORD_BYTES = 16 * 1024
"""The most bytes that one record holds (RFC 8446, section 5.1)."""

HANDSHAKE_BYTES = 16 * 1024
"""How much of a handshake is read at once."""

ARRIVED_BYTES = 256 * 1024
"""How much is decrypted to find out what has arrived. `TransportConfig.discard_bytes` is no more.
"""

WITHOUT_DATA_BYTES = 20 * 1024
"""How many encrypted bytes may come without application data: one record that has not come whole,
and a hundred that have none. Each KeyUpdate (RFC 8446, section 4.6.3) costs new keys, and OpenSSL
takes any number of them; rustls takes 32 in a row."""

BYTES_FOR_DATA = 64
"""How many of these each byte of application data makes up for: a record with one byte has 23."""

_HANDSHAKE_RECORD = 0x16


class TlsObject(ssl.SSLObject):
    """The TLS of one connection, and the name that its client has asked for."""

    server_name = ""
    """In lower case; empty where the client has asked for none."""
    refusal = ""
    """Why the handshake fails, where the server has decided that."""


class TlsStream(SocketStream):
    """A socket that never blocks, with TLS. Has the members of `Stream`.

    The leader may send what is queued while the application's thread reads, so that each use of
    the TLS state is under ``_lock``. It is held for no longer than some records take to be
    encrypted.

    What `send` and its like have encrypted, and the kernel has not taken whole, counts as not sent:
    they raise `BlockingIOError`. Callers send the same bytes again first, as the order of a stream
    has it anyway, whether from memory or from a file: these count as sent as soon as their records
    have left.
    """

    secure: Literal[True] = True

    __slots__ = (
        "_contexts",
        "_decrypted",
        "_ended",
        "_ending",
        "_incoming",
        "_lock",
        "_outgoing",
        "_owed",
        "_unsent",
        "_without_data",
        "greeted",
        "tls",
    )

    def __init__(
        self,
        sock: socket.socket,
        remote_addr: str,
        remote_port: str,
        traffic: Traffic,
        contexts: TlsContexts,
        tls: tuple[TlsObject, ssl.MemoryBIO, ssl.MemoryBIO],
    ) -> None:
        """``tls`` is the TLS of the server's side, and what it reads from and writes to."""
        super().__init__(sock, remote_addr, remote_port, traffic)
        self._contexts = contexts
        self.tls, self._incoming, self._outgoing = tls
        self._lock = threading.Lock()
        self._unsent: bytes | memoryview = b""  # encrypted, and not taken by the kernel
        self._owed = 0  # how many bytes of the callers' these are
        self._decrypted = b""  # and not received by a caller
        self._without_data = 0  # see `WITHOUT_DATA_BYTES`
        self._ended = False  # the client has ended its side
        self._ending = False  # so has the server
        self.greeted = False
        """The client has begun a handshake."""

    # -- the handshake, by the leader -----------------------------------------------------------

    def handshake(self) -> bool:
        """Go on with the handshake as far as possible; return True when it is complete.

        Raises `PlainHttp` and `HandshakeFailed`. After True `take_decrypted` has what has come
        behind the handshake.
        """
        with self._lock:
            try:
                while not self._step():
                    pass
                self._push_some()
                self._decrypt()
            except (BlockingIOError, InterruptedError):
                self._push_some()
                return False
            except OSError as error:
                self._push_some()  # the alert, that says why
                raise HandshakeFailed(self.tls.refusal or _reason(error)) from None
            return True

    def _step(self) -> bool:
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            self._push_some()
        data = self.recv_raw(HANDSHAKE_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "")
        if not self.greeted and data[0] != _HANDSHAKE_RECORD:
            if data[:1].isupper():  # a method
                raise PlainHttp
            raise OSError(errno.EPROTO, "what the client sends is not TLS")
        self.greeted = True
        self._incoming.write(data)
        return False

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not taken all that was to be sent."""
        return bool(self._unsent)

    def environ(self) -> dict[str, str]:
        """Return what the session adds to the environ of its requests, after the handshake."""
        return self._contexts.environ(self.tls)

    @property
    def has_resumed(self) -> bool:
        """Whether the handshake, which is complete, has resumed a session."""
        return bool(self.tls.session_reused)

    # -- reading --------------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Return what the next ``size`` encrypted bytes hold, and one record more at most.

        So nothing stays decrypted here, where no event would tell of it.
        """
        with self._lock:
            if not self._decrypted and not self._ended:
                self._receive(size)
            return self._take()

    def take_decrypted(self) -> bytes | None:
        """Return what was decrypted and not received: ``b""`` where the client ended, else None."""
        with self._lock:
            try:
                return self._take()
            except BlockingIOError:
                return None

    def _take(self) -> bytes:
        data, self._decrypted = self._decrypted, b""
        if not data and not self._ended:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return data

    def _receive(self, size: int) -> None:
        data = self.recv_raw(size)
        if not data:
            # Also without a close_notify before it: a request shows its own end.
            self._ended = True
        for at in range(0, len(data), RECORD_BYTES):
            part, before = data[at : at + RECORD_BYTES], len(self._decrypted)
            self._incoming.write(part)
            self._decrypt()
            if self._ended:
                break
            made_up_for = BYTES_FOR_DATA * (len(self._decrypted) - before)
            self._without_data = max(0, self._without_data + len(part) - made_up_for)
            if self._without_data > WITHOUT_DATA_BYTES:
                raise ConnectionResetError(errno.ECONNRESET, "too many records without data")

    def _decrypt(self) -> None:
        """Decrypt all that has arrived whole."""
        pieces = [self._decrypted] if self._decrypted else []
        try:
            while self._incoming.pending or self.tls.pending():
                piece = self.tls.read(RECORD_BYTES)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._push_some()
            _fail(error)
        self._decrypted = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._outgoing.pending:  # an answer to a KeyUpdate
            self._push_some()

    def recv_into(self, buffer: bytearray) -> int:
        """Drop what has arrived; return how many encrypted bytes that were."""
        count = self._socket.recv_into(buffer)
        self.traffic.received += count
        return count

    def note_received(self, count: int) -> None:
        """Do nothing: what the socket receives is counted where that is, with what TLS adds."""

    def note_sent(self, count: int) -> None:
        """Do nothing: likewise."""

    def peek(self) -> bool:
        """Return True if input waits, False at its end."""
        with self._lock:
            if not self._decrypted and not self._ended:
                self._receive(RECORD_BYTES)
            if not self._decrypted and not self._ended:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return bool(self._decrypted)

    def wait_readable(self, seconds: float) -> bool:
        """Wait until there is input, or its end; return False if there is none in time."""
        if self._decrypted or self._ended:
            return True
        return super().wait_readable(seconds)

    def arrived(self) -> int:
        """Return how many bytes have arrived and were not received.

        The kernel counts encrypted bytes, of which a part is none of the client's data.
        """
        with self._lock:
            try:
                while len(self._decrypted) < ARRIVED_BYTES and not self._ended:
                    self._receive(ARRIVED_BYTES)
            except OSError:
                pass
            return len(self._decrypted)

    # -- sending --------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview, _flags: int = 0) -> int:
        """Send what the kernel takes of ``data``; return how many bytes."""
        return self.sendmsg((data,))

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Send what the kernel takes of ``pieces``, one behind the other; return how many bytes."""
        with self._lock:
            sent = skipped = self._send_earlier(sum(map(len, pieces)))
            try:
                # A head goes into one record with the beginning of its body.
                for piece in _joined(pieces):
                    view = memoryview(piece)[skipped:]
                    skipped = max(0, skipped - len(piece))
                    while view:
                        count = self._send(view)
                        sent += count
                        view = view[count:]
            except BlockingIOError:
                if not sent:
                    raise
        return sent

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send up to ``count`` bytes of a file; return how many, 0 where it ends before."""
        with self._lock:
            earlier = self._send_earlier(count)
        if earlier:
            return earlier
        data = os.pread(descriptor, min(count, ENCRYPT_BYTES), offset)
        return self.send(data) if data else 0

    def _send_earlier(self, most: int) -> int:
        """Send what is left of earlier records; return how many bytes of ``most`` these were.

        Raises `BlockingIOError` where some of it is still left.
        """
        if self._unsent or self._outgoing.pending:
            self._push()
        earlier = min(self._owed, most)
        self._owed -= earlier
        return earlier

    def _send(self, data: memoryview) -> int:
        try:
            self._owed = self.tls.write(data[:ENCRYPT_BYTES])
        except ssl.SSLError as error:
            _fail(error)
        self._push()
        count, self._owed = self._owed, 0
        return count

    def _push(self) -> None:
        """Send what is encrypted; raises `BlockingIOError` where the kernel takes only a part."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return
                self._unsent = self._outgoing.read()
            sent = self._socket.send(self._unsent, NO_SIGNAL)
            self.traffic.sent += sent
            self._unsent = b"" if sent == len(self._unsent) else memoryview(self._unsent)[sent:]

    def _push_some(self) -> None:
        """Send what the kernel takes: the rest goes before the next bytes that are sent."""
        try:
            self._push()
        except OSError:
            pass  # the next send meets it

    # -- the end --------------------------------------------------------------------------------

    def forgo_end(self) -> None:
        """Have `shut_down` and `close` not say that what was sent is complete."""
        with self._lock:
            self._ending = True

    def reset_on_close(self) -> None:
        """Have `close` end with a reset, which no client takes for the proper end of a response."""
        self._ending = True
        super().reset_on_close()

    def shut_down(self) -> None:
        """End the output: the client reads what was sent, and then the end (close_notify).

        Raises `BlockingIOError` where the kernel has no room for that now.
        """
        with self._lock:
            self._end()
            self._push()
        super().shut_down()

    def _end(self) -> None:
        if self._ending:
            return
        self._ending = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # the client's has not come yet, or the handshake was not complete

    def close(self) -> None:
        """Close the socket; where nothing was cut short, the client is told before."""
        if not self._ending and not self._owed:
            with self._lock:
                self._end()
                self._push_some()
        super().close()

    def in_plain(self) -> Stream:
        """Return the same socket as a stream without TLS, for a client that does not speak it."""
        return Stream(self._socket, self.remote_addr, self.remote_port, self.traffic)


def _joined(pieces: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
    """Return the pieces with those at the beginning joined that are short."""
    if len(pieces) == 1:
        return pieces
    first, count = b"", 0
    for piece in pieces:
        if len(first) + len(piece) > ENCRYPT_BYTES:
            break
        first += piece
        count += 1
    return [first, *pieces[count:]]


def _fail(error: ssl.SSLError) -> NoReturn:
    """Raise what callers take for a client that is gone: nothing can be sent or read any more."""
    raise ConnectionResetError(errno.ECONNRESET, _reason(error)) from None


def _reason(error: OSError) -> str:
    """Return OpenSSL's reason in words, such as ``unsupported protocol``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "").lower().replace("_", " ") or "what the client sends is wrong"
    return str(error.strerror) if error.errno == errno.EPROTO else ""


AnyStream = Stream | TlsStream
