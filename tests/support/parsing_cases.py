"""Holding what a parser said against a case of the corpus."""

from __future__ import annotations

from corpus.case import FOLLOWING, Case
from support.parsing import Outcome, parse


def check(case: Case, outcome: Outcome) -> None:
    """Assert that the case met its fate, and nothing came after it."""
    if case.status is not None:
        _check_refused(case, outcome)
    else:
        assert outcome.error is None
        assert len(outcome.messages) == 1
        _check_accepted(case, outcome)


def check_followed(case: Case, outcome: Outcome) -> None:
    """Assert the same where `FOLLOWING` was sent behind the case."""
    if case.status is not None:
        _check_refused(case, outcome)
    else:
        assert outcome.error is None
        assert len(outcome.messages) == 2
        _check_accepted(case, outcome)
        assert outcome.messages[1:] == parse([FOLLOWING]).messages


def _check_refused(case: Case, outcome: Outcome) -> None:
    assert outcome.error is not None, f"accepted: {outcome.messages}"
    assert outcome.error.status == case.status, str(outcome.error)
    assert not any(message.complete for message in outcome.messages)
    assert len(outcome.messages) <= 1


def _check_accepted(case: Case, outcome: Outcome) -> None:
    message = outcome.messages[0]
    request = message.request
    assert message.complete
    assert message.body == case.body
    assert (request.method, request.target) == (case.method, case.target)
    assert (request.path, request.query) == (case.path, case.query)
    assert request.version == case.version
    assert request.keep_alive is case.keep_alive
    assert request.expect_continue is case.expect_continue
    assert request.fields == request.fields | dict(case.fields)
