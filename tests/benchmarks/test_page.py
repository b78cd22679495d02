from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from harness import page, plots, report, results
from harness.counting import BARE_LOOP, Count
from harness.footprint import Figure
from harness.load import Sample
from harness.scenarios import INDEX_PAGE, SCENARIOS, TLS_PAGE
from harness.servers import PEERS, Candidate

ABOUT = {
    "rounds": 1,
    "seconds": 1,
    "retries": 0,
    "quick": False,
    "peers": list(PEERS),
    "versions": ["Python 3.11"],
    "machine": "1 core",
    "date": "2026-01-01",
    "missing": {"weft": "it does not load"},
    "breaches": {"waitress": {"REFUSAL": "accepts two lengths"}, "uwsgi": {"PIPELINING": "stops"}},
}
HELLO = tuple(
    replace(scenario, candidates=(*scenario.candidates, Candidate("waitress", 1)))
    for scenario in SCENARIOS
    if scenario.name == "hello"
)


def sample(rate: float) -> Sample:
    return Sample(rate, 20.0, 1.0, 2.0, requests=1000, errors=0, disturbance=0.02)


def findings(tmp_path: Path) -> page.Findings:
    found = results.begin(tmp_path / "results", ABOUT)
    found.add(("hello", Candidate("penstock", 1), 1), sample(30000))
    found.add(("hello", Candidate("granian", 1), 1), sample(20000))
    found.add(("hello", Candidate("waitress", 1), 1), "it has ended")
    found.add_figures([Figure("penstock", "memory", 18.0, "MiB", 1, 21.0)])
    for server, case, instructions, calls in (
        ("penstock", "hello", 22_000.0, 2.08),
        ("penstock", "Flask", 350_000.0, 2.08),
        (BARE_LOOP, "Flask", 310_000.0, None),
        ("bjoern", "hello", 20_000.0, None),
    ):
        found.add_count(Count(server, case, instructions, calls))
    return page.Findings(found, HELLO)


def test_the_page_tells_of_all_that_was_found(tmp_path: Path) -> None:
    text = findings(tmp_path).text(with_pictures=True)
    assert "- weft: it does not load" in text
    assert "- uwsgi stops" in text
    assert "at least 1.15" in text
    assert "1.50" in text
    assert "- waitress, 1 thread: 1 run failed; `it has ended`" in text
    assert "](hello.svg)" in text
    assert "18.0 MiB" in text


def test_a_server_stands_aside_where_the_scenario_needs_what_it_does_not_keep(
    tmp_path: Path,
) -> None:
    text = findings(tmp_path).text(with_pictures=False)
    assert "| (waitress, 1 thread)" in text
    assert "- waitress is not compared with: it accepts two lengths" in text
    assert "(uwsgi" not in text


def test_counts_have_a_table_and_targets(tmp_path: Path) -> None:
    found = findings(tmp_path)
    text = found.text(with_pictures=False)
    assert "| bjoern                |" in text
    ours = [each for each in found.verdicts() if each.server == "penstock"]
    verdicts = {(each.scenario, each.what): each.value for each in ours}
    assert verdicts["Counts: hello", "instructions"] == 22_000.0
    assert verdicts["Counts: Flask", "instructions beyond the application's"] == 40_000.0
    assert verdicts["Counts: varied", "instructions"] is None


def test_the_page_can_do_without_pictures(tmp_path: Path) -> None:
    assert ".svg" not in findings(tmp_path).text(with_pictures=False)


def test_a_page_of_nothing_measured_can_be_made(tmp_path: Path) -> None:
    nothing = page.Findings(results.begin(tmp_path / "results", ABOUT), SCENARIOS)
    assert "0 of" in nothing.text(with_pictures=True)
    assert len(nothing.pictures()) == len(SCENARIOS) + 1


def test_each_picture_that_the_page_shows_is_made(tmp_path: Path) -> None:
    found = findings(tmp_path)
    pictures = found.pictures()
    text = found.text(with_pictures=True)
    assert all(f"]({name})" in text for name in pictures)
    assert text.count(".svg)") == len(pictures)


def test_a_page_is_complete_once_all_that_it_shows_was_asked_for(tmp_path: Path) -> None:
    found = results.begin(tmp_path / "results", ABOUT)
    over_tls = tuple(each for each in SCENARIOS if each.page == TLS_PAGE)
    assert page.Findings(found, (*HELLO, *over_tls)).complete_pages() == [TLS_PAGE]
    assert page.Findings(found, over_tls[1:]).complete_pages() == []
    assert INDEX_PAGE in page.Findings(found, SCENARIOS).complete_pages()
    found.about["quick"] = True
    assert page.Findings(found, SCENARIOS).complete_pages() == []


def test_the_first_page_has_the_targets_of_the_others_too(tmp_path: Path) -> None:
    over_tls = tuple(each for each in SCENARIOS if each.page == TLS_PAGE)
    found = results.begin(tmp_path / "results", ABOUT)
    shown = page.Findings(found, (*HELLO, *over_tls)).of_page(INDEX_PAGE)
    text = shown.text(with_pictures=False)
    assert "| Hello world over TLS" in text
    assert "### Hello world over TLS" not in text


def test_each_page_of_a_scenario_has_room_for_its_figures() -> None:
    for name in {scenario.page for scenario in SCENARIOS}:
        text = (page.FOLDER / name).read_text("utf-8")
        assert [text.count(marker) for marker in report.FIGURES] == [1, 1]


def test_a_picture_is_well_formed_and_has_a_bar_for_each_row() -> None:
    rows = [plots.Bar("<a & b>", 10.0, 8.0, 12.0, ours=True), plots.Bar("c", 0.0, 0.0, 0.0, False)]
    picture = ElementTree.fromstring(plots.bars("a < b", rows, mark=11.0))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(f"{name}text")]
    assert texts == ["a < b", "<a & b>", "10", "c", "0"]
    # The background is one too.
    assert len(list(picture.iter(f"{name}rect"))) == 3


def test_no_bar_leaves_the_picture() -> None:
    rows = [plots.Bar("a", 50.0, 40.0, 90.0, ours=True)]
    picture = ElementTree.fromstring(plots.bars("title", rows))
    lines = picture.iter("{http://www.w3.org/2000/svg}line")
    assert max(float(line.attrib["x2"]) for line in lines) <= plots.WIDTH - plots.NUMBERS
