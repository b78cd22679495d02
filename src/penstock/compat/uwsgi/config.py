"""From uWSGI's options to the settings of Penstock.

What has an equivalent becomes it. For everything else a warning names the option and what to use
instead: nothing is dropped without a word.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from penstock import messages
from penstock.compat.uwsgi.files import Given, read_options
from penstock.compat.uwsgi.settings import BY_NAME, PREFIXES
from penstock.config.options import Option
from penstock.config.other_servers import spelt
from penstock.config.trust import Trust
from penstock.errors import SettingsError
from penstock.messages import Notice
from penstock.records import dataclass

_LONGEST_HEAD = 16 << 20
_LONGEST_FIELD = 1 << 20
_USUAL_HEAD = 64 << 10
_LONGEST_EXPIRY = 365 * 24 * 3600
_OWN_DEFAULT = "uWSGI's default"

_NUMBERS = (
    "backlog",
    "max_requests",
    "max_requests_jitter",
    "max_age",
    "max_age_jitter",
    "timeout",
    "graceful_timeout",
    "write_timeout",
)
"""Settings that are whole numbers in uWSGI."""

_OFF = ("false", "0", "no", "off")
_FILE_LOGGER = re.compile(r"(?:[\w-]+ )?file:(?:logfile=([^,]+).*|(.+))")
"""A path, or the arguments of uWSGI's plug-in, of which the path is one."""
_STREAM_LOGGER = re.compile(r"(?:[\w-]+ )?stdio(?::.*)?")
_GRACEFUL_STOP = re.compile(r"unix_signal:15\s+gracefully_kill_them_all")
"""What SIGTERM does here in any case."""

_QUIET_ROUTE = re.compile(
    r"\^((?:[\w/~-]|\\[./-])*)"  # how paths begin
    r"(?:\((?:\?:)?((?:[\w/~|-]|\\[./-])+)\)(?!\?))?"  # words of which one follows
    r"(/\?)?(\$|\.\*\$?)?\s+donotlog:"
)
"""A route that does nothing but leave requests out of the log, by paths that can be listed."""

_KEEPS_OUT = re.compile(
    r"(?:^|\s)((?:basicauth|ldapauth|radius)(?:-next)?(?=:)|(?:break|return):40[13])"
)
"""The action of a route that asks for a password, or that answers 401 or 403."""

_LOG_PART = re.compile(r"%\(([^()]*)\)")
_VARIABLE_PART = "var."
_TIME = "%(t)s"
"""The time in brackets, which formats of uWSGI have around it themselves."""
_ABSENT = "-"
"""What a line has for a part that does not exist here, as uWSGI's has for one without a value."""
_LOG_PARTS: Mapping[str, str] = {
    "addr": "%(h)s",
    "user": "%(u)s",
    "ltime": _TIME,
    "ctime": _TIME,
    "ftime": _TIME,
    "time": _TIME,
    "method": "%(m)s",
    "uri": "%({REQUEST_URI}e)s",
    "proto": "%(H)s",
    "status": "%(s)s",
    "size": "%(B)s",
    "rsize": "%(B)s",
    "referer": "%(f)s",
    "uagent": "%(a)s",
    "host": "%({Host}i)s",
    "msecs": "%(M)s",
    "micros": "%(D)s",
    "secs": "%(L)s",
    "pid": "%(p)s",
    "cl": "%({CONTENT_LENGTH}e)s",
}
"""The parts of a line of uWSGI's log, and ours."""


@dataclass
class FromUwsgi:
    """What uWSGI's files give."""

    given: dict[str, tuple[object, str]] = field(default_factory=dict)
    """As in `penstock.config.sources`."""
    application: str | None = None
    notes: list[str] = field(default_factory=list)
    """What was read, one line each, for the log."""
    warnings: list[Notice] = field(default_factory=list)


