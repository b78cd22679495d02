"""Trac and Roundup, used through their pages as a browser does."""

from __future__ import annotations

import html
import os
import re

import requests

from programs.program import Program, Run, free_port, script

LARGE = 5 << 20
"""Bytes of an attachment. Trac is set to take it."""


def fields(page: str, *names: str) -> dict[str, str]:
    """Return the values of a page's hidden fields."""
    found = {}
    for tag in re.findall(r"<input[^>]*>", page):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if attributes.get("name") in names:
            found[attributes["name"]] = html.unescape(attributes.get("value", ""))
    assert set(found) == set(names), (names, page)
    return found


def trac(run: Run) -> None:
    """Write a page of the wiki and a ticket with an attachment, and get them again."""
    folder, content = run.folder / "trac", os.urandom(LARGE)
    admin = [script("trac-admin"), folder]
    run.command(*admin, "initenv", "Check", "sqlite:db/trac.db")
    run.command(*admin, "permission", "add", "anonymous", "TRAC_ADMIN")
    run.command(*admin, "config", "set", "attachment", "max_size", LARGE * 2)
    run.command(*admin, "config", "set", "attachment", "render_unsafe_content", "enabled")
    environ = {"TRAC_ENV": str(folder)}
    with run.serve("trac", "--workers", "2", environ=environ) as server, requests.Session() as web:

        def get(path: str) -> requests.Response:
            response = web.get(server.url + path, timeout=30)
            assert response.status_code == 200, (path, response.text)
            return response

        def post(path: str, data: dict[str, str], **more: object) -> requests.Response:
            response = web.post(server.url + path, data, timeout=30, **more)
            assert response.status_code == 200, (path, response.text)
            return response

        token = fields(get("/wiki/Note?action=edit").text, "__FORM_TOKEN")
        post(
            "/wiki/Note",
            token | {"action": "edit", "text": "= Größe =", "version": "0", "save": "Save"},
        )
        assert "Größe" in get("/wiki/Note").text
        made = post(
            "/newticket",
            token | {"field_summary": "A wrong answer", "field_type": "defect", "submit": "Create"},
        )
        assert made.url.endswith("/ticket/1"), made.url
        post(
            "/attachment/ticket/1/?action=new",
            token | {"action": "new", "realm": "ticket", "id": "1", "description": ""},
            files={"attachment": ("large.bin", content)},
        )
        assert get("/raw-attachment/ticket/1/large.bin").content == content
        assert "A wrong answer" in get("/query?format=csv").text
        assert "A wrong answer" in get("/timeline?format=rss&ticket=on&daysback=1").text
        assert get("/chrome/common/css/trac.css").headers["Content-Type"].startswith("text/css")


def roundup(run: Run) -> None:
    """Log in, file an issue with a file, and get them again."""
    folder, content = run.folder / "tracker", os.urandom(LARGE)
    admin = [script("roundup-admin"), "-i", folder]
    run.command(*admin, "install", "classic", "anydbm")
    # Forms are refused unless they come from the address that the tracker knows as its own.
    bind = f"127.0.0.1:{free_port()}"
    file = folder / "config.ini"
    text = re.sub(r"(?m)^#?web = .*$", f"web = http://{bind}/", file.read_text())
    text = re.sub(r"(?m)^#?domain = .*$", "domain = localhost", text)
    file.write_text(text)
    run.command(*admin, "initialise", "secret")
    # What would be mail to those who follow an issue goes to a file.
    environ = {"TRACKER": str(folder), "SENDMAILDEBUG": str(run.folder / "mail")}
    flags = ["--workers", "2", "--bind", bind]
    with run.serve("roundup", *flags, environ=environ) as server:
        with requests.Session() as web:
            web.headers["Referer"] = f"{server.url}/"
            page = web.get(f"{server.url}/", timeout=30)
            token = fields(page.text, "@csrf")
            login = {"@action": "login", "__login_name": "admin", "__login_password": "secret"}
            page = web.post(f"{server.url}/", token | login, timeout=30)
            assert "Logged in as" in page.text or "Logout" in page.text, page.text
            page = web.get(f"{server.url}/issue?@template=item", timeout=30)
            assert page.status_code == 200, page.text
            token = fields(page.text, "@csrf")
            page = web.post(
                f"{server.url}/issue",
                token
                | {
                    "@action": "new",
                    "@template": "item",
                    "title": "A wrong answer",
                    "@note": "It is wrong.",
                    "@link@files": "file-1",
                    "priority": "bug",
                },
                files={"file-1@content": ("large.bin", content, "application/octet-stream")},
                timeout=30,
            )
            assert page.status_code == 200, page.text
            assert page.url.split("?")[0].endswith("/issue1"), page.text
            assert "A wrong answer" in page.text
            assert web.get(f"{server.url}/file1/large.bin", timeout=30).content == content
            listed = web.get(f"{server.url}/issue?@action=export_csv&@columns=id,title", timeout=30)
            assert "A wrong answer" in listed.text


PROGRAMS = [
    Program(
        "trac",
        "Trac",
        trac,
        "write a page and a ticket, attach 5 MB, get them again; queries and feeds",
        packages=("Trac",),
    ),
    Program(
        "roundup",
        "Roundup",
        roundup,
        "log in, file an issue with a file of 5 MB, get them again",
        packages=("roundup",),
    ),
]
