"""The control socket and ``--admin`` against other users, other containers, and forged requests.

The tests make their own namespaces and users; they need root for that.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.control.address import Peer, overflow_uid
from penstock.control.answers import ControlSocket
from penstock.control.client import ask
from penstock.control.connection import MAX_CONNECTIONS, REQUEST_SECONDS, WRITE_SECONDS
from support.control_loop import COMMAND, ControlLoop, connect
from support.namespaces import run_in, running_in
from support.wire import DEADLINE, Client

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's alone")

OWN_MOUNTS = ("--mount", "--propagation", "private")


# Where the socket is


def test_the_socket_of_root_is_in_a_directory_of_root_alone() -> None:
    run_in(
        """
tmpfs("/run", 0o755)
server = Server(bind=("127.0.0.1:8000",))
assert server.place == "unix:/run/penstock/127.0.0.1-8000.sock", server.said
status = os.stat("/run/penstock")
assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)
assert ctl("status")[0] == 0
for uid in (1000, 65534):
    assert as_user(uid, Client, "/run/penstock/127.0.0.1-8000.sock").startswith("PermissionError")
server.end()
assert os.listdir("/run/penstock") == []
""",
        *OWN_MOUNTS,
    )


def test_the_socket_of_a_user_is_in_a_directory_of_that_user_alone() -> None:
    run_in(
        """
tmpfs("/run", 0o755)
os.makedirs("/run/user/1000")
os.chown("/run/user/1000", 1000, 1000)
os.mkdir("/run/tmp")
os.chmod("/run/tmp", 0o1777)
os.environ["TMPDIR"] = "/run/tmp"

def place_of(name):
    server = Server(name=name)
    try:
        status = os.stat(os.path.dirname(server.place.removeprefix("unix:")))
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o700)
        code, out, err = ctl("status")
        assert code == 0, err
        return server.place, server.said
    finally:
        server.end()

os.chmod("/run/user/1000", 0o700)
assert as_user(1000, place_of, "shop") == "('unix:/run/user/1000/penstock/shop.sock', [])"
os.chmod("/run/user/1000", 0o755)  # no directory that a login made
place = as_user(1000, place_of, "shop")
assert place.startswith("('unix:/run/tmp/penstock-1000/shop.sock', ['WARNING: PEN-8025 "), place
assert as_user(1001, place_of, "shop") == "('unix:/run/tmp/penstock-1001/shop.sock', [])"
os.environ["RUNTIME_DIRECTORY"] = "/run/logs:/run/shop"
for path in ("/run/logs", "/run/shop"):
    os.mkdir(path)
    os.chown(path, 1001, 1001)
assert as_user(1001, place_of, "shop") == "('unix:/run/logs/penstock/shop.sock', [])"
os.environ["RUNTIME_DIRECTORY"] = "/run/logs:/run/penstock"
os.mkdir("/run/penstock")
os.chown("/run/penstock", 1001, 1001)  # mode 0755, as systemd makes it
def place_in_service():
    server = Server(name="shop")
    try:
        return server.place, ctl("status")[0], server.said
    finally:
        server.end()
assert as_user(1001, place_in_service) == "('unix:/run/penstock/shop.sock', 0, [])"
""",
        *OWN_MOUNTS,
    )


def test_no_abstract_name_is_bound_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Of another container on the same network, any process could connect (CVE-2020-15257)."""
    (tmp_path / "shop.py").write_text(APP)
    run_in(
        SERVE
        + """
process, lines = serve("--name", "shop")
names = [line.split()[-1] for line in open("/proc/net/unix")][1:]
assert [name for name in names if name.startswith("@")] == [], names
assert os.listdir("/run/penstock") == ["shop.sock"]
end(process)
process, lines = serve("--control", "@asked-for")
names = [line.split()[-1] for line in open("/proc/net/unix")]
assert "@asked-for" in names, names
assert ctl("--control", "@asked-for", "status")[0] == 0
end(process)
""",
        *OWN_MOUNTS,
        "--net",
        cwd=str(tmp_path),
    )


APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

SERVE = """
import signal
tmpfs("/run", 0o755)
subprocess.run(["ip", "link", "set", "lo", "up"], check=False)


def show_to_all(path):
    "Let other users reach a directory within one that is closed to them, such as /root."
    parts = path.strip("/").split("/")
    for number in range(1, len(parts)):
        closed, inner = "/" + "/".join(parts[:number]), "/" + "/".join(parts[:number + 1])
        if not os.stat(closed).st_mode & 1:
            os.mkdir("/run/shown")
            subprocess.run(["mount", "--bind", inner, "/run/shown"], check=True)
            tmpfs(closed, 0o755)
            os.mkdir(inner)
            subprocess.run(["mount", "--move", "/run/shown", inner], check=True)

def serve(*arguments, bind="unix:/run/app.sock"):
    command = [sys.executable, "-m", "penstock", "shop:app", "--bind", bind, *arguments]
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **streams, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " serving " in line:
            return process, lines
    raise AssertionError(lines)

def end(process):
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(20) == 0, rest
    return rest
"""


# What another user does


def test_a_squatted_directory_stops_no_start_and_gets_no_socket() -> None:
    run_in(
        """
tmpfs("/run", 0o755)
os.mkdir("/run/tmp")
os.chmod("/run/tmp", 0o1777)
os.mkdir("/run/mine")
os.chown("/run/mine", 1000, 1000)
os.environ["TMPDIR"] = "/run/tmp"
where = "/run/tmp/penstock-1000"

def start():
    server = Server(name="shop")
    place, said = server.place, server.said
    server.end()
    return place, said

def by(uid, function, *arguments):
    assert as_user(uid, function, *arguments) == "None"

by(1234, os.mkdir, where, 0o700)
text = as_user(1000, start)
assert "None, ['WARNING: PEN-8020 no control socket: " in text, text
assert f"{where} belongs to user 1234" in text and "--control" in text, text
assert "RuntimeDirectory=" in text, text
by(1234, os.rmdir, where)

by(1234, os.symlink, "/run/mine", where)
text = as_user(1000, start)
assert f"{where} is a symbolic link" in text and "None" in text, text
assert os.listdir("/run/mine") == []
by(1234, os.unlink, where)

by(1000, os.mkdir, where)
by(1000, os.chmod, where, 0o777)
text = as_user(1000, start)
assert f"other users can use {where}: its mode is 0777" in text, text
assert os.listdir(where) == []

os.symlink("/run/mine", "/run/penstock")  # one of root's own is not followed either
by(1234, os.mkdir, "/run/tmp/penstock-0", 0o700)
place, said = start()
assert place is None and "/run/tmp/penstock-0 belongs to user 1234" in said[0], said
by(1234, os.rmdir, "/run/tmp/penstock-0")
server = Server(name="shop")
assert server.place == "unix:/run/tmp/penstock-0/shop.sock"
refused = "WARNING: PEN-8025 control: a directory was not used: /run/penstock is a symbolic link"
assert server.said[0].startswith(refused), server.said
server.end()
""",
        *OWN_MOUNTS,
    )


