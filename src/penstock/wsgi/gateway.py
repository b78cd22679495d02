"""The server's side of PEP 3333: calls the application, sends and closes what it returns."""

from __future__ import annotations

import codecs
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from penstock import messages
from penstock.errors import (
    ClientDisconnected,
    FileTruncatedError,
    RequestAborted,
    RequestBodyError,
    RequestTimeout,
    ResponseRelayed,
)
from penstock.http1.statuses import REASON_PHRASES
from penstock.wsgi.environ import OUTSIDE_MOUNT
from penstock.wsgi.file_wrapper import FileWrapper, file_region
from penstock.wsgi.headers import check_head
from penstock.wsgi.input import RequestBody
from penstock.wsgi.response import FastResponse, ProtocolBreach, Response, Unanswered

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import WSGIApplication

    from penstock.transport import ApplicationCalls, Exchange, Outlet, ResponseSupport, WebSocket
    from penstock.wsgi.headers import CheckHead

JOIN_LIMIT = 64 * 1024
"""The blocks of a list are joined up to this many bytes. Copying them is cheaper than sending each
one, and a socket buffer takes about this much at once."""

# Looked up now, because it loads a module: later there may be no file descriptor left.
_ESCAPE = codecs.getencoder("unicode_escape")

_KEEP_CONNECTION = frozenset({500, 501, 504})
"""The statuses of failures after which the connection is kept: the request was not at fault."""

_CAUSES = 8
"""How many explicit causes of an exception are examined. Frameworks wrap once or twice."""


class Filters(Protocol):
    """What is done with the application's responses before they are sent."""

    def check_head(self, check: CheckHead) -> CheckHead:
        """Return what checks the arguments of `start_response`; ``check`` does without filters."""

    def outlet(self, exchange: Exchange, is_head: bool) -> Outlet:
        """Return what the response to a request is sent through."""


class First(Protocol):
    """Answers requests that the application is not called for."""

    beginnings: tuple[str, ...]
    """What the paths of these requests begin with. Others are not asked about: this is compared for
    each request of the application."""

    def answer(self, exchange: Exchange) -> bool:
        """Answer a request, or return False and leave it untouched."""


