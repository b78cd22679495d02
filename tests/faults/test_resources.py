"""Descriptors, disks, logs, clocks, addresses and files that fail (scenarios 41 to 49)."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.invariant import (
    Bystander,
    LinesSince,
    descriptors,
    eventually,
    faulty_server,
    probe,
    processor_seconds,
    unharmed,
)
from support.server_process import run_penstock
from support.wire import Client

MIB = 1024 * 1024

needs_prlimit = pytest.mark.skipif(not shutil.which("prlimit"), reason="no prlimit here")
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def under(*limits: str) -> tuple[str, ...]:
    """Return the command line of a Python under limits of the system."""
    return ("prlimit", *limits, sys.executable)


@needs_prlimit
def test_fault_41_with_few_descriptors_idle_connections_make_room_before_any_are_missing() -> None:
    with faulty_server(python=under("--nofile=48:48")) as server:
        with unharmed(server, ["PEN-2020 "]):
            clients = [Client(server.address) for _ in range(80)]
            before = processor_seconds(server)
            # It waits behind the others, until those before it have been idle for a second.
            assert clients[-1].request("GET", "/hello").body == b"hello"
            assert processor_seconds(server) - before < 0.5  # and no thread spins meanwhile
            for client in clients:
                client.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_fault_41_connections_with_descriptors_above_1024_are_served(
    many_descriptors: None,
) -> None:
    with faulty_server() as server:
        with unharmed(server):
            clients = [Client(server.address) for _ in range(1100)]
            for client in clients[-50:]:
                assert client.request("GET", "/hello").body == b"hello"
            for client in clients:
                client.close()


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace here")
@pytest.mark.parametrize(
    "fault",
    [
        "sendto:error=ENOBUFS:when=2",
        "sendto:error=ENOMEM:when=2",
        "sendto:error=EAGAIN:when=2+2",
        "sendto:error=EINTR:when=1+2",
        "recvfrom:error=EAGAIN:when=1+2",
        "recvfrom:error=EINTR:when=1+2",
        "epoll_wait:error=EINTR:when=1+2",
        "accept4:error=EMFILE:when=2",
        "accept4:error=ENOMEM:when=2",
        "accept4:error=ECONNABORTED:when=2",
        "accept4:error=EINTR:when=1+2",
    ],
)
def test_fault_42_a_failing_system_call_is_retried_or_ends_that_connection(
    fault: str, tmp_path: Path
) -> None:
    # As a tracer that is no parent: signals and exit status are the server's own.
    call = fault.partition(":")[0]
    trace = ["-D", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}"]
    python = ("strace", *trace, "-e", f"inject={fault}", sys.executable)
    with faulty_server("--threads", "1", python=python) as server:
        answers = []
        for _ in range(5):
            with Client(server.address) as client:
                try:
                    answers.append(client.request("GET", "/hello").body)
                except ConnectionError:
                    answers.append(b"closed")
        assert answers.count(b"hello") >= 4, answers
        assert set(answers) <= {b"hello", b"closed"}
        # Where the call can be repeated, no client notices.
        if "EAGAIN" in fault or "EINTR" in fault or "accept4" in fault:
            assert b"closed" not in answers
        assert "Traceback" not in "\n".join(server.lines_so_far())
        assert server.stop() == 0
    if not (tmp_path / "trace").read_text().count("INJECTED"):
        pytest.fail("the fault did not happen")


def test_fault_42_signals_in_the_middle_of_transfers_interrupt_nothing() -> None:
    lines = 2_000_000
    with faulty_server() as server:
        with unharmed(server):
            with Client(server.address) as client:
                client.send(b"GET /pattern?%d HTTP/1.1\r\nHost: a\r\n\r\n" % lines)
                for _ in range(50):
                    server.signal(signal.SIGUSR1)
                assert len(client.read_response().body) == lines * 8


@needs_prlimit
def test_fault_43_a_body_that_the_disk_does_not_take_is_a_507_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    arguments = ["--temp-dir", str(tmp_path), "--no-stream-requests"]
    with faulty_server(*arguments, python=under(f"--fsize={MIB}:{MIB}")) as server:
        with unharmed(server, [r"refused .* 507 .*temp_dir"] * 3):
            for _ in range(3):
                with Client(server.address) as client:
                    client.send(
                        b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n"
                    )
                    client.send(bytes(5_000_000))
                    response = client.read_response()
                    assert response.status == 507
                    assert response.header("Connection") == "close"
            assert not list(tmp_path.iterdir())
            # What fits is served as before.
            with Client(server.address) as client:
                assert client.request("POST", "/length", body=bytes(500_000)).body == b"500000"


def test_fault_43_a_directory_for_bodies_that_is_removed_costs_large_bodies_only(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bodies"
    folder.mkdir()
    with faulty_server("--temp-dir", str(folder), "--no-stream-requests") as server:
        with unharmed(server, [r"refused .* 507 .*temp_dir"]):
            folder.rmdir()
            with Client(server.address) as client:
                assert client.request("POST", "/length", body=bytes(1000)).body == b"1000"
                client.send(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
                client.send(bytes(2_000_000))
                assert client.read_response().status == 507


def test_fault_43_a_directory_for_bodies_that_is_missing_is_told_at_the_start(
    tmp_path: Path,
) -> None:
    ended = run_penstock("--temp-dir", str(tmp_path / "no"), "support.faulty:app")
    assert ended.returncode == 2
    assert "temp_dir" in ended.stderr
    assert ended.stderr.count("\n") == 1


def without_loss(lines: LinesSince) -> list[str]:
    """Return the records but for the one that the access log loses lines, whenever it came."""
    notice = "the access log is losing lines"
    return [record for record in lines.records() if notice not in record]


@needs_dev_full
def test_fault_44_a_full_disk_under_the_logs_costs_no_request_and_errors_go_to_stderr(
    tmp_path: Path,
) -> None:
    link = tmp_path / "access.log"
    link.symlink_to("/dev/full")
    errors = tmp_path / "error.log"
    errors.symlink_to("/dev/full")
    # The start-up line comes to standard error already because the file is full.
    with faulty_server("--access-logfile", str(link), "--error-logfile", str(errors)) as server:
        with unharmed(server, None) as lines:
            with Client(server.address) as client:
                for _ in range(100):
                    assert client.request("GET", "/hello").status == 200
                assert client.request("GET", "/raise-at-call").status == 500
        eventually(lambda: len(without_loss(lines)) == 1)
        assert "the application failed" in without_loss(lines)[0]
        for path in (link, errors):
            path.unlink()
        server.signal(signal.SIGUSR1)
        assert eventually(lambda: link.exists() and probe(server) and link.read_text())
        # What was lost is counted; what still waited when the file was opened again is there.
        assert re.match(r"penstock: PEN-5020 |127\.0\.0\.1 - - \[", link.read_text())


def test_fault_44_a_log_reader_that_stalls_and_then_leaves_blocks_no_request(
    tmp_path: Path,
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with faulty_server("--access-logfile", str(fifo), "--graceful-timeout", "5s") as server:
        with unharmed(server, None, bystander=False) as lines:
            with Client(server.address) as client:
                for _ in range(2000):  # far more than a pipe holds
                    assert client.request("GET", "/hello").status == 200
            probe(server)
            os.close(reader)
            with Client(server.address) as client:
                for _ in range(100):
                    assert client.request("GET", "/hello").status == 200
        assert not without_loss(lines)
        assert server.stop() == 0


def test_fault_44_an_error_log_without_a_reader_blocks_no_request(tmp_path: Path) -> None:
    errors, fifo = tmp_path / "error.log", tmp_path / "fifo"
    # Standard error first, so that the start-up line can be waited for.
    errors.symlink_to("/dev/stderr")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with faulty_server("--error-logfile", str(errors)) as server:
            errors.unlink()
            errors.symlink_to(fifo)
            server.signal(signal.SIGUSR1)
            assert eventually(lambda: str(fifo) in descriptors(server))
            with unharmed(server, None) as lines, Client(server.address) as client:
                for _ in range(300):  # a traceback each: far more than a pipe holds
                    assert client.request("GET", "/raise-at-call").status == 500
            # What does not fit there goes to standard error.
            assert any("the application failed" in line for line in lines.all())
    finally:
        os.close(reader)


def test_fault_44_a_closed_standard_error_costs_no_request(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with faulty_server("--access-logfile", str(access)) as server:
        assert server.process.stderr is not None
        bystander = Bystander(server)
        # The reader's end is gone as far as the server can see: a SIGPIPE would kill it.
        probe(server, "/close-standard-streams")
        with Client(server.address) as client:
            for _ in range(20):
                assert client.request("GET", "/raise-at-call").status == 500
        bystander.leave()
        probe(server)


@pytest.mark.parametrize("years", [1, -1])
def test_fault_45_a_jump_of_the_wall_clock_moves_no_deadline_and_the_date_follows(
    years: int,
) -> None:
    # The clock is moved as Python code sees it, which is what freezegun and its kind do, too;
    # the machine's own belongs to others.
    # So the native transport, which asks the machine, is not tried.
    arguments = ["--header-timeout", "1s", "--keep-alive", "30s", "--transport", "python"]
    with faulty_server(*arguments) as server:
        with unharmed(server, [r"408 .*header_timeout"]):
            with Client(server.address) as waiting, Client(server.address) as slow:
                date = waiting.request("GET", "/hello").header("Date")
                assert date is not None
                slow.send(b"GET / HT")
                probe(server, f"/jump-a-year?{years}")
                assert slow.read_response().status == 408
                later = waiting.request("GET", "/hello").header("Date")
                assert later is not None
                assert abs(int(later.split()[3]) - int(date.split()[3])) == 1
                assert waiting.request("GET", "/hello").status == 200


def test_fault_46_a_port_in_use_is_one_line_and_status_7() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_penstock("--bind", f"127.0.0.1:{port}", "examples.wsgiapp:app")
    assert ended.returncode == 7
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in ended.stderr


def test_fault_46_the_socket_of_a_killed_server_is_taken_over_and_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    with faulty_server("--bind", f"unix:{path}") as first:
        with Client(str(path)) as client:
            assert client.request("GET", "/hello").body == b"hello"
        second = run_penstock("--bind", f"unix:{path}", "examples.wsgiapp:app")
        assert second.returncode == 7
        assert "in use" in second.stderr
        first.kill()
    assert path.exists()
    with faulty_server("--bind", f"unix:{path}") as third:
        with Client(str(path)) as client:
            assert client.request("GET", "/hello").body == b"hello"
        assert third.stop() == 0
    assert not path.exists()


def test_fault_46_a_socket_file_that_was_removed_or_replaced_disturbs_no_client(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    with faulty_server("--bind", f"unix:{path}") as server:
        with Client(str(path)) as client:
            path.unlink()
            assert client.request("GET", "/hello").body == b"hello"
            path.write_text("another's")
        assert server.stop() == 0
    assert path.read_text() == "another's"


AUDIT = """
import sys
def tell(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
                 "socket.getnameinfo", "socket.gethostname"):
        sys.stderr.write(f"LOOK-UP {event} {arguments}\\n")
