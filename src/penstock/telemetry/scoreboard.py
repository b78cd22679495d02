"""The scoreboard: shared memory with each worker's heartbeat, counts and requests.

A scoreboard is anonymous memory that forked children share. Nothing is written to a disk, and it
can still be read when the worker that wrote it is dead or hangs. There is a slot for each worker:
first its words, then the histograms of its requests (`penstock.telemetry.histograms`), then a
record for each of its threads. A record points into a ring of entries: one has the request that the
thread is in, the others have the last ones before it. So remembering a request costs no more than
moving on to the next entry.

Every number is a word of eight bytes in the machine's own order. One side alone writes it, in one
store, so no lock is needed. The native transport writes the same words. The numbers here are the
layout, and a test compares the two.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, overload

from penstock.config.budgets import most_calls
from penstock.records import dataclass

WORD = 8
SLOT_WORDS = 192
"""Words at the beginning of a slot: whole cache lines, with room for more counts."""
SERIES = 120
"""Series of histograms in a slot: see `penstock.telemetry.histograms`."""
SERIES_WORDS = 80
"""Words of one series."""
STATUSES = 512
"""Words behind the series: how many requests had the status code 100, 101 and so on."""
RECORD_BYTES = 64
"""Bytes of a thread's record: eight words. Those of all threads stand one behind the other..."""
ENTRY_BYTES = 512
"""... and behind them their entries, of this size: eight words, and then text."""
RINGS_BESIDE = 16
"""How many records beyond those of `threads` have a ring of entries. The others have one entry: few
threads ever use them, and there may be thousands."""

RECORDS_AT = (SLOT_WORDS + SERIES * SERIES_WORDS + STATUSES) * WORD
"""Where the records begin in a slot, in bytes."""

# -- the words of a slot, and who writes them ----------------------------------------------------

STATE = 0
"""`FREE`, `BOOTING` and so on. Written by the worker."""
PID = 1
"""Written by the worker."""
BEAT = 2
"""When the thread that watches deadlines last ran, in monotonic nanoseconds. It needs the GIL."""
READY = 3
"""1 if a load balancer should send requests. Written by the worker and by the supervisor."""
CONNECTIONS = 4
"""Open connections. Written by the transport, as are the next six."""
ACCEPTING = 5
"""1 if it would accept now: it does not drain, has a free thread, and has file descriptors."""
POLLED = 6
"""When the transport last looked at its sockets, in monotonic nanoseconds; 1 while it waits."""
STARTED = 7
"""Requests handed to the application so far."""
WAITING = 8
"""Requests that wait for a thread."""
ACCEPTED = 9
"""Connections accepted so far."""
LIVE = 10
"""1 while at least one thread is not stuck. Written by the thread that watches deadlines."""
IN_USE = 11
"""In the first slot alone: how many slots, from the first, may be in use. Written by the
supervisor."""
SPOOLED = 12
"""Bytes of requests and responses in the worker's temporary files. Written by the transport."""
IO_BOUND_CALLS = 13
"""Calls that have left the count of threads: by `penstock.io_bound`, or with a WebSocket. Written
by the transport, as are the next two."""
WEBSOCKETS = 32
"""Calls that have a WebSocket."""
QUEUE_FULL_SINCE = 34
"""When the queue became full, in monotonic nanoseconds; 0 once it has been half empty since."""

