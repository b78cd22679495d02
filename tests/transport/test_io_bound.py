"""``penstock.io_bound``: a call that will wait leaves the count of threads, and nothing is lost.

What counts is measured from outside: how many calls the application has at once while more wait.
"""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from penstock.telemetry.scoreboard import (
    ACCEPTING,
    IO_BOUND_CALLS,
    IO_BOUND_REFUSED,
    STARTED,
    WAITING,
)
from support.fake_exchange import Records
from support.serving import TEXT, Environ, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import DEADLINE, Client

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

    from penstock.transport import Transport

End = Callable[[Environ, "StartResponse"], Iterable[bytes]]


class Failing:
    """A response whose ``close()`` raises."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a", b"b"])

    def close(self) -> None:
        raise ValueError("close() failed")


def respond(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"answer"]


def fail(_environ: Environ, _start_response: StartResponse) -> Iterable[bytes]:
    raise ValueError("the view failed")


def leave(_environ: Environ, _start_response: StartResponse) -> Iterable[bytes]:
    raise SystemExit("the view ends the thread")


def fail_to_close(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Failing()


def break_off(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    def blocks() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the upstream has gone")

    start_response("200 OK", TEXT)
    return blocks()


ENDS: dict[str, End] = {
    "respond": respond,
    "fail": fail,
    "leave": leave,
    "fail_to_close": fail_to_close,
    "break_off": break_off,
}

STATUSES = {"fail": 500, "leave": 500}


class Polls:
    """An application whose requests wait until the test releases them.

    ``/poll/END`` leaves the count first, and ends as the name says; any other path counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[str, threading.Event] = {}
        self.inside: list[str] = []
        self.counting = 0
        self.most = 0
        """The most calls at once that had not left the count."""
        self.answers: dict[str, list[bool]] = {}
        """What ``penstock.io_bound`` returned to each target."""

    def release(self, *targets: str) -> None:
        """Let the requests with these targets continue, now or later."""
        for target in targets:
            self._gate(target).set()

    def _gate(self, target: str) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(target, threading.Event())

    def release_all(self) -> None:
        """Let all requests continue, also where the test has failed."""
        with self._lock:
            for gate in self._gates.values():
                gate.set()

    def _count(self, change: int) -> None:
        with self._lock:
            self.counting += change
            self.most = max(self.most, self.counting)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        target = environ["RAW_URI"]
        gate = self._gate(target)
        self._count(1)
        counts = True
        try:
            if target.startswith("/poll"):
                # Not counted while it asks: the next call may begin before the answer is here.
                self._count(-1)
                counts = not environ["penstock.io_bound"]()
                self._count(counts)
                self.answers.setdefault(target, []).append(not counts)
            with self._lock:
                self.inside.append(target)
            assert gate.wait(DEADLINE)
        finally:
            with self._lock:
                self.inside.remove(target)
            self._count(-counts)
        return ENDS.get(environ["PATH_INFO"].rpartition("/")[2], respond)(environ, start_response)


class Ask:
    """Clients of one server, each with one request; they are closed at the end."""

    def __init__(self, server: BareServer, polls: Polls) -> None:
        self._server = server
        self._polls = polls
        self._stack = ExitStack()
        self._measured = 0

    def __enter__(self) -> Ask:
        return self

    def __exit__(self, *exception: object) -> None:
        self._polls.release_all()
        self._stack.close()

    def begin(self, target: str) -> Client:
        """Send a request."""
        client = self._stack.enter_context(connect(self._server))
        client.send(get(target))
        return client

    def begin_inside(self, target: str) -> Client:
        """Send a request, and wait until its call waits."""
        client = self.begin(target)
        eventually(lambda: target in self._polls.inside)
        return client

    def measure(self, threads: int) -> None:
        """Check that ``threads`` calls run at once beside those that have left the count."""
        self._measured += 1
        targets = [f"/count/{self._measured}/{number}" for number in range(threads + 2)]
        clients = [self.begin(target) for target in targets]
        eventually(lambda: self._server.word(WAITING) == 2)
        # Those that wait are queued: a thread that were free had taken them before.
        eventually(lambda: sum(target in self._polls.inside for target in targets) == threads)
        assert self._polls.counting == threads
        self._polls.release(*targets)
        for client in clients:
            assert client.read_response().status == 200


