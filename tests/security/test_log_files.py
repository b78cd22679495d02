"""Log files of a server that root started with ``--user``: the worker is the attacker.

The class is that of CVE-2016-1247, nginx's logs in a directory of the service user: root opens, or
gives away, what a symbolic link there leads to.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.config.settings import Settings
from penstock.supervisor.helpers import Helpers
from penstock.supervisor.logs import WorkerLogs
from penstock.supervisor.loop import Loop
from penstock.system.privileges import Identity
from penstock.telemetry.log_files import opener_for
from support.invariant import eventually
from support.service_user import NOBODY, TakenOver, as_root, owned, public_folder

LOGGER = logging.getLogger("penstock.tests")
USER = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))
THIRD = 4242

pytestmark = as_root


def state(path: Path) -> tuple[int, int, bytes]:
    found = path.lstat()
    return found.st_uid, found.st_mode, path.read_bytes()


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_cve_2016_1247_a_link_in_place_of_a_log_gives_no_file_of_root_away(
    preload: tuple[str, ...],
) -> None:
    with public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir()
        owned(logs, USER.uid)
        secret = folder / "secret"
        secret.write_text("for root alone")
        secret.chmod(0o600)
        before = state(secret)
        names = {kind: str(logs / f"{kind}.log") for kind in ("access", "error")}
        arguments = ("--access-logfile", names["access"], "--error-logfile", names["error"])
        server = TakenOver(folder, *arguments, *preload)
        try:
            serving = Path(names["error"])
            assert eventually(lambda: serving.exists() and " serving " in serving.read_text())
            server.host, server.port = "127.0.0.1", port_in(serving)
            for name in names.values():
                assert os.stat(name).st_uid == USER.uid  # made entirely as this user
            swap = "import os\n" + "".join(
                f"os.rename({name!r}, {name + '.1'!r}); os.symlink({str(secret)!r}, {name!r})\n"
                for name in names.values()
            )
            [worker] = server.serving()
            server.run(swap + "answer = 1")
            os.kill(worker, signal.SIGKILL)  # its successor opens the logs, its requests are logged
            [worker] = server.wait_for_serving(1, {worker})
            server.signal(signal.SIGUSR1)
            old_log = Path(names["error"] + ".1")
            assert eventually(lambda: old_log.read_text().count("PEN-5040") >= 2)
            assert "symbolic link" in old_log.read_text()
            server.signal(signal.SIGHUP)
            assert eventually(lambda: "PEN-7100" in old_log.read_text())
            assert state(secret) == before
            # Where the files are back, rotation works again.
            for name in names.values():
                os.unlink(name)
            server.signal(signal.SIGUSR1)
            assert eventually(lambda: all(map(os.path.exists, names.values())))

            def logs_its_requests() -> bool:
                server.run("answer = 1")
                return "/run" in Path(names["access"]).read_text()

            assert eventually(logs_its_requests)
            assert server.stop() == 0
        finally:
            server.kill()


def test_cve_2016_1247_root_opens_no_file_that_a_configuration_of_logging_names() -> None:
    with public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir()
        owned(logs, USER.uid)
        secret = folder / "secret"
        secret.write_text("for root alone")
        secret.chmod(0o600)
        before = state(secret)
        (logs / "app.log").symlink_to(secret)
        config = folder / "logging.toml"
        config.write_text(
            '[handlers.file]\nclass = "logging.FileHandler"\ndelay = true\n'
            f'filename = "{logs}/app.log"\n'
            '[loggers.penstock]\nhandlers = ["file"]\n'
            '[loggers."gunicorn.error"]\nhandlers = ["file"]\n'
        )
        with TakenOver(folder, "--log-config", str(config)) as server:
            [worker] = server.serving()
            os.kill(worker, signal.SIGKILL)  # root's supervisor logs that, and no worker of its own
            server.wait_for_serving(1, {worker})
            server.signal(signal.SIGHUP)
            server.wait_for_line("reloaded|PEN-")
        assert state(secret) == before


def port_in(log: Path) -> int:
    return int(log.read_text().partition("http://127.0.0.1:")[2].split()[0])


def test_logs_in_a_directory_of_root_stay_roots_and_take_the_workers_lines() -> None:
    with public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir(0o755)
        access = logs / "access.log"
        with TakenOver(folder, "--access-logfile", str(access)) as server:
            server.run("answer = 1")
            assert eventually(lambda: access.read_text().count("\n") == 1)
            found = access.stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o640)
            # By its name the worker cannot open it, and in the directory it can make nothing.
            tried = f"""
answer = []
for path in ({str(access)!r}, {str(logs / "new")!r}):
    try:
        open(path, "a")
    except PermissionError:
        answer.append(path)
