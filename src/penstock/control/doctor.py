"""What `penstockctl doctor` says: what is wrong with a server by its last hour, and what to change.

Each rule is a function that looks at the evidence, and returns what it has found, or None. A rule
wants enough evidence: a server that has served ten requests is neither slow nor fast.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from ipaddress import ip_address
from typing import Any, Final

from penstock.control.connection_pools import waits_by_pool
from penstock.control.past import Past
from penstock.control.tables import age, size
from penstock.edge.forwarded import Peers
from penstock.records import dataclass

LEAST_SECONDS: Final = 60.0
"""A server that is younger is not judged by its rates."""

LEAST_REQUESTS: Final = 100
"""Nor is one that has had fewer requests."""

BUSY_SHARE: Final = 0.85
QUEUE_SECONDS: Final = 0.02
"""A wait for a thread that clients notice."""
LOCK_SHARE: Final = 0.2
"""Of looks at the interpreter lock that had to wait for longer than one switch of threads."""
LOCK_SECONDS: Final = 0.005
LEAST_LOOKS: Final = 20
SLOW_SECONDS: Final = 1.0
ERROR_SHARE: Final = 0.02
CPU_SHARE: Final = 0.9
THROTTLED_SHARE: Final = 0.05
GROWTH: Final = 1.3
GROWTH_BYTES: Final = 64 << 20
GROWTH_SECONDS: Final = 600.0
"""The least time in which memory that grows is a leak: caches fill before."""
POOL_SHARE: Final = 0.25
LEAST_WAITING: Final = 2
"""Threads that wait for a connection at one moment: a single one is no sign of anything."""
CLIENT_SHARE: Final = 0.5
LIMITS_OF_CLIENT: Final = "--max-connections-per-client and --max-requests-per-client"
LEAST_CONNECTIONS: Final = 20
CERTIFICATE_DAYS: Final = 14


@dataclass(frozen=True)
class Evidence:
    """What is known of a server."""

    past: Past
    status: Mapping[str, Any]
    requests: Sequence[Mapping[str, Any]]
    """Those that the application has now."""
    stacks: Mapping[str, str] = field(default_factory=dict)
    """Those of the workers, as ``GET /stacks`` returns them; empty where they were not collected:
    see `wants_stacks`."""

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return int(self.status["threads"])

    @property
    def workers(self) -> int:
        """Workers that there are to be."""
        return int(self.status["workers"])

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts of the status."""
        return self.status.get("counts") or {}

    @property
    def cpus(self) -> float:
        """Processors that the server may use."""
        return float(self.status["cpus"])

    @property
    def served(self) -> float:
        """How many requests were answered."""
        return self.past.times("duration").count

    @property
    def is_enough(self) -> bool:
        """Whether rates and times of requests can be judged."""
        return self.past.seconds >= LEAST_SECONDS and self.served >= LEAST_REQUESTS

    @property
    def queue_wait(self) -> float:
        """Seconds that one in twenty requests waited for a thread, or longer."""
        return self.past.times("queue").quantile(0.95)

    @property
    def busy(self) -> float:
        """The share of the threads that were busy, from 0 to 1.

        The first row is where the span begins: after a start no thread is busy then.
        """
        threads = sum(self.past.values("threads")[1:])
        return sum(self.past.values("busy")[1:]) / threads if threads else 0.0

    @property
    def cpu(self) -> float:
        """The share of the processors that the workers used, from 0 to 1."""
        return self.past.rate("cpu_seconds") / self.cpus if self.cpus else 0.0

    @property
    def lock(self) -> float:
        """The share of looks that had to wait for the interpreter lock, from 0 to 1."""
        waits = self.past.times("lock_wait")
        return waits.share_above(LOCK_SECONDS) if waits.count >= LEAST_LOOKS else 0.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    rule: str
    what: str
    """With figures."""
    advice: str
    """What to change."""
    urgent: bool = False
    """Whether clients get errors because of it."""


