"""Applications with many objects, as real ones have: a Django project, and one of Flask's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import environment

MODELS = 200
ROWS = 300
START_SECONDS = 60.0
HOST = "127.0.0.1"

SETTINGS = """
from pathlib import Path
SECRET_KEY = "benchmark"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions", "django.contrib.messages", "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "DIRS": [Path(__file__).parent / "templates"],
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "db.sqlite3",
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""

URLS = """
from django.contrib.admin import AdminSite, ModelAdmin
from django.apps import apps
from django.shortcuts import render
from django.urls import path
from shop import models

class OpenAdmin(AdminSite):
    def has_permission(self, request):
        return True

class OpenModel(ModelAdmin):
    def has_module_permission(self, request):
        return True

    def has_view_permission(self, request, obj=None):
        return True

site = OpenAdmin()
for model in apps.get_app_config("shop").get_models():
    site.register(model, OpenModel)

def listing(request):
    rows = models.Model1.objects.select_related("parent").all()
    return render(request, "listing.html", {"rows": rows, "title": "Rows"})

urlpatterns = [path("list", listing), path("admin/", site.urls)]
"""

TEMPLATE = """{% extends "base.html" %}
{% block body %}<table>{% for row in rows %}
<tr><td>{{ row.pk }}</td><td>{{ row.name|upper }}</td><td>{{ row.created|date:"c" }}</td>
<td>{% if row.parent %}{{ row.parent.name }}{% endif %}</td>
<td>{{ row.price|floatformat:2 }}</td></tr>
{% endfor %}</table>{% endblock %}
"""

BASE = """<!doctype html><title>{{ title }}</title>
<p>{{ request.path }} {{ user }}</p>{% block body %}{% endblock %}
"""

FILL = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
from shop.models import Model0, Model1
parents = Model0.objects.bulk_create(Model0(name=f"parent {n}") for n in range(20))
Model1.objects.bulk_create(
    Model1(name=f"row {n}", price=n / 7, parent=parents[n % 20]) for n in range(%d)
)
"""

FLASK = """
from dataclasses import dataclass, field
from flask import Flask, render_template_string, request

@dataclass
class Row:
    number: int
    name: str
    parts: list = field(default_factory=list)
    parent: object = None

TEMPLATE = '''<title>{{ title }}</title><table>{% for row in rows %}<tr><td>{{ row.number }}</td>
<td>{{ row.name|upper }}</td><td>{{ row.parent.name if row.parent }}</td>
<td>{% for part in row.parts %}{{ part.name }} {% endfor %}</td></tr>{% endfor %}</table>'''

app = Flask(__name__)
stored = [Row(n, f"stored {n}", [Row(m, "part") for m in range(20)]) for n in range(20_000)]

@app.get("/list")
def listing():
    rows = []
    for number in range(%d):
        row = Row(number, f"row {number}", [], stored[number])
        row.parts = [Row(part, f"part {part}", [], row) for part in range(3)]  # a cycle
        rows.append(row)
    return render_template_string(TEMPLATE, rows=rows, title=request.path)
"""


@dataclass(frozen=True)
class Scenario:
    """An application and one of its pages."""

    name: str
    application: str
    path: str


SCENARIOS = (
    Scenario("Django, a page of 300 objects", "project.wsgi:application", "/list"),
    Scenario("Django, the admin's index of 200 models", "project.wsgi:application", "/admin/"),
    Scenario("Flask, a page of 300 objects in cycles", "flasked:app", "/list"),
)


def write_project(folder: Path) -> None:
    """Write both applications, and fill the database."""
    models = ["from django.db import models"]
    for number in range(MODELS):
        parent = f"Model{number - 1}" if number else "self"
        target = parent if number else "'self'"
        models.append(
            f"class Model{number}(models.Model):\n"
            "    name = models.CharField(max_length=100)\n"
            "    created = models.DateTimeField(auto_now_add=True)\n"
            "    price = models.FloatField(default=0)\n"
            "    text = models.TextField(blank=True)\n"
            f"    parent = models.ForeignKey({target}, models.CASCADE, null=True)\n"
            "    def __str__(self):\n"
            "        return self.name\n"
        )
    files = {
        "project/__init__.py": "",
        "project/settings.py": SETTINGS,
        "project/urls.py": URLS,
        "project/wsgi.py": "from django.core.wsgi import get_wsgi_application\n"
        "application = get_wsgi_application()\n",
        "project/templates/base.html": BASE,
        "project/templates/listing.html": TEMPLATE,
        "shop/__init__.py": "",
        "shop/models.py": "\n".join(models),
        "flasked.py": FLASK.replace("%d", str(ROWS)),
        "fill.py": FILL.replace("%d", str(ROWS)),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run([sys.executable, "fill.py"], cwd=folder, env=variables(), check=True)


def variables() -> dict[str, str]:
    """Return the environment of the server."""
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(environment.ROOT / "src"),
        "PYTHONHASHSEED": "0",
    }


@contextmanager
def server(folder: Path, scenario: Scenario, mode: str, transport: str) -> Iterator[int]:
    """Serve a scenario, with control at ``folder/control``; yield the port."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    command = [
        sys.executable, "-m", "penstock", scenario.application, "--bind", f"{HOST}:{port}",
        "--workers", "1", "--gc", mode, "--transport", transport,
        "--control", str(folder / "control"),
    ]  # fmt: skip
    log = (folder / "server.log").open("ab")
    process = subprocess.Popen(command, cwd=folder, env=variables(), stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_SECONDS
        while socket.socket().connect_ex((HOST, port)):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start: see {folder / 'server.log'}")
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


def told(folder: Path, question: str) -> dict[str, object]:
    """Return what penstockctl answers."""
    command = ["penstock.control.penstockctl", "--control", str(folder / "control"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", *command, question],
        env=variables(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))
