"""With ``--user`` a worker imports what it needs while it is root: Python may be root's alone."""

from __future__ import annotations

import sys

import pytest

from support.lifecycle import Supervised
from support.service_user import as_root, public_folder, public_python
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


def is_ours_or_pythons(name: str) -> bool:
    first = name.partition(".")[0]
    return first == "penstock" or first in sys.stdlib_module_names
