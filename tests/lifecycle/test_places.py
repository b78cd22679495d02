"""Where a server of several processes can run: as PID 1, as any user, on a read-only disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.descriptors import links
from support.invariant import eventually
from support.lifecycle import Supervised, parent_of, write_app
from support.load import Load
from support.server_process import START_WITHIN
from support.service_user import public_python

UNSHARE = shutil.which("unshare")


def may_unshare(*flags: str) -> bool:
    """Return True if this user may have namespaces of its own."""
    if UNSHARE is None:
        return False
    return (
        subprocess.run([UNSHARE, *flags, "true"], capture_output=True, check=False).returncode == 0
    )


needs_pid_namespace = pytest.mark.skipif(
    not may_unshare("-fp", "--mount-proc"), reason="no PID namespace may be made here"
)
needs_mounts = pytest.mark.skipif(
    not may_unshare("-m"), reason="no mount namespace may be made here"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may change the user")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can read. Above `tmp_path` are folders of one user alone."""
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_pid_namespace
def test_fault_39_as_pid_1_it_stops_on_sigterm_and_reaps_strangers(
    tmp_path: Path, transport: str
) -> None:
    assert UNSHARE is not None
    python = (UNSHARE, "-fp", "--mount-proc", "--kill-child", sys.executable)
    with Supervised(tmp_path, "-w", "2", "--transport", transport, python=python) as server:
        # The first process is unshare; its child is the server, and PID 1 of what it sees.
        (server.supervisor,) = [p for p in server.members() if parent_of(p) == server.process.pid]
        with Load(server.address, keep_alive=2, closing=2) as load:
            load.wait_for(20)
            for number in range(5):
                assert server.ask(f"/stray?{number}").status == 200
            server.wait_for_workers(2)
            load.wait_for(20)
        load.counts.check()

        def zombies() -> list[str]:
            names = [f"/proc/{pid}/stat" for pid in os.listdir("/proc") if pid.isdigit()]
            stats = []
            for name in names:
                try:
                    stats.append(Path(name).read_text())
                except (FileNotFoundError, ProcessLookupError):
                    pass
            fields = [stat.rpartition(")")[2].split() for stat in stats]
            return [f[1] for f in fields if f[0] == "Z" and int(f[1]) == server.supervisor]

        assert eventually(lambda: not zombies()), zombies()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not [line for line in server.lines if "[ERROR]" in line or "[CRITICAL]" in line]


@needs_mounts
def test_it_starts_as_anybody_without_a_home_on_a_disk_that_cannot_be_written(
    public_folder: Path, transport: str
) -> None:
    """A read-only root, an arbitrary user id, no HOME, no /tmp."""
    assert UNSHARE is not None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    # Every mount that could be written becomes read-only, in a namespace of the server's own.
    script = (
        "mount --make-rprivate / && "
        "for m in $(cut -d' ' -f5 /proc/self/mountinfo | sort -u); do "
        'case "$m" in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$m" || exit 77;; esac; '
        "done && mount -t tmpfs -o ro none /dev/shm 2>/dev/null; "
        'exec "$0" "$@"'
    )
    python = (
        *(UNSHARE, "-m", "sh", "-c", script, "env", "-u", "HOME", "-u", "TMPDIR"),
        *(setpriv, "--reuid=54321", "--regid=54321", "--clear-groups", public_python()),
    )
    with Supervised(public_folder, "-w", "2", "--transport", transport, python=python) as server:
        with Load(server.address, keep_alive=2, closing=2) as load:
            load.wait_for(50)
            old = server.workers()
            server.signal(signal.SIGHUP)
            server.wait_for_workers(2, old)
            load.wait_for(50)
        assert server.ask("/identity").body.startswith(b"54321 54321 [] ")
        with pytest.raises(OSError), open(f"/proc/{server.supervisor}/root{public_folder}/x", "w"):
            pass
        assert server.stop() == 0
    assert load.counts.refused == 0
    assert not [line for line in server.lines if "[ERROR]" in line], server.lines