Rule = Callable[[Evidence], "Finding | None"]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Have `diagnose` apply a rule; they are applied in the order of the module."""
    RULES.append(function)
    return function


def wants_stacks(status: Mapping[str, Any], requests: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if the stacks of the workers may show something.

    A worker's main thread collects them; with one thread it is in the application.
    """
    return int(status["threads"]) > 1 and len(requests) >= LEAST_WAITING


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return what all rules have found, what is urgent first."""
    found = [finding for each in RULES if (finding := each(evidence)) is not None]
    return sorted(found, key=lambda finding: not finding.urgent)


def report(evidence: Evidence, findings: Sequence[Finding]) -> str:
    """Return what is printed for people."""
    past = evidence.past
    served = past.times("duration")
    # With those that the server has refused itself; "requests" is of the application's alone.
    rate = served.count / past.seconds if past.seconds else 0.0
    lines = [
        f"the last {age(past.seconds)}: {_number(served.count)} requests, "
        f"{rate:.1f}/s; half took {_time(served.quantile(0.5))} or less, "
        f"99 % {_time(served.quantile(0.99))} or less"
    ]
    for number, finding in enumerate(findings, 1):
        urgent = "URGENT: " if finding.urgent else ""
        lines += ["", f"{number}. {urgent}{finding.what}", f"   -> {finding.advice}"]
    if not findings and evidence.is_enough:
        lines += ["", "nothing is wrong"]
    elif not findings:
        lines += [
            "",
            "nothing is wrong so far; for more there are too few requests, or too few minutes",
        ]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _count(count: float, one: str, several: str = "") -> str:
    """Return a count with the noun of what is counted."""
    return f"{_number(count)} {one if count == 1 else several or f'{one}s'}"


# -- workers that serve nothing: first, as all else may follow from it -----------------------------


@rule
def no_worker(evidence: Evidence) -> Finding | None:
    """No worker serves."""
    if evidence.status.get("state") != "down":
        return None
    last = evidence.status.get("last_error") or {}
    said = f"; the last error was: {last['message']}" if last else ""
    return Finding(
        "no-worker",
        f"no worker serves, and connections wait in the listen queue{said}",
        "the error log has why each worker ended, and penstockctl status when the next one starts",
        urgent=True,
    )


@rule
def stuck_workers(evidence: Evidence) -> Finding | None:
    """Workers do not go on."""
    stuck, halted = (evidence.counts.get(state, 0) for state in ("stuck", "halted"))
    if not stuck + halted:
        return None
    states = [
        f"{_count(n, 'worker')} {state}" for n, state in ((stuck, "stuck"), (halted, "halted")) if n
    ]
    advice = []
    if stuck:
        advice.append("penstockctl stacks shows where the calls of a stuck worker stand (PEN-6130)")
    if halted:
        advice.append(
            "a halted one was stopped by SIGSTOP or a debugger, and goes on after kill -CONT PID "
            "(penstockctl workers has the process id)"
        )
    return Finding("stuck-workers", f"{' and '.join(states)}", "; ".join(advice), urgent=True)


# -- threads, workers, processors ------------------------------------------------------------------


@rule
def interpreter_lock(evidence: Evidence) -> Finding | None:
    """Threads wait for each other, because more than one of a worker computes."""
    if evidence.lock < LOCK_SHARE or evidence.threads == 1:
        return None
    if throttled(evidence) is not None:
        return None  # the look itself had to wait for a processor
    fewer, more = max(1, evidence.threads // 2), evidence.workers * 2
    return Finding(
        "interpreter-lock",
        f"threads waited for the interpreter lock in {_percent(evidence.lock)} of the looks, on "
        f"average for {_time(evidence.past.times('lock_wait').mean)}",
        f"the requests compute rather than wait: use more workers with fewer threads (--workers "
        f"{more} --threads {fewer}), as far as there are processors ({evidence.cpus:g}). Native "
        "code can release the lock while it computes: penstockctl stacks WORKER shows which it is",
    )


@rule
def too_few_threads(evidence: Evidence) -> Finding | None:
    """Requests wait for a thread although the processors are not busy."""
    queue = evidence.queue_wait
    if not evidence.is_enough or queue < QUEUE_SECONDS or evidence.busy < BUSY_SHARE:
        return None
    what = (
        f"the {_number(evidence.threads)} threads of each worker were busy "
        f"{_percent(evidence.busy)} of the time, and 5 % of the requests waited for a thread for "
        f"{_time(queue)} or longer"
    )
    if evidence.cpu >= CPU_SHARE:
        return None  # see `busy_processors`
    if evidence.lock >= LOCK_SHARE:
        return Finding(
            "too-few-workers",
            what,
            f"raise --workers to {evidence.workers * 2}: more threads would wait for the "
            "interpreter lock",
        )
    advice = f"raise --threads to {evidence.threads * 2}"
    if connection_pool(evidence):
        advice += "; before that, see the finding about the pool of connections"
    if one_client_in_the_application(evidence):
        advice += "; before that, see the finding about the client that has most of them"
    return Finding("too-few-threads", what, advice)


@rule
def busy_processors(evidence: Evidence) -> Finding | None:
    """All processors are busy."""
    if not evidence.is_enough or evidence.cpu < CPU_SHARE:
        return None
    return Finding(
        "busy-processors",
        f"the workers used {_percent(evidence.cpu)} of {evidence.cpus:g} processors",
        "find out what computes (penstockctl profile WORKER), or add processors or machines: more "
        "threads would not help",
    )


@rule
def too_few_workers_for_processors(evidence: Evidence) -> Finding | None:
    """One worker computes on one processor, and others are idle."""
    used = evidence.past.rate("cpu_seconds")
    queue = evidence.queue_wait
    if not evidence.is_enough or evidence.workers >= evidence.cpus or queue < QUEUE_SECONDS:
        return None
    if used < CPU_SHARE * evidence.workers:
        return None
    return Finding(
        "too-few-workers",
        f"{_count(evidence.workers, 'worker')} kept a processor each busy, of {evidence.cpus:g}, "
        f"and 5 % of the requests waited for {_time(queue)} or longer",
        f"raise --workers to {evidence.cpus:g} (--workers auto)",
    )


@rule
def throttled(evidence: Evidence) -> Finding | None:
    """The container's quota keeps the processes from the processors."""
    lost = evidence.past.grown("throttled_seconds")
    if not evidence.past.seconds or lost / evidence.past.seconds < THROTTLED_SHARE:
        return None
    return Finding(
        "throttled",
        f"the container's CPU quota kept the processes waiting for {_time(lost)} in "
        f"{age(evidence.past.seconds)}",
        "raise the CPU limit of the container, or lower --workers",
    )


