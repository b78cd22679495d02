"""Record five faults of a small shop under load: `make story`, and write docs/story.md anew.

For each fault a server is started with the fault, gets a light load for a minute, and is looked at
as an operator would: with `penstockctl top`, the dashboard, the metrics and `penstockctl doctor`.
Then a server without the fault gets the same load, and is looked at again. Everything is on the
loopback interface, and ends with the script.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import os
import re
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from harness import environment
from harness.small_png import small
from support.devtools import Page
from support.server_process import ServerProcess, checkout_environ

HOST = "127.0.0.1"
ABUSER = "127.0.3.1"
SECONDS = 65.0
"""For which each server gets its load: doctor wants a minute."""
LONG_SECONDS = 620.0
"""With ``--long``, of the memory leak: doctor wants ten minutes of memory that grows."""
COMMAND_SECONDS = 30.0
ANSWER_SECONDS = 30.0
REFUSED_PAUSE = 0.5
"""For which a client waits after a refusal, as few abusive ones do: the machine is small."""
RATES_SECONDS = 5.0
"""After which the dashboard has rates: they are those between two looks."""
DRAWN_SECONDS = 0.5
"""In which it draws its charts for another width."""
WIDTH, HEIGHT = 1280, 1000
TOKEN = "a-token-of-the-recorded-story"
DOCS = environment.ROOT / "docs"
PAGE = DOCS / "story.md"
PICTURES = DOCS / "pictures"

# Where this script shortens the ten minutes of the rule for memory, nothing else is changed.
_DOCTOR = """
import sys
from penstock.control import doctor, penstockctl
doctor.GROWTH_SECONDS = float(sys.argv.pop(1))
sys.exit(penstockctl.main())
"""


@dataclass(frozen=True)
class Clients:
    """Some clients of one address, each with a connection and a request at a time."""

    number: int
    path: str
    pause: float
    """Seconds between an answer and the next request."""
    address: str = HOST


@dataclass(frozen=True)
class Part:
    """One fault."""

    name: str
    fault: str
    """The finding of doctor's that is expected."""
    clients: tuple[Clients, ...]
    metrics: tuple[str, ...]
    """Samples of the metrics page that move, as regular expressions of the whole name."""
    arguments: tuple[str, ...] = ()
    """Of the server in both cases."""
    faulty: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    faulty_variables: Mapping[str, str] = field(default_factory=dict)
    fixed_variables: Mapping[str, str] = field(default_factory=dict)
    faulty_query: float = 0.0
    """Seconds for which the database takes to answer."""
    fixed_query: float = 0.0
    stack_of: str = ""
    """A path: where a thread is that has a request for it."""


def parts(long: bool) -> tuple[Part, ...]:
    """Return the faults in their order."""
    kept = {"STORY_KEPT_BYTES": "16384" if long else "131072"}
    return (
        Part(
            "slow-database",
            "slow-application",
            (Clients(4, "/orders", 0.2), Clients(2, "/", 0.2)),
            ("penstock_request_application_seconds_(sum|count)",),
            arguments=("--threads", "16"),
            faulty_query=1.5,
            fixed_query=0.02,
            stack_of="/orders",
        ),
        Part(
            "interpreter-lock",
            "interpreter-lock",
            (Clients(3, "/picture", 0.04), Clients(1, "/", 0.2)),
            ("penstock_interpreter_lock_wait_seconds_(sum|count)",),
            arguments=("--threads", "4"),
            faulty_variables={"STORY_KEEP_LOCK": "1"},
            stack_of="/picture",
        ),
        Part(
            "memory-leak",
            "growing-memory",
            (Clients(5, "/visit", 0.2),),
            ("penstock_worker_resident_bytes", "penstock_workers_recycled_total"),
            arguments=("--threads", "4"),
            fixed=("--max-memory", "128MiB"),
            faulty_variables=kept,
            fixed_variables=kept,
        ),
        Part(
            "too-few-threads",
            "too-few-threads",
            (Clients(4, "/orders", 0.02),),
            ("penstock_request_queue_seconds_(sum|count)", "penstock_threads_busy"),
            faulty=("--threads", "2"),
            fixed=("--threads", "4"),
            faulty_query=0.1,
            fixed_query=0.1,
        ),
        Part(
            "abusive-client",
            "one-client",
            (Clients(24, "/orders", 0.0, ABUSER), Clients(3, "/", 0.25)),
            ("penstock_connections", "penstock_request_queue_seconds_(sum|count)",
             "penstock_requests_refused_total", "penstock_connections_closed_total"),
            # By default the limit of connections is not for 127.0.0.0/8, where proxies may be.
            arguments=("--threads", "4", "--forwarded-allow-ips", "none"),
            fixed=("--max-connections-per-client", "4", "--max-requests-per-client", "20/s"),
            faulty_query=0.1,
            fixed_query=0.1,
        ),
    )  # fmt: skip


