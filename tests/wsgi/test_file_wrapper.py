"""``wsgi.file_wrapper``: files that the kernel sends, and files that have to be read."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest

from penstock.wsgi.file_wrapper import FileWrapper, file_region
from support.applications import TEXT, length
from support.fake_exchange import FakeExchange, Records, make_request, serve

Environ = dict[str, Any]
DATA = bytes(range(256)) * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def wrapping(
    open_file: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK"
) -> WSGIApplication:
    def application(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, [TEXT, *headers])
        return environ["wsgi.file_wrapper"](open_file())

    return application


# The wrapper by itself


class Recorder:
    """A file-like object that has only ``read``."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        return b"" if len(self.sizes) > 2 else b"x"


def test_pep3333_wrapper_is_an_iterator_of_blocks_and_reads_nothing_before() -> None:
    recorder = Recorder()
    wrapper = FileWrapper(recorder, 7)
    assert iter(wrapper) is wrapper
    assert recorder.sizes == []
    assert next(wrapper) == b"x"
    assert list(wrapper) == [b"x"]
    assert recorder.sizes == [7, 7, 7]
    wrapper.close()  # the file-like object has none


def test_pep3333_wrapper_closes_the_file() -> None:
    file = io.BytesIO()
    FileWrapper(file).close()
    assert file.closed


# Files by their descriptor


def unbuffered(path: Path) -> IO[bytes]:
    return path.open("rb", buffering=0)


def buffered(path: Path) -> IO[bytes]:
    return path.open("rb")


def random_access(path: Path) -> IO[bytes]:
    return path.open("r+b")


@pytest.mark.parametrize("opener", [unbuffered, buffered, random_access])
def test_pep3333_regular_file_is_sent_by_its_descriptor(
    opener: Callable[[Path], IO[bytes]], path: Path
) -> None:
    file = opener(path)
    exchange = serve(wrapping(lambda: file))
    assert exchange.events == ["respond", "send_file", "finish"]
    assert (exchange.content_length, exchange.sent) == (len(DATA), DATA)
    assert file.closed


@pytest.mark.parametrize("opener", [unbuffered, buffered, random_access])
def test_pep3333_file_is_sent_from_its_current_position(
    opener: Callable[[Path], IO[bytes]], path: Path
) -> None:
    file = opener(path)
    assert file.read(10) == DATA[:10]
    exchange = serve(wrapping(lambda: file))
    assert exchange.events == ["respond", "send_file", "finish"]
    assert exchange.sent == DATA[10:]


def test_data_that_was_written_and_not_flushed_is_sent(path: Path) -> None:
    file = random_access(path)
    file.seek(0, os.SEEK_END)
    file.write(b"more")
    file.seek(-6, os.SEEK_CUR)
    file.write(b"X")
    assert serve(wrapping(lambda: file)).sent == DATA[-1:] + b"more"


@pytest.mark.parametrize("sendfile", [False, True])
def test_pep3333_content_length_cuts_a_file_that_is_longer(path: Path, sendfile: bool) -> None:
    log = Records()
    exchange = serve(wrapping(lambda: buffered(path), length(5)), sendfile=sendfile, log=log)
    assert exchange.finished
    assert log.lines == []
    assert (exchange.content_length, exchange.sent) == (5, DATA[:5])


@pytest.mark.parametrize("sendfile", [False, True])
def test_file_that_is_shorter_than_its_content_length_is_a_short_body(
    path: Path, sendfile: bool
) -> None:
    log = Records()
    application = wrapping(lambda: buffered(path), length(len(DATA) + 1))
    exchange = serve(application, sendfile=sendfile, log=log)
    assert exchange.aborted
    assert exchange.sent == DATA
    assert "ended after" in log.text


def test_file_that_has_to_be_read_is_not_read_past_its_content_length() -> None:
    recorder = Recorder()
    exchange = serve(wrapping(lambda: recorder, length(2)))
    assert exchange.sent == b"xx"
    assert len(recorder.sizes) == 2


def test_content_length_of_0_sends_no_byte_of_a_file(path: Path) -> None:
    exchange = serve(wrapping(lambda: buffered(path), length(0)))
    assert exchange.events == ["respond", "finish"]
    assert exchange.sent == b""


