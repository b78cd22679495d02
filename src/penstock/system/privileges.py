"""The user and the groups of a process, and its title.

`become` cannot be undone: all user and group ids of the process change, none is saved, and no
capability is left. HOME, USER and LOGNAME stay unchanged, as under gunicorn; ``--env`` sets them.
"""

from __future__ import annotations

import importlib
import os

from penstock.errors import SettingsError
from penstock.records import dataclass
from penstock.system import capabilities
from penstock.system.descriptors import close_inherited
from penstock.system.prctl import set_command_name


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

    @property
    def is_root(self) -> bool:
        """Whether the user is root, which keeps its capabilities."""
        return self.uid == 0


def forbid_setuid_programs(identity: Identity) -> None:
    """Keep this thread, and all threads and processes that it starts, from gaining privileges."""
    if not identity.is_root:
        capabilities.forbid_new_privileges()


def become(identity: Identity, *, setuid_programs: bool = False) -> None:
    """Change this process, and all that it forks later, to an identity. Raises `SettingsError`.

    Unless the identity is root's, no capability is left afterwards, and no exec can give one: with
    ``setuid_programs`` an exec of a setuid program still can. Where the identity changes,
    descriptors are closed that the server was started with and does not use.
    """
    try:
        if not identity.is_root and not setuid_programs:
            capabilities.forbid_new_privileges()
            capabilities.empty_bounding_set()
        if not identity.is_current():
            close_inherited()
            # The groups change first: the process loses the right to that with its user id.
            if os.geteuid() == 0 or capabilities.effective() & capabilities.CAP_SETGID:
                os.setgroups(identity.groups)
            os.setresgid(identity.gid, identity.gid, identity.gid)
            os.setresuid(identity.uid, identity.uid, identity.uid)
        if not identity.is_root:
            capabilities.drop()
            capabilities.check_dropped(nothing_new=not setuid_programs)
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


def drop_capabilities() -> None:
    """Give up the capabilities of this thread, if it was started with some, but not as root.

    systemd's ``AmbientCapabilities=`` gives them, so that the supervisor can listen on port 80.
    Raises `SettingsError` where they cannot be given up.
    """
    if os.geteuid() == 0 or not capabilities.has_any():
        return
    capabilities.drop()
    if capabilities.has_any():
        raise SettingsError("the capabilities that this process was started with cannot be dropped")


COMMAND_NAME = "penstock"
"""Begins the name that the kernel has for each process of the server."""


_SHORT_NAMES = {"supervisor": "", "preloader": "-loader", "certificates": "-certs"}


def short_name(role: str) -> str:
    """Return what stands for a role after `COMMAND_NAME`, where 15 characters are all there are."""
    return _SHORT_NAMES.get(role, "-" + role.replace("worker ", "w").replace(" ", "-"))


def set_title(role: str, name: str) -> bool:
    """Name the process: ``penstock: ROLE [NAME]`` where the package setproctitle is installed.

    ``role`` is ``supervisor`` or, say, ``worker 2``. Without that package ``ps -o comm`` and
    ``top`` tell the processes apart, by 15 characters: ``penstock`` for the supervisor,
    ``penstock-w2``, ``penstock-loader``, ``penstock-helper``. Return True if the title was set.
    """
    set_command_name(COMMAND_NAME + short_name(role))
    try:
        importlib.import_module("setproctitle").setproctitle(f"penstock: {role} [{name}]")
    except Exception:  # the package is missing or broken: the server works without a title
        return False
    return True
