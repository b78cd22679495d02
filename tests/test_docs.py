"""The pages of docs/ lead where they say, and name only what is there."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.cli.arguments import parse_command_line
from penstock.compat.gunicorn.reference_page import gunicorn_page
from penstock.compat.uwsgi.reference_page import uwsgi_page
from penstock.config.gunicorn_settings import GUNICORN_SETTINGS, HOOKS
from penstock.config.settings import OPTIONS
from penstock.config.shown import SettingRow
from penstock.control import penstockctl as ctl
from penstock.control.rows import EventRow, RecentRow, RequestRow, Status, WorkerRow
from penstock.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "penstock"
PAGES = sorted(DOCS.rglob("*.md"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"-{1,2}[A-Za-z][\w-]*")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to by, as forges make it."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.replace(" ", "-"))
    return found


def flags_in(text: str) -> Iterator[str]:
    """The flags that stand at the beginning of a span of code."""
    for span in CODE_SPAN.findall(text):
        if match := FLAG.match(span):
            yield match.group()


def kind_of(flag: str) -> str:
    """Tell what the command makes of a flag: "taken", "refused" as gunicorn's, or "unknown"."""
    try:
        parse_command_line([flag])
    except SettingsError as error:
        if "is a flag of gunicorn" in str(error):
            return "refused"
        return "unknown" if "unknown flag" in str(error) else "taken"
    return "taken"


def flags_of_penstockctl() -> set[str]:
    found: set[str] = set()
    parsers: list[argparse.ArgumentParser] = [ctl.build_parser()]
    for parser in parsers:
        for action in parser._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
    return found


