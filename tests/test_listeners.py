"""Listening sockets: every form of address, and every reason why one cannot be had."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.config.settings import Settings
from penstock.errors import ListenError, SettingsError
from penstock.listeners import (
    Listener,
    addresses_of,
    bind_listeners,
    close_all,
    open_listeners,
    parse_address,
)
from support.server_process import checkout_environ


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="IPv6 is off here")


@contextmanager
def opened(*addresses: str) -> Iterator[list[Listener]]:
    listeners = open_listeners(addresses, 16)
    try:
        yield listeners
    finally:
        close_all(listeners)


@contextmanager
def closing_all(listeners: list[Listener]) -> Iterator[list[Listener]]:
    try:
        yield listeners
    finally:
        close_all(listeners)


def accept_queue(sock: socket.socket) -> int:
    """Return how many connections may wait in the kernel: tcpi_sacked of a listening socket."""
    size: int = struct.unpack_from(
        "I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28
    )[0]
    return size


def refusal(*addresses: str) -> str:
    with pytest.raises(ListenError) as error:
        close_all(open_listeners(addresses, 16))
    text = str(error.value)
    assert "\n" not in text
    assert "--bind" in text
    return text


def run_python(code: str) -> str:
    """Return what a program prints that may change its process as it likes."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=checkout_environ(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    ).stdout


def port_of(listener: Listener) -> int:
    return int(listener.server_port)


# Forms of an address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("127.0.0.1", "127.0.0.1", 8000),
        (":80", "0.0.0.0", 80),
        ("*:80", "0.0.0.0", 80),
        ("tcp://127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:80", "::1", 80),
        ("[::]", "::", 8000),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("example.org:0", "example.org", 0),
        ("http://127.0.0.1:8000", "127.0.0.1", 8000),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("https://:8443", "0.0.0.0", 8443),
        ("https://[::1]", "::1", 443),
    ],
)
def test_tcp_addresses_are_read_as_gunicorn_reads_them(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)


def test_an_address_whose_scheme_is_https_is_for_tls() -> None:
    for place in ("127.0.0.1:1", "unix:/run/x", "fd://3"):
        assert parse_address(f"https://{place}").tls
        assert not parse_address(f"http://{place}").tls
        assert not parse_address(place).tls
        assert parse_address(f"https://{place}").place == parse_address(place).place


def test_a_listener_for_tls_has_https_in_its_name() -> None:
    with opened("https://127.0.0.1:0") as [listener]:
        assert listener.tls
        assert listener.scheme == "https"
        assert listener.name == f"https://127.0.0.1:{port_of(listener)}"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:/run/x", "/run/x"),
        ("unix:x.sock", "x.sock"),
        ("unix:///run/x", "/run/x"),
        ("unix:@name", "\0name"),
    ],
)
def test_unix_addresses_are_paths_or_abstract_names(text: str, path: str) -> None:
    assert parse_address(text).path == path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1:http", "'http' is not a port"),
        ("127.0.0.1:65536", "from 0 to 65535"),
        ("127.0.0.1:", "'' is not a port"),
        ("127.0.0.1:-1", "'-1' is not a port"),
        ("8000", "a port alone is written :8000"),
        ("::1:8000", "needs brackets"),
        ("[::1", "is written [::1]:8000"),
        ("ftp://127.0.0.1:8000", "https://host:port for TLS"),
        ("https://127.0.0.1:8443/", "has no path: https://127.0.0.1:8443"),
        ("unix:", "the path is missing"),
        ("unix:@", "the path is missing"),
        ("/run/x.sock", "a path is written unix:/run/x.sock"),
        ("run/x", "a path is written unix:run/x"),
        ("x.sock", "a path is written unix:x.sock"),
        ("fd://three", "a descriptor is a number"),
    ],
)
def test_a_malformed_address_is_refused_with_the_right_form(text: str, said: str) -> None:
    assert f"cannot listen on {text}: " in refusal(text)
    assert said in refusal(text)


# TCP


