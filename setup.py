"""Build the native transport, `penstock._native`, with cargo; pyproject.toml says all the rest.

The variable ``PENSTOCK_NATIVE`` decides. Unset or empty: it is built where cargo is installed.
Without cargo, or where it fails, one line says why, and what comes out is the pure-Python server.
``require``: that is an error instead. ``skip``: the native transport is left out.
``PENSTOCK_NATIVE_TLS=skip`` builds it without TLS, and so without a C compiler.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import OptionError, PlatformError

CRATES = Path(__file__).resolve().parent / "native"
TARGETS = CRATES / "target"
PRODUCT = "lib_native.dylib" if sys.platform == "darwin" else "lib_native.so"
WHERE_CARGO_COMES_FROM = "see https://rustup.rs, or your system's packages"


class BuildNative(build_ext):
    """``build_ext`` whose one extension is cargo's; without it, the distribution is pure Python."""

    def run(self) -> None:
        """Build as `PENSTOCK_NATIVE` asks; raises `PlatformError` where it must not fail."""
        wish = os.environ.get("PENSTOCK_NATIVE", "")
        if wish not in ("", "require", "skip"):
            raise OptionError(f"PENSTOCK_NATIVE={wish}: allowed are require and skip")
        reason = None if wish == "skip" else build()
        if reason is not None and wish == "require":
            raise PlatformError(f"the native transport cannot be built: {reason}")
        if reason is not None:
            tell(f"penstock: pure Python, without the native transport: {reason}")
        if reason is not None or wish == "skip":
            # What an earlier build has left. A module in the checkout is scripts/build-native's,
            # which knows whether it is current.
            if not (wish == "skip" and self.editable_mode):
                for extension in self.distribution.ext_modules:
                    Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = self.distribution.ext_modules = []
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Put the module that cargo has made where ``ext`` belongs."""
        place = self.get_ext_fullpath(ext.name)
        self.mkpath(os.path.dirname(place))
        shutil.copy(target_directory() / "release" / PRODUCT, place)


class WheelOfWhatIsThere(bdist_wheel):
    """``bdist_wheel`` that has the tag of any platform where there is no native module."""

    def finalize_options(self) -> None:
        """Build the module first, since the tag is decided here.

        Not for other commands that ask this one about names: they build nothing, or elsewhere.
        """
        if "bdist_wheel" in self.distribution.commands:
            self.run_command("build_ext")
        super().finalize_options()


def build() -> str | None:
    """Build the module with cargo; return None, or why there is none."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return f"cargo, Rust's build tool, is not on PATH ({WHERE_CARGO_COMES_FROM})"
    command = [cargo, "build", "--locked", "--release", "--package", "penstock-binding"]
    if os.environ.get("PENSTOCK_NATIVE_TLS") == "skip":
        command.append("--no-default-features")
    environ = os.environ | {
        # Past the links of a virtual environment, so that its name is no reason to build again.
        "PYO3_PYTHON": os.path.realpath(sys.executable),
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "CARGO_TARGET_DIR": str(target_directory()),
    }
    error = ""
    try:
        with subprocess.Popen(
            command, cwd=CRATES, env=environ, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as running:
            assert running.stderr is not None
            for line in running.stderr:
                sys.stderr.write(line)
                if not error and line.startswith("error"):
                    error = line.strip()
    except OSError as failure:
        return f"{cargo} cannot be run: {failure.strerror}"
    return None if running.returncode == 0 else f"cargo failed: {error or running.returncode}"


def target_directory() -> Path:
    """Return where cargo builds: a directory for each ABI, so that no build undoes another."""
    return TARGETS / str(sysconfig.get_config_var("SOABI"))


def tell(line: str) -> None:
    """Print ``line`` where the user sees it, although installers hide what a build prints.

    So it goes to the standard error of the process that called, where that is a terminal or a pipe
    (in a file, two writers would write over each other). Without /proc, `pip install -v` shows it.
    """
    with suppress(OSError):
        place = f"/proc/{os.getppid()}/fd/2"
        mode = os.stat(place).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            with open(place, "w", encoding="utf-8") as callers:
                callers.write(f"\n{line}\n" if callers.isatty() else f"{line}\n")
            return
    print(line, file=sys.stderr)


setup(
    ext_modules=[Extension("penstock._native", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": WheelOfWhatIsThere},
)
