"""gunicorn's settings: for each, the setting of Penstock that it becomes, or what to use instead.

As of gunicorn 27.0.1. In the texts, ``{threads}`` stands for a setting of Penstock, spelt as the
place needs it where the text is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Takes = Literal["value", "list", "switch", "maybe"]
"""What follows a flag: a value, one value of several, nothing, or an optional value."""


@dataclass(frozen=True)
class GunicornSetting:
    """One setting of gunicorn."""

    name: str
    """The name in a gunicorn.conf.py."""
    flags: tuple[str, ...] = ()
    default: object = None
    """gunicorn's default. A file that sets it explicitly gets no warning."""
    ours: str = ""
    """The setting of Penstock that it becomes; empty if there is none."""
    differs: str = ""
    """How the setting of Penstock differs, if there is one."""
    instead: str = ""
    """What to use instead, if there is no such setting or no such flag."""
    silent: bool = False
    """No warning although it becomes no setting: Penstock does it anyway, or reads it elsewhere."""
    takes: Takes = "value"


_SUPERVISED = "systemd or the container's runtime does that"
_NO_HTTP2 = "this version speaks HTTP/1.1 only"
_STRICT = "the parser is strict, and no setting makes it lenient"
_LOGGING = "see {error_logfile}, {access_logfile}, {access_logformat} and {log_level}"
_ONLY_WSGI = "this server serves WSGI over HTTP only"
_NO_METRICS = "this version exports no metrics"
_NO_DIRTY = "there are no such processes: use a task queue"
_PASTE = "name a factory that loads the file: module:factory('file.ini')"
_CHECKED = "penstock --check prints every setting and its source"
_WORKER_CLASS = "there is one kind of worker, with threads: see {threads}"
_LOCAL = "127.0.0.1,::1"


def _taken(
    name: str, flags: str, ours: str, default: object = None, differs: str = "", **more: object
) -> GunicornSetting:
    return GunicornSetting(
        name, tuple(flags.split()), default, ours, differs, **more  # type: ignore[arg-type]
    )  # fmt: skip


def _not_here(
    name: str, flags: str, instead: str, default: object = None, takes: Takes = "value"
) -> GunicornSetting:
    return GunicornSetting(name, tuple(flags.split()), default, instead=instead, takes=takes)


def _switch(name: str, flags: str, instead: str) -> GunicornSetting:
    return _not_here(name, flags, instead, False, "switch")


def _done(
    name: str, flags: str, instead: str, default: object = None, takes: Takes = "value"
) -> GunicornSetting:
    return GunicornSetting(
        name, tuple(flags.split()), default, instead=instead, silent=True, takes=takes
    )


_SERVER: Final = (
    _done("config", "-c --config", "-c takes a TOML file, a Python file or python:module"),
    _done("wsgi_app", "", "it names the application if the command line names none"),
    _taken("bind", "-b --bind", "bind", ["127.0.0.1:8000"], takes="list"),
    _taken("backlog", "--backlog", "backlog", 2048),
    _taken("workers", "-w --workers", "workers", 1, "auto is allowed, too"),
    _done("worker_class", "-k --worker-class", f"{_WORKER_CLASS}; sync and gthread are accepted",
          "sync"),
    _taken("threads", "--threads", "threads", 1,
           "4 is the default; one thread means one request at a time in each worker"),
    _taken("worker_connections", "--worker-connections", "max_connections", 1000,
           "10,000 is the default", instead="see {max_connections}"),
    _taken("max_requests", "--max-requests", "max_requests", 0,
           "the successor serves before the worker drains"),
    _taken("max_requests_jitter", "--max-requests-jitter", "max_requests_jitter", 0),
    _taken("timeout", "-t --timeout", "timeout", 30,
           "for each request, with threads, too; the worker is replaced only if the call does not "
           "end"),
    _taken("graceful_timeout", "--graceful-timeout", "graceful_timeout", 30),
    _taken("keepalive", "--keep-alive", "keep_alive", 2,
           "75 s is the default; 0 becomes 0.1 s, the minimum"),
    _taken("limit_request_line", "--limit-request-line", "limit_request_line", 4094,
           "8190 is the default; 0 becomes 1 MiB, the maximum"),
    _taken("limit_request_fields", "--limit-request-fields", "limit_request_fields", 100),
    _taken("limit_request_field_size", "--limit-request-field_size", "limit_request_field_size",
           8190, "0 becomes 1 MiB, the maximum"),
    _taken("reload", "--reload", "reload", False, takes="switch"),
    _not_here("reload_engine", "--reload-engine",
              "see {reload}, which uses watchfiles if that is installed", "auto"),
    _taken("reload_extra_files", "--reload-extra-file", "reload_extra_file", [], takes="list"),
    _switch("spew", "--spew", "it prints each executed line; see {trace} for requests"),
    _done("check_config", "--check-config", _CHECKED, False, "switch"),
    _done("print_config", "--print-config", _CHECKED, False, "switch"),
    _taken("preload_app", "--preload", "preload", False, takes="switch"),
    _taken("sendfile", "--no-sendfile", "sendfile", takes="switch"),
    _switch("reuse_port", "--reuse-port",
            "the workers share the listening sockets; no worker has a queue of its own"),
    _taken("chdir", "--chdir", "chdir"),
    _switch("daemon", "-D --daemon", _SUPERVISED),
    _taken("raw_env", "-e --env", "env", [], takes="list"),
    _taken("pidfile", "-p --pid", "pid"),
    _not_here("worker_tmp_dir", "--worker-tmp-dir",
              "workers write no heartbeat files; {temp_dir} is for request bodies"),
    _taken("user", "-u --user", "user", differs="with that user's groups"),
    _taken("group", "-g --group", "group"),
    _taken("umask", "-m --umask", "umask", differs="unchanged by default"),
    _done("initgroups", "--initgroups", "{user} always brings the groups of that user", False,
          "switch"),
    _taken("tmp_upload_dir", "", "temp_dir", differs="gunicorn ignores it; Penstock uses it"),
    _taken("proc_name", "-n --name", "name"),
    _done("default_proc_name", "", "the default is the application's name", "gunicorn"),
    _taken("pythonpath", "--pythonpath", "pythonpath"),
    _not_here("paste", "--paste --paster", _PASTE),
    _not_here("raw_paste_global_conf", "--paste-global", _PASTE, [], "list"),
    _taken("control_socket", "--control-socket", "control",
           differs="for penstockctl; the default is a file in a private directory",
           instead="see {control}"),
    _not_here("control_socket_mode", "--control-socket-mode",
              "see {control}: only the same user and root can use it", 0o600),
    _taken("control_socket_disable", "--no-control-socket", "control", False, "it becomes off",
           takes="switch", instead="set {control} to off"),
)  # fmt: skip

