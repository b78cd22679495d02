"""Starts servers that have no command of their own, or none with the settings that are needed.

`python runners.py SERVER MODULE:CALLABLE HOST PORT`
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

MAX_BODY = 1 << 30
"""FastPySGI's own limit of 10 MB is below what one scenario uploads."""


def run_bjoern(app: Any, host: str, port: int) -> None:
    bjoern = importlib.import_module("bjoern")
    bjoern.run(app, host, port)


def run_fastpysgi(app: Any, host: str, port: int) -> None:
    fastpysgi = importlib.import_module("fastpysgi")
    fastpysgi.server.max_content_length = MAX_BODY
    fastpysgi.run(app, host, port)


RUNNERS: dict[str, Callable[[Any, str, int], None]] = {
    "bjoern": run_bjoern,
    "fastpysgi": run_fastpysgi,
}


def main() -> None:
    """Load the application and run the server until it is told to end."""
    server, application, host, port = sys.argv[1:]
    module, _, name = application.partition(":")
    RUNNERS[server](getattr(importlib.import_module(module), name), host, int(port))


if __name__ == "__main__":
    main()
