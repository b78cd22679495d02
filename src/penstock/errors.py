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
    """The client went away, or stalled past a deadline, before its exchange was complete.

    An ``OSError``, because that is what applications expect of a failed ``wsgi.input.read()``.
    """


class RequestBodyError(OSError):
    """A streamed request body broke a rule or a limit; ``status`` is the HTTP status for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestTimeout(BaseException):
    """Raised in a call of the application that has lasted for as long as it may.

    By the server, from outside, between any two steps of the application's Python code (settings:
    ``timeout``, ``timeout_for``); `penstock.RequestTimeout` is the same. The client gets 504 where
    nothing was sent yet, and the thread serves on. An application may catch it to say something
    better; it is raised once in a request.

    A ``BaseException``, as ``KeyboardInterrupt`` is, so that the ``except Exception`` of a
    framework does not take it for an error of the application's and answer 500.
    """
