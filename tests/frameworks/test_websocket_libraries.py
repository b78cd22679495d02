"""Libraries that speak WebSocket in WSGI applications, with the client of ``websockets``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import flask
import flask_sock
import flask_socketio
import pytest
import simple_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from penstock.telemetry.scoreboard import WEBSOCKETS
from support.certificates import authority, material
from support.chromium import chromium, needs_chromium
from support.fake_exchange import Records
from support.serving import Environ, eventually
from support.transports import LOGGER, BareServer, serving
from support.wire import DEADLINE, Client

BROWSER_SECONDS = 60.0
"""Chromium takes a second or two on a quiet machine."""

site = flask.Flask(__name__)
sock = flask_sock.Sock(site)
site.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": DEADLINE}


@sock.route("/echo")
def echo(ws: simple_websocket.Server) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/once")
def once(ws: simple_websocket.Server) -> None:
    ws.send(ws.receive())


@sock.route("/fail")
def fail(ws: simple_websocket.Server) -> None:
    raise ValueError("a defect of the view")


@site.get("/")
def index() -> str:
    return "hello"


def bare(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Use simple-websocket as its documentation does, and end as each kind of server needs it."""
    ws = simple_websocket.Server.accept(environ, ping_interval=DEADLINE)
    try:
        while True:
            ws.send(ws.receive())
    except simple_websocket.ConnectionClosed:
        pass
    if ws.mode == "gunicorn":
        raise StopIteration
    if ws.mode == "werkzeug":
        raise ConnectionError
    return []


def without_werkzeug(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    del environ["werkzeug.socket"]
    return bare(environ, start_response)


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, transport: str) -> Any:
    if request.param == "plain":
        return None
    request.getfixturevalue("tls_transport")
    return material()


@contextmanager
def serving_on(transport: str, tls: Any, app: WSGIApplication) -> Iterator[Any]:
    """Serve, and give the function that opens a WebSocket, and the server."""
    context = authority().client_context() if tls else None
    scheme = "wss" if tls else "ws"
    with serving(app, transport, threads=2, max_websockets=8, tls=tls) as server:

        def opening(path: str) -> ClientConnection:
            url = f"{scheme}://{server.host}:{server.port}{path}"
            return open_websocket(url, ssl=context, open_timeout=DEADLINE, max_size=None)

        yield opening, server


def check_echo(opening: Callable[[str], ClientConnection], server: BareServer, path: str) -> None:
    with opening(path) as ws:
        for message in ("text", "\u20ac" * 70_000, b"", os.urandom(1_000_000)):
            ws.send(message)
            assert ws.recv(DEADLINE) == message
        assert ws.ping().wait(DEADLINE)
        ws.send(["fragment ", "after ", "fragment"])
        assert ws.recv(DEADLINE) == "fragment after fragment"
    assert ws.close_code == 1000
    eventually(lambda: server.word(WEBSOCKETS) == 0)


def test_flask_sock(transport: str, tls: Any) -> None:
    log = Records()
    LOGGER.addHandler(log)
    try:
        with serving_on(transport, tls, site) as (opening, server):
            check_echo(opening, server, "/echo")
            with opening("/once") as ws:
                ws.send("last")
                assert ws.recv(DEADLINE) == "last"
                with pytest.raises(ConnectionClosed):
                    ws.recv(DEADLINE)
                assert ws.close_code == 1000
            with opening("/fail") as ws, pytest.raises(ConnectionClosed):
                ws.recv(DEADLINE)
            with pytest.raises(InvalidStatus) as refused:
                opening("/")
            assert refused.value.response.status_code == 400  # Flask: no such WebSocket
            with opening("/echo") as ws:
                server.transport.drain()
                with pytest.raises(ConnectionClosed):
                    ws.recv(DEADLINE)
                assert ws.close_code == 1001
            eventually(server.is_over)
    finally:
        LOGGER.removeHandler(log)
    assert not log.lines


@pytest.mark.parametrize("app", [bare, without_werkzeug])
def test_simple_websocket(transport: str, tls: Any, app: WSGIApplication) -> None:
    with serving_on(transport, tls, app) as (opening, server):
        check_echo(opening, server, "/")


def test_flask_socketio_with_threads(transport: str, tls: Any) -> None:
    """Also from a long poll to a WebSocket, as its clients do it."""
    flask_app = flask.Flask(__name__)
    socketio = flask_socketio.SocketIO(
        flask_app, async_mode="threading", monitor_clients=False, ping_interval=1
    )

    @socketio.on("add")
    def add(first: int, second: int) -> None:
        flask_socketio.emit("sum", first + second)

    def receive(ws: ClientConnection) -> str:
        while (received := str(ws.recv(DEADLINE))) in ("2", "6"):
            pass  # a ping, or a noop
        return received

    def exchange(ws: ClientConnection) -> None:
        ws.send('42["add",2,3]')
        assert receive(ws) == '42["sum",5]'

    with serving_on(transport, tls, flask_app) as (opening, server):
        with opening("/socket.io/?EIO=4&transport=websocket") as ws:
            assert json.loads(receive(ws)[1:])["sid"]
            ws.send("40")
            assert receive(ws).startswith("40{")
            exchange(ws)
        if tls is None:
            with Client((server.host, server.port)) as client:
                polled = client.request("GET", "/socket.io/?EIO=4&transport=polling").body
                session = f"&sid={json.loads(polled[1:])['sid']}"
                polling = f"/socket.io/?EIO=4&transport=polling{session}"
                assert client.request("POST", polling, body=b"40").status == 200
                assert client.request("GET", polling).body.startswith(b"40{")
            with opening(f"/socket.io/?EIO=4&transport=websocket{session}") as ws:
                ws.send("2probe")
                assert receive(ws) == "3probe"
                ws.send("5")
                exchange(ws)
        eventually(lambda: server.word(WEBSOCKETS) == 0)
    eventually(lambda: not any("_send_ping" in each.name for each in threading.enumerate()))


PAGE = b"""<!doctype html><title>A site</title><link rel="icon" href="data:,"><script>
const found = {texts: [], bytes: 0};
const ws = new WebSocket(location.href.replace("http", "ws") + "echo");
ws.binaryType = "arraybuffer";
ws.onopen = () => { ws.send("one"); ws.send("\\u20ac"); ws.send(new Uint8Array(200000)); };
ws.onmessage = (event) => {
    if (typeof event.data === "string") found.texts.push(event.data);
    else { found.bytes = event.data.byteLength; ws.close(3001, "done"); }
};
ws.onclose = (event) => {
    Object.assign(found, {code: event.code, clean: event.wasClean});
    fetch("/report", {method: "POST", body: JSON.stringify(found)});
};
</script>"""


@needs_chromium
def test_chromium(transport: str, tls: Any, tmp_path: Path) -> None:
    reports: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/echo":
            return site(environ, start_response)
        if environ["PATH_INFO"] == "/report":
            reports.append(json.loads(environ["wsgi.input"].read()))
        start_response("200 OK", [("Content-Type", "text/html")])
        return [PAGE]

    with serving_on(transport, tls, app) as (_, server):
        port = 443 if tls else 80
        names = {f"shop.test:{port}": server.port}
        url = f"{'https' if tls else 'http'}://shop.test/"
        with subprocess.Popen(
            chromium(tmp_path / "profile", names, url),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as browser:
            try:
                eventually(lambda: reports, BROWSER_SECONDS)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
    expected = {"texts": ["one", "\u20ac"], "bytes": 200_000, "code": 3001, "clean": True}
    assert reports == [expected]
