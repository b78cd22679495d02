"""Logging as gunicorn's users know it: its two loggers, and a configuration of logging.

Projects copy the handlers and the level of ``gunicorn.error`` to their own logger, so it has a
handler, which passes records to the error log. A configuration of logging that names this logger,
``gunicorn.access`` or ``penstock`` decides where the server's own messages and the lines of the
access log go.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from penstock.config.identity import identity_of
from penstock.errors import SettingsError
from penstock.telemetry.log_files import is_opened_for

if TYPE_CHECKING:
    from penstock.config.settings import Settings

SERVER, ERROR, ACCESS = "penstock", "gunicorn.error", "gunicorn.access"

GUNICORNS_DEFAULTS: Final[Mapping[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        name: {"level": "INFO", "handlers": [handler], "propagate": True, "qualname": name}
        for name, handler in ((ERROR, "error_console"), (ACCESS, "console"))
    },
    "handlers": {
        name: {
            "class": "logging.StreamHandler",
            "formatter": "generic",
            "stream": f"ext://{stream}",
        }
        for name, stream in (("console", "sys.stdout"), ("error_console", "sys.stderr"))
    },
    "formatters": {
        "generic": {
            "class": "logging.Formatter",
            "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
        }
    },
}
"""What gunicorn has where a ``logconfig_dict`` does not say otherwise, key by key."""


class ToErrorLog(logging.Handler):
    """Passes records to the handlers of the logger ``penstock``, whichever these are by then.

    A formatter that is set on it is used. Without a handler there, it prints to standard error.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on."""
        handlers = logging.getLogger(SERVER).handlers
        if self.formatter is not None:
            record = copy.copy(record)
            record.msg, record.args = self.formatter.format(record), None
            record.exc_info = record.exc_text = record.stack_info = None
        for handler in handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if not handlers and sys.stderr is not None:
            sys.stderr.write(f"{self.format(record)}\n")


class ToGunicornsError(logging.Handler):
    """Passes records of the server to ``gunicorn.error``, under whose name they go on.

    What is written for gunicorn goes by that name: filters, formats with ``%(name)s``, and programs
    that read the logs.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on, if its level is one of that logger's."""
        error = logging.getLogger(ERROR)
        if error.isEnabledFor(record.levelno):
            record = copy.copy(record)
            record.name = ERROR
            error.handle(record)


class ToAccessLog(logging.Handler):
    """Passes the text of records to the access log of this process, where there is one."""

    write: Callable[[str], object] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the text on."""
        if self.write is not None:
            self.write(self.format(record) + "\n")


def prepare_loggers(level: int | str) -> None:
    """Give gunicorn's loggers handlers and a level, unless the program has done so."""
    for name, handler in ((ERROR, ToErrorLog()), (ACCESS, ToAccessLog())):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.handlers = [handler]
            logger.propagate = False
        if isinstance(logger.handlers[0], (ToErrorLog, ToAccessLog)):
            logger.setLevel(level if name == ERROR else logging.INFO)


def write_access_by(write: Callable[[str], object]) -> None:
    """Let records of ``gunicorn.access`` be lines of the access log, which ``write`` takes."""
    for handler in logging.getLogger(ACCESS).handlers:
        if isinstance(handler, ToAccessLog):
            handler.write = write


def access_logger(*, has_daemons: bool) -> logging.Logger | None:
    """Return the logger that is to take the lines of the access log, if any.

    That is one to which a configuration has given handlers, or ``gunicorn.access`` where a file or
    the application has given it filters: its handler passes what they leave to the access log.
    Where that ``has_daemons`` these have each line already, and would get it again.
    """
    for name in (f"{SERVER}.access", ACCESS):
        logger = logging.getLogger(name)
        if not logger.handlers:
            continue
        leads_back = isinstance(logger.handlers[0], ToAccessLog)
        if not leads_back or (logger.filters and not has_daemons):
            return logger
    return None