def from_uwsgi(
    options: Mapping[str, Option],
    environ: Mapping[str, str],
    cwd: Path,
    location: str,
    trust: Trust,
) -> FromUwsgi:
    """Return what a configuration file of uWSGI gives; ``location`` as `read_options` takes it.

    ``trust`` checks each file that is read. Raises `SettingsError`.
    """
    contents = read_options(location, cwd, environ, trust)
    conversion = _Conversion(options, cwd, location)
    for option in contents.options:
        conversion.take(option)
    conversion.finish()
    for variable in contents.unset:
        conversion.found.warnings.append(
            messages.UWSGI_VARIABLE_UNSET.notice(place=location, variable=variable)
        )
    trust.note(conversion.found.given)
    return conversion.found


class _Conversion:
    """The options of one file on their way to settings."""

    def __init__(self, options: Mapping[str, Option], cwd: Path, location: str) -> None:
        self.found = FromUwsgi()
        self._options = options
        self._cwd = cwd
        self._location = location
        self._lost: dict[str, list[str]] = {}
        self._module: Given | None = None
        self._file: Given | None = None
        self._callable = ""
        self._mounts: list[Given] = []
        self._log: tuple[str, str] | None = None
        self._protocol = "uwsgi"
        self._logs_requests = True
        self._logged_though: list[Given] = []
        """What of the requests is logged although all others are not."""
        self._expires: list[Given] = []
        self._addresses: list[tuple[Given, str, str]] = []  # option, scheme, place
        self._steps: dict[str, Callable[[Given], None]] = {
            "bind": self._address,
            "application": self._name_application,
            "script_name": self._mounts.append,
            "virtualenv": self._check_environment,
            "env": self._set_variable,
            "pythonpath": self._append,
            "static": self._map_directory,
            "error_logfile": self._log_to,
            "access_logfile": self._log_requests_to,
            "access_logformat": self._log_in_format,
            "access_log_skip": self._leave_out_of_log,
            "access_log_slow": self._logged_though.append,
            "static_max_age": self._expires.append,
            "limit_request_head": self._raise_heads,
            "bind_mode": lambda it: self._set(it, it.value or "666"),
            "bind_owner": lambda it: self._set(it, it.value.replace(".", ":", 1)),
            "pid": lambda it: self._set(it, self._absolute(it.value)),
            "umask": lambda it: self._set(it, f"0{it.value}"),
            "max_memory": lambda it: self._set(it, _number(it) << 20),
            "workers": self._count,
            "threads": self._count,
            "protocol": self._choose_protocol,
            "reload": lambda it: self._set(it, it.is_on or it.value not in _OFF),
            "proxy_protocol": lambda it: self._set(it, "auto" if it.is_on else "off"),
            "keep_alive": lambda it: None if it.is_on else self._set(it, _number(it)),
            "max_body": lambda it: self._set(it, _number(it)) if _number(it) else None,
        }
        self._steps |= {name: lambda it: self._set(it, _number(it)) for name in _NUMBERS}

    def take(self, option: Given) -> None:
        """Take the next option. One that holds a single value replaces an earlier one."""
        is_route = option.name.startswith(("route", "final-route"))
        if is_route and (action := _KEEPS_OUT.search(option.value)):
            raise SettingsError(
                f"{option.source} has the action {action[1]}, and without it any client could send"
                " these requests: have nginx or the application decide who may, and take the line"
                " out"
            )
        known = BY_NAME.get(option.name)
        if known is None:
            prefix = next((it for it in PREFIXES if option.name.startswith(it)), None)
            self._lose(option, PREFIXES[prefix] if prefix else "there is nothing of that name here")
        elif known.ours:
            self._steps.get(known.ours, self._set_plainly)(option)
        elif _GRACEFUL_STOP.fullmatch(option.value):
            return
        elif known.instead and option.value.lower() not in _OFF:
            self._lose(option, known.instead)
        if option.name in ("daemonize", "daemonize2", "d"):
            self._log_to(option)

    def finish(self) -> None:
        """Set what depends on several options, and warn of what is lost."""
        found = self.found
        self._choose_application()
        self._bind_addresses()
        found.given.setdefault("threads", ("1", _OWN_DEFAULT))
        if self._log is not None:
            found.given["error_logfile"] = self._log
        self._choose_expiry()
        self._choose_logged()
        if self._logs_requests:
            where = self._log or ("-", f"{_OWN_DEFAULT}: it logs requests")
            found.given.setdefault("access_logfile", where)
        read = ", ".join(sorted(found.given)) or "no settings"
        found.notes.append(f"{self._location} was read: {read}")
        for instead, names in self._lost.items():
            found.warnings.append(
                messages.UWSGI_OPTIONS_IGNORED.notice(
                    place=self._location,
                    names=", ".join(dict.fromkeys(names)),
                    instead=spelt(instead, self._options, "name"),
                )
            )

    # -- values --------------------------------------------------------------------------------

    def _set_plainly(self, option: Given) -> None:
        self._set(option, option.value)

    def _set(self, option: Given, value: object) -> None:
        self.found.given[BY_NAME[option.name].ours] = (value, option.source)

    def _count(self, option: Given) -> None:
        """Set a number of processes or threads, which is one where uWSGI finds no number."""
        digits = re.match(r"[0-9]+", option.value)
        number = max(1, int(digits[0])) if digits else 1
        self._set(option, option.value if option.value == "auto" else number)

    def _append(self, option: Given, value: str | None = None, ours: str = "") -> None:
        ours = ours or BY_NAME[option.name].ours
        values, source = self.found.given.get(ours, ([], option.source))
        assert isinstance(values, list)
        self.found.given[ours] = ([*values, option.value if value is None else value], source)

    def _set_variable(self, option: Given) -> None:
        """Take a variable. A line of a file may be empty, or a comment, and has no effect there."""
        if "=" in option.value:
            self._append(option)
        elif option.value and not option.value.startswith("#"):
            self._lose(option, f"{option.value!r} is no NAME=VALUE: see {{env}}")

    def _lose(self, option: Given, instead: str) -> None:
        self._lose_named(option.name, instead)

    def _lose_named(self, name: str, instead: str) -> None:
        self._lost.setdefault(instead, []).append(name)

    def _absolute(self, path: str) -> str:
        """Return a path that uWSGI takes before it changes the directory."""
        return os.path.join(self._cwd, path)

    # -- addresses -----------------------------------------------------------------------------

    def _address(self, option: Given) -> None:
        name, value = option.name, option.value
        value = re.sub(r"\s+[;#].*", "", value)  # of many files; uWSGI stops at the port's digits
        scheme = ""
        if name.startswith("https"):
            value, *material = value.split(",")
            scheme = "https://"
            self._take_material(option, material)
        elif name == "uwsgi-socket":
            scheme = "uwsgi://"
        self._addresses.append((option, scheme, self._place(value)))

    def _bind_addresses(self) -> None:
        """Set the addresses, now that it is known what is spoken at those of ``socket``."""
        for option, scheme, place in self._addresses:
            if option.name in ("socket", "s"):
                if self._protocol == "uwsgi":
                    scheme = "uwsgi://"
                elif self._protocol not in ("http", "http11"):
                    self.found.warnings.append(
                        messages.UWSGI_PROTOCOL_REPLACED.notice(
                            place=self._location, protocol=self._protocol, address=option.value
                        )
                    )
            self._append(option, scheme + place, "bind")

    def _take_material(self, option: Given, material: list[str]) -> None:
        """Take what follows an address of TLS: certificate, key, ciphers, authorities."""
        certificate, key, ciphers, authorities = (*material, "", "", "", "")[:4]
        if certificate:
            self._append(option, self._absolute(certificate), "certfile")
        if key:
            self._append(option, self._absolute(key), "keyfile")
        if ciphers:
            self.found.given["ciphers"] = (ciphers, option.source)
        if authorities:  # "!" in front asks for a certificate without fail
            required = authorities.startswith("!")
            path = self._absolute(authorities.removeprefix("!"))
            self.found.given["ca_certs"] = (path, option.source)
            wanted = "required" if required else "optional"
            self.found.given["cert_reqs"] = (wanted, option.source)

    def _choose_protocol(self, option: Given) -> None:
        self._protocol = option.value

    def _place(self, value: str) -> str:
        if value.startswith("fd://"):
            return value
        if value.startswith("@"):
            return f"unix:{value}"
        if ":" not in value:  # as in uWSGI, whatever it looks like
            return f"unix:{self._absolute(value)}"
        return value.replace(" ", "").removeprefix("*")

    # -- the application -----------------------------------------------------------------------

    def _name_application(self, option: Given) -> None:
        if option.name == "callable":
            self._callable = option.value
        elif option.name in ("module", "wsgi", "w"):
            self._module = option
        else:
            self._file = option

    def _choose_application(self) -> None:
        named = self._module or self._file
        if named is not None:
            self.found.application = self._spec(named)
            for mount in self._mounts:
                self._lose(mount, "one server has one application: see {script_name}")
        elif len(self._mounts) == 1:
            prefix, _, target = self._mounts[0].value.partition("=")
            self.found.given["script_name"] = (prefix.rstrip("/"), self._mounts[0].source)
            self.found.application = self._spec(Given("mount", target, self._mounts[0].source))
        elif self._mounts:
            raise SettingsError(
                f"{self._location} mounts {len(self._mounts)} applications, and one server has "
                "one: start a server for each, or join them with werkzeug's DispatcherMiddleware"
            )

    def _spec(self, option: Given) -> str:
        """Return the application as ``module:callable``."""
        text, colon, name = option.value.partition(":")
        if option is self._file or "/" in text or text.endswith(".py"):
            text = self._module_of(text)
        if not colon and self._callable:
            colon, name = ":", self._callable
        return f"{text}{colon}{name}"

    def _module_of(self, path: str) -> str:
        """Return the module that a file is, and let its directory be searched if it must be."""
        chdir, _ = self.found.given.get("chdir", (".", ""))
        start = self._cwd / str(chdir)
        file = start / path
        stem, extension = os.path.splitext(file.name)
        if extension != ".py" or not stem.isidentifier():
            raise SettingsError(
                f"{self._location} names the file {path}, which Python cannot import as a module: "
                f"name it {re.sub(r'[^0-9A-Za-z_]', '_', stem)}.py"
            )
        try:
            parts = (*file.parent.relative_to(start).parts, stem)
        except ValueError:
            parts = ("..",)
        if all(part.isidentifier() for part in parts):
            return ".".join(parts)
        directory = str(file.parent)
        values, source = self.found.given.get("pythonpath", ([], f"{self._location}:wsgi-file"))
        assert isinstance(values, list)
        self.found.given["pythonpath"] = ([*values, directory], source)
        return stem

    def _check_environment(self, option: Given) -> None:
        """Warn of a virtual environment that is not the one that this program runs in."""
        chdir, _ = self.found.given.get("chdir", (".", ""))
        wanted = os.path.realpath(self._cwd / str(chdir) / option.value)
        if wanted not in (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)):
            self._lose(option, BY_NAME[option.name].differs)

    # -- files and logs ------------------------------------------------------------------------

    def _map_directory(self, option: Given) -> None:
        prefix, equals, directory = option.value.partition("=")
        if option.name == "static-map2":
            directory = directory.rstrip("/") + prefix
        self._append(option, f"{prefix}{equals}{directory}")

    def _log_to(self, option: Given) -> None:
        path = option.value
        if option.name == "logger":
            match = _FILE_LOGGER.fullmatch(path)
            if match is None:
                if not _STREAM_LOGGER.fullmatch(path):
                    self._lose(option, "logs go to files and standard streams: see "
                                       "{error_logfile}")  # fmt: skip
                return
            path = match[1] or match[2]
        if path.startswith("/dev/std"):
            return
        self._log = (self._absolute(path), option.source)

    def _log_requests_to(self, option: Given) -> None:
        if option.name not in ("req-logger", "logger-req"):
            self._logs_requests = not option.is_on
            return
        match = _FILE_LOGGER.fullmatch(option.value)
        if match is not None:
            self._set(option, self._absolute(match[1] or match[2]))
        elif not _STREAM_LOGGER.fullmatch(option.value):
            self._lose(option, "requests are logged to files and standard streams: see "
                               "{access_logfile}")  # fmt: skip

    def _log_in_format(self, option: Given) -> None:
        pieces = _LOG_PART.split(option.value)
        pieces[::2] = [text.replace("%", "%%") for text in pieces[::2]]
        for index in range(1, len(pieces), 2):
            name = pieces[index]
            if name.startswith(_VARIABLE_PART):
                pieces[index] = f"%({{{name.removeprefix(_VARIABLE_PART)}}}e)s"
                continue
            if name not in _LOG_PARTS:
                self._lose_named(
                    f"%({name}) of {option.name}",
                    f"a line has {_ABSENT} there: see {{access_logformat}}",
                )
            pieces[index] = _LOG_PARTS.get(name, _ABSENT)
        self._set(option, "".join(pieces).replace(f"[{_TIME}]", _TIME))

    def _leave_out_of_log(self, option: Given) -> None:
        """Take a route that leaves requests out of the log, and the statuses that are logged."""
        if option.name.startswith("log-"):
            if option.is_on:
                self._logged_though.append(option)
            return
        match = _QUIET_ROUTE.fullmatch(option.value)
        if match is None:
            self._lose(option, "nginx or the application does that")
            return
        begin, words, slash, end = (group or "" for group in match.groups())
        for word in words.split("|"):
            path = re.sub(r"\\(.)", r"\1", begin + word)
            if end == "$":
                ends = ["", "/"] if slash == "/?" else [slash]
            else:
                ends = ["*" if slash == "/?" else f"{slash}*"]
            for each in ends:
                self._append(option, path + each)

    def _choose_logged(self) -> None:
        """Log what uWSGI logs although ``disable-logging`` is given: by status, or slow requests.

        Without that option all requests are logged, these as well.
        """
        if self._logs_requests or not self._logged_though:
            return
        self._logs_requests = True
        self.found.given.pop("access_logfile", None)
        names = {option.name for option in self._logged_though}
        skipped = [digit for digit in "12345" if f"log-{digit}xx" not in names]
        for option in self._logged_though:
            if option.name == "log-slow" and len(skipped) == 5:
                self._set(option, f"{_number(option)}ms")
                return
            if option.name == "log-slow":
                self._lose(option, "see {access_log_slow}")
        for digit in skipped:
            self._append(self._logged_though[0], f"* {digit}xx", "access_log_skip")

    def _choose_expiry(self) -> None:
        """Let clients keep files for as long as ``static-expires`` says, if one is for all."""
        directories, _ = self.found.given.get("static", ([], ""))
        assert isinstance(directories, list)
        for option in self._expires:
            pattern, _, seconds = option.value.replace("=", " ").rpartition(" ")
            begin = re.sub(r"(\.?\*)?\$?$", "", pattern.strip().removeprefix("^"))
            is_of_all = directories and all(
                f"{each.partition('=')[2].rstrip('/')}/".startswith(begin) for each in directories
            )
            if len(self._expires) == 1 and is_of_all and seconds.isdigit():
                self._set(option, min(int(seconds), _LONGEST_EXPIRY))
            else:
                self._lose(option, "see {static_max_age}, which is one time for all files")

    def _raise_heads(self, option: Given) -> None:
        """Allow longer heads where uWSGI's buffer is larger than ours; never shorter ones."""
        wanted = _number(option)
        if wanted > _USUAL_HEAD:
            self._set(option, min(wanted, _LONGEST_HEAD))
        for name in ("limit_request_line", "limit_request_field_size"):
            if wanted > 8190:
                self.found.given[name] = (min(wanted, _LONGEST_FIELD), option.source)


def _number(option: Given) -> int:
    """Return a whole number. As in uWSGI, what follows its digits does not count."""
    digits = re.match(r"[0-9]{1,15}", option.value)
    if digits is None:
        raise SettingsError(f"{option.source} is {option.value!r}, which is no whole number")
    return int(digits[0])