@needs_root
def test_workers_run_as_the_user_and_group_that_were_asked_for(
    public_folder: Path, transport: str
) -> None:
    arguments = ("-u", "nobody", "-g", "nogroup", "--umask", "027", "--transport", transport)
    access = public_folder / "access.log"
    python = (public_python(),)
    with Supervised(
        public_folder, *arguments, "--access-logfile", str(access), python=python
    ) as server:
        import grp
        import pwd

        uid, gid = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid
        told = server.ask("/identity").body.decode()
        assert told.startswith(f"{uid} {gid} "), told
        # root's groups are gone
        assert " [0" not in told
        assert os.stat(f"/proc/{server.supervisor}").st_uid == 0
        (old,) = server.workers()
        os.kill(old, signal.SIGKILL)
        server.wait_for_workers(1, {old})
        assert server.ask("/identity").body.decode().startswith(f"{uid} {gid} ")
        assert server.stop() == 0
    assert "/identity" in access.read_text()


@needs_root
def test_a_user_that_does_not_exist_is_an_error_at_the_start(tmp_path: Path) -> None:
    server = Supervised(tmp_path, "-u", "no-such-user")
    try:
        assert server.wait(START_WITHIN) == 2
        assert "no-such-user" in "\n".join(server.lines)
    finally:
        server.kill()


def test_fault_46_a_stale_pid_file_is_taken_over(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{child.pid}\n")
    with Supervised(tmp_path, "--pid", str(pid_file)) as server:
        assert int(pid_file.read_text()) == server.supervisor
        assert server.stop() == 0
    assert not pid_file.exists()


def test_fault_46_the_pid_file_of_a_server_that_runs_is_an_error(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Supervised(tmp_path, "--pid", str(pid_file)) as server:
        second = Supervised(tmp_path, "--pid", str(pid_file))
        try:
            assert second.wait(START_WITHIN) != 0  # it imports as much as a start does
            assert str(server.supervisor) in "\n".join(second.lines)
        finally:
            second.kill()
        assert int(pid_file.read_text()) == server.supervisor
        assert server.stop() == 0


def test_no_descriptor_leads_to_a_file_that_was_made_for_the_heartbeat(tmp_path: Path) -> None:
    control = os.path.join(os.environ["RUNTIME_DIRECTORY"], "penstock")
    with Supervised(tmp_path, "-w", "2") as server:
        for pid in server.members():
            for link in links(pid).values():
                if pid == server.supervisor and link == control:
                    continue  # its directory, which no worker has
                assert not link.startswith(("/tmp", "/dev/shm", "/var")), link
            maps = Path(f"/proc/{pid}/maps").read_text()
            shared = [line for line in maps.splitlines() if " rw-s " in line]
            assert not [line for line in shared if "/dev/zero" not in line], shared
        assert server.stop() == 0


@pytest.mark.parametrize("by", ["PWD", "--chdir"])
def test_a_reload_and_an_upgrade_follow_a_link_to_the_next_release(tmp_path: Path, by: str) -> None:
    """Deployments make a folder for each release, and switch a link (Capistrano, deployer)."""
    link, pid_file = tmp_path / "current", tmp_path / "pid"
    for version in ("one", "two", "three"):
        (tmp_path / version).mkdir()
        write_app(tmp_path / version, version)

    def switch(version: str) -> None:
        (tmp_path / "new").symlink_to(version)
        (tmp_path / "new").rename(link)

    switch("one")
    arguments = ["--pid", str(pid_file)]
    folder = link
    if by == "--chdir":
        arguments += ["--chdir", str(link)]
        folder = tmp_path
        write_app(folder, "not served")  # `Supervised` wants one
    with Supervised(folder, *arguments, environ={"PWD": str(folder)}) as server:
        old = server.workers()
        assert server.served_by()[0] == "one"
        switch("two")
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)
        assert server.served_by()[0] == "two"
        switch("three")
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: server.has_new_supervisor(pid_file))
        assert server.process.wait(20) == 0
        assert server.served_by()[0] == "three"
        server.stop()


def test_a_working_directory_that_pwd_does_not_name_is_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for named in (str(tmp_path / "elsewhere"), "nowhere", "/nowhere", ""):
        with Supervised(tmp_path, environ={"PWD": named}) as server:
            assert server.served_by()[0] == "one"
