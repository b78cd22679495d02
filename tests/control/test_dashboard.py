"""The dashboard of --admin: who gets what, by which name, and what is left out of answers."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.config.settings import Settings
from penstock.control.access import Access, Place
from penstock.control.commands import ControlError
from penstock.control.dashboard import (
    MOST_OF_STACKS,
    MOST_REQUESTS,
    QUESTIONS,
    bounded,
    cleaned,
    hide_queries,
)
from penstock.http1 import Request
from support.control_loop import ControlLoop, Messages, request
from support.serving import eventually
from support.wire import Client, Response

TOKEN = "0123456789abcdef0123456789abcdef"
WITH_TOKEN = replace(Settings(), admin_token=hashlib.sha256(TOKEN.encode()).hexdigest())
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FILES = ("/", "/dashboard.css", "/dashboard.js", "/charts.js", "/dashboard.svg")
COMMANDS = ("/reload", "/upgrade", "/scale?workers=2", "/recycle?worker=1", "/stop")
LOCAL = "localhost"


@pytest.fixture
def loop() -> Iterator[ControlLoop]:
    loop = ControlLoop()
    loop.admin(settings=WITH_TOKEN)
    with loop:
        yield loop


@pytest.fixture
def address(loop: ControlLoop) -> tuple[str, int]:
    host, port = loop.services[0].listener.socket.getsockname()
    return host, port


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def get(
    client: Client, target: str, host: str = LOCAL, method: str = "GET", **fields: str
) -> Response:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return client.request(method, target, {"Host": host} | named)


def value_of(response: Response) -> Any:
    assert response.header("Content-Type") == "application/json"
    assert response.body.isascii()
    return json.loads(response.body)


# The page


@pytest.mark.parametrize("path", FILES)
def test_the_files_of_the_page_need_no_token(client: Client, path: str) -> None:
    response = get(client, path)
    assert response.status == 200
    assert response.body
    head = get(client, path, method="HEAD")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", [*FILES, *QUESTIONS, "/nothing"])
def test_every_response_keeps_browsers_from_what_is_not_the_pages(
    client: Client, path: str
) -> None:
    response = get(client, path)
    policy = response.header("Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.header("X-Frame-Options") == "DENY"
    assert response.header("X-Content-Type-Options") == "nosniff"
    assert response.header("Referrer-Policy") == "no-referrer"
    assert response.header("Cache-Control") == "no-store"
    assert response.header("Access-Control-Allow-Origin") is None


def test_the_page_has_no_code_of_its_own_and_names_no_other_host(client: Client) -> None:
    texts = {path: get(client, path).body.decode() for path in FILES}
    page = texts["/"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:", page)
    for path, text in texts.items():
        others = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
        assert not others - {"//www.w3.org/2000/svg", "http://www.w3.org/2000/svg"}, path
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in texts["/dashboard.js"] + texts["/charts.js"]


# The token


@pytest.mark.parametrize("path", QUESTIONS)
def test_every_question_needs_the_token(client: Client, path: str) -> None:
    target = f"{path}?worker=1" if path == "/stacks" else path
    without = get(client, target)
    assert without.status == 401
    assert str(without.header("WWW-Authenticate")).startswith("Bearer ")
    assert "invalid_token" not in str(without.header("WWW-Authenticate"))
    wrong = get(client, target, Authorization="Bearer " + TOKEN[:-1] + "0")
    assert wrong.status == 401
    assert "invalid_token" in str(wrong.header("WWW-Authenticate"))
    assert set(value_of(without)) == set(value_of(wrong)) == {"error"}


@pytest.mark.parametrize("path", [path for path in QUESTIONS if path != "/stacks"])
def test_every_question_is_answered_with_the_token(client: Client, path: str) -> None:
    assert get(client, path, **BEARER).status == 200
    assert get(client, path, Authorization=f"bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} ", "Bearer", f"Bearer {TOKEN}x",
              f"Bearer {TOKEN},{TOKEN}"],
)  # fmt: skip
def test_a_token_in_another_form_is_none(client: Client, given: str) -> None:
    expected = 200 if given.strip() == f"Bearer {TOKEN}" else 401  # blanks are no part of a value
    assert get(client, "/status", Authorization=given).status == expected


def test_neither_a_query_nor_a_cookie_is_taken_for_the_token(client: Client) -> None:
    assert get(client, f"/status?token={TOKEN}").status == 401
    assert get(client, "/status", Cookie=f"token={TOKEN}").status == 401


def test_probes_and_metrics_need_none_by_any_name(client: Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert get(client, path, host="anything.test").status == 200


def test_a_token_is_made_and_logged_once_when_the_dashboard_is_asked_for() -> None:
    loop = ControlLoop()
    address = loop.admin()
    with loop, Client(address) as client:
        assert get(client, "/healthz").status == 200
        assert get(client, "/dashboard.css").status == 200
        assert not loop.messages.texts
        assert get(client, "/").status == 200
        [line] = loop.messages.texts
        found = re.fullmatch(
            rf"INFO: admin: .*: http://127\.0\.0\.1:{address[1]}/#token=([\w-]{{32,}})", line
        )
        assert found is not None
        assert get(client, "/").status == 200
        assert get(client, "/status").status == 401
        assert get(client, "/status", Authorization=f"Bearer {found[1]}").status == 200
        assert loop.messages.texts == [line]


def test_nothing_is_logged_where_a_token_is_set(loop: ControlLoop, client: Client) -> None:
    assert get(client, "/").status == 200
    assert not loop.messages.texts


def test_a_reload_puts_the_token_of_a_file_in_place_of_one_that_was_made() -> None:
    kept, logger = Messages(), logging.Logger("penstock.test")
    logger.addHandler(kept)
    access = Access(logger)
    access.use(Settings())
    place = Place(False, "127.0.0.1", "127.0.0.1", 8001)
    access.make_token(place)
    [line] = kept.texts
    made = line.rpartition("=")[2]

    def status(token: str) -> int:
        sent = request_with({"host": "localhost", "authorization": f"Bearer {token}"})
        try:
            access.check(sent, place)
        except ControlError as error:
            return error.status
        return 200

    access.use(Settings())  # a reload that changes nothing of it
    assert status(made) == 200
    access.use(WITH_TOKEN)
    assert (status(made), status(TOKEN)) == (401, 200)
    access.use(Settings())
    assert (status(made), status(TOKEN)) == (401, 401)


def request_with(fields: dict[str, str]) -> Request:
    return Request(
        method="GET", target="/status", version="HTTP/1.1", path="/status", query="", fields=fields,
        content_length=None, chunked=False, keep_alive=True, expect_continue=False,
        body_expected=False,
    )  # fmt: skip


# The host


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8001", 200), ("LOCALHOST:1", 200), ("localhost.", 200),
        ("127.0.0.1", 200), ("127.0.0.1:9", 200), ("[::1]:8001", 200),
        ("evil.test", 403), ("evil.test:8001", 403), ("127.0.0.1.evil.test", 403),
        ("localhost.evil.test", 403), ("192.0.2.1", 403),
    ],
)  # fmt: skip
def test_the_dashboard_has_the_names_of_this_machine_alone(
    client: Client, host: str, status: int
) -> None:
    assert get(client, "/", host=host).status == status
    assert get(client, "/status", host=host, **BEARER).status == status


@pytest.mark.parametrize("host", ["board.test", "BOARD.test:443", "[2001:db8::1]"])
def test_names_of_the_setting_are_taken_too(host: str) -> None:
    loop = ControlLoop()
    settings = replace(WITH_TOKEN, admin_hosts=("board.test", "[2001:db8::1]"))
    address = loop.admin(settings=settings)
    with loop, Client(address) as client:
        assert get(client, "/", host=host).status == 200
        assert get(client, "/", host="other.test").status == 403


def test_an_address_of_all_interfaces_has_the_addresses_of_the_machine_and_no_name() -> None:
    loop = ControlLoop()
    _, port = loop.admin("0.0.0.0:0", WITH_TOKEN)
    with loop, Client(("127.0.0.1", port)) as client:
        assert get(client, "/", host="192.0.2.1:8001").status == 200
        assert get(client, "/", host="evil.test").status == 403


def test_the_name_that_the_setting_binds_is_taken() -> None:
    place = Place(False, "board.test", "192.0.2.1", 80)
    access = Access(logging.Logger("penstock.test"))
    access.use(Settings())
    access.check_host(request_with({"host": "board.test"}), place)
    access.check_host(request_with({"host": "192.0.2.1"}), place)


@pytest.mark.parametrize(
    ("place", "url"),
    [
        (Place(False, "127.0.0.1", "127.0.0.1", 80), "http://127.0.0.1:80/"),
        (Place(False, "board.test", "192.0.2.1", 80), "http://192.0.2.1:80/"),
        (Place(False, "0.0.0.0", "0.0.0.0", 80), "http://localhost:80/"),
        (Place(False, "::1", "::1", 80), "http://[::1]:80/"),
        (Place(False, "::", "::", 80), "http://localhost:80/"),
    ],
)
def test_the_log_has_a_url_that_a_browser_on_this_machine_can_open(place: Place, url: str) -> None:
    assert place.url == url
    access = Access(logging.Logger("penstock.test"))
    access.use(Settings())
    host = url.removeprefix("http://").removesuffix("/")
    access.check_host(request_with({"host": host}), place)


@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)],
)
def test_pages_of_other_sites_are_refused(client: Client, site: str, status: int) -> None:
    assert get(client, "/status", Sec_Fetch_Site=site, **BEARER).status == status
    assert get(client, "/", Sec_Fetch_Site=site).status == 200  # a link leads here


# A unix socket


def test_a_unix_socket_needs_no_token_but_a_name_of_this_machine(tmp_path: Path) -> None:
    loop = ControlLoop()
    path, _ = loop.admin(f"unix:{tmp_path}/admin")
    with loop, Client(path) as client:
        assert get(client, "/").status == 200
        assert get(client, "/status").status == 200
        assert get(client, "/status", host="127.0.0.1:8001").status == 200
        # A tunnel may lead to the socket from a port, which a name of another site leads to.
        assert get(client, "/status", host="evil.test").status == 403
        assert get(client, "/status", host="192.0.2.1").status == 403
        assert get(client, "/status", Sec_Fetch_Site="cross-site").status == 403
        assert not loop.messages.texts


# It only reads


@pytest.mark.parametrize("path", [*FILES, *QUESTIONS])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(client: Client, path: str, method: str) -> None:
    response = get(client, path, method=method, **BEARER)
    assert response.status == 405
    assert response.header("Allow") == "GET, HEAD"


@pytest.mark.parametrize("target", COMMANDS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_command_can_be_given(
    loop: ControlLoop, client: Client, target: str, method: str
) -> None:
    response = get(client, target, method=method, Penstock_Control="1", **BEARER)
    assert response.status == 404
    assert loop.fake.asked.empty()


# What is left out


def test_query_strings_are_left_out_unless_they_are_asked_for(
    loop: ControlLoop, client: Client
) -> None:
    loop.fake.in_progress = [request(101, "/reset?token=hunter2'x?y"), request(101, "/plain")]
    targets = [row["target"] for row in value_of(get(client, "/requests", **BEARER))["requests"]]
    assert targets == ["/reset?...", "/plain"]
    shown = value_of(get(client, "/requests?queries=1", **BEARER))["requests"]
    assert [row["target"] for row in shown] == ["/reset?token=hunter2'x?y", "/plain"]
    assert (
        value_of(get(client, "/requests?queries=0", **BEARER))["requests"][0]["target"]
        == targets[0]
    )
    assert get(client, "/requests?other=1", **BEARER).status == 400


def test_messages_have_no_query_strings_either_and_never_a_password(
    loop: ControlLoop, client: Client
) -> None:
    text = "a request did not end: GET /reset?name=alice (is it?) at db://me:hunter2@db/x"
    loop.fake.last_error = {"at": 1.0, "message": text}
    loop.fake.events = [{"number": 1, "at": 2.0, "kind": "crash", "text": text}]
    loop.fake.findings = [{"rule": "x", "what": text, "advice": "see", "urgent": True}]
    for target in ("/status", "/history", "/findings"):
        body = get(client, target, **BEARER).body
        assert b"GET /reset?... (is it" in body
        assert b"alice" not in body
        shown = get(client, f"{target}?queries=1", **BEARER).body
        assert b"GET /reset?name=alice (is it" in shown
        for each in (body, shown):
            assert b"at db://***@db/x" in each
            assert b"hunter2" not in each


def test_stacks_name_the_requests_without_their_query_strings(
    loop: ControlLoop, client: Client
) -> None:
    stacks = 'thread a: GET /x?token=hunter2 (request 1-2, 3 s old)\n  File "x.py"\n    y = z?1:2\n'
    for query, found in (("", False), ("&queries=1", True)):
        client.send(
            f"GET /stacks?worker=102{query} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert loop.answer_stacks({102: stacks}) == 102
        text = value_of(client.read_response())["stacks"]["102"]
        assert ("hunter2" in text) is found
        assert "GET /x?" in text
        assert "y = z?1:2" in text  # code is no target


def test_stacks_are_those_of_one_worker(client: Client) -> None:
    assert get(client, "/stacks", **BEARER).status == 400


def test_settings_have_their_sources_and_no_secret(loop: ControlLoop, client: Client) -> None:
    loop.fake.settings = replace(
        Settings(), env=("KEY=hunter2",), threads=3, sources={"threads": "--threads"}
    )
    rows = {row["name"]: row for row in value_of(get(client, "/settings", **BEARER))["settings"]}
    assert (rows["threads"]["value"], rows["threads"]["source"]) == ("3", "--threads")
    assert "hunter2" not in str(rows)


def test_answers_are_bounded() -> None:
    rows = [request(1, "/")] * (MOST_REQUESTS + 5)
    value = bounded({"requests": rows})
    assert (len(value["requests"]), value["all"]) == (MOST_REQUESTS, MOST_REQUESTS + 5)
    text = bounded({"stacks": {"1": "x" * (MOST_OF_STACKS * 2)}})["stacks"]["1"]
    assert MOST_OF_STACKS < len(text) < MOST_OF_STACKS + 100
    assert bounded({"counts": {"requests": 3}}) == {"counts": {"requests": 3}}


def test_what_is_left_out_stays_in_what_was_given() -> None:
    row = request(1, "/x?secret")
    answer = {"requests": [row]}
    assert cleaned(answer, queries=False)["requests"][0]["target"] == "/x?..."
    assert row["target"] == "/x?secret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("GET /a?b=c d", "GET /a?... d"), ("what?", "what?"), ("is it? yes", "is it? yes"),
     ("/a?x /b?y", "/a?... /b?..."), ("/a?", "/a?")],
)  # fmt: skip
def test_query_strings_are_found_in_text(text: str, expected: str) -> None:
    assert hide_queries(text) == expected


# Slow readers


def test_a_client_that_reads_nothing_is_cut_off_and_others_are_answered(
    loop: ControlLoop, address: tuple[str, int]
) -> None:
    loop.fake.in_progress = [request(101, "/" + "x" * 290) for _ in range(MOST_REQUESTS * 2)]
    ask = f"GET /requests HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    slow = [Client(address, receive_buffer=4096) for _ in range(4)]
    try:
        for each in slow:
            each.send(ask.encode() * 100)  # more answers than the kernel keeps for a connection
        with Client(address) as client:
            assert get(client, "/readyz").status == 200

            def are_cut_off() -> bool:
                loop.expire(6.0)
                return len(loop.services[0]._connections) <= 1

            eventually(are_cut_off)
            assert get(client, "/readyz").status == 200
    finally:
        for each in slow:
            each.close()
