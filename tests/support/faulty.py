"""An application that does to its server what applications do, on demand of the path.

``support.faulty:app``, in a process of its own: some of this would end the tests' own. What it
remembers is in the answer to ``/tell``, so that a test can ask how the other requests ended.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import locale
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

Environ = dict[str, Any]
Answer = bytes | Iterable[bytes]

HOLD_AT_MOST = 90.0
"""Seconds that anything here waits for: a test that failed must not leave a process behind."""

BLOCK = bytes(64 * 1024)

state: dict[str, Any] = {"closed": 0, "begun": 0, "bodies": [], "seen": [], "errors": []}
released = threading.Event()
children: list[int] = []


class Endless:
    """A body without end, which notes when it is closed."""

    def __init__(self, block: bytes, count: int = sys.maxsize) -> None:
        self.block = block
        self.left = count

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return self.block

    def close(self) -> None:
        state["closed"] += 1


def hello(environ: Environ) -> Answer:
    return b"hello"


def tell(environ: Environ) -> Answer:
    return json.dumps(state).encode()


def echo(environ: Environ) -> Answer:
    data: bytes = environ["wsgi.input"].read()
    state["bodies"].append(len(data))
    return data


def length(environ: Environ) -> Answer:
    """Read in small steps, so that memory shows what the server holds and not this."""
    total = 0
    while block := environ["wsgi.input"].read(65536):
        total += len(block)
    return str(total).encode()


def read_guarded(environ: Environ) -> Answer:
    """Read the body, note what that raises, and answer all the same."""
    try:
        environ["wsgi.input"].read()
    except OSError as error:
        state["errors"].append(type(error).__name__)
        return b"guarded"
    return b"complete"


def reject(environ: Environ) -> Answer:
    environ["status"] = "403 Forbidden"
    return b"no"


def see(environ: Environ) -> Answer:
    state["seen"].append(environ["QUERY_STRING"])
    return str(environ["QUERY_STRING"]).encode()


def stream(environ: Environ) -> Answer:
    return Endless(BLOCK)


def gigabyte(environ: Environ) -> Answer:
    return Endless(BLOCK, 16384)


def pattern(environ: Environ) -> Answer:
    """Return a body, in blocks of 64 KiB, each part of which has its own content."""
    count = int(environ["QUERY_STRING"])

    def blocks() -> Iterator[bytes]:
        for start in range(0, count, 8192):
            yield b"".join([b"%07d\n" % n for n in range(start, min(start + 8192, count))])

    return blocks()


def hold(environ: Environ) -> Answer:
    state["begun"] += 1
    released.wait(HOLD_AT_MOST)
    return b"held"


def hold_until_file(environ: Environ) -> Answer:
    """Hold on until a file is there: for a server whose only thread this is."""
    end = time.monotonic() + HOLD_AT_MOST
    while not os.path.exists(environ["QUERY_STRING"]) and time.monotonic() < end:
        released.wait(0.01)
    return b"held"


def release(environ: Environ) -> Answer:
    released.set()
    return b"released"


def spin(environ: Environ) -> Answer:
    state["begun"] += 1
    end = time.monotonic() + HOLD_AT_MOST
    while not released.is_set() and time.monotonic() < end:
        pass
    return b"spun"


def deadlock(environ: Environ) -> Answer:
    state["begun"] += 1
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=HOLD_AT_MOST)
    return b"never"


def wait_for_client(environ: Environ) -> Answer:
    """Yield nothing, again and again, like a view that waits for news."""

    def blocks() -> Iterator[bytes]:
        try:
            yield b"first"
            end = time.monotonic() + HOLD_AT_MOST
            while time.monotonic() < end:
                released.wait(0.02)
                yield b""
        finally:
            state["closed"] += 1

    return blocks()


def raise_at_call(environ: Environ) -> Answer:
    raise LookupError("at the call")


def raise_in_first_block(environ: Environ) -> Answer:
    def blocks() -> Iterator[bytes]:
        raise LookupError("in the first block")
        yield b""

    return blocks()


def raise_after_a_block(environ: Environ) -> Answer:
    def blocks() -> Iterator[bytes]:
        yield b"begun"
        raise LookupError("after a block")

    return blocks()


def return_none(environ: Environ) -> Answer:
    return None  # type: ignore[return-value]


def return_text(environ: Environ) -> Answer:
    return ["text"]  # type: ignore[list-item]


def set_an_invalid_header(environ: Environ) -> Answer:
    environ["headers"] = [("X-Injected", "a\r\nSet-Cookie: b")]
    return b"hello"


def give_too_little(environ: Environ) -> Answer:
    environ["headers"] = [("Content-Length", "10")]
    return b"hello"


def give_too_much(environ: Environ) -> Answer:
    environ["headers"] = [("Content-Length", "3")]
    return b"hello"


class FailingClose:
    def __iter__(self) -> Iterator[bytes]:
        yield b"whole"

    def close(self) -> None:
        raise LookupError("in close")


def raise_in_close(environ: Environ) -> Answer:
    return FailingClose()


def exit_python(environ: Environ) -> Answer:
    sys.exit(3)


def exit_at_once(environ: Environ) -> Answer:
    os._exit(7)


def kill_itself(environ: Environ) -> Answer:
    os.kill(os.getpid(), getattr(signal, environ["QUERY_STRING"]))
    released.wait(HOLD_AT_MOST)
    return b"survived"


def segfault(environ: Environ) -> Answer:
    ctypes.string_at(0)
    return b"survived"


def recurse(environ: Environ) -> Answer:
    return recurse(environ)


def run_out_of_memory(environ: Environ) -> Answer:
    return b"x" * (1 << 62)


def raise_memory_error_while_iterating(environ: Environ) -> Answer:
    def blocks() -> Iterator[bytes]:
        yield b"begun"
        raise MemoryError

    return blocks()


def start_child(environ: Environ) -> Answer:
    """Start another program that outlives this request; return the sockets that it got."""
    child = subprocess.Popen(["sleep", "30"], close_fds=False)
    children.append(child.pid)
    return "\n".join(sockets_of(child.pid)).encode()


def sockets_of(pid: int) -> list[str]:
    """Return the sockets that a process has open."""
    folder = f"/proc/{pid}/fd"
    links = []
    for name in os.listdir(folder):
        try:
            links.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:
            pass
    return [link for link in links if link.startswith("socket:")]


def die_with_parent() -> None:
    """Have the kernel kill this child when its parent ends, also where the test fails."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def fork_and_stay(environ: Environ) -> Answer:
    """Fork without executing anything, as multiprocessing does; the child waits to be killed."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pause()
        os._exit(0)
    children.append(child)
    return str(child).encode()


def fork_and_exit(environ: Environ) -> Answer:
    """Fork, and leave the child as a script would: its SystemExit runs into the server."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        sys.exit(5)
    end = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        released.wait(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return b"it stayed"
    return str(os.waitstatus_to_exitcode(ended[1])).encode()


def wait_in_child() -> None:
    die_with_parent()
    threading.Event().wait(HOLD_AT_MOST)


def use_multiprocessing(environ: Environ) -> Answer:
    """Start a worker process and terminate it, which works by SIGTERM."""
    process = multiprocessing.get_context("fork").Process(target=wait_in_child)
    process.start()
    process.terminate()
    process.join(5)
    if process.exitcode is None:
        process.kill()
        process.join()
    return str(process.exitcode).encode()


def end_children(environ: Environ) -> Answer:
    while children:
        child = children.pop()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return b"ended"


def change_directory(environ: Environ) -> Answer:
    os.chdir("/")
    return os.getcwd().encode()


def change_umask(environ: Environ) -> Answer:
    os.umask(0o777)
    return b"done"


def change_locale(environ: Environ) -> Answer:
    for name in ("de_DE.UTF-8", "C.UTF-8", "C"):
        try:
            return locale.setlocale(locale.LC_ALL, name).encode()
        except locale.Error:
            pass
    return b"none"


def set_default_timeout(environ: Environ) -> Answer:
    socket.setdefaulttimeout(0.001)
    return b"done"


def close_standard_streams(environ: Environ) -> Answer:
    for descriptor in range(3):
        os.close(descriptor)
    return b"done"


def print_to_closed_stdout(environ: Environ) -> Answer:
    sys.stdout.close()
    print("this is lost")
    return b"printed"


def start_thread(environ: Environ) -> Answer:
    threading.Thread(target=threading.Event().wait, args=(HOLD_AT_MOST,)).start()
    return b"started"


def hang_at_exit(environ: Environ) -> Answer:
    atexit.register(threading.Event().wait, HOLD_AT_MOST)
    return b"registered"


def jump_a_year(environ: Environ) -> Answer:
    """Move the wall clock as Python sees it, and not the monotonic one."""
    real, jump = time.time, float(environ["QUERY_STRING"]) * 365 * 86400
    time.time = lambda: real() + jump
    return b"jumped"


def send_file(environ: Environ) -> Answer:
    wrapper: Callable[[Any], Iterable[bytes]] = environ["wsgi.file_wrapper"]
    return wrapper(open(environ["QUERY_STRING"], "rb"))


def complain(environ: Environ) -> Answer:
    environ["wsgi.errors"].write("complaint " + environ["QUERY_STRING"] + "\n")
    return b"complained"


PATHS: dict[str, Callable[[Environ], Answer]] = {
    "/" + function.__name__.replace("_", "-"): function
    for function in [
        *(hello, tell, echo, length, read_guarded, reject, see, stream, gigabyte, pattern),
        *(hold, hold_until_file, release, spin, deadlock, wait_for_client),
        *(return_none, return_text, set_an_invalid_header, give_too_little, give_too_much),
        *(raise_at_call, raise_in_first_block, raise_after_a_block, raise_in_close),
        *(exit_python, exit_at_once, kill_itself, segfault),
        *(recurse, run_out_of_memory, raise_memory_error_while_iterating),
        *(start_child, fork_and_stay, fork_and_exit, use_multiprocessing, end_children),
        *(change_directory, change_umask, change_locale, set_default_timeout),
        *(close_standard_streams, print_to_closed_stdout, start_thread, hang_at_exit),
        *(jump_a_year, send_file, complain),
    ]
}


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says; what it returns is the body."""
    answer = PATHS[environ["PATH_INFO"]](environ)
    headers = [("Content-Type", "text/plain"), *environ.get("headers", [])]
    start_response(environ.get("status", "200 OK"), headers)
    return [answer] if isinstance(answer, bytes) else answer
