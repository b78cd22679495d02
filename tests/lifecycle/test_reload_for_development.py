"""--reload: a saved edit is served, a broken one is reported, and no request is cut off."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.server_process import BUSY_SECONDS, run_penstock
from support.wire import Client

BROKEN = {
    "a syntax error": ("def (:", "SyntaxError"),
    "an exception": ("raise LookupError('on purpose')", "LookupError: on purpose"),
    "an exit": ("import sys; sys.exit(9)", "SystemExit: 9"),
    "no application": ("", "app"),
}

WATCHERS = {"looking": "for changes, every 0.5 s", "watchfiles": "for changes, with watchfiles"}


@pytest.fixture(params=WATCHERS)
def watcher(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return what the log calls the means by which changes are noticed in this test."""
    name = str(request.param)
    if name == "looking":
        # It comes before what is installed, and is what an application may have in the way, too.
        (tmp_path / "watchfiles.py").write_text("raise ImportError('on purpose')\n")
    elif find_spec("watchfiles") is None:
        pytest.skip("watchfiles is not installed")
    return WATCHERS[name]


def reloading(folder: Path, *arguments: str, **process: Any) -> Supervised:
    return Supervised(folder, "--reload", *arguments, **process)


@contextmanager
def failing(folder: Path, *arguments: str) -> Iterator[Supervised]:
    """Start a server whose first start fails."""
    server = reloading(folder, *arguments)
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def serves(server: Supervised, version: str) -> bool:
    return bool(eventually(lambda: server.served_by()[0] == version))


def changes(server: Supervised) -> list[str]:
    return [line.partition("changed: ")[2] for line in server.lines_so_far() if "changed: " in line]


def reloads(server: Supervised) -> int:
    """Return how many reloads have begun so far."""
    return sum("reloading settings and code" in line for line in server.lines_so_far())


def watching(server: Supervised) -> list[int]:
    """Return the process ids of those that have begun to watch so far."""
    lines = [line for line in server.lines_so_far() if "for changes, " in line]
    return [int(line.partition("[")[2].partition("]")[0]) for line in lines]


def watchers(server: Supervised, count: int) -> bool:
    """Wait until this number of workers has begun to watch."""
    return bool(eventually(lambda: len(watching(server)) == count))


def in_place(folder: Path, version: str) -> None:
    write_app(folder / "aside", version)
    (folder / "shop.py").write_text((folder / "aside" / "shop.py").read_text())


def removed_first(folder: Path, version: str) -> None:
    (folder / "shop.py").unlink()
    write_app(folder, version)


@pytest.mark.parametrize("save", [write_app, in_place, removed_first])
def test_a_saved_edit_is_served(
    tmp_path: Path, watcher: str, save: Callable[[Path, str], None]
) -> None:
    (tmp_path / "aside").mkdir()
    with reloading(tmp_path) as server:
        assert eventually(lambda: any(watcher in line for line in server.lines_so_far()))
        for version in ("two", "three"):
            old = server.workers()
            save(tmp_path, version)
            assert serves(server, version)
            server.wait_for_workers(1, old)
        if save is write_app:  # the others take two steps, between which a busy machine may pause
            assert changes(server) == ["shop.py", "shop.py"]
        assert server.stop() == 0


@pytest.mark.parametrize("edit", BROKEN)
def test_a_broken_edit_is_shown_and_the_next_save_mends_it(
    tmp_path: Path, watcher: str, edit: str
) -> None:
    code, told = BROKEN[edit]
    with reloading(tmp_path, "-w", "2") as server:
        old = server.workers()
        (tmp_path / "shop.py").write_text(code + "\n")
        server.wait_for_line("not reloaded, the old workers go on")
        assert server.served_by()[0] == "one"
        assert server.workers() >= old
        write_app(tmp_path, "two")
        assert serves(server, "two")
        server.wait_for_workers(2, old)
        assert server.stop() == 0
    text = "\n".join(server.lines)
    assert told in text
    if "Error" in told:
        assert 'shop.py", line 1' in text  # the traceback


