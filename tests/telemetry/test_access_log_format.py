"""What a line of the access log looks like, and that no client can forge one."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SettingsError
from penstock.telemetry.access_log_format import (
    compile_format,
    escape,
    line_format,
    needs_of,
    unknown_atoms,
)
from penstock.telemetry.request_finished import RequestFinished, wanted_fields, wanted_variables
from support.requests_finished import request as plain_request

MOMENT = 1_769_860_800.123  # 2026-01-31 12:00:00 UTC

GUNICORN_DEFAULT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

# What a line in the combined format is, for a program that reads logs.
COMBINED_LINE = re.compile(
    r'(?P<addr>\S+) - (?P<user>\S+) \[(?P<time>[^]]+)\] "(?P<line>[^"]*)" (?P<status>\d{3})'
    r' (?P<size>\d+|-) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"\n'
)

ATTACKS = [
    '" 200 5 "-" "-"\n10.0.0.1 - - [x] "GET / HTTP/1.1',
    "a\r\nforged",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "back\\slash\\",
    'quote"quote',
    "\x00\x08\x7f\x80\x85\x9b\xff",
    "\u2028\u2029\u202e\ud800\U0010ffff",
    "%(h)s %s %d %%",
]


FIELDS = {"user-agent": "curl/8", "referer": "http://h/", "x-id": "42", "x-other": "-"}
HEADERS = [("Content-Type", "text/plain"), ("X-A", "1"), ("x-a", "2"), ("x-other", "-")]
ENVIRON = {"REMOTE_USER": "ann", "app.thing": 5}


def line_of(format: str) -> str:
    """Return a line made of what the format says that it needs, and of nothing else."""
    needs = needs_of(format)
    return compile_format(format)(
        request(
            request_fields={name: FIELDS[name] for name in needs.request_fields & FIELDS.keys()},
            response_fields=wanted_fields(needs.response_fields, HEADERS),
            environ=wanted_variables(needs.environ, ENVIRON),
        )
    )


def request(**changes: object) -> RequestFinished:
    """A request with a body, whose record has what all formats of these tests show."""
    fields: dict[str, object] = {
        "client_addr": "192.0.2.7",
        "target": "/a/b?x=1&y=2",
        "bytes_in": 17,
        "bytes_out": 1234,
        "finished_at": 1.234567,
        "begun_at": 0.0,
        "wall_time": MOMENT,
        "request_fields": {"user-agent": "curl/8", "referer": "http://h/", "x-id": "42"},
    }
    return plain_request(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC"], indirect=True)
@pytest.mark.usefixtures("zone")
def test_combined_is_apaches_combined_log_format() -> None:
    assert compile_format("combined")(request()) == (
        '192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] "GET /a/b?x=1&y=2 HTTP/1.1" 200 1234'
        ' "http://h/" "curl/8"\n'
    )


@pytest.mark.parametrize("zone", ["UTC"], indirect=True)
@pytest.mark.usefixtures("zone")
def test_gunicorns_default_template_gives_the_combined_format() -> None:
    for case in (request(), request(request_fields={}, bytes_out=0, client_addr="")):
        assert compile_format(GUNICORN_DEFAULT)(case) == compile_format("combined")(case)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "[31/Jan/2026:12:00:00 +0000]"),
        ("<+0545>-5:45", "[31/Jan/2026:17:45:00 +0545]"),
        ("<-0330>3:30", "[31/Jan/2026:08:30:00 -0330]"),
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_the_time_is_local_with_its_offset_as_apache_writes_it(expected: str) -> None:
    assert compile_format("%(t)s")(request()) == expected + "\n"


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("h", "192.0.2.7"),
        ("l", "-"),
        ("u", "-"),
        ("r", "GET /a/b?x=1&y=2 HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a/b"),
        ("q", "x=1&y=2"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "1234"),
        ("b", "1234"),
        ("f", "http://h/"),
        ("a", "curl/8"),
        ("T", "1"),
        ("M", "1234"),
        ("D", "1234567"),
        ("L", "1.234567"),
        pytest.param("p", f"<{os.getpid()}>", id="p"),
        ("{X-Id}i", "42"),
        ("{Missing}i", "-"),
        ("{content-type}o", "text/plain"),
        ("{X-A}o", "1, 2"),
        ("{Missing}o", "-"),
        ("{REMOTE_USER}e", "ann"),
        ("{remote_user}e", "ann"),
        ("{app.thing}e", "5"),
        ("{missing}e", "-"),
    ],
)
def test_each_of_gunicorns_atoms(atom: str, expected: str) -> None:
    assert line_of(f"<%({atom})s> 100%%") == f"<{expected}> 100%\n"


def test_whole_numbers_may_be_written_with_d() -> None:
    line = compile_format("%(s)d %(B)d %(T)d %(M)d %(D)d")(request())
    assert line == "200 1234 1 1234 1234567\n"


def test_an_empty_body_is_a_dash_in_b_and_0_in_B() -> None:
    assert compile_format("%(b)s %(B)s")(request(bytes_out=0)) == "- 0\n"


def test_a_refused_request_has_dashes_for_what_is_not_known() -> None:
    refused = request(method="-", target="-", protocol="-", request_line="-", request_fields={})
    line = compile_format('"%(r)s" %(m)s %(U)s %(H)s %(f)s %({x}e)s')(refused)
    assert line == '"-" - - - - -\n'
    fields = json.loads(compile_format("json")(refused))
    for name in ("http.request.method", "url.path", "network.protocol.version"):
        assert fields[name] is None


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("%(r)d", r"%\(r\)d is not a whole number"),
        ("100% of %(h)s", "character 4 begins no atom"),
        ("%(h)s %", "character 7 begins no atom"),
        ("%(h)10s", "character 1 begins no atom"),
        ("jsn", "'jsn' is neither"),
        ("", "'' is neither"),
    ],
)
def test_a_template_that_is_none_is_refused_by_its_place(template: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        compile_format(template)
    assert str(caught.value).startswith("access_logformat: ")


def test_an_unknown_atom_is_a_dash_in_both_languages_as_under_gunicorn() -> None:
    template = "%(x)s %({Header}x)d %({}i)s %%(x)s %(m)s"
    line = compile_format(template)(plain_request())
    assert line == "- - - %(x)s GET\n"
    assert unknown_atoms(template) == ["%(x)s", "%({Header}x)d", "%({}i)s"]
    made = line_format(template)
    assert made is not None
    kinds = [kind for kind, _ in made.pieces if kind != "text"]
    assert (kinds, "".join(text for _, text in made.pieces)) == (["atom"], "- - - %(x)s m\n")


def basic(credentials: bytes) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(credentials).decode()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (basic(b"ann:secret"), "ann"),
        (basic(b":secret"), "-"),
        (basic("zoë:x".encode()), "zo\\xc3\\xab"),
        (basic(b'a b"\n:x'), "a\\x20b\\x22\\x0a"),
        ({"authorization": "Basic %%%"}, "-"),
        ({"authorization": "Basic \xff"}, "-"),
        ({"authorization": "Bearer abc"}, "-"),
        ({"authorization": ""}, "-"),
    ],
)
def test_the_user_is_the_name_claimed_with_basic_credentials_never_the_password(
    fields: dict[str, str], expected: str
) -> None:
    case = request(request_fields=fields)
    assert compile_format("%(u)s")(case) == expected + "\n"
    assert compile_format("combined")(case).split()[2] == expected


def test_json_has_fixed_names_and_types() -> None:
    line = compile_format("json")(request(reason="408 head deadline", queue_time=0.25))
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "time": "2026-01-31T12:00:00.123Z",
        "client.address": "192.0.2.7",
        "client.port": 40000,
        "network.peer.address": "127.0.0.1",
        "http.request.method": "GET",
        "url.path": "/a/b",
        "url.query": "x=1&y=2",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.server.request.duration": 1.234567,
        "queue": 0.25,
        "http.request.body.size": 17,
        "http.response.body.size": 1234,
        "user_agent.original": "curl/8",
        "http.request.header.referer": ["http://h/"],
        "process.pid": os.getpid(),
        "request_id": "r-1",
        "reason": "408 head deadline",
    }


def test_json_has_every_name_in_every_line_and_null_for_what_is_not_there() -> None:
    bare = request(client_addr="", client_port="", peer_addr="", target="/", request_fields={})
    fields = json.loads(compile_format("json")(bare))
    assert list(fields) == list(json.loads(compile_format("json")(request())))
    for name in (
        "client.address",
        "client.port",
        "network.peer.address",
        "url.query",
        "user_agent.original",
        "reason",
    ):
        assert fields[name] is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("zo\xc3\xab", "zoë"),
        ("zo\xeb", "zo\\xeb"),
        ("\u20ac \ud800", "\u20ac \\ud800"),
        ('"\\\n\x1b\x7f', '"\\\n\x1b\x7f'),
    ],
)
def test_json_reads_bytes_as_utf8_and_escapes_what_is_not(value: str, expected: str) -> None:
    line = compile_format("json")(request(request_fields={"user-agent": value}))
    assert line.isascii()
    assert line[:-1].isprintable()
    assert json.loads(line)["user_agent.original"] == expected


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a?b?c", "/a", "b?c"),
        ("http://h:1/a/b?c", "/a/b", "c"),
        ("http://h", "/", None),
        ("/a?u=http://h/", "/a", "u=http://h/"),
        ("/a://b", "/a://b", None),
        ("*", "*", None),
    ],
)
def test_path_and_query_of_each_form_of_target(target: str, path: str, query: str | None) -> None:
    fields = json.loads(compile_format("json")(request(target=target)))
    assert (fields["url.path"], fields["url.query"]) == (path, query)


@pytest.mark.parametrize("attack", ATTACKS)
def test_faults_19_no_client_can_forge_a_line_or_leave_its_field(attack: str) -> None:
    attacked = request(
        client_addr=attack,
        method=attack,
        target=f"/{attack}?{attack}",
        protocol=attack,
        request_line=attack,
        request_fields={"user-agent": attack, "referer": attack, "x": attack, **basic(b'"\n:')},
        response_fields={"x": attack},
        environ={"x": attack},
        reason=attack,
    )
    line = compile_format("combined")(attacked)
    match = COMBINED_LINE.fullmatch(line)
    assert match is not None
    assert match["line"] == match["agent"] == match["referer"] == escape(attack)
    template = '%(h)s %(u)s %(m)s %(U)s %(H)s "%(r)s" "%({x}i)s" "%({x}o)s" "%({x}e)s"'
    templated = compile_format(template)(attacked)
    assert templated.count('"') == 8
    assert len(templated.partition('"')[0].split()) == 5
    for text in (line, templated, compile_format("json")(attacked)):
        assert text[-1] == "\n"
        assert text[:-1].isascii()
        assert text[:-1].isprintable()
    assert json.loads(compile_format("json")(attacked))["reason"]


@pytest.mark.parametrize("name", ["combined", "json", GUNICORN_DEFAULT])
def test_cve_2020_7694_uvicorn_an_escape_sequence_in_the_path_reaches_no_terminal(
    name: str,
) -> None:
    line = compile_format(name)(request(target="/\x1b[31m", request_line="GET /\x1b[31m HTTP/1.1"))
    assert "\x1b" not in line
    assert "[31m" in line


@given(st.text())
def test_escape_gives_printable_ascii_without_quotes_and_hides_nothing(value: str) -> None:
    escaped = escape(value)
    assert escaped.isascii()
    assert not escaped or escaped.isprintable()
    assert '"' not in escaped
    assert escape(value) == escaped
    back = re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), escaped.encode())
    if all(character <= "\xff" for character in value):
        assert back == value.encode("latin-1")


def test_an_object_of_the_application_that_cannot_be_shown_costs_its_field_only() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    format = "%(m)s %({x}e)s"
    variables = wanted_variables(needs_of(format).environ, {"x": Broken()})
    assert compile_format(format)(request(environ=variables)) == "GET -\n"


@pytest.mark.parametrize("format", ["combined", "json", GUNICORN_DEFAULT])
def test_a_line_needs_only_the_fields_that_it_shows(format: str) -> None:
    everything = request(request_fields=FIELDS)
    assert line_of(format) == compile_format(format)(everything)
    assert "x-id" not in needs_of(format).request_fields


def test_native_code_makes_no_lines_that_show_objects_of_the_application() -> None:
    assert line_format("%(h)s %({x}e)s") is None
    made = line_format("100%% %({X-Id}i)s\xe9")
    assert made is not None
    assert made.pieces == [
        ("text", "100"), ("text", "%"), ("text", " "), ("i", "x-id"), ("text", "\xe9\n")
    ]  # fmt: skip


IDS = {
    "penstock.trace_id": "0af7651916cd43dd8448eb211c80319c",
    "penstock.span_id": "b7ad6b7169203331",
}


def test_the_ids_of_a_span_have_atoms_and_native_code_leaves_them_to_python() -> None:
    format = "%(trace_id)s %(span_id)s %(t)s"
    make = compile_format(format)
    assert make(request(environ=IDS)).startswith(" ".join(IDS.values()) + " [")
    assert make(request()).startswith("- - [")
    assert needs_of(format).environ == IDS.keys()
    assert line_format(format) is None
    assert unknown_atoms(format) == []


def test_json_has_the_ids_of_a_span_only_where_requests_are_traced() -> None:
    plain, traced = compile_format("json"), compile_format("json", traced=True)
    assert not {"trace_id", "span_id"} & json.loads(plain(request(environ=IDS))).keys()
    line = json.loads(traced(request(environ=IDS)))
    assert [line["trace_id"], line["span_id"]] == list(IDS.values())
    assert json.loads(traced(request()))["span_id"] is None
    assert needs_of("json", traced=True).environ == IDS.keys()
    assert needs_of("json").environ == set()
