"""Servers of git and Mercurial, with the clients that everyone uses."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from programs.program import Program, Run, script

SIZE = 50 << 20
"""Bytes that no compression makes less."""

AUTHOR = {
    "GIT_AUTHOR_NAME": "Check", "GIT_AUTHOR_EMAIL": "check@localhost",
    "GIT_COMMITTER_NAME": "Check", "GIT_COMMITTER_EMAIL": "check@localhost",
    "GIT_CONFIG_NOSYSTEM": "1", "HGUSER": "check", "HGPLAIN": "1", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip


def write_large(path: Path) -> bytes:
    """Write, and return, the file that is pushed."""
    content = os.urandom(SIZE)
    path.write_bytes(content)
    return content


def git(run: Run, site: str, page: str) -> None:
    """Push 50 MB, clone them, push a little more, and fetch that; ask for a page in between."""
    bare = run.folder / "served"
    run.command("git", "init", "--quiet", "--bare", "-b", "main", bare)
    first, second = run.path("first"), run.folder / "second"

    def work(folder: Path, *arguments: str) -> str:
        return run.command("git", "-C", folder, *arguments, environ=AUTHOR)

    work(first, "init", "--quiet", "-b", "main")
    content = write_large(first / "large")
    work(first, "add", "large")
    work(first, "commit", "--quiet", "-m", "Add what is large")
    flags = ("--workers", "2", "--max-body", "200MiB")
    with run.serve(site, *flags, environ={"REPOSITORY": str(bare)}) as server:
        url = f"{server.url}/{bare.name if site == 'git_klaus' else ''}"
        work(first, "push", "--quiet", url, "main")
        run.command("git", "clone", "--quiet", url, second, environ=AUTHOR)
        assert (second / "large").read_bytes() == content
        (second / "small").write_text("small\n")
        work(second, "add", "small")
        work(second, "commit", "--quiet", "-m", "Add what is small")
        work(second, "push", "--quiet", url, "main")
        work(first, "pull", "--quiet", url, "main")
        assert (first / "small").read_text() == "small\n"
        if page:
            with urllib.request.urlopen(server.url + page, timeout=20) as response:
                assert b"Add what is small" in response.read()
    run.command("git", "-C", bare, "fsck", "--full", environ=AUTHOR)


def dulwich(run: Run) -> None:
    git(run, "git_dulwich", "")


def klaus(run: Run) -> None:
    git(run, "git_klaus", "/served/")


def mercurial(run: Run) -> None:
    """Push 50 MB to hgweb, and clone them."""
    hg = script("hg")
    served, first, second = run.folder / "served", run.folder / "first", run.folder / "second"
    run.command(hg, "init", served)
    run.command(hg, "init", first)
    (served / ".hg" / "hgrc").write_text("[web]\nallow-push = *\npush_ssl = false\n")
    content = write_large(first / "large")
    run.command(hg, "commit", "--addremove", "-m", "Add what is large", cwd=first, environ=AUTHOR)
    flags = ("--workers", "2", "--max-body", "200MiB")
    with run.serve("hgweb", *flags, environ={"REPOSITORY": str(served)}) as server:
        run.command(hg, "push", server.url, cwd=first)
        run.command(hg, "clone", server.url, second)
        run.command(hg, "clone", "--pull", server.url, run.folder / "third")
        with urllib.request.urlopen(f"{server.url}/log", timeout=20) as response:
            assert b"Add what is large" in response.read()
        with urllib.request.urlopen(f"{server.url}/raw-file/tip/large", timeout=60) as response:
            assert response.read() == content
    assert (second / "large").read_bytes() == content
    run.command(hg, "verify", cwd=served)


GIT = {"git": r"git version (\d\S*)"}
DOES = "`git push` of 50 MB, `git clone`, a small push and a pull"
PROGRAMS = [
    Program(
        "dulwich",
        "dulwich",
        dulwich,
        DOES,
        packages=("dulwich",),
        commands=GIT,
    ),
    Program(
        "klaus",
        "klaus",
        klaus,
        f"{DOES}; its page of commits",
        packages=("klaus",),
        commands=GIT,
    ),
    Program(
        "hgweb",
        "hgweb",
        mercurial,
        "`hg push` of 50 MB and `hg clone`, also with `--pull`; a raw file of 50 MB",
        packages=("mercurial",),
    ),
]