# Words of a slot that only grow: what the transport has refused, evicted, cut off or dropped.
HANDSHAKES_FAILED = 14
"""TLS handshakes that were not completed, of clients that had sent something."""
OUT_SPOOLED = 15
"""Temporary files into which streamed responses went whose clients read slowly."""
QUEUE_FULL = 16
"""Requests that got 503 because `queue` requests were waiting for a thread."""
QUEUE_TIMEOUT = 17
"""Requests that got 503 because they had waited for `queue_timeout`."""
CLIENT_LEFT = 18
"""Requests whose client left before a thread was free (499)."""
EVICTED_IDLE = 19
"""Idle connections that were closed to make room."""
EVICTED_HEAD = 20
"""Connections that were closed within a head, to make room or because of their number."""
EVICTED_BODY = 21
"""Connections that were closed within a request's body, to make room."""
DENIED = 22
"""Connections that were closed because their client may not connect (`allow`, `deny`)."""
CLIENT_CONNECTIONS = 23
"""Connections that were closed because their client had `max_connections_per_client`."""
CLIENT_RATE = 24
"""Requests that got 429 (`max_requests_per_client`)."""
SPOOL_FULL = 25
"""Requests that got 507 because no more bytes may be in temporary files, or the disk is full."""
SLOW_READER = 26
"""Responses that were cut off because of the unsent bytes of all of them (`max_unsent`)."""
LOG_DROPPED = 27
"""Finished requests that were not logged, because too many waited for the log."""
IO_BOUND_REFUSED = 28
"""How often ``penstock.io_bound`` could not let a call leave the count: `max_io_bound` calls had
left it, or no thread could be started."""
OUT_SPOOL_FULL = 29
"""Waits for a client, because no more bytes of responses may be in temporary files."""
OUT_SPOOL_FILES = 30
"""Waits for a client, because no descriptor was left for a temporary file."""
OUT_SPOOL_DISK = 31
"""Waits for a client, because the disk did not take the response."""
OUT_SPOOL_LIMIT = 54
"""Waits for a client, because no more bytes of its response may be in a temporary file."""
WEBSOCKETS_REFUSED = 33
"""WebSockets that got 503: `max_websockets` were open, or there was no thread or descriptor."""
QUEUED = 35
"""Requests that no thread could take at once."""
BYTES_RECEIVED = 36
"""Bytes that were received from clients, with what TLS adds."""
BYTES_SENT = 37
"""Bytes that were sent to clients, with what TLS adds."""
HANDSHAKES = 38
"""TLS handshakes that were completed."""
RESUMPTIONS = 39
"""Those of them that resumed a session."""
DEADLINES_HALF = 40
"""Calls that had half of their time behind them (`timeout`). Written by the thread that watches
deadlines, as is the next one."""
DEADLINES_PASSED = 41
"""Calls that the server has ended, most with 504, because their time was over."""

# How many connections do what, as of the last look of the thread that watches deadlines.
HANDSHAKING = 42
"""Connections within a TLS handshake, or before the header of a proxy."""
IDLE = 43
"""Connections without a request."""
READING = 44
"""Connections of which a request is read."""
IN_APPLICATION = 45
"""Connections whose request waits for a thread, or has one."""
SENDING = 46
"""Connections whose response is finished, and not sent to its end."""
CLOSING = 47
"""Connections that are closed for writing, and wait for their client to close."""

LOG_WARNINGS = 50
"""Messages of this level in the worker's error log, as are the next three."""
LOG_ERRORS = 51
"""Errors without a traceback."""
LOG_EXCEPTIONS = 52
"""Messages with a traceback."""
LOG_CRITICALS = 53

SERIES_USED = 48
"""Which series of the histograms are in use: a bit for each, in two words."""
LOCK_WAITS = 64
"""The histogram of waits for the interpreter lock, in sixteen words. Written by the thread that
watches deadlines."""

REFUSED = 80
"""Requests that were refused, by `penstock.telemetry.refusals.RULES`: a word for each."""

TOP_CLIENT = 128
"""How many connections the client has that has the most, as of the last look."""
TOP_CLIENT_ADDRESS = 129
"""Its address: text in `ADDRESS_WORDS` words, filled up with zeros."""
ADDRESS_WORDS = 6
FORWARDING_PEER = 135
"""The address of the first peer that has sent a field of a proxy and is not trusted, likewise."""

GC_PASSES = 56
"""Passes of the cyclic garbage collector over each of its three generations: three words. Where the
setting gc is not ``default``; written by the worker, as are the next three."""
GC_NANOSECONDS = 59
"""How long these took, in nanoseconds: three words."""

