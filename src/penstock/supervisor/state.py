"""The supervisor's state, and the table of what each event means in each state.

`TABLE` has one row for each event and one column for each state. A cell names the method of
`Supervisor` that acts on the event, or `IGNORE`, or says with `Refuse` why a command is refused.
The supervisor looks every event up here, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.errors import PenstockError
from penstock.records import dataclass
from penstock.supervisor.events import (
    BootFailed,
    Interrupted,
    NoWorkersWanted,
    PredecessorLeft,
    QuitWanted,
    RecycleWanted,
    ReloadWanted,
    ReopenWanted,
    ScaleWanted,
    StopWanted,
    SuccessorFailed,
    SuccessorServes,
    Tick,
    UpgradeWanted,
    WorkerCrashed,
    WorkerLeft,
    WorkerReady,
    WorkerReported,
    WorkerServing,
)
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.supervisor.reload import Preparation, ReloadInProgress
    from penstock.supervisor.upgrade import Successor

# -- states ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Starting:
    """The first generation boots; nothing has been served."""

    name: ClassVar[str] = "starting"
    waits_for_change: bool = False
    """The application could not be loaded: the start is tried again when a file changes."""


@dataclass(frozen=True)
class Serving:
    """One generation serves."""

    name: ClassVar[str] = "serving"


@dataclass(frozen=True)
class Preparing:
    """A reload has read the settings, and looks up the addresses and directories in them."""

    name: ClassVar[str] = "reloading"
    preparation: Preparation


@dataclass(frozen=True)
class Reloading:
    """A new generation boots beside the one that serves."""

    name: ClassVar[str] = "reloading"
    reload: ReloadInProgress


@dataclass(frozen=True)
class Upgrading:
    """A new supervisor boots beside this one, which serves."""

    name: ClassVar[str] = "upgrading"
    successor: Successor


@dataclass(frozen=True)
class Delaying:
    """A stop was asked for: the server is not ready any more, and serves for `shutdown_delay`."""

    name: ClassVar[str] = "stopping"
    until: float
    end_by: float
    """When the last worker has to have ended: the graceful timeout from the first signal."""


@dataclass(frozen=True)
class Draining:
    """The workers finish the requests in progress, and end."""

    name: ClassVar[str] = "stopping"


@dataclass(frozen=True)
class HandingOver:
    """A new supervisor serves; the workers of this one finish, and end."""

    name: ClassVar[str] = "stopping"
    told_to_stop: bool = False


@dataclass(frozen=True)
class Stopping:
    """The workers abort the requests in progress, and end."""

    name: ClassVar[str] = "stopping"


@dataclass(frozen=True)
class Down:
    """No worker is left: the supervisor ends."""

    name: ClassVar[str] = "stopping"


State = (
    Starting
    | Serving
    | Preparing
    | Reloading
    | Upgrading
    | Delaying
    | Draining
    | HandingOver
    | Stopping
    | Down
)

# -- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refuse:
    """The command is refused: ``text`` is the reason. ``{state}`` is the name of the state."""

    text: str


IGNORE = "ignore"
"""The event means nothing in this state."""

STATES: tuple[type[Any], ...] = (
    Starting, Serving, Preparing, Reloading, Upgrading,
    Delaying, Draining, HandingOver, Stopping, Down,
)  # fmt: skip

_STARTING = Refuse("the server is still starting")
_STOPPING = Refuse("the server is stopping")
_NO_UPGRADE = Refuse("the server is {state}: no upgrade now")
_NO_SCALE = Refuse("the server is {state}: the number of workers stays")
_NO_RECYCLE = Refuse("the server is {state}: no worker is replaced by hand meanwhile")
_UPGRADING = Refuse("an upgrade is on its way already")
_NEW_CODE = Refuse("an upgrade is on its way, which reads settings and code anew")

Reaction = str | Refuse


def _row(*cells: Reaction) -> dict[type[Any], Reaction]:
    return dict(zip(STATES, (*cells, IGNORE), strict=True))  # nothing happens once it is down


# fmt: off
TABLE: Mapping[type[Any], Mapping[type[Any], Reaction]] = {
    #                     Starting           Serving            Preparing
    #                     Reloading          Upgrading          Delaying
    #                     Draining           HandingOver        Stopping
    ReloadWanted:    _row("retry_start",     "begin_reload",    "reload_again",
                          "reload_again",    _NEW_CODE,         _STOPPING,
                          _STOPPING,         _STOPPING,         _STOPPING),
    UpgradeWanted:   _row(_NO_UPGRADE,       "begin_upgrade",   _NO_UPGRADE,
                          _NO_UPGRADE,       _UPGRADING,        _NO_UPGRADE,
                          _NO_UPGRADE,       _NO_UPGRADE,       _NO_UPGRADE),
    ScaleWanted:     _row(_NO_SCALE,         "scale",           _NO_SCALE,
                          _NO_SCALE,         _NO_SCALE,          _NO_SCALE,
                          _NO_SCALE,         _NO_SCALE,         _NO_SCALE),
    RecycleWanted:   _row(_NO_RECYCLE,       "recycle",         _NO_RECYCLE,
                          _NO_RECYCLE,       "recycle",         _NO_RECYCLE,
                          _NO_RECYCLE,       _NO_RECYCLE,       _NO_RECYCLE),
    NoWorkersWanted: _row(_STARTING,         "end_workers",     "end_workers",
                          "end_workers",     "end_workers",     IGNORE,
                          IGNORE,            IGNORE,            IGNORE),
    ReopenWanted:    _row("reopen_logs",     "reopen_logs",     "reopen_logs",
                          "reopen_logs",     "reopen_logs",     "reopen_logs",
                          "reopen_logs",     "reopen_logs",     "reopen_logs"),
    StopWanted:      _row("stop_start",      "begin_stop",      "begin_stop",
                          "begin_stop",      "begin_stop",      "note_stop",
                          "note_stop",       "stop_again",      "stop_at_once"),
    QuitWanted:      _row("stop_at_once",    "stop_at_once",    "stop_at_once",
                          "stop_at_once",    "stop_at_once",    "stop_at_once",
                          "stop_at_once",    "stop_at_once",    "stop_at_once"),
    Interrupted:     _row("interrupt_start", "stop_at_once",    "stop_at_once",
                          "stop_at_once",    "stop_at_once",    "stop_at_once",
                          "stop_at_once",    "stop_at_once",    "stop_at_once"),
    WorkerReady:     _row("start_ready",     "let_serve",       "let_serve",
                          "reload_ready",    "let_serve",       "let_serve",
                          IGNORE,            IGNORE,            IGNORE),
    WorkerServing:   _row("start_serving",   "end_replaced",    "end_replaced",
                          "reload_serving",  "end_replaced",    "serve_unready",
                          "serve_unready",   "serve_unready",   "serve_unready"),
    BootFailed:      _row("start_failed",    "report_failure",  "report_failure",
                          "reload_failed",   "report_failure",  "report_failure",
                          IGNORE,            IGNORE,            IGNORE),
    WorkerCrashed:   _row("report_crash",    "report_crash",    "report_crash",
                          "report_crash",    "report_crash",    "note_cut_off",
                          "note_cut_off",    "note_cut_off",    "note_cut_off"),
    WorkerLeft:      _row("forget_left",     "forget_left",     "forget_left",
                          "forget_left",     "forget_left",     "note_left",
                          "note_left",       "note_left",       "note_left"),
    WorkerReported:  _row("take_report",     "take_report",     "take_report",
                          "take_report",     "take_report",     "take_report",
                          "take_report",     "take_report",     "take_report"),
    SuccessorServes: _row(IGNORE,            IGNORE,            IGNORE,
                          IGNORE,            "hand_over",       IGNORE,
                          IGNORE,            IGNORE,            IGNORE),
    SuccessorFailed: _row(IGNORE,            IGNORE,            IGNORE,
                          IGNORE,            "end_upgrade",     IGNORE,
                          IGNORE,            IGNORE,            IGNORE),
    PredecessorLeft: _row("take_pid_file",   "take_pid_file",   "take_pid_file",
                          "take_pid_file",   "take_pid_file",   "take_pid_file",
                          "take_pid_file",   "take_pid_file",   "take_pid_file"),
    Tick:            _row("tick_starting",   "tick_serving",    "tick_preparing",
                          "tick_reloading",  "tick_upgrading",  "tick_delaying",
                          "tick_ending",     "tick_ending",     "tick_ending"),
}
# fmt: on


class BootError(PenstockError):
    """The first workers could not start; reported as the same failure of a single process is."""

    def __init__(self, failure: Message) -> None:
        super().__init__(str(failure["message"]))
        self.traceback = str(failure.get("traceback", ""))
        self.exit_status = int(failure.get("status", 1))


def traceback_of(failure: Message) -> str:
    """Return what follows the log line of a failure: empty where there is no traceback."""
    traceback = failure.get("traceback")
    return f"\n{traceback}" if traceback else ""


def page() -> str:
    """Return the states and the table as a page of the documentation."""
    names = " | ".join(state.__name__ for state in STATES)
    lines = [
        "# The states of the supervisor",
        "",
        "`make docs` writes this page from `src/penstock/supervisor/state.py`.",
        "",
        "| State | In `penstockctl status` | What it means |",
        "|---|---|---|",
    ]
    lines += [
        f"| {state.__name__} | `{state.name}` | {(state.__doc__ or '').splitlines()[0]} |"
        for state in STATES
    ]
    lines += [
        "",
        "## What each event does in each state",
        "",
        "A cell names the method of `Supervisor` that acts on the event; `-` stands for nothing. A",
        "command that is refused has a number, and the reason is below. In `penstockctl` it has",
        "status 409; for a signal there is a line in the log.",
        "",
        f"| Event | {names} |",
        "|---|" + "---|" * len(STATES),
    ]
    reasons: list[str] = []
    for event, row in TABLE.items():
        cells = []
        for state in STATES:
            reaction = row[state]
            if isinstance(reaction, Refuse):
                if reaction.text not in reasons:
                    reasons.append(reaction.text)
                cells.append(f"refused ({reasons.index(reaction.text) + 1})")
            else:
                cells.append("-" if reaction == IGNORE else f"`{reaction}`")
        lines.append(f"| {event.__name__} | {' | '.join(cells)} |")
    lines += [
        "",
        *(f"{number}. {reason.format(state='…')}" for number, reason in enumerate(reasons, 1)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
