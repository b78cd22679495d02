"""The access log has a line for each answer that a client got, however the worker ends."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from types import TracebackType

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised
from support.wire import Client

WAYS = {
    "stop": (),
    "reload": (),
    "max_requests": ("--max-requests", "20"),
    "graceful_timeout": ("--graceful-timeout", "1s"),
}


class Clients:
    """Clients that ask, one request after the other, until the server is closed."""

    def __init__(self, address: tuple[str, int], clients: int = 4) -> None:
        self.answered: list[str] = []
        self._address = address
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]

    def _run(self, client: int) -> None:
        for number in count():
            if self._over.is_set():
                return
            # What is served counts for max_requests; what is refused does not.
            name = f"asked-{client}-{number}"
            length, status = (0, 200) if number % 8 == 0 else (11, 413)
            try:
                with Client(self._address) as connection:
                    head = f"POST /echo?{name} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}"
                    connection.send(f"{head}\r\n\r\n".encode())
                    assert connection.read_response().status == status
            except OSError:
                return
            self.answered.append(name)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, by: int = 100) -> None:
        """Wait for more answers."""
        before = len(self.answered)
        assert eventually(lambda: len(self.answered) >= before + by)


@pytest.mark.parametrize("way", WAYS)
def test_each_answer_before_the_end_of_a_worker_is_in_the_access_log(
    tmp_path: Path, transport: str, way: str
) -> None:
    log = tmp_path / "access.log"
    arguments = ("-w", "2", "--transport", transport, "--max-body", "10", "--drain-linger", "0")
    with Supervised(tmp_path, *arguments, "--access-logfile", str(log), *WAYS[way]) as server:
        first = server.wait_for_serving(2)
        with Clients(server.address) as clients:
            clients.more()
            if way == "reload":
                server.signal(signal.SIGHUP)
            elif way == "graceful_timeout":
                held = server.begin("/hold?0&", "request")
            if way in ("reload", "max_requests"):
                server.wait_for_serving(2, without=first)
                clients.more()
            server.signal(signal.SIGTERM)
            assert server.wait() == (way == "graceful_timeout")
        if way == "graceful_timeout":
            held.close()
    lines = Counter(re.findall(r"asked-\d+-\d+", log.read_text()))
    assert not [name for name in clients.answered if lines[name] != 1]
