"""`RequestTimeout`, which comes from outside and at any step: the exchange ends all the same."""

from __future__ import annotations

import dis
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest

from penstock.errors import RequestTimeout
from penstock.wsgi import gateway
from penstock.wsgi.environ import OUTSIDE_MOUNT
from penstock.wsgi.gateway import Gateway, lossless
from penstock.wsgi.headers import check_head
from support import fake_exchange
from support.applications import TEXT, Environ, length
from support.fake_exchange import FakeExchange, Records, make_environ, make_request, serve


class Closed:
    """An application and its result, which counts the calls of `close`."""

    def __init__(self, blocks: Iterable[bytes], error: type[BaseException] | None = None) -> None:
        self.blocks = blocks
        self.error = error
        self.returned = self.closes = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Closed:
        start_response("200 OK", [TEXT])
        self.returned += 1
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        self.closes += 1
        if self.error is not None:
            raise self.error


# -- what applications meet ----------------------------------------------------------------------


def times_out(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    raise RequestTimeout


def minutes(path: str) -> float:
    return 300.0 if path == "/reports/a" else 30.0


def handle(application: WSGIApplication, exchange: FakeExchange, log: Records) -> FakeExchange:
    Gateway(application, logger=log.logger, timeout_of=minutes).handle(exchange)
    assert exchange.finished != exchange.aborted
    return exchange


def test_a_timeout_before_the_head_is_a_plain_504_and_the_connection_goes_on() -> None:
    log = Records()
    exchange = handle(times_out, FakeExchange(), log)
    assert exchange.status == "504 Gateway Timeout"
    assert exchange.headers == [("Content-Type", "text/plain; charset=utf-8")]
    assert exchange.sent == b"Gateway Timeout\n"
    assert not exchange.closes
    assert exchange.reason == "timeout after 30 s"
    assert log.lines == [
        "PEN-3050 GET / (request r1): timeout after 30 s (settings: timeout, timeout_for)"
    ]
    assert log.records[0].levelname == "ERROR"


def test_the_timeout_that_is_told_is_that_of_the_whole_path() -> None:
    environ = make_environ(make_request(target="/a"))
    environ["SCRIPT_NAME"] = "/reports"
    assert handle(times_out, FakeExchange(environ), Records()).reason == "timeout after 300 s"


def test_a_timeout_where_no_timeouts_are_known_is_told_without_a_time() -> None:
    assert serve(times_out).reason == "timeout"


def test_a_timeout_after_the_head_cuts_the_response_off() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"sent"
        raise RequestTimeout

    log = Records()
    exchange = handle(application, FakeExchange(), log)
    assert exchange.events == ["respond", "send", "abort"]
    assert exchange.reason == "timeout after 30 s"


def test_a_timeout_that_another_exception_was_raised_from_counts_as_one() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise RequestTimeout
        except RequestTimeout as error:
            raise RuntimeError("the query was cancelled") from error

    assert serve(application).status == "504 Gateway Timeout"


def test_an_application_may_catch_a_timeout_and_answer_itself() -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise RequestTimeout
        except RequestTimeout:
            start_response("503 Service Unavailable", [TEXT])
            return [b"later"]

    log = Records()
    exchange = serve(application, log=log)
    assert (exchange.status, exchange.sent) == ("503 Service Unavailable", b"later")
    assert log.lines == []


def test_a_timeout_after_the_end_of_the_response_says_nothing_more_to_the_client() -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, length(4)])
        yield b"sent"
        raise RequestTimeout

    log = Records()
    exchange = handle(application, FakeExchange(), log)
    assert exchange.events == ["respond", "finish"]
    assert "timeout after 30 s" in log.text


@pytest.mark.parametrize("blocks", [[b"a"], [b"a", b"b"]])
def test_a_timeout_in_close_leaves_the_response_as_it_is(blocks: list[bytes]) -> None:
    closed = Closed(blocks, RequestTimeout)
    log = Records()
    exchange = handle(closed, FakeExchange(), log)
    assert (exchange.finished, exchange.sent) == (True, b"".join(blocks))
    assert closed.closes == 1
    assert "timeout after 30 s" in log.text


def test_a_timeout_while_another_failure_is_answered_comes_in_its_place() -> None:
    class Interrupted(FakeExchange):
        def respond(self, *arguments: Any) -> None:
            if not self.reason:
                raise RequestTimeout
            super().respond(*arguments)

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise ValueError

    exchange = handle(application, Interrupted(), Records())
    assert exchange.status == "504 Gateway Timeout"


def test_a_timeout_before_there_is_a_response_is_a_504() -> None:
    class Support:
        check_head = staticmethod(check_head)

        def response_maker(self, reference: object) -> Callable[..., Any]:
            def interrupted(*arguments: object) -> Any:
                raise RequestTimeout

            return interrupted

    exchange = FakeExchange()
    Gateway(times_out, logger=Records().logger, transport=Support()).handle(exchange)
    assert (exchange.finished, exchange.status) == (True, "504 Gateway Timeout")


def test_a_timeout_with_a_view_of_the_body_kept_is_a_504_all_the_same() -> None:
    kept = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(environ["wsgi.input"].getbuffer())
        raise RequestTimeout

    assert serve(application, exchange=FakeExchange(body=b"abc")).status == "504 Gateway Timeout"
    kept.pop().release()


