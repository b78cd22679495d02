"""What likely made a sender send a request that is refused: the setting to look at, for the log.

A proxy in front, or a client that is no browser, sends nearly all requests that are refused for
their form. Their operators read these lines.
"""

from __future__ import annotations

from collections.abc import Mapping

BAD_HOST = "The Host field is not valid."
"""The reason with which the value of Host is logged, too."""

_DECODED_PATH = "likely a decoded path of a proxy; nginx: proxy_pass without $uri or a path"

_CAUSES: Mapping[str, str] = {
    BAD_HOST: "nginx: proxy_set_header Host $host",
    "The Host field is missing.": "likely a health check; HAProxy: http-check send ver HTTP/1.1 "
    "hdr Host NAME",
    "Host, Content-Length or Content-Type is repeated.": "likely a proxy that adds a field to the "
    "client's",
    "HTTP/1.0 has no Transfer-Encoding.": "nginx: proxy_http_version 1.1",
    "Both Content-Length and Transfer-Encoding are there.": "nginx: no proxy_set_header for "
    "Content-Length and Transfer-Encoding",
    "Transfer-Encoding does not end in one 'chunked'.": "'identity' is to be left out; nginx: no "
    "proxy_set_header for Transfer-Encoding",
    "The request line is not 'method target version'.": _DECODED_PATH,
    "The request target is not valid.": _DECODED_PATH,
    "The request has a control character.": _DECODED_PATH,
    "A line does not end in CRLF.": "likely typed by hand, or by a script",
    "The client speaks TLS, and this address is for plain HTTP.": "to speak TLS here, --bind "
    "https://HOST:PORT with --certfile and --keyfile; else the client is to use http://; nginx: "
    "proxy_pass http://...",
    "The request begins with no method.": "likely not HTTP; nginx: --bind uwsgi://... for "
    "uwsgi_pass",
    "Only HTTP/1.0 and HTTP/1.1 are spoken here.": "nginx: proxy_http_version 1.1 and no grpc_pass",
    "A PROXY header comes from a peer that may not send one.": "nginx: proxy_protocol on; HAProxy: "
    "send-proxy",
    "A header field's name contains an underscore.": "nginx lets them through with "
    "underscores_in_headers on",
}
"""By the reason of a refusal."""


def likely_cause(reason: str, host: str) -> str:
    """Return what to look at; empty if nothing is likely. ``host`` is the value of Host."""
    if reason == BAD_HOST:
        return _cause_of_host(host)
    return _CAUSES.get(reason, "")


def _cause_of_host(host: str) -> str:
    if not host.isascii():
        return "a name that is not ASCII is to be sent as xn--..."
    if host.startswith("[") and "%" in host:
        return "the zone of an address has a meaning on the client's machine alone"
    if "," in host:
        return "likely two proxies that each add it"
    return _CAUSES[BAD_HOST]
