"""The dashboard of ``--admin``: a page, and the questions that it asks.

It only reads: no command can be given here, whatever the client knows. `penstock.control.access`
says who may ask. docs/dashboard.md describes the page, whose files are in ``dashboard_files/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.config.shown import masked
from penstock.control.answers import parse_command
from penstock.control.commands import ControlError, Handle, Outcome, ShowStacks
from penstock.control.connection import Response, Send
from penstock.telemetry.scoreboard import without_query

if TYPE_CHECKING:
    from penstock.control.access import Access, Place
    from penstock.http1 import Request

MOST_REQUESTS: Final = 200
"""Requests in one answer, the oldest: each has some 500 bytes, and a client may read slowly."""

MOST_WORKERS: Final = 200
"""Workers in one answer, for the same reason."""

MOST_OF_STACKS: Final = 256 << 10
"""Characters of a worker's stacks in one answer."""

_FILES: Final = {
    "/": ("dashboard.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/dashboard.svg": ("dashboard.svg", "image/svg+xml"),
}
"""What the page consists of. There is nothing secret in it, so that it can ask for the token."""

QUESTIONS: Final = (
    "/status", "/workers", "/requests", "/history", "/findings", "/settings", "/stacks",
    "/slow", "/failed", "/refused",
)  # fmt: skip
"""Those of the control socket that are answered here, too."""

_SHOW_QUERIES = "queries"
"""The name in a query by which a client asks for the query strings of requests."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A browser that knows it refuses to make HTML out of text, such as a path, at all.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
FIELDS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""Fields of every response here; each one of the control server has ``Cache-Control: no-store``."""

_QUERY = re.compile(r"(?<=\S)\?\S+")  # a target has no blanks
_THREAD = re.compile(r"^thread .*$", re.MULTILINE)


class Dashboard:
    """Answers what is asked at an admin address, beside probes and metrics."""

    def __init__(self, handle: Handle, access: Access, place: Place) -> None:
        """Read the files of the page. Raises OSError."""
        self._handle = handle
        self._access = access
        self._place = place
        self._files = {
            path: Response(200, _content(name), kind, FIELDS)
            for path, (name, kind) in _FILES.items()
        }
        if place.is_local:  # the page need not ask for a token
            page = self._files["/"]
            body = page.body.replace(b' data-token="needed"', b"")
            self._files["/"] = replace(page, body=body)

    def respond(self, request: Request, send: Send) -> None:
        """Answer a request, now or later."""
        try:
            if request.path in self._files:
                self._send_file(request, send)
            elif request.path in QUESTIONS:
                self._answer(request, send)
            else:
                what = "there are /healthz, /readyz and /metrics, and a dashboard at /"
                raise ControlError(what, 404)
        except ControlError as error:
            send(Response.json(error.status, {"error": str(error)}, (*FIELDS, *error.fields)))

    def _send_file(self, request: Request, send: Send) -> None:
        _check_method(request)
        self._access.check_host(request, self._place)
        if request.path == "/":
            self._access.make_token(self._place)
        send(self._files[request.path])

    def _answer(self, request: Request, send: Send) -> None:
        _check_method(request)
        self._access.check(request, self._place)
        asked, _ = parse_command(request, also=(_SHOW_QUERIES,))
        if isinstance(asked, ShowStacks) and asked.worker is None:
            raise ControlError(
                "give worker=N: those of all workers are for penstockctl stacks", 400
            )
        queries = f"{_SHOW_QUERIES}=1" in request.query.split("&")

        def reply(answer: Outcome | Mapping[str, Any]) -> None:
            assert not isinstance(answer, Outcome)  # of a command
            value = cleaned(bounded(answer), queries=queries)
            send(Response.compact(200, value, FIELDS))

        self._handle(asked, reply)


def _content(name: str) -> bytes:
    with open(os.path.join(os.path.dirname(__file__), "dashboard_files", name), "rb") as file:
        return file.read()


def _check_method(request: Request) -> None:
    if request.method not in ("GET", "HEAD"):
        allow = (("Allow", "GET, HEAD"),)
        raise ControlError("the dashboard only reads: the method is to be GET", 405, allow)


def bounded(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer of bounded length; where something was left out, it says how much is all."""
    value = dict(answer)
    for name, most in (("requests", MOST_REQUESTS), ("workers", MOST_WORKERS)):
        rows = value.get(name)
        if isinstance(rows, list):
            value[name], value["all"] = rows[:most], len(rows)
    if "stacks" in value:
        value["stacks"] = {pid: _cut(text) for pid, text in value["stacks"].items()}
    return value


def _cut(text: str) -> str:
    if len(text) <= MOST_OF_STACKS:
        return text
    return text[:MOST_OF_STACKS] + "\n... the rest is left out: see penstockctl stacks\n"


def cleaned(value: dict[str, Any], *, queries: bool) -> dict[str, Any]:
    """Return an answer whose messages have no passwords, and without ``queries`` no query strings.

    Query strings may hold passwords and tokens of users, and a dashboard hangs on walls. Messages
    may quote an exception, and that the URL of a database.
    """

    def clean(text: str) -> str:
        return masked(text if queries else hide_queries(text))

    value = dict(value)
    for name in ("last_error", "last_reload"):
        if value.get(name):
            value[name] = {**value[name], "message": clean(value[name]["message"])}
    for name, texts in (("events", ("text",)), ("findings", ("what", "advice"))):
        if name in value:
            rows = value[name]
            value[name] = [{**row, **{text: clean(row[text]) for text in texts}} for row in rows]
    if queries:
        return value
    if isinstance(value.get("requests"), list):
        rows = value["requests"]
        value["requests"] = [{**row, "target": without_query(row["target"])} for row in rows]
    if "stacks" in value:
        # A line for each thread names its request. What follows it is code.
        value["stacks"] = {
            pid: _THREAD.sub(lambda line: hide_queries(line[0]), text)
            for pid, text in value["stacks"].items()
        }
    return value


def hide_queries(text: str) -> str:
    """Return a text with ``?...`` in place of each query string."""
    return _QUERY.sub("?...", text)
