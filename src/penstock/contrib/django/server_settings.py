"""From Django's settings to those of the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings as django_settings

from penstock.config.settings import OPTIONS
from penstock.config.sources import convert, unknown
from penstock.errors import SettingsError

DEVELOPMENT = "penstock.contrib.django.wsgi:development()"
PRODUCTION = "penstock.contrib.django.wsgi:application"


def variables() -> dict[str, str]:
    """Return the setting ``PENSTOCK`` of the project as the server's environment variables.

    It is a mapping such as ``{"workers": 4, "bind": "0.0.0.0:8000"}``, by the names of the
    server's settings. Raises `SettingsError` for what is none, or has a value that is not allowed.
    """
    given = getattr(django_settings, "PENSTOCK", {})
    if not isinstance(given, Mapping):
        raise SettingsError("PENSTOCK in Django's settings is a mapping, as in {'workers': 4}")
    found = {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise unknown(f"setting {name!r} in Django's PENSTOCK", str(name), OPTIONS, "name")
        option = OPTIONS[name]
        found[option.variable] = option.kind.show(convert(option, value, f"PENSTOCK[{name!r}]"))
    return found


def value_of(name: str) -> object:
    """Return a setting of the server: from the environment, from ``PENSTOCK``, or the default."""
    option = OPTIONS[name]
    text = os.environ.get(option.variable) or variables().get(option.variable)
    return option.default if text is None else convert(option, text, option.variable)


def application() -> str:
    """Return the specification of the project's application, as the command takes it."""
    if django_settings.DEBUG and apps.is_installed("django.contrib.staticfiles"):
        return DEVELOPMENT
    place = django_settings.WSGI_APPLICATION
    if place is None:
        return PRODUCTION
    module, _, name = place.rpartition(".")
    return f"{module}:{name}"


def static_files() -> str | None:
    """Return the value of ``static`` that serves what ``collectstatic`` has collected.

    None where there is nothing of the kind, or where WhiteNoise does it.
    """
    root = getattr(django_settings, "STATIC_ROOT", None)
    prefix = urlsplit(django_settings.STATIC_URL or "")
    if not root or prefix.netloc or not prefix.path.strip("/") or not Path(root).is_dir():
        return None
    if any("whitenoise" in name.lower() for name in django_settings.MIDDLEWARE):
        return None
    return f"/{prefix.path.strip('/')}={Path(root).resolve()}"
