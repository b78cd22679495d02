"""The ``penstockctl`` command: show the state of a running server, or control it.

It talks to the supervisor, over the control socket: it also works when every worker is stuck.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from penstock import __version__
from penstock.config.options import nearest
from penstock.control import profile_formats
from penstock.control import tables as ctl_tables
from penstock.control.address import AUTO, OFF
from penstock.control.client import (
    PROBE_SECONDS,
    CannotReach,
    Found,
    Reply,
    Search,
    ServerLeft,
    ask,
    find_servers,
)
from penstock.control.profile_formats import COLLAPSED, SPEEDSCOPE
from penstock.errors import PenstockError
from penstock.system.standard_streams import flush_all, print_error, print_out
from penstock.telemetry.error_log import printable

DONE, FAILED, USAGE, UNREACHABLE = range(4)
"""The exit statuses: done; refused, failed or rolled back; wrong usage; no server answers."""

QUESTION_SECONDS = 30.0
"""For the answer to a question. The stacks of a worker that hangs take some seconds."""

COMMAND_SECONDS = 600.0
"""For the outcome of a command: an application boots within a minute, requests end in another."""

_MOST_SECONDS = 86400.0
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_VARIABLE = "PENSTOCK_CONTROL"
_HOW_TO_LOOK = (
    "run penstockctl as the server's user, in the server's container; or name the socket with "
    "--control PATH"
)
_MOST_LISTED = 20

_EPILOG = (
    "WORKER is the number of a worker or its process id, as the table of workers has them. Exit "
    "status: 0 done, 1 refused, failed or rolled back, 2 wrong usage, or several servers, "
    "3 no server answers."
)


_INVALID = re.compile(r"invalid choice: '([^']*)'")
"""argparse's words."""


