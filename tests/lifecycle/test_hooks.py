"""The hooks of a gunicorn.conf.py, called by real processes, where and when gunicorn's are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.server_process import run_penstock

NOTES = """
import os

def note(name, *what):
    with open("notes", "a") as file:
        file.write(" ".join([name, str(os.getpid()), *map(str, what)]) + "\\n")

raw_env = ["TOKEN=7"]

def on_starting(server): note("on_starting", server.pid, server.num_workers)
def nworkers_changed(server, new, old): note("nworkers_changed", new, old)
def when_ready(server): note("when_ready", server.num_workers, len(server.WORKERS))
def on_reload(server): note("on_reload")
def pre_fork(server, worker):
    worker.kept = worker.age * 10
    note("pre_fork", worker.age, worker.pid)
def post_fork(server, worker):
    import shop_tracing  # in the application's directory
    note("post_fork", worker.age, worker.pid, worker.ppid, getattr(worker, "kept", None),
         os.environ["TOKEN"], worker.booted)
def post_worker_init(worker):
    note("post_worker_init", worker.age, worker.booted, callable(worker.app.callable))
def pre_request(worker, req): note("pre_request", worker.pid, req.path)
def post_request(worker, req, environ, resp): note("post_request", worker.nr, resp.status)
def worker_int(worker): note("worker_int", worker.pid)
def worker_exit(server, worker):
    note("worker_exit", worker.pid, worker.alive, callable(server.app.wsgi()))
