"""Files of directories that the server answers requests with before it calls the application.

A thread that has taken a request looks for the file, opens it and sends it, as the application
would: where the disk is slow, another thread leads meanwhile. Small files are kept in memory, and
each request compares the file's status with that of what is kept.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes

from penstock import messages
from penstock.edge.file_response import (
    Representation,
    send_conditionally,
    send_status,
    validator_fields,
    validators,
)
from penstock.edge.media_types import is_hashed, media_type
from penstock.edge.preconditions import IDENTITY, choose_coding
from penstock.edge.served_directory import (
    LOOK_SECONDS,
    NOT_THERE,
    LogMessage,
    ReadError,
    ServedDirectory,
    is_refused,
    status_of,
)
from penstock.records import dataclass

if TYPE_CHECKING:
    from penstock.system.beneath import Directory
    from penstock.transport import Exchange, HeaderList

CACHED_FILE_BYTES = 64 * 1024
"""The largest file that is kept in memory. The kernel sends larger ones as fast from its own."""

ENTRY_BYTES = 4096
"""What an entry of the cache counts for besides its content: its names, fields and objects."""

CODINGS: Final = (("br", b".br"), ("zstd", b".zst"), ("gzip", b".gz"))
"""The codings of precompressed files, the shortest as a rule first, and the ends of their names."""

CHANGED_NANOSECONDS = 100_000_000
"""A file that was changed less than this ago is not kept: the clock of files ticks every few
milliseconds, and a second change within the same tick would not show."""

IMMUTABLE = "public, max-age=31536000, immutable"
METHODS = "GET, HEAD, OPTIONS"

_State = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What the settings say of static files."""

    places: Sequence[tuple[str, str]]
    """Prefixes of URLs, and their directories."""
    index: str = ""
    """The name of the file that answers for a directory; empty for none."""
    max_age: float = 60.0
    """Seconds for which a client may use a file without asking again."""
    cache_bytes: int = 8 << 20
    """How much of small files is kept in memory."""


@dataclass(slots=True)
class _Variant:
    """A file, or a precompressed form of it."""

    name: bytes
    coding: str
    kept: tuple[_State, Representation] | None = None
    """What is in memory, and the status that the file had then."""


