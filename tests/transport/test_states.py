"""The states of a connection: the table, its page, and that connections keep to it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock.config.checks import native_built, native_has_tls
from penstock.transport.python.connection import Connection
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.states import (
    RESPONSE_TRANSITIONS,
    TRANSITIONS,
    Phase,
    ResponseState,
    diagram,
)
from support.batches import SENTINELS
from support.buffers import BufferClient, BufferServer
from support.serving import TEXT, Environ, eventually, get, post

ROOT = Path(__file__).parents[2]
RUST = ROOT / "native/reactor/src/states.rs"
# Native code answers health checks without a thread, and gives up a request that it cannot make
# an exchange of, so that it has two transitions more.
ONLY_NATIVE = {("READING", "FLUSHING"), ("HANDED_OUT", "READING")}

EVERY_TRANSITION = {(phase, after) for phase in Phase for after in TRANSITIONS[phase]}


def test_the_page_of_the_states_is_up_to_date() -> None:
    page = (ROOT / "docs/connection-states.md").read_text("utf-8")
    assert page == diagram(), "run make docs"


def test_both_languages_have_the_same_tables() -> None:
    found = table_of_rust("TRANSITIONS")
    wanted = {(phase.name, after.name) for phase, after in EVERY_TRANSITION}
    if not (native_built() and native_has_tls()):
        wanted = {each for each in wanted if "HANDSHAKING" not in each}
    assert found - ONLY_NATIVE == wanted
    assert found >= ONLY_NATIVE
    responses = {
        (state.name, after.name) for state in ResponseState for after in RESPONSE_TRANSITIONS[state]
    }
    assert table_of_rust("RESPONSE_TRANSITIONS") == responses


def table_of_rust(name: str) -> set[tuple[str, str]]:
    """Return the transitions of a table in Rust, by the names that Python has for them."""
    table = re.search(rf"const {name}:.*?= \[(.*?)\n\];", RUST.read_text("utf-8"), re.S)
    assert table is not None
    return {
        (constant(before), constant(after))
        for before, following in re.findall(r"\(\s*(\w+),\s*&\[(.*?)\],?\s*\)", table[1], re.S)
        for after in re.findall(r"\w+", following)
    }


def constant(name: str) -> str:
    """Return ``HandedOut`` as ``HANDED_OUT``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


class Watched(Connection):
    """A connection that checks each transition, and keeps its path."""

    __slots__ = ("path",)

    @property
    def phase(self) -> Phase:
        return self.path[-1]

    @phase.setter
    def phase(self, after: Phase) -> None:
        if not hasattr(self, "path"):
            self.path: list[Phase] = [after]
            return
        assert after in TRANSITIONS[self.phase], f"{self.phase.name} to {after.name}"
        self.path.append(after)


def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer without a look at the request's body."""
    start_response("200 OK", TEXT)
    if environ["PATH_INFO"] == "/fails":
        return failing()
    return [b"small"]


def failing() -> Iterator[bytes]:
    yield b"begun"
    raise LookupError("on purpose")


BODY = b"0123456789"
UNREAD = post(BODY)[:-5]
LONG = post(BODY).replace(b"POST /", b"OPTIONS *")  # answered by the server, once it is there
LAST = ("Connection: close",)


@dataclass
class Scene:
    """One connection whose client may take no data for a while."""

    client: BufferClient

    def send(self, data: bytes, *, stalled: bool = False) -> None:
        self.client.stream.room = 0 if stalled else None
        self.client.send(data)

    def take(self) -> None:
        self.client.stream.room = None
        self.client.server.serve()

    def send_part(self, *, stalled: bool = False) -> None:
        """Send a request of which the kernel counts more as arrived than it gives."""
        self.client.stream.arrived = lambda: len(BODY)  # type: ignore[method-assign]
        self.send(UNREAD, stalled=stalled)

    def end(self) -> None:
        self.client.end_sending()

    def expire(self) -> None:
        self.client.connection.expire()


def idle_and_gone(scene: Scene) -> None:
    scene.end()


def idle_for_too_long(scene: Scene) -> None:
    scene.expire()


def kept(scene: Scene) -> None:
    scene.send(get())


def closed(scene: Scene) -> None:
    scene.send(get("/", *LAST) + b"more")
    scene.end()


