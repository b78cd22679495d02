"""Python code in namespaces of its own, and as other users: what a container or a stranger sees."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from support.server_process import checkout_environ

RUN_WITHIN = 60.0
"""Seconds for a piece of code."""

PRELUDE = """
import os, socket, stat, subprocess, sys, time
import glob  # which penstockctl imports: the users below may not be able to read this Python
from penstock.control import penstockctl
from penstock.control.address import *
from support.control_loop import COMMAND, ControlLoop, connect
from support.wire import Client


def become(uid):
    "Be another user, without any right of root."
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def as_user(uid, function, *arguments):
    "Call a function in a process of another user; return what it returns, as text."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(uid)
            os.write(writer, str(function(*arguments)).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def tmpfs(path, mode):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode={mode:o}", "none", path], check=True)


def ctl(*arguments):
    "Run penstockctl here; return its status and what it says."
    import contextlib, io
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            status = penstockctl.main(arguments)
    return status, out.getvalue(), err.getvalue()


def settings(**changes):
    from dataclasses import replace
    from penstock.config.settings import Settings
    return replace(Settings(), **changes)


class Server:
    "A control server at the address of the settings, in a loop of its own."
    def __init__(self, **changes):
        from penstock.control.server import ControlServer
        self.loop = ControlLoop()
        self.server = ControlServer(self.loop.fake.handle, self.loop.selector, self.loop.logger)
        self.server.open(settings(**changes))
        self.loop.services += self.server._all()
        self.loop.__enter__()

    @property
    def place(self):
        return self.loop.services[0].name if self.loop.services else None

    @property
    def said(self):
        return [text for text in self.loop.messages.texts if not text.startswith("DEBUG")]

    def end(self):
        self.loop.__exit__(None, None, None)
"""
"""What the code has: the names above, and what this module says of them."""


@functools.cache
def missing(*flags: str) -> str:
    """Return why namespaces cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "only root can change its user and mount file systems"
    if shutil.which("unshare") is None:
        return "there is no unshare (util-linux)"
    done = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"unshare {' '.join(flags)}: {done.stderr.strip()}"


def _command(code: str, flags: tuple[str, ...]) -> list[str]:
    if reason := missing(*flags):
        pytest.skip(reason)
    return ["unshare", *flags, sys.executable, "-c", PRELUDE + code]


def _environ() -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    environ = checkout_environ() | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"):
        environ.pop(name, None)
    return environ


def run_in(code: str, *flags: str, cwd: str = "/") -> str:
    """Run code in new namespaces (flags of unshare(1)); return what it prints.

    The test is skipped where namespaces cannot be made, and fails where the code does.
    """
    done = subprocess.run(
        _command(code, flags),
        env=_environ(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running_in(code: str, *flags: str) -> Iterator[IO[str]]:
    """Run code beside the test; yield its output. The code ends when its input does."""
    with subprocess.Popen(
        _command(code, flags),
        env=_environ(),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
            process.communicate("", RUN_WITHIN)
        finally:
            if process.poll() is None:
                process.kill()
