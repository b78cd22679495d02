"""The file of ``--admin-token-file``: what it may have, and what is kept of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from penstock.cli.settings import load_settings
from penstock.config.token_file import LEAST, MOST, read_token
from penstock.errors import SettingsError

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("content", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n", "x" * MOST])
def test_the_digest_of_one_line_is_returned(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    assert read_token(path)[0] == hashlib.sha256(content.strip().encode()).hexdigest()


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * (LEAST - 1), b"x" * (MOST + 1), b"two words of a pass", "ä".encode() * 20],
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="admin_token_file") as refused:
        read_token(path)
    assert str(path) in str(refused.value)
    assert content.decode("latin-1")[:20] not in str(refused.value) or not content


def test_a_file_that_is_not_there_is_an_error_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*token.*admin_token_file"):
        read_token(tmp_path / "token")


def test_the_settings_have_the_digest_and_the_path(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    flags = {
        "admin": "127.0.0.1:8001",
        "admin_token_file": "token",
        "admin_hosts": ["a.test,b.test"],
    }
    settings = load_settings(flags, {}, tmp_path)
    assert settings.admin_token == hashlib.sha256(TOKEN.encode()).hexdigest()
    assert TOKEN not in repr(settings)
    assert settings.admin_hosts == ("a.test", "b.test")


def warnings_of(folder: Path, mode: int) -> list[str]:
    path = folder / "its token"
    path.write_text(TOKEN)
    path.chmod(mode)
    flags = {"admin": "127.0.0.1:8001", "admin_token_file": path.name}
    return [warning.render() for warning in load_settings(flags, {}, folder).warnings]


@pytest.mark.parametrize(
    ("mode", "what"),
    [(0o644, "read"), (0o604, "read"), (0o602, "write"), (0o666, "read and write")],
)
def test_a_file_that_every_user_can_use_is_warned_of(tmp_path: Path, mode: int, what: str) -> None:
    path = tmp_path / "its token"
    assert warnings_of(tmp_path, mode) == [
        f"PEN-1118 every user of this machine can {what} the token file {path}, whose mode is "
        f"{mode:04o} (setting: admin_token_file): chmod 600 '{path}'"
    ]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o660])
def test_a_file_of_the_owner_or_a_group_is_not_warned_of(tmp_path: Path, mode: int) -> None:
    assert warnings_of(tmp_path, mode) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_of_another_user_is_to_be_given_to_the_servers_user_first(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    os.chown(path, 1234, -1)
    (warning,) = read_token(path)[1]
    assert warning.render().endswith(f": chown 0 {path} && chmod 600 {path}")


@pytest.mark.parametrize("name", ["admin_token_file", "admin_hosts"])
def test_they_need_an_admin_address(tmp_path: Path, name: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(SettingsError, match=rf"{name} .* needs admin"):
        load_settings({name: "token" if name.endswith("file") else ["a.test"]}, {}, tmp_path)


@pytest.mark.parametrize("host", ["https://a.test", "a.test:80", "a test", "*"])
def test_a_name_of_a_host_is_a_name_alone(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="admin_hosts"):
        load_settings({"admin": "127.0.0.1:8001", "admin_hosts": [host]}, {}, tmp_path)
