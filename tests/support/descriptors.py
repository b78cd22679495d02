"""What a process has open."""

from __future__ import annotations

import os


def links(pid: int | str = "self") -> dict[int, str]:
    """Return what the descriptors of a process lead to, by their numbers."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(folder):
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:
            pass  # closed since the directory was read
    return found
