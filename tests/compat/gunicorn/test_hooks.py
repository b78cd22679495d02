"""gunicorn's hooks: called with its arguments, checked when they are read, and harmless."""

from __future__ import annotations

import io
import logging
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.cli.settings import load_settings
from penstock.compat.gunicorn.hooks import (
    Config,
    HookError,
    Hooks,
    Request,
    Server,
    WorkerOfServer,
    checked_hook,
    show_application,
)
from penstock.config.gunicorn_settings import HOOKS
from penstock.config.settings import Settings
from penstock.errors import SettingsError
from penstock.wsgi.file_wrapper import FileWrapper
from support.certificates import authority, server_certificate
from support.lifecycle import Supervised
from support.serving import connect, get
from support.tls import TlsClient

Environ = dict[str, Any]


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    yield
    sys.modules.pop("__config__", None)


class Log:
    """A logger, and what it was told."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logger = logging.Logger("test")
        self.logger.addHandler(logging.StreamHandler(self.stream))

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def log() -> Log:
    return Log()


def worker_of(log: Log, settings: Settings | None = None) -> WorkerOfServer:
    return WorkerOfServer(
        age=1, ppid=1, log=log.logger, cfg=Config(settings or Settings()), pid=4242
    )


def server_of(log: Log, settings: Settings | None = None) -> Server:
    return Server(pid=41, log=log.logger, cfg=Config(settings or Settings()))


def hooks_of(cwd: Path, content: str) -> Hooks:
    (cwd / "gunicorn.conf.py").write_text(content)
    settings = load_settings({}, {}, cwd)
    return Hooks(settings.hooks, settings.gunicorn)


# As they are in the wild


def test_the_hook_of_prometheus_is_called_for_a_dead_worker(tmp_path: Path, log: Log) -> None:
    hooks = hooks_of(
        tmp_path,
        """
class multiprocess:
    dead = []
    @staticmethod
    def mark_process_dead(pid):
        multiprocess.dead.append(pid)

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
    server.log.info("dead: %s", multiprocess.dead)
""",
    )
    log.logger.setLevel(logging.INFO)
    assert hooks.call("child_exit", server_of(log), worker_of(log), logger=log.logger)
    assert log.text == "dead: [4242]\n"


def test_server_and_worker_have_the_attributes_that_hooks_use(tmp_path: Path, log: Log) -> None:
    hooks = hooks_of(
        tmp_path,
        """
workers = 3
statsd_prefix = "shop"
def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    worker.log.info("%s of %s", worker, server.pid)
    server.log.info("%s", (server.cfg.workers, server.cfg.bind, server.cfg.proc_name,
                           server.cfg.statsd_prefix, worker.cfg.max_requests, worker.cfg.env,
                           worker.cfg.worker_class, worker.cfg.max_body, server.cfg.daemon,
                           server.cfg.control_socket_disable, server.cfg.address))
    server.log.warning("%s", sorted(server.WORKERS))
    assert not worker.booted and worker.alive and worker.age and worker.nr == 0 and worker.ppid
    assert server.num_workers is None and isinstance(server.address, list)
""",
    )
    log.logger.setLevel(logging.INFO)
    settings = replace(load_settings({}, {}, tmp_path), env=("A=1=2",))
    server, worker = server_of(log), worker_of(log)
    server.cfg = worker.cfg = hooks.config(settings)
    server.WORKERS[4242] = worker
    assert hooks.call("post_fork", server, worker, logger=log.logger), log.text
    assert log.text.splitlines() == [
        "Worker spawned (pid: 4242)",
        "<Worker 4242> of 41",
        "(3, ['127.0.0.1:8000'], None, 'shop', 0, {'A': '1=2'}, 'sync', 1073741824, False, False, "
        "['127.0.0.1:8000'])",
        "[4242]",
    ]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("server.SIG_QUEUE.append(1)", "server.SIG_QUEUE does not exist in Penstock, only in gun"),
        ("server.SIG_NAMES[1]", "signal.Signals(number).name"),
        ("server.no_such", "server.no_such does not exist in Penstock"),
        ("worker.tmp.last_update()", "workers write no heartbeat files"),
        ("server.app.wsgi()", "worker.app.callable is there from post_worker_init on"),
        ("worker.wsgi(None, None)", "a worker loads the application after post_fork"),
    ],
)
def test_what_gunicorns_objects_have_alone_is_an_error_that_names_it(
    tmp_path: Path, log: Log, hook: str, said: str
) -> None:
    hooks = hooks_of(tmp_path, f"def child_exit(server, worker):\n    {hook}\n")
    assert not hooks.call("child_exit", server_of(log), worker_of(log), logger=log.logger)
    assert said in log.text


def test_the_application_is_there_once_it_is_loaded(tmp_path: Path, log: Log) -> None:
    hooks = hooks_of(
        tmp_path,
        """
