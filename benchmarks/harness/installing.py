"""Brings the benchmarks' environment to what is measured: peers, tools, and Penstock itself.

Everything goes into a folder of .bench/ for each version of Python: packages of Python with pip,
those of Debian unpacked there without installing them. A peer that cannot be had is left out,
with a line that says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Sequence
from pathlib import Path

from harness import certificate, environment
from harness.environment import BIN, ROOT, VENV
from harness.servers import PEERS, Peer

PINS = ROOT / "requirements" / "bench.txt"
FRAMEWORKS = "examples/requirements.txt"
STAMPS = VENV / "stamps"
SITE_PACKAGES = Path(sysconfig.get_path("platlib", "venv", {"platbase": str(VENV)}))
SNAPSHOT = environment.SNAPSHOT
INSTALL_SECONDS = 600
"""Of one distribution, which may have to be compiled."""
IMPORT_SECONDS = 30
BUILD_SECONDS = 1200
"""Of the native transport, on a slow machine; it does nothing where that is current."""

DEBIAN = {
    "wrk": ("wrk", "libluajit-5.1-2", "libluajit-5.1-common"),
    "nginx": ("nginx",),
    "haproxy": ("haproxy", "libopentracing-c-wrapper0", "libopentracing1", "liblua5.3-0"),
}
"""Debian's packages by the program that they are needed for, with what may not be there."""
LIBEV = ("libev-dev", "libev4")
"""bjoern is compiled with it."""

FILE_BYTES = 100 << 20


TLS_LOAD = "tls_load"


def prepare(peers: list[str], *, tls: bool = False, programs: Sequence[str] = ()) -> dict[str, str]:
    """Install everything; return, by the peer's name, why one cannot be measured.

    With ``tls`` that is also what makes load over TLS, by the name of `TLS_LOAD`, and the same for
    ``programs`` of Debian's. Raises
    `EnvironmentProblem` where nothing can be measured at all.
    """
    environment.check_platform()
    environment.raise_descriptor_limit()
    command = ["scripts/sync-venv", str(VENV), "bench", FRAMEWORKS]
    variables = {**os.environ, "PYTHON": sys.executable}
    if subprocess.run(command, check=False, cwd=ROOT, env=variables).returncode:
        raise environment.EnvironmentProblem(
            f"The environment {VENV} could not be made; see above."
        )
    STAMPS.mkdir(exist_ok=True)
    if why := _debian("wrk"):
        raise environment.EnvironmentProblem(f"wrk makes the load: {why}")
    for name, of in (("bulk", "of large responses"), ("steady", "that is open")):
        if why := _compile(name):
            raise environment.EnvironmentProblem(f"{name} makes the load {of}: {why}")
    reasons = {peer: why for peer in peers if (why := _install(PEERS[peer]))}
    reasons |= {program: why for program in programs if (why := _debian(program))}
    print("Building the native transport, where it is not current", file=sys.stderr)
    if "penstock" in peers and (why := _build_native()):
        reasons["penstock"] = why
    if tls and (why := _certificate() or _build_tls_load()):
        reasons[TLS_LOAD] = why
    _take_snapshot()
    make_files()
    for peer, why in reasons.items():
        print(f"{peer} is not measured: {why}", file=sys.stderr)
    return reasons


def _install(peer: Peer) -> str:
    """Return why a peer cannot be installed; nothing where it is."""
    if peer.name == "nginx":
        return _debian("nginx")
    if peer.name == "floor":
        return _compile("floor")
    if peer.name == "floor-wsgi" and (why := compile_module(SITE_PACKAGES)):
        return why
    if peer.name == "bjoern" and (why := _libev()):
        return why
    if why := next((why for name in peer.distributions if (why := _pip(name))), ""):
        return why
    if peer.strips:
        _strip(peer.strips)
    return _import(peer.module) if peer.module else ""


def _strip(pattern: str) -> None:
    """Take debug information out of installed modules; the code stays as it is.

    Without strip, of binutils, their instructions cannot be counted, and all else goes on.
    """
    strip = shutil.which("strip")
    for module in SITE_PACKAGES.glob(pattern):
        if strip:
            _attempt([strip, "--strip-debug", str(module)], IMPORT_SECONDS)


def _import(module: str) -> str:
    """Return why a module that is installed cannot be imported; nothing where it can."""
    why = _attempt([str(BIN / "python"), "-c", f"import {module}"], IMPORT_SECONDS, _loading())
    version = ".".join(map(str, sys.version_info[:2]))
    return why and f"it is installed, but does not load with Python {version}: {why}"


def _loading() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, environment.library_folders()))}


def _pip(distribution: str) -> str:
    """Install a distribution, unless it is there as pinned; return why that fails."""
    if distribution == "penstock":
        return ""  # scripts/sync-venv has installed it
    stamp = STAMPS / distribution
    wanted = str(zlib.crc32(PINS.read_bytes()))
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    print(f"Installing {distribution}", file=sys.stderr)
    command = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(PINS)]
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    variables |= {"CFLAGS": f"-I{environment.DEBIAN}/usr/include", "LDFLAGS": _library_flags()}
    if why := _attempt([*command, distribution], INSTALL_SECONDS, variables):
        return f"pip could not install {distribution}: {why}"
    stamp.write_text(wanted)
    return ""