_LOGS: Final = (
    _taken("accesslog", "--access-logfile", "access_logfile",
           differs="by default on if standard output is a terminal"),
    _switch("disable_redirect_access_to_syslog", "--disable-redirect-access-to-syslog", _LOGGING),
    _taken("access_log_format", "--access-logformat", "access_logformat",
           differs="the same atoms; also combined and json"),
    _taken("errorlog", "--error-logfile --log-file", "error_logfile", "-"),
    _taken("loglevel", "--log-level", "log_level", "info"),
    _switch("capture_output", "--capture-output", _LOGGING),
    _not_here("logger_class", "--logger-class", _LOGGING, "gunicorn.glogging.Logger"),
    _not_here("logconfig", "--log-config", _LOGGING),
    _not_here("logconfig_dict", "", _LOGGING, {}),
    _not_here("logconfig_json", "--log-config-json", _LOGGING),
    _not_here("syslog_addr", "--log-syslog-to", _LOGGING, "udp://localhost:514"),
    _switch("syslog", "--log-syslog", _LOGGING),
    _not_here("syslog_prefix", "--log-syslog-prefix", _LOGGING),
    _not_here("syslog_facility", "--log-syslog-facility", _LOGGING, "user"),
    _switch("enable_stdio_inheritance", "-R --enable-stdio-inheritance", _SUPERVISED),
    _not_here("statsd_host", "--statsd-host", _NO_METRICS),
    _not_here("dogstatsd_tags", "--dogstatsd-tags", _NO_METRICS, ""),
    _not_here("statsd_prefix", "--statsd-prefix", _NO_METRICS, ""),
    _switch("enable_backlog_metric", "--enable-backlog-metric", _NO_METRICS),
)  # fmt: skip