class _Usage(Exception):
    """The command line is wrong; the text says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status; ``argv`` is what follows the command's name."""
    try:
        typed = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        return _run(typed)
    except _Usage as error:
        _complain(error)
        return USAGE
    except CannotReach as error:
        _complain(error)
        return UNREACHABLE
    except PenstockError as error:  # standard output cannot be written
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        flush_all()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        wrong = _INVALID.search(message)
        known = re.findall(r"'([a-z]+)'", message[wrong.end() :]) if wrong else []
        meant = nearest(wrong[1], known) if wrong else None
        if wrong and wrong[1] == "restart":
            raise _Usage(
                "there is no command 'restart': reload takes new settings and code in, upgrade "
                "replaces the supervisor, too"
            )
        if wrong and meant is not None:
            raise _Usage(f"there is no command {wrong[1]!r}; did you mean {meant!r}?")
        raise _Usage(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. Common options may stand before or after a command."""
    common = _common(argparse.SUPPRESS)
    parser = _Parser(
        prog="penstockctl",
        description="Show the state of a running Penstock server, or control it.",
        epilog=_EPILOG,
        parents=[_common(None)],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"penstockctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=help, parents=[common], allow_abbrev=False
        )

    add("status", "Show the state of the server.")
    add("workers", "Show the workers.")
    add("requests", "Show the requests in the application.")
    add("metrics", "Show the metrics, as Prometheus reads them.")
    add("doctor", "Say what is wrong with the server by its last hour, and what to change.")
    top = add("top", "Show the rates, workers and requests of the server, again each second.")
    top.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="S", help="Seconds between two looks [1]."
    )
    add("stacks", "Show the Python stacks of one worker, or of all.").add_argument(
        "worker", nargs="?", type=_whole, metavar="WORKER"
    )
    recent = add("recent", "Show the last requests of a worker's threads.")
    recent.add_argument("worker", type=_whole, metavar="WORKER")
    recent.add_argument(
        "--query", action="store_true", help="Show queries, too: they may hold secrets."
    )
    add("slow", "Show the slowest requests of the last minutes.")
    add("failed", "Show the last requests that failed: with a status from 500 on, or cut off.")
    add("refused", "Show the last requests that the server refused, and where their fault is.")
    profile = add("profile", "Sample the Python stacks of a worker, for flame graphs.")
    profile.add_argument("worker", type=_whole, metavar="WORKER")
    profile.add_argument(
        "--seconds", type=_whole, default=10, metavar="S", help="How long, up to 300 [10]."
    )
    profile.add_argument(
        "--rate", type=_whole, default=100, metavar="N", help="Samples a second, up to 1000 [100]."
    )
    profile.add_argument(
        "--format",
        choices=(COLLAPSED, SPEEDSCOPE),
        default=COLLAPSED,
        help=f"{COLLAPSED}: a line for each stack, as flamegraph.pl reads them; {SPEEDSCOPE}: JSON "
        "for www.speedscope.app.",
    )
    profile.add_argument(
        "--idle", action="store_true", help="With the server's threads that have no request."
    )
    add(
        "import",
        "Print a penstock.toml that says what a configuration file of uWSGI says.",
    ).add_argument("file", metavar="FILE[:SECTION]")
    changing = [
        add("reload", "Replace all workers by workers with the current settings and code."),
        add("upgrade", "Replace the supervisor and all workers."),
        add("scale", "Change the number of workers to N."),
        add("recycle", "Replace a worker."),
        add("stop", "Stop the server."),
    ]
    changing[2].add_argument("workers", type=_whole, metavar="N")
    changing[3].add_argument("worker", type=_whole, metavar="WORKER")
    changing[4].add_argument("--now", action="store_true", help="Cut off the requests in progress.")
    for command in changing:
        command.add_argument(
            "--no-wait",
            dest="wait",
            action="store_false",
            help="Do not wait for the outcome.",
        )
    return parser


def _common(default: object) -> _Parser:
    parser = _Parser(add_help=False, argument_default=default)
    parser.add_argument(
        "--control",
        metavar="ADDRESS",
        help=f"The server's control socket: PATH or @NAME [{_VARIABLE}, or the one server there "
        "is].",
    )
    parser.add_argument(
        "--json", action="store_true", default=default or False, help="Print the server's own JSON."
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help=f"Seconds to wait for the answer [{QUESTION_SECONDS:g}, for the outcome of a "
        f"command {COMMAND_SECONDS:g}].",
    )
    return parser


def _whole(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number of 0 or more")
    if len(value) >= 20:
        raise argparse.ArgumentTypeError(f"{value!r} is too large")
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds up to a day")
    return seconds


# -- asking ----------------------------------------------------------------------------------------


def _run(typed: argparse.Namespace) -> int:
    command = str(typed.command)
    if command == "import":
        return _import(typed.file)
    address = typed.control or _address_from(os.environ) or _only_server()
    if command == "metrics":
        reply = ask(address, "GET", "/metrics", typed.timeout or QUESTION_SECONDS, text=True)
        return _show(reply, False, lambda _value, _width: ctl_tables.lines(reply.text))
    if command == "doctor":
        return _doctor(address, typed)
    if command == "top":
        from penstock.control import top

        return top.run(address, typed.interval, typed.timeout or QUESTION_SECONDS, typed.json)
    if command == "profile":
        return _profile(typed, address)
    if command in _SHOWN:
        target = f"/{command}"
        if getattr(typed, "worker", None) is not None:
            target += f"?worker={typed.worker}"
        if getattr(typed, "query", False):
            target += "&query=1"
        reply = ask(address, "GET", target, typed.timeout or QUESTION_SECONDS)
        return _show(reply, typed.json, _SHOWN[command])
    try:
        reply = ask(address, "POST", _target(typed), typed.timeout or COMMAND_SECONDS)
    except ServerLeft:
        if command != "stop":
            raise
        # It ended, as it was told to, before it could answer.
        message = "the server has stopped"
        value = {"message": message}
        reply = Reply(200, json.dumps(value, indent=2) + "\n", value, None)
    return _show(reply, typed.json, lambda value, width: f"{ctl_tables.text(value['message'])}\n")


def _doctor(address: str, typed: argparse.Namespace) -> int:
    from penstock.control import doctor
    from penstock.control.past import Past

    timeout = typed.timeout or QUESTION_SECONDS
    status, requests, history = (
        ask(address, "GET", path, timeout) for path in ("/status", "/requests", "/history")
    )
    for reply in (status, requests, history):
        if reply.status >= 300:
            return _show(reply, typed.json, lambda value, _width: "")
    try:
        past, calls = Past(history.value), requests.value["requests"]
        stacks: Mapping[str, str] = {}
        if doctor.wants_stacks(status.value, calls):
            stacks = ask(address, "GET", "/stacks", timeout).value.get("stacks", {})
        evidence = doctor.Evidence(past, status.value, calls, stacks)
        findings = doctor.diagnose(evidence)
        text = doctor.report(evidence, findings)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise CannotReach("the answer is not one that this version understands") from None
    if typed.json:
        print_out(json.dumps({"findings": [asdict(each) for each in findings]}, indent=2) + "\n")
    else:
        print_out(ctl_tables.lines(text))
    return DONE


def _profile(typed: argparse.Namespace, address: str) -> int:
    target = f"/profile?worker={typed.worker}&seconds={typed.seconds}&rate={typed.rate}"
    target += "&idle=1" if typed.idle else ""
    reply = ask(address, "POST", target, typed.timeout or typed.seconds + QUESTION_SECONDS)
    form = profile_formats.speedscope if typed.format == SPEEDSCOPE else profile_formats.collapsed
    status = _show(reply, typed.json, lambda value, _width: form(value))
    if status == DONE and not typed.json:
        print_error(f"penstockctl: {profile_formats.summary(reply.value)}\n")
    return status


def _import(location: str) -> int:
    from penstock.compat.uwsgi.settings_file import settings_file

    content, warnings = settings_file(location, os.environ, Path.cwd())
    for warning in warnings:
        print_error(printable(f"penstockctl: warning: {warning}") + "\n")
    print_out(content)
    return DONE


_SHOWN: dict[str, Callable[[Mapping[str, Any], int | None], str]] = {
    "status": ctl_tables.status,
    "workers": ctl_tables.workers,
    "requests": ctl_tables.requests,
    "stacks": ctl_tables.stacks,
    "recent": ctl_tables.recent,
    "slow": ctl_tables.slow,
    "failed": ctl_tables.failed,
    "refused": ctl_tables.refused,
}


def _target(typed: argparse.Namespace) -> str:
    query = [] if typed.wait else ["wait=0"]
    if typed.command == "scale":
        query.append(f"workers={typed.workers}")
    elif typed.command == "recycle":
        query.append(f"worker={typed.worker}")
    elif typed.command == "stop" and typed.now:
        query.append("now=1")
    return f"/{typed.command}" + ("?" + "&".join(query) if query else "")


def _show(reply: Reply, as_json: bool, show: Callable[[Mapping[str, Any], int | None], str]) -> int:
    failed = reply.status >= 300
    if reply.server is not None and reply.server.uid not in (0, os.geteuid()):
        # Only root gets here. What follows is what that user's process says.
        print_error(f"penstockctl: the server is that of user {reply.server.uid}\n")
    if as_json:
        print_out(reply.text)
    elif failed:
        _complain(reply.value.get("error", f"the server answered with status {reply.status}"))
    else:
        try:
            print_out(show(reply.value, _width()))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise CannotReach(
                "the answer is not one that this version understands; --json prints it as it is"
            ) from None
    return FAILED if failed else DONE


def _width() -> int | None:
    """Return the number of columns; None without a terminal: nothing is cut then."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


# -- finding ---------------------------------------------------------------------------------------


def _address_from(environ: Mapping[str, str]) -> str | None:
    """Return the address in the server's own variable, if there is one."""
    value = environ.get(_VARIABLE, "")
    return None if value.lower() in ("", AUTO, OFF) else value


def _only_server() -> str:
    search = find_servers(os.environ)
    ours = [server for server in search.servers if not server.foreign]
    if len(ours) == 1:
        return ours[0].address
    for address in search.dead[:_MOST_LISTED]:
        print_error(printable(f"  {address}  (no server listens there)") + "\n")
    for reason in search.refused[:_MOST_LISTED]:
        print_error(printable(f"  {reason}") + "\n")
    if not search.servers:
        raise CannotReach(f"no server was found in {_places(search)}; {_HOW_TO_LOOK}")
    listed = search.servers[:_MOST_LISTED]
    print_error("".join(f"  --control {_described(server)}\n" for server in listed))
    if not ours:
        raise _Usage("there are servers of other users alone: choose one of those above")
    raise _Usage(f"there are {len(search.servers)} servers: choose one of those above")


def _places(search: Search) -> str:
    *others, last = search.places
    return f"{', '.join(others)} or {last}" if others else last


def _described(server: Found) -> str:
    try:
        value = ask(server.address, "GET", "/status", PROBE_SECONDS).value
        listeners = value.get("listeners")
        bind = ", ".join(map(str, listeners)) if isinstance(listeners, list) else None
        what = f"{ctl_tables.text(value.get('application'))} on {ctl_tables.text(bind)}"
    except CannotReach:
        what = "(no answer)"
    who = f"pid {server.peer.pid}, user {server.peer.uid}, " if server.peer is not None else ""
    return f"{printable(server.address)}  {who}{what}"


def _complain(error: object) -> None:
    text = (
        str(error).replace("\r", " ").replace("\n", " ")
    )  # one line, even where it quotes several
    print_error(f"penstockctl: error: {printable(text)}\n")


if __name__ == "__main__":
    sys.exit(main())
