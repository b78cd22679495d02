"""Runs a part of Django's own suite with Penstock in the place of Django's server and test client.

    python -m programs.django_on_penstock TRANSPORT FOLDER-OF-DJANGO'S-TESTS ARGUMENT...

Live servers are `penstock.contrib.django.testing`'s. Each request of Django's test client, which
calls the handlers otherwise, goes to a Penstock in this process through a socket.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import runpy
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from django.db import connections
from django.test import LiveServerTestCase, client
from django.test.client import ClientHandler

import penstock
from penstock.contrib.django.testing import PenstockThread

NUMBER = "HTTP_X_NUMBER_OF_THE_TEST"
WITHIN = 20.0


@dataclass
class Sent:
    """A request of the test client, and what became of it. The client waits while it is served."""

    handler: ClientHandler
    environ: dict[str, Any]
    connections: dict[str, Any] = field(default_factory=dict)
    response: Any = None
    error: BaseException | None = None


SENT: dict[str, Sent] = {}
"""By number. Only one is sent at a time."""
_numbers = itertools.count(1)
_server: Any = None


class WireHandler(ClientHandler):
    """Sends what the test client composes through a socket."""

    def __call__(self, environ: dict[str, Any]) -> Any:
        number = str(next(_numbers))
        sent = SENT[number] = Sent(self, environ)
        shared = {alias: connections[alias] for alias in connections}
        for alias, connection in shared.items():
            connection.inc_thread_sharing()
            sent.connections[alias] = connection
        try:
            content = ask(number, environ)
        finally:
            for connection in shared.values():
                connection.dec_thread_sharing()
            del SENT[number]
        if sent.error is not None:
            raise sent.error
        response = sent.response
        if response.streaming:
            response.streaming_content = [content]
        else:
            response.content = content
        return response


def ask(number: str, environ: dict[str, Any]) -> bytes:
    """Send a request as it was composed, and return the body of the response."""
    target = quote(environ["PATH_INFO"], safe="/%", encoding="latin-1")
    if query := environ.get("QUERY_STRING"):
        target += f"?{query}"
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else None
    fields = {"Host": "testserver", "X-Number-Of-The-Test": number}
    for name, value in environ.items():
        if name.startswith("HTTP_") and value:
            fields[name[5:].replace("_", "-").title()] = str(value)
    if "CONTENT_TYPE" in environ and body is not None:
        fields["Content-Type"] = environ["CONTENT_TYPE"]
    connection = http.client.HTTPConnection(_server.host, _server.port, timeout=WITHIN)
    try:
        connection.request(environ["REQUEST_METHOD"], target, body, fields)
        return connection.getresponse().read()
    finally:
        connection.close()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve a request of the test client, with what a socket cannot carry taken from the client."""
    sent = SENT[environ.pop(NUMBER)]
    if "HTTP_HOST" not in sent.environ:
        del environ["HTTP_HOST"]
    ours = ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "wsgi.multithread", "CONTENT_LENGTH")
    theirs = {name: value for name, value in sent.environ.items() if name not in ours}
    before = {alias: connections[alias] for alias in sent.connections}
    try:
        for alias, connection in sent.connections.items():
            connections[alias] = connection
        response = ClientHandler.__call__(sent.handler, environ | theirs)
    except BaseException as error:
        sent.error = error
        start_response("500 Internal Server Error", [])
        return []
    finally:
        for alias, connection in before.items():
            connections[alias] = connection
    sent.response = response
    head = [
        *response.items(),
        *(("Set-Cookie", c.OutputString()) for c in response.cookies.values()),
    ]
    start_response(f"{response.status_code} {response.reason_phrase}", head)
    file = getattr(response, "file_to_stream", None)
    if file is not None:
        return environ["wsgi.file_wrapper"](file, response.block_size)
    return iter(response)


def main() -> None:
    """Run Django's runtests.py with the arguments."""
    global _server
    transport, folder, *arguments = sys.argv[1:]
    penstock.running = functools.partial(penstock.running, transport=transport)
    LiveServerTestCase.server_thread_class = PenstockThread
    client.ClientHandler = WireHandler
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = ["runtests.py", *arguments]
    with penstock.running(application, threads=1) as _server:
        try:
            runpy.run_path("runtests.py", run_name="__main__")
        finally:
            print(f"{next(_numbers) - 1} requests of the test client went through a socket")


if __name__ == "__main__":
    main()
