"""Which requests the access log has, and what of them it hides."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.sources import settings_from_kwargs
from penstock.errors import SettingsError
from penstock.telemetry.access_log import AccessLog, line_maker, rules_of
from penstock.telemetry.access_log_format import compile_format, line_format, needs_of
from penstock.telemetry.access_log_rules import MOST_FIELDS, Rules, in_sample, threshold_of
from penstock.telemetry.log_sink import LogSink
from support.requests_finished import request

ABSOLUTE = "http://user@host/healthz?x=1"


@pytest.mark.parametrize(
    ("rule", "target", "status", "logged"),
    [
        ("/healthz 2xx", "/healthz", 200, False),
        ("/healthz 2xx", "/healthz", 299, False),
        ("/healthz 2xx", "/healthz", 300, True),
        ("/healthz 2xx", "/healthz", 503, True),
        ("/healthz 2xx", "/healthz?full=1", 200, False),
        ("/healthz 2xx", ABSOLUTE, 200, False),
        ("/healthz 2xx", "/healthz/", 200, True),
        ("/healthz 2xx", "/Healthz", 200, True),
        ("/healthz 2xx", "/health%7A", 200, True),  # as sent: in doubt it is logged
        ("/healthz 200", "/healthz", 204, True),
        ("/healthz  204", "/healthz", 204, False),
        ("/healthz", "/healthz", 503, False),
        ("/static/* 3xx", "/static/", 304, False),
        ("/static/* 3xx", "/static/a/b", 304, False),
        ("/static/* 3xx", "/static", 304, True),
        ("/static/* 3xx", "/static/a", 200, True),
        ("* 404", "/any", 404, False),
        ("* 404", "*", 404, False),
        ("* 404", "/any", 200, True),
    ],
)
def test_a_rule_leaves_out_its_path_with_its_status(
    rule: str, target: str, status: int, logged: bool
) -> None:
    assert bool(Rules(skip=[rule]).weight_of(request(target, status=status))) is logged


@pytest.mark.parametrize(
    ("status", "seconds", "ended", "logged"),
    [
        (200, 0.4, "complete", False),
        (200, 0.5, "complete", True),
        (404, 0.1, "refused", False),
        (500, 0.1, "complete", True),
        (503, 0.0, "refused", True),
        (200, 0.1, "aborted", True),
        (499, 0.1, "disconnected", False),
    ],
)
def test_only_slow_requests_and_failures_are_logged(
    status: int, seconds: float, ended: str, logged: bool
) -> None:
    finished = request(status=status, begun_at=100.0, finished_at=100.0 + seconds, ended=ended)
    assert Rules(slow=0.5).weight_of(finished) == ("1" if logged else "")


def test_what_is_skipped_is_skipped_though_it_was_slow_or_failed() -> None:
    rules = Rules(skip=["/stream/*"], slow=0.1)
    assert rules.weight_of(request("/stream/1", status=500)) == ""
    assert rules.weight_of(request("/stream/1")) == ""
    assert rules.weight_of(request("/other")) == "1"


def ids(count: int, step: int = 1) -> list[str]:
    """Return ids as a worker numbers its requests."""
    return [f"4f2a-a1b2c3-{number:016x}" for number in range(1, count * step, step)]


@pytest.mark.parametrize("step", [1, 2, 16])
@pytest.mark.parametrize("share", [1 / 3, 0.1, 0.01])
def test_a_sample_has_its_share_however_regular_requests_are(share: float, step: int) -> None:
    count = 20_000
    chosen = sum(in_sample(each, threshold_of(share)) for each in ids(count, step))
    # Four standard deviations of a random choice.
    assert abs(chosen - count * share) < 4 * (count * share * (1 - share)) ** 0.5


def test_of_two_shares_the_smaller_sample_is_part_of_the_larger() -> None:
    small, large = threshold_of(0.01), threshold_of(0.1)
    chosen = [each for each in ids(5000) if in_sample(each, small)]
    assert chosen
    assert all(in_sample(each, large) for each in chosen)


def test_the_weights_of_the_lines_restore_the_number_of_requests() -> None:
    rules = Rules(share=1 / 50, slow=1.0)
    finished = [request(request_id=each) for each in ids(20_000)]
    finished += [request(status=500)] * 7
    finished += [request(finished_at=102.0)] * 5  # slow
    weights = list(filter(None, map(rules.weight_of, finished)))
    assert weights.count("1") == 12
    assert set(weights) == {"1", "50"}
    assert abs(sum(map(float, weights)) - 20_012) < 4 * (20_000 * 50) ** 0.5


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("combined", r'.*"-" "-" sample=%s\n'),
        ("%(U)s", r"/ sample=%s\n"),
        ("n=%(sample)s %(U)s", r"n=%s /\n"),
        ("short", r".*250 ms sample=%s\n"),
    ],
)
def test_a_line_says_how_many_requests_it_stands_for(format: str, expected: str) -> None:
    settings = settings_from_kwargs(access_log_sample="1/4", access_logformat=format)
    line = line_maker(settings)
    found = {line(request(request_id=each)) for each in ids(100)} - {""}
    assert found
    assert all(re.fullmatch(expected % "4", each) for each in found)
    assert re.fullmatch(expected % "1", line(request(status=500)).replace("500", "200"))


def test_an_object_says_so_as_a_number() -> None:
    settings = settings_from_kwargs(access_log_sample=0.3, access_logformat="json")
    line = line_maker(settings)
    weights = {
        json.loads(text)["sample"] for each in ids(50) if (text := line(request(request_id=each)))
    }
    assert weights == {3.333333333}
    assert "sample" not in json.loads(compile_format("json")(request()))


def test_without_a_sample_the_atom_is_one() -> None:
    assert compile_format("%(sample)s")(request()) == "1\n"


# -- what is hidden -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hide", "url", "shown"),
    [
        ("query", "/a?x=1&token=2", "/a?REDACTED"),
        ("query", "/a?", "/a?"),
        ("query", "/a", "/a"),
        ("query", "/a#token=2", "/a#REDACTED"),
        ("query", "http://h/a?x#y", "http://h/a?REDACTED"),
        ("query:token", "/a?x=1&token=secret&y=2", "/a?x=1&token=REDACTED&y=2"),
        ("query:token", "/a?token=", "/a?token=REDACTED"),
        ("query:token", "/a?token", "/a?token"),
        ("query:token", "/a?mytoken=1&tokens=2", "/a?mytoken=1&tokens=2"),
        ("query:token", "/a?%74oken=secret", "/a?%74oken=REDACTED"),
        ("query:token", "/a?TOKEN=secret", "/a?TOKEN=REDACTED"),
        ("query:token", "/a?+token=secret", "/a?+token=REDACTED"),
        ("query:token", "/a?token[]=secret&token%5Ba%5D=secret",
         "/a?token[]=REDACTED&token%5Ba%5D=REDACTED"),
        ("query:token", "/a?x=1;token=sec;ret&y=2", "/a?x=1;token=REDACTED&y=2"),
        ("query:token", "/a?x?token=secret", "/a?x?token=REDACTED"),
        ("query:token", "/a#token=secret", "/a#token=REDACTED"),
        ("query:token", "/a?x=%ff&%ff=1", "/a?x=%ff&%ff=1"),
        ("query:a,query:b", "/?a=1&b=2&c=3", "/?a=REDACTED&b=REDACTED&c=3"),
        ("header:cookie", "/a?token=2", "/a?token=2"),
    ],
)  # fmt: skip
def test_a_query_is_hidden_as_a_whole_or_by_field(hide: str, url: str, shown: str) -> None:
    rules = rules_of(settings_from_kwargs(access_log_hide=hide))
    assert rules is not None
    assert rules.masked_url(url) == shown


def test_a_query_of_very_many_fields_is_hidden_as_a_whole() -> None:
    rules = Rules(hide=["query:token"])
    many = "&".join(f"a{number}=1" for number in range(MOST_FIELDS + 1))
    assert rules.masked_url(f"/?{many}") == f"/?{many}"
    assert rules.masked_url(f"/?{many};b=1") == "/?REDACTED"


SECRET = "s3cr3t"
FIELDS = {
    "referer": f"http://h/?token={SECRET}",
    "user-agent": "curl/8",
    "authorization": f"Basic {SECRET}",
    "x-original-uri": f"/x?token={SECRET}",
    "x-key": SECRET,
}
RESPONSE = {"location": f"/next?token={SECRET}", "set-cookie": SECRET, "etag": "1"}
ENVIRON = {
    "QUERY_STRING": f"token={SECRET}",
    "raw_uri": f"/a?token={SECRET}",
    "HTTP_REFERER": f"http://h/?token={SECRET}",
    "HTTP_X_KEY": SECRET,
    "REMOTE_USER": SECRET,
    "PATH_INFO": "/a",
}
EVERYTHING = (
    "%(r)s %(m)s %(U)s %(q)s %(H)s %(f)s %(a)s %(u)s %({Referer}i)s %({X-Original-URI}i)s"
    " %({X-Key}i)s %({Location}o)s %({Set-Cookie}o)s %({ETag}o)s %({QUERY_STRING}e)s"
    " %({raw_uri}e)s %({HTTP_REFERER}e)s %({HTTP_X_KEY}e)s %({REMOTE_USER}e)s %({PATH_INFO}e)s"
)
HEADERS = "header:authorization,header:x-key,header:Set-Cookie"


@pytest.mark.parametrize("format", ["combined", "json", "short", EVERYTHING])
@pytest.mark.parametrize("hide", ["query", "query:token"])
def test_no_format_shows_what_is_hidden(format: str, hide: str) -> None:
    settings = settings_from_kwargs(access_log_hide=f"{hide},{HEADERS}", access_logformat=format)
    line = line_maker(settings)(
        request(
            f"/a?token={SECRET}&x=1",
            request_fields=FIELDS,
            response_fields=RESPONSE,
            environ=ENVIRON,
        )
    )
    assert SECRET not in line
    assert "REDACTED" in line
    assert "/a" in line
    assert ("x=1" in line) == (hide != "query")
    if format == "combined":
        assert line.endswith(' "curl/8"\n')


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("GET /a?token=x HTTP/1.1", "GET /a?token=REDACTED HTTP/1.1"),
        ("GET /a?token=x y HTTP/1.1", "GET /a?token=REDACTED"),
        ("GET?token=x / HTTP/1.1", "GET?token=REDACTED"),
        ("GET / HTTP/1.1?token=x", "GET / HTTP/1.1?token=REDACTED"),
        ("GET /a", "GET /a"),
        ("-", "-"),
    ],
)
def test_a_line_that_is_no_request_shows_nothing_that_is_hidden(line: str, shown: str) -> None:
    words = line.split(" ")
    method, target, protocol = words if len(words) == 3 else ("-", "-", "-")
    malformed = request(target, method=method, protocol=protocol, request_line=line)
    masked = Rules(hide=["query:token"]).masked(malformed)
    assert masked.request_line == shown
    for format in ("json", "short", "%(m)s %(U)s %(q)s %(H)s"):
        assert "=x" not in compile_format(format)(masked)


_PARTS = st.text(alphabet="abtoken%5B[]=;?#+ \xff", max_size=12)


@given(st.lists(_PARTS, max_size=4), st.sampled_from(["&", ";", "&&"]), _PARTS)
def test_a_named_value_is_never_shown_whatever_is_around_it(
    others: list[str], separator: str, before: str
) -> None:
    url = separator.join([f"/p?{before}", *others, f"token={SECRET}", *others])
    for hide in ("query", "query:token"):
        assert SECRET not in Rules(hide=[hide]).masked_url(url)


def test_a_rule_of_a_field_is_for_all_places_that_show_it() -> None:
    rules = Rules(hide=["header:X-Key"])
    masked = rules.masked(request("/a?x=1", request_fields=FIELDS, environ=ENVIRON))
    assert masked.request_fields["x-key"] == masked.environ["HTTP_X_KEY"] == "REDACTED"
    assert masked.target == "/a?x=1"
    assert masked.request_fields["referer"] == FIELDS["referer"]


# -- what native code gets ----------------------------------------------------------------------


def test_native_code_leaves_what_may_be_hidden_to_python() -> None:
    rules = Rules(hide=["query", "header:user-agent"])
    made = rules.add_to(line_format("json"), needs_of("json"))
    assert made is not None
    assert made.rules is not None
    assert made.rules.hides_query
    assert made.rules.hidden_fields == [b"user-agent"]
    assert made.rules.url_fields == [b"referer"]
    assert rules.add_to(line_format("%({Location}o)s"), needs_of("%({Location}o)s")) is None
    assert rules.add_to(None, needs_of("short")) is None


def test_without_rules_nothing_is_looked_at(tmp_path: Path) -> None:
    settings = settings_from_kwargs()
    assert rules_of(settings) is None
    log = AccessLog(LogSink.open(str(tmp_path / "log"), setting="access_logfile"))
    assert log.line_format is not None
    assert log.line_format.rules is None
    log.close()


def test_requests_that_are_left_out_leave_no_empty_line(tmp_path: Path) -> None:
    rules = rules_of(settings_from_kwargs(access_log_skip=("/healthz 2xx",)))
    path = tmp_path / "log"
    log = AccessLog(LogSink.open(str(path), setting="access_logfile"), rules=rules)
    for target in ("/healthz", "/shop", "/healthz"):
        log.requests_finished([request(target)], 1.0)
    log.close()
    [line] = path.read_text().splitlines()
    assert "/shop" in line


# -- the settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "share"),
    [
        ("1/100", 0.01),
        ("0.25", 0.25),
        ("5%", 0.05),
        (0.5, 0.5),
        (1, 1.0),
        ("1/1", 1.0),
        ("2/3", 2 / 3),
    ],
)
def test_a_share_is_a_fraction_a_number_or_a_percentage(value: object, share: float) -> None:
    assert settings_from_kwargs(access_log_sample=value).access_log_sample == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("access_log_sample", "0"),
        ("access_log_sample", "1/0"),
        ("access_log_sample", "2"),
        ("access_log_sample", "nan"),
        ("access_log_sample", "-1/2"),
        ("access_log_sample", "ten"),
        ("access_log_sample", True),
        ("access_log_skip", "healthz"),
        ("access_log_skip", "/a/*/b 200"),
        ("access_log_skip", "/a?x 200"),
        ("access_log_skip", "/a 2x"),
        ("access_log_skip", "/a 600"),
        ("access_log_skip", "2xx"),
        ("access_log_hide", "token"),
        ("access_log_hide", "query:"),
        ("access_log_hide", "header:x y"),
        ("access_log_hide", "query:a=b"),
        ("access_log_slow", "-1"),
    ],
)
def test_a_value_that_means_nothing_is_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        settings_from_kwargs(**{name: value})
