"""What the control socket and ``--admin`` answer, and to which clients.

docs/control.md describes both.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock import messages, percent
from penstock.control import metrics
from penstock.control.address import Peer, overflow_uid
from penstock.control.commands import (
    COMMAND_FIELD,
    HOST,
    Command,
    ControlError,
    EndProfile,
    Handle,
    Outcome,
    Profile,
    Question,
    Recycle,
    Reload,
    Scale,
    ShowFigures,
    ShowFindings,
    ShowHistory,
    ShowNotable,
    ShowRecent,
    ShowRequests,
    ShowSettings,
    ShowStacks,
    ShowStatus,
    ShowWorkers,
    Stop,
    Upgrade,
)
from penstock.control.connection import Response, Send
from penstock.transport.config import HEALTHY, UNHEALTHY

if TYPE_CHECKING:
    import logging

    from penstock.control.rows import Figures
    from penstock.http1 import Request

MOST_PROFILE_SECONDS = 300
"""The longest profile: what it collects is bounded as well."""

MOST_PROFILE_RATE = 1000
"""The most samples a second: a thread that samples more often would do little else."""

MOST_WORKERS = 1000
"""The largest number of workers that can be asked for, as in the setting ``workers``."""

REFUSAL_LOG_SECONDS = 60.0
"""A user that is refused is logged once in this time: another user cannot fill the log."""

_REFUSALS_REMEMBERED = 100

_FROM_BROWSERS = re.compile("origin|referer|sec-fetch-.*|sec-ch-.*")
"""Fields that a browser adds, and that a page cannot remove."""

Query = dict[str, str]


class ControlSocket:
    """Answers the requests of the control socket."""

    def __init__(self, handle: Handle, logger: logging.Logger) -> None:
        self._handle = handle
        self._logger = logger
        self._overflow = overflow_uid()
        self._refused: dict[int, float] = {}  # users, and when their refusal was logged

    def admit(self, peer: Peer | None) -> Response | None:
        """Return None for root and the server's own user, and a refusal for others.

        A process that cannot be seen from here, because it is in another container, is refused, and
        so is the user id that stands for all users that have none here: neither says who it is.
        Where the system does not report the peer, the mode of the path has kept others out.
        """
        own, overflow = os.geteuid(), self._overflow
        if peer is None:
            return None
        if peer.pid == 0:
            why = "your process is in another container (process namespace)"
        elif peer.uid == overflow:
            why = f"user {overflow} can be any user of another user namespace"
            if own == overflow:
                why += "; run the server as a user of its own"
        elif peer.uid in (0, own):
            return None
        else:
            why = f"you are user {peer.uid}"
        allowed = "root" if own in (0, overflow) else f"root and user {own}"
        now = time.monotonic()
        if now - self._refused.get(peer.uid, -REFUSAL_LOG_SECONDS) >= REFUSAL_LOG_SECONDS:
            if len(self._refused) >= _REFUSALS_REMEMBERED:
                self._refused.clear()
            self._refused[peer.uid] = now
            messages.CONTROL_REFUSED.log(self._logger, pid=peer.pid, user=peer.uid, allowed=allowed)
        return _error(403, f"only {allowed} may use this socket, and {why}")

    def respond(self, request: Request, peer: Peer | None, send: Send) -> None:
        """Answer a request, now or later."""
        try:
            check_sender(request)
            asked, wait = parse_command(request)
            name = request.path[1:]
            if isinstance(asked, Command):
                client = f"process {peer.pid} of user {peer.uid}" if peer else "an unknown process"
                self._logger.info("control: %s, asked for by %s", name, client)
            if isinstance(asked, Profile):
                send.when_gone(lambda: self._handle(EndProfile(asked.worker), lambda _: None))
                self._handle(asked, lambda answer: send(_profile(answer)))
            elif isinstance(asked, ShowFigures):
                self._handle(asked, lambda answer: send(_metrics(request, answer)))
            else:
                self._handle(asked, lambda answer: send(_response(answer)))
            if not wait:  # the first response is sent: the outcome, where it is known already
                send(Response.json(202, {"message": f"{name} has begun"}))
        except ControlError as error:
            send(_error(error.status, str(error), error.fields))


def _metrics(request: Request, figures: Outcome | Mapping[str, Any]) -> Response:
    """Return the metrics, in the form that the scraper asks for."""
    openmetrics = metrics.accepts_openmetrics(request.fields.get("accept", ""))
    body = metrics.render(cast("Figures", figures), openmetrics=openmetrics)
    return Response(200, body, metrics.OPENMETRICS if openmetrics else metrics.PROMETHEUS)


def _profile(answer: Outcome | Mapping[str, Any]) -> Response:
    """Return a profile without blanks: it has a hundred thousand numbers, perhaps."""
    if isinstance(answer, Outcome):
        return _response(answer)
    return Response(200, json.dumps(answer).encode("ascii") + b"\n", "application/json")


def _response(answer: Outcome | Mapping[str, Any]) -> Response:
    if not isinstance(answer, Outcome):
        return Response.json(200, answer)
    if answer.done:
        return Response.json(200, {"message": answer.message})
    return _error(500, answer.message)


def _error(status: int, message: str, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response.json(status, {"error": message}, fields)


def check_sender(request: Request) -> None:
    """Check that a request is one that its sender meant for this socket.

    A proxy may lead from a port to the socket. Then a page in a browser can send requests, under
    the name of its own host, and so can a program that fetches a URL which a stranger has chosen.
    Neither can add the field that a command needs. Raises `ControlError` with status 403.
    """
    fields = request.fields
    # A request of HTTP/1.0 may come without Host; a browser always sends it.
    host = fields.get("host", HOST).lower()
    if re.fullmatch(rf"{HOST}(?::[0-9]*)?", host) is None:
        raise ControlError(f"the field Host is to be {HOST}", 403)
    is_command = request.path in _COMMANDS and request.method == "POST"
    if is_command and fields.get(COMMAND_FIELD.lower()) != "1":
        raise ControlError(f"a command needs the field {COMMAND_FIELD}: 1", 403)
    if any(_FROM_BROWSERS.fullmatch(name) for name in fields):
        raise ControlError("requests of browsers are refused", 403)


def parse_command(request: Request, also: tuple[str, ...] = ()) -> tuple[Question | Command, bool]:
    """Return what a request asks for, and whether the client waits for the outcome.

    ``also`` are names that the query may have for the caller. Raises `ControlError` with the status
    of the response.
    """
    known = _QUESTIONS | _COMMANDS
    path = request.path
    if path not in known:
        raise ControlError(f"there is no such path; there are {', '.join(sorted(known))}", 404)
    is_command = path in _COMMANDS
    methods = ("POST",) if is_command else ("GET", "HEAD")
    if request.method not in methods:
        allow = (("Allow", ", ".join(methods)),)
        raise ControlError(f"the method is to be {methods[0]}", 405, allow)
    waits = is_command and path != "/profile"  # which has no outcome but its answer
    names = (*known[path], *also)
    query = _query_of(request, ("wait", *names) if waits else names)
    wait = _flag(query, "wait", True)
    match path:
        case "/status":
            return ShowStatus(), wait
        case "/workers":
            return ShowWorkers(), wait
        case "/requests":
            return ShowRequests(), wait
        case "/metrics":
            return ShowFigures(), wait
        case "/history":
            since = _number(query, "since", 0, sys.maxsize) if "since" in query else 0
            most = _number(query, "most", 1, sys.maxsize) if "most" in query else None
            return ShowHistory(since, most), wait
        case "/findings":
            return ShowFindings(), wait
        case "/settings":
            return ShowSettings(), wait
        case "/stacks":
            return ShowStacks(_worker_of(query) if "worker" in query else None), wait
        case "/recent":
            return ShowRecent(_worker_of(query), _flag(query, "query", False)), wait
        case "/slow":
            return ShowNotable("slow"), wait
        case "/failed":
            return ShowNotable("failed"), wait
        case "/refused":
            return ShowNotable("refused"), wait
        case "/reload":
            return Reload(), wait
        case "/upgrade":
            return Upgrade(), wait
        case "/scale":
            return Scale(_number(query, "workers", 1, MOST_WORKERS)), wait
        case "/recycle":
            return Recycle(_worker_of(query)), wait
        case "/profile":
            seconds = _number({"seconds": "10"} | query, "seconds", 1, MOST_PROFILE_SECONDS)
            rate = _number({"rate": "100"} | query, "rate", 1, MOST_PROFILE_RATE)
            return Profile(_worker_of(query), seconds, rate, _flag(query, "idle", False)), True
    return Stop(graceful=not _flag(query, "now", False)), wait


_QUESTIONS: dict[str, tuple[str, ...]] = {
    "/status": (),
    "/workers": (),
    "/requests": (),
    "/metrics": (),
    "/history": ("since", "most"),
    "/findings": (),
    "/settings": (),
    "/stacks": ("worker",),
    "/recent": ("worker", "query"),
    "/slow": (),
    "/failed": (),
    "/refused": (),
}
"""The paths of questions, each with the names that its query may have."""

_COMMANDS = {
    "/reload": (),
    "/upgrade": (),
    "/scale": ("workers",),
    "/recycle": ("worker",),
    "/stop": ("now",),
    "/profile": ("worker", "seconds", "rate", "idle"),
}
"""The paths of commands, likewise. Each may have ``wait``, too."""


def _query_of(request: Request, known: tuple[str, ...]) -> Query:
    """Return the query; a misspelt name is an error, so that it is not ignored."""
    pairs = []
    for member in request.query.split("&") if request.query else ():
        name, equals, value = member.replace("+", " ").partition("=")
        if not equals:
            raise ControlError("the query is to be name=value", 400)
        pairs.append((percent.decoded(name), percent.decoded(value)))
    query = dict(pairs)
    if len(query) < len(pairs):
        raise ControlError("a name is given twice in the query", 400)
    if not query.keys() <= set(known):
        allowed = ", ".join(known) or "nothing"
        raise ControlError(f"the query can have {allowed} in it", 400)
    return query


def _number(query: Query, name: str, least: int, most: int) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        bounds = f"from {least} to {most}" if most < sys.maxsize else f"of {least} or more"
        raise ControlError(f"give {name}=N, a whole number {bounds}", 400)
    return int(text)


def _worker_of(query: Query) -> int:
    return _number(query, "worker", 0, sys.maxsize)


def _flag(query: Query, name: str, default: bool) -> bool:
    value = query.get(name, "1" if default else "0")
    if value not in ("0", "1"):
        raise ControlError(f"{name} is 0 or 1", 400)
    return value == "1"


class Probes:
    """Answers the probes of ``--admin``, which are for every client of the address."""

    def __init__(self, handle: Handle, respond_else: Callable[[Request, Send], None]) -> None:
        """``respond_else`` answers what is no probe: the dashboard."""
        self._handle = handle
        self._respond_else = respond_else

    def respond(self, request: Request, _peer: Peer | None, send: Send) -> None:
        """Answer a request."""
        if request.path == "/metrics" and request.method in ("GET", "HEAD"):
            self._handle(ShowFigures(), lambda answer: send(_metrics(request, answer)))
            return
        field = {"/healthz": "live", "/readyz": "ready"}.get(request.path)
        if field is None or request.method not in ("GET", "HEAD"):
            self._respond_else(request, send)
            return

        def reply(status: Outcome | Mapping[str, Any]) -> None:
            assert not isinstance(status, Outcome)
            send(Response(200, HEALTHY) if status[field] else Response(503, UNHEALTHY))

        self._handle(ShowStatus(), reply)
