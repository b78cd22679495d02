"""The sources of settings: variables, TOML files, the platform, systemd, a Python program.

Each function returns or adds the values that its source gives, unchecked, and names the source of
each. An unknown name is refused here, whatever its source. `build` converts and checks the values.
`penstock.cli.settings` decides which source counts first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from penstock import messages
from penstock.config.checks import check_possible, with_absolute_paths
from penstock.config.options import Decimal, NotAllowed, Option, integer, nearest
from penstock.config.other_servers import Spelling, explain
from penstock.config.settings import OPTIONS, Settings
from penstock.config.trust import Trust
from penstock.errors import SettingsError
from penstock.messages import Notice
from penstock.system.paths import joined

Options = Mapping[str, Option]
Given = dict[str, tuple[object, str]]
"""By the name of a setting: the value that was given, unchecked, and its source."""

SYSTEMD_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""Variables that systemd sets with passed sockets. Children must not see them: sd_listen_fds(3)."""

_OWN, _PROJECT = "penstock.toml", "pyproject.toml"
_SIZE_OF_OTHERS = re.compile(r"[0-9.]+[KMGT]")
"""``10M``, which other programs take for either of two sizes."""

_TABLES = re.compile(rb"^\[tool\.([A-Za-z0-9_-]+)\]", re.MULTILINE)

_OLD_OCTAL = re.compile(rb"^[^#\n]*=\s*0[0-7]+\s*(?:#|$)", re.MULTILINE)
"""``umask = 022``, which is an octal number elsewhere."""

FIRST_PASSED_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

# Kubernetes sets such variables in every container of a namespace with a service "penstock".
_SERVICE_LINK = re.compile(
    r"PENSTOCK_SERVICE_(?:HOST|PORT(?:_\w+)?)|PENSTOCK_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_\w+)?"
)

# setup.py reads it to decide on the native transport; an image may leave it set.
_INSTALLATION_VARIABLE = "PENSTOCK_NATIVE"


def from_variables(options: Options, environ: Mapping[str, str]) -> Given:
    """Return the settings that the ``PENSTOCK_*`` variables give."""
    by_variable = {option.variable: name for name, option in options.items()}
    given: Given = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith("PENSTOCK_") or _SERVICE_LINK.fullmatch(variable):
            continue
        if variable == _INSTALLATION_VARIABLE:
            continue
        if variable == "PENSTOCK_PORT" and "://" in value:  # another variable of Kubernetes
            continue
        if variable not in by_variable:
            name = variable.removeprefix("PENSTOCK_")
            raise unknown(f"environment variable {variable}", name, options, "variable")
        given[by_variable[variable]] = (value, variable)
    return given


def from_file(
    options: Options,
    cwd: str,
    config_file: str | None,
    warnings: list[Notice],
    trust: Trust,
) -> Given:
    """Return the settings of ``config_file``, or else of the TOML files in ``cwd``.

    ``trust`` checks the file that has settings.
    """
    own, project = joined(cwd, _OWN), joined(cwd, _PROJECT)
    if config_file is not None:
        path = joined(cwd, config_file)
        trust.check(path)
        table = _read_table(path, in_project=os.path.basename(path) == _PROJECT)
        return _from_table(options, table or {}, config_file)
    try:
        there = {path: _is_there(path) for path in (own, project)}
    except PermissionError as error:
        # Not an error: the server may be started in another user's directory.
        warnings.append(
            messages.SETTINGS_FILES_NOT_READABLE.notice(directory=cwd, error=error.strerror)
        )
        return {}
    in_project = _read_table(project, in_project=True) if there[project] else None
    if there[project] and in_project is None and (near := _misspelt_table(project)):
        warnings.append(messages.TABLE_MISSPELT.notice(table=near))
    if not there[own]:
        if in_project is not None:
            trust.check(project)
        return _from_table(options, in_project or {}, _PROJECT)
    if in_project is not None:
        warnings.append(messages.TWO_SETTINGS_FILES.notice())
    trust.check(own)
    return _from_table(options, _read_table(own, in_project=False) or {}, _OWN)


