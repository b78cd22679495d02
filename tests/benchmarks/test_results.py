from __future__ import annotations

from pathlib import Path

import pytest

from harness import results
from harness.counting import Count
from harness.footprint import Figure
from harness.load import Sample
from harness.servers import Candidate

OURS = Candidate("penstock", 1)
SAMPLE = Sample(100.0, 20.0, 1.0, 2.0, requests=1000, errors=0, disturbance=0.0, alone=110.0)
FIGURE = Figure("penstock", "memory", 18.0, "MiB", 1, 30.0)
COUNT = Count("penstock", "hello", 22_000.0, 2.1)


def test_what_was_found_is_read_again(tmp_path: Path) -> None:
    found = results.begin(tmp_path / "file", {"rounds": 3})
    found.add(("hello", OURS, 1), SAMPLE)
    found.add(("hello", OURS, 3), "has ended")
    found.add_figures([FIGURE])
    found.add_count(COUNT)
    again = results.read(tmp_path / "file")
    assert again == found
    assert again.of("hello", OURS, 3) == [SAMPLE, None, None]
    assert again.failures("hello", OURS) == ["has ended"]


def test_a_line_that_was_cut_off_is_lost_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    found = results.begin(path, {})
    found.add(("hello", OURS, 1), SAMPLE)
    found.add(("hello", OURS, 2), SAMPLE)
    path.write_text(path.read_text("utf-8")[:-20], "utf-8")
    again = results.read(path)
    assert list(again.outcomes) == [("hello", OURS, 1)]
    again.add(("hello", OURS, 2), SAMPLE)
    assert results.read(path).outcomes == found.outcomes


def test_a_new_run_begins_with_nothing(tmp_path: Path) -> None:
    results.begin(tmp_path / "file", {}).add(("hello", OURS, 1), SAMPLE)
    results.begin(tmp_path / "file", {})
    assert results.read(tmp_path / "file").outcomes == {}


def test_an_empty_file_holds_no_results(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError):
        results.read(tmp_path / "file")
