"""The server's own logger: its format, what applications do to logging, and failing logs."""

from __future__ import annotations

import io
import logging
import logging.config
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.telemetry.error_log import (
    ErrorLog,
    ServerLogger,
    SinkHandler,
    printable,
    process_logger,
)
from penstock.telemetry.log_sink import LogSink

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \[(\d+)\] \[([A-Z]+)\] (.*)")

DJANGO_LIKE = {
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"null": {"class": "logging.NullHandler"}},
    "root": {"handlers": ["null"], "level": "CRITICAL"},
}


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, logger = logging.getLogger(), logging.getLogger("penstock")
    root_before = (list(root.handlers), root.level)
    mine_before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logging.disable(logging.NOTSET)
    logger.handlers, logger.propagate = mine_before[0], mine_before[2]
    logger.setLevel(mine_before[1])
    root.handlers = root_before[0]
    root.setLevel(root_before[1])


Open = Callable[..., ErrorLog]


@pytest.fixture
def open_log() -> Iterator[Open]:
    """Open a log of the process, to be closed at the test's end."""
    opened: list[ErrorLog] = []

    def open_one(path: str, level: str = "info") -> ErrorLog:
        opened.append(ErrorLog(path, level, process_logger()))
        return opened[-1]

    yield open_one
    for log in reversed(opened):
        log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "error.log"


@pytest.fixture
def logger(open_log: Open, path: Path) -> logging.Logger:
    """Return the process's logger, which writes to ``path`` from level info on."""
    return open_log(str(path)).logger


def test_a_record_is_one_line_with_time_offset_process_and_level(
    path: Path, logger: logging.Logger
) -> None:
    logger.warning("listening on %s", "http://127.0.0.1:8000")
    match = RECORD.fullmatch(path.read_text().removesuffix("\n"))
    assert match is not None
    assert match.groups() == (str(os.getpid()), "WARNING", "listening on http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("level", "logged"), [("debug", 5), ("info", 4), ("warning", 3), ("ERROR", 2), ("critical", 1)]
)
def test_the_level_is_the_least_that_is_logged(
    path: Path, open_log: Open, level: str, logged: int
) -> None:
    logger = open_log(str(path), level).logger
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(number, "x")
    assert len(path.read_text().splitlines()) == logged


def test_an_unknown_level_is_refused_with_those_there_are(path: Path) -> None:
    with pytest.raises(SettingsError, match="log_level: 'loud' is none of debug, info"):
        ErrorLog(str(path), "loud")


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"error_logfile: cannot open .*missing"):
        ErrorLog(str(tmp_path / "missing" / "log"))


def test_root_and_other_loggers_are_left_alone(path: Path, open_log: Open) -> None:
    root = logging.getLogger()
    other = logging.getLogger("penstocks")
    before = (list(root.handlers), root.level, type(other))
    logger = open_log(str(path)).logger
    assert (root.handlers, root.level, type(other)) == before
    assert not logger.propagate


def test_loggers_below_penstock_write_to_the_same_place(path: Path, logger: logging.Logger) -> None:
    assert logger.name == "penstock"
    logging.getLogger("penstock.transport").info("from below")
    assert "from below" in path.read_text()


def test_a_closed_log_gives_the_logger_back_as_it_was(path: Path) -> None:
    logger = logging.getLogger("penstock")
    own = logging.NullHandler()
    logger.addHandler(own)
    logger.setLevel("ERROR")
    log = ErrorLog(str(path), "info", process_logger())
    assert log.logger is logger
    assert own not in logger.handlers
    added = logging.NullHandler()
    logger.addHandler(added)
    log.close()
    assert (logger.handlers, logger.level, logger.propagate) == ([own, added], logging.ERROR, True)


