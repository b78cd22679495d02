"""The client of the control socket: finds servers, and sends one request with one deadline."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import field
from itertools import islice
from typing import Any

from penstock.control.address import Peer, overflow_uid, peer_of, socket_path
from penstock.control.commands import COMMAND_FIELD, HOST
from penstock.control.directories import (
    SUFFIX,
    Directory,
    NotPrivate,
    of_client,
    why_replaceable,
)
from penstock.control.socket_file import reach
from penstock.records import dataclass

PROBE_SECONDS = 1.0
"""For a server that was found to name its application: a supervisor answers at once, or hangs."""

SEARCH_SECONDS = 5.0
"""For a search among servers, of which those of other users could take their time."""

MOST_BYTES = 64 * 1024 * 1024
"""Of a response: the stacks of a thousand workers are smaller."""

MOST_SERVERS = 50
"""That are looked for in one directory."""


class CannotReach(Exception):
    """No server answers at the address; the text says why."""


class ServerLeft(CannotReach):
    """The connection ended before the response: the server has ended."""


class NoServerListens(CannotReach):
    """The socket is that of a server that has ended."""


@dataclass(frozen=True)
class Reply:
    """A response of the server."""

    status: int
    text: str
    """JSON, in ASCII."""
    value: dict[str, Any]
    """The same, parsed."""
    server: Peer | None
    """The server's process; None where the system does not report it."""


@dataclass(frozen=True)
class Found:
    """A server that was found."""

    address: str
    peer: Peer | None
    foreign: bool
    """Whether it is another user's, in a place that root did not give to that user for this."""


@dataclass
class Search:
    """What a search has found, and where it was made."""

    servers: list[Found] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    """Sockets on which no server listens."""
    refused: list[str] = field(default_factory=list)
    """Why other sockets and directories were not used, a sentence for each."""
    places: list[str] = field(default_factory=list)
    """The directories that were looked for."""


# -- searching -------------------------------------------------------------------------------------


def find_servers(environ: Mapping[str, str]) -> Search:
    """Look for the servers that this user may use: its own, and for root all."""
    search = Search()
    deadline = time.monotonic() + SEARCH_SECONDS
    for place in of_client(environ, os.geteuid()):
        if not place.foreign:
            search.places.append(place.path)
        try:
            directory = place.open(os.geteuid(), create=False)
        except NotPrivate as error:
            if not place.foreign:
                search.refused.append(str(error))
            continue
        except OSError:
            continue  # there is none, or it is for others
        try:
            _look_in(place, directory, search, deadline)
        finally:
            os.close(directory)
    return search


def _look_in(place: Directory, directory: int, search: Search, deadline: float) -> None:
    for entry in _sockets_in(directory):
        seconds = min(PROBE_SECONDS, deadline - time.monotonic())
        address = os.path.join(place.path, entry)
        if seconds <= 0:
            search.refused.append(f"{address} was not looked at for lack of time")
            return
        try:
            sock = _connect_in(directory, address, seconds)
        except NoServerListens:
            search.dead.append(address)
        except CannotReach as error:
            search.refused.append(str(error))
        else:
            with sock:
                peer = peer_of(sock)
            is_own = peer is None or peer.uid in (0, os.geteuid())
            search.servers.append(Found(address, peer, place.foreign and not is_own))


def _sockets_in(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        names = (each.name for each in entries if each.name.endswith(SUFFIX))
        return sorted(islice(names, MOST_SERVERS))


# -- asking ----------------------------------------------------------------------------------------


def ask(address: str, method: str, target: str, timeout: float, *, text: bool = False) -> Reply:
    """Send a request, and return the response, all within ``timeout`` seconds.

    With ``text`` a successful one is text in place of JSON, and its value is empty. Raises
    `CannotReach`, and `ServerLeft` where the server ended before it answered.
    """
    deadline = time.monotonic() + timeout
    sock = _connect(address, timeout)
    peer = peer_of(sock)
    connection = http.client.HTTPConnection(HOST)
    connection.sock = sock
    late = threading.Event()

    def cut_off() -> None:
        late.set()
        with contextlib.suppress(OSError):  # the request has ended already
            sock.shutdown(socket.SHUT_RDWR)

    # A timeout of the socket bounds each read; a response that trickles would have many reads.
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut_off)
    timer.daemon = True
    timer.start()
    try:
        connection.request(method, target, headers={COMMAND_FIELD: "1"})
        response = connection.getresponse()
        if response.length is None or response.length > MOST_BYTES:
            raise _not_ours(address)
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise CannotReach(f"no answer from {address} within {timeout:g} s") from None
        if isinstance(error, (OSError, http.client.IncompleteRead)):
            raise ServerLeft(f"the server at {address} ended without an answer") from None
        raise _not_ours(address) from None
    finally:
        timer.cancel()
        connection.close()
        sock.close()
    try:
        content = body.decode()
        if text and response.status == 200:
            return Reply(response.status, content, {}, peer)
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _not_ours(address)
    return Reply(response.status, content, value, peer)