# -- what the server is used by, and uses ----------------------------------------------------------


class _Database(socketserver.ThreadingTCPServer):
    """It answers each line after a time, as a database does that reads a whole table."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, seconds: float) -> None:
        super().__init__((HOST, 0), _Query)
        self.seconds = seconds


class _Query(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        assert isinstance(self.server, _Database)
        time.sleep(self.server.seconds)
        with suppress(OSError):
            self.wfile.write(b"3 orders\n")


@contextmanager
def database(seconds: float) -> Iterator[str]:
    """Serve what stands for a database; yields its address."""
    with _Database(seconds) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield f"{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Load:
    """Clients in threads. Used as ``with Load(...) as load:``; it ends with the block."""

    def __init__(self, port: int, groups: tuple[Clients, ...]) -> None:
        """``port`` is the server's."""
        self._port = port
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.times: dict[str, list[float]] = {}
        """Seconds of each request with an answer of status 200, by ``address path``."""
        self.failed: Counter[str] = Counter()
        """How many have had another status or no answer, likewise."""
        self._threads = [
            threading.Thread(target=self._ask, args=(group,))
            for group in groups
            for _ in range(group.number)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, group: Clients) -> None:
        connection = http.client.HTTPConnection(
            HOST, self._port, timeout=ANSWER_SECONDS, source_address=(group.address, 0)
        )
        pause = group.pause
        while not self._over.wait(pause):
            began, pause = time.monotonic(), group.pause
            try:
                connection.request("GET", group.path)
                response = connection.getresponse()
                response.read()
                good = response.status == 200
            except (OSError, http.client.HTTPException):
                good = False
                connection.close()
            who = f"{group.address} {group.path}"
            with self._lock:
                if good:
                    self.times.setdefault(who, []).append(time.monotonic() - began)
                else:
                    self.failed[who] += 1
                    pause = REFUSED_PAUSE
        connection.close()

    def described(self) -> list[str]:
        """Return what each group has seen."""
        with self._lock:
            return [
                f"{len(times):,} answers, half within {statistics.median(times) * 1000:.0f} ms, "
                f"95 % within {statistics.quantiles(times, n=20)[18] * 1000:.0f} ms"
                + (f", {self.failed[who]:,} refused or lost" if self.failed[who] else "")
                + f" (`GET {who.partition(' ')[2]}` of {who.partition(' ')[0]})"
                for who, times in sorted(self.times.items())
                if len(times) > 1
            ]


# -- how it is looked at ---------------------------------------------------------------------------


@dataclass
class Seen:
    """What an operator has seen of one server."""

    command: str
    doctor: str
    rules: list[str]
    """That have found something."""
    metrics: str
    clients: list[str]
    top: str = ""
    stack: str = ""
    picture: bytes = b""
    """A PNG."""


