"""An application that sends back each message of a WebSocket, by simple-websocket."""

from __future__ import annotations

from typing import Any

import simple_websocket


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    socket = simple_websocket.Server.accept(environ)
    try:
        while True:
            socket.send(socket.receive())
    except simple_websocket.ConnectionClosed:
        pass
    return []
