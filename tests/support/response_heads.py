"""What applications may pass to ``start_response``: right, odd and wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


class Text(str):
    """A str, and yet not one: what it does when it is looked at is its own."""


STATUSES = st.one_of(
    st.sampled_from(["200 OK", "204 ", "599 x", "404 Non trouv\xe9", "200 a\tb", "200", "600 x"]),
    st.sampled_from(["199 x", "100 Continue", "2000 OK", "\u0662\u0660\u0660 OK", "200 \u0142"]),
    st.from_regex(r"[1-6][0-9]{2} [\x00-\xff]{0,3}", fullmatch=True),
    st.builds(Text, st.just("200 OK")),
    st.sampled_from([None, 200, b"200 OK"]),
)
NAMES = st.one_of(
    st.sampled_from(["Content-Type", "content-length", "Content-LENGTH", "Connection", "TE"]),
    st.sampled_from(["Keep-Alive", "Transfer-Encoding", "Upgrade", "Trailers", "Set-Cookie"]),
    st.sampled_from(["", "a b", "a:", "caf\xe9", "a\n", "proxy-authenticate", "\u0142"]),
    st.builds(Text, st.just("X")),
    st.sampled_from([None, b"X"]),
)
VALUES = st.one_of(
    st.sampled_from(["text/plain", "", "\t", "caf\xe9", "close", "keep-alive, Close", "a\r\nb"]),
    st.sampled_from(["0", "12", "+1", "1_0", "9" * 18, "9" * 19, " 1", "\u0661", "\x7f", "\x80"]),
    st.builds(Text, st.sampled_from(["1", "a\n"])),
    st.sampled_from([None, 1, b"x"]),
)
FIELDS = st.one_of(
    st.tuples(NAMES, VALUES), st.tuples(NAMES), st.lists(NAMES, min_size=2, max_size=2)
)
HEADERS: st.SearchStrategy[Any] = st.one_of(
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.lists(FIELDS, max_size=3),
    st.sampled_from([None, (), "ab", {}]),
)


def outcome(check: Any, status: Any, headers: Any) -> Any:
    try:
        return check(status, headers)
    except Exception as error:
        return type(error), str(error)
