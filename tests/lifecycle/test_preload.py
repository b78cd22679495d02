"""--preload: one import for all workers, and a warning of what does not survive a fork."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from support.lifecycle import Supervised, write_app
from support.load import Load


def rollup(pid: int, field: str) -> int:
    """Return a number of KiB from a process's ``smaps_rollup``."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


LARGE = """
count = open('imports', 'a').write('.')
table = {number: [str(number)] for number in range(200_000)}
"""


def test_the_application_is_loaded_once_and_its_memory_is_shared(
    tmp_path: Path, transport: str
) -> None:
    write_app(tmp_path, "one", LARGE)
    with Supervised(tmp_path, "-w", "2", "--preload", "--transport", transport) as server:
        assert (tmp_path / "imports").read_text() == "."
        with Load(server.address, keep_alive=4, closing=4) as load:
            load.wait_for(200)
        load.counts.check()
        for pid in server.serving():
            own = rollup(pid, "Private_Dirty")
            # Half of it would be the worker's own after one collection without gc.freeze().
            assert own < rollup(pid, "Rss") / 2
        (first, *_) = sorted(server.serving())
        os.kill(first, signal.SIGKILL)
        server.wait_for_serving(2, {first})
        assert (tmp_path / "imports").read_text() == "."
        # A reload loads anew.
        old = server.serving()
        write_app(tmp_path, "two", LARGE)
        server.signal(signal.SIGHUP)
        server.wait_for_serving(2, old)
        assert server.served_by()[0] == "two"
        assert server.stop() == 0
    assert not [line for line in server.lines if "[WARNING]" in line]


def test_what_does_not_survive_a_fork_is_named(tmp_path: Path) -> None:
    before = (
        "import socket, threading\n"
        "thread = threading.Thread(target=threading.Event().wait, name='poller', daemon=True)\n"
        "thread.start()\n"
        "first, second = socket.socketpair()\n"
        "held = threading.Lock()\n"
        "held.acquire()\n"
    )
    write_app(tmp_path, "one", before)
    with Supervised(tmp_path, "--preload") as server:
        assert server.served_by()[0] == "one"
        assert server.stop() == 0
    warnings = "\n".join(line for line in server.lines if "[WARNING]" in line)
    assert "poller" in warnings
    assert "socket" in warnings
    assert "lock" in warnings


def test_a_preloaded_application_that_does_not_load_is_rolled_back(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--preload") as server:
        old = server.serving()
        (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("LookupError: on purpose")
        assert server.served_by()[0] == "one"
        assert server.serving() == old
        write_app(tmp_path, "two")
        server.signal(signal.SIGHUP)
        server.wait_for_serving(1, old)
        assert server.served_by()[0] == "two"
        assert server.stop() == 0
