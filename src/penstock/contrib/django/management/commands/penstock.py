"""``manage.py penstock``."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, handle_default_options
from django.db import connections

from penstock.cli.arguments import CommandLine, parse_command_line
from penstock.contrib.django import server_settings
from penstock.errors import SettingsError


class Command(BaseCommand):
    """Replaces this process by ``penstock``, with the project's application and settings.

    Every flag of ``penstock`` may be given. The setting ``PENSTOCK`` of the project gives others,
    and variables such as ``PENSTOCK_WORKERS`` count before it. Where ``DEBUG`` is on, the server
    reloads when a file changes, and serves the static files of all apps; otherwise it serves what
    ``collectstatic`` has collected.
    """

    help = "Serve the project with Penstock. Takes every flag of the command penstock."
    requires_system_checks: list[str] = []  # noqa: RUF012 -- Django's class attribute

    def run_from_argv(self, argv: list[str]) -> None:
        """Take Django's flags out of the arguments, and hand over the others."""
        if any(flag in argv for flag in ("-h", "--help")):
            self.print_help(argv[0], argv[1])
            return
        options, rest = self.create_parser(argv[0], argv[1]).parse_known_args(argv[2:])
        handle_default_options(options)
        try:
            self.handle(*rest)
        except CommandError as error:
            self.stderr.write(f"{type(error).__name__}: {error}")
            sys.exit(error.returncode)

    def handle(self, *arguments: str, **_options: Any) -> None:
        """Check the project, and replace this process. Raises ``CommandError``."""
        try:
            typed = parse_command_line(arguments)
            if typed.application is not None:
                raise CommandError(_unwanted(typed.application))
            for variable, text in server_settings.variables().items():
                os.environ.setdefault(variable, text)
            flags = _flags(typed)
        except SettingsError as error:
            raise CommandError(str(error)) from None
        self.check(display_num_errors=True)
        connections.close_all()  # an open one would be shared by all workers
        sys.stdout.flush()
        sys.stderr.flush()
        command = [sys.executable, "-m", "penstock", server_settings.application(), *flags]
        os.execv(sys.executable, [*command, *arguments])


def _unwanted(argument: str) -> str:
    """Return why an argument is refused, which may be an address as ``runserver`` takes it."""
    host, _, port = argument.rpartition(":")
    if port.isdigit():
        return f"an address is a flag: --bind {host or '127.0.0.1'}:{port}"
    return f"the application is the project's: leave {argument!r} out"


def _flags(typed: CommandLine) -> list[str]:
    """Return the flags that the project's settings add to those that were typed."""
    flags = []
    if settings.DEBUG and "reload" not in typed.flags:
        flags.append("--reload")
    static = None if settings.DEBUG else server_settings.static_files()
    if static and "static" not in typed.flags and "PENSTOCK_STATIC" not in os.environ:
        flags += ["--static", static]
    # The directory of manage.py, which Python searches first, where that is not the current one.
    elsewhere = sys.path[0] and os.path.realpath(sys.path[0]) != os.path.realpath(os.getcwd())
    given = "pythonpath" in typed.flags or "PENSTOCK_PYTHONPATH" in os.environ
    if elsewhere and not given:
        flags += ["--pythonpath", os.path.abspath(sys.path[0])]
    return flags
