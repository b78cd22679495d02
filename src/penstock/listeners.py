"""Listening sockets: TCP over IPv4 and IPv6, unix sockets, and sockets passed by a parent.

Opening takes two steps. `bind_listeners` binds the address, so that a port in use is reported at
once. `Listener.listen` lets clients connect, when there is an application to answer them.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.config.checks import with_tls
from penstock.config.identity import owner_of_paths
from penstock.errors import ListenError, PenstockError
from penstock.records import dataclass
from penstock.system.as_user import Change, HelperError, Work, wait_for
from penstock.system.descriptors import use_inherited
from penstock.system.network import hold_ahead
from penstock.system.paths import Place, find
from penstock.system.port_holders import holder_of, peer_of
from penstock.system.privileges import Identity
from penstock.system.temporary_files import temporary_file

if TYPE_CHECKING:
    from penstock.config.settings import Settings

DEFAULT_PORT = 8000
_BIND_SETTING, _REDIRECT_SETTING = "--bind", "--redirect-http"
_SCHEME_PORTS = {"http": 80, "https": 443, "uwsgi": DEFAULT_PORT}
"""The port of an address that has a scheme and no port, as in URLs."""

Inherited = tuple[str, int, tuple[int, int] | None]
"""An address that a predecessor has bound, its socket's descriptor, and the device and the inode of
its path."""

_IN_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.%\w]+)\](?::(.*))?")
_REASONS = {
    errno.EADDRINUSE: "it is in use by another program",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine does not support such addresses",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "part of its path is not a directory",
    errno.EROFS: "its file system is read-only",
    errno.EBADF: "no such descriptor is open",
    errno.ENOTSOCK: "the descriptor is not a socket",
}
_FIRST_UNPRIVILEGED_PORT = 1024

LONGEST_PATH_BYTES = 107
"""The room for the path of a unix socket: ``sun_path`` of unix(7), without the NUL at its end."""

TOO_LONG = "the path is too long for a unix socket"

FIRST_AHEAD_BYTES = 16 * 1024
"""How many bytes that are not on their way the kernel takes for a new client, beyond one block.