def test_penstockctl_of_root_does_not_believe_an_impostor() -> None:
    run_in(
        """
tmpfs("/run", 0o755)
for uid in (1234, 1000):
    os.makedirs(f"/run/user/{uid}/penstock")
    os.chown(f"/run/user/{uid}", uid, uid)
    os.chown(f"/run/user/{uid}/penstock", uid, uid)
    os.chmod(f"/run/user/{uid}", 0o700)
    os.chmod(f"/run/user/{uid}/penstock", 0o700)
os.makedirs("/run/other/penstock")  # below the RuntimeDirectory= of another service
for path in ("/run/other", "/run/other/penstock"):
    os.chown(path, 1234, 1234)
os.mkdir("/run/open")
os.chmod("/run/open", 0o1777)

def impostor():
    become(1234)
    os.umask(0)
    places = ("user/1234/penstock", "other/penstock", "open")
    names = [*(f"/run/{place}/shop.sock" for place in places), "\\0shop"]
    import select
    listeners = []
    for name in names:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(name)
        sock.listen(10)
        listeners.append(sock)
    os.write(writer, b"!")
    while True:
        for each in select.select(listeners, [], [])[0]:
            sock, _ = each.accept()
            with sock:
                asked = sock.recv(65536)
                if asked:
                    os.write(writer, asked)
                body = b'{"message": "stopped", "application": "x", "listeners": ["here"]}'
                head = f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
                try:
                    sock.sendall(head.encode() + body)
                except OSError:
                    pass  # a client that only looks

reader, writer = os.pipe()
child = os.fork()
if child == 0:
    try:
        impostor()
    finally:
        os._exit(1)
os.read(reader, 1)
os.set_blocking(reader, False)

def asked():
    try:
        return os.read(reader, 65536)
    except BlockingIOError:
        return b""

try:
    code, out, err = ctl("stop")
    assert code == 2, (code, out, err)
    assert "--control /run/user/1234/penstock/shop.sock  pid" in err and "user 1234" in err, err
    assert b"POST" not in asked()
    code, out, err = ctl("--control", "@shop", "stop")
    assert code == 3 and "any user can take that name" in err, (code, out, err)
    assert b"POST" not in asked()
    # Root may ask for the server of another user by its path, and is told whose it is.
    code, out, err = ctl("--control", "/run/user/1234/penstock/shop.sock", "stop")
    assert (code, out) == (0, "stopped\\n"), (code, out, err)
    assert err == "penstockctl: the server is that of user 1234\\n", err
    asked()
    # Another user's socket where the owner of the directory or of the file is a third user.
    os.chown("/run/open", 1000, 1000)
    code, out, err = ctl("--control", "/run/open/shop.sock", "stop")
    assert code == 3 and "its directory belongs to user 1000" in err, (code, out, err)
    os.chown("/run/open", 0, 0)
    os.chown("/run/open/shop.sock", 1000, 1000)
    code, out, err = ctl("--control", "/run/open/shop.sock", "stop")
    assert code == 3 and "it belongs to user 1000" in err, (code, out, err)
    os.chmod("/run/open", 0o777)
    code, out, err = ctl("--control", "/run/open/shop.sock", "stop")
    assert code == 3 and "any user can replace it" in err, (code, out, err)
    os.chmod("/run/open", 0o1777)
    assert asked() == b""
    # A user that is not root uses no server of another user.
    for address in ("@shop", "/run/open/shop.sock"):
        text = as_user(1001, ctl, "--control", address, "stop")
        assert text.startswith("(3, ") and "is that of user 1234" in text, text
    assert asked() == b""
    assert as_user(1001, ctl, "status").startswith("(3, ")
    # Root's own server is used, whatever others have put beside it.
    server = Server(name="shop")
    code, out, err = ctl("status")
    assert code == 0 and err == "", (code, out, err)
    server.end()
finally:
    os.kill(child, 9)
    os.waitpid(child, 0)
""",
        *OWN_MOUNTS,
        "--net",
    )


def test_root_finds_the_server_of_a_service_user_where_systemd_has_put_it() -> None:
    run_in(
        """
tmpfs("/run", 0o755)
os.mkdir("/run/penstock")
os.chown("/run/penstock", 1000, 1000)

ready, told = os.pipe()
child = os.fork()
if child == 0:
    become(1000)
    os.environ["RUNTIME_DIRECTORY"] = "/run/penstock"
    server = Server(name="shop")
    os.write(told, b"!")
    time.sleep(60)
    os._exit(1)
try:
    os.read(ready, 1)
    code, out, err = ctl("status")
    assert (code, err) == (0, "penstockctl: the server is that of user 1000\\n"), (code, out, err)
finally:
    os.kill(child, 9)
    os.waitpid(child, 0)
""",
        *OWN_MOUNTS,
    )


