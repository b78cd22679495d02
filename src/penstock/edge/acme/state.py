"""The directory in which the ordering process keeps what it has.

Each file is written whole to another name and then renamed, so that a process that is killed, or a
disk that is full, leaves the old one. Each is checked when it is read: one that is damaged counts
as missing, and is written anew. Several hosts may share the directory, also over NFS: a file is
opened anew for each reading, and NFS promises that this finds what was closed before
(close-to-open consistency), and that rename replaces a file as a whole.

    AUTHORITY/account.json        the account's key and address
    AUTHORITY/NAME/order.json     an order that is open: the key of its certificate, its address
    AUTHORITY/NAME/pair.pem       the certificate with its chain, and its key
    AUTHORITY/NAME/schedule.json  failures, and the renewal window
    published.json                what all hosts have to serve besides: see `program`
    hosts/                        a file for each process that serves what was published
    lease.N                       see `lease`
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

from penstock.edge.acme.schedule import Cause, Failure, Window
from penstock.edge.certificates import pem_blocks
from penstock.errors import PenstockError
from penstock.records import dataclass

T = TypeVar("T")

MOST_FILE_BYTES = 1 << 20
"""A longer file is none of ours: the longest has a pair, or the answer to a challenge."""

_PRIVATE = 0o700
_URL = re.compile(r"https://[!-~]{1,2000}")
_KEY = re.compile(
    r"-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{1,4000}-----END PRIVATE KEY-----\n"
)
_PUBLISHED = "published.json"


class StateError(PenstockError):
    """The directory cannot be used; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account at an authority."""

    key: str
    """PEM."""
    url: str
    """Empty until the authority has created it."""
    email: str


@dataclass(frozen=True, slots=True)
class Order:
    """An order that is open."""

    key: str
    """PEM: of the certificate that is ordered."""
    url: str
    """Empty until the authority has taken the order."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What `schedule` has to know of a name besides its files."""

    failure: Failure | None = None
    window: Window | None = None
    window_due: float = 0.0
    window_of: str = ""
    """The digest of the certificate that the window is for."""
    issued_at: float = 0.0
    attempts: int = 0
    """All that have failed in a row, whatever the cause: the kind of challenge alternates by it."""


@dataclass(frozen=True, slots=True)
class Published:
    """What every host that shares the directory has to serve."""

    number: int = 0
    """Grows with each change."""
    challenges: tuple[tuple[str, str, str], ...] = ()
    """Name, token and key authorization, for http-01."""
    alpn_challenges: tuple[tuple[str, str, str], ...] = ()
    """Name, certificate and key (PEM), for tls-alpn-01."""


