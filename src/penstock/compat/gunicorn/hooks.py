"""The hooks of a gunicorn.conf.py: functions that the server calls at certain events.

Their signatures are gunicorn's. Their arguments are plain objects with the attributes that hooks
use in practice; the classes below document them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from functools import cached_property, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from penstock import messages
from penstock.config.gunicorn_settings import GUNICORN_SETTINGS, HOOKS
from penstock.errors import PenstockError, SettingsError
from penstock.records import dataclass
from penstock.wsgi.file_wrapper import FileWrapper

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

    from penstock.config.settings import Settings

Function = Callable[..., object]

PROPAGATED = frozenset({"on_starting"})
"""Hooks whose exception ends the start, as under gunicorn. Those of other hooks are logged."""

_LEAST_ARGUMENTS = {"post_request": 2}
"""The hooks whose last arguments may be missing, and how many arguments they need."""


_LOADED = (
    "a worker loads the application after post_fork, and the supervisor never does: "
    "worker.app.callable is there from post_worker_init on"
)
_WITHOUT = {
    "SIG_QUEUE": "the server keeps no queue of signals: send one to server.pid with os.kill",
    "SIG_NAMES": "the module signal has the names: signal.Signals(number).name",
    "SIGNALS": "the module signal has them",
    "LISTENERS": "see server.address",
    "pidfile": "see server.cfg.pidfile",
    "tmp": "workers write no heartbeat files",
    "sockets": "the transport has them",
    "app": _LOADED,
    "wsgi": _LOADED,
}
"""What gunicorn's objects have, and these have not, with what to use instead."""


def _no_attribute(kind: str, name: str) -> AttributeError:
    more = f": {_WITHOUT[name]}" if name in _WITHOUT else ""
    return AttributeError(f"{kind}.{name} does not exist in Penstock, only in gunicorn{more}")


class HookError(PenstockError):
    """A hook that has to succeed raised an exception."""

    traceback = ""
    """The hook's part of the traceback, with a line end."""


