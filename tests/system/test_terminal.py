"""The terminal that a server is started in the foreground of: its hang-up, and what is none."""

from __future__ import annotations

import os
import pty
import select
import signal

import pytest

from penstock.system.terminal import AT_HANG_UP_SECONDS, Terminal


def look_at_hang_up(writer: int) -> None:
    """Write whether the terminal of this process has hung up: before, at that time, and later."""
    terminal = Terminal()
    before = terminal.has_just_hung_up(1.0)
    os.write(writer, b"ready")
    poll = select.poll()
    poll.register(0, 0)
    poll.poll(30_000)
    at, later = 2.0, 2.0 + AT_HANG_UP_SECONDS + 0.1
    found = (before, terminal.has_just_hung_up(at), terminal.has_just_hung_up(later))
    os.write(writer, b"%d%d%d" % found)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of forkpty:DeprecationWarning")
@pytest.mark.parametrize("in_background", [False, True])
def test_a_hang_up_counts_for_some_seconds_and_in_the_foreground_alone(in_background: bool) -> None:
    reader, writer = os.pipe()
    child, master = pty.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if in_background and (job := os.fork()):
                os.waitpid(job, 0)
            else:
                if in_background:
                    os.setpgid(0, 0)
                look_at_hang_up(writer)
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 5) == b"ready"
    os.close(master)
    assert os.read(reader, 10) == (b"000" if in_background else b"010")
    os.waitpid(child, 0)
    os.close(reader)