def section(page: str, heading: str) -> str:
    """The text between a heading and the next one."""
    text = "\n" + prose(DOCS / page)
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(r"^#+ ", text[start:], re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def rows(table: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def all_rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", prose(DOCS / page), re.MULTILINE)
    return [cells for table in tables for cells in rows(table)]


@every_page
def test_every_link_leads_to_a_file_and_a_heading_in_it(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@every_page
def test_the_map_has_every_page(page: Path) -> None:
    name = page.relative_to(DOCS).as_posix()
    assert name == "index.md" or f"]({name})" in (DOCS / "index.md").read_text("utf-8")


OTHER_COMMANDS = {
    "compatibility.md": {"--pull"},
    "django.md": {"--app", "--settings"},  # of flask and of manage.py
    "metrics.md": {"--enable-feature"},  # of prometheus
    "migrating.md": {
        "--http",
        "--interface",
        "--module",
        "--processes",
        "--thread",
        "--wsgi-threads",
    },
    "testing.md": {"--penstock-app", "--penstock-transport", "--penstock-workers"},  # of pytest
}
"""By page: the flags of other commands."""


@every_page
def test_every_flag_is_one_that_the_command_has_or_explains(page: Path) -> None:
    unknown = {flag for flag in flags_in(prose(page)) if kind_of(flag) == "unknown"}
    assert not unknown - flags_of_penstockctl() - OTHER_COMMANDS.get(page.name, set())


@every_page
def test_every_command_of_penstockctl_that_is_printed_can_be_typed(page: Path) -> None:
    for command in re.findall(r"^\$ penstockctl (.+)$", page.read_text("utf-8"), re.MULTILINE):
        ctl.build_parser().parse_args(shlex.split(command, comments=True))


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("### `GET /status`", Status),
        ("### `GET /workers`", WorkerRow),
        ("### `GET /requests`", RequestRow),
        ("### `GET /history`", EventRow),
        ("### `GET /settings`", SettingRow),
        ("### `GET /recent?worker=WORKER`", RecentRow),
    ],
)
def test_the_fields_of_the_control_socket_are_all_described(heading: str, row: type) -> None:
    table = rows(section("control.md", heading))
    described = [name for cells in table for name in CODE_SPAN.findall(cells[0])]
    assert described == [*row.__annotations__]


@every_page
def test_every_command_that_is_printed_has_flags_that_exist(page: Path) -> None:
    commands = re.findall(r"^(?:\$ )?penstock (.+)$", page.read_text("utf-8"), re.MULTILINE)
    flags = [word for command in commands for word in command.split() if FLAG.fullmatch(word)]
    assert not [flag for flag in flags if kind_of(flag) == "unknown"]


@every_page
def test_every_variable_of_penstocks_is_a_setting(page: Path) -> None:
    known = {option.variable for option in OPTIONS.values()}
    known.add("PENSTOCK_SERVICE_HOST")  # one of those that Kubernetes makes
    known |= {"PENSTOCK_NATIVE", "PENSTOCK_NATIVE_TLS"}  # read by setup.py
    known |= {"PENSTOCK_ID", "PENSTOCK_LOG"}  # fields of the journal
    assert set(re.findall(r"`(PENSTOCK_\w+)", prose(page))) <= known


@every_page
def test_every_link_to_the_settings_reference_is_a_setting(page: Path) -> None:
    links = re.findall(r"\[`(\w+)`\]\(settings\.md#(\w+)\)", prose(page))
    assert not [link for link in links if link[0] != link[1] or link[0] not in OPTIONS]


@pytest.mark.parametrize("row", rows(section("tutorial.md", "# One request, in seven steps")))
def test_each_step_of_the_tutorial_names_what_its_file_defines(row: list[str]) -> None:
    defined = set()
    for path in re.findall(r"\]\(\.\./src/penstock/([^)]+)\)", row[1]):
        for node in ast.parse((SOURCE / path).read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            if isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                defined |= {f"{node.name}.{method.name}" for method in methods}
    assert set(CODE_SPAN.findall(row[2])) <= defined


def test_the_places_in_the_glossary_exist() -> None:
    places = re.findall(r"`([\w/.]+)`", "".join(cells[2] for cells in all_rows("glossary.md")))
    assert places
    roots = (SOURCE, ROOT)
    assert not [place for place in places if not any((root / place).exists() for root in roots)]


def test_the_words_in_the_glossary_are_there_once() -> None:
    words = [word for cells in all_rows("glossary.md") for word in cells[0].split(", ")]
    assert sorted(set(words)) == sorted(words)


def test_the_page_of_gunicorns_settings_is_what_the_table_says() -> None:
    assert (DOCS / "gunicorn-settings.md").read_text("utf-8") == gunicorn_page(), "run `make docs`"


def test_the_page_of_uwsgis_options_is_what_the_table_says() -> None:
    assert (DOCS / "uwsgi-options.md").read_text("utf-8") == uwsgi_page(), "run `make docs`"


def test_every_name_of_gunicorn_on_the_page_exists() -> None:
    text = section("migrating.md", "### What is read")
    names = set(re.findall(r"`([a-z]+_[a-z_]+)`", text)) - set(OPTIONS)
    assert names <= set(GUNICORN_SETTINGS) | set(HOOKS)


SETTINGS_OF_OTHERS = [
    "## From waitress",
    "## From mod_wsgi",
    "## From Granian",
    "## From peregrine",
]


@pytest.mark.parametrize("heading", SETTINGS_OF_OTHERS)
def test_the_command_accepts_what_other_servers_settings_become(heading: str) -> None:
    cells = [row[1] for row in rows(section("migrating.md", heading))]
    flags = [flag for cell in cells for flag in flags_in(cell)]
    assert flags
    assert not [flag for flag in flags if kind_of(flag) != "taken"]


def test_the_service_does_not_retry_a_start_that_cannot_succeed() -> None:
    """docs/exit-statuses.md: statuses 2 to 7 come again however often it is started."""
    unit = (ROOT / "deploy" / "penstock.service").read_text("utf-8")
    page = (DOCS / "exit-statuses.md").read_text("utf-8")
    assert "\nRestartPreventExitStatus=2 3 4 5 6 7\n" in unit
    assert "RestartPreventExitStatus=2 3 4 5 6 7" in page


def test_the_service_has_longer_to_stop_than_the_server_takes() -> None:
    unit = (ROOT / "deploy" / "penstock.service").read_text("utf-8")
    match = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert match is not None
    assert int(match[1]) > OPTIONS["graceful_timeout"].default


FAULT_ROW = re.compile(r"^\| (\d+) \|.*\| (.*) \|$", re.MULTILINE)
FAULT_IN_A_NAME = re.compile(r"^\s*(?:async )?def test_\w*?(?=faults?_\d)(\w+)", re.MULTILINE)


def faults_in_tests() -> set[int]:
    """The numbers behind ``fault_`` or ``faults_`` in the names of all tests."""
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in FAULT_IN_A_NAME.findall(path.read_text("utf-8")):
            for numbers in re.findall(r"faults?((?:_(?:and_)?\d+)+)", name):
                found.update(int(number) for number in re.findall(r"\d+", numbers))
    return found


def test_the_faults_that_tests_name_are_those_that_the_list_says_are_tested() -> None:
    rows = FAULT_ROW.findall((DOCS / "faults.md").read_text("utf-8"))
    assert [int(number) for number, _ in rows] == list(range(1, 51))
    tested = {int(number) for number, does in rows if not does.startswith("not tested")}
    assert faults_in_tests() == tested