COUNTED: dict[str, int] = {
    "queue_full": QUEUE_FULL,
    "queue_timeout": QUEUE_TIMEOUT,
    "client_left": CLIENT_LEFT,
    "evicted_idle": EVICTED_IDLE,
    "evicted_head": EVICTED_HEAD,
    "evicted_body": EVICTED_BODY,
    "denied": DENIED,
    "client_connections": CLIENT_CONNECTIONS,
    "client_rate": CLIENT_RATE,
    "spool_full": SPOOL_FULL,
    "slow_reader": SLOW_READER,
    "log_dropped": LOG_DROPPED,
    "io_bound_refused": IO_BOUND_REFUSED,
    "websockets_refused": WEBSOCKETS_REFUSED,
    "handshakes_failed": HANDSHAKES_FAILED,
    "out_spooled": OUT_SPOOLED,
    "out_spool_limit": OUT_SPOOL_LIMIT,
    "out_spool_full": OUT_SPOOL_FULL,
    "out_spool_files": OUT_SPOOL_FILES,
    "out_spool_disk": OUT_SPOOL_DISK,
    "queued": QUEUED,
    "bytes_received": BYTES_RECEIVED,
    "bytes_sent": BYTES_SENT,
    "handshakes": HANDSHAKES,
    "resumptions": RESUMPTIONS,
    "deadlines_half": DEADLINES_HALF,
    "deadlines_passed": DEADLINES_PASSED,
    "log_warnings": LOG_WARNINGS,
    "log_errors": LOG_ERRORS,
    "log_exceptions": LOG_EXCEPTIONS,
    "log_criticals": LOG_CRITICALS,
    **{f"gc_passes_{generation}": GC_PASSES + generation for generation in range(3)},
    **{f"gc_nanoseconds_{generation}": GC_NANOSECONDS + generation for generation in range(3)},
}
"""The words that only grow by the names that answers of the control socket have for them."""

# -- the words of a thread's record --------------------------------------------------------------

THREAD = 0
"""The thread's `threading.get_ident()`; 0 where no thread has the record."""
IO_BOUND = 1
"""`LEFT_COUNT` while the call has left the count of threads, and `WEBSOCKET` while it has one: the
sum of both, or 0."""
SINCE = 2
"""When the application was called, in monotonic nanoseconds."""
DEADLINE = 3
"""When the call must have made progress, in monotonic nanoseconds; 0 is never."""
ENTRY = 4
"""Which of the thread's entries has the request."""
PROGRESS = 5
"""When the application last handed over a block of the response, in monotonic nanoseconds, plus the
time for which its thread has waited for the client since; 0 before the first block."""
AWAITING_CLIENT = 6
"""Since when the thread waits for its client, in monotonic nanoseconds: such time does not count
against the deadline. 0 while the application has the thread."""
NUMBER = 7
"""The request that the thread is in, counted from 1; 0 if none. Written last when one begins."""

# -- the words of an entry, and its text ---------------------------------------------------------

BEGUN = 0
"""When the application was called, in monotonic nanoseconds; 0 where the entry is empty, or is
being written."""
TOOK = 1
"""How long the call took until its response was over, in nanoseconds; 0 before, and where the
transport writes down only what is unusual, of a call that did not count as slow."""
STATUS = 2
"""The status code of the response; 0 stands for 200, and `NO_RESPONSE` for none."""
LENGTHS = 3
"""Lengths of method, client, id and target in bytes: 16 bits each, in this order in memory. 0 where
each of them ends with its first 0."""

TEXTS = ((64, 24), (88, 56), (144, 64), (208, 304))
"""Where method, client, id and target are in an entry, and how many bytes each may have."""

LEFT_COUNT, WEBSOCKET = 1, 2
"""What `IO_BOUND` is the sum of."""

_MOST_OF_TARGET = TEXTS[3][1]

# One call for each of both, as they are written for each request. `pack_into` clears what it writes
# to first, and then writes in the order of memory: the padding sets TOOK, STATUS and LENGTHS,
# PROGRESS and AWAITING_CLIENT to 0, and NUMBER comes last. Each value that is packed costs as much
# as a line of Python.
_SIZES = "".join(f"{most}s" for _, most in TEXTS)
_pack_entry = struct.Struct(f"@Q{7 * WORD}x{_SIZES}").pack_into
_read_entry = struct.Struct(f"@{3 * WORD}x4H{4 * WORD}x{_SIZES}").unpack_from
_pack_begin = struct.Struct(f"@QQQ{2 * WORD}xQ").pack_into
_BEGIN_AT = SINCE * WORD
_pack_end = struct.Struct("@QQ").pack_into
_END_AT = TOOK * WORD

