"""What both transports decide alike: one table, which is run on both.

A row is a function of `penstock.transport.decisions`, what it is given, and what it returns. Times
are seconds; for native code True is 1 and None is None.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest

from penstock.http1 import ParserLimits
from penstock.transport import decisions
from penstock.transport.config import TransportConfig

CONFIG = TransportConfig(
    drain_linger=0.5,
    parser=ParserLimits(body=1 << 30),
    max_connections=100,
    max_descriptors=120,
    max_connections_per_client=10,
    max_unfinished_heads=50,
    body_memory=1000,
    ample_body_memory=2000,
    max_body_memory=5000,
    max_spool=4 << 30,
    max_unsent=1 << 20,
    max_io_bound=100,
    max_websockets=50,
    threads=4,
    exclusive_wake=True,
    stream_requests="auto",
    out_buffer=1000,
    out_spool=10_000,
    store_bytes=1 << 18,
    max_storing=1 << 20,
)
LINGERING, IDLE, HEAD, BODY, CALL = decisions.Holding
GO_ON, WAIT, SPOOL, WAIT_AT_LIMIT = decisions.OutputStep
NONE, FULL, FILES = decisions.SpoolRefusal
STAYS, HALF_CLOSED, GONE = decisions.Leaving
NEVER, LATER, NOW = decisions.HandOver
Value = float | None

TABLE: dict[str, list[tuple[Sequence[Value], float]]] = {
    # A worker's connections, the fewest of the others, threads.
    "leaves_to_others": [
        ((9, None, 4), False),  # no other worker would accept
        ((0, 0, 4), False),
        ((1, 0, 4), False),  # one more is no reason to wait
        ((2, 0, 4), True),
        ((1, 0, 1), True),  # but it is where a new connection may wait for a thread
        ((4, 4, 4), False),
        ((5, 4, 4), True),
        ((16, 16, 4), False),
        ((17, 16, 4), False),  # and one for each sixteen
        ((18, 16, 4), True),
        ((1062, 1000, 4), False),
        ((1063, 1000, 4), True),
    ],
    # Whether no other worker serves, whether it may not accept, connections, descriptors.
    "watches_exclusively": [
        ((False, False, 0, 0), True),
        ((True, False, 0, 0), False),  # it is woken anyway, at no cost
        ((False, True, 0, 0), False),
        ((False, False, 99, 119), True),
        ((False, False, 100, 100), False),  # the others know of a client that it has no room for
        ((False, False, 0, 120), False),
    ],
    # A worker's connections, the fewest of the others.
    "steps_back": [
        ((1, None), False),  # no other worker would accept
        ((1, 2), False),  # it is new, and has not got its share
        ((1, 1), True),
        ((1, 0), True),
    ],
    # For how long clients have waited in the kernel, requests that wait here, the fewest elsewhere.
    "accepts_into_queue": [
        ((0.0, 0, None), False),  # the worker that comes free first takes the next client
        ((0.9, 0, 0), False),
        ((1.0, 0, 0), True),
        ((1.0, 5, 0), True),  # where it goes is for `leaves_to_others` to say
        ((0.0, 5, 0), False),  # another worker may come free before
        ((0.0, 5, 1), True),  # requests wait everywhere
        ((0.0, 5, None), True),
        ((0.0, 0, 5), False),
    ],
    # How many first reads may begin, which connection it is.
    "reads_at_once": [
        ((64, 1), True),
        ((1, 63), True),
        ((0, 63), False),  # clients send nothing with the connection
        ((0, 64), True),  # but others may have come
        ((0, 65), False),
    ],
    # How many first reads may begin, whether one has found something.
    "first_read_credit": [
        ((64, False), 63),
        ((0, False), 0),  # the one that was tried without credit
        ((0, True), 2),
        ((61, True), 63),
        ((63, True), 64),
        ((64, True), 64),
    ],
    # Whether no other worker serves, how often it left connections to others, how often it had to
    # take them all the same.
    "accept_step": [
        ((False, 0, 0), 4),
        ((False, 4, 9), 4),
        ((False, 5, 0), 1),
        ((False, 5, 1), 2),
        ((False, 6, 3), 8),
        ((False, 5, 6), 64),
        ((False, 5, 60), 64),
        ((True, 0, 0), 64),  # there is no other worker to leave any to
        ((True, 5, 0), 64),
    ],
    # The events of a poll.
    "turn_seconds": [((0,), 0.1), ((64,), 0.1), ((65,), 0.01)],
    # Idle connections.
    "evicted": [((0,), 0), ((1,), 1), ((15,), 1), ((16,), 2), ((1600,), 101)],
    # What a connection has its place for, for how long, and how much of a body has come.
    "eviction_key": [
        ((LINGERING, 0.5, 0), -1),  # its client may still read the response
        ((LINGERING, 2.0, 0), 3e9 + 2),
        ((IDLE, 0.5, 0), -1),  # it may be about to send its first request
        ((IDLE, 1.0, 0), 2e9 + 1),
        ((IDLE, 75.0, 0), 2e9 + 75),  # the one that is idle for longest goes first
        ((HEAD, 0.5, 0), -1),
        ((HEAD, 30.0, 0), 1e9 + 30),  # the oldest unfinished head after all idle ones
        ((BODY, 0.5, 1), -1),
        ((BODY, 100.0, 50_000), 0.002),  # 500 bytes a second
        ((BODY, 100.0, 50), 2.0),  # the slowest body comes last
        ((BODY, 60.0, 0), 60.0),
        ((CALL, 600.0, 0), -1),  # a request that is served is never evicted
    ],
    # Connections of a worker, and its transport's descriptors.
    "has_room": [((99, 119), True), ((100, 100), False), ((99, 120), False)],
    # Connections of a client.
    "client_has_room": [((0,), True), ((9,), True), ((10,), False)],
    "exceeds_heads": [((50,), False), ((51,), True)],
    # The deadline so far, now, when the body began, and how many bytes came now.
    "body_deadline": [
        ((120.0, 100.0, 100.0, 0), 120.0),
        ((120.0, 101.0, 100.0, 500), 121.0),  # a second for the 500 bytes of a second
        ((120.0, 101.0, 100.0, 1 << 30), 161.0),  # a fast beginning buys a minute of silence
        ((160.0, 159.0, 100.0, 1), 160.002),  # a byte a minute buys nothing
        ((10_900.0, 10_850.0, 100.0, 1 << 20), 10_900.0),  # three hours for a whole body
    ],
    # The deadline so far, when the body began, and for how long the disk kept it waiting.
    "body_deadline_after_storing": [
        ((120.0, 100.0, 0.0), 120.0),
        ((120.0, 100.0, 3600.0), 3720.0),  # the client is not blamed for the disk
        ((120.0, 100.0, 20_000.0), 10_900.0),  # three hours for a whole body
    ],
    # Bytes that wait for the disk.
    "disk_is_full": [((0,), False), ((3 << 18,), False), (((3 << 18) + 1,), True)],
    # The deadline, and when the body began.
    "exceeds_body_time": [
        ((10_899.0, 100.0), False),
        ((10_900.0, 100.0), True),
        ((120.0, 100.0), False),
    ],
    # Bytes of a body in memory, and of all bodies.
    "body_room": [
        ((0, 0), 2000),  # few bodies
        ((400, 400), 1600),
        ((1200, 1249), 800),
        ((1200, 1250), 0),  # a quarter of what all may take
        ((400, 1250), 600),
        ((1000, 1250), 0),
        ((0, 4500), 500),
        ((400, 5000), 0),
        ((400, 5001), 0),
    ],
    # Bytes in memory, and bytes that wait for the disk.
    "input_is_scarce": [
        ((0, 0), False),
        ((2499, 0), False),
        ((1250, 1249), False),
        ((1250, 1250), True),
        ((0, 2500), True),
        ((5000, 0), True),
    ],
    # The length of a body, what all workers have on the disk, and how much more it is.
    "spool_status": [
        ((1 << 30, 0, 1 << 20), 0),
        (((1 << 30) + 1, 0, 1), 413),
        ((1 << 20, (4 << 30) - 1, 1), 0),
        ((1 << 20, 4 << 30, 1), 507),
        (((1 << 30) + 1, 4 << 30, 1), 413),
    ],
    "most_ahead": [((), 1)],
    "exceeds_unsent": [((1 << 20,), False), (((1 << 20) + 1,), True)],
    "far_exceeds_unsent": [((17 << 16,), False), (((17 << 16) + 1,), True)],
    "is_relieved": [((15 << 16,), True), (((15 << 16) + 1,), False)],
    # Bytes in memory, bytes that went into the file, seconds of waiting.
    "output_step": [
        ((1000, 0, 60.0), GO_ON),
        ((1000, 10_000, 60.0), GO_ON),
        ((1001, 0, 0.0), WAIT),
        ((1001, 0, 0.019), WAIT),
        ((1001, 0, 0.021), SPOOL),
        ((1001, 1, 0.0), SPOOL),  # once there is a file it does not wait
        ((1001, 8999, 0.0), SPOOL),
        ((1001, 9000, 60.0), WAIT_AT_LIMIT),  # but for the bound
        ((1001, 9000, 0.019), WAIT),
        ((10_000, 0, 60.0), SPOOL),
        ((10_001, 0, 60.0), WAIT_AT_LIMIT),
    ],
    # Bytes in temporary files, bytes that are to come, descriptors without a file for it.
    "out_spool_refusal": [
        (((2 << 30) - 1, 1, 119), NONE),
        ((2 << 30, 1, 119), FULL),
        ((0, 1, 120), FILES),
        ((0, 1, None), NONE),
        ((2 << 30, 1, None), FULL),
    ],
    # Bytes unsent, bytes taken, seconds.
    "time_to_read": [
        ((1000, 1000, 2.0), 2.0),
        ((8_000_000, 0, 10.0), 80_000_000.0),  # one that never reads is the slowest
        ((8_000_000, 1_000_000, 10.0), 80.0),
        ((100, 1_000_000, 0.0), 0.0),
    ],
    "queue_has_room": [((1023,), True), ((1024,), False)],
    # How long a request has waited, what its client does, whether the overload is sustained.
    "queued_status": [
        ((29.9, STAYS, False), 0),
        ((30.1, STAYS, False), 503),
        ((29.9, STAYS, True), 0),
        ((0.1, HALF_CLOSED, False), 0),  # it may wait for the answer
        ((30.1, HALF_CLOSED, False), 503),
        ((0.1, HALF_CLOSED, True), 499),
        ((0.1, GONE, False), 499),
        ((30.1, GONE, True), 499),
    ],
    # Requests that wait, the mean time of a call, threads.
    "retry_after": [
        ((0, 0.0, 4), 1),
        ((1024, 0.02, 4), 6),
        ((200, 0.02, 4), 1),
        ((1024, 1.0, 4), 30),
        ((1, 0.5, 0), 1),
    ],
    # For how long the queue has been full.
    "ready_with_queue": [((0.0,), True), ((4.9,), True), ((5.0,), False)],
    # Threads, and calls that have left their count.
    # Calls that have left the count of threads, and threads.
    "may_leave_count": [
        ((0, 4), True),
        ((99, 2), True),
        ((100, 4), False),
        ((0, 1), False),  # the main thread alone runs the application
    ],
    # WebSockets that are open.
    "may_open_websocket": [((0,), True), ((49,), True), ((50,), False)],
    # Whether the target is https, whether the connection is secure.
    # Content-Length, whether the client waits for 100 Continue, how many are read already; this
    # configuration has "auto". It has four threads, and a kilobyte of memory for a body.
    "streams_body": [
        ((1000, False, 0), False),
        ((1001, False, 0), True),
        ((1, True, 0), True),
        ((None, True, 0), False),  # chunks, which have no CONTENT_LENGTH
        ((1001, True, 1), True),
        ((1001, True, 2), False),  # half of the threads are for others
    ],
    # Content-Length, how much has come, within which time, how many are read already.
    "hand_over": [
        ((100_000, 2000, 0.02, 1), NOW),
        ((100_000, 2000, 0.021, 1), NEVER),  # the rest would take more than a second
        ((100_000, 2000, 0.02, 2), LATER),  # half of the threads are for others
        ((100_000, 2000, 0.021, 2), NEVER),
        ((2000, 2000, 60.0, 0), NOW),  # all has come
        ((None, 2000, 0.0, 0), NEVER),
        ((2_002_000, 2000, 0.0, 1), NOW),
        ((2_002_001, 2000, 0.0, 1), NEVER),  # it had come before it was read, at any speed
    ],
    "most_streamed": [((), 2)],
    "accepts_scheme": [
        ((False, False), True),
        ((False, True), True),  # a proxy's target, or one in the form of HTTP/1.0
        ((True, False), False),
        ((True, True), True),
    ],
    # Whether the client waits for 100 Continue, how much of the body is left, and arrived.
    "keeps_connection": [
        ((False, 0, 0), True),
        ((False, 1, 0), False),  # what has not come may be the next request
        ((False, 2, 1), False),
        ((False, 2, 2), True),
        ((False, 256 * 1024, 300 * 1024), True),
        ((False, 256 * 1024 + 1, 300 * 1024), False),
        ((False, None, 5), False),  # a chunked body
        ((True, 1, 1), False),  # it may never come
        ((True, 1, 0), False),
    ],
    # Whether the client asked for the close in a request without a body, how many requests there
    # were, whether it has sent more, bytes of the response's body, whether there is TLS.
    "lingers": [
        ((True, 1, False, 0, False), False),
        ((True, 1, False, 12 * 1024, False), False),
        ((True, 1, False, 12 * 1024 + 1, False), True),  # some may not have left yet
        ((False, 1, False, 10, False), True),
        ((True, 2, False, 10, False), True),  # a response before may not have left yet
        ((True, 1, True, 10, False), True),
        ((True, 1, False, 10, True), True),
    ],
    # Now, when lingering began, whether the transport drains.
    "linger_deadline": [
        ((100.0, 100.0, False), 102.0),
        ((105.0, 100.0, False), 107.0),
        ((109.0, 100.0, False), 110.0),  # ten seconds in all
        ((100.0, 100.0, True), 100.5),
        ((109.75, 100.0, True), 110.0),
    ],
    # Whether a head has begun.
    "drain_patience": [((False,), 0.5), ((True,), 2.0)],
    # A path's share of slow calls in 254 parts, and whether another one was slow.
    "next_share": [
        ((0, False), 0),
        ((0, True), 32),
        ((32, True), 60),
        ((32, False), 28),
        ((1, False), 0),
        ((253, True), 254),
        ((254, True), 254),
    ],
    "next_overall_share": [
        ((0.0, True), 0.05),
        ((0.5, False), 0.475),
        ((1.0, True), 1.0),
        ((0.0001, False), 0.0),
    ],
    "is_slow_path": [((0,), False), ((64,), False), ((65,), True), ((254,), True)],
}

ROWS = [(name, given, wanted) for name, rows in TABLE.items() for given, wanted in rows]


def reference(name: str, given: Sequence[Value]) -> float:
    """Return what the function of Python returns."""
    function = getattr(decisions, name)
    parameters = list(inspect.signature(function).parameters.values())
    config = [CONFIG] if parameters[0].name == "config" else []
    names = [parameter.name for parameter in parameters[len(config) :]]
    returned: float = function(*config, **dict(zip(names, given, strict=True)))
    return returned


@pytest.mark.parametrize(("name", "given", "wanted"), ROWS)
def test_the_reference_decides_by_the_table(
    name: str, given: Sequence[Value], wanted: float
) -> None:
    assert reference(name, given) == pytest.approx(float(wanted))


@pytest.mark.parametrize(("name", "given", "wanted"), ROWS)
def test_native_code_decides_by_the_table(name: str, given: Sequence[Value], wanted: float) -> None:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    numbers = [None if value is None else float(value) for value in given]
    assert native.NativeTransport.decide(CONFIG, name, numbers) == pytest.approx(
        float(wanted), abs=1e-6
    )


def test_every_decision_has_a_table() -> None:
    functions = {name for name, member in vars(decisions).items() if inspect.isfunction(member)}
    assert functions == TABLE.keys()


def test_native_code_knows_no_other_decision() -> None:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    assert native.NativeTransport.decide(CONFIG, "another", []) is None