class Gateway:
    """Answers exchanges by calling one application. Any number of threads may use it."""

    def __init__(
        self,
        application: WSGIApplication,
        *,
        logger: logging.Logger,
        sendfile: bool = True,
        transport: ResponseSupport | None = None,
        log_ended: Callable[[str, str, str], object] | None = None,
        filters: Filters | None = None,
        note_failure: Callable[[Exchange, BaseException], object] | None = None,
    ) -> None:
        """Set the application, the logger of failures, and whether the kernel sends files.

        ``transport`` may have native code for a part of the work on responses. ``log_ended``
        logs what clients can bring about as often as they like (`RequestLog.ended`).
        With ``filters`` that native code is not used, and responses are sent through their outlets.
        ``note_failure`` is called with what the application raises, and must not raise anything.
        """
        self.application = application
        self._logger = logger
        self._sendfile = sendfile
        self._first: First | None = None
        self.beginnings: tuple[str, ...] = ()
        """See `penstock.transport.ApplicationCalls`."""
        self._log_ended = log_ended or self._log_each
        self._note_failure = note_failure or _note_nothing
        # Any thread adds to it. Two threads may both log the same warning, which does no harm.
        warned: set[str] = set()

        def warn_once(notice: messages.Notice) -> None:
            text = str(notice)
            if text not in warned:
                warned.add(text)
                notice.log(logger)

        check = check_head if transport is None else transport.check_head
        if filters is not None:
            check = filters.check_head(check)

        def make_full(exchange: Exchange | None, is_head: bool) -> Response:
            return Response(exchange, is_head, warn_once, check)

        def make_filtered(exchange: Exchange, is_head: bool) -> Response:
            assert filters is not None
            return Response(filters.outlet(exchange, is_head), is_head, warn_once, check)

        self.make_full: Callable[[Exchange | None, bool], Response] = make_full
        """See `penstock.transport.ApplicationCalls`."""
        self._make_response: Callable[[Exchange, bool], FastResponse]
        if filters is not None:
            self._make_response = make_filtered
        else:
            self._make_response = (
                make_full if transport is None else transport.response_maker(make_full)
            )
        self.calls: ApplicationCalls | None = self if filters is None else None
        """What a transport may call the application with, instead of `handle`."""

    def handle(self, exchange: Exchange) -> None:
        """Answer one exchange: it is finished or aborted on return. Raises nothing."""
        response = body = None
        try:
            environ = exchange.environ
            # Read now, because middleware may change HEAD to GET for the application it wraps.
            is_head = environ["REQUEST_METHOD"] == "HEAD"
            response = self._make_response(exchange, is_head)
            body = exchange.body
            if body is None:
                body = RequestBody(exchange)
            environ["wsgi.input"] = body
            environ["wsgi.early_hints"] = response.early_hints
            if OUTSIDE_MOUNT in environ:
                _answer_with_status(exchange, 404)
                _release(response, body)
                return
            result = self.application(environ, response.start_response)
        except BaseException as error:  # also SystemExit: no request may end a worker
            self._fail(exchange, response, body, error)
            return
        self.answer(exchange, response, body, result)

    def answer(
        self,
        exchange: Exchange,
        response: FastResponse,
        body: BinaryIO,
        result: Any,
        blocks: Iterator[bytes] | None = None,
    ) -> None:
        """Send and close what the application has returned: the second half of `handle`.

        ``blocks`` are what is left of ``result``, where its iteration has begun.
        """
        try:
            # Most applications return a list of one block.
            if type(result) is list and len(result) == 1 and type(result[0]) is bytes:
                if not response.send_whole(result[0]):
                    self._log_overrun(exchange, response.full_response())
            else:
                self._send_result(exchange, response.full_response(), result, blocks)
                if type(result) is not list:  # a list has nothing to close
                    unclosed, result = result, None
                    self._close(exchange, unclosed)
            # The same as `_release`. Each request comes here, and a call would cost as much again.
            response.forget_exchange()
            if type(body) is RequestBody:
                body.forget_exchange()
            else:
                try:
                    body.close()
                except Exception:
                    pass
        except BaseException as error:  # as in `handle`
            self._fail(exchange, response, body, error, result)

    def fail(
        self,
        exchange: Exchange,
        response: FastResponse | None,
        body: BinaryIO | None,
        error: BaseException,
        result: object = None,
    ) -> None:
        """Answer an exchange for which something was raised, and close what there is of it.

        ``result`` is what the application had returned before that. For native code, which handles
        no exception: what runs now may look for it, as `handle` lets it.
        """
        traceback = error.__traceback__
        try:
            raise error
        except BaseException:
            error.__traceback__ = traceback  # without this frame, which is no place of the fault
            self._fail(exchange, response, body, error, result)
        finally:
            del error, traceback  # of frames, which may hold much

    def _fail(
        self,
        exchange: Exchange,
        response: FastResponse | None,
        body: BinaryIO | None,
        error: BaseException,
        result: object = None,
    ) -> None:
        self._handle_failure(exchange, response, error)
        if result is not None:
            self._close(exchange, result)
        _release(response, body)

    def ask_first(self, first: First) -> None:
        """Set what `handle_unless_first` asks before it calls the application."""
        self._first = first
        self.beginnings = first.beginnings

    def handle_unless_first(self, exchange: Exchange) -> None:
        """Do the same as `handle` where what was set by `ask_first` has not answered."""
        try:
            environ = exchange.environ
            # Below SCRIPT_NAME, PATH_INFO is not the path that was asked for.
            if environ["PATH_INFO"].startswith(self.beginnings) or environ["SCRIPT_NAME"]:
                assert self._first is not None
                answered = self._first.answer(exchange)
            else:
                answered = False
        except BaseException as error:  # as in `handle`
            self._handle_failure(exchange, None, error)
            answered = True
        if answered:
            _release(None, exchange.body)
        else:
            self.handle(exchange)

    def _send_result(
        self,
        exchange: Exchange,
        response: Response,
        result: Iterable[bytes],
        blocks: Iterator[bytes] | None,
    ) -> None:
        kind = type(result)
        if blocks is not None:
            self._iterate(exchange, response, result, blocks)
        elif kind is list or kind is tuple:
            block = _joined(result)  # type: ignore[arg-type]
            if block is not None:
                response.send_whole(block)
            else:
                self._iterate(exchange, response, result, result)
        elif result is None or isinstance(result, str | bytes | bytearray | memoryview):
            raise ProtocolBreach(f"it returned {kind.__name__}, not an iterable of bytes")
        elif kind is FileWrapper:
            # A file longer than its Content-Length is cut. That is how to send a range of it.
            if not (self._sendfile and _send_file(response, result)):  # type: ignore[arg-type]
                self._iterate(exchange, response, result, result)
            return
        else:
            self._iterate(exchange, response, result, result)
        if response.overran:
            self._log_overrun(exchange, response)

    def _log_overrun(self, exchange: Exchange, response: Response) -> None:
        messages.APPLICATION_EXCEEDED_CONTENT_LENGTH.log(
            self._logger, request=_describe(exchange), length=response.content_length
        )

    def _iterate(
        self,
        exchange: Exchange,
        response: Response,
        result: Iterable[bytes],
        blocks: Iterable[bytes],
    ) -> None:
        only_one = blocks is result and _is_one_block(result)
        for block in blocks:
            if not isinstance(block, bytes):
                raise ProtocolBreach(f"a block of the body is {type(block).__name__}, not bytes")
            if response.finished:
                # The code after the last yield has run. There is nothing more to send.
                response.overran = bool(block)
                return
            if not block:
                # An application that waits for something yields this to find out if the client
                # left, because there is no send that could fail.
                if exchange.client_gone():
                    raise ClientDisconnected("the client left while the application was waiting")
            elif only_one:
                response.send_whole(block)
            elif not response.send(block):
                return
            if response.finished and type(result) is FileWrapper:
                return
        response.end()

    def _handle_failure(
        self, exchange: Exchange, response: FastResponse | None, error: BaseException
    ) -> None:
        try:
            websocket = exchange.websocket
            if websocket is not None and websocket.begun:
                self._end_websocket(exchange, websocket, error)
                return
            status = self._log_failure(exchange, error)
            if status is not None and response is not None and response.full_response().finished:
                return  # the client has the whole response; the application failed after that
            if status is None or exchange.head_sent:
                exchange.abort()
                return
            if status not in _KEEP_CONNECTION:
                # After a broken body, the start of the next request is unknown.
                exchange.close_after_response()
            _answer_with_status(exchange, status)
        except BaseException:  # the client left before the answer, or memory ran out
            exchange.abort()

    def _end_websocket(
        self, exchange: Exchange, websocket: WebSocket, error: BaseException
    ) -> None:
        """End a WebSocket: the application has returned from it, or has raised ``error``."""
        try:
            if not (websocket.refused or _has(_ENDS_OF_WEBSOCKETS, error)):
                self._note_failure(exchange, error)
                messages.APPLICATION_FAILED.log(
                    self._logger, request=_describe(exchange), exc_info=error
                )
        finally:
            websocket.finish()

    def _log_failure(self, exchange: Exchange, error: BaseException) -> int | None:
        """Log an exception that came through the application; return the status of the answer.

        Return None if there is no client to answer.
        """
        where = _describe(exchange)
        # Exceptions are logged as text: an exception in a log record would keep the environ.
        cause = _server_error(error)
        if isinstance(cause, RequestAborted):
            self._log_ended(where, "the response is discarded", str(cause))
            return None
        if isinstance(cause, ClientDisconnected):
            exchange.set_reason(f"client disconnected: {cause}")
            self._log_ended(where, "client disconnected", str(cause))
            return None
        if isinstance(cause, FileTruncatedError):
            exchange.set_reason(f"response cut off: {cause.strerror}")
            messages.FILE_TRUNCATED.log(self._logger, request=where)
            return None
        if isinstance(cause, RequestBodyError):
            self._log_ended(where, "bad request body", str(cause))
            return cause.status
        if isinstance(cause, RequestTimeout):
            exchange.set_reason("timeout: the application ended the call at its deadline")
            messages.APPLICATION_TIMEOUT.log(self._logger, request=where)
            return 504
        if exchange.websocket is not None and isinstance(error, Unanswered | StopIteration):
            exchange.set_reason("the application has not answered the WebSocket handshake")
            return 501
        self._note_failure(exchange, error)
        if isinstance(error, ProtocolBreach):  # a traceback would show only the gateway
            messages.APPLICATION_BROKE_PEP3333.log(self._logger, request=where, error=str(error))
        else:
            messages.APPLICATION_FAILED.log(self._logger, request=where, exc_info=error)
        return 500

    def _log_each(self, request: str, what: str, detail: str) -> None:
        self._logger.info("%s: %s: %s", request, what, detail)

    def _close(self, exchange: Exchange, result: object) -> None:
        """Call ``close()`` of what the application returned. An error in it is only logged."""
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self.log_close_failure(exchange, error)

    def log_close_failure(self, exchange: Exchange, error: BaseException) -> None:
        """Log what the ``close()`` of something that the application returned has raised."""
        with suppress(Exception):  # if memory ran out, logging fails too
            messages.APPLICATION_CLOSE_FAILED.log(
                self._logger, request=_describe(exchange), exc_info=error
            )


