"""Metrics, as Prometheus and OpenMetrics read them: every one declared once, with its help text.

They are made from what the supervisor knows without asking a worker (`Figures`), so that a scrape
waits for none. docs/metrics.md is made from the declarations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from penstock.control.commands import WORKER_STATES
from penstock.records import dataclass
from penstock.telemetry.histograms import (
    BOUNDS,
    Histogram,
    histogram,
    histograms_of,
    series_labels,
)
from penstock.telemetry.refusals import RULES

if TYPE_CHECKING:
    from penstock.control.rows import Figures, WorkerFigures
    from penstock.telemetry.histograms import Exemplar

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float | Histogram]]

_NONE: Labels = {}

_BOUNDS: Final = (*map(repr, BOUNDS), "+Inf")
"""As both forms have them: OpenMetrics wants them as floating-point numbers."""

_SHED = ("queue_full", "queue_timeout", "client_left", "client_rate", "spool_full")
SHED: Final = {name: name for name in _SHED}
"""The reasons for which a request is not served, each with its count in `Status`."""

CLOSED: Final = {
    "idle": "evicted_idle",
    "head": "evicted_head",
    "body": "evicted_body",
    "slow_reader": "slow_reader",
    "denied": "denied",
    "client_connections": "client_connections",
}
"""The reasons for which the server closes a connection that its client has not ended."""

WAITS: Final = {
    "out_spool": "out_spool_limit",
    "spool_full": "out_spool_full",
    "descriptors": "out_spool_files",
    "disk": "out_spool_disk",
}
"""Why a response waited for its client with a thread."""


@dataclass(frozen=True)
class Metric:
    """One metric family."""

    name: str
    """Without ``_total`` and ``_info``, which depend on the kind."""
    kind: str
    """``counter``, ``gauge``, ``histogram`` or ``info``."""
    help: str
    """What it is, and what to do when it changes. One line without quotes and backslashes."""
    samples: Callable[[Figures], Samples]

    @property
    def sample_name(self) -> str:
        """The name that its samples have."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def render(figures: Figures, *, openmetrics: bool) -> bytes:
    """Return the text of all metrics, in one of the two forms."""
    lines: list[str] = []
    for metric in METRICS:
        samples = list(metric.samples(figures))
        if not samples:
            continue
        # OpenMetrics names the family, the older form the samples; and that has no kind "info".
        name = metric.name if openmetrics else metric.sample_name
        kind = "gauge" if metric.kind == "info" and not openmetrics else metric.kind
        lines.append(f"# HELP {name} {metric.help}")
        lines.append(f"# TYPE {name} {kind}")
        for labels, value in samples:
            if isinstance(value, Histogram):
                lines += _histogram_lines(metric.name, labels, value, exemplars=openmetrics)
            else:
                lines.append(f"{metric.sample_name}{_labels(labels)} {_number(value)}")
    if openmetrics:
        lines.append("# EOF")
    return "\n".join((*lines, "")).encode()


def _histogram_lines(
    name: str, labels: Labels, value: Histogram, *, exemplars: bool
) -> Iterable[str]:
    inner = _pairs(labels)
    lead = f'{name}_bucket{{{inner}{"," if inner else ""}le="'
    total = 0
    for bucket, (bound, count) in enumerate(zip(_BOUNDS, value.counts, strict=True)):
        total += count
        # A request may be reported before its bucket has counted it.
        exemplar = value.exemplars.get(bucket) if exemplars and count else None
        yield f'{lead}{bound}"}} {total}{_exemplar(exemplar) if exemplar else ""}'
    yield f"{name}_sum{_labels(labels)} {_number(value.seconds)}"
    yield f"{name}_count{_labels(labels)} {total}"


def _exemplar(exemplar: Exemplar) -> str:
    return f" # {_labels(exemplar.labels)} {_number(exemplar.seconds)} {_number(exemplar.at)}"


