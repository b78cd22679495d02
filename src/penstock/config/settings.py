"""Every setting, declared once: name, type, default, flag, variable, TOML key, help and reason.

A setting costs its declaration here, in the order of ``--help`` and of docs/settings.md, and the
code that reads it. Flag, variable, TOML key, help text, validation, the list of ``--check`` and the
page come from the declaration; `make docs` writes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import Literal

from penstock.config.options import (
    SWITCH,
    Kind,
    Option,
    Rate,
    Thresholds,
    choice,
    duration,
    forwarded_fields,
    integer,
    listing,
    memory_bound,
    mode,
    mode_mask,
    networks,
    numbered_choice,
    on_as,
    option,
    optional,
    peers,
    rate,
    share,
    size,
    text,
    thresholds,
    word_or,
    zero_as,
)
from penstock.messages import Notice
from penstock.records import dataclass

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
DEFAULT_BIND = (f"{DEFAULT_HOST}:{DEFAULT_PORT}",)

_DAY = 86400.0
_YEAR = 365 * _DAY
_TRANSPORTS: Kind[Literal["auto", "native", "python"]] = choice("auto", "native", "python")
_HEADER_MAPS: Kind[Literal["drop", "refuse", "dangerous"]] = choice("drop", "refuse", "dangerous")
_LOG_LEVELS: Kind[Literal["debug", "info", "warning", "error", "critical"]] = choice(
    "debug", "info", "warning", "error", "critical", also={"warn": "warning", "fatal": "critical"}
)
JOURNAL = "/run/systemd/journal/socket"
"""Where systemd's journal listens, and where a service finds the namespace of it that it has."""
_SYSLOG = text(
    "udp://HOST:PORT, tcp://HOST:PORT, unix://PATH or unix://PATH#stream",
    "ADDRESS",
    r"(?:udp|tcp)://(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]*)(?::[1-9][0-9]{0,4})?"
    r"|unix:///[^\0\r\n#]+(?:#(?:dgram|stream))?",
)
_SYSLOG_FORMATS: Kind[Literal["rfc3164", "rfc5424"]] = choice(
    "rfc3164", "rfc5424", also={"3164": "rfc3164", "5424": "rfc5424"}
)
_FACILITIES = text(
    "auth, authpriv, cron, daemon, ftp, kern, lpr, mail, news, security, syslog, user, uucp, or "
    "local0 to local7",
    "NAME",
    "auth(?:priv)?|cron|daemon|ftp|kern|lpr|mail|news|security|syslog|user|uucp|local[0-7]",
)
_SYSLOG_PREFIX = text("nothing, or a name without blanks", "NAME", r"[!-~]{0,40}")
_ERROR_FORMATS: Kind[Literal["text", "json"]] = choice("text", "json")
_ADDRESS = text(
    "host:port, [::1]:port, unix:PATH, unix:@NAME or fd://N, each also behind https://, http:// or uwsgi://",
    "ADDRESS",
    r"[^\s\0,](?:[^\0\r\n,]*[^\s\0,])?",
)
_PATH = text("a path", "PATH", r"[^\0\n]+")
_LOG_FILE = text("a path, or - for the standard stream", "FILE", r"[^\0\n]+")
_ASSIGNMENT = text("KEY=VALUE", "KEY=VALUE", r"[^=\0]+=[^\0]*")
_LOG_FORMAT = text(
    "combined, json, short or a template such as '%(h)s %(r)s'", "FORMAT", r"[^\0\r\n]+"
)
_LOG_SKIP = text(
    "PATH or 'PATH STATUS' such as '/healthz 2xx'; a path may end with *, and * is every path",
    "RULE",
    # Visible ASCII without the asterisk, the comma and the question mark.
    r"(?:/[!-)+\-->@-~]*\*?|\*)(?:[ ]+[1-5](?:xx|[0-9]{2}))?",
)
_LOG_HIDE = text(
    "query, query:NAME or header:NAME",
    "WHAT",
    r"query(?::[^\s,&=]+)?|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+",
)
# A field value of RFC 9110, section 5.5, in ASCII.
_SERVER_NAME = text("printable ASCII, or nothing", "TEXT", r"(?:[!-~](?:[ -~]*[!-~])?)?")
_PREFIX = text("nothing, or a path that begins with / and does not end with it", "PATH",
               r"(?:(?:/[^/\0\r\n?#]+)+)?")  # fmt: skip
_AUTO: Literal["auto"] = "auto"
_FAST: Literal["fast"] = "fast"
_WORKERS: Kind[int | Literal["auto"]] = word_or(_AUTO, integer(1, 1000))
_COUNT: Kind[int | Literal["auto"]] = word_or(_AUTO, integer(1, 1000000))
_AUTO_OR_NOT: Kind[bool | Literal["auto"]] = word_or(_AUTO, SWITCH)
_STREAMING = word_or(_FAST, _AUTO_OR_NOT)
_BYTES: Kind[int | Literal["auto"]] = word_or(_AUTO, size(1 << 20, 1 << 50))
_OPTIONAL_BYTES: Kind[int | Literal["auto"]] = word_or(_AUTO, size(0, 1 << 50))
_RATES = optional(rate(10000), "none")
_MODES: tuple[Literal["default", "off", "idle"], ...] = ("default", "off", "idle")
_GC = thresholds(*_MODES)
_NETWORKS = networks()
_PEERS = peers()
FORWARDED_FIELDS = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "script_name",
    "x-request-id",
)
"""The fields of a trusted proxy that the server can act on."""
_FORWARDED_FIELDS = forwarded_fields(FORWARDED_FIELDS)
_PROXY_PROTOCOLS: Kind[Literal["off", "v1", "v2", "auto"]] = choice("off", "v1", "v2", "auto")
_UNTRUSTED: Kind[Literal["pass", "drop"]] = choice("pass", "drop")
_CERT_REQS: Kind[Literal["none", "optional", "required"]] = numbered_choice(
    "none", "optional", "required"
)
_TLS_VERSIONS: Kind[Literal["1.2", "1.3"]] = choice("1.2", "1.3")
_CIPHERS = text("names of OpenSSL, separated by colons", "NAMES", r"[A-Za-z0-9_+!@=:.-]+")
_HSTS = text("max-age=SECONDS, and what RFC 6797 allows behind it", "TEXT",
             r'[ ]?max-age="?[0-9]+"?(?:[ ]?;[ ]?[A-Za-z-]+(?:="?\w+"?)?)*')  # fmt: skip
_URL_PATH = text("a path of URLs such as /healthz", "PATH", r"/[!-~]*")
_ACCOUNT = text("a name or a number", "NAME", r"[^\0\n:/,]+")
_OWNER = text("USER, USER:GROUP or :GROUP, each a name or a number", "OWNER",
              r"[^\0\n:/,]+(?::[^\0\n:/,]+)?|:[^\0\n:/,]+")  # fmt: skip
