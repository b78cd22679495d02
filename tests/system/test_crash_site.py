"""Where a process crashed, by what faulthandler has written, which may be anything."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import pytest

from penstock.system.crash_site import MOST_MODULES, MOST_OF_NAME, CrashSite, crash_site
from penstock.system.stacks import PACKAGE
from support.server_process import checkout_environ

CRASH = """
import ctypes, faulthandler, threading
import greenlet
faulthandler.enable(all_threads=True)

def view():
    ctypes.string_at(0)

thread = threading.Thread(target=view)
thread.start()
thread.join()
"""
PACKAGES = "/usr/lib/python3.11/site-packages"


def dump(*frames: tuple[str, str], modules: str = "", error: str = "Segmentation fault") -> bytes:
    """Return what faulthandler writes of two threads, of which the first has crashed."""
    lines = [f'  File "{file}", line 7 in {function}' for file, function in frames]
    loaded = f"\nExtension modules: {modules} (total: {modules.count(',') + 1})\n"
    text = "\n".join(
        [
            f"Fatal Python error: {error}\n",
            "Thread 0x00007f01 (most recent call first):",
            '  File "/srv/other.py", line 1 in other\n',
            "Current thread 0x00007f02 [worker] (most recent call first):",
            *(lines or ["  <no Python frame>"]),
            "",
            "Thread 0x00007f03 (most recent call first):",
            '  File "/srv/another.py", line 1 in another',
            loaded if modules else "",
        ]
    )
    return text.encode()


def test_it_is_the_innermost_functions_of_the_thread_that_crashed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH],
        env=checkout_environ(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    site = crash_site(done.stderr)
    assert site is not None
    line = ctypes.string_at.__code__.co_firstlineno
    assert site.frames[0].startswith("string_at (ctypes/__init__.py:")
    assert abs(int(site.frames[0].rpartition(":")[2].rstrip(")")) - line) < 10
    assert site.frames[1] == "view (<string>:7)"
    assert site.frames[2].startswith("run (python3.") or "threading.py" in site.frames[2]
    assert site.likely == []
    assert site.modules == ["greenlet._greenlet"]


@pytest.mark.parametrize(
    ("file", "modules", "likely"),
    [
        (f"{PACKAGES}/PIL/Image.py", "PIL._imaging, numpy.core._multiarray", ["PIL._imaging"]),
        (f"{PACKAGES}/foo.py", "foo, bar", ["foo"]),
        (f"{PACKAGE}transport/native.py", "_foo, penstock._native", ["penstock._native"]),
        # Code of the application's may have called the one that there is.
        ("/srv/shop/views.py", "_foo, penstock._native", ["_foo"]),
        ("/srv/shop/views.py", "_foo, _bar", []),
        # And the standard library has modules of its own.
        (threading.__file__, "_foo", []),
        (f"{PACKAGES}/PIL/Image.py", "", []),
    ],
)  # fmt: skip
def test_the_module_is_one_that_the_innermost_function_likely_has_called(
    file: str, modules: str, likely: list[str]
) -> None:
    site = crash_site(dump((file, "load"), ("/srv/shop/views.py", "view"), modules=modules))
    assert site is not None
    short = "/".join(file.rsplit("/", 2)[-2:])
    assert site.frames == [f"load ({short}:7)", "view (shop/views.py:7)"]
    assert site.likely == likely
    others = {name for name in modules.split(", ") if name} - {"penstock._native"}
    assert set(site.modules) == others | set(likely)


def test_a_thread_without_python_code_has_no_functions() -> None:
    assert crash_site(dump(modules="_foo, _bar")) == CrashSite([], [], ["_foo", "_bar"])


@pytest.mark.parametrize(
    "written",
    [
        b"",
        # As it is where the supervisor has asked for the stacks.
        dump(("/srv/a.py", "f")).partition(b"\n\n")[2],
    ],
)
def test_what_is_of_no_signal_has_no_place(written: bytes) -> None:
    assert crash_site(written) is None


@pytest.mark.parametrize(
    "written",
    [
        b"Fatal Python error: \xff",
        b"Fatal Python error: x\nCurrent thread ",
        b'Fatal Python error: x\nCurrent thread \n  File "a", line x in y\nExtension modules: ',
        b"Fatal Python error: x\nExtension modules:  (total: 0",
    ],
)
def test_what_is_cut_off_or_nonsense_has_what_can_be_read(written: bytes) -> None:
    assert crash_site(written) == CrashSite([], [], [])


def test_whatever_a_process_writes_little_is_kept_of_it() -> None:
    long = "x" * 50_000
    site = crash_site(dump((f"/{long}", long), modules=", ".join([long] * 5 + ["a"] * 50)))
    assert site is not None
    assert len(site.modules) == MOST_MODULES
    assert all(len(name) <= MOST_OF_NAME for name in site.modules)
    site = crash_site(dump((f"/{'x' * 1000}", "y" * 1000), *[("/a", "b")] * 100))
    assert site is not None
    assert len(site.frames) == 3
    assert len(site.frames[0]) < 3 * MOST_OF_NAME


def test_nonsense_is_read_in_a_moment() -> None:
    nonsense = b'Fatal Python error: x\nCurrent thread x\n  File "' + b'", line 1' * 30_000
    for each in (nonsense, b"Fatal Python error: \n" * 12_000, b"\nExtension modules: " * 12_000):
        crash_site(b"Fatal Python error: " + each)
