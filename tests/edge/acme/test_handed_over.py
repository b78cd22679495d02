"""The supervisor takes from the ordering process what belongs to its names, and nothing else.

The process runs as the user of the workers: it is taken for an attacker.
"""

from __future__ import annotations

from typing import Any

import pytest

from penstock.edge.acme.handed_over import (
    MOST_CERTIFICATE_BYTES,
    MOST_CHALLENGES,
    MOST_KEY_BYTES,
    MOST_TEXT,
    read_handed_over,
    read_statuses,
    read_text,
)

NAMES = ("a.example", "b.example")
TOKEN = "abcdefghijklmnopqrstuvwx"
AUTHORIZATION = f"{TOKEN}.{'t' * 43}"
PAIRS = [["b.example", "cert b", "key b"], ["a.example", "cert a", "key a"]]
RIGHT: dict[str, Any] = {"number": 7, "pairs": PAIRS, "challenges": [[TOKEN, AUTHORIZATION]],
                         "alpn": [["a.example", "cert", "key"]]}  # fmt: skip


def test_what_is_right_is_taken_in_the_order_of_the_settings() -> None:
    found = read_handed_over(RIGHT, NAMES)
    assert [pair.name for pair in found.pairs] == list(NAMES)
    assert found.pairs[0].key == b"key a"
    assert found.challenges == ((TOKEN, AUTHORIZATION),)
    assert found.alpn_challenges[0].name == "a.example"
    assert found.number == 7


WRONG: dict[str, dict[str, Any]] = {
    "no number": {"number": None},
    "a number that is none": {"number": "7"},
    "a negative number": {"number": -1},
    "a huge number": {"number": 1 << 60},
    "no pairs": {"pairs": []},
    "not all pairs": {"pairs": PAIRS[:1]},
    "pairs that are no list": {"pairs": {"a.example": "x"}},
    "a pair of another name": {"pairs": [PAIRS[0], ["c.example", "c", "k"]]},
    "more pairs than names": {"pairs": [*PAIRS, PAIRS[0]]},
    "a name that cannot be looked up": {"pairs": [PAIRS[0], [["x"], "c", "k"]]},
    "a certificate that is too long": {
        "pairs": [PAIRS[0], ["a.example", "c" * (MOST_CERTIFICATE_BYTES + 1), "k"]]
    },
    "a key that is too long": {"pairs": [PAIRS[0], ["a.example", "c", "k" * (MOST_KEY_BYTES + 1)]]},
    "a certificate that is no ASCII": {"pairs": [PAIRS[0], ["a.example", "\u00e9", "k"]]},
    "a certificate that is no text": {"pairs": [PAIRS[0], ["a.example", 7, "k"]]},
    "a pair with a part too many": {"pairs": [PAIRS[0], ["a.example", "c", "k", "x"]]},
    "a challenge with a path": {"challenges": [["../../../etc/passwd", AUTHORIZATION]]},
    "a challenge with a short token": {"challenges": [["abc", f"abc.{'t' * 43}"]]},
    "a challenge with a line break": {"challenges": [[f"{TOKEN}\n", f"{TOKEN}\n.{'t' * 43}"]]},
    "a challenge of another token": {"challenges": [[TOKEN, f"x{AUTHORIZATION}"]]},
    "a challenge with a page behind it": {"challenges": [[TOKEN, f"{AUTHORIZATION}<script>"]]},
    "a challenge without an authorization": {"challenges": [[TOKEN, TOKEN]]},
    "too many challenges": {"challenges": [[TOKEN, AUTHORIZATION]] * (MOST_CHALLENGES + 1)},
    "an alpn challenge of another name": {"alpn": [["c.example", "c", "k"]]},
    "too many alpn challenges": {"alpn": [["a.example", "c", "k"]] * (MOST_CHALLENGES + 1)},
    "no alpn challenges": {"alpn": None},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_as_a_whole(case: str) -> None:
    with pytest.raises(ValueError):
        read_handed_over({**RIGHT, **WRONG[case]}, NAMES)


STATUS: dict[str, Any] = {"name": "a.example", "state": "valid", "detail": "waits",
                          "next_at": 5, "not_after": 6.5}  # fmt: skip


def test_statuses_are_taken() -> None:
    found = read_statuses({"names": [STATUS]}, NAMES)["a.example"]
    assert (found.state, found.detail, found.next_at, found.not_after) == ("valid", "waits", 5, 6.5)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "c.example"},
        {"name": ["a.example"]},
        {"state": "fine"},
        {"state": ["valid"]},
        {"detail": None},
        {"next_at": None},
        {"next_at": True},
        {"next_at": float("nan")},
        {"not_after": float("inf")},
        {"not_after": -1},
    ],
    ids=str,
)
def test_statuses_that_are_wrong_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_statuses({"names": [{**STATUS, **change}]}, NAMES)


def test_texts_cannot_write_to_a_terminal_and_are_cut_off() -> None:
    assert read_text("a\x1b[2Jb\nc\u202ed") == "a?[2Jb?c?d"
    assert len(read_text("x" * 10_000)) == MOST_TEXT