It takes more once the client reads: see `penstock.transport.config.TransportConfig.ahead_bytes`.
"""
_SO_ATTACH_FILTER = 26  # of Linux; the socket module does not have it
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [  # a socket filter in classic BPF, over a segment's TCP header
        (0x30, 0, 0, 13),  # load the byte with the flags
        (0x45, 0, 1, 0x02),  # if SYN is set,
        (0x06, 0, 0, 0),  # drop the segment,
        (0x06, 0, 0, 0xFFFF_FFFF),  # else accept it whole
    ]
)


@dataclass(frozen=True)
class Address:
    """A listening address as given, and its parts. Parts that do not apply are None."""

    text: str
    host: str | None = None
    port: int | None = None
    path: str | None = None
    """The path of a unix socket; it begins with NUL in Linux's abstract namespace."""
    descriptor: int | None = None
    tls: bool = False
    """Whether clients speak TLS there."""
    uwsgi: bool = False
    """Whether front-ends speak the uwsgi protocol there, in place of HTTP."""
    redirects: bool = False
    """Whether requests there are redirected to https (setting: redirect_http)."""
    ipv6_alone: bool = False
    """Of all IPv6 addresses: IPv4 has an address of its own at this port. Otherwise the kernel says
    whether clients of IPv4 are accepted, too (net.ipv6.bindv6only); usually they are."""
    mode: int | None = None
    """The mode of the path of a unix socket; None for what the umask leaves."""
    owner: tuple[int, int] | None = None
    """The user and the group of the path of a unix socket, -1 for unchanged; None for both."""

    @property
    def place(self) -> tuple[str | None, int | None, str | None, int | None]:
        """What is bound, whatever is spoken there."""
        return self.host, self.port, self.path, self.descriptor

    @property
    def spoken(self) -> tuple[bool, bool, bool]:
        """What is spoken there."""
        return self.tls, self.uwsgi, self.redirects

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, for which a name server may have to be asked."""
        if self.host is None:
            return False
        try:
            _addresses(self.host, self.port, socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            return True
        return False

    @property
    def shown(self) -> str:
        """The address for messages: as given, with host and port added if they are not obvious."""
        if self.host is None:
            return self.text
        place = _host_and_port(self.host, str(self.port))
        return self.text if self.text.endswith(place) else f"{self.text} ({place})"


class Listener:
    """A listening socket, with its name for logs and its address for applications."""

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        created: str | None = None,
        passed: str | None = None,
        *,
        directory: int | None = None,
        identity: tuple[int, int] | None = None,
        user: int | None = None,
    ) -> None:
        """``created`` is the path that was created for it; ``passed``, that of a predecessor.

        ``directory`` is a descriptor of the path's directory, opened by the process that made the
        path; ``identity`` is the device and the inode of a path that was passed. ``user`` is whom
        the path has to belong to, where that process may have been led elsewhere by that user.
        """
        self.socket = sock
        """Non-blocking, not inherited by children; accepted TCP sockets inherit TCP_NODELAY, and on
        Linux TCP_NOTSENT_LOWAT of `FIRST_AHEAD_BYTES`."""
        self.tls = address.tls
        """Whether clients speak TLS there."""
        self.uwsgi = address.uwsgi
        """Whether front-ends speak the uwsgi protocol there, in place of HTTP."""
        self.redirects = address.redirects
        """Whether requests there are redirected to https."""
        self.is_unix = sock.family == socket.AF_UNIX
        self.scheme = "https" if self.tls else "http"
        """The ``wsgi.url_scheme`` of requests."""
        bound = sock.getsockname()
        host, port = ("localhost", 443 if self.tls else 80) if self.is_unix else bound[:2]
        self.server_name = str(host)
        """SERVER_NAME of requests: the bound address, or ``localhost`` for a unix socket."""
        self.server_port = str(port)
        """SERVER_PORT of requests: the bound port; of a unix socket ``80``, or ``443`` with TLS."""
        place = _host_and_port(self.server_name, self.server_port)
        protocol = "uwsgi" if self.uwsgi else self.scheme
        self.name = f"{protocol}://{place}"
        """The name for logs: ``http://127.0.0.1:8000``, ``unix:/run/app.sock``,
        ``uwsgi://unix:/run/app.sock``."""
        if self.is_unix:
            self.name = ("uwsgi://" if self.uwsgi else "") + _unix_name(bound)
        self.address = address
        self._shown = address.shown
        self._adopted = address.descriptor is not None
        # Absolute, because the application may change the directory before the path is removed.
        self._path = os.path.abspath(created) if created is not None else None
        self._directory = directory
        self._identity = self._seen() if self._path is not None else identity
        self._is_removed = user is None or self._belongs_to(user)
        self._passed = os.path.abspath(passed) if passed is not None else None
        self._owner = os.getpid()

    def __repr__(self) -> str:
        return f"<Listener {self.name}>"

    def speaking(self, address: Address) -> Listener:
        """Return another listener with the same socket, where something else is spoken.

        It gets the path of a unix socket with `take_over`, after this one's `disown`.
        """
        directory = os.dup(self._directory) if self._directory is not None else None
        return Listener(
            self.socket.dup(),
            address,
            passed=self._path,
            directory=directory,
            identity=self._identity,
        )

    def listen(self, backlog: int) -> None:
        """Let clients connect: up to ``backlog`` of them wait to be accepted.

        Raises `ListenError`: an address that another program has bound without listening on it is
        found to be in use only here.
        """
        if self._path is not None and self._seen() != self._identity:
            # Another socket has the path: clients would never reach this one.
            raise _listen_error(self._shown, _REASONS[errno.EADDRINUSE])
        if self._adopted and self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return  # by the process that passed it, which may have kept us from doing it again
        try:
            self.socket.listen(backlog)
        except OSError as error:
            raise _listen_error(self._shown, _reason(error)) from None

    def ignore_new_connections(self) -> bool:
        """Make the kernel ignore new attempts to connect. Return True if it does.

        Then the accept queue can be emptied completely. Otherwise a client that enters the queue
        between the last accept and the close is reset; a client whose attempt is ignored tries
        again a second later. For TCP on Linux only, and not for a socket that a parent passed,
        because the parent may go on using it. The path of a unix socket is removed.
        """
        self._unlink()
        if self.is_unix or self._adopted or sys.platform != "linux":
            return False
        program = array("B", _DROP_SYN)
        address, size = program.buffer_info()
        try:
            self.socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // 8, address)
            )
        except OSError:
            return False  # a kernel without socket filters
        return True

    def close(self) -> None:
        """Close the socket, and remove the path of a unix socket that this process created.

        The path stays in a forked child, and where another program has put its socket since.
        """
        # First: while the socket is open, no other path gets its inode.
        self._unlink()
        self.socket.close()
        self.forget_directory()

    def close_in_child(self) -> None:
        """Close the socket in a forked child that does not serve it."""
        self.socket.close()
        self.forget_directory()

    def forget_directory(self) -> None:
        """Close the directory of the path, in a forked child, which never removes the path."""
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    def give_to(self, identity: Identity) -> None:
        """Change the owner of the path of a unix socket that this process created.

        Only where no other user than root can have moved the path; elsewhere it was created as the
        user that it is for.
        """
        if self._path is None or self._identity is None:
            return
        try:
            with find(self._path) as place:
                _give(place, self._identity, identity, self.address.owner)
        except OSError:
            pass  # the path was removed, or its file system has no owners

    @property
    def shown_name(self) -> str:
        """The name for the start-up line, which says who may connect to a unix socket."""
        if self._path is None and self._passed is None:
            return self.name
        # The socket's own mode, which its path was given: to look at the path could take for ever.
        return f"{self.name} (mode {stat.S_IMODE(os.fstat(self.socket.fileno()).st_mode):04o})"

    @property
    def path_identity(self) -> tuple[int, int] | None:
        """The device and the inode of the path of a unix socket; None where it has none."""
        return self._identity

    @property
    def created_path(self) -> str | None:
        """The path of a unix socket that this process removes at the end."""
        return self._path

    @property
    def is_lost(self) -> bool:
        """Whether the path of a unix socket was removed: clients cannot find it any more."""
        return self._path is not None and _identity(self._path) is None

    def take_over(self) -> None:
        """Become the owner of the path of a unix socket: the predecessor that created it ends."""
        if self._passed is not None:
            self._path, self._passed = self._passed, None
            self._owner = os.getpid()
            if self._identity is None:  # a predecessor of an earlier version does not pass it
                self._identity = self._seen()

    def disown(self) -> None:
        """Leave the path of a unix socket to another process that has the socket, too."""
        self._path = None

    def _unlink(self) -> None:
        if self._path is None or self._owner != os.getpid():
            return
        # In the directory as it was opened: if it was moved since, another one is not touched.
        if self._is_removed and self._directory is not None and self._seen() == self._identity:
            try:
                os.unlink(os.path.basename(self._path), dir_fd=self._directory)
            except OSError:
                pass  # removed in the meantime, or the directory is read-only by now
        self._path = None

    def _belongs_to(self, user: int) -> bool:
        """Return True if the path is that of a socket of this user, which root may remove."""
        if self._path is None or self._directory is None:
            return False
        try:
            name = os.path.basename(self._path)
            status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISSOCK(status.st_mode) and status.st_uid == user

    def _seen(self) -> tuple[int, int] | None:
        """Return the device and the inode of what the path's directory has by this name now."""
        if self._path is None or self._directory is None:
            return None
        return _identity(os.path.basename(self._path), self._directory)


