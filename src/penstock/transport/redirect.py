"""What a listener that redirects to https answers (setting: redirect_http).

Both transports call this: it is no hot path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import percent

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig

_HTTPS_PORT = 443
_CHALLENGE_PREFIX = "/.well-known/acme-challenge/"


def redirect(
    config: TransportConfig, method: str, host: str | None, target: str
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return status, fields and body of the answer to a request.

    The challenge of an authority is answered (http-01: RFC 8555, section 8.3): some of them follow
    no redirection to a certificate that they do not trust.

    ``host`` is the Host field's value, valid, or that of a target which names one; None without
    one. ``target`` begins with the path. The status is 301 for GET and HEAD, which every client
    knows; 308 keeps any other method, and its body (RFC 9110, section 15.4.9).
    """
    text = [("Content-Type", "text/plain; charset=utf-8")]
    if method in ("GET", "HEAD") and target.startswith(_CHALLENGE_PREFIX):
        answer = config.challenges().get(target.removeprefix(_CHALLENGE_PREFIX))
        if answer is not None:
            return "200 OK", [("Content-Type", "application/octet-stream")], answer.encode("ascii")
    host = host or ""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if not name:
        return "400 Bad Request", text, f"{config.no_redirect}\n".encode()
    port = config.redirect_https_port
    place = name if port == _HTTPS_PORT else f"{name}:{port}"
    location = f"https://{place}{percent.encoded_above_ascii(target)}"
    status = "301 Moved Permanently" if method in ("GET", "HEAD") else "308 Permanent Redirect"
    return status, [("Location", location), *text], b"This server is to be asked by https.\n"
