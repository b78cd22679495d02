"""The addresses of the control server: opened, followed in a reload, passed to a successor."""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.config.settings import Settings
from penstock.control.commands import Outcome
from penstock.control.directories import name_of
from penstock.control.server import LOOK_SECONDS, ControlServer
from penstock.errors import ListenError
from support.control_loop import FakeSupervisor, Messages, command
from support.wire import Client, Response


class Here:
    """A control server and the loop that it runs in."""

    def __init__(self) -> None:
        self.fake = FakeSupervisor()
        self.selector = selectors.DefaultSelector()
        self.messages = Messages()
        logger = logging.Logger("penstock.test")
        logger.addHandler(self.messages)
        self.server = ControlServer(self.fake.handle, self.selector, logger)

    def turn(self) -> None:
        """Do what is to be done now."""
        for _ in range(3):  # accept, read, write
            for key, _mask in self.selector.select(0.05):
                key.data()
        self.server.tick(time.monotonic())

    def ask(self, address: str | tuple[str, int], method: str, target: str) -> Response:
        """Ask by a socket."""
        with Client(address) as client:
            client.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            self.turn()
            return client.read_response()


@pytest.fixture
def here() -> Iterator[Here]:
    here = Here()
    yield here
    here.server.close()
    here.selector.close()


def settings(control: str, admin: str | None = None) -> Settings:
    return replace(Settings(), control=control, admin=admin)


def admin_address(here: Here) -> tuple[str, int]:
    host, port = here.server._services["admin"].listener.socket.getsockname()
    return host, port