def open_listeners(addresses: Iterable[str | Address], backlog: int) -> list[Listener]:
    """Return listening sockets for all addresses. Raises `ListenError`, and then none is open."""
    listeners = bind_listeners(addresses)
    try:
        for listener in listeners:
            listener.listen(backlog)
    except ListenError:
        close_all(listeners)
        raise
    return listeners


def bind_listeners(
    addresses: Iterable[str | Address],
    inherited: Iterable[Inherited] = (),
    identity: Identity | None = None,
) -> list[Listener]:
    """Return a bound socket for each address; clients cannot connect yet.

    ``inherited`` are addresses that a predecessor has bound. A socket whose address is not in
    ``addresses`` is closed. Where root binds, and others can change the directory of a unix socket,
    the path is made with the rights of ``identity``.

    An address is ``host:port``, ``host`` (port 8000), ``:port`` (all IPv4 addresses),
    ``[::1]:port``, ``unix:PATH``, ``unix:@NAME`` (abstract) or ``fd://N``. Port 0 is a free port.
    Raises `ListenError`, which names the address and the reason; then no socket stays open.
    """
    listeners: list[Listener] = []
    adopted: set[int] = set()
    bound = list(inherited)
    try:
        for address in [
            parse_address(each) if isinstance(each, str) else each for each in addresses
        ]:
            if address.descriptor is not None:
                if address.descriptor in adopted:
                    _refuse(address.shown, "the descriptor is given twice")
                adopted.add(address.descriptor)
            taken = next((pair for pair in bound if _is_at(address, pair[0])), None)
            if taken is None:
                listeners.append(_bind_as_named(address, identity))
            else:
                bound.remove(taken)
                listeners.append(_inherit(address, *taken[1:]))
    except ListenError:
        close_all(listeners)
        raise
    for _, descriptor, _ in bound:
        # An open socket would go on to accept clients that no process answers.
        os.close(descriptor)
    return listeners


