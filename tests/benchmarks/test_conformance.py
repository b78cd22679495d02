"""What makes a server stand aside, and the turns that it gets then."""

from __future__ import annotations

import pytest

from harness import conformance
from harness.conformance import Need
from harness.scenarios import SCENARIOS
from harness.servers import PEERS
from run import ROUNDS_ASIDE, Plan


@pytest.mark.parametrize(
    ("statuses", "is_closed", "accepted"),
    [
        ([400], True, False),
        ([], True, False),
        ([], False, False),
        ([400, 200], False, True),
        ([200], True, False),
        ([200], False, True),
        ([200, 200], True, True),
    ],
)
def test_what_is_answered_behind_a_forbidden_request_was_smuggled(
    statuses: list[int], is_closed: bool, accepted: bool
) -> None:
    assert conformance.accepts(statuses, is_closed) is accepted


def test_a_server_fails_in_what_is_needed_alone() -> None:
    breaches = {"CLOSE": "never calls close()", "PIPELINING": "stops"}
    assert conformance.failed(breaches, {Need.CLOSE, Need.REFUSAL}) == ["never calls close()"]
    assert conformance.failed(breaches, {Need.RESPONSE}) == []
    assert conformance.failed({}, set(Need)) == []


def test_each_need_is_checked() -> None:
    assert {*conformance._CHECKS, Need.REFUSAL} == set(Need)


def test_a_server_that_stands_aside_has_fewer_turns_unless_a_target_is_about_it() -> None:
    breaches = {name: {"REFUSAL": "accepts two lengths"} for name in ("freastal", "waitress")}
    found = {}
    for scenario in SCENARIOS:
        plan = Plan((scenario,), (), rounds=5, seconds=1, retries=0, breaches=breaches)
        turns = [candidate.peer for _, candidate in plan.turns(scenario)]
        found[scenario.name] = (turns.count("freastal"), turns.count("bjoern"))
    assert found["hello"] == (5, 5)
    assert found["10-kib"] == (ROUNDS_ASIDE, 5)


def test_the_report_begins_with_real_sites() -> None:
    assert [scenario.name for scenario in SCENARIOS[:4]] == [
        "flask-page",
        "django-page",
        "flask",
        "django",
    ]


def test_each_setup_can_be_had_of_each_candidate() -> None:
    for scenario in SCENARIOS:
        for candidate in scenario.candidates:
            peer, setup = PEERS[candidate.peer], scenario.setup
            reference = candidate.peer in ("nginx", "floor")
            assert reference or not setup.tls or peer.tls
            assert reference or not setup.files or peer.files
            assert not setup.access_log or peer.access_log
            assert setup.workers == 1 or peer.workers