def _note_nothing(_exchange: Exchange, _error: BaseException) -> None:
    pass


def _release(response: FastResponse | None, body: BinaryIO | None) -> None:
    """Drop every reference to the exchange from objects that the application may keep."""
    if response is not None:
        response.forget_exchange()
    if type(body) is RequestBody:
        body.forget_exchange()
    elif body is not None:
        # An environ in a cycle would keep the file of a spooled body until it is collected.
        try:
            body.close()
        except Exception:  # BufferError, if the application kept a view of the body
            pass


def _joined(blocks: list[bytes] | tuple[bytes, ...]) -> bytes | None:
    """Return the whole body, or None if it is too large to be copied."""
    if len(blocks) == 1 and type(blocks[0]) is bytes:
        return blocks[0]
    size = 0
    for block in blocks:
        if not isinstance(block, bytes):
            raise ProtocolBreach(f"a block of the body is {type(block).__name__}, not bytes")
        size += len(block)
    return b"".join(blocks) if size <= JOIN_LIMIT else None


def _is_one_block(result: Iterable[bytes]) -> bool:
    try:
        return len(result) == 1  # type: ignore[arg-type]
    except Exception:  # most iterables have no length, and a length may raise anything
        return False


def _send_file(response: Response, wrapper: FileWrapper) -> bool:
    """Send a wrapped file by its descriptor; return False if it has to be read instead."""
    if response.bodiless or not response.code:
        return False
    region = file_region(wrapper.filelike)
    if region is None:
        return False
    response.send_file(*region)
    return True


