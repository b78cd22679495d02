"""An application in Django, watched by Elastic's agent, as its manual says."""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["elasticapm.contrib.django"],
    MIDDLEWARE=["elasticapm.contrib.django.middleware.TracingMiddleware"],
)


def answer(request: HttpRequest, mark: str) -> HttpResponse:
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("marks/<mark>", answer)]

# The agent looks at the arguments of `manage.py`, and does nothing under some of its commands.
sys.argv[1:] = []
django.setup()
app = WSGIHandler()
