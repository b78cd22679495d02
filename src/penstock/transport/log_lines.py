"""What both transports log about requests at level INFO."""

from __future__ import annotations

_SHOWN_CHARACTERS = 200
"""How much of a request line that was refused is logged: enough to recognise it."""


def refusal_line(
    client: str,
    request_line: str,
    request_id: str,
    status: int,
    reason: str,
    *,
    cause: str = "",
    rule: str = "",
    setting: str = "",
    disconnected: bool = False,
) -> str:
    """Return the line for a request that was refused, or lost with its client.

    ``client`` is an address, empty for a unix socket; ``cause`` the system's word for why;
    ``rule`` a section of the standard, ``setting`` the setting that moves the limit.
    """
    notes = [
        f'"{request_line[:_SHOWN_CHARACTERS]}"' if request_line else "",
        rule,
        f"setting: {setting}" if setting else "",
        f"request {request_id}",
    ]
    return (
        f"{'lost' if disconnected else 'refused'} a request from {client or 'a unix socket'}: "
        f"{status} {reason}{f' {cause}.' if cause else ''} ({'; '.join(filter(None, notes))})"
    )


def cut_off_line(client: str, method: str, target: str, request_id: str, reason: str) -> str:
    """Return the line for a response that the client did not get whole."""
    return f"{method} {target} (request {request_id}) for {client or 'a unix socket'}: {reason}"
