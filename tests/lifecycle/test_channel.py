"""An application that writes to its worker's channel, by a defect or on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import processes
from support.invariant import eventually
from support.lifecycle import Supervised, json_of, write_app

WRITES = """
import gc, os, select, threading
from pathlib import Path
from penstock.worker.channel import Channel

[sock] = [c.socket for c in gc.get_objects() if isinstance(c, Channel) and c.socket.fileno() >= 0]

pause = threading.Event()

def write():
    while not Path("go").exists():
        pause.wait(0.02)
    try:
        Path("go").unlink()
    except FileNotFoundError:
        return  # another worker writes
    Path("writer").write_text(str(os.getpid()))
    try:
        {write}
    except OSError:
        pass  # the supervisor has closed its end

threading.Thread(target=write, daemon=True).start()
"""

KINDS = {
    "without an end": "while select.select([], [sock], []): sock.send(b'x' * 65536)",
    "no JSON": "sock.sendall(b'garbage\\n')",
    "a missing field": """sock.sendall(b'{"event": "stuck"}\\n')""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_writes_garbage_to_its_channel_is_replaced(tmp_path: Path, kind: str) -> None:
    write_app(tmp_path, "one", WRITES.replace("{write}", KINDS[kind]))
    with Supervised(tmp_path, "--workers", "2", "--control", "control.sock") as server:
        server.wait_for_serving(2)
        before = processes.resident_kib(server.supervisor)
        (tmp_path / "go").touch()
        assert eventually((tmp_path / "writer").exists)
        writer = int((tmp_path / "writer").read_text() or 0)
        server.wait_for_serving(2, without={writer})
        assert server.served_by()[0] == "one"
        status = json_of(server.control("--control", "control.sock", "--json", "status"))
        assert status["crashes"] == {"wrote to its channel": 1}
        assert "PEN-7022" in status["last_error"]["message"]
        assert processes.resident_kib(server.supervisor) < before + (32 << 10)
        server.stop()
    assert "internal error" not in "".join(server.lines_so_far())
