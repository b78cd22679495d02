"""What each signal does to a server that runs; how it stops is in test_shutdown."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from penstock.system.signals import Signals
from support.invariant import eventually, faulty_server, probe, unharmed
from support.server_process import STOP_WITHIN
from support.wire import Client


def test_fault_44_sigusr1_opens_both_logs_again_after_a_rename_and_loses_no_line(
    tmp_path: Path,
) -> None:
    access, errors = tmp_path / "access.log", tmp_path / "error.log"
    count = 0
    with faulty_server("--access-logfile", str(access)) as server:
        with Client(server.address) as client:
            for _ in range(5):
                for _ in range(50):
                    count += 1
                    assert client.request("GET", f"/hello?{count}").status == 200
                access.rename(tmp_path / f"access.log.{count}")
                server.signal(signal.SIGUSR1)
                assert eventually(access.exists)
    lines = "".join(path.read_text() for path in tmp_path.glob("access.log*")).splitlines()
    assert len(lines) == count
    assert {line.split()[6] for line in lines} == {f"/hello?{n}" for n in range(1, count + 1)}
    assert not errors.exists()


def test_fault_44_sigusr1_opens_the_error_log_again(tmp_path: Path) -> None:
    # A link to standard error first, so that the start-up line can be waited for.
    errors = tmp_path / "error.log"
    errors.symlink_to("/dev/stderr")
    with faulty_server("--error-logfile", str(errors)) as server:
        errors.unlink()
        server.signal(signal.SIGUSR1)
        assert eventually(errors.exists)

        def is_there() -> bool:  # the supervisor opens the file, and the worker gets it after that
            with Client(server.address) as client:
                assert client.request("GET", "/complain?loudly").status == 200
            return "complaint loudly" in errors.read_text()

        assert eventually(is_there)


def test_a_log_that_cannot_be_opened_again_goes_on_in_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    access = folder / "access.log"
    with faulty_server("--access-logfile", str(access)) as server:
        expected = [r"\[ERROR\] PEN-5040 the access log could not be opened again"]
        with unharmed(server, expected, bystander=False):
            folder.rename(tmp_path / "moved")
            server.signal(signal.SIGUSR1)
            server.wait_for_line("the access log could not be opened again")
        moved = tmp_path / "moved" / "access.log"
        lines = moved.read_text().count("\n")
        probe(server)
        assert eventually(lambda: moved.read_text().count("\n") > lines)


def test_a_log_that_cannot_be_opened_again_does_not_keep_the_other_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    errors, access = folder / "error.log", tmp_path / "access.log"
    errors.symlink_to("/dev/stderr")  # so that its lines can be waited for
    logs = ("--error-logfile", str(errors), "--access-logfile", str(access))
    with faulty_server(*logs) as server:
        folder.rename(tmp_path / "moved")
        access.rename(tmp_path / "access.log.1")
        server.signal(signal.SIGUSR1)
        server.wait_for_line("the error log could not be opened again")
        assert eventually(access.exists)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU])
def test_signals_for_several_processes_are_logged_and_ignored(
    number: signal.Signals,
) -> None:
    with faulty_server() as server:
        with unharmed(server, [rf"\[WARNING\] PEN-6210 {number.name} was ignored"]):
            server.signal(number)
            server.wait_for_line("no meaning")


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH])
def test_other_signals_do_nothing(number: signal.Signals) -> None:
    with faulty_server() as server:
        with unharmed(server):
            for _ in range(20):
                server.signal(number)
        assert server.stop() == 0


def test_a_signal_that_was_ignored_at_the_start_stays_so() -> None:
    # What nohup does. The exec keeps it.
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    code += "; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with faulty_server(python=(sys.executable, "-c", code)) as server:
        with unharmed(server):
            server.signal(signal.SIGHUP)
        assert server.process.poll() is None


def test_sighup_stops_in_order() -> None:
    with faulty_server() as server:
        server.signal(signal.SIGHUP)
        assert server.wait(STOP_WITHIN) == 0
        assert "stopped" in server.lines[-1]


def is_halted(pid: int) -> bool:
    """Return True if all threads of a process are stopped: the signal takes a moment."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def test_fault_40_a_process_that_was_halted_for_a_while_blames_no_client() -> None:
    """A halt as of a laptop, or of a container that gets no processor time."""
    with faulty_server("--header-timeout", "1s", "--keep-alive", "1s") as server:
        with Client(server.address) as client:
            client.send(b"GET /hello HTTP/1.1\r\n")
            server.signal(signal.SIGSTOP)
            try:
                assert eventually(lambda: is_halted(server.process.pid))
                # The rest arrives in time; it is the server that is late to read it.
                client.send(b"Host: a\r\n\r\n")
                client.socket.settimeout(1.5)
                with pytest.raises(TimeoutError):
                    client.socket.recv(1)
            finally:
                server.signal(signal.SIGCONT)
            client.socket.settimeout(10)
            assert client.read_response().status == 200


def test_at_level_debug_the_log_has_the_given_settings_and_the_signals() -> None:
    arguments = ("--log-level", "debug", "--env", "TOKEN=secret", "--threads", "3")
    with faulty_server(*arguments) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for_line("opened again")
        assert server.stop() == 0
    text = "\n".join(server.lines)
    assert "[DEBUG] setting threads = 3 (from --threads)" in text
    assert "[DEBUG] setting env = (not shown) (from --env)" in text
    assert "setting max_body" not in text
    assert "[DEBUG] received SIGUSR1" in text
    assert "[DEBUG] received SIGTERM" in text


def test_a_storm_of_signals_loses_none_of_another_kind_and_asks_for_one_reload() -> None:
    """No signal is taken meanwhile: a hook or a file of settings keeps the thread."""
    signals = Signals((signal.SIGHUP, signal.SIGTERM))
    try:
        for _ in range(5000):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        taken = [signals.take() for _ in range(3)]
        assert taken == [signal.SIGHUP, signal.SIGTERM, None]
    finally:
        signals.restore()


def test_signals_that_count_are_all_taken() -> None:
    signals = Signals((signal.SIGTTIN,))
    try:
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGTTIN)
        assert [signals.take() for _ in range(6)] == [signal.SIGTTIN] * 5 + [None]
    finally:
        signals.restore()
