"""What the connections of a worker do, as the scoreboard shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.http1 import State
from penstock.telemetry.scoreboard import (
    CLOSING,
    HANDSHAKING,
    IDLE,
    IN_APPLICATION,
    READING,
    SENDING,
)
from penstock.transport.states import Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection

CONNECTION_STATES = (HANDSHAKING, IDLE, READING, IN_APPLICATION, SENDING, CLOSING)
"""The words of a slot that count connections by what they do."""

_WORDS = {
    Phase.AWAITING_PROXY: HANDSHAKING,
    Phase.HANDSHAKING: HANDSHAKING,
    Phase.READING: READING,
    Phase.STORING: READING,
    Phase.DISCARDING: READING,
    Phase.HANDED_OUT: IN_APPLICATION,
    Phase.ANSWERED: IN_APPLICATION,
    Phase.FLUSHING: SENDING,
    Phase.REFUSING: SENDING,
    Phase.LINGERING: CLOSING,
    Phase.CLOSED: CLOSING,
}


def state_word(connection: Connection) -> int:
    """Return the word that counts a connection. For any thread: it may be out of date by then."""
    phase = connection.phase
    if phase is Phase.READING and connection.awaited is State.IDLE:
        return IDLE
    return _WORDS[phase]
