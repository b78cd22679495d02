"""What all connections of a transport share, whatever thread has them: limits, logs, and counts."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError
from penstock.transport.config import TransportConfig
from penstock.transport.date import ServerFields
from penstock.transport.decisions import ALL_SLOW, is_slow_path, next_overall_share, next_share
from penstock.transport.log_lines import refusal_line
from penstock.transport.python.exchange_trace import ExchangeTrace
from penstock.transport.python.finished import (
    finished_exchange,
    refused_line,
    refused_request,
)
from penstock.wsgi.environ import DroppedFields

if TYPE_CHECKING:
    from penstock.telemetry.observers import Observers
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange

PATH_HASHES = 256
"""Paths are told apart by a byte of their hash, which is enough for an estimate."""

DROPPED_NAMES = 100
"""How many names of dropped fields wait to be logged. `DroppedFields` warns of fewer."""


class Shared:
    """The part of a `Loop` that any thread may use."""

    __slots__ = (
        "_dropped_fields",
        "accepted",
        "closed",
        "config",
        "draining",
        "dropped_names",
        "fate_lock",
        "logger",
        "next_shares",
        "observers",
        "refused",
        "requests",
        "server_fields",
        "slow_call_ns",
        "slow_paths",
        "slow_share",
        "slow_shares",
    )

    def __init__(
        self,
        *,
        config: TransportConfig,
        logger: logging.Logger,
        observers: Observers | None,
    ) -> None:
        self.config = config
        self.logger = logger
        self.observers = observers
        self._dropped_fields = DroppedFields(logger)
        # Logged by the thread that takes the request, when it no longer leads: a log may block.
        self.dropped_names: deque[str] = deque(maxlen=DROPPED_NAMES)
        self.server_fields = ServerFields(config.server_header)
        self.fate_lock = threading.Lock()  # held for a comparison, and only by unusual responses
        self.draining = False  # set by any thread
        self.closed = False  # set by any thread
        # Estimates of how long the application's calls take. A lost update between threads costs
        # nothing.
        self.slow_call_ns = int(config.slow_call_seconds * 1e9)
        self.slow_share = 0.0  # moving share of all calls that were slow
        self.slow_paths = bytearray(PATH_HASHES)  # the same by path, in parts of `ALL_SLOW`
        # What `next_share` returns, since each request asks it.
        self.next_shares = [
            bytes(next_share(share, slow) for share in range(ALL_SLOW + 1))
            for slow in (False, True)
        ]
        self.slow_shares = bytes(is_slow_path(config, share) for share in range(ALL_SLOW + 1))
        self.accepted = 0
        self.requests = 0
        self.refused = 0

    def note_call(self, path: str, nanoseconds: int) -> None:
        """Keep account of how long a call of the application took."""
        slow = nanoseconds > self.slow_call_ns
        index = hash(path) % PATH_HASHES
        share = self.slow_paths[index]
        if slow or share:
            self.slow_paths[index] = self.next_shares[slow][share]
        if slow or self.slow_share:
            self.slow_share = next_overall_share(self.slow_share, slow)

    def expects_slow_call(self, path: str) -> bool:
        """Return True if the calls of a path have proved slow."""
        return bool(self.slow_shares[self.slow_paths[hash(path) % PATH_HASHES]])

    def log_dropped_fields(self) -> None:
        """Log the fields that were left out of an environ. Not for a thread that leads."""
        while True:
            try:
                name = self.dropped_names.popleft()
            except IndexError:  # perhaps another thread was faster
                return
            self._dropped_fields.report(name)

    def new_exchange_trace(self, connection: Connection) -> ExchangeTrace | None:
        """Return what collects a connection's exchanges, if an observer needs them."""
        wanted = self.observers is not None and self.observers.needs.transcript
        return ExchangeTrace(connection) if wanted else None

    def new_request_id(self) -> str:
        """Count a request, and return what names it in the logs."""
        self.requests += 1
        return f"{self.config.id_prefix}{self.requests:x}"

    def report_exchange(self, exchange: PythonExchange, reason: str) -> None:
        """Hand an exchange that is over to the observers; ``reason`` is why it was cut short."""
        if self.observers is not None:
            self.observers.add(finished_exchange(exchange, reason, self.observers.needs))

    def report_refusal(
        self, connection: Connection, error: ProtocolError, bytes_in: int, bytes_out: int
    ) -> None:
        """Log a request that was refused, and hand it to the observers; sizes are of the bodies."""
        self.refused += 1
        request_id = self.new_request_id()
        cause = error.__cause__
        line = refusal_line(
            connection.remote_addr,
            refused_line(connection, error),
            request_id,
            error.status,
            error.reason,
            cause=str(cause.strerror or cause) if isinstance(cause, OSError) else "",
            rule=error.rule,
            setting=error.setting,
            disconnected=error.status == self.config.client_left_status,
        )
        self.logger.info("%s", line)
        if self.observers is not None:
            self.observers.add(
                refused_request(
                    connection, error, request_id, bytes_in, bytes_out, self.observers.needs
                )
            )
