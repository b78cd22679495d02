"""The heads of responses: each is checked and encoded once while the application repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.http1 import Framing, field_lines

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


HeadParts = tuple[str, str, str, str, int | None, bool]
"""What a head is made of besides the application's fields: the status, the lines of the server's
own fields, method and version of the request, the length of the content, None if it is not known,
and whether the connection is closed after the response."""


class Head:
    """An encoded head, and what it was made of."""

    __slots__ = ("added", "framing", "head", "of")

    def __init__(self, of: HeadParts | None, framing: Framing, added: str, head: bytes) -> None:
        self.of = of
        self.framing = framing
        self.added = added
        """The lines that follow the application's fields."""
        self.head = head


_NO_HEAD = Head(None, Framing.NONE, "", b"")


class ResponseFields(list[tuple[str, str]]):
    """The application's fields of a response, with what is made of them once.

    Responses of several threads of one transport may share it. They do not change the fields.
    """

    __slots__ = ("lines", "made", "replaces_own")

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        super().__init__(fields)
        self.lines = field_lines(self)
        self.replaces_own = False
        """Whether one of them takes the place of a field that the server sets."""
        for name, _ in self:
            if len(name) in _OWN_LENGTHS and name.lower() in _OWN_FIELDS:
                self.replaces_own = True
        self.made = _NO_HEAD
        """The head that was made last: mostly the next one is the same, for up to a second."""

    def lines_of(self, own: ServerFields) -> str:
        """Return the lines of the server's own fields, but for those that are replaced."""
        return own.without({name.lower() for name, _ in self})


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
