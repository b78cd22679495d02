"""The ``environ``: variables, header fields and the mount prefix."""

from __future__ import annotations

import io
from typing import Any
from wsgiref.util import request_uri
from wsgiref.validate import check_environ  # type: ignore[attr-defined]

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.wsgi import environ as environ_module
from penstock.wsgi.environ import KEY_CACHE_ENTRIES, OUTSIDE_MOUNT, HeaderMap, split_script_name
from penstock.wsgi.file_wrapper import FileWrapper
from support.fake_exchange import make_base, make_environ, make_request


def environ_of(target: str = "/", base: dict[str, Any] | None = None, **changes: Any) -> Any:
    return make_environ(make_request(target=target, **changes), base=base)


def test_pep3333_every_required_variable_is_set() -> None:
    environ = environ_of("/a/b?x=1&y=%20")
    assert type(environ) is dict
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "x=1&y=%20",
        "RAW_URI": "/a/b?x=1&y=%20",
        "REQUEST_URI": "/a/b?x=1&y=%20",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "penstock/test",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4000",
        "HTTP_HOST": "example.org",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    }
    assert {key: environ[key] for key in expected} == expected
    assert type(environ["wsgi.version"]) is tuple
    assert "HTTPS" not in environ
    environ["wsgi.input"] = io.BytesIO()
    check_environ(environ)


def test_pep3333_environ_is_fresh_for_each_request() -> None:
    base = make_base()
    before = dict(base)
    environ = environ_of(base=base)
    environ["SERVER_NAME"] = "changed"
    environ.pop("wsgi.version")
    assert base == before
    assert environ_of(base=base)["SERVER_NAME"] == "example.org"


def test_pep3333_request_method_keeps_its_case() -> None:
    assert make_environ(make_request("gEt"))["REQUEST_METHOD"] == "gEt"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%20b+c", "/a b+c"),
        ("/%2520", "/%20"),  # decoded once
        ("/%zz%4", "/%zz%4"),
        ("/a%2Fb", "/a/b"),
        ("/%C3%A9", "/\xc3\xa9"),
        ("/\xe9%41", "/\xe9A"),
        ("/%00", "/\x00"),
        ("//host/x", "//host/x"),
        ("*", ""),
    ],
)
def test_pep3333_path_info_is_percent_decoded_once_into_latin1(target: str, path: str) -> None:
    environ = environ_of(target)
    assert environ["PATH_INFO"] == path
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == target


@pytest.mark.parametrize("target", ["/p", "/p?"])
def test_pep3333_query_string_is_set_when_it_is_empty(target: str) -> None:
    assert environ_of(target)["QUERY_STRING"] == ""


def test_bytes_above_ascii_are_what_their_percent_encoded_form_would_be() -> None:
    environ = environ_of("/caf\xc3\xa9?q=\xff&r=%41")
    assert environ["PATH_INFO"] == environ_of("/caf%C3%A9")["PATH_INFO"]
    assert environ["QUERY_STRING"] == "q=%FF&r=%41"
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == "/caf\xc3\xa9?q=\xff&r=%41"


def test_pep3333_url_reconstruction_returns_the_url() -> None:
    environ = environ_of("/app/a%20b?q=1", base=make_base(script_name="/app"))
    assert request_uri(environ) == "http://example.org/app/a%20b?q=1"


def test_pep3333_server_name_and_port_are_never_empty() -> None:
    base = make_base(server_name="", server_port="")
    assert (base["SERVER_NAME"], base["SERVER_PORT"]) == ("localhost", "80")


def test_https_is_on_for_the_scheme_https() -> None:
    base = make_base(url_scheme="https")
    assert (base["wsgi.url_scheme"], base["HTTPS"]) == ("https", "on")


def test_peer_of_a_unix_socket_has_no_address_and_no_port() -> None:
    environ = make_environ(remote=("", ""))
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ


# Header fields


def test_rfc3875_fields_become_http_variables() -> None:
    environ = environ_of(fields={"x-forwarded-for": "10.0.0.1", "accept": "a,b", "content": "x"})
    assert environ["HTTP_X_FORWARDED_FOR"] == "10.0.0.1"
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_CONTENT"] == "x"


def test_rfc3875_content_type_and_length_have_no_http_prefix() -> None:
    fields = {"content-type": "text/plain", "content-length": "3"}
    environ = environ_of(fields=fields, content_length=3)
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["CONTENT_LENGTH"] == "3"
    assert not [key for key in environ if key.startswith("HTTP_CONTENT")]


def test_content_length_is_absent_without_a_body() -> None:
    assert "CONTENT_LENGTH" not in make_environ(content_length=0)


def test_content_length_0_is_set_if_it_was_sent() -> None:
    assert environ_of(content_length=0)["CONTENT_LENGTH"] == "0"


