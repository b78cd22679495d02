"""The dashboard of a real server: in a browser, and as its events tell what happens to it."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.acme_authority import free_port
from support.chromium import needs_chromium
from support.devtools import Page
from support.invariant import eventually
from support.lifecycle import Supervised
from support.server_process import ServerProcess
from support.threads import running
from support.wire import Client

TOKEN = "0123456789abcdef0123456789abcdef"
HOSTILE = "/<img/src=x/onerror=alert(1)>"
"""What a path can have in it without being refused."""

APPLICATION = """
import os, threading
from pathlib import Path

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise ValueError
    if path == "/slow":
        threading.Event().wait(0.1)
    if path == "/die":
        os._exit(7)
    if path.startswith("/<img") or path == "/hold":
        Path("held").touch()
        wait_for_the_end()
    status = "404 Not Found" if path == "/missing" else "200 OK"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]

def wait_for_the_end():
    pause = threading.Event()
    while not Path("end").exists():
        pause.wait(0.02)
"""


@contextmanager
def dashboard(folder: Path, *arguments: str) -> Iterator[tuple[Supervised, int]]:
    """Serve the application, with a dashboard at a port."""
    (folder / "shop.py").write_text(APPLICATION)
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    port = free_port()
    options = ("--admin", f"127.0.0.1:{port}", "--admin-token-file", "token", "--timeout", "0",
               "--threads", "4", "--log-level", "debug", *arguments)  # fmt: skip
    with Supervised(folder, *options) as server:
        try:
            yield server, port
        finally:
            (folder / "end").touch()


def ask(port: int, target: str) -> Any:
    with Client(("127.0.0.1", port)) as client:
        fields = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}"}
        response = client.request("GET", target, fields)
        assert response.status == 200, (target, response)
        return json.loads(response.body)


@contextmanager
def load(server: ServerProcess) -> Iterator[None]:
    """Have requests made all the time, some of which get 404."""

    def run(ended: threading.Event) -> None:
        while not ended.is_set():
            connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
            try:
                for path in ("/", "/", "/missing"):
                    connection.request("GET", path)
                    connection.getresponse().read()
                    ended.wait(0.02)
            except (OSError, http.client.HTTPException):
                ended.wait(0.02)  # its worker was replaced
            finally:
                connection.close()

    with running(run, 3):
        yield


@contextmanager
def held(server: ServerProcess, folder: Path, target: str) -> Iterator[None]:
    """Have a request in the application for as long as the block lasts."""
    with Client(server.address) as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: shop.test\r\n\r\n".encode())
        assert eventually((folder / "held").exists)
        yield


@needs_chromium
def test_the_page_shows_what_a_server_under_load_does(tmp_path: Path, transport: str) -> None:
    arguments = ("--workers", "2", "--env", "KEY=hunter2", "--transport", transport)
    with dashboard(tmp_path, *arguments) as (server, port):
        target = f"{HOSTILE}?token=hunter2"
        with Client(server.address) as client:
            client.send(b"GET /<b>x</b> HTTP/1.1\r\nHost: shop.test\r\nX: a\x01b\r\n\r\n")
            assert client.read_response().status == 400
        assert [server.ask(path).status for path in ("/slow", "/fail")] == [200, 500]
        with load(server), held(server, tmp_path, target), browser(tmp_path, port) as page:
            page.open(f"http://localhost:{port}/")
            # Without a token it asks for one, and with a wrong one again.
            page.wait_for("document.activeElement.id === 'token'")
            assert not page.errors
            page.type("wrong token")
            page.click("#login-form button")
            page.wait_for("document.getElementById('login-error').textContent")
            page.errors.clear()  # Chromium logs each response with status 401
            page.type(TOKEN)
            page.click("#login-form button")
            page.wait_for("!document.getElementById('page').hidden")
            check_rates(page)
            check_phases(page, transport)
            check_the_request(page)
            check_the_refusal(page)
            page.click("#settings-details summary")
            settings = page.wait_for("document.getElementById('settings').innerText")
            assert "KEY=***" in settings
            assert "hunter2" not in page.evaluate("document.documentElement.outerHTML")
            assert page.evaluate("sessionStorage.length + localStorage.length") == 1
            assert page.evaluate("document.cookie") == ""
            for width, dark in ((390, True), (1280, False), (1920, True)):
                page.look(width, 900, dark=dark)
                fits = "document.documentElement.scrollWidth <= innerWidth"
                page.wait_for(fits)
            assert not page.errors


def browser(folder: Path, port: int) -> Page:
    """Return a browser that finds the dashboard as localhost, and nothing else."""
    return Page(folder / "profile", {f"localhost:{port}": port})


def check_rates(page: Page) -> None:
    """See that charts and tiles have what the load makes."""
    rate = "document.querySelector('#tiles .tile .value').textContent"
    page.wait_for(f"parseFloat({rate}) > 1")
    assert page.evaluate(rate).endswith("/s")
    for key in ("2xx", "4xx"):
        page.wait_for(f"document.querySelector('.chart .area.k-{key}') !== null")
    page.wait_for("document.querySelector('.chart .k-p99:is(.line, .dot)') !== null")
    page.wait_for("document.querySelectorAll('#workers tbody tr').length === 2")
    assert "start" in page.text("#events")


def check_phases(page: Page, transport: str) -> None:
    """See that the wait for the interpreter lock is shown where it is counted."""
    page.wait_for("document.querySelector('.chart .area.k-application') !== null")
    if transport == "native":
        page.wait_for("document.querySelector('.chart .k-lock:is(.line, .dot)') !== null")
        assert "lock wait" in page.text(".legend:has(.k-lock)")
    else:
        assert "lock wait" not in page.text(".legend:has(.k-lock)")
        assert page.evaluate("document.querySelector('.chart .k-lock.line')") is None


def check_the_refusal(page: Page) -> None:
    """See that a refused request is there, with an arrow at the byte, also without the others."""
    kinds_shown = "[...document.querySelectorAll('#notable tbody td:first-child')]"
    shown_once = f"[...new Set({kinds_shown}.map(cell => cell.textContent))].join()"
    page.wait_for(f"{shown_once} === 'slow,failed,refused'")
    page.click("[data-kind=refused]")
    page.wait_for(f"{shown_once} === 'refused'")
    assert page.text("[data-kind=refused]") == "Refused 1"
    shown = "document.querySelector('#notable .excerpt')"
    page.wait_for(f"{shown} !== null")
    line, arrow = page.evaluate(f"{shown}.textContent").split("\n")
    assert line.startswith("X: a\\x01b")
    assert arrow == "    ^"
    assert page.evaluate("document.querySelectorAll('#notable b').length") == 0


def check_the_request(page: Page) -> None:
    """See that a hostile path is text, and that a click shows where its request is."""
    rows = "[...document.querySelectorAll('#requests button')]"
    row = f"{rows}.find(row => row.textContent.includes({HOSTILE!r}))"
    page.wait_for(row + " !== undefined")
    assert page.evaluate(f"{row}.textContent") == f"GET {HOSTILE}?..."
    page.evaluate(f"{row}.id = 'hostile'")
    page.click("#hostile")
    stack = "document.getElementById('stack-own').textContent"
    page.wait_for(f"{stack}.includes('in wait_for_the_end')")
    assert page.evaluate(f"{stack}.includes({HOSTILE!r})")
    assert page.text("#stack-title") == f"GET {HOSTILE}?..."
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    page.click("#stack-close")
    page.wait_for("!document.getElementById('stack').open")


@needs_chromium
def test_a_link_with_the_token_opens_the_page_and_leaves_no_trace_of_it(tmp_path: Path) -> None:
    with dashboard(tmp_path) as (_, port), browser(tmp_path, port) as page:
        page.open(f"http://localhost:{port}/#token={TOKEN}")
        page.wait_for("document.querySelectorAll('#workers tbody tr').length === 1")
        assert page.evaluate("location.href") == f"http://localhost:{port}/"
        assert not page.errors
        page.click("#forget")
        page.wait_for("!document.getElementById('login').hidden")
        assert page.evaluate("sessionStorage.length") == 0


@needs_chromium
def test_another_sites_page_cannot_read_or_frame_it(tmp_path: Path) -> None:
    # The name of another site leads to this address, as with DNS rebinding.
    with dashboard(tmp_path) as (_, port):
        with Page(tmp_path / "profile", {f"evil.test:{port}": port}) as page:
            page.open(f"http://evil.test:{port}/healthz")
            page.wait_for("document.body.innerText.includes('ok')")
            for path in ("/", "/dashboard.js", "/status"):
                assert page.evaluate(f"fetch({path!r}).then(answer => answer.status)") == 403


def kinds(port: int) -> list[str]:
    return [event["kind"] for event in ask(port, "/history")["events"]]


def test_what_happens_to_the_server_is_an_event_each(tmp_path: Path) -> None:
    with dashboard(tmp_path, "--workers", "1") as (server, port):
        assert kinds(port) == ["start"]
        server.signal(signal.SIGHUP)
        assert eventually(lambda: kinds(port) == ["start", "reload"], 30)
        old = server.workers()
        with Client(server.address) as client:
            client.send(b"GET /die HTTP/1.1\r\nHost: shop.test\r\n\r\n")
            assert eventually(lambda: "crash" in kinds(port))
            # Its successor would find the file that comes now, and crash, too.
            server.wait_for_workers(1, old)
        with Client(server.address) as client:
            assert client.request("GET", "/").status == 200  # by now it has loaded it
        (tmp_path / "shop.py").write_text("def app(:")
        server.signal(signal.SIGHUP)
        assert eventually(lambda: "reload failed" in kinds(port), 30)
        events = ask(port, "/history")["events"]
        # The worker that could not load the application counts as one that crashed.
        expected = ["start", "reload", "crash", "crash", "reload failed"]
        assert [event["kind"] for event in events] == expected
        assert [event["number"] for event in events] == [1, 2, 3, 4, 5]
        assert "exit status 7" in events[2]["text"]
        assert "SyntaxError" in events[4]["text"]
        later = int(events[-1]["at"]) + 1
        assert ask(port, f"/history?since={later}")["events"] == []


def test_a_new_supervisor_says_which_one_it_replaced(tmp_path: Path) -> None:
    with dashboard(tmp_path, "--pid", "pid") as (server, port):
        before = server.supervisor
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: server.has_new_supervisor(tmp_path / "pid"), 30)
        assert eventually(lambda: kinds(port) == ["start", "upgrade"], 30)
        assert str(before) in ask(port, "/history")["events"][1]["text"]


@pytest.mark.parametrize("most", [1, 2])
def test_history_comes_in_parts(tmp_path: Path, most: int) -> None:
    with dashboard(tmp_path) as (_, port):
        assert eventually(lambda: len(ask(port, "/history")["rows"]) >= 2, 40)
        whole = ask(port, "/history")
        part = ask(port, f"/history?most={most}")
        assert part["rows"] == whole["rows"][:most]
        assert part["more"] >= len(whole["rows"]) - most
        assert whole["more"] == 0
        last = int(whole["rows"][0][0])
        assert ask(port, f"/history?since={last + 1}")["rows"] == whole["rows"][1:]
