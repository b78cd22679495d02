"""Who a worker runs as, and what its processes are called.

Names are looked up before anything is forked, so that a wrong one is told at once. Whoever becomes
another user does so for good: all of the process's user and group ids change, none is saved. HOME,
USER and LOGNAME are left as they are, as gunicorn leaves them; ``--env`` sets them.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from penstock.errors import SettingsError

# Bits of CapEff in /proc/PID/status; capabilities(7).
CAP_SETGID = 1 << 6
CAP_SETUID = 1 << 7


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


def become(identity: Identity) -> None:
    """Give this process, and all that it forks, an identity; raises `SettingsError`.

    Groups come first: afterwards the right to change them is gone.
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
    if not identity.is_current():  # a sandbox may allow the calls, and ignore them
        raise SettingsError(
            f"this process did not become user {identity.uid} and group {identity.gid}, though "
            "the system said so (settings: user, group)"
        )


def set_title(role: str, name: str) -> bool:
    """Call this process ``penstock: ROLE [NAME]`` where the package setproctitle is installed.

    ``role`` is ``supervisor``, or ``worker 2``. Tell whether it was done.
    """
    try:
        importlib.import_module("setproctitle").setproctitle(f"penstock: {role} [{name}]")
    except Exception:  # it is not there, or not in working order: the title is a nicety
        return False
    return True


def capabilities() -> int:
    """Return the effective capabilities of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0
