"""What a worker, or the preloader, can send to the supervisor. It may run hostile code."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.transport.notable import (
    MOST_OF_CLIENT,
    MOST_OF_EXCERPT,
    MOST_OF_ID,
    MOST_OF_METHOD,
    MOST_OF_PATH,
    MOST_OF_PROTOCOL,
    MOST_OF_REASON,
    MOST_OF_TRACE_ID,
)
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
    "noted": {"kind": str, "request": dict},
    "profile": {
        "error": str,
        "seconds": float,
        "samples": int,
        "late": int,
        "cost": float,
        "frames": list,
        "stacks": list,
    },
}
"""Events, each with its fields; ``loaded`` is the preloader's."""

MOST_OF_MESSAGE = 4096
MOST_OF_TRACEBACK = 256 << 10
"""Characters of a failure that are kept: the end of a traceback is what matters."""

_LARGEST = (1 << 31) - 1
"""The largest number in a report: a process id."""

_LARGEST_STATUS = 255

_LARGEST_TIME = 1e12
"""Seconds: more than any clock has, and no infinity."""

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
        and (event != "noted" or is_noted(message))
        and (event != "profile" or _is_profile(message))
    )


_CALL: Mapping[str, type | int | None] = {
    "method": MOST_OF_METHOD,
    "path": MOST_OF_PATH,
    "protocol": MOST_OF_PROTOCOL,
    "client": MOST_OF_CLIENT,
    "id": MOST_OF_ID,
    "trace_id": MOST_OF_TRACE_ID,
    "took": float,
    "duration": float,
    "status": int,
    "reason": MOST_OF_REASON,
    "at": float,
    "left_out": int,
}
_REFUSED: Mapping[str, type | int | None] = {
    "client": MOST_OF_CLIENT,
    "id": MOST_OF_ID,
    "status": int,
    "reason": MOST_OF_REASON,
    "rule": 100,
    "setting": 100,
    "line": MOST_OF_REASON,
    "excerpt": MOST_OF_EXCERPT,
    "begin": int,
    "position": None,
    "received": int,
    "at": float,
    "left_out": int,
}
NOTED: Mapping[str, Mapping[str, type | int | None]] = {
    "slow": _CALL,
    "failed": _CALL,
    "refused": _REFUSED,
}
"""The fields of requests that are worth a look, by kind: types, or the most characters of a text.
None is a number or null."""


def is_noted(message: Message) -> bool:
    """Return True if a report of such a request has the fields of its kind, and no others."""
    fields, request = NOTED.get(message["kind"]), message["request"]
    return (
        fields is not None
        and request.keys() == fields.keys()
        and all(_is_noted(request[name], kind) for name, kind in fields.items())
    )


def is_noted_row(kind: str, row: Mapping[str, object]) -> bool:
    """Return True for a request that a supervisor keeps: one of `NOTED`, with its worker."""
    fields = {"worker": int, "pid": int, **NOTED.get(kind, {})}
    fields.pop("left_out", None)
    return row.keys() == fields.keys() and all(
        _is_noted(row[name], type_) for name, type_ in fields.items()
    )


def _is_noted(value: object, kind: type | int | None) -> bool:
    if isinstance(kind, int):
        return isinstance(value, str) and len(value) <= kind
    if kind is None:
        return value is None or _is_one(value, int)
    return _is_one(value, kind)


def _is_profile(message: Message) -> bool:
    """Return True if a profile has names, and stacks of these with counts."""
    most = len(message["frames"])
    return all(isinstance(name, str) for name in message["frames"]) and all(
        isinstance(each, list)
        and len(each) == 2
        and _is_one(each[0], int)
        and isinstance(each[1], list)
        and all(type(index) is int and 0 <= index < most for index in each[1])
        for each in message["stacks"]
    )


def _is_one(value: object, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and 0 <= value < _LARGEST_TIME  # type: ignore[operator]
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
