"""The errors that cross module boundaries. Nothing here imports another module of Penstock."""

from __future__ import annotations


class PenstockError(Exception):
    """An error that Penstock reports to its user as one line, with an exit status.

    ``exit_status`` is what the ``penstock`` command returns for it; docs/exit-statuses.md
    lists them all.
    """

    exit_status = 1


class SettingsError(PenstockError):
    """A setting is unknown, malformed or impossible; the text names it and its source."""

    exit_status = 2


class ListenError(PenstockError):
    """A listening address cannot be used; the text names the address and the setting."""

    exit_status = 7


class ClientDisconnected(OSError):
    """The client disconnected, or stalled past a deadline, before its response was complete.

    An ``OSError``, because applications expect that of a failed ``wsgi.input.read()``.
    """


class RequestAborted(ClientDisconnected):
    """The server has ended the request: its deadline passed, or the server stops.

    The client has its answer, 504 as a rule, or the connection was cut. Whatever the application
    still reads or sends raises this.
    """


class WebSocketRefused(OSError):
    """The application cannot have the socket of a WebSocket handshake: `max_websockets` are open.

    The client has its answer, 503. Whatever the application does then, its response is over.
    """


class ResponseRelayed(RuntimeError):
    """The application has taken the socket of its request, so that there is no HTTP response."""


class FileTruncatedError(OSError):
    """A file became shorter while it was being sent."""


class RequestBodyError(OSError):
    """A streamed request body broke a rule or a limit; ``status`` is the HTTP status for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestTimeout(BaseException):
    """Raised by `penstock.check_deadline` where the deadline of the request has passed.

    The server never raises it in a call of the application. Where the application does not catch
    it, the client gets 504 if nothing was sent yet.

    A ``BaseException``, as ``KeyboardInterrupt`` is, so that the ``except Exception`` of a
    framework does not take it for an error of the application's and answer 500.
    """
