"""``flask --app shop penstock``: the command that Flask's own command line finds here."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
from flask.cli import ScriptInfo, pass_script_info
from flask.helpers import get_debug_flag

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_SPEC = "penstock.contrib.flask:application()"


def application() -> WSGIApplication:
    """Return the application that ``FLASK_APP`` names, in every form that Flask knows."""
    return ScriptInfo(app_import_path=os.environ.get("FLASK_APP")).load_app()


@click.command(
    "penstock",
    short_help="Serve the application with Penstock.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@pass_script_info
def command(info: ScriptInfo, arguments: tuple[str, ...]) -> None:
    """Replace this process by ``penstock``, with the same arguments.

    The workers load the application, and a reload finds its new code: nothing of it is loaded here.
    ``flask --debug`` adds ``--reload``.
    """
    if info.app_import_path:
        os.environ["FLASK_APP"] = info.app_import_path
    if get_debug_flag() and "--no-reload" not in arguments:
        arguments = ("--reload", *arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "penstock", _SPEC, *arguments])
