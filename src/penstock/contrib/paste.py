"""PasteDeploy: ``use = egg:penstock#main`` in the section of the server, for ``pserve``.

`penstock --paste production.ini` serves the application of such a file with all processes and all
settings; what it loads is in `penstock.compat.paste`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import penstock

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def serve(application: WSGIApplication, global_conf: object, **settings: object) -> int:
    """Serve an application until a signal, as PasteDeploy's ``server_runner``.

    ``settings`` are those of the section: `penstock.serve`'s by name, and ``host`` and ``port``.
    Everything runs in this one process. Raises `penstock.errors.SettingsError`.
    """
    host, port = settings.pop("host", "127.0.0.1"), settings.pop("port", "8080")
    settings.setdefault("bind", f"{host}:{port}")
    return penstock.serve(application, **settings)