def check_listeners(addresses: Iterable[Address], identity: Identity | None) -> None:
    """Raise the `ListenError` that `bind_listeners` would, as far as it is known without binding.

    That is of the paths of unix sockets, and of names of hosts: a server may be running at these
    addresses.
    """
    for address in addresses:
        with _named_as_set(address):
            if address.host is not None:
                _resolve(address)
            if address.path is None or address.path.startswith("\0"):
                continue
            if _needs_helper(identity):
                assert identity is not None
                _done_for_root(address, partial(_check_for_root, address, address.path, identity))
            else:
                _check_path(address, address.path)


@contextmanager
def kept_from_children(listeners: Iterable[Listener]) -> Iterator[None]:
    """Close the listeners in children that the application forks while it is loaded.

    A child that outlives the server would keep the port: its clients would wait for ever, and the
    next start would fail.
    """
    _kept_from_children.extend(listeners)
    try:
        yield
    finally:
        _kept_from_children.clear()


_kept_from_children: list[Listener] = []


def _close_in_child() -> None:
    for listener in _kept_from_children:
        listener.socket.close()
    _kept_from_children.clear()


os.register_at_fork(after_in_child=_close_in_child)


def close_all(listeners: Iterable[Listener]) -> None:
    """Close every listener."""
    for listener in listeners:
        listener.close()


def addresses_of(settings: Settings) -> list[Address]:
    """Return the addresses that a server listens on: of ``bind``, then of ``redirect_http``.

    Raises `ListenError` for a malformed one.
    """
    listed = zip(settings.bind, with_tls(settings), strict=True)
    owner = owner_of_paths(settings)
    mode = settings.bind_mode
    if mode == "auto":
        mode = 0o777 & ~(settings.umask or 0)
    found = [replace(parse_address(text), tls=tls, mode=mode, owner=owner) for text, tls in listed]
    for text in settings.redirect_http:
        address = replace(parse_address(text, _REDIRECT_SETTING), redirects=True)
        if address.tls or address.uwsgi:
            raise _listen_error(text, "it is for clients without TLS", _REDIRECT_SETTING)
        found.append(replace(address, mode=mode, owner=owner))
    ports = {each.port for each in found if each.host is not None and ":" not in each.host}
    return [replace(each, ipv6_alone=each.host == "::" and each.port in ports) for each in found]


