"""Files that Django's collectstatic has given names with hashes, sent by the server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import Environ, connect

pytest.importorskip("django")

COLLECT = """
import sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.staticfiles"],
    STATIC_URL="/static/",
    STATICFILES_DIRS=[sys.argv[1]],
    STATIC_ROOT=sys.argv[2],
    STORAGES={
        "staticfiles": {
            "BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
        }
    },
)
import django
django.setup()
from django.core.management import call_command
call_command("collectstatic", interactive=False, verbosity=0)
"""


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"application"]


def test_each_name_of_djangos_manifest_is_immutable_and_no_other(
    tmp_path: Path, transport: str
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "admin" / "css").mkdir(parents=True)
    (source / "admin" / "css" / "base.css").write_text("body { background: url(../bg.svg) }")
    (source / "admin" / "bg.svg").write_text("<svg/>")
    for number in range(40):
        (source / f"file{number}.min.js").write_text(f"x = {number}")
    subprocess.run([sys.executable, "-c", COLLECT, str(source), str(root)], check=True)
    manifest = json.loads((root / "staticfiles.json").read_text())["paths"]
    assert len(manifest) == 42

    with penstock.running(application, transport=transport, static=[f"/static={root}"]) as server:
        with connect(server) as client:
            immutable = {}
            for plain, hashed in manifest.items():
                for name in (plain, hashed):
                    response = client.request("GET", f"/static/{name}")
                    assert response.status == 200
                    assert response.body == (root / name).read_bytes()
                    immutable[name] = "immutable" in (response.header("Cache-Control") or "")
            found = {name for name, is_so in immutable.items() if is_so}
            # A hash of digits alone, or of letters alone, might be a date or a word.
            sure = {name for name in manifest.values() if not is_like_a_word(name)}
            assert found == sure
            assert len(sure) >= 40


def is_like_a_word(name: str) -> bool:
    found = name.rsplit(".", 2)[1]
    return found.isdigit() or found.isalpha()
