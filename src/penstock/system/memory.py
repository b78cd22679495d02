"""The memory of a process that has imported what it works with."""

from __future__ import annotations

import ctypes
import gc


def keep_what_is_loaded() -> None:
    """Give back the memory that only the start needed, and keep collections away from the rest.

    What is imported lives as long as the process. A collection that looked at it would write to,
    and so copy, each page that a process shares with the one that it was forked from. Of the
    system's allocators glibc's keeps freed memory until it is asked for it: a megabyte after the
    import of this package, more after that of an application.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