def parse_address(text: str, setting: str = _BIND_SETTING) -> Address:
    """Return the parts of a listening address. Raises `ListenError` if it is malformed.

    ``setting`` is the flag that has it, for the error.
    """
    try:
        return _parse_address(text)
    except ListenError as error:
        if setting == _BIND_SETTING:
            raise
        raise ListenError(str(error).replace(_BIND_SETTING, setting)) from None


def _parse_address(text: str) -> Address:
    scheme, separator, place = text.partition("://")
    if not separator or scheme not in _SCHEME_PORTS:
        return _parse_place(text, text, DEFAULT_PORT)
    if "/" in place and not place.startswith(("unix:", "fd://")):
        raise _listen_error(text, f"an address has no path: {scheme}://{place.partition('/')[0]}")
    address = _parse_place(text, place, _SCHEME_PORTS[scheme])
    return replace(address, tls=scheme == "https", uwsgi=scheme == "uwsgi")


def _parse_place(text: str, place: str, port: int) -> Address:
    """Return the parts of ``place``: ``text`` without its scheme. ``port`` is for one without."""
    if place.startswith("unix:"):
        path = place.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if path in ("", "@"):
            raise _listen_error(text, "the path is missing")
        return Address(text, path="\0" + path[1:] if path.startswith("@") else path)
    if place.startswith("fd://"):
        number = place.removeprefix("fd://")
        if not (number.isascii() and number.isdigit() and len(number) < 8):
            raise _listen_error(text, "a descriptor is a number, as in fd://3")
        return Address(text, descriptor=int(number))
    if "://" in place and not place.startswith("tcp://"):
        raise _listen_error(text, "an address is host:port, or https://host:port for TLS")
    plain = place.removeprefix("tcp://")
    if "/" in plain or plain.endswith(".sock"):
        raise _listen_error(text, f"an address is host:port, and a path is written unix:{plain}")
    if plain.startswith("["):
        match = _IN_BRACKETS.fullmatch(plain)
        if match is None:
            raise _listen_error(text, "an IPv6 address is written [::1]:8000")
        return Address(text, host=match[1], port=_port(text, match[2], port))
    host, colon, given = plain.rpartition(":")
    if not colon:
        host, given = plain, str(port)
        if host.isdigit():
            raise _listen_error(text, f"a port alone is written :{host} or 127.0.0.1:{host}")
    if ":" in host:
        raise _listen_error(text, "an IPv6 address needs brackets, as in [::1]:8000")
    host = "0.0.0.0" if host in ("", "*") else host
    return Address(text, host=host, port=_port(text, given, port))


def _port(text: str, port: str | None, default: int) -> int:
    if port is None:
        return default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise _listen_error(text, f"{port!r} is not a port: allowed is a number from 0 to 65535")
    return int(port)


def _is_at(address: Address, text: str) -> bool:
    """Return True if a predecessor that had this address by another scheme has bound its place."""
    return address.text == text or address.place == parse_address(text).place


def _bind_as_named(address: Address, identity: Identity | None) -> Listener:
    with _named_as_set(address):
        return _bind(address, identity)


@contextmanager
def _named_as_set(address: Address) -> Iterator[None]:
    """Have an error name the setting that has the address."""
    try:
        yield
    except ListenError as error:
        if not address.redirects:
            raise
        raise ListenError(str(error).replace(_BIND_SETTING, _REDIRECT_SETTING)) from None


def _bind(address: Address, identity: Identity | None) -> Listener:
    if address.descriptor is not None:
        return _adopt(address, address.descriptor)
    if address.path is not None:
        return _bind_unix(address, address.path, identity)
    return _bind_tcp(address)