def _not_ours(address: str) -> CannotReach:
    return CannotReach(f"the socket at {address} is not a control socket of Penstock")


# -- connecting ------------------------------------------------------------------------------------


def _connect(address: str, timeout: float) -> socket.socket:
    """Return a connection to a server that this user can trust. Raises `CannotReach`."""
    try:
        path = socket_path(address)
    except ValueError as error:
        raise CannotReach(f"cannot use {address!r}: {error}") from None
    if path.startswith("\0"):
        sock = _connected(path, address, timeout)
        with _closed_on_failure(sock):
            _check_server(address, peer_of(sock), None, None)
        return sock
    try:
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        directory = os.open(os.path.dirname(path) or ".", flags)
    except OSError as error:
        raise CannotReach(f"cannot connect to {address}: {error.strerror}") from None
    try:
        return _connect_in(directory, address, timeout)
    finally:
        os.close(directory)


def _connect_in(directory: int, address: str, timeout: float) -> socket.socket:
    """Do so for a socket in a directory that is open."""
    folder, entry = os.path.split(address.removeprefix("unix:"))
    around = os.fstat(directory)
    # Whom else to trust, the server's process says once there is a connection.
    if reason := why_replaceable(around, around.st_uid):
        raise CannotReach(f"refused to use {address}: {reason}")
    try:
        status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise CannotReach(f"cannot connect to {address}: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise CannotReach(f"cannot connect to {address}: it is not a socket")
    sock = _connected(reach(directory, folder, entry), address, timeout)
    with _closed_on_failure(sock):
        _check_server(address, peer_of(sock), around, status.st_uid)
    return sock


def _check_server(
    address: str, peer: Peer | None, around: os.stat_result | None, file: int | None
) -> None:
    """Check that a server is root's or this user's, or, for root, that all of it is one user's.

    ``around`` is the status of the directory, and ``file`` the owner of the socket; None for an
    abstract name, which any user can take. Raises `CannotReach`.
    """
    own, refused = os.geteuid(), f"refused to use {address}"
    if peer is None:
        if file not in (0, own):
            raise CannotReach(f"{refused}: it belongs to user {file}")
        return
    if peer.pid == 0:
        raise CannotReach(f"{refused}: its server is in another container; run penstockctl there")
    if peer.uid == overflow_uid():
        raise CannotReach(
            f"{refused}: user {peer.uid} can be any user of another user namespace; run the server "
            "as a user of its own"
        )
    if peer.uid not in (0, own):
        if own != 0:
            raise CannotReach(f"{refused}: its server is that of user {peer.uid}")
        if file is None:
            raise CannotReach(
                f"{refused}: any user can take that name, and its server is that of user "
                f"{peer.uid}; run penstockctl as that user"
            )
        if file != peer.uid:
            raise CannotReach(
                f"{refused}: it belongs to user {file}, and its server is that of user {peer.uid}"
            )
    if around is not None and (reason := why_replaceable(around, own, peer.uid)):
        raise CannotReach(f"{refused}: {reason}")


def _connected(target: str, address: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # With a timeout of Python's, connect does not wait where the accept queue is full (EAGAIN).
    seconds, fraction = divmod(timeout, 1)
    wait = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        sock.connect(target)
        sock.settimeout(timeout)
    except ConnectionRefusedError:
        sock.close()
        raise NoServerListens(f"cannot connect to {address}: no server listens there") from None
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        if isinstance(error, (BlockingIOError, TimeoutError)):
            reason = f"the server did not accept within {timeout:g} s"
        raise CannotReach(f"cannot connect to {address}: {reason}") from None
    return sock


@contextlib.contextmanager
def _closed_on_failure(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
