"""What has to hold whatever happens to a server: the others are served, and nothing is left.

`unharmed` looks at a server's process before and after a fault: a probe is answered in time,
descriptors and threads are back where they were, memory has not grown past a bound, a
bystander's connection was served all the time, and the log has the lines that were announced
and no others.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.transport.config import TransportConfig
from support.descriptors import links
from support.server_process import ROOT, ServerProcess
from support.wire import Client

PROBE_WITHIN = 4.0
"""Seconds within which a server that was harmed has to answer another client, on a busy machine."""

GONE_WITHIN = 20.0
"""Seconds in which what a fault left behind has to be gone."""

GROWTH = 24 * 1024 * 1024
"""Bytes that memory may grow: what buffers of a few connections take, and no storm of them."""

FAULTY = "support.faulty:app"


def eventually(condition: Callable[[], object], within: float = GONE_WITHIN) -> Any:
    """Return the first true value of ``condition``, or its last one when the time is over."""
    pause = threading.Event()
    end = time.monotonic() + within
    while not (value := condition()) and time.monotonic() < end:
        pause.wait(0.01)
    return value


def faulty_server(*arguments: str, application: str = FAULTY, **process: Any) -> ServerProcess:
    """Return a process that serves `support.faulty`, and stops without waiting for stragglers.

    It serves alone: what is measured here is of the process that serves, and what a supervisor does
    about a worker is tested in tests/lifecycle. ``process`` is what `ServerProcess` takes by name.
    """
    return ServerProcess(
        application,
        "--no-supervisor",
        "--drain-linger",
        "0s",
        *arguments,
        **({"cwd": ROOT / "tests"} | process),
    )


def probe(server: ServerProcess, path: str = "/hello") -> bytes:
    """Ask on a fresh connection, to its end; return the body of what is a 200 in time."""
    begin = time.monotonic()
    with Client(server.address) as client:
        response = client.request("GET", path, {"Connection": "close"})
        taken = time.monotonic() - begin
        assert client.is_closed_by_server()
    assert response.status == 200
    assert response.complete
    assert taken < PROBE_WITHIN, f"the probe took {taken:.2f} s"
    return response.body


def descriptors(server: ServerProcess) -> list[str]:
    """Return what the server's descriptors lead to."""
    return sorted(links(server.process.pid).values())


def status(server: ServerProcess, field: str) -> int:
    """Return a number of ``/proc/PID/status``: ``VmRSS`` and ``VmHWM`` in KiB, ``Threads``."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1])


def processor_seconds(server: ServerProcess) -> float:
    """Return the processor time that the server has taken so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bystander:
    """A client on a connection of its own that asks again and again, and wants its answers."""

    def __init__(self, server: ServerProcess) -> None:
        self.served = 0
        self.trouble: list[str] = []
        self._client = Client(server.address)
        self._stop = threading.Event()
        self._ask()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        begin = time.monotonic()
        response = self._client.request("GET", "/hello")
        taken = time.monotonic() - begin
        if (response.status, response.body) != (200, b"hello"):
            self.trouble.append(f"{response.status} {response.body!r}")
        if taken > PROBE_WITHIN:
            self.trouble.append(f"an answer took {taken:.2f} s")
        self.served += 1

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                self._ask()
        except (OSError, AssertionError) as error:
            self.trouble.append(repr(error))

    def leave(self) -> None:
        """Stop asking, and fail for an answer that was wrong, late or missing."""
        self._stop.set()
        self._thread.join(GONE_WITHIN)
        self._client.close()
        assert not self._thread.is_alive()
        assert not self.trouble, self.trouble[:5]


COUNT = "[INFO] ... and "
"""What the line begins with that counts the refusals which have no line each."""
REFUSALS_LOGGED = TransportConfig().error_log_repeats


class LinesSince:
    """The server's log lines since some moment. A record is one line; tracebacks are indented."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = len(server.lines_so_far())

    def all(self) -> list[str]:
        """Return the lines, with those that continue a record."""
        return self._server.lines_so_far()[self._before :]

    def records(self) -> list[str]:
        """Return the first line of each record, but for counts of earlier refusals."""
        return [line for line in self.all() if not line.startswith("  ") and COUNT not in line]

    def expect(self, patterns: Sequence[str]) -> None:
        """Wait for one record for each pattern, in any order; others are an error.

        Of more refusals of one kind than `REFUSALS_LOGGED` the server logs the first few, also of
        those that came before the block, and counts the others later.
        """
        numbers = Counter(patterns)
        few = [pattern for pattern in patterns if numbers[pattern] <= REFUSALS_LOGGED]
        eventually(lambda: len(self.records()) >= len(few))
        left = self.records()
        for pattern in few:
            found = next((line for line in left if re.search(pattern, line)), None)
            assert found is not None, f"no {pattern!r} among {left}"
            left.remove(found)
        for pattern in numbers.keys() - set(few):
            found_ones = [line for line in left if re.search(pattern, line)]
            assert len(found_ones) <= REFUSALS_LOGGED
            left = [line for line in left if line not in found_ones]
        assert not left, f"unexpected in the log: {left}"


@contextmanager
def unharmed(
    server: ServerProcess,
    log: Sequence[str] | None = (),
    *,
    growth: int = GROWTH,
    bystander: bool = True,
) -> Iterator[LinesSince]:
    """Run a fault in the block, and check that the server is as before; see the module's text.

    ``log`` is an expression for each line that the fault is expected to write, or None where the
    test looks at the lines itself. ``growth`` is in bytes.
    """
    probe(server)
    lines = LinesSince(server)
    open_before, threads = descriptors(server), status(server, "Threads")
    memory = status(server, "VmRSS")
    other = Bystander(server) if bystander else None
    try:
        yield lines
    finally:
        if other is not None:
            other.leave()
    assert server.process.poll() is None, "the server has died"
    probe(server)
    eventually(lambda: len(descriptors(server)) <= len(open_before))
    left = descriptors(server)
    assert len(left) <= len(open_before), f"{open_before} became {left}"
    assert eventually(lambda: status(server, "Threads") <= threads)
    grown = (status(server, "VmRSS") - memory) * 1024
    assert grown <= growth, f"memory grew by {grown / 1e6:.1f} MB"
    if log is not None:
        lines.expect(log)