def test_a_fifth_request_is_answered_at_once_while_four_wait_that_left_the_count(
    transport: str,
) -> None:
    polls = Polls()
    polls.release("/fifth")
    targets = [f"/poll?{number}" for number in range(4)]
    with (
        serving(polls, transport, threads=4, max_io_bound=4) as server,
        Ask(server, polls) as ask,
    ):
        waiting = [ask.begin_inside(target) for target in targets]
        assert ask.begin("/fifth").read_response().status == 200
        assert server.word(IO_BOUND_CALLS) == 4
        eventually(lambda: server.slot.calls_of_count() == 0)
        assert [request.io_bound for request in server.slot.requests()] == [True] * 4
        assert server.word(ACCEPTING) == 1
        assert len(server.threads) == 8
        ask.measure(4)
        polls.release(*targets)
        for client in waiting:
            assert client.read_response().body == b"answer"
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        ask.measure(4)
        assert server.word(IO_BOUND_REFUSED) == 0
        assert len(server.threads) == 8
    assert polls.most == 4


def test_with_max_io_bound_calls_out_of_the_count_the_next_one_stays_and_counts(
    transport: str,
) -> None:
    polls = Polls()
    with (
        serving(polls, transport, threads=2, max_io_bound=2) as server,
        Ask(server, polls) as ask,
    ):
        for target in ("/poll?1", "/poll?2", "/poll?refused"):
            ask.begin_inside(target)
        assert polls.answers == {"/poll?1": [True], "/poll?2": [True], "/poll?refused": [False]}
        assert server.word(IO_BOUND_REFUSED) == 1
        ask.begin_inside("/last")  # takes the second thread
        fifth = ask.begin("/fifth")
        eventually(lambda: server.word(WAITING) == 1)
        eventually(lambda: server.word(ACCEPTING) == 0)
        polls.release("/poll?1")  # one that does not count makes no room
        eventually(lambda: server.word(IO_BOUND_CALLS) == 1)
        assert server.word(WAITING) == 1
        assert "/fifth" not in polls.inside
        polls.release("/poll?refused", "/fifth")
        assert fifth.read_response().status == 200
        polls.release("/poll?2", "/last")
        eventually(lambda: not polls.inside)
        ask.measure(2)
    assert polls.most == 2


def test_a_worker_without_a_free_thread_accepts_again_once_a_call_leaves_the_count(
    transport: str,
) -> None:
    polls = Polls()
    asks = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["RAW_URI"] != "/poll":
            return polls(environ, start_response)
        assert asks.wait(DEADLINE)
        return polls(environ, start_response)

    with (
        serving(application, transport, threads=2, max_io_bound=1) as server,
        Ask(server, polls) as ask,
    ):
        ask.begin("/poll")
        ask.begin_inside("/other")
        eventually(lambda: server.word(ACCEPTING) == 0)
        asks.set()
        # Before the other call gives up.
        eventually(lambda: server.word(ACCEPTING) == 1, DEADLINE / 2)
        polls.release("/third")
        assert ask.begin("/third").read_response().status == 200
        assert server.word(IO_BOUND_CALLS) == 1


def test_the_count_is_exact_after_each_way_to_end(transport: str) -> None:
    polls = Polls()
    with (
        serving(polls, transport, threads=2, max_io_bound=2) as server,
        Ask(server, polls) as ask,
    ):
        for name in ENDS:
            target = f"/poll/{name}"
            client = ask.begin_inside(target)
            ask.measure(2)
            polls.release(target)
            if name == "break_off":
                assert client.read_to_end().startswith(b"HTTP/1.1 200 ")
            else:
                assert client.read_response().status == STATUSES.get(name, 200)
            eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
            ask.measure(2)
        assert len(server.threads) == 3  # one thread more is enough for one after the other
    assert polls.most == 2


