"""``wsgi.errors``: what an application writes reaches the error log as it is."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import pytest

from penstock.wsgi.errors import PARTIAL_LIMIT, ErrorStream


@pytest.fixture
def passed() -> list[str]:
    return []


@pytest.fixture
def stream(passed: list[str]) -> ErrorStream:
    return ErrorStream(passed.append)


def test_pep3333_whole_lines_are_passed_as_one_write_has_them(
    stream: ErrorStream, passed: list[str]
) -> None:
    assert stream.write("one\ntwo\nthr") == 11
    assert passed == ["one\ntwo\n"]
    stream.writelines(["ee", "\n", "\n"])
    assert passed == ["one\ntwo\n", "three\n", "\n"]


def test_pep3333_flush_passes_an_unfinished_line(stream: ErrorStream, passed: list[str]) -> None:
    stream.flush()
    stream.write("half")
    stream.flush()
    stream.flush()
    assert passed == ["half"]


def test_close_leaves_the_stream_usable(stream: ErrorStream, passed: list[str]) -> None:
    stream.write("before")
    stream.close()
    stream.close()
    stream.write("after\n")
    assert passed == ["before", "after\n"]
    assert not stream.closed


@pytest.mark.parametrize(
    "text", ["\u0142\U0001f600\n", "lone \ud800 surrogate\n", "100 %s %\n", "\x00\n"]
)
def test_pep3333_any_text_is_accepted(stream: ErrorStream, passed: list[str], text: str) -> None:
    stream.write(text)
    assert passed == [text]


def test_what_is_not_text_is_passed_as_its_repr(stream: ErrorStream, passed: list[str]) -> None:
    wrong: Any = b"bytes"
    stream.write(wrong)
    stream.flush()
    assert passed == ["b'bytes'"]


def test_print_and_traceback_write_whole_lines(stream: ErrorStream, passed: list[str]) -> None:
    print("a", 1, file=stream)
    try:
        raise ValueError("shown")
    except ValueError:
        traceback.print_exc(file=stream)
    assert passed[0] == "a 1\n"
    assert "".join(passed).endswith("\nValueError: shown\n")
    assert stream.writable()


def test_lines_of_several_threads_do_not_mix(stream: ErrorStream, passed: list[str]) -> None:
    stream.write("of the main ")
    thread = threading.Thread(target=lambda: stream.write("of another\n"))
    thread.start()
    thread.join()
    stream.write("thread\n")
    assert passed == ["of another\n", "of the main thread\n"]


def test_an_unfinished_line_is_passed_at_the_limit(stream: ErrorStream, passed: list[str]) -> None:
    for _ in range(PARTIAL_LIMIT + 1):
        stream.write("x")
    assert passed == ["x" * (PARTIAL_LIMIT + 1)]
    stream.write("a\n" + "y" * (PARTIAL_LIMIT + 1))
    assert passed[1:] == ["a\n" + "y" * (PARTIAL_LIMIT + 1)]


def test_a_log_that_fails_does_not_fail_the_application() -> None:
    def fail(text: str) -> None:
        raise RuntimeError

    assert ErrorStream(fail).write("x\n") == 2
