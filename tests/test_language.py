"""The words of the code and of the documentation: plain, and one name for each thing.

docs/glossary.md has the names.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FORMER_NAMES = (
    "nursery",
    "founding",
    "kinship",
    "obituary",
    "obituaries",
    "teller",
    "scribe",
    "diary",
    "survivors",
    "lookout",
    "tender",
    "halls?",
    "neighbours?",
    "desks?",
    "crews?",
    "hubs?",
    "seats?",
    "workforce",
    "reception",
    "fleet",
    "turnover",
    "surroundings",
    "settle[sd]?",
    "settling",
    "succession",
    "keep_house",
    "watchdog",
)
"""Names of an earlier version, which a reader has to translate. docs/glossary.md has today's."""

RIDDLES = (
    "whoever",
    "whomever",
    "lest",
    "let(?:s|ting)? go of",
    "so many",
    "has it that",
    "come(?:s)? by",
    "is told of",
    "are told of",
    "what becomes of",
    "at hand",
    "somebody",
    "anybody",
    "nobody",
    "everybody",
    "newcomers",
    "at leisure",
    "for good",
    "tells? whether",
    "telling whether",
)
"""Phrases that hide who acts, or that have to be read twice."""

WORD = re.compile(rf"(?<![\w`])(?:{'|'.join((*FORMER_NAMES, *RIDDLES))})(?![\w`])", re.IGNORECASE)

NAMES_IN_CODE = {
    "nobody": re.compile(r"nobody(?:['\"](?!s\b)|\s*=|:|\b.*(?:user|group|uid|gid))|NOBODY"),
    "watchdog": re.compile(r"WATCHDOG=1|systemd's|[Nn]otifier\.watchdog\(|def watchdog\("),
}
"""Where such a word is a name of the system's: the user nobody, the watchdog of systemd."""

PLACES = (
    "src",
    "docs",
    "tests",
    "native",
    "benchmarks",
    "examples",
    "deploy",
    "scripts",
    ".ci",
    ".github",
)
PAGES = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "setup.py",
)
KINDS = {
    ".py",
    ".pyi",
    ".rs",
    ".c",
    ".h",
    ".md",
    ".toml",
    ".yml",
    ".service",
    ".socket",
    ".sh",
    ".lua",
    "",
}
LEFT_OUT = {"tests/test_language.py"}


def files() -> list[Path]:
    found = [path for place in PLACES for path in sorted((ROOT / place).rglob("*"))]
    found += [ROOT / page for page in PAGES]
    return [path for path in found if path.is_file() and path.suffix in KINDS and is_text(path)]


def is_text(path: Path) -> bool:
    """Return True unless the file is generated, or holds the words themselves."""
    parts = path.relative_to(ROOT).parts
    generated = {"target", "__pycache__", "node_modules"} & {*parts}
    installed = any(part.endswith(".egg-info") for part in parts)
    return not (generated or installed or "/".join(parts) in LEFT_OUT)


def test_the_words_are_those_of_the_glossary() -> None:
    found = []
    for path in files():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            for match in WORD.finditer(line):
                allowed = NAMES_IN_CODE.get(match.group().lower())
                if allowed is None or not allowed.search(line):
                    found.append(
                        f"{path.relative_to(ROOT)}:{number}: {match.group()!r}: {line.strip()}"
                    )
    assert not found, "\n".join(["see docs/glossary.md for the names:", *found])
