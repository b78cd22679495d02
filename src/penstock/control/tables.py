"""What penstockctl prints for people: tables, ages, sizes, without bytes a terminal acts on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.telemetry.error_log import printable

_GAP = "  "
_MORE = "…"
_UNKNOWN = "-"

Row = Mapping[str, Any]
Cell = Callable[[Row], str]


def age(seconds: float | None) -> str:
    """Return ``3.2s``, ``4m05s``, ``3h12m`` or ``2d04h``; ``-`` for None. Negative with a sign."""
    if seconds is None:
        return _UNKNOWN
    if seconds < 0:
        return "-" + age(-seconds)
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def size(count: int | None) -> str:
    """Return a number of bytes as ``84.3 MiB``; ``-`` for None."""
    if count is None:
        return _UNKNOWN
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 999.95:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def text(value: object) -> str:
    """Return a value as text on one line, with what a terminal might act on as escapes."""
    return _UNKNOWN if value is None else printable(str(value)).replace("\t", "\\t")


def lines(value: str) -> str:
    """Return text of several lines, likewise."""
    return "\n".join(map(text, value.split("\n")))


def _of(name: str, show: Callable[[Any], str] = text) -> Cell:
    return lambda row: show(row.get(name))


def _if(name: str) -> Cell:
    return lambda row: "yes" if row.get(name) else "-"


def _client(row: Row) -> str:
    return text(row.get("client") or "unix")


def _request(row: Row) -> str:
    return f"{text(row.get('method'))} {text(row.get('target'))}"


_WORKERS: dict[str, Cell] = {
    "WORKER": _of("worker"),
    "PID": _of("pid"),
    "GEN": _of("generation"),
    "STATE": _of("state"),
    "AGE": _of("age", age),
    "REQUESTS": _of("requests"),
    "CONNS": _of("connections"),
    "WAITING": _of("waiting"),
    "BUSY": lambda row: f"{text(row.get('busy'))}/{text(row.get('threads'))}",
    "IO-BOUND": _of("io_bound"),
    "WEBSOCKETS": _of("websockets"),
    "MEMORY": _of("memory", size),
    "BEAT": _of("beat", age),
}

_REQUESTS: dict[str, Cell] = {
    "WORKER": _of("worker"),
    "PID": _of("pid"),
    "THREAD": _of("thread"),
    "AGE": _of("age", age),
    "LEFT": _of("deadline", age),
    "IO-BOUND": _if("io_bound"),
    "WEBSOCKET": _if("websocket"),
    "CLIENT": _client,
    "ID": _of("id"),
    "REQUEST": _request,
}


def _took(row: Row) -> str:
    """Return how long a call took; ``running`` while it is in progress."""
    if row.get("in_progress"):
        return "running"
    took = row.get("took")
    return _UNKNOWN if took is None else f"{took:.4f}s" if took else "<1ms"


_RECENT: dict[str, Cell] = {
    "THREAD": _of("thread"),
    "BEGUN": lambda row: f"{age(row.get('age'))} ago",
    "TOOK": _took,
    "STATUS": _of("status"),
    "CLIENT": _client,
    "ID": _of("id"),
    "REQUEST": _request,
}

_NOTED: dict[str, Cell] = {
    "AT": lambda row: _moment(row.get("at")),
    "WORKER": _of("worker"),
    "PID": _of("pid"),
    "TOOK": _took,
    "STATUS": lambda row: text(row.get("status") or None),
    "CLIENT": _client,
    "ID": _of("id"),
    "REQUEST": lambda row: f"{text(row.get('method'))} {text(row.get('path'))}",
}

_FAILED: dict[str, Cell] = {**_NOTED, "REASON": lambda row: text(row.get("reason") or None)}

_BRIEF: dict[str, Cell] = {
    "AT UTC": lambda row: _moment(row.get("at"))[11:19],
    "WORKER": _of("worker"),
    "TOOK": _took,
    "STATUS": _NOTED["STATUS"],
    "REQUEST": _NOTED["REQUEST"],
}
_BRIEF_FAILED = {**_BRIEF, "REASON": _FAILED["REASON"]}

_LEFT_ALIGNED = {"AT", "AT UTC", "STATE", "CLIENT", "ID", "REQUEST", "REASON"}

_EXCERPT_LINE = 64
"""Bytes of a head that was refused in one line at most."""


def workers(value: Row, width: int | None) -> str:
    """Return the table of workers, no line longer than ``width`` where that is not None."""
    return _table(_WORKERS, value["workers"], width) or "no workers\n"


def requests(value: Row, width: int | None) -> str:
    """Return the table of requests, likewise."""
    return _table(_REQUESTS, value["requests"], width) or "no requests in progress\n"


def recent(value: Row, width: int | None) -> str:
    """Return the table of a worker's last requests, likewise."""
    return _table(_RECENT, value["recent"], width) or "no requests yet\n"


def slow(value: Row, width: int | None, *, brief: bool = False) -> str:
    """Return the table of the slowest requests, likewise; ``brief`` is for 80 columns."""
    minutes = age(value["seconds"])
    table = _table(_BRIEF if brief else _NOTED, value["slow"], width)
    return table or f"no slow requests in the last {minutes}\n"


def failed(value: Row, width: int | None, *, brief: bool = False) -> str:
    """Return the table of the last requests that failed, likewise."""
    table = _table(_BRIEF_FAILED if brief else _FAILED, value["failed"], width)
    return table + _left_out(value, "failed") if table else "no requests have failed\n"


def refused(value: Row, width: int | None) -> str:
    """Return what was refused, and why: a paragraph for each request, the newest first."""
    parts = [_refusal(row, width) for row in value["refused"]]
    return "\n".join(parts) + _left_out(value, "refused") if parts else "nothing was refused\n"


