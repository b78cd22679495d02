"""What is logged about header fields that do not reach the application, or the client."""

from __future__ import annotations

import logging
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.wsgi.environ import DroppedFields, HeaderMap, client_environ
from support.applications import Environ, hello
from support.fake_exchange import Records, make_base
from support.serving import connect, get


def drop(log: Records, *names: str, header_map: HeaderMap = "drop") -> None:
    dropped = DroppedFields(log.logger)
    for name in names:
        client_environ(
            make_base(), {name: "1", "content-length": "1"}, "", "", header_map, dropped.report
        )


def test_each_field_that_is_dropped_for_its_underscore_is_logged_once_as_a_warning() -> None:
    log = Records()
    log.logger.setLevel(logging.INFO)
    drop(log, "x_token", "x-other", "x_token", "y_token")
    first, second = log.lines
    assert first == (
        "PEN-3210 the field x_token was dropped, as all fields with an underscore are: the"
        " application could not tell it from x-token (logged once; setting: header_map)"
    )
    assert "y_token" in second
    assert {record.levelname for record in log.records} == {"WARNING"}


def test_at_level_debug_each_dropped_field_is_logged() -> None:
    log = Records()
    drop(log, "x_token", "x_token")
    assert log.text.endswith("DEBUG the field x_token was dropped for its underscore")


def test_names_invented_by_clients_do_not_fill_the_log() -> None:
    log = Records()
    log.logger.setLevel(logging.INFO)
    drop(log, *(f"x_{number}" for number in range(100)))
    assert len(log.lines) == DroppedFields.MAX_NAMES
    long = Records()
    drop(long, "x_" * 4000)
    assert len(long.lines[0]) < 400


def test_fields_that_the_server_takes_itself_are_not_logged_where_they_are_dropped() -> None:
    log = Records()
    DroppedFields(log.logger, frozenset({"x_forwarded_for"})).report("x_forwarded_for")
    assert log.lines == []


@pytest.mark.parametrize("header_map", ["refuse", "dangerous"])
def test_fields_that_are_refused_or_passed_on_are_not_logged(header_map: HeaderMap) -> None:
    log = Records()
    drop(log, "x_token", header_map=header_map)
    assert log.lines == []


def test_each_server_logs_a_dropped_field_in_its_own_log(transport: str, tmp_path: Path) -> None:
    logs = [tmp_path / "first", tmp_path / "second"]
    for path in logs:
        with penstock.running(hello, transport=transport, error_logfile=str(path)) as server:
            with connect(server) as client:
                for _ in range(2):
                    client.send(get("/", "X_Token: 1", "X-Fine: 1"))
                    assert client.read_response().status == 200
        [line] = path.read_text().splitlines()
        assert "[WARNING] PEN-3210 the field x_token was dropped" in line


def test_a_keep_alive_field_of_the_application_is_left_out_with_one_warning(
    transport: str, tmp_path: Path
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Keep-Alive", "timeout=5, max=100"), ("Content-Length", "0")])
        return []

    log = tmp_path / "log"
    with penstock.running(application, transport=transport, error_logfile=str(log)) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(get("/"))
                assert client.read_response().header("Keep-Alive") is None
    [line] = log.read_text().splitlines()
    assert "[WARNING] PEN-3130 the application sent the field Keep-Alive, which was left" in line
