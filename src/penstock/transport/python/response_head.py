"""The heads of responses: each is checked and encoded once while the application repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.http1 import encode_head_of_lines, field_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.transport import HeaderList
    from penstock.transport.date import ServerFields
    from penstock.wsgi.headers import CheckHead

    Key = tuple[str, tuple[tuple[str, str], ...]]
    """The arguments of `start_response`."""

MOST_HEADS = 128
"""How many heads are remembered. Applications send few, but for values such as those of cookies:
once there are more, all are forgotten."""

REMEMBERED_CHARACTERS = 1024
"""The field lines of a longer head are not remembered: with the bound above, that bounds the
memory."""

_OWN_FIELDS = frozenset({"date", "server", "strict-transport-security"})
_OWN_LENGTHS = frozenset(map(len, _OWN_FIELDS))


class ResponseFields(list[tuple[str, str]]):
    """The application's fields of a response, with what is made of them once.

    Responses of several threads may share it. It is not to be changed.
    """

    __slots__ = ("_last", "lines", "replaces_own")

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        super().__init__(fields)
        self.lines = field_lines(self)
        self.replaces_own = False
        """Whether one of them takes the place of a field that the server sets."""
        for name, _ in self:
            if len(name) in _OWN_LENGTHS and name.lower() in _OWN_FIELDS:
                self.replaces_own = True
        # The head that was made last, and of what: the next one is mostly the same.
        self._last: tuple[str, str, bytes] = ("", "", b"")

    def lines_of(self, own: ServerFields) -> str:
        """Return the lines of the server's own fields, but for those that are replaced."""
        return own.without({name.lower() for name, _ in self})

    def encode(self, status: str, added: str) -> bytes:
        """Return the head of a response with these fields, and the lines that are ``added``."""
        last_status, last_added, head = self._last
        if added != last_added or status != last_status:
            head = encode_head_of_lines(status, self.lines, added)
            self._last = (status, added, head)
        return head


Checked = tuple[int, ResponseFields, int | None, bool]
"""What `penstock.wsgi.headers.check_head` returns."""


class HeadCheck:
    """Checks heads as its reference does, and remembers those that need nothing put right."""

    def __init__(self, reference: CheckHead) -> None:
        """``reference`` is `penstock.wsgi.headers.check_head`."""
        self._reference = reference
        # Any thread may read and write it: at worst a head is checked again.
        self._known: dict[Key, Checked] = {}

    def check(self, status: str, headers: HeaderList) -> Checked:
        """See `penstock.wsgi.headers.check_head`."""
        key = None
        if type(headers) is list:
            key = (status, tuple(headers))
            try:
                found = self._known.get(key)
            except TypeError:  # something in it is a list, or no header at all
                key = found = None
            if found is not None:
                return found
        code, fields, length, close = self._reference(status, headers)
        checked = (code, ResponseFields(fields), length, close)
        # Otherwise the server may have left some out, and is to warn of that again.
        if key is not None and len(fields) + (length is not None) == len(headers):
            self._remember(key, checked)
        return checked

    def _remember(self, key: Key, checked: Checked) -> None:
        if len(checked[1].lines) <= REMEMBERED_CHARACTERS:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[key] = checked
