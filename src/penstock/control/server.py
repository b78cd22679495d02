"""The control server: its two services, and the addresses that they listen at.

There is the control socket, for ``penstockctl`` and people of the same user, and ``--admin``, for
the probes of a process manager. docs/control.md describes both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock import messages
from penstock.config.settings import DEFAULT_BIND
from penstock.control.access import Access, Place
from penstock.control.address import AUTO, OFF, socket_path
from penstock.control.answers import ControlSocket, Probes
from penstock.control.connection import ADMIN_BACKLOG, BACKLOG, Service
from penstock.control.directories import NotPrivate, name_of, of_server, why_replaceable
from penstock.control.socket_file import (
    LOCK_SECONDS,
    Passed,
    SocketFile,
    adopt,
    cannot_listen,
    check_path,
    is_name_of,
    open_in,
    open_path,
    reason_of,
)
from penstock.errors import ListenError
from penstock.listeners import Listener, bind_listeners, parse_address
from penstock.records import dataclass
from penstock.system.paths import Entry, find

if TYPE_CHECKING:
    import logging
    import selectors

    from penstock.config.settings import Settings
    from penstock.control.commands import Handle
    from penstock.messages import Notice

SERVICES = ("control", "admin")
"""The services, each named as the setting that gives its address."""

NO_PATIENCE = 0.0
"""How long the supervisor waits for a locked directory once it has workers."""

LOOK_SECONDS = 60.0
"""How often the server looks whether its socket is still there. Programs that clean up /tmp remove
sockets that are days old."""

_DIRECTORY = " directory"
"""What the name of a passed descriptor ends with that is the directory of a socket."""


@dataclass(frozen=True)
class Wanted:
    """The address that the settings give to a service."""

    setting: str
    text: str
    """As it was given; ``auto``, too."""
    name: str = ""
    """For ``auto``: the name of the server's socket."""
    roots_alone: bool = False
    """Whether no other user than root may be able to move the path: the workers are another's."""

    @property
    def is_auto(self) -> bool:
        """Whether the server chooses the directory and the name."""
        return self.setting == "control" and self.text.lower() == AUTO

    @property
    def backlog(self) -> int:
        """How many connections may wait to be accepted."""
        return ADMIN_BACKLOG if self.setting == "admin" else BACKLOG


def wanted_by(settings: Settings, title: str | None) -> dict[str, Wanted]:
    """Return the addresses of the services that there are to be; ``title`` is ``--name``."""
    roots_alone = settings.has_user and os.geteuid() == 0
    wanted = {}
    if settings.control.lower() != OFF:
        name = name_of(title, settings.bind[0] if settings.bind else DEFAULT_BIND[0])
        given = Wanted("control", settings.control, roots_alone=roots_alone)
        wanted["control"] = Wanted("control", given.text, name) if given.is_auto else given
    if settings.admin is not None:
        wanted["admin"] = Wanted("admin", settings.admin, roots_alone=roots_alone)
    return wanted


class NoDirectory(ListenError):
    """The socket of ``auto`` can be in none of its directories; the text says why."""


