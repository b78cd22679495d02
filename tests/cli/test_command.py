"""The command as its users run it: real processes, their two streams and their exit statuses."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from penstock.cli.arguments import parse_command_line
from penstock.cli.command import main
from penstock.config.checks import native_built
from support.many_commands import Command, run_each
from support.server_process import ServerProcess, checkout_environ, run_penstock

APPLICATION = """
import os, stat, sys

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(eval(environ["QUERY_STRING"].replace("%20", " "))).encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APPLICATION)
    return tmp_path


def ask(server: ServerProcess, expression: str) -> str:
    """Return what an expression is worth in the served application."""
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        connection.request("GET", "/?" + expression.replace(" ", "%20"))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def error_line(status: int, *arguments: str, cwd: Path, **environ: str) -> str:
    """Return the one line that the command says before it exits with ``status``."""
    done = run_penstock(*arguments, cwd=cwd, environ=environ)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("penstock: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


# Commands


def test_without_an_argument_it_says_what_is_missing(tmp_path: Path) -> None:
    done = run_penstock(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Provide a WSGI application object as module:callable",
        "usage: penstock [options] module:callable",
        f"{tmp_path} has none of these:",
        "  manage.py of a Django project",
        "  FLASK_APP in the environment",
        "  wsgi.py, app.py, application.py, main.py or server.py, or __init__.py or wsgi.py of a"
        " package,",
        "    with application, app, a Flask object, create_app() or make_app()",
    ]


def test_without_an_argument_a_file_with_another_name_is_suggested_and_not_served(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    (tmp_path / "two-words.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    done = run_penstock(cwd=tmp_path, environ={"FLASK_APP": ""})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "Other files have one:",
        "  penstock shop:app  (shop.py)",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have another user for the workers")
def test_without_an_argument_root_with_another_user_looks_for_none_and_says_so(
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    done = run_penstock("--user", "nobody", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "Provide a WSGI application object as module:callable"
    assert done.stderr.splitlines()[2:] == ["As root with --user the command looks for none."]


def test_without_an_argument_the_one_application_of_a_project_is_served_after_saying_so(
    folder: Path,
) -> None:
    (folder / "app.py").write_text("import bottle\n" + APPLICATION)
    with ServerProcess(cwd=folder, environ={"FLASK_APP": ""}) as server:
        assert "serving app:app on" in server.start_line
        assert server.lines[0] == "penstock: no application was named: app.py has app:app"


def test_without_an_argument_several_applications_are_listed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wsgi.py").write_text("application = None\n")
    done = run_penstock(cwd=tmp_path, environ={"FLASK_APP": ""})
    assert done.returncode == 2
    assert done.stderr.splitlines()[2:] == [
        "  penstock one.wsgi:application  (one/wsgi.py)",
        "  penstock two.wsgi:application  (two/wsgi.py)",
    ]


def test_version_names_penstock_python_and_the_transport(tmp_path: Path) -> None:
    done = run_penstock("--version", cwd=tmp_path, environ={"PENSTOCK_NONSENSE": "1"})
    first, second, third = done.stdout.splitlines()
    assert re.fullmatch(r"penstock \d+\.\d+\.\d+", first)
    assert second == "cpython " + ".".join(map(str, sys.version_info[:3]))
    assert third == f"transport: {'native' if native_built() else 'python; native not built'}"
    assert (done.returncode, done.stderr) == (0, "")


def run_without_native(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as where the native transport is not built."""
    code = (
        "import sys; sys.modules['penstock._native'] = None; from penstock.cli.command import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_where_the_native_transport_is_not_built_version_and_check_say_so(folder: Path) -> None:
    done = run_without_native("--version", cwd=folder)
    assert done.stdout.splitlines()[2] == "transport: python; native not built"
    done = run_without_native("--check", "served", cwd=folder)
    assert done.stdout.startswith("served can be served on the python transport ")


def test_a_native_transport_that_is_not_built_is_status_2_and_how_to_get_it(folder: Path) -> None:
    done = run_without_native("served", "--transport", "native", cwd=folder)
    assert (done.returncode, done.stderr) == (
        2,
        "penstock: error: transport is native (from --transport), which this installation lacks: "
        "set auto or python, or reinstall with cargo on PATH and "
        "PENSTOCK_NATIVE=require\n",
    )


@pytest.mark.skipif(not native_built(), reason="the native transport is not built")
def test_auto_is_native_where_that_is_built(folder: Path) -> None:
    done = run_penstock("--check", "served", "--transport", "auto", cwd=folder)
    assert done.stdout.startswith("served can be served on the native transport ")


def test_version_imports_none_of_the_server(tmp_path: Path) -> None:
    code = (
        "import sys; from penstock.cli.command import main; main(['--version']);"
        "print(*sorted({'logging', 'tempfile', 'socket', 'selectors', 'tomllib', 'difflib', "
        "'penstock.worker.worker'} & set(sys.modules)), file=sys.stderr)"
    )
    done = run_python(code, tmp_path)
    assert done.strip() == ""


def run_python(code: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=checkout_environ(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stderr


def test_help_fits_80_columns_and_names_every_setting(tmp_path: Path) -> None:
    from penstock.config.settings import OPTIONS

    done = run_penstock("--help-all", cwd=tmp_path, environ={"COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) < 80
    for option in OPTIONS.values():
        assert option.flag in done.stdout or option.negative_flag in done.stdout
    assert "--worker-class" not in done.stdout
    assert "--no-sendfile Whether" not in " ".join(done.stdout.split())


def test_the_short_help_fits_on_a_screen_and_has_three_examples(tmp_path: Path) -> None:
    done = run_penstock("-h", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) <= 40
    assert max(map(len, lines)) < 80
    assert len([line for line in lines if line.startswith("  penstock ")]) == 3
    assert "--help-all" in done.stdout


def test_check_loads_and_prints_every_setting_with_its_source(folder: Path) -> None:
    (folder / "penstock.toml").write_text('max-body = "5MiB"\n')
    done = run_penstock(
        *("--check", "served:app", "--threads", "2", "-e", "TOKEN=secret"),
        cwd=folder,
        environ={"PORT": "5000"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "threads = 2 (--threads)" in lines
    assert "max_body = 5MiB (penstock.toml:max-body)" in lines
    assert "bind = 0.0.0.0:5000 (PORT)" in lines
    assert "backlog = 2048 (default)" in lines
    assert "env = (not shown) (--env)" in lines
    assert "workers = 1 (default)" in lines


@pytest.mark.parametrize(
    ("arguments", "port", "bind"),
    [
        (["--port", "8080"], "", "127.0.0.1:8080"),
        (["--host", "0.0.0.0"], "", "0.0.0.0:8000"),
        (["--host", "0.0.0.0"], "5000", "0.0.0.0:5000"),
        (["--host=::1", "--port=8080"], "5000", "[::1]:8080"),
    ],
)
def test_host_and_port_are_another_form_of_bind(
    arguments: list[str], port: str, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", port)
    assert parse_command_line(arguments).flags == {"bind": [bind]}


def test_check_binds_no_address_so_that_it_works_beside_a_running_server(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        done = run_penstock("--check-config", "served", "-b", address, cwd=folder)
        assert done.returncode == 0
    assert "not a port" in error_line(7, "--check", "served", "-b", "127.0.0.1:x", cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "ends", "status"),
    [
        (["--check"], "from served import app", 0),
        (["--check"], "raise RuntimeError", 4),
        ([], "raise RuntimeError", 4),
        ([], "raise KeyboardInterrupt", 130),
    ],
)
def test_fault_29_threads_of_the_application_do_not_keep_the_command_from_ending(
    folder: Path, arguments: list[str], ends: str, status: int
) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    (folder / "threaded.py").write_text(thread + ends)
    done = run_penstock(*arguments, "-b", "127.0.0.1:0", "threaded", cwd=folder)
    assert done.returncode == status


def test_check_prints_the_warnings(folder: Path) -> None:
    environ = {"GUNICORN_CMD_ARGS": "--spew"}
    done = run_penstock("--check", "served", cwd=folder, environ=environ)
    assert done.returncode == 0
    assert done.stderr.startswith("penstock: warning: PEN-1110 GUNICORN_CMD_ARGS has spew,")


# What is refused, and with which status (docs/exit-statuses.md)


USAGE_AND_SETTINGS = [
    (["--thread", "2", "served"], "unknown flag '--thread'; did you mean '--threads'?"),
    (["--max_body=1", "served"], "did you mean '--max-body'?"),
    (["--chekc", "served"], "did you mean '--check'?"),
    (["--port=80", "-b", ":81", "served"], "--port and --bind are two ways to say one thing"),
    (["--listen", "::1", "served"], "see --bind, which takes host and port together"),
    (["served", "-v"], "unknown flag '-v': --version prints the version, and --log-level debug"),
    (["served", "--debug"], "unknown flag '--debug': --log-level debug logs more, and --reload"),
    (["served", "--max-body", "10M"], "; 10MB is a power of 1000, 10MiB one of 1024"),
    (["served", "-b", "127.0.0.1:1", "--admin", "127.0.0.1:1"], "needs another port"),
    (["-x", "served"], "unknown flag '-x'"),
    (["--http", ":80", "served"], "it is an option of uWSGI, whose files --ini reads: see --bind"),
    (["--wsgi-file", "served.py"], "the application is an argument without a flag, as in module:"),
    (["--vacuum", "served"], "leave it out: the server does what the option asks for"),
    (["--cheaper", "2", "served"], "the number of workers is --workers; penstockctl scale changes"),
    (["--processes", "4", "served"], "unknown flag '--processes'; did you mean '--workers'?"),
    (["--asyncore-use-poll", "served"], "leave it out: nothing here needs it"),
    (["served", "--trace=yes"], "--trace takes no value: write --trace or --no-trace"),
    (["served", "--no-trace=yes"], "--no-trace takes no value: write --trace or --no-trace"),
    (["served", "--check=1"], "--check takes no value"),
    (["served", "other"], "unexpected argument 'other'"),
    (["served", "-"], "unexpected argument '-'"),
    (["served", "--stream-requests", "auto"], "auto: write --stream-requests=auto"),
    (["served", "--threads"], "expected one argument"),
    (["served", "--threads", "many"], "bad value 'many' for threads (from --threads)"),
    (["served", "-c", "none.toml"], "cannot read the settings file"),
    (["served", "--chdir", "nowhere"], "for chdir (from --chdir): No such file"),
    (["served", "--temp-dir", "nowhere"], "for temp_dir (from --temp-dir): No such file"),
    (["served", "--access-logfile", "no/log"], "for access_logfile (from --access-logfile)"),
    (["served", "--log-file", "."], "for error_logfile (from --error-logfile): is a directory"),
    (["served", "--pid", "no/pid"], "for pid (from --pid): its directory does not exist"),
    (["served", "--check", "-p", "served.py"], "is a file that holds something else: it stays"),
    (["served", "-p", "8000"], "is the name of a file: a port is --bind :8000"),
    (["served", "-w", "0"], "bad value '0' for workers (from --workers)"),
    (["served", "-w", "2", "--no-supervisor"], "workers (2 from --workers) needs a supervisor"),
    (["served", "-t", "soon"], "bad value 'soon' for timeout (from --timeout)"),
    (["served:app("], "after the colon"),
    (["served.py"], "did you mean 'served'?"),
]


def test_usage_and_settings_are_status_2(folder: Path) -> None:
    done = run_each([Command(arguments, folder) for arguments, _ in USAGE_AND_SETTINGS])
    wrong = [
        (each.args, said, each.returncode, each.stdout, each.stderr)
        for each, (_, said) in zip(done, USAGE_AND_SETTINGS, strict=True)
        if each.returncode != 2
        or each.stdout
        or not each.stderr.startswith("penstock: error: ")
        or each.stderr.count("\n") != 1
        or said not in each.stderr
    ]
    assert wrong == []
    arguments, said = USAGE_AND_SETTINGS[0]
    assert said in error_line(2, *arguments, cwd=folder)  # so, too, in a process of its own


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-k", "gevent"], "has --worker-class, without effect here: there is one kind of worker"),
        (["--worker-class=tornado"], "see --threads"),
        (["--daemon"], "systemd"),
        (["--spew"], "has --spew, without effect here"),
        (["--strip-header-spaces"], "the parser is strict"),
    ],
)
def test_a_typed_flag_of_gunicorns_by_which_something_is_lost_is_a_warning_with_what_to_do(
    folder: Path, arguments: list[str], said: str
) -> None:
    done = run_penstock(*arguments, "served", "--check", cwd=folder)
    assert done.returncode == 0
    [warning] = done.stderr.splitlines()
    assert warning.startswith("penstock: warning: PEN-1110 the command line has ")
    assert said in warning


@pytest.mark.parametrize(
    "arguments",
    [
        ["--worker-tmp-dir", "/dev/shm"],
        ["--reuse-port"],
        ["-R"],
        ["--reload-engine", "poll"],
        ["--http-parser=fast"],
        ["--control-socket-mode", "0600"],
    ],
)
def test_a_typed_flag_of_gunicorns_without_which_nothing_is_missed_is_a_note(
    folder: Path, arguments: list[str]
) -> None:
    done = run_penstock(*arguments, "served", "--check", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "which nothing here needs: " in done.stdout


def test_typed_flags_of_gunicorns_become_the_settings_of_penstock_that_they_mean(
    folder: Path,
) -> None:
    arguments = ["--worker-connections", "7", "--no-control-socket", "--initgroups"]
    arguments += ["--log-syslog", "--disable-redirect-access-to-syslog"]
    done = run_penstock(*arguments, "served", "--print-config", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"max_connections += 7 +\(--worker-connections\)", done.stdout)
    assert re.search(r"control += off +\(--no-control-socket\)", done.stdout)
    assert re.search(r"log_syslog += true +\(--log-syslog\)", done.stdout)
    because = re.escape("--disable-redirect-access-to-syslog")
    assert re.search(rf"log_syslog_access += false +\({because}\)", done.stdout)


@pytest.mark.parametrize(
    "worker_class",
    ["uvicorn.workers.UvicornWorker", "uvicorn_worker.UvicornWorker", "asgi",
     "aiohttp.GunicornWebWorker"],
)  # fmt: skip
def test_a_worker_class_for_asgi_is_refused_as_that(folder: Path, worker_class: str) -> None:
    said = error_line(2, "-k", worker_class, "served", cwd=folder)
    assert f"{worker_class} is for ASGI applications, and this server serves WSGI" in said
    said = error_line(2, "served", cwd=folder, GUNICORN_CMD_ARGS=f"-k {worker_class}")
    assert f"{worker_class} is for ASGI applications, and this server serves WSGI" in said


def test_all_wrong_flags_are_named_at_once(folder: Path) -> None:
    arguments = ["--thread", "2", "-k", "asgi", "--protocol=uwsgi", "--listen", "80", "served"]
    said = error_line(2, *arguments, cwd=folder)
    assert "'--thread'; did you mean '--threads'?" in said
    assert "'--listen': it is a setting of other servers" in said
    assert "asgi is for ASGI applications" in said
    assert "write uwsgi://ADDRESS for it in bind" in said


def test_an_argument_of_a_short_flag_may_be_in_the_same_word_as_scripts_have_it(
    folder: Path,
) -> None:
    (folder / "a.py").write_text("backlog = 7\n")
    for argument in ("-c a.py", "-c=a.py", "-c=python:a", "-ca.py"):
        done = run_penstock(argument, "served", "--check", cwd=folder)
        assert re.search(r"backlog += 7 ", done.stdout), done.stderr


def test_the_start_says_that_the_application_is_called_from_several_threads(folder: Path) -> None:
    told = "the application must be thread-safe (--threads 1 if not)"
    with ServerProcess("served", cwd=folder) as server:
        # Before the line of the start, which is the last one.
        assert [line for line in server.lines if f"4 threads per worker: {told}" in line]
    for arguments in (["--threads", "4"], ["-k", "sync"]):
        with ServerProcess(*arguments, "served", cwd=folder) as server:
            pass
        assert told not in "\n".join(server.lines)
    [line] = [line for line in server.lines if "gunicorn's default, with the command line" in line]
    assert "1 thread per worker" in line


@pytest.mark.parametrize(
    ("arguments", "setting", "shown"),
    [
        (["--log-level", "warn"], "log_level", "warning"),
        (["-b", "127.0.0.1:1,127.0.0.1:2"], "bind", "127.0.0.1:1,127.0.0.1:2"),
        (["-e", "SCRIPT_NAME=/shop"], "script_name", "/shop"),
        (["--reload", "--preload"], "preload", "false"),
        (["--bind-mode", "660"], "bind_mode", "0660"),
    ],
)
def test_values_that_gunicorn_takes_are_taken(
    folder: Path, arguments: list[str], setting: str, shown: str
) -> None:
    done = run_penstock(*arguments, "served", "--check", cwd=folder)
    assert done.returncode == 0
    assert re.search(rf"^  {setting} += {re.escape(shown)} ", done.stdout, re.MULTILINE)
    assert ("PEN-1060 preload (from --preload) is left out" in done.stderr) is (
        "--reload" in arguments
    )


def test_unknown_atoms_print_as_dashes_after_a_warning_as_under_gunicorn(
    folder: Path, transport: str
) -> None:
    arguments = ("--access-logfile", "-", "--access-logformat", "[%(zz)s %(m)s %(9)d]")
    with ServerProcess("served", *arguments, "--transport", transport, cwd=folder) as server:
        assert ask(server, "1") == "1"
    assert server.output == ["[- GET -]"]
    [warning] = [line for line in server.lines if "PEN-1070" in line]
    assert "has %(zz)s, %(9)d, which the server does not know" in warning


def test_a_client_of_ipv4_at_all_ipv6_addresses_has_its_ipv4_address(
    folder: Path, transport: str
) -> None:
    only = Path("/proc/sys/net/ipv6/bindv6only")
    if not only.exists() or only.read_text().strip() != "0":
        pytest.skip("[::] is for IPv6 alone on this machine")
    with ServerProcess("served", "-b", "[::]:0", "--transport", transport, cwd=folder) as server:
        for host, seen in (("127.0.0.1", "'127.0.0.1'"), ("::1", "'::1'")):
            server.host = host
            assert ask(server, "environ['REMOTE_ADDR']") == seen


@pytest.mark.parametrize(
    ("file", "environ", "prefix"),
    [
        ("raw_env = ['SCRIPT_NAME=/a']", {}, "/a"),
        ("import os\nos.environ['SCRIPT_NAME'] = '/b'", {"SCRIPT_NAME": "/c"}, "/b"),
        ("", {"GUNICORN_CMD_ARGS": "-e SCRIPT_NAME=/d", "SCRIPT_NAME": "/c"}, "/d"),
        ("", {"SCRIPT_NAME": "/c"}, "/c"),
        ("raw_env = ['SCRIPT_NAME=/a']", {"PENSTOCK_SCRIPT_NAME": "/e"}, "/e"),
    ],
)
def test_script_name_counts_wherever_a_variable_can_be_set_as_under_gunicorn(
    folder: Path, file: str, environ: dict[str, str], prefix: str
) -> None:
    (folder / "gunicorn.conf.py").write_text(file)
    done = run_penstock("served", "--check", cwd=folder, environ=environ)
    assert re.search(rf"script_name += {prefix} ", done.stdout), done.stderr


def test_dev_stdout_and_dev_stderr_mean_the_open_descriptors_whatever_they_are(
    folder: Path,
) -> None:
    # A socket cannot be opened by its name: ENXIO. Process managers and shells pass some.
    ours, theirs = socket.socketpair()
    arguments = ("--access-logfile", "/dev/stdout", "--error-logfile", "/dev/stderr")
    put = f"import os, sys; os.dup2({theirs.fileno()}, 1); os.execv(sys.executable, sys.orig_argv"
    python = (sys.executable, "-c", f"{put}[:1] + sys.argv[1:])")
    with (
        ours,
        theirs,
        ServerProcess(
            "served", *arguments, cwd=folder, python=python, pass_fds=[theirs.fileno()]
        ) as server,
    ):
        assert ask(server, "1") == "1"
        server.stop()
        ours.settimeout(10)
        assert b'"GET /?1 HTTP/1.1" 200' in ours.recv(1000)


def test_paste_names_a_file_whose_application_is_served(folder: Path) -> None:
    (folder / "site.ini").write_text(
        "[app:main]\nuse = call:pasted:make\nsuffix = %(mood)s\n"
        "[app:other]\nuse = call:pasted:make\nsuffix = other\n"
    )
    (folder / "pasted.py").write_text(
        "def make(global_conf, suffix):\n"
        "    def app(environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        return [suffix.encode()]\n"
        "    return app\n"
    )
    for arguments, body in (
        (["--paste", "site.ini", "--paste-global", "mood=good"], b"good"),
        (["--paster=site.ini#other", "--paste-global", "mood=good"], b"other"),
    ):
        with ServerProcess(*arguments, cwd=folder) as server:
            with urllib.request.urlopen(server.url) as response:
                assert response.read() == body


def test_paste_and_an_argument_are_two_applications(folder: Path) -> None:
    line = error_line(2, "served", "--paste", "site.ini", cwd=folder)
    assert "--paste has an application, and 'served' is another: give either" in line


def test_the_check_reads_the_configuration_of_logging(folder: Path) -> None:
    (folder / "bad.toml").write_text("version = ")
    (folder / "bad.ini").write_text("[loggers]\nkeys = root\n")
    for name in ("missing.ini", "bad.toml", "bad.ini"):
        line = error_line(2, "served", "--check", "--log-config", name, cwd=folder)
        assert "(setting: log_config)" in line


def test_the_environment_and_the_file_are_named_where_they_are_wrong(folder: Path) -> None:
    assert "PENSTOCK_THREAD;" in error_line(2, "served", cwd=folder, PENSTOCK_THREAD="1")
    assert "(from PENSTOCK_THREADS)" in error_line(2, "served", cwd=folder, PENSTOCK_THREADS="0")
    (folder / "penstock.toml").write_text("threads = 0\n")
    assert "(from penstock.toml:threads)" in error_line(2, "served", cwd=folder)


@pytest.mark.parametrize(
    ("status", "spec", "said"),
    [
        (3, "serve", "did you mean 'served'?"),
        (5, "served:aap", "did you mean 'app'?"),
        (6, "served:__name__", "not callable"),
    ],
)
def test_each_way_of_not_loading_has_its_status(
    folder: Path, status: int, spec: str, said: str
) -> None:
    assert said in error_line(status, spec, cwd=folder)
    assert said in error_line(status, "--check", spec, cwd=folder)


def test_an_application_that_raises_is_status_4_after_its_traceback(folder: Path) -> None:
    (folder / "broken.py").write_text("import served\n1 / 0\n")
    done = run_penstock("broken", cwd=folder)
    lines = done.stderr.splitlines()
    assert done.returncode == 4
    assert lines[0] == "Traceback (most recent call last):"
    assert "broken.py" in lines[1]
    assert lines[-1] == (
        "penstock: error: cannot import module 'broken': ZeroDivisionError: division by zero"
    )


def test_a_port_in_use_is_status_7_and_reported_before_the_application_is_imported(
    folder: Path,
) -> None:
    (folder / "marker.py").write_text("open('imported', 'w').close()\n" + APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        line = error_line(7, "marker", "-b", address, cwd=folder)
    assert f"cannot listen on {address}: it is in use by another program" in line
    assert not (folder / "imported").exists()


def test_an_address_that_cannot_be_used_is_reported_with_what_sets_it(folder: Path) -> None:
    (folder / "penstock.toml").write_text("bind = '127.0.0.1:none'\n")
    (folder / "uwsgi.ini").write_text("[uwsgi]\nhttp-socket = :none\n")
    for arguments, source in (
        ([], "bind, from penstock.toml:bind"),
        (["--ini", "uwsgi.ini", "-c", os.devnull], "bind, from uwsgi.ini:http-socket"),
        (["-b", ":none"], "--bind"),
    ):
        assert error_line(7, "served", *arguments, cwd=folder).endswith(f"(setting: {source})\n")


def test_a_failed_load_leaves_no_unix_socket_behind(folder: Path) -> None:
    error_line(5, "served:nothing", "-b", "unix:here.sock", cwd=folder)
    assert not (folder / "here.sock").exists()


def test_a_missing_directory_of_pythonpath_causes_a_warning(folder: Path) -> None:
    said = (
        "penstock: warning: PEN-1040 pythonpath has 'nowhere' (from --pythonpath), which does not"
        " exist"
    )
    arguments = ["--pythonpath", "nowhere,.", "--check"]
    done = run_penstock(*arguments, "served", cwd=folder)
    assert (done.returncode, done.stderr.splitlines()) == (0, [said])
    # Then, above all: it may be the reason.
    done = run_penstock(*arguments, "elsewhere", cwd=folder)
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, said)


def test_ctrl_c_while_loading_is_status_130(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n"
    )
    done = run_penstock("slow", "-b", "127.0.0.1:0", cwd=folder)
    assert done.returncode == 130
    assert done.stderr == ""


def test_main_returns_the_status_to_a_caller(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["--no-such-flag"]) == 2
    assert "unknown flag '--no-such-flag'" in capsys.readouterr().err


# Where what it says cannot be written


def run_in_shell(redirection: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Return the command's status, and all that is left of what it says."""
    # Python's own way out of a standard stream that it cannot flush would be status 120.
    line = f'("$0" -m penstock "$@") {redirection}; echo "status $?"'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable, *arguments],
        cwd=cwd,
        env=checkout_environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    said, _, status = done.stdout.rpartition("status ")
    return int(status), said


closed_or_full = pytest.mark.parametrize("place", ["&-", "/dev/full"])


@closed_or_full
@pytest.mark.parametrize(
    ("status", "spec"),
    [(2, "--nope"), (2, ""), (3, "nope:app"), (4, "broken"), (5, "served:aap"), (6, "served:sys")],
)
def test_the_status_is_right_where_the_message_cannot_be_written(
    folder: Path, place: str, status: int, spec: str
) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    arguments = [spec] if spec else []
    assert run_in_shell(f"2>{place}", *arguments, cwd=folder) == (status, "")


@closed_or_full
def test_a_port_in_use_is_status_7_where_the_message_cannot_be_written(
    folder: Path, place: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        arguments = ["served", "-b", address]
        assert run_in_shell(f"2>{place}", *arguments, cwd=folder) == (7, "")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["--check", "served"]])
def test_output_that_cannot_be_written_is_one_line_and_status_1(
    folder: Path, arguments: list[str]
) -> None:
    status, said = run_in_shell(">/dev/full", *arguments, cwd=folder)
    assert (status, said) == (
        1,
        "penstock: error: cannot write to standard output: No space left on device\n",
    )
    assert run_in_shell(">/dev/full 2>&1", *arguments, cwd=folder) == (1, "")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["--check", "chatty"]])
def test_a_reader_that_ends_early_is_not_an_error(folder: Path, arguments: list[str]) -> None:
    (folder / "chatty.py").write_text("print('x' * 100)\n" + APPLICATION)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *arguments],
            cwd=folder,
            env=checkout_environ() | {"PYTHONUNBUFFERED": ""},  # else its own print fails
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_standard_output_that_the_application_closed_is_reported(folder: Path) -> None:
    (folder / "closer.py").write_text("import sys\nsys.stdout.close()\n" + APPLICATION)
    line = error_line(1, "--check", "closer", cwd=folder)
    assert "cannot write to standard output: I/O operation on closed file" in line


def test_a_standard_output_that_was_closed_at_the_start_is_not_an_error(folder: Path) -> None:
    assert run_in_shell(">&-", "--check", "served", cwd=folder) == (0, "")


def test_text_that_the_encoding_of_standard_output_lacks_is_escaped(folder: Path) -> None:
    environ = {"PYTHONIOENCODING": "ascii", "PENSTOCK_TEMP_DIR": "grün"}
    (folder / "grün").mkdir()
    done = run_penstock("--check", "served", cwd=folder, environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gr\\xfcn" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_faults_44_a_lost_access_log_is_told_when_it_begins_and_counted_at_the_stop(
    folder: Path,
) -> None:
    with ServerProcess("served:app", "--access-logfile", "/dev/full", cwd=folder) as server:
        assert ask(server, "1") == "1"
        server.wait_for_line(r"\[WARNING\] PEN-5010 the access log is losing lines: No space left")
        assert ask(server, "2") == "2"
        assert server.stop() == 0
    lost = [line for line in server.lines if "access log" in line]
    assert len(lost) == 2
    assert "[WARNING] PEN-5011 the access log has lost lines: 2 in all" in lost[1]


# What a server is given


def test_no_client_is_accepted_while_the_application_is_loaded(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as finder:
        port = finder.getsockname()[1]
    (folder / "prober.py").write_text(
        "import socket\n"
        f"refused = socket.socket().connect_ex(('127.0.0.1', {port})) != 0\n" + APPLICATION
    )
    with ServerProcess("prober:app", "-b", f"127.0.0.1:{port}", cwd=folder) as server:
        assert ask(server, "refused") == "True"


def test_the_process_is_prepared_as_the_settings_say(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "served.py").write_text(APPLICATION)
    (folder / "library").mkdir()
    arguments = ["--chdir", "inner", "--pythonpath", "../library", "-e", "A=1=2", "-e", "B="]
    with ServerProcess("served:app", *arguments, "--umask", "027", cwd=folder) as server:
        assert ask(server, "os.getcwd()") == repr(str(folder / "inner"))
        path = [str(folder / "library"), str(folder / "inner")]
        assert ask(server, "sys.path[:2]") == repr(path)
        assert ask(server, "(os.environ['A'], os.environ['B'])") == "('1=2', '')"
        assert ask(server, "oct(os.umask(0o027))") == "'0o27'"


def test_without_pythonpath_the_current_directory_comes_first(folder: Path) -> None:
    with ServerProcess("served:app", cwd=folder) as server:
        assert ask(server, "sys.path[0]") == repr(str(folder))


def test_a_module_named_like_one_of_the_standard_library_does_no_harm(folder: Path) -> None:
    (folder / "selectors.py").write_text("raise ImportError('the wrong one')")
    safe = ("served:app", "--threads", "1")
    # -P: as the installed command, Python does not put the directory on the path itself.
    with ServerProcess(*safe, cwd=folder, python=(sys.executable, "-P")) as server:
        assert ask(server, "1 + 1") == "2"


def test_warnings_are_logged_when_it_serves(folder: Path) -> None:
    environ = {"GUNICORN_CMD_ARGS": "--spew"}
    with ServerProcess("served:app", cwd=folder, environ=environ) as server:
        assert any("[WARNING] PEN-1110 GUNICORN_CMD_ARGS has" in line for line in server.lines)


def test_sockets_of_systemd_are_served_and_its_variables_are_gone(folder: Path) -> None:
    # Python in the place of systemd: sets LISTEN_PID to the process that it turns into.
    become = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as passed:
        descriptor = os.dup(passed.fileno())
        port = passed.getsockname()[1]
        try:
            with ServerProcess(
                "served:app",
                cwd=folder,
                python=(sys.executable, "-c", become, str(descriptor)),
                pass_fds=[descriptor],
            ) as server:
                assert server.port == port
                assert ask(server, "[n for n in os.environ if n.startswith('LISTEN_')]") == "[]"
                assert ask(server, "os.get_inheritable(3)") == "False"
        finally:
            os.close(descriptor)


def test_several_addresses_are_served_at_once(folder: Path) -> None:
    arguments = ["-b", "127.0.0.1:0", "-b", "unix:here.sock"]
    with ServerProcess("served:app", *arguments, cwd=folder) as server:
        assert "unix:" in server.start_line
        assert ask(server, "environ['SERVER_PORT']") == repr(str(server.port))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(folder / "here.sock"))
            client.sendall(b"GET /?environ['SERVER_NAME'] HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.read().endswith(b"'localhost'")
    assert not (folder / "here.sock").exists()


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_gunicorns_plain_worker_classes_cause_no_warning(folder: Path, worker_class: str) -> None:
    done = run_penstock("-k", worker_class, "served", "--check", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
