"""gunicorn's settings: for each, the setting of Penstock that it becomes, or what to use instead.

As of gunicorn 27.0.1. In the texts, ``{threads}`` stands for a setting of Penstock, spelt as the
place needs it where the text is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from penstock.records import dataclass

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
    needless: bool = False
    """It becomes no setting, and nothing is missed: noted in the log, without a warning."""
    takes: Takes = "value"


_SUPERVISED = "systemd or the container's runtime does that"
_NO_HTTP2 = "this version speaks HTTP/1.1 only"
_STRICT = "the parser is strict, and no setting makes it lenient"
_LOGGING = (
    "logs go to files and standard streams: see {error_logfile}, {access_logfile}, "
    "{access_logformat} and {log_level}"
)
_ONLY_WSGI = "this server serves WSGI over HTTP only"
_NO_DIRTY = "there are no such processes: use a task queue"
_CHECKED = "penstock --check prints every setting and its source"
_WORKER_CLASS = "there is one kind of worker, with threads: see {threads}"
GREENLET_THREADS: Final = 32
"""How many threads take the place of greenlets where no number is given: how many requests wait at
the same time is not known, and each thread costs memory. The warning says so."""

_GREENLETS = (
    "there is one kind of worker, with threads and without greenlets: set {threads} to the number "
    f"of requests that wait at the same time (without it, {GREENLET_THREADS})"
)
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


def _needless(
    name: str, flags: str, instead: str, default: object = None, takes: Takes = "value"
) -> GunicornSetting:
    return replace(_not_here(name, flags, instead, default, takes), needless=True)


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
           "auto is the default, 10,000 at most", instead="see {max_connections}"),
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
    _needless("reload_engine", "--reload-engine",
              "see {reload}, which uses watchfiles if that is installed", "auto"),
    _taken("reload_extra_files", "--reload-extra-file", "reload_extra_file", [], takes="list"),
    _switch("spew", "--spew", "it prints each executed line; see {trace} for requests"),
    _done("check_config", "--check-config", _CHECKED, False, "switch"),
    _done("print_config", "--print-config", _CHECKED, False, "switch"),
    _taken("preload_app", "--preload", "preload", False, takes="switch"),
    _taken("sendfile", "--no-sendfile", "sendfile", takes="switch"),
    _needless("reuse_port", "--reuse-port",
              "the workers share the listening sockets; no worker has a queue of its own", False,
              "switch"),
    _taken("chdir", "--chdir", "chdir"),
    _switch("daemon", "-D --daemon", _SUPERVISED),
    _taken("raw_env", "-e --env", "env", [], takes="list"),
    _taken("pidfile", "-p --pid", "pid"),
    _needless("worker_tmp_dir", "--worker-tmp-dir",
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
    _done("paste", "--paste --paster", "PasteDeploy loads the application of the file"),
    _done("raw_paste_global_conf", "--paste-global", "for the file of paste", [], "list"),
    _taken("control_socket", "--control-socket", "control",
           differs="for penstockctl; the default is a file in a private directory",
           instead="see {control}"),
    _needless("control_socket_mode", "--control-socket-mode",
              "see {control}: only the same user and root can use it", 0o600),
    _taken("control_socket_disable", "--no-control-socket", "control", False, "it becomes off",
           takes="switch", instead="set {control} to off"),
)  # fmt: skip

_LOGS: Final = (
    _taken("accesslog", "--access-logfile", "access_logfile",
           differs="by default on if standard output is a terminal"),
    _taken("disable_redirect_access_to_syslog", "--disable-redirect-access-to-syslog",
           "log_syslog_access", False, "it becomes off", takes="switch",
           instead="set {log_syslog_access} to off"),
    _taken("access_log_format", "--access-logformat", "access_logformat",
           differs="the same atoms; also combined and json"),
    _taken("errorlog", "--error-logfile --log-file", "error_logfile", "-"),
    _taken("loglevel", "--log-level", "log_level", "info"),
    _taken("capture_output", "--capture-output", "capture_output", False, takes="switch"),
    _not_here(
        "logger_class",
        "--logger-class",
        "see {access_log_skip}, {access_logformat} and {log_config}; filters that post_fork adds "
        "to the logger gunicorn.access count",
        "gunicorn.glogging.Logger",
    ),
    _taken("logconfig", "--log-config", "log_config", differs="also TOML and JSON"),
    _done("logconfig_dict", "", "applied in each process, with gunicorn's defaults", {}),
    _taken("logconfig_json", "--log-config-json", "log_config", instead="see {log_config}"),
    _taken("syslog_addr", "--log-syslog-to", "log_syslog_to", "udp://localhost:514"),
    _taken("syslog", "--log-syslog", "log_syslog", False,
           "with the header of RFC 3164 or RFC 5424, and without waiting for the daemon",
           takes="switch"),
    _taken("syslog_prefix", "--log-syslog-prefix", "log_syslog_prefix",
           differs="a message has the name penstock.PREFIX.error, not gunicorn.PREFIX"),
    _taken("syslog_facility", "--log-syslog-facility", "log_syslog_facility", "user"),
    _needless("enable_stdio_inheritance", "-R --enable-stdio-inheritance",
              "standard output and error stay as they are", False, "switch"),
    _taken("statsd_host", "--statsd-host", "statsd",
           differs="sent once a second; times are right within the width of a bucket"),
    _taken("dogstatsd_tags", "--dogstatsd-tags", "statsd_tags", ""),
    _taken("statsd_prefix", "--statsd-prefix", "statsd_prefix", ""),
    _done("enable_backlog_metric", "--enable-backlog-metric", "it is sent with the others", False,
          "switch"),
)  # fmt: skip

_PROTOCOL: Final = (
    _taken("proxy_protocol", "--proxy-protocol", "proxy_protocol", "off",
           "each connection of a proxy has to begin with the header", takes="maybe"),
    _taken("proxy_allow_ips", "--proxy-allow-from", "proxy_allow_from", _LOCAL,
           "with unix sockets, as there; networks are allowed, too"),
    _not_here("protocol", "--protocol", "see {bind}, as in uwsgi://127.0.0.1:8000", "http"),
    _taken("uwsgi_allow_ips", "--uwsgi-allow-from", "uwsgi_allow_from", _LOCAL,
           "with unix sockets, as there; networks are allowed, too"),
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
    _taken("ssl_version", "--ssl-version", "tls_min_version",
           differs="the least version; TLSv1_2 and TLSv1_3, by name or by number. The others mean "
           "TLS 1.2, those older than it with a warning",
           instead="TLS 1.2 is the oldest version that is spoken: see {tls_min_version}"),
    _taken("cert_reqs", "--cert-reqs", "cert_reqs", 0, "names are allowed, too"),
    _taken("ca_certs", "--ca-certs", "ca_certs",
           differs="for client certificates alone: it needs cert_reqs. A chain belongs into "
           "certfile"),
    _done("suppress_ragged_eofs", "--suppress-ragged-eofs",
          "a client may end a connection without close_notify", True, "switch"),
    _done("do_handshake_on_connect", "--do-handshake-on-connect",
          "handshakes never hold a thread", False, "switch"),
    _taken("ciphers", "--ciphers", "ciphers",
           differs="of TLS 1.2. The native transport takes the names of those that it has alone, "
           "and no expressions such as HIGH"),
    _not_here("http_protocols", "--http-protocols", _NO_HTTP2, "h1"),
    _needless("http2_cleartext", "--http2-cleartext", _NO_HTTP2, "off"),
    _needless("http2_max_concurrent_streams", "--http2-max-concurrent-streams", _NO_HTTP2, 100),
    _needless("http2_initial_window_size", "--http2-initial-window-size", _NO_HTTP2, 65535),
    _needless("http2_max_frame_size", "--http2-max-frame-size", _NO_HTTP2, 16384),
    _needless("http2_max_header_list_size", "--http2-max-header-list-size", _NO_HTTP2, 65536),
    _switch("permit_obsolete_folding", "--permit-obsolete-folding", _STRICT),
    _switch("strip_header_spaces", "--strip-header-spaces", _STRICT),
    _switch("permit_unconventional_http_method", "--permit-unconventional-http-method", _STRICT),
    _switch("permit_unconventional_http_version", "--permit-unconventional-http-version", _STRICT),
    _switch("casefold_http_method", "--casefold-http-method", _STRICT),
    _needless("http_parser", "--http-parser", "see {transport}", "auto"),
    _needless(
        "root_path",
        "--root-path",
        "it is for ASGI; script_name is the prefix of a WSGI application",
        "",
    ),
    _needless("asgi_loop", "--asgi-loop", _ONLY_WSGI, "auto"),
    _needless("asgi_lifespan", "--asgi-lifespan", _ONLY_WSGI, "auto"),
    _needless("asgi_disconnect_grace_period", "--asgi-disconnect-grace-period", _ONLY_WSGI, 3),
    _needless("websocket_max_message_size", "--websocket-max-message-size",
              "it is for ASGI; the application's library limits messages", 16777216),
    _not_here("dirty_apps", "--dirty-app", _NO_DIRTY, [], "list"),
    _not_here("dirty_workers", "--dirty-workers", _NO_DIRTY, 0),
    _needless("dirty_timeout", "--dirty-timeout", _NO_DIRTY, 300),
    _needless("dirty_threads", "--dirty-threads", _NO_DIRTY, 1),
    _needless("dirty_graceful_timeout", "--dirty-graceful-timeout", _NO_DIRTY, 30),
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


WorkerKind = Literal["threads", "greenlets", "asgi", "other"]

_OF_THREADS = {"sync", "gthread", "syncworker", "threadworker"}
_OF_GREENLETS = {"gevent", "gevent_wsgi", "gevent_pywsgi", "eventlet", "geventworker",
                 "geventpywsgiworker", "eventletworker"}  # fmt: skip
_OF_ASGI = ("asgi", "uvicorn", "aiohttp", "sanic", "hypercorn")


def kind_of_worker(value: object) -> WorkerKind:
    """Return what a worker class of gunicorn serves applications with."""
    module, name = "", value
    if not isinstance(value, str):
        module, name = getattr(value, "__module__", ""), getattr(value, "__name__", "")
    path = f"{module}.{name}".strip(".").lower().removeprefix("egg:gunicorn#")
    last = path.rpartition(".")[2]
    if last in _OF_THREADS:
        return "threads"
    if last in _OF_GREENLETS or (not isinstance(value, str) and _is_of_greenlets(value)):
        return "greenlets"
    return "asgi" if any(part in path for part in _OF_ASGI) else "other"


def _is_of_greenlets(worker_class: object) -> bool:
    bases = getattr(worker_class, "__mro__", ())[1:]
    return any(base.__name__.lower() in _OF_GREENLETS for base in bases)


def has_effect(row: GunicornSetting, value: object) -> bool:
    """Return True if a value of a setting asks for something else than gunicorn's default."""
    return bool(value) and value != row.default


