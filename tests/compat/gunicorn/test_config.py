"""gunicorn's files and GUNICORN_CMD_ARGS, as teams have them that come from there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from penstock.cli.arguments import parse_command_line
from penstock.cli.settings import load_settings
from penstock.compat.gunicorn.config import ConfigFileError
from penstock.compat.gunicorn.found import is_python
from penstock.config.gunicorn_settings import GUNICORN_SETTINGS, HOOKS
from penstock.config.settings import OPTIONS, Settings
from penstock.errors import SettingsError
from support.server_process import ServerProcess, run_penstock

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    """Forget what configuration files were imported as."""
    before, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(before):
        if name == "__config__" or name.startswith("conf_of_"):
            del sys.modules[name]
    sys.path[:] = path


def load(
    cwd: Path, content: str | None = None, config: str | None = None, **environ: str
) -> Settings:
    if content is not None:
        (cwd / "gunicorn.conf.py").write_text(content)
    return load_settings({}, environ, cwd, config)


def value(cwd: Path, content: str, name: str) -> object:
    return getattr(load(cwd, content), name)


# Which file


def test_a_gunicorn_conf_py_in_the_current_directory_is_read_and_noted(
    tmp_path: Path,
) -> None:
    settings = load(tmp_path, "workers = 3\nbind = '0.0.0.0:9000'\n")
    assert (settings.workers, settings.bind) == (3, ("0.0.0.0:9000",))
    assert settings.source_of("workers") == "gunicorn.conf.py:workers"
    assert settings.notes == ("gunicorn.conf.py was read: workers, bind",)
    assert settings.source_of("threads") == "gunicorn's default, with gunicorn.conf.py"
    assert settings.warnings == ()


def test_without_a_gunicorn_conf_py_there_is_no_note(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings, settings.notes, settings.hooks) == (Settings(), (), {})


def test_it_counts_less_than_penstocks_own_file_and_all_above_and_more_than_the_platform(
    tmp_path: Path,
) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 2\nbacklog = 2\nmax_requests = 2\n")
    (tmp_path / "gunicorn.conf.py").write_text(
        "threads = backlog = max_requests = workers = timeout = 9\n"
    )
    environ = {
        "PENSTOCK_THREADS": "4",
        "GUNICORN_CMD_ARGS": "--threads 3 --backlog=3",
        "WEB_CONCURRENCY": "1",
    }
    settings = load_settings({"threads": "5"}, environ, tmp_path)
    names = ("threads", "backlog", "max_requests", "workers", "timeout")
    assert [getattr(settings, name) for name in names] == [5, 3, 2, 9, 9.0]
    settings = load_settings({}, environ, tmp_path)
    assert settings.source_of("threads") == "PENSTOCK_THREADS"
    assert settings.source_of("backlog") == "GUNICORN_CMD_ARGS"


@pytest.mark.parametrize("config", ["conf_of_a.py", "file:conf_of_a.py", "python:conf_of_a"])
def test_a_file_that_is_asked_for_replaces_the_usual_ones(tmp_path: Path, config: str) -> None:
    (tmp_path / "penstock.toml").write_text("threads = 9\n")
    (tmp_path / "gunicorn.conf.py").write_text("threads = 9\n")
    (tmp_path / "conf_of_a.py").write_text("backlog = 7\n")
    settings = load(tmp_path, config=config)
    assert (settings.threads, settings.backlog) == (1, 7)
    assert settings.source_of("backlog") == f"{config.removeprefix('file:')}:backlog"


def test_cmd_args_can_name_the_file_and_the_command_line_can_name_another(tmp_path: Path) -> None:
    (tmp_path / "conf_of_a.py").write_text("backlog = 7\n")
    (tmp_path / "b.toml").write_text("backlog = 8\n")
    assert load(tmp_path, GUNICORN_CMD_ARGS="-c conf_of_a.py").backlog == 7
    assert load(tmp_path, GUNICORN_CMD_ARGS="-c conf_of_a.py", config="b.toml").backlog == 8
    assert load(tmp_path, GUNICORN_CMD_ARGS="--config=b.toml").backlog == 8
    assert load(tmp_path, config="file:b.toml").backlog == 8


@pytest.mark.parametrize(
    ("config", "python"),
    [("a.py", True), ("a.pyc", True), ("file:a", True), ("python:a.b", True), ("a.toml", False),
     ("file:a.toml", False), ("a", False)],
)  # fmt: skip
def test_what_counts_as_python(config: str, python: bool) -> None:
    assert is_python(config) is python


def test_a_file_may_import_from_the_current_directory_which_leaves_the_path_afterwards(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf_of_team.py").write_text("COUNT = 6\n")
    path = list(sys.path)
    settings = load(tmp_path, "import sys\nfrom conf_of_team import COUNT\nworkers = COUNT\n")
    assert settings.workers == 6
    assert sys.path == path


@pytest.mark.parametrize("config", [None, "python:conf_of_a"])
def test_a_file_is_run_again_each_time(tmp_path: Path, config: str | None) -> None:
    file = tmp_path / ("conf_of_a.py" if config else "gunicorn.conf.py")
    for number in (2, 3):
        file.write_text(f"workers = {number}\n")
        assert load(tmp_path, config=config).workers == number
    assert not (tmp_path / "__pycache__").exists(), "it may belong to another user"


def test_classes_in_a_file_find_their_module(tmp_path: Path) -> None:
    content = (
        "from __future__ import annotations\nimport dataclasses, typing\n"
        "@dataclasses.dataclass\nclass Sizes:\n    workers: int = 5\n"
        "workers = Sizes().workers\nassert typing.get_type_hints(Sizes) == {'workers': int}\n"
    )
    assert load(tmp_path, content).workers == 5


# What is refused


@pytest.mark.parametrize(
    ("content", "said", "traceback"),
    [
        ("1 / 0\n", "gunicorn.conf.py raised ZeroDivisionError: division by zero", "line 1, in"),
        ("x = = 1\n", "gunicorn.conf.py raised SyntaxError", "x = = 1"),
        ("import sys\nsys.exit(3)\n", "gunicorn.conf.py raised SystemExit: 3", "sys.exit(3)"),
    ],
)
def test_a_file_that_raises_is_refused_with_its_own_traceback(
    tmp_path: Path, content: str, said: str, traceback: str
) -> None:
    with pytest.raises(ConfigFileError) as error:
        load(tmp_path, content)
    assert said in str(error.value)
    assert traceback in error.value.traceback
    assert "gunicorn/config.py" not in error.value.traceback
    assert "importlib" not in error.value.traceback
    assert "__config__" not in sys.modules


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("nothing.py", "there is no such file"),
        ("python:conf_of_nothing", "there is no module 'conf_of_nothing'"),
        ("python:conf_of_nothing.at.all", "there is no module"),
        ("python:", "there is no module ''"),
    ],
)
def test_a_missing_file_is_refused(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, config=config)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("workers = 'many'", "'many' for workers (from gunicorn.conf.py:workers)"),
        ("workers = 0", "0 for workers (from gunicorn.conf.py:workers)"),
        ("timeout = -1", "for timeout (from gunicorn.conf.py:timeout)"),
        ("loglevel = 'loud'", "for log_level (from gunicorn.conf.py:loglevel)"),
        ("raw_env = ['A']", "for env (from gunicorn.conf.py:raw_env)"),
        ("bind = 8000", "for bind (from gunicorn.conf.py:bind)"),
    ],
)
def test_an_impossible_value_is_refused_with_its_source(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, content)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
        ("--workers", "expected one argument"),
        ("--bind 'a", "cannot be read as a command line: No closing quotation"),
        ("--workers=x", "'x' for workers (from GUNICORN_CMD_ARGS)"),
    ],
)
def test_cmd_args_that_gunicorn_would_refuse_are_refused(
    tmp_path: Path, arguments: str, said: str
) -> None:
    with pytest.raises(SettingsError, match="GUNICORN_CMD_ARGS") as error:
        load(tmp_path, GUNICORN_CMD_ARGS=arguments)
    assert said in str(error.value)


# Values


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("import multiprocessing\nworkers = multiprocessing.cpu_count() * 2 + 1", "workers",
         (os.cpu_count() or 1) * 2 + 1),
        ("import os\nworkers = int(os.environ.get('NO_SUCH', '2'))", "workers", 2),
        ("workers = '4'", "workers", 4),
        ("workers = 2.5", "workers", 2),
        ("threads = '0x10'", "threads", 16),
        ("bind = ' 127.0.0.1:81 '", "bind", ("127.0.0.1:81",)),
        ("bind = ['127.0.0.1:81', 'unix:/run/a.sock']", "bind",
         ("127.0.0.1:81", "unix:/run/a.sock")),
        ("backlog = 100000", "backlog", 65535),
        ("preload_app = True", "preload", True),
        ("preload_app = 'true'", "preload", True),
        ("pidfile = '/run/a.pid'", "pid", "/run/a.pid"),
        ("proc_name = 'shop'", "name", "shop"),
        ("accesslog = '-'", "access_logfile", "-"),
        ("errorlog = '/var/log/a.log'", "error_logfile", "/var/log/a.log"),
        ("loglevel = 'DEBUG'", "log_level", "debug"),
        ("access_log_format = '%(h)s %(r)s'", "access_logformat", "%(h)s %(r)s"),
        ("raw_env = ['A=1', 'B=x,y']", "env", ("A=1", "B=x,y")),
        ("raw_env = 'A=x,y'", "env", ("A=x,y",)),
        ("keepalive = 5", "keep_alive", 5.0),
        ("keepalive = 0", "keep_alive", 0.1),
        ("timeout = 0", "timeout", 0.0),
        ("timeout = '120'", "timeout", 120.0),
        ("graceful_timeout = 90", "graceful_timeout", 90.0),
        ("max_requests = 1000", "max_requests", 1000),
        ("max_requests_jitter = 50", "max_requests_jitter", 50),
        ("limit_request_fields = 0", "limit_request_fields", 10000),
        ("limit_request_fields = 32768", "limit_request_fields", 10000),
        ("limit_request_line = 0", "limit_request_line", 1 << 20),
        ("limit_request_field_size = 0", "limit_request_field_size", 1 << 20),
        ("limit_request_field_size = 16380", "limit_request_field_size", 16380),
        ("reload = True", "reload", True),
        ("reload_extra_files = ['a.html', 'b/*']", "reload_extra_file", ("a.html", "b/*")),
        ("user = 33", "user", "33"),
        ("user = 'www-data'", "user", "www-data"),
        ("group = 33", "group", "33"),
        ("umask = 0o7", "umask", 7),
        ("umask = '022'", "umask", 0o22),
        ("chdir = '/srv'", "chdir", "/srv"),
        ("pythonpath = '/a,/b'", "pythonpath", ("/a", "/b")),
        ("sendfile = False", "sendfile", False),
        ("sendfile = None", "sendfile", True),
        ("tmp_upload_dir = '/tmp'", "temp_dir", "/tmp"),
        ("header_map = 'refuse'", "header_map", "refuse"),
        ("worker_connections = 500", "max_connections", 500),
        ("control_socket = '/run/a.ctl'", "control", "/run/a.ctl"),
        ("control_socket = '/run/a.ctl'\ncontrol_socket_disable = True", "control", "off"),
        ("control_socket_disable = True\ncontrol_socket = '/run/a.ctl'", "control", "off"),
        ("control_socket_disable = False", "control", "auto"),
        ("accesslog = errorlog = pidfile = user = None", "access_logfile", None),
    ],
)  # fmt: skip
def test_a_setting_that_both_have_becomes_penstocks(
    tmp_path: Path, content: str, name: str, expected: object
) -> None:
    settings = load(tmp_path, content)
    assert getattr(settings, name) == expected
    assert settings.warnings == ()


def test_the_limit_of_a_head_follows_those_of_its_parts(tmp_path: Path) -> None:
    settings = load(tmp_path, "limit_request_line = 0\nlimit_request_field_size = 0\n")
    assert settings.limit_request_head > settings.limit_request_line
    assert load(tmp_path, "limit_request_line = 8190\n").limit_request_head == 64 << 10


def test_cmd_args_take_gunicorns_flags_short_ones_too(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        GUNICORN_CMD_ARGS="-b 127.0.0.1:1 --bind='unix:/run/a b.sock' -w 3 -e A=1 -e B=2 --preload "
        "--no-sendfile -t 60 --keep-alive 5 --access-logfile - -n shop --no-control-socket "
        "--max-requests=10 --worker-connections 77 -p /run/a.pid -m 022 --log-file=e.log",
    )
    assert settings.bind == ("127.0.0.1:1", "unix:/run/a b.sock")
    assert (settings.workers, settings.env, settings.preload) == (3, ("A=1", "B=2"), True)
    assert (settings.sendfile, settings.timeout, settings.keep_alive) == (False, 60, 5)
    assert (settings.access_logfile, settings.name, settings.control) == ("-", "shop", "off")
    assert (settings.max_requests, settings.max_connections) == (10, 77)
    assert (settings.pid, settings.umask, settings.error_logfile) == ("/run/a.pid", 18, "e.log")
    assert settings.warnings == ()
    assert settings.notes[0].startswith("GUNICORN_CMD_ARGS was read: bind, workers, raw_env")


def test_cmd_args_name_no_application_as_with_gunicorn(tmp_path: Path) -> None:
    assert load(tmp_path, GUNICORN_CMD_ARGS="-w 3 shop:app").application is None


def test_the_file_can_name_the_application(tmp_path: Path) -> None:
    assert load(tmp_path, "wsgi_app = 'shop:app'").application == "shop:app"
    assert load(tmp_path, "wsgi_app = None").application is None


@pytest.mark.parametrize("content", ["_x = 1", "worker = 3", "def helper(): pass", "import os"])
def test_other_names_in_a_file_are_ignored(tmp_path: Path, content: str) -> None:
    settings = load(tmp_path, content)
    assert (settings, settings.warnings) == (Settings(threads=1), ())


# Threads: gunicorn's default is one


@pytest.mark.parametrize(
    ("content", "arguments", "typed", "threads"),
    [
        ("", "", {}, 1),
        (None, "--backlog 9", {}, 1),
        (None, "", {"worker_class": "sync"}, 1),
        (None, "", {"worker_class": "gthread"}, 1),
        (None, "", {}, 4),
        (None, "", {"worker_tmp_dir": "/dev/shm"}, 4),
        ("threads = 3", "", {}, 3),
        ("threads = 3", "--threads 2", {"worker_class": "gevent"}, 2),
        ("worker_class = 'gevent'", "", {}, 32),
        ("worker_class = 'sync'", "-k eventlet", {}, 32),
        ("worker_class = 'gevent'", "-k eventlet", {"worker_class": "sync"}, 1),
        ("worker_class = 'gunicorn.workers.ggevent.GeventWorker'\nthreads = 5", "", {}, 5),
        ("class W(type('GeventWorker', (), {})): pass\nworker_class = W", "", {}, 32),
    ],
)
def test_without_threads_their_number_is_gunicorns_where_its_settings_are_in_force(
    tmp_path: Path, content: str | None, arguments: str, typed: dict[str, object], threads: int
) -> None:
    if content is not None:
        (tmp_path / "gunicorn.conf.py").write_text(content)
    environ = {"GUNICORN_CMD_ARGS": arguments}
    settings = load_settings({}, environ, tmp_path, gunicorn_flags=typed)
    assert settings.threads == threads
    warned = [str(warning) for warning in settings.warnings]
    assert len(warned) == (threads in (32, 5, 2))
    assert all("set " in text and "(without it, 32)" in text for text in warned)


def test_penstocks_own_sources_give_the_threads_beside_a_file_of_gunicorns(tmp_path: Path) -> None:
    assert load(tmp_path, "", PENSTOCK_THREADS="6").threads == 6
    (tmp_path / "penstock.toml").write_text("threads = 7\n")
    assert load(tmp_path).threads == 7


# Settings that are ignored


def test_what_no_client_would_get_an_answer_with_is_refused_in_a_file_too(tmp_path: Path) -> None:
    for content in ("worker_class = 'uvicorn.workers.UvicornWorker'", "protocol = 'uwsgi'"):
        with pytest.raises(SettingsError, match=r"\(from gunicorn.conf.py\): .*(WSGI|uwsgi://)"):
            load(tmp_path, content)


@pytest.mark.parametrize("value", ["'h2'", "'h2,h1'", "['h1', 'h2']"])
def test_http_2_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"gunicorn.conf.py\): .* HTTP/1.1 only: leave h2 out"):
        load(tmp_path, f"http_protocols = {value}")
    assert not load(tmp_path, "http_protocols = 'h1'").warnings


def test_ignored_settings_are_named_once_with_the_reason(tmp_path: Path) -> None:
    content = """
