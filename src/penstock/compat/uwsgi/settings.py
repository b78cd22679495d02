"""uWSGI's options: for each, what it becomes here, or what to use instead.

As of uWSGI 2.0. In the texts, ``{timeout}`` stands for a setting of Penstock, spelt as the place
needs it where the text is shown. `penstock.compat.uwsgi.config` converts the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.records import dataclass


@dataclass(frozen=True)
class UwsgiOption:
    """One option of uWSGI, or several that end in the same here."""

    names: tuple[str, ...]
    """Its names, with hyphens."""
    ours: str = ""
    """The setting of Penstock that it becomes."""
    differs: str = ""
    """How that differs."""
    instead: str = ""
    """What to use instead, where it is lost."""


def _taken(names: str, ours: str, differs: str = "") -> UwsgiOption:
    return UwsgiOption(tuple(names.split()), ours, differs)


def _lost(names: str, instead: str) -> UwsgiOption:
    return UwsgiOption(tuple(names.split()), instead=instead)


def _done(names: str, differs: str) -> UwsgiOption:
    return UwsgiOption(tuple(names.split()), differs=differs)


_BEHIND = "nginx or the application does that"
_SUPERVISED = "systemd or the container's runtime does that"
_WEBSOCKET = "the application's library limits messages, and sends pings"
_UNIT = "a systemd unit of its own, or a container of its own, runs another program"
_TIMER = "a systemd timer or cron runs a command on time"
_QUEUE = "a task queue (Celery, RQ, Dramatiq, Huey) runs work outside of requests"
_SHARED = "Redis or memcached is shared by processes"
_RELOADS = "penstockctl reload and SIGHUP reload without losing a request"
_EMPEROR = "each application has a penstock of its own, as a unit or a container"
_ROUTER = "the workers share the listening sockets, and no router is in between"
_METRICS = "penstockctl status, workers and requests show what {admin} serves, too"
_NUMBER = "the number of workers is {workers}; penstockctl scale changes it"
_LOG = "see {access_logformat}; it has the status and the duration of each request"
_PYTHON = "install penstock into the environment of the application, and start it from there"
_GREEN = "threads serve instead: see {threads}, and {max_io_bound} for calls that wait for long"
_WSGI_ALONE = "this server serves WSGI over HTTP"

_WAITS = "After=, Requires= and RequiresMountsFor= of a systemd unit do that"
_MOUNTS = "a systemd unit or the container does that"

UWSGI_OPTIONS: Final = (
    _taken(
        "http http-socket http11-socket",
        "bind",
    ),
    _taken(
        "socket uwsgi-socket",
        "bind",
        "as uwsgi://ADDRESS, for the peers of {uwsgi_allow_from}; with protocol = http as ADDRESS",
    ),
    _taken(
        "https https-socket https2",
        "bind",
        "with its certificate and its key",
    ),
    _taken(
        "http-to-https",
        "redirect_http",
    ),
    _lost(
        "shared-socket undeferred-shared-socket",
        "name the address in {bind} itself",
    ),
    _taken(
        "listen",
        "backlog",
    ),
    _taken(
        "chmod-socket chmod",
        "bind_mode",
    ),
    _taken(
        "chown-socket",
        "bind_owner",
    ),
    _taken(
        "protocol socket-protocol",
        "protocol",
    ),
    _done(
        "vacuum reuse-port abstract-socket http-to http-processes http-workers "
        "http-auto-chunked http-auto-gzip http-raw-body http-chunked-input so-keepalive "
        "tcp-nodelay http-manage-expect http-events http-modifier1 no-defer-accept "
        "freebind",
        "the server does what the option asks for, or has no part that needs it",
    ),
    _taken(
        "http-keepalive",
        "keep_alive",
        "connections are kept in any case",
    ),
    _taken(
        "http-timeout socket-timeout so-write-timeout so-send-timeout socket-write-timeout "
        "socket-send-timeout",
        "write_timeout",
    ),
    _taken(
        "processes workers",
        "workers",
    ),
    _taken(
        "threads",
        "threads",
    ),
    _done(
        "master enable-threads thunder-lock single-interpreter lazy lazy-apps "
        "need-app strict die-on-term no-orphans offload-threads threads-stacksize "
        "thread-stack-size ignore-sigpipe ignore-write-errors disable-write-exception "
        "auto-procname memory-report close-on-exec close-on-exec2 post-buffering "
        "post-buffering-bufsize harakiri-verbose manage-script-name log-master "
        "threaded-logger log-reopen log-date wsgi-env-behaviour wsgi-env-behavior "
        "wsgi-disable-file-wrapper wsgi-accept-buffer python-worker-override "
        "catch-exceptions py-call-osafterfork py-call-uwsgi-fork-hooks autoload "
        "plugin-dir plugins-dir show-config print honour-range honour-stdin hook-touch "
        "stats-http stats-minified allowed-modifiers wait-for-socket mime-file "
        "http-stats-server log-prefix ignore-script-name wsgi-lite collect-header "
        "pull-header no-threads-wait force-cwd disable-sendfile log-drain master-as-root "
        "mimefile thread-stacksize threads-stack-size wsgi-accept-buffers no-default-app "
        "max-apps max-vars skip-atexit skip-atexit-teardown py-executable "
        "py-program-name py-sys-executable no-site python-version tcp-fast-open "
        "tcp-fastopen tcp-fast-open-client tcp-fastopen-client socket-sndbuf "
        "socket-rcvbuf notify-socket safe-fd fd-safe ksm never-swap http-buffer-size "
        "http-connect-timeout http-headers-timeout http-quiet http-gracetime http-cheap "
        "http-uid http-gid http-modifier2 http-socket-modifier1 http-socket-modifier2 "
        "https-socket-modifier1 https-socket-modifier2 https-session-context chunked-input-limit "
        "chunked-input-timeout dump-options plugins-list logdate start_response-nodelay "
        "write-errors-exception-only write-errors-tolerance no-harakiri-after-req-hook "
        "offload-thread py-programname skip-zero shutdown-sockets exit-on-reload no-server "
        "daemons-honour-stdin no-fd-passing no-initgroups use-abort backtrace-depth "
        "multicast check-interval "
        "reload-os-env iprint ugreen-stacksize rpc-max response-headers-limit mount-check "
        "check-mount check-mountpoint mountpoint-check",
        "the server does what the option asks for, or has no part that needs it",
    ),
    _taken(
        "procname procname-prefix procname-prefix-spaced procname-master",
        "name",
    ),
    _lost(
        "cheaper cheap cheaper-algo cheaper-initial cheaper-step cheaper-overload "
        "cheaper-busyness-max cheaper-busyness-min cheaper-busyness-multiplier "
        "cheaper-busyness-backlog-alert cheaper-busyness-backlog-multiplier "
        "cheaper-busyness-backlog-step cheaper-busyness-backlog-nonzero "
        "cheaper-busyness-verbose cheaper-busyness-penalty cheaper-rss-limit-soft "
        "cheaper-rss-limit-hard idle die-on-idle",
        _NUMBER,
    ),
    _lost(
        "gevent gevent-monkey-patch gevent-early-monkey-patch asyncio async ugreen greenlet loop",
        _GREEN,
    ),
    _lost(
        "emperor emperor-tyrant emperor-stats vassal-set vassals-include vassals-set "
        "emperor-on-demand-extension legion legion-mcast zerg zerg-server zerg-pool",
        _EMPEROR,
    ),
    _lost(
        "daemonize daemonize2",
        _SUPERVISED,
    ),
    _lost(
        "cpu-affinity prio",
        "CPUAffinity= and Nice= of a systemd unit do that",
    ),
    _lost(
        "limit-as limit-nproc",
        "MemoryMax= and TasksMax= of a unit, or the container, do that; see {max_memory} "
        "for recycling",
    ),
    _lost(
        "max-fd",
        "LimitNOFILE= of a unit, or the container, does that",
    ),
    _lost(
        "chroot jail jail2 unshare unshare2 pivot-root pivot_root cgroup cap ns namespace ns-net "
        "namespace-net namespace-keep-mount",
        "a systemd unit (deploy/penstock.service) or the container does that",
    ),
    _taken(
        "module wsgi",
        "application",
    ),
    _taken(
        "wsgi-file file",
        "application",
    ),
    _taken(
        "callable",
        "application",
    ),
    _taken(
        "mount",
        "script_name",
    ),
    _taken(
        "chdir chdir2",
        "chdir",
    ),
    _taken(
        "pythonpath python-path pp",
        "pythonpath",
    ),
    _taken(
        "env",
        "env",
    ),
    _lost(
        "envdir early-envdir",
        "see {env_file}, a file with a line for each variable",
    ),
    _lost(
        "unenv",
        "UnsetEnvironment= of a systemd unit, or env -u NAME before the command, does that",
    ),
    _lost(
        "optimize",
        "Python reads the environment variable PYTHONOPTIMIZE",
    ),
    _taken(
        "umask",
        "umask",
    ),
    _taken(
        "virtualenv venv home pyhome",
        "virtualenv",
        _PYTHON,
    ),
    _done(
        "plugin plugins need-plugin need-plugins",
        "Python needs no plug-in",
    ),
    _lost(
        "paste ini-paste ini-paste-logged paste-logger pecan",
        "name a factory that loads the file: module:factory('file.ini')",
    ),
    _lost(
        "pyargv pymodule-alias python-import py-import import shared-python-import shared-pyimport "
        "shared-py-import "
        "shared-import pyimport post-pymodule-alias",
        "the application's module does that",
    ),
    _lost(
        "pyrun profiler",
        _WSGI_ALONE,
    ),
    _lost(
        "eval wsgi-strict py-sharedarea worker-exec symcall",
        _WSGI_ALONE,
    ),
    _lost(
        "vhost vhost-host",
        _EMPEROR,
    ),
    _taken(
        "max-requests",
        "max_requests",
        "the successor serves before the worker drains",
    ),
    _taken(
        "max-requests-delta",
        "max_requests_jitter",
    ),
    _taken(
        "max-worker-lifetime",
        "max_age",
    ),
    _taken(
        "max-worker-lifetime-delta",
        "max_age_jitter",
    ),
    _taken(
        "reload-on-rss evil-reload-on-rss",
        "max_memory",
    ),
    _lost(
        "reload-on-as evil-reload-on-as",
        "see {max_memory}, which counts resident memory",
    ),
    _taken(
        "worker-reload-mercy reload-mercy",
        "graceful_timeout",
    ),
    _done(
        "mule-reload-mercy min-worker-lifetime",
        "there is nothing that it would change",
    ),
    _lost(
        "reload-on-exception reload-on-exception-type reload-on-exception-value "
        "reload-on-exception-repr",
        "an exception ends its request alone",
    ),
    _taken(
        "py-autoreload py-auto-reload python-autoreload python-auto-reload",
        "reload",
    ),
    _lost(
        "touch-reload touch-chain-reload touch-workers-reload fs-reload "
        "touch-mules-reload touch-spoolers-reload py-auto-reload-ignore",
        _RELOADS,
    ),
    _lost(
        "touch-logreopen touch-logrotate log-maxsize log-backupname",
        "logrotate moves the files, and SIGUSR1 opens them anew",
    ),
    _lost(
        "master-fifo",
        "penstockctl reload and SIGHUP reload without losing a request; penstockctl has "
        "the other commands",
    ),
    _taken(
        "harakiri",
        "timeout",
        "time without progress of one request, which gets 504",
    ),
    _lost(
        "harakiri-no-arh harakiri-queue-threshold harakiri-graceful-timeout "
        "harakiri-graceful-signal spooler-harakiri mule-harakiri http-harakiri",
        "see {timeout} and {timeout_grace}",
    ),
    _lost(
        "cron cron2 unique-cron legion-cron cron-legion unique-legion-cron unique-cron-legion "
        "cron-harakiri timer",
        _TIMER,
    ),
    _lost(
        "mule mules farm spooler spooler-external spooler-processes spooler-frequency "
        "spooler-quiet spooler-max-tasks spooler-python-import spooler-import "
        "spooler-chdir spooler-ordered signal-bufsize",
        _QUEUE,
    ),
    _lost(
        "attach-daemon attach-daemon2 attach-control-daemon smart-attach-daemon "
        "smart-attach-daemon2 legion-attach-daemon",
        _UNIT,
    ),
    _lost(
        "exec-asap exec-pre-jail exec-post-jail exec-in-jail exec-as-root exec-as-user "
        "exec-pre-app exec-post-app exec-as-user-atexit hook-asap hook-pre-app "
        "hook-post-app hook-as-user hook-as-root hook-pre-jail hook-post-jail "
        "hook-in-jail hook-master-start hook-accepting hook-accepting1 "
        "hook-accepting-once hook-accepting1-once hook-as-user-atexit hook-post-fork",
        "ExecStartPre=, ExecStartPost= and ExecStopPost= of a systemd unit, or functions "
        "of a gunicorn.conf.py, do that",
    ),
    _taken(
        "buffer-size",
        "limit_request_head",
        "heads up to 64 KiB are taken in any case",
    ),
    _taken(
        "limit-post",
        "max_body",
    ),
    _taken(
        "enable-proxy-protocol http-enable-proxy-protocol",
        "proxy_protocol",
        "from the peers of {proxy_allow_from} alone",
    ),
    _lost(
        "log-x-forwarded-for",
        "see {forwarded_headers}: x-forwarded-for of the proxies of {forwarded_allow_ips} "
        "is the client's address, in the log and for the application",
    ),
    _lost(
        "upload-progress body-read-warning",
        "no part of this server shows it",
    ),
    _taken(
        "static-map static-map2",
        "static",
    ),
    _taken(
        "static-index",
        "static_index",
    ),
    _taken(
        "static-expires",
        "static_max_age",
        "where there is one, for all directories of {static}",
    ),
    _lost(
        "check-static static-check check-static-docroot static-skip-ext "
        "static-expires-type static-expires-mtime static-expires-uri "
        "static-expires-type-mtime static-expires-uri-mtime static-expires-path-info "
        "static-expires-path-info-mtime static-cache-paths static-cache-paths-name "
        "static-safe file-serve-mode fileserve-mode static-gzip static-gzip-all "
        "static-gzip-dir static-gzip-prefix static-gzip-ext static-gzip-suffix",
        "see {static} and {static_max_age}",
    ),
    _lost(
        "cache cache2 cache-blocksize cache-store cache-store-sync load-file-in-cache "
        "load-file-in-cache-gzip cache-use-last-modified queue queue-blocksize "
        "queue-store sharedarea locks lock-engine",
        _SHARED,
    ),
    _lost(
        "route-host route-uri route-run route-if route-if-not route-label route-qs "
        "route-remote-addr route-remote-user route-referer route-user-agent "
        "response-route response-route-run response-route-if final-route final-route-run "
        "final-route-if error-route error-route-run error-route-status error-page-403 "
        "error-page-404 error-page-500",
        _BEHIND,
    ),
    _taken(
        "route",
        "access_log_skip",
        "a path with the action donotlog: alone; for other actions " + _BEHIND,
    ),
    _lost(
        "add-header del-header",
        _BEHIND,
    ),
    _done(
        "http-websockets",
        "libraries find the socket in the environ; there are no uwsgi.websocket_ functions",
    ),
    _lost(
        "websocket-max-size websockets-max-size websockets-ping-freq websockets-pong-tolerance",
        _WEBSOCKET,
    ),
    _lost(
        "http-ss http-subscription-server fastrouter subscribe-to subscribe subscribe2 "
        "subscription-algo rawrouter sslrouter http-use-pattern http-resubscribe",
        _ROUTER,
    ),
    _taken(
        "uid immediate-uid",
        "user",
    ),
    _taken(
        "gid immediate-gid",
        "group",
    ),
    _done(
        "add-gid",
        "the groups of {user} are taken",
    ),
    _taken(
        "pidfile pidfile2 safe-pidfile safe-pidfile2",
        "pid",
    ),
    _taken(
        "logto logto2",
        "error_logfile",
        "requests are logged there, too",
    ),
    _taken(
        "logger",
        "error_logfile",
    ),
    _taken(
        "req-logger logger-req",
        "access_logfile",
    ),
    _taken(
        "disable-logging",
        "access_logfile",
    ),
    _taken(
        "logformat log-format",
        "access_logformat",
        "with the names of its parts exchanged; a part that does not exist here is -",
    ),
    _lost(
        "logformat-strftime",
        _LOG,
    ),
    _taken(
        "log-4xx log-5xx",
        "access_log_skip",
        "the other statuses, where disable-logging is given, too",
    ),
    _taken(
        "log-slow",
        "access_log_slow",
        "where disable-logging is given, too",
    ),
    _lost(
        "log-syslog syslog",
        "see {log_syslog} and {log_syslog_to}",
    ),
    _lost(
        "log-big log-sendfile log-ioerror log-zero log-micros "
        "logfile-chown logfile-chmod log-encoder log-req-encoder "
        "log-route log-req-route log-filter log-master-bufsize log-master-stream "
        "log-master-req-stream",
        _LOG,
    ),
    _lost(
        "stats stats-server stats-push carbon carbon-id carbon-root carbon-freq "
        "metrics-dir metric enable-metrics http-stats",
        _METRICS,
    ),
    _lost(
        "py-tracebacker",
        "penstockctl stacks prints the stack of every thread",
    ),
    _lost(
        "sni sni-dir",
        "see {certfile}: the names inside a certificate are used",
    ),
)

BY_NAME: Final[Mapping[str, UwsgiOption]] = {
    name: option for option in UWSGI_OPTIONS for name in option.names
}
"""Each option by each of its names."""

PREFIXES: Final[Mapping[str, str]] = {
    "alarm": "the monitoring system does that",
    "cache": _SHARED,
    "call-": "functions of a gunicorn.conf.py do that",
    "carbon": _METRICS,
    "cgroup": _MOUNTS,
    "cheaper": _NUMBER,
    "emperor": _EMPEROR,
    "error-route": _BEHIND,
    "exec-": "a systemd unit does that",
    "fastcgi-": _WSGI_ALONE,
    "fastrouter": _ROUTER,
    "final-route": _BEHIND,
    "fs-": _RELOADS,
    "gevent": _GREEN,
    "hook-": "functions of a gunicorn.conf.py, or a systemd unit, do that",
    "http-": _ROUTER,
    "jail": _MOUNTS,
    "legion": _EMPEROR,
    "log-": _LOG,
    "metric": _METRICS,
    "mount-": _MOUNTS,
    "mule": _QUEUE,
    "raw": _ROUTER,
    "reload-on-fd": _RELOADS,
    "rem-header": _BEHIND,
    "response-route": _BEHIND,
    "route": _BEHIND,
    "rpc": _QUEUE,
    "scgi-": _WSGI_ALONE,
    "setns": _MOUNTS,
    "snmp": _METRICS,
    "spooler": _QUEUE,
    "ssl": _ROUTER,
    "static-": "see {static}",
    "stats-": _METRICS,
    "subscri": _ROUTER,
    "touch-": _RELOADS,
    "umount-": _MOUNTS,
    "vassal": _EMPEROR,
    "wait-": _WAITS,
    "web3": _WSGI_ALONE,
    "websocket": _WEBSOCKET,
    "zerg": _EMPEROR,
}
"""What to use instead of the options that begin so and are in no row."""
