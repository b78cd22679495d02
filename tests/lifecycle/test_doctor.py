"""`penstockctl doctor` of real servers: faults that no recorded row of numbers can show."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, json_of
from support.wire import Client

SQLALCHEMY = """
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

pool = create_engine("sqlite:///a.db", poolclass=QueuePool, pool_size=SIZE, max_overflow=0)
connect = pool.connect
"""
DBUTILS = """
import sqlite3
from dbutils.pooled_db import PooledDB

pool = PooledDB(
    sqlite3, maxconnections=SIZE, blocking=True, database="a.db", check_same_thread=False
)
connect = pool.connection
"""
REDIS = """
import contextlib
import redis

class Connection:
    def __init__(self, **known):
        pass

    def connect(self):
        pass

    def can_read(self):
        return False

    def should_reconnect(self):
        return False

pool = redis.BlockingConnectionPool(
    max_connections=SIZE, timeout=None, connection_class=Connection
)

@contextlib.contextmanager
def connect():
    connection = pool.get_connection()
    try:
        yield connection
    finally:
        pool.pool.put(connection)
"""
VIEW = """
import contextlib
import threading

go = threading.Event()

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    if environ["PATH_INFO"] == "/go":
        go.set()
    elif environ["PATH_INFO"] == "/query":
        connection = connect()
        with connection if hasattr(connection, "__enter__") else contextlib.closing(connection):
            go.wait(60)
    return [b"done"]
"""
QUERIES = 4


def found_in(server: Supervised) -> dict[str, dict[str, Any]]:
    """Return what doctor finds, by rule."""
    address = str(server.folder / "control")
    answer = json_of(server.control("--control", address, "--json", "doctor"))
    return {finding["rule"]: finding for finding in answer["findings"]}


def busy_server(
    stack: ExitStack, folder: Path, transport: str, library: str, size: int
) -> Supervised:
    """Return a server whose threads but one have a request that asks for a connection."""
    (folder / "shop.py").write_text(library.replace("SIZE", str(size)) + VIEW)
    arguments = ("--control", str(folder / "control"), "--transport", transport)
    threads = ("-w", "1", "--threads", str(QUERIES + 1))
    server = stack.enter_context(Supervised(folder, *threads, *arguments))
    for _ in range(QUERIES):
        client = stack.enter_context(Client(server.address))
        client.send(b"GET /query HTTP/1.1\r\nHost: a\r\n\r\n")

    def in_progress() -> int:
        address = str(folder / "control")
        answer = json_of(server.control("--control", address, "--json", "requests"))
        return len(answer["requests"])

    assert eventually(lambda: in_progress() == QUERIES)
    return server


@pytest.mark.parametrize(
    ("library", "named"),
    [
        (SQLALCHEMY, r"SQLAlchemy's QueuePool|pool_size and max_overflow"),
        (DBUTILS, r"DBUtils|maxconnections"),
        (REDIS, r"redis-py's BlockingConnectionPool|max_connections"),
    ],
    ids=["sqlalchemy", "dbutils", "redis"],
)
def test_threads_that_wait_for_a_connection_of_a_pool_are_counted_and_it_is_named(
    tmp_path: Path, transport: str, library: str, named: str
) -> None:
    name, setting = named.split("|")
    with ExitStack() as stack:
        server = busy_server(stack, tmp_path, transport, library, size=1)
        assert eventually(lambda: "connection-pool" in found_in(server))
        assert eventually(
            lambda: (
                f"3 of the 4 threads that are in the application wait for a connection of {name}"
                in found_in(server)["connection-pool"]["what"]
            )
        )
        advice = found_in(server)["connection-pool"]["advice"]
        assert f"raise {setting}" in advice
        assert "to 5, as many as a worker has threads (--threads)" in advice
        assert server.ask("/go").status == 200


def test_threads_that_have_their_connections_do_not_wait_for_any(
    tmp_path: Path, transport: str
) -> None:
    with ExitStack() as stack:
        server = busy_server(stack, tmp_path, transport, SQLALCHEMY, size=QUERIES)
        assert "connection-pool" not in found_in(server)
        assert server.ask("/go").status == 200
