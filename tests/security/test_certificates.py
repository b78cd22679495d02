"""Keys that root alone can read, and files that the workers' user could replace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.certificates import authority, server_certificate
from support.invariant import eventually
from support.service_user import (
    NOBODY,
    TakenOver,
    as_root,
    ended_command,
    owned,
    public_folder,
)
from support.tls import TlsClient

pytestmark = as_root

TLS = ("--certfile", "server.pem", "--keyfile", "server.key", "--bind", "https://127.0.0.1:0")


class Secured(TakenOver):
    """The same, whose code goes over TLS."""

    def run(self, code: str) -> object:
        with TlsClient(self.address) as client:
            answer = client.request("POST", "/run", {"Connection": "close"}, code.encode())
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def names(self) -> set[str]:
        context = authority().client_context()
        context.check_hostname = False
        with TlsClient(self.address, context) as client:
            return client.names()


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_a_key_of_roots_works_with_a_user_and_stays_out_of_the_workers_reach(
    tls_transport: str, preload: tuple[str, ...]
) -> None:
    with public_folder() as folder:
        _, key = server_certificate().write(folder)
        key.chmod(0o600)
        arguments = ("--transport", tls_transport, *TLS, *preload)
        with Secured(folder, *arguments) as server:
            reading = f"answer = open({str(key)!r}).read()"
            assert "PermissionError" in str(server.run(reading))
            assert server.run("import os; answer = os.getuid()") == NOBODY.pw_uid
            # No descriptor of the file, or of a copy, is open in the worker.
            opened = server.run(
                "import os; answer = []\n"
                "for name in os.listdir('/proc/self/fd'):\n"
                "    try: answer.append(os.readlink('/proc/self/fd/' + name))\n"
                "    except OSError: pass\n"
            )
            assert isinstance(opened, list)
            assert not [path for path in opened if "key" in path or "penstock-" in path]
            # Renewed by root, for workers that still cannot read it.
            authority().issue("fresh.test").write(folder, "fresh")
            (folder / "fresh.key").chmod(0o600)
            for kind in ("pem", "key"):
                (folder / f"fresh.{kind}").replace(folder / f"server.{kind}")
            server.wait_for_line("the certificates have changed")
            assert eventually(lambda: server.names() == {"fresh.test"})


def users_file(folder: Path) -> None:
    owned(folder / "server.key", NOBODY.pw_uid)


def users_directory(folder: Path) -> None:
    owned(folder, NOBODY.pw_uid)


def file_for_all(folder: Path) -> None:
    (folder / "server.pem").chmod(0o666)


def link_in_a_directory_of_the_users(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "server.key").rename(inner / "server.key")
    owned(inner, NOBODY.pw_uid)
    (folder / "server.key").symlink_to(inner / "server.key")


@pytest.mark.parametrize(
    "change", [users_file, users_directory, file_for_all, link_in_a_directory_of_the_users]
)
def test_root_reads_no_file_that_the_workers_user_could_replace(
    change: Callable[[Path], None],
) -> None:
    with public_folder() as folder:
        server_certificate().write(folder)
        change(folder)
        done = ended_command(folder, "--user", "nobody", "shop:app", *TLS)
        assert done.returncode == 2
        assert "is refused, because root reads it for workers of another user" in done.stderr
        assert "can be changed by others than root: make root the owner" in done.stderr


def test_a_file_that_becomes_the_users_is_refused_and_the_old_certificate_stays(
    tls_transport: str,
) -> None:
    with public_folder() as folder:
        server_certificate().write(folder)
        other = authority().issue("other.test")
        with Secured(folder, "--transport", tls_transport, *TLS) as server:
            (folder / "theirs").mkdir()
            other.write(folder / "theirs")
            owned(folder / "theirs", NOBODY.pw_uid)
            for kind in ("pem", "key"):
                (folder / f"link.{kind}").symlink_to(folder / "theirs" / f"server.{kind}")
                (folder / f"link.{kind}").replace(folder / f"server.{kind}")
            server.wait_for_line("PEN-4130.*can be changed by others than root")
            assert server.names() == {"localhost", "127.0.0.1"}


def test_no_process_has_a_key_on_its_command_line_or_in_its_environment(
    tls_transport: str,
) -> None:
    secret = server_certificate().key.splitlines()[1]
    with public_folder() as folder:
        server_certificate().write(folder)
        with Secured(folder, "--transport", tls_transport, *TLS) as server:
            for pid in server.members():
                for name in ("cmdline", "environ"):
                    assert secret not in Path(f"/proc/{pid}/{name}").read_bytes()
