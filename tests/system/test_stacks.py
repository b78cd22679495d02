"""Looking at the stacks of other threads, without harm to them."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import penstock
from penstock.system.stacks import GATEWAY, PACKAGE, dump_text, stack_text
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


def dumped(name: str, *frames: tuple[str, str]) -> str:
    """Return a stack as faulthandler writes it; ``frames`` begin with the outermost one."""
    lines = "".join(f'  File "{file}", line 7 in {function}\n' for file, function in frames[::-1])
    return f"{name} (most recent call first):\n{lines}\n"


def test_what_faulthandler_writes_shows_the_application_alone_the_most_recent_call_last() -> None:
    child, worker = f"{PACKAGE}worker/child.py", f"{PACKAGE}worker/worker.py"
    dump = (
        "Fatal Python error: Segmentation fault\n\n"
        + dumped("Thread 0x1", (threading.__file__, "_bootstrap"), (worker, "serve"))
        + dumped("Thread 0x2", (child, "run"), (GATEWAY, "handle"), (time_file(), "sleep"))
        + dumped("Thread 0x3", (threading.__file__, "run"), ("/srv/app.py", "poll"))
        + dumped(
            "Current thread 0x4",
            ("/bin/penstock", "<module>"),
            (child, "run"),
            ("<frozen importlib._bootstrap>", "_load"),
            ("/srv/app.py", "<module>"),
            (f"{PACKAGE}wsgi/input.py", "read"),
        )
        + dumped("Thread 0x5", (child, "run"), (threading.__file__, "wait"))
        + "Extension modules: penstock._native (total: 1)\n"
    )
    assert dump_text(dump.encode()).splitlines() == [
        "Fatal Python error: Segmentation fault",
        "thread 0x2",
        f'  File "{time_file()}", line 7, in sleep',
        "thread 0x3",
        '  File "/srv/app.py", line 7, in poll',
        "current thread 0x4",
        '  File "/srv/app.py", line 7, in <module>',
        f'  File "{PACKAGE}wsgi/input.py", line 7, in read',
        "not shown: 1 idle thread, 1 of the server's",
        "Extension modules: penstock._native (total: 1)",
    ]


def time_file() -> str:
    """Return a file of the standard library, which an application may call alone."""
    return threading.__file__.replace("threading", "queue")


def test_text_without_a_stack_stays_as_it_is() -> None:
    assert dump_text(b"halted \xff\n") == "halted \\xff"
