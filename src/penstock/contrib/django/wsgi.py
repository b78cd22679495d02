"""The project's application, for projects that name none, and for development."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

application: WSGIApplication = get_wsgi_application()


def development() -> WSGIApplication:
    """Return the project's application, which also serves the static files of all its apps."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    place = settings.WSGI_APPLICATION
    return StaticFilesHandler(application if place is None else import_string(place))