NO_RESPONSE = 1
"""A value of `STATUS`."""

FREE, BOOTING, SERVING, DRAINING, STUCK = range(5)

STALE_BEAT_SECONDS = 10.0
"""A worker without a heartbeat for this long is not live: something keeps the GIL."""


@dataclass(frozen=True)
class RequestInProgress:
    """A request that the application has, as the scoreboard shows it."""

    thread: int
    """Which of the worker's records holds it, from 0."""
    ident: int
    """The thread's `threading.get_ident()`."""
    number: int
    method: str
    target: str
    """Cut off after 304 bytes."""
    client: str
    """Address and port; empty for a unix socket."""
    request_id: str
    since: float
    """When the application was called, on the monotonic clock, in seconds."""
    deadline: float | None
    """When the call must have made progress, on the same clock."""
    io_bound: bool = False
    """Whether the call has left the count of threads by `penstock.io_bound`."""
    websocket: bool = False
    """Whether it has a WebSocket."""

    @property
    def age(self) -> float:
        """How long the call has lasted, in seconds; 0 where the record is nonsense."""
        return max(0.0, time.monotonic() - self.since)

    def __str__(self) -> str:
        """Return the request as a log names it."""
        client = self.client or "a unix socket"
        return (
            f"{self.method} {self.target} (request {self.request_id}, {self.age:.1f} s old, "
            f"from {client})"
        )


@dataclass(frozen=True)
class PastRequest:
    """A request that the application had before, as the scoreboard shows it."""

    thread: int
    """Which of the worker's records holds it, from 0."""
    method: str
    target: str
    """Cut off after 304 bytes."""
    client: str
    """Address and port; empty for a unix socket."""
    request_id: str
    since: float
    """When the application was called, on the monotonic clock, in seconds."""
    took: float
    """How long the call took until its response was over, in seconds; 0 where that was too short to
    be written down."""
    status: int
    """The status code; 0 where there was no response."""

    def __str__(self) -> str:
        """Return the request as a log names it, without its query."""
        age = max(0.0, time.monotonic() - self.since)
        took = f"{self.took:.4f} s" if self.took else "less than 1 ms"
        return (
            f"{self.method} {without_query(self.target)} (request {self.request_id}, "
            f"{self.status or 'no response'} after {took}, begun {age:.1f} s ago, "
            f"thread {self.thread})"
        )


def without_query(target: str) -> str:
    """Return a target with ``...`` in the place of its query, which may hold secrets."""
    path, mark, _ = target.partition("?")
    return f"{path}?..." if mark else path