def test_port_zero_is_a_free_port_that_the_name_shows() -> None:
    with opened("127.0.0.1:0") as [listener]:
        assert port_of(listener) == listener.socket.getsockname()[1] > 0
        assert listener.name == f"http://127.0.0.1:{listener.server_port}"
        assert listener.server_name == "127.0.0.1"
        assert not listener.is_unix


def test_tcp_listeners_neither_block_nor_leak_and_pass_nodelay_on() -> None:
    with opened("127.0.0.1:0") as [listener]:
        assert listener.socket.getblocking() is False
        assert listener.socket.get_inheritable() is False
        with socket.create_connection(("127.0.0.1", port_of(listener)), timeout=5):
            listener.socket.settimeout(5)
            accepted, _ = listener.socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_no_client_can_connect_before_listen() -> None:
    [listener] = bind_listeners(["127.0.0.1:0"])
    with closing(listener):
        place = ("127.0.0.1", port_of(listener))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, timeout=5)
        listener.listen(5)
        socket.create_connection(place, timeout=5).close()


@needs_ipv6
def test_all_ipv6_addresses_mean_ipv4_too_where_the_kernel_says_so_as_under_gunicorn() -> None:
    usual = Path("/proc/sys/net/ipv6/bindv6only").read_text().strip()
    with opened("[::]:0") as [six]:
        assert six.name == f"http://[::]:{six.server_port}"
        assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == int(usual)
        if usual == "0":
            socket.create_connection(("127.0.0.1", port_of(six)), timeout=5).close()


@needs_ipv6
def test_all_ipv4_addresses_work_beside_all_ipv6_addresses_at_one_port() -> None:
    for order in (["0.0.0.0", "[::]"], ["[::]", "127.0.0.1"]):
        with opened("[::]:0") as [free]:
            port = port_of(free)
        addresses = addresses_of(Settings(bind=tuple(f"{host}:{port}" for host in order)))
        with closing_all(open_listeners(addresses, 5)) as listeners:
            assert [port_of(each) for each in listeners] == [port, port]
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, port), timeout=5).close()


def test_a_socket_that_listens_already_is_left_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as passed:
        descriptor = os.dup(passed.fileno())
        [listener] = bind_listeners([f"fd://{descriptor}"])
        with closing(listener):
            listener.listen(100)  # SO_ACCEPTCONN stays; the length of the queue does, too
            assert accept_queue(listener.socket) == 1


@pytest.mark.parametrize(
    ("given", "mode"),
    [({}, 0o777), ({"umask": 0o007}, 0o770), ({"bind_mode": 0o600}, 0o600),
     ({"bind_mode": 0o660, "umask": 0o777}, 0o660)],
)  # fmt: skip
def test_a_unix_socket_has_gunicorns_mode_or_bind_mode_whatever_the_umask(
    tmp_path: Path, given: dict[str, Any], mode: int
) -> None:
    path = tmp_path / "socket"
    before = os.umask(0o027)
    try:
        listeners = open_listeners(addresses_of(Settings(bind=(f"unix:{path}",), **given)), 5)
    finally:
        os.umask(before)
    with closing_all(listeners) as [listener]:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert listener.shown_name == f"unix:{path} (mode {mode:04o})"


def test_an_abstract_socket_and_a_tcp_socket_have_no_mode() -> None:
    for text in ("unix:@penstock-test-mode", "127.0.0.1:0"):
        with closing_all(open_listeners(addresses_of(Settings(bind=(text,))), 5)) as [listener]:
            assert listener.shown_name == listener.name


def test_a_unix_socket_can_have_another_owner_and_group(tmp_path: Path) -> None:
    me, group = os.geteuid(), os.getgroups()[-1] if os.getgroups() else os.getegid()
    for owner in (f"{me}", f"{me}:{group}", f":{group}"):
        path = tmp_path / "socket"
        settings = Settings(bind=(f"unix:{path}",), bind_owner=owner)
        with closing_all(open_listeners(addresses_of(settings), 5)):
            assert path.stat().st_uid == me
            if ":" in owner:
                assert path.stat().st_gid == group
    with pytest.raises(SettingsError, match=r"for bind_owner .*no such user or group"):
        addresses_of(Settings(bind_owner="no-such-user"))


