"""The repository ``REPOSITORY``, served by klaus, which takes pushes of anyone."""

from __future__ import annotations

import os

from klaus import make_app

app = make_app([os.environ["REPOSITORY"]], "Check", use_smarthttp=True, unauthenticated_push=True)
