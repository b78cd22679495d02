"""The recorded story: its parts are those of the page, and its figures those of the metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import story
from harness.environment import EnvironmentProblem
from penstock.cli.arguments import parse_command_line
from penstock.control import doctor


@pytest.mark.parametrize("long", [False, True])
def test_each_part_has_its_marks_in_the_page_and_a_picture(long: bool) -> None:
    page = story.PAGE.read_text()
    for part in story.parts(long):
        marks = re.findall(rf"<!-- {part.name}: (\w+) -->", page)
        assert marks == ["begin", "end"]
        assert f"](pictures/story-{part.name}.png)" in page
        assert (story.PICTURES / f"story-{part.name}.png").stat().st_size < 130_000


@pytest.mark.parametrize("part", story.parts(long=False), ids=lambda part: part.name)
def test_each_part_expects_a_finding_that_there_is_and_has_flags_that_there_are(
    part: story.Part,
) -> None:
    assert f'"{part.fault}"' in Path(doctor.__file__).read_text()
    for own in (part.faulty, part.fixed):
        parse_command_line([*part.arguments, *own])


def test_a_histogram_is_shown_with_its_mean_over_all_labels() -> None:
    samples = story._samples(
        'a_seconds_sum{status="2xx"} 3\na_seconds_count{status="2xx"} 2\n'
        'a_seconds_sum{status="4xx"} 1\na_seconds_count{status="4xx"} 2\nb{slot="0"} 7'
    )
    assert samples == {
        'b{slot="0"}': 7,
        "a_seconds_sum": 4,
        "a_seconds_count": 4,
        "a_seconds_sum / a_seconds_count": 1,
    }


def test_what_has_no_marks_in_the_page_is_not_written() -> None:
    part = story.Part("no-such-part", "", (), ())
    with pytest.raises(EnvironmentProblem, match="no marks"):
        story.write(part, [])
