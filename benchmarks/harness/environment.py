"""Where servers are measured: a virtual environment of its own, two cores, the tools."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from applications import FILE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
VENV = ROOT / ".bench" / f"python{sys.version_info.major}.{sys.version_info.minor}"
"""An environment for each version of Python: what is measured with two of them stays apart."""
BIN = VENV / "bin"
SNAPSHOT = VENV / "snapshot"
LOCK = ROOT / ".bench.lock"
"""Beside the environment, not in it: making that anew would remove the lock."""
DEBIAN = VENV / "debian"
"""What is unpacked of Debian's packages."""
SERVED_FOLDER = VENV / "served"
SERVED_FILE = SERVED_FOLDER / "100-mib.bin"
CERTIFICATE = VENV / "certificate.pem"
KEY = VENV / "key.pem"

DESCRIPTORS = 20_000
"""Enough for 10,000 idle connections and the busy ones, at both ends."""

SETTING_VARIABLES = ("PENSTOCK_", "GUNICORN_", "WEB_CONCURRENCY", "PORT", "PYTHON")
"""Beginnings of the variables that would change how a server runs, unseen."""


class EnvironmentProblem(Exception):
    """Something that measuring needs is missing; the text says what, and how to get it."""


def check_platform() -> None:
    """Raise `EnvironmentProblem` where nothing can be measured."""
    if not sys.platform.startswith("linux"):
        raise EnvironmentProblem("The benchmarks read /proc and pin to cores: they need Linux.")
    if shutil.which("taskset") is None:
        raise EnvironmentProblem(
            "taskset pins programs to cores, and is missing. "
            "On Debian and Ubuntu: apt-get install util-linux"
        )


_programs = [BIN]


def use(folder: Path) -> None:
    """Take programs from another folder than the environment's own: where tests run, say."""
    _programs[0] = folder


def program(name: str) -> Path | None:
    """Return where a program is: the environment's own, or else the system's."""
    folders = [*_programs, DEBIAN / "usr/sbin", DEBIAN / "usr/bin", *map(Path, os.get_exec_path())]
    folders += [Path("/usr/sbin")]  # it holds nginx, and users seldom have it in their path
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def library_folders() -> list[Path]:
    """Return where unpacked packages have their libraries."""
    found = sysconfig.get_config_var("MULTIARCH")
    return [DEBIAN / "usr/lib" / found, DEBIAN / "usr/lib"] if found else [DEBIAN / "usr/lib"]


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


def end_as_interrupted() -> None:
    """Let SIGTERM do what Ctrl-C does: what was started has to be ended, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def cores() -> tuple[int, int]:
    """Return the core for the server and the one for the load; the same where there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let the calling thread, and the threads that it starts meanwhile, run on one core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def server_variables() -> dict[str, str]:
    """Return the environment variables that a server is started with."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(SETTING_VARIABLES)
    }
    return {
        **inherited,
        "PYTHONPATH": f"{SNAPSHOT}:{BENCHMARKS}",
        "LD_LIBRARY_PATH": ":".join(map(str, library_folders())),
        FILE_VARIABLE: str(SERVED_FILE),
    }


def versions(distributions: list[str], programs: list[str]) -> list[str]:
    """Return names with versions: of Python, of distributions, and of wrk or nginx."""
    listing = "import sys, importlib.metadata as m; [print(n, m.version(n)) for n in sys.argv[1:]]"
    found = _said("python", "--version") + _said("python", "-c", listing, *distributions)
    if "nginx" in programs:
        found += [line.rpartition(": ")[2].replace("/", " ") for line in _said("nginx", "-v")[:1]]
    if "wrk" in programs:
        # It takes --version for a wrong call, and says more than that.
        found += [" ".join(line.split()[:2]) for line in _said("wrk", "--version")[:1]]
    return found


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


def raise_descriptor_limit() -> None:
    """Allow as many connections as the scenarios need, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _said(name: str, *arguments: str) -> list[str]:
    """Return the lines that a program prints, whatever its status; none where it is missing."""
    path = program(name)
    if path is None:
        return []
    done = subprocess.run(
        [str(path), *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        env=server_variables(),
    )
    return done.stdout.splitlines()


def descriptors() -> int:
    """Return how many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
