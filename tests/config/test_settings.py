"""Settings: declared once, taken from the right place, refused in one clear line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from penstock.cli.arguments import parse_command_line
from penstock.cli.help_page import build_parser
from penstock.cli.settings import load_settings
from penstock.config import other_servers
from penstock.config.checks import check_possible
from penstock.config.reference_page import settings_page
from penstock.config.settings import OPTIONS, Settings
from penstock.config.sources import build, settings_from_kwargs
from penstock.errors import SettingsError

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

NOBODY = 65534


def load(
    cwd: Path, flags: Mapping[str, object] | None = None, config: str | None = None, **environ: str
) -> Settings:
    return load_settings(flags or {}, environ, cwd, config)


def message(error: pytest.ExceptionInfo[SettingsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Where a setting comes from


def test_a_flag_counts_more_than_a_variable_a_file_and_the_default(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 3\nbacklog = 3\nmax_body = 3\n")
    settings = load(
        tmp_path, {"threads": "1"}, PENSTOCK_THREADS="2", PENSTOCK_BACKLOG="2", WEB_CONCURRENCY="1"
    )
    given = settings.threads, settings.backlog, settings.max_body, settings.max_connections
    assert given == (1, 2, 3, "auto")
    names = ("threads", "backlog", "max_body", "max_connections", "workers")
    assert [settings.source_of(name) for name in names] == [
        "--threads",
        "PENSTOCK_BACKLOG",
        "penstock.toml:max_body",
        "default",
        "WEB_CONCURRENCY",
    ]


def test_pyproject_gives_its_own_table_only(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx=1\n[tool.penstock]\nkeep-alive='5s'")
    settings = load(tmp_path)
    assert settings.keep_alive == 5.0
    assert settings.source_of("keep_alive") == "pyproject.toml:keep-alive"


def test_a_byte_order_mark_before_a_settings_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 3\r\n", encoding="utf-8-sig")
    assert load(tmp_path).threads == 3


def test_penstock_toml_replaces_the_table_in_pyproject_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.penstock]\nthreads = 9\n")
    (tmp_path / "penstock.toml").write_text("backlog = 5\n")
    settings = load(tmp_path)
    assert (settings.threads, settings.backlog) == (4, 5)
    assert "penstock.toml" in str(settings.warnings[0])


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that this process may not look into."""
    tmp_path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)  # root looks into any
    yield tmp_path
    os.seteuid(user)
    tmp_path.chmod(0o700)


def test_a_directory_that_may_not_be_searched_has_no_settings_file_and_causes_a_warning(
    nowhere: Path,
) -> None:
    settings = load_settings({"threads": "5"}, {}, nowhere)
    assert settings.threads == 5
    (warning,) = settings.warnings
    assert str(warning) == f"cannot look for a settings file in {nowhere}: Permission denied"


@pytest.mark.parametrize("text", ["this is [no TOML", "[tool]\nother = 1\n", "tool = 'penstock'\n"])
def test_a_pyproject_without_our_table_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load(tmp_path) == Settings()


def test_config_flag_replaces_the_usual_files(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 9\n")
    (tmp_path / "other.toml").write_text("backlog = 7\n")
    settings = load(tmp_path, config="other.toml")
    assert (settings.threads, settings.backlog) == (4, 7)
    assert settings.source_of("backlog") == "other.toml:backlog"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.toml", None, "No such file"),
        ("broken.toml", b"threads = ", "not valid TOML"),
        ("octal.toml", b"umask = 022\n", "is not valid TOML: Expected newline or end of"),
        ("octal.toml", b"umask = 022\n", "; an octal number begins with 0o"),
        ("latin.toml", b"chdir = '\xe9'", "not valid TOML"),
        ("twice.toml", b"max_body = 1\nmax-body = 2", "given twice"),
        ("pyproject.toml", b"[tool]\npenstock = 3", "is not a table"),
        ("unknown.toml", b"thread = 1", "did you mean 'threads'?"),
        ("table.toml", b"[tool.penstock]\nthreads = 1", "unknown setting 'tool'"),
        ("own.toml", b"[penstock]\nthreads = 1", "'penstock' in own.toml: a table; settings are"),
        ("pyproject.toml", b"[tool.penstock.server]\nx = 1", "keys of [tool.penstock] itself"),
        ("mode.toml", b"bind_mode = 660", 'write "0660" or 0o660 if that is octal'),
    ],
)
def test_a_bad_settings_file_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError) as error:
        load(tmp_path, config=name)
    assert said in message(error)
    assert name in message(error)


