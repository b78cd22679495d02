"""The manual pages, which are made from the declared options."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.cli.man_pages import PAGES, commands_of
from penstock.config.settings import OPTIONS
from penstock.control import penstockctl

MAN = Path(__file__).resolve().parents[2] / "docs" / "man"

every_page = pytest.mark.parametrize("name", PAGES)


@every_page
def test_the_page_is_up_to_date(name: str) -> None:
    assert (MAN / name).read_text("utf-8") == PAGES[name](), "run make docs"


def test_every_setting_and_every_command_has_an_entry() -> None:
    flags = set(re.findall(r"\\fB(\S+)\\fR", PAGES["penstock.1"]()))
    shown = {flag.replace("\\-", "-") for flag in flags}
    for option in OPTIONS.values():
        assert shown & {option.flag, option.negative_flag}, option.name
    page = PAGES["penstockctl.1"]()
    for name, _ in commands_of(penstockctl.build_parser()):
        assert re.search(rf"^\.TP\n\.B {name}\b", page, re.MULTILINE), name


@every_page
@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_groff_takes_the_page_without_a_warning(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-ww", str(MAN / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert "SEE ALSO" in done.stdout
