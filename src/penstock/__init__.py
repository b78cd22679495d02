"""Penstock, a WSGI server.

From the command line: ``penstock module:callable``. From Python::

    penstock.serve(app, bind="127.0.0.1:8000")      # until a signal

    with penstock.running(app) as server:           # in the background, on a free port
        urllib.request.urlopen(server.url)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.errors import RequestTimeout

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.api import RunningServer

__version__ = "0.1.0"

__all__ = ["RequestTimeout", "__version__", "running", "serve"]

# What these functions need is imported by them: `penstock --version` has to answer at once.


def serve(application: WSGIApplication, **settings: object) -> int:
    """Serve ``application`` until SIGTERM or SIGINT; return the exit status.

    The process is then as it was before, and may serve again. Only in the main thread, because of
    the signals. ``settings`` are those of the command line by name: ``threads=8``,
    ``bind=["127.0.0.1:8080"]``, ``max_body="10MiB"``. Raises
    `penstock.errors.SettingsError` and `penstock.errors.ListenError`, ``TypeError`` for what is
    no application, and ``RuntimeError`` outside of the main thread.
    """
    from penstock.api import serve_application

    return serve_application(application, settings)


@contextmanager
def running(application: WSGIApplication, **settings: object) -> Iterator[RunningServer]:
    """Serve ``application`` in the background, on a free port unless ``bind`` is given.

    For tests, above all. On leaving the block requests in progress are finished, within
    ``graceful_timeout``, and all threads and sockets are gone. Settings and errors as for `serve`.
    """
    from penstock.api import run_in_background

    with run_in_background(application, settings) as server:
        yield server