def test_chunked_body_that_was_buffered_has_its_length() -> None:
    request = make_request(fields={"transfer-encoding": "chunked"}, chunked=True)
    environ = make_environ(request, content_length=7)
    assert environ["CONTENT_LENGTH"] == "7"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_chunked_body_that_is_streamed_has_no_length_and_no_coding() -> None:
    request = make_request(fields={"transfer-encoding": "chunked"}, chunked=True)
    environ = make_environ(request)
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_cve_2016_1000110_httpoxy_proxy_field_is_dropped() -> None:
    assert "HTTP_PROXY" not in environ_of(fields={"proxy": "http://evil.example"})


@pytest.mark.parametrize("header_map", ["drop", "refuse"])
def test_cve_2024_45614_field_with_underscore_is_dropped(header_map: Any) -> None:
    fields = {"x-real-ip": "10.0.0.1", "x_real_ip": "6.6.6.6", "x_other": "1"}
    environ = make_environ(make_request(fields=fields), header_map=header_map)
    assert environ["HTTP_X_REAL_IP"] == "10.0.0.1"
    assert "HTTP_X_OTHER" not in environ


@pytest.mark.parametrize("order", [1, -1])
def test_dangerous_header_map_never_replaces_a_field_with_a_hyphen(order: int) -> None:
    names = ["x-real-ip", "x_real_ip"][::order]
    fields = {name: name for name in names} | {"x_other": "1"}
    environ = make_environ(make_request(fields=fields), header_map="dangerous")
    assert environ["HTTP_X_REAL_IP"] == "x-real-ip"
    assert environ["HTTP_X_OTHER"] == "1"


def test_dangerous_header_map_cannot_set_framing_or_proxy() -> None:
    fields = {"content_length": "9", "content_type": "x", "transfer_encoding": "chunked"}
    environ = make_environ(make_request(fields=fields), header_map="dangerous")
    assert not [key for key in environ if key.startswith(("HTTP_", "CONTENT_"))]


def test_names_invented_by_clients_do_not_grow_the_cache() -> None:
    for number in range(KEY_CACHE_ENTRIES * 2):
        environ = environ_of(fields={f"x-{number}": "1"})
        assert environ[f"HTTP_X_{number}"] == "1"
    environ_of(fields={"x" * 1000: "1"})
    assert len(environ_module._keys) <= KEY_CACHE_ENTRIES
    assert "x" * 1000 not in environ_module._keys


# The mount prefix


@pytest.mark.parametrize(
    ("prefix", "path", "parts"),
    [
        ("/app", "/app", ("/app", "")),
        ("/app", "/app/", ("/app", "/")),
        ("/app", "/app/x", ("/app", "/x")),
        ("/app", "/apple", None),
        ("/app", "/x/app", None),
        ("/app", "/", None),
        ("", "/x", ("", "/x")),
    ],
)
def test_mount_prefix_ends_at_a_segment(
    prefix: str, path: str, parts: tuple[str, str] | None
) -> None:
    assert split_script_name(prefix, path) == parts


def test_script_name_is_taken_from_the_decoded_path() -> None:
    environ = environ_of("/caf%C3%A9/x", base=make_base(script_name="/café/"))
    assert environ["SCRIPT_NAME"] == "/caf\xc3\xa9"
    assert environ["PATH_INFO"] == "/x"
    assert OUTSIDE_MOUNT not in environ


def test_path_outside_the_mount_is_not_split_and_is_marked() -> None:
    environ = environ_of("/apple", base=make_base(script_name="/app"))
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/apple"
    assert environ[OUTSIDE_MOUNT]


def test_options_asterisk_reaches_a_mounted_application() -> None:
    environ = environ_of("*", base=make_base(script_name="/app"))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "")
    assert OUTSIDE_MOUNT not in environ


@pytest.mark.parametrize("prefix", ["", "/"])
def test_pep3333_script_name_is_never_only_a_slash(prefix: str) -> None:
    assert make_base(script_name=prefix)["SCRIPT_NAME"] == ""


def test_mount_prefix_must_start_with_a_slash() -> None:
    with pytest.raises(ValueError, match="'app'"):
        make_base(script_name="app")


latin1 = st.text(st.characters(max_codepoint=255))
names = st.text("abcxyz-_0~", min_size=1, max_size=20)


@settings(deadline=None)  # a busy machine is no failure
@given(
    path=latin1,
    query=latin1,
    fields=st.dictionaries(names, latin1),
    prefix=st.sampled_from(["", "/a"]),
)
def test_pep3333_variables_are_latin1_and_pass_the_validator(
    path: str, query: str, fields: dict[str, str], prefix: str
) -> None:
    request = make_request(path="/" + path, query=query, fields=fields)
    header_maps: list[HeaderMap] = ["drop", "dangerous"]
    for header_map in header_maps:
        environ = make_environ(request, base=make_base(script_name=prefix), header_map=header_map)
        for key, value in environ.items():
            if "." not in key:
                assert type(value) is str
                value.encode("latin-1")
        environ["wsgi.input"] = io.BytesIO()
        check_environ(environ)