@pytest.mark.parametrize("headers", [[], [length(len(DATA) + 2)]])
def test_file_is_sent_after_what_write_has_sent(path: Path, headers: list[tuple[str, str]]) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [TEXT, *headers])(b"> ")
        return environ["wsgi.file_wrapper"](buffered(path))

    exchange = serve(application)
    assert exchange.events == ["respond", "send", "send_file", "finish"]
    assert exchange.sent == b"> " + DATA


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
def test_response_without_a_body_sends_no_file(path: Path, method: str, status: str) -> None:
    file = buffered(path)
    exchange = serve(wrapping(lambda: file, status=status), make_request(method))
    assert exchange.events == ["respond", "finish"]
    assert file.closed


def test_sendfile_switched_off_reads_the_file(path: Path) -> None:
    exchange = serve(wrapping(lambda: buffered(path)), sendfile=False)
    assert "send_file" not in exchange.events
    assert exchange.sent == DATA


def test_file_without_start_response_is_a_500(path: Path) -> None:
    file = buffered(path)
    exchange = serve(lambda environ, start_response: FileWrapper(file))
    assert exchange.status == "500 Internal Server Error"
    assert file.closed


def test_pep3333_only_the_wrapper_itself_is_sent_by_descriptor(path: Path) -> None:
    class Wrapper(FileWrapper):
        __slots__ = ()

    def application(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [TEXT])
        return Wrapper(buffered(path))

    def middleware(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        wrapper = wrapping(lambda: buffered(path))(environ, start_response)
        yield from wrapper
        wrapper.close()  # type: ignore[attr-defined]

    for exchange in (serve(application), serve(middleware)):
        assert "send_file" not in exchange.events
        assert exchange.sent == DATA


# What has to be read


def test_file_in_memory_is_read() -> None:
    exchange = serve(wrapping(lambda: io.BytesIO(DATA)))
    assert exchange.events == ["respond", "send", "finish"]
    assert exchange.sent == DATA


def test_compressed_file_is_read_although_it_has_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as file:
        file.write(DATA)
    exchange = serve(wrapping(lambda: gzip.GzipFile(path)))
    assert exchange.sent == DATA


def test_buffered_reader_over_another_raw_stream_is_read() -> None:
    class Raw(io.RawIOBase):
        def __init__(self) -> None:
            self.rest = DATA

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
            buffer[: len(data)] = data
            return len(data)

    assert serve(wrapping(lambda: io.BufferedReader(Raw()))).sent == DATA


def test_pipe_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe")
    os.close(writer)
    exchange = serve(wrapping(lambda: os.fdopen(reader, "rb")))
    assert exchange.events == ["respond", "send", "finish"]
    assert exchange.sent == b"through a pipe"


def test_device_is_not_a_regular_file() -> None:
    with open("/dev/null", "rb") as file:
        assert file_region(file) is None


def test_file_of_proc_whose_size_is_0_is_read() -> None:
    exchange = serve(wrapping(lambda: buffered(Path("/proc/self/cmdline"))))
    assert exchange.sent == Path("/proc/self/cmdline").read_bytes()


@pytest.mark.parametrize("position", [len(DATA), len(DATA) + 10])
def test_file_at_its_end_is_an_empty_body(path: Path, position: int) -> None:
    file = buffered(path)
    file.seek(position)
    exchange = serve(wrapping(lambda: file))
    assert exchange.events == ["respond", "finish"]
    assert exchange.content_length == 0


def test_file_that_is_closed_is_a_500(path: Path) -> None:
    file = buffered(path)
    file.close()
    log = Records()
    exchange = serve(wrapping(lambda: file), log=log)
    assert exchange.status == "500 Internal Server Error"
    assert "closed file" in log.text


def test_request_body_can_be_sent_back(path: Path) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [TEXT])
        return environ["wsgi.file_wrapper"](environ["wsgi.input"])

    assert serve(application, exchange=FakeExchange(body=b"abc")).sent == b"abc"
    assert serve(application, exchange=FakeExchange(chunks=[b"a", b"bc"])).sent == b"abc"
    exchange = serve(application, exchange=FakeExchange(body=random_access(path)))
    assert exchange.sent == DATA
    assert "send_file" in exchange.events