# What platforms give


def test_port_means_all_addresses_as_with_gunicorn(tmp_path: Path) -> None:
    settings = load(tmp_path, PORT="5000")
    assert settings.bind == ("0.0.0.0:5000",)
    assert settings.source_of("bind") == "PORT"
    assert load(tmp_path, {"bind": ["[::1]:80"]}, PORT="no number").bind == ("[::1]:80",)
    assert load(tmp_path, PORT="").bind == ("127.0.0.1:8000",)


@pytest.mark.parametrize("port", ["many", "65536", "-1", "8" * 5000, "٣"])
def test_a_malformed_port_is_refused(tmp_path: Path, port: str) -> None:
    with pytest.raises(SettingsError, match="from PORT"):
        load(tmp_path, PORT=port)


def test_web_concurrency_is_the_number_of_workers_where_nothing_else_says_it(
    tmp_path: Path,
) -> None:
    settings = load(tmp_path, WEB_CONCURRENCY="4")
    assert (settings.workers, settings.source_of("workers")) == (4, "WEB_CONCURRENCY")
    assert load(tmp_path, {"workers": "2"}, WEB_CONCURRENCY="4").workers == 2
    assert load(tmp_path, WEB_CONCURRENCY="").workers == 1
    with pytest.raises(SettingsError, match="from WEB_CONCURRENCY"):
        load(tmp_path, WEB_CONCURRENCY="many")


def test_gunicorns_variable_names_the_trusted_proxies(tmp_path: Path) -> None:
    settings = load(tmp_path, FORWARDED_ALLOW_IPS="10.0.0.5,unix")
    assert settings.forwarded_allow_ips == ("10.0.0.5/32", "unix")
    assert settings.source_of("forwarded_allow_ips") == "FORWARDED_ALLOW_IPS"
    given = load(tmp_path, {"forwarded_allow_ips": "*"}, FORWARDED_ALLOW_IPS="10.0.0.5")
    assert given.forwarded_allow_ips == ("*",)
    with pytest.raises(SettingsError, match=r"from FORWARDED_ALLOW_IPS.*not 0\.0\.0\.0/0"):
        load(tmp_path, FORWARDED_ALLOW_IPS="0.0.0.0/0")


def test_the_flag_of_the_proxy_protocol_needs_no_value_as_under_gunicorn(tmp_path: Path) -> None:
    for typed, wanted in (
        (["a:app", "--proxy-protocol"], "auto"),
        (["a:app", "--proxy-protocol", "v2"], "v2"),
        (["--proxy-protocol=off", "a:app"], "off"),
        (["a:app"], "off"),
    ):
        line = parse_command_line(typed)
        assert line.application == "a:app"
        assert load(tmp_path, line.flags).proxy_protocol == wanted


def test_a_switch_may_have_further_values_behind_an_equals_sign(tmp_path: Path) -> None:
    wanted: bool | str
    for typed, wanted in (
        (["--stream-requests", "a:app"], True),
        (["--stream-requests=auto", "a:app"], "auto"),
        (["--no-stream-requests", "--stream-requests=fast", "a:app"], "fast"),
        (["--stream-requests=auto", "--no-stream-requests", "a:app"], False),
    ):
        line = parse_command_line(typed)
        assert line.application == "a:app"
        assert load(tmp_path, line.flags).stream_requests == wanted
    assert load(tmp_path, PENSTOCK_STREAM_REQUESTS="auto").stream_requests == "auto"
    with pytest.raises(SettingsError, match="write --stream-requests, --stream-requests=fast, "):
        parse_command_line(["--stream-requests=some", "a:app"])


