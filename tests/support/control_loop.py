"""A supervisor without processes, and its loop in a thread, for clients of the control server."""

from __future__ import annotations

import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from penstock.config.settings import Settings
from penstock.config.shown import setting_rows
from penstock.control.access import Access
from penstock.control.commands import (
    WORKER_STATES,
    Command,
    ControlError,
    EndProfile,
    Outcome,
    Question,
    Reply,
    ShowFigures,
    ShowFindings,
    ShowHistory,
    ShowNotable,
    ShowRecent,
    ShowRequests,
    ShowSettings,
    ShowStacks,
    ShowStatus,
    ShowWorkers,
)
from penstock.control.connection import Service
from penstock.control.rows import (
    EventRow,
    Figures,
    Happened,
    RequestRow,
    Status,
    WorkerFigures,
    WorkerRow,
)
from penstock.control.server import Wanted, open_service
from penstock.control.socket_file import Passed, adopt
from penstock.telemetry.histograms import Exemplar, series_number
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import COUNTED, SERIES_WORDS
from support.past import answer, rows
from support.wire import DEADLINE, Client

COUNTS = ("connections", "in_progress", "io_bound", "websockets", "waiting", "accepted", "requests",
          "crashed", "reloads", "reloads_failed", "upgrades")  # fmt: skip
"""The names of `Status.counts` beside the states of workers and `COUNTED`."""

TICK_SECONDS = 0.05
"""How often the loop looks at deadlines."""


def worker(number: int, pid: int, **changes: Any) -> WorkerRow:
    """Return the row of a worker that serves."""
    row: WorkerRow = {
        "worker": number,
        "pid": pid,
        "generation": 1,
        "state": "serving",
        "age": 3.2,
        "requests": 1234,
        "connections": 7,
        "waiting": 0,
        "busy": 1,
        "io_bound": 0,
        "websockets": 0,
        "threads": 4,
        "memory": 88_400_000,
        "beat": 0.1,
    }
    return row | changes  # type: ignore[return-value]


def request(pid: int, target: str, **changes: Any) -> RequestRow:
    """Return the row of a request that is with the application."""
    row: RequestRow = {
        "worker": 1,
        "pid": pid,
        "thread": 2,
        "method": "GET",
        "target": target,
        "age": 12.34,
        "client": "203.0.113.7:51234",
        "id": "4f2a-1",
        "deadline": 17.66,
        "io_bound": False,
        "websocket": False,
    }
    return row | changes  # type: ignore[return-value]


def worker_figures(slot: int, generation: int, **changes: Any) -> WorkerFigures:
    """Return what metrics show of a worker that serves."""
    figures: WorkerFigures = {
        "slot": slot,
        "generation": generation,
        "serving": True,
        "age": 3.25,
        "requests": 1234,
        "busy": 1,
        "threads": 4,
        "free_threads": 2,
        "memory": 88_400_000,
        "beat": 0.125,
    }
    return figures | changes  # type: ignore[return-value]


class FakeSupervisor:
    """Answers from what it is given, and keeps what it was asked; commands wait for `conclude`."""

    def __init__(self) -> None:
        self.rows = [worker(1, 101), worker(2, 102)]
        self.in_progress = [request(101, "/reports/7")]
        self.application = "shop:app"
        self.ready = True
        self.live = True
        self.broken = False
        self.last_error: Happened | None = None
        self.events: list[EventRow] = []
        self.findings: list[dict[str, Any]] = []
        self.settings = Settings()
        self.refusal: ControlError | None = None
        """Why no command can begin."""
        self.at_once: Outcome | None = None
        """What commands answer before they return."""
        self.asked: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.stacks: queue.SimpleQueue[tuple[int | None, Reply]] = queue.SimpleQueue()
        self.questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        """What was asked of requests that are over, and of profiles..."""
        self.answer: dict[str, Any] = {}
        """... and what is answered."""

    def status(self) -> Status:
        """Return the state of the server."""
        return {
            "version": "1.0",
            "pid": os.getpid(),
            "application": self.application,
            "state": "serving",
            "next_start": None,
            "generation": 1,
            "since": 1_700_000_000.0,
            "age": 75.0,
            "listeners": ["http://127.0.0.1:8000"],
            "transport": "native",
            "threads": 4,
            "workers": 2,
            "cpus": 4.0,
            "top_client": None,
            "trusted_proxies": [],
            "unknown_proxies": [],
            "certificates": [],
            "counts": {"requests": 2468, "crashed": 3},
            "crashes": {"SIGSEGV": 2, "exit status 1": 1},
            "last_crashes": [],
            "last_reload": {
                "at": 1_700_000_000.0,
                "message": "reloaded: generation 1 serves",
                "done": True,
            },
            "last_error": self.last_error,
            "ready": self.ready,
            "live": self.live,
        }

    def figures(self) -> Figures:
        """Return what metrics are made from: of a server that reports everything."""
        status = self.status()
        status["counts"] = dict.fromkeys((*WORKER_STATES, *COUNTED, *COUNTS), 0) | status["counts"]
        status["certificates"] = [
            {"names": names, "expires": end, "days": 1, "renewal": None}
            for names, end in ((["a.test", "b.test"], 2e9), (["a.test"], 1.9e9), ([], 1.8e9))
        ]
        return {
            "status": status,
            "workers": [
                worker_figures(0, 1),
                worker_figures(1, 1, memory=None),
                worker_figures(0, 2),
            ],
            "series": {
                series_number("GET", "2", "HTTP/1.1"): list(range(SERIES_WORDS)),
                series_number("POST", "5", "HTTP/1.0"): [1] * SERIES_WORDS,
            },
            "exemplars": {
                series_number("GET", "2", "HTTP/1.1"): {
                    3: Exemplar({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, 0.03, 1.8e9),
                    14: Exemplar({"request_id": "4f2a-1"}, 12.5, 1.8e9 + 0.125),
                }
            },
            "statuses": {200: 5, 404: 1},
            "lock_waits": [5] * 15 + [2_500_000_000],
            "refused": list(range(len(RULES))),
            "recycled": {"max_requests": 3},
            "connections": {"idle": 5, "reading": 1},
            "spooled": 4096,
            "cpu_seconds": 12.25,
            "listen_queues": {"http://[::]:80": 3},
            "listen_overflows": 7,
            "throttled_seconds": 0.5,
            "oom_kills": 1,
        }

    def handle(self, asked: Question | Command, reply: Reply) -> None:
        """See `penstock.control.commands.Handle`."""
        if isinstance(asked, ShowStatus):
            if self.broken:
                raise ZeroDivisionError("a defect")
            reply(self.status())
        elif isinstance(asked, ShowWorkers):
            reply({"workers": self.rows})
        elif isinstance(asked, ShowRequests):
            reply({"requests": self.in_progress})
        elif isinstance(asked, ShowFigures):
            reply(self.figures())
        elif isinstance(asked, ShowHistory):
            reply({**answer(rows(10)), "more": 0, "events": self.events})
        elif isinstance(asked, ShowFindings):
            reply({"findings": self.findings})
        elif isinstance(asked, ShowSettings):
            reply({"settings": setting_rows(self.settings)})
        elif isinstance(asked, ShowStacks):
            self.stacks.put((asked.worker, reply))
        elif isinstance(asked, ShowRecent | ShowNotable | EndProfile):
            self.questions.put(asked)
            nothing = {"slow": [], "failed": [], "refused": [], "seconds": 600.0, "left_out": 0}
            reply(self.answer or nothing)
        else:
            if self.refusal is not None:
                raise self.refusal
            self.asked.put(asked)
            if self.at_once is not None:
                reply(self.at_once)
            else:
                self.replies.put(reply)


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.levelname}: {record.getMessage()}")


