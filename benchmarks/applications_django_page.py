"""A Django application in one file: a page as a site has it."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

from applications_page import DJANGO_TEMPLATE, ROWS, SECRET

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET,
    # A session in a signed cookie, as Flask has it: no database is to be measured.
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)


def page(request: HttpRequest) -> HttpResponse:
    """Count the visit in the session, which is a signed cookie, and render a template."""
    visits = request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(_template.render({"rows": ROWS, "visits": visits}, request))


urlpatterns = [path("hello", page), path("page", page)]
app = get_wsgi_application()
_template = engines["django"].from_string(DJANGO_TEMPLATE)
