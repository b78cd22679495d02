"""The environment that ``TRAC_ENV`` names, served by Trac."""

from __future__ import annotations

from trac.web.main import dispatch_request

app = dispatch_request
