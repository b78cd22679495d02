"""The common pages in Bottle."""

from __future__ import annotations

from collections.abc import Iterator

import bottle

from frameworks.contents import PAGE, PAGE_ETAG, stream, summary

app = bottle.Bottle()
bottle.BaseRequest.MEMFILE_MAX = 16 * 1024 * 1024


@app.post("/upload")
def upload() -> str:
    file = bottle.request.files["file"]
    title = bottle.request.forms["title"]
    return f"{title} {file.raw_filename} {summary(file.file.read())}"


@app.route("/body", method=["POST", "PUT"])
def body() -> str:
    return summary(bottle.request.body.read())


@app.get("/stream")
def streamed() -> Iterator[bytes]:
    bottle.response.content_type = "application/octet-stream"
    return stream()


@app.get("/page")
def page() -> str | bottle.HTTPResponse:
    etag = f'"{PAGE_ETAG}"'
    if bottle.request.get_header("If-None-Match") == etag:
        return bottle.HTTPResponse(status=304, headers={"ETag": etag})
    bottle.response.content_type = "text/plain"
    bottle.response.set_header("ETag", etag)
    return PAGE


@app.get("/cookies")
def cookies() -> str:
    bottle.response.content_type = "text/plain"
    bottle.response.set_cookie("first", "1")
    bottle.response.set_cookie("second", "2", httponly=True)
    return str(sorted(bottle.request.cookies.items()))
