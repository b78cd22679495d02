"""A head made of the same objects as the last one is what these objects say, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import StartResponse

import penstock
from support.serving import Environ, connect

OK, GONE = "200 OK", "410 Gone"
TEXT, HTML = ("Content-Type", "text/plain"), ("Content-Type", "text/html")
TWO, THREE = ("Content-Length", "2"), ("Content-Length", "3")
MARK, SPLIT = ("X-Mark", "a"), ("X-Mark", "a\r\nX-Other: b")
KEPT = [TEXT, TWO]


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/literal":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    elif path == "/kept":
        start_response(OK, KEPT)
    else:
        status, fields = HEADS[path]
        start_response(status, list(fields))
    return [b"ok"]


HEADS = {
    "/first": (OK, [TEXT, TWO]),
    "/status": (GONE, [TEXT, TWO]),
    "/order": (OK, [TWO, TEXT]),
    "/value": (OK, [HTML, TWO]),
    "/more": (OK, [TEXT, TWO, MARK]),
    "/fewer": (OK, [TEXT]),
    "/wrong-length": (OK, [TEXT, THREE]),
    "/split": (OK, [TEXT, TWO, SPLIT]),
}


def test_each_response_has_the_head_that_its_call_gave(transport: str) -> None:
    with penstock.running(app, transport=transport, threads=1) as server, connect(server) as client:
        for path in ("/first", "/first", *HEADS, *reversed(HEADS), "/literal", "/literal"):
            if path in ("/wrong-length", "/split"):
                with connect(server) as other:
                    refused = other.request("GET", path)
                    assert refused.header("X-Other") is None
                    assert refused.status == 500 if path == "/split" else not refused.complete
                continue
            response = client.request("GET", path)
            assert response.body == b"ok"
            status, fields = HEADS.get(path, HEADS["/first"])
            assert response.status == int(status[:3])
            assert response.header("Content-Type") == dict(fields)["Content-Type"]
            assert response.header("X-Mark") == ("a" if path == "/more" else None)
            assert response.header("Content-Length") == "2"


def test_a_list_that_the_application_keeps_and_changes_is_read_again(transport: str) -> None:
    with penstock.running(app, transport=transport, threads=1) as server, connect(server) as client:
        assert client.request("GET", "/kept").header("Content-Type") == "text/plain"
        assert client.request("GET", "/kept").header("Content-Type") == "text/plain"
        KEPT[0] = HTML
        try:
            assert client.request("GET", "/kept").header("Content-Type") == "text/html"
        finally:
            KEPT[0] = TEXT
