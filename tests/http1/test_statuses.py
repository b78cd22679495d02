"""The phrase of each status. (Whether it has a body is in the framing table)."""

from __future__ import annotations

from http import HTTPStatus

from penstock.http1.statuses import REASON_PHRASES


def test_RFC9110_15_every_registered_status_has_its_phrase() -> None:
    assert REASON_PHRASES[200] == "OK"
    assert REASON_PHRASES[413] == "Content Too Large"
    assert {status.value for status in HTTPStatus} <= set(REASON_PHRASES)
