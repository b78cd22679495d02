"""What systemd is told: sd_notify(3) and sd_watchdog_enabled(3), in the few lines that it takes.

Nothing here may stop the server or make it wait: a message that cannot be sent at once is lost.
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
    """The way to the service manager; without one, every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of the environment: what is forked must not speak for the server.

        ``environ`` is that of the process by default.
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
        """Seconds after which to call `watchdog` again; None where nobody waits for it."""

    @property
    def enabled(self) -> bool:
        """Whether there is somebody to tell."""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """Say that this process serves, at start and after a reload, and is the service's main one.

        ``status`` is a line for ``systemctl status``. Like all others, tells whether it was sent.
        """
        return self._send("READY=1", f"MAINPID={os.getpid()}", _status(status))

    def status(self, status: str) -> bool:
        """Say what goes on, in a line for ``systemctl status``."""
        return self._send(_status(status))

    def reloading(self, status: str) -> bool:
        """Say that settings and code are read again; `ready` ends that, whatever came of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now}", _status(status))

    def stopping(self, status: str) -> bool:
        """Say that the service is about to end."""
        return self._send("STOPPING=1", _status(status))

    def hand_over(self, pid: int) -> bool:
        """Say that another process is the main one from now on.

        The old supervisor does it when its successor serves: systemd may listen to nobody else.
        """
        return self._send(f"MAINPID={pid}")

    def watchdog(self) -> bool:
        """Say that the server lives."""
        return self._send("WATCHDOG=1")

    def variables_for(self, pid: int) -> dict[str, str]:
        """Return the variables for a successor's environment, whose process id is ``pid``."""
        variables = dict(self._variables)
        if self.watchdog_interval is not None:
            variables[_WATCHDOG_PID] = str(pid)
        return variables

    def close(self) -> None:
        """Close the socket, as a forked worker should; a later call opens another."""
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
            # Sent to an address, and not over a connection: systemd may have been started anew.
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # nobody listens, its queue is full, no descriptor is free
            return False
        return True

    def _find_watchdog_interval(self) -> float | None:
        usec = self._variables.get(_WATCHDOG, "")
        pid = self._variables.get(_WATCHDOG_PID, str(os.getpid()))
        if self._address is None or not usec.isdigit() or int(usec) == 0:
            return None
        # A value for another process has been passed on by an ancestor that did not clear it.
        return int(usec) / 2e6 if pid == str(os.getpid()) else None


def _address(value: str) -> str | None:
    """Return the socket's address: a path, or a name without a file, which is written ``@NAME``."""
    if value.startswith("@") and len(value) > 1:
        return "\0" + value[1:]
    # Others, as vsock: of virtual machines, are for somebody else.
    return value if value.startswith("/") else None


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
