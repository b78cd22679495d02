"""Which finished requests the access log has, and what of them it hides.

The settings are ``access_log_skip``, ``access_log_slow``, ``access_log_sample`` and
``access_log_hide``; docs/logging.md describes them. Only where one of them is set is this imported.
Native code decides which of its lines are written by the same table, and leaves each request that
has something to hide to this module: what is hidden is decided here alone.
"""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from penstock.telemetry.access_log_format import (
    Format,
    LineFormat,
    NativeRules,
    SampledRequest,
    split_target,
)
from penstock.telemetry.request_finished import Needs, RequestFinished

if TYPE_CHECKING:
    from penstock.config.settings import Settings

REDACTED: Final = "REDACTED"
"""What is shown in the place of what is hidden, as OpenTelemetry's conventions have it."""

FIRST_FAILURE: Final = 500
"""From this status on a request has failed: its line is never left to the sample."""

MOST_FIELDS: Final = 250
"""A query of more fields is hidden as a whole: to look at thousands of names takes milliseconds,
and clients decide how often."""

_MIXER: Final = 0x9E3779B1
"""The golden ratio of 2**32: a product's upper bits depend on all bits of a checksum."""
_WORD: Final = 1 << 32

URL_FIELDS: Final = frozenset(
    {
        # Of requests: pages, and what proxies and frameworks say of the original target.
        "referer", "x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri",
        "x-forwarded-url", "x-request-uri", "x-real-uri", "hx-current-url", "next-url",
        "destination",
        # Of responses.
        "location", "content-location", "refresh", "link", "x-accel-redirect", "hx-redirect",
        "hx-location", "hx-push-url", "hx-replace-url", "turbo-location", "x-original-location",
    }
)  # fmt: skip
"""Fields whose values are URLs, or hold some: a query in them is hidden like that of the target."""

_URL_VARIABLES: Final = frozenset({"RAW_URI", "REQUEST_URI"})
_METHOD, _TARGET, _PROTOCOL, _LINE, _REQUEST_FIELDS, _RESPONSE_FIELDS, _ENVIRON = (
    RequestFinished._fields.index(name)
    for name in ("method", "target", "protocol", "request_line", "request_fields",
                 "response_fields", "environ")
)  # fmt: skip
_STATUSES: Final = re.compile(r"([1-5])(?:xx|([0-9]{2}))")
_PROTOCOL_NAME: Final = re.compile(r"HTTP/[0-9.]+")
_QUERY_BEGINS: Final = re.compile("[?#]")
_SEPARATOR: Final = re.compile("[&;?# ]")
_WITHIN_PART: Final = re.compile("[;?# ]")


class Skip(NamedTuple):
    """One rule of ``access_log_skip``."""

    path: str
    is_prefix: bool
    """Whether all paths match that begin with it."""
    first: int
    last: int
    """The statuses that match, from the first to the last."""

    @classmethod
    def of(cls, rule: str) -> Skip:
        """Return the rule of a text that the setting allows: ``/healthz 2xx``."""
        path, _, statuses = rule.partition(" ")
        is_prefix = path.endswith("*")
        first, last = 0, 999
        if match := _STATUSES.fullmatch(statuses.strip()):
            first = int(match[1]) * 100 + int(match[2] or 0)
            last = first if match[2] else first + 99
        return cls(path.removesuffix("*"), is_prefix, first, last)

    def matches(self, path: str, status: int) -> bool:
        """Return True if the rule leaves out a request for ``path``, as sent, without a query."""
        if not self.first <= status <= self.last:
            return False
        return path.startswith(self.path) if self.is_prefix else path == self.path


def threshold_of(share: float) -> int:
    """Return below which number, of 2**32, the checksums of ``share`` of the requests are."""
    return max(1, round(share * _WORD))


def in_sample(request_id: str, threshold: int) -> bool:
    """Return True if the request with this id is in the sample.

    The id alone decides: a request has a line in the logs of all servers that it passes, or in
    none, where they have the same share and the same id.
    """
    checksum = crc32(request_id.encode("latin-1", "backslashreplace"))
    return checksum * _MIXER % _WORD < threshold


