"""Measure the memory of supervisor and worker, and the time of a start: `benchmarks/memory.py`.

    .venv/bin/python benchmarks/memory.py
    .venv/bin/python benchmarks/memory.py --base /path/to/a/checkout

Serves a bare application with one worker of four threads, first without any option and then with
one at a time, with both transports, and reads what the kernel says of the processes after a
request. With ``--base``, another checkout is measured beside this one. The first start of each
compiles the bytecode, which an installed package has, and does not count. The figures are written
into docs/performance/memory.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import certificate, environment, processes
from harness.bare import APPLICATION, write_figures
from harness.servers import free_port

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
TRANSPORTS = ("native", "python")
PAGE = environment.ROOT / "docs" / "performance" / "memory.md"


@dataclass(frozen=True)
class Variant:
    """What is switched on beside the application."""

    name: str
    arguments: tuple[str, ...] = ()
    needs: str = ""
    """A module without which it cannot be measured."""


def variants(folder: Path) -> list[Variant]:
    """Return what is measured; ``folder`` has the files."""
    tls = ("--certfile", f"{folder}/certificate.pem", "--keyfile", f"{folder}/key.pem")
    redirect = (*tls, "--redirect-http", f"{HOST}:{free_port()}")
    return [
        Variant("nothing"),
        Variant("`--access-logfile FILE`", ("--access-logfile", f"{folder}/access.log")),
        Variant("`--static /static=DIR`", ("--static", f"/static={folder}")),
        Variant("`--compress`", ("--compress",)),
        Variant("`--statsd HOST:PORT`", ("--statsd", f"{HOST}:8125")),
        Variant("`--admin HOST:PORT`", ("--admin", f"{HOST}:{free_port()}")),
        Variant("`--otel`", ("--otel",), needs="opentelemetry"),
        Variant("TLS", tls),
        Variant("TLS, `--redirect-http`", redirect),
    ]


@dataclass(frozen=True)
class Memory:
    """What a process has, in KiB."""

    resident: int
    proportional: int
    """Each page divided by the number of processes that share it."""
    private: int


@contextmanager
def started(
    checkout: Path, folder: Path, arguments: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start a server, and yield it with the seconds that its first answer took."""
    variables = environment.server_variables() | {
        "PYTHONPATH": str(checkout / "src"),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    port = free_port()
    command = [sys.executable, "-m", "penstock", "bare:app", "--bind", f"{HOST}:{port}"]
    begun = time.perf_counter()
    with subprocess.Popen(
        [*command, "--threads", "4", "--control", f"{folder}/control", *arguments],
        cwd=folder,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            ask(server, port, tls="--certfile" in arguments)
            yield server, time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE_SECONDS)


def ask(server: subprocess.Popen[bytes], port: int, *, tls: bool) -> None:
    """Send a request as soon as the server listens, and read the answer."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            client = socket.create_connection((HOST, port), PATIENCE_SECONDS)
            break
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server has not started: {server.args!r}") from None
            time.sleep(0.001)
    with client:
        if tls:
            import ssl

            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client = context.wrap_socket(client)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while block := client.recv(65536):
            answer += block
    if b" 200 " not in answer[:20]:
        raise SystemExit(f"the server answers {answer[:40]!r}")


def memory_of(pid: int) -> Memory:
    """Return what the kernel says of a process."""
    fields = {}
    for line in (processes.PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value)
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return Memory(fields["Rss"], fields["Pss"], private)


def memory_at_rest(server: subprocess.Popen[bytes]) -> tuple[Memory, Memory]:
    """Return the memory of supervisor and worker, once it does not change any more."""
    before: tuple[Memory, Memory] | None = None
    while True:
        supervisor, worker = processes.tree(server.pid)[:2]
        now = memory_of(supervisor), memory_of(worker)
        if now == before:
            return now
        before = now
        time.sleep(0.5)


def memory_table(checkouts: dict[str, Path], folder: Path, starts: int) -> list[str]:
    """Return the lines of the table of memory."""
    lines = [
        "| on | transport | of | supervisor | private | proportional "
        "| worker | private | proportional |",
        "| -- | --------- | -- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    left_out = []
    for variant in variants(folder):
        if variant.needs and not has_module(variant.needs):
            left_out.append(f"{variant.name} was left out: {variant.needs} is not installed.")
            continue
        for transport in TRANSPORTS:
            for name, checkout in checkouts.items():
                found = []
                for _ in range(starts + 1):
                    arguments = ("--transport", transport, *variant.arguments)
                    with started(checkout, folder, arguments) as (server, _seconds):
                        found.append(memory_at_rest(server))
                del found[0]  # it has compiled what the others have read
                shown = [
                    f"{statistics.median(kibibytes) / 1024:.1f}"
                    for process in zip(*found, strict=True)
                    for kibibytes in each_of(process)
                ]
                cells = [variant.name, transport, name, *shown]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    return [*lines, *(["", *left_out] if left_out else [])]


def has_module(name: str) -> bool:
    """Return True if a module is installed."""
    from importlib.util import find_spec

    return find_spec(name) is not None


def each_of(found: Sequence[Memory]) -> list[list[int]]:
    """Return the figures of one process from all starts, by kind."""
    return [
        [each.resident for each in found],
        [each.private for each in found],
        [each.proportional for each in found],
    ]


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have used."""
    nanoseconds = 0
    for member in processes.tree(pid):
        for task in (processes.PROC / str(member) / "task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def start_table(checkouts: dict[str, Path], folder: Path, starts: int) -> list[str]:
    """Return the lines of the table of starts, which are measured by turns."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(starts + 1):  # the first one compiles, and is left out
        begun, used = time.perf_counter(), children_seconds()
        subprocess.run([sys.executable, "-c", ""], check=True)
        took = time.perf_counter() - begun, children_seconds() - used
        found.setdefault(("`python -c ''`", ""), []).append(took)
        for transport in TRANSPORTS:
            for name, checkout in checkouts.items():
                with started(checkout, folder, ("--transport", transport)) as (server, seconds):
                    took = seconds, processor_seconds(server.pid)
                found.setdefault((f"penstock, {transport}", name), []).append(took)
    lines = [
        "| command | of | median, ms | quartiles | least | processor time, ms | least |",
        "| ------- | -- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (command, name), (_, *times) in found.items():
        elapsed, busy = ([1000 * each for each in kind] for kind in zip(*times, strict=True))
        low, middle, high = statistics.quantiles(elapsed, n=4)
        lines.append(
            f"| {command} | {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {min(elapsed):.0f} "
            f"| {statistics.median(busy):.0f} | {min(busy):.0f} |"
        )
    print("\n".join(lines), flush=True)
    return lines


def children_seconds() -> float:
    """Return the processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="another checkout, with its native transport")
    parser.add_argument("--base-name", default="before")
    parser.add_argument("--memory-starts", type=int, default=5)
    parser.add_argument("--starts", type=int, default=40)
    given = parser.parse_args(argv)
    checkouts = {"now": environment.ROOT}
    if given.base is not None:
        checkouts = {given.base_name: given.base.resolve(), **checkouts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(APPLICATION)
        certificate.make(folder / "certificate.pem", folder / "key.pem")
        starting = start_table(checkouts, folder, given.starts)
        remembered = memory_table(checkouts, folder, given.memory_starts)
    head = (
        f"{environment.machine()}; {time.strftime('%Y-%m-%d', time.gmtime())}. "
        f"MiB, medians of {given.memory_starts} starts; times of {given.starts} starts by turns, "
        f"beside a load of {os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores."
    )
    write_figures(PAGE, [head, "", *remembered, "", *starting])


if __name__ == "__main__":
    main()
