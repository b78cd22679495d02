"""Temporary files without a name, and the directory for them.

The module `tempfile` does the same, but loads `shutil`, `random` and what these need, which is
more than half a megabyte in each process; and it may not be loaded on first use: where no
descriptor is left, an import fails.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from io import FileIO

_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_DIRECTORIES = ("/tmp", "/var/tmp", "/usr/tmp")

_WITHOUT_UNNAMED = frozenset({errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL})
"""What open(2) fails with where the kernel, or a file system, does not know ``O_TMPFILE``."""

_MOST_NAMES = 100
"""How many names are tried. Each has 64 random bits: only a file system that reports every name as
taken needs the bound."""


def default_directory() -> str:
    """Return the system's directory for temporary files, by the rules of `tempfile.gettempdir`.

    Where no directory takes a file it is ``/tmp``: writing there reports the reason.
    """
    try:
        return _usable_directory()
    except FileNotFoundError:
        return "/tmp"


@cache  # of a result, and not of a failure, which may pass
def _usable_directory() -> str:
    named = (os.environ.get(variable) for variable in _VARIABLES)
    candidates = [*filter(None, named), *_DIRECTORIES, os.curdir]
    for candidate in candidates:
        directory = os.path.abspath(candidate)
        try:
            temporary_file(directory).close()
        except OSError:
            continue
        return directory
    raise FileNotFoundError(errno.ENOENT, "no usable directory for temporary files")


def temporary_file(directory: str | None = None) -> FileIO:
    """Return an open file without a name, for reading and writing, without a buffer.

    ``directory`` is by default that of the system. Whatever happens to the process, no file stays
    behind. Raises OSError.
    """
    if directory is None:
        directory = default_directory()
    unnamed = getattr(os, "O_TMPFILE", 0)
    if unnamed:
        try:
            return FileIO(os.open(directory, unnamed | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb+")
        except OSError as error:
            if error.errno not in _WITHOUT_UNNAMED:
                raise
    descriptor, path = named_file(os.path.join(directory, "penstock-"))
    os.unlink(path)
    return FileIO(descriptor, "rb+")


def named_file(beginning: str) -> tuple[int, str]:
    """Create a file that this user alone may read, and return its descriptor and its path.

    The path is ``beginning`` and a random end. Raises OSError.
    """
    for _ in range(_MOST_NAMES):
        path = beginning + os.urandom(8).hex()
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file", beginning)