class Scoreboard:
    """The shared memory of all workers that were started with the same settings."""

    def __init__(self, slots: int, threads: int, most_beside: int = 0, past: int = 0) -> None:
        """Allocate ``slots`` slots, for workers of ``threads`` threads each.

        Up to ``most_beside`` calls leave the count of threads: `Settings.most_beside`. Each thread
        has its last ``past`` requests there, besides the one that it is in.
        """
        self.threads = threads
        self.records = most_calls(threads, most_beside)
        """Records in each slot."""
        self.rings = min(self.records, threads + RINGS_BESIDE) if past else 0
        """How many of them have a ring of entries."""
        self.entries = past + 1
        """Entries in a ring."""
        count = self.rings * past + self.records
        self.entries_at = RECORDS_AT + self.records * RECORD_BYTES
        """Where they begin in a slot."""
        self.slot_bytes = self.entries_at + count * ENTRY_BYTES
        self.memory = mmap.mmap(-1, slots * self.slot_bytes)
        self.slots = [Slot(self, index) for index in range(slots)]
        self._taken: set[int] = set()

    def entries_of(self, record: int) -> tuple[int, int]:
        """Return where the entries of a record begin in a slot, and how many there are."""
        rings, past = min(record, self.rings), self.entries - 1
        begin = self.entries_at + (record + rings * past) * ENTRY_BYTES
        return begin, self.entries if record < self.rings else 1

    @property
    def is_private(self) -> bool:
        """Whether it has a single slot: the worker runs without a supervisor."""
        return len(self.slots) == 1

    def take(self) -> Slot | None:
        """Return a free slot, cleared and marked as booting; None if there is none."""
        for slot in self.slots:
            # What the memory says of it does not count: every worker can write to every slot.
            if slot.index not in self._taken:
                self._taken.add(slot.index)
                slot.clear()
                slot.words[STATE] = BOOTING
                self._count_in_use()
                return slot
        return None

    def in_use(self) -> list[Slot]:
        """Return the slots that may be in use: a few, as a scoreboard has many more."""
        return self.slots[: self.slots[0].words[IN_USE]]

    def spooled(self) -> int:
        """Return the bytes of request bodies in the temporary files of all workers."""
        return sum(slot.words[SPOOLED] for slot in self.in_use())

    def _count_in_use(self) -> None:
        self.slots[0].words[IN_USE] = max(self._taken, default=-1) + 1

    def give_back(self, slot: Slot) -> None:
        """Make a slot free, and clear it."""
        slot.clear()
        self._taken.discard(slot.index)
        self._count_in_use()


