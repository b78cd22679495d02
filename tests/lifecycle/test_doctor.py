"""`penstockctl doctor` of real servers: faults that no recorded row of numbers can show."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
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

MODULE = """
#include <Python.h>

static PyObject *crash(PyObject *self, PyObject *arguments) {
    *(volatile int *)0 = 1;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"crash", crash, METH_NOARGS, ""}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_foo", "", -1, methods};

PyMODINIT_FUNC PyInit__foo(void) { return PyModule_Create(&module); }
"""
CRASHES = """
import _foo

def app(environ, start_response):
    if environ["PATH_INFO"] == "/crash":
        _foo.crash()
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""
HEADERS = Path(sysconfig.get_paths()["include"])


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


@pytest.mark.skipif(
    shutil.which("cc") is None or not (HEADERS / "Python.h").exists(),
    reason="needs a C compiler and Python's headers",
)
def test_a_crash_in_an_extension_names_it_and_who_called_it(tmp_path: Path, transport: str) -> None:
    (tmp_path / "foo.c").write_text(MODULE)
    library = f"_foo{sysconfig.get_config_var('EXT_SUFFIX')}"
    compile_it = ["cc", "-shared", "-fPIC", f"-I{HEADERS}", "foo.c", "-o", library]
    subprocess.run(compile_it, cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "shop.py").write_text(CRASHES)
    control = str(tmp_path / "control")
    arguments = ("-w", "1", "--control", control, "--transport", transport, "--pid", "pid")
    with Supervised(tmp_path, *arguments) as server:
        (worker,) = server.workers()
        assert server.ask("/").status == 200
        assert "crashed-workers" not in found_in(server)
        with Client(server.address) as client:
            client.send(b"GET /crash HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_to_end() == b""
        server.wait_for_workers(1, {worker})
        crashed = found_in(server)["crashed-workers"]
        assert "1 by SIGSEGV" in crashed["what"]
        assert "in _foo, called by app (" in crashed["what"]
        assert "shop.py:6)" in crashed["what"]
        assert "a newer version of _foo" in crashed["advice"]
        server.control("--control", control, "upgrade")
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"), 30)
        assert found_in(server)["crashed-workers"] == crashed


def test_a_peer_with_most_connections_that_sends_fields_of_a_proxy_looks_like_one(
    tmp_path: Path, transport: str
) -> None:
    control = ("--control", str(tmp_path / "control"), "--transport", transport)
    arguments = ("-w", "1", "--forwarded-allow-ips", "none", *control)
    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Client(server.address))
            assert client.request("GET", "/echo?0").status == 200
        assert eventually(lambda: "one-client" in found_in(server))
        assert (
            "it may be a proxy: it runs on this machine" in found_in(server)["one-client"]["what"]
        )
        assert client.request("GET", "/echo?0", {"X-Forwarded-For": "8.8.4.4"}).status == 200
        found = found_in(server)["one-client"]
        assert "127.0.0.1 holds 100% of the 20 connections; it looks like a proxy" in found["what"]
        assert "name it in --forwarded-allow-ips" in found["advice"]


def test_a_trusted_proxy_with_all_connections_is_no_fault(tmp_path: Path, transport: str) -> None:
    arguments = ("-w", "1", "--control", str(tmp_path / "control"), "--transport", transport)
    with Supervised(tmp_path, *arguments) as server, ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Client(server.address))
            assert client.request("GET", "/echo?0").status == 200
        address = str(tmp_path / "control")

        def top() -> Any:
            status = json_of(server.control("--control", address, "--json", "status"))
            return status["top_client"]

        assert eventually(lambda: top() == {"address": "127.0.0.1", "connections": 20})
        assert "one-client" not in found_in(server)
