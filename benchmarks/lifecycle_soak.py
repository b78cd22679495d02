"""Soak the life cycle: reloads, kills, recycling and upgrades under load, and nothing may be lost.

`make lifecycle-soak ARGS="--seconds 600"`. Prints what was served, what was lost and why, and how
descriptors and memory went. The status is 1 where a request was lost that was not on a connection
of a worker at the moment when the soak killed it, or where something has grown.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import environment
from harness.disturbing import Disturber
from harness.watching import Watch, described
from support.lifecycle import Supervised
from support.load import Asked, Counts, Load, Loss, plain, upload

PROGRESS_SECONDS = 10.0
LOOK_SECONDS = 0.05
MOST_GROWTH_KIB = 2048
"""Of a supervisor's resident memory, or of the workers' median, between begin and end."""
MOST_LOSSES_TOLD = 20


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    try:
        with environment.sole_run(), tempfile.TemporaryDirectory() as folder:
            with Supervised(Path(folder), *_server_arguments(arguments, folder)) as server:
                problems = _soak(server, arguments)
                if server.stop(40) != 0:
                    problems.append("the server that was started first ended with an error")
            if left := server.members():
                problems.append(f"processes are left: {left}")
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    for text in problems:
        print(f"FAILED: {text}")
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Soak Penstock's life cycle.")
    add = parser.add_argument
    add("--seconds", type=float, default=600.0, help="default: %(default)s")
    add("--transport", choices=("native", "python"), default="native")
    add("--workers", type=int, default=3, help="default: %(default)s")
    add("--threads", type=int, default=4, help="of a worker; default: %(default)s")
    add("--keep-alive", type=int, default=24, help="clients that keep connections; %(default)s")
    add("--closing", type=int, default=8, help="clients that do not; default: %(default)s")
    add("--reload-every", type=float, default=4.0, help="seconds; 0 is never; %(default)s")
    add("--kill-every", type=float, default=7.0, help="seconds; 0 is never; %(default)s")
    add("--upgrade-every", type=float, default=60.0, help="seconds; 0 is never; %(default)s")
    add("--max-requests", type=int, default=20_000, help="of a worker; default: %(default)s")
    add("--seed", type=int, default=1, help="of the random choices; default: %(default)s")
    return parser.parse_args()


def _server_arguments(arguments: argparse.Namespace, folder: str) -> list[str]:
    return [
        *("--workers", str(arguments.workers), "--threads", str(arguments.threads)),
        *("--transport", arguments.transport, "--pid", f"{folder}/pid"),
        *("--max-requests", str(arguments.max_requests)),
        *("--max-requests-jitter", str(arguments.max_requests // 4)),
    ]


def mixed(number: int) -> Asked:
    """Return mostly small requests; some are slow, some bodies are stored, some answers long."""
    kind = number % 64
    if kind in (5, 21, 37):
        return upload(number, (300, 30_000, 150_000)[number % 3])
    if kind in (11, 43):
        return plain(number, "/pieces")
    if kind in (17, 49):
        return plain(number, "/work")
    if kind == 31:
        return plain(number, "/large")
    return plain(number)


def _soak(server: Supervised, arguments: argparse.Namespace) -> list[str]:
    disturber = Disturber(server, random.Random(arguments.seed))
    disturber.plan(
        reload=arguments.reload_every,
        kill=arguments.kill_every,
        upgrade=arguments.upgrade_every,
    )
    watch = Watch(server)
    end = time.monotonic() + arguments.seconds
    shown = time.monotonic()
    with Load(
        server.address,
        keep_alive=arguments.keep_alive,
        closing=arguments.closing,
        ask=mixed,
        at_most=arguments.seconds + 60,
    ) as load:
        while time.monotonic() < end and load.is_alive:
            disturber.look()
            watch.look(load.counts.answered)
            if time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                left = max(0.0, end - shown)
                print(f"{left:5.0f} s left: {load.counts}", file=sys.stderr, flush=True)
            time.sleep(LOOK_SECONDS)
    return _told(load.counts, disturber, watch)


def _told(counts: Counts, disturber: Disturber, watch: Watch) -> list[str]:
    """Print what has been found; return what is wrong, a line each."""
    excused = [loss for loss in counts.losses if disturber.excuses(loss)]
    lost = [loss for loss in counts.losses if loss not in excused]
    named = disturber.named_by_the_log()
    print(f"{counts.answered:,} requests answered on {counts.connections:,} connections")
    print(f"{counts.refused} connections refused, {counts.closed_idle} closed while idle")
    print(f"the longest wait for an answer: {counts.slowest:.2f} s")
    print(f"done: {described(disturber.done)}; recycled by the server: {disturber.recycled()}")
    print(f"generations that answered: {len({tag.partition(':')[0] for tag in counts.servers})}")
    print(f"worker processes that answered: {len(counts.servers):,}")
    print(
        f"{len(excused)} requests failed on connections of the {disturber.done['kill']} workers "
        f"that were killed, at that moment; {sum(loss.target in named for loss in excused)} of "
        "them the server's log names as in progress"
    )
    print(f"{len(lost)} requests were lost otherwise: {described(_kinds(lost))}")
    print("the log's lines of level WARNING and above, without their numbers:")
    for text, count in sorted(disturber.complaints().items()):
        print(f"  {count:>6} x {text}")
    problems = [str(loss) for loss in lost[:MOST_LOSSES_TOLD]]
    if counts.refused:
        problems.append(f"{counts.refused} connections were refused")
    return problems + watch.problems(MOST_GROWTH_KIB)


def _kinds(losses: list[Loss]) -> Counter[str]:
    return Counter(loss.ending.name for loss in losses)


if __name__ == "__main__":
    sys.exit(main())
