"""Call an application in a bare loop: what a request costs without a server.

`python bare_loop.py MODULE:CALLABLE PATH` reads a number from each line of its standard input,
calls the application so often, and prints a line when it is done.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

from harness import browser


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
    """Take what the application says, and do nothing with it."""


def environ(path: str) -> dict[str, Any]:
    """Return what a server would give the application for a browser's request."""
    fields = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in browser.FIELDS}
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **fields,
    }


def main() -> None:
    """Run until the input ends."""
    module, _, name = sys.argv[1].partition(":")
    application = getattr(importlib.import_module(module), name)
    prepared = environ(sys.argv[2])
    for line in sys.stdin:
        for _ in range(int(line)):
            returned = application(dict(prepared), start_response)
            for _block in returned:
                pass
            if hasattr(returned, "close"):
                returned.close()
        print("done", flush=True)


if __name__ == "__main__":
    main()
