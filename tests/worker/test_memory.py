"""A worker with a bare application is small, and so is what it has for itself."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from support.server_process import START_WITHIN, ServerProcess

ROLLUP = Path("/proc/self/smaps_rollup")

pytestmark = pytest.mark.skipif(
    not ROLLUP.exists() or sys.version_info[:2] != (3, 11),
    reason="what Python itself takes differs between its versions",
)

MOST_KIB = 21 << 10
"""The aim, of which some 0.7 MiB are left: see docs/performance/memory.md."""

MOST_PRIVATE_KIB = 9 << 10
"""2 MiB more than is private now. A collection that writes to all pages would add 5."""

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def memory_of_a_worker(transport: str, folder: Path) -> tuple[int, int]:
    """Return what a worker has resident, and how much of that is private, in KiB."""
    # As in an installed package: the compiler takes memory, too.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    found = 0, 0
    for _ in range(2):  # the first start writes the bytecode
        with ServerProcess(
            *("bare:app", "--transport", transport, "--threads", "4", "--workers", "1"),
            cwd=folder,
            environ=bytecode,
        ) as server:
            with socket.create_connection(server.address, timeout=START_WITHIN) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while client.recv(65536):
                    pass
            pid = server.process.pid
            [worker] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            lines = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()[1:]
            fields = {name: int(size) for name, size, _ in map(str.split, lines)}
            found = fields["Rss:"], fields["Private_Clean:"] + fields["Private_Dirty:"]
    return found


@pytest.mark.parametrize("transport", ["native", "python"])
def test_a_worker_with_a_bare_application_has_21_mib_at_most(
    transport: str, tmp_path: Path
) -> None:
    if transport == "native":
        pytest.importorskip("penstock._native", reason="the native transport is not built")
    (tmp_path / "bare.py").write_text(APPLICATION)
    resident, private = memory_of_a_worker(transport, tmp_path)
    assert resident <= MOST_KIB
    assert private <= MOST_PRIVATE_KIB
