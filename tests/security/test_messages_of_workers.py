"""What a worker that was taken over can make the supervisor believe: numbers, process ids."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness import processes
from penstock.supervisor.reports import MOST_OF_MESSAGE, is_report, shortened
from penstock.supervisor.upgrade import VARIABLE
from penstock.system.privileges import Identity
from penstock.system.processes import is_child
from penstock.telemetry.scoreboard import (
    BEAT,
    SLOT_WORDS,
    STARTED,
    STATE,
    WORD,
    Scoreboard,
)
from penstock.worker.channel import BURST, Channel
from support.invariant import eventually
from support.server_process import ROOT, run_penstock
from support.service_user import TakenOver, as_root, public_folder

FIND = """
import os, socket
for name in os.listdir("/proc/self/fd"):
    try:
        found = socket.socket(fileno=os.dup(int(name)))
        found.getpeername()
    except OSError:
        continue
    if found.family == socket.AF_UNIX:
        sock = found
sock.setblocking(True)
"""
"""Finds the channel: the only unix socket of a worker that is connected."""


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_worker_may_send_a_bounded_number_of_messages(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    sent = taken = 0
    while not ours.ended and sent < 3 * BURST:
        for _ in range(100):
            theirs.send({"event": "asked to stop", "at_once": False})
            sent += 1
        taken += len(ours.receive())
    assert "messages a second" in ours.broken
    assert BURST <= taken < 2 * BURST


def test_long_messages_count_as_several() -> None:
    one, other = socket.socketpair()
    # Time stands still: what is allowed does not grow while a busy machine moves the bytes.
    ours, theirs = Channel(one, clock=lambda: 0.0), Channel(other, is_workers=True)
    taken = 0
    for _ in range(40):
        theirs.send({"event": "stacks", "text": "x" * (3 << 20)})
        while not theirs.flush():
            taken += len(ours.receive())
        taken += len(ours.receive())
        if ours.ended:
            break
    assert ours.ended
    assert taken < 40
    ours.close()
    theirs.close()


def test_the_supervisor_takes_no_descriptors(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    before = os.listdir("/proc/self/fd")
    data = json.dumps({"event": "ready"}).encode() + b"\n"
    for _ in range(50):
        socket.send_fds(theirs.socket, [data], [0, 0, 0, 0])
    assert len(ours.receive()) == 50
    assert os.listdir("/proc/self/fd") == before


def test_a_worker_gets_descriptors_with_the_message_that_they_belong_to(
    channels: tuple[Channel, Channel],
) -> None:
    ours, theirs = channels
    filler = {"do": "x" * 100_000}
    pipes = [os.pipe() for _ in range(3)]
    for _, end in pipes:
        for _ in range(5):
            ours.send(filler)
        ours.send({"do": "reopen", "logs": ["a"]}, [end])
    got: list[int] = []
    while len(got) < 3:
        ours.flush()
        for message in theirs.receive():
            if message["do"] == "reopen":
                got += theirs.take_descriptors(1)
    for (begin, end), taken in zip(pipes, got, strict=True):
        assert os.fstat(taken).st_ino == os.fstat(begin).st_ino
        assert not os.get_inheritable(taken)
        for descriptor in (begin, end, taken):
            os.close(descriptor)


@pytest.mark.parametrize(
    "message",
    [
        {"event": "hello", "pid": -1},
        {"event": "hello", "pid": 1 << 40},
        {"event": "hello", "pid": True},
        {"event": "stuck", "request": "", "free_threads": 10**400},
        {"event": "failed", "message": "", "traceback": "", "status": 4096, "watched": 0},
    ],
)
def test_numbers_without_sense_are_no_report(message: dict[str, object]) -> None:
    assert not is_report(json.loads(json.dumps(message)))


def test_texts_of_a_failure_are_cut() -> None:
    failure = {"message": "m" * 10**6, "traceback": "t" * 10**6 + "end", "status": 1}
    assert len(shortened(failure)["message"]) == MOST_OF_MESSAGE
    assert shortened(failure)["traceback"].endswith("end")
    assert len(shortened(failure)["traceback"]) < 10**6


def test_a_process_id_is_believed_of_children_alone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert is_child(child.pid, None)
        assert is_child(child.pid, Identity(os.geteuid(), os.getegid(), ()))
        assert not is_child(child.pid, Identity(4242, 4242, ()))
        for other in (1, os.getpid(), os.getppid(), 0, -child.pid, 1 << 62):
            assert not is_child(other, None), other
    finally:
        child.communicate()
    assert not is_child(child.pid, None)


def test_slots_are_given_out_whatever_workers_write_to_them() -> None:
    scoreboard = Scoreboard(3, 1)
    first = scoreboard.take()
    assert first is not None
    first.words[STATE] = 0  # as if it were free
    for slot in scoreboard.slots[1:]:
        slot.words[STATE] = 7  # as if no other were
        slot.words[STARTED] = slot.words[BEAT] = (1 << 64) - 1
        slot.bytes[SLOT_WORDS * WORD :] = b"\xff" * (len(slot.bytes) - SLOT_WORDS * WORD)
        for request in slot.requests():
            assert len(str(request)) < 1000
            assert request.age >= 0
        for past in slot.past_requests():
            assert len(str(past)) < 1000
    second = scoreboard.take()
    assert second is not None
    assert second.index == 1
    assert scoreboard.take() is not None
    assert scoreboard.take() is None


@as_root
def test_a_worker_of_a_preloader_cannot_make_root_signal_another_process() -> None:
    """It sends its own process id: another one would be killed in its place."""
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lie = f"""
import json, os
from penstock.worker.channel import Channel
honest = Channel.send
def send(self, message, descriptors=()):
    if message.get("event") == "hello":
        message = message | {{"pid": {victim.pid}}}
    honest(self, message, descriptors)
