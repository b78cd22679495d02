"""The common pages in Pyramid."""

from __future__ import annotations

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from frameworks.contents import PAGE, PAGE_ETAG, stream, summary


class InMemoryRequest(Request):
    """WebOb copies a larger body to a file of its own, and leaves that for the collector."""

    request_body_tempfile_limit = 16 * 1024 * 1024


def upload(request: Request) -> Response:
    file = request.POST["file"]
    return text(f"{request.POST['title']} {file.filename} {summary(file.file.read())}")


def body(request: Request) -> Response:
    return text(summary(request.body))


def streamed(request: Request) -> Response:
    return Response(app_iter=stream(), content_type="application/octet-stream")


def page(request: Request) -> Response:
    response = text(PAGE)
    response.etag = PAGE_ETAG
    response.conditional_response = True
    return response


def cookies(request: Request) -> Response:
    response = text(str(sorted(request.cookies.items())))
    response.set_cookie("first", "1")
    response.set_cookie("second", "2", httponly=True)
    return response


def text(content: str) -> Response:
    return Response(content, content_type="text/plain", charset="utf-8")


config = Configurator(request_factory=InMemoryRequest)
for name, view in {
    "upload": upload,
    "body": body,
    "stream": streamed,
    "page": page,
    "cookies": cookies,
}.items():
    config.add_route(name, "/" + name)
    config.add_view(view, route_name=name)
app = config.make_wsgi_app()