def test_the_count_is_exact_where_the_client_leaves_or_the_server_ends_the_request(
    transport: str,
) -> None:
    polls = Polls()
    gone: list[bool] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = polls(environ, start_response)
        if environ["QUERY_STRING"] == "reset":
            eventually(environ["penstock.client_gone"])
            gone.append(True)
        return answer

    def number() -> int:
        [request] = [it for it in server.slot.requests() if it.io_bound]
        return request.number

    with (
        serving(application, transport, threads=2, max_io_bound=1) as server,
        Ask(server, polls) as ask,
    ):
        ask.begin_inside("/poll?reset").reset()
        ask.measure(2)
        polls.release("/poll?reset")
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        assert gone == [True]
        ask.measure(2)

        # The deadline: the client has its answer, the thread is still in the call, and its call
        # is out of the count until it returns.
        late = ask.begin_inside("/poll?late")
        assert server.transport.expire(number(), "late")
        assert b" 504 " in late.read_to_end()[:20]
        assert server.word(IO_BOUND_CALLS) == 1
        ask.measure(2)
        ask.begin_inside("/poll?other")
        assert polls.answers["/poll?other"] == [False]
        polls.release("/poll?other", "/poll?late")
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        ask.measure(2)

        # All are ended, as at the end of a stop.
        last = ask.begin_inside("/poll?last")
        assert server.transport.abort_all("stopped") == 1
        assert b" 504 " in last.read_to_end()[:20]
        polls.release("/poll?last")
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        ask.measure(2)
    assert polls.most == 2


def test_the_call_is_asked_for_by_its_thread_as_often_as_it_likes(transport: str) -> None:
    """It changes nothing a second time, and no other thread can take a call out of the count."""
    answers: list[bool] = []
    kept: list[Callable[[], bool]] = []
    gate = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        io_bound = environ["penstock.io_bound"]
        kept.append(io_bound)
        other = threading.Thread(target=lambda: answers.append(io_bound()))
        other.start()
        other.join()

        def blocks() -> Iterator[bytes]:
            yield b"a"
            answers.extend([io_bound(), io_bound()])
            assert gate.wait(DEADLINE)
            answers.append(io_bound())

        start_response("200 OK", TEXT)
        return blocks()

    with serving(application, transport, threads=2, max_io_bound=2) as server:
        with connect(server) as client:
            client.send(get("/"))
            eventually(lambda: server.word(IO_BOUND_CALLS) == 1)
            gate.set()
            assert client.read_response().body == b"a"
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        assert answers == [False, True, True, True]
        assert kept[0]() is False  # this thread has no request
        left = weakref.ref(server.transport)
        assert server.word(STARTED) == 1
        server.transport = None  # type: ignore[assignment]
    assert kept[0]() is False

    def is_gone() -> bool:
        gc.collect()
        return left() is None

    eventually(is_gone)  # what the application keeps does not keep the transport
    assert kept[0]() is False


