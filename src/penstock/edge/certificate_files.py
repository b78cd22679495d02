"""The files of certificates and keys: reading them, and finding out that they have changed.

They are opened by the process that the operator has started, the supervisor as a rule: with
``--user`` it is root, and a key may be readable by root alone. Then no file is read that another
user can change: a worker would put a link in its place, and be given another server's key.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock import messages
from penstock.config.checks import chosen_transport
from penstock.edge.certificates import der_of, read_certificate
from penstock.edge.pairs import certificates_in, checked_pair, has_key
from penstock.edge.tls import (
    CertificatePair,
    OrderedCertificates,
    TicketKeys,
    TlsError,
    TlsMaterial,
)
from penstock.records import dataclass
from penstock.system.paths import find, not_roots_alone

if TYPE_CHECKING:
    from penstock.config.settings import Settings

CHECK_SECONDS = 2.0
"""How often the files are looked at. A change counts when it has lasted for that long, so that a
program that writes certificate and key one after the other has written both."""

_WARN_DAYS = (21, 7, 1)
"""How many days before a certificate expires it is warned of. Those that renew themselves, of 90
days, have been renewed at 30."""

_EXPIRY_SECONDS = 600.0
"""How often that is looked at."""

_DAY = 86400.0

_MOST_FILE_BYTES = 1 << 20
_MOST_BYTES = 2 << 20
"""Of all files together: the channel to a worker takes one message of 4 MiB, in base64."""

_State = tuple[int, int, int, int] | None
"""Device, inode, time of the last change in nanoseconds and size of a file; None without one."""


def read_material(
    settings: Settings, ticket_keys: Iterable[bytes], ordered: OrderedCertificates | None = None
) -> TlsMaterial:
    """Return what TLS is served with, by the settings. Raises `TlsError`.

    ``ordered`` is served behind what the files hold (setting: acme_domain).
    """
    contents = _Contents(settings)
    pairs = []
    for index, path in enumerate(settings.certfile):
        certificate = contents.read(path, "certfile")
        if settings.keyfile:
            key_path = settings.keyfile[index]
            key = contents.read(key_path, "keyfile")
        else:
            key_path, key = path, certificate
        try:
            if not settings.keyfile and certificates_in(certificate, path) and not has_key(key):
                raise TlsError(f"{path} has no private key: name its file with --keyfile")
            pairs.append(checked_pair(certificate, key, path, key_path))
        except TlsError as error:
            named = "settings: certfile, keyfile" if settings.keyfile else "setting: certfile"
            raise TlsError(f"{error} ({named})") from None
    _check_ciphers(settings)
    client_ca = None
    if settings.ca_certs is not None:
        found = certificates_in(contents.read(settings.ca_certs, "ca_certs"), settings.ca_certs)
        for block in found:
            try:
                read_certificate(der_of(block))
            except ValueError as error:
                raise TlsError(
                    f"{settings.ca_certs} has a malformed certificate: {error}"
                ) from None
        client_ca = b"".join(found)
    if ordered is None:
        ordered = OrderedCertificates()
    material = TlsMaterial(
        (*pairs, *ordered.pairs),
        client_ca=client_ca,
        client_certificates=settings.cert_reqs,
        minimum_version=settings.tls_min_version,
        ciphers=settings.ciphers,
        ticket_keys=tuple(ticket_keys),
        challenges=ordered.challenges,
        alpn_challenges=ordered.alpn_challenges,
        key_log=settings.tls_key_log,
    )
    if chosen_transport(settings) != "native":
        # Before workers are forked: their user may not be able to read Python's own files.
        import ssl  # noqa: F401
    elif material.pairs:
        _check_for_native(material)
    return material


def _check_for_native(material: TlsMaterial) -> None:
    """Raise `TlsError` for what the native transport's library cannot use, and OpenSSL can.

    A worker that has other certificates goes on with them, but no new one could start.
    """
    from penstock import _native

    # Without the file of session secrets: root would make it, for workers that cannot write to it.
    _native.NativeTransport.check_tls(replace(material, key_log=None))


def _check_ciphers(settings: Settings) -> None:
    if settings.ciphers is None:
        return
    import ssl  # where it is needed only, to keep the start short

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(settings.ciphers)
    except ssl.SSLError:
        raise TlsError(
            f"OpenSSL knows none of the ciphers {settings.ciphers!r} (from "
            f"{settings.source_of('ciphers')})"
        ) from None


class _Contents:
    """Reads the files of one set of settings, each once."""

    def __init__(self, settings: Settings) -> None:
        self._trusts = _trusts(settings)
        self._read: dict[str, bytes] = {}

    def read(self, path: str, setting: str) -> bytes:
        """Return what a file holds. Raises `TlsError`."""
        if path not in self._read:
            self._read[path] = self._read_file(path, setting)
            total = sum(map(len, self._read.values()))
            if total > _MOST_BYTES:
                raise TlsError(f"the certificates and keys have more than {_MOST_BYTES >> 20} MiB")
        return self._read[path]

    def _read_file(self, path: str, setting: str) -> bytes:
        try:
            if not self._trusts and (reason := not_roots_alone(path)):
                raise TlsError(
                    f"the file {path} ({setting}) is refused, because root reads it for workers of "
                    f"another user, and {reason}: make root the owner of the file and of its "
                    "directories (chown root, chmod go-w)"
                )
            # Without waiting: it may be a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise TlsError(f"{path} ({setting}) is not a file")
                content = file.read(_MOST_FILE_BYTES + 1)
        except OSError as error:
            hint = ""
            if isinstance(error, PermissionError):
                hint = ": start as root with --user, or let this user read it"
            raise TlsError(f"cannot read {path} ({setting}): {error.strerror}{hint}") from None
        if len(content) > _MOST_FILE_BYTES:
            raise TlsError(f"{path} ({setting}) is larger than {_MOST_FILE_BYTES >> 20} MiB")
        return content


@dataclass
class Expiry:
    """What is reported of one certificate: for `penstockctl status`."""

    names: tuple[str, ...]
    not_after: float
    """Unix time."""


class CertificateKeeper:
    """The material of a server, renewed when its files change, with its ticket keys.

    `tick` has to be called about once a second, by one thread.
    """

    def __init__(
        self,
        settings: Settings,
        logger: logging.Logger,
        on_change: Callable[[TlsMaterial], object] | None = None,
        *,
        ordered: OrderedCertificates | None = None,
        before: CertificateKeeper | None = None,
        tickets: TicketKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read and check the files; ``on_change`` gets each new material. Raises `TlsError`.

        ``ordered`` is what the server has ordered itself.

        ``before`` is the keeper that this one takes the place of: its ticket keys are used on, and
        what it has warned of is not warned of again. ``tickets`` are those of another process that
        this one takes the place of.
        """
        self._logger = logger
        self.on_change = on_change
        """May be set later, when it is known who serves the material."""
        self._ordered = ordered
        self._clock, self._wall_clock = clock, wall_clock
        if before is None:
            self.tickets = tickets or TicketKeys.made(clock())
            self._warned: dict[tuple[tuple[str, ...], float], float] = {}
        else:
            self.tickets = before.tickets
            self._warned = before._warned
        self._check_at = clock() + CHECK_SECONDS
        self._look_at_expiry_at = clock()
        self._settings = settings
        self._states = _states(settings)
        self._seen = self._states
        self.material = read_material(settings, self.tickets.keys, ordered)
        """What is served now."""

    @property
    def certificates(self) -> list[Expiry]:
        """The certificates that are served, in the order of the settings."""
        return [Expiry(pair.names, pair.not_after) for pair in self.material.pairs]

    def tick(self) -> None:
        """Look at what is due: the files, the ticket keys, the days that are left."""
        now = self._clock()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            self._look_at_files()
        if now >= self.tickets.rotate_at:
            self.tickets = TicketKeys.made(now, self.tickets.keys)
            self._use(replace(self.material, ticket_keys=self.tickets.keys))
        if now >= self._look_at_expiry_at:
            self._look_at_expiry_at = now + _EXPIRY_SECONDS
            for pair in self.material.pairs:
                # The process that orders reports itself that it cannot renew one in time.
                if self._ordered is None or pair not in self._ordered.pairs:
                    self._look_at_expiry(pair)

    def _look_at_files(self) -> None:
        states = _states(self._settings)
        changed, lasted = states != self._states, states == self._seen
        self._seen = states
        if not changed or not lasted:
            return
        self._states = states
        try:
            self.replace(read_material(self._settings, self.tickets.keys, self._ordered))
        except TlsError as error:
            messages.CERTIFICATES_NOT_RENEWED.log(self._logger, error=error)

    def replace(self, material: TlsMaterial) -> None:
        """Use other material from now on; nothing happens if it is the same."""
        if material == self.material:
            return
        names = ", ".join(pair.label for pair in material.pairs)
        self._logger.info("the certificates have changed: new connections get %s", names)
        self._use(material)
        self._look_at_expiry_at = self._clock()

    def order(self, ordered: OrderedCertificates) -> None:
        """Serve other certificates that were ordered, and other challenges."""
        before = self._ordered.pairs if self._ordered is not None else ()
        others = self.material.pairs[: len(self.material.pairs) - len(before)]
        self._ordered = ordered
        material = replace(
            self.material,
            pairs=(*others, *ordered.pairs),
            challenges=ordered.challenges,
            alpn_challenges=ordered.alpn_challenges,
        )
        if material != self.material:
            self._use(material)

    def _use(self, material: TlsMaterial) -> None:
        self.material = material
        if self.on_change is not None:
            self.on_change(material)

    def _look_at_expiry(self, pair: CertificatePair) -> None:
        left = (pair.not_after - self._wall_clock()) / _DAY
        key = pair.names, pair.not_after
        step = next((days for days in (0, *sorted(_WARN_DAYS)) if left < days), None)
        if step is None or self._warned.get(key, _WARN_DAYS[0] + 1) <= step:
            return
        self._warned[key] = step
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(pair.not_after))
        if step == 0:
            messages.CERTIFICATE_EXPIRED.log(self._logger, names=pair.label, date=date)
        else:
            messages.CERTIFICATE_EXPIRES.log(
                self._logger, names=pair.label, date=date, days=max(0, int(left))
            )


def _states(settings: Settings) -> tuple[_State, ...]:
    """Return the states of the files that the paths lead to now, through all symbolic links."""
    ca_certs = [settings.ca_certs] if settings.ca_certs is not None else []
    paths = (*settings.certfile, *settings.keyfile, *ca_certs)
    look = os.stat if _trusts(settings) else _look_as_root
    found: list[_State] = []
    for path in paths:
        try:
            status = look(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _trusts(settings: Settings) -> bool:
    """Return True if paths are followed wherever they lead: no other user could gain by that."""
    return not (settings.has_user and os.geteuid() == 0)


def _look_as_root(path: str) -> os.stat_result:
    """Return the status of a file; raises OSError also where others could change its place.

    A file system that a user has mounted there could make that last for ever.
    """
    with find(path) as place:
        if place.changeable is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
