"""The supervisor believes nothing that the ordering process sends: it runs as the workers' user.

It is taken for an attacker here: a socket pair stands in the place of the process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock.config.settings import Settings
from penstock.edge.acme.orders import self_signed
from penstock.edge.tls import OrderedCertificates
from penstock.supervisor.acme import (
    BETWEEN_SECONDS,
    FIRST_PAUSE_SECONDS,
    Acme,
    acme_settings,
)
from penstock.supervisor.loop import Loop
from penstock.worker.channel import Channel

SOON = (BETWEEN_SECONDS + FIRST_PAUSE_SECONDS) / 2
NAMES = ("a.example", "b.example")
PAIRS = {name: self_signed(name) for name in (*NAMES, "c.example")}


class TakenOver:
    """An ordering process that sends what a test wants."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.served: list[OrderedCertificates] = []
        self.logger = logging.getLogger("penstock.taken-over")
        self.loop = Loop(self.logger)
        self.caplog = caplog

        def serve(ordered: OrderedCertificates) -> Callable[[], bool]:
            self.served.append(ordered)
            return lambda: True

        self.acme = Acme(self.loop, self.logger, serve, lambda: None)
        settings = Settings(acme_domain=NAMES, acme_dir="/nowhere", redirect_http=("127.0.0.1:80",))
        # As after its start, without a process.
        self.acme._settings = acme_settings(settings)
        self.acme._channel, self.channel = Channel.pair()
        self.acme._start_at = float("inf")
        self.loop.watch(self.acme._channel.fileno(), self.acme._listen)

    def send(self, message: dict[str, Any]) -> None:
        self.channel.send(message)
        self.loop.turn(1.0)
        # Before a process would be started again.
        self.acme.tick(time.monotonic() + SOON)

    def close(self) -> None:
        self.channel.close()
        self.acme.end_at_once()
        self.loop.close()

    @property
    def refusals(self) -> list[str]:
        return [x.getMessage() for x in self.caplog.records if "PEN-4240" in x.getMessage()]


@pytest.fixture
def taken_over(caplog: pytest.LogCaptureFixture) -> Any:
    made = TakenOver(caplog)
    yield made
    made.close()


def message(**changes: Any) -> dict[str, Any]:
    pairs = [[name, *(part.decode() for part in PAIRS[name])] for name in NAMES]
    return {"event": "serve", "number": 1, "pairs": pairs, "challenges": [], "alpn": []} | changes


def test_what_is_right_is_served(taken_over: TakenOver) -> None:
    taken_over.send(message())
    [ordered] = taken_over.served
    assert [pair.names for pair in ordered.pairs] == [(name,) for name in NAMES]
    assert not taken_over.refusals


def pair(named: str, certificate: str, key: str) -> list[str]:
    return [named, PAIRS[certificate][0].decode(), PAIRS[key][1].decode()]


B = pair("b.example", "b.example", "b.example")
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "the certificate of another site": (
        message(pairs=[pair("a.example", "c.example", "c.example"), B]), "another name",
    ),
    "a key that does not fit": (
        message(pairs=[pair("a.example", "a.example", "c.example"), B]), "does not belong",
    ),
    "no certificate": (message(pairs=[["a.example", "x", "y"], B]), "has no certificate"),
    "a challenge that is a page": (
        message(challenges=[["x" * 30, "x" * 30 + ".<script>"]]), "a malformed challenge",
    ),
    "an alpn challenge that does not fit": (
        message(alpn=[pair("a.example", "c.example", "c.example")]), "another name",
    ),
    "an unknown message": ({"event": "exec", "name": "a.example"}, "an unknown message"),
    "news of another name": ({"event": "issued", "name": "c.example"}, "an unknown name"),
    "a pause that is none": (
        {"event": "failed", "name": "a.example", "reason": "", "pause": "x"}, "a malformed pause",
    ),
    "a message without an event": ({}, "an unknown name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_ends_the_process_and_changes_nothing(
    taken_over: TakenOver, case: str
) -> None:
    sent, reason = WRONG[case]
    taken_over.send(sent)
    assert not taken_over.served
    [refusal] = taken_over.refusals
    assert reason in refusal
    assert taken_over.acme._channel is None


def test_bytes_that_are_no_message_end_the_process(taken_over: TakenOver) -> None:
    taken_over.channel.socket.send(b"GET / HTTP/1.1\n")
    taken_over.loop.turn(1.0)
    assert len(taken_over.refusals) == 1


def test_changes_are_passed_on_at_most_twice_a_second(taken_over: TakenOver) -> None:
    """Each goes to every worker."""
    for number in range(1, 101):
        challenge = [[f"{number:030}", f"{number:030}." + "t" * 43]]
        taken_over.channel.send(message(number=number, challenges=challenge))
    begin = time.monotonic()
    taken_over.acme._changed_at = begin
    while (last := taken_over.acme._received) is None or last.number < 100:
        taken_over.channel.flush()
        taken_over.loop.turn(1.0)
    for step in range(11):
        taken_over.acme.tick(begin + step * BETWEEN_SECONDS / 10)
    assert len(taken_over.served) == 1
    assert taken_over.served[0].challenges[0][0] == f"{100:030}"


def test_it_cannot_hand_over_descriptors(taken_over: TakenOver) -> None:
    before = len(os.listdir("/proc/self/fd"))
    taken_over.channel.send(message(), [0, 1, 2])
    taken_over.loop.turn(1.0)
    taken_over.acme.tick(time.monotonic() + SOON)
    assert len(os.listdir("/proc/self/fd")) == before


def test_texts_reach_the_log_without_control_characters(taken_over: TakenOver) -> None:
    reason = "\x1b[2J\nPEN-1 forged" + "x" * 10_000
    taken_over.send({"event": "failed", "name": "a.example", "reason": reason, "pause": 5})
    [line] = [x.getMessage() for x in taken_over.caplog.records if "PEN-4220" in x.getMessage()]
    assert "\x1b" not in line
    assert "\n" not in line
    assert len(line) < 600
