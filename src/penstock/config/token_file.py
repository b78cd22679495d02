"""The file of ``--admin-token-file``: the token without which the dashboard shows nothing.

Messages name the file, and never what it has.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from penstock import messages
from penstock.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.messages import Notice

LEAST: Final = 16
"""Characters of a token: a shorter one can be guessed by a program that tries many."""

MOST: Final = 1024
"""Characters of a token: it has to fit into a field of a request."""

_VISIBLE = re.compile(r"[!-~]+")


def read_token(path: str | Path) -> tuple[str, list[Notice]]:
    """Return the SHA-256 of the token in a file, in hexadecimal, and warnings about the file.

    Raises `SettingsError`.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MOST + 3)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from None
    token = content.decode("latin-1").strip()
    if not LEAST <= len(token) <= MOST or not _VISIBLE.fullmatch(token):
        raise _wrong(
            f"{path} has to have one line with a token of {LEAST} to {MOST} visible characters of "
            "ASCII, as from openssl rand -hex 32"
        )
    return digest_of(token), _warnings(path, status)


def _warnings(path: str | Path, status: os.stat_result) -> list[Notice]:
    """Return a warning where every user may read or write the file.

    None where its group may: an administrator has chosen that, such as 640 for root's file.
    """
    bits = {"read": stat.S_IROTH, "write": stat.S_IWOTH}
    may = [name for name, bit in bits.items() if status.st_mode & bit]
    if not may:
        return []
    from shlex import quote

    quoted = quote(str(path))
    command = f"chmod 600 {quoted}"
    if status.st_uid != os.geteuid():  # which could not read it any more
        command = f"chown {os.geteuid()} {quoted} && {command}"
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    what = " and ".join(may)
    return [messages.TOKEN_FILE_OPEN.notice(what=what, path=path, mode=mode, command=command)]


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal."""
    import hashlib  # loads OpenSSL, which a server without a dashboard does without

    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"{what} (setting: admin_token_file)")
