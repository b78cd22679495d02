"""Opening files below a directory, whatever their names and the links on the way say.

Linux opens such a path in one call, openat2(2), which follows symbolic links as long as they stay
below the directory. Elsewhere, and where a container's filter forbids that call, the same is done
name by name.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import deque
from typing import Any

_OPENAT2 = 437  # the same number on every architecture of Linux
_RESOLVE_BENEATH = 0x08
_RESOLVE_NO_MAGICLINKS = 0x02
_TRIES = 8
"""How often openat2 is asked again: it gives EAGAIN while a directory is being renamed."""

_MOST_LINKS = 40  # as the kernel's MAXSYMLINKS

# A FIFO is opened without waiting for its writer, and a terminal does not become the process's own.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # needs no right to read


class Directory:
    """An open directory, and what is below it. Any thread may use it.

    Its descriptor is closed with the last reference, so that a thread that still uses it does not
    find the number given to another file.
    """

    __slots__ = ("_syscall", "descriptor", "identity", "path", "real_path")

    def __init__(self, path: bytes) -> None:
        """Open the directory; raises OSError."""
        self.descriptor = -1
        self.path = path
        self.descriptor = os.open(path, _DIRECTORY)
        status = os.fstat(self.descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.real_path = os.path.realpath(path)
        self._syscall = _find_openat2(self.descriptor)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def is_current(self) -> bool:
        """Return True if the path still leads to this directory; False also for none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def open_file(self, path: bytes) -> tuple[int, os.stat_result]:
        """Open a regular file below the directory for reading; return its descriptor and status.

        ``path`` is relative, and has no empty names. Raises OSError: EXDEV for a path that leads
        out, EISDIR for a directory, and EINVAL for what is no file either, which is not opened.
        """
        # Opening some devices does something, so it is not done to find out what they are.
        _require_file(os.stat(path, dir_fd=self.descriptor))
        try:
            descriptor = self._open(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # An absolute link counts as one that leads out, even if it comes back.
            descriptor = self._open(self._within(path))
        try:
            status = os.fstat(descriptor)
            _require_file(status)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def _within(self, path: bytes) -> bytes:
        """Return where a path leads, relative to the directory; raises OSError if that is outside.

        What it finds is opened as strictly as before: links may change meanwhile.
        """
        real = os.path.realpath(os.path.join(self.real_path, path))
        if not real.startswith(self.real_path.rstrip(b"/") + b"/"):
            raise OSError(errno.EXDEV, "it leads out of the directory")
        return real[len(self.real_path.rstrip(b"/")) + 1 :]

    def _open(self, path: bytes) -> int:
        if self._syscall is None:
            return open_by_name(self.descriptor, path)
        return _openat2(self._syscall, self.descriptor, path)


def open_by_name(directory: int, path: bytes) -> int:
    """Open a file below a directory, one name after the other; return its descriptor.

    Raises OSError, with EXDEV for a path that leads out of the directory.
    """
    above = [os.dup(directory)]  # the directories from there to where the path has come
    names = deque(path.split(b"/"))
    links = 0
    try:
        while True:
            name = names.popleft()
            if name == b"..":
                if len(above) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(above.pop())
            elif name not in (b"", b"."):
                kind = _WAY if names else _FILE
                try:
                    opened = os.open(name, kind | os.O_NOFOLLOW, dir_fd=above[-1])
                except OSError as error:
                    # What systems say of a link here: ELOOP, ENOTDIR or EMLINK.
                    target = _link(name, above[-1])
                    if target is None:
                        raise
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
                    if target.startswith(b"/"):
                        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from error
                    names.extendleft(reversed(target.split(b"/")))
                    continue
                if not names:
                    return opened
                above.append(opened)
            if not names:  # the path ends in a directory
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        for descriptor in above:
            os.close(descriptor)


def _link(name: bytes, directory: int) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _require_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _find_openat2(directory: int) -> Any:
    """Return the C library's ``syscall`` if openat2 works here, else None."""
    if sys.platform != "linux":
        return None
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    try:
        os.close(_openat2(syscall, directory, b"."))
    except OSError:
        return None  # ENOSYS of an old kernel, or EPERM of a container's filter
    return syscall


def _openat2(syscall: Any, directory: int, path: bytes) -> int:
    import ctypes

    how = (ctypes.c_uint64 * 3)(_FILE, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_TRIES):
        opened = syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_long(directory),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return int(opened)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number))
