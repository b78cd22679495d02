"""What systemd's journal gets, through a socket that stands for it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock import messages
from penstock.config.checks import check_places
from penstock.config.settings import JOURNAL
from penstock.config.sources import settings_from_kwargs
from penstock.errors import SettingsError
from penstock.telemetry import message_socket
from penstock.telemetry.access_log import AccessLog
from penstock.telemetry.error_log import ErrorLog, log_daemons
from penstock.telemetry.journal import Journal, encoded
from penstock.telemetry.log_sink import LogSink
from support.journal import FakeJournal, decoded
from support.requests_finished import request

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    with closing(FakeJournal(tmp_path / "journal")) as made:
        yield made


def error_log(journal: FakeJournal, **settings: object) -> ErrorLog:
    made = settings_from_kwargs(log_journal=str(journal.path), **settings)
    return ErrorLog(made.error_logfile, daemons=log_daemons(made))


def test_fields_are_written_as_the_protocol_has_them() -> None:
    assert encoded({"A": 1, "B": "x\ny"}) == b"A=1\nB\n\x03\0\0\0\0\0\0\0x\ny\n"
    assert decoded(encoded({"A": 1, "B": "x\ny", "C": "\xe9="})) == {
        "A": "1", "B": "x\ny", "C": "\xe9=",
    }  # fmt: skip


def test_a_record_has_fields_for_what_is_searched_for(
    journal: FakeJournal, capfd: pytest.CaptureFixture[str]
) -> None:
    log = error_log(journal)
    for daemon in log.daemons:
        daemon.name_worker(3)
    messages.CALL_STUCK.log(
        log.logger, request="GET /x (request 4f-2a-07, 3.0 s old)", grace=5, free=1, stacks="s\nt"
    )
    found = journal.receive()
    assert found["MESSAGE"].startswith(messages.CALL_STUCK.id)
    assert "\n" in found["MESSAGE"]
    assert found["PENSTOCK_ID"] == messages.CALL_STUCK.id
    assert found["PRIORITY"] == "2"
    assert found["REQUEST_ID"] == "4f-2a-07"
    assert found["WORKER"] == "3"
    assert found["PENSTOCK_LOG"] == "error"
    assert found["SYSLOG_IDENTIFIER"] == "penstock"
    assert found["LOGGER"] == "penstock"
    assert found["CODE_FILE"] == __file__
    assert found["CODE_FUNC"] == test_a_record_has_fields_for_what_is_searched_for.__name__
    assert int(found["CODE_LINE"]) > 0
    assert found["THREAD_NAME"] == "MainThread"
    log.close()
    assert capfd.readouterr().err == ""  # the journal has it: not the stream, too


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_each_level_has_its_priority(journal: FakeJournal, level: str, priority: str) -> None:
    made = settings_from_kwargs(log_journal=str(journal.path))
    log = ErrorLog("-", "debug", daemons=log_daemons(made))
    getattr(log.logger, level)("text")
    found = journal.receive()
    assert (found["PRIORITY"], found["MESSAGE"]) == (priority, "text")
    assert "PENSTOCK_ID" not in found
    assert "WORKER" not in found
    log.close()


def test_a_traceback_is_part_of_its_record_and_forges_no_field(journal: FakeJournal) -> None:
    log = error_log(journal)
    try:
        raise ValueError("x\nPRIORITY=0\nPENSTOCK_ID=PEN-1")
    except ValueError:
        log.logger.error("failed", exc_info=True)
    found = journal.receive()
    assert found["PRIORITY"] == "3"
    assert "PENSTOCK_ID" not in found
    assert found["MESSAGE"].endswith("ValueError: x\nPRIORITY=0\nPENSTOCK_ID=PEN-1")
    log.close()


def test_what_the_application_writes_is_a_record_too(journal: FakeJournal) -> None:
    log = error_log(journal)
    log.write_text("one\ntwo\n")
    found = journal.receive()
    assert (found["MESSAGE"], found["LOGGER"]) == ("one\ntwo", "wsgi.errors")
    log.close()


def test_a_record_that_is_too_long_for_a_datagram_goes_in_a_sealed_file(
    journal: FakeJournal,
) -> None:
    log = error_log(journal)
    text = "x" * (4 << 20)
    log.logger.error("long %s", text)
    found = journal.receive()
    assert found["MESSAGE"] == f"long {text}"
    assert journal.seals == (
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    )
    log.logger.error("short")
    assert journal.receive()["MESSAGE"] == "short"
    log.close()


def test_while_the_journal_is_away_records_go_to_the_stream_and_none_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_socket, "RETRY_SECONDS", 0.0)
    path = tmp_path / "journal"
    made = settings_from_kwargs(log_journal=str(path))
    log = ErrorLog("-", daemons=log_daemons(made))
    log.logger.info("one")
    log.logger.info("two")
    text = capfd.readouterr().err
    assert re.search(r"\[INFO\] one\n.*\[INFO\] two\n", text)
    assert text.count(messages.LOG_DAEMON_FAILS.id) == 1
    with closing(FakeJournal(path)) as journal:
        log.logger.info("three")
        found = [journal.receive()["MESSAGE"], journal.receive()["MESSAGE"]]
        assert found[0].startswith(messages.LINES_NOT_WRITTEN.id)
        assert found[1] == "three"
        log.close()
    assert capfd.readouterr().err == ""


def test_a_line_of_the_access_log_has_fields_of_its_request(
    journal: FakeJournal, tmp_path: Path
) -> None:
    made = settings_from_kwargs(log_journal=str(journal.path), access_logfile="-")
    daemons = log_daemons(made)
    sink = LogSink.open(str(tmp_path / "file"), setting="access_logfile")
    log = AccessLog(sink, "%(r)s", daemons=daemons)
    assert log.line_format is None  # a line alone has no fields
    log.requests_finished([request("/one", status=404, request_id="a-1")], 1.0)
    found = journal.receive()
    assert found["MESSAGE"] == "GET /one HTTP/1.1"
    assert (found["REQUEST_ID"], found["HTTP_STATUS"]) == ("a-1", "404")
    assert (found["DURATION"], found["CLIENT_ADDRESS"]) == ("0.250000", "127.0.0.1")
    assert (found["PENSTOCK_LOG"], found["PRIORITY"]) == ("access", "6")
    log.close()
    daemons[0].close()
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("error", "access", "takes"),
    [("-", "-", (True, True)), ("-", None, (True, False)), ("one", "two", (False, False))],
)
def test_a_log_that_has_a_file_stays_there(
    error: str, access: str | None, takes: tuple[bool, bool]
) -> None:
    made = settings_from_kwargs(log_journal="/run/x", error_logfile=error, access_logfile=access)
    [journal] = log_daemons(made)
    assert isinstance(journal, Journal)
    assert (journal.takes_error_log, journal.takes_access_log) == takes


@pytest.mark.parametrize(
    ("value", "path"),
    [("on", JOURNAL), (True, JOURNAL), (False, None), ("none", None), ("/run/x", "/run/x")],
)
def test_on_means_the_usual_socket(value: object, path: str | None) -> None:
    assert settings_from_kwargs(log_journal=value).log_journal == path


def test_a_configured_logger_gets_the_lines_too(journal: FakeJournal, tmp_path: Path) -> None:
    daemons = log_daemons(settings_from_kwargs(log_journal=str(journal.path), access_logfile="-"))
    log = AccessLog(LogSink.open(os.devnull, setting="access_logfile"), "%(U)s", daemons=daemons)
    handler = logging.FileHandler(tmp_path / "lines")
    log.log_to = logging.Logger("lines")
    log.log_to.addHandler(handler)
    log.requests_finished([request("/one")], 1.0)
    assert journal.receive()["MESSAGE"] == "/one"
    handler.close()
    assert (tmp_path / "lines").read_text() == "/one\n"
    log.close()
    daemons[0].close()


def test_a_journal_that_is_not_there_is_an_error_of_the_start(tmp_path: Path) -> None:
    made = settings_from_kwargs(log_journal=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="the journal does not listen there"):
        check_places(made)
    assert JOURNAL == "/run/systemd/journal/socket"
