"""Notifications to systemd: sd_notify(3) and sd_watchdog_enabled(3).

They never stop the server and never make it wait: a message that cannot be sent at once is lost.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"


class Notifier:
    """Sends notifications to the service manager. Without one, every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Remove the variables from the environment, so that child processes send no messages.

        ``environ`` is the environment of the process by default.
        """
        environ = os.environ if environ is None else environ
        self._variables = {
            name: environ.pop(name)
            for name in (_SOCKET, _WATCHDOG, _WATCHDOG_PID)
            if name in environ
        }
        self._address = _address(self._variables.get(_SOCKET, ""))
        self._socket: socket.socket | None = None
        self.watchdog_interval = self._find_watchdog_interval()
        """Seconds after which to call `watchdog` again; None if systemd does not expect it."""

    @property
    def enabled(self) -> bool:
        """Whether there is a service manager to notify."""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """Report that this process serves and is the service's main process.

        For the start and for the end of a reload. ``status`` is a line for ``systemctl status``.
        Return True if the message was sent, as all these methods do.
        """
        return self._send("READY=1", f"MAINPID={os.getpid()}", _status(status))

    def status(self, status: str) -> bool:
        """Report a line for ``systemctl status``."""
        return self._send(_status(status))

    def reloading(self, status: str) -> bool:
        """Report that a reload has begun; `ready` reports its end, with or without success."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now}", _status(status))

    def stopping(self, status: str) -> bool:
        """Report that the service is stopping."""
        return self._send("STOPPING=1", _status(status))

    def hand_over(self, pid: int) -> bool:
        """Report that another process is the service's main process from now on.

        The old supervisor sends this when its successor serves: systemd may accept messages from
        the main process alone.
        """
        return self._send(f"MAINPID={pid}")

    def watchdog(self) -> bool:
        """Report that the server is alive."""
        return self._send("WATCHDOG=1")

    def variables_for(self, pid: int) -> dict[str, str]:
        """Return the variables for the environment of a successor with the process id ``pid``."""
        variables = dict(self._variables)
        if self.watchdog_interval is not None:
            variables[_WATCHDOG_PID] = str(pid)
        return variables

    def close(self) -> None:
        """Close the socket, as a forked worker should. A later message opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                )
                self._socket.setblocking(False)
            # Sent to the address and not over a connection: systemd may have been restarted.
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # no listener, a full queue, or no free descriptor
            return False
        return True

    def _find_watchdog_interval(self) -> float | None:
        usec = self._variables.get(_WATCHDOG, "")
        pid = self._variables.get(_WATCHDOG_PID, str(os.getpid()))
        if self._address is None or not usec.isdigit() or int(usec) == 0:
            return None
        # A value for another process was inherited from an ancestor that did not clear it.
        return int(usec) / 2e6 if pid == str(os.getpid()) else None


def _address(value: str) -> str | None:
    """Return the socket's address: a path, or an abstract name, which is written ``@NAME``."""
    if value.startswith("@") and len(value) > 1:
        return "\0" + value[1:]
    # Other kinds, such as vsock: of virtual machines, are not for a service.
    return value if value.startswith("/") else None


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
