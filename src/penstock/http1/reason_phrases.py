"""The phrase for each HTTP status. Nothing here imports another module of Penstock."""

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
