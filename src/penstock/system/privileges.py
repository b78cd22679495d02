"""Who a worker runs as, and what its processes are called.

Names are looked up before anything is forked, so that a wrong one is told at once. Whoever becomes
another user does so for good: all of the process's user and group ids change, none is saved. HOME,
USER and LOGNAME are left as they are, as gunicorn leaves them; ``--env`` sets them.
"""

from __future__ import annotations

import grp
import importlib
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from penstock.config.settings import Settings

# Bits of CapEff in /proc/PID/status; capabilities(7).
_CAP_SETGID = 1 << 6
_CAP_SETUID = 1 << 7

_LARGEST_ID = (1 << 32) - 2  # the one above it means "leave it alone" to the kernel


@dataclass(frozen=True)
class Identity:
    """User, group and further groups for a process to have, all of them known to be possible."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, in order."""

    def is_current(self) -> bool:
        """Tell whether this process has it already, and can get back to no other."""
        return (
            os.getresuid() == (self.uid,) * 3
            and os.getresgid() == (self.gid,) * 3
            and set(os.getgroups()) | {self.gid} == {*self.groups, self.gid}
        )

    def own(self, path: str) -> None:
        """Give a file to this user, as a log that has to be opened again. Raises OSError."""
        os.chown(path, self.uid, self.gid)


def identity_of(settings: Settings) -> Identity | None:
    """Return who workers are to be; None where the settings leave it alone.

    Raises `SettingsError` for names that there are not, and for what this process may not become.
    """
    if settings.user is None and settings.group is None:
        return None
    uid, account = _user(settings)
    gid = _group(settings, account)
    if account is not None:
        # What the user may read by way of another group, as after a login.
        groups = tuple(sorted(set(os.getgrouplist(account.pw_name, gid))))
    else:
        groups = (gid,)
    identity = Identity(uid, gid, groups)
    _check_allowed(settings, identity)
    return identity


def become(identity: Identity) -> None:
    """Give this process, and all that it forks, an identity; raises `SettingsError`.

    Groups come first: afterwards the right to change them is gone.
    """
    if identity.is_current():
        return
    try:
        if os.geteuid() == 0 or _capabilities() & _CAP_SETGID:
            os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except (OSError, ValueError) as error:  # more groups than the system takes: ValueError
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot become user {identity.uid} and group {identity.gid}: {reason} "
            "(settings: user, group)"
        ) from None
    if not identity.is_current():  # a sandbox may allow the calls, and ignore them
        raise SettingsError(
            f"this process did not become user {identity.uid} and group {identity.gid}, though "
            "the system said so (settings: user, group)"
        )


def title_of(settings: Settings, application: str) -> str:
    """Return the name for titles: that of the settings, or the application's as it was typed."""
    return settings.name if settings.name is not None else application


def set_title(role: str, name: str) -> bool:
    """Call this process ``penstock: ROLE [NAME]`` where the package setproctitle is installed.

    ``role`` is ``supervisor``, or ``worker 2``. Tell whether it was done.
    """
    try:
        importlib.import_module("setproctitle").setproctitle(f"penstock: {role} [{name}]")
    except Exception:  # it is not there, or not in working order: the title is a nicety
        return False
    return True


def _user(settings: Settings) -> tuple[int, pwd.struct_passwd | None]:
    """Return the number of the user, and the entry of the database where there is one."""
    name = settings.user
    if name is None:
        return os.geteuid(), None
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        if not _is_number(name):
            raise _wrong(settings, "user", "there is no such user") from None
        try:
            account = pwd.getpwuid(int(name))
        except KeyError:
            return int(name), None
    return account.pw_uid, account


def _group(settings: Settings, account: pwd.struct_passwd | None) -> int:
    name = settings.group
    if name is not None:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            if not _is_number(name):
                raise _wrong(settings, "group", "there is no such group") from None
            return int(name)
    if account is not None:
        return account.pw_gid
    # Otherwise it would keep the group of root.
    raise _wrong(
        settings, "user", "the system has no entry for it, so that its group is not known: set "
        "group as well",
    )  # fmt: skip


def _check_allowed(settings: Settings, identity: Identity) -> None:
    if identity.is_current() or os.geteuid() == 0:
        return
    capabilities = _capabilities()
    uid_allowed = identity.uid == os.geteuid() or capabilities & _CAP_SETUID
    gid_allowed = identity.gid == os.getegid() or capabilities & _CAP_SETGID
    for name, allowed in (("user", uid_allowed), ("group", gid_allowed)):
        if not allowed:
            given = name if getattr(settings, name) is not None else "user"
            raise _wrong(settings, given, "only root may change to it; start as root, or as it")


def _capabilities() -> int:
    """Return the effective capabilities of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= _LARGEST_ID


def _wrong(settings: Settings, name: str, reason: str) -> SettingsError:
    value, source = getattr(settings, name), settings.source_of(name)
    return SettingsError(f"bad value {value!r} for {name} (from {source}): {reason}")