def worker_exit(server, worker):
    assert worker.app.callable is worker.app.wsgi() is worker.wsgi is server.app.wsgi()
    worker.app.callable("cleaned up")
""",
    )
    called: list[str] = []
    application: Any = called.append
    server, worker = server_of(log), worker_of(log)
    show_application(application, server, worker)
    assert hooks.call("worker_exit", server, worker, logger=log.logger), log.text
    assert called == ["cleaned up"]


def test_server_and_worker_have_what_hooks_of_real_files_call(tmp_path: Path, log: Log) -> None:
    """60 public files: log.info, log.debug, log.error, pid, timeout; notify in long jobs."""
    hooks = hooks_of(
        tmp_path,
        """
timeout = 45
def child_exit(server, worker):
    for log in (server.log, worker.log):
        for name in ("debug", "info", "warning", "error", "critical", "exception", "log"):
            assert callable(getattr(log, name))
    worker.notify()
    assert server.timeout == worker.timeout == server.cfg.timeout == 45
    assert not hasattr(server, "SIG_QUEUE")
    import copy, pickle
    copy.copy(worker)
""",
    )
    server, worker = server_of(log), worker_of(log)
    server.cfg = worker.cfg = hooks.config(load_settings({}, {}, tmp_path))
    assert hooks.call("child_exit", server, worker, logger=log.logger), log.text


def test_a_setting_that_neither_has_is_an_attribute_error(log: Log) -> None:
    config = Config(Settings())
    assert not hasattr(config, "no_such_setting")
    assert not hasattr(config, "_private")


def test_a_hook_may_be_named_by_its_module(tmp_path: Path) -> None:
    hooks = hooks_of(tmp_path, "on_exit = 'gc.is_tracked'\n")
    assert hooks.names == ("on_exit",)
    with pytest.raises(SettingsError, match=r"cannot be imported as module\.function"):
        hooks_of(tmp_path, "on_exit = 'no.such.thing'\n")


# Loading


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_takes_gunicorns_arguments_and_no_other_number(name: str) -> None:
    wanted = HOOKS[name]
    scope: dict[str, Callable[..., object]] = {}
    exec(
        f"def right({', '.join(wanted)}): pass\ndef wrong({', '.join((*wanted, 'more'))}): pass",
        scope,
    )
    assert checked_hook(name, scope["right"], "x.py") is scope["right"]
    checked_hook(name, lambda *any_number: None, "x.py")
    with pytest.raises(SettingsError) as error:
        checked_hook(name, scope["wrong"], "x.py")
    assert f"{name} (from x.py) has to take {len(wanted)} argument" in str(error.value)
    assert f"{name}({', '.join(wanted)})" in str(error.value)


def test_a_hook_that_is_not_a_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"post_fork .* is of type int, not a function"):
        hooks_of(tmp_path, "post_fork = 3\n")


def test_none_is_not_a_hook(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("post_fork = None\n")
    assert load_settings({}, {}, tmp_path).hooks == {}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_post_request_may_leave_its_last_arguments_out(count: int) -> None:
    names = ", ".join("abcd"[:count])
    function = eval(f"lambda {names}: ({names})")
    assert checked_hook("post_request", function, "x.py")(1, 2, 3, 4) == (1, 2, 3, 4)[:count]
    with pytest.raises(SettingsError, match="has to take 4 arguments"):
        checked_hook("post_request", lambda a: None, "x.py")


# Calling


def test_calling_an_undefined_hook_does_nothing(log: Log) -> None:
    hooks = Hooks()
    assert hooks.call("post_fork", None, None, logger=log.logger)
    assert not hooks
    assert "post_fork" not in hooks


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(1)])
def test_an_exception_of_a_hook_is_logged_and_not_raised(log: Log, raised: BaseException) -> None:
    def fails(server: object, worker: object) -> None:
        raise raised

    hooks = Hooks({"post_fork": fails})
    assert not hooks.call("post_fork", None, None, logger=log.logger)
    assert "the hook post_fork failed" in log.text
    assert "in fails" in log.text


def test_on_starting_ends_the_start_with_its_traceback(log: Log) -> None:
    def fails(server: object) -> None:
        raise ValueError("not\ntoday")

    with pytest.raises(
        HookError, match="the hook on_starting raised ValueError: not today"
    ) as error:
        Hooks({"on_starting": fails}).call("on_starting", None, logger=log.logger)
    assert "in fails" in error.value.traceback
    assert "penstock/compat/gunicorn/hooks.py" not in error.value.traceback


# Around requests


class Calls:
    """Both hooks of requests, and what they saw."""

    def __init__(self) -> None:
        self.before: list[tuple[WorkerOfServer, Request]] = []
        self.after: list[tuple[WorkerOfServer, Request, Environ, Any]] = []
        self.hooks = Hooks({
            "pre_request": lambda worker, req: self.before.append((worker, req)),
            "post_request": lambda *four: self.after.append(four),
        })  # fmt: skip


def test_without_hooks_for_requests_the_application_is_untouched(log: Log) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        return []

    assert Hooks({"on_exit": print}).wrap(application, worker_of(log)) is application


def test_both_see_the_request_and_the_second_sees_the_response(log: Log, transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("201 Created", [("X-A", "b"), ("Content-Length", "5")])
        return [b"he", b"llo"]

    calls, worker = Calls(), worker_of(log)
    with penstock.running(calls.hooks.wrap(application, worker), transport=transport) as server:
        with connect(server) as client:
            client.send(get("/a%20b?c=d", "X-Y: z"))
            answer = client.read_response()
            assert (answer.status, answer.body) == (201, b"hello")
            client.send(get("/again"))
            assert client.read_response().status == 201
    (seen, request), _ = calls.before
    assert seen is worker
    assert (request.method, request.uri) == ("GET", "/a%20b?c=d")
    assert (request.path, request.query, request.version) == ("/a%20b", "c=d", (1, 1))
    # The server adds a field where the request had to wait for a thread.
    headers = [field for field in request.headers if field[0] != "X-REQUEST-START"]
    assert sorted(headers) == [("HOST", "a"), ("X-Y", "z")]
    assert request.remote_addr[0] == "127.0.0.1"
    assert isinstance(request.remote_addr[1], int)
    # A thread that has answered the second request may come to its hook first.
    (after,) = [it for it in calls.after if it[1] is request]
    _, _, environ, response = after
    assert environ["PATH_INFO"] == "/a b"
    assert (response.status, response.status_code, response.sent) == ("201 Created", 201, 5)
    assert ("X-A", "b") in response.headers
    assert response.headers_sent
    assert worker.nr == 2


def test_hooks_may_keep_something_on_the_request(log: Log) -> None:
    kept = []

    def pre_request(worker: object, req: Any) -> None:
        req.begun = 7

    hooks = Hooks({"pre_request": pre_request, "post_request": lambda *four: kept.append(four[1])})
    wrapped = hooks.wrap(lambda environ, start_response: [b"x"], worker_of(log))
    list(wrapped(environ_of("/"), start))
    assert kept == []
    close(wrapped(environ_of("/"), start))
    assert kept[0].begun == 7


def environ_of(target: str) -> Environ:
    return {"REQUEST_METHOD": "GET", "RAW_URI": target, "SERVER_PROTOCOL": "HTTP/1.1"}


def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
    return lambda block: None


def close(result: Any) -> None:
    list(result)
    result.close()
    result.close()


def test_the_second_comes_after_the_body_was_closed_and_once(log: Log) -> None:
    order = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            order.append("closed")

    hooks = Hooks({"post_request": lambda *four: order.append("hook")})
    close(
        hooks.wrap(lambda environ, start_response: Body(), worker_of(log))(environ_of("/"), start)
    )
    assert order == ["closed", "hook", "closed"]


def test_a_body_of_one_block_keeps_its_known_length(log: Log) -> None:
    calls = Calls()
    wrapped = calls.hooks.wrap(lambda environ, start_response: [b"x"], worker_of(log))
    assert len(wrapped(environ_of("/"), start)) == 1  # type: ignore[arg-type]
    wrapped = calls.hooks.wrap(lambda environ, start_response: iter([b"x"]), worker_of(log))
    assert not hasattr(wrapped(environ_of("/"), start), "__len__")


def test_a_file_reaches_the_server_unchanged(log: Log) -> None:
    calls, wrapper = Calls(), FileWrapper(io.BytesIO(b"x"))
    wrapped = calls.hooks.wrap(lambda environ, start_response: wrapper, worker_of(log))
    assert wrapped(environ_of("/"), start) is wrapper
    assert len(calls.after) == 1


def test_an_application_that_raises_is_followed_by_the_hook(log: Log) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise ValueError

    calls = Calls()
    with pytest.raises(ValueError):
        calls.hooks.wrap(application, worker_of(log))(environ_of("/"), start)
    assert calls.after[0][3].status is None
    assert calls.after[0][3].status_code == 500


def test_an_exception_of_pre_request_is_answered_with_500_and_logged(
    transport: str, tmp_path: Path, log: Log
) -> None:
    def fails(worker: object, req: object) -> None:
        raise ValueError("unwanted")

    error_log = tmp_path / "error.log"
    wrapped = Hooks({"pre_request": fails}).wrap(lambda environ, start: [], worker_of(log))
    with penstock.running(wrapped, transport=transport, error_logfile=str(error_log)) as server:
        with connect(server) as client:
            client.send(get("/"))
            assert client.read_response().status == 500
    assert "ValueError: unwanted" in error_log.read_text()


def test_an_exception_of_post_request_is_logged_and_the_response_is_unchanged(
    transport: str, log: Log
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"by ")
        return [b"write"]

    def fails(worker: object, req: object, environ: object, resp: Any) -> None:
        raise ValueError(resp.sent)

    wrapped = Hooks({"post_request": fails}).wrap(application, worker_of(log))
    with penstock.running(wrapped, transport=transport) as server:
        with connect(server) as client:
            client.send(get("/"))
            assert client.read_response().body == b"by write"
    assert "the hook post_request failed" in log.text
    assert "ValueError: 8" in log.text


# ssl_context


def test_ssl_context_makes_the_context_from_the_servers_own(tmp_path: Path) -> None:
    server_certificate().write(tmp_path)
    (tmp_path / "gunicorn.conf.py").write_text(
        "import ssl\n"
        "bind = '127.0.0.1:0'\n"
        "certfile, keyfile = 'server.pem', 'server.key'\n"
        "def ssl_context(config, default_ssl_context_factory):\n"
        "    assert config.certfile[0].endswith('server.pem')\n"
        "    context = default_ssl_context_factory()\n"
        "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n"
        "    return context\n"
    )
    with Supervised(tmp_path, bind=None) as server:
        assert "(python transport" in server.start_line
        old = authority().client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsClient(server.address, old)
        with TlsClient(server.address) as client:
            assert client.request("GET", "/echo?0").status == 200
        assert server.stop() == 0
