"""With ``--user`` a worker imports what it needs while it is root: Python may be root's alone.

What the application imports is another matter: where the user cannot read that, the error says so.
"""

from __future__ import annotations

import sys

import pytest

from support.lifecycle import Supervised
from support.server_process import checkout_environ
from support.service_user import NOBODY, as_root, ended_command, public_folder, public_python
from support.wire import Client

# The module itself is imported once the worker has become the user.
SHOP = """
import sys
BEFORE = set(sys.modules)

def app(environ, start_response):
    fields = [("Content-Type", "text/plain")]
    if environ["PATH_INFO"] == "/sent":
        fields.append(("X-Sendfile", environ["QUERY_STRING"]))
    start_response("200 OK", fields)
    return [" ".join(sorted(set(sys.modules) - BEFORE)).encode()]
"""


@as_root
@pytest.mark.parametrize("more", [(), ("--preload",), ("--reload",)])
def test_files_and_compression_are_imported_while_the_worker_is_root(
    transport: str, more: tuple[str, ...]
) -> None:
    with public_folder() as folder:
        (folder / "shop.py").write_text(SHOP)
        (folder / "files").mkdir()
        file = folder / "files" / "a.xyz"
        file.write_text("file")
        given = ["--static", f"/files={file.parent}", "--sendfile-root", str(file.parent)]
        with Supervised(
            folder, "--user", "nobody", "--transport", transport, "--compress", *given, *more,
            python=(public_python(),),
        ) as server, Client(server.address) as client:  # fmt: skip
            for target in ("/files/a.xyz", f"/sent?{file}"):
                assert client.request("GET", target).body == b"file"
            late = client.request("GET", "/").body.decode().split()
            assert not [name for name in late if is_ours_or_pythons(name)]


@as_root
@pytest.mark.parametrize("missing", ["store", "library"])
def test_a_directory_of_modules_that_the_user_cannot_read_is_named(missing: str) -> None:
    with public_folder() as folder:
        closed = folder / "closed"
        there = closed / "there"
        there.mkdir(parents=True)
        (there / "library.py").write_text("")
        here = there if missing == "store" else folder
        (here / "store.py").write_text("import library\ndef app(environ, start_response): ...\n")
        closed.chmod(0o700)
        places = ("--chdir", str(here), "--pythonpath", str(there))
        done = ended_command(folder, "--check", "--user", "nobody", "store:app", *places)
        said = done.stderr.splitlines()[-1]
        assert missing in said
        assert said.endswith(
            f"; Python takes {there} for empty, since user {NOBODY.pw_uid} cannot read {closed}: "
            "let that user read it (chmod, chown), or keep the modules elsewhere"
        ), said


@as_root
@pytest.mark.parametrize(("module", "wanted"), [("store", "library"), ("none", "none")])
def test_a_check_imports_nothing_of_its_own_as_the_user(module: str, wanted: str) -> None:
    """Where that user cannot read Python's own files, the error named a module of them."""
    with public_folder() as folder:
        (folder / "store.py").write_text("import library\n")
        (folder / "sitecustomize.py").write_text(
            "import os, sys\n"
            "def note(event, arguments):\n"
            "    if event == 'import' and os.geteuid():\n"
            "        sys.stderr.write(f'late {arguments[0]}\\n')\n"
            "sys.addaudithook(note)\n"
        )
        path = f"{folder}:{checkout_environ()['PYTHONPATH']}"
        done = ended_command(
            folder, "--check", "--user", "nobody", f"{module}:app", environ={"PYTHONPATH": path}
        )
        said = done.stderr.splitlines()
        late = [line.removeprefix("late ") for line in said if line.startswith("late ")]
        assert ("library" in late) is (module == "store")
        assert not [name for name in late if is_ours_or_pythons(name)]
        assert said[-1].startswith("penstock: error: ")
        assert f"'{wanted}'" in said[-1]


def is_ours_or_pythons(name: str) -> bool:
    first = name.partition(".")[0]
    return first == "penstock" or first in sys.stdlib_module_names
