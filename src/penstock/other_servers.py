"""What other servers' settings are called, and what there is here in their place.

One table for every place that such a name can turn up in: flags, variables, files, programs. In
its texts, ``{threads}`` stands for a setting of ours, which is spelt as that place has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from penstock.options import Option

Spelling = Literal["name", "variable", "flag"]
"""How a setting is spelt where it is spoken of: the attributes of `Option`."""

_TLS = "this version speaks no TLS: let a proxy in front do it"
_SUPERVISED = "systemd or the container's runtime does that"
_NO_HTTP2 = "this version speaks HTTP/1.1 only"
_NO_PROXY = "forwarding headers are passed to the application and never acted upon"
_STRICT = "requests are read strictly, and there is no switch against that"
_LOGGING = "see {error_logfile}, {access_logfile}, {access_logformat} and {log_level}"
_ONLY_WSGI = "this server serves WSGI over HTTP only"
_NO_METRICS = "this version counts nothing"
_NO_HOOKS = "there are no hooks"
_ADDRESS = "see {bind}, which takes host and port together, as in 127.0.0.1:8000"
_SPECIFIED = "the command's argument names the application, as module:callable"

GUNICORN_FLAGS: Final[Mapping[tuple[str, ...], str]] = {
    ("-k", "--worker-class"): "there is one kind of worker, with threads: see {threads}",
    ("--worker-connections",): "see {max_connections}",
    ("--print-config",): "see penstock --check",
    ("--spew",): "see {trace}",
    ("--worker-tmp-dir",): "workers write no heartbeat files; see {temp_dir} for request bodies",
    ("--keyfile", "--certfile", "--ca-certs", "--cert-reqs", "--ciphers"): _TLS,
    ("--ssl-version", "--do-handshake-on-connect", "--suppress-ragged-eofs"): _TLS,
    ("--reuse-port",): "workers share the listening sockets, so that none has a queue of its own",
    ("--reload-engine",): "see {reload}, which takes watchfiles where that is installed",
    ("-D", "--daemon"): _SUPERVISED,
    ("--initgroups",): "see {user}, which has the groups of that user",
    ("-R", "--enable-stdio-inheritance"): _SUPERVISED,
    ("--http-protocols", "--http2-cleartext", "--http2-max-concurrent-streams"): _NO_HTTP2,
    ("--http2-initial-window-size", "--http2-max-frame-size"): _NO_HTTP2,
    ("--http2-max-header-list-size",): _NO_HTTP2,
    ("--forwarded-allow-ips", "--forwarder-headers"): _NO_PROXY,
    ("--proxy-protocol", "--proxy-allow-from"): _NO_PROXY,
    ("--permit-obsolete-folding", "--strip-header-spaces", "--casefold-http-method"): _STRICT,
    ("--permit-unconventional-http-method",): _STRICT,
    ("--permit-unconventional-http-version",): _STRICT,
    ("--http-parser",): "see {transport}",
    ("--log-config", "--log-config-json", "--logger-class", "--capture-output"): _LOGGING,
    ("--log-syslog", "--log-syslog-to", "--log-syslog-prefix"): _LOGGING,
    ("--log-syslog-facility", "--disable-redirect-access-to-syslog"): _LOGGING,
    ("--statsd-host", "--statsd-prefix", "--dogstatsd-tags"): _NO_METRICS,
    ("--enable-backlog-metric",): _NO_METRICS,
    ("--control-socket-mode",): "see {control}: the same user and root alone may use it",
    ("--no-control-socket",): "see {control}, which can be off",
    (
        "--paste",
        "--paster",
        "--paste-global",
    ): "name a factory that loads the file: module:factory('file.ini')",
    ("--protocol", "--uwsgi-allow-from", "--root-path"): _ONLY_WSGI,
    ("--asgi-loop", "--asgi-lifespan", "--asgi-disconnect-grace-period"): _ONLY_WSGI,
    ("--websocket-max-message-size",): _ONLY_WSGI,
    ("--dirty-app", "--dirty-workers", "--dirty-timeout"): _ONLY_WSGI,
    ("--dirty-threads", "--dirty-graceful-timeout"): _ONLY_WSGI,
}

_GUNICORN_NAMES: Final[Mapping[tuple[str, ...], str]] = {
    # What a file of gunicorn's calls otherwise than its flags, or what only a file can have.
    ("default_proc_name",): _SUPERVISED,
    ("logconfig", "logconfig_dict", "logconfig_json"): _LOGGING,
    ("syslog", "syslog_addr", "syslog_prefix", "syslog_facility"): _LOGGING,
    ("proxy_allow_ips", "secure_scheme_headers"): _NO_PROXY,
    ("raw_paste_global_conf",): "name a factory that loads the file: module:factory('file.ini')",
    ("check_config", "config"): "see penstock --check and penstock --config",
    ("wsgi_app",): _SPECIFIED,
    ("ssl_context",): _TLS,
    ("on_starting", "on_reload", "when_ready", "pre_fork", "post_fork", "pre_exec"): _NO_HOOKS,
    ("post_worker_init", "worker_int", "worker_abort", "worker_exit"): _NO_HOOKS,
    ("pre_request", "post_request", "child_exit", "nworkers_changed", "on_exit"): _NO_HOOKS,
}

_OTHERS_NAMES: Final[Mapping[tuple[str, ...], str]] = {
    # Of waitress and uvicorn, as flags and as arguments.
    ("host", "port", "listen"): _ADDRESS,
    ("unix_socket", "uds"): "see {bind}, as in unix:/run/app.sock",
    ("unix_socket_perms",): "see {umask}: mode 600 is a mask of 0177",
    ("sockets", "fd"): "see {bind}, as in fd://3",
    ("call", "factory"): "a factory is written with its arguments, as in module:factory()",
    ("app_dir",): "see {chdir}",
    ("trusted_proxy", "trusted_proxy_count", "trusted_proxy_headers"): _NO_PROXY,
    ("clear_untrusted_proxy_headers", "log_untrusted_proxy_headers"): _NO_PROXY,
    ("url_scheme", "proxy_headers"): _NO_PROXY,
    ("ssl_keyfile", "ssl_certfile", "ssl_keyfile_password", "ssl_ca_certs"): _TLS,
    ("limit_max_requests",): "see {max_requests}",
    ("reload_dir", "reload_dirs"): "see {reload} and {reload_extra_file}",
    ("interface", "loop", "ws", "lifespan"): _ONLY_WSGI,
    ("env_file",): "see {env}",
    ("expose_tracebacks",): "tracebacks go to the log alone",
}


def explain(name: str, options: Mapping[str, Option], spelling: Spelling) -> str | None:
    """Return what to do about ``name``, a setting of another server; None for any other name."""
    found = _BY_NAME.get(name.lower().replace("-", "_"))
    if found is None:
        return None
    server, answer = found
    return f"it is one of {server}, and not of penstock: {spelt(answer, options, spelling)}"


def spelt(answer: str, options: Mapping[str, Option], spelling: Spelling) -> str:
    """Return a text of the tables with our settings as they are spelt in that place."""
    return answer.format_map({name: getattr(ours, spelling) for name, ours in options.items()})


def _entries() -> Iterator[tuple[str, tuple[str, str]]]:
    for names, answer in _OTHERS_NAMES.items():
        yield from ((name, ("other servers", answer)) for name in names)
    for names, answer in _GUNICORN_NAMES.items():
        yield from ((name, ("gunicorn", answer)) for name in names)
    for flags, answer in GUNICORN_FLAGS.items():
        for flag in flags:
            if flag.startswith("--"):
                yield flag.removeprefix("--").replace("-", "_"), ("gunicorn", answer)


_BY_NAME: Final = dict(_entries())
