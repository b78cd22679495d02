"""The process that serves: its start-up checks, its control, and its exit."""

from __future__ import annotations

import atexit
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

from penstock import __version__, messages
from penstock.config.budgets import (
    FEW_CONNECTIONS,
    budgets,
    connections_that_fit,
    descriptors_beside,
    facts,
    least_body_memory,
    lowering_notice,
    possible_descriptors,
)
from penstock.config.checks import chosen_transport, has_tls, native_built, what_native_lacks
from penstock.config.settings import OPTIONS
from penstock.system.memory import keep_what_is_loaded
from penstock.system.signals import Handler, Signals
from penstock.system.standard_streams import flush_all
from penstock.system.temporary_files import temporary_file
from penstock.telemetry.error_log import process_logger
from penstock.telemetry.scoreboard import READY
from penstock.telemetry.terminal import NOT_ON_TERMINAL, ON_TERMINAL
from penstock.worker.worker import Worker

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.config.settings import Settings
    from penstock.listeners import Listener

RESERVE_SECONDS = 2.0
"""How much of the graceful timeout is kept for what follows the drain: closing the connections,
writing out the logs, and the application's threads and exit handlers."""

LEAVE_SECONDS = 1.0
"""How long the application's own threads and exit handlers may keep the process at least: where
less is left of the graceful timeout, and where the server stops at once."""

EXIT_MARGIN_SECONDS = 0.3
"""How long before the end of the graceful timeout the process ends, so that a process manager that
kills after exactly this time finds no process."""

COME_BACK_SECONDS = 0.2
"""How long the main thread may take to come back from its last call when the worker has stopped."""

MOST_RAISED = 100
"""How often the handlers of an application's signals may raise while the main thread leaves its
loop: often enough for a timer, and no endless loop where something else is wrong."""

STOPPED = 0
"""Exit status: the server stopped as it was told, and cut nothing off."""

CUT_OFF = 1
"""Exit status: the server stopped as it was told, but had to cut requests in progress off."""

