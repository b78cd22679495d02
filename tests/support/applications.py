"""Applications that keep to PEP 3333, for tests of how they are served.

Each also runs under ``wsgiref.validate`` (tests/wsgi/test_validate.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

TEXT = ("Content-Type", "text/plain")

Environ = dict[str, Any]


def length(size: int) -> tuple[str, str]:
    return ("Content-Length", str(size))


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"hello"]


def hello_with_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT, length(5)])
    return [b"hello"]


def in_a_tuple(environ: Environ, start_response: StartResponse) -> tuple[bytes, ...]:
    start_response("200 OK", [TEXT])
    return (b"hello",)


def nothing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return []


def list_of_blocks(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"he", b"", b"llo"]


def large_list(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"a" * 60_000, b"b" * 60_000]


def generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"he"
    yield b""
    yield b"llo"


def generator_with_length(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT, length(5)])
    yield b"he"
    yield b"llo"


def empty_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield from ()


class OneBlock:
    """An iterable of its own type whose length is known."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)


def one_block_of_its_own_type(environ: Environ, start_response: StartResponse) -> OneBlock:
    start_response("200 OK", [TEXT])
    return OneBlock(b"hello")


class NoLength(OneBlock):
    def __len__(self) -> int:
        raise KeyError("what an application likes")


def length_that_raises(environ: Environ, start_response: StartResponse) -> NoLength:
    start_response("200 OK", [TEXT])
    return NoLength(b"hello")


def writes(environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response("200 OK", [TEXT])
    write(b"he")
    write(b"")
    write(b"l")
    return [b"lo"]


def writes_with_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response("200 OK", [TEXT, length(5)])
    write(b"hello")
    return []


def empty_with_length_0(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT, length(0)])
    return []


def no_content(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("204 No Content", [])
    return []


def not_modified(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("304 Not Modified", [("ETag", '"x"')])
    return []


def replaces_its_head(environ: Environ, start_response: StartResponse) -> list[bytes]:
    import sys

    start_response("200 OK", [TEXT, ("X-A", "1"), length(99)])
    try:
        raise KeyError("before the first block")
    except KeyError:
        start_response("503 Busy", [TEXT, ("X-B", "2")], sys.exc_info())
    return [b"sorry"]


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [TEXT])
    return [body]


def reads_lines(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [line.upper() for line in environ["wsgi.input"]]


def wraps_a_file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
    return wrapper(io.BytesIO(b"hello"), 2)


def complains(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.errors"].write("something is odd\n")
    environ["wsgi.errors"].writelines(["more\n"])
    environ["wsgi.errors"].flush()
    start_response("200 OK", [TEXT])
    return [b"hello"]


ALL: list[WSGIApplication] = [
    hello,
    hello_with_length,
    in_a_tuple,
    nothing,
    list_of_blocks,
    large_list,
    generator,
    generator_with_length,
    empty_generator,
    one_block_of_its_own_type,
    length_that_raises,
    writes,
    writes_with_length,
    empty_with_length_0,
    no_content,
    not_modified,
    replaces_its_head,
    echo,
    reads_lines,
    wraps_a_file,
    complains,
]
