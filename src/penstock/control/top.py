"""`penstockctl top`: what the server does now, on one screen, again each second.

In a terminal it is drawn by ``curses``, and takes keys. Elsewhere, as in a pipe, it is printed
once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from penstock.control.client import CannotReach, ask
from penstock.control.past import Past
from penstock.control.tables import age, cut, failed, refused, size, slow, stacks, text
from penstock.records import dataclass
from penstock.system.standard_streams import is_terminal, print_out

DONE: Final = 0
BAR: Final = 20
"""Columns of a bar."""

_BARS = "█", "░"
_PLACE = re.compile(r"  \d{5}  ")
_THREAD = re.compile(r"\n(?=thread |not shown: )")
_KEYS = "q quit  Tab slow, failed, refused  ↑↓ select  s its stack  r recycle its worker"

NOTABLE: Final = ("slow", "failed", "refused")
"""Lists of requests that are worth a look."""

FEW: Final = 12
"""Lines of each of these lists where all are printed."""

Row = Mapping[str, Any]


@dataclass
class View:
    """What one look at the server has found."""

    status: Row
    workers: Sequence[Row]
    requests: Sequence[Row]
    past: Past
    """From the look before, or from the last row that the server has kept, to now."""
    rates: Mapping[int, float] = field(default_factory=dict)
    """Requests a second by worker number; a worker that is new has none."""
    notable: Mapping[str, Row] = field(default_factory=dict)
    """What the server has answered to those of `NOTABLE` that it was asked."""


def look(address: str, timeout: float, before: View | None, lists: Sequence[str] = ()) -> View:
    """Ask the server, also for those of `NOTABLE` in ``lists``. Raises `CannotReach`."""
    now = time.time()
    since = 0 if before is None else int(now)
    answers = [
        ask(address, "GET", path, timeout).value
        for path in ("/status", "/workers", "/requests", f"/history?since={since}")
    ]
    notable = {name: ask(address, "GET", f"/{name}", timeout).value for name in lists}
    try:
        status, workers, requests, history = answers
        past = Past(history)
        if before is not None:
            past.rows = [before.past.rows[-1], past.rows[-1]]
            seen = {row["worker"]: row["requests"] for row in before.workers}
        else:
            past, seen = past.last(1.0), {}
        seconds = past.seconds
        rates = {
            row["worker"]: (row["requests"] - seen[row["worker"]]) / seconds
            for row in workers["workers"]
            if row["worker"] in seen and seconds
        }
        return View(status, workers["workers"], requests["requests"], past, rates, notable)
    except (KeyError, TypeError, ValueError, IndexError):
        raise CannotReach("the answer is not one that this version understands") from None


def bar(share: float, columns: int = BAR) -> str:
    """Return a bar that is filled up to ``share``, from 0 to 1."""
    filled = round(min(max(share, 0.0), 1.0) * columns)
    return _BARS[0] * filled + _BARS[1] * (columns - filled)


def milliseconds(seconds: float) -> str:
    """Return a time as ``1.2 ms`` or ``3.4 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def summary(view: View) -> list[str]:
    """Return the lines about the whole server."""
    status, past = view.status, view.past
    times, queue = past.times("duration"), past.times("queue")
    application, locks = past.times("application"), past.times("lock_wait")
    threads, busy = past.now("threads"), past.now("busy")
    failed = past.grown("status.5xx") / times.count if times.count else 0.0
    shed = past.grown("queue_full") + past.grown("queue_timeout")
    cpu = past.rate("cpu_seconds")
    return [
        f"{text(status['application'])}  {text(status['state'])}  up {age(status['age'])}  "
        f"generation {text(status['generation'])}  {text(status['transport'])}",
        f"requests {past.rate('requests'):.1f}/s   p50 {milliseconds(times.quantile(0.5))}   "
        f"p95 {milliseconds(times.quantile(0.95))}   p99 {milliseconds(times.quantile(0.99))}   "
        f"5xx {failed:.1%}",
        f"threads  {bar(busy / threads if threads else 0.0)} {busy:.0f}/{threads:.0f}   "
        f"waiting {past.now('waiting'):.0f}   queue p95 {milliseconds(queue.quantile(0.95))}   "
        f"io-bound {past.now('io_bound'):.0f}",
        f"cpu      {bar(cpu / status['cpus'])} {cpu:.2f}/{status['cpus']:g}   "
        f"application {milliseconds(application.mean)}   "
        f"lock wait {milliseconds(locks.mean)}",
        # The last of them may be cut off: a worker's memory is in its row.
        f"connections {past.now('connections'):.0f} (+{past.rate('accepted'):.0f}/s)  "
        f"shed {shed:.0f}  refused {past.grown('refused'):.0f}  "
        f"in {size(round(past.rate('bytes_received')))}/s  "
        f"out {size(round(past.rate('bytes_sent')))}/s  "
        f"memory {size(round(past.now('memory')))}",
    ]