def closed_at_once(scene: Scene) -> None:
    scene.client.connection.unwatched = True  # as one whose request came with the connection
    scene.send(get("/", *LAST))


def flushed_and_kept(scene: Scene) -> None:
    scene.send(get(), stalled=True)
    scene.take()


def flushed_and_closed(scene: Scene) -> None:
    scene.send(get("/", *LAST), stalled=True)
    scene.take()


def flushed_and_discarded(scene: Scene) -> None:
    scene.send_part(stalled=True)
    scene.take()


def stalled(scene: Scene) -> None:
    scene.send(get(), stalled=True)
    scene.expire()


def stored(scene: Scene) -> None:
    scene.send(LONG)


def stored_too_slowly(scene: Scene) -> None:
    scene.client.server.stop_disk()
    scene.send(LONG)
    scene.expire()


def evicted_while_it_stores(scene: Scene) -> None:
    scene.client.server.stop_disk()
    scene.send(LONG)
    scene.client.connection.evict("max_connections")


def discarded(scene: Scene) -> None:
    scene.send_part()
    scene.send(BODY[-5:])


def discarded_and_ended(scene: Scene) -> None:
    scene.send_part()
    scene.end()


def discarded_too_slowly(scene: Scene) -> None:
    scene.send_part()
    scene.expire()


def refused(scene: Scene) -> None:
    scene.send(b"nonsense\r\n\r\n")


def refused_and_stalled(scene: Scene) -> None:
    scene.send(b"nonsense\r\n\r\n", stalled=True)
    scene.expire()


def failed(scene: Scene) -> None:
    scene.send(get("/fails", version="HTTP/1.0"))


SCENES: dict[Callable[[Scene], None], str] = {
    idle_and_gone: "READING CLOSED",
    idle_for_too_long: "READING LINGERING",
    kept: "READING HANDED_OUT ANSWERED READING",
    closed: "READING HANDED_OUT ANSWERED LINGERING CLOSED",
    closed_at_once: "READING HANDED_OUT ANSWERED CLOSED",
    flushed_and_kept: "READING HANDED_OUT ANSWERED FLUSHING READING",
    flushed_and_closed: "READING HANDED_OUT ANSWERED FLUSHING LINGERING",
    flushed_and_discarded: "READING HANDED_OUT ANSWERED FLUSHING DISCARDING",
    stalled: "READING HANDED_OUT ANSWERED FLUSHING CLOSED",
    stored: "READING STORING READING HANDED_OUT ANSWERED READING",
    stored_too_slowly: "READING STORING REFUSING LINGERING",
    evicted_while_it_stores: "READING STORING CLOSED",
    discarded: "READING HANDED_OUT ANSWERED DISCARDING READING",
    discarded_and_ended: "READING HANDED_OUT ANSWERED DISCARDING LINGERING CLOSED",
    discarded_too_slowly: "READING HANDED_OUT ANSWERED DISCARDING CLOSED",
    refused: "READING REFUSING LINGERING",
    refused_and_stalled: "READING REFUSING CLOSED",
    failed: "READING HANDED_OUT ANSWERED CLOSED",
}


@pytest.fixture
def server() -> Iterator[BufferServer]:
    made = BufferServer(application, Watched, stream_requests=True, body_memory=len(BODY) - 1)
    yield made
    made.close()


@pytest.mark.parametrize("act", SCENES)
def test_a_connection_goes_through_the_states(
    server: BufferServer, act: Callable[[Scene], None]
) -> None:
    client = server.connect()
    assert isinstance(client.connection, Watched)
    act(Scene(client))
    assert " ".join(phase.name for phase in client.connection.path) == SCENES[act]


def test_the_scenes_go_over_every_transition() -> None:
    seen = set()
    for path in SCENES.values():
        phases = [Phase[name] for name in path.split()]
        seen |= set(pairwise(phases))
    # A handshake and a PROXY header need a socket: test_tls.py and test_proxy_protocol.py have what
    # follows them.
    first = {Phase.HANDSHAKING, Phase.AWAITING_PROXY}
    assert seen == {each for each in EVERY_TRANSITION if each[0] not in first}


def test_requests_of_the_corpus_keep_to_the_table(server: BufferServer) -> None:
    for cases in SENTINELS.values():
        for case in cases:
            with server.connect() as client:
                client.send(case.raw)