class StateDirectory:
    """The directory, for one authority."""

    def __init__(self, path: str, authority: str) -> None:
        """``authority`` is the URL of its directory."""
        self.path = path
        self._authority = os.path.join(path, _name_of(authority))
        self._temporary = f".new-{socket.gethostname()[:64]}-{os.getpid()}"

    def open(self) -> None:
        """Make the directory, of mode 0700. Raises `StateError`."""
        try:
            os.makedirs(self.path, _PRIVATE, exist_ok=True)
            found = os.stat(self.path)
            if not stat.S_ISDIR(found.st_mode):
                raise StateError(f"{self.path} is no directory (setting: acme_dir)")
            if found.st_uid != os.geteuid():
                raise StateError(
                    f"{self.path} belongs to user {found.st_uid}, and has to belong to user "
                    f"{os.geteuid()}, who orders certificates: chown it (setting: acme_dir)"
                )
            if stat.S_IMODE(found.st_mode) != _PRIVATE:
                os.chmod(self.path, _PRIVATE)
            os.makedirs(os.path.join(self.path, "hosts"), _PRIVATE, exist_ok=True)
            os.makedirs(self._authority, _PRIVATE, exist_ok=True)
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be used by user {os.geteuid()}: {error.strerror}: make it "
                f"with install -d -m 700 -o USER {self.path} (setting: acme_dir)"
            ) from None

    # -- of the authority -------------------------------------------------------------------------

    def read_account(self) -> Account | None:
        """Return the account; None where there is none, or its file is damaged."""
        found = self._read_json(os.path.join(self._authority, "account.json"))
        if found is None:
            return None
        key, url, email = (found.get(name) for name in ("key", "url", "email"))
        if not (_is_key(key) and _is_url(url) and isinstance(email, str)):
            return None
        return Account(key, url, email)

    def write_account(self, account: Account) -> None:
        """Raises OSError."""
        content = {"key": account.key, "url": account.url, "email": account.email}
        self._write_json(os.path.join(self._authority, "account.json"), content)

    # -- of a name --------------------------------------------------------------------------------

    def read_order(self, name: str) -> Order | None:
        """Return the order that is open."""
        found = self._read_json(self._of(name, "order.json"))
        if found is None or not (_is_key(found.get("key")) and _is_url(found.get("url"))):
            return None
        return Order(found["key"], found["url"])

    def write_order(self, name: str, order: Order) -> None:
        """Raises OSError."""
        self._write_json(self._of(name, "order.json"), {"key": order.key, "url": order.url})

    def remove_order(self, name: str) -> None:
        """Forget the order that is open, if there is one."""
        with suppress(OSError):
            os.unlink(self._of(name, "order.json"))

    def read_pair(self, name: str) -> tuple[bytes, bytes] | None:
        """Return certificate chain and key in PEM, unchecked but for their form.

        A pair of another authority is better than none: it is taken where this one has none yet.
        """
        found = self._read_pair(self._of(name, "pair.pem"))
        if found is None:
            with suppress(OSError):
                for other in sorted(os.listdir(self.path)):
                    place = os.path.join(self.path, other, name, "pair.pem")
                    found = found or self._read_pair(place)
        return found

    def has_own_pair(self, name: str) -> bool:
        """Return True if there is a pair of this authority."""
        return self._read_pair(self._of(name, "pair.pem")) is not None

    def write_pair(self, name: str, certificate: bytes, key: bytes) -> None:
        """Raises OSError."""
        self._write(self._of(name, "pair.pem"), certificate.rstrip() + b"\n" + key)

    def read_schedule(self, name: str) -> Schedule:
        """Return what was written, or an empty one."""
        found = self._read_json(self._of(name, "schedule.json")) or {}
        try:
            failure, window = found.get("failure"), found.get("window")
            attempts = int(found.get("attempts", 0))
            return Schedule(
                failure
                and Failure(
                    min(max(int(failure["count"]), 1), 1000),
                    Cause(failure["cause"]),
                    _finite(failure["at"]),
                    _finite(failure["retry_at"]),
                ),
                window and Window(_finite(window["start"]), _finite(window["end"])),
                _finite(found.get("window_due", 0.0)),
                str(found.get("window_of", "")),
                _finite(found.get("issued_at", 0.0)),
                min(max(attempts, 0), 1000),
            )
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError):
            return Schedule()

    def write_schedule(self, name: str, schedule: Schedule) -> None:
        """Raises OSError."""
        failure, window = schedule.failure, schedule.window
        content: dict[str, Any] = {
            "window_due": schedule.window_due,
            "window_of": schedule.window_of,
            "issued_at": schedule.issued_at,
            "attempts": schedule.attempts,
        }
        if failure is not None:
            content["failure"] = {
                "count": failure.count,
                "cause": failure.cause.value,
                "at": failure.at,
                "retry_at": failure.retry_at,
            }
        if window is not None:
            content["window"] = {"start": window.start, "end": window.end}
        self._write_json(self._of(name, "schedule.json"), content)

    # -- of all hosts -----------------------------------------------------------------------------

    def read_published(self) -> Published:
        """Return what was published last, or an empty one."""
        found = self._read_json(os.path.join(self.path, _PUBLISHED)) or {}
        try:
            return Published(
                int(found["number"]), _triples(found["challenges"]), _triples(found["alpn"])
            )
        except (LookupError, TypeError, ValueError):
            return Published()

    def publish(self, published: Published) -> None:
        """Raises OSError."""
        content = {
            "number": published.number,
            "challenges": published.challenges,
            "alpn": published.alpn_challenges,
        }
        self._write_json(os.path.join(self.path, _PUBLISHED), content)

    def hosts(self) -> dict[str, Mapping[str, Any]]:
        """Return what the processes that serve have noted of themselves, by their names."""
        found: dict[str, Mapping[str, Any]] = {}
        with suppress(OSError):
            for name in os.listdir(os.path.join(self.path, "hosts")):
                if not name.startswith("."):
                    found[name] = self._read_json(os.path.join(self.path, "hosts", name)) or {}
        return found

    def note_host(self, name: str, content: Mapping[str, Any]) -> None:
        """Note something of this process. Raises OSError."""
        self._write_json(os.path.join(self.path, "hosts", name), content)

    def forget_host(self, name: str) -> None:
        """Remove the file of a process that has ended."""
        with suppress(OSError):
            os.unlink(os.path.join(self.path, "hosts", name))

    # -- files ------------------------------------------------------------------------------------

    def _of(self, name: str, file: str) -> str:
        return os.path.join(self._authority, name, file)

    def _read_pair(self, path: str) -> tuple[bytes, bytes] | None:
        content = _read(path)
        if content is None:
            return None
        blocks = pem_blocks(content)
        certificates = [block for label, block in blocks if label == "CERTIFICATE"]
        keys = [block for label, block in blocks if label == "PRIVATE KEY"]
        if not certificates or len(keys) != 1:
            return None
        return b"\n".join(certificates) + b"\n", keys[0] + b"\n"

    def _read_json(self, path: str) -> dict[str, Any] | None:
        content = _read(path)
        try:
            found = json.loads(content) if content is not None else None
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _write_json(self, path: str, content: Mapping[str, Any]) -> None:
        self._write(path, json.dumps(content, indent=1).encode() + b"\n")

    def _write(self, path: str, content: bytes) -> None:
        directory = os.path.dirname(path)
        os.makedirs(directory, _PRIVATE, exist_ok=True)
        temporary = os.path.join(directory, self._temporary)
        write_whole(temporary, content, lambda: os.rename(temporary, path))
        _sync_directory(directory)


