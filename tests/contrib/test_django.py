"""``penstock.contrib.django`` in a project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from support.other_commands import served_by
from support.server_process import START_WITHIN, checkout_environ

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """
from pathlib import Path
SECRET_KEY = "x" * 50
DEBUG = {debug}
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.staticfiles", "penstock.contrib.django"]
MIDDLEWARE = []
ROOT_URLCONF = "project.urls"
STATIC_URL = "/static/"
STATIC_ROOT = Path(__file__).parent / "collected"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
{more}
"""

URLS = """
import os
from django.http import HttpResponse
from django.urls import path
from django.conf import settings

def index(request):
    return HttpResponse(f"{settings.DEBUG} {request.META['wsgi.multiprocess']}")

urlpatterns = [path("", index)]
"""

LIVE_TESTS = """
from urllib.request import urlopen
from penstock.contrib.django.testing import PenstockLiveServerTestCase

class Tests(PenstockLiveServerTestCase):
    def test_answers(self):
        with urlopen(self.live_server_url) as response:
            assert "WSGIServer" not in response.headers.get("Server", "")
            assert response.read() == b"False False"
"""


def project(directory: Path, *, debug: bool = False, more: str = "") -> None:
    package = directory / "project"
    (package / "collected").mkdir(parents=True)
    (package / "collected" / "x.txt").write_text("collected")
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text(SETTINGS.format(debug=debug, more=more))
    (package / "urls.py").write_text(URLS)
    (package / "tests.py").write_text(LIVE_TESTS)
    (directory / "manage.py").write_text(MANAGE)


def manage(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=directory,
        env=checkout_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )


def test_the_command_serves_the_project_and_what_collectstatic_collected(tmp_path: Path) -> None:
    project(tmp_path, more='PENSTOCK = {"workers": 2, "bind": "127.0.0.1:0"}')
    other = tmp_path / "elsewhere"
    other.mkdir()
    with served_by("../manage.py", "penstock", "--threads", "2", cwd=other) as (url, process):
        with urlopen(url, timeout=START_WITHIN) as response:
            assert response.read() == b"False True"
        with urlopen(f"{url}/static/x.txt", timeout=START_WITHIN) as response:
            assert response.read() == b"collected"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("debug", "arguments", "shown"),
    [
        (False, (), {"reload": "false", "workers": "3"}),
        (True, (), {"reload": "true", "static": "none"}),
        (True, ("--no-reload",), {"reload": "false"}),
        (False, ("--workers", "5"), {"workers": "5"}),
        (False, ("--static", "/a=."), {"static": "/a="}),
    ],
)
def test_flags_count_before_the_projects_settings(
    tmp_path: Path, debug: bool, arguments: tuple[str, ...], shown: dict[str, str]
) -> None:
    project(tmp_path, debug=debug, more='PENSTOCK = {"workers": 3}')
    done = manage(tmp_path, "penstock", "--check", *arguments)
    for name, value in shown.items():
        assert re.search(rf"^  {name} += {re.escape(value)}", done.stdout, re.MULTILINE), done


@pytest.mark.parametrize(
    ("argument", "flag"),
    [("8000", "--bind 127.0.0.1:8000"), ("0.0.0.0:8000", "--bind 0.0.0.0:8000")],
)
def test_an_address_as_runserver_takes_it_is_refused_with_the_flag(
    tmp_path: Path, argument: str, flag: str
) -> None:
    project(tmp_path)
    done = manage(tmp_path, "penstock", argument)
    assert (done.returncode, done.stderr) == (1, f"CommandError: an address is a flag: {flag}\n")


def test_a_setting_that_does_not_exist_is_refused_by_command_and_check(tmp_path: Path) -> None:
    project(tmp_path, more='PENSTOCK = {"worker": 3}')
    done = manage(tmp_path, "penstock", "--check")
    assert done.returncode != 0
    assert "did you mean 'workers'" in done.stderr
    assert "penstock.E001" in manage(tmp_path, "check").stderr


@pytest.mark.parametrize(
    ("more", "id"),
    [
        ("DEBUG = True\nPENSTOCK = {'bind': '0.0.0.0:8000'}", "penstock.W001"),
        (
            "SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')\n"
            "PENSTOCK = {'bind': ':8000'}",
            "penstock.W002",
        ),
        (
            "SECURE_SSL_REDIRECT = True\nPENSTOCK = {'forwarded_allow_ips': 'none'}",
            "penstock.W003",
        ),
    ],
)
def test_the_checks_name_what_does_not_fit(tmp_path: Path, more: str, id: str) -> None:
    project(tmp_path, more=more)
    assert id in manage(tmp_path, "check", "--deploy").stderr


def test_a_project_that_fits_passes_the_checks(tmp_path: Path) -> None:
    project(tmp_path, more="PENSTOCK = {'bind': '0.0.0.0:8000', 'untrusted_forwarded': 'drop'}")
    assert "penstock." not in manage(tmp_path, "check", "--deploy").stderr


def test_the_live_tests_of_django_cannot_be_taken_for_those_of_penstock() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from penstock.contrib.django.testing import LiveServerTestCase"],
        env=checkout_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ImportError: cannot import name 'LiveServerTestCase'" in done.stderr


def test_live_tests_run_on_penstock(tmp_path: Path) -> None:
    project(tmp_path)
    done = manage(tmp_path, "test", "project")
    assert "OK" in done.stderr, done.stderr