def add_platform_variables(options: Options, given: Given, environ: Mapping[str, str]) -> None:
    """Add the variables that platforms set, for settings that the user has not given."""
    for name, option in options.items():
        variable = option.platform_variable
        if name not in given and environ.get(variable):
            given[name] = (environ[variable], variable)
    port = environ.get("PORT")
    if port and "bind" not in given:
        kind = integer(0, 65535)
        try:
            given["bind"] = ([f"0.0.0.0:{kind.convert(port)}"], "PORT")
        except (ValueError, TypeError):
            raise bad_value("bind", port, "PORT", kind.allowed) from None


def add_passed_sockets(given: Given, environ: Mapping[str, str], warnings: list[Notice]) -> None:
    """Replace ``bind`` by the sockets that systemd passed."""
    # Variables that an ancestor did not clear name another process in LISTEN_PID.
    if environ.get("LISTEN_PID") != str(os.getpid()) or "LISTEN_FDS" not in environ:
        return
    kind = integer(1, 1000)
    try:
        count = kind.convert(environ["LISTEN_FDS"])
    except (ValueError, TypeError):
        raise bad_value("bind", environ["LISTEN_FDS"], "LISTEN_FDS", kind.allowed) from None
    if "bind" in given and given["bind"][1] != "PORT":
        warnings.append(messages.BIND_REPLACED.notice(source=given["bind"][1]))
    passed = range(FIRST_PASSED_DESCRIPTOR, FIRST_PASSED_DESCRIPTOR + count)
    given["bind"] = ([f"fd://{descriptor}" for descriptor in passed], "LISTEN_FDS")


def settings_from_kwargs(**by_name: object) -> Settings:
    """Return the settings that a Python program gives by name, checked as the command's are.

    No file and no variable is read, and without ``access_logfile`` no request is logged. Settings
    that concern the whole process (``chdir``, ``pythonpath``, ``env``, ``umask``) are refused: the
    process belongs to the program. Raises `SettingsError`.
    """
    for name in by_name:
        if name not in OPTIONS:
            raise unknown(f"setting {name!r}", name, OPTIONS, "name")
        if OPTIONS[name].command_only:
            raise SettingsError(f"{name} is a setting of the penstock command alone")
    given: Given = {name: (value, f"argument {name}") for name, value in by_name.items()}
    return with_absolute_paths(build(given, []))


def build(given: Given, warnings: Iterable[Notice]) -> Settings:
    """Return settings from what was given, converted and checked. Raises `SettingsError`."""
    values = {name: convert(OPTIONS[name], *entry) for name, entry in given.items()}
    sources = {name: source for name, (_, source) in given.items()}
    warnings = [*warnings]
    if values.get("preload") and values.get("reload"):
        warnings.append(
            messages.PRELOAD_LEFT_OUT.notice(preload=sources["preload"], reload=sources["reload"])
        )
        values["preload"] = False
        sources["preload"] = f"left out because of reload, from {sources['reload']}"
    if both := set(values.get("allow", ())) & set(values.get("deny", ())):
        warnings.append(
            messages.ALLOWED_AND_DENIED.notice(
                networks=", ".join(sorted(both)), allow=sources["allow"], deny=sources["deny"]
            )
        )
    settings = Settings(**values, sources=sources, warnings=tuple(warnings))
    check_possible(settings)
    return settings


def convert(option: Option, value: object, source: str) -> Any:
    """Return a given value, converted. Raises `SettingsError` if it is not allowed."""
    try:
        return option.kind.convert(value)
    except NotAllowed as error:
        raise bad_value(option.name, error.value, source, option.kind.allowed, error.hint) from None
    except (ValueError, TypeError):
        if value == "" and source == option.variable:
            # On many platforms it is easy to empty a variable instead of unsetting it.
            source += ", which is empty: unset it or give it a value"
        raise bad_value(option.name, value, source, option.kind.allowed) from None


