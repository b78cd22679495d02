"""A file system that answers nothing, as a mount of FUSE or NFS whose server has gone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@contextmanager
def hanging_mount(place: Path) -> Iterator[None]:
    """Mount one on a directory; whatever looks into it waits until the end, or is killed.

    Skips the test where the system does not let root mount FUSE.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE: {error}")
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
        path = str(place).encode()
        if _LIBC.mount(b"penstock-test", path, b"fuse", 0, options.encode()):
            pytest.skip(f"no mount of FUSE: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert not _LIBC.umount2(path, _MNT_DETACH), os.strerror(ctypes.get_errno())
    finally:
        os.close(device)  # ends what still waits
