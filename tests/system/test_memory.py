"""What a process does once it has imported what it works with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.server_process import START_WITHIN

PROGRAM = """
import gc
from penstock.system.memory import keep_what_is_loaded

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

kept, freed = [], []
for _ in range(2000):  # what is kept lies between what is freed: the heap cannot shrink at its end
    freed.append(bytearray(20_000))
    kept.append(bytearray(600))
freed.clear()
before = resident()
keep_what_is_loaded()
print(gc.get_freeze_count() > 0, before - resident() > 20_000_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back_to_the_system_and_what_is_loaded_is_frozen() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=True,
    )
    assert ran.stdout == "True True\n"
