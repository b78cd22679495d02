"""A server that root starts for another user, whose application runs whatever code it is sent.

That is what docs/privileges.md defends against: a worker that was taken over.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.lifecycle import MODULE, Supervised
from support.server_process import checkout_environ
from support.wire import Client

NOBODY = pwd.getpwnam("nobody")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

APPLICATION = """
import json, traceback
from urllib.parse import unquote

def app(environ, start_response):
    names = {"environ": environ}
    try:
        exec(environ["wsgi.input"].read().decode(), names)
        answer = names.get("answer")
    except Exception:
        answer = traceback.format_exc()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


@contextmanager
def public_folder(owner: int = 0) -> Iterator[Path]:
    """A folder that every user can read. Above `tmp_path` are folders of one user alone."""
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / f"{MODULE}.py").write_text(APPLICATION)
        os.chown(folder, owner, owner)
        yield folder


def public_python() -> str:
    """Return a Python that any user can import from; skip the test without one."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python):
            code = "import os, sys; os.setuid(65534); import colorsys; print(sys.version_info[:2])"
            tried = [python, "-W", "ignore", "-c", code]
            done = subprocess.run(tried, capture_output=True, text=True, check=False)
            if done.stdout.strip() == str(sys.version_info[:2]):
                return python
    pytest.skip("no Python of this version can be read by all users")


def ended_command(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder until it ends, by a Python that any user can import from."""
    return subprocess.run(
        [public_python(), "-m", "penstock", *arguments],
        cwd=folder,
        env={**checkout_environ(), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TakenOver(Supervised):
    """A server of root's with ``--user nobody``, whose worker runs the code of `run`."""

    def __init__(
        self, folder: Path, *arguments: str, user: str | None = "nobody", **process: Any
    ) -> None:
        """``user`` may be None: then the worker is root's."""
        process.setdefault("python", (public_python(),))
        of_user = ("--user", user) if user is not None else ()
        super().__init__(folder, *of_user, *arguments, **process)

    def run(self, code: str) -> Any:
        """Run code in the worker; return what it has named ``answer``."""
        with Client(self.address) as client:
            answer = client.request("POST", "/run", {"Connection": "close"}, code.encode())
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def status_of(self, pid: int) -> dict[str, str]:
        """Return /proc/PID/status."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def owned(path: Path, uid: int) -> Path:
    """Give a file or directory to a user, and return it."""
    os.chown(path, uid, uid)
    return path