def accepts_openmetrics(accept: str) -> bool:
    """Return True if a scraper asks for OpenMetrics (the field Accept), and weighs it highest."""
    best, found = 0.0, False
    for item in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(value.strip())
        ours = kind == "application/openmetrics-text"
        if weight > best and (ours or kind in ("text/plain", "text/*", "*/*")):
            best, found = weight, ours
    return found


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _labels(labels: Labels) -> str:
    return f"{{{_pairs(labels)}}}" if labels else ""


def _pairs(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _number(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(float(value))


# -- where the values come from ------------------------------------------------------------------


def _count(name: str) -> Callable[[Figures], Samples]:
    return lambda figures: [(_NONE, figures["status"]["counts"][name])]


def _by(label: str, names: Mapping[str, str]) -> Callable[[Figures], Samples]:
    """Return samples for several counts, each with a label that says which it is."""
    return lambda figures: [
        ({label: value}, figures["status"]["counts"][name]) for value, name in names.items()
    ]


def _of_workers(value: Callable[[WorkerFigures], float | None]) -> Callable[[Figures], Samples]:
    """Return a sample for each slot that has a worker; of two generations, the newer one's."""

    def samples(figures: Figures) -> Samples:
        ordered = sorted(figures["workers"], key=lambda row: row["generation"])
        rows = {row["slot"]: row for row in ordered}
        found = ((slot, value(row)) for slot, row in sorted(rows.items()))
        return [({"slot": str(slot)}, it) for slot, it in found if it is not None]

    return samples


def _serving(figures: Figures) -> list[WorkerFigures]:
    return [row for row in figures["workers"] if row["serving"]]


def _threads(figures: Figures) -> Samples:
    return [(_NONE, sum(row["threads"] for row in _serving(figures)))]


def _busy(figures: Figures) -> Samples:
    return [(_NONE, sum(row["busy"] for row in figures["workers"]))]


def _capacity_ratio(figures: Figures) -> Samples:
    rows = _serving(figures)
    threads = sum(row["threads"] for row in rows)
    busy = sum(min(row["busy"], row["threads"]) for row in rows)
    return [(_NONE, busy / threads)] if threads else []


def _request_times(name: str) -> Callable[[Figures], Samples]:
    """Return a histogram of each series for one of `penstock.telemetry.histograms.TIMES`."""

    def samples(figures: Figures) -> Samples:
        for number, words in sorted(figures["series"].items()):
            found = histograms_of(words)[name]
            if any(found.counts):
                if name == "duration":
                    found = found._replace(exemplars=figures["exemplars"].get(number, {}))
                yield series_labels(number)._asdict(), found

    return samples


def _threads_by_state(figures: Figures) -> Samples:
    rows = _serving(figures)
    # One of the free threads of a worker leads. Where there is none, a thread of its own does.
    leading = sum(min(1, row["free_threads"]) for row in rows)
    return [
        ({"state": "application"}, sum(row["busy"] for row in rows)),
        ({"state": "leading"}, leading),
        ({"state": "waiting"}, sum(row["free_threads"] for row in rows) - leading),
        ({"state": "io_bound"}, figures["status"]["counts"]["io_bound"]),
    ]


def _optional(name: str) -> Callable[[Figures], Samples]:
    def samples(figures: Figures) -> Samples:
        value: float | None = figures[name]  # type: ignore[literal-required]
        return [] if value is None else [(_NONE, value)]

    return samples


def _crashes(figures: Figures) -> Samples:
    return [({"reason": reason}, n) for reason, n in sorted(figures["status"]["crashes"].items())]


def _last_reload(figures: Figures) -> Samples:
    last = figures["status"]["last_reload"]
    return [] if last is None else [(_NONE, last["at"])]


def _expiry(figures: Figures) -> Samples:
    # Two certificates may have the same names: one with an RSA key beside one with an ECDSA key.
    ends: dict[str, float] = {}
    for row in figures["status"]["certificates"]:
        name = row["names"][0] if row["names"] else ""
        ends[name] = min(row["expires"], ends.get(name, math.inf))
    return [({"name": name}, end) for name, end in ends.items()]


METRICS: Final = (
    Metric(
        "penstock",
        "info",
        "The server: its version, its transport, and the application as it was named. Compare "
        "it between hosts after a deployment.",
        lambda figures: [
            (
                {
                    "version": figures["status"]["version"],
                    "transport": figures["status"]["transport"],
                    "application": figures["status"]["application"],
                },
                1,
            )
        ],
    ),
    Metric(
        "penstock_ready",
        "gauge",
        "1 while at least one worker wants requests and the server does not stop, else 0. At 0, "
        "see penstockctl status.",
        lambda figures: [(_NONE, figures["status"]["ready"])],
    ),
    Metric(
        "penstock_start_time_seconds",
        "gauge",
        "When the supervisor started, since the epoch. It changes at a restart and at an "
        "upgrade; if none was ordered, see the error log.",
        lambda figures: [(_NONE, figures["status"]["since"])],
    ),
    # Requests
    Metric(
        "penstock_requests",
        "counter",
        "Requests handed to the application. If its rate falls while clients still ask, see "
        "penstock_requests_queued and penstock_workers.",
        _count("requests"),
    ),
    Metric(
        "penstock_request_duration_seconds",
        "histogram",
        "Time from the first byte of a request to the last byte of its response, of all "
        "requests but checks of health, with those that the server answers itself. If it grows, "
        "see which part does: the time in the queue, that in the application, or else that of "
        "sending, which is the client's.",
        _request_times("duration"),
    ),
    Metric(
        "penstock_request_first_byte_seconds",
        "histogram",
        "Time from the first byte of a request to the first byte of its response. Where it is "
        "far below the duration, clients read slowly, or responses are streamed: see "
        "penstock_connections_by_state.",
        _request_times("first_byte"),
    ),
    Metric(
        "penstock_request_queue_seconds",
        "histogram",
        "Time for which requests have waited for a thread. If it is no longer nearly 0, raise "
        "threads, or workers where the processor or the interpreter lock is busy.",
        _request_times("queue"),
    ),
    Metric(
        "penstock_request_application_seconds",
        "histogram",
        "Time for which the application has had a request, without its waits for the client. If "
        "it grows, see penstockctl slow for the requests, and penstockctl profile for the "
        "functions.",
        _request_times("application"),
    ),
    Metric(
        "penstock_request_lock_wait_seconds",
        "histogram",
        "Time for which requests of the application have waited for the interpreter lock in native "
        "code: before the call, and after a wait for the client. Where it grows, threads compute "
        "at the same time: use fewer threads and more workers. Waits within the application are "
        "not in it, and the Python transport cannot measure it: for both see "
        "penstock_interpreter_lock_wait_seconds.",
        _request_times("request_lock_wait"),
    ),
    Metric(
        "penstock_interpreter_lock_wait_seconds",
        "histogram",
        "How long a thread of a worker with requests has waited for the interpreter lock, measured "
        "once a second. Above 0.005 (one switch of threads), threads compute at the same time: use "
        "fewer threads and more workers.",
        lambda figures: [(_NONE, histogram(figures["lock_waits"]))],
    ),
    Metric(
        "penstock_requests_active",
        "gauge",
        "Requests that the application has now. If it stays at the number of threads, see "
        "penstockctl requests for what they wait for.",
        _count("in_progress"),
    ),
    Metric(
        "penstock_requests_queued",
        "gauge",
        "Requests that wait for a thread. If it stays above 0, raise threads, or workers where "
        "the processor is not busy.",
        _count("waiting"),
    ),
    Metric(
        "penstock_requests_delayed",
        "counter",
        "Requests that no thread could take at once. See penstock_request_queue_seconds for how "
        "long they waited.",
        _count("queued"),
    ),
    Metric(
        "penstock_requests_refused",
        "counter",
        "Requests that the server has refused, by rule: a setting, or else a section of an RFC. "
        "If it grows, see penstockctl refused: it has the bytes and the client of the last "
        "ones.",
        lambda figures: [
            ({"rule": rule}, count)
            for rule, count in zip(RULES, figures["refused"], strict=True)
            if count
        ],
    ),
    Metric(
        "penstock_calls_slow",
        "counter",
        "Calls of the application that have used half of their time (timeout) without progress. "
        "If it grows, see the stack of each in the log.",
        _count("deadlines_half"),
    ),
    Metric(
        "penstock_calls_expired",
        "counter",
        "Calls of the application that the server has ended for their deadline, most with 504. If "
        "it grows, see the stacks in the log, and raise timeout only for views that need it.",
        _count("deadlines_passed"),
    ),
    Metric(
        "penstock_requests_shed",
        "counter",
        "Requests that were not served, by reason: queue_full and queue_timeout got 503 (raise "
        "threads or workers), client_left had no client any more, client_rate got 429 (see "
        "max_requests_per_client), spool_full got 507 (raise max_spool, or use a larger disk "
        "for temp_dir).",
        _by("reason", SHED),
    ),
    Metric(
        "penstock_responses_spooled",
        "counter",
        "Temporary files into which streamed responses went because their clients read slowly. "
        "If it grows fast, use a fast disk for temp_dir, or raise out_buffer.",
        _count("out_spooled"),
    ),
    Metric(
        "penstock_responses_waited",
        "counter",
        "Times that a response waited for its client with a thread, by reason: out_spool (raise "
        "that setting, or threads: no more of this response may be in a temporary file), "
        "spool_full (raise max_spool), descriptors (raise ulimit -n), disk (the one of temp_dir "
        "is full, or takes nothing).",
        _by("reason", WAITS),
    ),
    Metric(
        "penstock_gc_passes",
        "counter",
        "Passes of Python's cyclic garbage collector, by generation. Counted where the setting "
        "gc is not default. If those of generation 2 grow with the requests, see "
        "penstock_gc_seconds.",
        _by("generation", {str(number): f"gc_passes_{number}" for number in range(3)}),
    ),
    Metric(
        "penstock_gc_seconds",
        "counter",
        "Time that these passes took, in which no thread of the worker ran Python code. Where "
        "much of it falls into requests, use gc = idle, which moves it between them.",
        lambda figures: [
            ({"generation": str(number)}, counted / 1e9)
            for number in range(3)
            for counted in (figures["status"]["counts"][f"gc_nanoseconds_{number}"],)
        ],
    ),
    # Connections
    Metric(
        "penstock_connections",
        "gauge",
        "Open connections of clients. At max_connections of a worker, idle ones are closed for "
        "new ones: raise it.",
        _count("connections"),
    ),
    Metric(
        "penstock_connections_by_state",
        "gauge",
        "Open connections by what they do, a second ago at most: handshaking (TLS, or a proxy's "
        "header), idle, reading a request, application (its request has a thread or waits for "
        "one), sending the rest of a response, closing. Many that read are slow clients or an "
        "attack: see max_unfinished_heads and max_connections_per_client.",
        lambda figures: [
            ({"state": state}, number) for state, number in figures["connections"].items()
        ],
    ),
    Metric(
        "penstock_received_bytes",
        "counter",
        "Bytes received from clients, with what TLS adds. If it grows and penstock_requests "
        "does not, see penstock_requests_refused, and max_body for large uploads.",
        _count("bytes_received"),
    ),
    Metric(
        "penstock_sent_bytes",
        "counter",
        "Bytes sent to clients, with what TLS adds. If it nears what the network can carry, see "
        "the access log for the large responses.",
        _count("bytes_sent"),
    ),
    Metric(
        "penstock_connections_accepted",
        "counter",
        "Connections accepted. Where it grows as fast as the requests, clients do not keep "
        "connections: see keep_alive.",
        _count("accepted"),
    ),
    Metric(
        "penstock_connections_closed",
        "counter",
        "Connections that the server closed for its own sake, by reason: idle, head and body "
        "made room for others (raise max_connections, max_unfinished_heads), slow_reader had "
        "too much unsent (raise max_unsent), denied may not connect (see allow, deny), "
        "client_connections had too many (see max_connections_per_client).",
        _by("reason", CLOSED),
    ),
    Metric(
        "penstock_tls_handshakes",
        "counter",
        "TLS handshakes that were completed. Each that resumes no session costs a signature: "
        "about a millisecond. If its rate grows, see penstock_tls_handshakes_resumed.",
        _count("handshakes"),
    ),
    Metric(
        "penstock_tls_handshakes_resumed",
        "counter",
        "TLS handshakes that resumed a session. If few do, clients do not come back, or do not "
        "reach the server that they had: use a balancer that keeps them there.",
        _count("resumptions"),
    ),
    Metric(
        "penstock_tls_handshakes_failed",
        "counter",
        "TLS handshakes that were not completed, of clients that had sent something. If it "
        "grows, see the debug log: it has each with its reason.",
        _count("handshakes_failed"),
    ),
    Metric(
        "penstock_listen_queue",
        "gauge",
        "Connections that wait in the kernel to be accepted, by address. If it stays above 0, "
        "all workers are busy: raise threads, or workers.",
        lambda figures: [
            ({"address": name}, length) for name, length in figures["listen_queues"].items()
        ],
    ),
    Metric(
        "penstock_listen_overflows",
        "counter",
        "Connections that the kernel dropped because a listen queue was full, of all servers in "
        "the network namespace. If it grows, raise backlog, or workers.",
        _optional("listen_overflows"),
    ),
    # Threads and workers
    Metric(
        "penstock_threads",
        "gauge",
        "Threads that may be in the application, of the workers that serve. If it falls, "
        "workers are missing: see penstock_workers.",
        _threads,
    ),
    Metric(
        "penstock_threads_busy",
        "gauge",
        "Threads in the application, without those that have left the count. See "
        "penstock_capacity_ratio for their share.",
        _busy,
    ),
    Metric(
        "penstock_threads_io_bound",
        "gauge",
        "Calls that have left the count of threads (penstock.io_bound). At max_io_bound of a "
        "worker, further ones keep their thread: raise it.",
        _count("io_bound"),
    ),
    Metric(
        "penstock_io_bound_refused",
        "counter",
        "Calls that could not leave the count of threads. If it grows, raise max_io_bound.",
        _count("io_bound_refused"),
    ),
    Metric(
        "penstock_websockets",
        "gauge",
        "Open WebSockets. Each has a thread beside those of the setting threads. At "
        "max_websockets of a worker, further ones get 503: raise it.",
        _count("websockets"),
    ),
    Metric(
        "penstock_websockets_refused",
        "counter",
        "WebSockets that got 503. If it grows, raise max_websockets, or workers.",
        _count("websockets_refused"),
    ),
    Metric(
        "penstock_threads_by_state",
        "gauge",
        "Threads that have started, of the workers that serve: in the application, leading (it "
        "has the sockets), waiting, and io_bound. If none is waiting for minutes, raise "
        "threads.",
        _threads_by_state,
    ),
    Metric(
        "penstock_capacity_ratio",
        "gauge",
        "The share of threads that are busy, from 0 to 1. For an autoscaler: aim at 0.6 to 0.8.",
        _capacity_ratio,
    ),
    Metric(
        "penstock_workers",
        "gauge",
        "Workers, by state. If one stays stuck or halted, see penstockctl stacks.",
        lambda figures: [
            ({"state": state}, figures["status"]["counts"][state]) for state in WORKER_STATES
        ],
    ),
    Metric(
        "penstock_workers_wanted",
        "gauge",
        "How many workers there are to be. If fewer serve, see penstockctl status.",
        lambda figures: [(_NONE, figures["status"]["workers"])],
    ),
    Metric(
        "penstock_workers_crashed",
        "counter",
        "Workers that ended without an order, by reason. If it grows, see the error log: it has "
        "the signal, and for SIGKILL whether the kernel was out of memory.",
        _crashes,
    ),
    Metric(
        "penstock_workers_recycled",
        "counter",
        "Workers that were replaced in good order, by reason: a setting (max_requests, max_age, "
        "max_memory), timeout (a request did not end after its deadline), command (penstockctl "
        "recycle), signal. If timeout grows, see penstock_calls_expired.",
        lambda figures: [
            ({"reason": reason}, n) for reason, n in sorted(figures["recycled"].items())
        ],
    ),
    Metric(
        "penstock_workers_cpu_seconds",
        "counter",
        "Processor time of all workers and other children of the supervisor, of those that have "
        "ended, too. If its rate nears the number of processors, see penstockctl profile for "
        "what they do.",
        _optional("cpu_seconds"),
    ),
    Metric(
        "penstock_worker_age_seconds",
        "gauge",
        "For how long the worker of a slot has run. If it falls often, see max_requests, "
        "max_memory, and penstock_workers_crashed.",
        _of_workers(lambda row: row["age"]),
    ),
    Metric(
        "penstock_worker_resident_bytes",
        "gauge",
        "Resident memory of the worker of a slot; what it shares with others counts. If it grows "
        "without end, set max_memory until the leak is found.",
        _of_workers(lambda row: row["memory"]),
    ),
    Metric(
        "penstock_worker_requests",
        "gauge",
        "Requests that the worker of a slot has handed to the application since it started. If "
        "one slot lags far behind the others, see penstockctl workers and stacks.",
        _of_workers(lambda row: row["requests"]),
    ),
    Metric(
        "penstock_worker_beat_age_seconds",
        "gauge",
        "Time since the last heartbeat of the worker of a slot. Above 2, native code keeps the "
        "interpreter lock, or the machine has no processor for it: see penstockctl stacks.",
        _of_workers(lambda row: row["beat"]),
    ),
    # Life cycle
    Metric(
        "penstock_reloads",
        "counter",
        "Reloads, by outcome. After a failure the old workers go on with the old settings; see "
        "the error log.",
        _by("outcome", {"success": "reloads", "failure": "reloads_failed"}),
    ),
    Metric(
        "penstock_last_reload_time_seconds",
        "gauge",
        "When the last reload ended, since the epoch. See penstock_reloads for the outcome.",
        _last_reload,
    ),
    Metric(
        "penstock_upgrades",
        "counter",
        "Upgrades of this server so far. After one, see that penstock_info has the new version.",
        _count("upgrades"),
    ),
    Metric(
        "penstock_certificate_end_time_seconds",
        "gauge",
        "When a certificate expires, since the epoch, by its first name. Alert at 14 days.",
        _expiry,
    ),
    # Resources
    Metric(
        "penstock_spooled_bytes",
        "gauge",
        "Bytes of requests and responses in temporary files, of all workers. At max_spool, "
        "uploads get 507: raise it.",
        lambda figures: [(_NONE, figures["spooled"])],
    ),
    Metric(
        "penstock_log_messages",
        "counter",
        "Messages in the error log of the server and of its workers, by level; exception is any "
        "with a traceback. If exception grows, the application fails: see the log.",
        _by(
            "level",
            {
                "warning": "log_warnings",
                "error": "log_errors",
                "exception": "log_exceptions",
                "critical": "log_criticals",
            },
        ),
    ),
    Metric(
        "penstock_log_lines_dropped",
        "counter",
        "Finished requests that were not logged, because the log was slower than the requests. "
        "If it grows, the disk or the reader of the log is too slow: raise log_queue, or log "
        "less.",
        _count("log_dropped"),
    ),
    Metric(
        "penstock_cgroup_throttled_seconds",
        "counter",
        "For how long the container's quota has kept the server from a processor. If it grows, "
        "raise the CPU limit, or lower workers.",
        _optional("throttled_seconds"),
    ),
    Metric(
        "penstock_cgroup_oom_kills",
        "counter",
        "Processes of the container that the kernel has killed for lack of memory. If it grows, "
        "raise the memory limit, or set max_memory.",
        _optional("oom_kills"),
    ),
)