def configure(settings: Settings) -> None:
    """Apply `log_config`, and a ``logconfig_dict`` of a gunicorn.conf.py, to this process.

    The messages of the logger ``penstock`` go to ``gunicorn.error`` then, where that alone is
    configured. Root with workers of another user applies none: a handler opens its file by a name,
    and that user may have put a link there. Raises `SettingsError` for a configuration that
    ``logging`` does not take.
    """
    prepare_loggers(logging.getLogger(SERVER).level or logging.INFO)
    given = settings.gunicorn.get("logconfig_dict")
    if settings.log_config is None and not given:
        return
    if is_opened_for(identity_of(settings)):
        return
    own = list(logging.getLogger(SERVER).handlers)
    try:
        if settings.log_config is not None:
            _apply_file(settings.log_config)
            source = f"{settings.log_config!r} for log_config"
        else:
            source = "logconfig_dict"
            _apply(_with_defaults(given))
    except Exception as error:
        while error.__cause__ is not None and isinstance(error, ValueError):
            error = error.__cause__  # type: ignore[assignment]  # what dictConfig says is general
        raise _refused(settings.log_config or "logconfig_dict", error) from None
    _let_server_use(own, source)


def check_file(settings: Settings) -> None:
    """Raise the `SettingsError` of `configure` for a file that cannot be read.

    Nothing is applied: a handler would open its file.
    """
    if settings.log_config is None or is_opened_for(identity_of(settings)):
        return
    try:
        _parsed(settings.log_config)
    except Exception as error:
        raise _refused(settings.log_config, error) from None


def _refused(what: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"{what!r} cannot be applied as a configuration of logging (setting: log_config): "
        f"{type(error).__name__}: {error}"
    )


def _with_defaults(given: object) -> dict[str, Any]:
    """Return a ``logconfig_dict`` with gunicorn's keys that it has not.

    Of its defaults, none that uses a handler that the configuration has replaced.
    """
    if not isinstance(given, Mapping):
        raise TypeError("logconfig_dict is no dictionary")
    defaults = dict(GUNICORNS_DEFAULTS)
    if "handlers" in given:
        del defaults["root"], defaults["loggers"]
    return {**defaults, **given}


def _let_server_use(own: list[logging.Handler], source: str) -> None:
    server, error = logging.getLogger(SERVER), logging.getLogger(ERROR)
    for logger in (error, logging.getLogger(ACCESS)):
        if not logger.handlers and logger.hasHandlers():
            # Configured without handlers of its own: it shows, and those of the root have all.
            logger.handlers = [logging.NullHandler()]
    named = error.handlers and not isinstance(error.handlers[0], ToErrorLog)
    if named and server.handlers == own:
        server.handlers = [ToGunicornsError()]
    server.debug("the configuration of logging was applied: %s", source)


def _apply_file(path: str) -> None:
    parsed = _parsed(path)
    if path.endswith((".json", ".toml")):
        _apply(parsed)
    else:
        from logging.config import fileConfig

        fileConfig(parsed, disable_existing_loggers=False)


def _parsed(path: str) -> Any:
    """Return what a file holds: for ``dictConfig``, or the parser that ``fileConfig`` takes."""
    with open(path, encoding="utf-8-sig") as file:
        if path.endswith(".json"):
            return json.load(file)
        if path.endswith(".toml"):
            import tomllib

            return tomllib.loads(file.read())
        from configparser import ConfigParser

        parser = ConfigParser({"__file__": path, "here": os.path.dirname(path)})
        parser.read_file(file)
        for section in ("loggers", "handlers", "formatters"):
            parser.options(section)  # an error names the section that is missing
        return parser


def _apply(config: Mapping[str, Any]) -> None:
    from logging.config import dictConfig

    # The application's loggers exist by now, or will: none is silenced because it is not named.
    dictConfig({"version": 1, "disable_existing_loggers": False, **config})
