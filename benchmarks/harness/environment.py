"""Where servers are measured: a virtual environment of its own, two cores, the tools."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
VENV = ROOT / ".bench"
BIN = VENV / "bin"
SNAPSHOT = VENV / "snapshot"
LOCK = ROOT / ".bench.lock"
"""Beside the environment, not in it: making that anew would remove the lock."""
PEERS = "requirements/bench.txt"

DESCRIPTORS = 8192
"""Enough for some thousand connections, at both ends."""

SETTING_VARIABLES = ("PENSTOCK_", "GUNICORN_", "WEB_CONCURRENCY", "PORT", "PYTHON")
"""Beginnings of the variables that would change how a server runs, unseen."""

TOOLS = {
    "wrk": "wrk makes the load. On Debian and Ubuntu: apt-get install wrk",
    "taskset": "taskset pins programs to cores. On Debian and Ubuntu: apt-get install util-linux",
}


class EnvironmentProblem(Exception):
    """Something that measuring needs is missing; the text says what, and how to get it."""


def prepare() -> None:
    """Check for the tools and bring the virtual environment to what the peers' pins ask for."""
    if not sys.platform.startswith("linux"):
        raise EnvironmentProblem("The benchmarks read /proc and pin to cores: they need Linux.")
    for tool, advice in TOOLS.items():
        if shutil.which(tool) is None:
            raise EnvironmentProblem(f"{tool} is missing. {advice}")
    _raise_descriptor_limit()
    command = ["scripts/sync-venv", str(VENV), "bench", PEERS]
    variables = {**os.environ, "PYTHON": sys.executable}
    if subprocess.run(command, check=False, cwd=ROOT, env=variables).returncode:
        raise EnvironmentProblem(f"The environment {VENV} could not be made; see above.")
    _take_snapshot()


@contextmanager
def sole_run() -> Iterator[None]:
    """Hold the machine, as far as other runs of the benchmarks in this checkout are concerned."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                "Another run of the benchmarks is measuring. Two would disturb each other: wait."
            ) from None
        yield


def cores() -> tuple[int, int]:
    """Return the core for the server and the one for the load; the same where there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def server_variables() -> dict[str, str]:
    """Return the environment variables that a server is started with."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(SETTING_VARIABLES)
    }
    return {**inherited, "PYTHONPATH": f"{SNAPSHOT}:{BENCHMARKS}"}


def versions(distributions: list[str]) -> list[str]:
    """Return names with versions: of Python, of the distributions measured, and of wrk."""
    program = "import sys, importlib.metadata as m; [print(n, m.version(n)) for n in sys.argv[1:]]"
    listed = subprocess.run(
        [BIN / "python", "-c", program, *distributions],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    python = subprocess.run(
        [BIN / "python", "--version"], check=True, capture_output=True, text=True, timeout=30
    )
    # wrk takes --version for a wrong call, and its status tells so.
    wrk = subprocess.run(
        ["wrk", "--version"], check=False, capture_output=True, text=True, timeout=30
    )
    return [python.stdout.strip(), *listed.stdout.splitlines(), " ".join(wrk.stdout.split()[:2])]


def machine() -> str:
    """Return what kind of machine this is, in one line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    count = len(os.sched_getaffinity(0))
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{count} cores of {model}, {memory:.0f} GiB, Linux {kernel}"


def _take_snapshot() -> None:
    """Copy Penstock as it is now: an edit during the run must not change what is measured."""
    shutil.rmtree(SNAPSHOT, ignore_errors=True)
    shutil.copytree(
        ROOT / "src", SNAPSHOT, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    # A server that compiles itself at its start would keep some of the memory that this takes.
    subprocess.run([BIN / "python", "-m", "compileall", "-q", SNAPSHOT], check=True, timeout=120)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
