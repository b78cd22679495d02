"""Every setting, declared once: name, type, default, flag, variable, TOML key, help and reason.

What is given first here wins: a flag, ``PENSTOCK_*`` in the environment, ``GUNICORN_CMD_ARGS``, a
file, a ``gunicorn.conf.py``, a variable that platforms set (``PORT``, ``WEB_CONCURRENCY``,
``SCRIPT_NAME``), the default. Sockets handed over by systemd replace ``bind``.
`penstock.config.reference_page` prints the reference page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from penstock.config.options import (
    SWITCH,
    Kind,
    Option,
    choice,
    duration,
    integer,
    listing,
    mode_mask,
    option,
    optional,
    size,
    text,
)
from penstock.config.process_settings import SECTIONS, ProcessSettings
from penstock.config.sources import (
    Given,
    add_passed_sockets,
    add_platform_variables,
    convert,
    from_file,
    from_variables,
    unknown,
)
from penstock.errors import SettingsError

if TYPE_CHECKING:
    from penstock.compat.gunicorn.hooks import Hooks

DEFAULT_BIND = ("127.0.0.1:8000",)

_DAY = 86400.0
_TRANSPORTS: Kind[Literal["auto", "native", "python"]] = choice("auto", "native", "python")
_HEADER_MAPS: Kind[Literal["drop", "refuse", "dangerous"]] = choice("drop", "refuse", "dangerous")
_LOG_LEVELS: Kind[Literal["debug", "info", "warning", "error", "critical"]] = choice(
    "debug", "info", "warning", "error", "critical"
)
_ADDRESS = text(
    "host:port, [::1]:port, unix:PATH, unix:@NAME or fd://N",
    "ADDRESS",
    r"[^\s\0,](?:[^\0\r\n,]*[^\s\0,])?",
)
_PATH = text("a path", "PATH", r"[^\0\n]+")
_LOG_FILE = text("a path, or - for the standard stream", "FILE", r"[^\0\n]+")
_ASSIGNMENT = text("KEY=VALUE", "KEY=VALUE", r"[^=\0]+=[^\0]*")
_LOG_FORMAT = text("combined, json or a template such as '%(h)s %(r)s'", "FORMAT", r"[^\0\r\n]+")
# A field value of RFC 9110, section 5.5, in ASCII.
_SERVER_NAME = text("printable ASCII, or nothing", "TEXT", r"(?:[!-~](?:[ -~]*[!-~])?)?")
_PREFIX = text("nothing, or a path that begins with / and does not end with it", "PATH",
               r"(?:(?:/[^/\0\r\n?#]+)+)?")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    """The server's settings, checked and complete. Made by `load_settings` and the like.

    Sizes are bytes, times are seconds. Building one directly checks nothing; tests may.
    """

    bind: tuple[str, ...] = option(
        listing(_ADDRESS, least=1),
        DEFAULT_BIND,
        section="Listening",
        extra_flags=("-b",),
        repeatable=True,
        also_called=("http_socket",),
        help="Address to listen on; may be given several times. 0.0.0.0:$PORT where PORT is set.",
        reason="Only this machine can reach it until you say otherwise; a platform that sets PORT "
        "expects to reach it from outside.",
    )
    backlog: int = option(
        integer(1, 65535),
        2048,
        section="Listening",
        help="Connections that may wait in the kernel to be accepted.",
        reason="Room for a burst; the kernel lowers it to net.core.somaxconn.",
    )
    transport: Literal["auto", "native", "python"] = option(
        _TRANSPORTS,
        "auto",
        section="Workers and threads",
        also_called=("http_parser",),
        help="What does the socket work: native code, pure Python, or the best there is.",
        reason="Native where it is built, and Python everywhere else.",
    )
    threads: int = option(
        integer(1, 1000),
        4,
        section="Workers and threads",
        also_called=("blocking_threads",),
        help="Requests that the application handles at the same time.",
        reason="One blocked request stalls nobody, and few applications need more per core.",
    )
    stream_requests: bool = option(
        SWITCH,
        False,
        section="Application",
        help="Call the application after the head, and read the body while it asks for it.",
        reason="With whole bodies, slow clients never hold a thread, and a chunked body has a "
        "length.",
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
        help="Whether the kernel sends files that the application returns in wsgi.file_wrapper.",
        off_help="Read and send the files of wsgi.file_wrapper here, and not in the kernel.",
        reason="It saves a copy; switch it off where a file system returns wrong bytes for it.",
    )
    chdir: str = option(
        _PATH,
        ".",
        section="Application",
        command_only=True,
        help="Directory to change to before loading; other relative paths count from it.",
        reason="The directory where the command is typed.",
    )
    pythonpath: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="Application",
        command_only=True,
        help="Directories, with commas between, to search for modules before all others.",
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
        help="Variable to set for the application; may be given several times.",
        reason="The environment is passed on as it is.",
    )
    umask: int | None = option(
        optional(mode_mask(), "unchanged"),
        None,
        section="Application",
        extra_flags=("-m",),
        command_only=True,
        help="Mask for the modes of new files and unix sockets: 022 is octal, 18 is decimal.",
        reason="Whoever starts the process has chosen one already.",
    )
    limit_request_line: int = option(
        size(64, 1 << 20),
        8190,
        section="Limits",
        help="Longest request line; beyond it the answer is 414.",
        reason="Longer than any browser's addresses, and what Apache allows.",
    )
    limit_request_fields: int = option(
        integer(1, 10000),
        100,
        section="Limits",
        help="Most header fields of a request; beyond it the answer is 431.",
        reason="Browsers behind several proxies send about 40.",
    )
    limit_request_field_size: int = option(
        size(64, 1 << 20),
        8190,
        section="Limits",
        extra_flags=("--limit-request-field_size",),
        help="Longest header field line; beyond it the answer is 431.",
        reason="Holds the 4 KiB that browsers allow a cookie, twice.",
    )
    limit_request_head: int = option(
        size(256, 16 << 20),
        64 << 10,
        section="Limits",
        help="Longest request head in all; beyond it the answer is 431.",
        reason="Bounds what an unfinished head can hold, whatever the other limits allow.",
    )
    limit_chunk_overhead: int = option(
        size(16, 1 << 20),
        4 << 10,
        section="Limits",
        help="Chunk extensions, and trailers, of one body; beyond it the answer is 400.",
        reason="Hardly anybody sends either, and none of it reaches the application.",
    )
    max_body: int = option(
        size(1, 1 << 50),
        1 << 30,
        section="Limits",
        also_called=("client_max_body_size", "max_request_body_size", "limit_request_body"),
        help="Longest request body; beyond it the answer is 413.",
        reason="Uploads work at once, and no single request can fill a usual disk.",
    )
    body_memory: int = option(
        size(0, 1 << 30),
        64 << 10,
        section="Limits",
        also_called=("inbuf_overflow", "client_body_buffer_size"),
        help="Bytes of a request body to hold in memory; a longer one goes to a temporary file.",
        reason="Forms fit; a thousand uploads at once take 64 MiB.",
    )
    out_buffer: int = option(
        size(16 << 10, 1 << 30),
        1 << 20,
        section="Limits",
        also_called=("outbuf_high_watermark",),
        help="Unsent bytes of a response to hold before the application has to wait.",
        reason="Most pages fit, so that a slow client does not hold a thread. With one thread "
        "nothing is held between two blocks of a streamed response: nobody could send it "
        "meanwhile.",
    )
    max_connections: int = option(
        integer(1, 1000000),
        10000,
        section="Limits",
        also_called=("worker_connections", "connection_limit"),
        help="Open connections above which no more are accepted until some close.",
        reason="An idle connection costs little; twice this many descriptors are seldom allowed.",
    )
    temp_dir: str | None = option(
        optional(_PATH, "system"),
        None,
        section="Limits",
        also_called=("worker_tmp_dir", "tmp_upload_dir"),
        help="Directory for the temporary files of long request bodies.",
        reason="The system's own, which TMPDIR can change.",
    )
    header_timeout: float = option(
        duration(0.1, _DAY),
        30.0,
        section="Deadlines",
        help="Time for a whole request head, from its first byte; then the answer is 408.",
        reason="Enough for the worst line; bounds what a client that trickles can hold.",
    )
    body_timeout: float = option(
        duration(0.1, _DAY),
        20.0,
        section="Deadlines",
        help="Time for a request body, besides what --body-min-rate allows; then 408.",
        reason="Covers stalls of a bad line at any size of body. However much has come already, "
        "a body that stands still for 60 s (or for this time, if that is longer) is given up.",
    )
    body_min_rate: int = option(
        size(1, 1 << 30),
        500,
        section="Deadlines",
        help="Bytes a second that a request body has to arrive at in the long run.",
        reason="Slower than any line that people use, and fast enough to end an attack.",
    )
    keep_alive: float = option(
        duration(0.1, _DAY),
        75.0,
        section="Deadlines",
        also_called=("keepalive", "keepalive_timeout", "channel_timeout"),
        help="Time that a connection may wait for its next request.",
        reason="Longer than the 60 s of common load balancers, so that they close first.",
    )
    write_timeout: float = option(
        duration(0.1, _DAY),
        60.0,
        section="Deadlines",
        also_called=("send_timeout",),
        help="Time without progress after which a client that does not read is cut off.",
        reason="Outlasts a change of networks on a telephone.",
    )
    graceful_timeout: float = option(
        duration(0, _DAY),
        30.0,
        section="Deadlines",
        help="Time for requests in flight when the server is told to stop.",
        reason="The time that Kubernetes gives before it kills.",
    )
    drain_linger: float = option(
        duration(0, 60.0),
        2.0,
        section="Deadlines",
        help="Time for which a stopping server answers requests that were on their way.",
        reason="A request needs a round trip to cross with the news that its connection ends.",
    )
    header_map: Literal["drop", "refuse", "dangerous"] = option(
        _HEADER_MAPS,
        "drop",
        section="Requests and responses",
        help="Header fields with an underscore in their names: drop them, refuse the request, or "
        "pass them on, which is dangerous.",
        reason="In the environ, X_Real_IP and X-Real-IP are the same, and only one is a proxy's.",
    )
    server_header: str = option(
        _SERVER_NAME,
        "penstock",
        section="Requests and responses",
        also_called=("ident", "server_name"),
        help="What the Server field says where the application sets none; empty text sends none.",
        reason="Names the product and, as RFC 9110 section 10.2.4 advises, not its version.",
    )
    access_logfile: str | None = option(
        optional(_LOG_FILE, "none"),
        None,
        section="Logs",
        also_called=("accesslog", "access_log"),
        help="Where to log requests; - is standard output. On by default on a terminal only.",
        reason="Somebody who tries it wants to see requests; a service asks for its logs.",
    )
    access_logformat: str = option(
        _LOG_FORMAT,
        "combined",
        section="Logs",
        also_called=("access_log_format", "log_format"),
        help="combined, json, or a template with gunicorn's %(name)s atoms.",
        reason="Every log reader knows it.",
    )
    error_logfile: str = option(
        _LOG_FILE,
        "-",
        section="Logs",
        extra_flags=("--log-file",),
        also_called=("errorlog", "error_log", "logfile"),
        help="Where to log events and errors; - is standard error.",
        reason="Containers, systemd and terminals all read it.",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = option(
        _LOG_LEVELS,
        "info",
        section="Logs",
        also_called=("loglevel",),
        help="Least severe events to log.",
        reason="Starts, stops and everything unusual, and nothing for each request.",
    )
    trace: bool = option(
        SWITCH,
        False,
        section="Logs",
        also_called=("spew",),
        help="Print every request and response on standard error, in the manner of curl -v.",
        reason="It is for learning and for finding faults, and costs much.",
    )

    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each setting that is not a default came from."""
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What the user should be told once the log is open, one line each."""
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What was read of gunicorn's, one line each."""
    application: str | None = field(default=None, compare=False, repr=False)
    """What a gunicorn.conf.py has as ``wsgi_app``: counts where none is typed."""
    hooks: Hooks | None = field(default=None, compare=False, repr=False)
    """The hooks of a gunicorn.conf.py, if it has any."""

    def source_of(self, name: str) -> str:
        """Return where a setting came from: ``--threads``, ``penstock.toml:threads``..."""
        return self.sources.get(name, "default")


