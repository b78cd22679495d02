"""What the supervisor gives the process that orders certificates: its settings, and its end.

The process imports the rest, `acme_process`, when it runs: a supervisor without it is smaller.
"""

from __future__ import annotations

import signal

from penstock.records import dataclass

HTTP, ALPN = "http-01", "tls-alpn-01"
"""The kinds of challenges (RFC 8555, section 8.3, and RFC 8737)."""


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """What the settings say of ordering."""

    names: tuple[str, ...]
    email: str
    """Empty for none."""
    directory: str
    """The URL of the authority's directory."""
    path: str
    """The directory of the state."""
    kinds: tuple[str, ...]
    """The challenges that this server can answer, the preferred one first."""


class Stop(BaseException):
    """The process is to end."""


def stop_on_signals() -> None:
    """Raise `Stop` at SIGTERM, so that the lease is released; ignore signals to the supervisor."""

    def stop(_number: int, _frame: object) -> None:
        raise Stop

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, stop)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
                   signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):  # fmt: skip
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
