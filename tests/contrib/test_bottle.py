"""Bottle's `run` with the adapter that docs/django.md has."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.request import urlopen

from support.other_commands import served_by
from support.server_process import START_WITHIN

PAGE = Path(__file__).resolve().parents[2] / "docs/django.md"
SITE = 'import bottle\napp = bottle.Bottle()\napp.route("/")(lambda: "bottled")\n'


def test_the_adapter_of_the_page_serves_where_run_is_called(tmp_path: Path) -> None:
    [adapter] = re.findall(
        r"```python\n(import bottle, penstock\n.*?)```", PAGE.read_text(), re.DOTALL
    )
    program = tmp_path / "site_of_bottle.py"
    program.write_text(SITE + adapter.replace("8080", "0"))
    with (
        served_by(str(program), cwd=tmp_path) as (url, process),
        urlopen(url, timeout=START_WITHIN) as response,
    ):
        assert response.read() == b"bottled"
    assert process.returncode == 0
