"""The folder ``FOLDER``, served by pypiserver, which takes uploads of anyone."""

from __future__ import annotations

import os

import pypiserver

app = pypiserver.app(roots=[os.environ["FOLDER"]], password_file=".", authenticate=[])
