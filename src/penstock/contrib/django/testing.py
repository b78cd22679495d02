"""Live tests on Penstock: what a browser gets from the server that production has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.test import testcases
from django.test.testcases import LiveServerThread, _MediaFilesHandler

import penstock

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class PenstockThread(LiveServerThread):
    """The thread in which Django starts a live server, for a server with threads of its own."""

    def __init__(self, *arguments: Any, **by_name: Any) -> None:
        super().__init__(*arguments, **by_name)
        self._ending = threading.Event()

    def run(self) -> None:
        """Serve until `terminate`; an error is kept for the test."""
        try:
            application = self.static_handler(_MediaFilesHandler(WSGIHandler()))
            bind = [f"{self.host}:{self.port}"]
            with penstock.running(self._with_connections(application), bind=bind) as server:
                self.port: int = server.port
                self.is_ready.set()
                self._ending.wait()
        except BaseException as error:  # the test raises it
            self.error = error
            self.is_ready.set()

    def terminate(self) -> None:
        """End the server, once its requests have ended."""
        self._ending.set()
        self.join()

    def _with_connections(self, application: WSGIApplication) -> WSGIApplication:
        """Return an application whose calls leave no connection to a database open.

        One that is left keeps Django from removing the test's database. A database in memory has
        one connection, which the test shares.
        """

        def connected(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            for alias, connection in (self.connections_override or {}).items():
                connections[alias] = connection
            result = application(environ, start_response)
            try:
                yield from result
            finally:
                getattr(result, "close", _nothing)()
                connections.close_all()

        def begun(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            return connected(environ, start_response)

        return begun


def _nothing() -> None:
    pass


# Under its own name Django's class could be imported from here by mistake.
class PenstockLiveServerTestCase(testcases.LiveServerTestCase):
    """Django's ``LiveServerTestCase``, served by Penstock."""

    server_thread_class = PenstockThread


class StaticPenstockLiveServerTestCase(PenstockLiveServerTestCase):
    """The same with the static files of all apps, as ``StaticLiveServerTestCase`` has them."""

    static_handler = StaticFilesHandler
