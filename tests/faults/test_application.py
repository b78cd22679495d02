"""What applications do to their server (scenarios 21 to 30), each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.descriptors import links
from support.invariant import (
    Bystander,
    descriptors,
    eventually,
    faulty_server,
    probe,
    unharmed,
)
from support.server_process import ServerProcess
from support.wire import Client, Response


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with faulty_server() as process:
        yield process


def ask(server: ServerProcess, target: str) -> Response:
    with Client(server.address) as client:
        return client.request("GET", target)


@pytest.mark.parametrize("path", ["/raise-at-call", "/raise-in-first-block", "/exit-python"])
def test_fault_21_an_exception_before_the_head_is_a_500_with_a_traceback_in_the_log(
    server: ServerProcess, path: str
) -> None:
    with unharmed(server, [rf"\[ERROR\] PEN-\S+ GET {path} .*the application failed"]) as lines:
        response = ask(server, path)
        assert response.status == 500
        assert b"Error" in response.body
        assert b"Traceback" not in response.body
    assert any("Traceback" in line for line in lines.all())


def test_fault_21_an_exception_after_the_head_cuts_the_response_off_visibly(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"PEN-3010 GET /raise-after-a-block .*the application failed"]):
        response = ask(server, "/raise-after-a-block")
        assert response.status == 200
        assert not response.complete


def test_fault_21_an_exception_in_close_is_logged_and_no_more(server: ServerProcess) -> None:
    with unharmed(server, [r"PEN-3040 GET /raise-in-close .*close\(\) of the response failed"]):
        response = ask(server, "/raise-in-close")
        assert (response.body, response.complete) == (b"whole", True)


@pytest.mark.parametrize("path", ["/return-none", "/return-text", "/set-an-invalid-header"])
def test_fault_22_a_breach_of_the_interface_is_a_500_and_one_log_line(
    server: ServerProcess, path: str
) -> None:
    with unharmed(server, [rf"\[ERROR\] PEN-\S+ GET {path} "]):
        response = ask(server, path)
        assert response.status == 500
        assert response.header("Set-Cookie") is None


def test_fault_22_a_body_shorter_than_its_content_length_never_looks_complete(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"\[ERROR\] PEN-\S+ GET /give-too-little .*5 of the 10 bytes"]):
        response = ask(server, "/give-too-little")
        assert response.status == 500 or not response.complete


def test_fault_22_a_body_longer_than_its_content_length_is_cut_and_told(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"\[ERROR\] PEN-\S+ GET /give-too-much .*Content-Length of 3 bytes"]):
        with Client(server.address) as client:
            assert client.request("GET", "/give-too-much").body == b"hel"
            assert client.request("GET", "/hello").body == b"hello"


def test_fault_23_a_body_without_end_is_closed_when_its_client_has_left(
    server: ServerProcess,
) -> None:
    closed = json.loads(probe(server, "/tell"))["closed"]
    with unharmed(server, [r"\[INFO\] GET /wait-for-client .*client disconnected"]):
        client = Client(server.address)
        client.send(b"GET /wait-for-client HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.socket.recv(1000)
        client.reset()
        # It yields empty blocks only, so that no send can fail: the server has to look.
        assert eventually(lambda: json.loads(probe(server, "/tell"))["closed"] > closed)


@pytest.mark.parametrize("path", ["/spin", "/deadlock", "/hold"])
def test_fault_24_while_a_thread_is_free_no_client_waits_for_one_that_hangs(path: str) -> None:
    with faulty_server("--threads", "2", "--graceful-timeout", "0s") as server:
        with Client(server.address) as stuck:
            stuck.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert eventually(lambda: json.loads(probe(server, "/tell"))["begun"] == 1)
            bystander = Bystander(server)
            assert eventually(lambda: bystander.served > 20)
            bystander.leave()
            probe(server, "/release")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/exit-at-once", 7),
        ("/kill-itself?SIGKILL", -signal.SIGKILL),
        ("/kill-itself?SIGABRT", -signal.SIGABRT),
        ("/segfault", -signal.SIGSEGV),
    ],
)
def test_fault_25_a_process_that_is_killed_ends_with_that_cause_and_frees_its_port(
    target: str, expected: int
) -> None:
    with faulty_server() as server:
        with Client(server.address) as client:
            client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.read_to_end() == b""  # nothing that looks like a response
        assert server.wait() == expected
        address = f"127.0.0.1:{server.port}"
        with faulty_server("--bind", address) as successor:
            probe(successor)


def test_fault_27_a_program_that_the_application_starts_holds_no_socket_of_the_server(
    server: ServerProcess,
) -> None:
    with unharmed(server):
        with Client(server.address) as other:
            assert other.request("GET", "/hello").status == 200
            assert ask(server, "/start-child").body == b""
            assert ask(server, "/end-children").body == b"ended"


def tcp_sockets_of(pid: int) -> set[str]:
    """Return the TCP sockets of a process: the other kind it may share with its parent."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return set(links(pid).values()) & {f"socket:[{line.split()[9]}]" for line in table}