def selection(view: View, wanted: int) -> int:
    """Return what is selected where ``wanted`` is: the index of a request.

    The workers are above the requests: the last one is -1. Without any of both it is 0.
    """
    least, most = -len(view.workers), len(view.requests) - 1
    return max(least, min(wanted, most)) if least <= most else 0


def worker_of(view: View, selected: int) -> int | None:
    """Return the number of the worker that is selected, or has the selected request."""
    rows = view.workers if selected < 0 else view.requests
    return int(rows[selected]["worker"]) if rows else None


def worker_lines(view: View) -> list[str]:
    """Return the table of workers, with a bar of each one's threads."""
    lines = ["WORKER     PID STATE        AGE  REQ/S CONNS WAITING     MEMORY BUSY"]
    for row in view.workers:
        threads = row["threads"] or 1
        rate = view.rates.get(row["worker"])
        lines.append(
            f"{text(row['worker']):>6} {text(row['pid']):>7} {text(row['state']):<8} "
            f"{age(row['age']):>7} {'-' if rate is None else format(rate, '.0f'):>6} "
            f"{text(row['connections']):>5} {text(row['waiting']):>7} {size(row['memory']):>10} "
            f"{bar(row['busy'] / threads, 8)} {text(row['busy'])}/{text(row['threads'])}"
        )
    return lines


def request_lines(view: View) -> list[str]:
    """Return the table of requests, the oldest first."""
    lines = ["   AGE  WORKER  CLIENT                 REQUEST"]
    for row in view.requests:
        client = text(row["client"] or "unix")
        lines.append(
            f"{age(row['age']):>6}  {text(row['worker']):>6}  {client:<21}  "
            f"{text(row['method'])} {text(row['target'])}"
        )
    return lines


