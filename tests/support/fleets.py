"""A fleet of no processes, and a supervisor's loop in a thread, for what is asked of them."""

from __future__ import annotations

import logging
import math
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from penstock.control.commands import (
    Answer,
    ControlError,
    Outcome,
    RequestRow,
    StacksAnswer,
    Status,
    WorkerRow,
)
from penstock.control.http_service import Service
from penstock.control.server import open_admin, open_control
from support.wire import DEADLINE, Client


def worker(slot: int, pid: int, **changes: Any) -> WorkerRow:
    """Return the row of a worker that serves."""
    row: WorkerRow = {
        "slot": slot,
        "pid": pid,
        "generation": 1,
        "state": "serving",
        "age": 3.2,
        "requests": 1234,
        "connections": 7,
        "waiting": 0,
        "busy": 1,
        "threads": 4,
        "memory": 88_400_000,
        "beat": 0.1,
    }
    return row | changes  # type: ignore[return-value]


def request(pid: int, target: str, **changes: Any) -> RequestRow:
    """Return the row of a request that is with the application."""
    row: RequestRow = {
        "pid": pid,
        "slot": 0,
        "thread": 2,
        "method": "GET",
        "target": target,
        "age": 12.34,
        "client": "203.0.113.7:51234",
        "id": "4f2a-1",
        "deadline": 17.66,
    }
    return row | changes  # type: ignore[return-value]


class FakeFleet:
    """Answers from what it is given, and keeps what it was told; commands wait for `settle`."""

    def __init__(self) -> None:
        self.rows = [worker(0, 101), worker(1, 102)]
        self.in_progress = [request(101, "/reports/7")]
        self.application = "shop:app"
        self.ready = True
        self.live = True
        self.broken = False
        self.refusal = ""
        """Why no command can begin."""
        self.at_once: Outcome | None = None
        """What commands answer from within."""
        self.asked: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.stacks: queue.SimpleQueue[tuple[int | None, StacksAnswer]] = queue.SimpleQueue()

    def status(self) -> Status:
        if self.broken:
            raise ZeroDivisionError("a defect")
        return {
            "version": "1.0",
            "pid": os.getpid(),
            "application": self.application,
            "state": "serving",
            "generation": 1,
            "since": 1_700_000_000.0,
            "age": 75.0,
            "listeners": ["http://127.0.0.1:8000"],
            "transport": "native",
            "threads": 4,
            "workers": 2,
            "counts": {"requests": 2468, "crashed": 0},
        }

    def workers(self) -> list[WorkerRow]:
        return self.rows

    def requests(self) -> list[RequestRow]:
        return self.in_progress

    def ask_stacks(self, pid: int | None, answer: StacksAnswer) -> None:
        self.stacks.put((pid, answer))

    def reload(self, answer: Answer) -> None:
        self._begin(answer, "reload")

    def upgrade(self, answer: Answer) -> None:
        self._begin(answer, "upgrade")

    def scale(self, workers: int, answer: Answer) -> None:
        self._begin(answer, "scale", workers)

    def recycle(self, pid: int, answer: Answer) -> None:
        self._begin(answer, "recycle", pid)

    def stop(self, graceful: bool, answer: Answer) -> None:
        self._begin(answer, "stop", graceful)

    def is_ready(self) -> bool:
        return self.ready

    def is_live(self) -> bool:
        return self.live

    def _begin(self, answer: Answer, *asked: Any) -> None:
        if self.refusal:
            raise ControlError(self.refusal)
        self.asked.put(asked)
        if self.at_once is not None:
            answer(self.at_once)
        else:
            self.answers.put(answer)


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
        self.fleet = FakeFleet()
        self.selector = selectors.DefaultSelector()
        self.messages = Messages()
        self.logger = logging.Logger("penstock.test")
        self.logger.addHandler(self.messages)
        self.services: list[Service] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._ended = False
        self.selector.register(self._reader, selectors.EVENT_READ, self)
        self._thread = threading.Thread(target=self._run)

    def control(self, address: str, *, inherited: int | None = None) -> Service:
        """Open a control socket; before the loop runs."""
        service = open_control(address, self.fleet, self.selector, self.logger, inherited=inherited)
        assert service is not None
        self.services.append(service)
        return service

    def admin(self, address: str = "127.0.0.1:0") -> tuple[str, int]:
        """Open a service for probes; before the loop runs. Return where it is."""
        service = open_admin(address, self.fleet, self.selector, self.logger)
        self.services.append(service)
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

    def settle(self, outcome: Outcome) -> None:
        """Give the outcome of the command that the fleet was told first."""
        answer = self.fleet.answers.get(timeout=DEADLINE)
        self.call(lambda: answer(outcome))

    def settle_stacks(self, stacks: dict[int, str]) -> int | None:
        """Give the stacks that the fleet was asked for; return whose they were to be."""
        pid, answer = self.fleet.stacks.get(timeout=DEADLINE)
        self.call(lambda: answer(stacks))
        return pid

    def expire(self, seconds: float) -> None:
        """Have so much time pass at once."""
        for service in self.services:
            self.call(lambda service=service: service.expire(time.monotonic() + seconds))  # type: ignore[misc]

    def handle_events(self, _mask: int) -> None:
        for _ in self._reader.recv(4096):
            self._calls.get()()

    def _end(self) -> None:
        self._ended = True

    def _run(self) -> None:
        while not self._ended:
            due = min([math.inf, *(service.next_deadline() for service in self.services)])
            timeout = max(0.0, due - time.monotonic()) if due < math.inf else None
            for key, mask in self.selector.select(timeout):
                key.data.handle_events(mask)
            for service in self.services:
                service.expire(time.monotonic())


def connect(service: Service) -> Client:
    """Return a client that is connected to a service's unix socket."""
    path = service.listener.socket.getsockname()
    return Client(path.decode() if isinstance(path, bytes) else path)
