"""Files that the application names for the server to send: ``X-Sendfile`` and ``X-Accel-Redirect``.

The server sends them in place of what the application returns, and from the directories of
``--sendfile-root`` alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from penstock import messages
from penstock.edge.file_response import (
    Representation,
    send_conditionally,
    send_status,
    send_whole,
    validator_fields,
    validators,
)
from penstock.edge.media_types import media_type
from penstock.edge.preconditions import parse_date
from penstock.edge.served_directory import LogMessage, ServedDirectory, is_refused, status_of
from penstock.http1.statuses import BODILESS

if TYPE_CHECKING:
    from penstock.transport import Exchange, HeaderList, Outlet

X_SENDFILE = "x-sendfile"
"""Names a file by its absolute path."""
X_ACCEL_REDIRECT = "x-accel-redirect"
"""Names a file by a path of URLs, which is decoded once, below the prefix of a directory."""
FIELDS = frozenset({X_SENDFILE, X_ACCEL_REDIRECT})


class SentFiles:
    """Makes the outlets through which files are sent that the application names."""

    def __init__(
        self, roots: Sequence[tuple[str, str]], log: LogMessage, *, sendfile: bool = True
    ) -> None:
        """``roots`` are directories, each with a prefix for ``X-Accel-Redirect``, or with ``""``.

        Without ``sendfile`` files are read, and not sent by the kernel.
        """
        self._roots = [
            (os.fsencode(prefix).rstrip(b"/") + b"/" if prefix else b"", ServedDirectory(path))
            for prefix, path in roots
        ]
        self._sendfile = sendfile
        self._log = log

    def outlet(self, exchange: Exchange, inner: Outlet, is_head: bool) -> Outlet:
        """Return what an application's response is sent through; ``inner`` is for all others."""
        return _FileOutlet(self, exchange, inner, is_head)

    def answer(self, exchange: Exchange, status: str, headers: HeaderList, is_head: bool) -> None:
        """Send the file that ``headers`` name. Raises what the exchange raises."""
        kept = [field for field in headers if field[0].lower() not in FIELDS]
        named = next(field for field in headers if field[0].lower() in FIELDS)
        code = int(status[:3])
        if code in BODILESS:
            exchange.respond(status, kept, None)
            exchange.finish()
            return
        try:
            descriptor, found = self._open(named)
        except OSError as error:
            path = ascii(named[1])[1:-1]
            self._log(messages.SENDFILE_FAILED, path=path, field=named[0], error=error.strerror)
            send_status(exchange, status_of(error))
            return
        try:
            representation = self._describe(kept, named[1], found, descriptor)
            if code == 200 and exchange.environ["REQUEST_METHOD"] in ("GET", "HEAD"):
                send_conditionally(exchange, representation, is_head)
            else:
                send_whole(exchange, representation, is_head, status)
        finally:
            os.close(descriptor)

    def _open(self, named: tuple[str, str]) -> tuple[int, os.stat_result]:
        by_url = named[0].lower() == X_ACCEL_REDIRECT
        path = named[1].strip(" \t").encode("latin-1")
        if by_url:
            path = unquote_to_bytes(path.partition(b"?")[0])
        for prefix, root in self._roots:
            directory = root.current()
            if directory is None:
                continue
            begins = [prefix] if by_url else [root.path, directory.real_path]
            for begin in filter(None, begins):
                begin = begin.rstrip(b"/") + b"/"
                if path.startswith(begin):
                    name = path[len(begin) :].lstrip(b"/")
                    if is_refused(name):
                        raise OSError(errno.EXDEV, "a name in its path begins with a dot")
                    return directory.open_file(name)
        raise OSError(errno.EXDEV, "it is in no directory of sendfile_root")

    def _describe(
        self, headers: HeaderList, path: str, status: os.stat_result, descriptor: int
    ) -> Representation:
        """Return the file with the application's fields, and with its own where there are none."""
        given = {name.lower(): value for name, value in headers}
        fields = list(headers)
        if "content-type" not in given:
            fields.append(("Content-Type", media_type(path.rpartition("/")[2])))
        etag, modified = validators(status)
        for name, value in validator_fields(etag, modified):
            if name.lower() not in given:
                fields.append((name, value))
        if "accept-ranges" not in given:
            fields.append(("Accept-Ranges", "bytes"))
        if "last-modified" in given:
            modified = parse_date(given["last-modified"])
        return Representation(
            size=status.st_size,
            etag=given.get("etag", etag),
            modified=modified,
            headers=fields,
            content=None,
            descriptor=descriptor,
            sendfile=self._sendfile,
        )


class _FileOutlet:
    """`penstock.transport.Outlet` that sends a file where the head of the response names one."""

    __slots__ = ("_exchange", "_files", "_head", "_inner", "_is_head")

    def __init__(self, files: SentFiles, exchange: Exchange, inner: Outlet, is_head: bool) -> None:
        self._files = files
        self._exchange = exchange
        self._inner = inner
        self._is_head = is_head
        self._head: tuple[str, HeaderList] | None = None  # of a response that names a file

    @property
    def head_sent(self) -> bool:
        return self._exchange.head_sent

    def send_informational(self, status: str, headers: Sequence[tuple[str, str]]) -> None:
        self._inner.send_informational(status, headers)

    def close_after_response(self) -> None:
        self._inner.close_after_response()

    def respond(self, status: str, headers: HeaderList, content_length: int | None) -> None:
        self._head = None
        if any(name.lower() in FIELDS for name, _ in headers):
            self._head = (status, headers)
        else:
            self._inner.respond(status, headers, content_length)

    def send(self, data: bytes) -> None:
        if self._head is None:  # else the file comes in place of it
            self._inner.send(data)

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        if self._head is None:
            self._inner.send_file(descriptor, offset, count)

    def finish(self, data: bytes = b"") -> None:
        if self._head is None:
            self._inner.finish(data)
        else:
            self._files.answer(self._exchange, *self._head, self._is_head)