def notable_lines(view: View, name: str, width: int | None = None) -> list[str]:
    """Return one of the lists of `NOTABLE`; with ``width``, that many columns have what matters."""
    value = view.notable[name]
    if name == "refused":
        lines = refused(value, None).splitlines()
        return [name.upper(), *(lines if width is None else _wrapped(lines, width))]
    table = {"slow": slow, "failed": failed}[name]
    return [name.upper(), *table(value, None, brief=width is not None).splitlines()]


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Return lines of words, none of them longer than ``width``.

    Lines that begin with the place of a byte stay as they are, for the arrow below them.
    """
    from textwrap import wrap

    wrapped = []
    for line in lines:
        is_text = len(line) > width and line.strip() != "^" and not _PLACE.match(line)
        wrapped += wrap(line, width, subsequent_indent="    ") if is_text else [line]
    return wrapped


def folded(lines: Sequence[str], width: int) -> list[str]:
    """Return the parts of lines, none of them longer than ``width``."""
    return [
        line[at : at + width] for line in lines for at in range(0, max(len(line), 1), max(width, 1))
    ]


def screen(
    view: View, width: int, height: int, selected: int, note: str = "", listed: str = ""
) -> list[str]:
    """Return the lines of a screen, no more than ``height``, the last of which is about keys.

    ``selected`` is what `selection` returns. ``listed`` is one of `NOTABLE`, in the place of the
    running requests.
    """
    lines = [*summary(view), ""]
    heading, *workers = worker_lines(view)
    place = len(workers) + selected
    if 0 <= place < len(workers):
        workers[place] = f">{workers[place][1:]}"
    # The requests get what is left, and at least a third.
    room = max(1, (height - len(lines)) * 2 // 3 - 3)
    if (more := len(workers) - room) > 0:
        more += 1  # the line that says so takes one, too
        first = max(0, min(place - room + 2, more)) if selected < 0 else 0
        workers = [*workers[first : first + room - 1], f"{'':6} and {more} more"]
    lines += [heading, *workers, ""]
    if listed in view.notable:
        lines += notable_lines(view, listed, width)[: height - len(lines) - 1]
        lines += [""] * (height - 1 - len(lines))
        return [cut(line, width).rstrip("\n") for line in [*lines[: height - 1], note or _KEYS]]
    requests = request_lines(view)
    shown = max(1, height - len(lines) - 1)
    first = max(0, min(selected - shown + 2, len(requests) - shown))
    for index, line in enumerate([requests[0], *requests[1 + first : first + shown]]):
        is_selected = index > 0 and first + index - 1 == selected
        lines.append(f">{line[1:]}" if is_selected else line)
    lines = lines[: height - 1]
    lines += [""] * (height - 1 - len(lines))
    return [cut(line, width).rstrip("\n") for line in [*lines, note or _KEYS]]


def as_json(view: View) -> dict[str, Any]:
    """Return what one look has found, for programs."""
    past = view.past
    times = {name: past.times(name) for name in ("duration", "first_byte", "queue", "application")}
    return {
        "seconds": past.seconds,
        "rate": past.rate("requests"),
        "times": {
            name: {
                "count": each.count,
                "mean": each.mean,
                **{f"p{share:g}": each.quantile(share / 100) for share in (50, 95, 99)},
            }
            for name, each in times.items()
        },
        "now": dict(zip(past.names, past.rows[-1], strict=True)),
        "status": dict(view.status),
        "workers": list(view.workers),
        "requests": list(view.requests),
        **{name: list(rows[name]) for name, rows in view.notable.items()},
    }


def stack_lines(address: str, worker: int, request: str, timeout: float) -> list[str]:
    """Return the stacks of a worker, first that of a request, by its id. Raises `CannotReach`."""
    reply = ask(address, "GET", f"/stacks?worker={worker}", timeout)
    if reply.status >= 300:
        return [text(reply.value.get("error"))]
    return own_first(stacks(reply.value, None), request).split("\n")


def own_first(stacks: str, request: str) -> str:
    """Return the stacks of a worker with the thread of a request before the others, if it is there.

    ``request`` is its id; it is empty where a worker was selected.
    """
    heading, *threads = _THREAD.split(stacks)
    own = [thread for thread in threads if f"(request {request}," in thread.partition("\n")[0]]
    if not own:
        return stacks
    others = [thread for thread in threads if thread not in own]
    return "\n".join([heading, *own, "", *others])


def recycle(address: str, worker: int, timeout: float) -> str:
    """Have a worker replaced; return what the server says. Raises `CannotReach`."""
    reply = ask(address, "POST", f"/recycle?wait=0&worker={worker}", timeout)
    return text(reply.value.get("message") or reply.value.get("error"))


def _can_draw() -> bool:
    """Return True if the terminal can put text anywhere (the variable TERM)."""
    try:
        import curses
    except ImportError:  # a Python that was built without the library
        return False
    try:
        curses.setupterm()
    except curses.error:  # one that the system does not know
        return False
    return curses.tigetstr("cup") is not None


def run(address: str, interval: float, timeout: float, json_wanted: bool) -> int:
    """Show the server until the user ends that; return the exit status. Raises `CannotReach`."""
    if json_wanted or not (is_terminal(0) and is_terminal(1) and _can_draw()):
        first = look(address, timeout, None)
        time.sleep(interval)  # rates are of a span of time
        view = look(address, timeout, first, NOTABLE)
        if json_wanted:
            print_out(json.dumps(as_json(view), indent=2) + "\n")
        else:
            lines = [*summary(view), "", *worker_lines(view), "", *request_lines(view)]
            for name in NOTABLE:
                lines += ["", *notable_lines(view, name)[:FEW]]
            print_out("\n".join(lines) + "\n")
        return DONE
    from penstock.control.terminal_view import show

    return show(address, interval, timeout)