def refusal(row: GunicornSetting, value: object) -> str:
    """Return why a value is refused: no client would get a right answer. Empty where it is not."""
    if row.name == "worker_class" and kind_of_worker(value) == "asgi":
        shown = value if isinstance(value, str) else getattr(value, "__name__", value)
        return (
            f"{shown} is for ASGI applications, and this server serves WSGI: go on with gunicorn "
            "or uvicorn for this one"
        )
    if row.name == "protocol" and has_effect(row, value):
        return "each address says what is spoken there: write uwsgi://ADDRESS for it in bind"
    if row.name == "http_protocols" and "h2" in str(value).lower():
        return f"{_NO_HTTP2}: leave h2 out, and let a proxy in front speak HTTP/2 where needed"
    return ""


def instead_of(row: GunicornSetting, value: object) -> str:
    """Return what is here instead of a setting that has no effect."""
    if row.name == "worker_class" and kind_of_worker(value) == "greenlets":
        return _GREENLETS
    return row.instead


def flag_of(row: GunicornSetting) -> tuple[Takes, object]:
    """Return what follows the flag of a setting, and what it is worth without a value."""
    if row.takes == "switch":
        named_off = row.flags[0].startswith("--no-") and row.name != "control_socket_disable"
        return row.takes, not named_off
    return row.takes, "auto"
