"""Records behave as the standard library's dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from penstock import records

Make = Callable[..., Any]

VARIANTS: list[dict[str, bool]] = [
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
    {"eq": False},
    {"frozen": True, "kw_only": True},
    {"repr": False},
]


def made(decorator: Make, **options: bool) -> Any:
    """Return a class with a field of each kind."""

    class Sample:
        """One of each kind."""

        first: int
        second: str = "two"
        third: list[int] = dataclasses.field(default_factory=list)
        secret: str = dataclasses.field(default="s", repr=False, compare=False)
        named: int = dataclasses.field(default=4, kw_only=True)
        later: int = dataclasses.field(default=5, init=False)
        shared: ClassVar[int] = 6

    return decorator(**options)(Sample)


BOTH = (dataclasses.dataclass, records.dataclass)


def outcome(action: Callable[[], object]) -> object:
    try:
        return action()
    except (TypeError, AttributeError) as error:
        return type(error).__name__


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_object_is_what_a_dataclass_would_be(options: dict[str, bool]) -> None:
    def seen(sample: Any) -> list[object]:
        one, same, other = sample(first=1), sample(first=1, secret="x"), sample(first=2)
        changed = dataclasses.replace(one, second="other")
        return [
            dataclasses.asdict(one),
            repr(one) if options.get("repr", True) else "",
            one == same,
            one == other,
            one != same,
            one == object(),
            outcome(lambda: hash(one) == hash(same)),
            dataclasses.asdict(changed),
            outcome(lambda: sample(1, "x").second),
            outcome(sample),
            outcome(lambda: sample(first=1, later=2).later),
            outcome(lambda: sample(1, "x", [], "s", 9).named),
            outcome(lambda: setattr(one, "first", 3)),
            outcome(lambda: delattr(one, "first")),
            sample(first=1).third is sample(first=1).third,
            copy.deepcopy(other).first,
            sample.shared,
            hasattr(one, "__dict__"),
            getattr(sample, "__match_args__", ()),
        ]

    theirs, ours = (seen(made(decorator, **options)) for decorator in BOTH)
    assert list(map(str, ours)) == list(map(str, theirs))


def test_a_class_keeps_the_methods_that_it_defines() -> None:
    @records.dataclass(frozen=True)
    class Own:
        value: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    assert (repr(Own(1)), Own(1) == Own(2), hash(Own(3))) == ("own", True, 7)


def test_a_record_extends_another_and_runs_post_init() -> None:
    @records.dataclass
    class Base:
        value: int

        def __post_init__(self) -> None:
            self.value += 1

    @records.dataclass
    class More(Base):
        other: int = 2

    assert (More(1).value, More(1, other=5).other, Base(1).value) == (2, 5, 2)
    assert isinstance(More(1), Base)


@records.dataclass(frozen=True, slots=True)
class Pickled:
    """At the top level, where pickle finds it."""

    value: int


def test_a_frozen_record_with_slots_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Pickled(3))) == Pickled(3)


def test_a_record_that_contains_itself_is_shown() -> None:
    @records.dataclass
    class Node:
        children: list[object]

    node = Node([])
    node.children.append(node)
    assert "..." in repr(node)


def test_nothing_is_compiled_before_the_first_object() -> None:
    @records.dataclass(frozen=True)
    class Late:
        value: int

    before = Late.__init__
    assert Late(1).value == 1
    assert Late.__init__ is not before
    assert Late(2).value == 2


def test_a_class_can_be_compiled_before_the_first_object() -> None:
    @records.dataclass
    class Early:
        value: int

    records.compile_now(Early)
    before = Early.__init__
    records.compile_now(Early)
    assert Early(1).value == 1
    assert Early.__init__ is before