def test_the_account_of_the_workers_cannot_reach_the_socket() -> None:
    """With --user an attacker may control the workers, and must not control the server by them."""
    run_in(
        SERVE
        + f"""
show_to_all(sys.base_prefix)
os.mkdir("/run/app")
os.chdir("/run/app")
with open("shop.py", "w") as file:
    file.write({APP!r})
process, lines = serve("--user", "1234", "--group", "1234", "-n", "shop", bind="127.0.0.1:8000")
status = os.stat("/run/penstock")
assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)
text = as_user(1234, Client, "/run/penstock/shop.sock")
assert text.startswith("PermissionError"), text
os.chmod("/run/penstock", 0o755)  # and where an administrator has opened the directory
os.chmod("/run/penstock/shop.sock", 0o666)
text = as_user(1234, lambda: Client("/run/penstock/shop.sock").request("POST", "/stop", COMMAND))
assert "status=403" in text, text
end(process)
""",
        *OWN_MOUNTS,
        "--net",
    )


# What another container does


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


def answer_at(place: str) -> tuple[int, bytes]:
    with Client(place) as client:
        response = client.request("GET", "/status")
        return response.status, response.body


def test_a_process_of_another_process_namespace_is_refused(place: str) -> None:
    code = f"""
server = Server(control={place!r})
print(os.getpid(), flush=True)
assert ctl("--control", {place!r}, "status")[0] == 0
sys.stdin.read()
server.end()
"""
    with running_in(code, "--pid", "--fork") as output:
        assert output.readline() == "1\n"
        status, body = answer_at(place)
        assert status == 403
        assert b"your process is in another container" in body


def test_a_user_without_an_id_in_the_servers_user_namespace_is_refused(place: str) -> None:
    """There every stranger has the overflow uid, and so has a server without an id of its own."""
    folder = os.path.dirname(place)
    os.chmod(folder, 0o1777)
    code = f"""
assert os.getuid() == overflow_uid()
server = Server(control={place!r})
print("ready", flush=True)
code, out, err = ctl("--control", {place!r}, "status")
assert code == 3 and "can be any user" in err, (code, out, err)
sys.stdin.read()
server.end()
"""
    with running_in(code, "--user") as output:
        assert output.readline() == "ready\n"
        status, body = answer_at(place)
        assert status == 403
        assert b"run the server as a user of its own" in body


def test_who_may_use_the_socket_is_decided_by_process_and_user() -> None:
    loop = ControlLoop()
    control = ControlSocket(loop.fake.handle, loop.logger)
    own = os.geteuid()
    for peer, allowed in (
        (None, True),
        (Peer(7, own), True),
        (Peer(7, 0), True),
        (Peer(0, own), False),
        (Peer(0, 0), False),
        (Peer(7, own + 1), False),
        (Peer(7, overflow_uid()), False),
    ):
        refusal = control.admit(peer)
        assert (refusal is None) == allowed, peer
        assert refusal is None or refusal.status == 403
    loop.close()


def test_a_read_only_root_starts_without_control_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "run").mkdir()
    run_in(
        SERVE
        + f"""
subprocess.run(["mount", "--bind", {str(tmp_path / "run")!r}, "/run"], check=True)
for line in list(open("/proc/self/mounts")):
    point = line.split()[1]
    if not point.startswith(("/proc", "/dev", "/sys")):
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=False, capture_output=True)
process, lines = serve(bind="127.0.0.1:8000")
[said] = [line for line in lines if "PEN-" in line and "control" in line]
assert "PEN-8020 no control socket: " in said, said
assert "read-only" in said and "--control" in said and "RuntimeDirectory=" in said, said
code, out, err = ctl("status")
assert code == 3 and "no server was found in /run/penstock" in err, (code, out, err)
end(process)
""",
        *OWN_MOUNTS,
        "--net",
        cwd=str(tmp_path),
    )


# Forged requests


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[ControlLoop]:
    loop = ControlLoop()
    loop.control(str(tmp_path / "control.sock"))
    with loop:
        yield loop


