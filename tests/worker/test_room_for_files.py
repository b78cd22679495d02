"""The warning of a limit on open files that is too low for what the settings allow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.server_process import checkout_environ
from support.wire import DEADLINE

WARNED = """
import logging, resource, sys
from penstock.config.settings import Settings
from penstock.worker.main import check_room_for_files

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
logging.basicConfig(format="%(message)s", stream=sys.stdout)
threads, io_bound = map(int, sys.argv[1:3])
connections = sys.argv[3]
limits = {"threads": threads, "max_io_bound": io_bound, "max_websockets": 0}
if connections != "auto":
    limits["max_connections"] = int(connections)
if sys.argv[4:]:
    limits["descriptor_reserve"] = int(sys.argv[4])
settings = Settings(**limits)
check_room_for_files(settings, logging.getLogger())
"""


@pytest.mark.parametrize(
    ("threads", "max_io_bound", "connections", "room"),
    [
        (4, 0, "900", None),
        (4, 100, "900", 576),
        (1, 100, "900", None),
        (4, 0, "auto", 976),
        (4, 100, "auto", 576),
    ],
)
def test_calls_that_leave_the_count_of_threads_have_files_too(
    threads: int, max_io_bound: int, connections: str, room: int | None
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WARNED, str(threads), str(max_io_bound), connections],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    if room is None:
        assert done.stdout == ""
    else:
        assert done.stdout.startswith("PEN-6010 the limit on open files is 1024, so that about")
        assert f" {room} connections fit" in done.stdout
        assert ("lower max_connections (900)" in done.stdout) is (connections == "900")


def test_a_reserve_that_leaves_room_for_few_connections_is_reported() -> None:
    """The first connection took all that was left: the second one waited, and no line said why."""
    done = subprocess.run(
        [sys.executable, "-c", WARNED, "4", "0", "auto", "1000"],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert " 4 connections fit" in done.stdout
    assert done.stdout.rstrip().endswith("or lower descriptor_reserve (1000)")
