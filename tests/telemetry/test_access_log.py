"""The access log behind the observers' queue and thread, on real files and pipes."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from penstock.errors import SettingsError
from penstock.telemetry import access_log, observers
from penstock.telemetry.access_log import AccessLog
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.observers import Observers
from support.requests_finished import request


class Log:
    """An access log, the only observer of finished requests."""

    def __init__(
        self, sink: LogSink, format: str = "%(U)s", logger: logging.Logger | None = None
    ) -> None:
        self.access_log = AccessLog(sink, format, logger)
        self.reopen = self.access_log.reopen
        self.observers = Observers([self.access_log], logger)
        self.add = self.observers.add
        self.close = self.observers.close

    @property
    def dropped(self) -> int:
        return self.access_log.dropped

    @property
    def lost(self) -> int:
        return self.observers.lost


def file_log(path: Path, format: str = "%(U)s") -> Log:
    return Log(LogSink.open(str(path), setting="access_logfile"), format)


def test_every_response_has_its_line_in_order(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")
    for number in range(1000):
        log.add(request(f"/{number}"))
    log.close()
    assert (tmp_path / "log").read_text().split() == [f"/{number}" for number in range(1000)]
    assert log.dropped == 0


def test_a_line_appears_without_another_one_and_without_a_close() -> None:
    reader, writer = os.pipe()
    log = Log(LogSink(writer))
    for target in ("/first", "/second"):
        log.add(request(target))
        # Blocks until the thread has written: a line that waits for company hangs here.
        assert os.read(reader, 100).decode() == target + "\n"
    log.close()
    os.close(reader)


def test_lines_of_many_threads_are_all_there(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")

    def work(name: int) -> None:
        for number in range(500):
            log.add(request(f"/{name}/{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = (tmp_path / "log").read_text().split()
    assert sorted(lines) == sorted(f"/{a}/{b}" for a in range(4) for b in range(500))


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4095 + b"\n")
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


def test_faults_44_a_blocked_log_pipe_does_not_block_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observers, "MAX_QUEUED_REQUESTS", 100)
    monkeypatch.setattr(observers, "PATIENCE_SECONDS", 60.0)
    reader, writer = full_pipe()
    log = Log(LogSink(writer))
    # The thread may be away with a first batch, which it cannot write.
    for number in range(1000):
        log.add(request(f"/{number}"))
    assert 800 <= log.lost <= 900
    os.close(reader)  # ends the thread's wait: what it has is lost, too
    log.close(30.0)
    assert log.dropped == 1000


def test_the_queue_is_bounded_in_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_QUEUED_BYTES", 10_000)
    monkeypatch.setattr(observers, "PATIENCE_SECONDS", 60.0)
    reader, writer = full_pipe()
    log = Log(LogSink(writer))
    for _ in range(100):
        log.add(request("/" + "x" * 999))
    assert 80 <= log.lost <= 90
    os.close(reader)
    log.close(30.0)


def test_close_is_bounded_in_time_where_nobody_reads() -> None:
    reader, writer = full_pipe()
    log = Log(LogSink(writer))
    log.add(request())
    started = time.monotonic()
    log.close(0.1)
    assert time.monotonic() - started < 5.0
    os.close(reader)


def test_after_close_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")
    log.close()
    log.add(request())
    assert log.lost == 1
    assert (tmp_path / "log").read_text() == ""


def test_lines_that_were_dropped_are_told_of_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "MAX_QUEUED_REQUESTS", 1)
    monkeypatch.setattr(observers, "GATHER_SECONDS", 60.0)
    log = file_log(tmp_path / "log", "json")
    for _ in range(3):
        log.add(request())
    log.close()
    notice, line = (json.loads(text) for text in (tmp_path / "log").read_text().splitlines())
    assert notice["dropped_lines"] == 2
    assert line["url.path"] == "/"


def test_what_cannot_be_formatted_costs_its_line_and_raises_nothing(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log", "combined")
    log.add(request(wall_time=1e300))
    log.add(request(client_addr=5))
    log.close()
    assert log.dropped == 2


def test_faults_45_a_jump_of_the_wall_clock_shows_in_the_lines_alone(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log", "json")
    for moment in (1_700_000_000.5, 1_731_536_000.5, 1_668_464_000.5):
        log.add(request(wall_time=moment))
    log.close()
    times = [json.loads(line)["time"] for line in (tmp_path / "log").read_text().splitlines()]
    assert times == [
        "2023-11-14T22:13:20.500Z",
        "2024-11-13T22:13:20.500Z",
        "2022-11-14T22:13:20.500Z",
    ]


def test_reopen_follows_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = file_log(path)
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.add(request("/new"))
    log.close()
    assert path.read_text() == "/new\n"


def test_a_format_that_makes_no_sense_is_refused_before_a_thread_runs(tmp_path: Path) -> None:
    threads = threading.active_count()
    sink = LogSink.open(str(tmp_path / "log"), setting="access_logfile")
    with pytest.raises(SettingsError):
        AccessLog(sink, "combinde")
    assert threading.active_count() == threads
    sink.close()


class Told(logging.Handler):
    """Keeps what is logged, for a test that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.logger = logging.Logger("told")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(f"{record.levelname}: {record.getMessage()}")

    def next(self) -> str:
        return self.records.get(timeout=30)