OPTIONS: dict[str, Option] = {
    declared.name: replace(declared.metadata["option"], name=declared.name)
    for declared in sorted(
        (declared for declared in fields(Settings) if "option" in declared.metadata),
        key=lambda declared: SECTIONS.index(declared.metadata["option"].section),
    )
}
"""Every option by its name, in the order of the reference page."""


def load_settings(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: str | Path,
    config_file: str | Path | None = None,
    *,
    on_terminal: bool = False,
) -> Settings:
    """Return the settings of the command, from every place that can give one.

    ``flags`` holds, by the setting's name, what was typed: text, a list of text for repeatable
    flags, a bool for switches. ``config_file`` is read in the place of the files in ``cwd``.
    ``on_terminal`` tells whether standard output is a terminal. Raises `SettingsError`.
    """
    warnings: list[str] = []
    given: Given = {name: (value, OPTIONS[name].flag) for name, value in flags.items()}
    from penstock.compat.gunicorn.config import from_gunicorn, is_python

    theirs = from_gunicorn(
        OPTIONS, environ, Path(cwd), None if config_file is None else str(config_file)
    )
    layers = [from_variables(OPTIONS, environ), theirs.arguments]
    if theirs.config is None or not is_python(theirs.config):
        layers.append(from_file(OPTIONS, Path(cwd), theirs.config, warnings))
    for layer in (*layers, theirs.file):
        for name, entry in layer.items():
            given.setdefault(name, entry)
    warnings += theirs.warnings
    add_platform_variables(OPTIONS, given, environ)
    add_passed_sockets(given, environ, warnings)
    if on_terminal:
        given.setdefault("access_logfile", ("-", "default on a terminal"))
    return replace(
        _build(given, warnings),
        notes=tuple(theirs.notes),
        application=theirs.application,
        hooks=theirs.hooks,
    )