def _inherit(address: Address, descriptor: int, identity: tuple[int, int] | None) -> Listener:
    sock = socket.socket(fileno=descriptor)
    _prepare(sock)
    path = address.path
    passed = path if path is not None and not path.startswith("\0") else None
    # Looked up now: a start may wait for a file system, and nothing later may.
    directory = _open_directory(passed) if passed is not None else None
    return Listener(sock, address, passed=passed, directory=directory, identity=identity)


def _adopt(address: Address, descriptor: int) -> Listener:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _listen_error(address.shown, _reason(error)) from None
    use_inherited(descriptor)
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise _listen_error(address.shown, "the socket is neither TCP nor unix")
        if sock.type != socket.SOCK_STREAM:
            raise _listen_error(address.shown, "the socket is not a stream socket")
        if _is_connected(sock):
            raise _listen_error(address.shown, "the socket is connected, and cannot listen")
        if not _is_bound(sock):
            raise _listen_error(address.shown, "the socket is not bound to an address")
        _prepare(sock)
        return Listener(sock, address)
    except ListenError:
        # The process that passed the descriptor has to close it.
        sock.detach()
        raise


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_bound(sock: socket.socket) -> bool:
    place = sock.getsockname()
    return bool(place if sock.family == socket.AF_UNIX else place[1])


