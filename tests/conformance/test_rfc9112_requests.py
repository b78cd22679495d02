"""RFC 9110 and 9112, case by case, each fed whole, byte by byte, and with bytes behind it."""

from __future__ import annotations

import pytest

from corpus.case import FOLLOWING, Case
from corpus.requests import CASES
from support.batches import by_source, check_each
from support.parsing import byte_by_byte, parse
from support.parsing_cases import check, check_followed

SOURCES = by_source(CASES)

every_source = pytest.mark.parametrize("source", SOURCES)


def check_whole(case: Case) -> None:
    check(case, parse([case.raw], eof=case.ends_early))


def check_byte_by_byte(case: Case) -> None:
    check(case, parse(byte_by_byte(case.raw), eof=case.ends_early))


def check_with_bytes_behind(case: Case) -> None:
    check_followed(case, parse([case.raw + FOLLOWING]))


@every_source
def test_fed_whole(source: str) -> None:
    check_each(SOURCES[source], check_whole)


@every_source
def test_fed_byte_by_byte(source: str) -> None:
    check_each(SOURCES[source], check_byte_by_byte)


@every_source
def test_with_bytes_behind_them(source: str) -> None:
    cases = [case for case in SOURCES[source] if not case.ends_early]
    check_each(cases, check_with_bytes_behind)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)
