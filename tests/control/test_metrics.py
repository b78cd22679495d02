"""Metrics: Prometheus and OpenMetrics read every one, whatever its values and labels are."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from penstock.control import metrics
from penstock.control.metrics import METRICS, Metric, accepts_openmetrics, render
from penstock.control.metrics_page import metrics_page
from penstock.control.rows import Figures
from penstock.telemetry.histograms import BOUNDS, Exemplar, series_number
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import SERIES_WORDS
from support.control_loop import ControlLoop, FakeSupervisor, connect
from support.wire import Client

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SCRAPER = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""What Prometheus 3 sends as Accept."""


@pytest.fixture
def figures() -> Figures:
    return FakeSupervisor().figures()


def samples(families: Iterable[Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all samples of parsed metrics; none stands there twice."""
    found = [sample for family in families for sample in family.samples]
    values = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in found}
    assert len(values) == len(found)
    return values


def test_both_forms_have_the_same_samples_and_the_official_parsers_read_them(
    figures: Figures,
) -> None:
    old = samples(prometheus(render(figures, openmetrics=False).decode()))
    new = samples(openmetrics(render(figures, openmetrics=True).decode()))
    assert old == new
    names = {name for name, _ in new}
    times = {metric.name for metric in METRICS if metric.kind == "histogram"}
    of_times = {f"{name}_{end}" for name in times for end in ("bucket", "sum", "count")}
    assert names == {metric.sample_name for metric in METRICS} - times | of_times
    assert new["penstock_requests_total", ()] == 2468
    assert new["penstock_workers_cpu_seconds_total", ()] == 12.25
    assert new["penstock_workers_crashed_total", (("reason", "exit status 1"),)] == 1
    assert new["penstock_listen_queue", (("address", "http://[::]:80"),)] == 3
    assert new["penstock_threads", ()] == 12
    assert new["penstock_capacity_ratio", ()] == 0.25


def test_a_histogram_has_the_buckets_up_to_each_bound_their_sum_and_their_number(
    figures: Figures,
) -> None:
    words = [1, 2, 3, *[0] * 11, 4, 2_500_000_000]
    figures["series"] = {
        series_number("PUT", "404 Not Found", "HTTP/1.1"): words + [0] * (SERIES_WORDS - 16)
    }
    for form, parser in ((False, prometheus), (True, openmetrics)):
        found = samples(parser(render(figures, openmetrics=form).decode()))
        labels = (("method", "PUT"), ("protocol", "HTTP/1.1"), ("status", "4xx"))
        name = "penstock_request_duration_seconds"
        assert found[f"{name}_count", labels] == 10
        assert found[f"{name}_sum", labels] == 2.5
        buckets = {
            float(dict(of)["le"]): value
            for (sample, of), value in found.items()
            if sample == f"{name}_bucket"
        }
        assert list(buckets) == [*BOUNDS, math.inf]
        assert list(buckets.values()) == [1, 3, *[6] * 12, 10]
        # Nothing was counted of the other times.
        assert not any("first_byte" in sample for sample, _ in found)


def exemplars_of(text: bytes) -> dict[tuple[tuple[tuple[str, str], ...], str], Any]:
    """Return the exemplars that a scrape has, by labels and bucket."""
    return {
        (tuple(sorted(labels.items())), bucket): sample.exemplar
        for family in openmetrics(text.decode())
        for sample in family.samples
        if sample.exemplar
        for bucket in [sample.labels["le"]]
        for labels in [{k: v for k, v in sample.labels.items() if k != "le"}]
    }


def test_openmetrics_alone_has_the_exemplars_of_durations(figures: Figures) -> None:
    found = exemplars_of(render(figures, openmetrics=True))
    labels = (("method", "GET"), ("protocol", "HTTP/1.1"), ("status", "2xx"))
    assert found.keys() == {(labels, "0.05"), (labels, "+Inf")}
    traced, other = found.values()
    assert traced.labels == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert (traced.value, float(traced.timestamp)) == (0.03, 1.8e9)
    assert other.labels == {"request_id": "4f2a-1"}
    assert (other.value, float(other.timestamp)) == (12.5, 1.8e9 + 0.125)
    text = render(figures, openmetrics=False)
    assert b" # {" not in text
    assert b"trace_id" not in text


def test_a_bucket_that_has_counted_no_request_has_no_exemplar(figures: Figures) -> None:
    number = series_number("GET", "2", "HTTP/1.1")
    figures["series"] = {number: [1] * 3 + [0] * (SERIES_WORDS - 3)}
    assert not exemplars_of(render(figures, openmetrics=True))


@pytest.mark.parametrize("most", ["\\" * 64, '"' * 64, "x" * 64])
def test_whatever_the_name_of_a_request_openmetrics_takes_the_exemplar(
    figures: Figures, most: str
) -> None:
    number = series_number("GET", "2", "HTTP/1.1")
    figures["exemplars"] = {number: {3: Exemplar({"request_id": most}, 0.03, 1.8e9)}}
    [exemplar] = exemplars_of(render(figures, openmetrics=True)).values()
    assert exemplar.labels == {"request_id": most}


def test_refusals_are_shown_by_the_rules_that_have_refused_something(figures: Figures) -> None:
    figures["refused"] = [0] * (len(RULES) - 1) + [7]
    found = samples(prometheus(render(figures, openmetrics=False).decode()))
    refused = {of: value for (name, of), value in found.items() if "requests_refused" in name}
    assert refused == {(("rule", "other"),): 7}


def test_a_slot_that_two_generations_have_shows_the_newer_one(figures: Figures) -> None:
    figures["workers"][2]["requests"] = 5
    figures["workers"].reverse()
    found = samples(prometheus(render(figures, openmetrics=False).decode()))
    assert found["penstock_worker_requests", (("slot", "0"),)] == 5
    assert ("penstock_worker_resident_bytes", (("slot", "1"),)) not in found


def test_certificates_of_one_name_show_the_end_that_comes_first(figures: Figures) -> None:
    found = samples(prometheus(render(figures, openmetrics=False).decode()))
    ends = {labels[0][1]: end for (name, labels), end in found.items() if "certificate" in name}
    assert ends == {"a.test": 1.9e9, "": 1.8e9}


def test_what_the_system_does_not_report_is_left_out(figures: Figures) -> None:
    figures["listen_overflows"] = figures["oom_kills"] = figures["throttled_seconds"] = None
    figures["status"]["last_reload"] = None
    figures["workers"] = []
    for form in (False, True):
        text = render(figures, openmetrics=form).decode()
        for name in (
            "overflows",
            "oom_kills",
            "throttled",
            "last_reload",
            "TYPE penstock_capacity",
            "worker_age",
        ):
            assert name not in text


def test_labels_are_escaped_whatever_they_have_in_them(figures: Figures) -> None:
    name = 'a"b\\c\nd\\n{e}=,"'
    figures["status"]["application"] = name
    for form, parse in ((False, prometheus), (True, openmetrics)):
        found = samples(parse(render(figures, openmetrics=form).decode()))
        [labels] = [dict(labels) for name, labels in found if name == "penstock_info"]
        assert labels["application"] == name


def test_numbers_are_written_as_both_forms_have_them() -> None:
    written = [metrics._number(value) for value in (3, True, 0.5, 1e20, math.inf, -math.inf)]
    assert written == ["3", "1", "0.5", "100000000000000000000", "+Inf", "-Inf"]
    assert metrics._number(math.nan) == "NaN"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (SCRAPER, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0 ; Q=1.0", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=2", False),
        ("application/openmetrics-text;q=nan,", False),
        (";;,=,q", False),
    ],
)
def test_the_form_is_the_one_that_is_asked_for_most(accept: str, expected: bool) -> None:
    assert accepts_openmetrics(accept) is expected


def test_names_and_help_are_as_the_guides_want_them() -> None:
    for metric in METRICS:
        assert re.fullmatch("penstock(_[a-z]+)*", metric.name)
        assert metric.kind in ("counter", "gauge", "histogram", "info")
        assert re.fullmatch(r'[^"\\]*[.]', metric.help)
        assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_promtool_finds_nothing(figures: Figures) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian: apt install prometheus)")
    text = render(figures, openmetrics=False)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize("service", ["control", "admin"])
def test_metrics_are_at_both_addresses(service: str, tmp_path: Path) -> None:
    loop = ControlLoop()
    if service == "admin":
        address = loop.admin()
        with loop, Client(address) as client:
            check_answers(loop, client)
    else:
        socket = loop.control(str(tmp_path / "control.sock"))
        with loop, connect(socket) as client:
            check_answers(loop, client)


def check_answers(loop: ControlLoop, client: Client) -> None:
    plain = client.request("GET", "/metrics")
    assert (plain.status, plain.header("Content-Type")) == (200, metrics.PROMETHEUS)
    assert plain.body == render(loop.fake.figures(), openmetrics=False)
    asked = client.request("GET", "/metrics", {"Accept": SCRAPER})
    assert (asked.status, asked.header("Content-Type")) == (200, metrics.OPENMETRICS)
    assert asked.body == render(loop.fake.figures(), openmetrics=True)
    assert client.request("HEAD", "/metrics").status == 200


ADVICE = re.compile(r"\b(?:see|raise|lower|use|set|alert|aim|compare)\b", re.IGNORECASE)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_help_text_says_what_to_do_and_names_metrics_that_exist(metric: Metric) -> None:
    assert ADVICE.search(metric.help)
    known = {name for each in METRICS for name in (each.name, each.sample_name)}
    assert set(re.findall(r"penstock_\w+", metric.help)) <= known


def test_the_page_is_made_from_the_declarations() -> None:
    assert PAGE.read_text("utf-8") == metrics_page(), "run `make docs`"