class Slot:
    """The part of the scoreboard that one worker writes."""

    def __init__(self, scoreboard: Scoreboard, index: int) -> None:
        self.scoreboard = scoreboard
        self.index = index
        begin = index * scoreboard.slot_bytes
        self.bytes = memoryview(scoreboard.memory)[begin : begin + scoreboard.slot_bytes]
        self.words = self.bytes[: SLOT_WORDS * WORD].cast("Q")
        """The words of the slot, by the names above: ``slot.words[CONNECTIONS]``."""
        statuses_at = RECORDS_AT - STATUSES * WORD
        self.series = self.bytes[SLOT_WORDS * WORD : statuses_at].cast("Q")
        """The words of all series, one series after the other."""
        self.statuses = self.bytes[statuses_at:RECORDS_AT].cast("Q")
        """How many requests had which status code, from 100 on."""
        self.records = Records(self)
        """One for each call that the worker may have at once."""

    def taken_records(self) -> Iterator[Record]:
        """Yield the records up to the last one that a thread has taken."""
        yield from (self.records[number] for number in range(self._taken()))

    def _taken(self) -> int:
        """Return how many records there are up to the last one that a thread has taken."""
        words = self.bytes[RECORDS_AT : self.scoreboard.entries_at].cast("Q")
        step = RECORD_BYTES // WORD
        threads, numbers = words[THREAD::step].tolist(), words[NUMBER::step].tolist()
        both = enumerate(zip(threads, numbers, strict=True), 1)
        return max((count for count, known in both if any(known)), default=0)

    def clear(self) -> None:
        """Set every byte to 0.

        Pages that no thread has used are zero already, and stay without memory.
        """
        used = self.series_in_use()
        for number in used:
            begin = SLOT_WORDS * WORD + number * SERIES_WORDS * WORD
            self.bytes[begin : begin + SERIES_WORDS * WORD] = bytes(SERIES_WORDS * WORD)
        if used:
            self.bytes[RECORDS_AT - STATUSES * WORD : RECORDS_AT] = bytes(STATUSES * WORD)
        end = self.scoreboard.entries_at
        if taken := self._taken():
            begin, count = self.scoreboard.entries_of(taken - 1)
            end = begin + count * ENTRY_BYTES
        self.bytes[RECORDS_AT:end] = bytes(end - RECORDS_AT)
        self.bytes[: SLOT_WORDS * WORD] = bytes(SLOT_WORDS * WORD)

    def series_in_use(self) -> list[int]:
        """Return the numbers of the series that count at least one request."""
        used = self.words[SERIES_USED] | self.words[SERIES_USED + 1] << 64
        return [number for number in range(SERIES) if used >> number & 1] if used else []

    def use_series(self, number: int) -> None:
        """Mark a series as one that counts requests. Any thread may, more than once."""
        self.words[SERIES_USED + (number >> 6)] |= 1 << (number & 63)

    def set_top_client(self, address: str, connections: int) -> None:
        """Write which client has the most connections; empty is none, or unix sockets."""
        self._set_address(TOP_CLIENT_ADDRESS, address)
        self.words[TOP_CLIENT] = connections

    def top_client(self) -> tuple[str, int]:
        """Return which client has the most connections, and how many."""
        return self._address(TOP_CLIENT_ADDRESS), self.words[TOP_CLIENT]

    def set_forwarding_peer(self, address: str) -> None:
        """Write which peer sends fields of a proxy and is not trusted."""
        self._set_address(FORWARDING_PEER, address)

    def forwarding_peer(self) -> str:
        """Return which peer that was; empty for none, and for a unix socket."""
        return self._address(FORWARDING_PEER)

    def _set_address(self, word: int, address: str) -> None:
        begin, most = word * WORD, ADDRESS_WORDS * WORD
        text = address.encode("latin-1", "replace")[:most]
        self.bytes[begin : begin + most] = text.ljust(most, b"\0")

    def _address(self, word: int) -> str:
        text = bytes(self.bytes[word * WORD : (word + ADDRESS_WORDS) * WORD])
        return text.rstrip(b"\0").decode("latin-1")

    def read(self, words: range) -> list[int]:
        """Return words that stand one behind the other."""
        return self.words[words.start : words.stop].tolist()

    @property
    def beat_age(self) -> float | None:
        """Seconds since the last heartbeat; None before the first."""
        beat = self.words[BEAT]
        return max(0.0, (time.monotonic_ns() - beat) / 1e9) if beat else None

    @property
    def queue_full_for(self) -> float:
        """For how many seconds the queue has been full; 0 while it is not."""
        since = self.words[QUEUE_FULL_SINCE]
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    @property
    def is_live(self) -> bool:
        """Whether the worker makes progress: it has a heartbeat, and not every thread is stuck."""
        age = self.beat_age
        return self.words[LIVE] == 1 and (age is None or age < STALE_BEAT_SECONDS)

    def longest_call(self) -> float:
        """Return for how long the oldest call of the application has lasted, in seconds; 0 if none.

        That is a look at each thread's record.
        """
        now = time.monotonic_ns()
        begun = [record.words[SINCE] for record in self.taken_records() if record.words[NUMBER]]
        return max(0.0, (now - min(begun, default=now)) / 1e9)

    def calls_of_count(self) -> int:
        """Return how many calls the application has now, without those that left the count."""
        return sum(
            record.words[NUMBER] != 0 and not record.words[IO_BOUND] & LEFT_COUNT
            for record in self.taken_records()
        )

    def free_threads(self) -> int:
        """Return how many threads of the worker have started, and have no call."""
        records = [record.words for record in self.taken_records()]
        return sum(words[THREAD] != 0 and words[NUMBER] == 0 for words in records)

    def requests(self) -> Iterator[RequestInProgress]:
        """Yield the requests that the application has now."""
        for record in self.taken_records():
            request = record.read()
            if request is not None:
                yield request

    def past_requests(self) -> Iterator[PastRequest]:
        """Yield the last requests of each thread, in the order of threads, the newest first."""
        for record in self.taken_records():
            yield from record.past()


class Records(Sequence["Record"]):
    """The records of a slot, each made when it is first asked for.

    There are hundreds, of which few are ever used, and each would take a kilobyte in every process.
    Two threads may both make one, which does no harm: they are views of the same memory.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._made: dict[int, Record] = {}

    def __len__(self) -> int:
        """Return how many there are, whether made or not."""
        return self._slot.scoreboard.records

    @overload
    def __getitem__(self, number: int) -> Record: ...

    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...

    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        """Return a record by its number."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        record = self._made.get(number)
        if record is None:
            if not 0 <= number < len(self):
                raise IndexError(number)
            record = self._made[number] = Record(self._slot, number)
        return record