_TITLE = text("a name", "NAME", r"[^\0\n]+")
_PATH_TIMEOUT = text(
    "PATTERN=TIME such as /reports/*=5m", "PATTERN=TIME",
    r"/[^\0\r\n=,]*=[ ]?[0-9]+(?:\.[0-9]+)?[ ]?(?:ms|s|m|h)?",
)  # fmt: skip
_DOMAIN = text(
    "a name such as www.example.org, in lower case and in ASCII (xn--...)", "NAME",
    r"(?=.{1,253}$)(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)*(?!-|[0-9]+$)[a-z0-9-]{1,63}(?<!-)",
)  # fmt: skip
_EMAIL = text("an e-mail address, or nothing", "EMAIL", r"(?:[!-?A-~]{1,64}@[a-z0-9.-]{1,253})?")
_HTTPS_URL = text("a URL that begins with https://", "URL", r"https://[!-~]{1,2000}")
_CONTROL = text("auto, off, a path or @NAME", "ADDRESS", r"[^\0\r\n]+")
_ADMIN = text("host:port, [::1]:port or unix:PATH", "ADDRESS", r"(?!https?://)[^\s\0,]+")
_HOST_NAME = text(
    "a host name, or an address of IPv6 in brackets, without a port", "HOST",
    r"[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]+\]",
)  # fmt: skip
_STATSD = text(
    "host:port or unix:PATH",
    "ADDRESS",
    r"unix:[^\0\r\n]+|(?:[^\s\0,:/]+|\[[0-9a-fA-F:.]+\]):\d{1,5}",
)
_STATIC = text(
    "/PREFIX=DIRECTORY such as /assets=public", "PREFIX=DIR", r"/[^=\0\r\n?#,]*=[^\0\r\n,]+"
)
_ROOT = text(
    "a directory, or /PREFIX=DIRECTORY such as /internal=/srv/files",
    "DIR",
    r"(?:/[^=\0\r\n?#,]*=)?[^=\0\r\n,]+",
)
_DIRECTORY = text("a directory", "DIR", r"[^\0\n]+")
_FILE_NAME = text(
    "nothing, or the name of a file such as index.html", "NAME", r"(?:[^/.\0\r\n][^/\0\r\n]*)?"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's settings, checked and complete.

    `penstock.cli.settings` makes those of the command, `penstock.config.sources` those of a Python
    program. Sizes are bytes, times are seconds. Building one directly checks nothing; tests may.
    """

    # -- Listening ---------------------------------------------------------------------------------

    bind: tuple[str, ...] = option(
        listing(_ADDRESS, least=1, commas=True),
        DEFAULT_BIND,
        section="Listening",
        extra_flags=("-b",),
        repeatable=True,
        also_called=("http_socket",),
        help="Address to listen on; may be given several times. https://ADDRESS is for TLS, "
        "uwsgi://ADDRESS for the uwsgi_pass of nginx. "
        "0.0.0.0:$PORT where PORT is set. --host HOST and --port PORT are another form of one.",
        reason="Only this machine can connect until you ask for more. A platform that sets PORT "
        "connects from outside.",
    )
    bind_mode: int | Literal["auto"] = option(
        word_or(_AUTO, mode()),
        _AUTO,
        section="Listening",
        is_mode=True,
        also_called=("chmod_socket", "unix_socket_perms", "uds_permissions"),
        help="Mode of the paths of unix sockets, such as 660; auto is 777 without the bits of "
        '--umask. In a TOML file it is text ("660") or begins with 0o (0o660).',
        reason="A proxy that runs as another user reaches the socket, as under gunicorn. The start "
        "says the mode; the directory can keep others out, too.",
    )
    bind_owner: str | None = option(
        optional(_OWNER, "unchanged"),
        None,
        section="Listening",
        also_called=("chown_socket",),
        help="Owner of the paths of unix sockets: USER, USER:GROUP or :GROUP.",
        reason="That of the workers: the user that starts the server, or --user.",
    )
    backlog: int = option(
        integer(1, 65535),
        2048,
        section="Listening",
        help="Connections that may wait in the kernel to be accepted.",
        reason="Enough for a burst. The kernel lowers it to net.core.somaxconn.",
    )

    # -- TLS ---------------------------------------------------------------------------------------

    certfile: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="TLS",
        repeatable=True,
        is_file=True,
        also_called=("ssl_certfile", "ssl_certificate", "certificate"),
        help="Certificate in PEM, its chain behind it, and its key where no --keyfile has that; "
        "may be given several times: the name that a client asks for decides, and the first is for "
        "all others. Addresses without a scheme have TLS then, unless one has https://.",
        reason="The server speaks TLS where you ask for it.",
    )
    keyfile: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="TLS",
        repeatable=True,
        is_file=True,
        also_called=("ssl_keyfile", "ssl_certificate_key", "private_key"),
        help="Private key in PEM, not encrypted; the n-th belongs to the n-th certificate.",
        reason="The certificate's file may have the key, too.",
    )
    ca_certs: str | None = option(
        optional(_PATH, "none"),
        None,
        section="TLS",
        is_file=True,
        also_called=("ssl_ca_certs", "ssl_client_certificate"),
        help="Certificates in PEM of the authorities whose client certificates are accepted.",
        reason="Clients are not asked for a certificate.",
    )
    cert_reqs: Literal["none", "optional", "required"] = option(
        _CERT_REQS,
        "none",
        section="TLS",
        also_called=("ssl_cert_reqs", "ssl_verify_client"),
        help="Whether clients are asked for a certificate: none (0), optional (1) or required (2).",
        reason="Browsers have no certificate, and ask their user for one.",
    )
    tls_min_version: Literal["1.2", "1.3"] = option(
        _TLS_VERSIONS,
        "1.2",
        section="TLS",
        also_called=("ssl_protocols", "ssl_minimum_version"),
        help="Lowest version of TLS that a client may have.",
        reason="Older versions are insecure (RFC 8996). Many programs do not have 1.3 yet.",
    )
    ciphers: str | None = option(
        optional(_CIPHERS, "default"),
        None,
        section="TLS",
        also_called=("ssl_ciphers",),
        help="Cipher suites of TLS 1.2 in OpenSSL's form. Those of TLS 1.3 are all secure, and "
        "not chosen.",
        reason="Suites with forward secrecy and authenticated encryption, which all browsers of "
        "the last ten years have.",
    )
    tls_handshake_timeout: float = option(
        duration(0.1, _DAY),
        10.0,
        section="TLS",
        also_called=("ssl_handshake_timeout",),
        help="Time for a whole TLS handshake, from the connection on; then it is closed.",
        reason="Four round trips on the slowest link.",
    )
    tls_key_log: str | None = option(
        optional(_PATH, "none"),
        None,
        section="TLS",
        is_file=True,
        platform_variable="SSLKEYLOGFILE",
        also_called=("sslkeylogfile", "keylog_filename"),
        help="File for the secrets of every session, with which Wireshark decrypts what was "
        "recorded; for finding faults alone.",
        reason="Each program that can read the file can read all traffic.",
    )
    acme_domain: tuple[str, ...] = option(
        listing(_DOMAIN),
        (),
        section="TLS",
        repeatable=True,
        command_only=True,
        needs_supervisor=True,
        help="Name for which the server orders a certificate from an ACME authority, and renews "
        "it; may be given several times. Needs penstock[acme]. Addresses without a scheme have TLS "
        "then, unless one has https://.",
        reason="The server orders where you ask for it, and agrees to the authority's terms then.",
    )
    acme_email: str = option(
        _EMAIL,
        "",
        section="TLS",
        command_only=True,
        help="Address at which the authority reaches you, for the account there.",
        reason="No authority that the server knows needs one.",
    )
    acme_directory: str = option(
        _HTTPS_URL,
        "https://acme-v02.api.letsencrypt.org/directory",
        section="TLS",
        command_only=True,
        help="URL of the authority's directory.",
        reason="Let's Encrypt issues to everyone, and every client trusts it.",
    )
    acme_dir: str | None = option(
        optional(_PATH, "none"),
        None,
        section="TLS",
        is_file=True,
        command_only=True,
        help="Directory for account, orders and certificates, of mode 0700, that belongs to the "
        "user of the workers. Several hosts may share it.",
        reason="It has to outlive the server, and be in a backup, so you choose the place.",
    )
    redirect_http: tuple[str, ...] = option(
        listing(_ADDRESS),
        (),
        section="TLS",
        repeatable=True,
        command_only=True,
        help="Address to listen on without TLS that redirects every request to https, with 301 or "
        "308; may be given several times.",
        reason="The server opens no port that you did not ask for.",
    )
    redirect_https_port: int | Literal["auto"] = option(
        word_or(_AUTO, integer(1, 65535)),
        _AUTO,
        section="TLS",
        help="Port that these redirects name; auto takes that of the first address with TLS.",
        reason="Behind a mapping of ports, as of a container, clients connect to another one.",
    )
    hsts: str | None = option(
        optional(_HSTS, "none"),
        None,
        section="TLS",
        help="Value of Strict-Transport-Security in every response over TLS, such as "
        "'max-age=31536000', unless the application sets the field.",
        reason="A browser that has seen it cannot go back to http for that time.",
    )

    # -- Workers and threads -----------------------------------------------------------------------

    workers: int | Literal["auto"] = option(
        _WORKERS,
        1,
        section="Workers and threads",
        extra_flags=("-w",),
        platform_variable="WEB_CONCURRENCY",
        command_only=True,
        needs_supervisor=True,
        also_called=("processes",),
        help="Number of worker processes; auto takes as many as the container's CPU and memory "
        "allow.",
        reason="One worker serves most applications, and the number should not depend on the "
        "machine unless you ask for that.",
    )
    supervisor: bool = option(
        SWITCH,
        True,
        section="Workers and threads",
        command_only=True,
        also_called=("master",),
        help="Run a supervisor process that starts, watches and replaces the workers.",
        off_help="Serve in the one process that was started: no restart after a crash, no reload, "
        "no recycling.",
        reason="The supervisor restarts a worker that crashes, and reloads without losing a "
        "request, even with one worker.",
    )
    preload: bool = option(
        SWITCH,
        False,
        section="Workers and threads",
        command_only=True,
        needs_supervisor=True,
        also_called=("preload_app",),
        help="Load the application once, before the workers are forked, so that they share memory.",
        off_help="Let each worker load the application itself.",
        reason="Threads, sockets and locks that an application creates while it is imported do "
        "not survive a fork.",
    )
    transport: Literal["auto", "native", "python"] = option(
        _TRANSPORTS,
        "auto",
        section="Workers and threads",
        also_called=("http_parser",),
        help="Implementation of the socket work: native code, pure Python, or auto for the faster "
        "one that is installed.",
        reason="The native transport where it is built, the Python transport everywhere else.",
    )
    threads: int = option(
        integer(1, 1000),
        4,
        section="Workers and threads",
        also_called=("blocking_threads",),
        help="Requests that the application handles at the same time in each worker.",
        reason="A blocked request does not stall the others, and few applications need more "
        "threads per core.",
    )
    max_io_bound: int = option(
        integer(0, 10000),
        100,
        section="Workers and threads",
        help="Requests in each worker that may leave the count of threads while they wait, by "
        'environ["penstock.io_bound"](); 0 means none.',
        reason="Only an application that asks for it gets more threads. A request that waits takes "
        "50 KiB with its thread, so that these stay within 5 MiB, and a container that limits its "
        "processes and threads still has room.",
    )
    max_websockets: int = option(
        integer(0, 10000),
        100,
        section="Workers and threads",
        help="WebSockets that each worker may have open; 0 means none.",
        reason="Each has a thread of its own, and with the usual libraries a second one: about "
        "220 KiB of memory, so that these stay within 22 MiB, and a container that limits its "
        "processes and threads still has room.",
    )

    # -- Life cycle --------------------------------------------------------------------------------

    boot_timeout: float = option(
        duration(0.1, _DAY),
        60.0,
        section="Life cycle",
        command_only=True,
        help="Time for a new worker to load the application and become ready.",
        reason="Large applications take ten seconds or so to import, and an import that hangs "
        "must be reported.",
    )
    shutdown_delay: float = option(
        duration(0, _DAY),
        0.0,
        section="Life cycle",
        help="Time to go on accepting connections after the signal to stop, with readiness "
        "negative; at most graceful_timeout.",
        reason="Without a load balancer no time is needed. Behind one that needs time to notice, "
        "set it to that time.",
    )
    max_requests: int = option(
        integer(0, 1 << 53),
        0,
        section="Life cycle",
        command_only=True,
        needs_supervisor=True,
        help="Requests after which a worker is recycled; 0 means never.",
        reason="An application that does not leak memory needs no new process.",
    )
    max_requests_jitter: int = option(
        integer(0, 1 << 53),
        0,
        section="Life cycle",
        command_only=True,
        also_called=("max_requests_delta",),
        help="Random number of requests, up to this one, added to max_requests, so that workers "
        "are not recycled together.",
        reason="Has no effect without max_requests. Workers are recycled one at a time in any "
        "case.",
    )
    max_age: float = option(
        duration(0, _YEAR),
        0.0,
        section="Life cycle",
        command_only=True,
        needs_supervisor=True,
        also_called=("max_worker_lifetime", "workers_lifetime"),
        help="Age at which a worker is recycled; 0 means never.",
        reason="An application that does not leak memory needs no new process.",
    )
    max_age_jitter: float = option(
        duration(0, _YEAR),
        0.0,
        section="Life cycle",
        command_only=True,
        help="Random time, up to this one, added to max_age.",
        reason="Has no effect without max_age. Workers are recycled one at a time in any case.",
    )
    max_memory: int | float | None = option(
        optional(memory_bound(), "none"),
        None,
        section="Life cycle",
        command_only=True,
        needs_supervisor=True,
        also_called=("reload_on_rss", "workers_max_rss"),
        help="Resident memory at which a worker is recycled: a size, or a share of the "
        "container's limit such as 40%.",
        reason="How much is too much depends on the application.",
    )
    reload: bool = option(
        SWITCH,
        False,
        section="Life cycle",
        command_only=True,
        needs_supervisor=True,
        also_called=("py_autoreload", "autoreload"),
        help="Reload when a file of the application changes; for development.",
        reason="Watching files costs time, and a half-finished edit must not reach production.",
    )
    reload_extra_file: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="Life cycle",
        repeatable=True,
        command_only=True,
        also_called=("reload_extra_files", "touch_reload"),
        help="Another file, or pattern of files, that --reload watches; may be given several "
        "times.",
        reason="Files of imported modules are watched without it.",
    )

    # -- Application -------------------------------------------------------------------------------

    stream_requests: Literal["fast", "auto"] | bool = option(
        _STREAMING,
        _FAST,
        section="Application",
        words=(_FAST, _AUTO),
        help="Call the application when the head is complete, and read the body while the "
        "application reads it; with =fast only once more of it has come than stays in memory, and "
        "so fast that the rest is due within a second; with =auto any long body, or one for which "
        "the client waits for 100 Continue. These two do it in at most half of the threads, and "
        "with bodies that have a length.",
        off_help="Call the application when a request's body is complete, however fast it comes.",
        reason="A long body that comes fast needs no disk. All others are read first: a slow "
        "client holds no thread, and a chunked body has a length.",
    )
    script_name: str = option(
        _PREFIX,
        "",
        section="Application",
        platform_variable="SCRIPT_NAME",
        also_called=("root_path", "url_prefix"),
        help="Path prefix under which the application is mounted.",
        reason="Most applications are mounted at the root.",
    )
    sendfile: bool = option(
        SWITCH,
        True,
        section="Application",
        help="Let the kernel send files that the application returns in wsgi.file_wrapper.",
        off_help="Read and send the files of wsgi.file_wrapper in the server, without sendfile(2).",
        reason="It saves a copy. Switch it off on a file system that returns wrong bytes for "
        "sendfile(2).",
    )
    chdir: str = option(
        _PATH,
        ".",
        section="Application",
        command_only=True,
        help="Directory to change to before loading; other relative paths start there.",
        reason="The directory in which the command is run.",
    )
    pythonpath: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="Application",
        command_only=True,
        help="Directories, separated by commas, to search for modules before all others.",
        reason="The current directory is always searched.",
    )
    env: tuple[str, ...] = option(
        listing(_ASSIGNMENT),
        (),
        section="Application",
        extra_flags=("-e",),
        repeatable=True,
        command_only=True,
        secret=True,
        also_called=("raw_env",),
        help="Environment variable to set for the application; may be given several times.",
        reason="The environment is passed on unchanged.",
    )
    env_file: str | None = option(
        optional(_PATH, "none"),
        None,
        section="Application",
        command_only=True,
        is_file=True,
        help="File of environment variables for the application, NAME=VALUE a line; the environment"
        " and --env count more.",
        reason="The environment is passed on unchanged.",
    )
    umask: int | None = option(
        optional(mode_mask(), "unchanged"),
        None,
        section="Application",
        extra_flags=("-m",),
        is_mode=True,
        command_only=True,
        help="Mask for the modes of new files and unix sockets: 022 is octal, 18 is decimal. In a "
        'TOML file it is text ("022") or begins with 0o (0o022).',
        reason="The process keeps the mask that it was started with.",
    )

    # -- Limits ------------------------------------------------------------------------------------

    limit_request_line: int = option(
        zero_as(size(64, 1 << 20), 64 << 10, "for 64KiB"),
        8190,
        section="Limits",
        help="Longest request line; a longer one is answered with 414.",
        reason="Longer than the longest URL of any browser, and Apache's limit.",
    )
    limit_request_fields: int = option(
        zero_as(integer(1, 10000), 10000, "for 10000"),
        100,
        section="Limits",
        help="Most header fields of a request; more are answered with 431.",
        reason="Browsers behind several proxies send about 40.",
    )
    limit_request_field_size: int = option(
        zero_as(size(64, 1 << 20), 64 << 10, "for 64KiB"),
        8190,
        section="Limits",
        extra_flags=("--limit-request-field_size",),
        help="Longest header field line; a longer one is answered with 431.",
        reason="Twice the 4 KiB that browsers allow for a cookie.",
    )
    limit_request_head: int = option(
        size(256, 16 << 20),
        64 << 10,
        section="Limits",
        help="Longest request head in total; a longer one is answered with 431.",
        reason="Bounds the memory that an unfinished head can hold, whatever the other limits "
        "allow.",
    )
    limit_chunk_overhead: int = option(
        size(16, 1 << 20),
        4 << 10,
        section="Limits",
        help="Bytes of chunk extensions, and of trailers, of one body; more are answered with 400.",
        reason="Very few clients send either, and the application sees neither.",
    )
    max_body: int = option(
        size(1, 1 << 50),
        1 << 30,
        section="Limits",
        also_called=("client_max_body_size", "max_request_body_size", "limit_request_body"),
        help="Longest request body; a longer one is answered with 413.",
        reason="Uploads work without configuration, and one request cannot fill a usual disk.",
    )
    body_memory: int | Literal["auto"] = option(
        word_or(_AUTO, size(0, 1 << 30)),
        _AUTO,
        section="Limits",
        also_called=("inbuf_overflow", "client_body_buffer_size"),
        help="Bytes of a request body to hold in memory; a longer body is spooled to a temporary "
        "file. auto takes 1MiB while all bodies of the worker take less than a quarter of "
        "max_body_memory, else 64KiB.",
        reason="Forms and most pictures fit, which no disk could store as fast. A thousand uploads "
        "at the same time take 64 MiB.",
    )
    out_buffer: int = option(
        size(16 << 10, 1 << 30),
        1 << 20,
        section="Limits",
        also_called=("outbuf_high_watermark",),
        help="Unsent bytes of a streamed response to hold in memory before a temporary file takes "
        "them (out_spool), or the application waits.",
        reason="Most pages fit, so that no disk is used. With one thread nothing is held between "
        "two blocks of a streamed response as long as no other thread could send it.",
    )
    max_connections: int | Literal["auto"] = option(
        _COUNT,
        _AUTO,
        section="Limits",
        also_called=("worker_connections", "connection_limit"),
        help="Open connections above which the worker accepts no more until some close. auto takes "
        "what fits into the limit on open files, and into a quarter of the worker's memory while "
        "all of them are idle (8KiB for each, with TLS 32KiB), at most 10000.",
        reason="An idle connection costs little, but a small container has little memory, and some "
        "systems allow few descriptors.",
    )
    max_connections_per_client: int = option(
        integer(0, 1000000),
        0,
        section="Limits",
        also_called=("limit_conn", "limit_conn_per_ip"),
        help="Open connections of one client to a worker; further ones are closed at once. A "
        "client is an IPv4 address, or a /64 network of IPv6: that of the socket, or of the PROXY "
        "header. There is no limit for the proxies of forwarded_allow_ips: by default these are "
        "all clients of the same machine, also in a test. 0 means no limit.",
        reason="Behind a proxy that forwarded_allow_ips does not name, all clients have one "
        "address. On the open internet, 100 is enough for a browser, and for some hundred people "
        "behind one address.",
    )
    max_requests_per_client: Rate | None = option(
        _RATES,
        None,
        section="Limits",
        also_called=("limit_req", "rate_limit"),
        help="Requests of one client to all workers together: a rate, and how many may come at "
        "once; more are answered with 429.",
        reason="Behind a proxy that the server does not believe about its clients, all of them "
        "have one address. On the open internet, 100/s,400 stops a script, and no browser.",
    )
    allow: tuple[str, ...] = option(
        _NETWORKS,
        (),
        section="Limits",
        repeatable=True,
        help="Network whose clients may connect; may be given several times. With it, all others "
        "may not, except those of unix sockets. Where several networks of --allow and --deny "
        "match, the smallest one counts; of two that are the same, that of --deny.",
        reason="Every client that can reach the address may connect.",
    )
    deny: tuple[str, ...] = option(
        _NETWORKS,
        (),
        section="Limits",
        repeatable=True,
        help="Network whose clients may not connect: their connections are closed at once; may be "
        "given several times.",
        reason="Every client that can reach the address may connect.",
    )
    descriptor_reserve: int | Literal["auto"] = option(
        word_or(_AUTO, integer(16, 1000000)),
        _AUTO,
        section="Limits",
        help="File descriptors of a worker that its connections and spooled bodies leave to the "
        "application; auto takes a quarter of the limit on open files, at most 512.",
        reason="An application that cannot open a file or a database connection fails, however few "
        "clients there are.",
    )
    max_unfinished_heads: int | Literal["auto"] = option(
        _COUNT,
        _AUTO,
        section="Limits",
        help="Connections of a worker on which a request head has begun and is not complete; "
        "beyond it the oldest is closed. auto takes what an eighth of the worker's memory holds of "
        "the longest heads, at most half of max_connections.",
        reason="A head takes milliseconds unless its client means harm, and holds memory "
        "meanwhile.",
    )
    max_body_memory: int | Literal["auto"] = option(
        _OPTIONAL_BYTES,
        _AUTO,
        section="Limits",
        help="Bytes of request bodies in memory of all connections of a worker together; beyond it "
        "bodies go to temporary files, however short they are. Requests that a client sends ahead "
        "while it has not taken a response count, too. From half of it on, each read of a socket "
        "takes 4KiB. auto takes an eighth of the worker's memory, from 4MiB to 512MiB.",
        reason="Clients that send a part of a body and then wait must not use up the memory.",
    )
    max_spool: int | Literal["auto"] = option(
        _BYTES,
        _AUTO,
        section="Limits",
        help="Bytes of request bodies and of streamed responses in the temporary files of all "
        "workers together; beyond it a request gets 507, and a response waits for its client. auto "
        "takes a quarter of the free space of temp_dir at the start, or of the memory where that "
        "is in memory. It lowers max_body.",
        reason="Uploads must not fill a disk that others use.",
    )
    out_spool: int | Literal["auto"] = option(
        _OPTIONAL_BYTES,
        _AUTO,
        section="Limits",
        also_called=("proxy_max_temp_file_size",),
        help="Bytes of one streamed response that may wait in a temporary file for a client that "
        "reads slowly; beyond it the application's thread waits for the client. 0 uses no file. "
        "auto takes an eighth of max_spool, up to 1GiB. Responses leave half of max_spool to the "
        "bodies of requests.",
        reason="A slow client must not hold a thread, and one endless stream not the disk.",
    )
    max_unsent: int | Literal["auto"] = option(
        _BYTES,
        _AUTO,
        section="Limits",
        help="Unsent bytes in memory of all responses of a worker together; beyond it the client "
        "that reads slowest is cut off. auto takes an eighth of the worker's memory, from 16MiB to "
        "512MiB.",
        reason="Clients that read slowly, or not at all, must not use up the memory.",
    )
    gc: Thresholds | Literal["default", "off", "idle"] = option(
        _GC,
        "default",
        section="Workers and threads",
        command_only=True,
        help="When Python's cyclic garbage collector runs: default leaves it alone; idle runs it "
        "while a worker waits for clients, and in the middle of a request only after 50000 "
        "allocations; off never; numbers are the thresholds of gc.set_threshold.",
        reason="Where a pass takes no noticeable part of a request, its time does not matter.",
    )
    recent_requests: int = option(
        integer(0, 100),
        8,
        section="Logs",
        help="Requests that the server remembers of each thread of a worker, besides the one in "
        "progress: for penstockctl recent, and for the log where a worker crashes. 0 remembers "
        "none.",
        reason="What crashes a worker is often a request that had just ended. Each takes 512 bytes "
        "of shared memory, and no time.",
    )
    log_queue: int = option(
        integer(100, 10000000),
        10000,
        section="Limits",
        help="Finished requests of a worker that may wait for its log to be written; more are "
        "counted, and not logged.",
        reason="A second of a busy worker; beyond it the reader of a log has stalled.",
    )
    log_queue_bytes: int | Literal["auto"] = option(
        _BYTES,
        _AUTO,
        section="Limits",
        help="Bytes that these may take; more are counted, and not logged. The same holds for what "
        "the error log waits for while the application keeps the interpreter lock. auto takes a "
        "64th of the worker's memory, from 1MiB to 8MiB.",
        reason="Clients decide how long a request is, and a head of 64 KiB waits as any other.",
    )
    temp_dir: str | None = option(
        optional(_PATH, "system"),
        None,
        section="Limits",
        is_file=True,
        also_called=("worker_tmp_dir", "tmp_upload_dir"),
        help="Directory for the temporary files of long request bodies, and of streamed responses "
        "whose clients read slowly.",
        reason="The directory of the system, which TMPDIR can change.",
    )

    # -- Deadlines ---------------------------------------------------------------------------------

    timeout: float = option(
        duration(0, _DAY),
        30.0,
        section="Deadlines",
        extra_flags=("-t",),
        also_called=("harakiri", "request_timeout"),
        help="Time for which a call of the application may hold its thread without sending "
        "anything; then the client gets 504. 0 means no limit.",
        reason="Few clients wait longer for a page, and a call that hangs must be reported.",
    )
    timeout_for: tuple[str, ...] = option(
        listing(_PATH_TIMEOUT),
        (),
        section="Deadlines",
        repeatable=True,
        help="The timeout of paths that match a pattern, as in '/reports/*=5m'; the first pattern "
        "that matches counts; may be given several times.",
        reason="Only the application's authors know which paths are slow.",
    )
    timeout_grace: float = option(
        duration(0.1, _DAY),
        5.0,
        section="Deadlines",
        help="Time for a call to end after its timeout, before its worker is replaced.",
        reason="Enough to roll a transaction back.",
    )
    timeout_max: float = option(
        duration(0, _DAY),
        3600.0,
        section="Deadlines",
        help="The longest that an application may make the timeout of its request by "
        "environ['penstock.extend_deadline'].",
        reason="Enough for any report that a client waits for, and an application that extends its "
        "deadline for ever by mistake still loses its thread.",
    )
    header_timeout: float = option(
        duration(0.1, _DAY),
        30.0,
        section="Deadlines",
        help="Time for a whole request head, from its first byte; then the answer is 408.",
        reason="Enough on the slowest link, and bounds what a client that sends byte by byte can "
        "hold.",
    )
    body_timeout: float = option(
        duration(0.1, _DAY),
        20.0,
        section="Deadlines",
        help="Time for a request body, in addition to what --body-min-rate allows; then the "
        "answer is 408.",
        reason="Covers stalls of a bad link at any size of body. A body of which nothing arrives "
        "for 60 s (or for this time, if that is longer) ends with 408 however much has arrived.",
    )
    body_min_rate: int = option(
        size(1, 1 << 30),
        500,
        section="Deadlines",
        help="Average bytes a second at which a request body has to arrive within each minute.",
        reason="Slower than any link in use, and fast enough to end an attack with slow bodies.",
    )
    max_body_time: float = option(
        duration(1.0, _DAY),
        3 * 3600.0,
        section="Deadlines",
        help="Time for a whole request body, however fast it comes; then the answer is 408.",
        reason="A body of 1 GiB arrives within it at 1 Mbit/s, and no client can hold a place on "
        "the disk for weeks.",
    )
    keep_alive: float = option(
        zero_as(duration(0.1, _DAY), 0.1, "for 0.1s"),
        75.0,
        section="Deadlines",
        also_called=("keepalive", "keepalive_timeout", "channel_timeout"),
        help="Time that a connection may wait for its next request.",
        reason="Longer than the 60 s of common load balancers, so that the load balancer closes "
        "first.",
    )
    write_timeout: float = option(
        duration(0.1, _DAY),
        60.0,
        section="Deadlines",
        also_called=("send_timeout",),
        help="Time without progress after which the connection of a client that does not read is "
        "closed.",
        reason="Longer than a telephone needs to change networks.",
    )
    graceful_timeout: float = option(
        duration(0, _DAY),
        25.0,
        section="Deadlines",
        help="Time for the whole stop, from the first signal on: shutdown delay, requests in "
        "progress, exit handlers.",
        reason="Kubernetes kills 30 seconds after it asks to stop: this ends before.",
    )
    drain_linger: float = option(
        duration(0, 60.0),
        2.0,
        section="Deadlines",
        help="Time for which a stopping server answers requests that were sent before the client "
        "saw its connection close.",
        reason="A request can cross the close on the network: it needs one round trip.",
    )

    # -- Overload ----------------------------------------------------------------------------------

    queue: int = option(
        integer(1, 1000000),
        1024,
        section="Overload",
        also_called=("queue_size", "maxqueue"),
        help="Requests that may wait in a worker for a thread. Of more, the newest of the client "
        "that has the most is answered with 503.",
        reason="A burst of a thousand requests is served. More of them wait for longer than "
        "clients do.",
    )
    queue_timeout: float = option(
        duration(0.01, _DAY),
        30.0,
        section="Overload",
        also_called=("timeout_queue", "request_queue_timeout"),
        help="Time for which a request may wait for a thread; then it is answered with 503.",
        reason="The same as --timeout: few clients wait longer.",
    )
    overload_ready_after: float = option(
        duration(0, _DAY),
        5.0,
        section="Overload",
        help="Time for which the queue has to be full before readiness turns negative; 0 leaves it "
        "positive.",
        reason="A load balancer then prefers other servers. A queue that is full for a moment has "
        "to be used up first.",
    )

    # -- Proxies -----------------------------------------------------------------------------------

    forwarded_allow_ips: tuple[str, ...] = option(
        _PEERS,
        ("127.0.0.0/8", "::1/128", "unix"),
        section="Proxies",
        platform_variable="FORWARDED_ALLOW_IPS",
        repeatable=True,
        also_called=("trusted_proxy", "set_real_ip_from", "forwarded_allow"),
        help="Proxies that are believed about their clients: addresses, networks, unix for the "
        "peers of unix sockets, * for every peer, none for no peer; may be given several times.",
        reason="Only a process of this machine can connect from there. FORWARDED_ALLOW_IPS is "
        "gunicorn's variable.",
    )
    forwarded_headers: tuple[str, ...] = option(
        _FORWARDED_FIELDS,
        ("x-forwarded-proto",),
        section="Proxies",
        repeatable=True,
        also_called=("trusted_proxy_headers", "real_ip_header"),
        help="Fields of those proxies that count: forwarded, x-forwarded-for, x-forwarded-proto, "
        "x-forwarded-host, x-forwarded-port, x-forwarded-prefix, script_name, x-request-id; "
        "NAME=VALUE is a field whose value means https; may be given several times.",
        reason="A proxy passes on the fields that it does not set, so a client could choose them. "
        "gunicorn believes x-forwarded-proto from the same peers. Name what your proxy sets.",
    )
    untrusted_forwarded: Literal["pass", "drop"] = option(
        _UNTRUSTED,
        "pass",
        section="Proxies",
        help="Forwarded, X-Forwarded-* and the like of other peers: pass them on to the "
        "application, or drop them.",
        reason="Middleware such as Werkzeug's ProxyFix and Django's SECURE_PROXY_SSL_HEADER reads "
        "them.",
    )

    proxy_protocol: Literal["off", "v1", "v2", "auto"] = option(
        _PROXY_PROTOCOLS,
        "off",
        section="Proxies",
        alone="auto",
        help="PROXY header with which each connection of a proxy of --proxy-allow-from has to "
        "begin: version 1, version 2, either (auto, also without a value), or none.",
        reason="A server that expects the header answers nothing without it.",
    )
    proxy_allow_from: tuple[str, ...] = option(
        _PEERS,
        ("127.0.0.0/8", "::1/128", "unix"),
        section="Proxies",
        repeatable=True,
        also_called=("proxy_allow_ips",),
        help="Proxies whose connections begin with the PROXY header: addresses, networks, unix, * "
        "for every peer; may be given several times. Other peers may not send one.",
        reason="Only a process of this machine can connect from there.",
    )
    uwsgi_allow_from: tuple[str, ...] = option(
        _PEERS,
        ("127.0.0.0/8", "::1/128", "unix"),
        section="Proxies",
        repeatable=True,
        also_called=("uwsgi_allow_ips",),
        help="Front-ends that may connect to an address of --bind uwsgi://...: addresses, "
        "networks, unix, * for every peer; may be given several times. Others are not answered.",
        reason="Only a process of this machine can connect from there. Who speaks the uwsgi "
        "protocol says who its clients are.",
    )

    # -- Requests and responses --------------------------------------------------------------------

    header_map: Literal["drop", "refuse", "dangerous"] = option(
        _HEADER_MAPS,
        "drop",
        section="Requests and responses",
        help="Header fields with an underscore in their names: drop them, refuse the request, or "
        "pass them on, which is dangerous.",
        reason="In the environ, X_Real_IP and X-Real-IP are the same key, and a proxy sets only "
        "one of them.",
    )
    send_keep_alive: bool = option(
        SWITCH,
        False,
        section="Requests and responses",
        help="Tell clients how long a connection may be idle, in the field Keep-Alive: a second "
        "less than --keep-alive.",
        reason="Browsers and load balancers do not read it. Some clients do, such as those of "
        "Node.js and Apache, and then close before the server does.",
    )
    send_request_id: bool = option(
        SWITCH,
        False,
        section="Requests and responses",
        help="Send the id of each request to the client, in the field X-Request-ID, unless the "
        "application has set that field.",
        reason="It is of use where clients tell it to you. The logs have it in any case.",
    )
    server_header: str = option(
        _SERVER_NAME,
        "penstock",
        section="Requests and responses",
        also_called=("ident", "server_name"),
        help="Value of the Server field where the application sets none; empty text sends no "
        "field.",
        reason="Names the product but, as RFC 9110, section 10.2.4, advises, not its version.",
    )

    # -- Files -------------------------------------------------------------------------------------

    static: tuple[str, ...] = option(
        listing(_STATIC),
        (),
        section="Files",
        repeatable=True,
        is_mapping=True,
        also_called=("static_map", "static_path_mount", "static_root"),
        help="Prefix of URLs and the directory whose files answer for it, as in /assets=public, "
        "before the application is asked; may be given several times.",
        reason="Every path belongs to the application unless you say otherwise.",
    )
    static_index: str = option(
        _FILE_NAME,
        "",
        section="Files",
        also_called=("static_path_dir_to_file", "directory_index"),
        help="File that answers for a directory of --static, such as index.html; empty text for "
        "none. A list of files is never sent.",
        reason="An application has its own pages.",
    )
    static_max_age: float = option(
        duration(0, _YEAR),
        60.0,
        section="Files",
        also_called=("static_expires", "static_path_expires"),
        help="Time for which a client may use a file of --static without asking again; 0 makes it "
        "ask each time. A file with a hash in its name never changes, and is not asked for again.",
        reason="A page's files are not asked for with each page, and a change arrives in a minute.",
    )
    static_cache: int = option(
        size(0, 1 << 40),
        8 << 20,
        section="Files",
        help="Bytes of small files of --static that each worker keeps in memory; 0 keeps none. A "
        "change of a file is seen at once.",
        reason="The styles, scripts and icons of most applications fit, and are sent several "
        "times as fast.",
    )
    sendfile_root: tuple[str, ...] = option(
        listing(_ROOT),
        (),
        section="Files",
        repeatable=True,
        is_mapping=True,
        also_called=("x_sendfile", "xsendfile_path", "offload_threads"),
        help="Directory whose files the application may name in the field X-Sendfile of a "
        "response, for the server to send; with a prefix, as in /internal=/srv/files, also in "
        "X-Accel-Redirect; may be given several times.",
        reason="The fields mean nothing, and are sent as they are, until you ask for it.",
    )
    compress: bool = option(
        SWITCH,
        False,
        section="Files",
        also_called=("gzip", "http_gzip", "compression"),
        help="Compress text of the application's responses with zstd, br or gzip, as the client "
        "accepts it and as far as they are installed.",
        reason="It costs time, a proxy may do it, and a page that shows both a secret and what "
        "a client sent can lose the secret by its length (BREACH).",
    )

    # -- Control and health ------------------------------------------------------------------------

    health_path: str | None = option(
        optional(_URL_PATH, "none"),
        None,
        section="Control and health",
        help="Path that the server answers itself: 200 while the worker makes progress, else 503.",
        reason="Every path belongs to the application unless you say otherwise.",
    )
    ready_path: str | None = option(
        optional(_URL_PATH, "none"),
        None,
        section="Control and health",
        help="Path that the server answers itself: 200 while the worker wants requests, else 503.",
        reason="Every path belongs to the application unless you say otherwise.",
    )
    admin: str | None = option(
        optional(_ADMIN, "none"),
        None,
        section="Control and health",
        command_only=True,
        help="Address on which the supervisor answers /healthz, /readyz and /metrics, and shows a "
        "dashboard at /.",
        reason="The server opens no port that you did not ask for.",
    )
    admin_token_file: str | None = option(
        optional(_PATH, "none"),
        None,
        section="Control and health",
        is_file=True,
        command_only=True,
        help="File with the token, of 16 characters or more, without which a TCP address of "
        "--admin shows no dashboard. A reload reads it again.",
        reason="The server makes a token, and logs it when the dashboard is asked for.",
    )
    admin_hosts: tuple[str, ...] = option(
        listing(_HOST_NAME, commas=True),
        (),
        section="Control and health",
        repeatable=True,
        command_only=True,
        help="Names by which browsers may reach the dashboard, beside localhost and the address of "
        "--admin.",
        reason="A page of another site, whose name leads to this address, could read the dashboard "
        "(DNS rebinding).",
    )
    statsd: str | None = option(
        optional(_STATSD, "none"),
        None,
        section="Control and health",
        extra_flags=("--statsd-host",),
        needs_supervisor=True,
        help="Address of a statsd server that gets the number, statuses and times of requests, "
        "under gunicorn's names, once a second.",
        reason="/metrics has more, and needs no other server.",
    )
    statsd_prefix: str = option(
        text("a name without blanks", "NAME", r"[^\s:|@#]*"),
        "",
        section="Control and health",
        help="What the names of metrics for statsd begin with, before gunicorn.",
        reason="Dashboards know the names without one.",
    )
    statsd_tags: str = option(
        text("tags with commas, such as env:prod,app:shop", "TAGS", r"[^\s|#]*"),
        "",
        section="Control and health",
        extra_flags=("--dogstatsd-tags",),
        help="Tags that each metric for statsd has, as Datadog's server reads them.",
        reason="Other servers of statsd do not read them.",
    )
    control: str = option(
        _CONTROL,
        "auto",
        section="Control and health",
        command_only=True,
        also_called=("control_socket", "stats"),
        help="Address of the control socket for penstockctl: auto is a file in a private "
        "directory such as /run/penstock, which only the same user and root can use; a path, or "
        "@NAME for an abstract socket, names another; off opens none.",
        reason="An operator needs it in an emergency, and no other user can reach it or take its "
        "place.",
    )

    # -- Identity ----------------------------------------------------------------------------------

    user: str | None = option(
        optional(_ACCOUNT, "unchanged", empty=False),
        None,
        section="Identity",
        extra_flags=("-u",),
        command_only=True,
        also_called=("uid",),
        needs_supervisor=True,
        help="User that the workers run as, with that user's groups.",
        reason="The process keeps the user that it was started as.",
    )
    group: str | None = option(
        optional(_ACCOUNT, "unchanged", empty=False),
        None,
        section="Identity",
        extra_flags=("-g",),
        command_only=True,
        also_called=("gid",),
        needs_supervisor=True,
        help="Group that the workers run as.",
        reason="The group of the user.",
    )
    allow_setuid_programs: bool = option(
        SWITCH,
        False,
        section="Identity",
        command_only=True,
        needs_supervisor=True,
        help="With --user: let setuid and setgid programs that the application starts, such as "
        "sendmail and sudo, run with the rights of their owner.",
        off_help="With --user: set no_new_privs, so that no program gives the worker more rights.",
        reason="A worker that was taken over should not become root by a defect of such a program.",
    )
    pid: str | None = option(
        optional(_PATH, "none"),
        None,
        section="Identity",
        extra_flags=("-p",),
        command_only=True,
        needs_supervisor=True,
        also_called=("pidfile",),
        help="File to write the supervisor's process id to.",
        reason="Process managers know the process id without a file.",
    )
    name: str | None = option(
        optional(_TITLE, "none"),
        None,
        section="Identity",
        extra_flags=("-n",),
        command_only=True,
        also_called=("proc_name", "procname"),
        help="Name in the titles of the processes (of all where the package setproctitle is "
        "installed, and on Linux of the workers in any case), "
        "and of the control socket: NAME.sock.",
        reason="The name of the application as it was typed; for the socket, the first address of "
        "bind.",
    )

    # -- Logs --------------------------------------------------------------------------------------

    access_logfile: str | None = option(
        optional(_LOG_FILE, "none"),
        None,
        section="Logs",
        is_file=True,
        also_called=("accesslog", "access_log"),
        help="File for the access log; - is standard output. By default on only if that is a "
        "terminal.",
        reason="On a terminal you want to see requests; a service asks for its logs.",
    )
    access_logformat: str = option(
        _LOG_FORMAT,
        "combined",
        section="Logs",
        also_called=("access_log_format", "log_format"),
        help="Format of the access log: combined, json, short, or a template with gunicorn's "
        "%(name)s atoms.",
        reason="Every log reader knows it. short is for people, and the default where the log goes "
        "to a terminal because nothing else was asked for.",
    )
    access_log_skip: tuple[str, ...] = option(
        listing(_LOG_SKIP),
        (),
        section="Logs",
        repeatable=True,
        help="Requests that the access log leaves out, such as '/healthz 2xx': a path as sent, and "
        "the status as 200 or 2xx, or none for any; may be given several times.",
        reason="A log has every request unless you say otherwise.",
    )
    access_log_slow: float = option(
        duration(0, _DAY),
        0.0,
        section="Logs",
        help="Log only requests that took at least this time, and failures (5xx, or cut off by the "
        "server); 0 logs all.",
        reason="A log has every request unless you say otherwise.",
    )
    access_log_sample: float = option(
        share(),
        1.0,
        section="Logs",
        help="Share of the requests to log, such as 1/100. Failures and what is slow "
        "(access_log_slow) are always logged. Each line says how many requests it stands for.",
        reason="A log has every request unless you say otherwise.",
    )
    access_log_hide: tuple[str, ...] = option(
        listing(_LOG_HIDE, commas=True),
        (),
        section="Logs",
        repeatable=True,
        help="What the access log shows as REDACTED, in every format: query (the whole query of "
        "the target and of Referer), query:NAME (the field of a query), header:NAME (a header "
        "field); may be given several times.",
        reason="What is secret in a URL depends on the application.",
    )
    error_logfile: str = option(
        _LOG_FILE,
        "-",
        section="Logs",
        is_file=True,
        extra_flags=("--log-file",),
        also_called=("errorlog", "error_log", "logfile"),
        help="File for the error log; - is standard error.",
        reason="Containers, systemd and terminals all read it.",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = option(
        _LOG_LEVELS,
        "info",
        section="Logs",
        also_called=("loglevel",),
        help="Least severe events to log.",
        reason="Starts, stops and everything unusual, but no line for each request.",
    )
    error_logformat: Literal["text", "json"] = option(
        _ERROR_FORMATS,
        "text",
        section="Logs",
        help="Form of the error log: text, or json for one object a record, with its traceback.",
        reason="People read the error log more often than programs do.",
    )
    error_log_repeats: int = option(
        integer(0, 1000000),
        10,
        section="Logs",
        help="Lines of one kind, among those that clients can have logged as often as they like, "
        "that each worker logs in 10 s; one more line says how many others there were. 0 logs "
        "all.",
        reason="Enough to see who it is and what for, and no client can fill a disk with them.",
    )
    log_syslog: bool = option(
        SWITCH,
        False,
        section="Logs",
        also_called=("syslog",),
        help="Send the error log and the access log to syslog, too, as gunicorn does.",
        reason="A log goes where you ask for it.",
    )
    log_syslog_to: str = option(
        _SYSLOG,
        "udp://localhost:514",
        section="Logs",
        also_called=("syslog_addr",),
        help="Where syslog listens, such as unix:///dev/log or tcp://logs.example.org:601. A name "
        "is looked up at the start.",
        reason="It is gunicorn's. unix:///dev/log reaches the daemon of most machines.",
    )
    log_syslog_format: Literal["rfc3164", "rfc5424"] = option(
        _SYSLOG_FORMATS,
        "rfc3164",
        section="Logs",
        help="Form of the messages: rfc3164, or rfc5424 with the time to the microsecond, the time "
        "zone, and the id of a message.",
        reason="Every daemon takes it, also on /dev/log.",
    )
    log_syslog_facility: str = option(
        _FACILITIES,
        "user",
        section="Logs",
        also_called=("syslog_facility",),
        help="Facility of the messages, such as daemon or local0.",
        reason="It is gunicorn's.",
    )
    log_syslog_prefix: str = option(
        _SYSLOG_PREFIX,
        "",
        section="Logs",
        also_called=("syslog_prefix",),
        help="Name in the messages: NAME is in them as penstock.NAME.error and "
        "penstock.NAME.access; nothing means that of --name.",
        reason="One server on a machine needs no name.",
    )
    log_syslog_access: bool = option(
        SWITCH,
        True,
        section="Logs",
        help="Send the access log to syslog, too, also where it has no file.",
        off_help="Send the error log alone to syslog.",
        reason="gunicorn does so.",
    )
    log_journal: str | None = option(
        on_as(optional(_PATH, "none"), JOURNAL),
        None,
        section="Logs",
        alone="on",
        is_file=True,
        also_called=("journal", "journald"),
        help="Send logs whose file is - to systemd's journal, with fields to search for, in the "
        "place of the standard stream. A value behind = is the path of its socket, in the place of "
        f"{JOURNAL}.",
        reason="systemd passes the standard streams on to the journal, without fields.",
    )
    capture_output: bool = option(
        SWITCH,
        False,
        section="Logs",
        command_only=True,
        help="Send what the application prints on standard output and standard error to the error "
        "log.",
        off_help="Leave what the application prints where it goes.",
        reason="Both streams reach the container's runtime, or systemd, without that.",
    )
    log_config: str | None = option(
        optional(_PATH, "none"),
        None,
        section="Logs",
        is_file=True,
        command_only=True,
        also_called=("logconfig", "logconfig_json", "log_config_json"),
        help="Configuration of Python's logging, applied in each process (as root with --user, "
        "in the workers alone): a dictConfig in TOML or JSON, or an ini file of "
        "logging.config.fileConfig.",
        reason="The server and the application write with what each of them sets.",
    )
    trace: bool = option(
        SWITCH,
        False,
        section="Logs",
        also_called=("spew",),
        help="Print every request and response on standard error, in the manner of curl -v.",
        reason="It is for learning and for finding faults, and it is slow.",
    )

    # -- Metrics and traces ------------------------------------------------------------------------

    prometheus_multiproc: str | None = option(
        optional(_DIRECTORY, "none"),
        None,
        section="Metrics and traces",
        is_file=True,
        command_only=True,
        also_called=("prometheus_multiproc_dir",),
        help="Directory in which the workers of an application that uses prometheus_client keep "
        "its metrics: a few files for each worker that runs, which its successor goes on with.",
        reason="An application without prometheus_client has no such metrics. /metrics at the "
        "address of admin has the server's own.",
    )
    otel: bool = option(
        SWITCH,
        False,
        section="Metrics and traces",
        also_called=("opentelemetry", "tracing"),
        help="Make a span of OpenTelemetry for each request, and export it as the variables "
        "OTEL_... say (pip install 'penstock[otel]').",
        reason="It needs packages of others and a collector, and costs time with each request.",
    )
    trust_traceparent: tuple[str, ...] = option(
        _PEERS,
        (),
        section="Metrics and traces",
        repeatable=True,
        help="Peers whose traceparent is the parent of the spans of otel: addresses, networks, "
        "unix, * for every peer; may be given several times. Those of others are linked.",
        reason="A client could choose the trace, and have each request recorded. Proxies, trusted "
        "ones too, mostly pass on what the client has sent.",
    )

    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """The source of each setting that is not a default."""
    warnings: tuple[Notice, ...] = field(default=(), compare=False, repr=False)
    """Warnings to log when the log is open, one line each."""
    files: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """The files that they were read from, ``env_file`` and ``admin_token_file``."""
    variables: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What ``env_file`` has. Values are never printed."""
    admin_token: str = field(default="", repr=False)
    """The SHA-256 of what ``admin_token_file`` has, in hexadecimal: the token itself is not kept,
    because workers have the memory of the supervisor. Empty without such a file."""
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What was read of gunicorn's files and variables, one line each."""
    application: str | None = field(default=None, compare=False, repr=False)
    """``wsgi_app`` of a gunicorn.conf.py: the application where the command line names none."""
    hooks: Mapping[str, Callable[..., object]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """The hooks that a gunicorn.conf.py defines, by name."""
    gunicorn: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The settings of a gunicorn.conf.py as it has them, by gunicorn's names."""

    @property
    def most_beside(self) -> int:
        """How many calls of a worker may be out of the count of `threads`, in whatever way."""
        return self.max_io_bound + self.max_websockets

    @property
    def has_user(self) -> bool:
        """Whether the workers are to run as another user, or with another group."""
        return self.user is not None or self.group is not None

    def source_of(self, name: str) -> str:
        """Return the source of a setting: ``--threads``, ``penstock.toml:threads``, ``default``."""
        return self.sources.get(name, "default")


OPTIONS: dict[str, Option] = {
    declared.name: replace(declared.metadata["option"], name=declared.name)
    for declared in fields(Settings)
    if "option" in declared.metadata
}
"""Every option by its name, in the order of ``--help`` and of the reference page."""
