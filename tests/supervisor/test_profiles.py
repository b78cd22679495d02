"""Profiles: one of a worker at a time, and an answer in any case."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from penstock.control.commands import ControlError, Outcome, Profile
from penstock.supervisor.profiles import ANSWER_SECONDS, Profiles
from penstock.supervisor.worker_process import Stage
from support.workers import Workers

ASKED = Profile(1, 5.0, 100, idle=False)
PROFILE = {
    "event": "profile",
    "error": "",
    "seconds": 5.0,
    "samples": 500,
    "late": 0,
    "cost": 0.01,
    "frames": ["GET /"],
    "stacks": [[500, [0]]],
}


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


Answers = list[Outcome | Mapping[str, Any]]


def test_a_worker_is_told_what_is_wanted_and_its_profile_is_the_answer(workers: Workers) -> None:
    profiles, answers = Profiles(), Answers()
    worker = workers.add(7)
    profiles.ask(worker, ASKED, answers.append)
    assert workers.lines[7].receive() == [
        {"do": "profile", "seconds": 5.0, "rate": 100, "idle": False}
    ]
    assert profiles.is_busy
    profiles.on_profile(worker, PROFILE)
    known = {name: value for name, value in PROFILE.items() if name not in ("event", "error")}
    assert answers == [{"worker": 1, "pid": 7, "rate": 100, **known}]
    assert not profiles.is_busy


def test_a_worker_has_one_profile_at_a_time_and_others_have_theirs(workers: Workers) -> None:
    profiles, answers = Profiles(), Answers()
    first, second = workers.add(7), workers.add(8)
    profiles.ask(first, ASKED, answers.append)
    with pytest.raises(ControlError, match="is being profiled already"):
        profiles.ask(first, ASKED, answers.append)
    profiles.ask(second, ASKED, answers.append)
    profiles.on_profile(first, PROFILE)
    profiles.ask(first, ASKED, answers.append)
    assert len(answers) == 1


def test_a_worker_that_does_not_serve_cannot_be_profiled(workers: Workers) -> None:
    with pytest.raises(ControlError, match="does not serve"):
        Profiles().ask(workers.add(7, Stage.BOOTING), ASKED, Answers().append)


def test_a_profile_that_failed_has_its_reason(workers: Workers) -> None:
    profiles, answers = Profiles(), Answers()
    worker = workers.add(7)
    profiles.ask(worker, ASKED, answers.append)
    profiles.on_profile(worker, PROFILE | {"error": "MemoryError: "})
    (outcome,) = answers
    assert isinstance(outcome, Outcome)
    assert not outcome.done
    assert "MemoryError" in outcome.message


def test_where_the_client_has_gone_the_worker_is_told_and_what_comes_is_dropped(
    workers: Workers,
) -> None:
    profiles, answers = Profiles(), Answers()
    worker = workers.add(7)
    profiles.ask(worker, ASKED, answers.append)
    workers.lines[7].receive()
    profiles.give_up(worker)
    profiles.give_up(worker)
    assert workers.lines[7].receive() == [{"do": "end profile"}]
    with pytest.raises(ControlError):
        profiles.ask(worker, ASKED, answers.append)  # it has not ended yet
    profiles.on_profile(worker, PROFILE)
    assert answers == []
    profiles.ask(worker, ASKED, answers.append)


@pytest.mark.parametrize("how", ["ends", "is silent"])
def test_a_worker_that_never_answers_is_given_up(workers: Workers, how: str) -> None:
    profiles, answers = Profiles(), Answers()
    worker = workers.add(7)
    profiles.ask(worker, ASKED, answers.append)
    now = time.monotonic()
    profiles.tick(now)
    assert answers == []
    if how == "ends":
        worker.stage = Stage.ENDED
        profiles.tick(now)
    else:
        profiles.tick(now + ASKED.seconds + ANSWER_SECONDS - 1)
        assert answers == []
        profiles.tick(now + ASKED.seconds + ANSWER_SECONDS + 1)
    (outcome,) = answers
    assert isinstance(outcome, Outcome)
    assert not outcome.done
    assert not profiles.is_busy


def test_a_profile_that_no_client_asked_for_means_nothing(workers: Workers) -> None:
    profiles = Profiles()
    profiles.on_profile(workers.add(7), PROFILE)
    assert not profiles.is_busy
