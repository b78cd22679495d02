"""A worker that is old, too large, or has served enough is replaced, and no request is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised
from support.load import Load, plain

RECYCLING = {
    "max_requests": ("--max-requests", "150", "--max-requests-jitter", "30"),
    "max_age": ("--max-age", "0.5s", "--max-age-jitter", "0.2s"),
}


@pytest.mark.parametrize("setting", RECYCLING)
def test_fault_37_recycling_under_load_loses_no_request(
    tmp_path: Path, transport: str, setting: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport, *RECYCLING[setting]) as server:
        fewest = 2
        with Load(server.address, keep_alive=8, closing=8) as load:

            def recycled() -> bool:
                nonlocal fewest
                # A list of processes takes a while: a worker that ends meanwhile, and a successor
                # that starts, may both be missing from one of them, but not from the next as well.
                fewest = min(fewest, len(server.workers() | server.workers()))
                return len(load.counts.servers) >= 6

            load.wait_until(recycled)
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    assert fewest == 2, "there was none in a worker's place"
    assert any(setting in line for line in server.lines), "the reason is not told"


def test_a_worker_goes_on_until_its_successor_is_ready(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--transport", transport, "--max-requests", "5") as server:
        (old,) = server.workers()
        # What its successor imports waits until the test says so.
        code = "from support.lifecycle_app import *\nfrom support.lifecycle_app import _wait_for\n"
        code += f"_wait_for(Path({str(tmp_path)!r}) / 'booted')\napp = make('two')\n"
        (tmp_path / "shop.py").write_text(code)
        for number in range(20):
            assert server.served_by(f"/echo?{number}") == ("one", old)
        (tmp_path / "booted").touch()
        assert eventually(lambda: server.served_by()[0] == "two")
        assert eventually(lambda: old not in server.workers())
        assert server.stop() == 0


def test_one_at_a_time_is_replaced(tmp_path: Path) -> None:
    with Supervised(tmp_path, "-w", "4", "--max-age", "0.4s") as server:
        first = server.wait_for_workers(4)
        most = 0

        def replaced() -> bool:
            nonlocal most
            # A list takes a while to make. Those that are on two of them were there at one time.
            alive = server.workers() & server.workers()
            most = max(most, len(alive))
            return not alive & first

        assert eventually(replaced, 60)
        # A successor beside the four, and perhaps one that is about to leave.
        assert most <= 6
        assert server.stop() == 0


def test_fault_26_a_worker_that_grows_is_replaced(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--transport", transport, "--max-memory", "120MB") as server:
        (old,) = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            server.ask("/grow?1&150")
            server.wait_for_workers(1, {old})
            load.wait_for(50)
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    assert any("max_memory" in line for line in server.lines)


def test_requests_of_all_kinds_count_for_max_requests(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--transport", transport, "--max-requests", "100") as server:
        (old,) = server.workers()
        with Load(server.address, keep_alive=1, closing=0, ask=plain) as load:
            load.wait_for(100)
            server.wait_for_workers(1, {old})
        assert server.stop() == 0
    load.counts.check()
    assert max(load.counts.servers.values()) >= 100