class ControlServer:
    """The services at the addresses of the settings ``control`` and ``admin``."""

    def __init__(
        self, handle: Handle, selector: selectors.BaseSelector, logger: logging.Logger
    ) -> None:
        """Open nothing yet; ``handle`` executes what clients ask for."""
        self._handle = handle
        self._selector = selector
        self._logger = logger
        self._access = Access(logger)
        self._services: dict[str, Service] = {}
        self._addresses: dict[str, Wanted] = {}
        self._title: str | None = None
        self._closing: list[Service] = []
        self._look_at = 0.0  # on the monotonic clock
        self._unwanted: list[Listener | SocketFile] = []
        """Sockets that a predecessor passed, and that this process has no use for."""

    def open(self, settings: Settings, inherited: Mapping[str, int] | None = None) -> None:
        """Open what the settings ask for; raises `ListenError`, and has opened nothing then.

        Where ``auto`` can have no socket, that is a warning in the log. ``inherited`` are the
        descriptors that a predecessor passed, as `descriptors` returns them.
        """
        self._title = settings.name
        self._access.use(settings)
        wanted = wanted_by(settings, self._title)
        try:
            for setting in SERVICES:
                passed = self._adopt(wanted.get(setting), setting, inherited or {})
                if setting in wanted:
                    try:
                        self._open(wanted[setting], passed, LOCK_SECONDS)
                    except NoDirectory as error:
                        messages.CONTROL_NOT_OPENED.log(self._logger, reason=error)
        except ListenError:
            self.close()
            raise

    def follow(self, settings: Settings) -> None:
        """Use the addresses of new settings; one that cannot be opened stays as it was.

        A client that waits for the outcome of the reload gets it, even at an address that closes.
        """
        self._access.use(settings)
        wanted = wanted_by(settings, self._title)  # --name needs an upgrade, as in process titles
        for setting in SERVICES:
            address = wanted.get(setting)
            if address == self._addresses.get(setting):
                continue
            before = self._services.get(setting)
            if address is not None:
                try:
                    self._open(address, None, NO_PATIENCE)
                except ListenError as error:
                    # Where auto had no directory at the start, the log has that already.
                    if before is not None or not isinstance(error, NoDirectory):
                        messages.CONTROL_NOT_FOLLOWED.log(
                            self._logger, setting=setting, error=error
                        )
                    continue
            else:
                self._services.pop(setting, None)
                self._addresses.pop(setting, None)
            if before is not None:
                before.stop_accepting()
                self._closing.append(before)

    def _open(self, wanted: Wanted, passed: Listener | SocketFile | None, patience: float) -> None:
        """Open a service. Raises `ListenError`."""
        service = open_service(
            wanted, self._handle, self._selector, self._logger, passed, patience, self._access
        )
        self._addresses[wanted.setting] = wanted
        self._services[wanted.setting] = service
        self._logger.debug("%s: on %s", wanted.setting, service.name)

    def _adopt(
        self, wanted: Wanted | None, setting: str, inherited: Mapping[str, int]
    ) -> Listener | SocketFile | None:
        """Return the socket that a predecessor passed, if it is at the address that is wanted."""
        if setting not in inherited:
            return None
        passed = Passed(inherited[setting], inherited.get(setting + _DIRECTORY))
        try:
            listener = adopt(passed)
        except OSError as error:  # the passed descriptor is not a socket
            raise cannot_listen(setting, reason_of(error), setting) from None
        if wanted is not None and _is_at(listener, wanted):
            return listener
        # Its clients are the predecessor's until that ends.
        self._unwanted.append(listener)
        return None

    def descriptors(self) -> dict[str, int]:
        """Return the descriptors to pass to a successor: sockets, and their directories."""
        passed = {}
        for setting, service in self._services.items():
            passed[setting] = service.listener.socket.fileno()
            if isinstance(service.listener, SocketFile):
                passed[setting + _DIRECTORY] = service.listener.directory
        return passed

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed at ``now``: of connections, and of this server."""
        for service in self._all():
            service.expire(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._restore_lost()
        self._closing = [service for service in self._closing if service.is_connected]

    def _restore_lost(self) -> None:
        """Make the sockets again that were removed; clients that are connected go on."""
        for setting, service in list(self._services.items()):
            listener = service.listener
            if not isinstance(listener, SocketFile) or not listener.is_lost:
                continue
            try:
                self._open(self._addresses[setting], None, NO_PATIENCE)
            except ListenError as error:  # tried again later
                self._logger.debug("%s: %s was removed: %s", setting, service.name, error)
                continue
            service.stop_accepting()
            self._closing.append(service)
            place = self._services[setting].name
            self._logger.info("%s: %s was removed; there is %s now", setting, service.name, place)

    def take_over(self) -> None:
        """Begin to accept on the sockets that a predecessor passed."""
        for service in self._services.values():
            service.take_over()
        for listener in self._unwanted:
            listener.take_over()
            listener.close()
        self._unwanted.clear()

    def hand_over(self) -> None:
        """Accept no more: a successor has the sockets. Responses still go out."""
        for service in self._services.values():
            service.stop_accepting(keep_path=True)

    def close(self) -> None:
        """Close everything. Responses that were given just before have been sent."""
        for service in self._all():
            service.close()
        for listener in self._unwanted:
            listener.close()
        self._services.clear()
        self._closing.clear()
        self._unwanted.clear()

    def close_in_child(self) -> None:
        """Close all descriptors in a forked child; the parent keeps its own."""
        for service in self._all():
            service.close_in_child()
        for listener in self._unwanted:
            listener.disown()
            listener.close()
        self._unwanted.clear()

    def _all(self) -> list[Service]:
        return [*self._services.values(), *self._closing]


# -- addresses -----------------------------------------------------------------------------------


def open_service(
    wanted: Wanted,
    handle: Handle,
    selector: selectors.BaseSelector,
    logger: logging.Logger,
    passed: Listener | SocketFile | None = None,
    patience: float = LOCK_SECONDS,
    access: Access | None = None,
) -> Service:
    """Open a service at an address.

    ``passed`` is the socket that a predecessor passed: until `Service.take_over`, the predecessor
    accepts there. ``patience`` is for how many seconds to wait for a directory that is locked.
    ``access`` says who may read the dashboard; without it, those who have a token that is made.
    Raises `ListenError`: `NoDirectory` for ``auto``.
    """
    try:
        listener = passed if passed is not None else _bind(wanted, logger, patience)
        # Again, where it listens already: SO_PEERCRED then reports this process (unix(7)).
        if isinstance(listener, SocketFile):
            listener.socket.listen(wanted.backlog)
        else:
            _listen(listener, wanted.backlog)
    except NoDirectory:
        raise
    except ListenError as error:
        text = str(error).replace("(setting: --bind)", f"(setting: --{wanted.setting})")
        raise ListenError(text) from None
    waits = passed is not None
    if wanted.setting == "admin":
        from penstock.control.dashboard import Dashboard

        place = Place.of(listener.socket, parse_address(wanted.text).host)
        dashboard = Dashboard(handle, access or Access(logger), place)
        probes = Probes(handle, dashboard.respond)
        return Service(listener, selector, logger, probes.respond, waits=waits)
    control = ControlSocket(handle, logger)
    return Service(listener, selector, logger, control.respond, control.admit, waits=waits)


def _bind(wanted: Wanted, logger: logging.Logger, patience: float) -> Listener | SocketFile:
    if wanted.is_auto:
        return _bind_auto(wanted.name, logger, patience)
    path = _path_in(wanted)
    if path is None:
        [listener] = bind_listeners([wanted.text])
        return listener
    if path.startswith("\0"):
        [listener] = bind_listeners(["unix:@" + path[1:]])
        return listener
    with _at_path(wanted, path):
        opened = open_path(path, wanted.backlog, patience)
    if notice := _distrust(wanted, os.fstat(opened.directory)):
        notice.log(logger)
    return opened


def check_services(settings: Settings) -> list[Notice]:
    """Raise the `ListenError` of a start, as far as it is known without binding.

    Return the warnings of a start. Where ``auto`` has its socket is known when it is made.
    """
    notices = []
    for wanted in wanted_by(settings, settings.name).values():
        path = None if wanted.is_auto else _path_in(wanted)
        if path is None or path.startswith("\0"):
            continue
        with _at_path(wanted, path):
            check_path(path)
            around = os.stat(os.path.dirname(os.path.abspath(path)))
        if notice := _distrust(wanted, around):
            notices.append(notice)
    return notices


@contextmanager
def _at_path(wanted: Wanted, path: str) -> Iterator[None]:
    """Refuse a path that others than root can change, where that matters.

    An OSError of the block becomes a `ListenError`.
    """
    try:
        found = _changeable_by_others(path) if wanted.roots_alone else None
        if found is None:
            yield
            return
        reason = f"others than root can change {found}; with --user, take a directory of root's"
    except OSError as error:
        reason = reason_of(error)
    raise cannot_listen(wanted.text, reason, wanted.setting)


def _distrust(wanted: Wanted, around: os.stat_result) -> Notice | None:
    """Return the warning that penstockctl refuses a socket because of its directory, if it does."""
    if wanted.setting != "control" or not (reason := why_replaceable(around, os.geteuid())):
        return None
    return messages.CONTROL_SOCKET_REPLACEABLE.notice(address=wanted.text, reason=reason)


def _changeable_by_others(path: str) -> Entry | None:
    """Return the first directory of a path that others than root can change; None without one.

    Root would make and remove the socket where they have it lead. A directory with the sticky bit,
    such as ``/tmp``, may have the socket in it: there no other user can move what is root's.
    """
    with find(os.path.abspath(path)) as place:
        found = place.changeable
        if found is not None and found.is_sticky and found.path == os.path.dirname(place.path):
            return None
        return found


def _path_in(wanted: Wanted) -> str | None:
    """Return the path of a unix socket, with NUL before an abstract name; None for TCP.

    Raises `ListenError`.
    """
    if wanted.setting == "admin":
        return parse_address(wanted.text, "--admin").path
    try:
        return socket_path(wanted.text)
    except ValueError as error:
        raise cannot_listen(wanted.text, str(error), wanted.setting) from None


def _bind_auto(name: str, logger: logging.Logger, patience: float) -> SocketFile:
    """Return a socket in the first directory that can be used. Raises `NoDirectory`."""
    reasons = []
    squatted = []
    for place in of_server(os.environ, os.geteuid()):
        try:
            listener = open_in(place, name, BACKLOG, patience)
        except NotPrivate as error:
            squatted.append(str(error))
        except OSError as error:
            reasons.append(f"{place.path}: {reason_of(error)}")
        else:
            if squatted:
                messages.CONTROL_DIRECTORY_NOT_PRIVATE.log(
                    logger, reason="; ".join(squatted), address=listener.path
                )
            if not listener.name.endswith(f"/{name}.sock"):
                logger.info(
                    "control: a server that runs has the name %s: this one's socket is %s",
                    name,
                    listener.path,
                )
            return listener
    raise NoDirectory("; ".join([*squatted, *reasons]))


def _is_at(listener: Listener | SocketFile, wanted: Wanted) -> bool:
    """Return True if a passed socket is at the address that is wanted."""
    if wanted.is_auto:
        if not isinstance(listener, SocketFile):
            return False
        *directory, entry = listener.place
        usable = [_directory_of(each.path) for each in of_server(os.environ, os.geteuid())]
        return tuple(directory) in usable and is_name_of(entry, wanted.name)
    path = _path_in(wanted)
    if path is None:
        bound = listener.socket.getsockname()
        port = parse_address(wanted.text).port
        return not isinstance(bound, (str, bytes)) and port in (0, bound[1])
    if path.startswith("\0"):
        return os.fsencode(listener.socket.getsockname()) == os.fsencode(path)
    if not isinstance(listener, SocketFile):
        return False
    folder, entry = os.path.split(os.path.abspath(path))
    return listener.place == (*(_directory_of(folder) or (0, 0)), entry)


def _directory_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _listen(listener: Listener, backlog: int) -> None:
    try:
        listener.listen(backlog)
    except ListenError:
        listener.close()
        raise
