"""The user and the groups of a process, its capabilities, and its title.

`become` cannot be undone: all user and group ids of the process change, and none is saved. HOME,
USER and LOGNAME stay unchanged, as under gunicorn; ``--env`` sets them.
"""

from __future__ import annotations

import importlib
import os
import stat
from dataclasses import dataclass

from penstock.errors import SettingsError

# Bits of CapEff in /proc/PID/status; capabilities(7).
CAP_SETGID = 1 << 6
CAP_SETUID = 1 << 7


@dataclass(frozen=True)
class Identity:
    """The user, the group and the supplementary groups that a process should have."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, in order."""

    def is_current(self) -> bool:
        """Return True if this process has this identity, and cannot change to another."""
        return (
            os.getresuid() == (self.uid,) * 3
            and os.getresgid() == (self.gid,) * 3
            and set(os.getgroups()) | {self.gid} == {*self.groups, self.gid}
        )

    def own(self, path: str) -> None:
        """Give a file to this user, such as a log that the worker opens again. Raises OSError.

        Where another user than root can write to the directory, a name there may be a link that
        stands for a file of root's: links are not followed there.
        """
        if _is_roots(os.path.dirname(os.path.abspath(path))):
            os.chown(path, self.uid, self.gid)
            return
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # else a hard link
                os.fchown(descriptor, self.uid, self.gid)
        finally:
            os.close(descriptor)


def _is_roots(directory: str) -> bool:
    """Return True if only root can change the names in a directory. Raises OSError."""
    status = os.stat(directory)
    others = stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid == 0 and not status.st_mode & others


def become(identity: Identity) -> None:
    """Change this process, and all that it forks later, to an identity. Raises `SettingsError`.

    The groups change first, because the process loses the right to change them with its user id.
    """
    if identity.is_current():
        return
    try:
        if os.geteuid() == 0 or capabilities() & CAP_SETGID:
            os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except (OSError, ValueError) as error:  # more groups than the system takes: ValueError
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot become user {identity.uid} and group {identity.gid}: {reason} "
            "(settings: user, group)"
        ) from None
    if not identity.is_current():  # a sandbox may accept the calls and ignore them
        raise SettingsError(
            f"this process did not become user {identity.uid} and group {identity.gid}, although "
            "the system reported success (settings: user, group)"
        )


def set_title(role: str, name: str) -> bool:
    """Set the process title to ``penstock: ROLE [NAME]`` if the package setproctitle is installed.

    ``role`` is ``supervisor`` or, say, ``worker 2``. Return True if the title was set.
    """
    try:
        importlib.import_module("setproctitle").setproctitle(f"penstock: {role} [{name}]")
    except Exception:  # the package is missing or broken: the server works without a title
        return False
    return True


def capabilities() -> int:
    """Return the bits of this process's effective capabilities; 0 where they are not known."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0
