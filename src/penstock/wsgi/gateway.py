"""PEP 3333 from the server's side: call the application, send what it returns, close it."""

from __future__ import annotations

import codecs
from contextlib import suppress
from typing import TYPE_CHECKING

from penstock import messages
from penstock.errors import (
    ClientDisconnected,
    RequestAborted,
    RequestBodyError,
    RequestTimeout,
)
from penstock.http1.statuses import REASON_PHRASES
from penstock.wsgi.environ import OUTSIDE_MOUNT
from penstock.wsgi.file_wrapper import FileWrapper, file_region
from penstock.wsgi.headers import check_head
from penstock.wsgi.input import RequestBody
from penstock.wsgi.response import FastResponse, ProtocolBreach, Response

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIApplication

    from penstock.transport import Exchange, ResponseSupport

JOIN_LIMIT = 64 * 1024
"""Bytes up to which the blocks of a list leave as one: to copy them is cheaper than to send each
by itself, and this is about what a socket buffer takes at once."""

# Looked up now, because that loads a module: when it is needed, files may have run out.
_ESCAPE = codecs.getencoder("unicode_escape")

_CONNECTION_GOES_ON = frozenset({500, 504})
"""The statuses of failures that are not the request's."""

_CAUSES = 8
"""How many explicit causes of an exception are looked at: frameworks wrap once or twice."""


class Gateway:
    """Answers exchanges by calling one application. Any number of threads may use it."""

    def __init__(
        self,
        application: WSGIApplication,
        *,
        logger: logging.Logger,
        sendfile: bool = True,
        transport: ResponseSupport | None = None,
    ) -> None:
        """Set what is called, where failures are logged, and whether the kernel sends files.

        ``transport`` may have native code for a part of the responses' work.
        """
        self._application = application
        self._logger = logger
        self._sendfile = sendfile
        # Any thread adds to it; two that meet may both warn, which does no harm.
        warned: set[str] = set()

        def warn_once(notice: messages.Notice) -> None:
            text = str(notice)
            if text not in warned:
                warned.add(text)
                notice.log(logger)

        check = check_head if transport is None else transport.check_head

        def make_response(exchange: Exchange | None, is_head: bool) -> Response:
            return Response(exchange, is_head, warn_once, check)

        self._make_response: Callable[[Exchange, bool], FastResponse] = (
            make_response if transport is None else transport.response_maker(make_response)
        )

    def handle(self, exchange: Exchange) -> None:
        """Answer one exchange: it is finished or aborted on return. Raises nothing."""
        response = body = streamed = result = None
        try:
            environ = exchange.environ
            # Asked now, since middleware may turn HEAD into GET for what it wraps.
            is_head = environ["REQUEST_METHOD"] == "HEAD"
            response = self._make_response(exchange, is_head)
            body = exchange.body
            if body is None:
                body = streamed = RequestBody(exchange)
            environ["wsgi.input"] = body
            environ["wsgi.early_hints"] = response.early_hints
            if OUTSIDE_MOUNT in environ:
                _answer_plainly(exchange, 404)
            else:
                result = self._application(environ, response.start_response)
                # One block in a list is what most applications return.
                if type(result) is list and len(result) == 1 and type(result[0]) is bytes:
                    if not response.send_whole(result[0]):
                        self._tell_of_overrun(exchange, response.full_response())
                else:
                    self._send_result(exchange, response.full_response(), result)
                    if type(result) is not list:  # a list has nothing to close
                        unclosed, result = result, None
                        self._close(exchange, unclosed)
            # As `_let_go` does, which would cost as much again: each request comes here.
            response.forget_exchange()
            if streamed is not None:
                streamed.forget_exchange()
            else:
                try:
                    body.close()
                except Exception:
                    pass
        except BaseException as error:  # SystemExit as well: no request may end a worker
            self._handle_failure(exchange, response, error)
            if result is not None:
                self._close(exchange, result)
            _let_go(response, body)

    def _send_result(self, exchange: Exchange, response: Response, result: Iterable[bytes]) -> None:
        kind = type(result)
        if kind is list or kind is tuple:
            block = _joined(result)  # type: ignore[arg-type]
            if block is not None:
                response.send_whole(block)
            else:
                self._iterate(exchange, response, result)
        elif result is None or isinstance(result, str | bytes | bytearray | memoryview):
            raise ProtocolBreach(f"it returned {kind.__name__}, not an iterable of bytes")
        elif kind is FileWrapper:
            # A file longer than its Content-Length is cut: so one sends a range of it.
            if not (self._sendfile and _send_file(response, result)):  # type: ignore[arg-type]
                self._iterate(exchange, response, result)
            return
        else:
            self._iterate(exchange, response, result)
        if response.overran:
            self._tell_of_overrun(exchange, response)

    def _tell_of_overrun(self, exchange: Exchange, response: Response) -> None:
        messages.APPLICATION_EXCEEDED_CONTENT_LENGTH.log(
            self._logger, request=_describe(exchange), length=response.content_length
        )

    def _iterate(self, exchange: Exchange, response: Response, result: Iterable[bytes]) -> None:
        only_one = _is_one_block(result)
        for block in result:
            if not isinstance(block, bytes):
                raise ProtocolBreach(f"a block of the body is {type(block).__name__}, not bytes")
            if response.finished:
                # What stands behind the last yield was run; there is nothing to send any more.
                response.overran = bool(block)
                return
            if not block:
                # No send to fail: an application that waits for something asks this way.
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
            status = self._log_failure(exchange, error)
            if status is not None and response is not None and response.full_response().finished:
                return  # the client has it all; only what the application did afterwards failed
            if status is None or exchange.head_sent:
                exchange.abort()
                return
            if status not in _CONNECTION_GOES_ON:
                # Where the request's body is broken, nobody can tell where the next one begins.
                exchange.close_after_response()
            _answer_plainly(exchange, status)
        except BaseException:  # the client left before the answer, or memory is short
            exchange.abort()

    def _log_failure(self, exchange: Exchange, error: BaseException) -> int | None:
        """Log an exception that came through the application; return the status it asks for.

        None means that there is nobody to answer.
        """
        where = _describe(exchange)
        # Exceptions go to the log as text: one that a record keeps would keep the environ.
        cause = _known_error(error)
        if isinstance(cause, RequestAborted):
            self._logger.info("%s: the response is discarded: %s", where, str(cause))
            return None
        if isinstance(cause, ClientDisconnected):
            self._logger.info("%s: client disconnected: %s", where, str(cause))
            return None
        if isinstance(cause, RequestBodyError):
            self._logger.info("%s: bad request body: %s", where, str(cause))
            return cause.status
        if isinstance(cause, RequestTimeout):
            exchange.explain("timeout: the application ended the call at its deadline")
            messages.APPLICATION_TIMEOUT.log(self._logger, request=where)
            return 504
        if isinstance(error, ProtocolBreach):  # a traceback would show the gateway alone
            messages.APPLICATION_BROKE_PEP3333.log(self._logger, request=where, error=str(error))
        else:
            messages.APPLICATION_FAILED.log(self._logger, request=where, exc_info=error)
        return 500

    def _close(self, exchange: Exchange, result: object) -> None:
        """Call ``close()`` of what the application returned; the response stands in any case."""
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            with suppress(Exception):  # where memory is short, logging fails as well
                messages.APPLICATION_CLOSE_FAILED.log(
                    self._logger, request=_describe(exchange), exc_info=error
                )