sys.addaudithook(tell)
"""


def test_fault_47_no_name_is_looked_up_at_the_start_or_for_a_request(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(tmp_path), str(root / "src")])
    with faulty_server(environ={"PYTHONPATH": path}) as server:
        probe(server)
        server.stop()
        asked = [line for line in server.lines if line.startswith("LOOK-UP")]
    # Of a numeric address getaddrinfo makes a socket address, without a query.
    assert all("getaddrinfo (b'127.0.0.1'" in line for line in asked), asked
    assert asked


def test_fault_49_a_file_that_is_truncated_while_it_is_sent_ends_that_response_visibly(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    size = 64 * MIB
    with path.open("wb") as file:
        file.truncate(size)
    with faulty_server() as server:
        with unharmed(server, None) as lines:
            with Client(server.address, receive_buffer=8192) as client:
                client.send(f"GET /send-file?{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert client.socket.recv(1, socket.MSG_PEEK)  # it has begun
                os.truncate(path, 1000)
                response = client.read_response()
                assert response.header("Content-Length") == str(size)
                assert not response.complete
        assert "Traceback" not in "\n".join(lines.all())


def test_fault_49_a_file_that_is_deleted_while_it_is_sent_arrives_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    with faulty_server() as server:
        with unharmed(server):
            with Client(server.address, receive_buffer=8192) as client:
                client.send(f"GET /send-file?{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert client.socket.recv(1, socket.MSG_PEEK)
                path.unlink()
                assert len(client.read_response().body) == 16 * MIB
