"""The settings of the command, from every place that can give one.

The first of these places counts: a flag, ``PENSTOCK_*`` in the environment, ``GUNICORN_CMD_ARGS``,
a TOML file, a ``gunicorn.conf.py``, a file of uWSGI, a variable that platforms set (``PORT``,
``WEB_CONCURRENCY``, ``SCRIPT_NAME``), the default. Sockets that systemd passes replace ``bind``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.compat.gunicorn.found import FromGunicorn, has_sources, is_python
from penstock.config.settings import OPTIONS, Settings
from penstock.config.sources import (
    Given,
    add_passed_sockets,
    add_platform_variables,
    build,
    convert,
    from_file,
    from_variables,
)
from penstock.config.trust import Trust
from penstock.messages import Notice
from penstock.system.paths import joined
from penstock.telemetry.access_log_format import SHORT

if TYPE_CHECKING:
    from pathlib import Path


def load_settings(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: str | Path,
    config_file: str | Path | None = None,
    uwsgi_file: str | None = None,
    *,
    gunicorn_flags: Mapping[str, object] | None = None,
    on_terminal: bool = False,
    has_user: bool = False,
) -> Settings:
    """Return the settings of the command, from all sources.

    ``flags`` holds the typed flags by the setting's name: text, a list of text for repeatable
    flags, a bool for switches. ``config_file`` is read instead of the files in ``cwd``, and
    ``uwsgi_file`` in addition.
    ``gunicorn_flags`` holds the values of typed flags that gunicorn alone has, by its settings.
    ``on_terminal`` is True if standard output is a terminal, ``has_user`` if the server that runs
    already has another user for its workers. Raises `SettingsError`.
    """
    warnings: list[Notice] = []
    given: Given = {name: (value, OPTIONS[name].flag) for name, value in flags.items()}
    variables = from_variables(OPTIONS, environ)
    trust = Trust(has_user, given, variables)
    cwd = os.fspath(cwd)
    config = None if config_file is None else os.fspath(config_file)
    gunicorn_flags = gunicorn_flags or {}
    gunicorn = FromGunicorn(config=config)
    # What reads a source is imported where there is one, here and below.
    if has_sources(environ, cwd, config, gunicorn_flags):
        from penstock.compat.gunicorn.config import from_gunicorn

        gunicorn = from_gunicorn(OPTIONS, environ, cwd, config, trust, gunicorn_flags)
    layers = [gunicorn.flags, variables, gunicorn.arguments]
    if gunicorn.config is None or not is_python(gunicorn.config):
        layers.append(from_file(OPTIONS, cwd, gunicorn.config, warnings, trust))
    layers.append(gunicorn.file)
    uwsgi = None
    if uwsgi_file is not None:
        from pathlib import Path

        from penstock.compat.uwsgi.config import from_uwsgi  # who needs it is on the way from there

        uwsgi = from_uwsgi(OPTIONS, environ, Path(cwd), uwsgi_file, trust)
        layers.append(uwsgi.given)
        warnings += uwsgi.warnings
    for layer in layers:
        for name, entry in layer.items():
            given.setdefault(name, entry)
    warnings += gunicorn.warnings
    variables_of_process = {**environ, **_script_name(given, environ, gunicorn)}
    add_platform_variables(OPTIONS, given, variables_of_process)
    add_passed_sockets(given, environ, warnings)
    if on_terminal:
        if "access_logfile" not in given:
            given.setdefault("access_logformat", (SHORT, "default on a terminal"))
        given.setdefault("access_logfile", ("-", "default on a terminal"))
    if gunicorn.threads is not None:
        given.setdefault("threads", gunicorn.threads)
    settings = build(given, warnings)
    if settings.log_config is not None:  # it names code to run
        trust.check(joined(cwd, settings.chdir, settings.log_config))
    variables_of_file: dict[str, str] = {}
    if settings.env_file is not None:
        from penstock.config.env_file import read_env_file

        path = joined(cwd, settings.chdir, settings.env_file)
        trust.check(path)
        trust.finish(settings)  # before root reads it
        variables_of_file = read_env_file(path)
    admin_token = ""
    if settings.admin_token_file is not None:
        from penstock.config.token_file import read_token

        path = joined(cwd, settings.chdir, settings.admin_token_file)
        trust.check(path)
        trust.finish(settings)
        admin_token, exposed = read_token(path)
        settings = replace(settings, warnings=(*settings.warnings, *exposed))
    trust.finish(settings)
    return replace(
        settings,
        admin_token=admin_token,
        files=tuple(trust.read),
        variables=variables_of_file,
        notes=tuple(gunicorn.notes + (uwsgi.notes if uwsgi is not None else [])),
        application=gunicorn.application or (uwsgi.application if uwsgi is not None else None),
        hooks=gunicorn.hooks,
        gunicorn=gunicorn.values,
    )


def _script_name(
    given: Given, environ: Mapping[str, str], gunicorn: FromGunicorn
) -> dict[str, str]:
    """Return SCRIPT_NAME as ``-e``, ``raw_env`` or the code of a gunicorn.conf.py sets it.

    gunicorn reads the variable late, in its workers.
    """
    found: dict[str, str] = {}
    by_file = os.environ.get("SCRIPT_NAME")
    if gunicorn.ran_file and by_file is not None and by_file != environ.get("SCRIPT_NAME"):
        found["SCRIPT_NAME"] = by_file
    if "env" in given:
        for assignment in convert(OPTIONS["env"], *given["env"]):
            name, _, value = assignment.partition("=")
            if name == "SCRIPT_NAME":
                found[name] = value
    return found
