"""Which application a directory has, by its files alone: they are read and never imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.app.discovery import discover

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
MANAGE = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"manage.py": MANAGE.format(settings="site.settings"), "site/wsgi.py": "raise 1"},
         ["site.wsgi"]),
        ({"manage.py": MANAGE.format(settings="conf.settings.dev"), "conf/wsgi.py": "",
          "other/wsgi.py": "", "app.py": FLASK}, ["conf.wsgi"]),
        ({"manage.py": MANAGE.format(settings="conf.base"), "shop/wsgi.py": ""}, ["shop.wsgi"]),
        ({"manage.py": "print()", "app.py": FLASK}, ["app:app"]),
        ({"wsgi.py": "from shop import application", "app.py": FLASK}, ["wsgi:application"]),
        ({"main.py": "import falcon\napplication = falcon.App()\napp = 1"}, ["main:application"]),
        ({"app.py": "import flask\ndef create_app(test=None): pass"}, ["app:create_app()"]),
        ({"app.py": "import flask\ndef create_app(test): pass"}, []),
        ({"app.py": "from flask import Flask\nserver = Flask(__name__)"}, ["app:server"]),
        ({"app.py": "import flask as f\nserver = f.Flask('a')\ndef create_app(): pass"},
         ["app:server"]),
        ({"app.py": "from flask import Flask\na = Flask('a')\nb = Flask('b')"}, []),
        ({"app.py": "def Flask(name): pass\nserver = Flask('a')"}, []),
        ({"app.py": "def app(environ, start_response): pass"}, ["app:app"]),
        ({"main.py": "from fastapi import FastAPI\napp = FastAPI()"}, []),
        ({"main.py": "app = 1"}, []),
        ({"app.py": "import flask\napp = ("}, []),
        ({"flaskr/__init__.py": "from flask import Flask\ndef create_app(): pass"},
         ["flaskr:create_app()"]),
        ({"a/wsgi.py": "application = 1", "b/wsgi.py": "app = 1"},
         ["a.wsgi:application", "b.wsgi:app"]),
        ({}, []),
    ],
)  # fmt: skip
def test_what_a_directory_has(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    write(tmp_path, files)
    assert [spec for spec, _ in discover(str(tmp_path), {}).candidates] == found


@pytest.mark.parametrize(
    ("files", "suggested"),
    [
        ({"shop.py": FLASK, "models.py": "x = 1"}, ["shop:app"]),
        ({"shop.py": FLASK, "api.py": "import falcon\napp = 1"}, ["api:app", "shop:app"]),
        ({"shop.py": FLASK, "app.py": FLASK}, []),
        ({"shop.py": FLASK, "web/wsgi.py": "app = 1"}, []),
        ({"shop.py": "app = (", "no-module.py": FLASK}, []),
    ],
)
def test_files_with_other_names_are_suggested_where_nothing_else_is_there(
    tmp_path: Path, files: dict[str, str], suggested: list[str]
) -> None:
    write(tmp_path, files)
    assert [spec for spec, _ in discover(str(tmp_path), {}).suggestions] == suggested


def test_flask_app_names_it_unless_there_is_a_django_project(tmp_path: Path) -> None:
    write(tmp_path, {"app.py": FLASK})
    found = discover(str(tmp_path), {"FLASK_APP": "shop:create()"})
    assert found.only == ("penstock.contrib.flask:application()", "FLASK_APP")


def test_what_is_no_file_and_what_is_too_large_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "app.py")
    (tmp_path / "main.py").write_text(FLASK + "#" * (2 << 20))
    assert discover(str(tmp_path), {}).only is None
    assert discover(str(tmp_path / "missing"), {}).only is None