def test_fault_27_a_forked_child_holds_no_socket_of_the_server(server: ServerProcess) -> None:
    with unharmed(server):
        with Client(server.address) as client, Client(server.address) as other:
            assert other.request("GET", "/hello").status == 200
            response = client.request("GET", "/fork-and-stay", {"Connection": "close"})
            child = int(response.body)
            # Were the child to hold the connection, its end would not be seen here.
            assert client.is_closed_by_server()
            assert tcp_sockets_of(server.process.pid)
            assert eventually(lambda: not tcp_sockets_of(child))
            assert ask(server, "/end-children").body == b"ended"


def test_fault_27_a_forked_child_that_exits_does_not_answer_in_the_servers_place(
    server: ServerProcess,
) -> None:
    with unharmed(server, None):
        response = ask(server, "/fork-and-exit")
        assert response.status == 200
        bystander = Bystander(server)
        assert eventually(lambda: bystander.served > 10)
        bystander.leave()


def test_fault_27_a_child_of_multiprocessing_can_be_terminated(server: ServerProcess) -> None:
    with unharmed(server):
        assert ask(server, "/use-multiprocessing").body == str(-signal.SIGTERM).encode()


@pytest.mark.parametrize(
    "path",
    ["/change-directory", "/change-umask", "/change-locale", "/set-default-timeout"],
)
def test_fault_28_what_an_application_does_to_its_process_does_not_reach_the_server(
    path: str, tmp_path: Path
) -> None:
    access = tmp_path / "access.log"
    # A relative name: it has to be found again after the directory has changed.
    name = os.path.relpath(access, Path(__file__).parents[1])
    with faulty_server("--access-logfile", name, "--body-memory", "0") as server:
        with unharmed(server, bystander=False):
            assert ask(server, path).status == 200
            with Client(server.address) as client:
                response = client.request("POST", "/length", body=bytes(300_000))
                assert response.body == b"300000"
                date = response.header("Date")
                assert date is not None
                assert date[:3] in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        assert eventually(lambda: access.read_text().startswith("127.0.0.1 - - ["))
        access.rename(tmp_path / "access.log.1")
        server.signal(signal.SIGUSR1)
        assert eventually(lambda: access.exists() and bool(probe(server)) and access.read_text())


def test_fault_28_closed_descriptors_0_to_2_cost_the_server_nothing(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with faulty_server("--access-logfile", str(access)) as server:
        before = set(descriptors(server))
        assert ask(server, "/close-standard-streams").status == 200
        with Client(server.address) as client:
            for _ in range(20):
                assert client.request("POST", "/length", body=bytes(300_000)).body == b"300000"
        probe(server)
        assert ask(server, "/raise-at-call").status == 500
        # Standard error was taken over at the start: the record still arrives.
        server.wait_for_line("the application failed")
        assert eventually(lambda: set(descriptors(server)) <= before)
        assert eventually(lambda: access.read_text().count("\n") == 23)
        assert server.stop() == 0


def test_fault_28_printing_to_a_closed_standard_output_fails_that_request_alone(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"the application failed"]):
        assert ask(server, "/print-to-closed-stdout").status == 500


@pytest.mark.parametrize("path", ["/recurse", "/run-out-of-memory"])
def test_fault_30_exhaustion_in_the_application_is_a_500_and_corrupts_nothing(
    server: ServerProcess, path: str
) -> None:
    with unharmed(server, [r"\[ERROR\] PEN-\S+ GET \S+ .*the application failed"] * 5):
        with Client(server.address) as client:
            for _ in range(5):
                assert client.request("GET", path).status == 500
            assert client.request("GET", "/hello").body == b"hello"


def test_fault_30_exhaustion_in_the_middle_of_a_response_closes_the_connection(
    server: ServerProcess,
) -> None:
    with unharmed(server, [r"the application failed"]):
        assert not ask(server, "/raise-memory-error-while-iterating").complete


def test_fault_30_memory_that_runs_out_for_the_server_itself_ends_no_more_than_a_connection() -> (
    None
):
    limit = ("prlimit", f"--as={600 * 1024 * 1024}")
    arguments = ["--body-memory", "1GiB", "--max-body", "1GiB"]
    with faulty_server(*arguments, python=(*limit, sys.executable)) as server:
        bystander = Bystander(server)
        with Client(server.address) as client:
            client.send(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n")
            block = bytes(1024 * 1024)
            try:
                for _ in range(850):
                    client.send(block)
            except ConnectionError:
                pass
            assert b" 200 OK" not in client.read_to_end()
        probe(server)
        bystander.leave()
        assert server.process.poll() is None