@dataclass(slots=True)
class _Entry:
    """A file with its precompressed forms."""

    directory: Directory
    variants: dict[str, _Variant]
    """By coding; `IDENTITY` is the file itself."""
    codings: tuple[str, ...]
    """Those of the precompressed forms."""
    look_at: float
    """When to look again for precompressed forms, on the monotonic clock. A change of the file
    that is sent is seen at once."""
    size: int = ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer without a file."""

    status: int
    headers: HeaderList


class StaticFiles:
    """Answers requests for files. Any number of threads may use it."""

    def __init__(
        self,
        settings: StaticSettings,
        log: LogMessage,
        *,
        sendfile: bool = True,
    ) -> None:
        """Set what is served. Without ``sendfile`` files are read, and not sent by the kernel.

        The prefixes of `StaticSettings.places` are those of URLs as the server receives them,
        wherever the application is mounted.
        """
        places = [
            (_native(prefix).rstrip("/") + "/", ServedDirectory(path))
            for prefix, path in settings.places
        ]
        self._places = sorted(places, key=lambda place: -len(place[0]))
        self.beginnings = tuple(prefix[:-1] for prefix, _ in self._places)
        self._index = os.fsencode(settings.index)
        self._cache_bytes = settings.cache_bytes
        self._log = log
        self._sendfile = sendfile
        age = f"{settings.max_age:.0f}"
        self._fresh = "no-cache" if age == "0" else f"public, max-age={age}"
        # Read without the lock, which is for changes: a lost entry is made again.
        self._cache: dict[str, _Entry] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def answer(self, exchange: Exchange) -> bool:
        """Answer a request if it is for a file; else return False, and leave it untouched.

        Raises what the exchange raises.
        """
        environ = exchange.environ
        path: str = environ["PATH_INFO"]
        if environ["SCRIPT_NAME"]:
            path = _received_path(environ["RAW_URI"])
            if not path.startswith(self.beginnings):
                return False
        entry: _Entry | _Answer | None = self._cache.get(path)
        try:
            if entry is None or entry.look_at <= time.monotonic():  # type: ignore[union-attr]
                entry = self._find(path, environ)
            if type(entry) is _Entry:
                return self._serve(exchange, environ, path, entry)
        except ReadError as error:
            if error.errno in NOT_THERE:
                return False  # it was removed meanwhile
            status = status_of(error)
            if status != 404:
                self._log(
                    messages.STATIC_FILE_NOT_READ, path=ascii(path)[1:-1], error=error.strerror
                )
            entry = _Answer(status, [])
        if entry is None:
            return False
        assert isinstance(entry, _Answer)
        send_status(exchange, entry.status, entry.headers)
        return True

    # -- finding --------------------------------------------------------------------------------

    def _find(self, path: str, environ: Mapping[str, Any]) -> _Entry | _Answer | None:
        """Return what a path leads to; None leaves it to the application."""
        for prefix, place in self._places:
            if path.startswith(prefix):
                break
            if path and path == prefix[:-1]:
                return self._redirect(place, b"", path, environ)
        else:
            return None
        name = path[len(prefix) :].encode("latin-1")
        if is_refused(name):
            return _Answer(404, [])
        if name.startswith(b"/") or b"//" in name:
            return None  # a file has one URL
        directory = place.current()
        if directory is None:
            return None
        for_directory = not name or name.endswith(b"/")
        if for_directory:
            if not self._index:
                return None
            name += self._index
        mode = _mode(directory, name)
        if stat.S_ISDIR(mode) and not for_directory:
            return self._redirect(place, name + b"/", path, environ)
        if not mode or stat.S_ISDIR(mode):
            return None
        return self._enter(path, directory, name)

    def _redirect(
        self, place: ServedDirectory, name: bytes, path: str, environ: Mapping[str, Any]
    ) -> _Answer | None:
        """Return the answer for a directory's name without a ``/``, if it has an index file."""
        directory = place.current()
        if not self._index or directory is None:
            return None
        if not stat.S_ISREG(_mode(directory, name + self._index)):
            return None
        # Relative, because a proxy may have removed the beginning of the path.
        last = quote(path.rpartition("/")[2].encode("latin-1"), safe="")
        query = environ["QUERY_STRING"]
        return _Answer(301, [("Location", f"./{last}/{'?' if query else ''}{query}")])

    def _enter(self, path: str, directory: Directory, name: bytes) -> _Entry:
        """Make the entry of a file, with what is kept of it already, and keep it."""
        before = self._cache.get(path)
        known = before.variants if before is not None else {}
        variants = {}
        for coding, end in ((IDENTITY, b""), *CODINGS):
            coded = name + end
            if coding == IDENTITY or stat.S_ISREG(_mode(directory, coded, unknown=0)):
                variant = known.get(coding)
                if variant is None or variant.name != coded:
                    variant = _Variant(coded, coding)
                variants[coding] = variant
        codings = tuple(variants)[1:]
        if before is not None and before.codings != codings:
            for variant in variants.values():
                variant.kept = None  # its fields say whether there are others
        entry = _Entry(directory, variants, codings, time.monotonic() + LOOK_SECONDS)
        self._keep(path, entry)
        return entry

    # -- serving --------------------------------------------------------------------------------

    def _serve(
        self, exchange: Exchange, environ: Mapping[str, Any], path: str, entry: _Entry
    ) -> bool:
        method = environ["REQUEST_METHOD"]
        if method != "GET" and method != "HEAD":
            if method == "OPTIONS":
                exchange.respond("200 OK", [("Allow", METHODS)], 0)
                exchange.finish()
            else:
                send_status(exchange, 405, [("Allow", METHODS)])
            return True
        coding: str | None = IDENTITY
        if entry.codings or "HTTP_ACCEPT_ENCODING" in environ:
            coding = choose_coding(environ.get("HTTP_ACCEPT_ENCODING"), entry.codings)
        if coding is None:
            send_status(exchange, 406, [("Vary", "Accept-Encoding")])
            return True
        variant = entry.variants[coding]
        if variant.kept is not None:
            state, kept = variant.kept
            if state == self._state_of(entry, variant):
                send_conditionally(exchange, kept, method == "HEAD")
                return True
        try:
            found = self._load(path, entry, variant)
        except ReadError:
            if coding == IDENTITY:
                raise
            # Without this form of it: a link that leads out, or a file that may not be read. The
            # entry is other threads', too.
            others = {name: it for name, it in entry.variants.items() if name != coding}
            entry = replace(entry, variants=others, codings=tuple(others)[1:])
            return self._serve(exchange, environ, path, entry)
        try:
            send_conditionally(exchange, found, method == "HEAD")
        finally:
            if found.descriptor >= 0:
                os.close(found.descriptor)
        return True

    def _state_of(self, entry: _Entry, variant: _Variant) -> _State | None:
        try:
            return _state(os.stat(variant.name, dir_fd=entry.directory.descriptor))
        except OSError:
            return None

    def _load(self, path: str, entry: _Entry, variant: _Variant) -> Representation:
        """Open a file; keep it if it is small. Raises `ReadError`."""
        try:
            descriptor, status = entry.directory.open_file(variant.name)
        except OSError as error:
            self._drop(path)
            raise ReadError(error) from None
        content = None
        try:
            if status.st_size <= CACHED_FILE_BYTES and self._cache_bytes:
                content = os.pread(descriptor, status.st_size + 1, 0)
        except OSError as error:
            os.close(descriptor)
            raise ReadError(error) from None
        if content is None or len(content) != status.st_size:  # large, or just being written
            return self._describe(entry, variant, status, None, descriptor)
        os.close(descriptor)
        found = self._describe(entry, variant, status, content, -1)
        if not 0 <= time.time_ns() - status.st_ctime_ns < CHANGED_NANOSECONDS:
            variant.kept = (_state(status), found)
        self._keep(path, entry)
        return found

    def _describe(
        self,
        entry: _Entry,
        variant: _Variant,
        status: os.stat_result,
        content: bytes | None,
        descriptor: int,
    ) -> Representation:
        plain = os.fsdecode(entry.variants[IDENTITY].name.rpartition(b"/")[2])
        is_coded = variant.coding != IDENTITY
        etag, modified = validators(status, f"-{variant.coding}" if is_coded else "")
        headers = [
            ("Content-Type", media_type(plain)),
            *validator_fields(etag, modified),
            ("Cache-Control", IMMUTABLE if is_hashed(plain) else self._fresh),
            ("Accept-Ranges", "bytes"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if is_coded:
            headers.append(("Content-Encoding", variant.coding))
        if entry.codings:
            headers.append(("Vary", "Accept-Encoding"))
        return Representation(
            status.st_size, etag, modified, headers, content, descriptor, self._sendfile
        )

    # -- the cache ------------------------------------------------------------------------------

    def _keep(self, path: str, entry: _Entry) -> None:
        """Put an entry into the cache as its newest, and drop the oldest beyond its limit."""
        if not self._cache_bytes:
            return
        size = ENTRY_BYTES
        for variant in entry.variants.values():
            if (kept := variant.kept) is not None:
                size += kept[1].size
        with self._lock:
            self._remove(path)
            entry.size = size
            self._cache[path] = entry
            self._cached_bytes += size
            while self._cached_bytes > self._cache_bytes and self._cache:
                self._remove(next(iter(self._cache)))

    def _drop(self, path: str) -> None:
        with self._lock:
            self._remove(path)

    def _remove(self, path: str) -> None:
        if (entry := self._cache.pop(path, None)) is not None:
            self._cached_bytes -= entry.size


def _received_path(target: str) -> str:
    """Return the path of a target as PATH_INFO has it, with what SCRIPT_NAME was split off."""
    if not target.startswith("/"):  # RFC 9112, section 3.2.2: absolute-form
        target = "/" + target.partition("://")[2].partition("?")[0].partition("/")[2]
    return unquote_to_bytes(target.partition("?")[0].encode("latin-1")).decode("latin-1")


def _native(text: str) -> str:
    """Return text as PEP 3333 has it in the environ."""
    return os.fsencode(text).decode("latin-1")


def _mode(directory: Directory, name: bytes, unknown: int = stat.S_IFREG) -> int:
    """Return the mode of a file below a directory; 0 if there is none.

    ``unknown`` is what a file has that may not be looked at: opening it says why.
    """
    try:
        return os.stat(name, dir_fd=directory.descriptor).st_mode
    except OSError as error:
        return 0 if error.errno in NOT_THERE else unknown


def _state(status: os.stat_result) -> _State:
    return (
        status.st_mtime_ns,
        status.st_size,
        status.st_ino,
        status.st_dev,
        status.st_ctime_ns,
    )
