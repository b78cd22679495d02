"""RFC 9110 and 9112, case by case, each fed whole, byte by byte, and with bytes behind it."""

from __future__ import annotations

import pytest

from corpus.case import FOLLOWING, Case
from corpus.requests import CASES
from support.parsing import byte_by_byte, parse
from support.parsing_cases import check, check_followed

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@each_case
def test_fed_whole(case: Case) -> None:
    check(case, parse([case.raw], eof=case.ends_early))


@each_case
def test_fed_byte_by_byte(case: Case) -> None:
    check(case, parse(byte_by_byte(case.raw), eof=case.ends_early))


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.ends_early], ids=lambda case: case.id
)
def test_with_bytes_behind_it(case: Case) -> None:
    check_followed(case, parse([case.raw + FOLLOWING]))


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)
