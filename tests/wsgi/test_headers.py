"""The checks of a response's status and headers."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.wsgi import headers as headers_module
from penstock.wsgi.headers import CACHE_ENTRIES, check_headers, check_status, put_right


@pytest.mark.parametrize(
    ("status", "code"),
    [("200 OK", 200), ("599 x", 599), ("204 ", 204), ("404 Non trouv\xe9", 404), ("200 a\tb", 200)],
)
def test_pep3333_status_is_three_digits_and_a_reason(status: str, code: int) -> None:
    assert check_status(status) == code
    assert check_status(status) == code  # from the cache


@pytest.mark.parametrize(
    "status",
    [
        "", "OK", "20", "20 OK", "2000", "2000 OK", "200OK", " 200 OK", "100 Continue", "103",
        "000 x", "200 OK\r\nX: y", "200 OK\n", "200 \x00", "200 \x7f", "200 \u0142",
        "\u0662\u0660\u0660 OK", "+20 OK",
    ],
)  # fmt: skip
def test_pep3333_status_that_is_malformed_is_a_value_error(status: str) -> None:
    with pytest.raises(ValueError, match="is no status"):
        check_status(status)


@pytest.mark.parametrize(("status", "code"), [("207", 207), ("999 Denied", 999), ("600 ", 600)])
def test_a_status_that_other_servers_send_is_sent_and_reported(status: str, code: int) -> None:
    headers_module._codes.clear()
    put_right.clear()
    assert check_status(status) == code
    assert [notice.message.id for notice in put_right] == ["PEN-3140"]
    put_right.clear()


@pytest.mark.parametrize("status", [200, None, b"200 OK"])
def test_pep3333_status_that_is_not_a_str_is_a_type_error(status: Any) -> None:
    with pytest.raises(TypeError, match="status"):
        check_status(status)


def test_pep3333_headers_are_returned_unchanged_in_a_new_list() -> None:
    given = [("Content-Type", "text/plain"), ("X-A", ""), ("x-a", "caf\xe9\t!"), ("Date", "now")]
    fields, length, close = check_headers(given)
    assert fields == given
    assert fields is not given
    assert (length, close) == (None, False)


@pytest.mark.parametrize("headers", [None, {}, "ab", iter([])])
def test_pep3333_headers_must_be_a_list(headers: Any) -> None:
    with pytest.raises(TypeError, match="list"):
        check_headers(headers)


@pytest.mark.parametrize("item", [("a",), ("a", "b", "c"), ["a"], "ab", None, {"a", "b"}])
def test_pep3333_each_header_must_be_a_pair(item: Any) -> None:
    with pytest.raises(TypeError, match="tuple"):
        check_headers([item])


@pytest.mark.parametrize("item", [(b"A", "x"), (1, "x"), ("A", b"x"), ("A", 1), ("A", None)])
def test_pep3333_names_and_values_must_be_str(item: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        check_headers([item])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\xe9", "a\x00", "(a)", "a\n"])
def test_rfc9110_5_6_2_name_must_be_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="is no header name"):
        check_headers([(name, "x")])


@pytest.mark.parametrize("value", ["a\r\nb", "a\n", "\r", "\x00", "\x7f", "\x1b[0m", "\u0142"])
def test_rfc9110_5_5_value_must_not_hold_controls_and_the_error_does_not_show_it(
    value: str,
) -> None:
    with pytest.raises(ValueError, match="the header Set-Cookie") as caught:
        check_headers([("Set-Cookie", "secret" + value)])
    assert "secret" not in str(caught.value)


class Text(str):
    """A subclass of str, as frameworks have them."""


def test_subclass_of_str_passes_as_a_value() -> None:
    assert check_headers([("A", Text("x"))])[0] == [("A", "x")]
    with pytest.raises(ValueError, match="control"):
        check_headers([("A", Text("x\n"))])


def test_content_length_is_removed() -> None:
    fields, length, _ = check_headers([("A", "1"), ("content-LENGTH", "12"), ("B", "2")])
    assert fields == [("A", "1"), ("B", "2")]
    assert length == 12


@pytest.mark.parametrize(
    "values",
    [[""], ["-1"], ["+1"], ["1 "], ["0x1"], ["1,1"], ["\u0661"], ["1_0"], ["9" * 19], ["1", "2"]],
)
def test_rfc9110_8_6_content_length_must_be_one_plain_number(values: list[str]) -> None:
    with pytest.raises(ValueError):
        check_headers([("Content-Length", value) for value in values])


@pytest.mark.parametrize(
    "name",
    ["Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Trailers",
     "Transfer-Encoding", "transfer-encoding", "Upgrade"],
)  # fmt: skip
def test_rfc9110_7_6_1_hop_by_hop_headers_are_left_out_and_reported(name: str) -> None:
    put_right.clear()
    assert check_headers([(name, "x"), ("A", "1")]) == ([("A", "1")], None, False)
    [notice] = put_right
    assert f"the field {name.title()}, which was left out" in str(notice)
    put_right.clear()


def test_equal_content_lengths_are_one() -> None:
    assert check_headers([("Content-Length", "5"), ("content-length", "5")]) == ([], 5, False)


def test_headers_may_be_lists_and_tuples_of_either_as_other_servers_take_them() -> None:
    wrong: Any = (["A", "1"], ("B", "2"))
    assert check_headers(wrong) == ([("A", "1"), ("B", "2")], None, False)
    assert check_headers(list(wrong)) == ([("A", "1"), ("B", "2")], None, False)


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ([("Connection", "close")], True),
        ([("connection", "X-A, Close")], True),
        ([("Connection", "close"), ("Connection", "x")], True),
        ([("Connection", "keep-alive")], False),
        ([("Connection", "closed")], False),
    ],
)
def test_connection_is_removed_and_close_is_reported(
    headers: list[tuple[str, str]], closes: bool
) -> None:
    assert check_headers([*headers, ("A", "1")]) == ([("A", "1")], None, closes)


def test_names_and_reasons_invented_by_applications_do_not_grow_the_caches() -> None:
    for number in range(CACHE_ENTRIES * 2):
        check_headers([(f"X-{number}", "1")])
        check_status(f"200 {number}")
    assert len(headers_module._kinds) <= CACHE_ENTRIES
    assert len(headers_module._codes) <= CACHE_ENTRIES