"""
            assert server.run(tried) == [str(access), str(logs / "new")]
            access.rename(logs / "access.log.1")
            server.signal(signal.SIGUSR1)
            assert eventually(access.exists)
            assert eventually(lambda: bool(server.run("answer = 1")) and access.read_text() != "")
            [worker] = server.workers()
            os.kill(worker, signal.SIGKILL)
            server.wait_for_serving(1, {worker})
            before = access.read_text()
            server.run("answer = 1")
            assert eventually(lambda: access.read_text() != before)
            assert server.stop() == 0


def test_devices_and_standard_streams_are_opened_and_never_given_away() -> None:
    null = os.stat("/dev/null")
    with public_folder() as folder:
        (folder / "linked.log").symlink_to("/dev/stdout")
        for name in ("/dev/null", "/dev/stdout", str(folder / "linked.log"), "-"):
            with TakenOver(folder, "--access-logfile", name) as server:
                assert os.fstat(server.process.stdout.fileno()).st_uid == 0  # type: ignore[union-attr]
                server.run("answer = 1")
                if name != "/dev/null":
                    assert eventually(lambda: any("/run" in line for line in server.output))
                server.signal(signal.SIGUSR1)
                server.run("answer = 1")
                assert server.stop() == 0
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (null.st_uid, null.st_gid, null.st_mode)


def test_sigusr1_to_a_worker_alone_makes_root_open_nothing() -> None:
    with public_folder() as folder:
        logs = owned_directory(folder)
        access = logs / "access.log"
        with TakenOver(folder, "--access-logfile", str(access)) as server:
            access.rename(logs / "access.log.1")
            server.run("import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
            server.wait_for_line("the supervisor opens the logs")
            assert not access.exists()
            assert server.stop() == 0


def owned_directory(folder: Path) -> Path:
    logs = folder / "logs"
    logs.mkdir()
    return owned(logs, USER.uid)


# What is opened, and by whom


def opened(path: Path) -> tuple[int, int]:
    """Open a log for the user; return the owner and the mode of what is open."""
    descriptor = opener_for(USER)(str(path))
    try:
        found = os.fstat(descriptor)
        return found.st_uid, stat.S_IFMT(found.st_mode)
    finally:
        os.close(descriptor)


def test_who_opens_a_log_depends_on_who_can_move_its_name() -> None:
    with public_folder() as folder:
        roots, users, deeper = folder / "roots", folder / "users", folder / "users" / "roots"
        for each in (roots, users, deeper):
            each.mkdir()
        owned(users, USER.uid)
        assert opened(roots / "log") == (0, stat.S_IFREG)
        assert opened(users / "log") == (USER.uid, stat.S_IFREG)
        # The user can move the directory of root's: nothing is opened as root there.
        with pytest.raises(OSError, match="opened as user"):
            opened(deeper / "log")
        # A link of root's is followed, as root alone can change it.
        (roots / "link").symlink_to(roots / "log")
        (roots / "down").symlink_to("../users")
        assert opened(roots / "link") == (0, stat.S_IFREG)
        assert opened(roots / "down" / "log2") == (USER.uid, stat.S_IFREG)
        os.mkfifo(roots / "pipe")
        reader = os.open(roots / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        assert opened(roots / "pipe") == (0, stat.S_IFIFO)
        os.close(reader)
        # In a directory that all can write to, each moves only what is that user's own.
        shared = folder / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        assert opened(shared / "log") == (USER.uid, stat.S_IFREG)


def test_no_worker_decides_whether_the_supervisor_waits_at_a_pipe_of_the_access_log() -> None:
    # fcntl(2): F_SETFL changes the open file, which all have who were passed its descriptor.
    with public_folder() as folder:
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        opener = Helpers(Loop(LOGGER))
        logs = WorkerLogs(replace(Settings(), access_logfile=str(pipe)), USER, opener)
        opener.wait()
        passed = os.dup(logs.descriptors["access_logfile"])  # as a worker has it
        sink = logs.access_sink()
        assert sink is not None
        os.set_blocking(passed, True)
        assert not os.get_blocking(sink._descriptor)
        sink.close()
        logs.close()
        os.close(passed)
        os.close(reader)


def third_users_directory(folder: Path) -> Path:
    (folder / "d").mkdir()
    owned(folder / "d", THIRD)
    (folder / "d").chmod(0o777)
    return folder / "d" / "log"


def directory_for_all(folder: Path) -> Path:
    (folder / "d").mkdir()
    owned(folder / "d", USER.uid)
    (folder / "d").chmod(0o777)
    return folder / "d" / "log"


def directory_of_another_group(folder: Path) -> Path:
    (folder / "d").mkdir()
    os.chown(folder / "d", USER.uid, THIRD)
    (folder / "d").chmod(0o775)
    return folder / "d" / "log"


def file_of_a_third_user(folder: Path) -> Path:
    (folder / "d").mkdir()
    (folder / "d").chmod(0o1777)
    (folder / "d" / "log").touch()
    owned(folder / "d" / "log", THIRD).chmod(0o666)
    return folder / "d" / "log"


def users_link(folder: Path) -> Path:
    (folder / "d").mkdir()
    owned(folder / "d", USER.uid)
    (folder / "d" / "log").symlink_to("/dev/null")
    return folder / "d" / "log"


def users_hard_link(folder: Path) -> Path:
    (folder / "d").mkdir()
    (folder / "secret").touch(0o600)
    os.link(folder / "secret", folder / "d" / "log")
    owned(folder / "d", USER.uid)
    return folder / "d" / "log"


def hard_link_in_a_shared_directory(folder: Path) -> Path:
    (folder / "d").mkdir()
    (folder / "d").chmod(0o1777)
    (folder / "secret").touch(0o600)
    os.link(folder / "secret", folder / "d" / "log")
    return folder / "d" / "log"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    each.__name__: (each, reason)
    for each, reason in [
        (third_users_directory, "written by other users"),
        (directory_for_all, "written by other users"),
        (directory_of_another_group, "written by other users"),
        (file_of_a_third_user, "belongs to another user"),
        (users_link, "symbolic link"),
        (users_hard_link, "Permission denied"),
        (hard_link_in_a_shared_directory, "Permission denied"),
    ]
}


def test_a_log_that_a_third_user_can_move_or_that_is_a_link_is_refused() -> None:
    wrong = []
    for name, (prepare, reason) in REFUSED.items():
        with public_folder() as folder:
            path = prepare(folder)
            try:
                opened(path)
                wrong.append(f"{name}: opened")
            except OSError as error:
                if reason not in str(error.strerror):
                    wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_socket_or_a_directory_is_no_log() -> None:
    with public_folder() as folder:
        (folder / "d").mkdir()
        for name in ("d", "."):
            with pytest.raises(OSError):
                opened(folder / name)