class Server:
    """A server of the shop, with a control socket and a dashboard."""

    def __init__(self, part: Part, folder: Path, port: int, process: ServerProcess) -> None:
        """``port`` is the dashboard's."""
        self._part = part
        self._folder = folder
        self._admin = port
        self.process = process

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=environment.BENCHMARKS,
            env=checkout_environ() | {"PENSTOCK_CONTROL": str(self._folder / "control")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise environment.EnvironmentProblem(f"{command} failed: {done.stderr}")
        return done.stdout.replace(f"{environment.ROOT}/", "")

    def penstockctl(self, *arguments: str) -> str:
        """Return what the command prints."""
        return self._run("-m", "penstock.control.penstockctl", *arguments)

    def doctor(self, growth_seconds: float | None, *options: str) -> str:
        """Return what doctor says; ``growth_seconds`` replaces the least of the memory rule."""
        if growth_seconds is None:
            return self.penstockctl(*options, "doctor")
        return self._run("-c", _DOCTOR, f"{growth_seconds:g}", *options, "doctor")

    def metrics(self) -> str:
        """Return the samples that the part is about."""
        names = "|".join(self._part.metrics)
        sample = re.compile(rf"^(?:{names})(?:\{{.*\}})? (?P<value>\S+)")
        lines = [
            line
            for line in self.penstockctl("metrics").splitlines()
            if (found := sample.match(line)) and float(found["value"]) != 0
        ]
        return "\n".join(lines)

    def stack(self) -> str:
        """Return where a thread is that has a request for `Part.stack_of`."""
        lines = self.penstockctl("stacks", "1").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("thread ") and f" {self._part.stack_of} " in line:
                frames = [*takewhile(lambda line: line.startswith(" "), lines[number + 1 :])]
                # A line for the place of each frame, and one for its code.
                ours = [n for n, frame in enumerate(frames) if "applications_story" in frame]
                if ours:
                    return "\n".join([line, *frames[ours[0] : ours[-1] + 2]])
        return ""

    def picture(self) -> bytes:
        """Return a picture of the dashboard, down to the running requests."""
        address = f"localhost:{self._admin}"
        with Page(self._folder / "profile", {address: self._admin}) as page:
            page.look(WIDTH, HEIGHT)
            page.open(f"http://{address}/#token={TOKEN}")
            page.wait_for("document.querySelector('#charts svg') !== null")
            page.wait_for("document.querySelectorAll('#workers tbody tr').length >= 1")
            time.sleep(RATES_SECONDS)
            bottom = page.evaluate(
                "document.querySelector('#requests').closest('section').getBoundingClientRect()"
                ".bottom + window.scrollY + 8"
            )
            page.look(WIDTH, math.ceil(bottom))  # no scroll bar
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": math.ceil(bottom), "scale": 1}
            time.sleep(DRAWN_SECONDS)
            shot = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.create_server((HOST, 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(
    part: Part, arguments: tuple[str, ...], variables: Mapping[str, str], query_seconds: float
) -> Iterator[Server]:
    """Serve the shop, in a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="story-", ignore_cleanup_errors=True) as name,
        database(query_seconds) as address,
    ):
        folder, port = Path(name), free_port()
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        own = {key: "" for key in os.environ if key.startswith("STORY_")}
        with ServerProcess(
            "applications_story:app", "--control", str(folder / "control"),
            "--admin", f"{HOST}:{port}", "--admin-token-file", str(folder / "token"),
            "--workers", "1", *arguments,
            cwd=environment.BENCHMARKS,
            environ=own | {"STORY_DATABASE": address} | dict(variables),
        ) as process:  # fmt: skip
            yield Server(part, folder, port, process)


def record(part: Part, *, fixed: bool, seconds: float, growth: float | None) -> Seen:
    """Run one server under its load, and look at it."""
    own = part.fixed if fixed else part.faulty
    variables = part.fixed_variables if fixed else part.faulty_variables
    arguments = (*part.arguments, *own)
    said = [f"{name}={value}" for name, value in variables.items()]
    command = " ".join([*said, "penstock applications_story:app --workers 1", *arguments])
    query_seconds = part.fixed_query if fixed else part.faulty_query
    with (
        serving(part, arguments, variables, query_seconds) as server,
        Load(server.process.port, part.clients) as load,
    ):
        time.sleep(seconds)
        doctor, as_json = server.doctor(growth), server.doctor(growth, "--json")
        rules = [finding["rule"] for finding in json.loads(as_json)["findings"]]
        seen = Seen(command, doctor, rules, server.metrics(), load.described())
        if not fixed:
            seen.top = server.penstockctl("top")
            seen.stack = server.stack() if part.stack_of else ""
            seen.picture = server.picture()
    return seen


# -- the page --------------------------------------------------------------------------------------


def section(part: Part, faulty: Seen, fixed: Seen) -> list[str]:
    """Return the lines of a part, in Markdown."""
    picture = f"![The dashboard with the fault](pictures/story-{part.name}.png)"
    stack = [*_block("penstockctl stacks 1", faulty.stack), ""] if faulty.stack else []
    return [
        f"With the fault{_databases(part.faulty_query)}:", "", *_block(faulty.command), "",
        *_clients(faulty), "",
        *_block("penstockctl top", faulty.top), "",
        *_block("penstockctl doctor", faulty.doctor), "",
        *stack,
        picture, "",
        f"After the fix{_databases(part.fixed_query)}, with the same load:", "",
        *_block(fixed.command), "",
        *_clients(fixed), "",
        *_block("penstockctl doctor", fixed.doctor), "",
        "Of `penstockctl metrics`:", "",
        *_moved(_samples(faulty.metrics), _samples(fixed.metrics)),
    ]  # fmt: skip


def _samples(text: str) -> dict[str, float]:
    """Return the metrics of a page; the mean in place of sum and count of a histogram."""
    found: dict[str, float] = {}
    sums: dict[str, float] = {}
    for line in text.splitlines():
        sample, _, value = line.rpartition(" ")
        name = sample.partition("{")[0]
        if name.endswith(("_sum", "_count")):
            sums[name] = sums.get(name, 0.0) + float(value)
        else:
            found[sample] = float(value)
    for name, total in sums.items():
        base, _, kind = name.rpartition("_")
        if kind == "sum":
            count = sums[f"{base}_count"]
            found |= {f"{base}_sum": total, f"{base}_count": count}
            found[f"{base}_sum / {base}_count"] = total / count
    return found


def _moved(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    rows = [
        f"| `{name}` | {_number(before.get(name, 0.0))} | {_number(after.get(name, 0.0))} |"
        for name in dict.fromkeys([*before, *after])
    ]
    return ["| metric | with the fault | after the fix |", "|---|---:|---:|", *rows]


def _number(value: float) -> str:
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}" if value >= 0.001 else f"{value:.6f}"


def _block(command: str, text: str = "") -> list[str]:
    return ["```", f"$ {command}", *(line.rstrip() for line in text.splitlines()), "```"]


def _databases(seconds: float) -> str:
    return f" (the database answers in {seconds * 1000:,.0f} ms)" if seconds else ""


def _clients(seen: Seen) -> list[str]:
    return [f"- {line}" for line in seen.clients]


def write(part: Part, lines: list[str]) -> None:
    """Put the lines of a part between their marks in the page. Raises `EnvironmentProblem`."""
    begin, end = f"<!-- {part.name}: begin -->", f"<!-- {part.name}: end -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise environment.EnvironmentProblem(f"{PAGE} has no marks for {part.name}")
    PAGE.write_text(before + "\n".join([begin, "", *lines, "", end]) + after)


def main() -> int:
    """Run the command; return its exit status: 1 where doctor does not find a fault, or its end."""
    arguments = _arguments()
    environment.end_as_interrupted()
    wrong = 0
    try:
        for part in parts(arguments.long):
            if arguments.only and part.name not in arguments.only:
                continue
            leak = part.name == "memory-leak"
            long = arguments.long and leak
            seconds = LONG_SECONDS if long else arguments.seconds
            growth = arguments.seconds - 15 if leak and not long else None
            faulty = record(part, fixed=False, seconds=seconds, growth=growth)
            fixed = record(part, fixed=True, seconds=seconds, growth=growth)
            lines = section(part, faulty, fixed)
            print("\n".join([f"## {part.name}", "", *lines]), flush=True)
            if part.fault not in faulty.rules or fixed.rules:
                print(f"{part.name}: doctor found {faulty.rules} with the fault, "
                      f"and {fixed.rules} after the fix", file=sys.stderr)  # fmt: skip
                wrong += 1
            if arguments.write:
                write(part, lines)
                (PICTURES / f"story-{part.name}.png").write_bytes(small(faulty.picture))
    except (environment.EnvironmentProblem, AssertionError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    names = [part.name for part in parts(long=False)]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, help="these parts alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load for each server")
    parser.add_argument("--long", action="store_true",
                        help="the memory leak for ten minutes, with the rule as it is")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="write docs/story.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