def write_whole(temporary: str, content: bytes, then: Callable[[], T]) -> T:
    """Write a file to the disk, then call ``then``; leave nothing where that fails.

    Raises OSError.
    """
    with suppress(FileNotFoundError):
        os.unlink(temporary)  # a process of the same number was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            at = 0
            while at < len(content):
                at += os.write(descriptor, content[at:])
            os.fsync(descriptor)  # NFS and quotas report a full disk no sooner than here
        finally:
            os.close(descriptor)
        return then()
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open(descriptor, "rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MOST_FILE_BYTES else None


def _name_of(authority: str) -> str:
    """Return the name of an authority's directory: its host, and a digest of the whole URL."""
    host = re.sub("[^a-z0-9.-]", "_", (urlsplit(authority).hostname or "").lower())
    import hashlib  # loads OpenSSL, which a server without ACME does without

    return f"{host[:100]}-{hashlib.sha256(authority.encode()).hexdigest()[:8]}"


def _is_key(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_url(value: object) -> TypeGuard[str]:
    return value == "" or (isinstance(value, str) and _URL.fullmatch(value) is not None)


def _finite(value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError(value)
    return number


def _triples(value: Any) -> tuple[tuple[str, str, str], ...]:
    found = []
    for one, two, three in value:
        if not (isinstance(one, str) and isinstance(two, str) and isinstance(three, str)):
            raise TypeError(value)
        found.append((one, two, three))
    return tuple(found)
