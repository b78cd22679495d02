"""The native check of response heads judges as `penstock.wsgi.headers.check_head` does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given

from penstock.config.checks import native_built
from penstock.wsgi.headers import check_head
from support.response_heads import HEADERS, STATUSES, outcome

if not native_built():
    pytest.skip("the native transport is not built", allow_module_level=True)

from penstock._native import HeadCheck

native = HeadCheck(check_head).check


@given(STATUSES, HEADERS)
@example("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12"), ("X", "\x80")])
@example("200 OK", [("Content-Length", "1"), ("Content-Length", "1")])
def test_native_and_reference_judge_every_head_alike(status: Any, headers: Any) -> None:
    expected = outcome(check_head, status, headers)
    found = outcome(native, status, headers)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_pep3333_the_fields_are_in_a_list_of_their_own() -> None:
    headers = [("A", "1")]
    _, fields, _, _ = native("200 OK", headers)
    assert fields == headers
    assert fields is not headers
