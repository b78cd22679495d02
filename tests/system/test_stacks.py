"""Looking at the stacks of other threads, without harm to them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import penstock
from penstock.system.stacks import PACKAGE, stack_text
from support.server_process import checkout_environ

DEADLINE = 30.0


# A collection that begins while CPython makes the frames of fifty threads known, and that frees a
# threading.local: with sys._current_frames alone, 3.11 waits for ever for a lock that it holds.
COLLECTING = """
import gc, threading
from penstock.system.stacks import current_frames

class Cycle:
    def __init__(self):
        self.me, self.local = self, threading.local()

gc.disable()
for _ in range(5):
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(50)]
    for thread in threads:
        thread.start()
    gc.collect()
    for _ in range(5):
        Cycle()
    gc.set_threshold(gc.get_count()[0] + 10)
    gc.enable()
    assert len(current_frames()) == 51
    assert gc.isenabled()
    gc.disable()
    over.set()
    for thread in threads:
        thread.join()
current_frames()
assert not gc.isenabled()
print("over")
"""


def test_gh106883_a_collection_does_not_stop_the_process_while_stacks_are_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("over\n", 0), done.stderr


def test_the_servers_own_code_is_the_whole_package() -> None:
    assert penstock.__file__ == f"{PACKAGE}__init__.py"


def test_a_frame_that_is_another_object_by_now_ends_no_look_at_the_stacks() -> None:
    """CPython 3.11 may give the place of a frame to another object while its thread goes on."""
    gone: Any = SimpleNamespace()
    assert "went on" in stack_text(gone)
