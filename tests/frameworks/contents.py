"""What the sites of all frameworks have in common: one set of pages, to be asked the same."""

from __future__ import annotations

import hashlib
import select
import threading
from collections.abc import Iterator

PAGE = "A page that is worth keeping.\n" * 20
PAGE_ETAG = "an-etag"
STREAM_BLOCKS = 200
STREAM_BLOCK_SIZE = 4096


def summary(data: bytes) -> str:
    """Return what a site answers to a body: its length and its checksum."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def stream() -> Iterator[bytes]:
    """Yield the blocks of a body of unknown length."""
    for number in range(STREAM_BLOCKS):
        yield b"%d" % (number % 10) * STREAM_BLOCK_SIZE


released = threading.Event()
"""Set by a test, this ends the views that hang."""


def hang() -> None:
    """Take time in small pieces, until the test ends it."""
    while not released.is_set():
        select.select([], [], [], 0.001)