def test_a_host_name_is_resolved_and_shown_as_its_address() -> None:
    with opened("localhost:0") as [listener]:
        assert listener.server_name in ("127.0.0.1", "::1")


def test_a_port_in_use_is_reported_and_no_socket_stays_open() -> None:
    with opened("127.0.0.1:0") as [holder]:
        with opened("127.0.0.1:0") as [other]:
            free = port_of(other)
        taken = f"127.0.0.1:{holder.server_port}"
        assert f"cannot listen on {taken}: it is in use" in refusal(f"127.0.0.1:{free}", taken)
        with opened(f"127.0.0.1:{free}"):
            pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1", "127.0.0.1 (127.0.0.1:8000)"),
        ("tcp://127.0.0.1", "tcp://127.0.0.1 (127.0.0.1:8000)"),
        (":81", ":81 (0.0.0.0:81)"),
        ("[::1]", "[::1] ([::1]:8000)"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("unix:/run/x", "unix:/run/x"),
        ("fd://3", "fd://3"),
    ],
)
def test_an_address_is_shown_with_the_host_and_port_that_it_means(text: str, shown: str) -> None:
    assert parse_address(text).shown == shown


def test_a_host_alone_in_use_is_reported_with_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened("127.0.0.1:0") as [holder]:
        monkeypatch.setattr("penstock.listeners.DEFAULT_PORT", port_of(holder))
        said = refusal("127.0.0.1")
    assert f"cannot listen on 127.0.0.1 (127.0.0.1:{holder.server_port}): it is in use" in said


def test_a_port_bound_elsewhere_can_turn_out_in_use_at_listen() -> None:
    [first] = bind_listeners(["127.0.0.1:0"])
    with closing(first):
        # The kernel lets both bind, as none listens yet.
        [second] = bind_listeners([f"127.0.0.1:{first.server_port}"])
        with closing(second):
            first.listen(5)
            with pytest.raises(ListenError, match="in use"):
                second.listen(5)


def test_an_address_of_another_machine_is_refused() -> None:
    assert "this machine has no such address" in refusal("192.0.2.1:8000")  # RFC 5737


def test_a_host_that_does_not_resolve_is_refused() -> None:
    assert "host 'no.such.host.invalid' cannot be resolved" in refusal("no.such.host.invalid:80")


def _first_unprivileged_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        return 1024


@pytest.mark.skipif(_first_unprivileged_port() == 0, reason="every port is free for all here")
def test_a_privileged_port_is_refused_with_the_reason() -> None:
    # As another user: only a process of its own can give up root's rights. It may be unable to read
    # Python's library then, and takes what resolving needs before.
    said = run_python(
        "import os, encodings.idna; from penstock.listeners import bind_listeners\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: bind_listeners(['127.0.0.1:1'])\n"
        "except Exception as error: print(error)\n"
    )
    assert "no permission: ports below 1024" in said


# Unix sockets


def test_a_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with opened(f"unix:{path}") as [listener]:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert listener.name == f"unix:{path}"
        assert (listener.server_name, listener.server_port) == ("localhost", "80")
        assert listener.is_unix
    assert not path.exists()


def test_a_relative_socket_is_removed_from_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened("unix:server.sock"):
        monkeypatch.chdir("/")
    assert not (tmp_path / "server.sock").exists()


def test_an_abstract_socket_has_no_file() -> None:
    name = f"penstock-test-{os.getpid()}"
    with opened(f"unix:@{name}") as [listener]:
        assert listener.name == f"unix:@{name}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
        assert "in use" in refusal(f"unix:@{name}")


