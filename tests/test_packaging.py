"""What the package says of itself agrees with itself."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import penstock

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = [ROOT / "examples" / "requirements.txt", *sorted(ROOT.glob("requirements/*.txt"))]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_tool_is_pinned_to_one_version(path: Path) -> None:
    pinned = re.compile(r"[\w.-]+==[\w.]+(;.*)?")
    loose = [line for line in requirements(path) if not pinned.fullmatch(line)]
    assert not loose


def test_no_tool_is_pinned_to_two_versions() -> None:
    pins: dict[str, set[str]] = {}
    for path in REQUIREMENTS:
        for line in requirements(path):
            name, _, version = line.partition("==")
            pins.setdefault(name.lower(), set()).add(version)
    assert not {name: versions for name, versions in pins.items() if len(versions) > 1}


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
