"""A bad line between client and server (scenario 50), in a network namespace of the test's own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from support.invariant import faulty_server
from support.server_process import ROOT, checkout_environ
from support.wire import Client, chunked

NETEM = "delay 100ms 20ms loss 5% reorder 10%"
RUN_AT_MOST = 60.0


def transfer_both_ways() -> None:
    """Send and receive a few megabytes over the bad line; run inside of the namespace."""
    arguments = ["--header-timeout", "20s", "--body-timeout", "20s", "--write-timeout", "20s"]
    lines = 100_000
    with faulty_server(*arguments) as server:
        with Client(server.address) as client:
            client.socket.settimeout(RUN_AT_MOST)
            assert client.request("GET", "/hello").body == b"hello"
            body = bytes(range(256)) * 2000
            assert client.request("POST", "/echo", body=body).body == body
            framing = {"Transfer-Encoding": "chunked"}
            blocks = [body[start : start + 5000] for start in range(0, len(body), 5000)]
            assert client.request("POST", "/echo", framing, chunked(*blocks)).body == body
            received = client.request("GET", f"/pattern?{lines}").body
            assert received == b"".join(b"%07d\n" % number for number in range(lines))
        assert server.stop() == 0
        assert len([line for line in server.lines if "[INFO]" not in line]) == 0


def in_namespace(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--net", *command],
        env=checkout_environ(),
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=RUN_AT_MOST,
        check=False,
    )


def test_fault_50_a_line_with_delay_loss_and_reordering_delivers_every_byte() -> None:
    if not all(map(shutil.which, ("unshare", "ip", "tc"))):
        pytest.skip("no unshare, ip or tc here")
    bad_line = f"ip link set lo up && tc qdisc add dev lo root netem {NETEM}"
    possible = in_namespace("sh", "-c", bad_line)
    if possible.returncode:
        pytest.skip(f"no bad line can be made here: {possible.stderr.strip()}")
    path = "import sys; sys.path[:0] = ['.', 'faults']; import test_network"
    code = f"{path}; test_network.transfer_both_ways()"
    ended = in_namespace("sh", "-c", f'{bad_line} && exec "$0" -c "$1"', sys.executable, code)
    assert ended.returncode == 0, ended.stderr


def test_fault_50_the_same_transfers_over_a_good_line() -> None:
    transfer_both_ways()
