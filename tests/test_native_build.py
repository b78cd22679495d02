"""Whether an installation gets the native transport, and what it says where it does not.

Cargo is a script here, so that it does at once, and under control, what cargo may do; `.ci/run`
builds with the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from penstock import __version__
from support.server_process import ROOT

BUILD_WITHIN = 120
"""Seconds for one build, on a busy machine."""

PARTS = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]
FOLDERS = ["src", "native", "requirements", "scripts"]
NOT_COPIED = shutil.ignore_patterns("target", "corpus", "artifacts", "_native*.so", "__pycache__")

MODULE = f"penstock/_native.{sysconfig.get_config_var('SOABI')}.so"
PURE_WHEEL = f"penstock-{__version__}-py3-none-any.whl"

CALLED = 'PATH=/usr/bin:/bin; echo "$@" >>"${0%/*}/calls"\n'
WORKS = (
    f'{CALLED}mkdir -p "$CARGO_TARGET_DIR/release"; touch "$CARGO_TARGET_DIR/release/lib_native.so"'
)
FAILS = (
    f'{CALLED}echo "   Compiling a" >&2; echo "error: no room" >&2; echo "error: b" >&2; exit 101'
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks for modules as Linux has them"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source distribution of the checkout, as a file."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        shutil.copy(ROOT / name, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=NOT_COPIED)
    shutil.copytree(ROOT / "docs" / "man", copy / "docs" / "man")
    (copy / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "requirements.in", copy / "examples")
    # What a build leaves behind is not for others.
    (copy / "native" / "target" / "release").mkdir(parents=True)
    (copy / "native" / "target" / "release" / "lib_native.so").touch()
    (copy / "src" / MODULE).touch()
    done = run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "."], copy, "")
    assert done.returncode == 0, done.stdout
    [made] = copy.glob("*.tar.gz")
    return made


@pytest.fixture
def unpacked(source: Path, tmp_path: Path) -> Path:
    """Return a folder of the test's own with what the source distribution has."""
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / f"penstock-{__version__}"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return the only folder on PATH; `put_cargo` puts a cargo into it."""
    place = tmp_path / "tools"
    place.mkdir()
    return place


def put_cargo(tools: Path, script: str) -> None:
    (tools / "cargo").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "cargo").chmod(0o755)


def run(
    command: list[str], cwd: Path, path: Path | str, wish: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PATH": str(path), "PENSTOCK_NATIVE": wish, "PIP_NO_INDEX": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_WITHIN,
        check=False,
    )


def make_wheel(unpacked: Path, tools: Path, wish: str = "") -> tuple[list[str], list[str]]:
    """Return the names of the wheels that are made, and what is said in the name of Penstock."""
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", "wheels"]
    # The shell stands for the installer: where that one speaks, the user is told.
    done = run(["/bin/sh", "-c", '"$0" "$@"; exit $?', *command], unpacked, tools, wish)
    return result_of(done, unpacked)


def result_of(
    done: subprocess.CompletedProcess[str], unpacked: Path
) -> tuple[list[str], list[str]]:
    wheels = [path.name for path in unpacked.glob("wheels/*.whl")]
    assert (done.returncode == 0) == bool(wheels), done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    return wheels, [line for line in lines if line.startswith(("penstock: ", "error: "))]


def test_a_source_distribution_has_what_the_build_needs_and_nothing_built(source: Path) -> None:
    with tarfile.open(source) as archive:
        members = [Path(*Path(name).parts[1:]) for name in archive.getnames()]
    wanted = [
        path.relative_to(ROOT)
        for pattern in ("Cargo.*", ".cargo/*", "*/Cargo.toml", "*/src/**/*.rs", "*/tests/**/*.*")
        for path in (ROOT / "native").glob(pattern)
    ]
    assert len(wanted) > 20
    assert set(wanted) <= set(members)
    assert not [path for path in members if "target" in path.parts or path.suffix == ".so"]


@pytest.mark.parametrize("wish", [pytest.param("", marks=pytest.mark.costly), "require"])
def test_with_cargo_the_wheel_has_the_module_and_is_of_this_platform(
    unpacked: Path, tools: Path, wish: str
) -> None:
    put_cargo(tools, WORKS)
    [wheel], said = make_wheel(unpacked, tools, wish)
    abi = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheel.startswith(f"penstock-{__version__}-{abi}-{abi}")
    assert not wheel.endswith("-any.whl")
    with ZipFile(unpacked / "wheels" / wheel) as archive:
        assert {MODULE, "penstock/_native.pyi", "penstock/py.typed"} <= set(archive.namelist())
    assert said == []
    assert "--locked" in (tools / "calls").read_text()


@pytest.mark.parametrize(
    ("cargo", "reason"),
    [
        (None, "cargo, Rust's build tool, is not on PATH"),
        (FAILS, "cargo failed: error: no room"),
        (f"{CALLED}exit 3", "cargo failed: 3"),
    ],
    ids=["no cargo", "cargo fails", "cargo fails silently"],
)
def test_without_a_module_the_wheel_is_for_every_platform_and_one_line_says_why(
    unpacked: Path, tools: Path, cargo: str | None, reason: str
) -> None:
    if cargo is not None:
        put_cargo(tools, cargo)
    wheels, said = make_wheel(unpacked, tools)
    assert wheels == [PURE_WHEEL]
    with ZipFile(unpacked / "wheels" / PURE_WHEEL) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    [line] = [line for line in said if line.startswith("penstock: ")]  # cargo speaks, too
    assert line.startswith(f"penstock: pure Python, without the native transport: {reason}")


@pytest.mark.parametrize(
    ("cargo", "reason"),
    [(None, "cargo, Rust's build tool, is not on PATH"), (FAILS, "cargo failed: error: no room")],
    ids=["no cargo", "cargo fails"],
)
def test_a_native_transport_that_is_required_and_cannot_be_built_is_an_error(
    unpacked: Path, tools: Path, cargo: str | None, reason: str
) -> None:
    if cargo is not None:
        put_cargo(tools, cargo)
    wheels, said = make_wheel(unpacked, tools, "require")
    assert wheels == []
    assert any(
        line.startswith(f"error: the native transport cannot be built: {reason}") for line in said
    )


def test_a_native_transport_that_is_to_be_skipped_is_not_even_tried(
    unpacked: Path, tools: Path
) -> None:
    put_cargo(tools, WORKS)
    assert make_wheel(unpacked, tools, "skip") == ([PURE_WHEEL], [])
    assert not (tools / "calls").exists()


@pytest.mark.costly
def test_pip_shows_the_line_although_it_hides_what_a_build_prints(
    unpacked: Path, tools: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    options = ["--no-build-isolation", "--wheel-dir", "wheels"]
    wheels, said = result_of(run([*pip, *options, "."], unpacked, tools), unpacked)
    assert wheels == [PURE_WHEEL]
    [line] = said
    assert "cargo, Rust's build tool, is not on PATH" in line


@pytest.mark.costly
def test_a_module_of_an_earlier_build_gets_into_no_pure_wheel(unpacked: Path, tools: Path) -> None:
    put_cargo(tools, WORKS)
    make_wheel(unpacked, tools)
    shutil.rmtree(unpacked / "wheels")
    assert make_wheel(unpacked, tools, "skip") == ([PURE_WHEEL], [])
    with ZipFile(unpacked / "wheels" / PURE_WHEEL) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_a_wish_that_does_not_exist_is_an_error(unpacked: Path, tools: Path) -> None:
    wheels, said = make_wheel(unpacked, tools, "required")
    assert wheels == []
    assert "error: PENSTOCK_NATIVE=required: allowed are require and skip" in said


# In the checkout


def test_an_editable_installation_that_skips_it_leaves_the_module_of_the_checkout(
    unpacked: Path, tools: Path
) -> None:
    """So does `make lint`: scripts/sync-venv installs, and scripts/build-native builds."""
    (unpacked / "wheels").mkdir()
    (unpacked / "src" / MODULE).write_text("built")
    build = "from setuptools import build_meta; build_meta.build_editable('wheels')"
    done = run([sys.executable, "-c", build], unpacked, tools, "skip")
    assert done.returncode == 0, done.stdout
    assert (unpacked / "src" / MODULE).read_text() == "built"


def build_in_place(unpacked: Path, tools: Path, wish: str = "") -> tuple[int, bool]:
    """Return how often cargo has been called by now, and whether there is a module."""
    shutil.copytree(ROOT / "scripts", unpacked / "scripts", dirs_exist_ok=True)
    path = f"{tools}:/usr/bin:/bin"
    done = run(["scripts/build-native", sys.prefix], unpacked, path, wish)
    assert done.returncode == 0, done.stdout
    calls = tools / "calls"
    count = len(calls.read_text().splitlines()) if calls.exists() else 0
    return count, (unpacked / "src" / MODULE).exists()


@pytest.mark.costly
def test_the_checkout_is_built_once_and_again_only_when_something_changed(
    unpacked: Path, tools: Path
) -> None:
    put_cargo(tools, WORKS)
    assert build_in_place(unpacked, tools) == (1, True)
    assert build_in_place(unpacked, tools) == (1, True)
    with open(unpacked / "native/protocol/src/lib.rs", "a") as code:
        code.write("// changed\n")
    assert build_in_place(unpacked, tools) == (2, True)
    (unpacked / "src" / MODULE).write_text("of another environment")
    assert build_in_place(unpacked, tools) == (3, True)


def test_no_module_that_is_out_of_date_is_left_to_be_tested(unpacked: Path, tools: Path) -> None:
    put_cargo(tools, WORKS)
    assert build_in_place(unpacked, tools) == (1, True)
    assert build_in_place(unpacked, tools, "skip") == (1, False)
    assert build_in_place(unpacked, tools) == (2, True)
    (unpacked / "native/binding/src/new.rs").touch()
    put_cargo(tools, FAILS)
    assert build_in_place(unpacked, tools) == (3, False)
