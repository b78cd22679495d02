"""What the package says of itself agrees with itself."""

from __future__ import annotations

import importlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import penstock

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "requirements" / "programs"
"""What `make programs` runs, in environments of their own."""
FOLDERS = (ROOT / "examples", ROOT / "requirements", PROGRAMS)
WRITTEN = [path for folder in FOLDERS for path in sorted(folder.glob("*.in"))]
"""What people edit."""
LOCKED = [path for folder in FOLDERS for path in sorted(folder.glob("*.txt"))]
"""What scripts/lock-requirements makes of it, and bench.txt."""
WITHOUT_HASHES = "bench.txt"
"""What it names is compiled for each measurement, and installed one by one."""
_PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = _PYPROJECT["project"]
TOOLS: dict[str, Any] = _PYPROJECT["tool"]


def place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def requirements(path: Path) -> list[str]:
    """Return what a file requires, a line each, with its hashes."""
    text = re.sub(r"(?m)#.*$", "", path.read_text("utf-8")).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Return the version of each distribution that a file pins."""
    found = {}
    for line in requirements(path):
        name, _, rest = line.partition("==")
        found[canonical(name)] = re.split(r"[ ;]", rest)[0]
    return found


@pytest.mark.parametrize("path", WRITTEN + LOCKED, ids=place)
def test_every_tool_is_pinned_to_one_version(path: Path) -> None:
    pinned = re.compile(
        r"[\w.-]+(\[[\w,]+\])?==[\w.]+( ?; ?[^=]+.*)?( --hash=sha256:[0-9a-f]{64})*"
    )
    loose = [line for line in requirements(path) if not pinned.fullmatch(line)]
    assert not loose


@pytest.mark.parametrize("path", LOCKED, ids=place)
def test_every_requirement_has_the_hashes_of_its_files(path: Path) -> None:
    without = [line for line in requirements(path) if "--hash=sha256:" not in line]
    assert bool(without) == (path.name == WITHOUT_HASHES)


@pytest.mark.parametrize("path", WRITTEN, ids=place)
def test_the_files_with_hashes_are_made_from_those_that_people_edit(path: Path) -> None:
    locked = pins(path.with_suffix(".txt"))
    assert pins(path).items() <= locked.items(), "run make requirements"
    complete = path.name not in ("audit.in", "wheels.in", "lock.in") and path.parent != PROGRAMS
    assert not complete or pins(path) == locked, "run make requirements"


def test_no_tool_is_pinned_to_two_versions() -> None:
    versions: dict[str, set[str]] = {}
    for path in LOCKED:
        if path.parent == PROGRAMS:
            continue
        for name, version in pins(path).items():
            versions.setdefault(name, set()).add(version)
    assert not {name: several for name, several in versions.items() if len(several) > 1}


def test_every_file_beside_the_code_is_installed() -> None:
    wanted = TOOLS["setuptools"]["package-data"]
    for path in (ROOT / "src" / "penstock").rglob("*"):
        if not path.is_file() or path.suffix in (".py", ".pyc", ".so"):
            continue
        package = ".".join(path.parent.relative_to(ROOT / "src").parts)
        patterns = [*wanted["*"], *wanted.get(package, [])]
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_nothing_is_needed_at_run_time() -> None:
    assert PROJECT["dependencies"] == []


def test_the_version_has_its_place_in_the_changelog() -> None:
    assert f"## [{penstock.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("command", ["penstock", "penstockctl"])
def test_the_command_is_there_to_be_called(command: str) -> None:
    module, _, name = PROJECT["scripts"][command].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_every_link_within_the_checkout_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (ROOT / link.partition("#")[0]).exists()]
