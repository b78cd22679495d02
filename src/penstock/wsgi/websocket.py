"""The socket that a request with a WebSocket handshake offers to the application (RFC 6455).

PEP 3333 knows no WebSocket. What WSGI applications use instead is the socket of the connection,
which some servers put into the environ: Werkzeug's, and gunicorn's with threads. Libraries such as
simple-websocket, flask-sock and python-socketio look for their keys, write the answer to the
handshake themselves, and speak WebSocket until the view returns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOCKET_KEYS = ("werkzeug.socket", "gunicorn.socket")
"""The keys of the environ. Both have the same value."""

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""Base64 of 16 bytes (RFC 6455, section 4.1)."""

_VALUES = frozenset({"family", "type", "proto", "timeout"})
"""The attributes of a socket that are no methods."""


def is_handshake(environ: Mapping[str, Any]) -> bool:
    """Return True if a request without a body opens a WebSocket (RFC 6455, section 4.2.1)."""
    return (
        environ["REQUEST_METHOD"] == "GET"
        and environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        and _lists(environ, "HTTP_UPGRADE", "websocket")
        and _lists(environ, "HTTP_CONNECTION", "upgrade")
        and environ.get("HTTP_SEC_WEBSOCKET_VERSION") == "13"
        and _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))
    )


def _lists(environ: Mapping[str, Any], key: str, token: str) -> bool:
    members = environ.get(key, "").split(",")
    return any(member.strip(" \t").lower() == token for member in members)


def _is_key(value: str) -> bool:
    return _KEY.fullmatch(value) is not None


class ApplicationSocket:
    """Stands for the socket until the application uses it.

    The first call of a method takes the connection from HTTP, which does not get it back; each
    call is then the real socket's. So an application that only looks whether there is a socket can
    still answer.
    """

    __slots__ = ("__weakref__", "_name", "_open")

    def __init__(self, open_socket: Callable[[], Any], name: tuple[str, int] | str) -> None:
        """``open_socket`` returns the real one each time; ``name`` is the client's address."""
        self._open = open_socket
        self._name = name

    def getpeername(self) -> tuple[str, int] | str:
        """Return the client's address, as the environ has it. It takes nothing."""
        return self._name

    def setsockopt(self, *_arguments: Any) -> None:
        """Do nothing: the options of the client's connection are the server's."""

    def __getattr__(self, name: str) -> Any:
        """Return a method that calls the real socket's."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _VALUES:
            return getattr(self._open(), name)

        def method(*arguments: Any, **named: Any) -> Any:
            return getattr(self._open(), name)(*arguments, **named)

        method.__name__ = name
        return method