def _library_flags() -> str:
    return " ".join(f"-L{folder}" for folder in environment.library_folders())


def _debian(program: str) -> str:
    """Unpack Debian's packages for a program, unless it is there; return why that fails."""
    if environment.program(program):
        return ""
    if why := _unpack(DEBIAN[program]):
        return f"{program} is missing, and {why}"
    return "" if environment.program(program) else f"Debian's package has no {program}"


def _libev() -> str:
    include = sysconfig.get_paths()["include"]
    folders = [Path("/usr/include"), Path(include), environment.DEBIAN / "usr" / "include"]
    if any((folder / "ev.h").exists() for folder in folders):
        return ""
    why = _unpack(LIBEV)
    return f"ev.h (Debian's libev-dev) is missing, and {why}" if why else ""


def _unpack(packages: tuple[str, ...]) -> str:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return f"this is no Debian, where {packages[0]} would be fetched from"
    print(f"Unpacking {', '.join(packages)}", file=sys.stderr)
    folder = VENV / "packages"
    folder.mkdir(exist_ok=True)
    download = ["apt-get", "download", "-q", *packages]
    if _attempt(download, INSTALL_SECONDS, cwd=folder):
        # Images often come without lists of packages; only root may fetch them.
        _attempt(["apt-get", "update", "-q"], INSTALL_SECONDS, cwd=folder)
        if why := _attempt(download, INSTALL_SECONDS, cwd=folder):
            return f"apt-get could not download it: {why}"
    for package in folder.glob("*.deb"):
        if why := _attempt(["dpkg-deb", "-x", str(package), str(environment.DEBIAN)], 60):
            return f"{package.name} could not be unpacked: {why}"
    return ""


def _compile(name: str) -> str:
    """Compile a program of our own; return why that fails."""
    source = environment.BENCHMARKS / name / f"{name}.c"
    return _cc(str(source), "-o", str(BIN / name), "-lm")


def compile_module(folder: Path) -> str:
    """Compile the floor of WSGI into a folder, for this Python; return why that fails."""
    include = sysconfig.get_paths()["include"]
    if not Path(include, "Python.h").exists():
        return f"it is compiled with Python.h, which {include} has not"
    source = environment.BENCHMARKS / "floor" / "floor_wsgi.c"
    module = folder / f"floor_wsgi{sysconfig.get_config_var('EXT_SUFFIX')}"
    return _cc("-shared", "-fPIC", f"-I{include}", str(source), "-o", str(module))


def _cc(*arguments: str) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        return "it is compiled with cc (Debian's gcc), which is not installed"
    return _attempt([compiler, "-O2", *arguments], 60)


def _take_snapshot() -> None:
    """Copy Penstock as it is now: an edit during the run must not change what is measured."""
    shutil.rmtree(SNAPSHOT, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", SNAPSHOT, ignore=ignored)
    # A server that compiles itself at its start would keep some of the memory that this takes.
    subprocess.run([BIN / "python", "-m", "compileall", "-q", SNAPSHOT], check=True, timeout=120)


def _build_native() -> str:
    """Build the native transport into the checkout; return why there is none."""
    variables = {**os.environ, "PENSTOCK_NATIVE": "require"}
    why = _attempt(["scripts/build-native", str(VENV)], BUILD_SECONDS, variables)
    return why and f"the native transport could not be built: {why}"


def _build_tls_load() -> str:
    """Build what makes load over TLS; return why there is none."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return "it is built with cargo, which is not installed"
    command = [cargo, "build", "--quiet", "--locked", "--release"]
    command += ["--package", "penstock-reactor", "--example", TLS_LOAD]
    folder = ROOT / "native"
    if why := _attempt(command, BUILD_SECONDS, cwd=folder):
        return f"it could not be built: {why}"
    shutil.copy2(folder / "target" / "release" / "examples" / TLS_LOAD, BIN / TLS_LOAD)
    return ""


def _certificate() -> str:
    """Make the servers' certificate, unless it is there; return why that fails."""
    if environment.CERTIFICATE.exists() and environment.KEY.exists():
        return ""
    try:
        certificate.make(environment.CERTIFICATE, environment.KEY)
    except environment.EnvironmentProblem as problem:
        return str(problem)
    return ""


def make_files() -> None:
    """Make the files that are served, where they are not there."""
    path = environment.SERVED_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "10-kib.css").write_bytes(b"x" * (10 << 10))
    (path.parent / "1-mib.bin").write_bytes(b"x" * (1 << 20))
    if not path.exists() or path.stat().st_size != FILE_BYTES:
        with path.open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(b"x" * (1 << 20))


def _attempt(
    command: list[str],
    seconds: float,
    variables: dict[str, str] | None = None,
    cwd: Path = ROOT,
) -> str:
    """Run a command; return the last line that it said where it fails, else nothing."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=variables,
            cwd=cwd,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    errors = [line.strip() for line in lines if "error" in line.lower()]
    return (errors or lines or [f"status {done.returncode}"])[-1]
