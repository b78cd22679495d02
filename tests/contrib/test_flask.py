"""``flask --app x penstock``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from support.other_commands import served_by
from support.server_process import START_WITHIN, checkout_environ

SITE = """
from flask import Flask

def create_app(name="shop"):
    app = Flask(__name__)
    app.add_url_rule("/", "index", lambda: name)
    return app
"""


@pytest.mark.parametrize(
    ("spec", "answer"),
    [("site_of_flask", b"shop"), ("site_of_flask:create_app('other')", b"other")],
)
def test_flask_serves_an_application_in_every_form_that_it_knows(
    tmp_path: Path, spec: str, answer: bytes
) -> None:
    (tmp_path / "site_of_flask.py").write_text(SITE)
    command = ["flask", "--app", spec, "penstock", "--bind", "127.0.0.1:0", "--workers", "2"]
    with (
        served_by("-m", *command, cwd=tmp_path) as (url, process),
        urlopen(url, timeout=START_WITHIN) as response,
    ):
        assert response.read() == answer
    assert process.returncode == 0


def test_flasks_debug_adds_reload(tmp_path: Path) -> None:
    (tmp_path / "site_of_flask.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "site_of_flask", "--debug", "penstock", "--check"],
        cwd=tmp_path,
        env=checkout_environ() | {"FLASK_DEBUG": ""} | {"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=True,
    )
    assert re.search("^ *reload += true", done.stdout, re.MULTILINE)
