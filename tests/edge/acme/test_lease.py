"""One process at a time holds the lease of a directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.edge.acme.lease import LEASE_SECONDS, RENEW_SECONDS, Lease, has_ended, this_process


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def other_host(name: str) -> dict[str, Any]:
    return {"host": name, "boot": name, "pids": "pid:[1]", "pid": 7, "started": "1"}


MakeLease = Callable[[str], Lease]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(tmp_path: Path, clock: Clock) -> MakeLease:
    return lambda name: Lease(str(tmp_path), clock=clock, process=other_host(name))


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_the_first_takes_it_and_the_second_does_not(lease: MakeLease, tmp_path: Path) -> None:
    one, two = lease("one"), lease("two")
    assert one.holds()
    assert not two.holds()
    assert one.holds()
    assert files(tmp_path) == ["lease.1"]


def test_a_holder_that_renews_keeps_it(lease: MakeLease, clock: Clock) -> None:
    one, two = lease("one"), lease("two")
    for _ in range(100):
        assert one.holds()
        assert not two.holds()
        clock.now += RENEW_SECONDS


def test_a_holder_without_a_sign_of_life_loses_it(lease: MakeLease, clock: Clock) -> None:
    one, two = lease("one"), lease("two")
    assert one.holds()
    assert not two.holds()
    clock.now += LEASE_SECONDS - 1
    assert not two.holds()
    clock.now += 2
    assert two.holds()
    assert not one.holds()
    assert not one.is_mine


def test_who_comes_late_waits_for_a_whole_lease(lease: MakeLease, clock: Clock) -> None:
    """The clocks of hosts are not compared: the newcomer cannot know how old the lease is."""
    assert lease("one").holds()
    clock.now += 10 * LEASE_SECONDS
    two = lease("two")
    assert not two.holds()
    clock.now += LEASE_SECONDS
    assert two.holds()


def test_a_released_lease_is_free_at_once(lease: MakeLease, tmp_path: Path) -> None:
    one, two = lease("one"), lease("two")
    assert one.holds()
    one.release()
    assert two.holds()
    assert not one.holds()
    assert files(tmp_path) == ["lease.2"]


def test_a_holder_that_wakes_late_takes_nothing_back(lease: MakeLease, clock: Clock) -> None:
    one, two = lease("one"), lease("two")
    assert one.holds()
    two.holds()
    clock.now += LEASE_SECONDS
    assert two.holds()
    one.release()
    assert two.holds()
    assert not one.holds()


def test_one_that_was_about_to_create_an_old_number_does_not_get_it(
    lease: MakeLease, tmp_path: Path, clock: Clock
) -> None:
    """It had found the lease free, and was halted; others have gone two numbers further."""
    one, two, three = lease("one"), lease("two"), lease("three")
    assert one.holds()
    one.release()
    assert two.holds()
    two.release()
    assert three.holds()
    assert files(tmp_path) == ["lease.3"]
    assert not one._take(2)
    assert files(tmp_path) == ["lease.3"]
    assert three.holds()


def test_of_two_that_create_the_same_number_one_gets_it(lease: MakeLease, tmp_path: Path) -> None:
    one, two = lease("one"), lease("two")
    assert one._take(1)
    assert not two._take(1)
    assert files(tmp_path) == ["lease.1"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}", b'{"released": 1}', b"null"])
def test_a_damaged_lease_runs_out(
    lease: MakeLease, tmp_path: Path, clock: Clock, content: bytes
) -> None:
    (tmp_path / "lease.4").write_bytes(content)
    one = lease("one")
    assert not one.holds()
    clock.now += LEASE_SECONDS
    assert one.holds()
    assert files(tmp_path) == ["lease.5"]


def test_other_files_are_left_alone(lease: MakeLease, tmp_path: Path) -> None:
    for name in ("lease.", "lease.01", "lease.x", "lease.1.bak", "account.json"):
        (tmp_path / name).write_text("")
    assert lease("one").holds()
    assert len(files(tmp_path)) == 6


def test_nothing_is_held_where_the_directory_has_gone(lease: MakeLease, tmp_path: Path) -> None:
    one = lease("one")
    assert one.holds()
    (tmp_path / "lease.1").unlink()
    tmp_path.rmdir()
    with pytest.raises(OSError):
        one.holds()
    assert not one.is_mine


def test_a_process_of_this_host_that_has_ended_is_known(tmp_path: Path) -> None:
    process = ended_process()
    assert has_ended(process)
    (tmp_path / "lease.1").write_text(json.dumps({"process": process, "released": False}))
    assert Lease(str(tmp_path)).holds()


@pytest.mark.parametrize(
    "change", [{"boot": "other"}, {"pids": "other"}, {"pid": -1}, {"pid": "x"}]
)
def test_of_another_host_or_container_that_is_not_known(change: Mapping[str, object]) -> None:
    assert not has_ended({**ended_process(), **change})


def test_this_process_has_not_ended() -> None:
    assert not has_ended(this_process())


def test_a_process_with_the_number_of_one_that_has_ended_is_another() -> None:
    assert has_ended({**this_process(), "started": "1"})


def test_of_many_processes_that_start_together_one_holds_it(tmp_path: Path) -> None:
    """The real thing, with the kernel's `link`."""
    code = (
        "import sys; from penstock.edge.acme.lease import Lease; sys.stdin.readline();"
        "lease = Lease(sys.argv[1]); print(lease.holds(), flush=True); sys.stdin.readline();"
        "print(lease.holds(), flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(6)
    ]  # fmt: skip
    try:
        for _ in range(2):
            for process in running:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            found = [process.stdout.readline().strip() for process in running if process.stdout]
            assert sorted(found) == ["False"] * 5 + ["True"]
    finally:
        for process in running:
            process.communicate("\n", timeout=20)
    assert Lease(str(tmp_path)).holds()  # they have all ended


def ended_process() -> dict[str, Any]:
    code = (
        "import json; from penstock.edge.acme.lease import this_process;"
        "print(json.dumps(this_process()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found