class WatchedExchange(PythonExchange):
    """An exchange that checks each transition of its response, and keeps its path."""

    __slots__ = ("path",)

    @property
    def state(self) -> ResponseState:
        return self.path[-1]

    @state.setter
    def state(self, after: ResponseState) -> None:
        if not hasattr(self, "path"):
            self.path: list[ResponseState] = [after]
            return
        assert after in RESPONSE_TRANSITIONS[self.state], f"{self.state.name} to {after.name}"
        self.path.append(after)


def nothing(_exchange: PythonExchange) -> None:
    pass


def ended_before(exchange: PythonExchange) -> None:
    exchange.abort()


def late(exchange: PythonExchange) -> None:
    assert exchange.time_out("late")
    assert not exchange.time_out("late again")


def relayed(exchange: PythonExchange) -> None:
    exchange.take_stream()
    exchange.end_relay("101 Switching Protocols", [], (0, 0), "", reset=False, aborted=False)


def relayed_until_cut(exchange: PythonExchange) -> None:
    exchange.take_stream()
    exchange.end_relay("101 Switching Protocols", [], (0, 0), "stopped", reset=True, aborted=True)


RESPONSES: dict[tuple[Callable[[PythonExchange], None], ...], str] = {
    (nothing, nothing): "WAITING SENDING ENDED",
    (ended_before, nothing): "WAITING ENDED",
    (late, nothing): "WAITING ABORTED",
    (nothing, ended_before): "WAITING SENDING ENDED",
    (nothing, late): "WAITING SENDING ABORTED",
    (relayed, nothing): "WAITING RELAYING ENDED",
    (relayed_until_cut, nothing): "WAITING RELAYING ABORTED",
}
"""What is done to an exchange before and after its head is sent, and the path of its response."""


@pytest.mark.parametrize("acts", RESPONSES)
def test_a_response_goes_through_the_states(
    acts: tuple[Callable[[PythonExchange], None], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.transport.python.connection.PythonExchange", WatchedExchange)
    seen: list[WatchedExchange] = []

    def acting(environ: Environ, start_response: Any) -> Iterator[bytes]:
        exchange = client.connection.exchange
        assert isinstance(exchange, WatchedExchange)
        seen.append(exchange)
        acts[0](exchange)
        start_response("200 OK", TEXT)
        yield b"begun"
        acts[1](exchange)
        yield b"and more"

    server = BufferServer(acting, Connection)
    try:
        client = server.connect()
        client.send(get())
        (exchange,) = seen
        assert " ".join(state.name for state in exchange.path) == RESPONSES[acts]
        client.close()
    finally:
        server.close()


@pytest.mark.parametrize("ends", ["at its deadline", "by another thread of the application"])
def test_an_interim_response_is_never_sent_behind_the_final_one(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110, section 15.2: the final response follows, and ends them."""

    class Interrupted(PythonExchange):
        __slots__ = ("ending",)

        def transmit(self, data: bytes) -> None:
            if b" 103 " in data:  # it was looked at whether this may be sent still
                self.ending = threading.Thread(target=end, args=[self])
                self.ending.start()
                waiting = ResponseState.WAITING
                # Until the other thread has answered, or waits for this one.
                eventually(lambda: not self.ending.is_alive() or self.state is not waiting)
                if getattr(self, "interim", None) is None:
                    self.ending.join()
            super().transmit(data)

    def end(exchange: PythonExchange) -> None:
        if ends == "at its deadline":
            assert exchange.time_out("late")
        else:
            exchange.respond("200 OK", [*TEXT], 0)
            exchange.finish()

    def hinting(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</style.css>")])
        client.connection.exchange.ending.join()  # type: ignore[union-attr]
        raise OSError("the response is another's")

    monkeypatch.setattr("penstock.transport.python.connection.PythonExchange", Interrupted)
    server = BufferServer(hinting, Connection)
    try:
        client = server.connect()
        client.send(get())
        statuses = re.findall(rb"HTTP/1.1 (\d+)", bytes(client.stream.outgoing))
        assert statuses == [b"103", b"504" if ends == "at its deadline" else b"200"]
        client.close()
    finally:
        server.close()


def test_the_responses_go_over_every_transition() -> None:
    seen = set()
    for path in RESPONSES.values():
        seen |= set(pairwise(ResponseState[name] for name in path.split()))
    assert seen == {
        (state, after) for state in ResponseState for after in RESPONSE_TRANSITIONS[state]
    }
