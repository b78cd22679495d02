"""What every test may rely on."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from penstock.config.checks import native_built, native_has_tls

# How long it takes to generate an example tells how busy the machine is, and nothing of the server.
settings.register_profile("busy machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

THREADS_END_WITHIN = 20.0
"""Seconds that a test's threads get to end, once the test itself is over."""

FROM_PLATFORMS = {"WEB_CONCURRENCY", "PORT", "SCRIPT_NAME", "LISTEN_PID", "LISTEN_FDS"}
FROM_PLATFORMS |= {"GUNICORN_CMD_ARGS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
FROM_PLATFORMS |= {"FORWARDED_ALLOW_IPS", "SSLKEYLOGFILE"}
"""Variables that are settings without being named after Penstock."""


TRANSPORTS = ["python", "native"] if native_built() else ["python"]
"""Every transport. What goes over the wire is tested on each, and each gives the same answers."""

FACTORS = {"transport", "threads", "streamed", "supervised", "watcher", "edit"}
"""What tests are parametrized by of which `make test` runs half of each product: each value of one
with every other value of another one."""

OF_PROCESSES = tuple(
    f"tests/{folder}/" for folder in ("faults", "frameworks", "lifecycle", "security", "worker")
)
"""Where most tests start a server of several processes."""


def pytest_configure() -> None:
    """Stop ignoring the signals that a shell makes its background jobs ignore.

    A process that a test starts would ignore them, too, and SIGINT could not stop it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # `nohup make test` goes on when its terminal is closed. A program that is started resets
        # a handler to the default, other than SIG_IGN, which it inherits.
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have what a failed test left open closed before the next test, which is not to blame for it.

    The frames of the failure keep sockets and files alive; as warnings are errors, the test during
    which these are collected would fail, too.
    """
    failed = item.session.testsfailed
    result = yield
    if item.session.testsfailed > failed:
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            if hasattr(sys, name):
                delattr(sys, name)  # set by pytest, for a debugger
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()
    return result


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out half of each product of `FACTORS`, for `make test`.

    A test that takes a transport and a number of threads runs each transport with one number; which
    one differs from test to test, so that a file has all four combinations. Where tests start
    processes, which takes most of the time, each runs with one transport: with the other one on
    every second version of Python. Tests that are marked as ``costly`` are left out. All of them
    run for each test by `make test-all`, and where pytest is called by hand.
    """
    if os.environ.get("TEST_MATRIX") != "sampled":
        return
    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


def is_left_out(item: pytest.Item) -> bool:
    """Return True if the test is a combination that `make test` does not run."""
    if item.get_closest_marker("costly") is not None:
        return True
    callspec = getattr(item, "callspec", None)
    if callspec is None or len(TRANSPORTS) < 2:
        return False
    places = [place for factor, place in callspec.indices.items() if factor in FACTORS]
    function = item.nodeid.partition("[")[0]
    enough = 1 if function.startswith(OF_PROCESSES) else 2
    # 3.11 and 3.13 are those on which the checks of a change run all tests.
    parity = sum(places) + crc32(function.encode()) + sys.version_info.minor // 2
    return len(places) >= enough and parity % 2 == 1


def pytest_report_header() -> str:
    """Show which transports are tested: without the native transport, all else may pass."""
    return f"transports: {', '.join(TRANSPORTS)}"


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Name the transport to test: ``penstock.running(app, transport=transport)``."""
    return str(request.param)


@pytest.fixture(scope="session")
def tls_transport(transport: str) -> str:
    """Name the same transport, for a server with TLS."""
    if transport == "native" and not native_has_tls():
        pytest.skip("the native transport was built without TLS")
    return transport


@pytest.fixture(scope="session", params=[1, 4])
def threads(request: pytest.FixtureRequest) -> int:
    """Return the number of threads to test with: one has no stall monitor, four have."""
    return int(request.param)


@pytest.fixture(scope="session", autouse=True)
def directory_of_control_sockets(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the servers that tests start make their control sockets beside no others."""
    os.environ["RUNTIME_DIRECTORY"] = str(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings that the environment has from the tests."""
    for name in list(os.environ):
        if name.startswith("PENSTOCK_") or name in FROM_PLATFORMS:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_right_given_up() -> Iterator[None]:
    """Fail the test that gives up rights of this process: later ones could not test as root."""
    before = rights()
    yield
    assert rights() == before


def rights() -> list[str]:
    """Return the user and the capabilities of the calling thread, where the system tells them."""
    try:
        with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
            return [line for line in status if line.startswith(("Uid", "Gid", "Cap", "NoNewPrivs"))]
    except OSError:
        return []


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail the test that leaves a thread running: `running()` promises to join its own."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(THREADS_END_WITHIN)
    assert not [thread for thread in left if thread.is_alive()]
