"""Real proxies on loopback ports, as processes of their own: nginx and HAProxy, where installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.serving import eventually
from support.wire import DEADLINE

ATTEMPTS = 5
"""Another process may take a free port before the proxy does."""

NGINX = """
daemon off;
master_process off;
pid {place}/pid;
error_log {place}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
{http}
}}
"""

HAPROXY = """
defaults
    timeout connect 5s
    timeout client 20s
    timeout server 20s
{sections}
"""

Configuration = Callable[[list[int]], str]
"""Makes the configuration from the ports to listen on."""


@contextmanager
def nginx(place: Path, http: Configuration, *, ports: int = 1) -> Iterator[list[int]]:
    """Run nginx with a section ``http``; yield the ports of 127.0.0.1 on which it listens."""
    program = found("nginx")

    def command(taken: list[int]) -> list[str]:
        path = place / "nginx.conf"
        path.write_text(NGINX.format(place=place, http=http(taken)))
        return [program, "-p", str(place), "-c", str(path), "-e", str(place / "error.log")]

    with running(command, ports) as taken:
        yield taken


@contextmanager
def haproxy(place: Path, sections: Configuration, *, ports: int = 1) -> Iterator[list[int]]:
    """Run HAProxy with sections; yield the ports of 127.0.0.1 on which it listens."""
    program = found("haproxy")

    def command(taken: list[int]) -> list[str]:
        path = place / "haproxy.cfg"
        path.write_text(HAPROXY.format(sections=sections(taken)))
        return [program, "-db", "-q", "-f", str(path)]

    with running(command, ports) as taken:
        yield taken


def found(program: str) -> str:
    """Return the path of a program; skip the test without it."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@contextmanager
def running(command: Callable[[list[int]], list[str]], ports: int) -> Iterator[list[int]]:
    """Run a proxy until the test's end, once all of its ports answer."""
    for _ in range(ATTEMPTS):
        taken = free_ports(ports)
        process = subprocess.Popen(
            command(taken), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            eventually(lambda: process.poll() is not None or all(map(answers, taken)))  # noqa: B023
            if process.poll() is None:
                yield taken
                return
            output = process.communicate(timeout=DEADLINE)[0]
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(DEADLINE)
            assert process.stdout is not None
            process.stdout.close()
    raise AssertionError(f"the proxy did not start: {output}")


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nothing listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def answers(port: int) -> bool:
    """Return True if something listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    except OSError:
        return False
    return True