def nearest_option(options: Options, name: str) -> Option | None:
    """Return the option that an unknown name most likely means: Penstock's or another server's."""
    names = {other: option for option in options.values() for other in option.also_called}
    names |= options
    found = nearest(name.lower().replace("-", "_"), names)
    return names[found] if found is not None else None


def unknown(what: str, name: str, options: Options, spelling: Spelling) -> SettingsError:
    """Return the error for an unknown name. ``what`` describes the name and its source."""
    if not any(name.lower() in option.also_called for option in options.values()):
        explanation = explain(name, options, spelling)
        if explanation is not None:
            return SettingsError(f"unknown {what}: {explanation}")
    meant = nearest_option(options, name)
    hint = f"; did you mean {getattr(meant, spelling)!r}?" if meant is not None else ""
    return SettingsError(f"unknown {what}{hint}")


def bad_value(name: str, value: object, source: str, allowed: str, hint: str = "") -> SettingsError:
    """Return the error for a value that is not allowed; ``hint`` says what to write instead."""
    hint = f"; {hint}" if hint else ""
    if allowed.startswith("a size") and _SIZE_OF_OTHERS.fullmatch(str(value)):
        hint = f"; {value}B is a power of 1000, {value}iB one of 1024"
    return SettingsError(
        f"bad value {value!r} for {name} (from {source}): allowed is {allowed}{hint}"
    )


def _is_there(path: str) -> bool:
    """Return True if the file exists. Raises `PermissionError` if the directory is not readable."""
    try:
        os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return False
    return True


def _read_table(path: str, in_project: bool) -> Mapping[str, object] | None:
    try:
        with open(path, "rb") as file:
            content = file.read()
        if in_project and b"penstock" not in content:
            return None  # most projects: no time to parse it, and no error for their mistakes
        import tomllib

        text = content.decode("utf-8-sig")  # editors of Windows write a byte order mark
        table: Any = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        hint = "; an octal number begins with 0o" if _OLD_OCTAL.search(content) else ""
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}{hint}") from None
    if in_project:
        tool = table.get("tool")
        table = tool.get("penstock") if isinstance(tool, dict) else None
        if table is not None and not isinstance(table, dict):
            raise SettingsError(f"tool.penstock in {path} is not a table")
    return _with_decimals(table, text) if table else table


def _with_decimals(table: dict[str, object], text: str) -> dict[str, object]:
    """Return a table in which the file modes that the text has in decimal digits are `Decimal`.

    Of a number the parser of TOML leaves its value alone: 440 and 0o670 are the same then.
    """
    for key, value in table.items():
        option = OPTIONS.get(key.replace("-", "_"))
        if option is None or not option.is_mode or type(value) is not int:
            continue
        if re.search(rf"^[^#\n]*\b{key}[\"']?\s*=\s*\+?{value}(?![\w.])", text, re.MULTILINE):
            table = {**table, key: Decimal(value)}
    return table


def _misspelt_table(project: str) -> str | None:
    """Return the table whose name is nearly that of the server's, if the file has one."""
    try:
        with open(project, "rb") as file:
            names = [name.decode() for name in _TABLES.findall(file.read())]
    except OSError:
        return None
    if not any(name[:1] == "p" for name in names):
        return None  # most projects: no time to compare
    return nearest("penstock", [name for name in names if name[:1] == "p"])


def _from_table(options: Options, table: Mapping[str, object], file_name: str) -> Given:
    given: Given = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in options:
            what = f"setting {key!r} in {file_name}"
            if isinstance(value, dict):
                place = "[tool.penstock]" if os.path.basename(file_name) == _PROJECT else "the file"
                raise SettingsError(f"unknown {what}: a table; settings are keys of {place} itself")
            raise unknown(what, name, options, "name")
        if name in given:
            raise SettingsError(f"{name} is given twice in {file_name}")
        given[name] = (value, f"{file_name}:{key}")
    return given
