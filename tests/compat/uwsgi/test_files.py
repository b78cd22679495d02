"""Reading uWSGI's files: what uWSGI 2.0.31 prints with ``--show-config`` for the same files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.compat.uwsgi.files import read_options
from penstock.config.trust import Trust
from penstock.errors import SettingsError


def options(
    directory: Path, text: str, name: str = "app.ini", section: str = "", **environ: str
) -> list[tuple[str, str]]:
    (directory / name).write_text(text)
    location = f"{name}:{section}" if section else name
    contents = read_options(location, directory, environ, Trust(False))
    return [(it.name, it.value) for it in contents.options]


def test_an_ini_file_has_names_values_switches_and_comments(tmp_path: Path) -> None:
    text = "[other]\nthreads = 9\n[uwsgi]\n# one\n; two\n  master\nthreads=2\nenv = A = b ; c\n\n"
    assert options(tmp_path, text) == [("master", ""), ("threads", "2"), ("env", "A = b ; c")]


def test_a_byte_order_mark_and_the_line_ends_of_windows_are_taken(tmp_path: Path) -> None:
    assert options(tmp_path, "\ufeff[uwsgi]\r\nthreads = 2\r\n") == [("threads", "2")]


def test_a_section_is_named_behind_the_file(tmp_path: Path) -> None:
    text = "[uwsgi]\nthreads = 1\n[dev]\nthreads = 2\n"
    assert options(tmp_path, text, section="dev") == [("threads", "2")]
    with pytest.raises(SettingsError, match="has no section 'prod'"):
        options(tmp_path, text, section="prod")


def test_a_section_includes_others_of_the_same_file_and_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "more.ini").write_text("[uwsgi]\nlisten = 5\n")
    text = "[uwsgi]\nini = :base\nthreads = 2\ninclude = more.ini\n[base]\nchdir = /srv\n"
    assert options(tmp_path, text) == [("chdir", "/srv"), ("threads", "2"), ("listen", "5")]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does one include itself"):
        options(tmp_path, "[uwsgi]\nini = app.ini\n")


def test_letters_stand_for_parts_of_the_files_name(tmp_path: Path) -> None:
    directory = tmp_path / "site"
    directory.mkdir()
    text = "[uwsgi]\nenv = %d|%p|%s|%n|%e|%c|100%%|%z|%k\n"
    [(_, value)] = options(directory, text)
    cores = len(os.sched_getaffinity(0))
    here = os.path.realpath(directory)
    assert value == f"{here}/|{here}/app.ini|app.ini|app|ini|site|100%|%z|{cores}"


def test_names_in_parentheses_stand_for_options_and_are_reckoned_with(tmp_path: Path) -> None:
    text = (
        "[uwsgi]\ncores = 4\nprocesses = %(cores + 1)\nbase = /srv/%(site)\nsite = shop\n"
        "chdir = %(base)/app\nlisten = %(cores * 3)\nenv = %(cores - 9)|%(cores / 2)|%(cores ++)\n"
        "logformat = %(method) %(uri)\nset-placeholder = top=/x\npidfile = %(top)/p\n"
    )
    assert options(tmp_path, text) == [
        ("processes", "5"),
        ("chdir", "/srv/shop/app"),
        ("listen", "12"),
        ("env", "-5|2|5"),
        ("logformat", "%(method) %(uri)"),
        ("pidfile", "/x/p"),
    ]


def test_a_number_can_be_the_first_that_is_reckoned_with(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    text = "[uwsgi]\nprocesses = %(%k * 10)\nenv = %(3 * 2)|%(2)|%(rssM)\n"
    assert options(tmp_path, text) == [("processes", str(cores * 10)), ("env", "6|%(2)|%(rssM)")]


def test_names_that_stand_for_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="without an end"):
        options(tmp_path, "[uwsgi]\na = %(b)\nb = %(a)\nchdir = %(a)\n")


def test_variables_and_contents_of_files_are_taken_in(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    text = "[uwsgi]\nhttp = :$(PORT)\nenv = KEY=@(secret)\nenv = $(UNSET)\n"
    assert options(tmp_path, text, PORT="8000") == [
        ("http", ":8000"),
        ("env", "KEY=s3cret"),
        ("env", "$(UNSET)"),
    ]


@pytest.mark.parametrize("value", ["@(exec://id)", "@(http://127.0.0.1/x)"])
def test_no_program_is_run_and_nothing_is_fetched(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="takes the path of a file"):
        options(tmp_path, f"[uwsgi]\nenv = {value}\n")
    with pytest.raises(SettingsError, match="no program and no network"):
        options(tmp_path, "[uwsgi]\nini = exec://id\n")


def test_conditions_decide_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    text = """[uwsgi]
http = :1
if-env = STAGE
env = IS=%(_)
endif =
if-env = STAGE=live
env = LIVE=1
else =
env = LIVE=0
end =
if-not-env = NOTHING
env = NONE=1
endif =
if-exists = there
env = FILE=%(_)
end-if =
if-not-file = there
env = NO
endif =
if-opt = http
env = OPT=%(_)
endif =
if-opt = https
env = NO
endif =
threads = 2
"""
    assert options(tmp_path, text, STAGE="test")[1:] == [
        ("env", "IS=test"),
        ("env", "LIVE=0"),
        ("env", "NONE=1"),
        ("env", "FILE=there"),
        ("env", "OPT=:1"),
        ("threads", "2"),
    ]


def test_loops_repeat_options(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("x\ny\n")
    text = """[uwsgi]
