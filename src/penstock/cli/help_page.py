"""The parser of `argparse` from which the help page and the man page are made."""

from __future__ import annotations

import argparse

from penstock.cli.arguments import USAGE
from penstock.cli.flags import Flag, all_flags
from penstock.config.options import grouped

_HELP_COLUMNS = 79
_EPILOG = (
    "Each setting is also a variable (PENSTOCK_MAX_BODY for --max-body) and a key of "
    "penstock.toml or of [tool.penstock] in pyproject.toml (max_body). A flag overrides the "
    "variable, and the variable overrides the file. Units of sizes: B, kB, MB, GB, TB, KiB, MiB, "
    "GiB, TiB; of times: ms, s, m, h."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with a group for each section of the settings."""
    parser = argparse.ArgumentParser(
        prog="penstock",
        usage=USAGE,
        description="Serve a WSGI application over HTTP.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=28, width=_HELP_COLUMNS
        ),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "application",
        nargs="?",
        default=None,
        metavar="module:callable",
        help="the application: module, module:callable, module:object.attribute or "
        "module:factory('argument', key=1)",
    )
    for section, members in grouped(all_flags(), lambda flag: flag.section).items():
        group = parser.add_argument_group(section) if section else parser
        for flag in members:
            _add(group, flag)
    return parser


def _add(group: argparse._ActionsContainer, flag: Flag) -> None:
    help_text = argparse.SUPPRESS if flag.help is None else flag.help.replace("%", "%%")
    if flag.takes == "switch":
        group.add_argument(
            *flag.names,
            dest=flag.destination,
            action="store_const",
            const=flag.const,
            help=help_text,
        )
        return
    group.add_argument(
        *flag.names,
        dest=flag.destination,
        action="append" if flag.takes == "list" else "store",
        nargs="?" if flag.takes == "maybe" else None,
        const=flag.const if flag.takes == "maybe" else None,
        metavar=flag.metavar,
        choices=flag.choices or None,
        help=help_text,
    )
