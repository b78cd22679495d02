"""A supervisor's part in ordering certificates, without workers: the real `Acme`, in a process.

The process answers http-01 challenges itself, from what the ordering process hands over. It writes
what happens to its standard output, as JSON: what is to be served, statuses, and log records. It
ends when its standard input does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.config.settings import Settings
from penstock.edge.acme import schedule
from penstock.edge.certificates import der_of, pem_blocks
from penstock.edge.tls import OrderedCertificates
from penstock.supervisor import acme as acme_module
from penstock.supervisor.acme import Acme
from penstock.supervisor.acme_settings import AcmeSettings
from penstock.supervisor.loop import Loop

PATIENCE = 60.0

Event = dict[str, Any]


class Ordering:
    """The process, as a test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[Event] = []
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def wait_for(self, wanted: Callable[[Event], bool], seconds: float = PATIENCE) -> Event:
        """Return the next event that is wanted."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                raise AssertionError("\n".join(map(str, self.seen[-40:])))
            self.seen.append(event)
            if wanted(event):
                return event

    def ever(self, wanted: Callable[[Event], bool]) -> Event:
        """Return an event that is wanted, from the start on."""
        found = next(filter(wanted, self.seen), None)
        return found if found is not None else self.wait_for(wanted)

    def stored(self, name: str) -> None:
        """Wait until a new certificate is on the disk."""
        self.ever(
            lambda event: (
                event["event"] == "status"
                and event["names"][name]["detail"] == "the certificate is new"
            )
        )

    def certificate(self, name: str, seconds: float = PATIENCE) -> Event:
        """Return the next event in which a real certificate of a name is served."""
        return self.wait_for(
            lambda event: event["event"] == "serve" and name in event["trusted"], seconds
        )

    def message(self, message_id: str, seconds: float = PATIENCE) -> str:
        """Return the text of the next log record with an id."""
        event = self.wait_for(lambda event: event.get("id") == message_id, seconds)
        return str(event["text"])

    def state(self, name: str, wanted: Callable[[Event], bool]) -> Event:
        """Return the next status of a name that is wanted."""
        event = self.wait_for(
            lambda event: event["event"] == "status" and wanted(event["names"].get(name, {}))
        )
        found: Event = event["names"][name]
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextmanager
def ordering(
    settings: AcmeSettings, bundle: str, http_port: int, **others: Any
) -> Iterator[Ordering]:
    """Run the process; ``bundle`` is the file with the authority's certificate.

    ``others``: ``clock`` is how many seconds its clock is fast, ``host`` another name of its host,
    ``answers`` False for a server that answers no challenge, ``pause`` the longest before a process
    is started again, ``back_off`` what the pauses after failed attempts are multiplied with.
    """
    order = {"settings": asdict(settings), "http_port": http_port, **others}
    root = Path(__file__).resolve().parents[2]
    environ = os.environ | {
        "REQUESTS_CA_BUNDLE": bundle,
        "PYTHONPATH": f"{root / 'src'}:{root / 'tests'}",
        "PYTHONWARNINGS": "ignore",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "support.acme_supervisor", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    found = Ordering(process)
    try:
        yield found
    finally:
        found.end()


# -- what runs in the process ---------------------------------------------------------------------


def tell(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


class Records(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell("log", id=getattr(record, "message_id", ""), text=record.getMessage())


class Answers:
    """Answers http-01 challenges, one connection at a time."""

    def __init__(self, loop: Loop, port: int) -> None:
        self.known: dict[str, str] = {}
        self._socket = socket.create_server(("127.0.0.1", port), reuse_port=True)
        loop.watch(self._socket.fileno(), self._answer)

    def _answer(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(5)
            target = connection.recv(65536).split(b" ")[1].decode()
            answer = self.known.get(target.rpartition("/")[2])
            tell("asked", target=target, known=answer is not None)
            status = "200 OK" if answer else "404 Not Found"
            body = answer or ""
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body.encode())


def main(order: dict[str, Any]) -> None:
    settings = order["settings"]
    wanted = Settings(
        acme_domain=tuple(settings["names"]),
        acme_email=settings["email"],
        acme_directory=settings["directory"],
        acme_dir=settings["path"],
        redirect_http=("127.0.0.1:80",),
        transport="python",
    )
    logger = logging.getLogger("penstock.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Records())
    if clock := order.get("clock"):
        real = time.time
        time.time = lambda: real() + clock
    if host := order.get("host"):
        socket.gethostname = lambda: str(host)
    if "pause" in order:
        acme_module.LONGEST_PAUSE_SECONDS = order["pause"]
    if "back_off" in order:
        schedule._BACK_OFF = {
            cause: schedule._BackOff(*(each * order["back_off"] for each in pauses))
            for cause, pauses in schedule._BACK_OFF.items()
        }
    loop = Loop(logger)
    answers = Answers(loop, order["http_port"]) if order.get("answers", True) else None

    def serve(material: OrderedCertificates) -> Callable[[], bool]:
        if answers is not None:
            answers.known = dict(material.challenges)
        trusted = {
            pair.names[0]: pair.certificate.decode()
            for pair in material.pairs
            if b"self-signed" not in der_of(pem_blocks(pair.certificate)[0][1])
        }
        tell("serve", trusted=trusted, challenges=material.challenges,
             alpn=[pair.names for pair in material.alpn_challenges])  # fmt: skip
        return lambda: True

    ended = threading.Event()
    acme = Acme(loop, logger, serve, lambda: None)
    signal.set_wakeup_fd(-1)
    acme.begin(wanted, "test:app", patience=PATIENCE)
    while acme.is_awaited:
        if reason := acme.start_failure:
            tell("refused", text=reason)
            return
        loop.turn(0.05)
        acme.tick(time.monotonic())
    acme.note_serving()
    loop.watch(0, ended.set)
    pid, statuses = 0, None
    while not ended.is_set():
        loop.turn(0.05)
        with suppress(ChildProcessError):
            reaped, _ = os.waitpid(-1, os.WNOHANG)
            if reaped:
                acme.note_end(reaped)
        acme.tick(time.monotonic())
        if acme._pid != pid:
            pid = acme._pid
            tell("process", pid=pid)
        if acme.statuses != statuses:
            statuses = dict(acme.statuses)
            tell("status", names={name: asdict(each) for name, each in statuses.items()})
    acme.end()
    deadline = time.monotonic() + 10
    while acme._kill_at and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            reaped, _ = os.waitpid(-1, os.WNOHANG)
            acme.note_end(reaped)
        acme.tick(time.monotonic())
        loop.turn(0.02)
    tell("ended")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