def _left_out(value: Row, what: str) -> str:
    count = value.get("left_out")
    return f"({text(count)} more {what}, too many at once to be kept)\n" if count else ""


def _refusal(row: Row, width: int | None) -> str:
    where = [row.get("rule"), f"setting: {row['setting']}" if row.get("setting") else ""]
    notes = "; ".join(text(note) for note in where if note)
    lines = [
        f"{_moment(row.get('at'))}  {text(row.get('status'))} {text(row.get('reason'))}"
        + (f" ({notes})" if notes else ""),
        f"  worker {text(row.get('worker'))}, from {text(row.get('client') or 'a unix socket')}, "
        f'request {text(row.get("id"))}, "{text(row.get("line") or "")}"',
    ]
    position, excerpt = row.get("position"), str(row.get("excerpt") or "")
    if position is not None:
        lines.append(f"  at byte {text(position)} of {text(row.get('received'))}:")
    lines += _excerpt(excerpt, int(row.get("begin") or 0), position)
    return "".join(cut(line, width) for line in lines)


def _excerpt(excerpt: str, begin: int, position: int | None) -> list[str]:
    """Return the bytes of a head by lines, each with its place, and a caret below the fault."""
    lines = []
    for line in excerpt.splitlines(keepends=True) if "\n" in excerpt else [excerpt]:
        for start in range(0, len(line), _EXCERPT_LINE):
            part = line[start : start + _EXCERPT_LINE]
            lead = f"  {begin:05}  "
            lines.append(lead + _bytes(part))
            if position is not None and begin <= position < begin + len(part):
                lines.append(" " * (len(lead) + len(_bytes(part[: position - begin]))) + "^")
            begin += len(part)
    return lines


def _bytes(part: str) -> str:
    """Return bytes as Python writes them, without quotes."""
    return repr(part.encode("latin-1", "replace"))[2:-1]


def _moment(at: float | None) -> str:
    """Return ``2026-11-28 19:31:02 UTC``."""
    return _UNKNOWN if at is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def stacks(value: Row, _width: int | None) -> str:
    """Return the stacks of each worker under a heading; their lines are not cut."""
    parts = []
    numbers = value.get("workers") or {}
    for pid, stack in value["stacks"].items():
        lines = "\n".join(text(line) for line in str(stack).rstrip("\n").split("\n"))
        parts.append(f"worker {text(numbers.get(pid))} (pid {text(pid)})\n{lines}\n")
    return "\n".join(parts) or "no workers\n"


def status(value: Row, width: int | None) -> str:
    """Return the state of the server, a line for each field."""
    counts: Mapping[str, Any] = value.get("counts") or {}
    lines = {
        "state": text(value.get("state")),
        "age": age(value.get("age")),
        "application": text(value.get("application")),
        "version": text(value.get("version")),
        "pid": text(value.get("pid")),
        "generation": text(value.get("generation")),
        "listeners": ", ".join(text(name) for name in value.get("listeners", ())),
        "transport": text(value.get("transport")),
        "workers": f"{text(value.get('workers'))} of {text(value.get('threads'))} threads",
        "ready": _yes(value.get("ready")),
        "live": _yes(value.get("live")),
    }
    if value.get("state") == "down":
        soon = value.get("next_start")
        when = f"; the next start is in {age(soon)}" if soon else ""
        lines["state"] = f"down: no worker serves{when}. See last_error, and the error log"
    for number, row in enumerate(value.get("certificates") or (), 1):
        lines["certificates" if number == 1 else f"certificate {number}"] = _certificate(row)
    lines |= {text(name): text(count) for name, count in counts.items()}
    if crashes := value.get("crashes"):
        reasons = ", ".join(f"{text(count)} {text(reason)}" for reason, count in crashes.items())
        lines["crashed"] = f"{lines.get('crashed', '')} ({reasons})"
    lines["last_reload"] = _happened(value.get("last_reload"))
    lines["last_error"] = _happened(value.get("last_error"))
    longest = max(map(len, lines))
    return "".join(cut(f"{name:<{longest}}{_GAP}{what}", width) for name, what in lines.items())


def _certificate(row: Row) -> str:
    """Return ``example.org, expires 2026-11-28 (in 90 days)``."""
    names, days = row["names"], row["days"]
    shown = text(names[0] if names else "without names")
    if len(names) > 1:
        shown += f" and {len(names) - 1} more"
    date = time.strftime("%Y-%m-%d", time.gmtime(row["expires"]))
    expiry = f"expires {date} (in {days} days)" if days >= 0 else f"EXPIRED {date}"
    renewal = f"; {text(row['renewal'])}" if row.get("renewal") else ""
    return f"{shown}, {expiry}{renewal}"


def _happened(value: Mapping[str, Any] | None) -> str:
    """Return ``2026-11-28 19:31:02 UTC: ...``; ``-`` for None."""
    if value is None:
        return _UNKNOWN
    return f"{_moment(value['at'])}: {text(value['message'])}"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _table(columns: Mapping[str, Cell], rows: Sequence[Row], width: int | None) -> str:
    if not rows:
        return ""
    cells = [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts = [
            f"{cell:<{size}}" if name in _LEFT_ALIGNED else f"{cell:>{size}}"
            for name, size, cell in zip(columns, widths, row, strict=True)
        ]
        lines.append(cut(_GAP.join(parts).rstrip(), width))
    return "".join(lines)


def cut(line: str, width: int | None) -> str:
    """Return a line, its end included, that fits into a terminal of ``width`` columns."""
    if width is not None and len(line) > width:
        line = line[: max(0, width - 1)] + _MORE
    return line + "\n"