def test_what_is_announced_to_clients_has_to_be_a_second_at_least(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"send_keep_alive .* announces .* keep_alive \(1s"):
        check_possible(load(tmp_path, {"send_keep_alive": True, "keep_alive": 1.0}))


def test_script_name_comes_from_the_variable_that_gunicorn_reads(tmp_path: Path) -> None:
    assert load(tmp_path, SCRIPT_NAME="/app").script_name == "/app"
    with pytest.raises(SettingsError, match="from SCRIPT_NAME"):
        load(tmp_path, SCRIPT_NAME="/app/")


def test_systemd_sockets_replace_bind(tmp_path: Path) -> None:
    pid = str(os.getpid())
    settings = load(tmp_path, {"bind": ["127.0.0.1:1"]}, LISTEN_PID=pid, LISTEN_FDS="2")
    assert settings.bind == ("fd://3", "fd://4")
    assert settings.source_of("bind") == "LISTEN_FDS"
    assert "replace bind (from --bind)" in str(settings.warnings[0])
    assert load(tmp_path, LISTEN_PID=pid, LISTEN_FDS="1", PORT="1").warnings == ()


def test_sockets_passed_to_another_process_are_ignored(tmp_path: Path) -> None:
    settings = load(tmp_path, LISTEN_PID=str(os.getpid() + 1), LISTEN_FDS="1")
    assert settings.bind == ("127.0.0.1:8000",)


def test_a_malformed_count_of_passed_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="from LISTEN_FDS"):
        load(tmp_path, LISTEN_PID=str(os.getpid()), LISTEN_FDS="some")


def test_requests_are_logged_by_default_on_a_terminal_only(tmp_path: Path) -> None:
    assert load_settings({}, {}, tmp_path, on_terminal=True).access_logfile == "-"
    assert load_settings({}, {}, tmp_path, on_terminal=True).access_logformat == "short"
    asked = load_settings({"access_logfile": "-"}, {}, tmp_path, on_terminal=True)
    assert asked.access_logformat == "combined"
    assert load_settings({}, {}, tmp_path, on_terminal=False).access_logfile is None
    quiet = load_settings({"access_logfile": "none"}, {}, tmp_path, on_terminal=True)
    assert quiet.access_logfile is None


# Names


def test_an_unknown_variable_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_THREAD; did you mean 'PENSTOCK_THREADS'"):
        load(tmp_path, PENSTOCK_THREAD="1")


def test_the_variable_of_the_installation_is_not_a_setting(tmp_path: Path) -> None:
    assert load(tmp_path, PENSTOCK_NATIVE="require") == Settings()


def test_variables_of_kubernetes_for_a_service_named_penstock_are_not_settings(
    tmp_path: Path,
) -> None:
    links = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT": "80",
        "PENSTOCK_SERVICE_PORT_HTTP": "80",
        "PENSTOCK_PORT": "tcp://10.0.0.1:80",
        "PENSTOCK_PORT_80_TCP": "tcp://10.0.0.1:80",
        "PENSTOCK_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings({}, links, tmp_path) == Settings()
    with pytest.raises(SettingsError):
        load(tmp_path, PENSTOCK_PORT="80")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("keepalive", "keep_alive"),
        ("accesslog", "access_logfile"),
        ("errorlog", "error_logfile"),
        ("loglevel", "log_level"),
        ("access_log_format", "access_logformat"),
        ("raw_env", "env"),
        ("worker_connections", "max_connections"),
        ("preload_app", "preload"),
        ("pidfile", "pid"),
        ("proc_name", "name"),
        ("reload_extra_files", "reload_extra_file"),
    ],
)
def test_gunicorns_names_are_answered_with_penstocks(theirs: str, ours: str) -> None:
    with pytest.raises(SettingsError, match=f"did you mean '{ours}'"):
        settings_from_kwargs(**{theirs: 1})