def told_log(descriptor: int, told: Told) -> Log:
    return Log(LogSink(descriptor), logger=told.logger)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_faults_44_an_access_log_on_a_full_disk_is_warned_of_once_with_the_reason() -> None:
    told = Told()
    log = told_log(os.open("/dev/full", os.O_WRONLY), told)
    log.add(request())
    assert told.next() == (
        "WARNING: PEN-5010 the access log is losing lines: No space left on device "
        "(setting: access_logfile)"
    )
    log.add(request())
    log.close()
    assert log.dropped == 2
    assert told.records.empty()


def test_faults_44_an_access_log_whose_reader_has_gone_is_warned_of() -> None:
    told = Told()
    reader, writer = os.pipe()
    os.close(reader)
    log = told_log(writer, told)
    log.add(request())
    assert ": its reader has gone (" in told.next()
    log.close()


def test_faults_44_an_access_log_whose_reader_has_stalled_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observers, "PATIENCE_SECONDS", 0.0)
    told = Told()
    reader, writer = full_pipe()
    log = told_log(writer, told)
    log.add(request())
    assert ": its reader does not keep up (" in told.next()
    log.close(0.1)
    os.close(reader)


def test_lines_that_find_the_queue_full_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_QUEUED_REQUESTS", 1)
    monkeypatch.setattr(observers, "GATHER_SECONDS", 60.0)
    told = Told()
    log = told_log(os.open(os.devnull, os.O_WRONLY), told)
    for _ in range(3):
        log.add(request())
    log.close()
    assert ": too many wait to be written (" in told.next()


def test_a_line_that_cannot_be_formatted_is_warned_of() -> None:
    told = Told()
    log = told_log(os.open(os.devnull, os.O_WRONLY), told)
    log.add(request(target=cast("str", 5)))
    log.close()
    assert ": a line cannot be formatted: AttributeError" in told.next()


def test_the_next_loss_after_a_recovery_is_warned_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "QUIET_SECONDS", 0.0)
    target = tmp_path / "log"
    told = Told()
    sink = LogSink.open(os.devnull, setting="access_logfile")
    sink.path = str(target)
    log = Log(sink, logger=told.logger)
    for _ in range(2):
        target.unlink(missing_ok=True)
        target.symlink_to("/dev/full")
        log.reopen()
        log.add(request())
        assert told.next().startswith("WARNING: PEN-5010 the access log is losing lines")
        target.unlink()
        log.reopen()
        log.add(request())
        assert told.next() == "INFO: the access log is written again"
    log.close()


def test_a_logger_that_fails_does_not_end_the_access_log(tmp_path: Path) -> None:
    class Failing(Told):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            raise RuntimeError("full as well")

    told = Failing()
    log = Log(LogSink.open(str(tmp_path / "log"), setting="access_logfile"), "%(U)s", told.logger)
    log.add(request(target=cast("str", 5)))
    told.next()
    log.add(request("/after"))
    log.close()
    assert "/after\n" in (tmp_path / "log").read_text()
