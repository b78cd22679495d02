"""The repository ``REPOSITORY``, served by hgweb."""

from __future__ import annotations

import os

from mercurial.hgweb import hgweb

app = hgweb(os.environ["REPOSITORY"].encode())