@pytest.mark.parametrize(
    ("theirs", "name", "variable"),
    [
        ("worker_class", "see threads", "see PENSTOCK_THREADS"),
        ("initgroups", "user always", "PENSTOCK_USER always"),
        ("daemon", "systemd", "systemd"),
        ("post_fork", "in a gunicorn.conf.py", "in a gunicorn.conf.py"),
    ],
)
def test_gunicorns_settings_are_explained_in_every_source(
    tmp_path: Path, theirs: str, name: str, variable: str
) -> None:
    explained = "it is a setting of gunicorn, not of penstock: "
    with pytest.raises(SettingsError) as argument:
        settings_from_kwargs(**{theirs: 1})
    assert f"unknown setting '{theirs}': {explained}" in message(argument)
    assert name in message(argument)
    ours = f"PENSTOCK_{theirs.upper()}"
    with pytest.raises(SettingsError) as environ:
        load_settings({}, {ours: "1"}, tmp_path)
    assert f"unknown environment variable {ours}: {explained}" in message(environ)
    assert variable in message(environ)
    (tmp_path / "penstock.toml").write_text(theirs.replace("_", "-") + " = 1\n")
    with pytest.raises(SettingsError) as file:
        load(tmp_path)
    assert f"in penstock.toml: {explained}" in message(file)
    assert name in message(file)


@pytest.mark.parametrize("theirs", ["host", "port", "listen", "uds", "unix_socket", "sockets"])
def test_other_servers_names_for_an_address_are_answered_with_bind(theirs: str) -> None:
    with pytest.raises(SettingsError, match="of other servers, not of penstock: see bind,"):
        settings_from_kwargs(**{theirs: 3})


def test_the_answer_to_other_servers_names_fits_every_source() -> None:
    for name in other_servers._BY_NAME:
        for spelling in ("name", "variable", "flag"):
            said = other_servers.explain(name, OPTIONS, spelling)
            assert said is not None
            assert "{" not in said
        assert name not in OPTIONS