def test_a_body_that_is_read_while_it_comes_is_read_out_of_the_count(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert environ["penstock.io_bound"]()
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [body]

    with serving(application, transport, threads=2, max_io_bound=3, stream_requests=True) as server:
        clients = [connect(server) for _ in range(3)]
        for client in clients:
            client.send(post(b"", length=5))
        eventually(lambda: server.word(IO_BOUND_CALLS) == 3)
        for client in clients:
            client.send(b"hello")
            assert client.read_response().body == b"hello"
            client.close()


def test_with_one_thread_the_call_stays_and_the_worker_warns_once(transport: str) -> None:
    answers: list[bool] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answers.append(environ["penstock.io_bound"]())
        return respond(environ, start_response)

    for most, warnings in ((100, 1), (0, 0)):
        log = Records()
        with (
            serving(application, transport, max_io_bound=most, logger=log.logger) as server,
            connect(server) as client,
        ):
            for _ in range(3):
                assert client.request("GET", "/").status == 200
            assert len(server.threads) == 1
        assert len([line for line in log.lines if line.startswith("PEN-6150 ")]) == warnings
        assert not [line for line in log.lines if not line.startswith("PEN-6150 ")]
    assert answers == [False] * 6


def test_a_call_stays_in_the_count_where_no_thread_can_be_started(transport: str) -> None:
    polls = Polls()
    started: list[bool] = []

    def add_thread() -> bool:
        started.append(False)
        if len(started) == 2:
            raise MemoryError("no thread")
        return False

    with (
        serving(polls, transport, threads=2, max_io_bound=2, add_thread=add_thread) as server,
        Ask(server, polls) as ask,
    ):
        ask.begin_inside("/poll?1")
        assert polls.answers == {"/poll?1": [False]}
        assert ask.begin("/poll?2").read_response().status == 500
        assert server.word(IO_BOUND_REFUSED) == 2
        assert server.word(IO_BOUND_CALLS) == 0
        polls.release("/poll?1")
        eventually(lambda: not polls.inside)
        polls.counting = 0  # the call that failed in between did not count down
        ask.measure(2)


@pytest.mark.parametrize("stop", ["drain", "close"])
def test_a_transport_ends_with_calls_out_of_the_count_and_threads_that_wait_for_a_place(
    transport: str, stop: str
) -> None:
    polls = Polls()
    with (
        serving(polls, transport, threads=2, max_io_bound=3, drain_linger=0.1) as server,
        Ask(server, polls) as ask,
    ):
        clients = {target: ask.begin_inside(target) for target in ("/poll?1", "/poll?2", "/poll?3")}
        polls.release("/poll?1")
        assert clients["/poll?1"].read_response().status == 200
        eventually(lambda: server.word(IO_BOUND_CALLS) == 2)  # and one thread waits
        ending: Transport = server.transport
        if stop == "drain":
            ending.drain()
            polls.release("/poll?2", "/poll?3")
            for target in ("/poll?2", "/poll?3"):
                assert clients[target].read_response().body == b"answer"
        else:
            ending.close()
            polls.release("/poll?2", "/poll?3")
        eventually(server.is_over)


def test_a_transport_that_drains_lets_calls_leave_the_count(transport: str) -> None:
    polls = Polls()
    with (
        serving(polls, transport, threads=2, max_io_bound=2, drain_linger=0.1) as server,
        Ask(server, polls) as ask,
    ):
        targets = [f"/{number}" for number in range(2)]
        before = [ask.begin_inside(target) for target in targets]
        queued = [ask.begin(f"/poll?{number}") for number in range(3)]
        eventually(lambda: server.word(WAITING) == 3)
        server.transport.drain()
        polls.release("/0")
        eventually(lambda: len(polls.answers) == 3)
        assert sorted(answer for [answer] in polls.answers.values()) == [False, True, True]
        polls.release("/1", "/poll?0", "/poll?1", "/poll?2")
        for client in (*before, *queued):
            assert client.read_response().status == 200
        eventually(server.is_over)


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order_at_most_as_many_calls_as_threads_run_that_count(
    transport: str, seed: int
) -> None:
    """Calls that leave, stay and end in every way, begun and released in a random order."""
    choose = random.Random(seed)
    polls = Polls()
    kinds = [f"/poll/{name}" for name in ENDS] + ["/stay", "/stay/fail", "/stay/break_off"]
    running: dict[str, Client] = {}
    with (
        serving(polls, transport, threads=3, max_io_bound=4, queue=100) as server,
        Ask(server, polls) as ask,
    ):
        for step in range(120):
            if not running or (len(running) < 20 and choose.random() < 0.55):
                target = f"{choose.choice(kinds)}?{step}"
                running[target] = ask.begin(target)
                continue
            # One that is inside or waits: those that wait for a thread are released beforehand.
            target = choose.choice(list(running))
            polls.release(target)
            client = running.pop(target)
            if target in polls.inside or choose.random() < 0.2:
                client.reset() if choose.random() < 0.2 else None
            assert server.word(IO_BOUND_CALLS) <= 4
            assert len(server.threads) <= 7
        polls.release(*running)
        eventually(lambda: server.word(WAITING) == 0 and not polls.inside)
        eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
        ask.measure(3)
        eventually(lambda: not list(server.slot.requests()))
        assert len(server.threads) <= 7
    assert polls.most == 3
    assert any(answer for [answer] in polls.answers.values())


def test_it_costs_a_request_nothing(transport: str) -> None:
    """The object is the same for all requests and connections."""
    seen: list[Any] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["penstock.io_bound"])
        return respond(environ, start_response)

    with serving(application, transport, threads=2) as server:
        for _ in range(2):
            with connect(server) as client:
                assert client.request("GET", "/").status == 200
                assert client.request("GET", "/").status == 200
        assert len({id(io_bound) for io_bound in seen}) == 1
        assert len(seen) == 4
        assert seen[0]() is False
