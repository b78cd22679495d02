"""What Linux shows of a process in /proc: its children, processor time, memory and threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
EVENT_WAITS = {"x86_64": ("232", "281"), "aarch64": ("22",)}.get(platform.machine(), ())
"""The numbers of the system calls in which a thread waits for the events of an epoll."""
WAITING_THREADS = 2
"""How many threads of a worker do so while it has nothing to do."""


def tree(pid: int) -> list[int]:
    """Return the process and all its descendants, parents first."""
    found = [pid]
    for parent in found:  # grows while it is walked
        tasks = PROC / str(parent) / "task"
        for task in _names(tasks):
            found += [int(child) for child in _read(tasks / task / "children").split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user's and system's, that the tree has used so far.

    The time of children that have ended and were waited for counts too.
    """
    ticks = 0
    for member in tree(pid):
        # The second field is the command in parentheses, and may itself hold blanks.
        fields = _read(PROC / str(member) / "stat").rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_SECOND


def core_seconds(core: int) -> float:
    """Return how long a core has run programs so far, and how long its host had others run.

    Interrupts are left out: they serve network and disk, and belong to no process.
    """
    for line in _read(PROC / "stat").splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, _irq, _softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + steal) / TICKS_PER_SECOND
    return 0.0


def resident_kib(pid: int) -> int:
    """Return the tree's resident memory in KiB.

    Counted by walking the page tables (smaps_rollup): VmRSS in `status` is kept in counters per
    processor, and may be off by some hundred KiB.
    """
    return sum(own_resident_kib(member) for member in tree(pid))


def own_resident_kib(pid: int) -> int:
    """Return the resident memory of one process in KiB; 0 without it."""
    return _field(_read(PROC / str(pid) / "smaps_rollup"), "Rss:")


def peak_kib(pid: int) -> int:
    """Return the most resident memory that each process of the tree has had, together, in KiB."""
    return sum(_field(_read(PROC / str(member) / "status"), "VmHWM:") for member in tree(pid))


def thread_count(pid: int) -> int:
    """Return how many threads the tree has."""
    return sum(_field(_read(PROC / str(member) / "status"), "Threads:") for member in tree(pid))


def descriptor_count(pid: int) -> int:
    """Return how many descriptors one process has open."""
    try:
        return len(list((PROC / str(pid) / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended


def peer_ports(pid: int) -> set[int]:
    """Return the ports of all clients that a process has TCP connections with, over IPv4.

    That is exact while the process stands still (SIGSTOP).
    """
    return {_port(remote) for _, remote, state in _sockets(pid) if state != _LISTEN}


def listening_ports(pid: int) -> set[int]:
    """Return the ports that a process listens on, over IPv4."""
    return {_port(local) for local, _, state in _sockets(pid) if state == _LISTEN}


_LISTEN = "0A"


def _sockets(pid: int) -> Iterator[tuple[str, str, str]]:
    """Yield both addresses and the state of each TCP socket that a process has open."""
    links = _links(PROC / str(pid) / "fd")
    for line in _read(PROC / "net" / "tcp").splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in links:
            yield fields[1], fields[2], fields[3]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _links(folder: Path) -> set[str]:
    found = set()
    for name in _names(folder):
        try:
            found.add(os.readlink(folder / name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # closed in the meantime
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended


def thread_states(pid: int) -> list[str]:
    """Return the letters of the states of all threads of the tree."""
    stats = [
        _read(PROC / str(member) / "task" / task / "stat")
        for member in tree(pid)
        for task in _names(PROC / str(member) / "task")
    ]
    return [stat.rpartition(")")[2].strip()[:1] for stat in stats if stat]


def waits_for_events(pid: int, task: int) -> bool:
    """Return True if a thread waits for the events of an epoll: see `EVENT_WAITS`."""
    return _read(PROC / str(pid) / "task" / str(task) / "syscall").split(" ")[0] in EVENT_WAITS


def waiting_workers(workers: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
    """Return the threads that wait for events, of each worker that has nothing to do.

    Each is with how often it has gone to sleep. The leader is one of them, and the thread that
    waits for the supervisor is the other one.
    """
    found = {}
    for worker in workers:
        tasks = PROC / str(worker) / "task"
        waiting = [int(task) for task in _names(tasks) if waits_for_events(worker, int(task))]
        if len(waiting) == WAITING_THREADS:
            statuses = [(task, _read(tasks / str(task) / "status")) for task in waiting]
            found[worker] = [
                (task, _field(status, "voluntary_ctxt_switches:")) for task, status in statuses
            ]
    return found


def tracers(pid: int) -> set[int]:
    """Return which processes trace the threads of a process; 0 is for one without."""
    tasks = PROC / str(pid) / "task"
    return {_field(_read(tasks / task / "status"), "TracerPid:") for task in _names(tasks)}


def state(pid: int) -> str:
    """Return the letter of a process's state, ``Z`` for one that has ended; empty without it."""
    return _read(PROC / str(pid) / "stat").rpartition(")")[2].strip()[:1]


def session_members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            fields = _read(folder / "stat").rpartition(")")[2].split()
            if fields and fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(folder.name))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended


def _field(text: str, name: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)
