"""The rules and limits by which requests are refused, as metrics count them.

A refusal names a section of a standard or a setting. The scoreboard has a word for each of these.
"""

from __future__ import annotations

from typing import Final

RULES: Final = (
    "RFC 6585, section 5",
    "RFC 9110, section 5.1",
    "RFC 9110, section 5.3",
    "RFC 9110, section 5.5",
    "RFC 9110, section 6.5.1",
    "RFC 9110, section 7.4",
    "RFC 9110, section 9.1",
    "RFC 9110, section 9.3.6",
    "RFC 9110, section 10.1.1",
    "RFC 9110, section 15.5.14",
    "RFC 9110, section 15.6.6",
    "RFC 9112, section 2.2",
    "RFC 9112, section 2.3",
    "RFC 9112, section 3",
    "RFC 9112, section 3.2",
    "RFC 9112, section 3.2.4",
    "RFC 9112, section 5",
    "RFC 9112, section 5.1",
    "RFC 9112, section 5.2",
    "RFC 9112, section 6.1",
    "RFC 9112, section 6.3",
    "RFC 9112, section 7.1",
    "RFC 9112, section 7.1.1",
    "RFC 9112, section 7.1.2",
    "RFC 9112, section 8",
    "limit_request_line",
    "limit_request_fields",
    "limit_request_field_size",
    "limit_request_head",
    "limit_chunk_overhead",
    "max_body",
    "max_body_time",
    "max_connections",
    "max_requests_per_client",
    "max_spool",
    "max_unfinished_heads",
    "body_timeout",
    "forwarded_headers",
    "graceful_timeout",
    "header_map",
    "header_timeout",
    "proxy_protocol",
    "queue",
    "queue_timeout",
    "temp_dir",
    "bind",
    "other",
)
"""What may have refused a request: the setting, or else the rule. The last stands for all else."""

_NUMBERS: Final = {rule: number for number, rule in enumerate(RULES)}


def rule_number(rule: str, setting: str) -> int:
    """Return which of `RULES` has refused a request."""
    return _NUMBERS.get(setting or rule, len(RULES) - 1)