def test_an_application_object_that_raises_stop_iteration_is_told_of() -> None:
    class Application:
        def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            raise StopIteration

    log = Records()
    assert serve(Application(), log=log).status == "500 Internal Server Error"
    assert "StopIteration" in log.text


# -- at every step -------------------------------------------------------------------------------

TRACED = (str(Path(gateway.__file__).parent), fake_exchange.__file__)
"""Where exceptions are injected: in the gateway, and in the exchange that it uses."""


@cache
def looks_for_exceptions(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions after which CPython looks for such an exception."""
    return frozenset(
        step.offset
        for step in dis.get_instructions(code)
        if step.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
    )


class Injector:
    """A trace function that raises `RequestTimeout` at one of the points where it may come.

    That is where a call has returned, where a function begins, and where a loop turns. One call is
    left out: that of ``functions``, after which CPython goes on in the caller without a look.
    """

    def __init__(self, at: int, functions: set[CodeType]) -> None:
        self.at = at
        self.points = 0
        self.where = ""
        self._functions = functions
        self._last: dict[FrameType, int] = {}
        self._returned: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code in self._functions:
            frame.f_trace_lines = False
            return self._await_return
        if not code.co_filename.startswith(TRACED):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _await_return(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            self._returned = frame.f_back
        return self._await_return

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            before = self._last.get(frame)
            self._last[frame] = frame.f_lasti
            if self._returned is frame:
                self._returned = None
            elif before in looks_for_exceptions(frame.f_code):
                self.points += 1
                if self.points == self.at:
                    self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                    raise RequestTimeout
        elif event == "exception":
            self._last.pop(frame, None)  # a call that fails is not looked at
        return self._step


every_step_is_shown = pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="a trace function is not always shown every instruction any more; 3.11 looks for "
    "exceptions at the same points, and more",
)


def one_block(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])
    return [b"a"]


def generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"a"
    yield b"b"


def in_a_function(environ: Environ, start_response: StartResponse) -> Closed:
    start_response("200 OK", [TEXT])
    result: Closed = environ["test.result"]
    result.returned += 1
    return result


def fails(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise ValueError


def writes(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT])(environ["wsgi.input"].read(2))
    return [b"b", b"c"]


def too_long(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [TEXT, length(1)])
    return [b"abc"]


def wraps_a_file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"abc"), 2)
    return result


def inject(application: WSGIApplication, at: int, **changes: Any) -> tuple[Injector, FakeExchange]:
    """Have a gateway answer one exchange, with a timeout at the point that is given."""
    chunks = [b"ab", b"c"] if application is writes else None
    exchange = FakeExchange(make_environ() | changes, chunks=chunks)
    handler = Gateway(application, logger=Records().logger, timeout_of=minutes)
    injector = Injector(at, {lossless(application).__code__})
    before = sys.gettrace()
    sys.settrace(injector)
    try:
        handler.handle(exchange)
    except RequestTimeout:
        # Before the first step, when it is the worker that aborts, or after the last.
        if not exchange.over:
            assert exchange.events == [], injector.where
            exchange.abort()
    finally:
        sys.settrace(before)
    return injector, exchange


def at_every_step(
    application: Callable[[], WSGIApplication], **changes: Any
) -> Iterator[tuple[WSGIApplication, str]]:
    """Inject at one point after the other; yield the application and where it was, each time."""
    at = 1
    while True:
        tried = application()
        injector, exchange = inject(tried, at, **changes)
        assert exchange.finished != exchange.aborted, injector.where
        yield tried, injector.where
        if not injector.where:
            break
        at += 1
    assert at > 10


@every_step_is_shown
@pytest.mark.parametrize(
    "application", [one_block, generator, fails, writes, too_long, wraps_a_file]
)
def test_a_timeout_at_any_step_ends_the_exchange(application: WSGIApplication) -> None:
    for _ in at_every_step(lambda: application):
        pass


@every_step_is_shown
def test_a_timeout_at_any_step_ends_a_request_outside_of_the_mount() -> None:
    for _ in at_every_step(lambda: one_block, **{OUTSIDE_MOUNT: True}):
        pass


@every_step_is_shown
@pytest.mark.parametrize("error", [None, ValueError])
@pytest.mark.parametrize("blocks", [[b"a", b"b"], [b"a", 1]])
def test_a_timeout_at_any_step_closes_what_an_object_returned_once(
    error: type[BaseException] | None, blocks: list[bytes]
) -> None:
    for result, where in at_every_step(lambda: Closed(blocks, error)):
        assert isinstance(result, Closed)
        assert result.closes == result.returned, where


@every_step_is_shown
@pytest.mark.parametrize("error", [None, ValueError])
@pytest.mark.parametrize("blocks", [[b"a", b"b"], [b"a", 1]])
def test_a_timeout_at_any_step_closes_what_a_function_returned_once(
    error: type[BaseException] | None, blocks: list[bytes]
) -> None:
    result = Closed(blocks, error)
    for _, where in at_every_step(lambda: in_a_function, **{"test.result": result}):
        assert result.closes == result.returned, where