COMMANDS = ("/reload", "/upgrade", "/stop", "/scale?workers=2", "/recycle?worker=0")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Penstock-Control": "0"},
        COMMAND | {"Origin": "http://localhost"},
        COMMAND | {"Origin": "null"},
        COMMAND | {"Referer": "http://localhost/"},
        COMMAND | {"Sec-Fetch-Site": "same-origin"},
        COMMAND | {"Sec-Fetch-Mode": "no-cors"},
        COMMAND | {"Host": "attacker.example"},
        COMMAND | {"Host": "localhost.attacker.example"},
        COMMAND | {"Host": "127.0.0.1"},
    ],
    ids=str,
)
def test_a_forged_command_is_refused(loop: ControlLoop, fields: dict[str, str]) -> None:
    """By a form or a script of a page (CSRF, DNS rebinding), or by a fetcher of URLs (SSRF)."""
    with connect(loop.services[0]) as client:
        for target in COMMANDS:
            response = client.request("POST", target, fields)
            assert response.status == 403, (target, response)
        for method in ("GET", "HEAD", "PUT"):
            assert client.request(method, "/stop", fields).status in (403, 405)
    assert loop.fake.asked.empty()


def test_a_page_of_another_host_reads_nothing(loop: ControlLoop) -> None:
    with connect(loop.services[0]) as client:
        for fields in ({"Host": "attacker.example"}, {"Sec-Fetch-Site": "same-origin"}):
            response = client.request("GET", "/requests", fields)
            assert response.status == 403
            assert b"/reports" not in response.body
        for host in ("localhost", "LOCALHOST:8000"):
            assert client.request("GET", "/requests", {"Host": host}).status == 200


# Many connections


HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("begun", [HALF, b"G", b"", HALF + b"Content-Length: 10\r\n\r\n1"])
@pytest.mark.parametrize("service", ["admin", "control"])
def test_clients_that_do_not_finish_keep_no_probe_out(
    tmp_path: Path, service: str, begun: bytes
) -> None:
    loop = ControlLoop()
    place: str | tuple[str, int]
    if service == "admin":
        place = loop.admin()
        target = "/healthz"
    else:
        place, target = str(tmp_path / "control.sock"), "/status"
        loop.control(place)
    held: list[socket.socket] = []
    with loop:
        for round in range(3):
            for _ in range(130):
                sock = socket.socket(socket.AF_INET if service == "admin" else socket.AF_UNIX)
                # Without a timeout of Python's, connect waits where the queue is full.
                sock.connect(place)
                sock.sendall(begun)
                held.append(sock)
            begin = time.monotonic()
            if isinstance(place, str):
                assert ask(place, "GET", target, DEADLINE).status == 200, round
            else:
                with Client(place) as probe:
                    assert probe.request("GET", target).status == 200, round
            assert time.monotonic() - begin < REQUEST_SECONDS - 1  # when the requests time out
            assert len(loop.services[0]._connections) <= MAX_CONNECTIONS
    for sock in held:
        sock.close()


def test_clients_that_do_not_read_keep_no_probe_out(tmp_path: Path) -> None:
    loop = ControlLoop()
    place = str(tmp_path / "control.sock")
    loop.control(place)
    loop.fake.application = "x" * 1_000_000  # more than the buffers of a socket take
    slow = []
    with loop:
        for _ in range(MAX_CONNECTIONS):
            slow.append(Client(place))
            slow[-1].send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with Client(place) as probe:
            assert probe.request("GET", "/workers").status == 200
    for client in slow:
        client.close()


def test_a_client_that_reads_slowly_for_ever_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.control.connection.LONGEST_WRITE_SECONDS", WRITE_SECONDS / 2)
    loop = ControlLoop()
    service = loop.control(str(tmp_path / "control.sock"))
    loop.fake.application = "x" * 1_000_000
    with loop, connect(service) as client, connect(service) as other:
        client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.socket.recv(1, socket.MSG_PEEK)
        assert other.request("GET", "/workers").status == 200
        loop.expire(WRITE_SECONDS / 2)  # it is not late with the part that it reads
        assert not client.read_response().complete
