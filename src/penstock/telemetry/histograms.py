"""Histograms of requests in shared memory: what each finished request adds to its worker's slot.

Requests with the same method, class of status and protocol are one series, and each series has a
histogram for each of the times of `TIMES`. A histogram is sixteen words: a count for each bucket,
and the sum in nanoseconds.

The native transport counts in ``native/reactor/src/histograms.rs``, and a test compares the two.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from penstock.telemetry.scoreboard import LOCK_WAITS, SERIES, SERIES_WORDS, STATUSES

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The upper bounds of the buckets in seconds, as OpenTelemetry's conventions for HTTP have them.
The last bucket has none."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other")
CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
FIRST_STATUS: Final = 100
"""The status code that the first word of a slot's statuses counts."""
PROTOCOLS: Final = ("HTTP/1.1", "HTTP/1.0", "other")

TIMES: Final = ("duration", "first_byte", "queue", "application", "request_lock_wait")
"""``duration``: from the first byte of the request to the last byte of the response.
``first_byte``: from the first byte of the request to that of the response. ``queue``: the wait for
a thread. ``application``: from the call of the application until it has handed over the last byte
of the response, without the time for which it waited for its client. ``request_lock_wait``: the
waits for the interpreter lock of the threads that had the request, as far as the native transport
sees them; the Python transport counts none."""

HISTOGRAM_WORDS: Final = 16
SUM: Final = HISTOGRAM_WORDS - 1
"""Which word of a histogram is the sum."""

SHORT_SECONDS: Final = BOUNDS[0]
"""No time above this is in the first bucket."""

_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS)

LEFT: Final = "499"
"""The status of a request whose client left before there was a response."""

_MOST_TOLD: Final = 1000
"""Statuses may have any reason phrase: that many are told apart."""

_FIRST_BYTE, _QUEUE, _APPLICATION = (HISTOGRAM_WORDS * index for index in (1, 2, 3))

assert len(METHODS) * len(CLASSES) * len(PROTOCOLS) == SERIES
assert len(TIMES) * HISTOGRAM_WORDS == SERIES_WORDS
assert len(BOUNDS) + 1 == SUM


class FinishedRequest(Protocol):
    """A request, as far as it is counted."""

    @property
    def method(self) -> str:
        """The method as it was sent."""

    @property
    def version(self) -> str:
        """The protocol, such as ``HTTP/1.1``."""


class FinishedExchange(Protocol):
    """An exchange that is over, as far as it is counted. Times in seconds."""

    @property
    def request(self) -> FinishedRequest:
        """The request."""

    @property
    def status(self) -> str:
        """Empty where there was no response."""

    @property
    def began(self) -> float:
        """When the first byte of the request was read."""

    @property
    def first_byte_at(self) -> float | None:
        """When the head was sent; None where it was sent with the end."""

    @property
    def answered_after(self) -> int:
        """How long a thread had it for the application, in nanoseconds; 0 where none had it."""

    @property
    def plain(self) -> bool:
        """Whether its response was sent at once, and it waited for no thread and no client."""

    @property
    def client_wait(self) -> float:
        """For how long the application waited for its client."""

    @property
    def queue_time(self) -> float:
        """For how long it waited for a thread."""


class Labels(NamedTuple):
    """What the requests of one series have in common."""

    method: str
    status: str
    protocol: str


class Exemplar(NamedTuple):
    """One of the requests that a bucket has counted."""

    labels: Mapping[str, str]
    """What names it: OpenMetrics allows 128 characters, names and values together."""
    seconds: float
    """How long it took."""
    at: float
    """When it ended, since the epoch."""


class Histogram(NamedTuple):
    """How often something took how long."""

    counts: Sequence[int]
    """For each of `BOUNDS`, how often it took no longer, and longer than the bound before; and
    last, how often it took longer than all of them."""
    seconds: float
    """The sum."""
    exemplars: Mapping[int, Exemplar] = {}
    """By the index of their bucket."""


def series_number(method: str, status: str, protocol: str) -> int:
    """Return the number of a series; ``status`` begins with the status code's first digit."""
    methods, protocols = len(METHODS), len(PROTOCOLS)
    method_number = METHODS.index(method) if method in METHODS else methods - 1
    protocol_number = PROTOCOLS.index(protocol) if protocol in PROTOCOLS else protocols - 1
    # An application may send a code beyond 599.
    status_number = min(max(int(status[0]), 1), len(CLASSES)) - 1
    return (protocol_number * methods + method_number) * len(CLASSES) + status_number