@pytest.mark.parametrize("edit", BROKEN)
def test_a_first_start_that_fails_is_shown_and_the_next_save_mends_it(
    tmp_path: Path, watcher: str, edit: str
) -> None:
    code, told = BROKEN[edit]
    (tmp_path / "shop.py").write_text(code + "\n")
    with failing(tmp_path, "-w", "2") as server:
        server.wait_for_line("waiting for a change")
        server.wait_for_workers(1)  # the one that watches
        # A save that mends nothing is one more attempt.
        (tmp_path / "shop.py").write_text("broken again\n")
        server.wait_for_line("waiting for a change")
        server.wait_for_line("SyntaxError")
        write_app(tmp_path, "two")
        server.wait_until_serving()
        assert server.served_by()[0] == "two"
        server.wait_for_workers(2)
        write_app(tmp_path, "three")
        assert serves(server, "three")
        assert server.stop() == 0
    assert told in "\n".join(server.lines)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGQUIT, 0)]
)
def test_a_server_that_waits_for_a_save_stops_when_told(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (tmp_path / "shop.py").write_text("def (:\n")
    with failing(tmp_path) as server:
        server.wait_for_line("waiting for a change")
        found, seconds = server.seconds_to_exit(number)
        assert found == status
        assert seconds < BUSY_SECONDS
        server.wait_until_all_have_left()


def test_a_server_that_waits_for_a_save_tries_again_at_sighup(tmp_path: Path) -> None:
    write_app(tmp_path, "one", "import os; os.stat(os.path.expanduser('mended'))")
    with failing(tmp_path) as server:
        server.wait_for_line("waiting for a change")
        (tmp_path / "mended").touch()
        server.signal(signal.SIGHUP)
        server.wait_until_serving()
        assert server.served_by()[0] == "one"


def test_a_server_that_waits_for_a_save_goes_on_when_nobody_watches(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def (:\n")
    with failing(tmp_path) as server:
        server.wait_for_line("waiting for a change")
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
        server.wait_for_line("waiting for a change")
        write_app(tmp_path, "two")
        server.wait_until_serving()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_first_start_that_dies_without_a_word_is_tried_again(
    tmp_path: Path, watcher: str, workers: str
) -> None:
    (tmp_path / "shop.py").write_text("import os; os._exit(11)\n")
    with failing(tmp_path, "-w", workers) as server:
        server.wait_for_line("could not start: .* 11; the next attempt is in 1 s")
        server.wait_for_line("could not start: .* 11; the next attempt is in 1 s")
        write_app(tmp_path, "two")
        server.wait_until_serving()
        server.wait_for_workers(int(workers))
        assert server.served_by()[0] == "two"


def test_a_module_that_the_edit_adds_is_watched(tmp_path: Path, watcher: str) -> None:
    with reloading(tmp_path) as server:
        helper = tmp_path / "helper.py"
        helper.write_text("name = 'helped'\n")
        text = "from support.lifecycle_app import make\nimport helper\napp = make(helper.name)\n"
        (tmp_path / "shop.py").write_text(text)
        assert serves(server, "helped")
        helper.write_text("name = 'helped again'\n")
        assert serves(server, "helped again")
        assert server.stop() == 0


def test_a_module_that_is_not_there_yet_is_waited_for(tmp_path: Path, watcher: str) -> None:
    with reloading(tmp_path) as server:
        text = "from support.lifecycle_app import make\nimport helper\napp = make(helper.name)\n"
        (tmp_path / "shop.py").write_text(text)
        server.wait_for_line("No module named 'helper'")
        (tmp_path / "helper.py").write_text("name = oops\n")
        server.wait_for_line("NameError")
        (tmp_path / "helper.py").write_text("name = 'helped'\n")
        assert serves(server, "helped")
        assert server.stop() == 0


def test_other_files_are_watched_where_they_are_named(tmp_path: Path, watcher: str) -> None:
    (tmp_path / "page.html").write_text("one")
    (tmp_path / "words").mkdir()
    more = ["--reload-extra-file", "page.html", "--reload-extra-file", "words/*.txt"]
    with reloading(tmp_path, *more) as server:
        for path in ("page.html", "words/new.txt", "words/new.txt"):
            old = server.workers()
            (tmp_path / path).write_text(f"{path} is changed, after {old}")
            server.wait_for_line(f"changed: {path}")
            server.wait_for_workers(1, old)
        assert server.stop() == 0


def test_of_two_quick_saves_the_last_is_served(tmp_path: Path, watcher: str) -> None:
    # With the cache: it takes two versions of one size, saved within a second, for the same.
    with reloading(tmp_path, environ={"PYTHONDONTWRITEBYTECODE": ""}) as server:
        for first, last in (("aa", "bb"), ("cc", "dd"), ("ee", "ff")):
            begun = reloads(server)
            write_app(tmp_path, first)
            # A reload for the save before may have begun, and then take this one as well.
            assert eventually(
                lambda: reloads(server) > begun or server.served_by()[0] == first  # noqa: B023
            )
            write_app(tmp_path, last)
            assert serves(server, last)
        assert server.stop() == 0


def test_a_save_while_new_code_loads_begins_another_reload(tmp_path: Path, watcher: str) -> None:
    begun = tmp_path / "begun"
    with reloading(tmp_path) as server:
        hang = f"import pathlib, threading\npathlib.Path({str(begun)!r}).touch()\n"
        write_app(tmp_path, "two", hang + "threading.Event().wait(30)")
        assert eventually(begun.exists)
        write_app(tmp_path, "three")
        assert serves(server, "three")
        assert server.stop() == 0


def test_a_first_start_that_hangs_is_mended_by_a_save(tmp_path: Path, watcher: str) -> None:
    begun = tmp_path / "begun"
    hang = f"import pathlib, threading\npathlib.Path({str(begun)!r}).touch()\n"
    write_app(tmp_path, "one", hang + "threading.Event().wait(30)")
    with failing(tmp_path) as server:
        assert eventually(begun.exists)
        write_app(tmp_path, "two")
        server.wait_until_serving()
        assert server.served_by()[0] == "two"


def test_of_several_workers_one_watches_and_another_takes_over(
    tmp_path: Path, watcher: str
) -> None:
    with reloading(tmp_path, "-w", "3") as server:
        for count in (1, 2):
            assert watchers(server, count)
            assert watching(server)[-1] in server.workers()
            os.kill(watching(server)[-1], signal.SIGKILL)
        assert watchers(server, 3)
        old = server.wait_for_workers(3)
        write_app(tmp_path, "two")
        server.wait_for_workers(3, old)
        assert server.served_by()[0] == "two"
        assert watchers(server, 4)
        assert server.stop() == 0
    assert len(watching(server)) == 4


def test_requests_in_progress_are_finished_by_the_old_code(tmp_path: Path, watcher: str) -> None:
    with reloading(tmp_path) as server:
        with server.begin("/hold?8&", "held") as held:
            write_app(tmp_path, "two")
            assert serves(server, "two")
            server.let_go("held")
            assert held.read_response().body.startswith(b"8 one:")
        server.wait_for_workers(1)
        assert server.stop() == 0


def test_an_idle_connection_keeps_no_old_worker(tmp_path: Path) -> None:
    with reloading(tmp_path) as server:
        with Client(server.address) as browser:
            assert browser.request("GET", "/echo?0").status == 200
            old = server.workers()
            write_app(tmp_path, "two")
            server.wait_for_workers(1, old)
        assert server.stop() == 0


def test_what_is_no_name_of_an_application_is_not_waited_for(tmp_path: Path) -> None:
    done = run_penstock("shop.py", "--reload", "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'shop'" in done.stderr
