"""The page of all metrics, docs/metrics.md, made from their declarations."""

from __future__ import annotations

from penstock.control.metrics import METRICS

_INTRODUCTION = """\
# Metrics

`GET /metrics` on the address of [`--admin`](settings.md#admin) returns what the server knows of all
its workers, in one scrape. Prometheus gets its text format, and OpenMetrics where it asks for that.
`penstockctl metrics` prints the same.

```
penstock shop.wsgi:application --admin 127.0.0.1:8001
curl http://127.0.0.1:8001/metrics
```

```yaml
scrape_configs:
  - job_name: penstock
    static_configs:
      - targets: ["127.0.0.1:8001"]
```

The supervisor answers, and asks no worker: a scrape works while all workers are stuck, and costs
them nothing. Counters include workers that have ended, so a recycled or crashed worker, or a
reload, does not make them fall; after an upgrade the new supervisor goes on from the totals of the
old one. What concerns one worker has the label `slot`: the number of its place, which its successor
takes, so that there are no more series than workers. With eight workers of the native
transport, a scrape of 655 lines takes 3.0 ms (median on a machine of two cores, loopback;
`python benchmarks/scrape.py`).

Times are histograms with the buckets of OpenTelemetry's conventions for HTTP, by method (`other`
for one that is not in RFC 9110 or 5789, and for CONNECT and TRACE), class of status and protocol.
Checks of health that the server answers itself are not in them.

Time spent waiting for the interpreter lock has two metrics, because no program can see all of it
without a cost for each request: where the application computes, or comes back from the database,
the interpreter gives the lock up and takes it again by itself.

- `penstock_request_lock_wait_seconds` is exact, and a lower bound. The native transport reads the
  clock where its own code asks for the lock: when a thread that has found a request, or was woken
  for one, takes it to the application, and after each wait for the client within the call. What a
  request that has waited for a thread waits for the lock then is in the time of its queue, too. The
  Python transport has nothing there: it runs no code between the end of a wait and having the lock.
- `penstock_interpreter_lock_wait_seconds` is a sample. Once a second a thread of each worker that
  has a request gives the lock up, asks for it again, and measures how long that took. A thread of
  the application that asked for the lock at this moment would have waited as long. So its share
  above 5 ms is the probability that a thread has to wait for others that compute, in all of the
  application's code and with both transports; it is no sum, and belongs to no request.

The native transport counts in the shared memory alone: a worker that is killed has counted all that
it has finished. The Python transport writes the histograms, the statuses and the bytes there once
a second. Until then they are in the worker's own memory: a worker that is killed (SIGKILL, a crash)
takes the last second of them along, and `penstock_requests_total`, which it writes at once, is
ahead by these. To write them with each request was measured: it takes 1,540 instructions, 2 % of
what a plain request takes with that transport.

The numbers are those that workers write to memory that they share. Code that runs in a worker, such
as an attacker's, can write any there, also to the places of other workers: metrics are no evidence
after a break-in. Then totals may fall, which Prometheus takes for a restart of the server. When a
worker ends, the supervisor leaves out what it cannot have counted in its time
([PEN-7024](messages.md#pen-7024)), so that one nonsensical number does not outlive it.

What the application counts itself is on a page of its own:
[application-metrics.md](application-metrics.md).

No metric has a label for path, host or client: clients could make any number of these. The [access
log](logging.md) has them.

This page is made from the declarations in `src/penstock/control/metrics.py` by
`python -m penstock.control.metrics_page`; change them, and not this page.

| metric | kind | what it is, and what to do |
|---|---|---|
"""


_EXEMPLARS = """
## Exemplars

In OpenMetrics, a bucket of `penstock_request_duration_seconds` has an exemplar: of the requests
that it has counted, the last slow or failed one that the server keeps for `penstockctl slow` and
`failed`. It has the duration, the time of the end, and the label `trace_id` where the request has a
span ([`--otel`](settings.md#otel)), else `request_id`, by which the logs name it:

```
penstock_request_duration_seconds_bucket{method="GET",status="2xx",protocol="HTTP/1.1",le="0.5"} \
310 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.41 1764540723.25
```

Exemplars cost a request nothing: workers report such requests in any case. There is none of a
request that the application had for less than 20 ms without a failure, of one that the server
answered itself, and of one whose client had yet to read some of the response when the application
was done.

Prometheus asks for OpenMetrics by itself. It keeps exemplars where it is started with
`--enable-feature=exemplar-storage`; `storage.exemplars.max_exemplars` of its configuration is how
many. In Grafana, the panel of response times of the package's
[dashboard](dashboard.md#grafana-and-prometheus) shows an exemplar as a point at its time and
duration, and its labels beside the pointer. To lead from there to the trace, add under Exemplars in
the settings of the Prometheus data source an internal link to the data source that has the traces,
with the label name `trace_id`.
"""

_STATSD = """
## statsd

`--statsd HOST:PORT`, or `unix:PATH`, sends to a statsd server under gunicorn's names, so that
dashboards for gunicorn go on. The supervisor sends once a second what has been counted since the
last time; nothing is sent for each request.

| name | type | |
|---|---|---|
| `gunicorn.requests` | counter | requests |
| `gunicorn.request.status.200` | counter | requests by status code |
| `gunicorn.request.duration` | timer, ms | from the first byte of the request to the last of the \
response; each stands for the requests of its bucket, by its sample rate |
| `gunicorn.log.warning`, `.error`, `.exception`, `.critical` | counter | messages of the log |
| `gunicorn.workers` | gauge | workers that there are to be |
| `gunicorn.backlog` | gauge | connections that wait to be accepted, of all addresses |

[`--statsd-prefix`](settings.md#statsd_prefix) stands before these names, and
[`--statsd-tags`](settings.md#statsd_tags) has DogStatsD's tags. The server's name is looked up once
a minute. `statsd_host`, `statsd_prefix` and `dogstatsd_tags` of a `gunicorn.conf.py` mean these
settings.
"""


def metrics_page() -> str:
    """Return the page, in Markdown."""
    rows = (f"| `{each.sample_name}` | {each.kind} | {each.help} |\n" for each in METRICS)
    return _INTRODUCTION + "".join(rows) + _EXEMPLARS + _STATSD


if __name__ == "__main__":
    print(metrics_page(), end="")
