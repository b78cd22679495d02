"""The threads that wait for the disk."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from functools import partial
from queue import SimpleQueue

import pytest

from penstock.transport.python.disk import Disk
from support.serving import eventually
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


def test_several_threads_do_what_waits_up_to_their_number() -> None:
    disk = Disk(logging.getLogger("penstock.tests"), idle=0.0, name="send", threads=2)
    begun: SimpleQueue[int] = SimpleQueue()
    go = [threading.Event() for _ in range(3)]

    def stuck(number: int) -> None:
        begun.put(number)
        go[number].wait(DEADLINE)

    for number in range(3):
        disk.run(partial(stuck, number))
    assert {begun.get(timeout=DEADLINE), begun.get(timeout=DEADLINE)} == {0, 1}
    assert begun.empty()
    go[1].set()
    assert begun.get(timeout=DEADLINE) == 2
    disk.end()
    go[0].set()
    go[2].set()
    eventually(lambda: not any(thread.name == "send" for thread in threading.enumerate()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_file_is_closed_by_the_thread_or_before_that_in_a_forked_child() -> None:
    disk = Disk(logging.getLogger("penstock.tests"), idle=0.0)
    go = threading.Event()
    done: list[str] = []

    def stuck() -> None:
        go.wait(DEADLINE)

    disk.run(stuck)
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the thread closes it
    disk.close(file.close, lambda: done.append("given back"))
    assert not file.closed
    child = os.fork()
    if not child:
        disk.close_in_child()
        os._exit(7 if file.closed and not done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not done
    go.set()
    assert disk.catch_up(DEADLINE)
    assert file.closed
    assert done == ["given back"]
