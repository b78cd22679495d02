"""The file of ``--admin-token-file``: the token without which the dashboard shows nothing.

Messages name the file, and never what it has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

LEAST: Final = 16
"""Characters of a token: a shorter one can be guessed by a program that tries many."""

MOST: Final = 1024
"""Characters of a token: it has to fit into a field of a request."""

_VISIBLE = re.compile(r"[!-~]+")


def read_token(path: str | Path) -> str:
    """Return the SHA-256 of the token in a file, in hexadecimal. Raises `SettingsError`."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST + 3)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from None
    token = content.decode("latin-1").strip()
    if not LEAST <= len(token) <= MOST or not _VISIBLE.fullmatch(token):
        raise _wrong(
            f"{path} has to have one line with a token of {LEAST} to {MOST} visible characters of "
            "ASCII, as from openssl rand -hex 32"
        )
    return digest_of(token)


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal."""
    import hashlib  # loads OpenSSL, which a server without a dashboard does without

    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"{what} (setting: admin_token_file)")
