"""The native parser's tests hold it against what the reference says, so that has to be current."""

from __future__ import annotations

from pathlib import Path

from support.corpus_export import export

EXPORT = Path(__file__).resolve().parents[2] / "native" / "protocol" / "tests" / "corpus.json"


def test_the_corpus_of_the_native_tests_is_current() -> None:
    assert EXPORT.read_text("ascii") == export(), "run scripts/export-corpus"
