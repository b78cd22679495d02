"""The thread that waits for the disk."""

from __future__ import annotations

import logging
import threading

import pytest

from penstock.transport.python.disk import Disk
from support.wire import DEADLINE


def test_what_waits_for_a_stuck_disk_has_a_bound() -> None:
    disk = Disk(logging.getLogger("penstock.tests"), idle=0.0)
    begun, go = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        go.wait(DEADLINE)

    disk.run(stuck)
    assert begun.wait(DEADLINE)
    disk.run(lambda: None, most=1)
    with pytest.raises(OSError, match="fallen behind"):
        disk.run(lambda: None, most=1)
    disk.run(lambda: None)  # what closes a file is never refused
    go.set()
    assert disk.catch_up(DEADLINE)
    disk.run(lambda: None, most=1)
    assert disk.catch_up(DEADLINE)