class Rules:
    """What the four settings say together."""

    def __init__(
        self,
        *,
        skip: Sequence[str] = (),
        slow: float = 0.0,
        share: float = 1.0,
        hide: Sequence[str] = (),
    ) -> None:
        """Take the values of the settings, which are valid; ``slow`` is in seconds."""
        self._skip = tuple(map(Skip.of, skip))
        self._slow = slow
        self.sampled = share < 1
        """Whether each line says how many requests it stands for."""
        self._threshold = threshold_of(share)
        self.weight = f"{1 / share:.10g}"
        """How many requests a line of the sample stands for."""
        self._hides_query = "query" in hide
        self._names = frozenset(
            name.casefold() for kind, _, name in (each.partition(":") for each in hide)
            if kind == "query" and name
        )  # fmt: skip
        self._fields = frozenset(
            each.partition(":")[2].lower() for each in hide if each.startswith("header:")
        )
        self._looked_at = self._fields | (URL_FIELDS if self._hides_queries else frozenset())

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Return the rules of the settings."""
        return cls(
            skip=settings.access_log_skip,
            slow=settings.access_log_slow,
            share=settings.access_log_sample,
            hide=settings.access_log_hide,
        )

    def weight_of(self, request: RequestFinished) -> str:
        """Return how many requests the line of this one stands for; empty where it has no line.

        In this order: what ``skip`` names has none; what failed, or was slow, has one; where there
        is a share, the sample has; without one, all have unless only slow ones were asked for.
        """
        if self._skip:
            path, _ = split_target(request.target)
            if any(rule.matches(path, request.status) for rule in self._skip):
                return ""
        if request.status >= FIRST_FAILURE or request.ended == "aborted":
            return "1"
        if self._slow and request.duration >= self._slow:
            return "1"
        if self.sampled:
            return self.weight if in_sample(request.request_id, self._threshold) else ""
        return "" if self._slow else "1"

    # -- what is hidden ------------------------------------------------------------------------

    @property
    def hides(self) -> bool:
        """Whether anything is hidden."""
        return self._hides_queries or bool(self._fields)

    @property
    def _hides_queries(self) -> bool:
        return self._hides_query or bool(self._names)

    def masked(self, request: RequestFinished) -> RequestFinished:
        """Return the record without what is to be hidden."""
        # By position: `_replace` takes longer than all else here.
        values = list(request)
        if self._hides_queries:
            target, line = request.target, request.request_line
            if _QUERY_BEGINS.search(line) or _QUERY_BEGINS.search(target):
                values[_TARGET] = shown = self.masked_url(target)
                values[_LINE] = self._masked_line(line, target, shown)
                # In a request that is no HTTP anything may be in them.
                values[_METHOD] = self.masked_url(request.method)
                values[_PROTOCOL] = self.masked_url(request.protocol)
        if request.request_fields:
            values[_REQUEST_FIELDS] = self._masked_fields(request.request_fields)
        if request.response_fields:
            values[_RESPONSE_FIELDS] = self._masked_fields(request.response_fields)
        if request.environ:
            values[_ENVIRON] = {
                name: self._masked_variable(name.upper(), value)
                for name, value in request.environ.items()
            }
        return tuple.__new__(RequestFinished, values)

    def masked_url(self, url: str) -> str:
        """Return a URL, or other text that may have a query, with that hidden."""
        begin = _QUERY_BEGINS.search(url)
        if begin is None or not self._hides_queries:
            return url
        return url[: begin.end()] + self._masked_query(url[begin.end() :])

    def _masked_query(self, query: str) -> str:
        if self._hides_query or len(_SEPARATOR.findall(query)) > MOST_FIELDS:
            return REDACTED if query else ""
        mask = self._masked_part if _WITHIN_PART.search(query) else self._masked_field_of_query
        return "&".join(map(mask, query.split("&")))

    def _masked_field_of_query(self, part: str) -> str:
        name, equals, _ = part.partition("=")
        return f"{name}={REDACTED}" if equals and self._is_hidden_name(name) else part

    def _masked_part(self, part: str) -> str:
        """Return what is between two ``&``, with the value of a hidden field replaced.

        Some applications take ``;`` as a separator, too, others as part of a value. So a hidden
        field may begin behind one, and its value lasts to the end.
        """
        begin = 0
        while True:
            end = _WITHIN_PART.search(part, begin)
            name, equals, _ = part[begin : end.start() if end else len(part)].partition("=")
            if equals and self._is_hidden_name(name):
                return part[: begin + len(name) + 1] + REDACTED
            if end is None:
                return part
            begin = end.end()

    def _is_hidden_name(self, name: str) -> bool:
        if name.isalnum() and name.isascii():
            return name.lower() in self._names
        plain = unquote_to_bytes(name.replace("+", " ").encode("latin-1", "backslashreplace"))
        known = plain.decode("utf-8", "backslashreplace").strip().casefold()
        # Frameworks take token[] and token[a] for values of token.
        return known in self._names or known.partition("[")[0] in self._names

    def _masked_line(self, line: str, target: str, shown: str) -> str:
        """Return a request line; ``shown`` is how its target is shown, if it has three parts."""
        method, _, rest = line.partition(" ")
        protocol = rest[len(target) + 1 :]
        plain = rest.startswith(f"{target} ") and _PROTOCOL_NAME.fullmatch(protocol)
        if not plain or _QUERY_BEGINS.search(method):
            return self.masked_url(line)
        return f"{method} {shown} {protocol}"

    def _masked_fields(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        if self._looked_at.isdisjoint(fields):
            return fields
        return {name: self._masked_field(name, value) for name, value in fields.items()}

    def _masked_field(self, name: str, value: str) -> str:
        if name in self._fields:
            return REDACTED if value else ""
        return self.masked_url(value) if name in URL_FIELDS else value

    def _masked_variable(self, name: str, value: str) -> str:
        if name == "QUERY_STRING":
            return self._masked_query(value) if self._hides_queries else value
        if name in _URL_VARIABLES:
            return self.masked_url(value)
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            return self._masked_field(name.removeprefix("HTTP_").replace("_", "-").lower(), value)
        if name in ("REMOTE_USER", "AUTH_TYPE") and "authorization" in self._fields:
            return REDACTED
        return value

    # -- for the makers of lines ---------------------------------------------------------------

    def apply_to(self, make_line: Format) -> Format:
        """Return what makes the line of a request, which is empty where it has none.

        ``make_line`` shows a `SampledRequest` where requests are sampled.
        """

        def line(request: RequestFinished) -> str:
            weight = self.weight_of(request)
            if not weight:
                return ""
            shown = self.masked(request) if self.hides else request
            if self.sampled:
                shown = tuple.__new__(SampledRequest, shown)
                shown.sample = weight
            return make_line(shown)

        return line

    def add_to(self, made: LineFormat | None, needs: Needs) -> LineFormat | None:
        """Return what native code makes lines with, or None where it would make hardly any.

        ``made`` is for lines without these rules, which show what ``needs`` names.
        """
        if made is None:
            return None
        if needs.response_fields & self._looked_at:
            return None  # a response's fields are looked at in one place
        urls = self._looked_at - self._fields
        return made._replace(
            rules=NativeRules(
                skip=[
                    (rule.path.encode(), rule.is_prefix, rule.first, rule.last)
                    for rule in self._skip
                ],
                first_failure=FIRST_FAILURE,
                slow=self._slow,
                threshold=self._threshold if self.sampled else 0,
                mixer=_MIXER,
                weight=self.weight,
                hides_query=self._hides_queries,
                hidden_fields=[
                    name.encode() for name in sorted(needs.request_fields & self._fields)
                ],
                url_fields=[name.encode() for name in sorted(needs.request_fields & urls)],
            )
        )
