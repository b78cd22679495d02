"""What a worker, or the preloader, can send to the supervisor. It may run hostile code."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.worker.channel import Message

_REPORTS: Mapping[str, Mapping[str, type]] = {
    "hello": {"pid": int},
    "failed": {"message": str, "traceback": str, "status": int, "watched": int},
    "loaded": {},
    "ready": {},
    "serving": {},
    "certificates": {"number": int},
    "asked to stop": {"at_once": bool},
    "stuck": {"request": str, "free_threads": int},
    "stacks": {"text": str},
    "changed": {"files": dict},
    "children": {"left": list},
}
"""Events, each with its fields; ``loaded`` is the preloader's."""

MOST_OF_MESSAGE = 4096
MOST_OF_TRACEBACK = 256 << 10
"""Characters of a failure that are kept: the end of a traceback is what matters."""

_LARGEST = (1 << 31) - 1
"""The largest number in a report: a process id."""

_LARGEST_STATUS = 255

MOST_SHOWN_OF_COMMAND = 100
"""Characters of the command of a process that a worker leaves behind."""

MOST_SHOWN = 80
"""Characters of an unknown message that the log shows."""


def is_report(message: Message) -> bool:
    """Return True if a worker may send this message: the application may have written it."""
    event = message.get("event")
    fields = _REPORTS.get(event) if isinstance(event, str) else None
    return (
        fields is not None
        and all(_is_one(message.get(name), kind) for name, kind in fields.items())
        # Only where the field belongs to the event: its type is not known elsewhere.
        and ("status" not in fields or message["status"] <= _LARGEST_STATUS)
        and ("files" not in fields or all(map(_is_file_state, message["files"].values())))
        and ("left" not in fields or all(map(_is_process, message["left"])))
    )


def _is_one(value: object, kind: type) -> bool:
    if kind is int:  # True is an int, too
        return type(value) is int and 0 <= value <= _LARGEST
    return isinstance(value, kind)


def _is_file_state(state: object) -> bool:
    """Return True for what `penstock.app.file_watcher.State` is in JSON."""
    return state is None or (
        isinstance(state, list) and [type(part) for part in state] == [int, int, int]
    )


def _is_process(value: object) -> bool:
    """Return True for a process id and a command, as `children_of` returns them."""
    return (
        isinstance(value, list)
        and [type(part) for part in value] == [int, str]
        and len(value[1]) <= MOST_SHOWN_OF_COMMAND
    )


def shortened(failure: Message) -> Message:
    """Return the report of a failure with texts that fit into a log."""
    return failure | {
        "message": failure["message"][:MOST_OF_MESSAGE],
        "traceback": failure["traceback"][-MOST_OF_TRACEBACK:],
    }
