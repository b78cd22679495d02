"""A folder, ``FOLDER``, shared by WsgiDAV with locks and properties."""

from __future__ import annotations

import os

from wsgidav.wsgidav_app import WsgiDAVApp

app = WsgiDAVApp(
    {
        "provider_mapping": {"/": os.environ["FOLDER"]},
        "simple_dc": {"user_mapping": {"*": True}},
        "lock_storage": True,
        "property_manager": True,
        "verbose": 1,
    }
)
