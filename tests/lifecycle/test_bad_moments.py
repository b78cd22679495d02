"""What comes at a bad moment: ends, signals and shortages while the server is about something."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, halt, write_app
from support.server_process import BUSY_SECONDS
from support.wire import Client


def settings(folder: Path, text: str) -> None:
    (folder / "penstock.toml").write_text(text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def connects(address: str | tuple[str, int]) -> bool:
    """Return True if a process listens."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
        except OSError:
            return False
    return True


def answer_at(path: Path) -> bytes:
    """Ask over a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(b"GET /echo?1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


def preloader_of(server: Supervised) -> int:
    """Return the process that has preloaded the application: it has no thread but the first."""
    [preloader] = server.workers() - server.serving()
    return preloader


def test_each_worker_of_a_reload_may_take_the_boot_timeout(tmp_path: Path) -> None:
    """The first waits for the others: its time does not run meanwhile."""
    with Supervised(tmp_path, "-w", "2", "--boot-timeout", "3s") as server:
        old = server.workers()
        write_app(tmp_path, "two", "import time; time.sleep(1.8)")
        server.signal(signal.SIGHUP)
        server.wait_for_workers(2, old)
        assert server.served_by()[0] == "two"
        assert server.stop() == 0


def test_an_upgrade_that_fails_leaves_the_paths_of_unix_sockets(tmp_path: Path) -> None:
    path, control = tmp_path / "sock", tmp_path / "control"
    services = ("--control", str(control), "--admin", f"unix:{tmp_path}/admin")
    with Supervised(tmp_path, *services, bind=f"unix:{path}") as server:
        (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
        server.signal(signal.SIGUSR2)
        server.wait_for_line("not upgraded")
        assert eventually(lambda: len(server.members()) == 2)
        assert b" 200 " in answer_at(path)
        assert connects(str(control))
        assert connects(str(tmp_path / "admin"))
        assert server.stop() == 0


def test_a_worker_that_the_preloading_process_takes_with_it_is_started_again(
    tmp_path: Path,
) -> None:
    with Supervised(tmp_path, "--preload", "--boot-timeout", "60s") as server:
        preloader = preloader_of(server)
        old = server.serving()
        halt(preloader)
        server.signal(signal.SIGTTIN)
        server.wait_for_line("2 workers are wanted")
        os.kill(preloader, signal.SIGKILL)
        server.wait_for_serving(2)
        assert old <= server.serving()
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_does_not_wait_for_a_worker_that_was_not_forked_yet(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Supervised(tmp_path, "--preload") as server:
        preloader = preloader_of(server)
        halt(preloader)
        server.signal(signal.SIGTTIN)
        server.wait_for_line("2 workers are wanted")
        status, taken = server.seconds_to_exit(number)
        assert (status, taken < BUSY_SECONDS) == (0, True)
        os.kill(preloader, signal.SIGCONT)
        server.wait_until_all_have_left()


def test_a_worker_that_is_forked_too_late_leaves(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--preload", "--boot-timeout", "1s") as server:
        preloader = preloader_of(server)
        old = server.serving()
        halt(preloader)
        server.signal(signal.SIGTTIN)
        server.wait_for_line("2 workers are wanted")
        server.wait_for_line("boot_timeout")
        server.signal(signal.SIGTTOU)
        server.wait_for_line("1 worker is wanted")
        with suppress(ProcessLookupError):  # the supervisor may have ended it
            os.kill(preloader, signal.SIGCONT)
        assert eventually(lambda: server.serving() == old and len(server.workers()) <= 2)
        assert server.stop() == 0


def test_preloads_that_are_given_up_end(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--preload") as server:
        before = len(server.members())
        write_app(tmp_path, "two", "import time; time.sleep(20)")
        for _ in range(5):
            server.signal(signal.SIGHUP)
            server.wait_for_line("reloading settings")
        assert eventually(lambda: len(server.members()) <= before + 1, 5), server.members()
        assert server.stop() == 0


def test_a_reload_that_fails_leaves_the_directory(tmp_path: Path) -> None:
    """A worker that is started afterwards finds the code that the others have."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    write_app(first, "one")
    (second / "shop.py").write_text("raise LookupError('on purpose')\n")
    (tmp_path / "shop.py").write_text("raise LookupError('this is not read')\n")
    settings(tmp_path, "chdir = 'first'\n")
    with Supervised(tmp_path) as server:
        [old] = server.workers()
        settings(tmp_path, "chdir = 'second'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("not reloaded")
        os.kill(old, signal.SIGKILL)
        server.wait_for_workers(1, {old})
        assert server.served_by()[0] == "one"
        assert server.stop() == 0


def test_a_worker_runs_the_exit_handlers_of_its_application(tmp_path: Path) -> None:
    write_app(tmp_path, "one", "import atexit; atexit.register(lambda: open('left', 'w').close())")
    with Supervised(tmp_path) as server:
        assert server.stop() == 0
    assert (tmp_path / "left").exists()


def test_exit_handlers_that_hang_end_with_the_graceful_timeout(tmp_path: Path) -> None:
    hang = "import atexit, threading; atexit.register(threading.Event().wait, 60)"
    write_app(tmp_path, "one", hang)
    with Supervised(tmp_path, "--graceful-timeout", "3s") as server:
        _, taken = server.seconds_to_exit(signal.SIGTERM)
        assert taken < BUSY_SECONDS


def test_a_successor_that_starts_in_the_shutdown_delay_is_not_ready(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--shutdown-delay", "25s", "--ready-path", "/readyz") as server:
        [old] = server.workers()
        server.signal(signal.SIGTERM)
        server.wait_for_line("shutdown_delay")
        os.kill(old, signal.SIGKILL)
        server.wait_for_serving(1, {old})
        assert eventually(lambda: server.ask("/echo?1").status == 200)
        assert eventually(lambda: server.ask("/readyz").status == 503)
        server.signal(signal.SIGQUIT)
        server.wait_until_all_have_left()


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_a_supervisor_without_descriptors_goes_on_and_recovers(
    tmp_path: Path, preload: tuple[str, ...]
) -> None:
    with Supervised(tmp_path, *preload) as server:
        limits = resource.prlimit(server.supervisor, resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir(f"/proc/{server.supervisor}/fd")))
        resource.prlimit(server.supervisor, resource.RLIMIT_NOFILE, (used + 1, limits[1]))
        old = server.serving()
        server.signal(signal.SIGTTIN)
        server.wait_for_line("cannot start")
        assert server.served_by()[1] in old
        resource.prlimit(server.supervisor, resource.RLIMIT_NOFILE, limits)
        server.wait_for_serving(2)
        assert old <= server.serving()
        assert server.stop() == 0


def test_an_upgrade_lets_go_of_an_address_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    settings(tmp_path, f"bind = ['127.0.0.1:{first}', '127.0.0.1:{second}']\npid = 'pid'\n")
    with Supervised(tmp_path, bind=None) as server:
        assert connects(("127.0.0.1", second))
        settings(tmp_path, f"bind = ['127.0.0.1:{first}']\npid = 'pid'\n")
        server.signal(signal.SIGUSR2)
        assert server.process.wait(20) == 0
        # The old one has removed the file, and the new one then gives its own this name.
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        assert connects(("127.0.0.1", first))
        assert not connects(("127.0.0.1", second))
        server.stop()


@pytest.mark.parametrize("how", ["", "--preload", "--no-supervisor"])
def test_fault_27_a_child_that_is_forked_while_the_application_loads_does_not_keep_the_port(
    tmp_path: Path, how: str
) -> None:
    fork = """
import os, time
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
"""
    write_app(tmp_path, "one", fork)
    with Supervised(tmp_path, *filter(None, [how])) as server:
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert server.members()  # it goes on
        with socket.create_server(server.address):
            pass
        server.kill()


def test_a_worker_that_is_too_large_from_the_start_is_not_replaced_for_that(
    tmp_path: Path,
) -> None:
    """No successor would be smaller."""
    with Supervised(tmp_path, "--max-memory", "8MiB") as server:
        old = server.workers()
        server.wait_for_line(r"\[WARNING\].*max_memory")
        server.signal(signal.SIGTTIN)
        server.wait_for_line(r"\[WARNING\].*max_memory")
        assert old < server.wait_for_workers(2)
        assert server.stop() == 0


def test_a_worker_that_never_served_leaves_though_its_threads_go_on(tmp_path: Path) -> None:
    with Supervised(tmp_path, "-w", "2") as server:
        # The first is ready, and the second never is.
        code = """
import os, threading
if not os.path.exists('first'):
    open('first', 'w').close()
    threading.Thread(target=threading.Event().wait, args=(60,)).start()
else:
    open('second', 'w').close()
    threading.Event().wait(60)
"""
        write_app(tmp_path, "two", code)
        server.signal(signal.SIGHUP)
        assert eventually((tmp_path / "second").exists)
        status, taken = server.seconds_to_exit(signal.SIGTERM)
        assert (status, taken < BUSY_SECONDS) == (0, True)
        assert not any("graceful_timeout" in line for line in server.lines)


def test_exit_handlers_have_their_time_where_the_graceful_timeout_is_short(
    tmp_path: Path,
) -> None:
    write_app(tmp_path, "one", "import atexit, time; atexit.register(time.sleep, 0.7)")
    with Supervised(tmp_path, "--graceful-timeout", "0s") as server:
        assert server.stop() == 0
        assert not any("killed" in line for line in server.lines)


def test_fault_46_a_reload_makes_the_path_of_a_unix_socket_again(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with Supervised(tmp_path, bind=f"unix:{path}") as server:
        old = server.workers()
        path.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)
        assert b" 200 " in answer_at(path)
        assert server.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("how", ["", "--preload"])
def test_fault_44_a_worker_starts_in_anothers_place_though_the_logs_cannot_be_opened(
    tmp_path: Path, how: str
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    error_log, access_log = str(logs / "error"), str(logs / "access")
    server = Supervised(
        tmp_path,
        *filter(None, ["--access-logfile", access_log, "--error-logfile", error_log, how]),
    )
    try:
        path = logs / "error"
        assert eventually(lambda: path.exists() and " serving " in path.read_text())
        found = re.search(r"http://127.0.0.1:([0-9]+)", path.read_text())
        assert found is not None
        server.host, server.port = "127.0.0.1", int(found[1])
        [old] = server.serving()
        shutil.rmtree(logs)
        os.kill(old, signal.SIGKILL)
        server.wait_for_serving(1, {old})
        # It writes where the others do. A rotation opens the files again, where they can be opened.
        server.signal(signal.SIGUSR1)
        logs.mkdir()
        server.signal(signal.SIGUSR1)
        assert eventually(lambda: (logs / "error").exists() and (logs / "access").exists())

        def logs_its_requests() -> bool:
            server.served_by()
            return "/echo" in (logs / "access").read_text()

        assert eventually(logs_its_requests)
        assert server.stop() == 0
    finally:
        server.kill()


def test_while_a_new_supervisor_starts_the_old_one_answers_probes_and_commands(
    tmp_path: Path,
) -> None:
    admin = free_port()
    with Supervised(tmp_path, "--admin", f"127.0.0.1:{admin}", "--pid", "pid") as server:
        write_app(tmp_path, "two", "import threading; threading.Event().wait(1)")
        server.signal(signal.SIGUSR2)
        server.wait_for_line("upgrading")
        found = set()
        while server.process.poll() is None:
            with Client(("127.0.0.1", admin)) as client:
                found.add(client.request("GET", "/readyz").status)
        assert found == {200}
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        server.stop()


def test_fault_32_a_worker_that_hangs_in_a_hook_ends_with_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "import pathlib, threading\n"
        "def post_fork(server, worker):\n"
        "    pathlib.Path('begun').touch()\n"
        "    threading.Event().wait(30)\n"
    )
    server = Supervised(tmp_path)
    try:
        assert eventually((tmp_path / "begun").exists)
        os.kill(server.supervisor, signal.SIGKILL)
        server.wait_until_all_have_left()
    finally:
        server.kill()


def test_a_supervisor_that_dies_in_an_upgrade_leaves_the_listeners_to_the_new_one(
    tmp_path: Path, transport: str
) -> None:
    pid_file = tmp_path / "pid"
    with Supervised(tmp_path, "--transport", transport, "--pid", str(pid_file)) as server:
        old = server.workers()
        begin = f"import pathlib, threading; pathlib.Path({str(tmp_path / 'begun')!r}).touch()"
        write_app(tmp_path, "two", f"{begin}; threading.Event().wait(1)")
        server.signal(signal.SIGUSR2)
        assert eventually((tmp_path / "begun").exists)
        os.kill(server.supervisor, signal.SIGKILL)
        server.process.wait(20)
        server.wait_for_line(" serving ")
        assert eventually(lambda: not old & set(server.members()))
        assert eventually(lambda: server.has_new_supervisor(pid_file))
        for _ in range(5):
            assert server.served_by()[0] == "two"
        server.signal(signal.SIGTERM)
        server.wait_until_all_have_left()


NO_FORK = """
import errno, os, pathlib

def on_starting(server):
    fork = os.fork

    def fork_or_fail():
        if pathlib.Path("full").exists():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_or_fail
"""


def test_workers_start_as_soon_as_the_system_has_processes_again(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(NO_FORK)
    with Supervised(tmp_path, "-c", "gunicorn.conf.py", "--workers", "2") as server:
        killed, _ = server.wait_for_serving(2)
        (tmp_path / "full").touch()
        os.kill(killed, signal.SIGKILL)
        server.wait_for_line("cannot start a worker")
        server.wait_for_line("cannot start a worker")  # and again, after the pause
        (tmp_path / "full").unlink()
        server.wait_for_serving(2, without={killed})
        server.stop()
    assert "internal error" not in "".join(server.lines_so_far())
