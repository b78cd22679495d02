"""Penstock, a WSGI server.

From the command line: ``penstock module:callable``. From Python::

    penstock.serve(app, bind="127.0.0.1:8000")      # until a signal

    with penstock.running(app) as server:           # in the background, on a free port
        urllib.request.urlopen(server.url)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.errors import RequestTimeout

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.api import RunningServer

__version__ = "0.1.0"

__all__ = ["RequestTimeout", "__version__", "check_deadline", "main", "running", "serve"]

# The functions import what they need: `penstock --version` must be fast.


def serve(application: WSGIApplication, **settings: object) -> int:
    """Serve ``application`` until SIGTERM or SIGINT; return the exit status.

    In another thread than the main one it serves until the main thread has ended: signals are the
    program's there. Afterwards the process is as it was before, and may serve again. ``settings``
    are those of the command line by name: ``threads=8``, ``bind=["127.0.0.1:8080"]``,
    ``max_body="10MiB"``. Raises `penstock.errors.SettingsError` and `penstock.errors.ListenError`,
    and ``TypeError`` if the application is not callable.
    """
    from penstock.api import serve_application

    return serve_application(application, settings)


def main(arguments: Sequence[str]) -> int:
    """Do what ``penstock ARGUMENTS`` does, and return its exit status.

    For a program that starts the server with its workers by itself, in the place of a subclass of
    gunicorn's ``BaseApplication``. It has to be called in the main thread. The application is named
    as ``module:callable``, since each worker loads it.
    """
    from penstock.cli.command import main as command

    return command(arguments)


@contextmanager
def running(application: WSGIApplication, **settings: object) -> Iterator[RunningServer]:
    """Serve ``application`` in the background, on a free port unless ``bind`` is given.

    Mainly for tests. At the end of the block the server finishes the requests in progress, within
    ``graceful_timeout``, and closes all threads and sockets. Settings and errors are those of
    `serve`.
    """
    from penstock.api import run_in_background

    with run_in_background(application, settings) as server:
        yield server


def check_deadline(environ: dict[str, Any]) -> None:
    """Raise `RequestTimeout` if the deadline of the request has passed.

    For work in many steps, which calls it between two of them: the server itself raises nothing in
    a call of the application. ``environ`` is the request's, or a copy. Does nothing where calls
    have no deadline, or where another server made the environ.
    """
    extend_deadline = environ.get("penstock.extend_deadline")
    if extend_deadline is not None and time.monotonic() >= extend_deadline(0):
        raise RequestTimeout(
            "the deadline of the request has passed (settings: timeout, timeout_for)"
        )
