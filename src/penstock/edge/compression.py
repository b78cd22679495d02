"""Compressing what the application sends, where the client takes it (RFC 9110, section 8.4)."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from penstock.edge.preconditions import IDENTITY, choose_coding
from penstock.errors import FileTruncatedError

if TYPE_CHECKING:
    from penstock.transport import Exchange, HeaderList, Outlet

LEAST_BYTES = 512
"""A shorter body fits a packet as it is, and saves less than compressing it costs."""

GZIP_LEVEL = 5
BROTLI_QUALITY = 4
ZSTD_LEVEL = 3
"""Of each the level at which it is about as fast as gzip's: a response is compressed each time."""

_FILE_BLOCK_BYTES = 64 * 1024

# RFC 9110: there is no content, only a part of it, or what comes is not what was asked for.
_NEVER = frozenset({204, 205, 206})

_TEXT = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/jsonl",
        "application/ndjson",
        "application/rtf",
        "application/toml",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/yaml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
    }
)
"""Types besides ``text/...``, ``...+json`` and ``...+xml`` whose content becomes much shorter."""

# Sums of the bytes that are sent, or of the representation in its coding (RFC 9530).
_DIGESTS = frozenset({"content-digest", "content-md5", "digest", "repr-digest"})
_KEEP_AS_IT_IS = _DIGESTS | {"content-encoding", "content-range"}


class Coder(Protocol):
    """Compresses one response."""

    def block(self, data: bytes) -> bytes:
        """Return all that a client needs to read ``data`` now, which is not empty."""

    def end(self, data: bytes) -> bytes:
        """Return ``data`` as the last block, with the end."""


class _Gzip:
    def __init__(self) -> None:
        self._coder = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def block(self, data: bytes) -> bytes:
        return self._coder.compress(data) + self._coder.flush(zlib.Z_SYNC_FLUSH)

    def end(self, data: bytes) -> bytes:
        return self._coder.compress(data) + self._coder.flush()


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._coder = module.Compressor(quality=BROTLI_QUALITY)

    def block(self, data: bytes) -> bytes:
        return bytes(self._coder.process(data) + self._coder.flush())

    def end(self, data: bytes) -> bytes:
        return bytes(self._coder.process(data) + self._coder.finish())


class _Zstd:
    """`compression.zstd` of Python 3.14, and `backports.zstd`."""

    def __init__(self, module: Any) -> None:
        self._coder = module.ZstdCompressor(level=ZSTD_LEVEL)

    def block(self, data: bytes) -> bytes:
        return bytes(self._coder.compress(data, mode=self._coder.FLUSH_BLOCK))

    def end(self, data: bytes) -> bytes:
        return bytes(self._coder.compress(data, mode=self._coder.FLUSH_FRAME))


class _Zstandard:
    """The package zstandard."""

    def __init__(self, module: Any) -> None:
        self._coder = module.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        self._flush_block = module.COMPRESSOBJ_FLUSH_BLOCK

    def block(self, data: bytes) -> bytes:
        return bytes(self._coder.compress(data) + self._coder.flush(self._flush_block))

    def end(self, data: bytes) -> bytes:
        return bytes(self._coder.compress(data) + self._coder.flush())


_LIBRARIES: tuple[tuple[str, str, Callable[[Any], Coder]], ...] = (
    ("zstd", "compression.zstd", _Zstd),
    ("zstd", "backports.zstd", _Zstd),
    ("zstd", "zstandard", _Zstandard),
    ("br", "brotli", _Brotli),
    ("br", "brotlicffi", _Brotli),
)
"""What may be installed, the fastest coding first. Of each coding the first counts."""


class Compression:
    """Makes the outlets through which responses are compressed."""

    def __init__(self) -> None:
        """Look for the libraries that are installed."""
        self._coders: dict[str, Callable[[], Coder]] = {}
        for coding, name, coder in _LIBRARIES:
            if coding not in self._coders:
                try:
                    module = import_module(name)
                except ImportError:
                    continue
                self._coders[coding] = lambda coder=coder, module=module: coder(module)  # type: ignore[misc]
        self._coders["gzip"] = _Gzip
        self.codings = tuple(self._coders)
        """The codings that there are, in the order of preference."""

    def coder(self, coding: str) -> Coder:
        """Return what compresses one response."""
        return self._coders[coding]()

    def outlet(self, exchange: Exchange, is_head: bool) -> Outlet:
        """Return what an application's response to this request is sent through."""
        return _CompressedOutlet(self, exchange, is_head)


