"""Threads that run for as long as a block does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import BaseServer


@contextmanager
def running(target: Callable[[threading.Event], None], count: int) -> Iterator[None]:
    """Have ``count`` threads call ``target`` with an event, which is set at the block's end."""
    ended = threading.Event()
    threads = [threading.Thread(target=target, args=(ended,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def listening(server: BaseServer) -> Iterator[None]:
    """Have a server of the standard library serve in a thread, and close it after that."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
