"""What the soak of the life cycle excuses, and what it does not."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from harness import processes
from harness.disturbing import Disturber, Kill
from harness.watching import Reading, Watch
from support.lifecycle import Supervised, halt
from support.load import Ending, Load, Loss, plain
from support.wire import Client

KIB = 1024


def loss(port: int, at: float) -> Loss:
    return Loss(Ending.ENDED, "/echo?1", at, port, 0, "", "closed", b"")


def test_only_clients_of_a_killed_worker_are_excused_and_only_at_that_moment(
    tmp_path: Path,
) -> None:
    with Supervised(tmp_path) as server:
        disturber = Disturber(server, random.Random(1))
        disturber.kills.append(Kill(pid=1, at=100.0, ports={5000, 5001}))
        assert disturber.excuses(loss(5000, 100.1))
        assert not disturber.excuses(loss(5002, 100.1))
        # Ports come again.
        assert not disturber.excuses(loss(5001, 107.0))


def test_the_clients_of_a_worker_that_stands_still_are_known(tmp_path: Path) -> None:
    with Supervised(tmp_path) as server:
        (worker,) = server.workers()
        with Client(server.address) as one, Client(server.address) as other:
            for client in (one, other):
                assert client.request("GET", "/echo?1").status == 200
            halt(worker)
            ports = {client.socket.getsockname()[1] for client in (one, other)}
            assert processes.peer_ports(worker) == ports
            assert processes.listening_ports(worker) == {server.port}
            os.kill(worker, signal.SIGCONT)


def test_disturbing_a_server_under_load_loses_what_is_excused_alone(tmp_path: Path) -> None:
    with Supervised(tmp_path, "-w", "2", "--pid", str(tmp_path / "pid")) as server:
        disturber = Disturber(server, random.Random(1))
        disturber.plan(reload=0.5, kill=0.7, upgrade=1.1)
        with Load(server.address, keep_alive=8, closing=4, ask=plain) as load:

            def disturbed() -> bool:
                disturber.look()
                return disturber.done["upgrade"] >= 1 and disturber.done["kill"] >= 2

            load.wait_until(disturbed)
        counts = load.counts
        assert disturber.done["reload"] >= 1
        assert not [str(each) for each in counts.losses if not disturber.excuses(each)]
        assert counts.refused == 0
        server.stop()
        assert sum(disturber.complaints().values()) >= 2


def readings(*supervisors: tuple[int, list[int]], workers: int = 20 * KIB) -> list[Reading]:
    """Return readings, one a second, of supervisors with sizes in KiB."""
    found: list[Reading] = []
    for pid, sizes in supervisors:
        for size in sizes:
            at = float(len(found))
            found.append(Reading(at, len(found), pid, size, 15, [workers], [20]))
    return found


def problems(*found: Reading) -> list[str]:
    watch = Watch.__new__(Watch)
    watch.readings = list(found)
    return watch.problems(KIB)


def test_a_server_that_stays_as_it_is_has_not_grown() -> None:
    assert not problems(*readings((1, [20_000] * 40), (2, [20_000] * 40)))


def test_a_supervisor_that_grows_is_found() -> None:
    (problem,) = problems(*readings((1, [20_000 + 100 * second for second in range(40)])))
    assert "supervisor 1 grew" in problem


def test_growth_from_one_supervisor_to_the_next_is_found() -> None:
    lives = [(pid, [20_000 + 800 * pid] * 30) for pid in range(1, 5)]
    assert any("grew" in problem for problem in problems(*readings(*lives)))


def test_workers_that_grow_are_found() -> None:
    begin = readings((1, [20_000] * 40))
    end = readings((1, [20_000] * 40), workers=30 * KIB)
    assert any("workers" in problem for problem in problems(*begin, *end))
