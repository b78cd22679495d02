"""The control server: what can be asked over HTTP, by which clients, and at which addresses.

There are two services: the control socket, for ``penstockctl`` and people of the same user, and
``--admin``, for the probes of a process manager. docs/control.md describes both.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from penstock import messages
from penstock.control.address import AUTO, HAS_ABSTRACT_NAMES, OFF, Peer, auto_names, socket_path
from penstock.control.commands import (
    Command,
    ControlError,
    Handle,
    Outcome,
    Question,
    Recycle,
    Reload,
    Scale,
    ShowRequests,
    ShowStacks,
    ShowStatus,
    ShowWorkers,
    Stop,
    Upgrade,
)
from penstock.control.connection import BACKLOG, Response, Send, Service
from penstock.errors import ListenError
from penstock.listeners import Address, Listener, bind_listeners
from penstock.transport.config import HEALTHY, UNHEALTHY

if TYPE_CHECKING:
    import logging
    import selectors

    from penstock.config.settings import Settings
    from penstock.http1 import Request

MOST_WORKERS = 1000
"""The largest number of workers that can be asked for, as in the setting ``workers``."""

REFUSAL_LOG_SECONDS = 60.0
"""A user that is refused is logged once in this time: another user cannot fill the log."""

_REFUSALS_REMEMBERED = 100
_OWNER_ONLY = 0o177
"""The umask that leaves a socket's path to its owner: mode 0600."""

Query = dict[str, str]


class ControlServer:
    """The services at the addresses of the settings ``control`` and ``admin``."""

    def __init__(
        self, handle: Handle, selector: selectors.BaseSelector, logger: logging.Logger
    ) -> None:
        """Open nothing yet; ``handle`` executes what clients ask for."""
        self._handle = handle
        self._selector = selector
        self._logger = logger
        self._services: dict[str, Service] = {}  # by the setting that names their address
        self._addresses: dict[str, str | None] = {}
        self._closing: list[Service] = []

    def open(self, settings: Settings, inherited: Mapping[str, int] | None = None) -> None:
        """Open what the settings ask for; raises `ListenError`, and has opened nothing then.

        ``inherited`` are the sockets that a predecessor passed, by ``control`` and ``admin``.
        """
        passed = inherited or {}
        try:
            for setting in ("control", "admin"):
                self._open(setting, getattr(settings, setting), passed.get(setting))
        except ListenError:
            self.close()
            raise

    def follow(self, settings: Settings) -> None:
        """Use the addresses of new settings; one that cannot be opened stays as it was.

        A client that waits for the outcome of the reload gets it, even at an address that closes.
        """
        for setting in ("control", "admin"):
            address = getattr(settings, setting)
            if address == self._addresses.get(setting):
                continue
            before = self._services.pop(setting, None)
            try:
                self._open(setting, address, None)
            except ListenError as error:
                messages.CONTROL_NOT_FOLLOWED.log(self._logger, setting=setting, error=error)
                if before is not None:
                    self._services[setting] = before
                continue
            if before is not None:
                before.stop_accepting()
                self._closing.append(before)

    def _open(self, setting: str, address: str | None, inherited: int | None) -> None:
        service = None
        if address is not None:
            open_service = open_control if setting == "control" else open_admin
            service = open_service(
                address, self._handle, self._selector, self._logger, inherited=inherited
            )
        self._addresses[setting] = address
        if service is not None:
            self._services[setting] = service
            self._logger.debug("%s: on %s", setting, service.name)

    def descriptors(self) -> dict[str, int]:
        """Return the sockets to pass to a successor, by ``control`` and ``admin``.

        The socket of ``auto`` is not passed: it has the process id in its name.
        """
        return {
            setting: service.listener.socket.fileno()
            for setting, service in self._services.items()
            if (self._addresses[setting] or "").lower() != AUTO
        }

    def tick(self, now: float) -> None:
        """Act on the deadlines of connections that have passed at ``now``."""
        for service in self._all():
            service.expire(now)
        self._closing = [service for service in self._closing if service.is_connected]

    def take_over(self) -> None:
        """Begin to accept on the sockets that a predecessor passed."""
        for service in self._services.values():
            service.take_over()

    def hand_over(self) -> None:
        """Accept no more: a successor has the sockets. Responses still go out."""
        for service in self._services.values():
            service.stop_accepting(keep_path=True)

    def close(self) -> None:
        """Close everything. Responses that were given just before have been sent."""
        for service in self._all():
            service.close()
        self._services.clear()
        self._closing.clear()

    def close_in_child(self) -> None:
        """Close all descriptors in a forked child; the parent keeps its own."""
        for service in self._all():
            service.close_in_child()

    def _all(self) -> list[Service]:
        return [*self._services.values(), *self._closing]


# -- what can be asked ---------------------------------------------------------------------------