def _answer_with_status(exchange: Exchange, status: int) -> None:
    phrase = REASON_PHRASES.get(status, "")
    text = f"{phrase}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    exchange.respond(f"{status} {phrase}", headers, len(text))
    exchange.finish(text)


# Libraries for WebSocket raise StopIteration or ConnectionError, so that servers that know nothing
# of it send no response; and what would have sent one here raises ResponseRelayed.
_ENDS_OF_WEBSOCKETS = (
    StopIteration,
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionResetError,
    ResponseRelayed,
    ProtocolBreach,
    ClientDisconnected,
)

_SERVER_ERRORS = (ClientDisconnected, FileTruncatedError, RequestBodyError, RequestTimeout)


def _server_error(
    error: BaseException,
) -> ClientDisconnected | FileTruncatedError | RequestBodyError | RequestTimeout | None:
    """Return ``error`` or the cause of it that is an exception of the server; None without one."""
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(cause, _SERVER_ERRORS):
            return cause
        if cause is None:
            break
        cause = cause.__cause__
    return None


def _has(kinds: tuple[type[BaseException], ...], error: BaseException) -> bool:
    """Return True if ``error``, or what it was raised from, is of these kinds."""
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(cause, kinds) or type(cause) is ConnectionError:
            return True
        if cause is None:
            break
        cause = cause.__cause__
    return False


def _describe(exchange: Exchange) -> str:
    """Return the words for a request in a log line, escaped so that a client cannot forge lines."""
    environ = exchange.environ
    line = f"{environ.get('REQUEST_METHOD')} {environ.get('RAW_URI')}"
    escaped, _ = _ESCAPE(line)
    return f"{escaped.decode('ascii')} (request {exchange.request_id})"
