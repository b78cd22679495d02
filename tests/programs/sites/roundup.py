"""The tracker in the folder ``TRACKER``, served by Roundup."""

from __future__ import annotations

import os

from roundup.cgi.wsgi_handler import RequestDispatcher

app = RequestDispatcher(os.environ["TRACKER"])
