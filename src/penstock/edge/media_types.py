"""The types of files by the ends of their names, and which names say that a file never changes."""

from __future__ import annotations

import mimetypes
import re

_UTF8 = "; charset=utf-8"
_BINARY = "application/octet-stream"

# What browsers need. The same on every system: files such as /etc/mime.types differ, and give
# old types for JavaScript. They are looked at for all other names.
_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".br": _BINARY,
    ".bz2": "application/x-bzip2",
    ".css": "text/css" + _UTF8,
    ".csv": "text/csv" + _UTF8,
    ".eot": "application/vnd.ms-fontobject",
    ".gif": "image/gif",
    ".gz": "application/gzip",
    ".htm": "text/html" + _UTF8,
    ".html": "text/html" + _UTF8,
    ".ico": "image/x-icon",
    ".ics": "text/calendar" + _UTF8,
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript" + _UTF8,
    ".json": "application/json",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown" + _UTF8,
    ".mjs": "text/javascript" + _UTF8,
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".rss": "application/rss+xml",
    ".atom": "application/atom+xml",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".ttf": "font/ttf",
    ".txt": "text/plain" + _UTF8,
    ".vtt": "text/vtt" + _UTF8,
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".weba": "audio/webm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".xml": "application/xml",
    ".xz": "application/x-xz",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}


def media_type(name: str) -> str:
    """Return the value of Content-Type for a file of this name; text is taken for UTF-8."""
    dot = name.rfind(".")
    if dot < 0:
        return _BINARY
    found = _TYPES.get(name[dot:].lower())
    if found is not None:
        return found
    guessed, coding = mimetypes.guess_type("file" + name[dot:], strict=True)
    if guessed is None or coding is not None or not guessed.isascii():
        return _BINARY
    return guessed + _UTF8 if guessed.startswith("text/") else guessed


# A part of the name, or all before its end, that is a hash: eight hexadecimal digits or more, in
# lower case. Django's manifest puts twelve between dots; webpack twenty, or as many as it is told,
# behind a dot or a hyphen. Behind a hyphen and four such digits it would be the end of a UUID.
_HASH = re.compile(r"(?:^|\.|(?<!-[0-9a-f]{4})-)(?P<hash>[0-9a-f]{8,128})\.")


def is_hashed(name: str) -> bool:
    """Return True if a file's name holds a hash of its content, so that the file never changes.

    Digits alone may be a date, and letters alone a word. A hash is either once in forty times at
    eight digits, and hardly ever at twelve; its file is then asked for again, and that is all.
    """
    return any(
        not found.isdigit() and not found.isalpha()
        for found in (match["hash"] for match in _HASH.finditer(name))
    )
