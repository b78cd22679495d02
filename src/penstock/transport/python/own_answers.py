"""Own answers: health and readiness checks and ``OPTIONS *``, without the application."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.errors import ClientDisconnected
from penstock.telemetry.scoreboard import READY
from penstock.transport.redirect import redirect

if TYPE_CHECKING:
    from penstock.http1 import Request
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.python.exchange import PythonExchange
    from penstock.transport.python.loop import Loop

WHOLE_SERVER = "*"
"""The path of ``OPTIONS *``, which is about the server as a whole (RFC 9110, section 9.3.7)."""

_HEADERS = [("Content-Type", "text/plain"), ("Cache-Control", "no-store")]
_METHODS = ("GET", "HEAD", "OPTIONS")
"""The methods of a check: some proxies check with OPTIONS (RFC 9110, section 9.3.7)."""
_ALLOW = ("Allow", ", ".join(_METHODS))


class OwnAnswers:
    """The requests that a transport answers itself. The leader calls it."""

    def __init__(self, loop: Loop, slot: Slot) -> None:
        self._loop = loop
        self._slot = slot
        config = loop.config
        checks = {config.health_path: self._is_live, config.ready_path: self._is_ready}
        self._checks = {path: check for path, check in checks.items() if path is not None}
        self.paths = frozenset({WHOLE_SERVER, *self._checks})
        """The paths of such requests. Most requests have another path, and are not looked at."""

    def wants(self, request: Request) -> bool:
        """Return True if the server answers this request itself."""
        if request.path == WHOLE_SERVER:
            return True
        return request.path in self._checks and request.method in _METHODS

    def answer(self, exchange: PythonExchange) -> None:
        """Answer a request for which `wants` returned True."""
        exchange.handed_out_at = time.monotonic_ns()
        check = self._checks.get(exchange.request.path)
        try:
            if exchange.connection.redirects and not self.wants(exchange.request):
                self._redirect(exchange)
                return
            if check is None:
                exchange.respond("200 OK", [], 0)
                exchange.finish()
                return
            exchange.silent = True
            well = check()
            body = self._loop.config.healthy if well else self._loop.config.unhealthy
            status = "200 OK" if well else "503 Service Unavailable"
            options = exchange.request.method == "OPTIONS"
            exchange.respond(status, [*_HEADERS, _ALLOW] if options else _HEADERS, len(body))
            exchange.finish(body)
        except ClientDisconnected:
            exchange.abort()

    def _redirect(self, exchange: PythonExchange) -> None:
        request = exchange.request
        target = f"{request.path}?{request.query}" if request.query else request.path
        host = exchange.environ.get("HTTP_HOST", "")
        config = self._loop.config
        status, fields, body = redirect(config, request.method, host, target)
        exchange.respond(status, fields, len(body))
        exchange.finish(b"" if request.method == "HEAD" else body)

    def _is_ready(self) -> bool:
        ready = self._slot.words[READY] == 1 and not self._loop.draining
        return ready and self._loop.queue.ready()

    def _is_live(self) -> bool:
        return self._slot.is_live
