"""What can be asked of the supervisor over HTTP, by whom, and at which addresses.

There are two services: the control socket, for ``penstockctl`` and people of the same user, and
``--admin``, for the probes of whoever supervises the server. docs/control.md describes both.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from penstock.control.address import AUTO, HAS_ABSTRACT_NAMES, OFF, Peer, auto_names, socket_path
from penstock.control.commands import Answer, ControlError, Fleet, Outcome
from penstock.control.http_service import BACKLOG, Reply, Send, Service
from penstock.errors import ListenError
from penstock.listeners import Address, Listener, bind_listeners
from penstock.transport.policy import HEALTHY, UNHEALTHY

if TYPE_CHECKING:
    import logging
    import selectors

    from penstock.http1 import Request

MOST_WORKERS = 1000
"""The most that can be asked for, as in the setting ``workers``."""

TOLD_SECONDS = 60.0
"""Somebody who is not let in is logged once in so long: nobody else may fill the log."""

_OWNER_ONLY = 0o177
"""The umask that leaves a socket's path to its owner: mode 0600."""

_TOLD_AT_ONCE = 100
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

Query = dict[str, str]


class _Refusal(Exception):
    """A request that is answered with an error, and its status."""

    def __init__(self, status: int, message: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields


class Control:
    """Answers what comes over the control socket."""

    def __init__(self, fleet: Fleet, logger: logging.Logger) -> None:
        self._fleet = fleet
        self._logger = logger
        self._told: dict[int, float] = {}  # who was not let in, and when that was logged
        self._questions: dict[str, Callable[[], Mapping[str, Any]]] = {
            "/status": self._status,
            "/workers": lambda: {"workers": fleet.workers()},
            "/requests": lambda: {"requests": fleet.requests()},
        }
        self._commands: dict[str, Callable[[Query, Answer], None]] = {
            "/reload": lambda query, answer: fleet.reload(answer),
            "/upgrade": lambda query, answer: fleet.upgrade(answer),
            "/stop": lambda query, answer: fleet.stop(not _flag(query, "now", False), answer),
            "/scale": lambda query, answer: fleet.scale(_workers_of(query), answer),
            "/recycle": lambda query, answer: fleet.recycle(self._worker_of(query), answer),
        }

    def admit(self, peer: Peer | None) -> Reply | None:
        """Let root and the server's own user in, and tell all others why not.

        Where the system does not tell who it is, the mode of the path has kept others out.
        """
        own = os.geteuid()
        if peer is None or peer.uid in (0, own):
            return None
        now = time.monotonic()
        if now - self._told.get(peer.uid, -TOLD_SECONDS) >= TOLD_SECONDS:
            if len(self._told) >= _TOLD_AT_ONCE:
                self._told.clear()
            self._told[peer.uid] = now
            self._logger.warning(
                "control: refused process %d of user %d: only root and user %d may ask",
                peer.pid,
                peer.uid,
                own,
            )
        who = "root" if own == 0 else f"root and user {own}"
        return _error(403, f"only {who} may use this socket, and you are user {peer.uid}")

    def respond(self, request: Request, peer: Peer | None, send: Send) -> None:
        """Answer a request, now or later."""
        try:
            self._respond(request, peer, send)
        except _Refusal as refusal:
            send(_error(refusal.status, str(refusal), refusal.fields))
        except ControlError as error:
            send(_error(409, str(error)))

    def _respond(self, request: Request, peer: Peer | None, send: Send) -> None:
        path = request.path
        if path in self._commands:
            _check_method(request, "POST")
            self._command(path, _query_of(request), peer, send)
        elif path == "/stacks":
            _check_method(request, "GET", "HEAD")
            self._stacks(_only(_query_of(request), "worker"), send)
        elif path in self._questions:
            _check_method(request, "GET", "HEAD")
            _only(_query_of(request))
            send(_json(200, self._questions[path]()))
        else:
            known = ", ".join(sorted([*self._questions, "/stacks", *self._commands]))
            raise _Refusal(404, f"there is no such path; there are {known}")

    # -- questions ------------------------------------------------------------------------------

    def _status(self) -> Mapping[str, Any]:
        fleet = self._fleet
        return {**fleet.status(), "ready": fleet.is_ready(), "live": fleet.is_live()}

    def _stacks(self, query: Query, send: Send) -> None:
        pid = self._worker_of(query) if "worker" in query else None

        def answer(stacks: dict[int, str]) -> None:
            send(_json(200, {"stacks": {str(pid): text for pid, text in stacks.items()}}))

        self._fleet.ask_stacks(pid, answer)

    def _worker_of(self, query: Query) -> int:
        """Return the process id of the worker that a query names by that, or by its slot."""
        number = _number(query, "worker", 0, sys.maxsize)
        workers = self._fleet.workers()
        for worker in workers:
            if worker["pid"] == number:
                return number
        found = [worker for worker in workers if worker["slot"] == number]
        if not found:
            raise _Refusal(404, f"no worker has the process id or the slot {number}")
        # Two generations may have a worker in a slot of that number: the newer one is meant.
        return max(found, key=lambda worker: worker["generation"])["pid"]

    # -- commands -------------------------------------------------------------------------------

    def _command(self, path: str, query: Query, peer: Peer | None, send: Send) -> None:
        allowed = {"/stop": ("now",), "/scale": ("workers",), "/recycle": ("worker",)}
        _only(query, "wait", *allowed.get(path, ()))
        wait = _flag(query, "wait", True)
        self._logger.info("control: %s, asked for by %s", path[1:], _told(peer))

        def answer(outcome: Outcome) -> None:
            if outcome.done:
                send(_json(200, {"message": outcome.message}))
            else:
                send(_error(500, outcome.message))

        self._commands[path](query, answer)
        if not wait:  # the outcome counts where it is known already: the first answer is sent
            send(_json(202, {"message": f"{path[1:]} has begun"}))


class Health:
    """Answers the probes of ``--admin``."""

    def __init__(self, fleet: Fleet) -> None:
        self._checks = {"/healthz": fleet.is_live, "/readyz": fleet.is_ready}

    def respond(self, request: Request, _peer: Peer | None, send: Send) -> None:
        """Answer a request."""
        check = self._checks.get(request.path)
        if check is None or request.method not in ("GET", "HEAD"):
            send(Reply(404, b"there are /healthz and /readyz\n", _TEXT))
        elif check():
            send(Reply(200, HEALTHY, _TEXT))
        else:
            send(Reply(503, UNHEALTHY, _TEXT))


# -- addresses -------------------------------------------------------------------------------------


def open_control(
    address: str,
    fleet: Fleet,
    selector: selectors.BaseSelector,
    logger: logging.Logger,
    *,
    inherited: int | None = None,
) -> Service | None:
    """Open the control socket that the setting ``control`` asks for; None where there is none.

    ``inherited`` is the descriptor of the socket at that address which a predecessor passed; it
    is owned from here on. Raises `ListenError` where an address was given that cannot be used; what
    ``auto`` cannot have is a warning in the log.
    """
    control = Control(fleet, logger)
    listener = None
    if address.lower() == AUTO:
        listener = _bind_auto(logger)
    elif address.lower() != OFF:
        listener = _bind_control(address, inherited)
    if listener is None:
        return None
    waits = inherited is not None
    return Service(listener, selector, logger, control.respond, control.admit, waits=waits)


def open_admin(
    address: str,
    fleet: Fleet,
    selector: selectors.BaseSelector,
    logger: logging.Logger,
    *,
    inherited: int | None = None,
) -> Service:
    """Open the address of the setting ``admin``; ``inherited`` and errors as in `open_control`."""
    try:
        where = address if inherited is None else f"fd://{inherited}"
        [listener] = bind_listeners([where])
        _listen(listener)
    except ListenError as error:
        raise _under("admin", error) from None
    # Until this process serves, the other one is who can tell of the server's health.
    waits = inherited is not None
    return Service(listener, selector, logger, Health(fleet).respond, waits=waits)


def _bind_auto(logger: logging.Logger) -> Listener | None:
    if not HAS_ABSTRACT_NAMES:
        logger.debug("no control socket: name one with control (abstract ones are Linux's alone)")
        return None
    reason = ""
    for name in auto_names(os.getpid()):
        try:
            return _bind_control(name, None)
        except ListenError as error:
            reason = str(error)
    logger.warning("no control socket: %s", reason)
    return None


def _bind_control(text: str, inherited: int | None) -> Listener:
    try:
        path = socket_path(text)
    except ValueError as error:
        raise ListenError(f"cannot listen on {text}: {error} (setting: --control)") from None
    before = os.umask(_OWNER_ONLY)  # a mode that is set later would leave others a moment
    try:
        if inherited is not None:
            sock = socket.socket(fileno=inherited)
            sock.setblocking(False)
            sock.set_inheritable(False)
            passed = None if path.startswith("\0") else path
            listener = Listener(sock, Address(text, path=path), passed=passed)
        else:
            shown = "unix:@" + path[1:] if path.startswith("\0") else "unix:" + path
            [listener] = bind_listeners([shown])
        _listen(listener)
    except ListenError as error:
        raise _under("control", error) from None
    except OSError as error:  # what was passed is no socket
        raise ListenError(
            f"cannot listen on {text}: {error.strerror} (setting: --control)"
        ) from None
    finally:
        os.umask(before)
    return listener


def _listen(listener: Listener) -> None:
    try:
        # Once more where it listens already: clients are told that we are who listens (unix(7)).
        listener.listen(BACKLOG)
    except ListenError:
        listener.close()
        raise


def _under(setting: str, error: ListenError) -> ListenError:
    """Return the error with the setting that the address is from."""
    return ListenError(str(error).replace("(setting: --bind)", f"(setting: --{setting})"))


# -- requests and replies --------------------------------------------------------------------------


def _check_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        methods = ", ".join(allowed)
        raise _Refusal(405, f"the method is to be {allowed[0]}", (("Allow", methods),))


def _query_of(request: Request) -> Query:
    try:
        pairs = parse_qsl(request.query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
        if request.query:
            raise _Refusal(400, "the query is to be name=value") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise _Refusal(400, "a name is given twice in the query")
    return query


def _only(query: Query, *known: str) -> Query:
    """Return the query, or refuse it where it has other names: a misspelt one must not be lost."""
    for name in query:
        if name not in known:
            raise _Refusal(400, f"the query can have {', '.join(known) or 'nothing'} in it")
    return query


def _number(query: Query, name: str, least: int, most: int) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        bounds = f" from {least} to {most}" if most < sys.maxsize else ""
        raise _Refusal(400, f"give {name}=N, a whole number{bounds}")
    return int(text)


def _workers_of(query: Query) -> int:
    return _number(query, "workers", 1, MOST_WORKERS)


def _flag(query: Query, name: str, default: bool) -> bool:
    value = query.get(name, "1" if default else "0")
    if value not in ("0", "1"):
        raise _Refusal(400, f"{name} is 0 or 1")
    return value == "1"


def _json(status: int, value: Mapping[str, Any]) -> Reply:
    # ASCII, so that no terminal acts on what a client of the server has sent.
    return Reply(status, json.dumps(value, indent=2).encode("ascii") + b"\n", _JSON)


def _error(status: int, message: str, fields: tuple[tuple[str, str], ...] = ()) -> Reply:
    body = json.dumps({"error": message}, indent=2).encode("ascii") + b"\n"
    return Reply(status, body, _JSON, fields)


def _told(peer: Peer | None) -> str:
    return "somebody" if peer is None else f"process {peer.pid} of user {peer.uid}"