# -- the application -------------------------------------------------------------------------------


@rule
def slow_application(evidence: Evidence) -> Finding | None:
    """The application takes long, while its threads do not compute."""
    times = evidence.past.times("application")
    slow = times.quantile(0.95)
    if not evidence.is_enough or slow < SLOW_SECONDS or evidence.cpu >= CPU_SHARE:
        return None
    oldest = max(evidence.requests, key=lambda row: float(row["age"]), default=None)
    now = ""
    if oldest is not None:
        target = str(oldest["target"]).partition("?")[0]
        now = f"; now {oldest['method']} {target} has taken {age(oldest['age'])}"
    return Finding(
        "slow-application",
        f"5 % of the requests took the application {_time(slow)} or longer (mean "
        f"{_time(times.mean)}), and the processors were {_percent(evidence.cpu)} busy{now}",
        "it waits for something, such as a database: see where with penstockctl stacks WORKER. "
        "Until that is faster, more threads keep others from waiting; penstock.io_bound lets calls "
        "that wait leave their thread",
    )


@rule
def connection_pool(evidence: Evidence) -> Finding | None:
    """Threads wait for a connection of a pool of the application."""
    for pool, waiting in waits_by_pool(evidence.stacks.values()).most_common(1):
        calls = max(waiting, len(evidence.requests))
        if waiting < LEAST_WAITING or waiting < POOL_SHARE * calls:
            return None
        threads, workers = evidence.threads, evidence.workers
        return Finding(
            "connection-pool",
            f"{waiting} of the {calls} threads that are in the application wait for a connection "
            f"of {pool.name}",
            f"raise {pool.setting} to {threads}, as many as a worker has threads (--threads), or "
            f"lower --threads: each worker has a pool of its own, so that {workers} workers have "
            f"up to {threads * workers} connections, which the database has to allow. Where the "
            "pool is that large, connections are not given back: see penstockctl stacks",
        )
    return None