def test_both_addresses_are_opened_and_answered(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    here.server.open(settings(path, "127.0.0.1:0"))
    assert here.ask(path, "GET", "/workers").status == 200
    assert here.ask(admin_address(here), "GET", "/readyz").status == 200
    here.server.close()
    assert not os.path.exists(path)


def test_nothing_is_open_where_one_address_cannot_be(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with pytest.raises(ListenError, match=r"setting: --admin"):
        here.server.open(settings(path, "unix:" + str(tmp_path / "none" / "admin.sock")))
    assert not os.path.exists(path)
    assert here.server.descriptors() == {}


def test_addresses_that_stay_are_left_alone_in_a_reload(here: Here, tmp_path: Path) -> None:
    same = settings(str(tmp_path / "control.sock"), "127.0.0.1:0")
    here.server.open(same)
    before = here.server.descriptors()
    here.server.follow(same)
    assert here.server.descriptors() == before


def test_addresses_that_change_are_followed_and_the_old_one_answers_who_waits(
    here: Here, tmp_path: Path
) -> None:
    old, new = str(tmp_path / "old.sock"), str(tmp_path / "new.sock")
    here.server.open(settings(old))
    with Client(old) as waiting:
        waiting.send(command("/reload", "Connection: close"))
        here.turn()
        here.server.follow(settings(new, "127.0.0.1:0"))
        assert not os.path.exists(old)
        assert here.ask(new, "GET", "/status").status == 200
        assert here.ask(admin_address(here), "GET", "/healthz").status == 200
        here.fake.replies.get_nowait()(Outcome(True, "reloaded"))
        assert waiting.read_response().status == 200
    here.turn()
    assert here.server._closing == []
    here.server.follow(settings("off"))
    assert not os.path.exists(new)
    assert here.server.descriptors() == {}


def test_an_address_that_cannot_be_followed_leaves_the_old_one(here: Here, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    here.server.open(settings(path))
    here.server.follow(settings(str(tmp_path / "none" / "control.sock")))
    assert here.ask(path, "GET", "/status").status == 200
    text = "ERROR: PEN-8030 control stays as it was: cannot listen"
    assert any(text in logged for logged in here.messages.texts)


def test_sockets_with_a_name_of_their_own_are_passed_to_a_successor(
    here: Here, tmp_path: Path
) -> None:
    wanted = settings(str(tmp_path / "control.sock"), "127.0.0.1:0")
    here.server.open(wanted)
    address = admin_address(here)
    successor = Here()
    passed = {name: os.dup(number) for name, number in here.server.descriptors().items()}
    assert set(passed) == {"control", "control directory", "admin"}
    successor.server.open(wanted, passed)
    here.server.hand_over()
    successor.server.take_over()
    assert successor.ask(wanted.control, "GET", "/status").status == 200
    assert successor.ask(address, "GET", "/healthz").status == 200
    here.server.close()
    assert successor.ask(wanted.control, "GET", "/status").status == 200
    successor.server.close()
    successor.selector.close()
    assert not os.path.exists(wanted.control)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that `auto` uses."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "penstock"))
    (tmp_path / "penstock").mkdir(mode=0o700)
    return tmp_path / "penstock"


def sockets_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def pass_on(here: Here) -> dict[str, int]:
    """Return what a successor inherits."""
    return {name: os.dup(number) for name, number in here.server.descriptors().items()}


def test_the_socket_of_auto_is_passed_to_a_successor(here: Here, place: Path) -> None:
    wanted = replace(settings("auto"), bind=("127.0.0.1:8000",))
    here.server.open(wanted)
    assert sockets_in(place) == ["127.0.0.1-8000.sock"]
    successor = Here()
    successor.server.open(wanted, pass_on(here))
    address = str(place / "127.0.0.1-8000.sock")
    assert here.ask(address, "GET", "/status").status == 200  # the predecessor answers until then
    here.server.hand_over()
    successor.server.take_over()
    here.server.close()
    assert successor.ask(address, "GET", "/status").status == 200
    assert successor.messages.texts == [f"DEBUG: control: on unix:{address}"]
    successor.server.close()
    successor.selector.close()
    assert sockets_in(place) == []


@pytest.mark.parametrize("changed", ["name", "off", "path"])
def test_a_successor_that_wants_another_socket_removes_the_one_that_it_inherits(
    here: Here, place: Path, tmp_path: Path, changed: str
) -> None:
    before = replace(settings("auto", "127.0.0.1:0"), bind=("127.0.0.1:8000",))
    here.server.open(before)
    after = {
        "name": replace(before, name="shop"),
        "off": replace(before, control="off", admin=None),
        "path": replace(before, control=str(tmp_path / "control.sock"), admin="127.0.0.1:0"),
    }[changed]
    successor = Here()
    successor.server.open(after, pass_on(here))
    old = str(place / "127.0.0.1-8000.sock")
    assert here.ask(old, "GET", "/status").status == 200
    here.server.hand_over()
    successor.server.take_over()
    here.server.close()
    assert sockets_in(place) == (["shop.sock"] if changed == "name" else [])
    assert (tmp_path / "control.sock").exists() == (changed == "path")
    successor.server.close()
    successor.selector.close()


def test_a_successor_that_does_not_serve_leaves_the_socket_of_its_predecessor(
    here: Here, place: Path
) -> None:
    wanted = replace(settings("auto"), bind=("127.0.0.1:8000",))
    here.server.open(wanted)
    for name in (None, "shop"):
        successor = Here()
        successor.server.open(replace(wanted, name=name), pass_on(here))
        successor.server.close()
        successor.selector.close()
        address = str(place / "127.0.0.1-8000.sock")
        assert here.ask(address, "GET", "/status").status == 200
        assert sockets_in(place) == ["127.0.0.1-8000.sock"]


def test_the_name_follows_the_first_address_in_a_reload(
    here: Here, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replace(settings("auto"), bind=("127.0.0.1:8000",))
    here.server.open(before)
    here.server.follow(replace(before, bind=("unix:/run/shop.sock", ":80")))
    assert sockets_in(place) == ["unix-run-shop.sock"]
    here.server.follow(replace(before, bind=("unix:/run/shop.sock",), name="new"))
    assert sockets_in(place) == ["unix-run-shop.sock"]  # as the title, the name needs an upgrade
    monkeypatch.setattr("penstock.control.server.of_server", lambda environ, uid: [])
    here.server.follow(before)
    assert sockets_in(place) == ["unix-run-shop.sock"]
    assert here.messages.texts[-1].startswith("ERROR: PEN-8030 control stays as it was: ")


@pytest.mark.parametrize("removed", ["socket", "directory"])
def test_a_socket_that_was_removed_is_made_again(here: Here, place: Path, removed: str) -> None:
    """Programs that clean up /tmp remove what is days old."""
    wanted = replace(settings("auto"), name="shop")
    here.server.open(wanted)
    with Client(str(place / "shop.sock")) as waiting:
        waiting.send(command("/reload"))
        here.turn()
        (place / "shop.sock").unlink()
        if removed == "directory":
            place.rmdir()
        here.server.tick(time.monotonic() + LOOK_SECONDS)
        assert sockets_in(place) == ["shop.sock"]
        assert here.ask(str(place / "shop.sock"), "GET", "/status").status == 200
        here.fake.replies.get_nowait()(Outcome(True, "reloaded"))
        assert waiting.read_response().status == 200
    here.server.close()
    assert sockets_in(place) == []


@pytest.mark.parametrize(
    ("name", "bind", "expected"),
    [
        (None, "127.0.0.1:8000", "127.0.0.1-8000"),
        (None, ":8000", "8000"),
        (None, "[::1]:8000", "1-8000"),
        (None, "unix:/run/shop.sock", "unix-run-shop"),
        (None, "unix:@shop", "unix-shop"),
        (None, "fd://3", "fd-3"),
        ("../../etc/passwd", "", "etc-passwd"),
        (".hidden", "", "hidden"),
        ("b\u00fccher\n", "", "b-cher"),
        ("x" * 300, "", "x" * 48),
        ("...", "", "penstock"),
    ],
)
def test_the_name_is_one_that_a_file_can_have(name: str | None, bind: str, expected: str) -> None:
    assert name_of(name, bind) == expected