class Config:
    """The settings as hooks see them, ``server.cfg``: by gunicorn's names and by Penstock's.

    A setting that Penstock does not have has the value in the file, or gunicorn's default.
    """

    def __init__(self, settings: Settings, given: Mapping[str, object] | None = None) -> None:
        """Show ``settings``. ``given`` has the values of a gunicorn.conf.py by gunicorn's names."""
        self._settings = settings
        self._given = dict(given or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        row = GUNICORN_SETTINGS.get(name)
        if row is None:
            return getattr(self._settings, name)
        if name == "control_socket_disable":
            return self._settings.control == "off"
        if row.ours:
            value = getattr(self._settings, row.ours)
            return list(value) if isinstance(value, tuple) else value
        return self._given.get(name, row.default)

    @property
    def env(self) -> dict[str, str]:
        """The variables of ``raw_env``."""
        return dict(entry.partition("=")[::2] for entry in self._settings.env)

    @property
    def address(self) -> list[str]:
        """The addresses of ``bind``, as they were given."""
        return list(self._settings.bind)


@dataclass(eq=False)
class Server:
    """The argument ``server`` of hooks: the supervisor, which keeps the attributes up to date."""

    pid: int
    log: logging.Logger
    cfg: Config
    address: list[str] = field(default_factory=list)
    """The listeners, such as ``http://127.0.0.1:8000``."""
    num_workers: int | None = None
    """The wanted number of workers; None until that is known."""
    WORKERS: dict[int, WorkerOfServer] = field(default_factory=dict)
    """The worker processes, by process id."""
    starting: dict[int, WorkerOfServer] = field(default_factory=dict)
    """Workers without a process yet, by age. All hooks get the same object for a worker: some set
    an attribute in ``pre_fork`` and read it in ``post_fork`` and ``child_exit``."""
    proc_name: str = ""
    """The name in process titles."""

    @property
    def timeout(self) -> float:
        """The setting ``timeout``, in seconds."""
        return float(self.cfg.timeout)

    def __getattr__(self, name: str) -> Any:
        raise _no_attribute("server", name)


@dataclass(eq=False)
class WorkerOfServer:
    """The argument ``worker`` of hooks: one worker process."""

    age: int
    """The number of the worker, counted from 1 in the order of their starts."""
    ppid: int
    log: logging.Logger
    cfg: Config
    pid: int | str = "[booting]"
    nr: int = 0
    """The number of requests it has begun; counted only if there is a hook for requests."""
    booted: bool = False
    """Whether the application is loaded."""
    alive: bool = True
    """False once the worker was told to stop."""
    aborted: bool = False
    """Whether the worker was ended because it hung."""

    @property
    def timeout(self) -> float:
        """The setting ``timeout``, in seconds."""
        return float(self.cfg.timeout)

    def notify(self) -> None:
        """Do nothing: the server sees by itself whether a worker goes on."""

    def __str__(self) -> str:
        """Return the worker's name as gunicorn logs it."""
        return f"<Worker {self.pid}>"

    def __getattr__(self, name: str) -> Any:
        raise _no_attribute("worker", name)


class LoadedApplication:
    """``worker.app`` and ``server.app`` in a worker, from ``post_worker_init`` on."""

    def __init__(self, application: WSGIApplication) -> None:
        """Show this application."""
        self.callable = application

    def wsgi(self) -> WSGIApplication:
        """Return the application."""
        return self.callable


def show_application(application: WSGIApplication, server: Server, worker: WorkerOfServer) -> None:
    """Let hooks find the application, in the process that has loaded it."""
    vars(server)["app"] = vars(worker)["app"] = LoadedApplication(application)
    vars(worker)["wsgi"] = application


class Request:
    """The argument ``req`` of hooks. Hooks may set attributes of their own on it."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.uri: str = environ.get("RAW_URI", "")
        """The request target as the client sent it."""
        self.query: str = environ.get("QUERY_STRING", "")
        self.fragment = ""
        self.scheme: str = environ.get("wsgi.url_scheme", "http")

    # The rest is computed on first use: most hooks need little of it.

    @cached_property
    def path(self) -> str:
        """The path as the client sent it; PATH_INFO has the decoded one."""
        from urllib.parse import urlsplit

        uri = self.uri
        return urlsplit("//h" + uri if uri.startswith("/") else uri).path

    @cached_property
    def version(self) -> tuple[int, ...]:
        """The version of HTTP, such as ``(1, 1)``."""
        text = str(self._environ.get("SERVER_PROTOCOL", "HTTP/1.1")).removeprefix("HTTP/")
        return tuple(int(part) for part in text.split(".") if part.isdigit())

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """The names, in capitals, and the values. Fields that came several times are joined."""
        return list(_headers(self._environ))

    @cached_property
    def remote_addr(self) -> tuple[str, int] | str:
        """The address and the port of the peer; only the address if there is no port."""
        address, port = self._environ.get("REMOTE_ADDR", ""), self._environ.get("REMOTE_PORT")
        return (address, int(port)) if port else address

    @property
    def peer_addr(self) -> tuple[str, int] | str:
        """The same as `remote_addr`: hooks get what the proxies tell."""
        return self.remote_addr


class Response:
    """The argument ``resp`` of hooks."""

    def __init__(self) -> None:
        self.status: str | None = None
        """The status, such as ``200 OK``; None if the application failed before it set one."""
        self.headers: list[tuple[str, str]] = []
        """The header fields of the application."""
        self.sent = 0
        """Bytes of the body that the application returned, without a file that the kernel sends."""

    @property
    def status_code(self) -> int:
        """The status code; 500 if the application failed before it set one."""
        return int(self.status[:3]) if self.status else 500

    @property
    def headers_sent(self) -> bool:
        """Whether the application has returned some of the body."""
        return self.sent > 0


class Hooks:
    """The hooks that a file defines. Calling a hook that it does not define does nothing."""

    def __init__(
        self,
        functions: Mapping[str, Function] | None = None,
        given: Mapping[str, object] | None = None,
    ) -> None:
        """Take checked functions by name. ``given`` is for `Config`."""
        self._functions = dict(functions or {})
        self.given = dict(given or {})

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __bool__(self) -> bool:
        return bool(self._functions)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the defined hooks, in gunicorn's order."""
        return tuple(name for name in HOOKS if name in self._functions)

    def config(self, settings: Settings) -> Config:
        """Return the `Config` for `Server` and `WorkerOfServer`."""
        return Config(settings, self.given)

    def call(self, name: str, *arguments: object, logger: logging.Logger) -> bool:
        """Call a hook if it is defined. Return False if it raised an exception.

        The exception is logged, also ``SystemExit``. For the hooks in `PROPAGATED` it is raised as
        a `HookError`.
        """
        function = self._functions.get(name)
        if function is None:
            return True
        try:
            function(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a hook must not end the supervisor
            if name in PROPAGATED:
                raise _hook_error(name, error) from error
            messages.HOOK_FAILED.log(logger, hook=name, exc_info=error)
            return False
        return True

    def wrap(self, application: WSGIApplication, worker: WorkerOfServer) -> WSGIApplication:
        """Return an application that calls ``pre_request`` and ``post_request`` around this one.

        Without these hooks return the application itself. If ``pre_request`` raises, the request
        fails with 500, as under gunicorn.
        """
        before, after = (self._functions.get(name) for name in ("pre_request", "post_request"))
        if before is None and after is None:
            return application
        import urllib.parse  # noqa: F401 - for `Request.path`: then no descriptor may be left

        return partial(_call_around, application, worker, before, after)


def checked_hook(name: str, value: object, source: str) -> Function:
    """Return a hook as the server calls it. Raises `SettingsError` if it cannot be called so.

    Text names a function, as in ``package.module.function``.
    """
    if isinstance(value, str):
        value = _imported(name, value, source)
    if not callable(value):
        kind = type(value).__name__
        raise SettingsError(f"{name} (from {source}) is of type {kind}, not a function")
    wanted = HOOKS[name]
    for count in range(len(wanted), _LEAST_ARGUMENTS.get(name, len(wanted)) - 1, -1):
        if _takes(value, count):
            return value if count == len(wanted) else _first_only(value, count)
    raise SettingsError(
        f"{name} (from {source}) has to take {len(wanted)} "
        f"{'argument' if len(wanted) == 1 else 'arguments'}: {name}({', '.join(wanted)})"
    )


def _imported(name: str, path: str, source: str) -> object:
    import importlib

    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SettingsError(
            f"{name} (from {source}) is {path!r}, which cannot be imported as "
            f"module.function: {type(error).__name__}: {error}"
        ) from None


def _takes(function: Function, count: int) -> bool:
    try:
        parameters = signature(function)
    except (TypeError, ValueError):  # a function of C without a signature
        return True
    try:
        parameters.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _first_only(function: Function, count: int) -> Function:
    def call(*arguments: object) -> object:
        return function(*arguments[:count])

    return call


def _hook_error(name: str, error: BaseException) -> HookError:
    from traceback import format_exception

    text = " ".join(str(error).split())
    failed = HookError(f"the hook {name} raised {type(error).__name__}: {text}".rstrip(": "))
    own = error.__traceback__.tb_next if error.__traceback__ else None  # without the server's call
    failed.traceback = "".join(format_exception(type(error), error, own))
    return failed


def _headers(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key.removeprefix("HTTP_").replace("_", "-"), value
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield key.replace("_", "-"), value


def _call_around(
    application: WSGIApplication,
    worker: WorkerOfServer,
    before: Function | None,
    after: Function | None,
    environ: dict[str, Any],
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Serve a request, with its two hooks before and after."""
    request, response = Request(environ), Response()
    done = partial(_after, after, worker, request, environ, response)
    if before is not None:
        before(worker, request)
    worker.nr += 1
    if after is None:
        return application(environ, start_response)
    try:
        result = application(environ, _watched(start_response, response))
    except BaseException:
        done()
        raise
    # A file for the kernel has to pass unchanged, and the gateway refuses what is not iterable.
    if type(result) is FileWrapper or not _is_iterable(result):
        done()
        return result
    kind = _SizedBody if hasattr(type(result), "__len__") else _Body
    return kind(result, response, done)


def _is_iterable(result: object) -> bool:
    return hasattr(type(result), "__iter__") and not isinstance(result, str | bytes | bytearray)


def _after(
    after: Function | None,
    worker: WorkerOfServer,
    request: Request,
    environ: dict[str, Any],
    response: Response,
) -> None:
    if after is None:
        return
    try:
        after(worker, request, environ, response)
    except Exception as error:  # the response is complete, and stays as it is
        messages.HOOK_FAILED.log(worker.log, hook="post_request", exc_info=error)


def _watched(start_response: StartResponse, response: Response) -> StartResponse:
    def start(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        write = start_response(status, headers, exc_info)
        response.status, response.headers = status, headers

        def write_counted(block: bytes, /) -> object:
            response.sent += len(block)
            return write(block)

        return write_counted

    return start


class _Body:
    """A response's iterable that calls a function when it is closed."""

    def __init__(self, body: Iterable[bytes], response: Response, done: Callable[[], None]) -> None:
        self._body = body
        self._blocks: Iterator[bytes] | None = None
        self._response = response
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._blocks is None:
            self._blocks = iter(self._body)
        block = next(self._blocks)
        if isinstance(block, bytes):
            self._response.sent += len(block)
        return block

    def close(self) -> None:
        """Close the application's iterable, then call the hook, once."""
        done, self._done = self._done, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if done is not None:
                done()


class _SizedBody(_Body):
    """A body with a known number of blocks: the length of a single block is the response's."""

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]
