"""What is kept of a request's fields for the next ones must not change what any of them says."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from wsgiref.types import StartResponse

import penstock
from support.serving import TEXT, Environ, Place, connect
from support.wire import Client

Fields = Sequence[tuple[str, str]]

USUAL: Fields = (
    ("Host", "a.example"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "*/*"),
    ("Cookie", "session=1"),
    ("Proxy", "never shown"),
    ("Referer", "http://a.example/1"),
    ("X-Umlaut", "\xe4"),
)
KINDS: Sequence[Fields] = (
    USUAL,
    USUAL[:4],
    (*USUAL, ("Cookie", "theme=dark")),
    (*USUAL, ("X_Under", "score")),
    (*USUAL, ("Content-Type", "text/plain"), ("Content-Length", "3")),
    tuple((name.upper(), value) for name, value in USUAL),
)
"""Of each there are requests with other values: in one field, in some, in all of them."""

VALUES = ("", "x", "y" * 200, "session=2", "b.example:80", "\xfc, z")


def show(environ: Environ, start_response: StartResponse) -> list[bytes]:
    shown = {key: value for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_"))}
    shown.pop("HTTP_X_REQUEST_START", None)  # the server's, where a request has waited for a thread
    shown["body"] = environ["wsgi.input"].read().decode()
    start_response("200 OK", TEXT)
    return [json.dumps(shown).encode()]


def ask(client: Client, fields: Fields) -> dict[str, object]:
    """Return what the application is shown of these fields."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    has_body = any(name == "Content-Length" for name, _ in fields)
    start = "POST" if has_body else "GET"
    body = "abc" if has_body else ""
    client.send(f"{start} / HTTP/1.1\r\n{lines}\r\n{body}".encode("latin-1"))
    response = client.read_response()
    assert response.status == 200, response.body
    shown: dict[str, object] = json.loads(response.body)
    return shown


def expected(fields: Fields, *, underscores: bool = False) -> dict[str, str]:
    """Return what PEP 3333, RFC 3875 and the setting `header_map` have of these fields."""
    shown = {"body": ""}
    for name, value in fields:
        key = "HTTP_" + name.upper().replace("-", "_")
        if name == "Proxy" or name == "PROXY" or ("_" in name and not underscores):
            continue
        if name in ("Content-Type", "Content-Length"):
            key = key.removeprefix("HTTP_")
        if name == "Content-Length":
            shown["body"] = "abc"
        joint = "; " if name.lower() == "cookie" else ","
        shown[key] = f"{shown[key]}{joint}{value}" if key in shown else value
    return shown


def changed(fields: Fields, dice: random.Random) -> Fields:
    """Return the same fields with some other values."""
    share = dice.choice((0, 0, 0.2, 0.5, 1))
    return [
        (name, dice.choice(hosts_or_values(name)) if dice.random() < share else value)
        for name, value in fields
    ]


def hosts_or_values(name: str) -> Sequence[str]:
    """Return values that a field of this name may have."""
    match name.lower():
        case "host":
            return ("b.example", "c.example:80")
        case "content-length":
            return ("3",)
        case _:
            return VALUES


def ask_many(server: Place, *, underscores: bool = False) -> None:
    dice = random.Random(3)
    clients = [connect(server) for _ in range(3)]
    try:
        for _ in range(400):
            fields = changed(dice.choice(KINDS), dice)
            shown = ask(dice.choice(clients), fields)
            assert shown == expected(fields, underscores=underscores), fields
    finally:
        for client in clients:
            client.close()


def test_PEP3333_each_environ_has_the_values_of_its_own_request(transport: str) -> None:
    with penstock.running(show, transport=transport, threads=1) as server:
        ask_many(server)


def test_each_environ_has_its_own_values_where_several_threads_read(transport: str) -> None:
    with penstock.running(show, transport=transport, threads=4) as server:
        ask_many(server)


def test_header_map_holds_for_fields_that_come_again(transport: str) -> None:
    with penstock.running(show, transport=transport, header_map="dangerous") as server:
        ask_many(server, underscores=True)


def test_each_listener_has_its_own_environ(transport: str, tmp_path: Path) -> None:
    """What is kept for the same fields of another listener has that one's variables."""

    def peer(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        shown = {"address": environ["REMOTE_ADDR"], "has port": "REMOTE_PORT" in environ}
        return [json.dumps(shown).encode()]

    path = str(tmp_path / "socket")
    binds = ["127.0.0.1:0", f"unix:{path}"]
    with penstock.running(peer, transport=transport, bind=binds) as server:
        with connect(server) as by_tcp, Client(path) as by_unix:
            for _ in range(4):
                assert ask(by_tcp, USUAL) == {"address": "127.0.0.1", "has port": True}
                assert ask(by_unix, USUAL) == {"address": "", "has port": False}
