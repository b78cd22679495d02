"""Reading gunicorn's sources of settings: its flags, GUNICORN_CMD_ARGS and gunicorn.conf.py.

All use gunicorn's names. A setting that Penstock has becomes a setting of Penstock. For any other,
a warning names it and gives the reason, or a note where nothing is missed, so that a team that
moves can start with what it has. What no client would get a right answer with is refused.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from penstock import messages
from penstock.compat.gunicorn.found import (
    ARGUMENTS,
    FILE,
    MODULE,
    USUAL_FILE,
    FromGunicorn,
    Given,
    is_python,
)
from penstock.config.gunicorn_settings import (
    GREENLET_THREADS,
    GUNICORN_SETTINGS,
    HOOKS,
    GunicornSetting,
    flag_of,
    has_effect,
    instead_of,
    kind_of_worker,
    refusal,
)
from penstock.config.options import Option
from penstock.config.other_servers import spelt
from penstock.config.trust import Trust
from penstock.errors import SettingsError
from penstock.system.greenlet_patches import greenlet_patches
from penstock.system.paths import joined

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_Values = dict[str, tuple[str, object]]
"""The place and the value of gunicorn's settings, by their names."""

TYPED = "the command line"
_MODULE_NAME = "__config__"
"""The name of the file's module while it runs, as under gunicorn: pickle and classes use it."""


_LONGEST_LINE = 1 << 20
"""The maximum of limit_request_line and limit_request_field_size."""
_USUAL_HEAD = 64 << 10
_MOST_FIELDS = 10000
_MOST_BACKLOG = 65535
_SHORTEST_KEEP_ALIVE = 0.1


class ConfigFileError(SettingsError):
    """A configuration file in Python raised."""

    traceback = ""
    """The file's part of the traceback, with a line end."""


def from_gunicorn(
    options: Mapping[str, Option],
    environ: Mapping[str, str],
    cwd: str,
    config: str | None,
    trust: Trust,
    flags: Mapping[str, object],
) -> FromGunicorn:
    """Return what gunicorn's sources give. ``config`` is the file that the command names, if any.

    ``flags`` are the values of flags that gunicorn alone has, by the names of its settings.
    ``trust`` checks a file before it is executed.
    Without it, a gunicorn.conf.py in ``cwd`` is read, as gunicorn does. Raises `SettingsError`.
    """
    found = FromGunicorn(config=config)
    found.flags = _ours(flags, lambda name: GUNICORN_SETTINGS[name].flags[-1])
    trust.note(found.flags)
    ignored: _Values = {}
    in_force: list[str] = []
    if arguments := environ.get(ARGUMENTS):
        values = _parse(arguments)
        in_arguments = values.pop("config", None)
        found.config = config if config is not None else _text_or_none(in_arguments)
        found.arguments = _ours(values, lambda _: ARGUMENTS)
        trust.note(found.arguments)
        ignored |= {name: (ARGUMENTS, value) for name, value in values.items()}
        in_force.append(ARGUMENTS)
        found.notes.append(f"{ARGUMENTS} was read: {', '.join(values) or 'no settings'}")
    location = found.config
    if location is None and os.path.exists(joined(cwd, USUAL_FILE)):
        location = USUAL_FILE
    if location is not None and is_python(location):
        values = _read(location, cwd, found, trust)
        in_force.append(_shown(location))
        found.ran_file = True
        ignored = {name: (_shown(location), value) for name, value in values.items()} | ignored
    elif location is not None:
        found.config = _shown(location)
    ignored |= {name: (TYPED, value) for name, value in flags.items()}
    _refuse(ignored)
    _tell_of_ignored(ignored, options, found)
    _tell_of_timeout(ignored, found)
    if "worker_class" in flags:
        in_force.append(TYPED)
    found.threads = _threads(ignored, in_force)
    found.application = _application(ignored, found.application)
    return found


def _refuse(values: _Values) -> None:
    wrong = [
        f"{name} (from {place}): {reason}"
        for name, (place, value) in values.items()
        if (reason := refusal(GUNICORN_SETTINGS[name], value))
    ]
    if wrong:
        raise SettingsError("; ".join(wrong))


def _threads(values: _Values, in_force: Sequence[str]) -> tuple[int, str] | None:
    """Return the number of threads where no source has one, and why: as under gunicorn, 1."""
    place, worker_class = values.get("worker_class", ("", "sync"))
    if kind_of_worker(worker_class) == "greenlets":
        return GREENLET_THREADS, f"a worker class of greenlets in {place}"
    return (1, f"gunicorn's default, with {' and '.join(in_force)}") if in_force else None