def settings_from_kwargs(**by_name: object) -> Settings:
    """Return the settings that a Python program gives by name, checked as the command's are.

    A program says all it wants itself: no file and no variable is read, and without
    ``access_logfile`` no request is logged. What concerns the whole process (``chdir``,
    ``pythonpath``, ``env``, ``umask``) belongs to the program, and is refused. Raises
    `SettingsError`.
    """
    for name in by_name:
        if name not in OPTIONS:
            raise unknown(f"setting {name!r}", name, OPTIONS, "name")
        if OPTIONS[name].command_only:
            raise SettingsError(f"{name} is a setting of the penstock command, not of a program")
    given: Given = {name: (value, f"argument {name}") for name, value in by_name.items()}
    return with_absolute_paths(_build(given, []))


def with_absolute_paths(settings: Settings) -> Settings:
    """Return settings whose paths stay the same when the application changes the directory."""
    paths = {
        name: os.path.abspath(path)
        for name in ("temp_dir", "access_logfile", "error_logfile")
        if (path := getattr(settings, name)) not in (None, "-")
    }
    return replace(settings, **paths)


def check_places(settings: Settings) -> None:
    """Raise `SettingsError` for directories that are missing, and a format that cannot be.

    The paths are absolute already.
    """
    from penstock.telemetry.access_log import compile_format

    compile_format(settings.access_logformat)
    if settings.temp_dir is not None:
        from tempfile import TemporaryFile

        try:
            TemporaryFile(dir=settings.temp_dir).close()
        except OSError as error:
            raise bad_place(settings, "temp_dir", settings.temp_dir, error.strerror) from None
    for name in ("access_logfile", "error_logfile"):
        path = getattr(settings, name)
        if path in (None, "-"):
            continue
        if not os.path.isdir(os.path.dirname(path)):
            raise bad_place(settings, name, path, "its directory does not exist")
        if os.path.isdir(path):
            raise bad_place(settings, name, path, "is a directory")


