"""What the server refuses to send of a directory of ``--static``."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.cli.settings import load_settings
from penstock.config.checks import check_places
from penstock.errors import SettingsError
from support.hanging_mount import hanging_mount
from support.lifecycle import Supervised
from support.service_user import NOBODY, TakenOver, as_root, public_folder
from support.serving import Environ, connect, get
from support.wire import Client


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"application"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    (site / ".git").mkdir(parents=True)
    (site / ".well-known").mkdir()
    (site / "sub").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "site-secret").write_text("secret")
    for name in (".env", ".git/config", "sub/.htpasswd", ".well-known/.hidden"):
        (site / name).write_text("secret")
    (site / ".well-known" / "security.txt").write_text("contact")
    (site / "file.txt").write_text("file")
    (site / "out.txt").symlink_to("../outside/secret")
    (site / "absolute.txt").symlink_to(outside / "secret")
    (site / "directory").symlink_to("../outside")
    (site / "inside.txt").symlink_to("sub/../file.txt")
    (site / "file.txt.gz").symlink_to("../outside/secret")
    (site / "null").symlink_to("/dev/null")
    os.mkfifo(site / "fifo")
    return site


@pytest.fixture
def client(site: Path, transport: str, threads: int) -> Iterator[Client]:
    with penstock.running(
        application,
        transport=transport,
        threads=threads,
        static=[f"/assets={site}"],
        static_index="index.html",
    ) as server:
        with connect(server) as client:
            yield client


def test_hidden_files_are_refused_whether_they_are_there_or_not(client: Client) -> None:
    for path in (
        "/assets/.env",
        "/assets/%2eenv",
        "/assets/.none",
        "/assets/.git/config",
        "/assets/.git/",
        "/assets/sub/.htpasswd",
        "/assets/sub/%2Ehtpasswd",
        "/assets/.well-known/.hidden",
        "/assets/sub%2f.htpasswd",
    ):
        response = client.request("GET", path)
        assert (response.status, response.body) == (404, b"Not Found\n"), path
    # RFC 8615
    assert client.request("GET", "/assets/.well-known/security.txt").body == b"contact"


def test_paths_that_go_up_are_refused(client: Client) -> None:
    for path in (
        "/assets/../outside/secret",
        "/assets/..",
        "/assets/../",
        "/assets/sub/../../outside/secret",
        "/assets/sub/../file.txt",
        "/assets/./file.txt",
        "/assets/%2e%2e/outside/secret",
        "/assets/..%2foutside/secret",
        "/assets/%2e%2e%2foutside%2fsecret",
        "/assets/..%00/outside/secret",
        "/assets/file.txt%00.png",
        "/assets/%00",
    ):
        response = client.request("GET", path)
        assert (response.status, response.body) == (404, b"Not Found\n"), path
    for path in ("/assets-secret", "/assets%2dsecret", "/assets/%252e%252e/outside/secret"):
        assert client.request("GET", path).body == b"application", path


def test_links_out_of_the_directory_are_refused(client: Client) -> None:
    for path in ("out.txt", "absolute.txt", "directory/secret"):
        response = client.request("GET", f"/assets/{path}")
        assert (response.status, response.body) == (404, b"Not Found\n"), path
    assert client.request("GET", "/assets/inside.txt").body == b"file"
    # Nor is a precompressed file a way out.
    coded = client.request("GET", "/assets/file.txt", {"Accept-Encoding": "gzip"})
    assert (coded.status, coded.body) == (200, b"file")


def test_devices_and_fifos_are_refused_without_waiting(client: Client) -> None:
    for name in ("null", "fifo"):
        response = client.request("GET", f"/assets/{name}")
        assert (response.status, response.body) == (404, b"Not Found\n"), name


def test_no_list_of_a_directory_is_sent(client: Client) -> None:
    for path in ("/assets", "/assets/", "/assets/sub", "/assets/sub/"):
        assert client.request("GET", path).body == b"application", path


@as_root
def test_files_are_read_with_the_rights_of_the_workers_user() -> None:
    with public_folder() as folder:
        site = folder / "site"
        site.mkdir(mode=0o755)
        for name, mode in (("public.txt", 0o644), ("private.txt", 0o600)):
            (site / name).write_text(name)
            (site / name).chmod(mode)
        with TakenOver(folder, "--static", f"/assets={site}") as server:
            with Client(server.address) as client:
                assert client.request("GET", "/assets/public.txt").body == b"public.txt"
                for _ in range(3):
                    assert client.request("GET", "/assets/private.txt").status == 403
        logged = [line for line in server.lines if "PEN-4510" in line]
        assert len(logged) == 3
        assert "/assets/private.txt: Permission denied" in logged[0]


def test_a_name_that_another_process_moves_never_leads_out(site: Path, transport: str) -> None:
    """A link takes the place of a directory, and a file that of the link, as fast as they can."""
    place = site / "moving"
    place.mkdir()
    (place / "secret").write_text("public")
    (site / "link").symlink_to("../outside")
    over = threading.Event()

    def move() -> None:
        spare = site / "spare"
        while not over.is_set():
            place.rename(spare)
            (site / "link").rename(place)
            place.rename(site / "link")
            spare.rename(place)

    mover = threading.Thread(target=move)
    bodies = set()
    with penstock.running(
        application, transport=transport, static=[f"/assets={site}"], static_cache=0
    ) as server:
        with connect(server) as client:
            mover.start()
            try:
                for _ in range(2000):
                    bodies.add(client.request("GET", "/assets/moving/secret").body)
            finally:
                over.set()
                mover.join()
    assert bodies <= {b"public", b"application", b"Not Found\n"}


def test_a_static_directory_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(SettingsError, match=r"bad value .*none.* for static .*No such file"):
        with penstock.running(application, static=[f"/assets={missing}"]):
            pass
    for value in ("assets=public", "/assets", "/assets=", "/a?b=c"):
        with pytest.raises(SettingsError, match="static"):
            with penstock.running(application, static=[value]):
                pass


@as_root
@pytest.mark.parametrize("name", ["static", "sendfile_root", "temp_dir"])
def test_the_user_that_may_not_use_a_directory_is_named(name: str) -> None:
    with public_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        value = f"/assets={closed}" if name == "static" else str(closed)
        settings = load_settings({"user": "nobody", name: value}, {}, folder)
        said = f"Permission denied for user {NOBODY.pw_uid}, as which the workers run"
        with pytest.raises(SettingsError, match=said):
            check_places(settings)


def test_a_disk_that_hangs_stops_no_other_request(site: Path, transport: str) -> None:
    """Threads wait for it as they wait for an application; the leader does not."""
    slow = site / "slow"
    slow.mkdir()
    with penstock.running(
        application, transport=transport, threads=4, static=[f"/assets={site}"]
    ) as server:
        with hanging_mount(slow), ExitStack() as stack:
            for _ in range(3):
                waiting = stack.enter_context(connect(server))
                waiting.send(get("/assets/slow/file.txt"))
            for path, body in (("/", b"application"), ("/assets/file.txt", b"file")) * 20:
                with connect(server) as client:
                    assert client.request("GET", path).body == body


def test_a_file_in_a_mount_that_hangs_gets_504_at_the_deadline(
    site: Path, tmp_path: Path, transport: str
) -> None:
    slow = site / "slow"
    slow.mkdir()
    with penstock.running(
        application, transport=transport, threads=4, timeout=0.5, static=[f"/assets={site}"]
    ) as server:
        with hanging_mount(slow), connect(server) as waiting:
            waiting.send(get("/assets/slow/file.txt"))
            assert waiting.read_response().status == 504
            assert waiting.is_closed_by_server()
            with connect(server) as client:
                assert client.request("GET", "/assets/file.txt").body == b"file"


def test_a_file_gets_503_where_no_descriptor_is_left_and_the_server_goes_on(
    site: Path, tmp_path: Path, transport: str
) -> None:
    (site / "other.txt").write_text("other")
    arguments = ("--transport", transport, "--static", f"/assets={site}")
    with Supervised(tmp_path, *arguments) as server:
        [worker] = server.serving()
        with Client(server.address) as client:
            assert client.request("GET", "/assets/file.txt").body == b"file"
            limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
            used = {int(name) for name in os.listdir(f"/proc/{worker}/fd")}
            free = next(number for number in range(len(used) + 1) if number not in used)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (free, limits[1]))
            assert client.request("GET", "/assets/other.txt").status == 503
            resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
        with Client(server.address) as client:
            assert client.request("GET", "/assets/other.txt").body == b"other"
        assert server.stop() == 0
