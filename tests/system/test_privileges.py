"""Users, groups and titles: wrong names are refused before a fork; a change cannot be undone."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.config.identity import identity_of, title_of
from penstock.config.settings import Settings
from penstock.errors import SettingsError
from support.server_process import checkout_environ

NOBODY = pwd.getpwnam("nobody")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def asked(**given: str) -> Settings:
    sources = {name: f"--{name}" for name in given}
    return replace(Settings(), **given, sources=sources)  # type: ignore[arg-type]


def run(code: str, environ: dict[str, str] | None = None) -> str:
    """Run code in a process of its own, which may become any user."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=checkout_environ() | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BECOME = """
import json, os
from dataclasses import replace
from penstock.config.settings import Settings
from penstock.config.identity import identity_of
from penstock.system.privileges import become
home = os.environ.get("HOME")
become(identity_of(replace(Settings(), user={user!r}, group={group!r})))
try:
    os.setuid(0)
    back = True
except PermissionError:
    back = False
print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), back,
                  home == os.environ.get("HOME")]))
"""


def test_without_user_and_group_nothing_changes() -> None:
    assert identity_of(Settings()) is None


@as_root
def test_a_user_comes_with_that_users_groups_and_there_is_no_way_back() -> None:
    done = run(BECOME.format(user="nobody", group=None))
    uids, gids, groups, back, home_is_kept = json.loads(done)
    assert uids == [NOBODY.pw_uid] * 3
    assert gids == [NOBODY.pw_gid] * 3
    assert set(groups) == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert not back
    assert home_is_kept


@as_root
def test_a_group_takes_the_place_of_the_users_own() -> None:
    _, gids, groups, *_ = json.loads(run(BECOME.format(user="nobody", group="daemon")))
    daemon = grp.getgrnam("daemon").gr_gid
    assert gids == [daemon] * 3
    assert daemon in groups


@as_root
def test_a_group_alone_replaces_all_groups_and_keeps_the_user() -> None:
    uids, gids, groups, *_ = json.loads(run(BECOME.format(user=None, group="4242")))
    assert uids == [0] * 3
    assert (gids, groups) == ([4242] * 3, [4242])


@as_root
def test_a_number_that_nobody_has_needs_a_group_and_has_no_other() -> None:
    with pytest.raises(SettingsError, match=r"'43210' for user \(from --user\).*set group"):
        identity_of(asked(user="43210"))
    uids, gids, groups, *_ = json.loads(run(BECOME.format(user="43210", group="43211")))
    assert (uids, gids, groups) == ([43210] * 3, [43211] * 3, [43211])


def test_a_number_means_the_user_who_has_it() -> None:
    if os.geteuid() == 0:
        identity = identity_of(asked(user=str(NOBODY.pw_uid)))
        assert identity is not None
        assert (identity.uid, identity.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"user": "no-such-user"}, "'no-such-user' for user (from --user): there is no such user"),
        ({"user": "4294967295"}, "there is no such user"),
        ({"group": "no-such-group"}, "for group (from --group): there is no such group"),
        ({"user": "nobody", "group": "99999999999"}, "there is no such group"),
    ],
)
def test_names_that_there_are_not_are_refused_with_their_source(
    given: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError) as error:
        identity_of(asked(**given))
    assert said in str(error.value)


def test_somebody_without_rights_may_stay_and_not_change() -> None:
    code = """
import os
from dataclasses import replace
from penstock.errors import SettingsError
from penstock.config.settings import Settings
from penstock.config.identity import identity_of
from penstock.system.privileges import become
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(4243, 4243, 4243); os.setresuid(4242, 4242, 4242)
own = replace(Settings(), user=str(os.getuid()), group=str(os.getgid()))
become(identity_of(own))
for other in ({"user": "0", "group": str(os.getgid())}, {"user": str(os.getuid()), "group": "0"}):
    try:
        identity_of(replace(Settings(), **other))
    except SettingsError as error:
        print(error)
"""
    said = "(from default): only root may change to another {0}: start as root or as this {0}"
    lines = [f"bad value '0' for {name} {said.format(name)}" for name in ("user", "group")]
    assert run(code).splitlines() == lines


@as_root
def test_what_the_system_refuses_is_told_with_the_settings() -> None:
    # In a process of its own, which has given up capabilities by then.
    code = (
        "from penstock.errors import SettingsError\n"
        "from penstock.system.privileges import Identity, become\n"
        "try: become(Identity(uid=4242, gid=4242, groups=tuple(range(1, 70_000))))\n"
        "except SettingsError as error: print(error)\n"
    )
    assert "settings: user, group" in run(code)


# Titles


def test_the_title_has_the_name_or_else_the_application() -> None:
    assert title_of(Settings(), "shop:app") == "shop:app"
    assert title_of(asked(name="shop"), "module:app") == "shop"


def test_a_title_is_set_where_the_package_is_installed(tmp_path: Path) -> None:
    code = "from penstock.system.privileges import set_title; print(set_title('worker 2', 'shop'))"
    (tmp_path / "setproctitle.py").write_text("def setproctitle(title): print(title)\n")
    environ = {"PYTHONPATH": f"{tmp_path}:{checkout_environ()['PYTHONPATH']}"}
    assert run(code, environ) == "penstock: worker 2 [shop]\nTrue\n"


@pytest.mark.parametrize("module", ["raise ImportError", "raise RuntimeError", ""])
def test_without_a_package_that_works_titles_stay_as_they_are(tmp_path: Path, module: str) -> None:
    code = (
        "from penstock.system.privileges import set_title; print(set_title('supervisor', 'shop'))"
    )
    (tmp_path / "setproctitle.py").write_text(module)
    environ = {"PYTHONPATH": f"{tmp_path}:{checkout_environ()['PYTHONPATH']}"}
    assert run(code, environ) == "False\n"
