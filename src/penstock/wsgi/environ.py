"""From a parsed request to the ``environ`` of PEP 3333."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import unquote_to_bytes

from penstock import messages
from penstock.wsgi.file_wrapper import FileWrapper

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from penstock import http1
    from penstock.wsgi.errors import ErrorStream

HeaderMap = Literal["drop", "refuse", "dangerous"]
"""What becomes of a field whose name holds ``_``, which ``environ`` cannot tell from ``-``."""

OUTSIDE_MOUNT = "penstock.outside_mount"
"""The ``environ`` key that is there when the path lies outside of the mount prefix."""

# Names come from clients, so both bounds keep a stranger from growing the worker: beyond them a
# name is translated anew each time, which costs half a microsecond.
KEY_CACHE_ENTRIES = 1024
KEY_CACHE_NAME_LENGTH = 64

# Field name in lower case to environ key, "" where the field is left out. Any thread may read and
# write: a lost entry is only computed again.
_keys: dict[str, str] = {}

# Content-Length is set from the body's framing. Proxy would become HTTP_PROXY, the variable by
# which a CGI script's HTTP client finds its proxy ("httpoxy").
_LEFT_OUT = frozenset({"content-length", "proxy"})

# What an underscore must not be able to spell, even where such names are let through.
_RESERVED = frozenset(
    {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_PROXY", "HTTP_TRANSFER_ENCODING"}
)


class DroppedFields:
    """Tells an operator of the fields that are left out for their underscore. Thread-safe.

    A field that never arrives is hard to find: each name is warned of, but once, and only so many
    of them, since clients choose the names.
    """

    MAX_NAMES = 20

    def __init__(self, logger: logging.Logger) -> None:
        """Set where the warnings go."""
        self._logger = logger
        # Two threads that meet may both warn, which does no harm.
        self._told: set[str] = set()

    def tell(self, name: str) -> None:
        """Take notice of a field that was left out; ``name`` is in lower case."""
        name = name[:KEY_CACHE_NAME_LENGTH]
        if name in self._told or len(self._told) >= self.MAX_NAMES:
            self._logger.debug("the field %s was dropped for its underscore", name)
            return
        self._told.add(name)
        messages.FIELD_DROPPED.log(self._logger, field=name, with_hyphens=name.replace("_", "-"))


def base_environ(
    *,
    multithread: bool,
    multiprocess: bool,
    server_name: str,
    server_port: str,
    url_scheme: str = "http",
    script_name: str = "",
    errors: ErrorStream | TextIO,
    software: str,
) -> dict[str, Any]:
    """Return what is the same for every request of a listener.

    ``script_name`` is the mount prefix, such as ``/app``; a closing ``/`` is taken off. An empty
    ``server_name`` or ``server_port`` (a unix socket's) becomes ``localhost`` or ``80``, since
    PEP 3333 wants both never empty. Raises `ValueError` for a prefix without its leading ``/``.
    """
    prefix = script_name.rstrip("/").encode("utf-8").decode("latin-1")
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"the mount prefix {script_name!r} does not start with '/'")
    environ: dict[str, Any] = {
        "SCRIPT_NAME": prefix,
        "SERVER_NAME": server_name or "localhost",
        "SERVER_PORT": server_port or "80",
        "SERVER_SOFTWARE": software,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url_scheme,
        "wsgi.errors": errors,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    if url_scheme == "https":
        environ["HTTPS"] = "on"
    return environ


def client_environ(
    base: dict[str, Any],
    fields: Mapping[str, str],
    remote_addr: str,
    remote_port: str,
    header_map: HeaderMap,
    dropped: DroppedFields | None = None,
) -> dict[str, Any]:
    """Return ``base`` with what a client and its header fields add.

    For `build_environ`, and good for each request of a connection that has the same fields.
    ``remote_port`` is empty for a peer that has none. ``dropped`` is told of what is left out.
    """
    environ = base.copy()
    environ["REMOTE_ADDR"] = remote_addr
    if remote_port:
        environ["REMOTE_PORT"] = remote_port
    keys = _keys
    for name, value in fields.items():
        try:
            key = keys[name]
        except KeyError:
            key = _learn_key(name)
        if key:
            environ[key] = value
        elif dropped is not None and "_" in name and header_map == "drop":
            dropped.tell(name)
    if header_map == "dangerous":
        _add_underscored(environ, fields)
    return environ


def build_environ(
    client: dict[str, Any], request: http1.Request, content_length: int | None
) -> dict[str, Any]:
    """Return a fresh ``environ`` for a request, complete but for what the gateway adds.

    ``client`` is what `client_environ` returned for the request's fields; it stays as it is.
    ``content_length`` is the length of the body in bytes where it is known: a chunked body that
    was buffered then looks like one that came with its Content-Length, for applications that
    read by CONTENT_LENGTH alone.
    """
    environ = client.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["RAW_URI"] = environ["REQUEST_URI"] = request.target
    environ["QUERY_STRING"] = request.query
    environ["SERVER_PROTOCOL"] = request.version

    path = request.path
    if "%" in path:
        path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    elif path == "*":
        path = ""  # PATH_INFO is empty or starts with "/" (PEP 3333, "URL Reconstruction")
    environ["PATH_INFO"] = path
    if environ["SCRIPT_NAME"]:
        _mount(environ, path)

    if request.chunked:
        if content_length is not None:
            environ["CONTENT_LENGTH"] = str(content_length)
            environ.pop("HTTP_TRANSFER_ENCODING", None)
    elif request.content_length is not None:
        environ["CONTENT_LENGTH"] = str(request.content_length)
    return environ


def split_script_name(script_name: str, path: str) -> tuple[str, str] | None:
    """Split a decoded path into SCRIPT_NAME and PATH_INFO; None when it is outside the prefix.

    The prefix ends where a path segment ends: ``/app`` holds ``/app`` and ``/app/x`` but
    not ``/apple``.
    """
    rest = path.removeprefix(script_name)
    if path.startswith(script_name) and (not rest or rest.startswith("/")):
        return script_name, rest
    return None


def _mount(environ: dict[str, Any], path: str) -> None:
    if not path:  # OPTIONS * speaks of the whole server, so of everything mounted on it
        return
    parts = split_script_name(environ["SCRIPT_NAME"], path)
    if parts is None:
        environ["SCRIPT_NAME"] = ""
        environ[OUTSIDE_MOUNT] = True
    else:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = parts


def _learn_key(name: str) -> str:
    if "_" in name or name in _LEFT_OUT:
        key = ""
    elif name == "content-type":
        key = "CONTENT_TYPE"
    else:
        key = _http_key(name)
    if len(name) <= KEY_CACHE_NAME_LENGTH:
        if len(_keys) >= KEY_CACHE_ENTRIES:
            _keys.clear()
        _keys[name] = key
    return key


def _http_key(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def _add_underscored(environ: dict[str, Any], fields: Mapping[str, str]) -> None:
    for name, value in fields.items():
        if "_" in name:
            key = _http_key(name)
            if key not in _RESERVED:
                # The field that is spelt with "-" stands: a proxy in front may have set it.
                environ.setdefault(key, value)