def _let_go(response: FastResponse | None, body: object) -> None:
    """See to it that nothing of an exchange hangs on what an application may keep."""
    if response is not None:
        response.forget_exchange()
    if type(body) is RequestBody:
        body.forget_exchange()
    elif body is not None:
        # An environ in a cycle would keep the disk of a spooled body until it is collected.
        try:
            body.close()  # type: ignore[attr-defined]
        except Exception:  # a view of it that the application kept: BufferError
            pass


def _joined(blocks: list[bytes] | tuple[bytes, ...]) -> bytes | None:
    """Return the whole body where it is at hand and not too large to be copied, else None."""
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
    except Exception:  # most iterables have no length, some raise what they like
        return False


def _send_file(response: Response, wrapper: FileWrapper) -> bool:
    """Send a wrapped file by its descriptor; False where it has to be read."""
    if response.bodiless or not response.code:
        return False
    region = file_region(wrapper.filelike)
    if region is None:
        return False
    response.send_file(*region)
    return True


def _answer_plainly(exchange: Exchange, status: int) -> None:
    phrase = REASON_PHRASES.get(status, "")
    text = f"{phrase}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    exchange.respond(f"{status} {phrase}", headers, len(text))
    exchange.finish(text)


def _known_error(
    error: BaseException,
) -> ClientDisconnected | RequestBodyError | RequestTimeout | None:
    """Return the server's exception that this one is, or was raised from."""
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if isinstance(cause, ClientDisconnected | RequestBodyError | RequestTimeout):
            return cause
        if cause is None:
            break
        cause = cause.__cause__
    return None


def _describe(exchange: Exchange) -> str:
    """Name a request in a log line: what the client sent is escaped, so it forges no line."""
    environ = exchange.environ
    line = f"{environ.get('REQUEST_METHOD')} {environ.get('RAW_URI')}"
    escaped, _ = _ESCAPE(line)
    return f"{escaped.decode('ascii')} (request {exchange.request_id})"