def _application(values: _Values, named: str | None) -> str | None:
    """Return what names the application: the file of ``paste``, or ``wsgi_app``."""
    uri = _text_or_none(values.get("paste", ("", None))[1])
    if uri is None:
        return named
    given = values.get("raw_paste_global_conf", ("", []))[1]
    more = [str(each) for each in given] if isinstance(given, (list, tuple)) else []
    return f"penstock.compat.paste:load({uri!r}, {more!r})"


def _read(location: str, cwd: str, found: FromGunicorn, trust: Trust) -> dict[str, object]:
    """Run a file, and return the names in it that are settings of gunicorn."""
    shown = _shown(location)
    names = _run(location, cwd, trust)
    # As under gunicorn, other names in the file are ignored.
    values = {name: names[name] for name in names if name in GUNICORN_SETTINGS}
    functions = {name: names[name] for name in HOOKS if names.get(name) is not None}
    found.file = _ours(values, lambda name: f"{shown}:{name}")
    found.application = _text_or_none(values.get("wsgi_app"))
    found.values = values
    read = [name for name in values if values[name] is not None]
    if functions:
        from penstock.compat.gunicorn.hooks import checked_hook

        found.hooks = {name: checked_hook(name, functions[name], shown) for name in functions}
        read.append(f"hooks {', '.join(functions)}")
    found.notes.append(f"{shown} was read: {', '.join(read) or 'no settings'}")
    return values


# -- from gunicorn's names and values to ours -----------------------------------------------------


def _ours(values: Mapping[str, object], source_of: Callable[[str], str]) -> Given:
    given: Given = {}
    for name, value in values.items():
        row = GUNICORN_SETTINGS[name]
        if not row.ours or value is None or (name == "control_socket_disable" and not value):
            continue
        if row.ours in given and name == "control_socket":  # control_socket_disable came first
            continue
        converted = _converted(row, value)
        if converted is not None:
            given[row.ours] = (converted, source_of(name))
    _join_forwarded(given, values)
    _raise_head_limit(given)
    return given


def _converted(row: GunicornSetting, value: object) -> object:
    """Return a value in the form that Penstock's setting takes, unchecked.

    None is for a value that means something which Penstock does not do.
    """
    if isinstance(value, str):
        value = value.strip()
        if row.takes == "list":  # gunicorn does not split at commas
            value = [value]
    change = _CHANGES.get(row.name)
    return change(value) if change is not None else value


def _count(least: int, most: int, for_none: int | None = None) -> Callable[[object], object]:
    """Return a conversion of numbers: gunicorn rounds down, and 0 may mean "no limit"."""

    def change(value: object) -> object:
        number = _number(value)
        if number is None:
            return value
        if for_none is not None and number <= 0:
            return for_none
        return min(int(number), most) if number >= least else int(number)

    return change


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _keep_alive(value: object) -> object:
    return _SHORTEST_KEEP_ALIVE if _number(value) == 0 else value


