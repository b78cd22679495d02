"""`penstockctl doctor`: each rule finds its fault, and is silent on a server that has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from penstock.config.settings import OPTIONS
from penstock.control.doctor import RULES, Finding, diagnose, report, wants_stacks
from penstock.messages import MESSAGES
from support.past import Numbers, evidence
from support.stacks import SQLALCHEMY, stack, stacks_of_worker

Change = Callable[[float, Numbers], None]


def grows(name: str, by: float) -> Change:
    """Let a count grow by so much in a second."""

    def change(seconds: float, row: Numbers) -> None:
        row[name] += by * seconds

    return change


def together(*changes: Change) -> Change:
    def change(seconds: float, row: Numbers) -> None:
        for each in changes:
            each(seconds, row)

    return change


def is_always(**values: float) -> Change:
    return lambda _seconds, row: row.update(values)


def slow_queue(seconds: float, row: Numbers) -> None:
    """Let all requests wait for a thread for up to 250 ms."""
    row["queue.0"], row["queue.6"] = 0.0, row["requests"]
    row["queue.seconds"] = 0.18 * row["requests"]


def contended(seconds: float, row: Numbers) -> None:
    """Let half of the looks at the interpreter lock wait for up to 25 ms."""
    row["lock_wait.0"], row["lock_wait.2"] = seconds / 2, seconds / 2
    row["lock_wait.seconds"] = 0.008 * seconds


def slow_application(seconds: float, row: Numbers) -> None:
    row["application.2"], row["application.10"] = 0.0, row["requests"]
    row["application.seconds"] = 2.0 * row["requests"]


def leaking(seconds: float, row: Numbers) -> None:
    row["largest_worker"] = 80e6 + 150e3 * seconds


BUSY = is_always(busy=7.8)

OF_ONE_CLIENT = [
    {"method": "GET", "target": "/", "age": 0.1, "client": f"10.0.0.{host}:{port}"}
    for port, host in enumerate([7, 7, 7, 7, 7, 7, 8, 9])
]
"""Requests in the application, one in each thread of both workers."""


def stacks_of(waiting: int, others: int) -> dict[str, Any]:
    """Return the requests and stacks of workers: how many threads wait for a connection."""
    calls = [
        {"method": "GET", "target": "/", "age": 0.1, "client": f"10.0.0.{host}:1"}
        for host in range(waiting + others)
    ]
    found = [stack(*SQLALCHEMY)] * waiting + [stack()] * others
    return {
        "requests": calls,
        "stacks": {"4711": stacks_of_worker(*found[::2]), "4712": stacks_of_worker(*found[1::2])},
    }


CRASH = {
    "at": 1.8e9 + 60,
    "worker": 7,
    "reason": "SIGSEGV",
    "frames": ["tobytes (PIL/Image.py:10)", "view (shop/views.py:3)"],
    "likely": ["PIL._imaging"],
    "modules": ["PIL._imaging", "_foo"],
}
OTHER_CRASH = CRASH | {
    "frames": ["view (shop/views.py:9)"],
    "likely": [],
    "modules": ["_bar", "_foo"],
}
BARE_CRASH = CRASH | {"frames": [], "likely": [], "modules": []}

# A rule, a server that has its fault, and the figures and settings that it has to name.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("too-few-threads", {"change": together(BUSY, slow_queue)}, "9[78]% of the.*--threads to 8"),
    (
        "interpreter-lock",
        {"change": together(BUSY, contended)},
        "50% of the looks.*--workers 4 --threads 2.*release the lock",
    ),
    (
        "too-few-workers",
        {"change": together(BUSY, slow_queue, contended)},
        "--workers to 4.*interpreter lock",
    ),
    ("busy-processors", {"change": grows("cpu_seconds", 3.6)}, "95% of 4 processors.*profile"),
    (
        "too-few-workers",
        {"change": together(grows("cpu_seconds", 1.7), slow_queue)},
        "2 workers.*raise --workers to 4",
    ),
    ("throttled", {"change": grows("throttled_seconds", 0.2)}, "360.0 s in 30m00s.*CPU limit"),
    (
        "slow-application",
        {
            "change": slow_application,
            "requests": [
                {"method": "GET", "target": "/report?token=1", "age": 3.0, "client": "10.0.0.1:1"}
            ],
        },
        "2.4 s or longer.*now GET /report has taken 3.0s.*stacks",
    ),
    (
        "connection-pool",
        stacks_of(6, 2),
        "6 of the 8 threads.*SQLAlchemy's QueuePool -> raise pool_size.*to 4.*2 workers have up to "
        "8 connections",
    ),
    ("expired-calls", {"change": grows("deadlines_passed", 0.01)}, "18 calls.*PEN-6120"),
    ("failing-application", {"change": grows("status.5xx", 1.0)}, "10%.*tracebacks"),
    (
        "crashed-workers",
        {"change": grows("crashed", 3 / 1800), "crashes": {"SIGSEGV": 3}},
        "3 workers.*3 by SIGSEGV",
    ),
    (
        "crashed-workers",
        {"change": grows("crashed", 3 / 1800), "last_crashes": [OTHER_CRASH, CRASH, CRASH]},
        r"2 of the last 3 in PIL._imaging, called by tobytes \(PIL/Image.py:10\) from view "
        r"\(shop/views.py:3\) -> see whether there is a newer version of PIL._imaging.*PEN-7021",
    ),
    (
        "crashed-workers",
        {"change": grows("crashed", 1 / 1800), "last_crashes": [OTHER_CRASH]},
        r"the last one in native code, called by view \(shop/views.py:9\) -> it is in a library, "
        "or in one of these extension modules: _bar, _foo",
    ),
    (
        "crashed-workers",
        {"change": grows("crashed", 1 / 1800), "last_crashes": [BARE_CRASH]},
        "the last one in native code -> it is in a library: no extension module",
    ),
    (
        "crashed-workers",
        {"change": grows("crashed", 1 / 1800), "crashes": {"SIGKILL": 1}},
        "1 worker ended without an order",
    ),
    (
        "no-worker",
        {"state": "down", "last_error": {"at": 1.8e9, "message": "no module named shop"}},
        "no worker serves.*was: no module named shop -> the error log.*penstockctl status",
    ),
    ("no-worker", {"state": "down", "last_error": None}, "in the listen queue -> the error log"),
    (
        "stuck-workers",
        {"counts": {"serving": 0, "stuck": 1, "halted": 2}},
        "1 worker stuck and 2 workers halted -> penstockctl stacks.*PEN-6130.*kill -CONT",
    ),
    (
        "stuck-workers",
        {"counts": {"serving": 1, "stuck": 0, "halted": 1}},
        "1 worker halted -> a halted one was stopped by SIGSTOP",
    ),
    ("growing-memory", {"change": leaking}, "MiB in 30m00s.*--max-memory"),
    ("out-of-memory", {"change": grows("oom_kills", 2 / 1800)}, "2 processes.*memory limit"),
    ("shed-requests", {"change": grows("queue_full", 0.1)}, "180 requests got 503.*--queue"),
    ("impatient-clients", {"change": grows("client_left", 1.0)}, "1,800 clients left"),
    ("full-listen-queue", {"change": grows("listen_overflows", 14 / 1800)}, "14 times.*--backlog"),
    ("evicted-connections", {"change": grows("evicted_idle", 0.1)}, "idle 180.*--max-connections"),
    (
        "one-client",
        {
            "change": is_always(connections=100),
            "top_client": {"address": "8.8.4.4", "connections": 61},
        },
        "8.8.4.4 holds 61% of the 100 connections -> set --max-connections-per-client",
    ),
    (
        "one-client-in-the-application",
        {"change": is_always(waiting=2), "requests": OF_ONE_CLIENT},
        "10.0.0.7 has 6 of the 8.*--max-requests-per-client",
    ),
    ("full-disk", {"change": grows("spool_full", 0.01)}, "18 uploads got 507.*--temp-dir"),
    ("slow-log", {"change": grows("log_dropped", 1.0)}, "lacks 1,800 requests.*--log-queue"),
    ("full-handshakes", {"change": grows("handshakes", 9.0)}, "16,200 TLS.*--keep-alive"),
    ("frequent-recycling", {"change": grows("recycled", 0.05)}, "90 workers.*--max-requests"),
    (
        "failed-reload",
        {
            "change": grows("reloads_failed", 1 / 1800),
            "last_reload": {"at": 1.8e9, "message": "no module named shop", "done": False},
        },
        "no module named shop.*reload again",
    ),
    (
        "ending-certificate",
        {"certificates": [{"names": ["a.test"], "expires": 1.8e9, "days": 5, "renewal": None}]},
        "a.test expires in 5 days",
    ),
]


def test_a_failed_reload_is_no_fault_once_another_one_has_succeeded() -> None:
    last = {"at": 1.8e9, "message": "reloaded: generation 3 serves", "done": True}
    found = diagnose(evidence(change=grows("reloads_failed", 1 / 1800), last_reload=last))
    assert "failed-reload" not in {finding.rule for finding in found}


def test_a_failed_reload_is_no_fault_once_an_upgrade_has_taken_the_server_over() -> None:
    last = {"at": 1.8e9, "message": "no module named shop", "done": False}
    failed: dict[str, Any] = {"change": grows("reloads_failed", 1 / 1800), "last_reload": last}
    for since, expected in ((1.8e9 - 1, ["failed-reload"]), (1.8e9 + 1, [])):
        found = diagnose(evidence(**failed, since=since))
        assert [finding.rule for finding in found] == expected


def test_a_crash_from_before_is_no_place_of_those_that_are_counted() -> None:
    earlier = CRASH | {"at": 1.8e9 - 1}
    found = diagnose(evidence(change=grows("crashed", 1 / 1800), last_crashes=[earlier]))
    assert [finding.rule for finding in found] == ["crashed-workers"]
    assert "PIL" not in str(found)


@pytest.mark.parametrize(
    ("name", "server", "expected"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_each_fault_is_found_and_said_with_figures_and_what_to_change(
    name: str, server: dict[str, Any], expected: str
) -> None:
    found = {finding.rule: finding for finding in diagnose(evidence(**server))}
    assert name in found
    said = f"{found[name].what} -> {found[name].advice}"
    assert re.search(expected, said), said


def test_that_no_worker_serves_is_said_first() -> None:
    found = diagnose(evidence(change=grows("crashed", 4 / 1800), state="down"))
    assert [finding.rule for finding in found] == ["no-worker", "crashed-workers"]


def test_every_rule_has_a_case() -> None:
    silent = {rule.__name__ for rule in RULES}
    for _, server, _ in CASES:
        judged = evidence(**server)
        silent -= {rule.__name__ for rule in RULES if rule(judged) is not None}
    assert not silent


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"minutes": 0},
        {"minutes": 0.5, "change": together(BUSY, slow_queue, slow_application)},
        # Busy threads for which no request waits, and waits that are not the threads'.
        {"change": BUSY},
        {"change": slow_queue},
        # A cache that fills in the first minutes.
        {"change": lambda s, row: row.update(largest_worker=80e6 + 100e6 * min(s / 300, 1.0))},
        # One request in 200 fails.
        {"change": grows("status.5xx", 0.05)},
        # A proxy that has all of a few connections, and one that a worker each is recycled by.
        {"top_client": {"address": "10.0.0.7", "connections": 12}},
        # One that has all threads, for which no request waits.
        {"requests": OF_ONE_CLIENT},
        # Threads that have their connections, and one that waits for a moment.
        stacks_of(0, 8),
        stacks_of(1, 2),
        stacks_of(2, 14),
        {"last_crashes": [CRASH]},  # and none is counted since the hour began
        {"change": grows("recycled", 0.001)},
        {
            "certificates": [
                {"names": ["a.test"], "expires": 1.8e9, "days": 5, "renewal": "ACME, in 2 days"}
            ]
        },
        {"change": together(grows("handshakes", 9.0), grows("resumptions", 8.0))},
        {"change": grows("throttled_seconds", 0.01)},
    ],
)
def test_no_rule_says_anything_of_a_server_without_a_fault(server: dict[str, Any]) -> None:
    assert diagnose(evidence(**server)) == []


def test_waits_for_a_processor_are_not_taken_for_waits_for_the_interpreter_lock() -> None:
    found = diagnose(evidence(change=together(contended, grows("throttled_seconds", 0.2))))
    assert [finding.rule for finding in found] == ["throttled"]


def test_the_idle_threads_of_the_start_are_not_in_the_share_of_busy_ones() -> None:
    def busy_since(seconds: float, row: Numbers) -> None:
        row["busy"] = 7.2 if seconds else 0.0

    found = diagnose(evidence(minutes=1, change=together(slow_queue, busy_since)))
    assert [finding.rule for finding in found] == ["too-few-threads"]
    assert "90% of the time" in found[0].what


def test_threads_are_not_the_first_advice_where_one_client_has_them() -> None:
    busy = together(BUSY, slow_queue)
    alone = diagnose(evidence(change=busy))
    assert [finding.advice for finding in alone] == ["raise --threads to 8"]
    flooded = diagnose(evidence(change=busy, requests=OF_ONE_CLIENT))
    assert [finding.rule for finding in flooded] == [
        "too-few-threads",
        "one-client-in-the-application",
    ]
    assert "before that, see the finding about the client" in flooded[0].advice


def test_threads_are_not_the_first_advice_where_they_wait_for_a_connection() -> None:
    found = diagnose(evidence(change=together(BUSY, slow_queue), **stacks_of(6, 2)))
    assert [finding.rule for finding in found] == ["too-few-threads", "connection-pool"]
    assert "before that, see the finding about the pool of connections" in found[0].advice


@pytest.mark.parametrize(
    ("threads", "calls", "wants"), [(4, 2, True), (4, 1, False), (1, 8, False)]
)
def test_stacks_are_collected_where_several_threads_may_wait(
    threads: int, calls: int, wants: bool
) -> None:
    assert wants_stacks({"threads": threads}, OF_ONE_CLIENT[:calls]) is wants


MOST_CONNECTIONS = is_always(connections=100)


def of_client(rule: str, **server: Any) -> str:
    """Return what a rule about a client says; empty where it is silent."""
    found = {finding.rule: finding for finding in diagnose(evidence(**server))}
    return f"{found[rule].what} -> {found[rule].advice}" if rule in found else ""


def test_a_client_that_sends_fields_of_a_proxy_is_said_to_look_like_one() -> None:
    top = {"address": "8.8.4.4", "connections": 61}
    known: dict[str, Any] = {"top_client": top, "unknown_proxies": ["8.8.4.4"]}
    said = of_client("one-client", change=MOST_CONNECTIONS, **known)
    assert "8.8.4.4 holds 61% of the 100 connections; it looks like a proxy" in said
    assert "not believed (PEN-4010) -> if it is a proxy of yours, name it in" in said
    assert "If it is none, set --max-connections-per-client" in said


@pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.2", "fd00::7", "fe80::1%eth0", "::1"])
def test_a_client_of_a_private_network_is_said_to_be_a_proxy_perhaps(address: str) -> None:
    top = {"address": address, "connections": 61}
    said = of_client("one-client", change=MOST_CONNECTIONS, top_client=top)
    here = "it runs on this machine" if address == "::1" else "its address is of a private network"
    assert f"may be a proxy: {here}" in said
    assert "--forwarded-allow-ips" in said


def test_a_proxy_that_is_trusted_has_most_connections_without_harm() -> None:
    top = {"address": "10.1.0.7", "connections": 100}
    assert of_client("one-client", change=MOST_CONNECTIONS, top_client=top) == ""
    full = together(MOST_CONNECTIONS, grows("evicted_idle", 0.1))
    said = of_client("one-client", change=full, top_client=top)
    assert "It is a proxy of yours (--forwarded-allow-ips)" in said
    assert "raise --max-connections" in said
    assert "per-client" not in said


@pytest.mark.parametrize("address", ["nonsense", "10.0.0", "1.2.3.4.5", "[::1", "\xff" * 48])
def test_an_address_that_a_worker_has_made_up_is_that_of_a_client(address: str) -> None:
    top = {"address": address, "connections": 61}
    said = of_client("one-client", change=MOST_CONNECTIONS, top_client=top)
    assert "set --max-connections-per-client" in said


def test_a_proxy_that_does_not_say_whose_requests_it_has_is_told_to() -> None:
    calls = [row | {"client": f"10.1.0.7:{port}"} for port, row in enumerate(OF_ONE_CLIENT)]
    rule = "one-client-in-the-application"
    said = of_client(rule, change=is_always(waiting=2), requests=calls)
    assert "10.1.0.7 has 8 of the 8 requests" in said
    assert "It is a proxy of yours" in said
    assert "x-forwarded-for" in said
    assert "--max-requests-per-client" not in said
    said = of_client(rule, change=is_always(waiting=2), requests=OF_ONE_CLIENT)
    assert "10.0.0.7 has 6 of the 8" in said
    assert "may be a proxy" in said


def test_what_is_urgent_comes_first() -> None:
    found = diagnose(evidence(change=together(leaking, grows("deadlines_passed", 0.1))))
    assert [finding.urgent for finding in found] == [True, False]


def test_the_report_has_the_rate_the_times_and_the_findings() -> None:
    judged = evidence(change=together(BUSY, slow_queue))
    text = report(judged, diagnose(judged))
    assert text.startswith("the last 30m00s: 18,000 requests, 10.0/s; half took 18 ms or less")
    assert "\n1. the 4 threads of each worker were busy" in text
    assert "\n   -> raise --threads to 8\n" in text
    assert "nothing is wrong\n" in report(evidence(), [])
    assert "too few requests" in report(evidence(minutes=0), [])


def test_the_rate_of_the_report_is_that_of_the_requests_it_counts() -> None:
    def refused(seconds: float, row: Numbers) -> None:
        row["requests"] /= 2  # the application got the half

    assert "18,000 requests, 10.0/s" in report(evidence(change=refused), [])


def test_advice_names_settings_and_messages_that_exist() -> None:
    known = {f"--{name.replace('_', '-')}" for name in OPTIONS}
    said = [
        text
        for _, server, _ in CASES
        for finding in diagnose(evidence(**server))
        for text in (finding.what, finding.advice)
    ]
    flags = {flag for text in said for flag in re.findall(r"--[a-z-]+", text)}
    assert flags <= known
    ids = {found for text in said for found in re.findall(r"PEN-\d+", text)}
    assert ids <= {message.id for message in MESSAGES.values()}


def test_a_finding_is_plain_data() -> None:
    finding = Finding("slow-log", "a", "b")
    assert (finding.rule, finding.what, finding.advice, finding.urgent) == (
        "slow-log",
        "a",
        "b",
        False,
    )
