"""Measure what a scrape of the metrics costs: `python benchmarks/scrape.py`.

A server with eight workers has answered requests of several methods and statuses. Then its metrics
are asked for again and again, one after the other, from the address of ``--admin``.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import environment

WORKERS = 8
SCRAPES = 200
REQUESTS = (
    ("GET", "/hello"),
    ("HEAD", "/hello"),
    ("POST", "/hello"),
    ("DELETE", "/hello"),
    ("GET", "/not-there"),
)


def ask(port: int, method: str, path: str) -> bytes:
    """Send a request, and return the response's body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path)
    body = connection.getresponse().read()
    connection.close()
    return body


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--transport", default="native")
    arguments = parser.parse_args()
    from harness.servers import free_port

    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="scrape-") as folder:
        command = [
            sys.executable, "-m", "penstock", "applications:app", "-b", f"127.0.0.1:{port}",
            "-w", str(arguments.workers), "--admin", f"127.0.0.1:{admin}",
            "--transport", arguments.transport, "--control", str(Path(folder) / "control"),
        ]  # fmt: skip
        server = subprocess.Popen(
            command,
            cwd=environment.BENCHMARKS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 20
            while True:
                try:
                    if b"\npenstock_ready 1\n" in ask(admin, "GET", "/metrics"):
                        break
                except OSError:
                    pass
                if time.monotonic() > until:
                    print("the server did not start", file=sys.stderr)
                    return 1
                time.sleep(0.1)
            for _ in range(20 * arguments.workers):
                for method, path in REQUESTS:
                    ask(port, method, path)
            time.sleep(1.5)  # what workers count in memory of their own is in shared memory then
            times = []
            for _ in range(SCRAPES):
                began = time.perf_counter()
                body = ask(admin, "GET", "/metrics")
                times.append(time.perf_counter() - began)
            cut = statistics.quantiles(times, n=100)
            print(
                f"{arguments.workers} workers, {arguments.transport}: median "
                f"{cut[49] * 1000:.2f} ms, 99 % {cut[98] * 1000:.2f} ms, {len(body)} bytes, "
                f"{body.count(bytes([10]))} lines"
            )
        finally:
            server.terminate()
            server.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
