"""calibre-web, used through its pages as a browser does."""

from __future__ import annotations

import io
import os
import sys
import zipfile

import requests

from programs.program import Program, Run
from programs.trackers import fields

SIZE = 30 << 20
"""Bytes of the book that is uploaded."""

LIBRARY = """
import sys, calibreweb
sys.argv = ["cps", "-p", sys.argv[1]]
from cps import db
from sqlalchemy import create_engine, text
options = {"schema_translate_map": {"calibre": None}}
with create_engine("sqlite:///metadata.db", execution_options=options).begin() as connection:
    db.Base.metadata.create_all(connection)
    connection.execute(text("insert into library_id (uuid) values ('check')"))
"""
"""Makes an empty library; that is calibre's task otherwise."""

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="a.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""
BOOK = """<?xml version="1.0"?>
<package version="2.0" xmlns="http://www.idpf.org/2007/opf" unique-identifier="id">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Größe</dc:title>
<dc:creator>An Author</dc:creator><dc:language>en</dc:language>
<dc:identifier id="id">1</dc:identifier></metadata><manifest/><spine/></package>"""


def epub() -> bytes:
    """Return a book that no compression makes less."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("a.opf", BOOK)
        archive.writestr("picture", os.urandom(SIZE))
    return file.getvalue()


def check(run: Run) -> None:
    """Set it up by its forms, upload a book, find it, and download it."""
    settings, library, book = run.path("settings"), run.path("library"), epub()
    environ = {"CALIBRE_DBPATH": str(settings), "CACHE_DIR": str(run.path("cache"))}
    make = [sys.executable, "-c", LIBRARY, settings / "app.db"]
    run.command(*make, cwd=library, environ=environ)
    # Its settings are read by each process at its start, and changed in one of them: one worker.
    flags = ["--workers", "1", "--threads", "8"]
    with run.serve("calibre_web", *flags, environ=environ) as server, requests.Session() as web:

        def get(path: str) -> requests.Response:
            response = web.get(server.url + path, timeout=60)
            assert response.status_code == 200, (path, response.text)
            return response

        def post(path: str, data: dict[str, str], **more: object) -> requests.Response:
            response = web.post(server.url + path, data, timeout=60, **more)
            assert response.status_code == 200, (path, response.text)
            return response

        token = fields(get("/login").text, "csrf_token")
        post("/login", token | {"username": "admin", "password": "admin123"})
        post("/admin/dbconfig", token | {"config_calibre_dir": str(library)})
        post("/admin/ajaxconfig", token | {"config_uploading": "on"})
        uploaded = post("/upload", token, files={"btn-upload": ("book.epub", book)})
        assert uploaded.json()["location"].startswith("/admin/book/"), uploaded.text
        assert "Größe" in get("/").text
        assert get("/download/1/epub/book.epub").content == book
        part = web.get(
            f"{server.url}/download/1/epub/book.epub", headers={"Range": "bytes=-100"}, timeout=60
        )
        assert book.endswith(part.content)
        assert "Größe" in get("/search?query=Gr%C3%B6%C3%9Fe").text
        feed = web.get(f"{server.url}/opds/new", auth=("admin", "admin123"), timeout=60)
        assert "Größe" in feed.text


PROGRAMS = [
    Program(
        "calibre-web",
        "calibre-web",
        check,
        "set up by its forms, upload a book of 30 MB, search, download, OPDS",
        packages=("calibreweb",),
    )
]