@rule
def expired_calls(evidence: Evidence) -> Finding | None:
    """Calls run into their deadline."""
    expired = evidence.past.grown("deadlines_passed")
    if not expired:
        return None
    return Finding(
        "expired-calls",
        f"{_count(expired, 'call')} of the application ran into "
        f"{'its' if expired == 1 else 'their'} deadline (504)",
        "the error log has the stack of each (PEN-6120); give the views that need longer more time "
        "with timeout_for, and not all of them with --timeout",
        urgent=True,
    )


@rule
def failing_application(evidence: Evidence) -> Finding | None:
    """Many responses are errors."""
    failed = evidence.past.grown("status.5xx")
    served = evidence.served
    if not evidence.is_enough or failed < ERROR_SHARE * served:
        return None
    return Finding(
        "failing-application",
        f"{_percent(failed / served)} of the responses were errors of the server's side (5xx): "
        f"{_number(failed)} of {_number(served)}",
        "see the tracebacks in the error log, and penstockctl failed",
        urgent=True,
    )


@rule
def crashed_workers(evidence: Evidence) -> Finding | None:
    """Workers end without an order."""
    crashed = evidence.past.grown("crashed")
    if not crashed:
        return None
    reasons = ", ".join(
        f"{number} by {reason}" for reason, number in evidence.status["crashes"].items()
    )
    what = f"{_count(crashed, 'worker')} ended without an order (since the start: {reasons})"
    begin = evidence.past.begin
    rows = [row for row in evidence.status.get("last_crashes") or () if row["at"] >= begin]
    if not rows:
        advice = "the error log has for each what it was in, and for SIGKILL whether memory ran out"
        return Finding("crashed-workers", what, advice, urgent=True)
    where, suspects = _crash_site(rows)
    return Finding(
        "crashed-workers",
        f"{what}; {where}",
        f"{suspects}. The error log has the requests that ended with them (PEN-7020), and the "
        "stacks of all threads (PEN-7021)",
        urgent=True,
    )