def test_the_socket_of_a_dead_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen(1)
    with opened(f"unix:{path}"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/alive.sock"
    with opened(address):
        assert f"in use by another program: process {os.getpid()} (" in refusal(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/alive.sock")


def test_a_living_server_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    path = f"{tmp_path}/full.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        clients = []
        for _ in range(10):
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            if client.connect_ex(path) == errno.EAGAIN:
                break
        else:
            pytest.fail("the queue never filled")
        assert "in use" in refusal(f"unix:{path}")
        for client in clients:
            client.close()


def test_a_path_that_another_server_took_over_before_listen_is_in_use(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/slow.sock"
    [slow] = bind_listeners([address])
    with opened(address):  # not listened on yet, as if its server had died
        with pytest.raises(ListenError, match="in use"):
            slow.listen(1)
        slow.close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/slow.sock")


def test_a_path_that_another_server_took_over_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with opened(f"unix:{path}"):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            held = path.stat().st_ino
    assert path.stat().st_ino == held


def test_a_forked_child_does_not_remove_the_path(tmp_path: Path) -> None:
    said = run_python(
        "import os; from penstock.listeners import open_listeners\n"
        f"[listener] = open_listeners(['unix:{tmp_path}/s'], 1)\n"
        "if (child := os.fork()) == 0: listener.close(); os._exit(0)\n"
        f"os.waitpid(child, 0); print(os.path.exists('{tmp_path}/s'))\n"
    )
    assert said == "True\n"


def test_closing_survives_a_path_that_is_gone(tmp_path: Path) -> None:
    with opened(f"unix:{tmp_path}/s") as [listener]:
        os.unlink(f"{tmp_path}/s")
        listener.close()


@pytest.mark.parametrize(
    ("made", "address", "said"),
    [
        ("file", "unix:{}/file", "exists and is not a socket"),
        ("", "unix:{}", "exists and is not a socket"),
        ("", "unix:{}/missing/x", "its directory does not exist"),
        ("file", "unix:{}/file/x", "part of its path is not a directory"),
        ("", "unix:{}/" + 110 * "x", "too long"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_and_left(
    tmp_path: Path, made: str, address: str, said: str
) -> None:
    if made:
        (tmp_path / made).write_text("precious")
    assert said in refusal(address.format(tmp_path))
    assert not made or (tmp_path / made).read_text() == "precious"


def test_a_datagram_socket_is_not_a_stale_listener(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert "there is a socket at this path" in refusal(f"unix:{path}")
    assert path.exists()


# Passed sockets


@pytest.mark.parametrize("listening", [True, False])
def test_a_passed_socket_is_taken_over(listening: bool) -> None:
    with socket.socket() as parent:
        parent.bind(("127.0.0.1", 0))
        if listening:
            parent.listen(1)
        descriptor = os.dup(parent.fileno())
        os.set_inheritable(descriptor, True)
        with opened(f"fd://{descriptor}") as [listener]:
            assert listener.name == f"http://127.0.0.1:{parent.getsockname()[1]}"
            assert listener.socket.get_inheritable() is False
            assert listener.socket.getblocking() is False
            socket.create_connection(parent.getsockname(), timeout=5).close()


def test_the_path_of_a_passed_unix_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(path))
        with opened(f"fd://{os.dup(parent.fileno())}") as [listener]:
            assert listener.name == f"unix:{path}"
    assert path.exists()


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    assert "no such descriptor is open" in refusal("fd://999999")


def test_a_descriptor_that_is_given_twice_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        passed = os.dup(parent.fileno())
        with pytest.raises(ListenError, match=f"fd://0{passed}: the descriptor is given twice"):
            open_listeners([f"fd://{passed}", f"fd://0{passed}"], 1)


def test_a_descriptor_that_is_a_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        assert "not a socket" in refusal(f"fd://{file.fileno()}")


def test_a_passed_socket_that_cannot_listen_is_refused_and_stays_open() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as unbound, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        assert "is connected" in refusal(f"fd://{one.fileno()}")
        assert "not bound to an address" in refusal(f"fd://{unbound.fileno()}")
        assert "not a stream socket" in refusal(f"fd://{datagram.fileno()}")
        os.fstat(one.fileno())


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="no /proc/net/tcp")
def test_the_error_about_a_port_in_use_names_the_process_that_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(ListenError, match=rf"another program: process {os.getpid()} \("):
            bind_listeners([parse_address(address)])