class ControlSocket:
    """Answers the requests of the control socket."""

    def __init__(self, handle: Handle, logger: logging.Logger) -> None:
        self._handle = handle
        self._logger = logger
        self._refused: dict[int, float] = {}  # users, and when their refusal was logged

    def admit(self, peer: Peer | None) -> Response | None:
        """Return None for root and the server's own user, and a refusal for others.

        Where the system does not report the peer, the mode of the path has kept others out.
        """
        own = os.geteuid()
        if peer is None or peer.uid in (0, own):
            return None
        now = time.monotonic()
        if now - self._refused.get(peer.uid, -REFUSAL_LOG_SECONDS) >= REFUSAL_LOG_SECONDS:
            if len(self._refused) >= _REFUSALS_REMEMBERED:
                self._refused.clear()
            self._refused[peer.uid] = now
            messages.CONTROL_REFUSED.log(self._logger, pid=peer.pid, user=peer.uid, own=own)
        allowed = "root" if own == 0 else f"root and user {own}"
        return _error(403, f"only {allowed} may use this socket, and you are user {peer.uid}")

    def respond(self, request: Request, peer: Peer | None, send: Send) -> None:
        """Answer a request, now or later."""
        try:
            asked, wait = parse_command(request)
            name = request.path[1:]
            if isinstance(asked, Command):
                client = f"process {peer.pid} of user {peer.uid}" if peer else "an unknown process"
                self._logger.info("control: %s, asked for by %s", name, client)
            self._handle(asked, lambda answer: send(_response(answer)))
            if not wait:  # the first response is sent: the outcome, where it is known already
                send(Response.json(202, {"message": f"{name} has begun"}))
        except ControlError as error:
            send(_error(error.status, str(error), error.fields))


def _response(answer: Outcome | Mapping[str, Any]) -> Response:
    if not isinstance(answer, Outcome):
        return Response.json(200, answer)
    if answer.done:
        return Response.json(200, {"message": answer.message})
    return _error(500, answer.message)


def _error(status: int, message: str, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response.json(status, {"error": message}, fields)


def parse_command(request: Request) -> tuple[Question | Command, bool]:
    """Return what a request asks for, and whether the client waits for the outcome.

    Raises `ControlError` with the status of the response.
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
    query = _query_of(request, ("wait", *known[path]) if is_command else known[path])
    wait = _flag(query, "wait", True)
    match path:
        case "/status":
            return ShowStatus(), wait
        case "/workers":
            return ShowWorkers(), wait
        case "/requests":
            return ShowRequests(), wait
        case "/stacks":
            return ShowStacks(_worker_of(query) if "worker" in query else None), wait
        case "/reload":
            return Reload(), wait
        case "/upgrade":
            return Upgrade(), wait
        case "/scale":
            return Scale(_number(query, "workers", 1, MOST_WORKERS)), wait
        case "/recycle":
            return Recycle(_worker_of(query)), wait
    return Stop(graceful=not _flag(query, "now", False)), wait


_QUESTIONS = {"/status": (), "/workers": (), "/requests": (), "/stacks": ("worker",)}
"""The paths of questions, each with the names that its query may have."""

_COMMANDS = {
    "/reload": (),
    "/upgrade": (),
    "/scale": ("workers",),
    "/recycle": ("worker",),
    "/stop": ("now",),
}
"""The paths of commands, likewise. Each may have ``wait``, too."""


def _query_of(request: Request, known: tuple[str, ...]) -> Query:
    """Return the query; a misspelt name is an error, so that it is not ignored."""
    try:
        pairs = parse_qsl(request.query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
        if request.query:
            raise ControlError("the query is to be name=value", 400) from None
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
        bounds = f" from {least} to {most}" if most < sys.maxsize else ""
        raise ControlError(f"give {name}=N, a whole number{bounds}", 400)
    return int(text)


def _worker_of(query: Query) -> int:
    return _number(query, "worker", 0, sys.maxsize)


def _flag(query: Query, name: str, default: bool) -> bool:
    value = query.get(name, "1" if default else "0")
    if value not in ("0", "1"):
        raise ControlError(f"{name} is 0 or 1", 400)
    return value == "1"


class Probes:
    """Answers the probes of ``--admin``."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def respond(self, request: Request, _peer: Peer | None, send: Send) -> None:
        """Answer a request."""
        field = {"/healthz": "live", "/readyz": "ready"}.get(request.path)
        if field is None or request.method not in ("GET", "HEAD"):
            send(Response(404, b"there are /healthz and /readyz\n"))
            return

        def reply(status: Outcome | Mapping[str, Any]) -> None:
            assert not isinstance(status, Outcome)
            send(Response(200, HEALTHY) if status[field] else Response(503, UNHEALTHY))

        self._handle(ShowStatus(), reply)


# -- addresses -----------------------------------------------------------------------------------


def open_control(
    address: str,
    handle: Handle,
    selector: selectors.BaseSelector,
    logger: logging.Logger,
    *,
    inherited: int | None = None,
) -> Service | None:
    """Open the control socket of the setting ``control``; return None where there is none.

    ``inherited`` is the descriptor of the socket at that address which a predecessor passed; it
    is owned from here on. Raises `ListenError` for an address that was given and cannot be used;
    where ``auto`` cannot have a socket, that is a warning in the log.
    """
    control = ControlSocket(handle, logger)
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
    handle: Handle,
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
    # Until this process serves, its predecessor answers the probes.
    waits = inherited is not None
    return Service(listener, selector, logger, Probes(handle).respond, waits=waits)


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
    messages.CONTROL_NOT_OPENED.log(logger, reason=reason)
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
    except OSError as error:  # the passed descriptor is not a socket
        raise ListenError(
            f"cannot listen on {text}: {error.strerror} (setting: --control)"
        ) from None
    finally:
        os.umask(before)
    return listener


def _listen(listener: Listener) -> None:
    try:
        # Again, where it listens already: SO_PEERCRED then reports this process (unix(7)).
        listener.listen(BACKLOG)
    except ListenError:
        listener.close()
        raise


def _under(setting: str, error: ListenError) -> ListenError:
    """Return the error with the name of the setting that gave the address."""
    return ListenError(str(error).replace("(setting: --bind)", f"(setting: --{setting})"))