class _CompressedOutlet:
    """`penstock.transport.Outlet` that compresses where the response and the client allow it."""

    __slots__ = ("_accepted", "_coder", "_coding", "_compression", "_exchange", "_head", "_is_head")

    def __init__(self, compression: Compression, exchange: Exchange, is_head: bool) -> None:
        self._compression = compression
        self._exchange = exchange
        self._is_head = is_head
        self._accepted = exchange.environ.get("HTTP_ACCEPT_ENCODING")
        self._coding = IDENTITY
        self._coder: Coder | None = None
        # The head of a response that may be compressed, until it is known if it is long enough.
        self._head: tuple[str, HeaderList, int | None] | None = None

    @property
    def head_sent(self) -> bool:
        return self._exchange.head_sent

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        self._exchange.send_informational(status, headers)

    def close_after_response(self) -> None:
        self._exchange.close_after_response()

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        self._head = self._coder = None
        code = int(status[:3])
        if code == 304:
            headers = self._not_modified(headers)
        elif (
            code not in _NEVER
            and _may_be_coded(headers)
            and (content_length or LEAST_BYTES) >= LEAST_BYTES
        ):
            coding = choose_coding(self._accepted, self._compression.codings)
            headers = with_vary(headers)
            if coding is not None and coding != IDENTITY and content_length != 0:
                self._coding = coding
                self._head = (status, headers, content_length)
                return
        self._exchange.respond(status, headers, content_length)

    def _not_modified(self, headers: HeaderList) -> HeaderList:
        """Return the fields of a 304 with the tag and the Vary of the 200 (section 15.4.5)."""
        if not _may_be_coded(headers, any_type=True):
            return headers
        headers = with_vary(headers)
        coding = choose_coding(self._accepted, self._compression.codings)
        return headers if coding in (None, IDENTITY) else _with_weak_tag(headers)

    def _begin(self, content_length: int | None) -> None:
        assert self._head is not None
        status, headers, _ = self._head
        self._head = None
        headers = [
            field for field in _with_weak_tag(headers) if field[0].lower() != "accept-ranges"
        ]
        headers.append(("Content-Encoding", self._coding))
        self._exchange.respond(status, headers, content_length)

    def send(self, data: bytes) -> None:
        if self._head is not None:
            self._begin(None)
            self._coder = self._compression.coder(self._coding)
        if self._coder is None:
            self._exchange.send(data)
        elif data:
            self._exchange.send(self._coder.block(data))

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        if self._head is None and self._coder is None:
            self._exchange.send_file(descriptor, offset, count)
            return
        end = offset + count
        while offset < end:
            block = os.pread(descriptor, min(_FILE_BLOCK_BYTES, end - offset), offset)
            if not block:
                raise FileTruncatedError(errno.EIO, "the file became shorter while it was sent")
            self.send(block)
            offset += len(block)

    def finish(self, data: bytes = b"") -> None:
        if self._head is not None:
            self._finish_whole(data)
        elif self._coder is not None:
            self._exchange.finish(self._coder.end(data))
        else:
            self._exchange.finish(data)

    def _finish_whole(self, data: bytes) -> None:
        assert self._head is not None
        status, headers, content_length = self._head
        if self._is_head:
            # What GET would have: its length, and without one also its coding, is not known.
            if content_length is None:
                self._exchange.respond(status, _with_weak_tag(headers), None)
            else:
                self._begin(None)
            self._exchange.finish()
        elif len(data) < LEAST_BYTES:
            self._exchange.respond(status, headers, content_length)
            self._exchange.finish(data)
        else:
            coded = self._compression.coder(self._coding).end(data)
            self._begin(len(coded))
            self._exchange.finish(coded)


def _may_be_coded(headers: HeaderList, *, any_type: bool = False) -> bool:
    """Return True where the fields let content be compressed.

    ``any_type`` is for a 304, whose fields rarely have the type of the 200.
    """
    kind = ""
    for name, value in headers:
        name = name.lower()
        if name in _KEEP_AS_IT_IS:
            return False
        if name == "content-type":
            kind = value.partition(";")[0].strip().lower()
        elif name == "cache-control" and "no-transform" in value.lower():
            return False
    if not kind:
        return any_type
    return kind.startswith("text/") or kind.endswith(("+json", "+xml")) or kind in _TEXT


def with_vary(headers: HeaderList) -> HeaderList:
    """Return the fields with ``Accept-Encoding`` in Vary."""
    for name, value in headers:
        if name.lower() == "vary":
            named = [part.strip().lower() for part in value.split(",")]
            if "accept-encoding" in named or "*" in named:
                return headers
    return [*headers, ("Vary", "Accept-Encoding")]


def _with_weak_tag(headers: HeaderList) -> HeaderList:
    """Return the fields with a weak tag: the bytes differ (RFC 9110, section 8.8.1)."""
    return [
        (name, f"W/{value}" if name.lower() == "etag" and not value.startswith("W/") else value)
        for name, value in headers
    ]
