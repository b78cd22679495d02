"""Draws `penstockctl top` on a terminal with ``curses``, and acts on keys."""

from __future__ import annotations

import curses
import time
from contextlib import suppress
from typing import Final

from penstock.control import top
from penstock.control.client import CannotReach

DONE: Final = 0

_QUIT = {ord("q"), ord("Q"), 27}  # and Escape
_TAB: Final = ord("\t")


def show(address: str, interval: float, timeout: float) -> int:
    """Show the server until ``q`` or Ctrl-C; return the exit status. Raises `CannotReach`."""
    first = top.look(address, timeout, None)  # an error now is printed as that of any command
    try:
        curses.wrapper(lambda window: _Screen(window, address, interval, timeout, first).run())
    except KeyboardInterrupt:
        pass
    return DONE


class _Screen:
    def __init__(
        self,
        window: curses.window,
        address: str,
        interval: float,
        timeout: float,
        view: top.View,
    ) -> None:
        self._window = window
        self._address = address
        self._interval = interval
        self._timeout = timeout
        self._view = view
        self._selected = 0
        self._listed = ""
        """Which of `top.NOTABLE` is shown in the place of the running requests."""
        self._asked: int | None = None
        """What a second press of the key confirms: the number of the worker that is meant."""
        with suppress(curses.error):  # a terminal that cannot hide it
            curses.curs_set(0)
        if curses.has_colors():
            curses.use_default_colors()

    def run(self) -> None:
        note, due = "", time.monotonic() + self._interval
        while True:
            self._draw(note)
            self._window.timeout(max(0, round((due - time.monotonic()) * 1000)))
            key = self._window.getch()
            if key in _QUIT:
                return
            note = self._act_on(key) if key != curses.ERR else note
            if key == _TAB:
                due = time.monotonic()  # the list is asked for now
            if time.monotonic() < due:
                continue
            due = time.monotonic() + self._interval
            try:
                lists = [self._listed] if self._listed else []
                self._view = top.look(self._address, self._timeout, self._view, lists)
            except CannotReach as error:
                note = f"{error}; q quits"  # perhaps it is being restarted

    def _draw(self, note: str) -> None:
        height, width = self._window.getmaxyx()
        self._selected = top.selection(self._view, self._selected)
        self._window.erase()
        lines = top.screen(self._view, width - 1, height, self._selected, note, self._listed)
        for number, line in enumerate(lines):
            is_heading = line.startswith((">", "WORKER", "   AGE")) or line.lower() in top.NOTABLE
            bold = curses.A_BOLD if number == 0 or is_heading else 0
            try:
                self._window.addstr(number, 0, line, bold)
            except curses.error:
                pass  # the window has become smaller meanwhile
        self._window.refresh()

    def _act_on(self, key: int) -> str:
        """Act on a key; return what the last line says then."""
        asked, self._asked = self._asked, None
        if key in (curses.KEY_UP, ord("k")):
            self._selected -= 1
        elif key in (curses.KEY_DOWN, ord("j")):
            self._selected += 1
        elif key == _TAB:
            names = ("", *top.NOTABLE)
            self._listed = names[(names.index(self._listed) + 1) % len(names)]
        elif key in (ord("s"), ord("r")):
            self._selected = top.selection(self._view, self._selected)
            worker = top.worker_of(self._view, self._selected)
            if worker is None:
                return "no worker is there"
            request = "" if self._selected < 0 else self._view.requests[self._selected]["id"]
            try:
                if key == ord("s"):
                    self._page(top.stack_lines(self._address, worker, request, self._timeout))
                elif asked == worker:
                    return top.recycle(self._address, worker, self._timeout)
                else:
                    self._asked = worker
                    return f"press r again to recycle worker {worker}; its requests are finished"
            except CannotReach as error:
                return str(error)
        return ""

    def _page(self, text: list[str]) -> None:
        """Show a text until a key ends that."""
        first = 0
        self._window.timeout(-1)
        while True:
            height, width = self._window.getmaxyx()
            lines = top.folded(text, width - 1)
            room = height - 1
            first = max(0, min(first, len(lines) - room))
            self._window.erase()
            for number, line in enumerate(lines[first : first + room]):
                self._window.addnstr(number, 0, line, width - 1)
            help_line = "↑↓ scroll   any other key: back"
            self._window.addnstr(height - 1, 0, help_line, width - 1)
            self._window.refresh()
            key = self._window.getch()
            if key in (curses.KEY_UP, ord("k")):
                first -= 1
            elif key in (curses.KEY_DOWN, ord("j")):
                first += 1
            elif key in (curses.KEY_NPAGE, ord(" ")):
                first += room
            elif key == curses.KEY_PPAGE:
                first -= room
            elif key != curses.KEY_RESIZE:
                return
