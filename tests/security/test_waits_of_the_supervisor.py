"""The supervisor waits for no path: a user, or a file system, can halt what looks it up.

It is single-threaded: while it waits, no worker is replaced, no command answered, no signal taken.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from penstock.control.socket_file import open_path
from penstock.supervisor.helpers import Helpers
from penstock.supervisor.loop import Loop
from penstock.supervisor.pool import MOST_REAPED
from penstock.system.as_user import HELPER_SECONDS, Change, Helper, HelperError
from penstock.system.privileges import Identity
from penstock.telemetry.log_files import received_log
from penstock.telemetry.log_sink import LogSink
from support.hanging_mount import hanging_mount
from support.invariant import eventually
from support.server_process import checkout_environ
from support.service_user import NOBODY, TakenOver, as_root, owned, public_folder
from support.wire import DEADLINE, Client

USER = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))
LOGGER = logging.getLogger("penstock.tests")


@as_root
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_a_log_in_a_file_system_that_hangs_holds_nothing_up(preload: tuple[str, ...]) -> None:
    with public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir()
        owned(logs, USER.uid)
        access = logs / "access.log"
        arguments = ("--access-logfile", str(access), "--log-level", "debug")
        with TakenOver(folder, *arguments, *preload) as server:
            with access.open() as old, hanging_mount(logs):
                # A supervisor that waited would report the log before it starts another worker.
                server.signal(signal.SIGUSR1)
                server.wait_for_line("received SIGUSR1")
                server.signal(signal.SIGTTIN)
                server.wait_for_line("2 workers are wanted")
                assert not any("PEN-5040" in line for line in server.lines)
                line = server.wait_for_line("PEN-5040")
                assert "access log" in line
                assert f"it took longer than {HELPER_SECONDS:g} s" in line
                # Those of before and the one that started meanwhile go on in the old file.
                server.wait_for_serving(2)
                old.seek(0, os.SEEK_END)
                server.run("answer = 1")
                assert eventually(lambda: "/run" in old.read())
                # A reload opens its logs, too. It is taken back, and holds nothing up either.
                server.signal(signal.SIGHUP)
                server.wait_for_line("reloading settings")
                server.signal(signal.SIGTTOU)
                server.wait_for_line("PEN-7300 SIGTTOU is refused: the server is reloading")
                assert not any("PEN-7100" in line for line in server.lines)
                assert "access_logfile: cannot open" in server.wait_for_line("PEN-7100")
                server.run("answer = 1")
            # Where it answers again, rotation works as before.
            access.rename(logs / "access.log.1")
            server.signal(signal.SIGUSR1)
            assert eventually(access.exists)
            assert eventually(lambda: bool(server.run("answer = 1")) and access.read_text() != "")
            # Nothing is left of the processes that were halted.
            assert eventually(lambda: len(server.workers()) == 2 + len(preload))
            assert server.stop() == 0


@as_root
def test_a_pid_file_and_a_socket_in_a_file_system_that_hangs_do_not_hold_up_the_stop() -> None:
    with public_folder() as folder:
        place = folder / "place"
        place.mkdir()
        owned(place, USER.uid)
        config = folder / "gunicorn.conf.py"
        config.write_text("bind = ['127.0.0.1:0']")
        arguments = ("--pid", str(place / "pid"), "-c", str(config))
        with TakenOver(folder, *arguments, bind=None) as server:
            with hanging_mount(place):
                # The path of a new address is looked up at the reload, and that is given up.
                config.write_text(f"bind = ['127.0.0.1:0', 'unix:{place}/socket']")
                server.signal(signal.SIGHUP)
                assert "it took longer than" in server.wait_for_line("PEN-7100")
                server.run("answer = 1")
                assert server.stop() == 0


@as_root
@pytest.mark.parametrize("place_of", ["a new socket", "a socket that stays", "temp_dir"])
def test_a_reload_waits_for_no_directory_of_the_users(place_of: str) -> None:
    with public_folder() as folder:
        place = folder / "place"
        place.mkdir()
        owned(place, USER.uid)
        config, path = folder / "gunicorn.conf.py", place / "socket"
        first, then = "bind = ['127.0.0.1:0']", ""
        if place_of == "a socket that stays":
            first = f"bind = ['127.0.0.1:0', 'unix:{path}']"
        elif place_of == "a new socket":
            then = f"bind = ['127.0.0.1:0', 'unix:{path}']"
        config.write_text(first)
        flags = ("--temp-dir", str(place)) if place_of == "temp_dir" else ()
        with TakenOver(folder, "-c", str(config), *flags, bind=None) as server:
            config.write_text(then or first)
            (worker,) = server.workers()
            with hanging_mount(place):
                server.signal(signal.SIGHUP)
                server.wait_for_line("reloading settings")
                server.signal(signal.SIGTTIN)
                server.wait_for_line("PEN-7300 SIGTTIN is refused: the server is reloading")
                assert not any("PEN-7100" in line for line in server.lines)
                os.kill(worker, signal.SIGKILL)  # it is replaced meanwhile
                line = server.wait_for_line("PEN-7100")
                assert f"it took longer than {HELPER_SECONDS:g} s" in line
                assert place.name in line
                server.run("answer = 1")
            old = server.workers()
            server.signal(signal.SIGHUP)
            assert eventually(lambda: len(server.workers()) == 1 and not server.workers() & old)
            server.run("answer = 1")
            if place_of != "temp_dir":
                assert path.stat().st_uid == USER.uid
                path.unlink()
                old = server.workers()
                server.signal(signal.SIGHUP)  # a path that was removed is bound again
                assert eventually(lambda: len(server.workers()) == 1 and not server.workers() & old)
                assert path.stat().st_uid == USER.uid
            assert server.stop() == 0
        assert not path.exists()


@as_root
def test_the_pid_files_move_after_an_upgrade_holds_nothing_up() -> None:
    with public_folder() as folder:
        place = folder / "place"
        place.mkdir()
        owned(place, USER.uid)
        pid, end = place / "pid", folder / "end"
        with TakenOver(folder, "--pid", str(pid)) as server:
            first = server.supervisor
            held = f"import os, select\nwhile not os.path.exists({str(end)!r}):"
            held += "\n    select.select([], [], [], 0.02)\n"
            with Client(server.address) as client:
                text = held.encode()
                head = f"POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text)}\r\n\r\n"
                client.send(head.encode() + text)
                server.signal(signal.SIGUSR2)
                server.wait_for_line("serves: this one ends")
                server.supervisor = int((place / "pid.2").read_text())
                with hanging_mount(place):
                    end.touch()  # the old supervisor ends
                    assert client.read_response().status == 200
                    server.process.wait(DEADLINE)
                    server.signal(signal.SIGTTIN)
                    server.wait_for_line("2 workers are wanted")
                    assert not any("PEN-7210" in line for line in server.lines), server.lines
                    assert "it took longer than" in server.wait_for_line("PEN-7210")
            assert server.supervisor != first
            assert server.stop() == 0
        assert not (place / "pid.2").exists()


# -- the process that opens a log -----------------------------------------------------------------


@pytest.fixture
def opener() -> Iterator[Helpers]:
    made = Helpers(Loop(LOGGER))
    yield made
    made.close()


def answer_of(work: Callable[[Change], Sequence[int]]) -> int:
    """Return the log that a helper process sends."""
    helper = Helper(work)
    try:
        return received_log("/log", lambda: helper.wait(DEADLINE))
    finally:
        helper.end(reap_within=DEADLINE)


def test_what_a_helper_sends_in_place_of_a_log_is_refused_and_closed(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def opened(path: Path | str = log, flags: int = os.O_WRONLY | os.O_CREAT) -> int:
        return os.open(path, flags)

    works: dict[str, Callable[[Change], Sequence[int]]] = {
        "nothing": lambda _: [],
        "two": lambda _: [opened(), opened()],
        "more than there is room for": lambda _: [opened() for _ in range(10)],
        "a directory": lambda _: [opened("/", os.O_RDONLY | os.O_DIRECTORY)],
        "a path": lambda _: [opened("/", getattr(os, "O_PATH", os.O_RDONLY))],
        "a file to read": lambda _: [opened("/dev/null", os.O_RDONLY)],
        "a socket": lambda _: [socket.socketpair()[0].detach()],
        "an epoll": lambda _: [select.epoll().fileno()],
    }
    before = len(os.listdir("/proc/self/fd"))
    taken = []
    for name, work in works.items():
        try:
            taken.append((name, answer_of(work)))
        except OSError:
            pass
    assert not taken
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(answer_of(lambda _: [opened()]))


def send_in_its_place(data: bytes) -> Callable[[Change], Sequence[int]]:
    """Return work that sends ``data`` as its answer, and lives on."""

    def work(_: Change) -> Sequence[int]:
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                found = socket.socket(fileno=os.dup(number))
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_SEQPACKET:
                    found.send(data)
            except OSError:
                continue
        signal.pause()
        return []

    return work


def test_a_helper_that_sends_anything_else_is_ended_with_a_reason() -> None:
    for data in (b"[]", b"null", b"\xff", b"{", b'{"error": "", "descriptors": "x"}', b"x" * 9000):
        with pytest.raises(OSError, match="did not send an answer"):
            answer_of(send_in_its_place(data))
    with pytest.raises(OSError, match="something else than an open log"):
        answer_of(send_in_its_place(json.dumps({"error": "", "descriptors": -1}).encode()))


def test_a_helper_that_is_killed_is_an_error_in_words() -> None:
    def work(_: Change) -> Sequence[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    with pytest.raises(OSError, match="was ended"):
        answer_of(work)


def test_the_end_of_a_halted_helper_is_not_waited_for() -> None:
    reader, writer = os.pipe()

    def work(_: Change) -> Sequence[int]:
        os.write(writer, b"%d" % os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
        return []

    helper = Helper(work)
    pid = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    os.waitpid(pid, os.WUNTRACED)
    with pytest.raises(HelperError, match="longer"):
        helper.wait(0.0)
    helper.end()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@as_root
def test_a_helper_of_the_users_keeps_nothing_of_roots_open(tmp_path: Path) -> None:
    # A listener that it kept while it hangs would keep its address from the next server.
    secret = os.open("/dev/null", os.O_RDONLY)

    def work(change: Change) -> Sequence[int]:
        change(USER)
        kept = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2}
        raise OSError(0, f"{len(kept)} open, {secret in kept}")

    helper = Helper(work)
    with pytest.raises(HelperError, match=r"2 open, False"):  # of the answer, and of the listing
        helper.wait(DEADLINE)
    helper.end(reap_within=DEADLINE)
    os.close(secret)


def test_a_log_is_opened_at_once_where_there_is_no_other_user(
    opener: Helpers, tmp_path: Path
) -> None:
    opened: list[int] = []
    failed: list[Exception] = []
    opener.open_log(str(tmp_path / "log"), None, opened.append, failed.append)
    opener.open_log(str(tmp_path / "none" / "log"), None, opened.append, failed.append)
    assert (len(opened), len(failed)) == (1, 1)
    os.close(opened[0])


# -- other waits ----------------------------------------------------------------------------------


def test_a_locked_directory_is_not_waited_for_once_there_are_workers(tmp_path: Path) -> None:
    # What holds the lock may be any process that can open the directory.
    place = tmp_path / "control.sock"
    dead = open_path(str(place), 1)
    dead.disown()
    dead.close()
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="locked"):
        open_path(str(place), 1, patience=0.0)
    open_path(str(tmp_path / "free.sock"), 1, patience=0.0).close()
    os.close(holder)
    open_path(str(place), 1, patience=0.0).close()


class WithoutPoll(LogSink):
    """Writes whether there is room or not, as where another process has just taken it."""

    def _room(self, deadline: float) -> bool:
        return True


def test_a_log_that_is_a_socket_blocks_no_process_and_keeps_its_flags() -> None:
    # The flags of a socket are those of all processes that have it, such as the service manager.
    ours, theirs = socket.socketpair()
    sink = WithoutPoll(os.dup(ours.fileno()))
    while sink.write("x" * 1000):
        pass  # until the buffer is full; a write that blocked would end nothing here
    assert sink.dropped == 1
    assert os.get_blocking(ours.fileno())
    theirs.close()
    # The reader has gone: no signal ends a process in which SIGPIPE has its default again.
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        assert not sink.write("x")
    finally:
        signal.signal(signal.SIGPIPE, before)
    sink.close()
    ours.close()


REAPING = """
import logging, os
from penstock.supervisor.loop import Loop
from penstock.supervisor.pool import MOST_REAPED
from penstock.supervisor.pool import MOST_REAPED, Pool
from penstock.system.cgroups import Cgroups

logger = logging.getLogger()
pool = Pool(Loop(logger), logger, None, Cgroups(), None, None, None, None, lambda pid: None)
children = []
for _ in range(2 * MOST_REAPED + 50):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # they have ended, and wait to be reaped
for _ in range(3):
    pool.reap()
    left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
    print(len(left), pool.has_more_to_reap)
"""


def test_one_turn_of_the_loop_reaps_a_bounded_number_of_children() -> None:
    # With --preload the orphans of workers are the supervisor's, and a worker makes any number.
    done = subprocess.run(
        [sys.executable, "-c", REAPING],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    turns = [f"{MOST_REAPED + 50} True", "50 True", "0 False"]
    assert done.stdout.splitlines() == turns, done.stderr
