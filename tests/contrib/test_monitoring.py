"""The dashboard for Grafana and the alerts for Prometheus: they ask for what the server has.

`promtool` and `prometheus` judge them, where they are installed (Debian: apt install prometheus).
"""

from __future__ import annotations

import http.client
import json
import math
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from penstock.control.metrics import METRICS, render
from penstock.telemetry.histograms import CLASSES
from support.acme_authority import free_port
from support.control_loop import FakeSupervisor
from support.lifecycle import Supervised
from support.threads import running

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "src" / "penstock" / "contrib"
RULES = CONTRIB / "prometheus" / "penstock.rules.yml"
BOARD: dict[str, Any] = json.loads((CONTRIB / "grafana" / "penstock.json").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
OF_SCRAPES = {"instance", "job"}
"""The labels that Prometheus adds."""

PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
OF_BOARD = [target["expr"] for _, target in TARGETS]
OF_BOARD += [each["expr"] for each in BOARD["annotations"]["list"]]
OF_ALERTS = [alert["expr"] for alert in ALERTS]

SELECTOR = re.compile(r"\b(penstock_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
COMPARED = re.compile(
    r"^(?P<what>.*?)\s*(?:==|>|<(?=\s*[\d(]))\s*[\d.]+(?:\s*\*\s*\d+)?$", re.DOTALL
)

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus")


def values_by_label() -> dict[str, dict[str, set[str]]]:
    """Return the labels of each sample of the server's metrics, with the values that they have."""
    found: dict[str, dict[str, set[str]]] = {}
    text = render(FakeSupervisor().figures(), openmetrics=False).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
                if name == "status":
                    labels[name].update(CLASSES)  # of which these figures have some alone
    return found


SAMPLES = values_by_label()
FREE = {("penstock_listen_queue", "address"), ("penstock_certificate_end_time_seconds", "name")}
"""Labels whose values are no words of the server's."""


@pytest.mark.parametrize("expression", [*OF_BOARD, *OF_ALERTS])
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors
    known = set(OF_SCRAPES)
    for name, matchers in selectors:
        labels = SAMPLES[name] if name != "up" else {}
        known |= labels.keys()
        for label, operator, value in MATCHER.findall(matchers):
            if label in OF_SCRAPES:
                continue
            assert label in labels, f"{name} has no label {label}"
            values = value.split("|") if "~" in operator else [value]
            assert set(values) <= labels[label] or (name, label) in FREE, (name, label, values)
    grouped = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")}
    assert grouped <= known


def test_every_metric_has_its_place_on_the_board() -> None:
    shown = {name for expression in OF_BOARD for name, _ in SELECTOR.findall(expression)}
    variables = json.dumps(BOARD["templating"])
    for metric in METRICS:
        names = {
            metric.sample_name,
            *(f"{metric.name}_{end}" for end in ("bucket", "sum", "count")),
        }
        # The rate of requests is that of those that have finished.
        assert names & shown or metric.name in variables or metric.name == "penstock_requests"


def test_the_board_is_one_that_grafana_imports() -> None:
    assert BOARD["title"] == "Penstock"
    assert "id" not in BOARD  # Grafana gives one
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    sources = {json.dumps(target["datasource"]) for _, target in TARGETS}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    names = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(BOARD)))
    assert used == names


@pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=lambda it: it.get("title", it.get("refId"))
)
def test_a_legend_names_labels_that_its_expression_keeps(
    panel: dict[str, Any], target: dict[str, Any]
) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    expression = target["expr"]
    if named and "sum" not in expression:
        [(name, _)] = SELECTOR.findall(expression)
        assert named <= OF_SCRAPES | SAMPLES[name].keys(), panel["title"]
    else:
        kept = {label.strip() for by in GROUPED.findall(expression) for label in by.split(",")}
        assert named <= kept, panel["title"]