STOP_GRACEFULLY = frozenset({signal.SIGTERM, signal.SIGHUP})
STOP_AT_ONCE = frozenset({signal.SIGINT, signal.SIGQUIT})
REOPEN_LOGS = signal.SIGUSR1
WITHOUT_MEANING = frozenset({signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that mean something to a server with several processes, as in gunicorn. By default the
first would end this process, and the other two would suspend it."""
HANDLED = (*STOP_GRACEFULLY, *STOP_AT_ONCE, REOPEN_LOGS, *WITHOUT_MEANING)


def serve_until_stopped(
    application: WSGIApplication,
    settings: Settings,
    listeners: Sequence[Listener],
    name: str,
    *,
    own_process: bool = False,
    loading_handler: Handler | None = None,
) -> int:
    """Serve in the main thread's process until a signal; return the exit status.

    ``name`` is what the start-up line calls the application; ``loading_handler`` is the server's
    own handler for SIGTERM while the application was loaded. Afterwards the process is as it was,
    unless it is the server's own: then nothing may follow but its end, which is certain to come.
    Raises `SettingsError` where a log cannot be opened, `ValueError` outside of the main thread.
    """
    with ExitStack() as undo:
        worker = Worker(settings, listeners, process_logger())
        undo.callback(worker.error_log.close)
        if own_process:
            worker.configure_logging()
        # Only now: handlers that the application set while it was imported would keep the server
        # from stopping.
        signals = Signals(HANDLED, stop=STOP_GRACEFULLY, not_of_application=loading_handler)
        undo.callback(signals.restore)
        undo.callback(_limit_files, *resource.getrlimit(resource.RLIMIT_NOFILE))
        if own_process:
            # Handlers and log stay to the end: signals may still come, and threads that were cut
            # off may log something.
            undo.pop_all()
            worker.choose_access_logger()
            keep_what_is_loaded()
            worker.manage_garbage()

        def control() -> int:
            tell_serving(settings, worker.logger, listeners, name)
            received = None
            while received is None:
                received = told_to_stop(worker, signals.wait())
            graceful = received in STOP_GRACEFULLY
            return shut_down(
                worker, graceful=graceful, interrupted=signals.wait, own_process=own_process
            )

        tell_settings(settings, worker.logger)
        worker.start(application, lent=settings.threads == 1)
        status = serve_under_control(worker, control, own_process=own_process)
        if own_process and not worker.join(0):
            # A thread is still in the application. Before Python 3.14 the interpreter unwinds the
            # stacks of such threads when it ends, and Rust aborts a process whose frames are
            # unwound.
            end_process(status)
        return status


def serve_under_control(
    worker: Worker,
    control: Callable[[], int],
    *,
    own_process: bool,
    last: Callable[[], None] = lambda: None,
) -> int:
    """Serve until ``control`` returns the exit status; return that.

    For the main thread. With one thread the main thread serves itself, so that the application
    finds there what it set up when it was imported. ``control`` has a thread of its own in any
    case: what it waits for arrives also while the main thread is in a call, or in a signal handler
    of the application's. ``last`` is called in the end, by the main thread. Where that does not
    come back, and the process is the server's own, the thread of ``control`` calls ``last``, and
    ends the process.
    """
    status = CUT_OFF
    failure: BaseException | None = None
    controlled = threading.Event()  # both are final
    claim = threading.Lock()  # for the thread that does what comes last

    def run() -> None:
        nonlocal status, failure
        try:
            status = control()
        except BaseException as error:
            failure = error
        controlled.set()
        if failure is not None:
            worker.close()  # a defect of ours: the main thread is to come back
        if own_process and not returned.wait(COME_BACK_SECONDS) and claim.acquire(blocking=False):
            end_process(status, last)

    returned = threading.Event()
    thread = threading.Thread(target=run, name="penstock-control", daemon=True)
    thread.start()
    if worker.settings.threads == 1:
        _serve_in_main_thread(worker, own_process=own_process)
    controlled.wait()
    if own_process and not claim.acquire(blocking=False):
        threading.Event().wait()  # it came back too late: the process ends
    returned.set()
    thread.join()
    last()
    if failure is not None:
        raise failure
    return status


def _serve_in_main_thread(worker: Worker, *, own_process: bool) -> None:
    """Serve until the worker stops, whatever the application's signal handlers raise meanwhile.

    In a process of the server's own, the application's timers are switched off after that: what
    their handlers raise would end the process before its exit handlers have run.
    """
    for _ in range(MOST_RAISED):
        try:
            worker.serve()
            if own_process:
                for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                    signal.setitimer(timer, 0)
            return
        except BaseException:  # at this very moment
            continue


def end_process(status: int, last: Callable[[], None] = lambda: None) -> NoReturn:
    """End the process as the interpreter would, whatever its main thread is in."""
    try:
        last()
        run_exit_handlers()
    finally:
        flush_all()
        os._exit(status)


def run_exit_handlers() -> None:
    """Run what the interpreter runs when it ends by itself.

    `leave_for_certain` limits how long that may take.
    """
    main = threading.main_thread()
    if main is not threading.current_thread():
        # Before Python 3.13 the main thread is among the threads that are waited for below. It is
        # stuck: the exit handlers would never run.
        lock = getattr(main, "_tstate_lock", None)
        getattr(threading, "_shutdown_locks", set()).discard(lock)
    # Waits for threads that are no daemons, and for pools of them.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def tell_settings(settings: Settings, logger: logging.Logger) -> None:
    """Log the settings that were given, and what of them the process cannot fulfil."""
    if settings.files:
        logger.info("settings read from %s", ", ".join(settings.files), extra=NOT_ON_TERMINAL)
    for note in settings.notes:
        logger.info("%s", note)
    for warning in settings.warnings:
        warning.log(logger)
    for option in OPTIONS.values():
        if (source := settings.source_of(option.name)) != "default":
            shown = option.show(getattr(settings, option.name))
            logger.debug("setting %s = %s (from %s)", option.name, shown, source)
    if settings.tls_key_log is not None and has_tls(settings):
        messages.TLS_KEYS_LOGGED.log(
            logger, path=settings.tls_key_log, source=settings.source_of("tls_key_log")
        )
    check_room_for_files(settings, logger)
    check_temp_dir(settings, logger)
    check_spool(settings, logger)


def tell_serving(
    settings: Settings,
    logger: logging.Logger,
    listeners: Sequence[Listener],
    name: str,
    workers: str = "",
    because: str = "",
    *,
    reloaded: str = "",
) -> None:
    """Log the start-up line; ``workers`` is their number as text, ``because`` the reason for it.

    ``reloaded`` is what a terminal shows in its place after a reload.
    """
    count = settings.threads
    extra = NOT_ON_TERMINAL if reloaded else None
    source = settings.source_of("threads")
    if source == "default" and count > 1:
        logger.info(
            "%d threads per worker: the application must be thread-safe (--threads 1 if not)",
            count,
            extra=extra,
        )
    elif source.startswith("gunicorn's default"):
        logger.info(
            "1 thread per worker (%s): --threads 4 answers four requests at a time",
            source,
            extra=extra,
        )
    if settings.transport == "auto" and native_built() and (lacks := what_native_lacks(settings)):
        logger.info("the Python transport serves: the native one %s", lacks, extra=extra)
    logger.info(
        "penstock %s serving %s on %s (%s transport, %s%d %s%s)",
        __version__,
        name,
        ", ".join(listener.shown_name for listener in listeners),
        chosen_transport(settings),
        workers,
        count,
        "thread" if count == 1 else "threads",
        f"; number of workers: {because}" if because else "",
        extra={ON_TERMINAL: reloaded or _start_block(settings, listeners, name, workers)},
    )


def _start_block(settings: Settings, listeners: Sequence[Listener], name: str, workers: str) -> str:
    """Return what a terminal shows when the server begins to serve."""
    count = settings.threads
    return "\n".join(
        [
            f"penstock {__version__} serving {name}",
            *(f"  {listener.shown_name}" for listener in listeners),
            f"  {workers}{count} {'thread' if count == 1 else 'threads'}, "
            f"{chosen_transport(settings)} transport. Ctrl-C stops.",
        ]
    )


def told_to_stop(worker: Worker, received: int | None) -> int | None:
    """Act on a signal that does not stop the server, and return None; else return the signal."""
    if received is None:
        return None
    name = signal.Signals(received).name
    worker.logger.debug("received %s", name)
    if received == REOPEN_LOGS:
        worker.reopen_logs()
        return None
    if received in WITHOUT_MEANING:
        messages.SIGNAL_WITHOUT_MEANING.log(worker.logger, signal=name)
        return None
    return received


def shut_down(
    worker: Worker,
    *,
    graceful: bool,
    interrupted: Callable[[float], int | None],
    own_process: bool,
    hand_over: bool = False,
    within: float | None = None,
) -> int:
    """End a worker, and the process if it is its own; return the exit status.

    ``interrupted`` waits for another signal. With ``hand_over`` other processes accept on the
    same sockets, and the accept queues are theirs. ``within`` is how many seconds all of it may
    take (None for `graceful_timeout`): the delay, the drain, and the application's threads and exit
    handlers.
    """
    logger, settings = worker.logger, worker.settings
    # A supervisor says this once for all of its workers.
    tell = logger.info if worker.slot.scoreboard.is_private else logger.debug
    limit = settings.graceful_timeout if within is None else within
    end = time.monotonic() + limit
    drain_end = end - min(RESERVE_SECONDS, limit / 4)
    drained = False
    if graceful:
        # 1. Turn readiness negative, and wait until load balancers have noticed. A supervisor has
        #    done that already.
        worker.slot.words[READY] = 0
        if worker.slot.scoreboard.is_private:
            graceful = _wait_unready(worker, interrupted, drain_end)
    if graceful:
        # 2. Accept the connections in the accept queues, then no more. Idle connections have a
        #    moment for requests that are under way, and each response says that it is the last.
        left = round(end - time.monotonic(), 1)
        tell("stopping: finishing the requests in progress, for up to %g s", left)
        worker.drain(hand_over=hand_over)
        # 3. Wait until nothing is in progress, for as long as that may take, or until a second
        #    signal says that it need not.
        drained, graceful = _wait_drained(worker, interrupted, drain_end)
    # 4. Cut off what is left. A client to which nothing was sent gets 504.
    if not drained:
        stuck = worker.only_stuck_left()
        in_progress = worker.abort_all(_why_cut_off(stuck, graceful))
        if in_progress:
            reason = "told to stop at once"
            if stuck:
                reason = "only calls that are stuck were left"
            elif graceful:
                reason = (
                    f"not over within graceful_timeout, which is {settings.graceful_timeout:g} s"
                )
            messages.REQUESTS_CUT_OFF.log(logger, requests=in_progress, reason=reason)
        worker.close()
        drained = worker.join(0.2) and not in_progress
    # 5. Write out the logs, and the spans.
    last_spans = end - EXIT_MARGIN_SECONDS if graceful else time.monotonic() + LEAVE_SECONDS
    worker.close_logs(last_spans)
    tell("stopped")
    status = STOPPED if drained or not graceful else CUT_OFF
    # 6. Leave. Threads and exit handlers of the application have what is left of the time.
    if own_process:
        leave_for_certain(status, end - EXIT_MARGIN_SECONDS if graceful else 0.0)
    return status


def _why_cut_off(stuck: bool, graceful: bool) -> str:
    """Return the reason that the access log has for requests that are cut off."""
    if stuck:
        return "cut off: only calls that are stuck were left"
    if graceful:
        return "cut off: not over within the graceful timeout"
    return "cut off: the server stopped at once"


def _wait_unready(
    worker: Worker, interrupted: Callable[[float], int | None], latest: float
) -> bool:
    """Accept for the shutdown delay; return False if a second signal cut it short."""
    delay = worker.settings.shutdown_delay
    end = min(latest, time.monotonic() + delay)
    if delay:
        worker.logger.info("stopping in %g s: not ready any more (setting: shutdown_delay)", delay)
    while (remaining := end - time.monotonic()) > 0:
        if told_to_stop(worker, interrupted(remaining)) in STOP_AT_ONCE:
            worker.logger.info("stopping at once: a second signal")
            return False
    return True


def _wait_drained(
    worker: Worker, interrupted: Callable[[float], int | None], deadline: float
) -> tuple[bool, bool]:
    """Wait for the drain; return whether it is complete, and whether no signal cut it short."""
    while not (drained := worker.join(0)) and time.monotonic() < deadline:
        if worker.only_stuck_left():
            break
        received = interrupted(min(0.05, max(0.0, deadline - time.monotonic())))
        # SIGTERM once more changes nothing: wrappers and process managers send it twice.
        if told_to_stop(worker, received) in STOP_AT_ONCE:
            worker.logger.info("stopping at once: a second signal")
            return False, False
    return drained, True


def leave_for_certain(status: int, deadline: float = 0.0) -> None:
    """End the process in time, even if a thread or exit handler of the application never returns.

    They have until ``deadline``, on the monotonic clock, and `LEAVE_SECONDS` at least.
    """
    seconds = max(LEAVE_SECONDS, deadline - time.monotonic())

    def leave() -> None:
        threading.Event().wait(seconds)
        os._exit(status)

    threading.Thread(target=leave, name="penstock-leave", daemon=True).start()


def _limit_files(soft: int, hard: int) -> None:
    with suppress(OSError, ValueError):  # that it could be raised says nothing about this
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def check_room_for_files(settings: Settings, logger: logging.Logger) -> None:
    """Raise the limit on open files as far as the system allows; warn where that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = possible_descriptors()
    if soft not in (possible, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        except (OSError, ValueError):
            possible = soft
    wanted, or_lower = FEW_CONNECTIONS, ""
    if settings.max_connections != "auto":
        wanted = settings.max_connections
        or_lower = f" or lower max_connections ({wanted})"
    if isinstance(settings.descriptor_reserve, int):
        or_lower += f" or lower descriptor_reserve ({settings.descriptor_reserve})"
    room = connections_that_fit(settings, possible)
    if room < wanted or possible < wanted + descriptors_beside(settings):
        messages.OPEN_FILES_LIMIT.log(logger, limit=possible, room=room, or_lower=or_lower)


def check_spool(settings: Settings, logger: logging.Logger) -> None:
    """Warn where the room for request bodies is less than what the settings allow."""
    lowered = lowering_notice(settings, budgets(settings, facts(settings)))
    if lowered is not None:
        lowered.log(logger)


def check_temp_dir(settings: Settings, logger: logging.Logger) -> None:
    """Warn where large request bodies could not be stored. Small ones need no disk."""
    try:
        temporary_file(settings.temp_dir).close()
    except OSError as error:
        messages.NO_TEMPORARY_FILES.log(
            logger,
            body_memory=least_body_memory(settings),
            directory=settings.temp_dir or "any of the system's directories for them",
            error=error.strerror,
        )