def _bind_tcp(address: Address) -> Listener:
    family, place = _resolve(address)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _listen_error(address.shown, _tcp_reason(address, family, error)) from None
    try:
        # Without it, connections of an earlier run in TIME_WAIT would keep the port in use.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address.ipv6_alone:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        _prepare(sock)
        return Listener(sock, address)
    except OSError as error:
        sock.close()
        raise _listen_error(address.shown, _tcp_reason(address, family, error)) from None


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Return the family and the socket address. Numeric addresses need no name server."""
    host, port = address.host, address.port
    for flags in (socket.AI_NUMERICHOST, socket.AI_PASSIVE):
        try:
            found = _addresses(host, port, flags)
        except (socket.gaierror, UnicodeError) as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else "not a valid name"
            continue
        # A name with addresses of both kinds means IPv4, as with other servers.
        family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return family, place
    _refuse(address.shown, f"the host {host!r} cannot be resolved ({reason})")


def _addresses(host: str | None, port: int | None, flags: int) -> list[tuple[Any, ...]]:
    """Return what ``socket.getaddrinfo`` does for TCP. Raises `socket.gaierror`, `UnicodeError`."""
    # Of text, Python makes bytes with the codec for international names, which stays in memory.
    name = host.encode("ascii") if host is not None and host.isascii() else host
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)


def _bind_unix(address: Address, path: str, identity: Identity | None) -> Listener:
    if path.startswith("\0"):
        return Listener(_bind_path(address, path), address)
    if _needs_helper(identity):
        assert identity is not None
        work = partial(_work_for_root, address, path, identity, None)
        return received_listener(address, _done_for_root(address, work), identity)
    _clear_stale(address, path)
    sock, directory = _bind_path(address, path), _open_directory(path)
    return Listener(sock, address, created=path, directory=directory)


def _bind_path(address: Address, path: str) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise _listen_error(address.shown, _reason(error)) from None
    try:
        if address.mode is not None:
            with suppress(OSError):  # Linux alone does that
                os.fchmod(sock.fileno(), address.mode)  # the path is never reachable by more
        sock.bind(path)
        if not path.startswith("\0"):
            _give_as_set(address, path)
        _prepare(sock)
    except OSError as error:
        sock.close()
        # "AF_UNIX path too long" is an error of Python's own, without a number.
        reason = _reason(error) if error.errno else TOO_LONG
        raise _listen_error(address.shown, reason) from None
    return sock


def _give_as_set(address: Address, path: str) -> None:
    """Give the path of a socket, which was just bound, its mode and its owner.

    By a descriptor of what was found there, which is no symbolic link. Raises OSError.
    """
    there = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(there)
        if not stat.S_ISSOCK(status.st_mode):
            return  # it was moved meanwhile: `Listener.listen` reports that
        if address.mode is not None and stat.S_IMODE(status.st_mode) != address.mode:
            with suppress(OSError):  # its file system has no modes
                os.chmod(f"/proc/self/fd/{there}", address.mode)  # the umask took some bits
        if address.owner is not None:
            os.chown(f"/proc/self/fd/{there}", *address.owner)
    finally:
        os.close(there)


def _needs_helper(identity: Identity | None) -> bool:
    """Return True if a process of its own makes paths, because the workers are another user's.

    That process has the user's rights where others than root can change the directory. It looks up
    the path, too: a file system that a user has mounted can make that last for ever.
    """
    return identity is not None and not identity.is_root and os.geteuid() == 0


def _done_for_root(address: Address, work: Work) -> list[int]:
    """Return what a helper process returns. Raises `ListenError`."""
    try:
        return wait_for(work)
    except HelperError as error:
        raise error_of_helper(address, error) from None


KEPT = "kept"
"""The result of `work_to_listen` where the path of a listener is still there."""


def work_to_listen(address: Address, identity: Identity | None, there: Listener | None) -> Work:
    """Return what a helper process does for an address; `received_listener` takes the result.

    ``there`` is a listener of this address that stays, unless its path was removed: where it stays
    the result is `KEPT`.
    """
    if address.path is None:
        return lambda _: [_bind_tcp(address).socket.detach()]
    assert identity is not None
    known = there.path_identity if there is not None else None
    return partial(_work_for_root, address, address.path, identity, known)


def received_listener(
    address: Address, descriptors: Sequence[int], identity: Identity | None
) -> Listener:
    """Return the listener that a helper process has made, for workers that run as ``identity``."""
    sock, directory = _received_socket(descriptors)
    return Listener(
        sock,
        address,
        created=address.path,
        directory=directory,
        user=identity.uid if identity is not None else None,
    )


def error_of_helper(address: Address, error: HelperError) -> ListenError:
    """Return the error of a helper process that was to bind an address."""
    return _listen_error(address.shown, _bare_reason(address, error))


def _received_socket(descriptors: Sequence[int]) -> tuple[socket.socket, int | None]:
    descriptor, *directory = descriptors
    sock = socket.socket(fileno=descriptor)
    _prepare(sock)
    return sock, directory[0] if directory else None


def _bare_reason(address: Address, error: PenstockError) -> str:
    """Return the reason alone of an error about an address."""
    begin, end = str(_listen_error(address.shown, "\n")).split("\n")
    return str(error).removeprefix(begin).removesuffix(end)


def _work_for_root(
    address: Address,
    path: str,
    identity: Identity,
    known: tuple[int, int] | None,
    change: Change,
) -> list[int] | str:
    """Bind a path in a helper process of root's, and give it to the user.

    ``known`` is what the path was before: where there is something still, it is kept.
    """
    with _found(address, path) as place:
        is_users = place.changeable is not None
        if known is not None:
            _give(place, known, identity, address.owner)
    if known is not None and _identity(path) is not None:
        return KEPT
    with _as_user_of_path(address, identity, change, is_users=is_users):
        _clear_stale(address, path)
        sock = _bind_path(address, path)
    if not is_users:
        with find(os.path.abspath(path)) as place:
            _give(place, _identity(place.name, place.directory), identity, address.owner)
    directory = _open_directory(path)
    return [sock.detach(), *([directory] if directory is not None else [])]


def _check_for_root(
    address: Address, path: str, identity: Identity, change: Change
) -> Sequence[int]:
    """Check a path in a helper process of root's, with the rights with which it would be bound."""
    with _found(address, path) as place:
        is_users = place.changeable is not None
    with _as_user_of_path(address, identity, change, is_users=is_users):
        _check_path(address, path)
    return ()


def _found(address: Address, path: str) -> Place:
    """Return where a path leads. Root binds nothing where it does not know who can change it."""
    try:
        return find(os.path.abspath(path))
    except OSError as error:
        raise _listen_error(address.shown, _reason(error)) from None


