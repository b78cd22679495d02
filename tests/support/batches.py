"""The cases of the corpus in batches: one test for all of a source, which names each that fails.

A server and pytest cost more than a case does. So a test takes all cases of one section or of one
vulnerability. The product of transports, numbers of threads and ways of feeding finds little more
with every case than with a few: `SENTINELS` pay for it, and with `make test-all` every case does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from corpus import requests, vulnerabilities
from corpus.case import Case

WHOLE_MATRIX = os.environ.get("TEST_MATRIX") == "whole"
"""Whether every combination is tested, as `make test-all` asks for."""


def by_source(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Return the cases by where their rule comes from."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.source, []).append(case)
    return found


def sentinels(cases: Iterable[Case]) -> list[Case]:
    """Return of each source the first case that is accepted and the first that is refused."""
    found: dict[tuple[str, bool], Case] = {}
    for case in cases:
        found.setdefault((case.source, case.status is None), case)
    return list(found.values())


CASES = [*requests.CASES, *vulnerabilities.CASES]
EVERY_CASE = by_source(CASES)
SENTINELS = EVERY_CASE if WHOLE_MATRIX else by_source(sentinels(CASES))


def check_each(cases: Iterable[Case], check: Callable[[Case], None]) -> None:
    """Check all cases; raise an `ExceptionGroup` that has the failure of each, with its name."""
    failures: list[Exception] = []
    for case in cases:
        try:
            check(case)
        except Exception as error:
            error.add_note(f"The case is {case.id!r}: {case.raw[:200]!r}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} cases fail", failures) from None