def test_two_logs_at_a_time_have_each_its_logger_its_level_and_its_place(path: Path) -> None:
    other = path.with_name("other.log")
    first, second = ErrorLog(str(path), "debug"), ErrorLog(str(other), "info")
    for log in (first, second):
        log.logger.debug("detail")
        log.logger.info("said")
    second.close()
    first.logger.info("more")
    assert [line[-4:] for line in path.read_text().splitlines()] == ["tail", "said", "more"]
    assert [line[-4:] for line in other.read_text().splitlines()] == ["said"]
    first.close()


def test_a_logger_of_the_logs_own_is_out_of_everyones_reach(path: Path) -> None:
    log = ErrorLog(str(path))
    logging.config.dictConfig({**DJANGO_LIKE, "loggers": {"penstock": {"handlers": ["null"]}}})
    log.logger.info("still here")
    assert "still here" in path.read_text()
    log.close()


def test_what_is_logged_after_the_close_is_dropped_and_not_printed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    log = ErrorLog(str(path))
    log.close()
    log.logger.critical("too late")
    assert (path.read_text(), printed.getvalue()) == ("", "")


def test_a_closed_log_leaves_no_descriptor_behind(path: Path) -> None:
    before = os.listdir("/dev/fd")
    ErrorLog(str(path)).close()
    assert os.listdir("/dev/fd") == before


def test_the_logger_survives_a_dictconfig_that_disables_existing_loggers(
    path: Path, open_log: Open
) -> None:
    below = logging.getLogger("penstock.before")
    logger = open_log(str(path)).logger
    bystander = logging.getLogger("bystander")
    logging.config.dictConfig(DJANGO_LIKE)
    assert bystander.disabled
    for each in (logger, below):
        each.info("still here")
    assert path.read_text().count("still here") == 2
    bystander.disabled = False


def test_the_logger_survives_logging_disable_and_shutdown(
    path: Path, logger: logging.Logger
) -> None:
    logging.disable(logging.CRITICAL)
    logging.shutdown()
    logger.info("still here")
    assert "still here" in path.read_text()


def test_a_dictconfig_that_names_penstock_is_meant(path: Path, logger: logging.Logger) -> None:
    logging.config.dictConfig(
        {**DJANGO_LIKE, "loggers": {"penstock": {"handlers": ["null"], "level": "ERROR"}}}
    )
    logger.error("elsewhere")
    assert path.read_text() == ""


def test_an_exception_follows_its_message_indented(path: Path, logger: logging.Logger) -> None:
    try:
        raise ValueError("first\n2026-01-31 12:00:00.000 +0000 [1] [INFO] forged\x1b[2J")
    except ValueError:
        logger.exception("GET / failed")
    first, *rest = path.read_text().splitlines()
    assert first.endswith("[ERROR] GET / failed")
    assert rest[0] == "  Traceback (most recent call last):"
    assert rest[-1] == "  2026-01-31 12:00:00.000 +0000 [1] [INFO] forged\\x1b[2J"
    assert all(line.startswith("  ") for line in rest)


def test_a_stack_is_logged_indented_too(path: Path, logger: logging.Logger) -> None:
    logger.info("here", stack_info=True)
    assert "\n  Stack (most recent call last):\n" in path.read_text()


