"""``wsgi.input`` for a body that is still arriving."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ClientDisconnected, RequestBodyError
from penstock.wsgi.input import READ_SIZE, RequestBody
from support import applications
from support.fake_exchange import FakeExchange, make_environ, make_request, serve

sizes = st.none() | st.integers(-3, 12) | st.just(READ_SIZE * 2)
calls = st.one_of(
    st.tuples(st.sampled_from(["read", "readline", "readlines"]), st.just(()) | st.tuples(sizes)),
    st.tuples(st.just("__next__"), st.just(())),
)


def call(stream: io.BufferedIOBase, name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "readlines":  # BytesIO has its own, which ends a line earlier at the hint
        return io.IOBase.readlines(stream, *arguments)
    try:
        return getattr(stream, name)(*arguments)
    except StopIteration:
        return StopIteration


@settings(deadline=None)  # a busy machine is not a failure
@given(
    chunks=st.lists(st.text("a\n\r", min_size=1, max_size=6).map(str.encode), max_size=8),
    steps=st.lists(calls, max_size=12),
)
def test_pep3333_input_reads_like_a_file_in_memory(
    chunks: list[bytes], steps: list[tuple[str, tuple[Any, ...]]]
) -> None:
    body = RequestBody(FakeExchange(chunks=chunks))
    oracle = io.BytesIO(b"".join(chunks))
    for name, arguments in steps:
        assert call(body, name, arguments) == call(oracle, name, arguments)
    assert body.readlines() == oracle.readlines()
    for _ in range(2):  # b"" at the end, each time
        assert (body.read(), body.read(3), body.readline(), body.readlines()) == (b"", b"", b"", [])


def test_body_larger_than_the_buffer_is_read_whole() -> None:
    data = bytes(range(256)) * (READ_SIZE // 64)
    assert RequestBody(FakeExchange(chunks=[data])).read() == data


def test_read_does_not_wait_for_more_than_was_asked_for() -> None:
    body = RequestBody(FakeExchange(chunks=[b"abc", ClientDisconnected("not asked for")]))
    assert body.read(2) == b"ab"
    assert body.read1(5) == b"c"


@pytest.mark.parametrize("error", [ClientDisconnected("left"), RequestBodyError(400, "bad chunk")])
@pytest.mark.parametrize("read", ["read", "readline", "readlines", "__next__"])
def test_incomplete_body_raises_and_never_looks_short(error: OSError, read: str) -> None:
    body = RequestBody(FakeExchange(chunks=[b"ab", error]))
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            getattr(body, read)()


def test_input_returns_bytes_and_is_only_readable() -> None:
    body = RequestBody(FakeExchange(chunks=[b"ab"]))
    assert type(body.read(1)) is bytes
    assert body.readable()
    assert not body.writable()


@pytest.mark.parametrize("options", [{"body": b"a\nb"}, {"chunks": [b"a", b"\nb"]}])
def test_application_that_closes_its_input_does_no_harm(options: dict[str, Any]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"].close()
        return applications.hello(environ, start_response)

    assert serve(application, exchange=FakeExchange(**options)).sent == b"hello"


def test_view_of_the_body_that_an_application_keeps_does_no_harm() -> None:
    kept: list[memoryview] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        kept.append(environ["wsgi.input"].getbuffer())
        return applications.hello(environ, start_response)

    assert serve(application, exchange=FakeExchange(body=b"abc")).sent == b"hello"
    assert bytes(kept[0]) == b"abc"
    kept[0].release()


def test_buffered_body_is_passed_on_unchanged() -> None:
    exchange = FakeExchange(make_environ(make_request("POST", content_length=3)), body=b"abc")
    assert serve(applications.echo, exchange=exchange).sent == b"abc"
    assert exchange.environ["wsgi.input"] is exchange.body
