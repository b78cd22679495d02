"""What only the native transport promises."""

from __future__ import annotations

import ast
import inspect
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.telemetry import histograms, scoreboard
from penstock.telemetry.scoreboard import SERIES
from penstock.wsgi.gateway import Gateway
from support.gil_keeper import KEPT_SECONDS
from support.server_process import ROOT, ServerProcess
from support.serving import Gate, connect, eventually, get
from support.transports import serving
from support.wire import Client

_native = pytest.importorskip("penstock._native", reason="the native transport is not built")

every_class = pytest.mark.parametrize("kind", [getattr(_native, name) for name in _native.__all__])

HERE = Path(__file__).parents[1] / "support"


def stub_of(kind: type) -> ast.ClassDef:
    stub = ast.parse((ROOT / "src/penstock/_native.pyi").read_text("utf-8"))
    [found] = [
        item for item in stub.body if isinstance(item, ast.ClassDef) and item.name == kind.__name__
    ]
    return found


def typed_signature(function: ast.FunctionDef) -> list[tuple[str, object]]:
    """Return the parameters but for ``self``, each with its default."""
    given = function.args
    assert not any([given.posonlyargs, given.kwonlyargs, given.vararg, given.kwarg])
    defaults = [ast.literal_eval(default) for default in given.defaults]
    required = [inspect.Parameter.empty] * (len(given.args) - len(defaults))
    return list(zip((arg.arg for arg in given.args), [*required, *defaults], strict=True))[1:]


def real_signature(function: Callable[..., object]) -> list[tuple[str, object]]:
    parameters = inspect.signature(function).parameters.values()
    assert {parameter.kind for parameter in parameters} <= {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }
    return [(each.name, each.default) for each in parameters if each.name != "self"]


def test_the_stub_has_every_class_of_the_module_and_no_other() -> None:
    stub = ast.parse((ROOT / "src/penstock/_native.pyi").read_text("utf-8"))
    defined = [item for item in stub.body if not isinstance(item, ast.Expr | ast.ImportFrom)]
    typed = {item.name for item in defined if isinstance(item, ast.ClassDef)}
    assert len(typed) == len(defined)
    assert typed == set(_native.__all__)
    assert typed == {name for name in vars(_native) if name[0] != "_"}


@every_class
def test_the_stub_has_every_member_of_a_class_and_no_other(kind: type) -> None:
    typed = [item.name for item in stub_of(kind).body if isinstance(item, ast.FunctionDef)]
    assert len(set(typed)) == len(typed)
    assert set(typed) - {"__init__"} == {name for name in vars(kind) if name[0] != "_"}


@every_class
def test_the_stub_has_the_signature_of_every_method(kind: type) -> None:
    for item in stub_of(kind).body:
        if not isinstance(item, ast.FunctionDef):
            continue
        member = vars(kind).get(item.name, kind)  # `__init__` stands for calling the class
        decorators = [ast.unparse(decorator) for decorator in item.decorator_list]
        if decorators == ["staticmethod"]:
            assert isinstance(member, staticmethod), item.name
        elif decorators:
            assert decorators == ["property"]
            assert inspect.isgetsetdescriptor(member), item.name
        else:
            assert callable(member), item.name
            assert typed_signature(item) == real_signature(member), item.name


def test_no_client_waits_for_a_call_that_keeps_the_interpreters_lock() -> None:
    """Heads are read, deadlines kept and refusals sent without it; only the log has to wait."""
    arguments = ("gil_keeper:app", "--transport", "native", "--threads", "2")
    with ServerProcess(*arguments, "--header-timeout", "0.5s", cwd=HERE) as server:
        with Client(server.address) as keeper, Client(server.address) as slow:
            slow.send(b"GET / HT")
            begun = time.monotonic()
            keeper.send(b"GET /keep HTTP/1.1\r\nHost: a\r\n\r\n")
            assert slow.read_response().status == 408
            for _ in range(3):
                with Client(server.address) as other:
                    other.send(b"nonsense\r\n\r\n")
                    assert other.read_response().status == 400
            assert time.monotonic() - begun < KEPT_SECONDS - 0.5
            assert keeper.read_response().body == b"done"
        server.wait_for_line("408 .*header_timeout")


def test_no_client_waits_for_a_request_that_waits_for_the_interpreters_lock() -> None:
    """Nor if the server was idle before, so that no thread watched its calls."""
    with ServerProcess("gil_keeper:app", "--transport", "native", cwd=HERE) as server:
        with Client(server.address) as first:
            assert first.request("GET", "/keep-later").body == b"done"
            server.wait_for_line("keeping the lock")
            begun = time.monotonic()
            first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            threading.Event().wait(0.1)  # so that it is taken before there is anything else to do
            for _ in range(3):
                with Client(server.address) as other:
                    other.send(b"nonsense\r\n\r\n")
                    assert other.read_response().status == 400
            assert time.monotonic() - begun < KEPT_SECONDS - 0.5
            assert first.read_response().body == b"done"


def test_the_scoreboard_has_the_layout_that_native_code_writes() -> None:
    with serving(Gate(), "native") as server:
        layout = server.transport._native.scoreboard_layout()  # type: ignore[attr-defined]
    layout["TEXTS"] = tuple(layout["TEXTS"])
    assert len(layout) >= 20
    assert layout == {name: getattr(scoreboard, name) for name in layout}
    words = {"STATE", "CONNECTIONS", "ACCEPTING", "POLLED", "STARTED", "WAITING", "ACCEPTED"}
    assert words <= set(layout)


def test_histograms_have_the_bounds_and_the_series_that_native_code_counts_in() -> None:
    native = _native.NativeTransport
    assert native.histogram_bounds() == [round(bound * 1e9) for bound in histograms.BOUNDS]
    numbers = set()
    for method in (*histograms.METHODS[:-1], "BREW"):
        for status in ("000", "100", "200", "304", "404", "599", "999"):
            for protocol in ("HTTP/1.1", "HTTP/1.0", "HTTP/3"):
                line = f"{method} / {protocol}".encode()
                number = histograms.series_number(method, status, protocol)
                assert native.histogram_series(method.encode(), int(status), line) == number
                numbers.add(number)
    assert numbers == set(range(SERIES))
    labels = {histograms.series_labels(number) for number in numbers}
    assert len(labels) == SERIES


def fail(_environ: object, _start_response: object) -> list[bytes]:
    raise ValueError


@pytest.mark.parametrize("threads", [1, 2])
def test_the_connection_of_an_exchange_that_is_never_ended_is_reset(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """As after an error of the server's own: neither the client nor a drain waits for ever."""
    monkeypatch.setattr(Gateway, "handle", lambda self, exchange: None)
    monkeypatch.setattr(Gateway, "fail", lambda self, *given: None)
    with serving(fail, "native", threads=threads) as server:
        with connect(server) as client:
            client.send(get())
            with pytest.raises(ConnectionResetError):
                client.socket.recv(1)
        eventually(lambda: server.snapshot()["connections"] == 0)
        server.transport.drain()
        eventually(server.is_over)
