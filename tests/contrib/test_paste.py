"""``egg:penstock#main`` in a file of PasteDeploy."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

from support.other_commands import served_by
from support.server_process import START_WITHIN, checkout_environ

CONFIGURATION = """
[app:main]
paste.app_factory = site_of_paste:create

[server:main]
use = egg:penstock#main
host = 127.0.0.1
port = 0
threads = 2
"""

SITE = """
def create(global_conf, **settings):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"from paste"]
    return app
"""


def test_pserve_serves_with_penstock(tmp_path: Path) -> None:
    (tmp_path / "site_of_paste.py").write_text(SITE)
    (tmp_path / "production.ini").write_text(CONFIGURATION)
    environ = {"PYTHONWARNINGS": "ignore", "PYTHONPATH": _path(tmp_path)}
    command = ("-m", "pyramid.scripts.pserve", "production.ini")
    with (
        served_by(*command, cwd=tmp_path, environ=environ) as (url, _),
        urlopen(url, timeout=START_WITHIN) as response,
    ):
        assert response.read() == b"from paste"


def _path(directory: Path) -> str:
    return f"{directory}:{checkout_environ()['PYTHONPATH']}"