def anchors(page: str) -> set[str]:
    """Return what the headings of a page of docs/ can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_leads_to_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors(page)


# What Prometheus makes of them

HEALTHY = {
    'up{job="penstock"}': "1x60",
    "penstock_ready": "1x60",
    'penstock_workers{state="serving"}': "2x60",
    'penstock_workers{state="stuck"}': "0x60",
    'penstock_workers{state="halted"}': "0x60",
    "penstock_workers_wanted": "2x60",
    "penstock_capacity_ratio": "0.5x60",
    'penstock_workers_crashed_total{reason="SIGSEGV"}': "4x60",
    'penstock_request_duration_seconds_count{status="2xx"}': "0+600x60",
    'penstock_request_duration_seconds_count{status="5xx"}': "0+6x60",
    'penstock_request_duration_seconds_bucket{le="0.1"}': "0+600x60",
    'penstock_request_duration_seconds_bucket{le="2.5"}': "0+600x60",
    'penstock_request_duration_seconds_bucket{le="5.0"}': "0+600x60",
    'penstock_request_duration_seconds_bucket{le="+Inf"}': "0+600x60",
    'penstock_request_queue_seconds_bucket{le="0.005"}': "0+600x60",
    'penstock_request_queue_seconds_bucket{le="0.25"}': "0+600x60",
    'penstock_request_queue_seconds_bucket{le="+Inf"}': "0+600x60",
    'penstock_requests_shed_total{reason="queue_full"}': "3x60",
    'penstock_requests_shed_total{reason="queue_timeout"}': "0x60",
    'penstock_requests_shed_total{reason="client_left"}': "0+5x60",
    'penstock_requests_shed_total{reason="spool_full"}': "0x60",
    "penstock_calls_expired_total": "7x60",
    'penstock_interpreter_lock_wait_seconds_bucket{le="0.005"}': "0+60x60",
    "penstock_interpreter_lock_wait_seconds_count": "0+60x60",
    "penstock_listen_overflows_total": "2x60",
    'penstock_reloads_total{outcome="success"}': "0+1x60",
    'penstock_reloads_total{outcome="failure"}': "1x60",
    'penstock_certificate_end_time_seconds{name="a.test"}': f"{40 * 86400}x120",
    "penstock_cgroup_oom_kills_total": "0x60",
    "penstock_cgroup_throttled_seconds_total": "0+3x60",
    "penstock_log_lines_dropped_total": "9x60",
}
"""A server with which nothing is wrong, a value a minute: it has had each trouble long ago."""

SLOW = {
    'penstock_request_duration_seconds_bucket{le="0.1"}': "0+300x60",
    'penstock_request_duration_seconds_bucket{le="2.5"}': "0+300x60",
}
LATE = {'penstock_request_queue_seconds_bucket{le="0.005"}': "0+500x60"}
TROUBLES: dict[str, dict[str, str]] = {
    "PenstockDown": {'up{job="penstock"}': "0x60"},
    "PenstockNotReady": {"penstock_ready": "0x60"},
    "PenstockWorkersMissing": {'penstock_workers{state="serving"}': "1x60"},
    "PenstockWorkerStuck": {'penstock_workers{state="stuck"}': "1x60"},
    "PenstockWorkersCrash": {'penstock_workers_crashed_total{reason="exit status 1"}': "_x50 1x9"},
    "PenstockErrors": {'penstock_request_duration_seconds_count{status="5xx"}': "0+60x60"},
    "PenstockSlow": SLOW,
    "PenstockQueue": LATE,
    "PenstockThreadsBusy": {"penstock_capacity_ratio": "1x60"},
    "PenstockShedsRequests": {'penstock_requests_shed_total{reason="queue_full"}': "0+10x60"},
    "PenstockCallsExpire": {"penstock_calls_expired_total": "7x50 8x9"},
    "PenstockUploadsRefused": {'penstock_requests_shed_total{reason="spool_full"}': "0x50 1x9"},
    "PenstockInterpreterLock": {
        'penstock_interpreter_lock_wait_seconds_bucket{le="0.005"}': "0+30x60"
    },
    "PenstockListenQueueOverflows": {"penstock_listen_overflows_total": "2x50 3x9"},
    "PenstockReloadFailed": {'penstock_reloads_total{outcome="failure"}': "1x50 2x9"},
    "PenstockCertificateExpires": {
        'penstock_certificate_end_time_seconds{name="a.test"}': f"{10 * 86400}x120"
    },
    "PenstockCertificateExpiresNow": {
        'penstock_certificate_end_time_seconds{name="a.test"}': f"{86400}x120"
    },
    "PenstockOutOfMemory": {"penstock_cgroup_oom_kills_total": "0x50 1x9"},
    "PenstockThrottled": {"penstock_cgroup_throttled_seconds_total": "0+30x60"},
    "PenstockLogLinesLost": {"penstock_log_lines_dropped_total": "9x50 20x9"},
}
"""What is changed of a server so that an alert fires."""

ALSO = {"PenstockCertificateExpiresNow": {"PenstockCertificateExpires"}}


def case(name: str, changes: dict[str, str], firing: set[str]) -> dict[str, Any]:
    """Return a test of promtool's: which alerts fire after an hour, and no other."""
    series = HEALTHY | changes
    # One of another server, which is healthy, is not to hide what is wrong with the first.
    input_series = [
        {"series": _with_labels(key, instance), "values": value}
        for instance, values in (("a:8001", series), ("b:8001", HEALTHY))
        for key, value in values.items()
    ]
    samples = [
        {"labels": f'{{alertname="{alert}", instance="a:8001"}}', "value": 1} for alert in firing
    ]
    query = 'count by (alertname, instance) (ALERTS{alertstate="firing"})'
    at = "90m" if name.startswith("PenstockCertificate") else "59m"  # it waits for an hour
    return {
        "interval": "1m",
        "name": name,
        "input_series": input_series,
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
    }


def _with_labels(series: str, instance: str) -> str:
    name, _, labels = series.partition("{")
    given = labels.rstrip("}").split(",") if labels else []
    if not any(label.startswith("job=") for label in given):
        given.append('job="penstock"')
    return f"{name}{{{','.join([*given, f'instance={json.dumps(instance)}'])}}}"


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert [alert["alert"] for alert in ALERTS] == [*TROUBLES]


@promtool
def test_promtool_takes_the_rules() -> None:
    run("promtool", "check", "rules", str(RULES))


