"""Load, made on a core of its own, and what a server did under it."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness import browser, environment, processes
from harness.scenarios import Handshakes, Load
from harness.servers import HOST, Running

SCRIPTS = environment.BENCHMARKS / "harness"
GRACE_SECONDS = 30.0
"""How much longer than asked for wrk may take: it waits for its connections at the end."""


@dataclass(frozen=True)
class Answered:
    """What wrk, bulk, steady or tls_load counted."""

    requests: float
    """Of large responses, unfinished ones count too."""
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    """Failed connects, reads and writes, time-outs, and statuses from 400 on."""
    p999_ms: float | None = None


@dataclass(frozen=True)
class Sample:
    """One run of one server under one load."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """Microseconds of the server's processor time for each request, of any load."""
    p50_ms: float
    p99_ms: float
    requests: float
    errors: int
    disturbance: float
    """The share that others had of the server's core or the load's, 0.0 to 1.0; the larger."""
    alone: float | None = None
    """The rate without what the scenario adds, just before."""
    idle_kib: float | None = None
    """KiB resident for each idle connection."""
    load_share: float | None = None
    """The share of its core that made the load: near 1.0, the load was the limit."""
    p999_ms: float | None = None
    peak_mib: float | None = None
    """MiB that the server's processes had resident at most since they were started."""


def apply(
    server: Running,
    load: Load,
    background: Load | None,
    seconds: int,
    capacity: float | None = None,
) -> Sample:
    """Put load on a server, and another load beside it where one is given, and measure.

    ``capacity`` is the rate that an open load is a share of.
    """
    loads = [load] if background is None else [load, background]
    before = _Clocks.read(server)
    started = [_start(server, each, seconds, capacity) for each in loads]
    measured, *others = _collect(started, seconds)
    after = _Clocks.read(server)
    everything = measured.requests + sum(other.requests for other in others)
    return Sample(
        rate=measured.requests / measured.seconds,
        cpu_us=(after.server - before.server) / max(everything, 1) * 1e6,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        requests=everything,
        errors=measured.errors + sum(other.errors for other in others),
        disturbance=_disturbance(before, after),
        load_share=(after.load - before.load) / (after.wall - before.wall),
        p999_ms=measured.p999_ms,
        peak_mib=processes.peak_kib(server.pid) / 1024,
    )


@dataclass(frozen=True)
class _Clocks:
    """Readings of clocks, in seconds."""

    wall: float
    server: float
    """Processor time of the server."""
    load: float
    """Processor time of the programs that made the load and have ended."""
    server_core: float
    load_core: float

    @classmethod
    def read(cls, server: Running) -> _Clocks:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(
            time.monotonic(),
            processes.cpu_seconds(server.pid),
            ended.ru_utime + ended.ru_stime,
            *map(processes.core_seconds, environment.cores()),
        )


def _disturbance(before: _Clocks, after: _Clocks) -> float:
    on_server_core = after.server_core - before.server_core
    on_load_core = after.load_core - before.load_core
    server, load = after.server - before.server, after.load - before.load
    if len(set(environment.cores())) == 1:
        others = on_server_core - server - load
    else:
        others = max(on_server_core - server, on_load_core - load)
    return max(others, 0.0) / (after.wall - before.wall)


def parse(output: str) -> Answered:
    """Read the line of JSON that each program's output ends with. Raises `EnvironmentProblem`."""
    last_line = output.strip().rpartition("\n")[2]
    if not last_line.startswith("{"):
        raise environment.EnvironmentProblem(f"the load failed:\n{output}")
    counted = json.loads(last_line)
    return Answered(
        requests=counted["requests"],
        seconds=counted["duration_us"] / 1e6,
        p50_ms=counted["p50_us"] / 1e3,
        p99_ms=counted["p99_us"] / 1e3,
        errors=counted["errors"],
        p999_ms=counted["p999_us"] / 1e3 if "p999_us" in counted else None,
    )


def warm_up(servers: Sequence[Running], load: Load, seconds: int) -> None:
    """Put load on all servers at once, and leave its figures: each gets a share of the time."""
    started = [_start(server, load, seconds, None) for server in servers]
    _collect(started, seconds)


def _start(
    server: Running, load: Load, seconds: int, capacity: float | None
) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", str(environment.cores()[1])]
    said = b""
    if load.handshakes is not None:
        command += _tls_load(server, load, load.handshakes, seconds)
        said = _head(server, load)
    elif load.offered is not None and capacity is not None:
        command += _steady(server, load, load.offered * capacity, seconds)
        said = _head(server, load)
    else:
        command += _bulk(server, load, seconds) if load.bulk else _wrk(server, load, seconds)
    started = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=environment.VENV,
        env=environment.server_variables(),
    )
    assert started.stdin is not None
    with started.stdin as pipe:  # which takes a head at once
        pipe.write(said)
    started.stdin = None
    return started


def _head(server: Running, load: Load) -> bytes:
    closing = load.handshakes in (Handshakes.FULL, Handshakes.RESUMED)
    host = f"{HOST}:{server.port}"
    return browser.head(host, load.path, closing=closing, posted=load.posted)


def _tls_load(server: Running, load: Load, handshakes: Handshakes, seconds: int) -> list[str]:
    program = str(environment.program("tls_load"))
    command = [program, str(server.port), str(load.connections), str(seconds), handshakes.value]
    return [*command, str(load.posted or 0)]


def _steady(server: Running, load: Load, rate: float, seconds: int) -> list[str]:
    program = str(environment.program("steady"))
    return [program, str(server.port), str(load.connections), str(seconds), f"{rate:.0f}"]


def _bulk(server: Running, load: Load, seconds: int) -> list[str]:
    program = str(environment.program("bulk"))
    return [program, str(server.port), load.path, str(load.connections), str(seconds)]


def _wrk(server: Running, load: Load, seconds: int) -> list[str]:
    command = [str(environment.program("wrk")), "--threads", "1"]
    command += ["--connections", str(load.connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s"]
    command += ["--script", str(SCRIPTS / load.script), server.url(load.path)]
    return command if load.argument is None else [*command, "--", str(load.argument)]


def _collect(started: list[subprocess.Popen[bytes]], seconds: int) -> list[Answered]:
    try:
        said = [each.communicate(timeout=seconds + GRACE_SECONDS)[0] for each in started]
        return [parse(each.decode(errors="replace")) for each in said]
    finally:
        for each in started:
            if each.poll() is None:
                each.kill()
                each.wait()
