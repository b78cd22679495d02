"""The identity that workers get, and the name of the processes, as the settings say."""

from __future__ import annotations

import grp
import os
import pwd

from penstock.config.settings import Settings
from penstock.errors import SettingsError
from penstock.system.capabilities import CAP_SETGID, CAP_SETUID, effective
from penstock.system.privileges import Identity

_LARGEST_ID = (1 << 32) - 2  # the id above it means "unchanged" to the kernel


def identity_of(settings: Settings) -> Identity | None:
    """Return the identity for the workers, or None if the settings name no user and no group.

    Names are looked up before any process is forked, so that a wrong name ends the start. Raises
    `SettingsError` for an unknown name, and for an identity that this process may not change to.
    """
    if settings.user is None and settings.group is None:
        return None
    uid, account = _user(settings)
    gid = _group(settings, account)
    if account is not None:
        # The user's supplementary groups as well, as after a login.
        groups = tuple(sorted(set(os.getgrouplist(account.pw_name, gid))))
    else:
        groups = (gid,)
    identity = Identity(uid, gid, groups)
    _check_allowed(settings, identity)
    return identity


def owner_of_paths(settings: Settings) -> tuple[int, int] | None:
    """Return the user and the group of unix sockets' paths (setting: bind_owner), -1 for neither.

    None where the setting says nothing. Raises `SettingsError` for an unknown name.
    """
    if settings.bind_owner is None:
        return None
    user, _, group = settings.bind_owner.partition(":")
    try:
        uid = -1 if not user else int(user) if _is_number(user) else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if _is_number(group) else grp.getgrnam(group).gr_gid
    except KeyError:
        raise _wrong(settings, "bind_owner", "there is no such user or group") from None
    return uid, gid


def title_of(settings: Settings, application: str) -> str:
    """Return the name for process titles: the setting ``name``, or the application as typed."""
    return settings.name if settings.name is not None else application


def _user(settings: Settings) -> tuple[int, pwd.struct_passwd | None]:
    """Return the user's id, and the user's entry in the database if there is one."""
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
    # Without a group the worker would keep the group of root.
    raise _wrong(
        settings,
        "user",
        "the system has no entry for this user, so its group is not known: set group as well",
    )


def _check_allowed(settings: Settings, identity: Identity) -> None:
    if identity.is_current() or os.geteuid() == 0:
        return
    held = effective()
    uid_allowed = identity.uid == os.geteuid() or held & CAP_SETUID
    gid_allowed = identity.gid == os.getegid() or held & CAP_SETGID
    for name, allowed in (("user", uid_allowed), ("group", gid_allowed)):
        if not allowed:
            given = name if getattr(settings, name) is not None else "user"
            reason = f"only root may change to another {given}: start as root or as this {given}"
            raise _wrong(settings, given, reason)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= _LARGEST_ID


def _wrong(settings: Settings, name: str, reason: str) -> SettingsError:
    value, source = getattr(settings, name), settings.source_of(name)
    return SettingsError(f"bad value {value!r} for {name} (from {source}): {reason}")
