"""prometheus_client in its mode for several processes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

from programs.agents import BIN, EXPECTED, PAUSE, WITHIN, WORKERS, workers
from programs.program import Program, Run
from support.server_process import ServerProcess

HOOK = """\
from prometheus_client import multiprocess

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""
REQUESTS = 400
PER_WORKER = 50
MOST_SLOTS = 4 * WORKERS + 2
"""The workers before and after a reload, a successor of each, and what loads the application."""


def check(run: Run) -> None:
    """Count exactly what was answered, while workers are reloaded, killed and replaced."""
    ways = [(preload, by_slot) for preload in ([], ["--preload"]) for by_slot in (False, True)]
    for number, (preload, by_slot) in enumerate(ways):
        folder, hook = run.path(f"metrics{number}"), run.folder / "gunicorn.conf.py"
        hook.write_text("" if by_slot else HOOK)
        flags = ["--config", str(hook), "--workers", str(WORKERS), *preload]
        flags += ["--max-requests", str(PER_WORKER)]
        environ = {}
        if by_slot:
            flags += ["--prometheus-multiproc", str(folder)]
        else:
            environ = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
        python = [os.path.join(os.environ[BIN], "python")]
        with run.serve(
            "metrics", *flags, environ=environ, python=python, allowed=EXPECTED
        ) as server:
            check_counts(server, folder, by_slot)


def check_counts(server: ServerProcess, folder: Path, by_slot: bool) -> None:
    answered, processes = load(server, REQUESTS)
    server.signal(signal.SIGHUP)
    end = time.monotonic() + WITHIN
    while True:
        found = workers(server)
        answered += sum(map(len, found.values()))
        if len(found) == WORKERS and not set(found) & processes:
            break
        assert time.monotonic() < end, (found, processes)
        threading.Event().wait(PAUSE)
    killed = next(iter(found))
    os.kill(killed, signal.SIGKILL)
    while (folder / f"gauge_livesum_{killed}.db").exists():
        assert time.monotonic() < end, list(folder.iterdir())
        threading.Event().wait(PAUSE)
    more, _ = load(server, REQUESTS)
    assert value(server, "requests_total") == answered + more
    # A worker and its successor live at the same time for a moment.
    assert 1 <= value(server, "workers_with_requests") <= WORKERS + 1
    # Counters of workers that have left count on, so their files stay, unless others take them.
    files = len(list(folder.glob("counter_*.db")))
    if by_slot:
        assert files <= MOST_SLOTS
    else:
        assert files > WORKERS


def load(server: ServerProcess, count: int) -> tuple[int, set[int]]:
    """Send requests; return how many were answered, and by which processes."""
    processes = set()
    for _ in range(count):
        with urllib.request.urlopen(server.url, timeout=20) as response:
            processes.add(int(response.read()))
    return count, processes


def value(server: ServerProcess, name: str) -> float:
    """Return a metric."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as response:
        text = response.read().decode()
    found = re.search(rf"(?m)^{name} (\S+)$", text)
    return float(found[1]) if found else 0.0


PROGRAMS = [
    Program(
        "prometheus",
        "prometheus_client",
        check,
        "its mode for several processes counts exactly what was answered, while workers are "
        "replaced after 50 requests, reloaded and killed; with and without `--preload`, and with "
        "`--prometheus-multiproc`",
        packages=("prometheus_client",),
        agents=True,
    )
]