_PROTOCOL: Final = (
    _taken("proxy_protocol", "--proxy-protocol", "proxy_protocol", "off",
           "each connection of a proxy has to begin with the header", takes="maybe"),
    _taken("proxy_allow_ips", "--proxy-allow-from", "proxy_allow_from", _LOCAL,
           "with unix sockets, as there; networks are allowed, too"),
    _not_here("protocol", "--protocol", _ONLY_WSGI, "http"),
    _not_here("uwsgi_allow_ips", "--uwsgi-allow-from", _ONLY_WSGI, _LOCAL),
    _taken("secure_scheme_headers", "", "forwarded_headers",
           differs="with the same values; X-Forwarded-Proto alone is the default"),
    _taken("forwarded_allow_ips", "--forwarded-allow-ips", "forwarded_allow_ips", _LOCAL,
           "with unix sockets, as there; networks are allowed, too"),
    _taken("forwarder_headers", "--forwarder-headers", "forwarded_headers",
           "SCRIPT_NAME,PATH_INFO", "SCRIPT_NAME alone is taken, if it is named",
           instead="see {forwarded_headers}, as in script_name"),
    _taken("header_map", "--header-map", "header_map", "drop"),
    _taken("keyfile", "--keyfile", "keyfile"),
    _taken("certfile", "--certfile", "certfile",
           differs="read by the supervisor, also again when it changes; several by SNI"),
    _not_here("ssl_version", "--ssl-version", "see {tls_min_version}"),
    _taken("cert_reqs", "--cert-reqs", "cert_reqs", 0, "names are allowed, too"),
    _taken("ca_certs", "--ca-certs", "ca_certs"),
    _done("suppress_ragged_eofs", "--suppress-ragged-eofs",
          "a client may end a connection without close_notify", True, "switch"),
    _done("do_handshake_on_connect", "--do-handshake-on-connect",
          "handshakes never hold a thread", False, "switch"),
    _taken("ciphers", "--ciphers", "ciphers", differs="of TLS 1.2"),
    _not_here("http_protocols", "--http-protocols", _NO_HTTP2, "h1"),
    _not_here("http2_cleartext", "--http2-cleartext", _NO_HTTP2, "off"),
    _not_here("http2_max_concurrent_streams", "--http2-max-concurrent-streams", _NO_HTTP2, 100),
    _not_here("http2_initial_window_size", "--http2-initial-window-size", _NO_HTTP2, 65535),
    _not_here("http2_max_frame_size", "--http2-max-frame-size", _NO_HTTP2, 16384),
    _not_here("http2_max_header_list_size", "--http2-max-header-list-size", _NO_HTTP2, 65536),
    _switch("permit_obsolete_folding", "--permit-obsolete-folding", _STRICT),
    _switch("strip_header_spaces", "--strip-header-spaces", _STRICT),
    _switch("permit_unconventional_http_method", "--permit-unconventional-http-method", _STRICT),
    _switch("permit_unconventional_http_version", "--permit-unconventional-http-version", _STRICT),
    _switch("casefold_http_method", "--casefold-http-method", _STRICT),
    _not_here("http_parser", "--http-parser", "see {transport}", "auto"),
    _not_here("root_path", "--root-path", _ONLY_WSGI, ""),
    _not_here("asgi_loop", "--asgi-loop", _ONLY_WSGI, "auto"),
    _not_here("asgi_lifespan", "--asgi-lifespan", _ONLY_WSGI, "auto"),
    _not_here("asgi_disconnect_grace_period", "--asgi-disconnect-grace-period", _ONLY_WSGI, 3),
    _not_here("websocket_max_message_size", "--websocket-max-message-size", _ONLY_WSGI, 16777216),
    _not_here("dirty_apps", "--dirty-app", _NO_DIRTY, [], "list"),
    _not_here("dirty_workers", "--dirty-workers", _NO_DIRTY, 0),
    _not_here("dirty_timeout", "--dirty-timeout", _NO_DIRTY, 300),
    _not_here("dirty_threads", "--dirty-threads", _NO_DIRTY, 1),
    _not_here("dirty_graceful_timeout", "--dirty-graceful-timeout", _NO_DIRTY, 30),
    *(_not_here(name, "", _NO_DIRTY)
      for name in ("on_dirty_starting", "dirty_post_fork", "dirty_worker_init",
                   "dirty_worker_exit")),
)  # fmt: skip

GUNICORN_SETTINGS: Final[Mapping[str, GunicornSetting]] = {
    row.name: row for row in (*_SERVER, *_LOGS, *_PROTOCOL)
}
"""All settings by name, without the hooks."""

HOOKS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_starting": ("server",),
    "on_reload": ("server",),
    "when_ready": ("server",),
    "pre_fork": ("server", "worker"),
    "post_fork": ("server", "worker"),
    "post_worker_init": ("worker",),
    "worker_int": ("worker",),
    "worker_abort": ("worker",),
    "pre_exec": ("server",),
    "pre_request": ("worker", "req"),
    "post_request": ("worker", "req", "environ", "resp"),
    "child_exit": ("server", "worker"),
    "worker_exit": ("server", "worker"),
    "ssl_context": ("config", "default_ssl_context_factory"),
    "nworkers_changed": ("server", "new_value", "old_value"),
    "on_exit": ("server",),
}
"""The hooks that Penstock calls, and their arguments."""


_OUR_WORKER_CLASSES = {"sync", "gthread", "SyncWorker", "ThreadWorker"}


def is_our_worker_class(value: object) -> bool:
    """Return True if a worker class of gunicorn asks for nothing that Penstock lacks."""
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    return name.rpartition(".")[2] in _OUR_WORKER_CLASSES
