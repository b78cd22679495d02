"""What only the native transport promises."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from penstock.settings import native_built
from support.gil_keeper import KEPT_SECONDS
from support.server_process import ROOT, ServerProcess
from support.wire import Client

pytestmark = pytest.mark.skipif(not native_built(), reason="the native transport is not built")

HERE = Path(__file__).parents[1] / "support"


def test_the_stub_names_what_the_module_has() -> None:
    from penstock import _native

    stub = ast.parse((ROOT / "src/penstock/_native.pyi").read_text("utf-8"))
    for item in stub.body:
        if isinstance(item, ast.ClassDef):
            kind = getattr(_native, item.name)
            named = {part.name for part in item.body if isinstance(part, ast.FunctionDef)}
            public = {name for name in named if name[0] != "_"}
            assert public == {name for name in vars(kind) if name[0] != "_"}


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
