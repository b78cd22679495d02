"""``egg:penstock#main`` in a file of PasteDeploy."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from support.server_process import START_WITHIN, STOP_WITHIN, checkout_environ

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
    with subprocess.Popen(
        [sys.executable, "-m", "pyramid.scripts.pserve", "production.ini"],
        cwd=tmp_path,
        env=checkout_environ() | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": _path(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if " serving " in line)
            url = next(word for word in line.split() if word.startswith("http://"))
            with urlopen(url, timeout=START_WITHIN) as response:
                assert response.read() == b"from paste"
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            process.wait(STOP_WITHIN)


def _path(directory: Path) -> str:
    return f"{directory}:{checkout_environ()['PYTHONPATH']}"
