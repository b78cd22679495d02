"""Starts servers that have no command of their own, or none with the settings that are needed.

`python runners.py SERVER MODULE:CALLABLE HOST PORT [close] [--workers N]`, and for TLS
`[--certificate FILE --key FILE]`
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import bare_loop

MAX_BODY = 1 << 30
"""FastPySGI's own limit of 10 MB is below what one scenario uploads."""


def run_bjoern(app: Any, asked: argparse.Namespace) -> None:
    bjoern = importlib.import_module("bjoern")
    bjoern.run(app, asked.host, asked.port)


def run_fastpysgi(app: Any, asked: argparse.Namespace) -> None:
    fastpysgi = importlib.import_module("fastpysgi")
    fastpysgi.server.max_content_length = MAX_BODY
    fastpysgi.run(app, asked.host, asked.port, workers=asked.workers)


def run_floor_wsgi(app: Any, asked: argparse.Namespace) -> None:
    floor_wsgi = importlib.import_module("floor_wsgi")
    floor_wsgi.serve(app, bare_loop.environ("/"), asked.port, asked.closing == "close")


def run_freastal(app: Any, asked: argparse.Namespace) -> None:
    freastal = importlib.import_module("freastal")
    freastal.serve(
        app,
        host=asked.host,
        port=asked.port,
        workers=asked.workers,
        certfile=asked.certificate,
        keyfile=asked.key,
    )


RUNNERS: dict[str, Callable[[Any, argparse.Namespace], None]] = {
    "bjoern": run_bjoern,
    "fastpysgi": run_fastpysgi,
    "floor-wsgi": run_floor_wsgi,
    "freastal": run_freastal,
}


def main() -> None:
    """Load the application and run the server until it is told to end."""
    parser = argparse.ArgumentParser(description="Start a server that has no command.")
    parser.add_argument("server", choices=RUNNERS)
    parser.add_argument("application")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    closes = "to close each connection after a response; the floor does not read what clients ask"
    parser.add_argument("closing", nargs="?", choices=["close"], help=closes)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    asked = parser.parse_args()
    module, _, name = asked.application.partition(":")
    RUNNERS[asked.server](getattr(importlib.import_module(module), name), asked)


if __name__ == "__main__":
    main()
