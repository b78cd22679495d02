"""What a request costs in instructions and system calls, of any server.

Neither depends on how busy the machine is. A server runs once under callgrind, and once with strace
attached to it. Connections send a request each while the server is stopped, so that it finds all of
them together, however the system schedules: as under load, the poll is shared by many. What is
counted lies between two points of time at which all threads of the server sleep, after a few rounds
that fill its caches.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import browser, environment, processes
from harness.servers import HOST, PLAIN, Candidate, Running, Setup, running

CONNECTIONS = 64
READY_SECONDS = 120.0
"""valgrind takes some ten seconds for what Python does at its start; a busy machine longer."""
ANSWER_SECONDS = 30.0
STATE_SECONDS = 0.001
TOOL_SECONDS = 30.0
LEAST = 2.0
"""Of either: there have to be a read and a write."""
FAULTS = (OSError, ValueError, subprocess.SubprocessError, environment.EnvironmentProblem)
BARE_LOOP = "the application alone"


class CountingFailed(environment.EnvironmentProblem):
    """The server or the tool did not do what is needed; the text says what."""


@dataclass(frozen=True)
class Case:
    """A kind of request. The servers of all cases with the same setup are one."""

    name: str
    path: str = "/hello"
    setup: Setup = PLAIN
    varied: bool = False
    """Whether Cookie, Referer and a forwarded field differ from request to request."""
    closing: bool = False
    """Whether each request has a connection of its own."""
    warm_up: int = 20
    rounds: int = 20
    """How often each connection asks: first to fill caches, then to be counted."""


HELLO = Case("hello")
VARIED = Case("varied", varied=True)
GENERATOR = Case("generator", "/generate")
CLOSE = Case("a connection each", closing=True)
FLASK = Case("Flask", setup=Setup("applications_flask:app"), warm_up=4, rounds=6)
DJANGO = Case("Django", setup=Setup("applications_django:app"), warm_up=4, rounds=6)
TLS = Case("hello over TLS", setup=Setup(tls=True))
LOGGED = Case("hello with an access log", setup=Setup(access_log=True))
BESIDE_FILES = Case("hello beside --static", setup=Setup(files=True))
FILE = Case("a file of 10 KiB (--static)", "/files/10-kib.css", Setup(files=True))
OF_PEERS = (HELLO, VARIED, GENERATOR, CLOSE, FLASK)


@dataclass(frozen=True)
class Count:
    """What was counted of one server and kind of request; None where that failed."""

    server: str
    case: str
    instructions: float | None = None
    system_calls: float | None = None
    failure: str = ""


def of_peers(peers: Sequence[str]) -> Iterator[Count]:
    """Count what servers need for a request, at once on each core: the counts stay the same."""
    cores = sorted(set(environment.cores()))
    with ThreadPoolExecutor(len(cores)) as pool:
        asked = [
            pool.submit(_count_on, cores[place % len(cores)], name)
            for place, name in enumerate((*peers, BARE_LOOP))
        ]
        for each in asked:
            yield from each.result()


def _count_on(core: int, name: str) -> list[Count]:
    print(f"counting {name}", file=sys.stderr)
    with environment.on_core(core):
        if name != BARE_LOOP:
            return count(Candidate(name, 1), OF_PEERS)
        try:
            return [Count(BARE_LOOP, FLASK.name, instructions=bare_loop(FLASK))]
        except FAULTS as why:
            return [Count(BARE_LOOP, FLASK.name, failure=str(why))]


def count(
    candidate: Candidate, cases: Sequence[Case], source: Path = environment.SNAPSHOT
) -> list[Count]:
    """Return what a request of each case costs a server."""
    found = {case: Count(candidate.peer, case.name) for case in cases}
    for setup in dict.fromkeys(case.setup for case in cases):
        several = [case for case in cases if case.setup == setup]
        ours = replace(setup, counted=True)
        for tool in (_with_callgrind, _with_strace):
            try:
                for case, kind, counted in tool(candidate, ours, several, source):
                    found[case] = replace(found[case], **{kind: counted})  # type: ignore[arg-type]
            except FAULTS as why:
                for case in several:
                    reason = f"{tool.__name__.removeprefix('_with_')}: {why}"
                    found[case] = replace(found[case], failure=reason.strip())
    return list(found.values())


def missing_tools() -> list[str]:
    """Return which of the programs that count are not installed."""
    return [name for name in ("valgrind", "vgdb", "strace") if shutil.which(name) is None]


def _with_callgrind(
    candidate: Candidate, setup: Setup, cases: Sequence[Case], source: Path
) -> Iterator[tuple[Case, str, float]]:
    with running(candidate, setup, source, CALLGRIND, READY_SECONDS) as server:
        for case in cases:
            with _asking(server, case) as ask:
                ask(case.warm_up)
                dump(server.pid, server.folder)
                ask(case.rounds)
                total = dump(server.pid, server.folder)
            yield case, "instructions", _per_request(total, case)


CALLGRIND = (
    "valgrind",
    "--tool=callgrind",
    "--trace-children=yes",
    "--callgrind-out-file={folder}/callgrind.%p",
    "--log-file={folder}/valgrind.%p",
)


def dump(pid: int, folder: Path) -> int:
    """Return the instructions of a process and its descendants since the last call."""
    total = 0
    for member in processes.tree(pid):
        command = ["vgdb", f"--pid={member}", "dump"]
        subprocess.run(command, check=True, capture_output=True, timeout=TOOL_SECONDS)
        for written in folder.glob(f"callgrind.{member}.*"):
            total += instructions(written.read_text(errors="replace"))
            written.unlink()
    return total


def instructions(report: str) -> int:
    """Return the total from what callgrind wrote. Raises `CountingFailed` where there is none."""
    for line in report.splitlines():
        if line.startswith("summary:"):
            return int(line.split()[1])
    raise CountingFailed("valgrind reports no total")


def _with_strace(
    candidate: Candidate, setup: Setup, cases: Sequence[Case], source: Path
) -> Iterator[tuple[Case, str, float]]:
    with running(candidate, setup, source) as server:
        for case in cases:
            with _asking(server, case) as ask:
                ask(case.warm_up)
                with _tracing(server.pid, server.folder / "strace") as report:
                    ask(case.rounds)
            yield case, "system_calls", _per_request(system_calls(report.read_text()), case)


@contextmanager
def _tracing(pid: int, report: Path) -> Iterator[Path]:
    """Count the system calls of a process and its descendants while the block lasts."""
    members = processes.tree(pid)
    attach = [option for member in members for option in ("-p", str(member))]
    tracer = subprocess.Popen(
        ["strace", "-f", "-c", "-o", str(report), *attach],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + TOOL_SECONDS
        while not all(processes.tracers(member) == {tracer.pid} for member in members):
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise CountingFailed("strace cannot attach to the server")
            time.sleep(STATE_SECONDS)
        yield report
    finally:
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.wait(TOOL_SECONDS)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()


def system_calls(report: str) -> int:
    """Return the total from the table of `strace -c`. Raises `CountingFailed` where there is none.

    The columns are: % time, seconds, usecs/call, calls, errors, syscall; errors may be empty.
    """
    for line in report.splitlines():
        if line.endswith(" total"):
            return int(line.split()[3])
    raise CountingFailed("strace reports no total")


def _per_request(total: int, case: Case) -> float:
    return per_request(total, case.rounds * CONNECTIONS)


def per_request(total: int, requests: int) -> float:
    """Return the share of one request. Raises `CountingFailed` for nonsense.

    A check that takes nonsense for little would be none.
    """
    found = total / requests
    if found < LEAST:
        raise CountingFailed(f"{found:,.2f} a request cannot be right")
    return found


def bare_loop(case: Case, calls: int = 300) -> float:
    """Return the instructions of a call of a case's application without a server."""
    folder = environment.VENV / "servers" / f"bare-{case.name}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    python = environment.program("python")
    program = str(environment.BENCHMARKS / "bare_loop.py")
    command = [part.format(folder=folder) for part in CALLGRIND]
    command += [str(python), program, case.setup.application, case.path]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**environment.server_variables(), "PYTHONHASHSEED": "0"},
        cwd=environment.VENV,
    )
    timer = threading.Timer(READY_SECONDS, process.kill)
    timer.start()
    try:
        _call(process, calls)
        dump(process.pid, folder)
        _call(process, calls)
        return per_request(dump(process.pid, folder), calls)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _call(process: subprocess.Popen[str], times: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{times}\n")
    process.stdin.flush()
    if not process.stdout.readline():
        raise CountingFailed("the application does not run in a bare loop")


@contextmanager
def _asking(server: Running, case: Case) -> Iterator[Callable[[int], None]]:
    """Open the connections of a case; give what asks so often on each of them.

    After each call all threads of the server sleep.
    """
    with ExitStack() as stack:
        kept = [] if case.closing else [_connected(server, stack) for _ in range(CONNECTIONS)]
        numbers = itertools.count(1)

        def ask(rounds: int) -> None:
            for _ in range(rounds):
                with ExitStack() as of_round:
                    _ask_together(
                        server, kept, of_round, [_request(case, n) for n in _some(numbers)]
                    )
            _wait_for_threads(server.pid, "S")

        yield ask


def _some(numbers: Iterator[int]) -> list[int]:
    return list(itertools.islice(numbers, CONNECTIONS))


def _request(case: Case, number: int) -> bytes:
    head = browser.head("127.0.0.1:8000", case.path, closing=case.closing)
    return browser.varied(head, number) if case.varied else head


def _connected(server: Running, stack: ExitStack) -> socket.socket:
    connection = socket.create_connection((HOST, server.port), ANSWER_SECONDS)
    if server.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        connection = context.wrap_socket(connection)
    return stack.enter_context(connection)


def _ask_together(
    server: Running, kept: Sequence[socket.socket], stack: ExitStack, requests: Sequence[bytes]
) -> None:
    """Send a request on each connection while the server is stopped, and read the answers.

    Without ``kept`` the connections are opened meanwhile: the kernel takes them for the server.
    """
    _wait_for_threads(server.pid, "S")
    members = processes.tree(server.pid)
    _signal(members, signal.SIGSTOP)
    try:
        _wait_for_threads(server.pid, "Tt")
        connections = kept or [_connected(server, stack) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request)
    finally:
        _signal(members, signal.SIGCONT)
    for connection in connections:
        answer = b""
        while not is_complete(answer):
            block = connection.recv(65536)
            if not block:
                raise CountingFailed(f"the server closed a connection after {answer[:100]!r}")
            answer += block
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise CountingFailed(f"the server answered {answer[:100]!r}")


def is_complete(answer: bytes) -> bool:
    """Return whether a response is complete: it has a Content-Length, or chunks."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if length := re.search(rb"(?i)\r\ncontent-length:[ \t]*(\d+)", head):
        return bool(end) and len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def _signal(members: Sequence[int], number: signal.Signals) -> None:
    for member in members:
        os.kill(member, number)


def _wait_for_threads(pid: int, states: str) -> None:
    """Return when all threads of a process and its descendants sleep, or are stopped."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        found = processes.thread_states(pid)
        if found and all(state in states for state in found):
            return
        if time.monotonic() > deadline:
            raise CountingFailed(f"the server's threads do not reach the states {states}")
        time.sleep(STATE_SECONDS)
