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
takes, so that there are no more series than workers.

Nothing here is by path, host or client: their number is for clients to choose. The [access
log](logging.md) has them.

This page is made from the declarations in `src/penstock/control/metrics.py` by
`python -m penstock.control.metrics_page`; change them, and not this page.

| metric | kind | what it is, and what to do |
|---|---|---|
"""


def metrics_page() -> str:
    """Return the page, in Markdown."""
    rows = (f"| `{each.sample_name}` | {each.kind} | {each.help} |\n" for each in METRICS)
    return _INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    print(metrics_page(), end="")