@pytest.mark.parametrize("attack", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\x1b"])
def test_faults_19_a_message_cannot_forge_a_record(
    path: Path, attack: str, logger: logging.Logger
) -> None:
    logger.info("bad target %s", f"/{attack}2026-01-31 12:00:00.000 +0000 [1] [INFO] forged")
    lines = path.read_text().splitlines()
    assert len([line for line in lines if RECORD.match(line)]) == 1
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain\ttext ü 日本 \\", "plain\ttext ü 日本 \\"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202e\udc80", "\\u202e\\udc80"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_printable_keeps_text_in_any_script_and_escapes_what_a_terminal_acts_on(
    line: str, shown: str
) -> None:
    assert printable(line) == shown


def test_a_record_that_cannot_be_formatted_is_logged_as_it_is(path: Path, open_log: Open) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logger = open_log(str(path)).logger  # a fixture's would have pytest's handler as well
    logger.info("%d requests", "many")
    logger.info(Broken())
    first, second = path.read_text().splitlines()
    assert "%d requests (unformatted: TypeError" in first
    assert "a record of penstock that cannot be turned into text" in second


def logger_with(handler: SinkHandler) -> logging.Logger:
    logger = ServerLogger("penstock")
    logger.addHandler(handler)
    return logger


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_faults_44_with_a_full_disk_records_go_to_stderr_which_is_told_once(path: Path) -> None:
    reader, writer = os.pipe()
    path.symlink_to("/dev/full")
    handler = SinkHandler(LogSink.open(str(path), setting="error_logfile"), LogSink(writer))
    logger = logger_with(handler)
    logger.error("one")
    logger.error("two")
    notice, one, two = os.read(reader, 4096).decode().splitlines()
    assert notice == (
        f"penstock: PEN-5030 cannot write to {str(path)!r}; logging to standard error until that is"
        " possible again (setting: error_logfile)"
    )
    assert (one[-3:], two[-3:]) == ("one", "two")
    assert handler.sink.dropped == 2
    path.unlink()
    handler.sink.reopen()
    logger.error("three")
    text = path.read_text()
    assert text.startswith("penstock: PEN-5020 log lines could not be written here: 2\n")
    assert text.endswith("three\n")
    handler.close_sinks()
    assert os.read(reader, 4096) == b""
    os.close(reader)


def test_faults_44_a_log_that_cannot_be_written_raises_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    reader, writer = os.pipe()
    os.close(reader)
    handler = SinkHandler(LogSink(writer))
    assert logging.raiseExceptions
    logger_with(handler).error("lost")
    assert handler.sink.dropped == 1
    assert printed.getvalue() == ""


def test_faults_28_a_closed_sys_stderr_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    reader, writer = os.pipe()
    logger = logger_with(SinkHandler(LogSink(writer)))
    monkeypatch.setattr(sys, "stderr", closed)
    logger.error("heard")
    assert os.read(reader, 4096).endswith(b"heard\n")
    os.close(reader)


def test_faults_45_a_wall_clock_beyond_the_calendar_costs_no_exception(
    path: Path, logger: logging.Logger
) -> None:
    record = logger.makeRecord("penstock", logging.INFO, "", 0, "x", (), None)
    record.created = 1e300
    logger.handle(record)
    logger.info("after")
    first, second = path.read_text().splitlines()
    assert "x (unformatted: OverflowError" in first
    assert second.endswith("after")


def test_a_record_without_any_text_is_counted_and_raises_nothing(
    path: Path, open_log: Open
) -> None:
    log = open_log(str(path))
    logger = log.logger
    record = logger.makeRecord("penstock", logging.INFO, "", 0, "x", (), None)
    del record.levelname
    logger.handle(record)
    assert log.dropped == 1


def test_a_record_that_is_larger_than_what_a_terminal_takes_is_written_to_its_end() -> None:
    ours, theirs = os.openpty()
    received = bytearray()

    def read() -> None:
        while b"the end" not in received:
            received.extend(os.read(ours, 500))

    reader = threading.Thread(target=read)
    handler = SinkHandler(LogSink(theirs))
    reader.start()
    text = "".join(f"frame {number}\n" for number in range(5000)) + "the end"
    handler.handle(logging.LogRecord("penstock", logging.ERROR, "", 0, text, None, None))
    reader.join(30.0)
    handler.close_sinks()
    os.close(ours)
    assert received.count(b"frame") == 5000


def test_where_nothing_reads_one_record_waits_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Sink(LogSink):
        def write(self, text: str, *, patience: float = 0.0, keep_end: bool = False) -> bool:
            waited.append(patience)
            return len(waited) > 2

    sink = Sink(os.open(os.devnull, os.O_WRONLY))
    handler = SinkHandler(sink)
    for _ in range(4):
        handler.write_text("line\n")
    handler.close_sinks()
    assert waited == [1.0, 0.0, 0.0, 1.0]