worker_class = "gevent"
worker_tmp_dir = "/dev/shm"
ssl_version = "TLSv1_1"
reuse_port = True
daemon = True
spew = True
dirty_workers = 2
def on_dirty_starting(arbiter): pass
"""
    settings = load(tmp_path, content, GUNICORN_CMD_ARGS="--worker-tmp-dir /dev/shm")
    said = "\n".join(map(str, settings.warnings))
    for name in ("worker_class", "daemon", "spew"):
        assert len(re.findall(rf"\b{name}\b", said)) == 1, name
    noted = "\n".join(settings.notes)
    assert "GUNICORN_CMD_ARGS has worker_tmp_dir, which nothing here needs: workers write" in noted
    assert "gunicorn.conf.py has reuse_port, which nothing here needs: the workers share" in noted
    assert not re.search("worker_tmp_dir|reuse_port", said)
    assert "has ssl_version, without effect here: TLS 1.2 is the oldest version that" in said
    assert "see tls_min_version" in said
    assert "dirty_workers, on_dirty_starting, without effect here" in said
    assert "at the same time (without it, 32)" in said
    assert "{" not in said


@pytest.mark.parametrize(("value", "noted"), [("120", True), ("0", False), ("None", False)])
def test_a_timeout_of_gunicorns_is_said_to_be_for_each_request(
    tmp_path: Path, value: str, noted: bool
) -> None:
    settings = load(tmp_path, f"timeout = {value}\n")
    note = (
        "timeout of gunicorn.conf.py is for each request here: a call that sends nothing for 120 s "
        "gets 504 (setting: timeout)"
    )
    assert (note in settings.notes) is noted


@pytest.mark.parametrize(
    ("content", "allowed", "believed"),
    [
        ('forwarded_allow_ips = "*"', ("*", "unix"), ("x-forwarded-proto",)),
        ('forwarded_allow_ips = "10.0.0.5, 10.0.0.6"', ("10.0.0.5/32", "10.0.0.6/32", "unix"),
         ("x-forwarded-proto",)),
        ('forwarded_allow_ips = ""', ("unix",), ("x-forwarded-proto",)),
        ('secure_scheme_headers = {"X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}',
         None, ("x-forwarded-proto", "x-forwarded-ssl=on")),
        ('forwarder_headers = "SCRIPT_NAME,PATH_INFO"', None,
         ("x-forwarded-proto", "script_name")),
        ('forwarder_headers = ["SCRIPT_NAME"]\nsecure_scheme_headers = {"FRONT-END-HTTPS": "on"}',
         None, ("front-end-https=on", "script_name")),
        ('forwarder_headers = "REMOTE_USER"', None, ("x-forwarded-proto",)),
        ('proxy_protocol = True\nproxy_allow_ips = "10.0.0.5"', None, ("x-forwarded-proto",)),
    ],
)  # fmt: skip
def test_the_settings_of_proxies_become_ours(
    tmp_path: Path, content: str, allowed: tuple[str, ...] | None, believed: tuple[str, ...]
) -> None:
    settings = load(tmp_path, content)
    if allowed is None:
        allowed = Settings().forwarded_allow_ips
    assert (settings.forwarded_allow_ips, settings.forwarded_headers) == (allowed, believed)
    assert not settings.warnings


@pytest.mark.parametrize(
    ("value", "least"),
    [
        ("'TLSv1_2'", "1.2"),
        ("'TLSv1_3'", "1.3"),
        ("'TLS'", "1.2"),
        ("'TLS_SERVER'", "1.2"),
        ("'SSLv23'", "1.2"),
        ("'PROTOCOL_TLSv1_2'", "1.2"),
        ("'5'", "1.2"),
        ("5", "1.2"),
        ("ssl.PROTOCOL_TLS_SERVER", "1.2"),
        ("ssl.PROTOCOL_TLSv1_2", "1.2"),
        ("ssl.TLSVersion.TLSv1_2", "1.2"),
        ("ssl.TLSVersion.TLSv1_3", "1.3"),
        ("'1.3'", "1.3"),
    ],
)
def test_ssl_version_becomes_the_least_version(tmp_path: Path, value: str, least: str) -> None:
    settings = load(tmp_path, f"import ssl\nssl_version = {value}\n")
    assert settings.tls_min_version == least
    assert not settings.warnings


@pytest.mark.parametrize(
    "value",
    ["'SSLv3'", "'TLSv1'", "'TLSv1_1'", "3", "'4'", "ssl.PROTOCOL_TLSv1", "ssl.TLSVersion.SSLv3"],
)
def test_an_ssl_version_that_cannot_be_had_gets_a_warning(tmp_path: Path, value: str) -> None:
    settings = load(tmp_path, f"import ssl\nssl_version = {value}\n")
    assert settings.tls_min_version == "1.2"
    [warning] = map(str, settings.warnings)
    assert "ssl_version" in warning
    assert "see tls_min_version" in warning


@pytest.mark.parametrize("value", ["'TLSv2'", "99", "True", "[5]"])
def test_an_unknown_ssl_version_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="ssl_version"):
        load(tmp_path, f"ssl_version = {value}\n")


@pytest.mark.parametrize(
    "worker_class",
    [
        "'sync'",
        "'gthread'",
        "'gunicorn.workers.gthread.ThreadWorker'",
        "type('SyncWorker', (), {})",
    ],
)
def test_gunicorns_plain_worker_classes_cause_no_warning(tmp_path: Path, worker_class: str) -> None:
    settings = load(tmp_path, f"worker_class = {worker_class}\nthreads = 1\n")
    assert settings.warnings == ()
    assert settings.threads == 1


def test_setting_gunicorns_own_defaults_causes_no_warning(tmp_path: Path) -> None:
    rows = [row for row in GUNICORN_SETTINGS.values() if not row.ours]
    content = "\n".join(f"{row.name} = {row.default!r}" for row in rows)
    settings = load(tmp_path, content)
    assert (settings, settings.warnings) == (Settings(threads=1), ())


# The table


def test_the_table_has_every_setting_of_gunicorn_once() -> None:
    assert len(GUNICORN_SETTINGS) + len(HOOKS) == 120
    assert not set(GUNICORN_SETTINGS) & set(HOOKS)
    flags = [flag for row in GUNICORN_SETTINGS.values() for flag in row.flags]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("name", GUNICORN_SETTINGS)
def test_every_setting_of_gunicorn_becomes_one_of_penstock_or_has_a_reason(name: str) -> None:
    row = GUNICORN_SETTINGS[name]
    assert row.ours in OPTIONS if row.ours else row.instead


@pytest.mark.parametrize("name", [name for name, row in GUNICORN_SETTINGS.items() if row.flags])
def test_every_flag_of_gunicorn_is_taken_on_the_command_line(name: str) -> None:
    row = GUNICORN_SETTINGS[name]
    for flag in row.flags:
        parse_command_line([flag] if row.takes == "switch" else [flag, "http"])


# Files that import gunicorn where it is not installed


def test_a_file_that_imports_gunicorn_works_without_it(tmp_path: Path) -> None:
    """What real files import: bases of classes, values, and the defaults of logging."""
    content = """
