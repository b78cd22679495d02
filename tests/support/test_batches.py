"""The batches that the corpus is tested in: none hides a failure, and none leaves a source out."""

from __future__ import annotations

import pytest

from corpus.case import Case, get
from support.batches import CASES, EVERY_CASE, check_each, sentinels

GOOD = Case("good", "first source", get())
BAD = Case("bad", "first source", get(), status=400)
WORSE = Case("worse", "second source", get(), status=501)


def refuse(case: Case) -> None:
    assert case.status is None, case.name


def test_each_case_that_fails_is_named_and_those_after_it_are_checked() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        check_each([BAD, GOOD, WORSE], refuse)
    first, second = caught.value.exceptions
    assert "'first source: bad'" in first.__notes__[0]
    assert "'second source: worse'" in second.__notes__[0]


def test_cases_that_all_pass_raise_nothing() -> None:
    check_each([GOOD, GOOD], refuse)


def test_every_source_has_a_sentinel_for_what_it_accepts_and_for_what_it_refuses() -> None:
    assert sentinels([GOOD, GOOD, BAD, BAD, WORSE]) == [GOOD, BAD, WORSE]
    assert {case.source for case in sentinels(CASES)} == set(EVERY_CASE)


def test_every_case_of_the_corpus_is_in_a_batch() -> None:
    assert sum(len(cases) for cases in EVERY_CASE.values()) == len(CASES)
