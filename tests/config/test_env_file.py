"""The file of --env-file: its format, its errors, and what the application gets of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from penstock.config.env_file import MOST_BYTES, read_env_file
from penstock.errors import SettingsError
from support.lifecycle import Supervised
from support.server_process import run_penstock

EVERYTHING = r"""
# a comment
A=1
  export B = two words   # a comment
C=#nothing
D=a#b
E=
F='single: $X \n "double" # kept'
G="double: \n\t\"q\" \\ \$X \x 'single'"  # a comment
H="two
lines"
_i9=${A}
J='' """


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.env"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_format(path: Path, line_end: str, mark: str) -> None:
    path.write_bytes((mark + EVERYTHING.replace("\n", line_end)).encode())
    assert read_env_file(path) == {
        "A": "1",
        "B": "two words",
        "C": "",
        "D": "a#b",
        "E": "",
        "F": r'single: $X \n "double" # kept',
        "G": "double: \n\t\"q\" \\ $X \\x 'single'",
        "H": "two\nlines",
        "_i9": "${A}",
        "J": "",
    }


def test_an_empty_file_has_no_variables(path: Path) -> None:
    path.write_text("\n\n# nothing\n   \n")
    assert read_env_file(path) == {}


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"A=1\nB-C=s3cret\n", 2, "no = follows B"),
        (b"A\n", 1, "no = follows A"),
        (b"\n\n1A=s3cret", 3, "a name has letters, digits and _"),
        (b"A=1\nexport A=s3cret", 2, "A is there already, in line 1"),
        (b"A=1\nB='s3cret\n\n", 2, "the quote ' is not closed"),
        (b'A="s3cret\\"', 1, 'the quote " is not closed'),
        (b'A="s3\ncret" x', 2, "something follows the closing quote"),
        (b"A=1\nB=s3\0cret", 2, "a value cannot have a NUL"),
        (b"A=1\nB=s3\xffcret", 2, "it is not UTF-8"),
        (b"PENSTOCK_WORKERS=3", 1, "in the environment, or in penstock.toml"),
    ],
)
def test_an_error_names_file_and_line_and_no_value(
    path: Path, content: bytes, line: int, said: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_env_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:{line}: ")
    assert text.endswith(f"{said} (setting: env_file)")
    assert "s3" not in text


def test_a_file_that_cannot_be_read_or_is_too_long(path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory"):
        read_env_file(path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(SettingsError, match="is longer than 1 MiB"):
        read_env_file(path)


def test_the_application_has_the_variables_and_a_reload_reads_them_again(
    tmp_path: Path, transport: str
) -> None:
    (tmp_path / "shop.py").write_text(
        "import os\n"
        "found = ' '.join(os.environ.get(name, '-') for name in ('ONE', 'TWO', 'THREE'))\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [found.encode()]\n"
    )
    (tmp_path / "penstock.toml").write_text('env_file = "app.env"\n')
    (tmp_path / "app.env").write_text("ONE=file\nTWO=file\nTHREE=file\n")
    environ = {"TWO": "environment", "THREE": "environment"}
    arguments = ("--env", "THREE=flag", "--transport", transport)
    with Supervised(tmp_path, *arguments, environ=environ) as server:
        assert server.ask().body == b"file environment flag"
        read = f"settings read from {tmp_path}/penstock.toml, {tmp_path}/app.env"
        assert read in "\n".join(server.lines_so_far())
        (tmp_path / "app.env").write_text("ONE=changed\n")
        old = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)  # until then the old worker serves, too
        assert server.ask().body == b"changed environment flag"
        (tmp_path / "app.env").write_text("ONE\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line(r"not reloaded, .*app\.env:1: no = follows ONE")
        assert server.ask().body == b"changed environment flag"
        assert server.stop() == 0


def test_check_names_the_files_and_shows_no_value(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response): return []\n")
    done = run_penstock("shop:app", "--check", cwd=tmp_path)
    assert "  (read from no file)" in done.stdout
    (tmp_path / "app.env").write_text("KEY=s3cret\n")
    done = run_penstock("shop:app", "--check", "--env-file", "app.env", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"  (read from {tmp_path}/app.env)" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_refuses_a_file_that_the_user_of_the_workers_can_change(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response): return []\n")
    (tmp_path / "app.env").write_text("KEY=value\n")
    os.chown(tmp_path / "app.env", 65534, 65534)
    arguments = ("shop:app", "--check", "--env-file", "app.env")
    assert run_penstock(*arguments, cwd=tmp_path).returncode == 0
    done = run_penstock(*arguments, "--user", "65534", cwd=tmp_path)
    assert done.returncode != 0
    assert f"the settings file {tmp_path}/app.env is refused" in done.stderr
