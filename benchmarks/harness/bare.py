"""A bare application, and the part of a page that is measured anew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

APPLICATION = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\\n"]
"""
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write_figures(page: Path, lines: Iterable[str]) -> None:
    """Put lines of Markdown in the place of those that the page has between its two marks."""
    text = page.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after)