for = a b
env = F=%(_)
endfor =
for-times = 2
env = T=%(_)
endfor =
for-glob = lin*
env = G=%(_)
endfor =
for-readline = lines
env = R=%(_)
endfor =
"""
    values = [value for _, value in options(tmp_path, text)]
    assert values == ["F=a", "F=b", "T=1", "T=2", "G=lines", "R=x", "R=y"]


def test_a_loop_without_a_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="for-times"):
        options(tmp_path, "[uwsgi]\nfor-times = 1000000000\nenv = x\nendfor =\n")


def test_yaml_json_and_xml_say_the_same(tmp_path: Path) -> None:
    wanted = [("master", "true"), ("http", ":8000"), ("env", "A=1"), ("env", "B=2")]
    yaml = "# for the site\nuwsgi:\n  master: true\n  http: ':8000'\n  env:\n    - A=1\n    - B=2\n"
    assert options(tmp_path, yaml, "app.yaml") == wanted
    json = '{"uwsgi": {"master": true, "http": ":8000", "env": ["A=1", "B=2"]}}'
    assert options(tmp_path, json, "app.json") == wanted
    xml = (
        "<uwsgi><!-- for the site --><master>true</master><http>:8000</http>"
        "<env>A=1</env><env>B=2</env></uwsgi>"
    )
    assert options(tmp_path, xml, "app.xml") == wanted


def test_an_xml_file_with_entities_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE uwsgi [<!ENTITY a "aaaa">]><uwsgi><env>&a;</env></uwsgi>'
    with pytest.raises(SettingsError, match="entities"):
        options(tmp_path, bomb, "app.xml")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("app.yaml", b"uwsgi:\n  nothing\n", "line 2: write NAME: VALUE"),
        ("app.json", b"{", "not valid JSON"),
        ("app.xml", b"<uwsgi>", "not valid XML"),
        ("app.ini", b"\xff", "not UTF-8"),
        ("app.ini", b"x" * (1 << 20) + b"x", "longer than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=reason):
        read_options(name, tmp_path, {}, Trust(False))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.ini: No such file"):
        read_options("none.ini", tmp_path, {}, Trust(False))


def test_variables_of_uwsgi_count_after_the_file(tmp_path: Path) -> None:
    text = "[uwsgi]\nprocesses = 2\n"
    found = options(tmp_path, text, UWSGI_PROCESSES="8", UWSGI_WHATEVER="1", OTHER="x")
    assert found == [("processes", "2"), ("processes", "8")]


@pytest.mark.parametrize("condition", ["ifexists", "ifdir", "if-directory", "if_dir"])
def test_other_names_of_conditions_are_understood(tmp_path: Path, condition: str) -> None:
    text = f"[uwsgi]\n{condition} = .\nprocesses = 2\nendif =\n{condition} = none\nthreads = 2\n"
    assert options(tmp_path, text) == [("processes", "2")]