# Values


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("max_body", "64KiB", 65536),
        ("max_body", "10MB", 10_000_000),
        ("max_body", "1.5gib", 3 << 29),
        ("max_body", "2TB", 2 * 10**12),
        ("max_body", "1TiB", 1 << 40),
        ("max_body", "17", 17),
        ("max_body", 17, 17),
        ("keep_alive", "500ms", 0.5),
        ("keep_alive", "5m", 300.0),
        ("keep_alive", "0", 0.1),
        ("keep_alive", 0, 0.1),
        ("limit_request_line", "0", 64 << 10),
        ("limit_request_field_size", "0", 64 << 10),
        ("limit_request_fields", "0", 10000),
        ("keep_alive", "1h", 3600.0),
        ("keep_alive", "30", 30.0),
        ("keep_alive", 2, 2.0),
        ("bind", "127.0.0.1:0, [::1]:0", ("127.0.0.1:0", "[::1]:0")),
        ("bind", ["unix:/tmp/a b.sock"], ("unix:/tmp/a b.sock",)),
        ("trace", "on", True),
        ("trace", "0", False),
        ("trace", True, True),
        ("log_level", "WARNING", "warning"),
        ("temp_dir", None, None),
        ("server_header", "", ""),
        ("access_logfile", "-", "-"),
        ("timeout", "2m", 120.0),
        ("timeout_for", "/reports/*=5m, /slow=0", ("/reports/*=5m", "/slow=0")),
        ("health_path", "/healthz", "/healthz"),
        ("ready_path", "none", None),
    ],
)
def test_values_are_read_with_their_units(name: str, given: object, value: object) -> None:
    assert getattr(settings_from_kwargs(**{name: given}), name) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("threads", 0),
        ("threads", 1001),
        ("threads", "4.0"),
        ("threads", 4.0),
        ("threads", True),
        ("threads", "9" * 5000),
        ("threads", ""),
        ("max_body", "10 parsecs"),
        ("max_body", "-1"),
        ("max_body", "64K"),
        ("max_body", 1.5),
        ("keep_alive", float("nan")),
        ("keep_alive", float("inf")),
        ("keep_alive", True),
        ("keep_alive", None),
        ("keep_alive", "2d"),
        ("trace", 1),
        ("trace", "maybe"),
        ("header_map", "keep"),
        ("bind", []),
        ("bind", ""),
        ("bind", [8000]),
        ("bind", 8000),
        ("server_header", "a\r\nSet-Cookie: b"),
        ("server_header", "grün"),
        ("script_name", "app"),
        ("script_name", "/"),
        ("script_name", "/a//b"),
        ("error_logfile", ""),
        ("temp_dir", "a\0b"),
        ("timeout_for", "5m"),
        ("timeout_for", "/a=soon"),
        ("health_path", "healthz"),
    ],
)
def test_the_error_for_a_value_says_what_is_allowed(name: str, given: object) -> None:
    with pytest.raises(SettingsError) as error:
        settings_from_kwargs(**{name: given})
    text = message(error)
    assert f"{given!r} for {name} (from argument {name})" in text
    assert f"allowed is {OPTIONS[name].kind.allowed}" in text


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("allow", "10.0.0.0/8", "10.0.0.1/8"),
        ("deny", "10.0.0.0/8", "everyone"),
        ("forwarded_allow_ips", "unix", "0.0.0.0/0"),
        ("proxy_allow_from", "*", "10.0.0.300"),
        ("forwarded_headers", "forwarded", "x-real-ip"),
        ("admin_hosts", "server.example", "http://server"),
        ("bind", "127.0.0.1:8000", ""),
        ("timeout_for", "/a=5m", "/a=soon"),
        ("env", "A=B", "A"),
    ],
)
def test_the_error_for_a_list_names_the_entry_that_is_wrong(
    name: str, right: str, wrong: str
) -> None:
    with pytest.raises(SettingsError) as error:
        build({name: ([right, wrong, right], "--here")}, [])
    assert message(error).startswith(f"bad value {wrong!r} for {name} (from --here): allowed is ")


def test_a_network_that_is_allowed_and_denied_is_a_warning_that_says_which_counts() -> None:
    settings = settings_from_kwargs(
        allow=["10.0.0.0/8", "192.0.2.1"], deny=["0.0.0.0/0", "192.0.2.1/32", "10.1.0.0/16"]
    )
    assert [warning.render() for warning in settings.warnings] == [
        "PEN-1065 allow (from argument allow) and deny (from argument deny) both have "
        "192.0.2.1/32: deny counts"
    ]
    assert not settings_from_kwargs(allow="10.0.0.0/8", deny="0.0.0.0/0").warnings


def test_a_long_time_is_shown_as_it_can_be_given() -> None:
    kind = OPTIONS["static_max_age"].kind
    assert kind.allowed.endswith("from 0s to 31536000s")
    assert kind.convert(kind.show(1234567.5)) == 1234567.5


def test_the_bounds_of_a_size_have_units_that_people_read() -> None:
    with pytest.raises(SettingsError, match="from 1 to 1024TiB"):
        settings_from_kwargs(max_body=0)


def test_the_error_for_an_empty_variable_says_that_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, PENSTOCK_THREADS="")
    source = "PENSTOCK_THREADS, which is empty: unset it or give it a value"
    said = f"bad value '' for threads (from {source})"
    assert said in message(error)
    assert load(tmp_path, PENSTOCK_TEMP_DIR="").temp_dir is None


