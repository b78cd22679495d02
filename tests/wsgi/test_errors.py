"""``wsgi.errors``: what an application writes becomes lines in the log."""

from __future__ import annotations

import logging
import threading
import traceback
from typing import Any

import pytest

from penstock.wsgi.errors import PARTIAL_LIMIT, ErrorStream
from support.fake_exchange import Records


@pytest.fixture
def log() -> Records:
    return Records()


@pytest.fixture
def stream(log: Records) -> ErrorStream:
    return ErrorStream(log.logger)


def test_pep3333_each_line_is_one_record(stream: ErrorStream, log: Records) -> None:
    assert stream.write("one\ntwo\nthr") == 11
    assert log.lines == ["one", "two"]
    stream.writelines(["ee", "\n", "\n"])
    assert log.lines == ["one", "two", "three", ""]
    assert {record.levelno for record in log.records} == {logging.ERROR}


def test_pep3333_flush_logs_an_unfinished_line(stream: ErrorStream, log: Records) -> None:
    stream.flush()
    stream.write("half")
    stream.flush()
    stream.flush()
    assert log.lines == ["half"]


def test_close_leaves_the_stream_usable(stream: ErrorStream, log: Records) -> None:
    stream.write("before")
    stream.close()
    stream.close()
    stream.write("after\n")
    assert log.lines == ["before", "after"]
    assert not stream.closed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\u0142\U0001f600\n", "\u0142\U0001f600"),
        ("lone \ud800 surrogate\n", r"lone \ud800 surrogate"),
        ("100 %s %\n", "100 %s %"),
        ("\x00\n", "\x00"),
    ],
)
def test_pep3333_any_text_is_accepted(
    stream: ErrorStream, log: Records, text: str, line: str
) -> None:
    stream.write(text)
    assert log.lines == [line]
    line.encode()


def test_what_is_not_text_is_logged_as_its_repr(stream: ErrorStream, log: Records) -> None:
    wrong: Any = b"bytes"
    stream.write(wrong)
    stream.flush()
    assert log.lines == ["b'bytes'"]


def test_print_and_traceback_write_whole_lines(stream: ErrorStream, log: Records) -> None:
    print("a", 1, file=stream)
    try:
        raise ValueError("shown")
    except ValueError:
        traceback.print_exc(file=stream)
    assert log.lines[0] == "a 1"
    assert log.lines[-1] == "ValueError: shown"
    assert stream.writable()


def test_lines_of_several_threads_do_not_mix(stream: ErrorStream, log: Records) -> None:
    stream.write("of the main ")
    thread = threading.Thread(target=lambda: stream.write("of another\n"))
    thread.start()
    thread.join()
    stream.write("thread\n")
    assert log.lines == ["of another", "of the main thread"]


def test_unfinished_line_is_logged_at_the_limit(stream: ErrorStream, log: Records) -> None:
    for _ in range(PARTIAL_LIMIT + 1):
        stream.write("x")
    assert log.lines == ["x" * (PARTIAL_LIMIT + 1)]


def test_log_that_fails_does_not_fail_the_application() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError

    logger = logging.Logger("broken")
    logger.addHandler(Broken())
    assert ErrorStream(logger).write("x\n") == 2


def test_logging_that_writes_to_this_stream_does_not_recurse(
    stream: ErrorStream, log: Records
) -> None:
    log.logger.addHandler(logging.StreamHandler(stream))
    stream.write("once\n")
    stream.write("half")
    stream.flush()
    assert log.lines == ["once", "half"]
