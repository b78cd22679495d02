"""calibre-web with its settings in ``CALIBRE_DBPATH``. It has no application of its own to import.

Its main function makes the application and starts a server; here the latter is Penstock.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import calibreweb  # its folder is on the path from then on, as `cps`

# It takes its settings from the command line, which is Penstock's here.
sys.argv = ["cps", "-p", os.path.join(os.environ["CALIBRE_DBPATH"], "app.db")]

from cps import app, web_server  # noqa: E402

web_server.start = lambda: True
with suppress(SystemExit):
    calibreweb.main()

__all__ = ["app"]