@pytest.mark.parametrize(
    ("given", "mask"), [("022", 0o22), ("0o22", 0o22), ("18", 18), ("0", 0), (0o77, 0o77)]
)
def test_umask_is_octal_or_decimal_as_with_gunicorn(
    tmp_path: Path, given: object, mask: int
) -> None:
    assert load(tmp_path, {"umask": given}).umask == mask


@pytest.mark.parametrize("name", ["bind_mode", "umask"])
@pytest.mark.parametrize(
    "content",
    [
        "{} = 440",
        "{} = 77  # 0o77",
        '"{}" = +440',
        "[tool.penstock]\n{} = 440",
        "tool.penstock.{} = 440",
        "tool.penstock = {{threads = 2, {} = 440}}",
    ],
)
def test_a_file_mode_in_decimal_digits_of_toml_is_refused_with_what_to_write(
    tmp_path: Path, name: str, content: str
) -> None:
    file = "pyproject.toml" if "tool" in content else "penstock.toml"
    (tmp_path / file).write_text(content.format(name))
    with pytest.raises(SettingsError) as error:
        load(tmp_path)
    digits, octal = ("77", "0o115") if "77" in content else ("440", "0o670")
    assert f"bad value {digits} for {name} (from {file}:{name})" in message(error)
    assert f'; write "0{digits}" or 0o{digits} if that is octal: as a decimal' in message(error)
    assert message(error).endswith(f"it is {octal}")


@pytest.mark.parametrize(
    ("written", "mode"),
    [("0o440", 0o440), ("0o670", 440), ('"0440"', 0o440), ("0x1ff", 0o777), ("288", 0o440)],
)
@pytest.mark.parametrize("name", ["bind_mode", "umask"])
def test_a_file_mode_of_toml_is_octal_as_text_or_behind_0o(
    tmp_path: Path, name: str, written: str, mode: int
) -> None:
    (tmp_path / "penstock.toml").write_text(f"# {name} = 440\n{name} = {written}\n")
    assert getattr(load(tmp_path), name) == mode


@pytest.mark.parametrize(
    ("name", "given"), [("umask", "22"), ("umask", "777"), ("bind_mode", "77"), ("bind_mode", 660)]
)
def test_digits_that_may_be_octal_are_refused_with_what_to_write(
    tmp_path: Path, name: str, given: object
) -> None:
    with pytest.raises(SettingsError, match=f'write "0{given}" or 0o{given} if that is octal'):
        load(tmp_path, {name: given})


def test_a_number_of_a_program_is_the_mode_itself() -> None:
    assert settings_from_kwargs(bind_mode=440).bind_mode == 0o670


@pytest.mark.parametrize("given", ["0o1000", "-1", "089", "rw"])
def test_a_umask_out_of_bounds_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="for umask"):
        load(tmp_path, {"umask": given})


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("workers", "auto", "auto"),
        ("workers", "AUTO", "auto"),
        ("workers", "12", 12),
        ("max_memory", "40%", 0.4),
        ("max_memory", 0.4, 0.4),
        ("max_memory", "512MiB", 512 << 20),
        ("max_memory", "none", None),
        ("user", "www-data", "www-data"),
        ("user", "unchanged", None),
    ],
)
def test_settings_of_processes_are_read(
    tmp_path: Path, name: str, given: object, value: object
) -> None:
    assert getattr(load(tmp_path, {name: given}), name) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [("workers", "0"), ("workers", "some"), ("max_memory", "0%"), ("max_memory", "101%"),
     ("max_memory", "many%"), ("max_memory", "1"), ("max_memory", True), ("user", "a:b")],
)  # fmt: skip
def test_settings_of_processes_have_bounds(tmp_path: Path, name: str, given: object) -> None:
    with pytest.raises(SettingsError, match=f"for {name}"):
        load(tmp_path, {name: given})