class Record:
    """The request that one thread is in. That thread alone writes it; any process reads it."""

    def __init__(self, slot: Slot, number: int) -> None:
        self.number = number
        begin = RECORDS_AT + number * RECORD_BYTES
        self._bytes = slot.bytes[begin : begin + RECORD_BYTES]
        self.words = self._bytes.cast("Q")
        at, count = slot.scoreboard.entries_of(number)
        places = range(at, at + count * ENTRY_BYTES, ENTRY_BYTES)
        self._entries = [slot.bytes[place : place + ENTRY_BYTES] for place in places]
        self._ring = cycle(enumerate(self._entries))

    def begin(
        self,
        number: int,
        since: int,
        deadline: int,
        method: str,
        client: bytes,
        request_id: str,
        target: str,
    ) -> memoryview:
        """Write a request; the times are monotonic nanoseconds. Return its entry, for `note_end`.

        The target is latin-1, method and id are ASCII. A text that is too long is cut off.
        ``client`` is encoded once, for all requests of a connection.
        """
        if len(target) > _MOST_OF_TARGET:
            target = target[:_MOST_OF_TARGET]
        index, entry = next(self._ring)
        _pack_entry(
            entry,
            0,
            since,
            method.encode(),
            client,
            request_id.encode(),
            target.encode("latin-1"),
        )
        _pack_begin(self._bytes, _BEGIN_AT, since, deadline, index, number)
        return entry

    def end(self) -> None:
        """Mark the thread as not in a request: the application has returned."""
        self.words[NUMBER] = 0

    def read(self) -> RequestInProgress | None:
        """Return the request that the thread is in, if it is in one."""
        words = self.words
        number = words[NUMBER]
        if number == 0:
            return None
        entry = self._entries[words[ENTRY] % len(self._entries)]
        method, client, request_id, target = _texts_of(_read_entry(entry))
        ident, since, deadline = words[THREAD], words[SINCE], words[DEADLINE]
        io_bound = words[IO_BOUND]
        if words[NUMBER] != number:  # it ended while it was read
            return None
        return RequestInProgress(
            thread=self.number,
            ident=ident,
            number=number,
            method=method,
            target=target,
            client=client,
            request_id=request_id,
            since=since / 1e9,
            deadline=deadline / 1e9 if deadline else None,
            io_bound=io_bound == LEFT_COUNT,
            websocket=bool(io_bound & WEBSOCKET),
        )

    def past(self) -> list[PastRequest]:
        """Return the last requests of the thread without the one that it is in, newest first."""
        number, current = self.words[NUMBER], self.words[ENTRY]
        found = []
        for index, entry in enumerate(self._entries):
            if number and index == current:
                continue
            words = entry.cast("Q")
            begun, took, status = words[BEGUN], words[TOOK], words[STATUS]
            method, client, request_id, target = _texts_of(_read_entry(entry))
            if not begun or words[BEGUN] != begun:
                continue  # another request takes its place
            found.append(
                PastRequest(
                    thread=self.number,
                    method=method,
                    target=target,
                    client=client,
                    request_id=request_id,
                    since=begun / 1e9,
                    took=took / 1e9,
                    status=0 if status == NO_RESPONSE else status or 200,
                )
            )
        return sorted(found, key=lambda request: -request.since)


def note_end(entry: memoryview, took: int, status: int) -> None:
    """Note in an entry how long the call took, in nanoseconds, and the status; 0 for none."""
    _pack_end(entry, _END_AT, took, status or NO_RESPONSE)


def _texts_of(unpacked: tuple[Any, ...]) -> tuple[str, str, str, str]:
    """Return method, client, id and target of an entry, whatever a worker has written there."""
    lengths, texts = unpacked[:4], unpacked[4:]
    if not any(lengths):
        lengths = tuple(map(len, (text.partition(b"\0")[0] for text in texts)))
    method, client, request_id, target = (
        text[:length].decode("latin-1") for length, text in zip(lengths, texts, strict=True)
    )
    return method, client, request_id, target
