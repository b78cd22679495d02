"""Makes the ``environ`` of PEP 3333 from a parsed request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TextIO

from penstock import messages, percent
from penstock.wsgi.file_wrapper import FileWrapper

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Container, Mapping

    from penstock import http1
    from penstock.wsgi.errors import ErrorStream

HeaderMap = Literal["drop", "refuse", "dangerous"]
"""What the server does with a name that has a ``_``: in ``environ`` it looks like a ``-``."""


OUTSIDE_MOUNT = "penstock.outside_mount"
"""A key that ``environ`` has only if the path lies outside the mount prefix."""

# Clients choose the names, so both limits bound the memory that they can take. A name beyond them
# is translated each time, which costs half a microsecond.
KEY_CACHE_ENTRIES = 1024
KEY_CACHE_NAME_LENGTH = 64

# Field names in lower case, and their environ keys; "" for a field that is left out. Any thread may
# read and write it: a lost entry is computed again.
_keys: dict[str, str] = {}

# Content-Length is set from the body's framing. Proxy would become HTTP_PROXY, the variable in
# which the HTTP client of a CGI script looks for its proxy ("httpoxy"). X-Request-Start is when
# this server received the request: what a client claims would distort what is measured.
_LEFT_OUT = frozenset({"content-length", "proxy", "x-request-start"})

# The keys that no name with an underscore may set, even if such names are let through.
_RESERVED = frozenset(
    {
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
        "HTTP_PROXY",
        "HTTP_TRANSFER_ENCODING",
        "HTTP_X_REQUEST_START",
    }
)


class DroppedFields:
    """Logs the fields that are left out for their underscore. Thread-safe.

    Without a warning, an operator would not find out why a field never arrives. Each name is logged
    once, and at most ``MAX_NAMES`` names, because clients choose them.
    """

    MAX_NAMES = 20

    def __init__(self, logger: logging.Logger, silent: Container[str] = ()) -> None:
        """Set the logger of the warnings; ``silent`` are names of which there are none."""
        self._logger = logger
        self._silent = silent
        # Two threads may both warn of the same name, which does no harm.
        self._reported: set[str] = set()

    def report(self, name: str) -> None:
        """Log a field that was left out; ``name`` is in lower case."""
        name = name[:KEY_CACHE_NAME_LENGTH]
        if name in self._silent:
            return
        if name in self._reported or len(self._reported) >= self.MAX_NAMES:
            self._logger.debug("the field %s was dropped for its underscore", name)
            return
        self._reported.add(name)
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
    """Return the part of ``environ`` that is the same for every request of a listener.

    ``script_name`` is the mount prefix, such as ``/app``; a ``/`` at its end is removed. An empty
    ``server_name`` or ``server_port``, as a unix socket has, becomes ``localhost`` or ``80``,
    because PEP 3333 allows neither to be empty. Raises `ValueError` for a prefix that does not
    start with ``/``.
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
    on_dropped: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Return a copy of ``base`` with the client's address and its header fields.

    `build_environ` takes the result, for each request of a connection with the same fields.
    ``remote_port`` is empty for a peer without one. ``on_dropped`` is called with the name of each
    field that is left out.
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
        elif on_dropped is not None and "_" in name and header_map == "drop":
            on_dropped(name)
    if header_map == "dangerous":
        _add_underscored(environ, fields)
    return environ


def build_environ(
    client: dict[str, Any], request: http1.Request, content_length: int | None
) -> dict[str, Any]:
    """Return a new ``environ`` for a request. Only the keys that the gateway adds are missing.

    ``client`` is what `client_environ` returned for the request's fields; it is not changed.
    ``content_length`` is as in `set_request`.
    """
    environ = client.copy()
    set_request(environ, request, content_length)
    return environ


def set_request(
    environ: dict[str, Any], request: http1.Request, content_length: int | None
) -> None:
    """Set what ``environ`` has of a request beyond its fields.

    ``content_length`` is the length of the body in bytes, None if it is not known. With it, a
    chunked body that was buffered looks like one that came with a Content-Length, for
    applications that read only CONTENT_LENGTH bytes.
    """
    environ["REQUEST_METHOD"] = request.method
    environ["RAW_URI"] = environ["REQUEST_URI"] = request.target
    query = request.query
    if query and not query.isascii():
        query = percent.encoded_above_ascii(query)
    environ["QUERY_STRING"] = query
    environ["SERVER_PROTOCOL"] = request.version

    path = request.path
    if "%" in path:
        path = percent.decoded(path)
    elif path == "*":
        path = ""  # PATH_INFO is empty or starts with "/" (PEP 3333, "URL Reconstruction")
    environ["PATH_INFO"] = path
    if environ["SCRIPT_NAME"]:
        _mount(environ, path)

    if request.chunked:
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # the application reads the decoded body
        if content_length is not None:
            environ["CONTENT_LENGTH"] = str(content_length)
    elif request.content_length is not None:
        environ["CONTENT_LENGTH"] = str(request.content_length)


def split_script_name(script_name: str, path: str) -> tuple[str, str] | None:
    """Split a decoded path into SCRIPT_NAME and PATH_INFO; None if it is outside the prefix.

    The prefix ends where a path segment ends: ``/app`` holds ``/app`` and ``/app/x`` but
    not ``/apple``.
    """
    rest = path.removeprefix(script_name)
    if path.startswith(script_name) and (not rest or rest.startswith("/")):
        return script_name, rest
    return None


def _mount(environ: dict[str, Any], path: str) -> None:
    if not path:  # OPTIONS * is for the whole server, and so for everything mounted on it
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
                # The field whose name has a "-" takes precedence: a proxy may have set it.
                environ.setdefault(key, value)
