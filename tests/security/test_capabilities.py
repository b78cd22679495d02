"""What a worker may still do after it has become the user of ``--user``, or none was asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised
from support.service_user import (
    NOBODY,
    TakenOver,
    as_root,
    public_folder,
    public_python,
)

pytestmark = as_root

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

HOOKS = """
import threading
def post_fork(server, worker):
    threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()
"""

CANNOT_COME_BACK = """
import os
answer = []
for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        call()
        answer.append("came back")
    except PermissionError:
        pass
"""


def all_threads(pid: int) -> list[dict[str, str]]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (line.partition(":") for line in (task / "status").read_text().splitlines())
        found.append({name: value.strip() for name, _, value in lines})
    return found


@pytest.mark.parametrize("how", ["", "--preload", "--threads=1"])
def test_a_worker_of_another_user_has_no_capability_and_can_gain_none(how: str) -> None:
    with public_folder() as folder:
        # Threads that a hook starts, before the worker has changed its user, are no exception.
        (folder / "gunicorn.conf.py").write_text(HOOKS)
        with TakenOver(folder, *filter(None, [how])) as server:
            [worker] = server.serving() if how == "--preload" else server.workers()
            for thread in all_threads(worker):
                assert thread["NoNewPrivs"] == "1"
                assert {thread[name] for name in SETS if name != "CapBnd"} == {"0" * 16}
                assert thread["Uid"].split() == [str(NOBODY.pw_uid)] * 4
            assert server.status_of(worker)["CapBnd"] == "0" * 16
            assert server.status_of(worker)["Groups"].split() == [str(NOBODY.pw_gid)]
            assert server.run(CANNOT_COME_BACK) == []
            assert server.stop() == 0


def test_setuid_programs_are_allowed_where_the_setting_says_so() -> None:
    with public_folder() as folder, TakenOver(folder, "--allow-setuid-programs") as server:
        [worker] = server.workers()
        status = server.status_of(worker)
        assert status["NoNewPrivs"] == "0"
        assert status["CapBnd"] == server.status_of(server.supervisor)["CapBnd"]
        assert {status[name] for name in SETS if name != "CapBnd"} == {"0" * 16}
        assert server.run(CANNOT_COME_BACK) == []
        assert server.stop() == 0


@pytest.mark.parametrize("arguments", [(), ("--user", "nobody"), ("--preload",)])
def test_ambient_capabilities_stay_with_the_supervisor(arguments: tuple[str, ...]) -> None:
    """As with systemd's ``AmbientCapabilities=``: without root, on a port below 1024."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    given = "+net_bind_service,+setuid"
    command = (
        *(setpriv, f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"),
        *(f"--inh-caps={given}", f"--ambient-caps={given}", public_python()),
    )
    if subprocess.run([*command, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("this process may give no ambient capabilities")
    with (
        public_folder() as folder,
        Supervised(
            folder, *arguments, "--access-logfile", "-", "--control", "off", python=command
        ) as server,
    ):
        assert eventually(lambda: len(server.serving()) == 1)
        assert int(_status(server.supervisor)["CapEff"], 16) != 0
        [worker] = server.serving()
        for thread in all_threads(worker):
            assert {thread[name] for name in SETS if name != "CapBnd"} == {"0" * 16}
        assert server.stop() == 0


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_drop_that_the_system_ignores_is_no_start() -> None:
    """As in a sandbox that lets the calls succeed and does nothing."""
    code = (
        "import os, sys\n"
        "from penstock.errors import SettingsError\n"
        "from penstock.system import capabilities\n"
        "from penstock.system.privileges import Identity, become\n"
        "capabilities.drop = lambda: None\n"
        "os.setresuid = lambda *_: None\n"
        "try:\n"
        "    become(Identity(65534, 65534, (65534,)))\n"
        "except SettingsError as error:\n"
        "    print(error)\n"
    )
    from support.server_process import checkout_environ

    done = subprocess.run(
        [public_python(), "-c", code],
        env=checkout_environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "capabilities are left" in done.stdout, done