@pytest.mark.parametrize(
    ("together", "said"),
    [
        ({"supervisor": False, "workers": "2"}, "workers (2 from --workers) needs a supervisor"),
        ({"supervisor": False, "max_memory": "50%"}, "max_memory (50% from --max-memory) needs"),
        ({"supervisor": False, "reload": True}, "reload (true from --reload) needs a supervisor"),
        ({"supervisor": False, "pid": "/run/a.pid"}, "pid (/run/a.pid from --pid) needs a supervi"),
    ],
)
def test_impossible_combinations_of_processes_are_refused(
    tmp_path: Path, together: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, together)
    assert said in message(error)


def test_env_is_a_list_of_assignments_or_a_table(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('[env]\nA = "1=2"\nB = ""\n')
    assert load(tmp_path).env == ("A=1=2", "B=")
    assert load(tmp_path, {"env": ["C=x,y"]}).env == ("C=x,y",)
    with pytest.raises(SettingsError, match="allowed is KEY=VALUE"):
        load(tmp_path, {"env": ["=1"]})


@pytest.mark.parametrize(
    ("together", "said"),
    [
        ({"limit_request_line": "100KiB"}, "is more than limit_request_head (64KiB from default)"),
        ({"limit_request_field_size": 2000, "limit_request_head": 1000}, "limit_request_head"),
        ({"drain_linger": "5s", "graceful_timeout": "1s"}, "is more than graceful_timeout"),
        ({"shutdown_delay": "40s"}, "is more than graceful_timeout (25s from default)"),
        ({"bind": ["127.0.0.1:1", "127.0.0.1:1"]}, "has 127.0.0.1:1 twice"),
        ({"bind": ["http://127.0.0.1:1", "127.0.0.1:1"]}, "has 127.0.0.1:1 twice"),
        ({"static": ["/s=a", "/t=a", "/s/=b"]}, "has the prefix /s/ twice"),
        ({"sendfile_root": ["/a", "/b", "/s=/a", "/s=/b"]}, "has the prefix /s/ twice"),
    ],
)
def test_impossible_combinations_are_refused(together: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings_from_kwargs(**together)
    assert said in message(error)


@pytest.mark.parametrize(
    ("together", "said"),
    [
        (
            {"bind": ["https://127.0.0.1:1"], "redirect_http": ["127.0.0.1:1"]},
            "redirect_http (127.0.0.1:1 from --redirect-http) has 127.0.0.1:1, which is an address "
            "of bind (https://127.0.0.1:1 from --bind)",
        ),
        (
            {"redirect_http": ["http://127.0.0.1:8000"]},
            "which is an address of bind (127.0.0.1:8000 from default): redirects need another "
            "port",
        ),
        (
            {"redirect_http": ["127.0.0.1:1", "127.0.0.1:1"]},
            "redirect_http (127.0.0.1:1,127.0.0.1:1 from --redirect-http) has 127.0.0.1:1 twice",
        ),
    ],
)
def test_an_address_of_redirects_is_one_of_its_own(
    tmp_path: Path, together: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, {"certfile": "a", **together})
    assert said in message(error)


def test_a_short_graceful_timeout_alone_is_possible() -> None:
    assert settings_from_kwargs(graceful_timeout=0).graceful_timeout == 0.0


# The Python API


@pytest.mark.parametrize("name", ["chdir", "pythonpath", "env", "umask", "workers", "user", "pid"])
def test_a_setting_of_the_whole_process_is_refused_from_a_program(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is a setting of the penstock command alone"):
        settings_from_kwargs(**{name: "x"})


def test_a_program_gets_no_setting_that_it_did_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_BACKLOG", "9")
    monkeypatch.setenv("PORT", "9")
    assert settings_from_kwargs() == Settings()


def test_relative_paths_stay_where_they_were_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_from_kwargs(temp_dir="t", access_logfile="-", error_logfile="e.log")
    assert settings.temp_dir == str(tmp_path / "t")
    assert settings.error_logfile == str(tmp_path / "e.log")
    assert settings.access_logfile == "-"
    assert settings.source_of("temp_dir") == "argument temp_dir"


# The declarations


@pytest.mark.parametrize("name", OPTIONS)
def test_every_default_can_be_shown_and_read_back(name: str) -> None:
    option = OPTIONS[name]
    assert option.kind.convert(option.default) == option.default
    shown = option.kind.show(option.default)
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        assert option.kind.convert(shown) == option.default


def test_a_declaration_is_enough_for_flag_variable_file_keyword_help_and_page(
    tmp_path: Path,
) -> None:
    missing = []
    help_page, page = build_parser().format_help(), settings_page()
    for name, option in OPTIONS.items():
        shown = option.kind.show(option.default).strip('"')
        examples = {"KEY=VALUE": "A=1", "PATTERN=TIME": "/a=1s", "PREFIX=DIR": "/a=b", "DIR": "/a"}
        value = examples.get(option.kind.metavar, shown)
        typed = parse_command_line([option.flag] if option.is_switch else [option.flag, value])
        (tmp_path / "penstock.toml").write_text(f"{name} = {json.dumps(value)}\n")
        ways = {
            "flag": name in typed.flags,
            "variable": option.variable
            == load_settings({}, {option.variable: value}, tmp_path).source_of(name),
            "file": load(tmp_path).source_of(name) == f"penstock.toml:{name}",
            "keyword": option.command_only
            or settings_from_kwargs(**{name: value}).source_of(name) == f"argument {name}",
            "help": option.flag in help_page or option.negative_flag in help_page,
            "page": f"\n### {name}\n" in page,
        }
        missing += [f"{name}: {way}" for way, there in ways.items() if not there]
    assert not missing


@pytest.mark.parametrize(
    ("flag", "several"),
    [
        ("--forwarded-allow-ips", ["192.0.2.1/32", "10.0.0.0/24", "unix"]),
        ("--forwarded-headers", ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-ssl=on"]),
        ("--proxy-allow-from", ["192.0.2.1/32", "::1/128", "unix"]),
        ("--allow", ["192.0.2.0/24", "10.0.0.0/24"]),
    ],
)
def test_a_flag_may_have_several_entries_with_commas_as_the_pages_and_gunicorn_have_it(
    flag: str, several: list[str], tmp_path: Path
) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    typed = [flag, ", ".join(several[:-1]), flag, several[-1]]
    settings = load_settings(parse_command_line(typed).flags, {}, tmp_path)
    assert getattr(settings, name) == tuple(several)
    assert getattr(settings_from_kwargs(**{name: several}), name) == tuple(several)
    assert getattr(settings_from_kwargs(**{name: []}), name) == ()


def test_no_two_settings_share_a_flag_or_a_variable() -> None:
    flags = [flag for option in OPTIONS.values() for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert not {other for option in OPTIONS.values() for other in option.also_called} & set(OPTIONS)


def test_a_table_of_the_project_with_nearly_the_name_of_the_servers_causes_a_warning(
    tmp_path: Path,
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.pytest]\na = 1\n[tool.penstok]\nthreads = 2\n")
    (warning,) = load_settings({}, {}, tmp_path).warnings
    assert warning.render().startswith("PEN-1021 pyproject.toml has the table [tool.penstok]")
    project.write_text("[tool.poetry]\na = 1\n")
    assert load_settings({}, {}, tmp_path).warnings == ()


def test_each_section_is_once_on_the_reference_page_and_in_the_help() -> None:
    for text, heading in ((settings_page(), r"^## .+"), (build_parser().format_help(), r"^\w.*:$")):
        sections = re.findall(heading, text, re.MULTILINE)
        assert len(sections) == len(set(sections)) > 10


def test_the_reference_page_is_what_the_declarations_say() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"
