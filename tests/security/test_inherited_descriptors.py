"""What root's shell has open is not for the workers of another user."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import MODULE
from support.service_user import TakenOver, as_root, public_folder, public_python

pytestmark = as_root

NUMBER = 9
OPEN = """
import os
answer = {}
for name in os.listdir("/proc/self/fd"):
    try:
        answer[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
"""


def holding(path: Path, *prefix: str) -> tuple[str, ...]:
    """Return a command that starts Python with the file open, as a script of root's would."""
    script = f'exec {NUMBER}<"$1"; shift; exec "$@"'
    return ("sh", "-c", script, "sh", str(path), *prefix, public_python())


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that root alone can read, in a folder with the application."""
    with public_folder() as folder:
        path = folder / "secret"
        path.write_text("secret")
        path.chmod(0o600)
        yield path


def workers_files(server: TakenOver) -> dict[str, str]:
    return {str(number): str(path) for number, path in server.run(OPEN).items()}


@pytest.mark.parametrize(
    "arguments", [(), ("--preload",), ("--allow-setuid-programs",)], ids="".join
)
def test_a_worker_of_another_user_has_no_descriptor_that_the_server_was_started_with(
    secret: Path, arguments: tuple[str, ...]
) -> None:
    pid = ("--pid", str(secret.parent / "pid"))
    with TakenOver(secret.parent, *pid, *arguments, python=holding(secret)) as server:
        assert str(secret) not in workers_files(server).values()
        # The supervisor keeps it, as the lock of a script that has started it.
        kept = Path(f"/proc/{server.supervisor}/fd/{NUMBER}")
        assert kept.resolve() == secret
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: server.has_new_supervisor(secret.parent / "pid"))
        assert str(secret) not in workers_files(server).values()
        assert server.stop() == 0


def test_a_server_without_capabilities_for_it_closes_them_as_well(secret: Path) -> None:
    few = ("setpriv", "--bounding-set=-all,+setuid,+setgid,+kill", "--")
    with TakenOver(secret.parent, python=holding(secret, *few)) as server:
        assert str(secret) not in workers_files(server).values()
        assert server.stop() == 0


def test_a_socket_that_the_server_was_started_with_and_uses_stays(secret: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, open(secret, "rb") as other:
        passed = (listener.fileno(), other.fileno())
        bind = f"fd://{listener.fileno()}"
        with TakenOver(secret.parent, bind=bind, pass_fds=passed) as server:
            found = workers_files(server)
            assert found[str(listener.fileno())].startswith("socket:")
            assert str(secret) not in found.values()
            old = server.workers()
            server.signal(signal.SIGHUP)
            server.wait_for_workers(1, old)
            assert workers_files(server)[str(listener.fileno())] == found[str(listener.fileno())]
            assert server.stop() == 0


def test_without_another_user_an_application_keeps_what_the_server_was_started_with(
    secret: Path,
) -> None:
    with TakenOver(secret.parent, user=None, python=holding(secret)) as server:
        assert server.run(f"import os; answer = os.pread({NUMBER}, 9, 0).decode()") == "secret"
        assert server.stop() == 0


def test_check_imports_the_application_without_them(secret: Path) -> None:
    (secret.parent / f"{MODULE}.py").write_text(
        f"import os\ntry:\n    os.fstat({NUMBER})\nexcept OSError:\n    app = print\n"
    )
    server = TakenOver(secret.parent, "--check", python=holding(secret))
    try:
        assert server.wait() == 0
    finally:
        server.kill()