if os.path.exists("lie"):
    Channel.send = send
"""
    try:
        with public_folder() as folder:
            module = folder / "shop.py"
            module.write_text(lie + module.read_text())
            with TakenOver(folder, "--preload", "--boot-timeout", "5") as server:
                (folder / "lie").touch()
                server.signal(signal.SIGHUP)
                server.wait_for_line("PEN-7100 not reloaded")
                assert victim.poll() is None
                (folder / "lie").unlink()
                assert server.run("answer = 1") == 1
                assert server.stop() == 0
            assert victim.poll() is None
    finally:
        victim.communicate()


@as_root
def test_a_flood_on_the_channel_replaces_the_worker_and_costs_no_memory() -> None:
    with (
        public_folder() as folder,
        TakenOver(folder, "--workers", "2", "--graceful-timeout", "3") as server,
    ):
        old = server.wait_for_serving(2)
        before = processes.resident_kib(server.supervisor)
        flood = (
            FIND
            + """
import threading
line = b'{"event": "stuck", "request": "", "free_threads": 4}\\n'
def run():
    while True:
        sock.sendall(line * 99)
"""
        )
        flood += "threading.Thread(target=run, daemon=True).start()\nanswer = 1"
        assert server.run(flood) == 1
        server.wait_for_line("PEN-7022")
        assert eventually(lambda: len(server.serving() - old) >= 1)
        assert server.run("answer = 1") == 1
        # The successor is there while the worker that floods is still ended: about 30 MiB.
        assert processes.resident_kib(server.supervisor) < before + (64 << 10)
        assert server.stop() in (0, 1)  # the worker that floods may have to be killed


def test_a_predecessor_has_to_be_the_parent() -> None:
    ours, theirs = socket.socketpair()
    wrong = []
    with ours, theirs:
        known: dict[str, object] = {"listeners": [], "services": {}}
        for case, passed in {
            "no JSON": "{",
            "no object": "[]",
            "nothing open": json.dumps(known | {"pid": os.getpid(), "channel": 999}),
            "another process": json.dumps(known | {"pid": 1, "channel": 0}),
            "no socket": json.dumps(known | {"pid": os.getpid(), "channel": 2}),
            "no number": json.dumps(known | {"pid": "1", "channel": "x"}),
        }.items():
            done = run_penstock("shop:app", cwd=ROOT, environ={VARIABLE: passed})
            if done.returncode != 2 or VARIABLE not in done.stderr or "Trace" in done.stderr:
                wrong.append(f"{case}: {done.returncode} {done.stderr}")
    assert not wrong, "\n".join(wrong)
