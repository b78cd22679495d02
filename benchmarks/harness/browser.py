"""What a browser sends, for load that wrk does not make: as browser.lua has it."""

from __future__ import annotations

import re

FIELDS = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Connection", "keep-alive"),
    ("Cookie", "csrftoken=Q0f3mYl9uK2vXr7tPz5sWb1nDc8hJg4e; sessionid=7d1c9e5ab3f04826"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-User", "?1"),
    ("Priority", "u=0, i"),
)


def head(host: str, path: str, *, closing: bool = False, posted: int | None = None) -> bytes:
    """Return the head of a request: a POST with ``posted`` bytes of body, or else a GET."""
    fields = dict((("Host", host), *FIELDS))
    if closing:
        fields["Connection"] = "close"
    if posted is not None:
        fields |= {"Content-Type": "application/octet-stream", "Content-Length": str(posted)}
    lines = [f"{'GET' if posted is None else 'POST'} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def varied(request: bytes, number: int) -> bytes:
    """Return a request with the fields that differ from one to the next, as varied.lua has them."""
    number = number % 100 + 1
    session = f"csrftoken=Q0f3mYl9uK2vXr7tPz5sWb1n; sessionid=7d1c9e5ab3f{number:05d}"
    fields = (
        f"Cookie: {session}\r\nReferer: http://127.0.0.1:8000/articles/{number:03d}?page=2\r\n"
        f"X-Forwarded-For: 198.51.100.{100 + number}, 203.0.113.7\r\n"
    )
    return re.sub(rb"Cookie: .*\r\n", fields.encode("ascii"), request)
