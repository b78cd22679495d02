"""How nginx is configured here, whether it answers by itself or stands before another server."""

from __future__ import annotations

# Of its own it closes a connection after 1,000 requests.
_CONFIG = """
daemon off;
worker_processes 1;
error_log stderr error;
pid {folder}/NAME.pid;
events {{ worker_connections CONNECTIONS; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/NAME-body;
    proxy_temp_path {folder}/NAME-proxy;
    fastcgi_temp_path {folder}/NAME-fastcgi;
    uwsgi_temp_path {folder}/NAME-uwsgi;
    scgi_temp_path {folder}/NAME-scgi;
HTTP
}}
"""


def template(name: str, connections: int, http: str) -> str:
    """Return a configuration, to be filled in by `str.format`: ``folder``, and what ``http`` has.

    ``name`` begins the names of what nginx writes into the folder. ``http`` is the rest of the
    block of this name.
    """
    values = {"NAME": name, "CONNECTIONS": str(connections), "HTTP": http.strip("\n")}
    text = _CONFIG
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
