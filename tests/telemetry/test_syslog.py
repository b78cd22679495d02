"""What syslog gets: messages of RFC 3164 and RFC 5424, over each kind of socket."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock import messages
from penstock.config.sources import settings_from_kwargs
from penstock.errors import SettingsError
from penstock.telemetry import message_socket, syslog
from penstock.telemetry.access_log import AccessLog
from penstock.telemetry.error_log import ErrorLog, log_daemons
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.message_socket import Place
from penstock.telemetry.observers import Observers
from penstock.telemetry.syslog import FACILITIES, MAX_TEXT_BYTES, Syslog, Target, look_up
from support.requests_finished import request

MOMENT = 1_769_860_805.000123  # 2026-01-31 12:00:05 UTC
HOST = socket.gethostname()
PID = os.getpid()


def daemon(address: str = "unix:///dev/log", **more: object) -> Syslog:
    return Syslog(Target.of(address), (), **more)  # type: ignore[arg-type]


def test_a_message_of_rfc_3164_has_the_local_time_and_a_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    named = daemon(prefix="shop:app", facility=FACILITIES["local3"])
    tag = f"penstock.shop.app.error[{PID}]"
    message = named.message("error", 4, "what\nhappened\n", "PEN-2010", MOMENT)
    assert message == f"<156>Jan 31 12:00:05 {tag}: what\nhappened".encode()
    remote = daemon("udp://127.0.0.1", prefix="shop:app", facility=FACILITIES["local3"])
    message = remote.message("error", 4, "what", "PEN-2010", MOMENT)
    assert message == f"<156>Jan 31 12:00:05 {HOST} {tag}: what".encode()
    assert b"> Feb  1 " in named.message("error", 4, "", "-", MOMENT + 86400).replace(b">", b"> ")


def test_a_message_of_rfc_5424_has_microseconds_and_the_id() -> None:
    named = daemon(format="rfc5424", prefix="shop")
    message = named.message("error", 3, "caf\xe9\nline two", "PEN-2010", MOMENT)
    assert message.decode() == (
        f"<11>1 2026-01-31T12:00:05.000123Z {HOST} penstock.shop.error {PID} PEN-2010 - "
        "\ufeffcaf\xe9\nline two"
    )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:601", "unix:///run/log#stream"])
def test_messages_on_a_stream_can_be_told_apart(address: str) -> None:
    old = daemon(address).message("access", 6, "one\ntwo", "access", MOMENT)
    assert old.endswith(f"penstock.access[{PID}]: one#012two\n".encode())
    assert old.count(b"\n") == 1
    new = daemon(address, format="rfc5424").message("access", 6, "one\ntwo", "access", MOMENT)
    length, _, rest = new.partition(b" ")
    assert int(length) == len(rest)
    assert rest.endswith(b"one\ntwo")


def test_the_middle_of_a_long_text_is_left_out() -> None:
    text = "first\n" + "\xe9" * 20_000 + "\nValueError: last"
    message = daemon().message("error", 3, text, "-", MOMENT)
    assert len(message) < MAX_TEXT_BYTES + 200
    assert b": first\n" in message
    assert message.endswith(b"\nValueError: last")
    assert re.search(rb"\n  \.\.\. \d+ bytes left out \.\.\.\n", message)
    message.decode()


def test_no_byte_ends_a_message_early_and_a_name_cannot_break_its_head() -> None:
    message = daemon(prefix="a b[1]: x").message("error", 6, "a\0b", "-", MOMENT)
    assert b"\0" not in message
    assert b" penstock.a.b.1...x.error[" in message
    long = daemon(format="rfc5424", prefix="x" * 40).message("access", 6, "", "-", MOMENT)
    assert len(long.split()[3]) <= 48


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("udp://localhost:514", ("udp", "localhost", 514)),
        ("udp://logs.example.org", ("udp", "logs.example.org", 514)),
        ("udp://", ("udp", "localhost", 514)),
        ("tcp://[::1]:601", ("tcp", "::1", 601)),
        ("tcp://127.0.0.1:1", ("tcp", "127.0.0.1", 1)),
        ("unix:///dev/log", ("dgram", "/dev/log", 0)),
        ("unix:///dev/log#dgram", ("dgram", "/dev/log", 0)),
        ("unix:///run/x y#stream", ("stream", "/run/x y", 0)),
    ],
)
def test_addresses_are_those_of_gunicorn(address: str, target: tuple[str, str, int]) -> None:
    assert Target.of(address) == target
    assert settings_from_kwargs(log_syslog_to=address).log_syslog_to == address


@pytest.mark.parametrize(
    "address",
    ["localhost:514", "http://a", "udp://a:0", "udp://a:b", "unix://dev/log", "tcp://::1:5"],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="log_syslog_to"):
        settings_from_kwargs(log_syslog_to=address)


def test_an_unknown_name_is_an_error_of_the_start() -> None:
    settings = settings_from_kwargs(log_syslog=True, log_syslog_to="udp://no.such.invalid")
    with pytest.raises(SettingsError, match=r"no\.such\.invalid"):
        look_up(settings)
    with pytest.raises(SettingsError, match="not at a reload"):
        look_up(settings, may_wait=False)  # as a reload does


def test_a_reload_may_change_the_port_of_a_name_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(syslog, "_LOCAL", "")
    found = look_up(settings_from_kwargs(log_syslog=True, log_syslog_to="udp://localhost:5140"))
    assert found[0] == Place(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 5140))
    later = settings_from_kwargs(log_syslog=True, log_syslog_to="tcp://localhost:601")
    again = look_up(later, may_wait=False)
    assert again[0] == Place(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 601))
    numeric = settings_from_kwargs(log_syslog=True, log_syslog_to="tcp://[::1]:601")
    assert look_up(numeric, may_wait=False)[0].address == ("::1", 601, 0, 0)


# -- both logs ----------------------------------------------------------------------------------


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as made:
        made.bind(str(tmp_path / "log"))
        made.settimeout(10)
        yield made


def test_a_record_goes_to_the_file_and_to_syslog(tmp_path: Path, receiver: socket.socket) -> None:
    settings = settings_from_kwargs(
        log_syslog=True, log_syslog_to=f"unix://{tmp_path}/log", log_syslog_facility="daemon"
    )
    log = ErrorLog(str(tmp_path / "file"), daemons=log_daemons(settings))
    messages.SIGNAL_WITHOUT_MEANING.log(log.logger, signal="SIGHUP")
    try:
        raise ValueError("client's\x1b[31m\nforged")
    except ValueError:
        log.logger.error("failed", exc_info=True)
    log.logger.debug("not at this level")
    log.write_text("an application writes\n")
    first, second, third = (receiver.recv(65536).decode() for _ in range(3))
    assert first.startswith("<28>")
    assert f"penstock.error[{PID}]: {messages.SIGNAL_WITHOUT_MEANING.id} " in first
    assert second.startswith("<27>")
    assert "failed\nTraceback (most" in second
    assert second.endswith("ValueError: client's\\x1b[31m\nforged")
    assert third.endswith("]: an application writes")
    log.close()
    text = (tmp_path / "file").read_text()
    assert "failed\n  Traceback (most" in text
    assert "an application writes\n" in text


def test_with_json_the_text_of_a_record_is_an_object(
    tmp_path: Path, receiver: socket.socket
) -> None:
    settings = settings_from_kwargs(
        log_syslog=True, log_syslog_to=f"unix://{tmp_path}/log", error_logformat="json"
    )
    log = ErrorLog(str(tmp_path / "file"), format="json", daemons=log_daemons(settings))
    log.logger.warning("one")
    text = receiver.recv(65536).decode().partition("]: ")[2]
    assert json.loads(text)["message"] == "one"
    log.close()


def test_lines_of_the_access_log_go_to_both(tmp_path: Path, receiver: socket.socket) -> None:
    settings = settings_from_kwargs(
        log_syslog=True, log_syslog_to=f"unix://{tmp_path}/log", log_syslog_format="5424"
    )
    daemons = log_daemons(settings)
    sink = LogSink.open(str(tmp_path / "file"), setting="access_logfile")
    log = AccessLog(sink, "%(U)s", daemons=daemons)
    assert log.line_format is not None  # native code still makes the lines
    log.requests_finished([request("/one"), "/two\n/three\n"], 1.0)
    log.write_text("by the application\n")
    got = [receiver.recv(65536).decode() for _ in range(4)]
    assert [text.rpartition("\ufeff")[2] for text in got] == [
        "/one", "/two", "/three", "by the application",
    ]  # fmt: skip
    assert all(f" penstock.access {PID} access - " in text for text in got)
    log.close()
    daemons[0].close()
    assert (tmp_path / "file").read_text() == "/one\n/two\n/three\nby the application\n"


def test_a_daemon_that_is_not_there_costs_no_time_and_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_socket, "MAX_QUEUED_MESSAGES", 5)
    settings = settings_from_kwargs(log_syslog=True, log_syslog_to=f"unix://{tmp_path}/none")
    log = ErrorLog(str(tmp_path / "file"), daemons=log_daemons(settings))
    before = time.monotonic()
    for number in range(100):
        log.logger.info("line %d", number)
    assert time.monotonic() - before < 5.0
    log.close()
    lines = (tmp_path / "file").read_text().splitlines()
    reports = [line for line in lines if messages.LOG_DAEMON_FAILS.id in line]
    assert len(lines) == 101
    assert len(reports) == 1
    assert "No such file or directory (setting: log_syslog_to)" in reports[0]
    assert sum(daemon.dropped for daemon in log.daemons) == 95


def test_a_reader_that_stalls_does_not_stop_the_log_writer(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as stalled:
        stalled.bind(str(tmp_path / "log"))
        settings = settings_from_kwargs(log_syslog=True, log_syslog_to=f"unix://{tmp_path}/log")
        daemons = log_daemons(settings)
        sink = LogSink.open(str(tmp_path / "file"), setting="access_logfile")
        log = AccessLog(sink, "%(U)s", daemons=daemons)
        observers = Observers([log])
        for number in range(3000):
            observers.add(request(f"/{number}"))
        observers.close(3.0)
        daemons[0].close()
        assert (tmp_path / "file").read_text().count("\n") == 3000
        assert daemons[0].dropped > 0
        assert daemons[0].failure


def test_the_access_log_can_be_kept_out(tmp_path: Path) -> None:
    settings = settings_from_kwargs(
        log_syslog=True, log_syslog_to=f"unix://{tmp_path}/log", log_syslog_access=False
    )
    assert [each.takes_access_log for each in log_daemons(settings)] == [False]


def test_without_the_setting_nothing_is_imported_and_there_is_no_daemon() -> None:
    import subprocess

    code = (
        "import penstock, sys\n"
        "with penstock.running(lambda environ, start_response: []): pass\n"
        "names = ('syslog', 'journal', 'message_socket', 'log_daemons')\n"
        "print([name for name in names if f'penstock.telemetry.{name}' in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "[]\n", run.stderr
    assert log_daemons(settings_from_kwargs()) == ()
