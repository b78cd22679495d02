"""--prometheus-multiproc: an application's counts outlive its workers, and files do not pile up.

The application counts its requests, and has a gauge of the workers that run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import prometheus_client
import pytest

from support.invariant import eventually
from support.lifecycle import MODULE, Supervised
from support.server_process import START_WITHIN, ServerProcess, checkout_environ, run_penstock
from support.service_user import NOBODY, as_root, owned, public_folder, public_python
from support.wire import Client

SITE = "from programs.sites.metrics import app\n"


def server_in(folder: Path, *arguments: str, preload: bool = False) -> Supervised:
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / f"{MODULE}.py").write_text(SITE)
    flags = ["--prometheus-multiproc", "metrics", "--drain-linger", "0s", *arguments]
    return Supervised(folder, *flags, *(["--preload"] if preload else []))


def ask(server: ServerProcess, count: int) -> set[int]:
    """Send requests, each on a connection of its own; return the processes that answered."""
    found = set()
    for _ in range(count):
        with Client(server.address) as client:
            answer = client.request("GET", "/", {"Connection": "close"})
        assert answer.status == 200, answer
        found.add(int(answer.body))
    return found


def value(server: ServerProcess, name: str) -> float:
    """Return a metric as the application's own page has it; 0 where it is not there."""
    with Client(server.address) as client:
        answer = client.request("GET", "/metrics", {"Connection": "close"})
    assert answer.status == 200, answer
    found = re.search(rf"(?m)^{name} (\S+)$", answer.body.decode())
    return float(found[1]) if found else 0.0


def names(folder: Path, ending: str) -> set[str]:
    return {path.name for path in (folder / "metrics").iterdir() if path.name.endswith(ending)}


def counters(folder: Path) -> set[str]:
    """Return the names of the files of counters, which stay when a worker has ended."""
    return {name for name in names(folder, ".db") if name.startswith("counter_")}


