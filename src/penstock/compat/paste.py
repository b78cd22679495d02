"""Applications that PasteDeploy describes: the file that ``--paste`` names, as under gunicorn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def load(uri: str, variables: Sequence[str] = ()) -> WSGIApplication:
    """Return the application of a file such as ``production.ini`` or ``production.ini#api``.

    ``variables`` are texts ``NAME=VALUE`` for the file. Needs the package PasteDeploy; raises
    `SettingsError` without it.
    """
    try:
        from paste.deploy import loadapp  # type: ignore[import-untyped]
    except ImportError:
        raise SettingsError(
            f"paste is {uri!r}, which needs the package PasteDeploy: pip install PasteDeploy"
        ) from None
    if not uri.startswith(("config:", "egg:")):
        uri = f"config:{uri}"
    conf = dict(entry.partition("=")[::2] for entry in variables)
    application: WSGIApplication = loadapp(uri, relative_to=os.getcwd(), global_conf=conf)
    return application
