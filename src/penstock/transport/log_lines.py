"""What both transports log about requests at level INFO."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from penstock import messages

if TYPE_CHECKING:
    import logging

CLIENT_GONE = "the client is gone"
CLIENT_STALLED = "the client takes no data (setting: write_timeout)"
CLIENT_TOO_SLOW = "the client reads too slowly (setting: max_unsent)"
FILE_TRUNCATED = "the file became shorter while it was sent"

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


def host_replaced_line(client: str, target: str, host: str, request_id: str) -> str:
    """Return the line for a request whose target names another host than its Host field."""
    return (
        f'the host in the target "{target[:_SHOWN_CHARACTERS]}" replaces the Host field '
        f'"{host[:_SHOWN_CHARACTERS]}" (request {request_id}) for {client or "a unix socket"}'
    )


def lost_client(error: OSError) -> str:
    """Return why the client did not get more, by the error of its socket.

    The error itself depends on what the server was about to do, and is left out.
    """
    if error.errno == errno.ENOBUFS:
        return CLIENT_TOO_SLOW
    return CLIENT_STALLED if error.errno == errno.ETIMEDOUT else CLIENT_GONE


def cut_off_reason(error: OSError, *, disconnected: bool) -> str:
    """Return the reason of a response that ``error`` cut off, for both logs."""
    if disconnected:
        return f"client disconnected: {lost_client(error)}"
    return f"response cut off: {error.strerror or error}"


def log_cut_off(
    logger: logging.Logger, method: str, target: str, request_id: str, reason: str
) -> None:
    """Log that the client did not get a response whole, as the gateway does for its part."""
    name = f"{method} {target} (request {request_id})"
    if reason.endswith(FILE_TRUNCATED):
        messages.FILE_TRUNCATED.log(logger, request=name)
    else:
        logger.info("%s: %s", name, reason)
