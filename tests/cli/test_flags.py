"""The command line is read as `argparse` reads it."""

from __future__ import annotations

import random
from typing import Any, NoReturn

import pytest

from penstock.cli.flags import all_flags, read
from penstock.cli.help_page import build_parser
from penstock.errors import SettingsError

VALUES = ["app:app", "4", "-1", "-.5", "-", "", "a b", "-x y", "x=y", "--", "bash"]
UNKNOWN = ["--unknown", "--unknown=1", "-y", "-v", "-w4", "-w=4", "-w", "-b:8000", "-Rk", "--bin"]


def command_lines() -> list[list[str]]:
    chosen = random.Random(11)
    names = [name for flag in FLAGS for name in flag.names]
    lines = []
    for _ in range(2000):
        words = []
        for _ in range(chosen.randrange(1, 5)):
            name = chosen.choice(names)
            words.append(chosen.choice([name, name, f"{name}=1", chosen.choice(UNKNOWN)]))
            words += chosen.choices(VALUES, k=chosen.randrange(2))
        lines.append(words)
    return lines


def refuse(message: str) -> NoReturn:
    raise SettingsError(message)


PARSER = build_parser()
PARSER.error = refuse  # type: ignore[method-assign]
FLAGS = list(all_flags())


def by_argparse(words: list[str]) -> tuple[dict[str, Any], list[str]] | None:
    try:
        typed, rest = PARSER.parse_known_args(words)
    except SettingsError:
        return None
    values = vars(typed)
    application = values.pop("application")
    return values, [*([application] if application is not None else []), *rest]


def by_us(words: list[str]) -> tuple[dict[str, Any], list[str]] | None:
    try:
        return read(FLAGS, words)
    except SettingsError:
        return None


def test_command_lines_mean_what_they_mean_to_argparse() -> None:
    read_by_both = 0
    for words in command_lines():
        if "--" in words:  # versions of Python differ, and the next test is for it
            continue
        theirs, ours = by_argparse(words), by_us(words)
        assert (ours is None) == (theirs is None), words
        if ours is not None and theirs is not None:
            read_by_both += 1
            assert ours[0] == theirs[0], words
            assert sorted(ours[1]) == sorted(theirs[1]), words
    assert read_by_both > 300


def test_what_follows_two_dashes_is_no_flag() -> None:
    assert read(FLAGS, ["-w", "2", "--", "app:app", "--bind"]) == (
        {"workers": "2"},
        ["app:app", "--bind"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bind"], "argument -b/--bind: expected one argument"),
        (["--bind", "--trace"], "argument -b/--bind: expected one argument"),
        (["--completion", "tcsh"], "argument --completion: invalid choice: 'tcsh'"),
        (["-h=1"], "ignored explicit argument"),
    ],
)
def test_an_error_names_the_flag(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(FLAGS, words)
    assert message in str(caught.value)