def series_labels(number: int) -> Labels:
    """Return what the requests of a series have in common."""
    rest, status = divmod(number, len(CLASSES))
    protocol, method = divmod(rest, len(METHODS))
    return Labels(METHODS[method], CLASSES[status], PROTOCOLS[protocol])


class Finished:
    """Requests with the same method, status and protocol, since the last time. Times in seconds."""

    __slots__ = (
        "applications",
        "durations",
        "first_bytes",
        "queues",
        "short",
        "short_nanoseconds",
        "short_seconds",
    )

    def __init__(self) -> None:
        self.short = 0
        """How many waited for no thread, were sent at once, and took up to `SHORT_SECONDS`: each of
        their times is in the first bucket, and the time to the first byte is the duration."""
        self.short_seconds = 0.0
        """What these took together."""
        self.short_nanoseconds = 0
        """What these took together in the application."""
        self.durations: list[float] = []
        """Those of all others."""
        self.first_bytes: list[float] = []
        """Of these, where a response was sent."""
        self.applications: list[int] = []
        """In nanoseconds."""
        self.queues: list[float] = []
        """The waits of those that had to wait for a thread."""


class RequestHistograms:
    """Counts the finished requests of one worker of the Python transport.

    A short request only adds to three numbers, any other its times to lists. `publish` sorts these
    into buckets, a second's requests at once: that takes a fifth of what each would take alone. A
    worker that is killed takes along what has come since the last time.

    `add` is for any thread, `publish` for one at a time. No lock is needed: in each statement that
    adds, nothing is called between the look at a list or number and the addition to it. A wait is
    added before the time in the application, and `publish` takes them in the opposite order.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._words: dict[int, list[int]] = {}
        self._codes: dict[int, int] = {}
        # Bounded: `_find` keeps nothing for what clients make up.
        self.finished: dict[tuple[str, str, str], Finished] = {}
        """By method, status and protocol."""

    def add(self, exchange: FinishedExchange, now: float) -> Finished:
        """Count an exchange whose response was sent, or given up, at ``now``; return where.

        The next one may be counted there if it has the same method, status and protocol.
        """
        request = exchange.request
        finished = self._find(request.method, exchange.status or LEFT, request.version)
        duration = now - exchange.began
        finished.durations.append(duration)
        if exchange.status:
            first_byte = exchange.first_byte_at
            finished.first_bytes.append(
                duration if first_byte is None else first_byte - exchange.began
            )
        if exchange.queue_time:
            finished.queues.append(exchange.queue_time)
        if exchange.answered_after:
            # Two threads of an application may wait for its client at a time, and both waits count.
            answered_after = exchange.answered_after - round(exchange.client_wait * 1e9)
            finished.applications.append(max(answered_after, 0))
        return finished

    def add_refused(self, method: str, status: int, protocol: str, duration: float) -> None:
        """Count a request that the server has answered itself, or whose client left."""
        finished = self._find(method, str(status), protocol)
        finished.durations.append(duration)
        if status != int(LEFT):
            finished.first_bytes.append(duration)

    def _find(self, method: str, status: str, protocol: str) -> Finished:
        known = self.finished.get((method, status, protocol))
        if known is not None:
            return known
        if method not in METHODS or protocol not in PROTOCOLS or len(self.finished) >= _MOST_TOLD:
            # As metrics name them: there are some hundreds of these at most.
            status = status[:3]
            method = method if method in METHODS else METHODS[-1]
            protocol = protocol if protocol in PROTOCOLS else PROTOCOLS[-1]
        # Two threads may both come here: `setdefault` gives both the same.
        return self.finished.setdefault((method, status, protocol), Finished())

    def publish(self) -> None:
        """Write what has been counted to the slot."""
        for (method, status, protocol), finished in list(self.finished.items()):
            number = series_number(method, status, protocol)
            words = self._words.setdefault(number, [0] * SERIES_WORDS)
            if count := _fold(finished, words):
                code = int(status[:3])
                self._codes[code] = self._codes.get(code, 0) + count
        for number, words in self._words.items():
            begin = number * SERIES_WORDS
            self._slot.series[begin : begin + SERIES_WORDS] = memoryview(array("Q", words))
            self._slot.use_series(number)
        for code, count in self._codes.items():
            if FIRST_STATUS <= code < FIRST_STATUS + STATUSES:
                self._slot.statuses[code - FIRST_STATUS] = count


def _fold(finished: Finished, words: list[int]) -> int:
    """Count requests in the words of their series; return how many there were."""
    short, finished.short = finished.short, 0
    seconds, finished.short_seconds = finished.short_seconds, 0.0
    nanoseconds, finished.short_nanoseconds = finished.short_nanoseconds, 0
    durations, finished.durations = finished.durations, []
    first_bytes, finished.first_bytes = finished.first_bytes, []
    applications, finished.applications = finished.applications, []
    queues, finished.queues = finished.queues, []
    for begin in (0, _FIRST_BYTE, _APPLICATION):
        words[begin] += short
    words[SUM] += round(seconds * 1e9)
    words[_FIRST_BYTE + SUM] += round(seconds * 1e9)
    words[_APPLICATION + SUM] += nanoseconds
    _count(durations, BOUNDS, 1e9, words, 0)
    _count(first_bytes, BOUNDS, 1e9, words, _FIRST_BYTE)
    _count(applications, _BOUNDS_NS, 1, words, _APPLICATION)
    _count(queues, BOUNDS, 1e9, words, _QUEUE)
    # The others did not wait. Where one wait has come without its application, that follows.
    waits = sum(words[_QUEUE : _QUEUE + SUM])
    words[_QUEUE] += max(0, sum(words[_APPLICATION : _APPLICATION + SUM]) - waits)
    return short + len(durations)


def _count(
    times: list[float] | list[int],
    bounds: Sequence[float],
    nanoseconds: float,
    words: list[int],
    begin: int,
) -> None:
    """Count times in the histogram whose words begin at ``begin``; one time is that many ns."""
    if not times:
        return
    # Mostly all are short: to look for the longest takes a fraction of what sorting them does.
    last = bisect_left(bounds, max(times))
    counts = [len(times)]
    if last > 0:
        times.sort()
        ends = [bisect_right(times, bound) for bound in bounds[:last]] + [len(times)]
        counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    for index, count in enumerate(counts, begin):
        words[index] += count
    words[begin + SUM] += int(sum(times) * nanoseconds)


class LockWaits:
    """Counts the waits of one worker for the interpreter lock. For one thread."""

    def __init__(self, slot: Slot) -> None:
        self._words = slot.words

    def add(self, seconds: float) -> None:
        """Count a wait."""
        self._words[LOCK_WAITS + bisect_left(BOUNDS, seconds)] += 1
        self._words[LOCK_WAITS + SUM] += int(seconds * 1e9)


def read_statuses(slot: Slot) -> dict[int, int]:
    """Return how many requests had which status code."""
    if not slot.series_in_use():
        return {}  # to look there would give it memory
    return {FIRST_STATUS + at: n for at, n in enumerate(slot.statuses.tolist()) if n}


Series = dict[int, list[int]]
"""The words of series by their numbers: of one worker, or of several together."""


def read_series(slot: Slot) -> Series:
    """Return the series that a worker has written."""
    words = slot.series
    return {
        number: words[number * SERIES_WORDS : (number + 1) * SERIES_WORDS].tolist()
        for number in slot.series_in_use()
    }


def sum_of_words(each: Iterable[Sequence[int]]) -> list[int]:
    """Return the sums of words that are in the same places."""
    return [sum(words) for words in zip(*each, strict=True)]


def sum_of_series(each: Iterable[Mapping[int, Sequence[int]]]) -> Series:
    """Return several series together."""
    found: dict[int, list[Sequence[int]]] = {}
    for series in each:
        for number, words in series.items():
            found.setdefault(number, []).append(words)
    return {number: sum_of_words(several) for number, several in found.items()}


def sum_without_websockets(series: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the words of all series together but those of WebSockets (101).

    A WebSocket lasts for as long as it is open: that is no response time.
    """
    ended = [words for number, words in series.items() if series_labels(number).status != "1xx"]
    return sum_of_words(ended or [[0] * SERIES_WORDS])


def histogram(words: Sequence[int]) -> Histogram:
    """Return a histogram from its sixteen words."""
    return Histogram(words[:SUM], words[SUM] / 1e9)


def histograms_of(words: Sequence[int]) -> dict[str, Histogram]:
    """Return the histograms of one series by `TIMES`."""
    return {
        name: histogram(words[index * HISTOGRAM_WORDS : (index + 1) * HISTOGRAM_WORDS])
        for index, name in enumerate(TIMES)
    }
