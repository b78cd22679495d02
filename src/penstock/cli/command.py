"""The ``penstock`` command: from the command line to a running server.

Modules that only a later step needs are imported there: ``penstock --version`` must be fast.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.errors import ListenError, PenstockError, SettingsError
from penstock.system.standard_streams import flush_all, is_terminal, print_error, print_out, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.cli.arguments import CommandLine
    from penstock.config.settings import Settings
    from penstock.supervisor.generation import Launch
    from penstock.supervisor.upgrade import Predecessor

_USAGE_STATUS = 2
_INTERRUPTED_STATUS = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. docs/exit-statuses.md lists the statuses.

    ``argv`` are the arguments after the command's name; by default those of the process.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except PenstockError as error:
        print_error(getattr(error, "traceback", ""))
        say("error", error)
        return error.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED_STATUS
    finally:
        flush_all()


def _run(arguments: Sequence[str]) -> int:
    from penstock.cli.arguments import parse_command_line

    typed = parse_command_line(arguments)
    if typed.help_all:
        from penstock.cli.help_page import build_parser

        print_out(build_parser().format_help())
        return 0
    if typed.help:
        from penstock.cli.short_help import short_help

        print_out(short_help())
        return 0
    if typed.completion is not None:
        from penstock.cli.completion import script

        print_out(script(typed.completion))
        return 0
    if typed.version:
        print_out(_version_text())
        return 0

    # Imported before the application's directory is put first on the path, because its modules
    # may have the names of modules of the standard library.
    from penstock.supervisor.generation import Launch
    from penstock.supervisor.upgrade import find_predecessor
    from penstock.system.descriptors import note_inherited
    from penstock.worker.main import leave_for_certain

    note_inherited()
    predecessor = find_predecessor()
    environ = dict(os.environ)
    directory = _current_directory(environ)

    settings = _read_settings(
        typed, environ, directory, predecessor is not None and predecessor.has_user
    )

    def read_settings() -> Settings:
        return _read_settings(typed, environ, directory, settings.has_user, may_wait=False)

    application = typed.application or settings.application
    if application is None:
        application = _discovered(environ, settings)
    if application is None:
        return _USAGE_STATUS
    try:
        if typed.check:
            _prepare_process(settings)
            status = _check(application, settings)
            leave_for_certain(status)  # the application's import may have started threads
            return status
        if settings.supervisor:
            launch = Launch(
                directory, environ, application, settings, read_settings, _prepare_process
            )
            return _supervise(launch, predecessor)
        _prepare_process(settings)
        return _serve(application, settings)
    except PenstockError as error:
        # No log is open that could have shown the warnings, and one of them may be the reason.
        for warning in settings.warnings:
            say("warning", warning.render())
        leave_for_certain(error.exit_status)
        if isinstance(error, ListenError):
            raise _with_source(error, settings) from None
        raise
    except KeyboardInterrupt:
        leave_for_certain(_INTERRUPTED_STATUS)
        raise


def _with_source(error: ListenError, settings: Settings) -> ListenError:
    """Return the error about an address with what sets it, where that is not the flag."""
    source = settings.source_of("bind")
    if source in ("default", "--bind"):
        return error
    return ListenError(str(error).replace("(setting: --bind)", f"(setting: bind, from {source})"))


def _read_settings(
    typed: CommandLine,
    environ: dict[str, str],
    directory: str,
    has_user: bool,
    *,
    may_wait: bool = True,
) -> Settings:
    """Read the settings, and change to the directory that they name.

    ``has_user`` is True if the server that runs has another user for its workers. It may not wait.
    """
    from dataclasses import replace

    from penstock import messages
    from penstock.cli.settings import load_settings
    from penstock.config.checks import (
        bad_place,
        check_places,
        chosen_transport,
        with_absolute_paths,
    )
    from penstock.telemetry.access_log_format import compile_format, unknown_atoms

    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    settings = load_settings(
        typed.flags,
        environ,
        directory,
        typed.config_file,
        typed.uwsgi_file,
        gunicorn_flags=typed.gunicorn,
        on_terminal=on_terminal,
        has_user=has_user,
    )
    try:
        os.chdir(os.path.join(directory, settings.chdir))
    except OSError as error:
        raise bad_place(settings, "chdir", settings.chdir, error.strerror) from None
    settings = with_absolute_paths(_with_warnings(settings))
    # Before a slow import.
    compile_format(settings.access_logformat)
    if atoms := unknown_atoms(settings.access_logformat):
        notice = messages.UNKNOWN_ATOMS.notice(
            source=settings.source_of("access_logformat"), atoms=", ".join(atoms)
        )
        settings = replace(settings, warnings=(*settings.warnings, notice))
    check_places(settings, may_wait=may_wait)
    if settings.log_syslog:
        from penstock.telemetry.syslog import look_up

        look_up(settings, may_wait=may_wait)
    chosen_transport(settings)
    return settings


def _discovered(environ: Mapping[str, str], settings: Settings) -> str | None:
    """Return the application of the project in the current directory, and say what was found."""
    from penstock.app.discovery import LOOKED_FOR, discover
    from penstock.cli.arguments import USAGE

    usage = f"Provide a WSGI application object as module:callable\nusage: {USAGE}\n"
    if settings.has_user and os.geteuid() == 0:
        # It reads nothing that belongs to the workers' user.
        print_error(f"{usage}As root with --user the command looks for none.\n")
        return None
    here = os.getcwd()
    found = discover(here, environ)
    if found.only is not None:
        spec, by = found.only
        print_error(f"penstock: no application was named: {by} has {spec}\n")
        return spec
    print_error(usage)
    if not found.candidates:
        looked_for = "".join(f"  {line}\n" for line in LOOKED_FOR)
        print_error(f"{here} has none of these:\n{looked_for}")
    if found.suggestions:
        print_error("Other files have one:\n")
    for spec, by in (*found.candidates, *found.suggestions):
        print_error(f"  penstock {spec}  ({by})\n")
    return None


def _supervise(launch: Launch, predecessor: Predecessor | None) -> int:
    from dataclasses import replace

    from penstock.app.loading import parse_spec
    from penstock.config.identity import identity_of
    from penstock.listeners import addresses_of, bind_listeners, close_all
    from penstock.supervisor.supervisor import Supervisor

    settings = launch.settings
    # Root reads nothing that belongs to the workers' user.
    parse_spec(launch.application, may_look=not settings.has_user or os.geteuid() != 0)
    identity = identity_of(settings)
    if identity is not None and not identity.is_root and os.geteuid() == 0:
        settings = _with_trusted_path(settings)
        launch = replace(launch, settings=settings)
    if settings.umask is not None:
        os.umask(settings.umask)  # unix sockets have their modes from it
    # Bound first, so that a port in use is reported before a slow import. Listened on last, so
    # that no client is accepted before an application can answer it: a client that comes too
    # early gets a refused connection, and tries elsewhere or again.
    inherited = predecessor.listeners if predecessor is not None else []
    listeners = bind_listeners(addresses_of(settings), inherited, identity)
    if predecessor is None and settings.error_logfile == "-" and is_terminal(2):
        print_error(f"penstock: loading {launch.application}\n")
    try:
        return Supervisor(launch, listeners, predecessor).run()
    finally:
        close_all(listeners)


def _serve(spec: str, settings: Settings) -> int:
    """Serve in this process, without a supervisor."""
    from penstock.app.loading import load_application, parse_spec
    from penstock.listeners import (
        addresses_of,
        bind_listeners,
        close_all,
        kept_from_children,
    )
    from penstock.system.signals import stop_timers
    from penstock.telemetry.log_config import prepare_loggers
    from penstock.worker.main import serve_until_stopped
    from penstock.worker.metric_files import remove_old_metric_files, set_up_metric_files

    parse_spec(spec)
    prepare_loggers(settings.log_level.upper())
    # Registered before the application registers functions, this runs after them.
    atexit.register(stop_timers)
    listeners = bind_listeners(addresses_of(settings))

    def leave(_number: int, _frame: object) -> None:
        close_all(listeners)
        os._exit(0)  # the import may be doing anything, and no connection was accepted yet

    # The kernel ignores a signal to the first process of a container that has no handler for it.
    signal.signal(signal.SIGTERM, leave)
    try:
        remove_old_metric_files(settings, None)
        set_up_metric_files(settings)
        with kept_from_children(listeners):
            application = load_application(spec)
        for listener in listeners:
            listener.listen(settings.backlog)
        return serve_until_stopped(
            application, settings, listeners, spec, own_process=True, loading_handler=leave
        )
    finally:
        close_all(listeners)


def _check(spec: str, settings: Settings) -> int:
    """Load all that a start loads, but bind no address: a server may be running on it."""
    from penstock.app.loading import load_application
    from penstock.config.budgets import budgets, facts, lowering_notice
    from penstock.config.checks import check_journal, chosen_transport, has_tls
    from penstock.config.identity import identity_of
    from penstock.control.server import check_services
    from penstock.edge.certificate_files import read_material
    from penstock.listeners import addresses_of, check_listeners
    from penstock.supervisor.logs import check_logs
    from penstock.system.pid_file import PidFile
    from penstock.system.privileges import become
    from penstock.telemetry.log_config import check_file
    from penstock.worker.child import import_for

    addresses = addresses_of(settings)
    transport = chosen_transport(settings)
    if has_tls(settings):
        read_material(settings, ())
    check_journal(settings)
    identity = identity_of(settings)
    check_listeners(addresses, identity)
    if settings.pid is not None:
        PidFile(settings.pid, settings.source_of("pid"), identity).check()
    notices = check_services(settings) if settings.supervisor else []
    opened_by = check_logs(settings, identity)
    check_file(settings)
    if identity is not None:  # root imports no application
        import_for(settings)
        become(identity, setuid_programs=settings.allow_setuid_programs)
    load_application(spec)
    computed = budgets(settings, facts(settings))
    heading = f"{spec} can be served on the {transport} transport with these settings:"
    print_out("\n".join([heading, *_shown_settings(settings, computed.reasons, opened_by), ""]))
    lowered = lowering_notice(settings, computed)
    for warning in (*settings.warnings, *notices, *([] if lowered is None else [lowered])):
        say("warning", warning.render())
    return 0


def _shown_settings(
    settings: Settings, reasons: Sequence[tuple[str, object, str]], opened_by: Mapping[str, str]
) -> list[str]:
    """Return the lines of ``--check`` about all settings.

    ``reasons`` are those of the budgets, and ``opened_by`` says who opens each log.
    """
    from penstock.config.budgets import PER_CLIENT
    from penstock.config.settings import OPTIONS

    lines = [f"  (read from {', '.join(settings.files) or 'no file'})"]
    shown = {name: option.show(getattr(settings, name)) for name, option in OPTIONS.items()}
    left = max(map(len, shown))
    width = max(len(value) for value in shown.values() if len(value) < 40)
    for name, value in shown.items():
        lines.append(f"  {name:<{left}} = {value:<{width}}  ({settings.source_of(name)})")
    lines.append("budgets of a worker, and max_spool for all of them:")
    lines += [f"  {name:<{left}} = {value}: {because}" for name, value, because in reasons]
    lines.append("what one client may take:")
    for name in PER_CLIENT:
        source = settings.source_of(name)
        because = OPTIONS[name].reason if source == "default" else f"from {source}"
        lines.append(f"  {name:<{left}} = {shown[name]}: {because}")
    if opened_by:
        lines.append("who opens the logs:")
        lines += [f"  {name:<{left}} = {user}" for name, user in opened_by.items()]
    return [*lines, *settings.notes]


def _prepare_process(settings: Settings) -> None:
    """Set the search path, the variables and the umask of the process as the settings say."""
    from penstock.config.sources import SYSTEMD_VARIABLES

    if "LISTEN_FDS" in settings.source_of("bind"):
        for variable in SYSTEMD_VARIABLES:
            os.environ.pop(variable, None)
    # gunicorn's order: the directories of pythonpath, the current one, all others.
    wanted = [*map(os.path.abspath, settings.pythonpath), os.getcwd()]
    sys.path[:] = [*wanted, *(entry for entry in sys.path if entry not in (*wanted, ""))]
    for name, value in settings.variables.items():
        os.environ.setdefault(name, value)
    for assignment in settings.env:
        name, _, value = assignment.partition("=")
        os.environ[name] = value
    if settings.umask is not None:
        os.umask(settings.umask)


def _with_warnings(settings: Settings) -> Settings:
    """Return the settings with a warning for each directory of ``pythonpath`` that is missing."""
    from dataclasses import replace

    from penstock import messages

    source = settings.source_of("pythonpath")
    missing = [
        messages.PYTHONPATH_MISSING.notice(path=path, source=source)
        for path in settings.pythonpath
        if not os.path.exists(path)
    ]
    return replace(settings, warnings=(*settings.warnings, *missing))


def _with_trusted_path(settings: Settings) -> Settings:
    """Keep root from importing what the workers' user can change.

    The current directory leaves the search path of this process; a worker puts it there again. For
    each other directory the settings get a warning: the server itself may be installed there.
    """
    from dataclasses import replace

    from penstock import messages
    from penstock.system.paths import not_roots_alone

    here = os.getcwd()
    found = []
    for entry in list(sys.path):
        try:
            reason = not_roots_alone(os.path.abspath(entry))
        except OSError:
            continue  # it does not exist
        if reason and os.path.abspath(entry) == here:
            sys.path.remove(entry)
        elif reason:
            found.append(messages.CODE_NOT_ROOTS.notice(path=entry, reason=reason))
    return replace(settings, warnings=(*settings.warnings, *found))


def _current_directory(environ: Mapping[str, str]) -> str:
    """Return the current directory as the shell names it.

    Where that is a symbolic link to a release, a reload and an upgrade follow it to the next one.
    """
    try:
        directory = os.getcwd()
    except OSError as error:
        raise SettingsError(f"there is no current directory: {error.strerror}") from None
    named = environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, directory):
            return named
    return directory


def _version_text() -> str:
    from penstock.config.checks import native_built

    version = ".".join(map(str, sys.version_info[:3]))
    transport = "native" if native_built() else "python; native not built"
    return f"penstock {__version__}\n{sys.implementation.name} {version}\ntransport: {transport}\n"
