"""The Python transport's check of response heads judges as `penstock.wsgi.headers.check_head` does.

It remembers what it has found: so it is asked twice, and beside other heads.
"""

from __future__ import annotations

from typing import Any

from hypothesis import example, given

from penstock.transport.date import ServerFields
from penstock.transport.python.response_head import (
    MOST_HEADS,
    REMEMBERED_CHARACTERS,
    HeadCheck,
    ResponseFields,
)
from penstock.wsgi.headers import check_head, put_right
from support.response_heads import HEADERS, STATUSES, outcome

shared = HeadCheck(check_head).check
"""What one example has it remember is there for the next one."""


@given(STATUSES, HEADERS)
@example("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12"), ("X", "\x80")])
@example("200 OK", [("Content-Length", "1"), ("Content-Length", "1")])
def test_it_judges_every_head_as_the_reference_does_at_first_and_again(
    status: Any, headers: Any
) -> None:
    expected = outcome(check_head, status, headers)
    for _ in range(2):
        assert outcome(shared, status, headers) == expected


def test_a_head_is_checked_once_while_the_application_repeats_it() -> None:
    check = HeadCheck(check_head).check
    first = check("200 OK", [("A", "1"), ("Content-Length", "3")])
    assert check("200 OK", [("A", "1"), ("Content-Length", "3")]) is first
    assert check("201 OK", [("A", "1"), ("Content-Length", "3")]) is not first


def test_pep3333_what_is_put_right_is_put_right_each_time() -> None:
    check = HeadCheck(check_head).check
    put_right.clear()
    for _ in range(2):
        check("200 OK", [("A", "1"), ("TE", "trailers")])
    assert len(put_right) == 2
    put_right.clear()


def test_pep3333_a_list_that_the_application_changes_later_changes_no_head() -> None:
    check = HeadCheck(check_head).check
    headers = [("A", "1")]
    _, fields, _, _ = check("200 OK", headers)
    headers.append(("B", "2"))
    assert fields == [("A", "1")]
    assert check("200 OK", headers)[1] == headers


def test_what_is_remembered_is_bounded() -> None:
    check = HeadCheck(check_head)
    for number in range(3 * MOST_HEADS):
        check.check("200 OK", [("A", str(number))])
        assert len(check._known) <= MOST_HEADS
    long = HeadCheck(check_head)
    long.check("200 OK", [("A", "b" * REMEMBERED_CHARACTERS)])
    assert not long._known


def test_rfc9110_6_6_1_the_applications_date_takes_the_place_of_the_servers() -> None:
    own = ServerFields("penstock")
    fields = ResponseFields([("date", "never")])
    assert fields.replaces_own
    assert fields.lines_of(own) == "Server: penstock\r\n"
    assert not ResponseFields([("Updated", "never")]).replaces_own
