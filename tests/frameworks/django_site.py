"""The common pages in Django, in one module: settings, views and addresses."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import etag

from frameworks.contents import PAGE, PAGE_ETAG, hang, stream, summary

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="known to every reader",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATA_UPLOAD_MAX_MEMORY_SIZE=16 * 1024 * 1024,
    )
    django.setup()


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    return text(f"{request.POST['title']} {file.name} {summary(file.read())}")


def body(request: HttpRequest) -> HttpResponse:
    return text(summary(request.body))


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(stream(), content_type="application/octet-stream")


@etag(lambda request: f'"{PAGE_ETAG}"')
def page(request: HttpRequest) -> HttpResponse:
    return text(PAGE)


def cookies(request: HttpRequest) -> HttpResponse:
    response = text(str(sorted(request.COOKIES.items())))
    response.set_cookie("first", "1")
    response.set_cookie("second", "2", httponly=True)
    return response


def text(content: str) -> HttpResponse:
    return HttpResponse(content, content_type="text/plain; charset=utf-8")


def hanging(request: HttpRequest) -> HttpResponse:
    hang()
    return text("")


urlpatterns = [
    path("hang", hanging),
    path("upload", upload),
    path("body", body),
    path("stream", streamed),
    path("page", page),
    path("cookies", cookies),
]
app = get_wsgi_application()