def _account(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _peers(value: object) -> object:
    """Return who may forward: gunicorn believes the peers of unix sockets in any case."""
    if not isinstance(value, str):
        return value
    return [*(part.strip() for part in value.split(",") if part.strip()), "unix"]


def _secure_fields(value: object) -> object:
    """Return the fields that mean https, as NAME=VALUE."""
    if not isinstance(value, Mapping):
        return value
    return [f"{name}={secure}" for name, secure in value.items()]


def _least_version(value: object) -> object:
    """Return what `tls_min_version` is for a name or number of Python's ``ssl``."""
    if isinstance(value, str):
        name = value.removeprefix("PROTOCOL_")
        return _VERSIONS.get(int(name) if name.isdecimal() else name, value)
    return _VERSIONS.get(value, value) if isinstance(value, int) and value > 1 else value


_VERSIONS: Mapping[object, str | None] = {
    # PROTOCOL_... of `ssl`, as gunicorn 20 took them, and TLSVersion: numbers, and their names.
    **dict.fromkeys((3, 4, 0x300, 0x301, 0x302)),
    **dict.fromkeys(("SSLv2", "SSLv3", "TLSv1", "TLSv1_1")),
    **dict.fromkeys((2, 5, 17, 0x303, "SSLv23", "TLS", "TLS_SERVER", "TLSv1_2"), "1.2"),
    **dict.fromkeys((0x304, "TLSv1_3"), "1.3"),
}
"""None is for what cannot be had."""


def _join_forwarded(given: Given, values: Mapping[str, object]) -> None:
    """Set the believed fields to what two of gunicorn's settings say together."""
    forwarder = values.get("forwarder_headers")
    if forwarder is None or "forwarded_headers" not in given:
        return
    believed = _secure_fields(values.get("secure_scheme_headers")) or ["x-forwarded-proto"]
    if isinstance(forwarder, str):
        forwarder = forwarder.split(",")
    if isinstance(forwarder, (list, tuple)) and isinstance(believed, list):
        names = {str(name).strip().upper() for name in forwarder}
        if names & {"SCRIPT_NAME", "*"}:
            believed = [*believed, "script_name"]
        given["forwarded_headers"] = (believed, given["forwarded_headers"][1])


_CHANGES: Mapping[str, Callable[[object], object]] = {
    "forwarded_allow_ips": _peers,
    "proxy_allow_ips": _peers,
    "uwsgi_allow_ips": _peers,
    "proxy_protocol": lambda value: (
        {True: "auto", False: "off"}.get(value, value) if isinstance(value, bool) else value
    ),
    "secure_scheme_headers": _secure_fields,
    "ssl_version": _least_version,
    "workers": _count(1, 1000),
    "threads": _count(1, 1000),
    "backlog": _count(1, _MOST_BACKLOG),
    "worker_connections": _count(1, 1_000_000),
    "max_requests": _count(0, 1 << 53),
    "max_requests_jitter": _count(0, 1 << 53),
    "limit_request_line": _count(1, _LONGEST_LINE, _LONGEST_LINE),
    "limit_request_field_size": _count(1, _LONGEST_LINE, _LONGEST_LINE),
    "limit_request_fields": _count(1, _MOST_FIELDS, _MOST_FIELDS),
    "keepalive": _keep_alive,
    "user": _account,
    "group": _account,
    "control_socket_disable": lambda _: "off",
    "disable_redirect_access_to_syslog": lambda value: not value,
    "syslog_prefix": lambda value: value or "",
}


def _raise_head_limit(given: Given) -> None:
    """Raise the limit of the head to that of its parts: gunicorn has no limit for the whole."""
    for name in ("limit_request_line", "limit_request_field_size"):
        value, source = given.get(name, (0, ""))
        if isinstance(value, int) and value > _USUAL_HEAD:
            given["limit_request_head"] = (_LONGEST_LINE + _USUAL_HEAD, source)


def _tell_of_timeout(values: _Values, found: FromGunicorn) -> None:
    """Add a note where a file or the variable sets ``timeout``, which is another limit here.

    Under gunicorn's threads it is for the worker, and a request may take longer.
    """
    place, value = values.get("timeout", (TYPED, None))
    if place != TYPED and _number(value):
        found.notes.append(
            f"timeout of {place} is for each request here: a call that sends nothing for {value} s "
            "gets 504 (setting: timeout)"
        )


def _tell_of_ignored(values: _Values, options: Mapping[str, Option], found: FromGunicorn) -> None:
    """Add a warning for each reason to ignore settings, with their names.

    Where nothing is missed, a note.
    """
    warned: dict[tuple[str, str], list[str]] = {}
    noted: dict[tuple[str, str], list[str]] = {}
    for name, (place, value) in values.items():
        row = GUNICORN_SETTINGS[name]
        asks = has_effect(row, value)
        if name == "worker_class":
            asks = kind_of_worker(value) != "threads"
        becomes = row.ours and (value is None or _converted(row, value) is not None)
        if becomes or (row.silent and name != "worker_class") or not asks:
            continue
        reasons = noted if row.needless else warned
        shown = name
        if place == TYPED:
            shown = next(flag for flag in row.flags if flag.startswith("--"))
        reasons.setdefault((place, instead_of(row, value)), []).append(shown)
    for (place, reason), names in noted.items():
        text = spelt(reason, options, "flag" if place == TYPED else "name")
        found.notes.append(f"{place} has {', '.join(names)}, which nothing here needs: {text}")
    for (place, reason), names in warned.items():
        text = spelt(reason, options, "flag" if place == TYPED else "name")
        found.warnings.append(
            messages.GUNICORN_SETTINGS_IGNORED.notice(
                place=place, names=", ".join(names), instead=text
            )
        )


def _text_or_none(value: object) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None


# -- the variable ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{ARGUMENTS}: {message}")


def _parse(arguments: str) -> dict[str, object]:
    """Return the values of gunicorn's flags in a line of text, by gunicorn's names."""
    parser = _Parser(argument_default=argparse.SUPPRESS, add_help=False)
    parser.add_argument("args", nargs="*")  # gunicorn ignores an application in it
    for row in GUNICORN_SETTINGS.values():
        if row.flags:
            _add_flags(parser, row)
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise SettingsError(f"{ARGUMENTS} cannot be read as a command line: {error}") from None
    values = vars(parser.parse_args(words))
    values.pop("args", None)
    return values


def _add_flags(parser: argparse.ArgumentParser, row: GunicornSetting) -> None:
    takes, const = flag_of(row)
    if takes == "switch":
        parser.add_argument(*row.flags, dest=row.name, action="store_const", const=const)
    elif takes == "maybe":
        parser.add_argument(*row.flags, dest=row.name, nargs="?", const=const)
    else:
        action = "append" if takes == "list" else "store"
        parser.add_argument(*row.flags, dest=row.name, action=action)


# -- the file -------------------------------------------------------------------------------------


def _shown(location: str) -> str:
    return location.removeprefix(FILE)


def _run(location: str, cwd: str, trust: Trust) -> dict[str, object]:
    """Run a configuration file, also one that ran before, and return the names it defines.

    As under gunicorn, it can import modules from the current directory, if root takes that.
    """
    if not location.startswith(MODULE):
        trust.check(joined(cwd, _shown(location)), python=True)
    if trust.takes_directory(cwd):
        sys.path.insert(0, cwd)
    else:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", cwd)]
    try:
        if location.startswith(MODULE):
            spec = _spec_of_module(location.removeprefix(MODULE), trust)
        else:
            spec = _spec_of_file(joined(cwd, _shown(location)), location)
        return vars(_executed(spec, _shown(location)))
    finally:
        # Directories that the file itself added stay on the path.
        if cwd in sys.path:
            sys.path.remove(cwd)


def _spec_of_file(path: str, location: str) -> ModuleSpec:
    from importlib.machinery import SourceFileLoader
    from importlib.util import spec_from_file_location

    if not os.path.isfile(path):
        raise SettingsError(f"cannot read the settings file {path}: there is no such file")
    loader = None if path.endswith(".pyc") else SourceFileLoader(_MODULE_NAME, path)
    spec = spec_from_file_location(_MODULE_NAME, path, loader=loader)
    if spec is None:
        raise SettingsError(f"cannot read the settings file {location} as Python")
    return spec


def _spec_of_module(name: str, trust: Trust) -> ModuleSpec:
    from importlib.util import find_spec

    try:
        # The packages around it are imported, too: first the outermost, which this does not import.
        outermost = find_spec(name.partition(".")[0])
        if outermost is not None and outermost.origin:
            trust.check(outermost.origin, python=True)
        # For a module that was imported before, this finds its spec; the module runs again.
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None or spec.loader is None:
        raise SettingsError(f"there is no module {name!r} to read settings from ({MODULE}{name})")
    if spec.origin:
        trust.check(spec.origin, python=True)
    return spec


def _executed(spec: ModuleSpec, shown: str) -> ModuleType:
    from importlib.util import module_from_spec

    from penstock.compat.gunicorn.stand_ins import in_place_of_gunicorn

    before = sys.modules.get(spec.name)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        assert spec.loader is not None
        with in_place_of_gunicorn():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the file may call sys.exit()
        if before is None:
            del sys.modules[spec.name]
        else:
            sys.modules[spec.name] = before
        raise _failure(error, shown) from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    if patches := greenlet_patches():
        raise SettingsError(f"{shown}: {patches}")
    return module


def _failure(error: BaseException, shown: str) -> ConfigFileError:
    from traceback import TracebackException

    text = " ".join(str(error).split())
    failed = ConfigFileError(f"{shown} raised {type(error).__name__}: {text}".rstrip(": "))
    shortened = TracebackException.from_exception(error)
    shortened.stack[:] = [frame for frame in shortened.stack if not _is_machinery(frame.filename)]
    failed.traceback = "".join(shortened.format())
    return failed


def _is_machinery(file_name: str) -> bool:
    return file_name == __file__ or file_name.startswith("<frozen ")
