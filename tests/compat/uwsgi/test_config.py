"""From uWSGI's options to settings, by files such as teams have that come from there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.request import urlopen

import pytest

from penstock.cli.arguments import parse_command_line
from penstock.cli.settings import load_settings
from penstock.compat.uwsgi.settings import BY_NAME, PREFIXES, UWSGI_OPTIONS
from penstock.config.other_servers import spelt
from penstock.config.settings import OPTIONS, Settings
from penstock.errors import SettingsError
from support.server_process import (
    START_WITHIN,
    ServerProcess,
    checkout_environ,
    run_penstock,
)

APPLICATION = """
import os
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.environ.get("STAGE", "none").encode()]
"""

OWN = {"application", "virtualenv", "protocol"}
"""What options become that is no setting."""


def load(directory: Path, text: str, /, **flags: object) -> Settings:
    (directory / "uwsgi.ini").write_text(f"[uwsgi]\n{text}")
    return load_settings(flags, {}, directory, None, "uwsgi.ini")


def warnings(settings: Settings) -> list[str]:
    return [warning.render() for warning in settings.warnings]


def warned_of(settings: Settings, name: str) -> str:
    [found] = [it for it in warnings(settings) if f" {name}," in it or f" {name} " in it]
    return found


# The tables


def test_every_option_becomes_a_setting_that_exists_or_says_what_to_use() -> None:
    for option in UWSGI_OPTIONS:
        assert option.ours or option.differs or option.instead, option
        assert not option.ours or option.ours in OPTIONS or option.ours in OWN, option
        spelt(option.instead or option.differs, OPTIONS, "name")
    for text in PREFIXES.values():
        spelt(text, OPTIONS, "name")


def test_every_option_is_in_one_row() -> None:
    names = [name for option in UWSGI_OPTIONS for name in option.names]
    assert len(names) == len(set(names)) == len(BY_NAME)


# Values


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("processes = 4", "workers", 4),
        ("workers = 4 ; four", "workers", 4),
        ("threads = true", "threads", 1),
        ("threads = 2", "threads", 2),
        ("http = :8080", "bind", (":8080",)),
        ("http = : 5000", "bind", (":5000",)),
        ("http-socket = *:80", "bind", (":80",)),
        ("http-socket = [::]:80\nhttp = :81", "bind", ("[::]:80", ":81")),
        ("http-socket = @shop", "bind", ("unix:@shop",)),
        ("socket = /run/shop.sock", "bind", ("uwsgi://unix:/run/shop.sock",)),
        ("socket = fd://3", "bind", ("uwsgi://fd://3",)),
        ("socket = :80\nprotocol = http", "bind", (":80",)),
        ("uwsgi-socket = :80\nprotocol = http\nhttp = :81", "bind", ("uwsgi://:80", ":81")),
        ("listen = 128", "backlog", 128),
        ("harakiri = 60", "timeout", 60.0),
        ("max-requests = 1000", "max_requests", 1000),
        ("max-requests-delta = 10", "max_requests_jitter", 10),
        ("max-worker-lifetime = 3600", "max_age", 3600.0),
        ("reload-on-rss = 200", "max_memory", 200 << 20),
        ("worker-reload-mercy = 8", "graceful_timeout", 8.0),
        ("py-autoreload = 2", "reload", True),
        ("py-autoreload = 0", "reload", False),
        ("uid = nobody\ngid = nogroup", "user", "nobody"),
        ("umask = 002", "umask", 2),
        ("env = A=1\nenv = B=2", "env", ("A=1", "B=2")),
        ("pythonpath = /a\npp = /b", "pythonpath", ("/a", "/b")),
        ("static-map = /static=/srv/static", "static", ("/static=/srv/static",)),
        ("static-map2 = /static=/srv", "static", ("/static=/srv/static",)),
        ("buffer-size = 32768", "limit_request_field_size", 32768),
        ("buffer-size = 131072", "limit_request_head", 131072),
        ("buffer-size = 4096", "limit_request_field_size", 8190),
        ("limit-post = 1000", "max_body", 1000),
        ("limit-post = 0", "max_body", 1 << 30),
        ("http-keepalive = 30", "keep_alive", 30.0),
        ("so-send-timeout = 90", "write_timeout", 90.0),
        ("http-keepalive", "keep_alive", 75.0),
        ("disable-logging = true", "access_logfile", None),
        ("log-5xx = true", "access_logfile", "-"),
        ("logto = /var/log/x.log", "error_logfile", "/var/log/x.log"),
        ("logto = /var/log/x.log", "access_logfile", "/var/log/x.log"),
        ("logger = file:/var/log/x.log", "error_logfile", "/var/log/x.log"),
        ("req-logger = file:/var/log/r.log", "access_logfile", "/var/log/r.log"),
        ("daemonize = /var/log/x.log", "error_logfile", "/var/log/x.log"),
        ("logto = /dev/stdout", "error_logfile", "-"),
        ('logformat = %(addr) "%(method)" 5%', "access_logformat", '%(h)s "%(m)s" 5%%'),
        (
            "log-format = %(cl) %(var.HTTP_X_ID)",
            "access_logformat",
            "%({CONTENT_LENGTH}e)s %({HTTP_X_ID}e)s",
        ),
        ("logformat = %(addr) %(switches)!", "access_logformat", "%(h)s -!"),
        ("logformat = [%(ltime)] %(secs)", "access_logformat", "%(t)s %(L)s"),
        ("logger = file:logfile=/var/x.log,maxsize=5", "error_logfile", "/var/x.log"),
        ("logger = app stdio", "error_logfile", "-"),
        ("logger-req = stdio:", "access_logfile", "-"),
        ("route = ^/healthz$ donotlog:", "access_log_skip", ("/healthz",)),
        ("route = ^/health/? donotlog:", "access_log_skip", ("/health*",)),
        ("route = ^/health/?$ donotlog:", "access_log_skip", ("/health", "/health/")),
        ("route = ^/health/ donotlog:", "access_log_skip", ("/health/*",)),
        ("route = ^/static/.* donotlog:", "access_log_skip", ("/static/*",)),
        ("route = ^/(live|v1\\.0/ready)$ donotlog:", "access_log_skip", ("/live", "/v1.0/ready")),
        ("route = ^/a$ donotlog:\nroute = ^/b$ donotlog:", "access_log_skip", ("/a", "/b")),
        ("disable-logging = 1\nlog-5xx = 1", "access_logfile", "-"),
        (
            "disable-logging = 1\nlog-4xx = 1\nlog-5xx = 1",
            "access_log_skip",
            ("* 1xx", "* 2xx", "* 3xx"),
        ),
        ("disable-logging = 1\nlog-5xx = 0", "access_logfile", None),
        ("log-5xx = 1", "access_log_skip", ()),
        ("disable-logging = 1\nlog-slow = 500", "access_log_slow", 0.5),
        ("disable-logging = 1\nlog-slow = 500\nlogto = /x.log", "access_logfile", "/x.log"),
        ("log-slow = 500", "access_log_slow", 0.0),
        ("static-map = /s=/srv/s\nstatic-expires = /* 7776000", "static_max_age", 7776000.0),
        ("static-map = /s=/srv/s\nstatic-expires = /srv/.*$=60", "static_max_age", 60.0),
        ("static-map = /s=/srv/s\nstatic-expires = /srv/s/* 9", "static_max_age", 9.0),
        ("static-map = /s=/srv/s\nstatic-expires = /* 31557600", "static_max_age", 31536000.0),
        ("static-map = /s=/srv/s\nstatic-expires = /other/* 9", "static_max_age", 60.0),
        ("enable-proxy-protocol = true", "proxy_protocol", "auto"),
        ("mount = /shop=shop:app", "script_name", "/shop"),
        ("mount = /=shop:app", "script_name", ""),
    ],
)
def test_an_option_becomes_a_setting(tmp_path: Path, text: str, name: str, value: object) -> None:
    assert getattr(load(tmp_path, text), name) == value


def test_without_threads_there_is_one_as_in_uwsgi(tmp_path: Path) -> None:
    settings = load(tmp_path, "processes = 2")
    assert (settings.threads, settings.source_of("threads")) == (1, "uWSGI's default")


def test_a_flag_counts_before_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "threads = 2", threads="3").threads == 3


def test_the_source_of_a_setting_is_the_option(tmp_path: Path) -> None:
    assert load(tmp_path, "harakiri = 20").source_of("timeout") == "uwsgi.ini:harakiri"


def test_an_address_of_tls_brings_its_files(tmp_path: Path) -> None:
    settings = load(tmp_path, "https = :443,cert.pem,key.pem,HIGH,!ca.pem")
    assert settings.bind == ("https://:443",)
    assert settings.certfile == (str(tmp_path / "cert.pem"),)
    assert settings.keyfile == (str(tmp_path / "key.pem"),)
    assert (settings.ciphers, settings.cert_reqs) == ("HIGH", "required")
    assert settings.ca_certs == str(tmp_path / "ca.pem")


# The application


@pytest.mark.parametrize(
    ("text", "application", "pythonpath"),
    [
        ("module = shop.wsgi:application", "shop.wsgi:application", ()),
        ("wsgi = shop.wsgi\ncallable = app", "shop.wsgi:app", ()),
        ("module = shop:create_app()", "shop:create_app()", ()),
        ("wsgi-file = shop/wsgi.py", "shop.wsgi", ()),
        ("wsgi-file = wsgi.py\ncallable = app", "wsgi:app", ()),
        ("chdir = {here}\nwsgi-file = {here}/shop/wsgi.py", "shop.wsgi", ()),
        ("wsgi-file = /srv/shop/run.py", "run", ("/srv/shop",)),
        ("file = my-site/run.py", "run", ("{here}/my-site",)),
        ("mount = /shop=shop.py\ncallable = app", "shop:app", ()),
    ],
)
def test_the_application_is_named_as_module_and_callable(
    tmp_path: Path, text: str, application: str, pythonpath: Iterable[str]
) -> None:
    settings = load(tmp_path, text.format(here=tmp_path))
    assert settings.application == application
    assert settings.pythonpath == tuple(it.format(here=tmp_path) for it in pythonpath)


def test_a_file_that_is_no_module_is_refused_with_a_name_for_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"name it my_site\.py"):
        load(tmp_path, "wsgi-file = my-site.wsgi")


def test_several_mounted_applications_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"mounts 2 applications.*DispatcherMiddleware"):
        load(tmp_path, "mount = /a=a:app\nmount = /b=b:app")


# What is lost


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cron = 0 0 -1 -1 -1 /bin/true", "timer or cron"),
        ("mule = work.py", "task queue"),
        ("spooler = /var/spool/x", "task queue"),
        ("emperor = /etc/uwsgi", "of its own, as a unit"),
        ("route = ^/x redirect:/y", "nginx or the application"),
        ("cache2 = name=x", "Redis or memcached"),
        ("attach-daemon = redis-server", "runs another program"),
        ("touch-reload = /tmp/x", "SIGHUP"),
        ("stats = :9191", "penstockctl status"),
        ("gevent = 100", "threads serve instead"),
        ("cheaper = 2", "penstockctl scale"),
        ("virtualenv = /srv/venv", "install penstock into the environment"),
        ("daemonize = /var/log/x.log", "systemd"),
        ("logger = syslog", "see error_logfile"),
        ("logformat = %(switches)", "a line has - there: see access_logformat"),
        ("envdir = /srv/env", "see env_file"),
        ("optimize = 1", "PYTHONOPTIMIZE"),
        ("route = ^/old/(.*) redirect:/new/$1", "nginx or the application"),
        ("route = ^/a[bc] donotlog:", "nginx or the application"),
        ("route = /static donotlog:", "nginx or the application"),
        ("static-expires = /* 9", "see static_max_age"),
        ("whatever = 1", "nothing of that name"),
    ],
)
def test_an_option_that_is_lost_is_warned_of_with_what_to_use(
    tmp_path: Path, text: str, hint: str
) -> None:
    assert hint in warned_of(load(tmp_path, text), text.partition(" ")[0])


def test_lines_of_a_file_that_are_no_variables_are_left_out_as_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n\n# a comment\nB=x y\nC\n")
    settings = load(tmp_path, "for-readline = .env\nenv = %(_)\nendfor =")
    assert settings.env == ("A=1", "B=x y")
    assert "'C'" in warned_of(settings, "env")


def test_a_graceful_stop_at_sigterm_needs_no_warning(tmp_path: Path) -> None:
    text = "hook-master-start = unix_signal:15 gracefully_kill_them_all"
    assert not warnings(load(tmp_path, text))
    assert warnings(load(tmp_path, "hook-master-start = exec:migrate"))


def test_the_environment_that_the_server_runs_in_needs_no_warning(tmp_path: Path) -> None:
    assert not warnings(load(tmp_path, f"virtualenv = {sys.prefix}"))


def test_what_asks_for_nothing_is_not_warned_of(tmp_path: Path) -> None:
    text = (
        "master = true\nvacuum = true\ndie-on-term = true\nenable-threads = true\n"
        "lazy-apps = true\nneed-app = true\nsingle-interpreter = true\nthunder-lock = true\n"
        "plugins = python3\n"
        "offload-threads = 2\nno-orphans = true\ngevent = false\n"
    )
    assert not warnings(load(tmp_path, text))


def test_a_socket_of_another_protocol_says_that_it_speaks_http(tmp_path: Path) -> None:
    [warning] = warnings(load(tmp_path, "socket = 127.0.0.1:3031\nprotocol = fastcgi"))
    assert "proxy_pass" in warning
    for protocol in ("http", "uwsgi"):
        assert not warnings(load(tmp_path, f"socket = 127.0.0.1:3031\nprotocol = {protocol}"))


def test_a_variable_that_is_not_set_is_warned_of(tmp_path: Path) -> None:
    [warning] = warnings(load(tmp_path, "env = A=$(NOBODY_SET_THIS)"))
    assert "NOBODY_SET_THIS" in warning


def test_a_number_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"uwsgi\.ini:harakiri is 'soon'"):
        load(tmp_path, "harakiri = soon")


@pytest.mark.parametrize(
    "line",
    [
        "route = ^/admin basicauth:Staff,ada:lovelace",
        "route-host = ^intern basicauth-next:Staff,ada:lovelace",
        "route-run = ldapauth:Staff,url=ldap://127.0.0.1",
        "route-if-not = equal:${REMOTE_ADDR};192.0.2.1 break:403 Forbidden",
        "route = ^/private return:401",
    ],
)
def test_a_route_that_keeps_clients_out_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match="have nginx or the application decide") as error:
        load(tmp_path, line)
    assert "lovelace" not in str(error.value)


# The command


@pytest.mark.parametrize("flag", ["--ini", "--yaml", "--xml", "--json"])
def test_the_flags_of_uwsgi_name_the_file(flag: str) -> None:
    assert parse_command_line([flag, "site.ini:dev"]).uwsgi_file == "site.ini:dev"


def test_a_server_starts_from_a_file_of_uwsgi(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(APPLICATION)
    (tmp_path / "uwsgi.ini").write_text(
        "[uwsgi]\nini = :base\nhttp-socket = 127.0.0.1:0\nprocesses = 2\n"
        "[base]\nchdir = %d\nwsgi-file = shop/wsgi.py\nenv = STAGE=live\n"
    )
    with (
        ServerProcess("--ini", "uwsgi.ini", cwd=tmp_path, bind=None) as server,
        urlopen(server.url, timeout=START_WITHIN) as response,
    ):
        assert response.read() == b"live"


def test_check_prints_what_the_file_becomes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nmodule = app\nharakiri = 9\ncron = x\n")
    done = run_penstock("--ini", "uwsgi.ini", "--check", cwd=tmp_path)
    assert "uwsgi.ini:harakiri" in done.stdout
    assert "uwsgi.ini has cron" in done.stderr


# Writing a file of our own


def test_penstockctl_import_prints_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    text = (
        "[uwsgi]\nhttp = :8080\nmodule = shop:app\nprocesses = 3\nharakiri = 20\n"
        'env = A="1" \\\nenv = B=\u00fc\nreload-on-rss = 200\npy-autoreload = 1\n'
        "disable-logging = 1\n"
        "static-map = /static=/srv/static\nmax-requests = 5\ncron = 1\n"
        "chmod-socket = 664\numask = 007\n"
    )
    (tmp_path / "uwsgi.ini").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "penstock.control.penstockctl", "import", "uwsgi.ini"],
        cwd=tmp_path,
        env=checkout_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=START_WITHIN,
        check=True,
    )
    assert b"uwsgi.ini has cron" in done.stderr
    assert b"# From uwsgi.ini. Start the server with: penstock shop:app" in done.stdout
    assert b"# PEN-1112 uwsgi.ini has cron" in done.stdout
    assert b"\nbind_mode = 0o664\n" in done.stdout
    assert b"\numask = 0o007\n" in done.stdout
    before = load_settings({}, {}, tmp_path, None, "uwsgi.ini")
    (tmp_path / "penstock.toml").write_bytes(done.stdout)
    assert load_settings({}, {}, tmp_path) == before