class ControlLoop:
    """A loop in a thread, with what a test opens in it before: ``with loop:``."""

    def __init__(self) -> None:
        self.fake = FakeSupervisor()
        self.selector = selectors.DefaultSelector()
        self.messages = Messages()
        self.logger = logging.Logger("penstock.test")
        self.logger.addHandler(self.messages)
        self.services: list[Service] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._ended = False
        self.selector.register(self._reader, selectors.EVENT_READ, self._take_calls)
        self._thread = threading.Thread(target=self._run)

    def control(self, address: str, *, inherited: Passed | None = None) -> Service:
        """Open a control socket; before the loop runs. ``auto`` has the name ``shop``."""
        wanted = Wanted("control", address, "shop" if address == "auto" else "")
        passed = adopt(inherited) if inherited is not None else None
        service = open_service(wanted, self.fake.handle, self.selector, self.logger, passed)
        self.services.append(service)
        return service

    def admin(
        self, address: str = "127.0.0.1:0", settings: Settings | None = None
    ) -> tuple[str, int]:
        """Open a service for probes; before the loop runs. Return where it is."""
        access = Access(self.logger)
        access.use(settings or Settings())
        service = open_service(
            Wanted("admin", address), self.fake.handle, self.selector, self.logger, access=access
        )
        self.services.append(service)
        if service.listener.socket.family == socket.AF_UNIX:
            return address.removeprefix("unix:"), 0
        host, port = service.listener.socket.getsockname()
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call(self._end)
        self._thread.join(DEADLINE)
        self.close()

    def close(self) -> None:
        """Close everything, where the loop does not run."""
        for service in self.services:
            service.close()
        self._reader.close()
        self._writer.close()
        self.selector.close()

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop's thread call a function soon."""
        self._calls.put(function)
        self._writer.send(b"!")

    def conclude(self, outcome: Outcome | Mapping[str, Any]) -> None:
        """Give the outcome of the command that was asked for first."""
        reply = self.fake.replies.get(timeout=DEADLINE)
        self.call(lambda: reply(outcome))

    def answer_stacks(self, stacks: dict[int, str]) -> int | None:
        """Give the stacks that were asked for; return the number of the worker in the command."""
        worker, reply = self.fake.stacks.get(timeout=DEADLINE)
        value = {
            "stacks": {str(pid): text for pid, text in stacks.items()},
            "workers": {str(pid): pid - 100 for pid in stacks},
        }
        self.call(lambda: reply(value))
        return worker

    def expire(self, seconds: float) -> None:
        """Have so much time pass at once."""
        for service in self.services:
            self.call(lambda service=service: service.expire(time.monotonic() + seconds))  # type: ignore[misc]

    def _take_calls(self) -> None:
        for _ in self._reader.recv(4096):
            self._calls.get()()

    def _end(self) -> None:
        self._ended = True

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self.selector.select(TICK_SECONDS):
                key.data()
            for service in self.services:
                service.expire(time.monotonic())


def connect(service: Service) -> Client:
    """Return a client that is connected to a service's unix socket."""
    path = service.name.removeprefix("unix:")
    return Client("\0" + path[1:] if path.startswith("@") else path)


COMMAND = {"Penstock-Control": "1"}
"""The field that each command has."""


def command(target: str, *fields: str) -> bytes:
    """Return a request that is a command, with more fields such as ``Connection: close``."""
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", "Penstock-Control: 1", *fields, "", ""]
    return "\r\n".join(lines).encode()
