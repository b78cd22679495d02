"""Reverse proxies on this machine, through which the load of some scenarios goes.

Both keep the connections to the client and those to the server open, speak HTTP/1.1 to both, and
tell the server who the client is.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from harness import nginx

_NGINX = nginx.template(
    "proxy",
    4096,
    """
    upstream server {{
        server {host}:{port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {host}:{front} backlog=2048;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
""",
)

_HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option http-keep-alive
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind {host}:{front}
    http-request set-header X-Forwarded-Proto http
    default_backend servers
backend servers
    server one {host}:{port}
"""


class Proxy(Enum):
    """A program, its arguments before the path of its configuration, and that configuration."""

    NGINX = ("nginx", ("-c",), _NGINX)
    HAPROXY = ("haproxy", ("-db", "-f"), _HAPROXY)

    @property
    def program(self) -> str:
        program: str = self.value[0]
        return program

    def command(self, folder: Path, host: str, port: int, front: int) -> list[str]:
        """Write the configuration into a folder; return the arguments behind the program.

        ``port`` is the server's, ``front`` the one that the proxy listens on.
        """
        _, arguments, template = self.value
        path = folder / f"{self.program}-proxy.conf"
        path.write_text(template.format(folder=folder, host=host, port=port, front=front))
        return [*arguments, str(path)]