import gunicorn
import gunicorn.glogging
from gunicorn import glogging, util
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.glogging import CONFIG_DEFAULTS, Logger
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import ThreadWorker

gunicorn.SERVER_SOFTWARE = "hidden"
class Quiet(glogging.Logger):
    def setup(self, cfg):
        super().setup(cfg)
logger_class = Quiet
class Worker(ThreadWorker):
    pass
worker_class = Worker if issubclass(HaltServer, Exception) else None
CONFIG_DEFAULTS["loggers"]["gunicorn.error"]["level"] = "ERROR"
from gunicorn.config import Postfork
post_fork = Postfork.post_fork
threads = 3
"""
    for _ in range(2):
        settings = load(tmp_path, content)
        assert settings.threads == 3
        assert [name for name in sys.modules if name.partition(".")[0] == "gunicorn"] == []
    assert find_spec("gunicorn") is None, "the application must not find one"
    assert "logger_class" in str(settings.warnings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("from gunicorn.util import daemonize", "Penstock's stand-in"),
        ("import gunicorn\ngunicorn.arbiter_of_all", "gunicorn is not installed"),
        ("from gunicorn.app.base import BaseApplication\nBaseApplication().run()",
         "starts gunicorn calls penstock.serve"),
    ],
)  # fmt: skip
def test_what_a_stand_in_does_not_have_is_an_error_that_says_what_it_is(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(ConfigFileError) as error:
        load(tmp_path, content)
    assert said in error.value.traceback + str(error.value)


def test_where_gunicorn_is_installed_a_file_gets_that(tmp_path: Path) -> None:
    (tmp_path / "gunicorn").mkdir()
    (tmp_path / "gunicorn" / "__init__.py").write_text("BACKLOG = 9\n")
    try:
        assert value(tmp_path, "import gunicorn\nbacklog = gunicorn.BACKLOG\n", "backlog") == 9
    finally:
        sys.modules.pop("gunicorn", None)


# The command


def test_a_server_starts_with_nothing_but_a_gunicorn_conf_py(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(
        "wsgi_app = 'served:app'\nthreads = 2\nworker_tmp_dir = '/dev/shm'\n"
    )
    with ServerProcess(cwd=tmp_path) as server:
        assert "serving served:app" in server.start_line
        lines = "\n".join(server.lines_so_far())
        assert "[INFO] gunicorn.conf.py was read: wsgi_app, threads, worker_tmp_dir" in lines
        assert "[INFO] gunicorn.conf.py has worker_tmp_dir, which nothing here needs: " in lines


def test_an_application_on_the_command_line_overrides_the_files(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text("wsgi_app = 'elsewhere:app'\n")
    done = run_penstock("--check", "served:app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("served:app can be served")
    assert done.stdout.endswith("gunicorn.conf.py was read: wsgi_app\n")


def test_a_file_that_raises_is_status_2_after_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("import nothing_at_all\n")
    done = run_penstock("served:app", cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == (
        "penstock: error: gunicorn.conf.py raised ModuleNotFoundError: No module named "
        "'nothing_at_all'"
    )
