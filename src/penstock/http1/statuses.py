"""What an HTTP status says: its phrase, and whether its response has a body.

Nothing here imports another module of Penstock.
"""

from __future__ import annotations

from http import HTTPStatus

REASON_PHRASES: dict[int, str] = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",  # RFC 9110 renamed these; the version of Python decides which name
    414: "URI Too Long",  # HTTPStatus has
    416: "Range Not Satisfiable",
    418: "Unused",
    422: "Unprocessable Content",
}
"""The phrase for each registered status (RFC 9110, section 15)."""

BODILESS = frozenset({204, 205, 304})
"""The final statuses without content: No Content, Reset Content and Not Modified.

RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
"""


def has_body(is_head: bool, status: int) -> bool:
    """Return True if a response may have a body; ``is_head`` is True in answer to HEAD.

    RFC 9112, section 6.3, and RFC 9110, section 15.3.6.
    """
    return not is_head and status >= 200 and status not in BODILESS