@pytest.mark.costly
def test_200_workers_leave_a_constant_number_of_files_and_no_count_is_lost(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("-w", "10", "--threads", "1", "--transport", transport)
    with server_in(tmp_path, *arguments, preload=True) as server:
        answered, seen = 0, set[int]()
        for _ in range(20):
            seen |= server.wait_for_serving(10, seen)
            ask(server, 20)
            answered += 20
            server.signal(signal.SIGHUP)
        seen |= server.wait_for_serving(10, seen)
        assert len(seen) >= 200
        assert value(server, "requests_total") == answered
        # Two generations of workers, and the processes that have loaded the application for them.
        slots = range(1, 23)
        assert counters(tmp_path) <= {f"counter_slot-{slot}.db" for slot in slots}
        locks = {f"penstock-slot-{slot}.lock" for slot in slots}
        assert names(tmp_path, ".lock") <= locks | {"penstock-slots.lock"}
        assert server.stop() == 0


def test_no_count_is_lost_and_no_file_is_added_where_workers_are_recycled(
    tmp_path: Path, transport: str
) -> None:
    # Without lingering, a connection that a worker accepts as it leaves is closed unanswered.
    linger = ("--drain-linger", "500ms")
    arguments = ("-w", "2", "--max-requests", "10", "--transport", transport, *linger)
    with server_in(tmp_path, *arguments) as server:
        answered, seen = 0, set[int]()

        def has_seen_enough() -> bool:
            nonlocal answered
            seen.update(ask(server, 10))
            answered += 10
            return len(seen) > 12

        assert eventually(has_seen_enough, 60.0), (seen, server.lines_so_far())
        assert value(server, "requests_total") == answered
        # At most one worker is recycled at a time, beside one that still leaves.
        assert len(counters(tmp_path)) <= 4
        assert server.stop() == 0


def test_a_killed_worker_is_no_longer_counted_as_running_and_what_it_counted_stays(
    tmp_path: Path, transport: str
) -> None:
    with server_in(tmp_path, "-w", "2", "--transport", transport) as server:
        workers = server.wait_for_workers(2)
        seen = set[int]()

        def both_have_answered() -> bool:
            seen.update(ask(server, 5))
            return seen == workers

        assert eventually(both_have_answered)
        assert value(server, "workers_with_requests") == 2
        before = value(server, "requests_total")
        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        # The one that starts in its place counts once it has answered a request.
        assert eventually(lambda: value(server, "workers_with_requests") == 1)
        server.wait_for_workers(2, {killed})
        assert value(server, "requests_total") == before
        assert server.stop() == 0
    assert [line for line in server.lines if "PEN-7075" in line] == []


def test_counts_outlive_an_upgrade_and_end_with_the_server(tmp_path: Path, transport: str) -> None:
    arguments = ("-w", "1", "--transport", transport, "--pid", "pid")
    with server_in(tmp_path, *arguments) as server:
        ask(server, 7)
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"))
        ask(server, 1)
        assert value(server, "requests_total") == 8
        assert server.stop() == 0
    with server_in(tmp_path, *arguments) as server:
        assert value(server, "requests_total") == 0
        assert server.stop() == 0


def test_a_server_without_a_supervisor_has_a_slot_too(tmp_path: Path) -> None:
    with server_in(tmp_path, "--no-supervisor") as server:
        ask(server, 3)
        assert value(server, "requests_total") == 3
        assert counters(tmp_path) == {"counter_slot-1.db"}
        assert server.stop() == 0


def test_a_directory_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SITE)
    arguments = (f"{MODULE}:app", "--prometheus-multiproc", "none/metrics")
    ran = run_penstock(*arguments, "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert ran.returncode != 0
    assert "for prometheus_multiproc (from --prometheus-multiproc): No such file" in ran.stderr


def test_an_application_without_prometheus_client_is_told_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('it is broken')\n")
    (tmp_path / f"{MODULE}.py").write_text("def app(environ, start_response): ...\n")
    arguments = (f"{MODULE}:app", "--prometheus-multiproc", "metrics", "--bind", "127.0.0.1:0")
    ran = run_penstock(*arguments, cwd=tmp_path)
    assert ran.returncode != 0
    assert "which cannot be imported (it is broken): pip install prometheus_client" in ran.stderr


@as_root
def test_with_user_the_directory_has_to_be_writable_by_that_user() -> None:
    python = public_python()
    with public_folder() as folder:
        (folder / "metrics").mkdir()
        command = [python, "-m", "penstock", f"{MODULE}:app", "--user", "nobody"]
        ran = subprocess.run(
            [*command, "--prometheus-multiproc", "metrics", "--bind", "127.0.0.1:0"],
            cwd=folder,
            env=checkout_environ(),
            capture_output=True,
            text=True,
            timeout=START_WITHIN,
            check=False,
        )
    assert ran.returncode != 0
    assert f"Permission denied for user {NOBODY.pw_uid}, as which the workers run" in ran.stderr


@as_root
def test_with_user_what_is_removed_and_written_is_so_by_that_user(tmp_path: Path) -> None:
    python = public_python()
    theirs = tmp_path / "counter_2.db"
    theirs.touch()
    with public_folder() as folder:
        (folder / "metrics").mkdir()
        owned(folder / "metrics", NOBODY.pw_uid)
        (folder / "metrics" / "counter_1.db").touch()
        (folder / "metrics" / "counter_2.db").symlink_to(theirs)
        # The environment of the tests may be one that other users cannot read.
        package = Path(prometheus_client.__file__).parent
        shutil.copytree(package, folder / "prometheus_client")
        (folder / f"{MODULE}.py").write_text(SITE)
        arguments = ("--user", "nobody", "--prometheus-multiproc", "metrics", "-w", "1")
        with Supervised(folder, *arguments, python=(python,)) as server:
            ask(server, 1)
            assert theirs.exists()
            assert not (folder / "metrics" / "counter_1.db").exists()
            made = [path for path in (folder / "metrics").iterdir() if not path.is_symlink()]
            assert {path.stat().st_uid for path in made} == {NOBODY.pw_uid}
            [worker] = server.wait_for_workers(1)
            os.kill(worker, signal.SIGKILL)
            live = folder / "metrics" / "gauge_livesum_slot-1.db"
            assert eventually(
                lambda: not live.exists() or value(server, "workers_with_requests") == 0
            )
            assert server.stop() == 0
        assert [line for line in server.lines if "PEN-7075" in line] == []
