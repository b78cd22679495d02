"""The names of other servers' settings, and what to use instead.

For the error after an unknown name in a flag, a variable, a file or a program. In the texts,
``{threads}`` stands for a setting of Penstock, spelt as in the place of the unknown name.
gunicorn's settings are in `penstock.config.gunicorn_settings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from penstock.config.gunicorn_settings import GUNICORN_SETTINGS, HOOKS
from penstock.config.options import Option

Spelling = Literal["name", "variable", "flag"]
"""How to spell a setting in a message: one of these attributes of `Option`."""

_PROXIES = "see {forwarded_allow_ips} and {forwarded_headers}"
_ONLY_WSGI = "this server serves WSGI over HTTP only"
_HOOK = "hooks are functions in a gunicorn.conf.py, which the flag -c names"
_ADDRESS = "see {bind}, which takes host and port together, as in 127.0.0.1:8000"

_OURS_TOO: Final = {"config", "check_config", "print_config"}
"""Flags that the command itself has, beside those of the settings."""

GUNICORN_ALONE: Final = tuple(
    row
    for row in GUNICORN_SETTINGS.values()
    if row.flags and row.instead and row.name not in _OURS_TOO
)
"""The settings of gunicorn whose flags are not those of a setting of Penstock."""

_OTHERS_NAMES: Final[Mapping[tuple[str, ...], str]] = {
    # waitress and uvicorn, as flags and as arguments.
    ("host", "port", "listen"): _ADDRESS,
    ("unix_socket", "uds"): "see {bind}, as in unix:/run/app.sock",
    ("sockets", "fd"): "see {bind}, as in fd://3",
    ("call", "factory"): "a factory is written with its arguments, as in module:factory()",
    ("app_dir",): "see {chdir}",
    ("trusted_proxy_count", "url_scheme", "proxy_headers", "trusted_hosts"): _PROXIES,
    ("clear_untrusted_proxy_headers", "log_untrusted_proxy_headers"): "see {untrusted_forwarded}",
    ("ssl_keyfile_password",): "an encrypted key is refused: decrypt it with openssl pkey",
    ("limit_max_requests",): "see {max_requests}",
    ("reload_dir", "reload_dirs"): "see {reload} and {reload_extra_file}",
    ("interface", "loop", "ws", "lifespan"): _ONLY_WSGI,
    ("expose_tracebacks",): "tracebacks go to the log alone",
    (
        "recv_bytes",
        "send_bytes",
        "outbuf_overflow",
        "cleanup_interval",
        "asyncore_loop_timeout",
        "asyncore_use_poll",
        "log_socket_errors",
        "channel_request_lookahead",
        "server_name",
    ): "leave it out: nothing here needs it",
    ("respawn_failed_workers",): "leave it out: a worker that ended is always replaced",
}


def explain(name: str, options: Mapping[str, Option], spelling: Spelling) -> str | None:
    """Return what to use instead of another server's setting; None for any other name."""
    found = _BY_NAME.get(name.lower().replace("-", "_"))
    if found is None:
        return None
    server, answer = found
    return f"it is a setting of {server}, not of penstock: {spelt(answer, options, spelling)}"


def spelt(answer: str, options: Mapping[str, Option], spelling: Spelling) -> str:
    """Return a text of the tables with Penstock's settings spelt as ``spelling`` says."""
    return answer.format_map({name: getattr(ours, spelling) for name, ours in options.items()})


def _entries() -> Iterator[tuple[str, tuple[str, str]]]:
    for names, answer in _OTHERS_NAMES.items():
        yield from ((name, ("other servers", answer)) for name in names)
    for row in GUNICORN_SETTINGS.values():
        if row.instead:
            flags = (flag.removeprefix("--") for flag in row.flags if flag.startswith("--"))
            for name in (row.name, *flags):
                yield name.replace("-", "_"), ("gunicorn", row.instead)
    yield from ((name, ("gunicorn", _HOOK)) for name in HOOKS)


_BY_NAME: Final = dict(_entries())
