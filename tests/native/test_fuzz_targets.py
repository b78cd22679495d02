"""The fuzz targets are a crate of their own, which is built with nightly Rust only."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "native"


def test_what_the_fuzz_targets_share_with_the_tests_needs_no_crate_that_only_tests_have() -> None:
    manifest = tomllib.loads((NATIVE / "protocol" / "Cargo.toml").read_text("utf-8"))
    shared = (NATIVE / "protocol" / "tests" / "support" / "mod.rs").read_text("utf-8")
    crates = manifest["dev-dependencies"]
    assert "serde" in crates
    assert not [crate for crate in crates if re.search(rf"\b{crate}::", shared)]