def bad_place(settings: Settings, name: str, path: str, reason: str | None) -> SettingsError:
    """Return the error for a path that cannot be used for the setting ``name``."""
    source = settings.source_of(name)
    return SettingsError(f"bad value {path!r} for {name} (from {source}): {reason}")


def native_built() -> bool:
    """Tell whether this installation has the native transport."""
    from importlib.util import find_spec

    return find_spec("penstock._native") is not None


def chosen_transport(settings: Settings) -> Literal["native", "python"]:
    """Return the transport to use; raises `SettingsError` for one that is not built."""
    if settings.transport == "native" and not native_built():
        source = settings.source_of("transport")
        raise SettingsError(
            f"transport is native (from {source}), which this installation lacks: allowed are auto "
            "and python, or install anew with cargo on PATH and PENSTOCK_NATIVE=require"
        )
    return "native" if settings.transport != "python" and native_built() else "python"


def _build(given: Given, warnings: Iterable[str]) -> Settings:
    values = {name: convert(OPTIONS[name], *entry) for name, entry in given.items()}
    sources = {name: source for name, (_, source) in given.items()}
    settings = Settings(**values, sources=sources, warnings=tuple(warnings))
    _check_possible(settings)
    return settings


def _check_possible(settings: Settings) -> None:
    """Refuse what is allowed one by one, and impossible together."""

    def shown(name: str) -> str:
        value = OPTIONS[name].kind.show(getattr(settings, name))
        return f"{name} ({value} from {settings.source_of(name)})"

    for process in ("workers", "preload", "reload", "max_requests", "max_age", "max_memory"):
        if not settings.supervisor and getattr(settings, process) != OPTIONS[process].default:
            raise SettingsError(f"{shown(process)} needs a supervisor, and {shown('supervisor')}")
    if settings.preload and settings.reload:
        raise SettingsError(f"{shown('preload')} and {shown('reload')} exclude each other")
    for part in ("limit_request_line", "limit_request_field_size"):
        if getattr(settings, part) > settings.limit_request_head:
            raise SettingsError(f"{shown(part)} is more than {shown('limit_request_head')}")
    if "drain_linger" in settings.sources and settings.drain_linger > settings.graceful_timeout:
        raise SettingsError(f"{shown('drain_linger')} is more than {shown('graceful_timeout')}")
    for address in settings.bind:
        if settings.bind.count(address) > 1 and not address.endswith(":0"):
            raise SettingsError(f"{shown('bind')} has {address} twice")