def child_exit(server, worker): note("child_exit", worker.pid, getattr(worker, "kept", None))
def on_exit(server): note("on_exit", server.pid)
"""


class Notes:
    """What the hooks have written down."""

    def __init__(self, folder: Path, configuration: str = NOTES) -> None:
        (folder / "gunicorn.conf.py").write_text(configuration)
        (folder / "shop_tracing.py").touch()
        self.path = folder / "notes"

    def all(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]

    def of(self, name: str) -> list[list[str]]:
        return [words[1:] for words in self.all() if words[0] == name]

    def names_in(self, process: str) -> list[str]:
        return [words[0] for words in self.all() if words[1] == process]


def test_each_hook_is_called_in_its_process_and_in_order(tmp_path: Path, transport: str) -> None:
    notes = Notes(tmp_path)
    with Supervised(tmp_path, "--transport", transport) as server:
        supervisor = str(server.supervisor)
        (worker,) = map(str, server.workers())
        assert server.ask("/echo?1").status == 200
        assert server.stop() == 0
    assert notes.names_in(supervisor) == [
        *("on_starting", "nworkers_changed", "pre_fork", "when_ready", "child_exit", "on_exit")
    ]
    assert notes.names_in(worker) == [
        *("post_fork", "post_worker_init", "pre_request", "post_request", "worker_exit")
    ]
    assert notes.of("on_starting") == [[supervisor, supervisor, "None"]]
    assert notes.of("nworkers_changed") == [[supervisor, "1", "None"]]
    assert notes.of("when_ready") == [[supervisor, "1", "1"]]
    assert notes.of("pre_fork") == [[supervisor, "1", "[booting]"]]
    # The variables are set, and what pre_fork kept on the worker is there.
    assert notes.of("post_fork") == [[worker, "1", worker, supervisor, "10", "7", "False"]]
    assert notes.of("post_worker_init") == [[worker, "1", "True", "True"]]
    assert notes.of("pre_request") == [[worker, worker, "/echo"]]
    assert notes.of("post_request") == [[worker, "1", "200", "OK"]]
    assert notes.of("worker_exit") == [[worker, worker, "False", "True"]]
    assert notes.of("child_exit") == [[supervisor, worker, "10"]]
    assert notes.of("on_exit") == [[supervisor, supervisor]]


def test_a_worker_that_is_killed_has_its_child_exit(tmp_path: Path, transport: str) -> None:
    notes = Notes(tmp_path)
    with Supervised(tmp_path, "--transport", transport) as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        server.wait_for_workers(1, {worker})
        assert eventually(lambda: notes.of("child_exit"))
        assert notes.of("child_exit")[0][1] == str(worker)
        assert not notes.of("worker_exit")
        assert server.stop() == 0


def test_stopped_at_once_a_worker_is_told(tmp_path: Path, transport: str) -> None:
    notes = Notes(tmp_path)
    with Supervised(tmp_path, "--transport", transport) as server:
        (worker,) = map(str, server.workers())
        supervisor = str(server.supervisor)
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0
    assert notes.names_in(worker)[-2:] == ["worker_int", "worker_exit"]
    assert notes.names_in(supervisor)[-2:] == ["child_exit", "on_exit"]


def test_a_reload_runs_the_file_again_and_a_failed_one_leaves_the_old_hooks(
    tmp_path: Path, transport: str
) -> None:
    notes = Notes(tmp_path)
    with Supervised(tmp_path, "--transport", transport) as server:
        old = server.workers()
        Notes(tmp_path, NOTES.replace("def child_exit", "workers = 2\ndef child_exit"))
        server.signal(signal.SIGHUP)
        new = server.wait_for_workers(2, old)
        server.wait_for_line(r"serving shop:app")
        assert len(notes.of("on_reload")) == 1
        assert notes.of("nworkers_changed")[-1][1:] == ["2", "1"]
        for broken, said in (
            ("1 / 0\n", "not reloaded.*gunicorn.conf.py raised ZeroDivisionError"),
            (NOTES.replace('note("child_exit"', 'note("other"') + "wsgi_app = 1\nthreads = 0\n",
             "not reloaded.*threads"),
        ):  # fmt: skip
            (tmp_path / "gunicorn.conf.py").write_text(broken)
            server.signal(signal.SIGHUP)
            server.wait_for_line(said)
        # This file is well, and the application is not.
        Notes(tmp_path, NOTES.replace('note("child_exit"', 'note("other"'))
        (tmp_path / "shop.py").write_text("raise LookupError")
        server.signal(signal.SIGHUP)
        server.wait_for_line("not reloaded.*LookupError")
        assert server.workers() >= new
        before = len(notes.of("child_exit"))
        assert server.stop() == 0
    assert len(notes.of("child_exit")) >= before + 2


def test_with_preload_hooks_are_called_all_the_same(tmp_path: Path, transport: str) -> None:
    notes = Notes(tmp_path)
    with Supervised(tmp_path, "--preload", "--transport", transport) as server:
        ((worker, *_),) = notes.of("post_fork")
        assert int(worker) in server.workers()
        assert server.ask("/echo?1").status == 200
        assert server.stop() == 0
    assert notes.of("pre_request") == [[worker, worker, "/echo"]]
    assert notes.of("child_exit")[0][1] == worker


def test_on_starting_that_raises_ends_the_start(tmp_path: Path) -> None:
    Notes(tmp_path, "def on_starting(server): raise LookupError('not today')\n")
    write_app(tmp_path, "one")
    done = run_penstock("shop:app", "-b", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 1
    assert "in on_starting" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "penstock: error: the hook on_starting raised LookupError: not today"


@pytest.mark.parametrize(
    "hook", ["pre_fork(server, worker)", "post_fork(server, worker)", "when_ready(server)",
             "post_worker_init(worker)"],
)  # fmt: skip
def test_other_hooks_that_raise_are_logged_and_all_goes_on(tmp_path: Path, hook: str) -> None:
    Notes(tmp_path, f"def {hook}: raise LookupError('not today')\n")
    with Supervised(tmp_path) as server:
        assert server.ask("/echo?1").status == 200
        assert server.stop() == 0
    said = "\n".join(server.lines)
    assert f"the hook {hook.partition('(')[0]} failed" in said
    assert "LookupError: not today" in said
