"""How many lines of a kind `RequestLog` writes, and what it writes of the others."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from penstock import messages
from penstock.transport.config import TransportConfig
from penstock.transport.log_lines import RequestLog


class Lines(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def take(self) -> list[str]:
        taken, self.texts = self.texts, []
        return taken


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("penstock.tests.requests"), Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(lines: Lines, clock: Clock) -> RequestLog:
    config = TransportConfig(error_log_repeats=2, request_log_seconds=10.0)
    return RequestLog(logging.getLogger("penstock.tests.requests"), config, clock)


def refuse(log: RequestLog, status: int = 400, times: int = 1, **notes: str) -> None:
    for _ in range(times):
        log.refused("127.0.0.1", "GET / HTTP/1.1", "1-2", status, "No.", **notes)  # type: ignore[arg-type]


def test_each_kind_is_counted_for_itself(log: RequestLog, lines: Lines) -> None:
    refuse(log, 400, 3, rule="RFC 1")
    refuse(log, 400, 2, rule="RFC 2")
    refuse(log, 413, 4, setting="max_body")
    log.refused("", "", "1-2", 499, "Gone.", disconnected=True)
    assert len(lines.take()) == 2 + 2 + 2 + 1
    log.close()
    assert lines.take() == [
        "... and 1 more refused with 400 (RFC 1) in 1 s",
        "... and 2 more refused with 413 (setting: max_body) in 1 s",
    ]


def test_an_interval_ends_with_its_count_and_the_next_refusal_begins_another(
    log: RequestLog, lines: Lines, clock: Clock
) -> None:
    refuse(log, times=2 + 3900)
    clock.now += 9.9
    log.report()
    assert len(lines.take()) == 2
    clock.now += 0.1
    log.report()
    assert lines.take() == ["... and 3,900 more refused with 400 in 10 s"]
    log.report()
    refuse(log, times=3)
    assert len(lines.take()) == 2


def test_a_refusal_after_an_interval_that_was_not_reported_follows_its_count(
    log: RequestLog, lines: Lines, clock: Clock
) -> None:
    refuse(log, times=5)
    lines.take()
    clock.now += 25.0  # what calls `report` was held up
    refuse(log)
    count, line = lines.take()
    assert count == "... and 3 more refused with 400 in 25 s"
    assert line.startswith("refused a request from 127.0.0.1: 400 ")


def test_few_refusals_leave_nothing_to_count(log: RequestLog, lines: Lines, clock: Clock) -> None:
    refuse(log, times=2)
    lines.take()
    clock.now += 60.0
    log.report()
    log.close()
    assert lines.take() == []


def test_what_was_lost_with_its_client_is_told_apart(log: RequestLog, lines: Lines) -> None:
    for _ in range(3):
        log.refused("", "", "1-2", 499, "Gone.", disconnected=True)
    log.close()
    assert lines.take()[-1] == "... and 1 more lost with 499 in 1 s"


def test_a_log_that_leaves_INFO_out_costs_no_count(log: RequestLog, lines: Lines) -> None:
    logging.getLogger("penstock.tests.requests").setLevel(logging.WARNING)
    refuse(log, times=5)
    logging.getLogger("penstock.tests.requests").setLevel(logging.INFO)
    log.close()
    assert lines.take() == []


def test_what_ended_a_request_is_a_kind_whatever_the_detail(log: RequestLog, lines: Lines) -> None:
    for detail in "abc":
        log.ended("GET / (request 1-2)", "client disconnected", detail)
        log.ended("GET / (request 1-2)", "bad request body", detail)
    log.cut_off("GET", "/", "1-2", "client disconnected: d")
    assert lines.take() == [
        f"GET / (request 1-2): {what}: {detail}"
        for detail in "ab"
        for what in ("client disconnected", "bad request body")
    ]
    log.close()
    assert lines.take() == [
        '... and 2 more with "client disconnected" in 1 s',
        '... and 1 more with "bad request body" in 1 s',
    ]


def test_a_message_is_a_kind_whatever_its_arguments(log: RequestLog, lines: Lines) -> None:
    for listener in "abcd":
        log.message(messages.ACCEPT_PAUSED, listener=listener, error="no room")
    log.message(messages.CONNECTION_DEFECT, detail="")
    first, second, defect = lines.take()
    assert (" on a " in first, " on b " in second) == (True, True)
    assert defect.startswith(messages.CONNECTION_DEFECT.id)
    log.close()
    assert lines.take() == [f"... and 2 more {messages.ACCEPT_PAUSED.id} in 1 s"]


def test_threads_lose_no_count(log: RequestLog, lines: Lines) -> None:
    threads = [threading.Thread(target=refuse, args=(log, 400, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    *logged, count = lines.take()
    assert len(logged) == 2
    assert count.startswith("... and 1,998 more ")


def test_a_handler_of_a_signal_may_log_while_its_thread_counts(
    log: RequestLog, lines: Lines
) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        refuse(log, 413)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with log.lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(lines.take()) == 1


def test_with_0_every_line_is_logged(lines: Lines, clock: Clock) -> None:
    log = RequestLog(
        logging.getLogger("penstock.tests.requests"), TransportConfig(error_log_repeats=0), clock
    )
    refuse(log, times=50)
    log.close()
    assert len(lines.take()) == 50
