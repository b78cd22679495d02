"""The tests of the native parser compare it with results of the reference, exported to a file."""

from __future__ import annotations

from pathlib import Path

from support.corpus_export import export

EXPORT = Path(__file__).resolve().parents[2] / "native" / "protocol" / "tests" / "corpus.json"


def test_the_exported_corpus_is_current() -> None:
    assert EXPORT.read_text("ascii") == export(), "run scripts/export-corpus"