@contextmanager
def _as_user_of_path(
    address: Address, identity: Identity, change: Change, *, is_users: bool
) -> Iterator[None]:
    """Give the rest of a helper process the rights of the user who can change the path, if any.

    An error of the block says with whose rights it was done.
    """
    if not is_users:
        yield
        return
    change(identity)
    try:
        yield
    except ListenError as error:
        raise _listen_error(
            address.shown,
            f"{_bare_reason(address, error)} (done as user {identity.uid}, because others than "
            "root can change the directory)",
        ) from None


def _give(
    place: Place,
    known: tuple[int, int] | None,
    identity: Identity,
    owner: tuple[int, int] | None,
) -> None:
    """Give the path of a socket to a user, unless another user than root can have moved it.

    ``owner`` is what the setting `bind_owner` says in its place.
    """
    if place.changeable is not None or known is None:
        return
    uid, gid = identity.uid, identity.gid
    if owner is not None:
        uid, gid = (uid if owner[0] < 0 else owner[0]), (gid if owner[1] < 0 else owner[1])
    if _identity(place.name, place.directory) == known:
        with suppress(OSError):  # its file system has no owners
            os.chown(
                place.name,
                uid,
                gid,
                dir_fd=place.directory,
                follow_symlinks=False,
            )


def _check_path(address: Address, path: str) -> None:
    """Refuse a path at which no socket can be made. It makes a file without a name beside it."""
    _has_socket(address, path)
    if len(os.fsencode(path)) > LONGEST_PATH_BYTES:
        _refuse(address.shown, TOO_LONG)
    try:
        temporary_file(os.path.dirname(path) or ".").close()
    except OSError as error:
        _refuse(address.shown, _reason(error))


def _has_socket(address: Address, path: str) -> bool:
    """Return True if there is a socket at a path. Refuse one that holds anything else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            _refuse(address.shown, "the path exists and is not a socket")
    except OSError:
        return False  # there is no such path, or bind gives a better reason
    return True


def _clear_stale(address: Address, path: str) -> None:
    """Remove the socket of a server that has ended. Refuse a path that holds anything else."""
    if not _has_socket(address, path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue must not block, and proves that a server listens
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EAGAIN:
                _refuse(address.shown, _REASONS[errno.EADDRINUSE])
            _refuse(address.shown, f"there is a socket at this path: {_reason(error)}")
        else:
            holder = peer_of(probe)
            reason = _REASONS[errno.EADDRINUSE]
            _refuse(address.shown, f"{reason}: {holder}" if holder else reason)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _refuse(address.shown, f"cannot remove the socket of an earlier run: {_reason(error)}")


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.set_inheritable(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hold_ahead(sock, FIRST_AHEAD_BYTES)


def _open_directory(path: str) -> int | None:
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(os.path.dirname(os.path.abspath(path)), flags)
    except OSError:
        return None


def _identity(path: str, directory: int | None = None) -> tuple[int, int] | None:
    try:
        status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _unix_name(bound: str | bytes) -> str:
    text = os.fsdecode(bound)
    return "unix:@" + text[1:] if text.startswith("\0") else "unix:" + text


def _host_and_port(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tcp_reason(address: Address, family: socket.AddressFamily, error: OSError) -> str:
    code = error.errno
    privileged = 0 < (address.port or 0) < _FIRST_UNPRIVILEGED_PORT
    if privileged and code in (errno.EACCES, errno.EPERM):
        return "no permission: ports below 1024 are for privileged users"
    missing = code in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    if missing and family == socket.AF_INET6:
        return "this machine has no such address, or IPv6 is switched off"
    if code == errno.EADDRINUSE and address.port and (holder := holder_of(address.port)):
        return f"{_REASONS[code]}: {holder}"
    return _reason(error)


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def _listen_error(shown: str, reason: str, setting: str = _BIND_SETTING) -> ListenError:
    return ListenError(f"cannot listen on {shown}: {reason} (setting: {setting})")


def _refuse(shown: str, reason: str) -> NoReturn:
    raise _listen_error(shown, reason)