def _crash_site(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return where most workers crashed in native code, and what to look at because of it."""
    sites = [(", ".join(row["likely"]), " from ".join(row["frames"])) for row in rows]
    [((likely, calls), number)] = Counter(sites).most_common(1)
    of_all = f"{number} of the last {len(rows)}" if len(rows) > 1 else "the last one"
    where = f"{of_all} in {likely or 'native code'}" + (f", called by {calls}" if calls else "")
    loaded = ", ".join(rows[-1]["modules"])
    if likely:
        return where, f"see whether there is a newer version of {likely}"
    if loaded:
        return where, f"it is in a library, or in one of these extension modules: {loaded}"
    return where, "it is in a library: no extension module of others was loaded"


@rule
def growing_memory(evidence: Evidence) -> Finding | None:
    """The largest worker grows all the time."""
    sizes = evidence.past.values("largest_worker")
    if evidence.past.seconds < GROWTH_SECONDS or len(sizes) < 4:
        return None
    quarter = len(sizes) // 4
    parts = [sizes[at : at + quarter] for at in range(0, 4 * quarter, quarter)]
    means = [sum(part) / len(part) for part in parts]
    rises = all(later > earlier for earlier, later in itertools.pairwise(means))
    if not rises or means[-1] < GROWTH * means[0] or means[-1] - means[0] < GROWTH_BYTES:
        return None
    return Finding(
        "growing-memory",
        f"the largest worker grew from {size(round(means[0]))} to {size(round(sizes[-1]))} in "
        f"{age(evidence.past.seconds)}",
        "set --max-memory, so that a worker is replaced before the machine has none left, until "
        "the leak is found (tracemalloc shows where memory is taken)",
    )


@rule
def out_of_memory(evidence: Evidence) -> Finding | None:
    """The kernel kills processes."""
    kills = evidence.past.grown("oom_kills")
    if not kills:
        return None
    return Finding(
        "out-of-memory",
        f"the kernel killed {_count(kills, 'process', 'processes')} of the container for lack of "
        "memory",
        "raise the container's memory limit, lower --workers, or set --max-memory",
        urgent=True,
    )


# -- clients and connections -----------------------------------------------------------------------


@rule
def shed_requests(evidence: Evidence) -> Finding | None:
    """Requests get 503, because the queue is full or they have waited for too long."""
    full, late = (evidence.past.grown(name) for name in ("queue_full", "queue_timeout"))
    if not full + late:
        return None
    return Finding(
        "shed-requests",
        f"{_count(full + late, 'request')} got 503: {_number(full)} because the queue was full, "
        f"{_number(late)} because they had waited for too long",
        "the server gets more than it can do: see the findings about threads and processors; a "
        "longer --queue only makes clients wait longer",
        urgent=True,
    )


@rule
def impatient_clients(evidence: Evidence) -> Finding | None:
    """Clients leave before their requests get a thread."""
    left = evidence.past.grown("client_left")
    if not evidence.is_enough or left < ERROR_SHARE * evidence.served:
        return None
    return Finding(
        "impatient-clients",
        f"{_number(left)} clients left while their requests waited for a thread",
        "requests wait for longer than clients do: see the findings about threads",
    )


@rule
def full_listen_queue(evidence: Evidence) -> Finding | None:
    """The kernel drops connections."""
    overflows = evidence.past.grown("listen_overflows")
    if not overflows:
        return None
    return Finding(
        "full-listen-queue",
        f"a listen queue overflowed {_count(overflows, 'time')}, in this network namespace",
        "raise --backlog and the system's net.core.somaxconn, or --workers",
        urgent=True,
    )


@rule
def evicted_connections(evidence: Evidence) -> Finding | None:
    """Connections are closed to make room."""
    names = ("evicted_idle", "evicted_head", "evicted_body", "slow_reader")
    evicted = {name: evidence.past.grown(name) for name in names}
    if not sum(evicted.values()):
        return None
    which = ", ".join(f"{name.replace('_', ' ')} {_number(n)}" for name, n in evicted.items() if n)
    return Finding(
        "evicted-connections",
        f"connections were closed to make room for others: {which}",
        "raise --max-connections and the limit of open files, or, where it is an attack, set "
        "--max-connections-per-client",
    )


@rule
def one_client(evidence: Evidence) -> Finding | None:
    """One client holds most of the connections."""
    client = evidence.status.get("top_client") or {}
    held, open_now = int(client.get("connections", 0)), evidence.past.now("connections")
    if open_now < LEAST_CONNECTIONS or held < CLIENT_SHARE * open_now:
        return None
    address = str(client["address"])
    what = f"{address} holds {_percent(held / open_now)} of the {_number(open_now)} connections"
    if is_trusted_proxy(evidence, address):
        if not evicted_connections(evidence):
            return None  # as it is to be: they are those of all its clients
        return Finding(
            "one-client",
            f"{what}, and others were closed to make room. It is a proxy of yours "
            "(--forwarded-allow-ips): the connections are those of all its clients",
            "raise --max-connections, or have the proxy keep fewer connections open; a limit for "
            "one client would not hold for it",
        )
    return Finding("one-client", *_advice_on_client(evidence, address, what, LIMITS_OF_CLIENT))


def _advice_on_client(evidence: Evidence, address: str, what: str, limits: str) -> tuple[str, str]:
    """Return what is wrong with a client that is not known for a proxy, and what to do."""
    proxy = likely_proxy(evidence, address)
    if not proxy:
        return what, f"set {limits}; where it is a proxy of yours, name it in --forwarded-allow-ips"
    return (
        f"{what}; it {proxy}",
        "if it is a proxy of yours, name it in --forwarded-allow-ips, and the fields that it sets "
        "in --forwarded-headers: until then all its clients count as one, and a limit for one "
        f"client would hold for all of them together. If it is none, set {limits}",
    )


def is_trusted_proxy(evidence: Evidence, address: str) -> bool:
    """Return True for an address that the settings name as a proxy's."""
    try:
        return Peers.of(evidence.status.get("trusted_proxies") or ()).trusts(address)
    except (OSError, ValueError):  # a worker has written it, and may write anything
        return False


def likely_proxy(evidence: Evidence, address: str) -> str:
    """Return why an address that is not trusted looks like a proxy's; empty where it does not."""
    if address in (evidence.status.get("unknown_proxies") or ()):
        return "looks like a proxy: it sends fields of one, which are not believed (PEN-4010)"
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if known.is_loopback:
        return "may be a proxy: it runs on this machine"
    return "may be a proxy: its address is of a private network" if known.is_private else ""


@rule
def one_client_in_the_application(evidence: Evidence) -> Finding | None:
    """One client has most of the threads, and requests wait for one."""
    queue = evidence.queue_wait
    if not evidence.past.now("waiting") and queue < QUEUE_SECONDS:
        return None  # the threads are enough, even for that client
    clients = Counter(str(row["client"]).rpartition(":")[0] for row in evidence.requests)
    if not clients or len(evidence.requests) < evidence.threads * evidence.workers:
        return None
    [(address, held)] = clients.most_common(1)
    if not address or held < CLIENT_SHARE * len(evidence.requests) or held < 3:
        return None
    address = address.strip("[]")
    what = (
        f"{address} has {held} of the {len(evidence.requests)} requests that the application is "
        "in, and no thread is free"
    )
    if is_trusted_proxy(evidence, address):
        return Finding(
            "one-client-in-the-application",
            f"{what}. It is a proxy of yours (--forwarded-allow-ips), which does not say whose "
            "requests these are",
            "have the proxy set x-forwarded-for or forwarded, and name that in "
            "--forwarded-headers: until then all its clients count as one, and a limit for one "
            "client would hold for all of them together",
        )
    limits = "--max-requests-per-client"
    return Finding(
        "one-client-in-the-application", *_advice_on_client(evidence, address, what, limits)
    )


@rule
def full_disk(evidence: Evidence) -> Finding | None:
    """Uploads get 507."""
    refused = evidence.past.grown("spool_full")
    if not refused:
        return None
    return Finding(
        "full-disk",
        f"{_count(refused, 'upload')} got 507: no more bytes may be in temporary files",
        "give --temp-dir a larger disk, or raise --max-spool",
        urgent=True,
    )


@rule
def slow_log(evidence: Evidence) -> Finding | None:
    """Lines of the access log are lost."""
    lost = evidence.past.grown("log_dropped")
    if not lost:
        return None
    return Finding(
        "slow-log",
        f"the access log lacks {_count(lost, 'request')}",
        "the disk or the reader of the log is too slow: raise --log-queue, or log less",
    )


@rule
def full_handshakes(evidence: Evidence) -> Finding | None:
    """Most connections over TLS are new ones, and carry one request."""
    shaken, resumed = (evidence.past.grown(name) for name in ("handshakes", "resumptions"))
    served = evidence.served
    if not evidence.is_enough or shaken < LEAST_REQUESTS or served > 2 * shaken:
        return None
    if resumed > 0.5 * shaken:
        return None
    return Finding(
        "full-handshakes",
        f"{_number(shaken)} TLS handshakes for {_number(served)} requests, of which "
        f"{_percent(resumed / shaken)} resumed a session: each other one costs a signature",
        "have clients keep their connections (--keep-alive is how long they may be idle; a proxy "
        "in front needs keep-alive to its upstream)",
    )


# -- the life cycle --------------------------------------------------------------------------------


@rule
def frequent_recycling(evidence: Evidence) -> Finding | None:
    """Workers are replaced all the time."""
    recycled = evidence.past.grown("recycled")
    if evidence.past.seconds < LEAST_SECONDS or recycled < 5:
        return None
    if recycled / evidence.past.seconds < evidence.workers / 300:
        return None
    return Finding(
        "frequent-recycling",
        f"{_number(recycled)} workers were replaced in {age(evidence.past.seconds)}",
        "each start loads the application anew: raise --max-requests, --max-age or --max-memory, "
        "or use --preload",
    )


@rule
def failed_reload(evidence: Evidence) -> Finding | None:
    """The last reload failed."""
    last = evidence.status.get("last_reload")
    if not evidence.past.grown("reloads_failed") or last is None or last.get("done"):
        return None
    if last["at"] < evidence.status.get("since", 0):
        return None  # an upgrade has taken the new settings and code in since
    return Finding(
        "failed-reload",
        f"a reload failed, and the old workers go on: {last['message']}",
        "correct what the error log says, then reload again",
    )


@rule
def ending_certificates(evidence: Evidence) -> Finding | None:
    """A certificate expires soon, and nothing renews it."""
    for row in evidence.status.get("certificates") or ():
        if row["days"] < CERTIFICATE_DAYS and not row.get("renewal"):
            name = row["names"][0] if row["names"] else "without a name"
            return Finding(
                "ending-certificate",
                f"the certificate {name} expires in {row['days']} days",
                "renew it, and reload; --acme-domain has the server do so",
                urgent=row["days"] < 1,
            )
    return None