@promtool
def test_each_alert_fires_where_its_trouble_is_and_no_other_does(tmp_path: Path) -> None:
    tests = [case("healthy", {}, set())]
    for name, changes in TROUBLES.items():
        tests.append(case(name, changes, {name} | ALSO.get(name, set())))
    (tmp_path / "rules.yml").write_text(RULES.read_text("utf-8"))
    (tmp_path / "tests.yml").write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    run("promtool", "test", "rules", str(tmp_path / "tests.yml"))


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# A Prometheus that scrapes a server


@contextmanager
def scraping(folder: Path, admin: int) -> Iterator[int]:
    """Run Prometheus, with the rules, on what is at a port; yield its own port."""
    port = free_port()
    (folder / "rules.yml").write_text(RULES.read_text("utf-8"))
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "2s"},
                "rule_files": ["rules.yml"],
                "scrape_configs": [
                    {
                        "job_name": "penstock",
                        "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}],
                    }
                ],
            }
        )
    )
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml",
         f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
         "--enable-feature=exemplar-storage"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def api(port: int, path: str, **query: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(query)}")
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 503:
            raise ConnectionError("Prometheus listens, and is not ready yet")
        assert answer.status == 200, (query, text)
        return json.loads(text)["data"]
    finally:
        connection.close()


def values(port: int, expression: str) -> list[float]:
    """Return the values of an expression of the board or of the rules, as they are now."""
    expression = expression.replace("$__rate_interval", "30s").replace("$__interval", "30s")
    expression = expression.replace("$job", ".*").replace("$instance", ".*")
    return [float(each["value"][1]) for each in api(port, "query", query=expression)["result"]]


ABOUT_REQUESTS = re.compile(
    r"penstock_(?:request_\w+_seconds|requests_active|requests_queued|requests_delayed|connections|"
    r"received|sent|worker|threads|capacity|interpreter_lock)"
)
NOT_WITHOUT_TROUBLE = re.compile(r'"5xx"|worker\w*_(?:crashed|recycled)')
"""What has no series before the first error, or the first crash."""


@prometheus
def test_a_real_prometheus_has_an_answer_to_every_expression(tmp_path: Path) -> None:
    admin = free_port()
    with (
        Supervised(tmp_path, "--admin", f"127.0.0.1:{admin}", "--workers", "2") as server,
        scraping(tmp_path, admin) as port,
        requesting(server.port),
    ):
        wait_for_data(port)
        for expression in OF_BOARD:
            found = values(port, expression)
            if ABOUT_REQUESTS.search(expression) and not NOT_WITHOUT_TROUBLE.search(expression):
                assert found, expression
                assert not any(map(math.isnan, found)), expression
        for expression in OF_ALERTS:
            values(port, expression)  # whether it is true depends on the machine
            compared = COMPARED.match(expression)
            if compared is None:
                continue
            left = values(port, compared["what"])
            if ABOUT_REQUESTS.search(expression) and not NOT_WITHOUT_TROUBLE.search(expression):
                assert left, compared["what"]
        [target] = api(port, "targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        wait_for_exemplars(port, "penstock_request_duration_seconds_bucket")
        [group] = api(port, "rules")["groups"]
        assert len(group["rules"]) == len(ALERTS)
        assert {rule["health"] for rule in group["rules"]} == {"ok"}, group


def wait_for_data(port: int) -> None:
    """Wait until Prometheus has scraped some times, and evaluated the rules."""
    needed = (
        "penstock_request_application_seconds_sum",
        "penstock_interpreter_lock_wait_seconds_count",
    )
    end, pause = time.monotonic() + 90, threading.Event()
    seen: object = "it does not answer"
    while True:
        try:
            rules = api(port, "rules")["groups"][0]["rules"]
            rates = {name: values(port, f"sum(rate({name}[30s])) > 0") for name in needed}
            seen = rates, {rule["name"]: rule["health"] for rule in rules}
            if all(rates.values()) and all(rule["health"] == "ok" for rule in rules):
                return
        except OSError:
            pass  # it starts
        assert time.monotonic() < end, seen
        pause.wait(0.2)


def wait_for_exemplars(port: int, name: str) -> None:
    """Wait until Prometheus has an exemplar of a histogram: the slow requests of `requesting`."""
    end, pause = time.monotonic() + 30, threading.Event()
    begin = time.time() - 300
    while True:
        asked = {"query": name, "start": str(begin), "end": str(time.time() + 60)}
        found = api(port, "query_exemplars", **asked)
        if found:
            break
        assert time.monotonic() < end
        pause.wait(0.2)
    for series in found:
        for exemplar in series["exemplars"]:
            assert exemplar["labels"].keys() == {"request_id"}
            assert 0.05 <= float(exemplar["value"]) <= float(series["seriesLabels"]["le"])


@contextmanager
def requesting(port: int) -> Iterator[None]:
    """Have some requests in the application all the time."""

    def make(ended: threading.Event) -> None:
        number = 0
        while not ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", f"/work?{number}&0.05")
            connection.getresponse().read()
            connection.close()
            number += 1

    with running(make, 4):
        yield
